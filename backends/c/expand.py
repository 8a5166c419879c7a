"""Narrow weights: 4 bits a code in the weights file, bytes in the arena before the product runs.

A weight is laid out for its kernel first, as if it had 8 bits. In that layout a panel is a head
that is copied as it is, and codes; neighbouring codes form chunks, each with some columns of 8
codes. A chunk is *narrow* if in every panel all codes of every column are multiples of a power of two
by -8 .. 7, the same power of two within the column: from 2^1 to 2^4, or 2^0 throughout. This is
found from the codes alone, so that nothing can go wrong: whatever produced them, expanding gives them
back bit for bit.

In the file each panel holds its head, 2 bits for every column of every narrow chunk, and the chunks
in order: a code a byte, or two codes a byte, the first half of the chunk in the low nibbles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from xdsl.ir import Operation

from vit_opt.backends.c.code import Buffer, Pointer, Struct, Value
from vit_opt.backends.c.levels import Layout
from vit_opt.backends.c.memory import Memory, describe
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.base import format_of
from vit_opt.dialects.vit.ops.linear import ConvBase
from vit_opt.passes.quantization.weights import BYTE_GROUPS

Array: TypeAlias = NDArray[Any]
Weighted: TypeAlias = ops.LinearOp | ConvBase

GROUP = 8
"""Codes of a column in a chunk."""

MOST = 4
"""Largest shift of a column."""

WORTH = 0.95
"""Share of the bytes above which expanding is not worth its time."""


@dataclass(frozen=True)
class Panels:
    """A weight as its kernel reads it, cut into panels."""

    head: Array
    """[panels, bytes] uint8."""
    codes: Array
    """[panels, codes] int8 or int16."""
    columns: int
    """Columns of a panel."""
    unit: int
    """Neighbouring codes of one column."""

    @property
    def bytes(self) -> int:
        """As the kernel reads them."""
        return self.head.size + self.codes.nbytes

    @property
    def chunk(self) -> int:
        """Codes of a chunk (the last one may have fewer)."""
        return GROUP * self.columns

    def chunks(self) -> list[Array]:
        """Each chunk's codes in every panel, [panels, codes of the chunk]."""
        return [
            self.codes[:, start : start + self.chunk]
            for start in range(0, self.codes.shape[1], self.chunk)
        ]

    def column(self, count: int) -> Array:
        """The column of each of the first `count` codes of a chunk."""
        return np.arange(count) // self.unit % self.columns


