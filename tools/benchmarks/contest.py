"""Timing several programs against each other on a machine that others use, too.

Everything takes part in every round, in an order that rotates, so that a slow phase of the machine
meets all of them. A turn is one inference that brings code and weights back into the caches and is
not counted, then a few that are. What a turn gives is the median of these; what is reported is the
median of all turns, the fastest inference seen, and ratios taken within rounds.

Beside the time on the clock, the processor time of the whole process is taken. On a machine that is
busy with other work, a single-threaded program waits for the processor on the clock, but not in
processor time; for several threads it is the sum of their work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

TURN_SECONDS = 0.05
"""How long a turn should take."""

MAX_PER_TURN = 20
"""Inferences in a turn, at most."""


class Sample(NamedTuple):
    """What one batch took."""

    seconds: float
    """On the clock."""
    cpu_seconds: float
    """Processor time of all threads."""


@dataclass
class Contestant:
    """One program with its setting."""

    name: str
    infer: Callable[[], Sample]
    """Computes one batch and returns what it took."""
    note: str = ""
    """What there is to know about the setting."""


@dataclass
class Times:
    """Seconds a batch of one contestant."""

    turns: list[float] = field(default_factory=list[float])
    """Median of each turn."""
    cpu_turns: list[float] = field(default_factory=list[float])
    """The same for processor time."""
    best: float = float("inf")
    """The fastest inference."""

    def add(self, turn: Sequence[Sample]) -> None:
        """Book a turn."""
        self.turns.append(median(each.seconds for each in turn))
        self.cpu_turns.append(median(each.cpu_seconds for each in turn))
        self.best = min(self.best, *(each.seconds for each in turn))


def timed(body: Callable[[], object]) -> Callable[[], Sample]:
    """A function that calls `body` and returns what it took."""

    def infer() -> Sample:
        cpu, start = time.process_time(), time.perf_counter()
        body()
        return Sample(time.perf_counter() - start, time.process_time() - cpu)

    return infer


def compete(
    contestants: Sequence[Contestant],
    rounds: int,
    seconds: float,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Times]:
    """At least `rounds` rounds, and more of them until `seconds` have passed."""
    counts: dict[str, int] = {}
    for each in contestants:
        say(f"warming up {each.name}")
        once = min(each.infer().seconds for _ in range(2))
        counts[each.name] = max(1, min(MAX_PER_TURN, round(TURN_SECONDS / max(once, 1e-9))))
    times = {each.name: Times() for each in contestants}
    start, done = time.perf_counter(), 0
    while done < rounds or time.perf_counter() - start < seconds:
        first = done % max(1, len(contestants))
        for each in (*contestants[first:], *contestants[:first]):
            say(f"round {done + 1}: {each.name}")
            each.infer()
            turn = [each.infer() for _ in range(counts[each.name])]
            times[each.name].add(turn)
        done += 1
    return times


def ratio(turns: Sequence[float], base: Sequence[float]) -> float:
    """Median over the rounds of a contestant's time relative to that of another."""
    return median(t / r for t, r in zip(turns, base, strict=True))
