"""Convolutions: panels of output channels by blocks of output pixels, with what follows on chip.

A transposed convolution is the convolution of the image spread out by its strides.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.lowering.arena import Region, Use, whole
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.context import Lowering, fixed_format, node_of, where
from vit_opt.backends.accel.lowering.elementwise import (
    Branch,
    bytes_per_element,
    find_stream,
    fork,
    require_links,
    results_of,
    run_branches,
    run_stream,
)
from vit_opt.backends.accel.lowering.engines import has_two
from vit_opt.backends.accel.lowering.linear import lower_linear
from vit_opt.backends.accel.lowering.memory import Source
from vit_opt.backends.accel.lowering.movement import contiguous
from vit_opt.backends.accel.lowering.places import Place, raster, taller
from vit_opt.backends.accel.lowering.planes import Grid
from vit_opt.backends.accel.lowering.products import ARRAY_TYPES
from vit_opt.backends.accel.lowering.streams import windowed
from vit_opt.backends.accel.lowering.tensors import Block, value_shape
from vit_opt.backends.accel.lowering.weights import (
    Narrow,
    WeightBlock,
    bias_region,
    centred_weights,
    folded_bias,
    narrow_weights,
    pack_weights,
    weight_type,
)
from vit_opt.backends.accel.lowering.windows import (
    Patch,
    Slice,
    Sliding,
    load_bands,
    load_patch,
    pixel_blocks,
    require_patch,
    slice_patch,
    slices,
)
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.base import integers
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType, Flag
from vit_opt.dialects.vit_accel.fields import NO_ADDR, Space
from vit_opt.passes.mapping import best_map
from vit_opt.passes.windows import Mapping, Pair, Panel, Problem, WindowChoice, candidates

Array = NDArray[Any]


@dataclass(frozen=True)
class Convolution:
    """A convolution with its weights [O, kh, kw, C / groups], centred, and its bias."""

    op: Any
    sliding: Sliding
    weights: Array
    bias: Array | None
    groups: int
    narrow: Narrow | None = None
    """The weights if they are narrow in groups."""

    @property
    def in_per_group(self) -> int:
        """Input channels of a group."""
        return self.weights.shape[3]

    @property
    def is_depthwise(self) -> bool:
        """Whether the reconfigurable engine can take it: one int8 weight per tap and channel."""
        w = self.weights
        narrow = int(w.min()) >= -128 and int(w.max()) <= 127
        return self.groups > 1 and self.in_per_group == 1 and narrow

    def problem(self, width: int, by_panels: bool) -> Problem:
        """What the mapper must know; a result takes `width` bytes with what follows it."""
        s = self.sliding
        return Problem(
            s.geometry,
            s.x.shape[0],
            self.weights.shape[0],
            self.in_per_group,
            self.groups,
            (s.x.dtype, self.weight_type),
            width,
            self.is_depthwise,
            by_panels,
            None if self.narrow is None else self.narrow.wide,
        )

    @property
    def weight_type(self) -> DType:
        """The type of the weights on the array."""
        return DType.I8 if self.narrow is not None else weight_type(self.op, self.weights)


def _tile(lowering: Lowering, conv: Convolution, width: int, by_panels: bool) -> Mapping:
    """The best way to cut a convolution, whose results take `width` bytes each.

    VitError if not even one window fits.
    """
    arch = lowering.arch
    ways = candidates(arch, conv.problem(width, by_panels))
    if not ways:
        raise VitError(
            f"{where(conv.op)}: one window does not fit into the buffers of architecture "
            f"'{arch.name}'"
        )
    lowering.choices.append(WindowChoice(node_of(conv.op), conv.op.name, ways))
    return ways[0]


def _lower(lowering: Lowering, conv: Convolution) -> None:
    if conv.sliding.x.dtype not in ARRAY_TYPES:
        raise VitError(
            f"{where(conv.op)}: x is wider than the array's 16 bits; requantise it first"
        )
    if conv.is_depthwise:
        # The reconfigurable engine takes neighbouring channels at once, so no planes.
        x = contiguous(lowering, conv.sliding.x)
        conv = replace(conv, sliding=replace(conv.sliding, x=x))
    shape = value_shape(conv.op.result)
    grid = Grid(shape, (0,), (1, 2))
    branches = fork(lowering, conv.op, grid, whole_rows=False, reads=(conv.sliding.x,))
    targets = [target for branch in branches for target in branch.all_targets]
    width = max(bytes_per_element(branch.all_links) for branch in branches)
    stream = find_stream(lowering, conv.op, branches)
    by_columns = stream is not None and stream.by_columns
    tiling = _tile(lowering, conv, width, by_columns)
    lowering.builder.macs += int(np.prod(shape)) * int(np.prod(conv.weights.shape[1:]))
    blocks = list(pixel_blocks(conv.sliding.out, tiling.pixels))
    if tiling.down:
        order = [(panel, block) for panel in tiling.panels for block in blocks]
    else:
        order = [(panel, block) for block in blocks for panel in tiling.panels]
    pixels = tiling.pixels[0] * tiling.pixels[1]
    width = max(panel.count for panel in tiling.panels)
    spread = raster(lowering.arch, targets, pixels, shape[3], width)
    if stream is not None and stream.panels_apart:
        spread = spread[0], width
    if windowed(lowering, results_of(conv.op, branches)):
        spread = taller(lowering.arch, targets, spread, shape[1] * shape[2])
    lowering.widths.update((target.region, spread[1]) for target in targets)
    made = _blocks(lowering, conv, branches, (grid, spread), order, tiling.depth, by_columns)
    source = Source(made, width, shape[1] * shape[2]) if by_columns else Source(made)
    run_stream(lowering, source, conv.op, branches, stream)


def _blocks(
    lowering: Lowering,
    conv: Convolution,
    branches: Sequence[Branch],
    layout: tuple[Grid, Pair],
    order: Sequence[tuple[Panel, tuple[Pair, Pair]]],
    depth: int,
    by_columns: bool,
) -> Generator[int]:
    """Emit the blocks of a convolution one by one; gives the pixels, or channels, complete."""
    builder, s = lowering.builder, conv.sliding
    name = lowering.origin_of(conv.op)
    grid, spread = layout
    height, width = grid.shape[1:3]
    widest = max(panel.count for panel, _ in order)
    blockwise = len(order) < 2 or order[0][1] == order[1][1]
    for image in range(grid.shape[0]):
        for panel, (first, size) in order:
            start = (first[0] * width + first[1], panel.first)
            place = Place(grid, (image,), start, (size[0] * size[1], panel.count), spread)
            outer, builder.origin = builder.origin, name
            require_links(
                lowering, [link for branch in branches for link in branch.all_links], place
            )
            require_patch(builder, s, image, first, size, (panel.chan, panel.chans))
            builder.next_turn()
            acc = _accumulate(lowering, conv, panel, image, first, size, depth)
            run_branches(lowering, branches, acc, place)
            builder.origin = outer
            end = start[0] + size[0] * size[1]
            made = panel.first + panel.count
            if by_columns:
                # Panels do not cross groups, so that several may be needed for one of full width.
                panels = panel.first // widest
                last = made >= min((panels + 1) * widest, grid.col_count)
                yield panels * height * width + (end if last else 0)
            else:
                last = made == grid.col_count
                before = start[0] if blockwise else 0
                yield image * height * width + (end if last else before)


def _accumulate(
    lowering: Lowering,
    conv: Convolution,
    panel: Panel,
    image: int,
    first: Pair,
    size: Pair,
    depth: int,
) -> Block:
    """The accumulators of a block of pixels by a panel of channels."""
    builder = lowering.builder
    region = builder.allocate(Space.OBUF, size[0] * size[1] * panel.count * 4)
    acc = Block(region, DType.I32, panel.count * 4, 4)
    if conv.is_depthwise:
        _depthwise(lowering, conv, panel, image, first, size, acc)
        return acc
    single = panel.chans == conv.in_per_group
    step = depth if single else conv.in_per_group
    for begin in range(0, conv.in_per_group, step):
        count = min(step, conv.in_per_group - begin)
        mark = builder.mark()
        chans = (panel.chan + begin, count) if single else (panel.chan, panel.chans)
        patch = load_patch(builder, conv.sliding, image, first, size, chans)
        kernels = _load_weights(builder, conv, panel, begin, count)
        bias = bias_region(builder, conv.bias, panel.first, panel.count) if not begin else None
        groups = 1 if single else panel.chans // conv.in_per_group
        chans = count, groups
        _emit_conv(lowering, conv, acc, patch, kernels, bias, size, panel, chans, begin > 0)
        builder.unpin(mark)
    return acc


def _load_weights(
    builder: Builder, conv: Convolution, panel: Panel, begin: int, count: int
) -> WeightBlock:
    """Weights of a panel for some of a group's input channels, in the weight buffer; pinned."""
    if conv.narrow is not None:
        return conv.narrow.load(builder, (panel.first, begin), (panel.count, count))
    part = conv.weights[..., begin : begin + count]
    source, dtype, row = pack_weights(builder, conv.op, part)
    return WeightBlock(_load_panel(builder, source, panel, row), dtype, row, dtype.size)


