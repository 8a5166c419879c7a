"""Operations on blocks of rows, alone or chained behind a product without leaving the chip.

A *chain* is a row of operations in which each takes the result of the one before: a product's
accumulators pass through it block by block and only the last result is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from itertools import product as cartesian
from math import prod

from xdsl.ir import Operation, SSAValue

from vit_opt.backends.accel.lowering.context import Lowering, node_of
from vit_opt.backends.accel.lowering.steps import PARAMETERS, STEPS, WHOLE_ROWS, Emit, Window
from vit_opt.backends.accel.lowering.tensors import (
    Block,
    Shape,
    Tensor,
    load_block,
    store_block,
    value_format,
    value_shape,
)
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit_accel.fields import Space

# -- planes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """How the leading dimensions of a result become outer loops and the rows of blocks."""

    shape: Shape
    outer: tuple[int, ...]
    rows: tuple[int, ...]
    channel_axis: int | None = None

    @property
    def row_count(self) -> int:
        """Rows of one plane."""
        return prod(self.shape[i] for i in self.rows)

    @property
    def col_count(self) -> int:
        """Columns."""
        return self.shape[-1]

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Every position of the outer loops."""
        return cartesian(*(range(self.shape[i]) for i in self.outer))

    def channel(self, index: tuple[int, ...]) -> int | None:
        """The channel at a position, where parameters vary along an outer axis."""
        if self.channel_axis is None:
            return None
        return index[self.outer.index(self.channel_axis)]

    def plane(self, tensor: Tensor, index: tuple[int, ...]) -> Tensor | None:
        """The rows x columns of an operand at a position; None if its rows have no one stride."""
        strides = broadcast_strides(tensor, self.shape)
        step = _joint_stride([(self.shape[i], strides[i]) for i in self.rows])
        if step is None:
            return None
        offset = sum(i * strides[axis] for i, axis in zip(index, self.outer, strict=True))
        return Tensor(
            tensor.region,
            tensor.dtype,
            tensor.format,
            (self.row_count, self.col_count),
            (step, strides[-1]),
            tensor.offset + offset,
        )


def broadcast_strides(tensor: Tensor, shape: Shape) -> Shape:
    """Strides of a tensor over a larger shape, 0 where it repeats (numpy's rule)."""
    missing = len(shape) - len(tensor.shape)
    return (0,) * missing + tuple(
        0 if size == 1 else stride
        for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )


def _joint_stride(dims: Sequence[tuple[int, int]]) -> int | None:
    """The one stride that walks through nested dimensions, or None."""
    dims = [dim for dim in dims if dim[0] > 1]
    if not dims:
        return 0
    for (_, outer), (size, inner) in pairwise(dims):
        if outer != size * inner:
            return None
    return dims[-1][1]


def channel_axis(op: Operation) -> int | None:
    """The axis along which formats of an operation vary, if it is not the last one."""
    for value in (*op.operands, *op.results):
        format_ = value_format(value)[1]
        axis = format_.channel_axis
        if axis is not None and axis != len(value_shape(value)) - 1:
            return axis
    return None


def grid_for(op: Operation, tensors: Sequence[Tensor], shape: Shape) -> Grid:
    """The grid with the longest rows that all operands allow."""
    barrier = channel_axis(op)
    leading = list(range(len(shape) - 1))
    rows: list[int] = []
    while leading and leading[-1] != barrier:
        candidate = [leading[-1], *rows]
        strides = [broadcast_strides(tensor, shape) for tensor in tensors]
        joint = [_joint_stride([(shape[i], s[i]) for i in candidate]) for s in strides]
        if None in joint:
            break
        rows = candidate
        leading.pop()
    return Grid(shape, tuple(leading), tuple(rows), barrier)


# -- chains -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """One operation of a chain: the operands' tensors, None for what the chain provides."""

    op: Operation
    tensors: tuple[Tensor | None, ...]


def follow(lowering: Lowering, value: SSAValue, grid: Grid, whole_rows: bool) -> list[Link]:
    """The operations that can take `value` block by block, one after the other."""
    links: list[Link] = []
    while True:
        users = lowering.users.get(value, [])
        if len(users) != 1 or type(users[0]) not in STEPS or users[0] in lowering.done:
            return links
        op = users[0]
        if isinstance(op, WHOLE_ROWS) and not whole_rows:
            return links
        if value_shape(op.results[0]) != grid.shape or channel_axis(op) is not None:
            return links
        tensors: list[Tensor | None] = []
        parameters = PARAMETERS.get(type(op), ())
        for index, operand in enumerate(op.operands):
            if lowering.source(operand) is value:
                tensors.append(None)
                continue
            if not lowering.is_available(operand):
                return links
            tensor = lowering.tensor(operand)
            start = (0,) * len(grid.outer)
            if index not in parameters and grid.plane(tensor, start) is None:
                return links
            tensors.append(tensor)
        if any(tensors[i] is None for i in parameters):
            return links
        links.append(Link(op, tuple(tensors)))
        value = op.results[0]
        if len(op.results) > 1:
            return links


