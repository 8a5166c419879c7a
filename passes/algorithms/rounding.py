"""Rounding a weight matrix to integers: nearest, or with second-order error compensation.

The second is the procedure of GPTQ (Frantar et al., 2022; after Optimal Brain Surgeon): columns are
rounded one after another, and the error of each is spread over those still to come so that the
layer's *output* on the calibration data changes least.  It needs the second moments ``H = X^T X`` of
the layer's input only, gathered by `SecondMoments`.  Fixed order, no randomness.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vit_opt.passes.algorithms.exponents import output_error

Int64: TypeAlias = npt.NDArray[np.int64]
Reals: TypeAlias = npt.NDArray[np.float64]
RealInput: TypeAlias = npt.NDArray[Any]

BLOCK = 128
"""Columns whose errors are spread together."""

DAMPING = 0.01
"""Added to the diagonal of H, as a fraction of its mean: bounds the compensation."""


@dataclass
class SecondMoments:
    """Running sum ``H = X^T X`` [K, K] over batches of inputs, with the number of rows seen."""

    matrix: Reals
    rows: int = 0

    @staticmethod
    def empty(size: int) -> "SecondMoments":
        """No rows yet, for inputs of ``size`` features."""
        return SecondMoments(np.zeros((size, size)))

    def update(self, x: RealInput) -> None:
        """Add a batch [..., K]."""
        flat = x.reshape(-1, x.shape[-1]).astype(np.float64)
        self.matrix += flat.T @ flat
        self.rows += flat.shape[0]


def unfold(
    x: RealInput,
    kernel: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
) -> RealInput:
    """The windows of a convolution: x [B, H, W, C] -> [B, OH, OW, kh * kw * C].

    The last axis is ordered as an OHWI weight reshaped to [O, kh * kw * C], so that a convolution is
    a linear layer on the result.  ``pads`` is (top, left, bottom, right), filled with zeros.
    """
    top, left, bottom, right = pads
    image = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    span = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(image, span, axis=(1, 2))
    picked = windows[
        :, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]
    ]  # [B, OH, OW, C, kh, kw]
    batch, height, width = picked.shape[:3]
    return np.ascontiguousarray(np.moveaxis(picked, 3, 5)).reshape(batch, height, width, -1)


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
    exact = weight.astype(np.float64)
    step = np.ldexp(1.0, np.broadcast_to(np.asarray(frac, np.int32), exact.shape[:1]))
    nearest = round_nearest(exact, np.asarray(frac), low, high)
    hessian = moments.astype(np.float64)
    diagonal = np.diag(hessian)
    if not np.isfinite(hessian).all():
        raise ValueError("second moments hold infinite values or NaN")
    if exact.shape[1] == 0 or diagonal.max() <= 0.0:
        return nearest
    # Most active features first: their errors can still be spread over all the others.
    order = np.argsort(-diagonal, kind="stable")
    spread = _spreading_factor(hessian[np.ix_(order, order)], damping)
    ordered = _compensate((exact * step[:, None])[:, order].T.copy(), spread, low, high)
    codes = np.empty_like(nearest)
    codes[:, order] = ordered.T
    return _better_rows(exact, step, hessian, codes, nearest)


def _spreading_factor(hessian: Reals, damping: float) -> Reals:
    """Upper triangular U with ``inverse(H + damping) = U^T U``.

    By reversing the order of features, ``J H J = L L^T`` gives ``U = J L^-1 J``: one Cholesky
    decomposition and one triangular inverse.  Damping grows tenfold while H is singular.
    """
    size = hessian.shape[0]
    mean = float(np.trace(hessian)) / size
    for attempt in range(12):
        damped: Reals = hessian + np.eye(size) * (mean * damping * 10.0**attempt)
        try:
            lower = np.linalg.cholesky(np.asarray(damped[::-1, ::-1], np.float64))
        except np.linalg.LinAlgError:
            continue
        inverse = _inverse_lower(lower.astype(np.float64))
        return np.ascontiguousarray(inverse[::-1, ::-1])
    raise ValueError("second moments are not positive semidefinite")


def _inverse_lower(factor: Reals) -> Reals:
    """Inverse of a lower triangular matrix, by halves: almost all work is matrix products."""
    size = factor.shape[0]
    if size <= BLOCK // 2:
        return np.tril(np.linalg.inv(factor)).astype(np.float64)
    half = size // 2
    inverse = np.zeros_like(factor)
    inverse[:half, :half] = _inverse_lower(factor[:half, :half])
    inverse[half:, half:] = _inverse_lower(factor[half:, half:])
    inverse[half:, :half] = -inverse[half:, half:] @ factor[half:, :half] @ inverse[:half, :half]
    return inverse


def _compensate(columns: Reals, spread: Reals, low: int, high: int) -> Int64:
    """Round ``columns`` [K, N] (in codes) row by row, spreading errors; changes its argument."""
    size, rows = columns.shape
    codes = np.empty((size, rows), np.int64)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = np.empty((stop - start, rows))
        for k in range(start, stop):
            rounded = np.clip(np.rint(columns[k]), low, high)
            error = (columns[k] - rounded) / spread[k, k]
            columns[k + 1 : stop] -= np.outer(spread[k, k + 1 : stop], error)
            codes[k] = rounded
            errors[k - start] = error
        columns[stop:] -= spread[start:stop, stop:].T @ errors
    return codes


def _better_rows(exact: Reals, step: Reals, hessian: Reals, codes: Int64, nearest: Int64) -> Int64:
    """Row by row whichever of two roundings has the smaller output error."""
    compensated_error = output_error(codes / step[:, None] - exact, hessian)
    nearest_error = output_error(nearest / step[:, None] - exact, hessian)
    keep = compensated_error < nearest_error
    return np.where(keep[:, None], codes, nearest)
