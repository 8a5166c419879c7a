"""Ranges of activations from a stream of batches, in memory that does not grow.

`ChannelRange` keeps minimum and maximum of each channel.  `Histogram` keeps 4096 equal bins between
``-2**k`` and ``2**k``; a value outside doubles the range and merges bins in pairs, which is exact in
the counts and independent of how the data was cut into batches, up to the range itself.
`ChannelHistogram` does the same for every channel, with fewer bins.  From a histogram come
percentiles and the exponents of least error; `ranges` has the observers as calibration offers them.
"""

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vit_opt.passes.algorithms.exponents import covering_asymmetric, covering_frac

Reals: TypeAlias = npt.NDArray[np.float64]
RealInput: TypeAlias = npt.NDArray[Any]

BINS = 4096
"""Bins of a histogram: at least 8 a code of an 8-bit grid that covers the range."""

CHANNEL_BINS = 512
"""Bins of each channel of a `ChannelHistogram`: at least one a code of an 8-bit grid."""


def _check_finite(x: RealInput) -> None:
    if x.size and not np.isfinite(x).all():
        raise ValueError(f"{int((~np.isfinite(x)).sum())} of {x.size} values are not finite")


@dataclass
class ChannelRange:
    """Minimum, maximum, mean and mean square per channel (last axis) over all batches."""

    minimum: Reals
    maximum: Reals
    squares: Reals
    sums: Reals
    rows: int = 0

    @staticmethod
    def empty(channels: int) -> "ChannelRange":
        """Nothing seen: the range is the single point 0."""
        zeros = np.zeros(channels)
        return ChannelRange(zeros, zeros, zeros, zeros)

    def update(self, x: RealInput) -> None:
        """Add a batch [..., C]."""
        _check_finite(x)
        flat = x.reshape(-1, x.shape[-1]).astype(np.float64)
        if not flat.shape[0]:
            return
        lowest, highest = flat.min(axis=0), flat.max(axis=0)
        first = self.rows == 0
        self.minimum = lowest if first else np.minimum(self.minimum, lowest)
        self.maximum = highest if first else np.maximum(self.maximum, highest)
        self.squares = self.squares + np.square(flat).sum(axis=0)
        self.sums = self.sums + flat.sum(axis=0)
        self.rows += flat.shape[0]

    @property
    def magnitude(self) -> Reals:
        """Largest absolute value per channel [C]."""
        return np.maximum(-self.minimum, self.maximum)

    @property
    def mean(self) -> Reals:
        """Mean per channel [C]."""
        return np.asarray(self.sums / max(1, self.rows), np.float64)

    @property
    def rms(self) -> Reals:
        """Root mean square per channel [C]."""
        return np.asarray(np.sqrt(self.squares / max(1, self.rows)), np.float64)