def run_links(
    lowering: Lowering,
    links: Sequence[Link],
    block: Block | None,
    grid: Grid,
    index: tuple[int, ...],
    first: tuple[int, int],
    size: tuple[int, int],
) -> list[Block]:
    """Pass a block through a chain; intermediate blocks are released, the results returned."""
    builder = lowering.builder
    window = Window(size[0], size[1], first[1], grid.channel(index))
    current = [] if block is None else [block]
    outer = builder.origin
    for link in links:
        builder.origin = node_of(link.op)
        mark = builder.mark()
        emit = Emit(lowering, window)
        parameters = PARAMETERS.get(type(link.op), ())
        args: list[Block] = []
        for position, tensor in enumerate(link.tensors):
            if tensor is None:
                args.append(current[0])
            elif position in parameters:
                args.append(_parameter_block(lowering, link.op, tensor, first[1], size[1]))
            else:
                plane = grid.plane(tensor, index)
                assert plane is not None, "follow() and grid_for() admit only such operands"
                space = Space.ABUF if position == 0 else Space.CBUF
                args.append(load_block(builder, plane, first, size, space))
        results = STEPS[type(link.op)](emit, link.op, args)
        for old in current:
            builder.release(old.region)
        builder.unpin(mark)
        current = results
    builder.origin = outer
    return current


def _parameter_block(
    lowering: Lowering, op: Operation, tensor: Tensor, first: int, count: int
) -> Block:
    """A table whole, or the columns of a parameter vector, in the parameter buffer."""
    if isinstance(op, ops.LutOp):
        first, count = 0, tensor.shape[0]
    row = Tensor(
        tensor.region,
        tensor.dtype,
        tensor.format,
        (1, tensor.shape[0]),
        (tensor.size, tensor.strides[0]),
        tensor.offset,
    )
    return load_block(lowering.builder, row, (0, first), (1, count), Space.PBUF)


def finish(
    lowering: Lowering,
    blocks: Sequence[Block],
    targets: Sequence[Tensor],
    grid: Grid,
    index: tuple[int, ...],
    first: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """Store the result blocks of a chain and release them."""
    for block, target in zip(blocks, targets, strict=True):
        shape = (*grid.shape[:-1], target.shape[-1])
        plane = Grid(shape, grid.outer, grid.rows).plane(target, index)
        assert plane is not None, "a fresh result is contiguous"
        col, cols = (0, 1) if target.shape[-1] != grid.col_count else (first[1], size[1])
        store_block(lowering.builder, block, plane, (first[0], col), (size[0], cols))
        lowering.builder.release(block.region)


def chain_results(lowering: Lowering, op: Operation, links: Sequence[Link]) -> list[Tensor]:
    """Allocate the results at the end of a chain (or of `op` alone) and mark it all lowered."""
    last = links[-1].op if links else op
    lowering.done.add(op)
    lowering.done.update(link.op for link in links)
    return [lowering.define(result) for result in last.results]


def bytes_per_element(links: Sequence[Link]) -> int:
    """Bytes of output buffer that an element of a chain needs at most at one time."""
    sizes = [value_format(result)[0].size for link in links for result in link.op.results[:1]]
    return max((a + b for a, b in zip([4, *sizes], [*sizes, 0], strict=True)), default=8)


MAX_COLS = 2048
"""Columns of a block where an operation does not need whole rows."""


def lower_rows(lowering: Lowering, op: Operation) -> None:
    """An operation on rows by itself, with what can be chained behind it."""
    shape = value_shape(op.results[0])
    parameters = PARAMETERS.get(type(op), ())
    operands = [lowering.tensor(operand) for operand in op.operands]
    rows = [tensor for i, tensor in enumerate(operands) if i not in parameters]
    grid = grid_for(op, rows, shape)
    first = Link(op, tuple(operands))
    links = [first]
    if len(op.results) == 1:
        links += follow(lowering, op.results[0], grid, whole_rows=grid.col_count <= MAX_COLS)
    needs_rows = any(isinstance(link.op, WHOLE_ROWS) for link in links)
    targets = chain_results(lowering, op, links[1:])
    capacity = lowering.builder.capacity
    limit = min(capacity(Space.ABUF), capacity(Space.CBUF), capacity(Space.OBUF) // 2) // 3
    limit //= max(8, bytes_per_element(links))
    cols = grid.col_count if needs_rows else max(1, min(grid.col_count, MAX_COLS, limit))
    count = max(1, min(grid.row_count, limit // cols))
    for index in grid.indices():
        for row in range(0, grid.row_count, count):
            for col in range(0, grid.col_count, cols):
                start = (row, col)
                size = (min(count, grid.row_count - row), min(cols, grid.col_count - col))
                blocks = run_links(lowering, links, None, grid, index, start, size)
                finish(lowering, blocks, targets, grid, index, start, size)