def panels_of(packed: Array, layout: Layout, reduction: int) -> list[Panels]:
    """What `packing.pack_panels` made: panels of 64 columns, behind them one of 32 at most."""
    steps = -(-reduction // layout.group) * layout.group * np.dtype(layout.weight).itemsize
    data = packed.view(np.uint8)
    found: list[Panels] = []
    for width in (64, 32):
        size = width * (8 + steps)
        count = data.size // size
        rows, data = data[: count * size].reshape(count, size), data[count * size :]
        if count:
            codes = np.ascontiguousarray(rows[:, 8 * width :]).view(layout.weight)
            found.append(Panels(rows[:, : 8 * width], codes, width, layout.group))
    return found


def rows_of(codes: Array) -> Panels:
    """A weight [N, K] of int8 whose rows lie one after the other."""
    rows = np.ascontiguousarray(codes, np.int8)
    return Panels(np.zeros((rows.shape[0], 0), np.uint8), rows, 1, GROUP)


def column_shifts(panels: Panels, chunk: Array, least: int) -> Array | None:
    """The shift of each column in a chunk, [panels, columns]; None if the chunk is not narrow."""
    values = chunk.astype(np.int32)
    column = panels.column(chunk.shape[1])
    needed = np.zeros((values.shape[0], panels.columns), np.int64)
    reach = np.full(values.shape, MOST + 1)
    for shift in range(MOST, least - 1, -1):
        reach[(values <= 7 << shift) & (values >= -8 << shift)] = shift
    for index in range(panels.columns):
        needed[:, index] = reach[:, column == index].max(axis=1, initial=least)
    if needed.max(initial=least) > MOST:
        return None
    steps = np.left_shift(1, needed)[:, column]
    return needed if not (values % steps).any() else None


@dataclass(frozen=True)
class Narrow:
    """A weight with narrow chunks, as it lies in the weights file."""

    data: Array
    """uint8: a bit for each chunk (1: bytes), padded to a byte; then the panels."""
    shift: int
    """The least shift."""
    shift_bits: int
    """Bits of a column's own shift: 0 or 2."""


def narrow(panels: Panels) -> Narrow:
    """The narrow form of a weight."""
    chunks = panels.chunks()
    if panels.codes.min(initial=0) >= -8 and panels.codes.max(initial=0) <= 7:
        return Narrow(_file(panels, [None] * len(chunks), True), 0, 0)
    shifts = [column_shifts(panels, chunk, 1) for chunk in chunks]
    return Narrow(_file(panels, shifts, False), 1, 2)


def _file(panels: Panels, shifts: list[Array | None], plain: bool) -> Array:
    """The bytes of a weight; `plain`: all chunks are narrow and have no shifts."""
    marks = np.array([not plain and found is None for found in shifts])
    parts = [panels.head]
    codes: list[Array] = []
    own: list[Array] = []
    for chunk, found in zip(panels.chunks(), shifts, strict=True):
        if found is None and not plain:
            codes.append(chunk.astype(np.int8).view(np.uint8))
            continue
        values = chunk.astype(np.int32)
        if found is not None:
            own.append(found - 1)
            values = values >> found[:, panels.column(chunk.shape[1])]
        codes.append(_nibbles(values))
    if own:
        parts.append(_pairs_of_bits(np.concatenate(own, axis=1)))
    rows = np.concatenate([*parts, *codes], axis=1)
    return np.concatenate([np.packbits(marks, bitorder="little"), rows.reshape(-1)])


def _nibbles(values: Array) -> Array:
    """Two codes a byte, the first half of each row in the low nibbles: [P, n] -> [P, ceil(n / 2)]."""
    half = -(-values.shape[1] // 2)
    low, high = values[:, :half] & 15, values[:, half:] & 15
    high = np.pad(high, ((0, 0), (0, half - high.shape[1])))
    return (low | (high << 4)).astype(np.uint8)


def _pairs_of_bits(values: Array) -> Array:
    """Numbers 0..3, four a byte, lowest first: [P, n] -> [P, ceil(n / 4)]."""
    padded = np.pad(values, ((0, 0), (0, -values.shape[1] % 4))).reshape(len(values), -1, 4)
    return (padded << np.array([0, 2, 4, 6])).sum(axis=2).astype(np.uint8)


def placed_panels(memory: Memory, packed: Array, reduction: int, op: Weighted) -> Pointer:
    """Where a packed product finds the panels of its output columns."""
    found = None
    if is_meant_narrow(memory, op):
        found = _placed(memory, panels_of(packed, memory.level.layout, reduction), op)
    return memory.weights.add(packed) if found is None else found


def placed_rows(memory: Memory, codes: Array, op: Weighted) -> Pointer | None:
    """Where a product finds a weight [N, K] of 8 bits that is narrow; None if it is not."""
    return _placed(memory, [rows_of(codes)], op) if is_meant_narrow(memory, op) else None


def is_meant_narrow(memory: Memory, op: Weighted) -> bool:
    """Whether a weight was rounded to 4 bits, as a whole or in groups; others are left alone."""
    owner = memory.graph.root(op.weight).owner
    grouped = isinstance(owner, Operation) and BYTE_GROUPS in owner.attributes
    return grouped or format_of(op.weight).storage.width.data == 4


def _placed(memory: Memory, parts: list[Panels], op: Weighted) -> Pointer | None:
    """The arena's copy of a weight that the file holds narrow, and the calls that make it."""
    found = [narrow(panels) for panels in parts]
    size = sum(panels.bytes for panels in parts)
    if sum(part.data.size for part in found) > WORTH * size:
        return None
    expanded, offset = Buffer("", size, "arena"), 0
    for panels, part in zip(parts, found, strict=True):
        fields: dict[str, Value] = {
            "panels": panels.codes.shape[0],
            "head": panels.head.shape[1],
            "codes": panels.codes.shape[1],
            "columns": panels.columns,
            "unit": panels.unit,
            "size": panels.codes.dtype.itemsize,
            "shift": part.shift,
            "shift_bits": part.shift_bits,
        }
        arguments: list[Value] = [
            Struct("vit_expand_shape", fields),
            memory.weights.add(part.data),
            Pointer(expanded, offset),
        ]
        memory.call("vit_expand_s4", arguments, f"weights of {describe(op)}")
        offset += panels.bytes
    return Pointer(expanded)
