"""The space of one memory: buffers, and free places between them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

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
        self._left: list[tuple[int, int, int]] = []
        """Bytes `low` to `high` that were given back, and when: disjoint, by address."""

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

    def find(self, size: int, from_top: bool = False) -> int | None:
        """A free place for `size` bytes; None if there is none.

        The one behind the last, so that an address rests as long as there is space; or from the top
        the end of the tightest, for what stays long.
        """
        fitting = [(low, high) for low, high in self.gaps() if low + size <= high]
        if not fitting:
            return None
        if not from_top:
            for low, high in fitting:
                start = max(low, self.cursor)
                if start + size <= high:
                    return start
            return fitting[0][0]
        low, high = min(fitting, key=lambda gap: (gap[1] - gap[0], -gap[0]))
        return max(low, (high - size) // self.align * self.align)

    def rested(self, start: int, size: int) -> int:
        """When the last of some free bytes was given back; -1 if none was ever in use."""
        end = start + size
        return max((at for low, high, at in self._left if low < end and start < high), default=-1)

    def place(self, start: int, size: int, number: int = -1, lasting: bool = False) -> Region:
        """Make a region at a free place."""
        region = Region(self.space, start, size, number)
        self.live.insert(bisect_left(self.live, start, key=lambda r: r.start), region)
        self.peak = max(self.peak, region.end)
        if not lasting:
            self.cursor = -(-region.end // self.align) * self.align
        return region

    def release(self, region: Region, now: int = 0) -> None:
        """Give a region's space back."""
        self.live.remove(region)
        region.gone = True
        if self.space is Space.DRAM:
            return
        left: list[tuple[int, int, int]] = [(region.start, region.end, now)]
        for low, high, at in self._left:
            if low < region.start:
                left.append((low, min(high, region.start), at))
            if region.end < high:
                left.append((max(low, region.end), high, at))
        self._left = left
