"""Emitting a program: buffers, dependencies, semaphores.

A lowering is written as if the machine were sequential: allocate a buffer, load it, compute, store.
The builder turns that into queues that overlap:

* Every instruction is emitted with the byte ranges it reads and writes. From these the builder
  derives what an instruction must wait for (true, anti and output dependencies) and inserts
  `signal`/`wait` pairs between engines, one semaphore for each ordered pair of engines. Vector
  clocks leave out every wait that an earlier one implies. The order of emission is a valid
  sequential execution, so the program cannot deadlock.
* Buffers are handed out in rotation, so that the next block's loads find other addresses than
  the block in work: double buffering is a consequence of free space, not a case of its own. A
  buffer that reuses an address inherits the accesses of the buffers that lay there before.
* Blocks loaded from DRAM stay on chip until their space is needed (least recently used first), so
  that operands which fit are loaded once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.image import MAX_DRAM, Origins, Segment
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Addr, Inst, Space

ENGINES = len(Engine)
Clock = list[int]
"""Per engine, the number of its instructions known to be complete."""

CacheKey = tuple[object, ...]
"""Names a block on chip: the DRAM region that it copies, then what part of it."""

CHIP_ALIGN = 16
DRAM_ALIGN = 64


class CapacityError(VitError):
    """Something does not fit into a memory of the architecture."""


@dataclass
class Access:
    """Instruction `seq` of an engine touched bytes `low` to `high` of a region."""

    engine: Engine
    seq: int
    low: int
    high: int


@dataclass(eq=False)
class Region:
    """A buffer: a byte range of a memory with the accesses made to it so far."""

    space: Space
    start: int
    size: int
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


@dataclass(frozen=True)
class Use:
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

    def __init__(self, space: Space, size: int, align: int, rotate: bool):
        self.space = space
        self.size = size
        self.align = align
        self.rotate = rotate
        self.live: list[Region] = []
        self.retired: list[Scar] = []
        self.cursor = 0
        self.peak = 0

    def find(self, size: int) -> int | None:
        """A free place for `size` bytes, from the cursor on if rotating; None if there is none."""
        gaps: list[tuple[int, int]] = []
        position = 0
        for region in self.live:
            gaps.append((position, region.start))
            position = -(-region.end // self.align) * self.align
        gaps.append((position, self.size))
        if self.rotate:
            for low, high in gaps:
                start = max(low, self.cursor)
                if start + size <= high:
                    return start
        for low, high in gaps:
            if low + size <= high:
                return low
        return None

    def place(self, start: int, size: int) -> Region:
        """Make a region at a free place."""
        region = Region(self.space, start, size)
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
        index = 0
        while index < len(self.live) and self.live[index].start < start:
            index += 1
        self.live.insert(index, region)
        self.cursor = -(-region.end // self.align) * self.align
        self.peak = max(self.peak, region.end)
        return region

    def release(self, region: Region) -> None:
        """Give a region's space back."""
        self.live.remove(region)
        self.retired.append((region.start, region.end, region.last()))


@dataclass
class _Emitted:
    """An instruction with the waits before it and the signals after it."""

    inst: Inst
    engine: Engine
    clock: Clock
    origin: str
    waits: list[int] = field(default_factory=list[int])
    signals: list[int] = field(default_factory=list[int])


