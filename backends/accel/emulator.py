"""The emulator: runs a binary image on integer memory, bit for bit, and counts cycles.

Function. Every engine executes its own instructions in program order; each instruction is one
numpy operation on checked views of byte-addressed memories (`units`). Anything a machine could
not do (an address outside a memory, a deadlock, an accumulator beyond 32 bits) ends in a `TrapError`
that names the instruction, its text and the reason.

Time. Event-driven: the engine that is earliest in time goes next. An instruction occupies its
engine for the cycles of its declared formula. `signal` takes effect when everything before it in
its queue is complete; `wait` stalls until the tokens are there. All transfers share one DRAM bus
in the order of their start; the DRAM latency adds to a transfer's completion, not to its
occupancy, so requests in one queue overlap it. Engines share the banks of the memories (`banks`).
`wait` and `signal` take a cycle, loops none.

Energy. Operations and bytes of the instructions that were executed, times the architecture's energy
table.

Neither depends on the data: `timing_only` leaves out the function and gives the same cycles and
energy in less time. It traps as a whole run does, except for what the numbers in memory make
impossible (`TrapError.of_data`).
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # pyright: ignore[reportMissingTypeStubs]

from vit_opt.backends.accel.assembler import instruction_text
from vit_opt.backends.accel.banks import Banks, Demand, demand_of
from vit_opt.backends.accel.dram import traffic_parts
from vit_opt.backends.accel.events import BUS, Event
from vit_opt.backends.accel.image import Image, Port
from vit_opt.backends.accel.memory import Memories, numpy_dtype
from vit_opt.backends.accel.profile import Counts, Profile
from vit_opt.backends.accel.sequencer import Sequencer, fill_queues
from vit_opt.backends.accel.units import EFFECTS, Places
from vit_opt.backends.accel.units import Port as UnitPort
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Inst, Space
from vit_opt.dialects.vit_accel.traffic import operands, traffic

MAX_STEPS = 50_000_000
"""Instructions that a program may run, loops counted."""

MAX_CYCLES = 1 << 33
"""Cycles that an engine may work: more than the largest models take on the smallest machines."""


_CONTROL: frozenset[type[Inst]] = frozenset(isa.CONTROL)

_UNIT_ERRORS = (ValueError, TypeError, ArithmeticError, IndexError, MemoryError)
"""What an effect raises for operands that the unit cannot work on."""


class TrapError(VitError):
    """The machine stopped: names the instruction, its text and the reason."""

    def __init__(self, message: str, *, of_data: bool = False):
        super().__init__(message)
        self.of_data = of_data
        """Whether numbers in memory were the reason: with others the program might have run."""


@dataclass(frozen=True)
class Stats:
    """What a run cost."""

    cycles: int
    busy: dict[str, int]
    """Cycles each engine spent executing."""
    stalled: dict[str, int]
    """Cycles each engine spent waiting for semaphores."""
    instructions: int
    """Instructions executed, loop iterations counted."""
    macs: int
    """MACs executed by the arrays."""
    narrow_macs: int
    """Those of them by weights of 4 bits, of which a multiplier takes `int4_rate` a cycle."""
    utilisation: float
    """MACs of the model / (cycles * int8 MACs per cycle), up to `int4_rate` with 4-bit weights."""
    dram_bytes: int
    """Bytes on the DRAM bus, whole bursts."""
    dram_parts: dict[str, int]
    """The same by cause (`dram.PARTS`)."""
    sram_bytes: int
    energy_pj: dict[str, float]
    """Energy by cause: mac, elements, sram, dram."""
    engine_pj: dict[str, float]
    """Energy of the operations by engine, for those that compute."""
    memory_pj: dict[str, float]
    """Energy of the accesses by memory; with `engine_pj` it is all there is."""

    @property
    def energy_uj(self) -> float:
        """Total energy in microjoules."""
        return sum(self.energy_pj.values()) * 1e-6


@dataclass(frozen=True, slots=True)
class _Cost:
    """What one execution of an instruction costs."""

    cycles: int
    touched: Mapping[Space, int]
    """Bytes touched of each memory; of DRAM those on its bus."""
    demand: Demand
    """Of the memories on chip, a cycle."""
    bus_bytes: int = 0
    """Bytes on the DRAM bus."""
    after_all: bool = False
    """Whether it reads what transfers before it bring: a copy inside the chip, or from it."""


@dataclass
class _EngineState(Sequencer):
    """An engine with its clock."""

    time: int = 0
    done: int = 0
    busy: int = 0
    stalled: int = 0


class Machine:
    """The accelerator with an image loaded into DRAM."""

    def __init__(
        self,
        image: Image,
        arch: AccelTarget,
        max_steps: int = MAX_STEPS,
        profile: Profile | None = None,
        timing_only: bool = False,
    ):
        """`profile` notes every instruction executed, if given; `timing_only` computes no data."""
        image.check_target(arch)
        self.profile = profile
        self.timing_only = timing_only
        self.max_steps = max_steps
        self.arch = arch
        self.image = image
        self.memories = Memories(arch, image.dram_size)
        self._load_segments()
        self.engines = [_EngineState(engine) for engine in Engine]
        fill_queues(self.engines, image.code, apart=True)
        self.tokens: list[deque[tuple[int, Engine]]] = [deque() for _ in range(isa.SEMAPHORES)]
        """Of each semaphore: when tokens were given, and by whom."""
        self.bus_free = 0
        self.banks = Banks(arch)
        self.costs = [self._cost(inst) for inst in image.code]
        """By place in the program."""
        self.executed = [0] * len(image.code)
        self.transfers: Counter[tuple[int, int, int]] = Counter()
        """What went over the DRAM bus: place in the program, offsets of result and source."""
        self.sound = bytearray(len(image.code))
        """Which instructions need not be checked again."""
        self.steps = self.instructions = 0
        """What the sequencers have done, tokens one by one, and of that the instructions."""

    def _load_segments(self) -> None:
        """The initial contents of DRAM."""
        dram = self.memories.bytes[Space.DRAM]
        for index, segment in enumerate(self.image.segments):
            end = segment.address + len(segment.data)
            if end > dram.size:
                raise TrapError(f"data segment {index} leaves the {dram.size} bytes of DRAM")
            if not self.timing_only:
                dram[segment.address : end] = np.frombuffer(segment.data, np.uint8)

    # -- data in and out --------------------------------------------------------------------

    def write_port(self, port: Port, codes: NDArray[Any]) -> None:
        """Put the codes of an input into DRAM."""
        item = numpy_dtype(port.dtype)
        raw = np.ascontiguousarray(codes, item).view(np.uint8).reshape(-1)
        self.memories.bytes[Space.DRAM][port.address : port.address + raw.size] = raw

    def read_port(self, port: Port) -> NDArray[Any]:
        """The codes of an output."""
        dram = self.memories.bytes[Space.DRAM][port.address : port.address + port.size]
        return dram.copy().view(numpy_dtype(port.dtype)).reshape(port.shape)

    # -- execution --------------------------------------------------------------------------

    def run(self) -> Stats:
        """Execute the program to its end; TrapError if it cannot be, or takes too long."""
        self._check_length()
        ready = [(0, state.engine) for state in self.engines if state.queue]
        blocked: dict[Engine, isa.Wait] = {}
        heapq.heapify(ready)
        # Blocks are small: BLAS threads would cost more than they bring.
        with np.errstate(divide="raise", invalid="raise"), threadpool_limits(1):
            while ready:
                _, engine = heapq.heappop(ready)
                state = self.engines[engine]
                while self._advance(state, ready, blocked):
                    if ready and ready[0] < (state.time, engine):
                        heapq.heappush(ready, (state.time, engine))
                        break
        if blocked:
            raise self._deadlock(blocked)
        return self._stats()

    def _advance(
        self, state: _EngineState, ready: list[tuple[int, Engine]], blocked: dict[Engine, isa.Wait]
    ) -> bool:
        """One instruction of an engine; whether the engine can go on. A signal readies others."""
        index, inst = state.queue[state.position]
        if type(inst) is isa.Wait and not self._take(state, index, inst):
            blocked[state.engine] = inst
            return False
        self.steps += 1
        self.instructions += inst is self.image.code[index]
        if type(inst) is not isa.Wait:
            self._execute(state, index, inst)
            if blocked and isinstance(inst, isa.Signal):
                self._release(inst, ready, blocked)
        if self.profile is not None:
            self.profile.end(index, max(state.time, state.done))
        state.position += 1
        if state.position < len(state.queue):
            return True
        if state.loops:
            raise self._trap(index, inst, "the queue ends inside a loop")
        return False

    def _release(
        self, signal: isa.Signal, ready: list[tuple[int, Engine]], blocked: dict[Engine, isa.Wait]
    ) -> None:
        """Ready the engines that waited for these tokens."""
        for engine, wait in list(blocked.items()):
            if wait.sem == signal.sem and len(self.tokens[wait.sem]) >= wait.count:
                del blocked[engine]
                heapq.heappush(ready, (self.engines[engine].time, engine))

    def _take(self, state: _EngineState, index: int, wait: isa.Wait) -> bool:
        """Take tokens if they are there; the engine's clock moves to when they all were."""
        tokens = self.tokens[wait.sem]
        if len(tokens) < wait.count:
            return False
        taken = [tokens.popleft() for _ in range(wait.count)]
        arrival, giver = max(taken, default=(0, state.engine))
        if arrival > state.time:
            self._stall(state, index, arrival, giver.name.lower())
        state.time += 1
        return True

    def _stall(self, state: _EngineState, index: int, until: int, cause: str) -> None:
        """Let an engine stand still."""
        cycles = until - state.time
        if self.profile is not None:
            self.profile.event(Event(state.engine, index, state.time, cycles, cause))
        state.stalled += cycles
        state.time = until

    def _execute(self, state: _EngineState, index: int, inst: Inst) -> None:
        try:
            if type(inst) not in _CONTROL:
                self._unit(state, index, cast("isa.UnitInst", inst))
            elif isinstance(inst, isa.Signal):
                self._signal(state, inst)
            else:
                state.control(inst)
        except TrapError:
            raise
        except VitError as error:
            raise self._trap(index, inst, str(error)) from error

    def _effect(self, state: _EngineState, index: int, inst: isa.UnitInst) -> None:
        """Check what an instruction asks for, and do it unless only time counts."""
        if self.timing_only:
            if not self.sound[index]:
                EFFECTS[type(inst)](Places(self.memories, state.resolve), inst)
                self.sound[index] = all(addr.areg == 0 for addr, _ in operands(inst))
            return
        work = EFFECTS[type(inst)](UnitPort(self.memories, state.resolve), inst)
        try:
            work()
        except VitError as error:
            raise self._trap(index, inst, str(error), of_data=True) from error
        except _UNIT_ERRORS as error:
            reason = str(error) or type(error).__name__
            message = f"its unit cannot do this: {reason}"
            raise self._trap(index, inst, message, of_data=True) from error

    def _unit(self, state: _EngineState, index: int, inst: isa.UnitInst) -> None:
        self._effect(state, index, inst)
        cost = self.costs[index]
        self.executed[index] += 1
        latency = 0
        if cost.after_all:
            state.time = max(state.time, state.done)
        if cost.bus_bytes and self.bus_free > state.time:
            self._stall(state, index, self.bus_free, BUS)
        lost, cause = self.banks.stall(state.engine, state.time, cost.cycles, cost.demand)
        if lost:
            self._stall(state, index, state.time + lost, cause)
        self.banks.take(state.engine, state.time + cost.cycles, cost.demand)
        if cost.bus_bytes:
            self.bus_free = state.time + cost.cycles
            transfer = cast("isa.TransferInst", inst)
            ends = state.resolve(transfer.dst).offset, state.resolve(transfer.src).offset
            self.transfers[(index, *ends)] += 1
            latency = self.arch.dram_latency
        if self.profile is not None:
            places = tuple((state.resolve(addr), count) for addr, count in operands(inst))
            self.profile.event(Event(state.engine, index, state.time, cost.cycles, None, places))
        state.time += cost.cycles
        state.busy += cost.cycles
        state.done = max(state.done, state.time + latency)

    def _check_length(self) -> None:
        """Trap before the first instruction of a program that would not end in reasonable time.

        Loops have constant counts, so what every engine will do is known.
        """
        steps = [state.total(self._one) for state in self.engines]
        total = sum(count for count, _ in steps)
        if total > self.max_steps:
            most = max(self.engines, key=lambda state: steps[state.engine][0])
            index, inst = most.queue[steps[most.engine][1]]
            raise self._trap(index, inst, f"{total} instructions run, at most {self.max_steps}")
        for state in self.engines:
            total, heaviest = state.total(self._cycles)
            if total > MAX_CYCLES:
                index, inst = state.queue[heaviest]
                reason = f"{total} cycles of work on its engine, at most {MAX_CYCLES}"
                raise self._trap(index, inst, reason)

    def _one(self, index: int, inst: Inst) -> int:
        """One, for everything that a sequencer does."""
        return 1

    def _cycles(self, index: int, inst: Inst) -> int:
        """For how long a unit is at work."""
        return 0 if type(inst) in _CONTROL else self.costs[index].cycles

    def _cost(self, inst: Inst) -> _Cost:
        if type(inst) in _CONTROL:
            return _Cost(0, {}, ())
        inst = cast("isa.UnitInst", inst)
        cycles = inst.cycles(self.arch)
        touched = traffic(inst)
        touched.pop(Space.DRAM, None)
        demand = demand_of(touched, cycles)
        if not isinstance(inst, isa.TransferInst):
            return _Cost(cycles, touched, demand)
        bus = inst.dram_bytes(self.arch)
        if bus:
            touched[Space.DRAM] = bus
        return _Cost(cycles, touched, demand, bus, inst.src.space is not Space.DRAM)

    def _signal(self, state: _EngineState, signal: isa.Signal) -> None:
        state.time += 1
        tokens = self.tokens[signal.sem]
        if len(tokens) + signal.count > isa.SEMAPHORE_MAX:
            raise VitError(f"semaphore {signal.sem} holds more than {isa.SEMAPHORE_MAX}")
        tokens.extend([(max(state.time, state.done), state.engine)] * signal.count)

    def _trap(self, index: int, inst: Inst, reason: str, of_data: bool = False) -> TrapError:
        whole = self.image.code[index]
        if whole is not inst:
            reason = f"at its '{instruction_text(inst)}': {reason}"
        text = f"instruction {index} '{instruction_text(whole)}': {reason}"
        return TrapError(text, of_data=of_data)

    def _deadlock(self, blocked: dict[Engine, isa.Wait]) -> TrapError:
        waits: list[str] = []
        for engine, wait in sorted(blocked.items()):
            state = self.engines[engine]
            index = state.queue[state.position][0]
            text = instruction_text(self.image.code[index])
            waits.append(
                f"{engine.name.lower()} waits at instruction {index} '{text}' "
                f"(semaphore {wait.sem} holds {len(self.tokens[wait.sem])} of {wait.count})"
            )
        return TrapError("deadlock: " + "; ".join(waits))

    def _counts(self) -> dict[Engine, Counts]:
        """Operations and bytes of all instructions executed, by engine."""
        totals: dict[Engine, Counts] = {}
        for index, times in enumerate(self.executed):
            if not times:
                continue
            inst, cost = cast("isa.UnitInst", self.image.code[index]), self.costs[index]
            counts = Counts()
            counts.add(inst, cost.touched, times)
            totals.setdefault(inst.engine, Counts()).include(counts)
            if self.profile is not None:
                self.profile.counts[index] = counts
        return totals

    def _stats(self) -> Stats:
        cycles = max(1, max(max(state.time, state.done) for state in self.engines))
        counts = Counts()
        engine_pj: dict[str, float] = {}
        table = self.arch.energy
        for engine, part in sorted(self._counts().items()):
            counts.include(part)
            if part.macs + part.elements + part.multiplications:
                engine_pj[engine.name.lower()] = part.operations_pj(table)
        moved = counts.bytes.get(Space.DRAM, 0)
        return Stats(
            cycles=cycles,
            busy={state.engine.name.lower(): state.busy for state in self.engines},
            stalled={state.engine.name.lower(): state.stalled for state in self.engines},
            instructions=self.instructions,
            macs=counts.macs,
            narrow_macs=counts.narrow_macs,
            utilisation=self.image.macs / (cycles * self.arch.macs_per_cycle),
            dram_bytes=moved,
            dram_parts=traffic_parts(self.image, self.transfers, moved),
            sram_bytes=counts.sram_bytes,
            energy_pj=counts.energy_pj(table),
            engine_pj=engine_pj,
            memory_pj=counts.memory_pj(table),
        )
