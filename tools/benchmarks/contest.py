"""Timing several programs against each other on a machine that others use, too.

Everything takes part in every round, in an order that rotates, so that a slow phase of the machine
meets all of them. A turn is one inference that brings code and weights back into the caches and is
not counted, then a few that are. What a turn gives is the median of these; what is reported is the
median of all turns, the fastest inference seen, and ratios taken within rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

TURN_SECONDS = 0.05
"""How long a turn should take."""

MAX_PER_TURN = 20
"""Inferences in a turn, at most."""


@dataclass
class Contestant:
    """One program with its setting."""

    name: str
    infer: Callable[[], float]
    """Computes one batch and returns the seconds it took."""
    note: str = ""
    """What there is to know about the setting."""


@dataclass
class Times:
    """Seconds a batch of one contestant."""

    turns: list[float] = field(default_factory=list[float])
    """Median of each turn."""
    best: float = float("inf")
    """The fastest inference."""

    @property
    def median(self) -> float:
        """Median over the turns."""
        return median(self.turns)


def timed(body: Callable[[], object]) -> Callable[[], float]:
    """A function that calls `body` and returns the seconds it took."""

    def infer() -> float:
        start = time.perf_counter()
        body()
        return time.perf_counter() - start

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
        once = min(each.infer(), each.infer())
        counts[each.name] = max(1, min(MAX_PER_TURN, round(TURN_SECONDS / max(once, 1e-9))))
    times = {each.name: Times() for each in contestants}
    start, done = time.perf_counter(), 0
    while done < rounds or time.perf_counter() - start < seconds:
        first = done % max(1, len(contestants))
        for each in (*contestants[first:], *contestants[:first]):
            say(f"round {done + 1}: {each.name}")
            each.infer()
            turn = [each.infer() for _ in range(counts[each.name])]
            times[each.name].turns.append(median(turn))
            times[each.name].best = min(times[each.name].best, *turn)
        done += 1
    return times


def ratios(times: Mapping[str, Times], base: str) -> dict[str, float]:
    """Median over the rounds of each contestant's time relative to that of `base`."""
    reference = times[base].turns
    return {
        name: median(t / r for t, r in zip(each.turns, reference, strict=True))
        for name, each in times.items()
    }
