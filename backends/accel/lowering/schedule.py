"""The order in which engines take the instructions of a program.

A lowering emits one operation after the other, and a queue works in order: where a product waits for
the rescaling of its input, all that stands behind it in its queue waits too, though it might begin.
So the instructions are listed anew: whenever an engine is free, it takes, of those that are ready,
the one with the longest way to the end of the program before it (list scheduling by the critical
path: T. C. Hu, "Parallel sequencing and assembly line problems", 1961). What each one needs is known
from the bytes that it touches (`tasks`), how long it takes from its formula. What may run on two
engines goes to the one that completes it first, and what only one of the two can do before it.

Buffers lie where the emission has put them, so what overwrites a buffer stays behind those that read
it. Greedy listing can be worse than the order that it began with; the faster one is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from vit_opt.backends.accel.lowering.arena import ENGINES
from vit_opt.backends.accel.lowering.tasks import Task
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel import isa

SYNC = 1
"""Cycles of a wait or a signal."""

Step = tuple[int, isa.UnitInst]
"""A task's number and the instruction that does it."""


@dataclass(frozen=True)
class Schedule:
    """Tasks in an order in which each comes after those that it needs."""

    steps: list[Step]
    cycles: int
    """What they take, as far as it is known before semaphores are placed: banks without conflicts."""


class _Machine:
    """When each engine and the DRAM bus is free, as the emulator reckons it."""

    def __init__(self, arch: AccelTarget):
        self.arch = arch
        self.free = [0] * ENGINES
        self.done = [0] * ENGINES
        """When all that an engine has begun is complete, latencies included."""
        self.bus = 0

    def end(self, inst: isa.UnitInst, cycles: int, ready: int) -> int:
        """When an instruction would leave its engine."""
        return max(ready, self.free[inst.engine]) + cycles

    def run(self, inst: isa.UnitInst, cycles: int, moved: int, ready: int) -> int:
        """Let an instruction run that moves some bytes on the bus; when it is complete."""
        engine = inst.engine
        start = max(ready, self.free[engine])
        latency = 0
        if moved:
            start, latency = max(start, self.bus), self.arch.dram_latency
        elif isinstance(inst, isa.TransferInst):
            start = max(start, self.done[engine])
        end = start + cycles
        if moved:
            self.bus = end
        self.free[engine] = end + SYNC
        self.done[engine] = max(self.done[engine], end + latency + SYNC)
        return end + latency + SYNC


