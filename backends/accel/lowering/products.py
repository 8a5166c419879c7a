"""Matrix products: linear, matmul, log2_matmul, with what follows them chained on chip.

One product is `batch` independent problems acc[M, N] = a[M, K] b[N, K]^T + bias. It is cut into
blocks of m rows and n columns (and the reduction into parts of k where it does not fit). Operand
blocks stay on chip while there is room, so the loop order only decides what is loaded again: the
operand that fits is walked in the inner loop. Which two axes lie on the array is chosen by the
cycle formula, per instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.ir import Operation, SSAValue

from vit_opt.backends.accel.lowering.builder import Builder, Region, whole
from vit_opt.backends.accel.lowering.context import Lowering, fixed_format, where
from vit_opt.backends.accel.lowering.elementwise import (
    Grid,
    Link,
    bytes_per_element,
    chain_results,
    finish,
    follow,
    run_links,
)
from vit_opt.backends.accel.lowering.movement import contiguous
from vit_opt.backends.accel.lowering.steps import WHOLE_ROWS
from vit_opt.backends.accel.lowering.tensors import (
    Block,
    Tensor,
    load_block,
    load_vector,
    value_shape,
)
from vit_opt.backends.accel.memory import pack_int4
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType, Flag, MacMap
from vit_opt.dialects.vit_accel.fields import NO_ADDR, Space

Array = NDArray[Any]

ARRAY_TYPES = (DType.I4, DType.I8, DType.UI8, DType.I16, DType.UI16, DType.LOG2, DType.I4X2)
"""Operand types of the MAC array."""


def best_map(arch: AccelTarget, size: tuple[int, int, int], types: tuple[DType, DType]) -> MacMap:
    """The axes on the array that take the fewest cycles."""
    return min(MacMap, key=lambda m: isa.array_cycles(arch, size, m, types))


# -- weights ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """Packed weights: rows of K codes, `row` bytes apart, and the bias that goes with them."""

    region: Region
    dtype: DType
    row: int
    bias: Array | None
    """int32 per output channel, the input's zero point folded in."""


def centred_weights(lowering: Lowering, op: Any) -> Array:
    """Weight codes less their zero point, [N, ...] int64."""
    codes = lowering.constant(op.weight, op, "weight").astype(np.int64)
    return codes - fixed_format(op.weight).zero_point


def folded_bias(lowering: Lowering, op: Any, weights: Array) -> Array | None:
    """Bias [N] less input zero point times the sum of each output channel's weights."""
    zero_point = fixed_format(op.x).zero_point
    bias: Array | None = None
    if op.bias is not None:
        bias = lowering.constant(op.bias, op, "bias").astype(np.int64)
        bias = bias - fixed_format(op.bias).zero_point
    if zero_point:
        sums = weights.reshape(weights.shape[0], -1).sum(axis=1)
        bias = (0 if bias is None else bias) - zero_point * sums
    if bias is None:
        return None
    if np.abs(bias).max() >= 1 << 31:
        raise VitError(f"{where(op)}: bias with the zero point folded in needs more than 32 bits")
    return bias.astype(np.int32)


def pack_weights(
    builder: Builder, op: Operation, weights: Array, bits: int
) -> tuple[Region, DType, int]:
    """Rows of weights in the narrowest type that holds them: region, type, bytes per row."""
    rows = weights.reshape(weights.shape[0], -1)
    low, high = int(rows.min()), int(rows.max())
    if bits == 4 and low >= -8 and high <= 7:
        packed: Array = pack_int4(rows)
        return builder.constant(packed), DType.I4X2, packed.shape[1]
    if low >= -128 and high <= 127:
        return builder.constant(rows.astype(np.int8)), DType.I8, rows.shape[1]
    if low >= -(1 << 15) and high < 1 << 15:
        return builder.constant(rows.astype(np.int16)), DType.I16, 2 * rows.shape[1]
    raise VitError(f"{where(op)}: weights less their zero point need more than 16 bits")


def weight_bits(value: SSAValue) -> int:
    """Bits of a weight's storage type."""
    return fixed_format(value).storage.width.data


