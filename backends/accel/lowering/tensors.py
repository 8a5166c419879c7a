"""Tensors in DRAM as strided views, and blocks of them on chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import IntegerType
from xdsl.ir import SSAValue

from vit_opt.backends.accel.lowering.arena import Region, Use, whole
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.residency import Rect
from vit_opt.backends.accel.lowering.transfers import Dim, transfer
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.attributes import FixedType, Log2Type, is_unsigned
from vit_opt.dialects.vit.ops.base import shape_of, tensor_type
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import Addr, Space

Shape = tuple[int, ...]
Ints = NDArray[np.int64]

LOG2 = FixedType("ui8", 0)
"""Stands for the format of `!vit.log2` codes, which have no exponent."""


def storage_dtype(storage: IntegerType) -> DType:
    """The element type in memory of a storage type."""
    return DType[f"{'U' if is_unsigned(storage) else ''}I{storage.width.data}"]


def value_format(value: SSAValue) -> tuple[DType, FixedType]:
    """Element type in memory and format of a value; VitError if its scale is not a power of two."""
    element = tensor_type(value).get_element_type()
    if isinstance(element, Log2Type):
        return DType.LOG2, LOG2
    if not isinstance(element, FixedType):
        raise VitError(
            f"the accelerator shifts and has no multiplier for scales: {element} is not "
            "!vit.fixed; run pot-fold first"
        )
    return storage_dtype(element.storage), element


def row_major(shape: Sequence[int], item: int) -> Shape:
    """Strides in bytes of a contiguous tensor."""
    strides: list[int] = []
    step = item
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


@dataclass(frozen=True)
class Tensor:
    """A strided view of a DRAM region. `strides` and `offset` are bytes; 0 repeats."""

    region: Region
    dtype: DType
    format: FixedType
    shape: Shape
    strides: Shape
    offset: int = 0

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        expected = row_major(self.shape, self.dtype.size)
        return all(
            size == 1 or stride == want
            for size, stride, want in zip(self.shape, self.strides, expected, strict=True)
        )

    @property
    def size(self) -> int:
        """Bytes of all elements."""
        return prod(self.shape) * self.dtype.size

    def addr(self, offset: int) -> Addr:
        """The address `offset` bytes into the view."""
        return self.region.addr(self.offset + offset)

    def at(self, axis: int, index: int) -> Tensor:
        """The view without `axis`, at one index of it."""
        return replace(
            self,
            shape=self.shape[:axis] + self.shape[axis + 1 :],
            strides=self.strides[:axis] + self.strides[axis + 1 :],
            offset=self.offset + index * self.strides[axis],
        )


def reshaped(tensor: Tensor, shape: Shape, format_: FixedType | None = None) -> Tensor | None:
    """The view under another shape, or None if its elements do not lie so that one exists."""
    groups = _matching_groups(tensor.shape, shape)
    if groups is None:
        return None
    strides: list[int] = []
    for old, new in groups:
        dims = [(tensor.shape[i], tensor.strides[i]) for i in old if tensor.shape[i] != 1]
        for (_, outer), (size, inner) in pairwise(dims):
            if outer != size * inner:
                return None
        step = dims[-1][1] if dims else tensor.dtype.size
        part: list[int] = []
        for index in reversed(new):
            part.append(step)
            step *= shape[index]
        strides += reversed(part)
    view = replace(tensor, shape=shape, strides=tuple(strides))
    return view if format_ is None else replace(view, format=format_)


def _matching_groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]] | None:
    """Smallest groups of dimensions of both shapes that hold the same number of elements."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left: list[int] = []
        right: list[int] = []
        a = b = 1
        while (not left and not right) or a != b:
            if (a <= b and i < len(old)) or j == len(new):
                if i == len(old):
                    return None
                a *= old[i]
                left.append(i)
                i += 1
            else:
                b *= new[j]
                right.append(j)
                j += 1
        groups.append((left, right))
    return groups


@dataclass(frozen=True)
class Block:
    """A block of `rows x cols` elements on chip (or spanning one row or column repeated)."""

    region: Region
    dtype: DType
    row: int
    """Bytes between rows; 0 repeats one row."""
    col: int
    """Bytes between columns: the element size, or 0 to repeat one column."""
    offset: int = 0

    @property
    def addr(self) -> Addr:
        """Address of the first element."""
        return self.region.addr(self.offset)

    def use(self, rows: int, cols: int, count: int = 1, apart: int = 0) -> Use:
        """The bytes that `rows` x `cols` elements span, with `count` such blocks so many bytes
        `apart`; `i4x2` has two columns a byte."""
        cols = (cols + 1) // 2 if self.dtype is DType.I4X2 else cols
        span = (rows - 1) * self.row + (cols - 1) * self.col + self.dtype.size
        span += (count - 1) * apart
        return Use(self.region, self.offset, self.offset + span)