class Builder:
    """Collects a program for one architecture."""

    def __init__(self, arch: AccelTarget):
        self.arch = arch
        self.arenas = {
            Space[memory.name.upper()]: Arena(
                Space[memory.name.upper()], memory.size, CHIP_ALIGN, rotate=True
            )
            for memory in arch.memories
        }
        self.arenas[Space.DRAM] = Arena(Space.DRAM, MAX_DRAM, DRAM_ALIGN, rotate=False)
        self.segments: list[Segment] = []
        self.macs = 0
        self.origin = "program"
        """The operation that is being lowered."""
        self._emitted: list[_Emitted] = []
        self._by_engine: list[list[_Emitted]] = [[] for _ in Engine]
        self._known: list[Clock] = [[0] * ENGINES for _ in Engine]
        self._constants: dict[bytes, Region] = {}
        self._constant_regions: set[Region] = set()
        self._cache: dict[CacheKey, Region] = {}
        self._keys: dict[Region, CacheKey] = {}
        self._pinned: list[Region] = []

    # -- memory -----------------------------------------------------------------------------

    def capacity(self, space: Space) -> int:
        """Bytes of a memory."""
        return self.arenas[space].size

    def allocate(self, space: Space, size: int) -> Region:
        """A buffer; cached blocks make room, least recently used first. CapacityError if none."""
        arena = self.arenas[space]
        size = max(size, 1)
        start = arena.find(size)
        while start is None:
            victim = next(
                (
                    region
                    for region in self._cache.values()
                    if region.space is space and region not in self._pinned
                ),
                None,
            )
            if victim is None:
                raise CapacityError(
                    f"{size} bytes do not fit into {space.name.lower()} ({arena.size} bytes) of "
                    f"architecture '{self.arch.name}'"
                )
            del self._cache[self._keys.pop(victim)]
            arena.release(victim)
            start = arena.find(size)
        return arena.place(start, size)

    def release(self, region: Region) -> None:
        """Give a buffer back; what is still to read from it has been emitted already."""
        self.arenas[region.space].release(region)

    def constant(self, array: NDArray[Any]) -> Region:
        """A DRAM region that holds an array from the start; equal contents share one."""
        raw = np.ascontiguousarray(array).tobytes()
        key = hashlib.sha256(raw).digest()
        if key not in self._constants:
            # Never where an activation lay before: it would overwrite what the image brought.
            arena = self.arenas[Space.DRAM]
            region = arena.place(-(-arena.peak // DRAM_ALIGN) * DRAM_ALIGN, len(raw))
            self.segments.append(Segment(region.start, raw))
            self._constants[key] = region
            self._constant_regions.add(region)
        return self._constants[key]

    def is_constant(self, region: Region) -> bool:
        """Whether a region holds data of the image, which is never given back."""
        return region in self._constant_regions

    def cached(self, key: CacheKey) -> Region | None:
        """The block with this key if it is on chip; it stays there until `unpin`."""
        region = self._cache.pop(key, None)
        if region is not None:
            self._cache[key] = region
            self._pinned.append(region)
        return region

    def keep(self, key: CacheKey, size: int, space: Space) -> Region:
        """A buffer that stays on chip under `key` while there is room; pinned until `unpin`."""
        region = self.allocate(space, size)
        self._cache[key] = region
        self._keys[region] = key
        self._pinned.append(region)
        return region

    def unpin(self, mark: int = 0) -> None:
        """Let the blocks used since `mark` be replaced."""
        del self._pinned[mark:]

    def mark(self) -> int:
        """The blocks pinned so far."""
        return len(self._pinned)

    def forget(self, region: Region) -> None:
        """Drop cached blocks of a DRAM region that is released."""
        for key in [k for k in self._cache if k[0] is region]:
            block = self._cache.pop(key)
            del self._keys[block]
            self.arenas[block.space].release(block)

    # -- emission ---------------------------------------------------------------------------

    def emit(self, inst: isa.UnitInst, reads: Iterable[Use], writes: Iterable[Use]) -> None:
        """Append an instruction that reads and writes the given bytes."""
        engine = inst.engine
        needs = [0] * ENGINES
        reads, writes = list(reads), list(writes)
        for use in reads:
            _collect(needs, use, use.region.writes)
        for use in writes:
            _collect(needs, use, use.region.writes)
            _collect(needs, use, use.region.reads)
            for other, seq in enumerate(use.region.inherited):
                needs[other] = max(needs[other], seq)
        queue = self._by_engine[engine]
        known = self._known[engine]
        waits: list[int] = []
        # The latest requirement first: its clock often covers the others.
        for other in sorted(range(ENGINES), key=lambda o: -needs[o]):
            if other == engine or needs[other] <= known[other]:
                continue
            source = self._by_engine[other][needs[other] - 1]
            semaphore = other * ENGINES + engine
            source.signals.append(semaphore)
            waits.append(semaphore)
            for index, seq in enumerate(source.clock):
                known[index] = max(known[index], seq)
        seq = len(queue) + 1
        known[engine] = seq
        emitted = _Emitted(inst, engine, list(known), self.origin, waits)
        queue.append(emitted)
        self._emitted.append(emitted)
        for use in reads:
            _record_read(use, Access(engine, seq, use.low, use.high))
        for use in writes:
            _record_write(use, Access(engine, seq, use.low, use.high))

    def program(self) -> tuple[Inst, ...]:
        """The stream of instructions with its semaphores."""
        result: list[Inst] = []
        for item in self._emitted:
            result += [isa.Wait(item.engine, semaphore) for semaphore in item.waits]
            result.append(item.inst)
            result += [isa.Signal(item.engine, semaphore) for semaphore in item.signals]
        return tuple(result)

    def origins(self) -> Origins:
        """The operations that the instructions of `program` belong to."""
        return Origins.from_names(
            item.origin
            for item in self._emitted
            for _ in range(len(item.waits) + 1 + len(item.signals))
        )


def _collect(needs: Clock, use: Use, accesses: list[Access]) -> None:
    """Raise `needs` to the accesses that overlap a use."""
    for access in accesses:
        if access.low < use.high and use.low < access.high and access.seq > needs[access.engine]:
            needs[access.engine] = access.seq


def _record_read(use: Use, read: Access) -> None:
    """Add a read; earlier ones of the engine within the same bytes are ordered before it."""
    region = use.region
    region.reads = [
        a for a in region.reads if a.engine != read.engine or a.low < use.low or a.high > use.high
    ]
    region.reads.append(read)
    region.reads = _thinned(region.reads)


def _record_write(use: Use, write: Access) -> None:
    """Add a write; accesses that it covers are ordered before it and need not be kept."""
    region = use.region
    region.reads = [a for a in region.reads if a.low < use.low or a.high > use.high]
    region.writes = [a for a in region.writes if a.low < use.low or a.high > use.high]
    region.writes.append(write)
    region.writes = _thinned(region.writes)


ACCESSES = 64
"""Accesses remembered per region; beyond that neighbours are taken together."""


def _thinned(accesses: list[Access]) -> list[Access]:
    """Half as many accesses once there are too many: two neighbours of one engine become the later
    one over the bytes of both. Whoever overlaps one then waits for both, which is safe."""
    if len(accesses) <= ACCESSES:
        return accesses
    result: list[Access] = []
    index = 0
    while index < len(accesses):
        first = accesses[index]
        index += 1
        if index < len(accesses) and accesses[index].engine == first.engine:
            second = accesses[index]
            index += 1
            low, high = min(first.low, second.low), max(first.high, second.high)
            first = Access(first.engine, max(first.seq, second.seq), low, high)
        result.append(first)
    return result
