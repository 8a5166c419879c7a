"""Means, poolings and resizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as cartesian
from math import prod
from typing import Any

import numpy as np

from vit_opt.backends.accel.lowering.arena import whole
from vit_opt.backends.accel.lowering.context import Lowering, fixed_format, where
from vit_opt.backends.accel.lowering.elementwise import MAX_COLS
from vit_opt.backends.accel.lowering.movement import contiguous
from vit_opt.backends.accel.lowering.planes import Grid
from vit_opt.backends.accel.lowering.steps import rounding
from vit_opt.backends.accel.lowering.tensors import (
    Block,
    Tensor,
    load_block,
    load_vector,
    store_block,
    value_format,
    value_shape,
)
from vit_opt.backends.accel.lowering.windows import (
    Sliding,
    load_patch,
    pixel_blocks,
)
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.base import integers
from vit_opt.dialects.vit.semantics import resize
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType, Flag, PoolMode
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.passes.rooms import LOADED, MADE, PASSING, room


def frac_shift(op: Any) -> int:
    """frac of x minus frac of the result, both per tensor."""
    return fixed_format(op.x).frac - fixed_format(op.result).frac


@dataclass(frozen=True)
class Axis:
    """One or several nested dimensions: number of positions, strides in operand and result."""

    count: int
    source: int
    target: int
    is_reduced: bool


def _joined_axes(x: Tensor, target: Tensor, axes: Sequence[int], keepdims: bool) -> list[Axis]:
    """The dimensions of x, neighbours of one kind taken together where their strides nest."""
    result: list[Axis] = []
    place = 0
    for index, (count, stride) in enumerate(zip(x.shape, x.strides, strict=True)):
        reduced = index in axes
        there = target.strides[place] if not reduced else 0
        place += keepdims or not reduced
        axis = Axis(count, stride, there, reduced)
        last = result[-1] if result else None
        if count == 1:
            continue
        if (
            last is not None
            and last.is_reduced == reduced
            and last.source == count * stride
            and last.target == count * there
        ):
            axis = Axis(last.count * count, stride, there, reduced)
            result.pop()
        result.append(axis)
    return result


def lower_mean(lowering: Lowering, op: ops.MeanOp) -> None:
    """`vit.mean`: rows are the reduced dimensions, columns the last dimension that is kept; as many
    columns at a time as lie together on chip, so that they are read there as soon as they are made."""
    x = lowering.tensor(op.x)
    axes = integers(op.axes)
    target = lowering.define(op.result)
    joined = _joined_axes(x, target, axes, op.keepdims is not None)
    kept = [axis for axis in joined if not axis.is_reduced]
    reduced = [axis for axis in joined if axis.is_reduced] or [Axis(1, 0, 0, True)]
    columns = kept.pop() if kept else Axis(1, 0, 0, False)
    count = prod(x.shape[i] for i in axes)
    arch = lowering.arch
    # A sum of 8 bytes and its mean; at least a row of x.
    most = min(room(arch, "obuf", PASSING) // 16, room(arch, "abuf", PASSING) // x.dtype.size)
    together = lowering.widths.get(x.region, MAX_COLS)
    widest = max(1, min(MAX_COLS, most, together))
    for index in cartesian(*(range(axis.count) for axis in kept)):
        offset = sum(i * axis.source for i, axis in zip(index, kept, strict=True))
        out = sum(i * axis.target for i, axis in zip(index, kept, strict=True))
        for col in range(0, columns.count, widest):
            width = min(widest, columns.count - col)
            begin = offset + col * columns.source
            acc = _sum_rows(lowering, x, reduced, begin, (width, columns.source))
            _store_mean(lowering, op, acc, width, count, target, out + col * columns.target)
    lowering.done.add(op)


def _sum_rows(
    lowering: Lowering, x: Tensor, axes: Sequence[Axis], offset: int, cols: tuple[int, int]
) -> Block:
    """int64 sums of the columns (count, stride) over the reduced axes."""
    builder = lowering.builder
    region = builder.allocate(Space.OBUF, cols[0] * 8)
    inner, outer = axes[-1], axes[:-1]
    chunk = max(1, room(lowering.arch, "abuf", PASSING) // (cols[0] * x.dtype.size))
    more = False
    for index in cartesian(*(range(axis.count) for axis in outer)):
        start = offset + sum(i * axis.source for i, axis in zip(index, outer, strict=True))
        for row in range(0, inner.count, chunk):
            rows = min(chunk, inner.count - row)
            mark = builder.mark()
            builder.next_turn()
            view = Tensor(
                x.region,
                x.dtype,
                x.format,
                (inner.count, cols[0]),
                (inner.source, cols[1]),
                x.offset + start,
            )
            block = load_block(builder, view, (row, 0), (rows, cols[0]), Space.ABUF)
            inst = isa.Sum(
                rows,
                cols[0],
                region.addr(),
                block.addr,
                block.row,
                x.dtype,
                DType.I64,
                x.format.zero_point,
                Flag.ON if more else Flag.OFF,
            )
            reads = [whole(block.region)] + ([whole(region)] if more else [])
            builder.emit(inst, reads, [whole(region)])
            builder.unpin(mark)
            more = True
    return Block(region, DType.I64, cols[0] * 8, 8)


def _store_mean(
    lowering: Lowering, op: ops.MeanOp, acc: Block, cols: int, count: int, target: Tensor, out: int
) -> None:
    builder = lowering.builder
    item = target.dtype.size
    region = builder.allocate(Space.OBUF, cols * item)
    inst = isa.Mean(
        1,
        cols,
        region.addr(),
        acc.addr,
        cols * item,
        acc.row,
        DType.I64,
        target.dtype,
        count,
        shift=frac_shift(op),
        zp_out=target.format.zero_point,
    )
    builder.emit(inst, [whole(acc.region)], [whole(region)])
    builder.release(acc.region)
    view = Tensor(
        target.region, target.dtype, target.format, (1, cols), (0, item), target.offset + out
    )
    store_block(builder, Block(region, target.dtype, 0, item), view, (0, 0), (1, cols))


# -- pooling ----------------------------------------------------------------------------------


def _sliding(lowering: Lowering, op: Any, fill: int) -> Sliding:
    x = contiguous(lowering, lowering.tensor(op.x))
    shape = value_shape(op.result)
    (kh, kw), (sh, sw) = integers(op.kernel), integers(op.strides)
    top, left, _, _ = integers(op.pads)
    return Sliding(x, (shape[1], shape[2]), (kh, kw), (sh, sw), (top, left), fill=fill)


def lower_max_pool(lowering: Lowering, op: ops.MaxPool2dOp) -> None:
    """`vit.max_pool2d`: padding holds the smallest code and never wins."""
    low, _ = value_format(op.x)[0].bounds
    _pool(lowering, op, _sliding(lowering, op, low), PoolMode.MAX)


def lower_avg_pool(lowering: Lowering, op: ops.AvgPool2dOp) -> None:
    """`vit.avg_pool2d`: window sums, then a rounded division by the pixels that count."""
    _pool(lowering, op, _sliding(lowering, op, fixed_format(op.x).zero_point), PoolMode.SUM)


def _counts(op: Any, s: Sliding) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The divisor of every output pixel, row-major."""
    if op.count_include_pad is not None:
        return np.full(s.out[0] * s.out[1], s.kernel[0] * s.kernel[1], np.uint32)
    sides: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    for i in range(2):
        first = np.arange(s.out[i]) * s.strides[i] - s.pads[i]
        last = np.minimum(first + s.kernel[i], s.x.shape[1 + i])
        sides.append(last - np.maximum(first, 0))
    return np.outer(sides[0], sides[1]).reshape(-1).astype(np.uint32)


