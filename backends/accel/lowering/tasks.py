"""What each instruction needs: the tasks of a program, found from the bytes that they touch.

A lowering is written as if the machine were sequential. An instruction must wait for the last one
that wrote what it reads (a true dependency), for those that have read what it overwrites, and for the
one that wrote it before (anti and output dependencies). Nothing else binds it: two instructions that
touch no common byte may be executed in either order, or at a time. Only where pipelines are switched
off does a task also need the one before it in its layer (a chain), or all before it (a barrier).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from vit_opt.backends.accel.lowering.arena import Use
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.fields import Space


@dataclass(frozen=True, slots=True)
class Task:
    """An instruction that the program contains."""

    inst: isa.UnitInst
    instead: isa.UnitInst | None
    """What does the same on another engine, if there is such."""
    origin: str
    """The operation of the model that it is a part of."""
    needs: tuple[int, ...]
    """Numbers of the tasks that must be complete before; all are less than its own."""


class _Bytes:
    """Who touched the bytes of a memory last: neighbouring parts, by their first byte."""

    def __init__(self) -> None:
        self._starts = [0]
        self._writers = [-1]
        """Of each part the task that wrote it last, -1 for none."""
        self._readers: list[list[int]] = [[]]
        """Of each part the tasks that have read it since."""

    def _cut(self, at: int) -> int:
        """The part that begins at a byte, which is made if there is none."""
        index = bisect_right(self._starts, at) - 1
        if self._starts[index] != at:
            self._starts.insert(index + 1, at)
            self._writers.insert(index + 1, self._writers[index])
            self._readers.insert(index + 1, list(self._readers[index]))
            index += 1
        return index

    def read(self, low: int, high: int, task: int, needs: set[int]) -> None:
        """Let a task read bytes, and add what it needs."""
        for index in range(self._cut(low), self._cut(high)):
            needs.add(self._writers[index])
            self._readers[index].append(task)

    def write(self, low: int, high: int, task: int, needs: set[int]) -> None:
        """Let a task write bytes, and add what it needs."""
        first, stop = self._cut(low), self._cut(high)
        needs.update(self._writers[first:stop])
        needs.update(*self._readers[first:stop])
        self._starts[first:stop] = [low]
        self._writers[first:stop] = [task]
        self._readers[first:stop] = [[]]


class Tasks:
    """The tasks of a program in the order in which they were emitted, which is a valid one."""

    def __init__(self) -> None:
        self.all: list[Task] = []
        self._memories: dict[Space, _Bytes] = {}
        self._open: set[int] = set()
        """Tasks that no other one needs so far."""
        self._floor: tuple[int, ...] = ()
        """What everything that follows needs."""
        self._chains: dict[int, int] = {}
        """The last task of each chain."""

    def add(
        self,
        inst: isa.UnitInst,
        instead: isa.UnitInst | None,
        origin: str,
        reads: Iterable[Use],
        writes: Iterable[Use],
        chain: int | None = None,
    ) -> None:
        """Append a task. `instead` does the same on another engine; tasks of one `chain` need each
        other in their order."""
        number = len(self.all)
        needs = set(self._floor)
        for use in reads:
            self._memory(use).read(*_span(use), number, needs)
        for use in writes:
            self._memory(use).write(*_span(use), number, needs)
        if chain is not None:
            needs.add(self._chains.get(chain, -1))
            self._chains[chain] = number
        needs -= {-1, number}
        self._open -= needs
        self._open.add(number)
        self.all.append(Task(inst, instead, origin, tuple(sorted(needs))))

    def barrier(self) -> None:
        """Let everything that follows need everything so far."""
        self._floor = tuple(self._open)

    def _memory(self, use: Use) -> _Bytes:
        return self._memories.setdefault(use.region.space, _Bytes())


def _span(use: Use) -> tuple[int, int]:
    """First byte of a use in its memory and the byte behind it."""
    return use.region.start + use.low, use.region.start + use.high
