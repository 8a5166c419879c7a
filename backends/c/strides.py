"""Strided views of tensors: data movement that a kernel can do while it reads or writes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided
from xdsl.ir import Operation, SSAValue

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.base import Shape, integers, shape_of

MAX_RANK = 8
"""VIT_MAX_RANK of vit_kernels.h."""


def dense_strides(shape: Shape) -> list[int]:
    """Elements from one index to the next of a dense tensor, per dimension."""
    return [prod(shape[i + 1 :]) for i in range(len(shape))]


def merge_dimensions(columns: list[list[int]]) -> list[tuple[int, ...]]:
    """Join neighbouring dimensions that every stride list walks as one.

    `columns` holds the dimensions and then one list of strides per operand; returned alike, with
    at least one dimension. Raises VitError where more than `MAX_RANK` remain.
    """
    kept: list[list[int]] = []
    for entry in zip(*columns, strict=True):
        size, *strides = entry
        if size == 1:
            continue
        if kept and all(kept[-1][1 + i] == stride * size for i, stride in enumerate(strides)):
            kept[-1] = [kept[-1][0] * size, *strides]
        else:
            kept.append(list(entry))
    if not kept:
        kept = [[1] + [0] * (len(columns) - 1)]
    if len(kept) > MAX_RANK:
        raise VitError(f"a strided access of {len(kept)} dimensions; C kernels have {MAX_RANK}")
    return [tuple(row[i] for row in kept) for i in range(len(columns))]


@dataclass(frozen=True)
class View:
    """A value as a strided part of another one that is in memory."""

    root: SSAValue
    offset: int
    """Elements from the start of `root` to the first one of the view."""
    shape: Shape
    strides: tuple[int, ...]
    """Elements from one index to the next, per dimension."""
    moves: tuple[Operation, ...] = ()
    """The operations that the view stands for."""

    def reshaped(self, shape: Shape) -> View | None:
        """The same elements in another shape; None where they cannot be walked with strides."""
        probe = as_strided(np.empty(1, np.int8), self.shape, self.strides)
        try:
            probe = np.reshape(probe, shape, copy=False)
        except ValueError:
            return None
        return View(self.root, self.offset, shape, probe.strides, self.moves)


def dense_view(value: SSAValue) -> View:
    """A value as it is in memory."""
    shape = shape_of(value)
    return View(value, 0, shape, tuple(dense_strides(shape)))


def view_of(value: SSAValue, aliases: dict[SSAValue, SSAValue], kept: set[Operation]) -> View:
    """A value through the transposes, slices and reshapes that make it.

    Operations in `kept` run as copies; their results are where the view ends.
    """
    owner = value.owner
    if isinstance(owner, ops.ReshapeOp | ops.ReinterpretOp):
        inner = view_of(owner.x, aliases, kept)
        return inner.reshaped(shape_of(value)) or dense_view(value)
    if value in aliases:
        return view_of(aliases[value], aliases, kept)
    if owner in kept or not isinstance(owner, ops.TransposeOp | ops.SliceOp):
        return dense_view(value)
    inner = view_of(owner.x, aliases, kept)
    shape, moves = shape_of(value), (*inner.moves, owner)
    if isinstance(owner, ops.TransposeOp):
        strides = tuple(inner.strides[i] for i in integers(owner.permutation))
        return View(inner.root, inner.offset, shape, strides, moves)
    starts, steps = integers(owner.offsets), integers(owner.strides)
    offset = inner.offset + sum(o * s for o, s in zip(starts, inner.strides, strict=True))
    strides = tuple(a * b for a, b in zip(steps, inner.strides, strict=True))
    return View(inner.root, offset, shape, strides, moves)
