"""Emitting a program: dependencies and semaphores.

A lowering is written as if the machine were sequential: allocate a buffer, load it, compute, store.
The builder turns that into queues that overlap:

* Every instruction is emitted with the byte ranges it reads and writes. From these the builder
  derives what an instruction must wait for (true, anti and output dependencies) and inserts
  `signal`/`wait` pairs between engines, one semaphore for each ordered pair of engines. Vector
  clocks leave out every wait that an earlier one implies. The order of emission is a valid
  sequential execution, so the program cannot deadlock.
* A buffer that reuses an address inherits the accesses of the buffers that lay there before, and
  `memory` hands out an address again only when another block has been worked on meanwhile: double
  buffering is a consequence, not a case of its own.

The same lowering runs twice: a first time to find out what is read when (`Trace`), then for good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.image import Origins, Segment
from vit_opt.backends.accel.lowering.arena import ENGINES, Access, Clock, Region, Use, whole
from vit_opt.backends.accel.lowering.memory import DRAM_ALIGN, CapacityError, Memory
from vit_opt.backends.accel.lowering.residency import Piece, Rect, Trace
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Inst, Space


class Origin(NamedTuple):
    """What an instruction is a part of."""

    name: str
    """The operation, by the name of its node in the imported model."""
    layer: int
    """Operations that make one result together have the same."""
    serial: bool = False
    """Whether the instructions of the layer wait for each other."""


@dataclass(slots=True)
class _Emitted:
    """An instruction with the waits before it and the signals after it."""

    inst: Inst
    engine: Engine
    clock: Clock
    origin: str
    waits: list[int] = field(default_factory=list[int])
    signals: list[int] = field(default_factory=list[int])


class Builder(Memory):
    """Collects a program for one architecture."""

    def __init__(self, arch: AccelTarget, trace: Trace | None = None):
        super().__init__(arch, trace)
        self.segments: list[Segment] = []
        self.macs = 0
        self.saved = 0
        """Bytes that packing saved in constants."""
        self.origin = Origin("program", -1)
        """The operation that is being lowered."""
        self._layers: dict[int, Clock] = {}
        self._emitted: list[_Emitted] = []
        self._by_engine: list[list[_Emitted]] = [[] for _ in Engine]
        self._known: list[Clock] = [[0] * ENGINES for _ in Engine]
        self._ends: list[list[int]] = [[0] for _ in Engine]
        """Of each engine, about when each of its instructions is complete, from the first's start."""
        self._floor: Clock = [0] * ENGINES
        self._constants: dict[bytes, Region] = {}

    def constant(self, array: NDArray[Any], unpacked: int = 0) -> Region:
        """A DRAM region that holds an array from the start; equal contents share one.

        `unpacked` is how many bytes it would have if it were not packed.
        """
        raw = np.ascontiguousarray(array).tobytes()
        key = hashlib.sha256(raw).digest()
        if key not in self._constants:
            # Never where an activation lay before: it would overwrite what the image brought.
            arena = self.arenas[Space.DRAM]
            start = -(-arena.peak // DRAM_ALIGN) * DRAM_ALIGN
            region = arena.place(start, len(raw), self.next_number())
            self.segments.append(Segment(region.start, raw))
            self._constants[key] = region
            self.constants.add(region)
            self.saved += max(0, unpacked - len(raw))
        return self._constants[key]

    def is_constant(self, region: Region) -> bool:
        """Whether a region holds data of the image, which is never given back."""
        return region in self.constants

    def working_on(self) -> str:
        """The operation that is being lowered."""
        return self.origin.name

    def write_back(self, piece: Piece) -> None:
        """Store what is valid of a piece to DRAM."""
        valid = piece.valid
        lead = valid.start - piece.room.start
        pitch = piece.room.pitch
        offset = lead // pitch * piece.near + lead % pitch
        inst = isa.Store(
            piece.tensor.addr(valid.start),
            piece.region.addr(offset),
            valid.width,
            n2=valid.rows,
            d2=valid.pitch if valid.rows > 1 else 0,
            s2=piece.near if valid.rows > 1 else 0,
        )
        near = Use(piece.region, offset, offset + (valid.rows - 1) * piece.near + valid.width)
        self.emit(inst, [near], [Use(piece.tensor, valid.start, valid.end)])
        piece.dirty = False

    # -- emission ---------------------------------------------------------------------------

    def barrier(self) -> None:
        """Let everything that follows wait for everything so far."""
        self._floor = [len(queue) for queue in self._by_engine]

    def emit(
        self,
        inst: isa.UnitInst,
        reads: Iterable[Use],
        writes: Iterable[Use],
        instead: isa.UnitInst | None = None,
    ) -> None:
        """Append an instruction that reads and writes the given bytes.

        `instead` does the same on another engine: the one that is complete first is taken, by the
        instructions' cycles and what they wait for, a free bus assumed.
        """
        if self.rehearsing:
            return
        needs = list(self._floor)
        if self.origin.serial:
            before = self._layers.get(self.origin.layer)
            if before is not None:
                needs = [max(pair) for pair in zip(needs, before, strict=True)]
        reads, writes = list(reads), list(writes)
        for use in reads:
            _collect(needs, use, use.region.writes)
        for use in writes:
            _collect(needs, use, use.region.writes)
            _collect(needs, use, use.region.reads)
            for other, seq in enumerate(use.region.inherited):
                needs[other] = max(needs[other], seq)
        inst, end = self._earliest(inst, instead, needs)
        engine = inst.engine
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
        self._ends[engine].append(end)
        emitted = _Emitted(inst, engine, list(known), self.origin.name, waits)
        queue.append(emitted)
        if self.origin.serial:
            self._layers.setdefault(self.origin.layer, [0] * ENGINES)[engine] = seq
        self._emitted.append(emitted)
        for use in reads:
            _record_read(use, Access(engine, seq, use.low, use.high))
        for use in writes:
            _record_write(use, Access(engine, seq, use.low, use.high))

    def _earliest(
        self, inst: isa.UnitInst, instead: isa.UnitInst | None, needs: Clock
    ) -> tuple[isa.UnitInst, int]:
        """The one of two instructions that is complete first, and when: 0 where none has two."""
        if self.arch.peak != "both":
            return inst, 0
        ready = max(self._ends[engine][seq] for engine, seq in enumerate(needs))
        end = max(ready, self._ends[inst.engine][-1]) + inst.cycles(self.arch)
        if instead is not None:
            early = max(ready, self._ends[instead.engine][-1]) + instead.cycles(self.arch)
            if early < end:
                return instead, early
        return inst, end

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


__all__ = ["Builder", "CapacityError", "Rect", "Region", "Use", "whole"]
