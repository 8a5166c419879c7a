"""Observers: which part of the values seen a grid should cover.

A grid that covers all of a long-tailed tensor is coarse for most of it; one that covers less clips
the tail. Each observer decides from a `Histogram`:

* ``minmax``: everything, nothing clipped;
* ``percentile``: all but a given share, half of it at each end;
* ``mse``: least mean of ``|error|**p`` (the Lp norm; Trio-ViT takes 2.4);
* ``entropy``: least Kullback-Leibler divergence between the distributions before and after
  rounding (TensorRT's calibration), among the grids whose squared error is at most `TOLERANCE` times
  the least. The divergence sees how much mass is clipped, not how far it is moved: alone it spends
  all codes on the peak at the lower end of Hardswish or GELU and cuts off most of their signal.

``mse`` and ``entropy`` try grids: with power-of-two scales the covering one and three finer ones, as
only these can be chosen; with real scales ranges from all down to a fifth of the values' own.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vit_opt.passes.algorithms.exponents import covering_asymmetric, covering_frac
from vit_opt.passes.algorithms.observers import ChannelHistogram, Histogram

Reals: TypeAlias = npt.NDArray[np.float64]
RealInput: TypeAlias = npt.NDArray[Any]

OBSERVERS = ("minmax", "percentile", "mse", "entropy")

GRIDS = ("pot", "real")

FINER = 3
"""Power-of-two grids tried beyond the covering one."""

SHRINKS = 40
"""Ranges tried for real scales, each 2 % of the whole smaller than the one before."""

TOLERANCE = 2.0
"""Largest squared error that ``entropy`` accepts, over the least of the grids it has."""

ONE_SIDED = 0.5
"""A range whose smaller side is below this share of the larger one gets a zero point."""

Grid: TypeAlias = tuple[float, int, int, int]
"""Scale, zero point, smallest and largest code."""


@dataclass(frozen=True)
class Observer:
    """How ranges are chosen; raises ValueError for values that make no sense."""

    kind: str = "minmax"
    """One of `OBSERVERS`."""

    fraction: float = 0.9999
    """Share of the values that `percentile` keeps."""

    power: float = 2.0
    """The norm's exponent for `mse`."""

    grid: str = "pot"
    """Scales to expect: powers of two (pot), or any (real)."""

    def __post_init__(self) -> None:
        for what, value, known in (("observer", self.kind, OBSERVERS), ("grid", self.grid, GRIDS)):
            if value not in known:
                raise ValueError(f"{what} '{value}' is not one of {', '.join(known)}")
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"fraction {self.fraction:g} is not above 0 and at most 1")
        if not 0.0 < self.power <= 16.0:
            raise ValueError(f"power {self.power:g} is not above 0 and at most 16")

    def range(self, seen: Histogram) -> tuple[float, float]:
        """The range to cover in 8 bits, with zero, never wider than what was seen."""
        if not seen.total:
            return 0.0, 0.0
        if self.kind == "percentile":
            return seen.percentile(self.fraction)
        low, high = seen.range
        if self.kind == "minmax" or seen.exponent is None or low == high:
            return low, high
        grids = list(candidate_grids(low, high, self.grid))
        if self.kind == "mse":
            errors = [seen.grid_error(*grid, self.power) for grid in grids]
        else:
            squares = [seen.grid_error(*grid) for grid in grids]
            bound = TOLERANCE * min(squares)
            errors = [
                divergence(seen, *grid) if error <= bound else math.inf
                for grid, error in zip(grids, squares, strict=True)
            ]
        scale, zero, floor, ceiling = grids[int(np.argmin(errors))]
        return max(low, (floor - zero) * scale), min(high, (ceiling - zero) * scale)

    def channel_ranges(self, seen: ChannelHistogram) -> tuple[Reals, Reals]:
        """`range` of every channel: lower and upper ends [C]."""
        found = [self.range(seen.channel(c)) for c in range(seen.exponents.size)]
        ends = np.array(found, np.float64).reshape(-1, 2)
        return ends[:, 0], ends[:, 1]


def candidate_grids(low: float, high: float, kind: str) -> Iterator[Grid]:
    """Grids of 8 bits for values in low .. high, the one that covers them first.

    Signed and symmetric, or unsigned with a zero point for a one-sided range.
    """
    one_sided = min(-low, high) < ONE_SIDED * max(-low, high)
    floor, ceiling = (0, 255) if one_sided else (-128, 127)
    if kind == "real":
        for step in range(SHRINKS):
            a, b = (end * (1.0 - 0.02 * step) for end in (low, high))
            scale = (b - a) / ceiling if one_sided else max(-a, b) / ceiling
            yield scale, (round(-a / scale) if one_sided else 0), floor, ceiling
        return
    if not one_sided:
        frac = covering_frac(low, high, floor, ceiling)
        for finer in range(FINER + 1):
            yield 2.0 ** -(frac + finer), 0, floor, ceiling
        return
    frac, _ = covering_asymmetric(low, high, floor, ceiling)
    for finer in range(FINER + 1):
        scale = 2.0 ** -(frac + finer)
        # The longer side is the one that is clipped.
        zero = round(-low / scale) if high >= -low else ceiling - round(high / scale)
        yield scale, min(max(zero, floor), ceiling), floor, ceiling


def divergence(seen: Histogram, scale: float, zero: int, low: int, high: int) -> float:
    """Kullback-Leibler divergence of the rounded distribution from the values', in nats.

    What is clipped counts as lying at the ends; what falls on one code is spread evenly over the
    bins that hold values there.
    """
    counts = seen.counts.astype(np.float64)
    codes = np.clip(np.floor(seen.centres() / scale + 0.5) + zero, low, high).astype(np.int64) - low
    inside = np.abs((codes + low - zero) * scale - seen.centres()) <= scale
    if not (counts[inside] > 0).any():
        return float("inf")
    shape = high - low + 1
    used = (counts > 0) & inside
    bins = np.bincount(codes[used], minlength=shape)
    # The reference keeps its shape inside and piles the tails up in the outermost bins.
    reference = np.where(inside, counts, 0.0)
    first, last = np.flatnonzero(used)[[0, -1]]
    reference[first] += counts[:first][~inside[:first]].sum()
    reference[last] += counts[last:][~inside[last:]].sum()
    mass = np.bincount(codes[used], weights=counts[used], minlength=shape)
    rounded = np.where(used, mass[codes] / np.maximum(bins[codes], 1), 0.0)
    p, q = reference / reference.sum(), rounded / rounded.sum()
    live = (p > 0) & (q > 0)
    return float((p[live] * np.log(p[live] / q[live])).sum())


__all__ = ["GRIDS", "OBSERVERS", "Grid", "Observer", "candidate_grids", "divergence"]
