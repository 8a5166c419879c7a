"""Matrix products: linear, matmul, log2_matmul, with what follows them chained on chip.

One product is `batch` independent problems acc[M, N] = a[M, K] b[N, K]^T + bias. It is cut into
blocks of m rows and n columns (and the reduction into parts of k where it does not fit). Operand
blocks stay on chip while there is room, so the loop order only decides what is loaded again: the
operand that fits is walked in the inner loop. Which two axes lie on the array is chosen by the
cycle formula, per instruction.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.ir import Operation

from vit_opt.backends.accel.lowering.arena import Region, whole
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.context import Lowering, node_of, where
from vit_opt.backends.accel.lowering.elementwise import (
    Branch,
    Link,
    bytes_per_element,
    find_stream,
    fork,
    require_links,
    results_of,
    run_branches,
    run_stream,
)
from vit_opt.backends.accel.lowering.engines import emit_product, has_two
from vit_opt.backends.accel.lowering.memory import Source
from vit_opt.backends.accel.lowering.movement import contiguous
from vit_opt.backends.accel.lowering.places import Place, raster, taller
from vit_opt.backends.accel.lowering.planes import Grid
from vit_opt.backends.accel.lowering.residency import Rect
from vit_opt.backends.accel.lowering.steps import WHOLE_ROWS
from vit_opt.backends.accel.lowering.streams import windowed
from vit_opt.backends.accel.lowering.tensors import Block, Tensor, load_block, span_of, value_shape
from vit_opt.backends.accel.lowering.weights import (
    NOWHERE,
    Narrow,
    WeightBlock,
    bias_region,
    centred_weights,
    folded_bias,
    narrow_weights,
    pack_weights,
)
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.passes.mapping import (
    Mapping,
    Problem,
    ProductChoice,
    candidates,
    is_image,
    right_rows,
    row_blocks,
    waits_for_rows,
    walks_rows,
)
from vit_opt.passes.rooms import LOADED, room

Array = NDArray[Any]

ARRAY_TYPES = (DType.I4, DType.I8, DType.UI8, DType.I16, DType.UI16, DType.LOG2, DType.I4X2)
"""Operand types of the MAC array."""


# -- the problem ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Product:
    """`batch` problems acc[M, N] = a[M, K] b[N, K]^T, as 2-D views of both operands."""

    op: Operation
    grid: Grid
    a: tuple[Tensor, ...]
    b: tuple[Tensor, ...]
    """Views [N, K] of the right operand; the strides say how it lies."""
    k: int
    bias: Array | None = None
    b_packed: bool = False
    """Whether b holds two int4 codes a byte, its view counting bytes."""
    b_narrow: Narrow | None = None
    """Weights in groups that are loaded in b's place, which lies nowhere then."""

    @property
    def types(self) -> tuple[DType, DType]:
        """Operand types as the array sees them, zero points removed."""
        right = DType.I4X2 if self.b_packed else operand_type(self.b[0])
        return operand_type(self.a[0]), right


def operand_type(tensor: Tensor) -> DType:
    """The type of an operand on the array: centred on its zero point it takes 16 bits."""
    return DType.I16 if tensor.format.zero_point else tensor.dtype


def tile(arch: AccelTarget, product: Product, chains: Sequence[Sequence[Link]]) -> list[Mapping]:
    """The ways to cut a product into blocks, the best first.

    VitError if no block of it fits with what follows.
    """
    cols = product.grid.col_count
    problem = Problem.of(
        arch,
        value_shape(product.op.results[0]),
        (product.grid.row_count, cols, product.k),
        product.types,
        max(bytes_per_element(links) for links in chains),
        any(isinstance(link.op, WHOLE_ROWS) for links in chains for link in links),
        None if product.b_narrow is None else product.b_narrow.wide,
    )
    found = candidates(arch, problem)
    if not found[0].fits:
        raise VitError(
            f"{where(product.op)}: one row of {cols} results with what follows it does not fit "
            f"into obuf of architecture '{arch.name}'"
        )
    return found


def product_branches(lowering: Lowering, product: Product) -> list[Branch]:
    """The chains that take the results of a product block by block, their results allocated."""
    cols = product.grid.col_count
    operand = cols * product.k * product.types[1].size
    whole_rows = waits_for_rows(lowering.arch, cols, operand, len(product.a) > 1)
    reads = (product.a[0], product.b[0])
    return fork(lowering, product.op, product.grid, whole_rows, reads)


