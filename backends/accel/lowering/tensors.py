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

from vit_opt.backends.accel.lowering.builder import Builder, Region, Use, whole
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

    def use(self, offset: int, dims: Sequence[tuple[int, int]], run: int) -> Use:
        """The bytes from `offset` spanned by dims of (count, stride) and a run."""
        span = run + sum((count - 1) * stride for count, stride in dims)
        return Use(self.region, self.offset + offset, self.offset + offset + span)

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


def reshaped(tensor: Tensor, shape: Shape, format_: FixedType) -> Tensor | None:
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
    return Tensor(tensor.region, tensor.dtype, format_, shape, tuple(strides), tensor.offset)


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


def load_block(
    builder: Builder,
    tensor: Tensor,
    first: tuple[int, int],
    size: tuple[int, int],
    space: Space,
) -> Block:
    """Rows and columns of a 2-D view on chip, row-major and packed; repeated ones stored once.

    `first` and `size` are (row, column). The block stays cached until its space is needed.
    """
    item = tensor.dtype.size
    rows = 1 if tensor.strides[0] == 0 else size[0]
    cols = 1 if tensor.strides[1] == 0 else size[1]
    start = first[0] * tensor.strides[0] + first[1] * tensor.strides[1]
    key = (tensor.region, tensor.offset + start, tensor.strides, rows, cols, space)
    region = builder.cached(key)
    if region is None:
        region = builder.keep(key, rows * cols * item, space)
        copy_in(
            builder,
            tensor,
            start,
            [(rows, tensor.strides[0], cols * item)],
            (cols, tensor.strides[1], item),
            region,
            0,
        )
    return Block(
        region,
        tensor.dtype,
        cols * item if rows == size[0] and tensor.strides[0] else 0,
        item if tensor.strides[1] else 0,
    )


Dim = tuple[int, int, int]
"""Count, stride in DRAM, stride on chip."""


def copy_in(
    builder: Builder,
    tensor: Tensor,
    start: int,
    dims: Sequence[Dim],
    last: Dim,
    region: Region,
    offset: int,
) -> None:
    """Load from DRAM: up to two outer dims (more are unrolled) and a last one of elements."""
    transfer(builder, tensor, start, dims, last, region, offset, store=False)


def transfer(
    builder: Builder,
    tensor: Tensor,
    start: int,
    dims: Sequence[Dim],
    last: Dim,
    region: Region,
    offset: int,
    store: bool,
) -> None:
    """Move elements between DRAM and a buffer, in as few instructions as their layout allows."""
    item = tensor.dtype.size
    run = item
    inner: list[Dim] = [dim for dim in (*dims, last) if dim[0] > 1]
    while inner and inner[-1][1] == run and inner[-1][2] == run:
        run *= inner.pop()[0]
    merged: list[Dim] = []
    for count, far, near in inner:
        if merged and merged[-1][1] == count * far and merged[-1][2] == count * near:
            merged[-1] = (merged[-1][0] * count, far, near)
        else:
            merged.append((count, far, near))
    _split_transfer(builder, tensor, start, merged, run, region, offset, store)


_COUNT_MAX = (1 << 16) - 1
_RUN_MAX = (1 << 24) - 1


def _split_transfer(
    builder: Builder,
    tensor: Tensor,
    start: int,
    dims: list[Dim],
    run: int,
    region: Region,
    offset: int,
    store: bool,
) -> None:
    if run > _RUN_MAX:
        raise VitError(f"a contiguous run of {run} bytes is longer than an instruction can hold")
    if len(dims) > 3:
        count, far, near = dims[0]
        for index in range(count):
            _split_transfer(
                builder,
                tensor,
                start + index * far,
                dims[1:],
                run,
                region,
                offset + index * near,
                store,
            )
        return
    for position, (count, far, near) in enumerate(dims):
        if count > _COUNT_MAX:
            head, tail = dims[:position], dims[position + 1 :]
            for index in range(0, count, _COUNT_MAX):
                part = (min(_COUNT_MAX, count - index), far, near)
                _split_transfer(
                    builder,
                    tensor,
                    start + index * far,
                    [*head, part, *tail],
                    run,
                    region,
                    offset + index * near,
                    store,
                )
            return
    counts = [1] * (3 - len(dims)) + [dim[0] for dim in dims]
    fars = [0] * (3 - len(dims)) + [dim[1] for dim in dims]
    nears = [0] * (3 - len(dims)) + [dim[2] for dim in dims]
    span = run + sum((count - 1) * near for count, _, near in dims)
    far_use = tensor.use(start, [(count, far) for count, far, _ in dims], run)
    near_use = Use(region, offset, offset + span)
    if store:
        inst: isa.CopyInst = isa.Store(
            tensor.addr(start), region.addr(offset), run, *counts, *fars, *nears
        )
        builder.emit(inst, [near_use], [far_use])
    else:
        inst = isa.Load(region.addr(offset), tensor.addr(start), run, *counts, *nears, *fars)
        builder.emit(inst, [far_use], [near_use])


def store_block(
    builder: Builder, block: Block, tensor: Tensor, first: tuple[int, int], size: tuple[int, int]
) -> None:
    """Write a block to a 2-D view in DRAM."""
    start = first[0] * tensor.strides[0] + first[1] * tensor.strides[1]
    transfer(
        builder,
        tensor,
        start,
        [(size[0], tensor.strides[0], block.row)],
        (size[1], tensor.strides[1], block.col),
        block.region,
        block.offset,
        store=True,
    )


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
