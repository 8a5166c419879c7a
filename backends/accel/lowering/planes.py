"""Planes: how the dimensions of a result become outer loops, rows and columns of blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from itertools import product as cartesian
from math import prod

from xdsl.ir import Operation

from vit_opt.backends.accel.lowering.tensors import Shape, Tensor, value_format, value_shape


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
