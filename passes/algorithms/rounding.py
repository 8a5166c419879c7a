"""Rounding a weight matrix to integers: nearest, or with second-order error compensation.

The second is the procedure of GPTQ (Frantar et al., 2022): features are rounded one after another,
each so that it makes up for the errors of those before it and the layer's *output* on the
calibration data changes least.  It needs only the second moments ``H = X^T X`` of the layer's input,
gathered by `SecondMoments`.  Written with the Cholesky factor of H itself (Babai's nearest plane),
which gives GPTQ's result without an inverse.  Fixed order, no randomness.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from vit_opt.passes.algorithms.exponents import (
    candidate_fracs,
    fake_quantize,
    output_error,
    symmetric_scale,
)

Int64: TypeAlias = npt.NDArray[np.int64]
Reals: TypeAlias = npt.NDArray[np.float64]
RealInput: TypeAlias = npt.NDArray[Any]

BLOCK, STRIP = 128, 16
"""Features that share one matrix product: with all features behind them, and within a block."""

DAMPING = 0.01
"""Added to the diagonal of H, as a fraction of itself: bounds the compensation."""

STILL = 1e-5
"""Share of a feature's square that is left of one that hardly varies when its offset is taken off."""

PANEL = 512
"""Rows of a symmetric matrix that are kept together, up to their diagonal block."""


class SecondMoments:
    """Running sum ``H = X^T X`` [K, K] over batches of inputs, with the number of rows seen.

    H is symmetric and the largest thing that calibration keeps (four matrices of 4096 columns take
    as much as a whole DeiT-B), so only its lower triangle is held, in panels of `PANEL` rows, with
    the precision of the inputs.
    """

    def __init__(self, size: int):
        self.size = size
        """Features K."""
        self.rows = 0
        """Rows of X so far."""
        self._panels: list[RealInput] = []

    def _spans(self) -> Iterator[slice]:
        return (slice(k, min(k + PANEL, self.size)) for k in range(0, self.size, PANEL))

    def update(self, x: RealInput) -> None:
        """Add a batch [..., K] of float32 or float64, always the same."""
        flat = x.reshape(-1, self.size)
        products = (flat[:, span].T @ flat[:, : span.stop] for span in self._spans())
        if not self._panels:
            self._panels = list(products)
        else:
            for panel, product in zip(self._panels, products, strict=True):
                panel += product
        self.rows += flat.shape[0]

    def matrix(self) -> Reals:
        """H in full."""
        full = np.zeros((self.size, self.size))
        for span, panel in zip(self._spans(), self._panels, strict=bool(self._panels)):
            full[span, : span.stop] = panel
            full[: span.start, span] = panel[:, : span.start].T
        return full

    def divide(self, factor: Reals) -> None:
        """As if each input feature had been divided by its entry of ``factor`` [K]."""
        for span, panel in zip(self._spans(), self._panels, strict=bool(self._panels)):
            panel /= np.outer(factor[span], factor[: span.stop])

    def shift(self, offset: Reals, sums: Reals) -> None:
        """As if ``offset`` [K] had been subtracted from every row; ``sums`` [K] are the columns'.

        A feature that hardly varies is zero from then on: what rounding leaves of it is no moment.
        """
        before = self._diagonal()
        for span, panel in zip(self._spans(), self._panels, strict=bool(self._panels)):
            others = slice(span.stop)
            exact = panel.astype(np.float64) + self.rows * np.outer(offset[span], offset[others])
            exact -= np.outer(sums[span], offset[others]) + np.outer(offset[span], sums[others])
            panel[...] = exact
        still = self._diagonal() <= STILL * before
        for span, panel in zip(self._spans(), self._panels, strict=bool(self._panels)):
            panel[still[span]] = 0
            panel[:, still[: span.stop]] = 0

    def _diagonal(self) -> Reals:
        """The mean squares, times the rows [K]."""
        panels = zip(self._spans(), self._panels, strict=bool(self._panels))
        parts = [np.diagonal(panel, span.start) for span, panel in panels]
        return np.concatenate([*parts, np.zeros(0)]).astype(np.float64)

    def pick(self, features: Int64) -> "SecondMoments":
        """The moments of some of the features, in the order given."""
        picked = SecondMoments(len(features))
        picked.rows = self.rows
        if self._panels:
            block = self.matrix()[np.ix_(features, features)].astype(self._panels[0].dtype)
            picked._panels = [block[span, : span.stop].copy() for span in picked._spans()]
        return picked

    def parts(self, rows: int) -> list["Part"]:
        """What rounding needs for a weight of this many rows."""
        return [Part(np.arange(rows), np.arange(self.size), self.matrix())]