def _load_panel(builder: Builder, source: Region, panel: Panel, row: int) -> Region:
    """Weights of a panel's output channels, `row` bytes each, in the weight buffer; pinned."""
    key = (source, panel.first, panel.count, Space.BBUF)
    region = builder.cached(key)
    if region is None:
        size = panel.count * row
        region = builder.keep(key, size, Space.BBUF)
        inst = isa.Load(region.addr(), source.addr(panel.first * row), size)
        builder.emit(inst, [whole(source)], [whole(region)])
    return region


def _emit_conv(
    lowering: Lowering,
    conv: Convolution,
    acc: Block,
    patch: Patch,
    weights: WeightBlock,
    bias: Region | None,
    size: Pair,
    panel: Panel,
    chans: Pair,
    accumulate: bool,
) -> None:
    """A panel's convolution; `chans` are the input channels of a group, and the groups."""
    s = conv.sliding
    x_type = s.x.dtype
    depth, groups = chans
    outs = panel.count // groups
    work = (size[0] * size[1], outs, s.kernel[0] * s.kernel[1] * depth)
    inst = isa.Conv(
        acc.addr,
        patch.region.addr(patch.offset),
        weights.addr,
        *size,
        outs,
        *s.kernel,
        depth,
        size[1] * acc.row,
        acc.row,
        patch.row,
        patch.pix,
        weights.row,
        *s.strides,
        *s.dilations,
        patch.chan,
        x_type,
        weights.dtype,
        NO_ADDR if bias is None else bias.addr(),
        Flag.ON if accumulate else Flag.OFF,
        best_map(lowering.arch, work, (x_type, weights.dtype), weights.wide),
        *patch.borders(s.extent(size), s.fill),
        groups,
        weights.marks,
        weights.wide or 0,
    )
    reads = [patch.use(depth * groups, x_type.size), whole(weights.region)]
    reads += [whole(bias)] if bias is not None else []
    reads += [whole(acc.region)] if accumulate else []
    lowering.builder.emit(inst, reads, [whole(acc.region)])