def _pool(lowering: Lowering, op: Any, s: Sliding, mode: PoolMode) -> None:
    builder, arch = lowering.builder, lowering.arch
    target = lowering.define(op.result)
    shape = target.shape
    grid = Grid(shape, (0,), (1, 2))
    wide = DType.I64 if s.x.dtype.size > 2 else DType.I32
    middle = target.dtype if mode is PoolMode.MAX else wide
    chans = min(shape[3], MAX_COLS)
    rooms = room(arch, "obuf", MADE), room(arch, "abuf", LOADED)
    width = middle.size + target.dtype.size
    item = s.x.dtype.size
    while (count := s.geometry.largest_block(*rooms, width * chans, chans * item)) is None:
        if chans == 1:
            raise VitError(f"{where(op)}: one window does not fit on chip")
        chans = (chans + 1) // 2
    counts = _counts(op, s) if mode is PoolMode.SUM else None
    for image in range(shape[0]):
        plane = grid.plane(target, (image,))
        assert plane is not None, "a fresh result is contiguous"
        for chan in range(0, shape[3], chans):
            cols = min(chans, shape[3] - chan)
            for first, size in pixel_blocks(s.out, count):
                mark = builder.mark()
                builder.next_turn()
                patch = load_patch(builder, s, image, first, size, (chan, cols))
                top, left, bottom, right, fill = patch.borders(s.extent(size), s.fill)
                row = cols * middle.size
                region = builder.allocate(Space.OBUF, size[0] * size[1] * row)
                inst = isa.Pool(
                    region.addr(),
                    patch.region.addr(patch.offset),
                    mode,
                    *size,
                    cols,
                    *s.kernel,
                    size[1] * row,
                    row,
                    patch.row,
                    patch.pix,
                    s.x.dtype,
                    middle,
                    *s.strides,
                    zp=s.x.format.zero_point if mode is PoolMode.SUM else 0,
                    top=top,
                    left=left,
                    bottom=bottom,
                    right=right,
                    fill=fill,
                )
                builder.emit(inst, [patch.use(cols, s.x.dtype.size)], [whole(region)])
                block = Block(region, middle, row, middle.size)
                start = first[0] * shape[2] + first[1]
                pixels = size[0] * size[1]
                if counts is not None:
                    block = _divide(lowering, op, block, counts[start : start + pixels], cols)
                store_block(builder, block, plane, (start, chan), (pixels, cols))
                builder.unpin(mark)
    lowering.done.add(op)