@dataclass(frozen=True)
class Part:
    """Rows and features of a weight [N, K] whose outputs depend on no other feature."""

    rows: Int64
    features: Int64

    moments: Reals
    """Second moments of the features, in their order."""

    def of(self, weight: RealInput) -> RealInput:
        """This part of a weight."""
        return weight[np.ix_(self.rows, self.features)]


def round_parts(
    weight: RealInput,
    parts: Sequence[Part],
    frac: RealInput,
    low: int,
    high: int,
    damping: float,
) -> Int64:
    """`round_compensated` for each part of a weight [N, K], frac [N]; to nearest what is in none."""
    codes = round_nearest(weight, frac, low, high)
    for part in parts:
        found = round_compensated(
            part.of(weight), part.moments, frac[part.rows], low, high, damping
        )
        codes[np.ix_(part.rows, part.features)] = found
    return codes


def parts_error(difference: Reals, parts: Sequence[Part]) -> Reals:
    """Squared output error per row of a weight difference [N, K]."""
    total = np.zeros(difference.shape[0])
    for part in parts:
        total[part.rows] += output_error(part.of(difference), part.moments)
    return total


def search_parts(weight: RealInput, parts: Sequence[Part], low: int, high: int) -> Int64:
    """`search_weight` per output channel [N], of a weight [N, K] in parts."""
    exact = weight.astype(np.float64)
    tried = [candidate_fracs(symmetric_scale(row, low, high)) for row in exact]
    columns = [
        list(each) for each in zip(*(t * 4 if len(t) == 1 else t for t in tried), strict=True)
    ]
    candidates = np.array(columns, np.int64)
    errors = [
        parts_error(fake_quantize(exact, f[:, None], low, high) - exact, parts) for f in candidates
    ]
    return candidates[np.argmin(np.stack(errors), axis=0), np.arange(len(exact))]


def round_nearest(weight: RealInput, frac: RealInput | int, low: int, high: int) -> Int64:
    """Codes ``clamp(round(w * 2**frac))``, half to even: weight [N, ...], frac scalar or [N]."""
    column = np.asarray(frac, np.int32)
    if column.ndim:
        column = column.reshape(-1, *[1] * (weight.ndim - 1))
    scaled = np.ldexp(weight.astype(np.float64), column)
    return np.clip(np.rint(scaled), low, high).astype(np.int64)


def round_compensated(
    weight: RealInput,
    moments: RealInput,
    frac: RealInput | int,
    low: int,
    high: int,
    damping: float = DAMPING,
) -> Int64:
    """Codes of a weight [N, K] on the grids ``2**-frac`` that keep the output, given H [K, K].

    ``frac`` is a scalar or [N].  Features that never occur (zero in H) are rounded to nearest.
    Rows for which plain rounding has the smaller output error keep it, so the result is never
    worse than `round_nearest`.
    """
    step = np.ldexp(1.0, np.broadcast_to(np.asarray(frac, np.int32), weight.shape[:1]))[:, None]
    hessian = np.asarray(moments, np.float64)
    diagonal = np.diag(hessian)
    if not np.isfinite(hessian).all():
        raise ValueError("second moments hold infinite values or NaN")
    if weight.shape[1] == 0 or diagonal.max() <= 0.0:
        return round_nearest(weight, np.asarray(frac), low, high)
    # The most active feature comes last and is rounded first: all others can make up for it.
    order = np.argsort(diagonal, kind="stable")
    factor = damped_factor(hessian[np.ix_(order, order)], damping)
    columns = weight.T.astype(np.float64, order="C")[order] * step.T
    codes = np.empty(weight.shape, np.int64)
    codes[:, order] = compensate(columns, factor, low, high).T
    del factor, columns
    nearest = round_nearest(weight, np.asarray(frac), low, high)
    error, plain = (output_error(each / step - weight, hessian) for each in (codes, nearest))
    return np.where((error < plain)[:, None], codes, nearest)


