"""The space of one memory: buffers, who touched them last, and free places between them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import NamedTuple

from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Addr, Space

ENGINES = len(Engine)
Clock = list[int]
"""Per engine, the number of its instructions known to be complete."""


@dataclass(slots=True)
class Access:
    """Instruction `seq` of an engine touched bytes `low` to `high` of a region."""

    engine: Engine
    seq: int
    low: int
    high: int


@dataclass(eq=False, slots=True)
class Region:
    """A buffer: a byte range of a memory with the accesses made to it so far."""

    space: Space
    start: int
    size: int
    number: int = -1
    """Counts the regions of DRAM, in the order in which they are first placed."""
    reads: list[Access] = field(default_factory=list[Access])
    writes: list[Access] = field(default_factory=list[Access])
    inherited: Clock = field(default_factory=lambda: [0] * ENGINES)
    """What must be complete before anything is written here."""

    def addr(self, offset: int = 0) -> Addr:
        """The address `offset` bytes into the region."""
        return Addr(self.space, self.start + offset)

    @property
    def end(self) -> int:
        """First byte behind the region."""
        return self.start + self.size

    def last(self) -> Clock:
        """Per engine, the last instruction that touched the region."""
        clock = list(self.inherited)
        for access in (*self.reads, *self.writes):
            clock[access.engine] = max(clock[access.engine], access.seq)
        return clock


class Use(NamedTuple):
    """Bytes `low` to `high` of a region, as read or written by an instruction."""

    region: Region
    low: int
    high: int


def whole(region: Region) -> Use:
    """All of a region."""
    return Use(region, 0, region.size)


Scar = tuple[int, int, Clock]
"""Bytes `low` to `high` that retired buffers touched last at these instructions."""


class Arena:
    """The space of one memory: live regions, and disjoint scars of the ones that lay there."""

    def __init__(self, space: Space, size: int, align: int):
        self.space = space
        self.size = size
        self.align = align
        self.live: list[Region] = []
        """By address."""
        self.retired: list[Scar] = []
        self.peak = 0
        self.cursor = 0
        """Where the next buffer goes, if it may."""

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

    def place(self, start: int, size: int, number: int = -1, lasting: bool = False) -> Region:
        """Make a region at a free place."""
        region = Region(self.space, start, size, number)
        kept: list[Scar] = []
        for low, high, clock in self.retired:
            if high <= start or region.end <= low:
                kept.append((low, high, clock))
                continue
            region.inherited = [max(pair) for pair in zip(region.inherited, clock, strict=True)]
            if low < start:
                kept.append((low, start, clock))
            if region.end < high:
                kept.append((region.end, high, clock))
        self.retired = kept
        self.live.insert(bisect_left(self.live, start, key=lambda r: r.start), region)
        self.peak = max(self.peak, region.end)
        if not lasting:
            self.cursor = -(-region.end // self.align) * self.align
        return region

    def release(self, region: Region) -> None:
        """Give a region's space back."""
        self.live.remove(region)
        self.retired.append((region.start, region.end, region.last()))