def lower_product(lowering: Lowering, product: Product, branches: Sequence[Branch]) -> None:
    """Emit a product with the chain behind it; at once, or as the next product reads its rows."""
    stream = find_stream(lowering, product.op, branches)
    by_panels = stream is not None and stream.by_columns
    apart = stream is not None and stream.panels_apart
    blocks = product_blocks(lowering, product, branches, by_panels, apart)
    if stream is not None:
        source = Source(blocks)
        if by_panels:
            ways = tile(lowering.arch, product, [branch.all_links for branch in branches])
            source = Source(blocks, ways[0].block[1], product.grid.row_count)
        run_stream(lowering, source, product.op, branches, stream)
        return
    reader = _reader(lowering, product, branches[0].links) if len(branches) == 1 else None
    if reader is None:
        for _ in blocks:
            pass
    else:
        lowering.defer(Source(blocks), branches[0].targets, reader)


def _reader(lowering: Lowering, product: Product, links: Sequence[Link]) -> Operation | None:
    """The product that reads the rows made here, one after the other: it may drive them, so that
    only a few exist at a time. None if there is none."""
    last: Operation = links[-1].op if links else product.op
    made = last.results[0]
    users = lowering.users.get(made, [])
    if len(users) != 1 or not lowering.layers.passes(users[0], made, lowering.pipelines):
        return None
    reader = users[0]
    match reader:
        case ops.MatmulOp():
            left, right = reader.a, None
        case ops.Log2MatmulOp():
            left, right = reader.codes, None
        case ops.LinearOp():
            left, right = reader.x, reader.weight
        case _:
            return None
    if lowering.source(left) is not made:
        return None
    if right is None:
        one_panel = value_shape(reader.results[0])[-1] <= lowering.arch.lanes
        return reader if one_panel and isinstance(last, WHOLE_ROWS) else None
    cols, depth = value_shape(right)
    size = (product.grid.row_count * len(product.a), cols, depth)
    order = walks_rows(lowering.arch, size, (1, 1))
    here = (product.grid.row_count, product.grid.col_count, product.k)
    return reader if not order and not walks_rows(lowering.arch, here, (1, 1)) else None


