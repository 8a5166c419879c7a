"""Emitting a program, and what its instructions need.

A lowering is written as if the machine were sequential: allocate a buffer, load it, compute, store.
The builder turns that into queues that overlap:

* Every instruction is emitted with the byte ranges it reads and writes, which say what it must wait
  for (`tasks`). From that follow a better order (`schedule`) and the `signal`/`wait` pairs between
  engines (`semaphores`).
* `memory` hands out an address again only when another block has been worked on meanwhile: double
  buffering is a consequence, not a case of its own.

The same lowering runs twice: a first time to find out what is read when (`Trace`), then for good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.image import Origins, Segment
from vit_opt.backends.accel.lowering.arena import Region, Use, whole
from vit_opt.backends.accel.lowering.memory import DRAM_ALIGN, CapacityError, Memory
from vit_opt.backends.accel.lowering.residency import Piece, Rect, Trace
from vit_opt.backends.accel.lowering.schedule import schedule
from vit_opt.backends.accel.lowering.semaphores import with_semaphores
from vit_opt.backends.accel.lowering.tasks import Tasks
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.fields import Inst, Space


class Origin(NamedTuple):
    """What an instruction is a part of."""

    name: str
    """The operation, by the name of its node in the imported model."""
    layer: int
    """Operations that make one result together have the same."""
    serial: bool = False
    """Whether the instructions of the layer wait for each other."""


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
        self._tasks = Tasks()
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
        self._tasks.barrier()

    def emit(
        self,
        inst: isa.UnitInst,
        reads: Iterable[Use],
        writes: Iterable[Use],
        instead: isa.UnitInst | None = None,
    ) -> None:
        """Append an instruction that reads and writes the given bytes; `instead` does the same on
        another engine."""
        if not self.rehearsing:
            reads, writes = list(reads), list(writes)
            self.worked(inst, instead)
            for use in (*reads, *writes):
                if use.region.gone or use.low < 0 or use.high > use.region.size:
                    what = "given back" if use.region.gone else "beyond its buffer"
                    raise AssertionError(f"{self.working_on()}: '{inst.text()}' uses space {what}")
            chain = self.origin.layer if self.origin.serial else None
            # Nobody writes constants, so reading them binds nobody.
            moving = [use for use in reads if use.region not in self.constants]
            self._tasks.add(inst, instead, self.origin.name, moving, writes, chain)

    def program(self) -> tuple[tuple[Inst, ...], Origins]:
        """The instructions with semaphores, in the best order found, and what they are a part of."""
        steps = schedule(self._tasks.all, self.arch).steps
        return with_semaphores(self._tasks.all, steps)


__all__ = ["Builder", "CapacityError", "Rect", "Region", "Use", "whole"]