def load_block(
    builder: Builder,
    tensor: Tensor,
    first: tuple[int, int],
    size: tuple[int, int],
    space: Space,
    packed: bool = False,
) -> Block:
    """Rows and columns of a 2-D view on chip; pinned.

    `first` and `size` are (row, column). What a producer has left on chip is taken where it lies,
    with the distance of rows that it has there, unless it must be `packed`. Else the block is
    loaded, row-major, repeated rows and columns stored once, and kept until its space is needed.
    """
    item = tensor.dtype.size
    rows = 1 if tensor.strides[0] == 0 else size[0]
    cols = 1 if tensor.strides[1] == 0 else size[1]
    start = first[0] * tensor.strides[0] + first[1] * tensor.strides[1]
    repeats = 0 if rows < size[0] or not tensor.strides[0] else 1
    col = item if tensor.strides[1] else 0
    if not builder.is_constant(tensor.region):
        rect = span_of(tensor, start, rows, cols)
        found = builder.read(tensor.region, rect)
        if found is not None and not packed and (cols == 1 or tensor.strides[1] == item):
            piece, offset, step = found
            return Block(piece.region, tensor.dtype, step * repeats, col, offset)
    key = (tensor.region, tensor.offset + start, tensor.strides, rows, cols, space)
    region = builder.cached(key)
    if region is None:
        region = builder.keep(key, rows * cols * item, space)
        dims = [(rows, tensor.strides[0], cols * item), (cols, tensor.strides[1], item)]
        source = tensor.offset + start
        transfer(builder, tensor.region, source, item, dims, region, 0, store=False)
    return Block(region, tensor.dtype, cols * item * repeats, col)


def span_of(tensor: Tensor, start: int, rows: int, cols: int) -> Rect:
    """The rectangle of a 2-D view's elements; exact where columns are contiguous."""
    item = tensor.dtype.size
    width = (cols - 1) * abs(tensor.strides[1]) + item
    pitch = tensor.strides[0] if rows > 1 else max(tensor.strides[0], width)
    if tensor.strides[1] != item and cols > 1 and pitch < width:
        width = (rows - 1) * pitch + item
        return Rect(tensor.offset + start, cols, tensor.strides[1], width)
    return Rect(tensor.offset + start, rows, pitch, width)


def store_block(
    builder: Builder, block: Block, tensor: Tensor, first: tuple[int, int], size: tuple[int, int]
) -> None:
    """Make a block, which the caller gives up, a part of a 2-D view.

    It stays on chip while there is room, if its rows are contiguous there and in the view.
    """
    start = first[0] * tensor.strides[0] + first[1] * tensor.strides[1]
    item = tensor.dtype.size
    plain = size[1] == 1 or block.col == tensor.strides[1] == item
    if plain and block.offset == 0 and (size[0] == 1 or block.row >= size[1] * item):
        width = size[1] * item
        pitch = tensor.strides[0] if size[0] > 1 else max(width, tensor.strides[0])
        rect = Rect(tensor.offset + start, size[0], pitch, width)
        builder.adopt(block.region, tensor.region, rect, block.row or width)
        return
    dims: list[Dim] = [
        (size[0], tensor.strides[0], block.row),
        (size[1], tensor.strides[1], block.col),
    ]
    source = tensor.offset + start
    transfer(builder, tensor.region, source, item, dims, block.region, block.offset, store=True)
    builder.release(block.region)


def load_vector(builder: Builder, values: NDArray[np.generic], first: int, count: int) -> Region:
    """Entries of a constant vector [C] or [P, C] in the parameter buffer, as P x count packed."""
    table = np.atleast_2d(values)[:, first : first + count]
    source = builder.constant(table)
    key = (source, Space.PBUF)
    region = builder.cached(key)
    if region is None:
        region = builder.keep(key, table.nbytes, Space.PBUF)
        inst = isa.Load(region.addr(), source.addr(), table.nbytes)
        builder.emit(inst, [whole(source)], [whole(region)])
    return region


def value_shape(value: SSAValue) -> Shape:
    """The shape of a value as plain integers."""
    return shape_of(value)
