"""Weights for the inputs that a layer really gets.

Error-compensated rounding asks that a layer's output stay what it was, on float inputs.  In the
integer model the inputs are off already: earlier weights were rounded, activations, too.  What is off
in the *output* of the layer, ``E = Y - W Xq - b`` with the float output Y and the integer inputs Xq,
is in part a linear function of Xq, and that part can be put into the weights before they are rounded:

    W* = W + E Xq^T (Xq Xq^T + ridge diag(Xq Xq^T))^-1,   b* = b + mean error

(asymmetric calibration: AdaRound, Nagel et al. 2020, section 3.3; GPTAQ, Li et al. 2025).  Rounding W*
by the moments of Xq then is the least squares problem itself.  A few images do not tell everything
about others: the images fall into two halves, and the ridge is the one with which the correction
found on either half helps the other most; none is made if none helps.  The mean error is shrunk by
how much it differs from image to image (James and Stein).  Where a LayerNorm reads what comes out, it
divides each token by its deviation, and so are the rows weighted: a few loud tokens are not all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from vit_opt.passes.algorithms.rounding import Int64, Part, RealInput, Reals

RIDGES = (4.0, 1.0, 0.25, 0.06)
"""Ridges that are tried, from the most careful on, until one helps less than the one before."""


class Sums:
    """Running sums over rows of inputs [R, K] and output errors [R, N]."""

    def __init__(self, size: int, outputs: int):
        self.rows = 0.0
        """Rows so far, each as often as its weight says."""
        self.x, self.e = np.zeros(size), np.zeros(outputs)
        self.xx, self.ex = np.zeros((size, size)), np.zeros((outputs, size))

    def update(self, x: RealInput, e: RealInput, weights: RealInput | None = None) -> None:
        """Add rows with weights [R], or of weight 1."""
        column = np.ones((len(x), 1), x.dtype) if weights is None else weights[:, None]
        weighted = x * column
        self.rows += float(column.sum(dtype=np.float64))
        self.x += weighted.sum(axis=0, dtype=np.float64)
        self.e += (e * column).sum(axis=0, dtype=np.float64)
        self.xx += x.T @ weighted
        self.ex += e.T @ weighted

    def add(self, other: "Sums") -> None:
        """Add the rows of another."""
        self.rows += other.rows
        for mine, theirs in zip(self._arrays(), other._arrays(), strict=True):
            mine += theirs

    def centre(self) -> None:
        """As if the means had been subtracted from all rows."""
        if self.rows:
            self.xx -= np.outer(self.x, self.x) / self.rows
            self.ex -= np.outer(self.e, self.x) / self.rows

    def _arrays(self) -> tuple[Reals, ...]:
        return self.x, self.e, self.xx, self.ex

    def slope(self, ridge: float) -> Reals | None:
        """The weights [N, K] that give most of the errors; None where that has no answer."""
        from scipy.linalg import lapack  # pyright: ignore[reportMissingTypeStubs]

        solve = cast("Callable[..., tuple[Reals, Reals, int]]", cast("Any", lapack).dposv)
        diagonal = np.diag(self.xx)
        if not diagonal.max(initial=0.0) > 0.0:
            return None
        scale = np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
        scaled = self.xx / scale / scale[:, None] + np.eye(len(scale)) * ridge
        _, found, failed = solve(scaled, (self.ex / scale).T)
        return None if failed else np.ascontiguousarray(found.T) / scale

    def gain(self, change: Reals) -> float:
        """How much a change of the weights lowers the sum of squared errors."""
        return float(2.0 * (change * self.ex).sum() - ((change @ self.xx) * change).sum())


@dataclass
class Pair:
    """Inputs and output errors of the features of a weight that belong together."""

    features: Int64
    """Which columns of the weight."""

    halves: tuple[Sums, Sums]

    def solve(self, centred: bool) -> tuple[Reals, Sums]:
        """The change of the weights [N, K], and the sums of both halves."""
        total = Sums(len(self.features), len(self.halves[0].e))
        for half in self.halves:
            total.add(half)
        if centred:
            for each in (*self.halves, total):
                each.centre()
        first, second = self.halves
        best, change = 0.0, None
        for ridge in RIDGES:
            slopes = [half.slope(ridge) for half in self.halves]
            pairs = zip(slopes, (second, first), strict=True)
            gain = sum(0.0 if slope is None else other.gain(slope) for slope, other in pairs)
            if gain <= best:
                break
            best, change = gain, ridge
        found = None if change is None else total.slope(change)
        return (np.zeros_like(total.ex) if found is None else found), total


@dataclass
class Matching:
    """Gathers what a layer is off by, image by image."""

    pairs: list[Pair] = field(default_factory=list[Pair])
    """None for a layer whose inputs are not looked at: then only the mean is."""

    means: dict[int, list[Reals]] = field(default_factory=dict[int, "list[Reals]"])
    """Mean error [N] of every copy of an image, by image."""

    def update(
        self,
        image: int,
        rows: Sequence[tuple[RealInput, RealInput]],
        error: RealInput,
        weights: RealInput | None = None,
    ) -> None:
        """Add inputs and errors for each pair, and the errors [..., N] of all outputs.

        ``weights`` [R] of the rows are for a layer whose inputs are one pair.
        """
        for pair, (x, e) in zip(self.pairs, rows, strict=True):
            pair.halves[image % 2].update(x, e, weights)
        flat = error.reshape(-1, error.shape[-1]).astype(np.float64)
        self.means.setdefault(image, []).append(np.average(flat, axis=0, weights=weights))

    def mean(self) -> Reals:
        """The mean error [N], as far as it can be expected of other images."""
        each = np.stack([np.mean(copies, axis=0) for copies in self.means.values()])
        mean, count = each.mean(axis=0), len(each)
        energy = float(np.square(mean).sum())
        if count < 2 or not energy > 0.0:
            return np.zeros_like(mean)
        noise = float(each.var(axis=0, ddof=1).sum()) / count
        return mean * max(0.0, 1.0 - noise / energy)

    def solve(self, weight: Reals, centred: bool) -> "Matched":
        """What to round in place of a weight [N, K]; ``centred`` if the bias takes the means."""
        target, parts, inputs = weight.copy(), list[Part](), np.zeros(weight.shape[1])
        rows = sum(half.rows for pair in self.pairs for half in pair.halves)
        for pair in self.pairs:
            change, total = pair.solve(centred)
            target[:, pair.features] += change
            inputs[pair.features] = total.x / max(1, rows)
            parts.append(Part(np.arange(len(weight)), pair.features, total.xx))
        return Matched(weight, target, parts, self.mean(), inputs)


@dataclass
class Matched:
    """A weight [N, K] made for the inputs that it gets."""

    weight: Reals
    """As it was."""

    target: Reals
    """What is to be rounded in its place."""

    parts: list[Part]
    """Second moments of the inputs, for rounding."""

    mean: Reals
    """What the output lacks on average [N], with the weight as it was."""

    inputs: Reals
    """Mean inputs [K]."""

    def bias(self, bias: Reals, rounded: Reals) -> Reals:
        """The bias [N] that goes with a rounded weight [N, K]."""
        return bias + self.mean + (self.weight - rounded) @ self.inputs