def damped_factor(hessian: Reals, damping: float) -> Reals:
    """Lower triangular L with ``H + damping * diag(H) = L L^T``, in the place of H.

    Damping in proportion to each feature's own energy, not to the mean, keeps one huge feature
    from switching off the compensation of all others.  It grows tenfold while H is numerically
    singular.  What lies above the diagonal of the result has no meaning.
    """
    from scipy.linalg import lapack  # pyright: ignore[reportMissingTypeStubs]

    decompose = cast("Callable[..., tuple[Reals, int]]", cast("Any", lapack).dpotrf)
    diagonal = np.diag(hessian).copy()
    scale = np.where(diagonal > 0.0, diagonal, np.median(diagonal[diagonal > 0.0]))
    for attempt in range(12):
        np.fill_diagonal(hessian, diagonal + scale * (damping * 10.0**attempt))
        # LAPACK counts by columns: its upper triangle is the lower one here, and the other is kept.
        upper, failed = decompose(hessian.T, lower=0, clean=0, overwrite_a=1)
        if not failed:
            return upper.T
        below = np.tri(len(hessian), k=-1, dtype=bool)
        hessian[below] = hessian.T[below]
    raise ValueError("second moments are not positive semidefinite")


def compensate(
    columns: Reals,
    factor: Reals,
    low: Int64 | int,
    high: Int64 | int,
    steps: Int64 | None = None,
) -> npt.NDArray[np.int16]:
    """Round ``columns`` [K, N] (in codes) from the last feature to the first.

    The output error is ``sum_k (sum_{j>=k} L[j, k] e_j)**2`` with ``e = w - q``.  Feature ``k`` sees
    the errors of all later ones and takes the integer that brings its own term closest to zero.
    Blocks of features share one matrix product for what comes from outside the block.  With ``steps``
    [K, N] codes are multiples of a step, ``low`` to ``high`` (scalars or [K]) times as large.
    """
    size, rows = columns.shape
    lows, highs = (np.broadcast_to(np.asarray(bound), (size,)) for bound in (low, high))
    codes = np.zeros((size, rows), np.int16)
    errors = np.zeros((size, rows))
    diagonal = np.diag(factor)[:, None]
    for stop in range(size, 0, -BLOCK):
        start = max(0, stop - BLOCK)
        carried = factor[stop:, start:stop].T @ errors[stop:]
        for end in range(stop, start, -STRIP):
            first = max(start, end - STRIP)
            wanted = columns[first:end] + carried[first - start : end - start] / diagonal[first:end]
            pull = factor[first:end, first:end] / diagonal[first:end].T
            for k in range(end - first - 1, -1, -1):
                low_k, high_k = lows[first + k], highs[first + k]
                if steps is None:
                    rounded = np.clip(np.rint(wanted[k]), low_k, high_k)
                else:
                    step = steps[first + k]
                    rounded = np.clip(np.rint(wanted[k] / step), low_k, high_k) * step
                codes[first + k] = rounded
                errors[first + k] = error = columns[first + k] - rounded
                wanted[:k] += pull[k, :k, None] * error
            carried[: first - start] += factor[first:end, start:first].T @ errors[first:end]
    return codes