class _Problem:
    """The tasks of a program with what they cost."""

    def __init__(self, tasks: Sequence[Task], arch: AccelTarget):
        self.tasks = tasks
        self.arch = arch
        self.ways: list[list[tuple[isa.UnitInst, int]]] = []
        """Of each task the instructions that can do it, with their cycles."""
        self.moved: list[int] = []
        """Of each task the bytes on the DRAM bus."""
        self.readers: list[list[int]] = [[] for _ in tasks]
        for number, task in enumerate(tasks):
            either = [task.inst] if task.instead is None else [task.inst, task.instead]
            self.ways.append([(inst, inst.cycles(arch)) for inst in either])
            inst = task.inst
            self.moved.append(inst.dram_bytes(arch) if isinstance(inst, isa.TransferInst) else 0)
            for need in task.needs:
                self.readers[need].append(number)

    def distances(self) -> list[int]:
        """Of each task the cycles from its start to the end of the program, if nothing but what it
        needs had to be waited for."""
        result = [0] * len(self.tasks)
        for number in reversed(range(len(self.tasks))):
            behind = max((result[reader] for reader in self.readers[number]), default=0)
            latency = self.arch.dram_latency if self.moved[number] else 0
            fastest = min(cycles for _, cycles in self.ways[number])
            # A wait before it and a signal after it.
            result[number] = behind + fastest + latency + 2 * SYNC
        return result

    def choose(self, machine: _Machine, number: int, ready: int) -> tuple[isa.UnitInst, int]:
        """The way to do a task that is complete first."""
        return min(self.ways[number], key=lambda way: machine.end(*way, ready))

    def as_emitted(self) -> Schedule:
        """Every engine takes its tasks in the order in which they were emitted."""
        machine = _Machine(self.arch)
        ends: list[int] = []
        steps: list[Step] = []
        for number, task in enumerate(self.tasks):
            ready = max((ends[need] for need in task.needs), default=0) + SYNC
            inst, cycles = self.choose(machine, number, ready)
            ends.append(machine.run(inst, cycles, self.moved[number], ready))
            steps.append((number, inst))
        return Schedule(steps, max(ends, default=0))

    def ranks(self) -> list[int]:
        """Of each task how far it is from the end of the program, negated. Where two engines share
        work, what only one of them can do goes before all that either can: while it waits, so do
        the units behind it, and the rest has another place to go."""
        far = self.distances()
        shared = {inst.engine for ways in self.ways if len(ways) > 1 for inst, _ in ways}
        first = max(far, default=0)
        return [
            -distance - (first if len(ways) == 1 and ways[0][0].engine in shared else 0)
            for distance, ways in zip(far, self.ways, strict=True)
        ]

    def listed(self) -> Schedule:
        """A free engine takes the ready task of the lowest rank."""
        machine, ranks = _Machine(self.arch), self.ranks()
        waiting = _Waiting(machine)
        left = [len(task.needs) for task in self.tasks]
        ready = [SYNC] * len(left)
        for number in (number for number, needs in enumerate(left) if not needs):
            waiting.offer(self.ways[number], SYNC, ranks[number], number)
        steps: list[Step] = []
        while len(steps) < len(left):
            number = waiting.take()
            inst, cycles = self.choose(machine, number, ready[number])
            end = machine.run(inst, cycles, self.moved[number], ready[number])
            steps.append((number, inst))
            for reader in self.readers[number]:
                left[reader] -= 1
                ready[reader] = max(ready[reader], end + SYNC)
                if not left[reader]:
                    waiting.offer(self.ways[reader], ready[reader], ranks[reader], reader)
        return Schedule(steps, max(machine.done))


class _Waiting:
    """Tasks whose needs have begun, by the engines that can do them."""

    def __init__(self, machine: _Machine):
        self._machine = machine
        self._later: list[list[tuple[int, int, int]]] = [[] for _ in range(ENGINES)]
        """When they are ready, rank, number: those that are not when their engine is free."""
        self._ready: list[list[tuple[int, int]]] = [[] for _ in range(ENGINES)]
        """Rank, number: the others."""
        self._taken: set[int] = set()

    def offer(
        self, ways: Iterable[tuple[isa.UnitInst, int]], ready: int, rank: int, number: int
    ) -> None:
        """Add a task that can begin at `ready`; low ranks go first."""
        for inst, _ in ways:
            heappush(self._later[inst.engine], (ready, rank, number))

    def take(self) -> int:
        """The first task of the engine that can begin the earliest."""
        starts = [(self._start(engine), engine) for engine in range(ENGINES)]
        at, engine = min((at, engine) for at, engine in starts if at is not None)
        self._wake(engine, at)
        _, number = heappop(self._ready[engine])
        self._taken.add(number)
        return number

    def _start(self, engine: int) -> int | None:
        """When an engine can begin its next task; None if it has none."""
        free = self._machine.free[engine]
        self._wake(engine, free)
        if self._ready[engine]:
            return free
        return self._later[engine][0][0] if self._later[engine] else None

    def _wake(self, engine: int, now: int) -> None:
        """Move what is ready by now, and forget what another engine has taken."""
        later, ready = self._later[engine], self._ready[engine]
        while later and (later[0][0] <= now or later[0][2] in self._taken):
            _, rank, number = heappop(later)
            heappush(ready, (rank, number))
        while ready and ready[0][1] in self._taken:
            heappop(ready)


def schedule(tasks: Sequence[Task], arch: AccelTarget) -> Schedule:
    """The faster of both orders."""
    problem = _Problem(tasks, arch)
    return min(problem.as_emitted(), problem.listed(), key=lambda each: each.cycles)
