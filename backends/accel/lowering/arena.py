"""The space of one memory: buffers, and free places between them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Addr, Space

ENGINES = len(Engine)


@dataclass(eq=False, slots=True)
class Region:
    """A buffer: a byte range of a memory."""

    space: Space
    start: int
    size: int
    number: int = -1
    """Counts the regions of DRAM, in the order in which they are first placed."""
    gone: bool = False
    """Whether its space may hold other buffers by now."""

    def addr(self, offset: int = 0) -> Addr:
        """The address `offset` bytes into the region."""
        return Addr(self.space, self.start + offset)

    @property
    def end(self) -> int:
        """First byte behind the region."""
        return self.start + self.size


class Use(NamedTuple):
    """Bytes `low` to `high` of a region, as read or written by an instruction."""

    region: Region
    low: int
    high: int


def whole(region: Region) -> Use:
    """All of a region."""
    return Use(region, 0, region.size)


Part = tuple[int, int, int]
"""Bytes from the first to behind the last, and when they were given back."""


class Arena:
    """The space of one memory, and the regions that live there."""

    def __init__(self, space: Space, size: int, align: int):
        self.space = space
        self.size = size
        self.align = align
        self.live: list[Region] = []
        """By address."""
        self.peak = 0
        self.cursor = 0
        """Where the next buffer goes, if it may."""
        self._left: list[Part] = []
        """Free bytes that were in use."""

    def gaps(self) -> list[tuple[int, int]]:
        """Free places as (first byte, byte behind), by address."""
        result: list[tuple[int, int]] = []
        position = 0
        for region in self.live:
            if position < region.start:
                result.append((position, region.start))
            position = -(-region.end // self.align) * self.align
        if position < self.size:
            result.append((position, self.size))
        return result

    def find(self, size: int, from_top: bool = False) -> tuple[int, int] | None:
        """A free place for `size` bytes, and when the last of them was given back (-1: never in
        use); None if there is none.

        The one that has rested longest, so that what works there need not wait for what did before;
        from the top the end of the tightest, for what stays long; in DRAM the first.
        """
        fitting = [(low, high) for low, high in self.gaps() if low + size <= high]
        if not fitting:
            return None
        if self.space is Space.DRAM:
            return fitting[0][0], -1
        lows, highs, times = np.array([(0, 0, -1), *self._left], np.int64).T
        if from_top:
            low, high = min(fitting, key=lambda gap: (gap[1] - gap[0], -gap[0]))
            starts = np.array([max(low, (high - size) // self.align * self.align)])
        else:
            edges = np.array([self.cursor, *highs.tolist()])
            edges = -(-edges // self.align) * self.align
            inside = [edges[(low < edges) & (edges + size <= high)] for low, high in fitting]
            starts = np.concatenate([[low for low, _ in fitting], *inside])
        here = (lows < starts[:, None] + size) & (starts[:, None] < highs)
        rested = np.where(here, times, -1).max(axis=1)
        best = np.lexsort((starts, starts < self.cursor, rested))[0]
        return int(starts[best]), int(rested[best])

    def place(self, start: int, size: int, number: int = -1, lasting: bool = False) -> Region:
        """Make a region at a free place."""
        region = Region(self.space, start, size, number)
        self._left = _without(self._left, start, region.end)
        self.live.insert(bisect_left(self.live, start, key=lambda r: r.start), region)
        self.peak = max(self.peak, region.end)
        if not lasting:
            self.cursor = -(-region.end // self.align) * self.align
        return region

    def release(self, region: Region, now: int = 0) -> None:
        """Give a region's space back."""
        self.live.remove(region)
        region.gone = True
        self._left = [
            *_without(self._left, region.start, region.end),
            (region.start, region.end, now),
        ]


def _without(parts: Sequence[Part], start: int, end: int) -> list[Part]:
    """Parts of a memory but for the bytes from `start` to `end`."""
    result: list[Part] = []
    for low, high, at in parts:
        if low < start:
            result.append((low, min(high, start), at))
        if end < high:
            result.append((max(low, end), high, at))
    return result
