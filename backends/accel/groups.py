"""Weights in groups: rows of bytes of which most groups of eight columns need 4 bits a code.

A group of columns is *narrow* if in every row its codes are multiples of a power of two, which may
be another one in every row, by -8 .. 7. `ld.expand` reads this form:

    marks   a bit for every group, lowest first, padded to a byte; 1: bytes
    rows    each: 2 bits for every narrow group, four a byte, padded to a byte: its power of two less
            the least; then the groups in order, eight bytes each, or eight nibbles, low ones first

The last group has as many columns as are left; every group begins at a whole byte. Which groups are
narrow is found from the codes alone, so whatever made them, expanding gives them back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.memory import pack_int4, unpack_int4
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit_accel.isa_transfer import GROUP

Array = NDArray[Any]
Codes = NDArray[np.int8]
Bytes = NDArray[np.uint8]

SHIFTS = 4
"""Powers of two that 2 bits tell apart."""


def _in_groups(rows: Array) -> Array:
    """Columns in groups, zeros behind the last: [N, K] -> [N, ceil(K / GROUP), GROUP]."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % GROUP)))
    return padded.reshape(len(rows), -1, GROUP)


def group_shifts(rows: Array, least: int) -> Array:
    """The smallest power of two, from `least` on, by which each group of [N, K] int8 needs 4 bits:
    [N, ceil(K / GROUP)], `least + SHIFTS` where there is none."""
    parts = _in_groups(rows.astype(np.int64))
    shifts = np.full(parts.shape[:2], least + SHIFTS)
    for shift in range(least + SHIFTS - 1, least - 1, -1):
        codes = parts >> shift
        fits = (codes >= -8) & (codes <= 7) & (codes << shift == parts)
        shifts[fits.all(axis=2)] = shift
    return shifts


def pack_groups(rows: Codes, least: int = 1) -> Bytes:
    """The form that `ld.expand` reads of [N, K] codes, with `least` as the least power of two."""
    shifts = group_shifts(rows, least)
    narrow: Array = np.all(shifts < least + SHIFTS, axis=0)
    parts: list[Array] = [_pairs_of_bits(shifts[:, narrow] - least)]
    for group, is_narrow in enumerate(narrow.tolist()):
        codes = rows[:, group * GROUP : (group + 1) * GROUP]
        if is_narrow:
            parts.append(pack_int4(codes >> shifts[:, group, None]))
        else:
            parts.append(codes.view(np.uint8))
    marks = np.packbits(~narrow, bitorder="little")
    return np.concatenate([marks, np.concatenate(parts, axis=1).reshape(-1)])


def _pairs_of_bits(values: Array) -> Bytes:
    """Numbers 0 .. 3, four a byte, lowest first: [N, G] -> [N, ceil(G / 4)]."""
    padded = np.pad(values, ((0, 0), (0, -values.shape[1] % 4))).reshape(len(values), -1, 4)
    return (padded << np.array([0, 2, 4, 6])).sum(axis=2).astype(np.uint8)


def expand_groups(packed: Bytes, size: tuple[int, int], least: int) -> Codes:
    """The inverse of `pack_groups`: [N, K] codes.

    VitError if the marks tell of another number of bytes than there are.
    """
    rows, cols = size
    groups = -(-cols // GROUP)
    head = -(-groups // 8)
    if packed.size < head:
        raise VitError(f"{packed.size} bytes do not hold the marks of {groups} groups")
    narrow = narrow_groups(packed[:head], groups)
    expected = head + rows * int(_starts(narrow, cols)[-1])
    if packed.size != expected:
        raise VitError(
            f"{rows} rows of {cols} codes with these marks take {expected} bytes, not {packed.size}"
        )
    return expand_rows(packed[head:].reshape(rows, -1), narrow, cols, least)


def narrow_groups(marks: Bytes, groups: int) -> NDArray[np.bool_]:
    """Which groups of a row are not bytes."""
    return np.unpackbits(marks, count=groups, bitorder="little") == 0


def _starts(narrow: NDArray[np.bool_], cols: int) -> NDArray[np.int64]:
    """Where each group of a row begins, and where the row ends, in bytes."""
    widths = np.full(narrow.size, GROUP)
    widths[-1] = cols - (narrow.size - 1) * GROUP
    lengths = np.where(narrow, -(-widths // 2), widths)
    return -(-int(narrow.sum()) // 4) + np.concatenate([[0], np.cumsum(lengths)])


def expand_rows(body: Bytes, narrow: NDArray[np.bool_], cols: int, least: int) -> Codes:
    """Rows of codes [N, K] from rows of bytes, each with its shifts and groups."""
    rows, groups = len(body), narrow.size
    starts = _starts(narrow, cols)
    shift_bytes = int(starts[0])
    result = np.empty((rows, groups, GROUP), np.int8)
    index = np.arange(GROUP)
    # What lies behind the last column is cut off, so any byte will do for it.
    wide = starts[:-1][~narrow, None] + index
    result[:, ~narrow] = body[:, np.minimum(wide, body.shape[1] - 1)].view(np.int8)
    pairs = starts[:-1][narrow, None] + index[: GROUP // 2]
    nibbles = unpack_int4(body[:, np.minimum(pairs, body.shape[1] - 1)], GROUP)
    bits = body[:, :shift_bytes, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    shifts = bits.reshape(rows, -1)[:, : nibbles.shape[1], None].astype(np.int8) + np.int8(least)
    result[:, narrow] = nibbles << shifts
    return result.reshape(rows, -1)[:, :cols]
