"""From an order of tasks to queues that wait for each other.

Every ordered pair of engines has one semaphore. A task waits for the latest one that it needs of
each other engine; vector clocks (what each engine knows to be complete: F. Mattern, "Virtual time
and global states of distributed systems", 1989) leave out every wait that an earlier one implies.
As the order of the tasks is a valid sequential execution, the program cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from vit_opt.backends.accel.image import Origins
from vit_opt.backends.accel.lowering.arena import ENGINES
from vit_opt.backends.accel.lowering.schedule import Step
from vit_opt.backends.accel.lowering.tasks import Task
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Inst

Clock = list[int]
"""Per engine, the number of its instructions known to be complete."""


@dataclass(slots=True)
class _Queued:
    """An instruction with the engines that it waits for, and those that wait for it."""

    inst: isa.UnitInst
    origin: str
    clock: Clock = field(default_factory=Clock)
    """What is complete when it is."""
    waits: list[Engine] = field(default_factory=list[Engine])
    signals: list[Engine] = field(default_factory=list[Engine])

    def with_tokens(self) -> isa.UnitInst:
        """The instruction with those that it waits for and signals."""
        if not self.waits and not self.signals:
            return self.inst
        waits, signals = tuple(sorted(self.waits)), tuple(sorted(self.signals))
        return replace(self.inst, wait=waits, signal=signals)


def with_semaphores(
    tasks: Sequence[Task], steps: Iterable[Step]
) -> tuple[tuple[Inst, ...], Origins]:
    """The program that takes the tasks in an order, and what its instructions are a part of."""
    queues: list[list[_Queued]] = [[] for _ in Engine]
    known: list[Clock] = [[0] * ENGINES for _ in Engine]
    places: dict[int, tuple[Engine, int]] = {}
    order: list[_Queued] = []
    for number, inst in steps:
        engine, item = inst.engine, _Queued(inst, tasks[number].origin)
        needs = [0] * ENGINES
        for need in tasks[number].needs:
            other, seq = places[need]
            needs[other] = max(needs[other], seq)
        _wait(item, engine, needs, queues, known[engine])
        queues[engine].append(item)
        places[number] = engine, len(queues[engine])
        known[engine][engine] = len(queues[engine])
        item.clock = list(known[engine])
        order.append(item)
    code = tuple(item.with_tokens() for item in order)
    return code, Origins.from_names(item.origin for item in order)


def _wait(
    item: _Queued, engine: Engine, needs: Clock, queues: Sequence[list[_Queued]], known: Clock
) -> None:
    """Let an instruction wait for what it needs and its engine does not know to be complete."""
    # The latest requirement first: its clock often covers the others.
    for other in sorted(range(ENGINES), key=lambda other: -needs[other]):
        if other == engine or needs[other] <= known[other]:
            continue
        source = queues[other][needs[other] - 1]
        source.signals.append(engine)
        item.waits.append(source.inst.engine)
        known[:] = [max(pair) for pair in zip(known, source.clock, strict=True)]
