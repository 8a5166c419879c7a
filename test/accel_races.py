"""A machine that notices what only luck keeps right: reads and writes that no semaphore orders.

The emulator executes an instruction at one moment, real engines take their time. So a program that
lacks a `wait` may run well here and fail elsewhere. This machine keeps vector clocks (C. Fidge,
"Timestamps in message-passing systems that preserve the partial ordering", 1988): per engine, how
many instructions of each engine it knows to be complete, handed on with every token. Two accesses to
a byte of which one writes must be ordered by them. Bytes that nobody has written must not be read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.emulator import Machine
from vit_opt.backends.accel.image import Image
from vit_opt.backends.accel.memory import Memories
from vit_opt.backends.accel.profile import Profile
from vit_opt.backends.accel.units import EFFECTS
from vit_opt.backends.accel.units import Port as UnitPort
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType, Engine
from vit_opt.dialects.vit_accel.fields import Addr, Space

Seqs = NDArray[np.int32]

ENGINES = len(Engine)
UNWRITTEN = ENGINES
"""Stands for the engine that wrote a byte that none has written."""

ACCUMULATING = (isa.Matmul, isa.EngineMatmul, isa.Conv, isa.DepthwiseConv, isa.Sum)
"""Instructions whose operand `acc` is their result."""


Where = tuple[int, int, tuple[int, ...], tuple[int, ...]]
"""Offset, bytes of an element, shape, strides."""


class RaceError(AssertionError):
    """Two accesses that no semaphore orders, or a read of what nobody has written."""


class _Bytes:
    """Who touched each byte of a memory last: instructions are counted from 1 on each engine."""

    def __init__(self, size: int):
        self.writer = np.full(size, UNWRITTEN, np.int32)
        self.written = np.zeros(size, np.int32)
        self.read: dict[Engine, Seqs] = {}
        """Made when an engine reads first."""

    def reads_of(self, engine: Engine) -> Seqs:
        """The last read of each byte by an engine."""
        return self.read.setdefault(engine, np.zeros(self.writer.size, np.int32))


class Recorder(UnitPort):
    """An engine's access to the memories that notes every view with its place."""

    def __init__(self, memories: Memories, resolve: Any):
        super().__init__(memories, resolve)
        self.seen: list[tuple[Addr, Space, Where]] = []
        """The field of the instruction, the memory, and the bytes."""

    def view(
        self, addr: Addr, dtype: DType, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> NDArray[Any]:
        place = self.resolve(addr)
        self.seen.append((addr, place.space, (place.offset, dtype.size, shape, strides)))
        return super().view(addr, dtype, shape, strides)

    def accesses(self, inst: isa.UnitInst) -> Iterator[tuple[tuple[Space, Where], bool]]:
        """What an instruction has read, then what it has written, and which of them it was."""
        results = [id(getattr(inst, name, None)) for name in ("dst", "p", "sum")]
        if isinstance(inst, ACCUMULATING):
            results.append(id(inst.acc))
        adds = bool(getattr(inst, "accumulate", False))
        for written in (False, True):
            for field, space, where in self.seen:
                if (id(field) in results) is written or (adds and not written):
                    yield (space, where), written


class OrderedMachine(Machine):
    """The emulator, with the order of all accesses checked."""

    def __init__(self, image: Image, arch: AccelTarget, profile: Profile | None = None):
        super().__init__(image, arch, profile=profile)
        self.places = {space: _Bytes(data.size) for space, data in self.memories.bytes.items()}
        self.clocks: list[Seqs] = [np.zeros(ENGINES, np.int32) for _ in Engine]
        self.handed: list[deque[Seqs]] = [deque() for _ in range(isa.SEMAPHORES)]
        data = [(segment.address, len(segment.data)) for segment in image.segments]
        for start, size in (*data, *((port.address, port.size) for port in image.inputs)):
            self.places[Space.DRAM].writer[start : start + size] = 0

    def _take(self, state: Any, index: int, wait: isa.Wait) -> bool:
        if not super()._take(state, index, wait):
            return False
        clock = self.clocks[wait.engine]
        for _ in range(wait.count):
            np.maximum(clock, self.handed[wait.sem].popleft(), out=clock)
        return True

    def _signal(self, state: Any, signal: isa.Signal) -> None:
        super()._signal(state, signal)
        self.handed[signal.sem].extend([self.clocks[signal.engine].copy()] * signal.count)

    def _effect(self, state: Any, index: int, inst: isa.UnitInst) -> None:
        port = Recorder(self.memories, state.resolve)
        EFFECTS[type(inst)](port, inst)()
        clock = self.clocks[inst.engine]
        clock[inst.engine] += 1
        for place, written in port.accesses(inst):
            check = _write if written else _read
            reason = check(self.places[place[0]], inst, clock, place[1])
            if reason:
                raise RaceError(f"instruction {index} '{inst.text()}': {place[0].name} {reason}")


def _part(
    per_byte: Seqs, offset: int, item: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> Seqs:
    """The entries of the bytes of a strided view."""
    width = per_byte.itemsize
    steps = (*(stride * width for stride in strides), width)
    return np.ndarray((*shape, item), per_byte.dtype, per_byte.data, offset * width, steps)


def _known(clock: Seqs) -> Seqs:
    """A clock with an entry for what nobody has written."""
    return np.append(clock, -1)


def _read(parts: _Bytes, inst: isa.UnitInst, clock: Seqs, where: Where) -> str | None:
    """Note a read; what is wrong with it, or None."""
    writer = _part(parts.writer, *where)
    late = _part(parts.written, *where) > _known(clock)[writer]
    _part(parts.reads_of(inst.engine), *where)[...] = clock[inst.engine]
    if not late.any():
        return None
    who = int(writer[late][0])
    if who == UNWRITTEN:
        return "is read before anything is written there"
    return f"is read while {Engine(who).name.lower()} may be writing it"


def _write(parts: _Bytes, inst: isa.UnitInst, clock: Seqs, where: Where) -> str | None:
    """Note a write; what is wrong with it, or None."""
    writer = _part(parts.writer, *where)
    late = (_part(parts.written, *where) > _known(clock)[writer]) & (writer != UNWRITTEN)
    if late.any():
        who = Engine(int(writer[late][0]))
        return f"is written while {who.name.lower()} may be writing it"
    for engine, reads in parts.read.items():
        if (_part(reads, *where) > clock[engine]).any():
            return f"is written while {engine.name.lower()} may be reading it"
    writer[...] = inst.engine
    _part(parts.written, *where)[...] = clock[inst.engine]
    return None