def _divide(
    lowering: Lowering,
    op: ops.AvgPool2dOp,
    sums: Block,
    counts: np.ndarray[Any, np.dtype[np.uint32]],
    cols: int,
) -> Block:
    """Window sums divided by their counts."""
    builder = lowering.builder
    dtype, format_ = value_format(op.result)
    rows = counts.size
    vector = load_vector(builder, counts, 0, rows)
    region = builder.allocate(Space.OBUF, rows * cols * dtype.size)
    inst = isa.Mean(
        rows,
        cols,
        region.addr(),
        sums.addr,
        cols * dtype.size,
        sums.row,
        sums.dtype,
        dtype,
        counts=vector.addr(),
        shift=frac_shift(op),
        zp_out=format_.zero_point,
    )
    builder.emit(inst, [whole(sums.region), whole(vector)], [whole(region)])
    builder.release(sums.region)
    return Block(region, dtype, cols * dtype.size, dtype.size)


# -- resize -----------------------------------------------------------------------------------


def lower_resize(lowering: Lowering, op: ops.ResizeOp) -> None:
    """`vit.resize`, one output row at a time; source rows stay on chip while they are needed."""
    x = contiguous(lowering, lowering.tensor(op.x))
    target = lowering.define(op.result)
    (_, height, width, channels), (images, out_h, out_w, _) = x.shape, target.shape
    item = x.dtype.size
    arch = lowering.arch
    # Two rows of the source for one of the result.
    most = room(arch, "abuf", 2 * PASSING) // (width * item)
    most = min(most, room(arch, "obuf", PASSING) // (out_w * target.dtype.size))
    chans = max(1, min(channels, most))
    for image in range(images):
        source, result = x.at(0, image), target.at(0, image)
        for chan in range(0, channels, chans):
            cols = (chan, min(chans, channels - chan))
            if op.mode.data == "nearest":
                rows = resize.nearest_indices(height, out_h, op.coordinates.data, op.nearest.data)
                columns = resize.nearest_indices(width, out_w, op.coordinates.data, op.nearest.data)
                for y in range(out_h):
                    _nearest_row(
                        lowering, source.at(0, int(rows[y])), result.at(0, y), cols, columns
                    )
            else:
                _linear_rows(lowering, op, source, result, cols)
    lowering.done.add(op)


def _nearest_row(
    lowering: Lowering, source: Tensor, target: Tensor, cols: tuple[int, int], columns: Any
) -> None:
    builder = lowering.builder
    mark = builder.mark()
    item = target.dtype.size
    builder.next_turn()
    size = (source.shape[0], cols[1])
    block = load_block(builder, source, (0, cols[0]), size, Space.ABUF, packed=True)
    index = load_vector(builder, columns.astype(np.uint32), 0, columns.size)
    run = cols[1] * item
    region = builder.allocate(Space.OBUF, columns.size * run)
    inst = isa.Gather(region.addr(), block.addr, index.addr(), columns.size, run, run, run)
    builder.emit(inst, [whole(block.region), whole(index)], [whole(region)])
    store_block(
        builder,
        Block(region, target.dtype, run, item),
        target,
        (0, cols[0]),
        (columns.size, cols[1]),
    )
    builder.unpin(mark)


def _linear_rows(
    lowering: Lowering, op: ops.ResizeOp, source: Tensor, target: Tensor, cols: tuple[int, int]
) -> None:
    builder = lowering.builder
    height, width, _ = source.shape
    out_h, out_w, _ = target.shape
    top, low, weight_y = resize.linear_taps(height, out_h, op.coordinates.data)
    left, right, weight_x = resize.linear_taps(width, out_w, op.coordinates.data)
    one = 1 << resize.WEIGHT_FRAC
    table = np.stack([left, right, one - weight_x, weight_x]).astype(np.uint16)
    item = target.dtype.size
    for y in range(out_h):
        mark = builder.mark()
        builder.next_turn()
        size = (width, cols[1])
        upper, lower = (
            load_block(builder, source.at(0, int(row)), (0, cols[0]), size, Space.ABUF, packed=True)
            for row in (top[y], low[y])
        )
        param = load_vector(builder, table, 0, out_w)
        run = cols[1] * item
        region = builder.allocate(Space.OBUF, out_w * run)
        inst = isa.Lerp(
            out_w,
            cols[1],
            region.addr(),
            upper.addr,
            lower.addr,
            param.addr(),
            run,
            cols[1] * source.dtype.size,
            source.dtype,
            target.dtype,
            one - int(weight_y[y]),
            int(weight_y[y]),
            frac_shift(op),
            source.format.zero_point,
            target.format.zero_point,
            rounding(op),
        )
        reads = [whole(upper.region), whole(lower.region), whole(param)]
        builder.emit(inst, reads, [whole(region)])
        store_block(
            builder,
            Block(region, target.dtype, run, item),
            target.at(0, y),
            (0, cols[0]),
            (out_w, cols[1]),
        )
        builder.unpin(mark)