def bias_region(builder: Builder, bias: Array | None, first: int, count: int) -> Region | None:
    """The biases of some columns in the parameter buffer, or None."""
    return None if bias is None else load_vector(builder, bias, first, count)


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

    @property
    def types(self) -> tuple[DType, DType]:
        """Operand types as the array sees them, zero points removed."""
        right = DType.I4X2 if self.b_packed else operand_type(self.b[0])
        return operand_type(self.a[0]), right


def operand_type(tensor: Tensor) -> DType:
    """The type of an operand on the array: centred on its zero point it takes 16 bits."""
    return DType.I16 if tensor.format.zero_point else tensor.dtype


@dataclass(frozen=True)
class Tiling:
    """Block sizes of a product."""

    m: int
    n: int
    k: int


def tile(arch: AccelTarget, product: Product, links: Sequence[Link]) -> Tiling:
    """Block sizes that leave room for two blocks of everything.

    Rows and columns fill the lanes; the reduction is cut into equal parts where blocks of that
    height would not fit with all of it.
    """
    rows, cols = product.grid.row_count, product.grid.col_count
    item_a, item_b = (t.size for t in product.types)
    room_a, room_b, room_o = (arch.memory_size(name) // 2 for name in ("abuf", "bbuf", "obuf"))
    width = bytes_per_element(links)
    whole_rows = any(isinstance(link.op, WHOLE_ROWS) for link in links)
    n = cols if whole_rows else min(cols, arch.lanes)
    if width * n > 2 * room_o:
        raise VitError(
            f"{where(product.op)}: one row of {cols} results with what follows it does not fit "
            f"into obuf of architecture '{arch.name}'"
        )
    m = min(rows, arch.lanes, max(1, room_o // (width * n)))
    if m > arch.columns and m < rows:
        m -= m % arch.columns
    limit = max(2, min(room_a // (m * item_a), room_b // (min(n, arch.lanes) * item_b)))
    return Tiling(m, n, reduction_part(arch, product.k, limit))


def reduction_part(arch: AccelTarget, depth: int, limit: int) -> int:
    """Length of the parts of a reduction: at most `limit`, about equal, and where possible a
    multiple of the lanes, so that the reduction may lie on them; always even, for int4 pairs."""
    if depth <= limit:
        return depth
    step = next(s for s in (arch.lanes, 2 * arch.columns, 2) if s <= limit)
    even = -(-depth // -(-depth // limit))
    return min(-(-even // step) * step, limit // step * step)


def lower_product(lowering: Lowering, product: Product) -> None:
    """Emit a product with the chain behind it."""
    result = product.op.results[0]
    links = follow(lowering, result, product.grid, whole_rows=product.grid.col_count <= 4096)
    targets = chain_results(lowering, product.op, links)
    tiling = tile(lowering.arch, product, links)
    rows, cols = product.grid.row_count, product.grid.col_count
    row_starts = range(0, rows, tiling.m)
    col_starts = range(0, cols, tiling.n)
    lowering.builder.macs += rows * cols * product.k * len(product.a)
    order = block_order(lowering.arch, product, row_starts, col_starts)
    for index, a, b in zip(product.grid.indices(), product.a, product.b, strict=True):
        for row, col in order:
            size = (min(tiling.m, rows - row), min(tiling.n, cols - col))
            acc = accumulate_block(lowering, product, a, b, (row, col), size, tiling.k)
            out = run_links(lowering, links, acc, product.grid, index, (row, col), size)
            finish(lowering, out, targets, product.grid, index, (row, col), size)


def block_order(
    arch: AccelTarget, product: Product, rows: range, cols: range
) -> list[tuple[int, int]]:
    """First row and column of each block, in the order that loads the fewest bytes.

    Walking rows in the inner loop loads the left operand once per column panel, unless it fits
    on chip whole; walking columns does the same to the right operand.
    """
    bytes_a = product.grid.row_count * product.k * product.types[0].size
    bytes_b = product.grid.col_count * product.k * product.types[1].size
    fits_a = bytes_a <= arch.memory_size("abuf") * 3 // 4
    fits_b = bytes_b <= arch.memory_size("bbuf") * 3 // 4
    inner_rows = bytes_b + bytes_a * (1 if fits_a else len(cols))
    inner_cols = bytes_a + bytes_b * (1 if fits_b else len(rows))
    if inner_rows < inner_cols:
        return [(row, col) for col in cols for row in rows]
    return [(row, col) for row in rows for col in cols]


def accumulate_block(
    lowering: Lowering,
    product: Product,
    a: Tensor,
    b: Tensor,
    first: tuple[int, int],
    size: tuple[int, int],
    depth: int,
) -> Block:
    """The accumulators of one block, over all of the reduction."""
    builder = lowering.builder
    m, n = size
    region = builder.allocate(Space.OBUF, m * n * 4)
    acc = Block(region, DType.I32, n * 4, 4)
    room = lowering.arch.memory_size("bbuf") // 2
    for k0 in range(0, product.k, depth):
        k = min(depth, product.k - k0)
        outer = builder.mark()
        left = load_operand(lowering, a, (first[0], k0), (m, k), Space.ABUF)
        panel = max(1, min(n, room // (k * product.types[1].size)))
        for n0 in range(0, n, panel):
            mark = builder.mark()
            width = min(panel, n - n0)
            if product.b_packed:
                right = load_block(
                    builder, b, (first[1] + n0, k0 // 2), (width, (k + 1) // 2), Space.BBUF
                )
                right = replace(right, dtype=DType.I4X2)
            else:
                right = load_operand(lowering, b, (first[1] + n0, k0), (width, k), Space.BBUF)
            bias = None
            if k0 == 0:
                bias = bias_region(builder, product.bias, first[1] + n0, width)
            inst = isa.Matmul(
                region.addr(4 * n0),
                left.addr,
                right.addr,
                m,
                width,
                k,
                4 * n,
                left.row,
                right.row,
                left.dtype,
                right.dtype,
                left.col,
                right.col,
                NO_ADDR if bias is None else bias.addr(),
                Flag.ON if k0 else Flag.OFF,
                best_map(lowering.arch, (m, width, k), (left.dtype, right.dtype)),
            )
            reads = [whole(left.region), whole(right.region)]
            if bias is not None:
                reads.append(whole(bias))
            if k0:
                reads.append(whole(region))
            builder.emit(inst, reads, [whole(region)])
            builder.unpin(mark)
        builder.unpin(outer)
    return acc


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
        mark = builder.mark()
        block = load_block(builder, view, first, size, Space.CBUF)
        region = builder.keep(key, size[0] * size[1] * 2, space)
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
        builder.cached(key)
    return Block(region, DType.I16, 2 * size[1], 2)


# -- from operations --------------------------------------------------------------------------


def lower_linear(lowering: Lowering, op: ops.LinearOp) -> None:
    """`vit.linear`: all leading dimensions of x are rows."""
    weights = centred_weights(lowering, op)
    bias = folded_bias(lowering, op, weights)
    x = lowering.tensor(op.x)
    shape = value_shape(op.result)
    grid = Grid(shape, (), tuple(range(len(shape) - 1)))
    rows = Grid(x.shape, grid.outer, grid.rows)
    plane = rows.plane(x, ()) or rows.plane(contiguous(lowering, x), ())
    assert plane is not None, "a row-major tensor has one stride for all rows"
    region, dtype, row = pack_weights(lowering.builder, op, weights, weight_bits(op.weight))
    b = Tensor(
        region,
        DType.UI8 if dtype is DType.I4X2 else dtype,
        FixedType("i8", 0),
        (weights.shape[0], row // dtype.size),
        (row, dtype.size),
    )
    plane = replace(plane, format=FixedType("i8", 0))
    product = Product(
        op, grid, (plane,), (b,), weights.shape[1], bias, b_packed=dtype is DType.I4X2
    )
    check_types(product)
    lower_product(lowering, product)


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
    lower_product(lowering, product)