def _depthwise(
    lowering: Lowering,
    conv: Convolution,
    panel: Panel,
    image: int,
    first: Pair,
    size: Pair,
    acc: Block,
) -> None:
    """A panel of a depthwise convolution, one instruction per channel multiple and band of rows."""
    builder, s = lowering.builder, conv.sliding
    mark = builder.mark()
    bands = load_bands(builder, s, image, first, size, (panel.chan, panel.chans))
    source = builder.constant(conv.weights.astype(np.int8))
    weights = _load_panel(builder, source, panel, s.kernel[0] * s.kernel[1])
    bias = bias_region(builder, conv.bias, panel.first, panel.count)
    for part in slices(s, first[0], size[0], bands):
        _emit_depthwise(lowering, conv, panel, (first, size), acc, part, (weights, bias))
    builder.unpin(mark)


def _emit_depthwise(
    lowering: Lowering,
    conv: Convolution,
    panel: Panel,
    block: tuple[Pair, Pair],
    acc: Block,
    part: Slice,
    parameters: tuple[Region, Region | None],
) -> None:
    """Some rows of a depthwise convolution's block, or some of their kernel's rows."""
    s, (first, size), (weights, bias) = conv.sliding, block, parameters
    taps, multiple = s.kernel[0] * s.kernel[1], panel.count // panel.chans
    patch, extent = slice_patch(s, first[0], part, size)
    bias = None if part.more else bias
    pitch = size[1] * acc.row
    place = part.rows[0] * pitch
    written = Use(acc.region, place, place + part.rows[1] * pitch)
    reads = [patch.use(panel.chans, s.x.dtype.size), whole(weights)]
    reads += [whole(bias)] if bias is not None else []
    reads += [written] if part.more else []
    for j in range(multiple):
        inst = isa.DepthwiseConv(
            acc.region.addr(place + 4 * j),
            patch.region.addr(patch.offset),
            weights.addr(j * taps + part.taps[0] * s.kernel[1]),
            part.rows[1],
            size[1],
            panel.chans,
            part.taps[1],
            s.kernel[1],
            pitch,
            acc.row,
            patch.row,
            patch.pix,
            multiple * taps,
            multiple,
            multiple,
            *s.strides,
            *s.dilations,
            s.x.dtype,
            NO_ADDR if bias is None else bias.addr(4 * j),
            Flag.ON if part.more else Flag.OFF,
            *patch.borders(extent, s.fill),
        )
        lowering.builder.emit(inst, reads, [written])