@dataclass
class Histogram:
    """Counts of all values of a tensor over all batches, on a range that grows by doubling."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    exponent: int | None = None
    minimum: float = math.inf
    maximum: float = -math.inf
    zeros: int = 0

    def update(self, x: RealInput) -> None:
        """Add a batch of any shape; exact zeros are counted apart, as they cost nothing."""
        _check_finite(x)
        values = x.astype(np.float64).ravel()
        if not values.size:
            return
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))
        self.zeros += int((values == 0).sum())
        values = values[values != 0]
        if not values.size:
            return
        largest = float(np.abs(values).max())
        needed = math.frexp(largest)[1]
        if self.exponent is None:
            self.exponent = needed
        while self.exponent < needed:
            self._double()
        scaled = np.ldexp(values, -self.exponent) * (BINS // 2) + BINS // 2
        index = np.clip(np.floor(scaled).astype(np.int64), 0, BINS - 1)
        self.counts += np.bincount(index, minlength=BINS)

    def _double(self) -> None:
        """Twice the range: neighbouring bins merge, the outer quarters become empty."""
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(BINS, np.int64)
        self.counts[BINS // 4 : BINS // 4 + BINS // 2] = merged
        self.exponent = (self.exponent or 0) + 1

    @property
    def total(self) -> int:
        """Number of values seen."""
        return int(self.counts.sum()) + self.zeros

    @property
    def bins(self) -> int:
        """Number of bins."""
        return self.counts.size

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value seen, and zero."""
        return min(self.minimum, 0.0), max(self.maximum, 0.0)

    def edges(self) -> Reals:
        """The bins' ends [bins + 1]."""
        width = math.ldexp(2.0 / self.bins, self.exponent or 0)
        return ((np.arange(self.bins + 1) - self.bins // 2) * width).astype(np.float64)

    def centres(self) -> Reals:
        """The middle of each bin [bins], within the values that were seen."""
        edges = self.edges()
        return np.clip((edges[:-1] + edges[1:]) / 2.0, *self.range)

    def percentile(self, fraction: float) -> tuple[float, float]:
        """The range that leaves out ``1 - fraction`` of the values, half of it at each end.

        Accurate to one bin; never wider than the values themselves.
        """
        if not 0.0 < fraction <= 1.0:
            raise ValueError(f"a percentile lies in (0, 1], got {fraction}")
        if fraction == 1.0 or self.exponent is None:
            return self.range
        counts = self.counts.copy()
        counts[self.bins // 2] += self.zeros
        drop = math.floor((1.0 - fraction) / 2.0 * self.total)
        edges = self.edges()
        below = int(np.searchsorted(np.cumsum(counts), drop, side="right"))
        above = self.bins - int(np.searchsorted(np.cumsum(counts[::-1]), drop, side="right"))
        low, high = self.range
        return max(low, min(float(edges[below]), 0.0)), min(high, max(float(edges[above]), 0.0))

    def quantization_error(
        self, frac: int, zero_point: int, low: int, high: int, power: float = 2.0
    ) -> float:
        """Estimated sum of ``|error| ** power`` on the grid ``2**-frac``, from the bins' centres."""
        return self.grid_error(math.ldexp(1.0, -frac), zero_point, low, high, power)

    def grid_error(
        self, scale: float, zero_point: int, low: int, high: int, power: float = 2.0
    ) -> float:
        """`quantization_error` for any scale."""
        centres = self.centres()
        codes = np.clip(np.floor(centres / scale + 0.5) + zero_point, low, high)
        difference = np.abs((codes - zero_point) * scale - centres)
        return float((difference**power * self.counts).sum())

    def minmax_frac(self, low: int, high: int) -> int:
        """The covering frac for codes without a zero point."""
        return covering_frac(*self.range, low, high)

    def mse_frac(self, low: int, high: int, finer: int = 3) -> int:
        """Frac of least estimated error among the covering one and ``finer`` more (clipping)."""
        if self.exponent is None:
            return self.minmax_frac(low, high)
        start = self.minmax_frac(low, high)
        errors = [self.quantization_error(start + i, 0, low, high) for i in range(finer + 1)]
        return start + int(np.argmin(errors))

    def percentile_frac(self, fraction: float, low: int, high: int) -> int:
        """The covering frac of the percentile range."""
        return covering_frac(*self.percentile(fraction), low, high)

    def asymmetric(self, low: int, high: int, fraction: float = 1.0) -> tuple[int, int]:
        """Covering frac and zero point of the (percentile) range."""
        return covering_asymmetric(*self.percentile(fraction), low, high)


@dataclass
class ChannelHistogram:
    """A histogram for every channel (last axis): `CHANNEL_BINS` bins each, ranges of their own."""

    counts: npt.NDArray[np.int64]
    exponents: npt.NDArray[np.int64]
    ranges: ChannelRange
    zeros: npt.NDArray[np.int64]

    @staticmethod
    def empty(channels: int) -> "ChannelHistogram":
        """Nothing seen."""
        return ChannelHistogram(
            np.zeros((channels, CHANNEL_BINS), np.int64),
            np.full(channels, UNSEEN, np.int64),
            ChannelRange.empty(channels),
            np.zeros(channels, np.int64),
        )

    def update(self, x: RealInput) -> None:
        """Add a batch [..., C]."""
        self.ranges.update(x)
        flat = x.reshape(-1, x.shape[-1]).astype(np.float64)
        if not flat.size:
            return
        needed = np.frexp(np.abs(flat).max(axis=0))[1].astype(np.int64)
        needed = np.where((flat != 0).any(axis=0), needed, UNSEEN)
        fresh = self.exponents == UNSEEN
        self.exponents = np.where(fresh, needed, self.exponents)
        while (late := self.exponents < needed).any():
            merged = self.counts[late].reshape(-1, CHANNEL_BINS // 2, 2).sum(axis=2)
            self.counts[late] = np.pad(merged, ((0, 0), (CHANNEL_BINS // 4, CHANNEL_BINS // 4)))
            self.exponents[late] += 1
        half = CHANNEL_BINS // 2
        scaled = np.ldexp(flat, -np.maximum(self.exponents, UNSEEN // 2)) * half + half
        index = np.clip(np.floor(scaled).astype(np.int64), 0, CHANNEL_BINS - 1)
        index += np.arange(flat.shape[1]) * CHANNEL_BINS
        self.zeros += (flat == 0).sum(axis=0)
        found = np.bincount(index[flat != 0], minlength=self.counts.size)
        self.counts += found.reshape(self.counts.shape)

    def channel(self, index: int) -> Histogram:
        """The histogram of one channel."""
        exponent = int(self.exponents[index])
        return Histogram(
            self.counts[index],
            None if exponent == UNSEEN else exponent,
            float(self.ranges.minimum[index]),
            float(self.ranges.maximum[index]),
            int(self.zeros[index]),
        )


UNSEEN = -(1 << 20)
"""Exponent of a channel that has only been zero."""