def product_blocks(
    lowering: Lowering,
    product: Product,
    branches: Sequence[Branch],
    by_panels: bool = False,
    apart: bool = True,
) -> Generator[int]:
    """Emit the blocks of a product one by one; gives the rows that are complete.

    With `by_panels` all rows of a panel of columns are made before the next panel, and count; they
    lie on chip by themselves if `apart`.
    """
    links = [link for branch in branches for link in branch.all_links]
    targets = [target for branch in branches for target in branch.all_targets]
    ways = tile(lowering.arch, product, [branch.all_links for branch in branches])
    height, (block, panel, depth) = ways[0].problem.height, ways[0].block
    builder = lowering.builder
    rows, cols = product.grid.row_count, product.grid.col_count
    heights = row_blocks(rows, height, block)
    spread = raster(lowering.arch, targets, height, cols, panel)
    if by_panels and apart:
        spread = (spread[0], panel)
    if windowed(lowering, results_of(product.op, branches)):
        spread = taller(lowering.arch, targets, spread, rows)
    lowering.widths.update((target.region, spread[1]) for target in targets)
    together = lowering.widths.get(product.a[0].region, 0)
    if 2 * lowering.arch.lanes <= together < depth and not (product.k % together or together % 2):
        depth = together
    builder.macs += rows * cols * product.k * len(product.a)
    order = block_order(lowering.arch, product, heights, range(0, cols, panel), by_panels)
    down = len(order) > 1 and order[0][1] == order[1][1]
    kind, batch = product.op.name, len(product.a)
    lowering.choices.append(ProductChoice(node_of(product.op), kind, batch, ways, down))
    name = lowering.origin_of(product.op)
    done = 0
    for number, (index, a, b) in enumerate(
        zip(product.grid.indices(), product.a, product.b, strict=True)
    ):
        panels = list(range(0, cols, panel)) if builder.is_constant(b.region) else []
        for (row, count), col in order:
            if by_panels and has_two(lowering.arch):
                after = panels[col // panel + 1 :][:1]
                prefetch(lowering, product, b, after, panel, depth)
            outer, builder.origin = builder.origin, name
            size = (count, min(panel, cols - col))
            place = Place(product.grid, index, (row, col), size, spread)
            require_links(lowering, links, place)
            builder.require(*rows_read(a, (row, 0), (count, depth if by_panels else product.k)))
            builder.next_turn()
            last = number == batch - 1 and ((row, count), col) == order[-1]
            step = ways[0].tail if last else None
            acc = accumulate_block(lowering, product, a, b, (row, col), size, depth, step=step)
            run_branches(lowering, branches, acc, place)
            builder.origin = outer
            if by_panels:
                done = col // panel * rows + row + count
            elif col + size[1] == cols:
                done = number * rows + row + count
            yield done


def rows_read(a: Tensor, first: tuple[int, int], size: tuple[int, int]) -> tuple[Region, int, Rect]:
    """The region of a 2-D view, the byte behind the last of some rows, and their rectangle."""
    start = first[0] * a.strides[0] + first[1] * a.strides[1]
    rect = span_of(a, start, *size)
    return a.region, a.offset + (first[0] + size[0]) * a.strides[0], rect


def block_order(
    arch: AccelTarget,
    product: Product,
    rows: Sequence[tuple[int, int]],
    cols: range,
    by_columns: bool,
) -> list[tuple[tuple[int, int], int]]:
    """Rows (first, count) and first column of each block, in order."""
    size = (product.grid.row_count, product.grid.col_count, product.k)
    items = (product.types[0].size, product.types[1].size)
    streams = is_image(value_shape(product.op.results[0]))
    down = by_columns or (not streams and walks_rows(arch, size, items))
    if down and len(cols) > 1:
        return [(row, col) for col in cols for row in rows]
    return [(row, col) for row in rows for col in cols]


@dataclass(frozen=True)
class Part:
    """A part of a reduction, from `first` to `stop`, and where it is added up."""

    first: int
    stop: int
    sums: Block


def accumulate_block(
    lowering: Lowering,
    product: Product,
    a: Tensor,
    b: Tensor,
    first: tuple[int, int],
    size: tuple[int, int],
    depth: int,
    part: Part | None = None,
    step: int | None = None,
) -> Block:
    """The accumulators of one block, over all of the reduction or a part of it; by instructions of
    `step` rows, or of all."""
    builder = lowering.builder
    m, n = size
    step = step or m
    if part is None:
        part = Part(
            0, product.k, Block(builder.allocate(Space.OBUF, m * n * 4), DType.I32, n * 4, 4)
        )
    acc = part.sums
    for k0 in range(part.first, part.stop, depth):
        k = min(depth, part.stop - k0)
        outer = builder.mark()
        left = load_operand(lowering, a, (first[0], k0), (m, k), Space.ABUF)
        panel = min(n, right_rows(lowering.arch, k, product.types[1].size))
        for n0 in range(0, n, panel):
            mark = builder.mark()
            width = min(panel, n - n0)
            right = load_right(lowering, product, b, (first[1] + n0, k0), (width, k))
            bias = None
            if k0 == 0:
                bias = bias_region(builder, product.bias, first[1] + n0, width)
            for row in range(0, m, step):
                lines = min(step, m - row)
                here = replace(acc, offset=acc.offset + row * acc.row + n0 * acc.col)
                above = replace(left, offset=left.offset + row * left.row)
                each = (lines, width, k)
                emit_product(builder, here, above, right, each, k0 > 0, bias)
            builder.unpin(mark)
        builder.unpin(outer)
    return acc


def load_right(
    lowering: Lowering, product: Product, b: Tensor, first: tuple[int, int], size: tuple[int, int]
) -> WeightBlock:
    """Columns of the right operand and a part of the reduction; pinned."""
    builder = lowering.builder
    if product.b_narrow is not None:
        return product.b_narrow.load(builder, first, size)
    if product.b_packed:
        (col, k0), (width, k) = first, size
        assert not k0 % 2, "a part of a reduction begins with a pair of 4-bit codes"
        block = load_block(builder, b, (col, k0 // 2), (width, (k + 1) // 2), Space.BBUF)
        block = replace(block, dtype=DType.I4X2)
    else:
        block = load_operand(lowering, b, first, size, Space.BBUF)
    return WeightBlock(block.region, block.dtype, block.row, block.col, block.offset)


def prefetch(
    lowering: Lowering, product: Product, b: Tensor, cols: Sequence[int], width: int, depth: int
) -> None:
    """Load panels of weights ahead of the rows that they meet, which are still to be made, as far as
    there is room for a block on its way."""
    builder = lowering.builder
    left = room(lowering.arch, "bbuf", LOADED)
    mark = builder.mark()
    for col in cols:
        count = min(width, product.grid.col_count - col)
        left -= count * product.k
        if left < 0:
            break
        for k0 in range(0, product.k, depth):
            load_right(lowering, product, b, (col, k0), (count, min(depth, product.k - k0)))
    builder.unpin(mark)


def load_operand(
    lowering: Lowering, tensor: Tensor, first: tuple[int, int], size: tuple[int, int], space: Space
) -> Block:
    """A block of an operand of the array, centred on its zero point; pinned.

    A view whose rows are contiguous along its first axis is loaded transposed, so that DRAM is
    read in long runs; the block's strides tell.
    """
    builder = lowering.builder
    item = tensor.dtype.size
    flip = tensor.strides[0] == item and tensor.strides[1] != item and tensor.shape[1] > 1
    view = tensor
    if flip:
        first, size = (first[1], first[0]), (size[1], size[0])
        view = replace(tensor, shape=tensor.shape[::-1], strides=tensor.strides[::-1])
    if tensor.format.zero_point:
        block = _load_centred(builder, view, first, size, space)
    else:
        block = load_block(builder, view, first, size, space)
    if flip:
        return replace(block, row=block.col, col=block.row)
    return block


def _load_centred(
    builder: Builder, view: Tensor, first: tuple[int, int], size: tuple[int, int], space: Space
) -> Block:
    """A block of codes less their zero point, in 16 bits; pinned. The codes pass through cbuf."""
    if view.dtype.size != 1:
        raise VitError("a 16-bit operand of a matrix product cannot have a zero point")
    key = (view.region, "centred", view.offset, view.strides, first, size, space)
    region = builder.cached(key)
    if region is None:
        region = builder.keep(key, size[0] * size[1] * 2, space)
        mark = builder.mark()
        block = load_block(builder, view, first, size, Space.CBUF)
        inst = isa.Requant(
            size[0],
            size[1],
            region.addr(),
            block.addr,
            2 * size[1],
            block.row,
            block.dtype,
            DType.I16,
            zp_in=view.format.zero_point,
        )
        builder.emit(inst, [whole(block.region)], [whole(region)])
        builder.unpin(mark)
    return Block(region, DType.I16, 2 * size[1], 2)


# -- from operations --------------------------------------------------------------------------


def linear_product(lowering: Lowering, op: ops.LinearOp | ops.Conv2dOp) -> Product:
    """The product of `vit.linear`: all leading dimensions of x are rows. So is a convolution of
    single pixels."""
    weights = centred_weights(lowering, op)
    weights = weights.reshape(weights.shape[0], -1)
    bias = folded_bias(lowering, op, weights)
    x = lowering.tensor(op.x)
    shape = value_shape(op.result)
    grid = Grid(shape, (), tuple(range(len(shape) - 1)))
    rows = Grid(x.shape, grid.outer, grid.rows)
    plane = rows.plane(x, ()) or rows.plane(contiguous(lowering, x), ())
    assert plane is not None, "a row-major tensor has one stride for all rows"
    narrow = narrow_weights(lowering, op, weights)
    if narrow is not None:
        region, dtype, row = NOWHERE, DType.I8, weights.shape[1]
    else:
        region, dtype, row = pack_weights(lowering.builder, op, weights)
    b = Tensor(
        region,
        DType.UI8 if dtype is DType.I4X2 else dtype,
        FixedType("i8", 0),
        (weights.shape[0], row // dtype.size),
        (row, dtype.size),
    )
    plane = replace(plane, format=FixedType("i8", 0))
    product = Product(op, grid, (plane,), (b,), weights.shape[1], bias, dtype is DType.I4X2, narrow)
    check_types(product)
    return product


def check_types(product: Product) -> None:
    """VitError if an operand is wider than the array's multipliers take."""
    for dtype in product.types:
        if dtype not in ARRAY_TYPES:
            raise VitError(
                f"{where(product.op)}: operands of {dtype.name.lower()} are wider than the "
                "array's 16 bits; requantise them first"
            )


def matrices(tensor: Tensor, transpose: bool) -> tuple[Tensor, ...]:
    """The 2-D views of a batch of matrices [..., P, Q], transposed if asked."""
    lead = tensor.shape[:-2]
    views: list[Tensor] = []
    for flat in range(prod(lead)):
        index = np.unravel_index(flat, lead) if lead else ()
        offset = sum(int(i) * s for i, s in zip(index, tensor.strides, strict=False))
        shape, strides = tensor.shape[-2:], tensor.strides[-2:]
        if transpose:
            shape, strides = shape[::-1], strides[::-1]
        views.append(replace(tensor, shape=shape, strides=strides, offset=tensor.offset + offset))
    return tuple(views)


def lower_matmul(lowering: Lowering, op: ops.MatmulOp | ops.Log2MatmulOp) -> None:
    """`vit.matmul` and `vit.log2_matmul`: leading dimensions are a batch."""
    if isinstance(op, ops.Log2MatmulOp):
        a, b, transposed = lowering.tensor(op.codes), lowering.tensor(op.v), False
    else:
        a, b = lowering.tensor(op.a), lowering.tensor(op.b)
        transposed = op.transpose_b is not None
    shape = value_shape(op.result)
    rank = len(shape)
    grid = Grid(shape, tuple(range(rank - 2)), (rank - 2,))
    product = Product(
        op, grid, matrices(a, transpose=False), matrices(b, transpose=not transposed), a.shape[-1]
    )
    check_types(product)
    lower_product(lowering, product, product_branches(lowering, product))