def _pair(values: Any) -> Pair:
    first, second = integers(values)
    return first, second


def lower_conv2d(lowering: Lowering, op: ops.Conv2dOp) -> None:
    """`vit.conv2d`; pixel by pixel it is a product."""
    if _is_pointwise(lowering, op):
        lower_linear(lowering, op)
        return
    weights = centred_weights(lowering, op)
    top, left, _, _ = integers(op.pads)
    shape = value_shape(op.result)
    sliding = Sliding(
        lowering.tensor(op.x),
        (shape[1], shape[2]),
        (weights.shape[1], weights.shape[2]),
        _pair(op.strides),
        (top, left),
        _pair(op.dilations),
        fill=fixed_format(op.x).zero_point,
    )
    bias, narrow = folded_bias(lowering, op, weights), narrow_weights(lowering, op, weights)
    _lower(lowering, Convolution(op, sliding, weights, bias, op.groups.value.data, narrow))


def _is_pointwise(lowering: Lowering, op: ops.Conv2dOp) -> bool:
    """Whether a convolution is a product of its pixels, whose channels lie together."""
    x = lowering.tensor(op.x)
    single = value_shape(op.weight)[1:3] == (1, 1) and op.groups.value.data == 1
    there = set(integers(op.strides)) == {1} and not any(integers(op.pads))
    return has_two(lowering.arch) and single and there and x.is_contiguous


def lower_conv_transpose2d(lowering: Lowering, op: ops.ConvTranspose2dOp) -> None:
    """`vit.conv_transpose2d`: the spread image convolved with the kernel turned by half a turn."""
    weights = centred_weights(lowering, op)[:, ::-1, ::-1]
    kernel = (weights.shape[1], weights.shape[2])
    top, left, _, _ = integers(op.pads)
    shape = value_shape(op.result)
    sliding = Sliding(
        lowering.tensor(op.x),
        (shape[1], shape[2]),
        kernel,
        (1, 1),
        (kernel[0] - 1 - top, kernel[1] - 1 - left),
        spread=_pair(op.strides),
        fill=fixed_format(op.x).zero_point,
    )
    bias, narrow = folded_bias(lowering, op, weights), narrow_weights(lowering, op, weights)
    _lower(lowering, Convolution(op, sliding, weights, bias, op.groups.value.data, narrow))
