"""Which layers take narrow weights: a coarse choice from sensitivities, refined by measuring.

Every layer costs something with wide weights and less with narrow ones (bytes, or cycles of an
accelerator); narrow weights add an error.  Wanted is the choice of least error whose cost stays
within a budget.  The *coarse* choice takes errors as additive and solves the knapsack exactly on a
grid of costs.  The *fine* one exchanges layers as long as the error that is measured for the whole
choice falls.  Only choices within the budget are ever looked at, nothing is random, and ties go to
the layer that comes first (P2-ViT's published search, docs/numerics.md 11, breaks each of these).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Choice: TypeAlias = tuple[bool, ...]
"""For each layer, whether its weights are narrow."""

RESOLUTION = 4096
"""Steps into which the saving that is needed is divided."""


@dataclass(frozen=True)
class Costs:
    """What each layer costs, and how much all of them may cost together."""

    wide: tuple[int, ...]
    narrow: tuple[int, ...]
    budget: int

    def total(self, choice: Choice) -> int:
        """The cost of a choice."""
        return sum(
            narrow if chosen else wide
            for wide, narrow, chosen in zip(self.wide, self.narrow, choice, strict=True)
        )

    def allows(self, choice: Choice) -> bool:
        """Whether a choice is within the budget."""
        return self.total(choice) <= self.budget

    @property
    def least(self) -> int:
        """The cost with every layer as cheap as it gets."""
        return sum(min(pair) for pair in zip(self.wide, self.narrow, strict=True))


def coarse_choice(costs: Costs, errors: Sequence[float]) -> Choice:
    """The choice of least total error within the budget, errors taken as additive.

    A knapsack by dynamic programming over the saving, rounded down to a `RESOLUTION`-th of what is
    needed, so that the choice keeps the budget; if rounding hides the only choice, that is to make
    every layer narrow that is cheaper so.  Raises ValueError if no choice keeps the budget.
    """
    if costs.least > costs.budget:
        raise ValueError(f"the least possible cost is {costs.least}, the budget {costs.budget}")
    count = len(errors)
    needed = sum(costs.wide) - costs.budget
    if needed <= 0:
        return (False,) * count
    savings = [wide - narrow for wide, narrow in zip(costs.wide, costs.narrow, strict=True)]
    units = [max(0, saving * RESOLUTION // needed) for saving in savings]
    goal = RESOLUTION
    best = np.full(goal + 1, np.inf)  # best[s]: least error that saves s units or more
    best[0] = 0.0
    taken = np.zeros((count, goal + 1), bool)
    for index, (unit, error) in enumerate(zip(units, errors, strict=True)):
        if unit == 0:
            continue
        before = best[np.maximum(np.arange(goal + 1) - unit, 0)] + max(error, 0.0)
        taken[index] = before < best
        best = np.where(taken[index], before, best)
    if not np.isfinite(best[goal]):
        return tuple(saving > 0 for saving in savings)
    return _traced(taken, units, goal)


def _traced(taken: npt.NDArray[np.bool_], units: Sequence[int], goal: int) -> Choice:
    """The choice behind the last entry of the table."""
    chosen = [False] * len(units)
    for index in range(len(units) - 1, -1, -1):
        if taken[index, goal]:
            chosen[index] = True
            goal = max(0, goal - units[index])
    return tuple(chosen)


def fine_choice(
    costs: Costs,
    errors: Sequence[float],
    start: Choice,
    measure: Callable[[Choice], float],
    trials: int,
) -> tuple[Choice, float]:
    """Improve a choice by exchanges that lower the measured error: (choice, its error).

    Exchanges are tried in the order of what the additive errors promise; the first that helps is
    kept and the list made anew, until `trials` measurements are used up or none helps.
    """
    current, best = start, measure(start)
    seen = {start}
    while trials > 0:
        for candidate in _exchanges(costs, errors, current):
            if candidate in seen:
                continue
            seen.add(candidate)
            trials -= 1
            found = measure(candidate)
            if found < best:
                current, best = candidate, found
                break
            if trials <= 0:
                return current, best
        else:
            break
    return current, best


def _exchanges(costs: Costs, errors: Sequence[float], choice: Choice) -> Iterator[Choice]:
    """Choices within the budget that differ by one or two layers, most promising first."""
    narrow = [i for i, chosen in enumerate(choice) if chosen]
    wide = [i for i, chosen in enumerate(choice) if not chosen and costs.narrow[i] < costs.wide[i]]
    moves = [(-errors[i], (i,)) for i in narrow]
    moves += [(errors[j] - errors[i], (i, j)) for i in narrow for j in wide]
    for _, flipped in sorted(moves):
        candidate = tuple(
            not chosen if index in flipped else chosen for index, chosen in enumerate(choice)
        )
        if costs.allows(candidate):
            yield candidate
