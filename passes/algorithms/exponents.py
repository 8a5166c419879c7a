"""Power-of-two scales: the number of fractional bits of a tensor or of each of its channels.

Two ways.  *Covering* (the default): the finest grid on which no observed value saturates, that is
the ceiling of the min-max exponent.  *Searching* (P2-ViT, models/ptq/observer/minmax.py;
docs/numerics.md 8): four exponents around ``log2(scale)``, the one with the least squared error
wins, which may clip.
Everything is expressed as ``frac``: the scale is ``2**-frac``.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Reals: TypeAlias = npt.NDArray[np.float64]
RealInput: TypeAlias = npt.NDArray[Any]

FRAC_LIMIT = 30
"""Finest grid given to a range that is zero or nearly so."""

FRAC_FLOOR = -30
"""Coarsest grid considered."""

CANDIDATE_OFFSETS = (-1, 0, 1, 2)
"""Exponents tried around ``floor(log2 scale)``, in this order; the first minimum wins."""


def _half_up(value: float) -> int:
    return math.floor(value + 0.5)


def covering_frac(
    minimum: float, maximum: float, low: int, high: int, limit: int = FRAC_LIMIT
) -> int:
    """Largest frac at which ``minimum`` and ``maximum`` round to codes in ``low .. high``.

    ``limit`` is returned for a range of zero width at zero, and bounds the result.
    Symmetric int8 and a maximum of 1.0 give 6 (1.0 is 64; at 7 it would be 128).
    """
    if not (math.isfinite(minimum) and math.isfinite(maximum)):
        raise ValueError(f"a range needs finite ends, got {minimum} .. {maximum}")
    minimum, maximum = min(minimum, 0.0), max(maximum, 0.0)
    for frac in range(_upper_start(max(-minimum, maximum), high - low, limit), FRAC_FLOOR, -1):
        step = math.ldexp(1.0, frac)
        if _half_up(minimum * step) >= low and _half_up(maximum * step) <= high:
            return frac
    return FRAC_FLOOR


def _upper_start(magnitude: float, codes: int, limit: int) -> int:
    """A frac that is certainly not too small to begin a downward search with."""
    if magnitude == 0.0:
        return limit
    return min(limit, codes.bit_length() + 2 - math.frexp(magnitude)[1])


def covering_fracs(
    minimum: RealInput, maximum: RealInput, low: int, high: int, limit: int = FRAC_LIMIT
) -> npt.NDArray[np.int64]:
    """`covering_frac` for every channel: minimum, maximum [C] -> frac [C].

    A channel that is always zero takes the coarsest frac of the others (its codes are zero on any
    grid, and a coarse one keeps its bias in range).
    """
    empty = (minimum == 0) & (maximum == 0)
    pairs = zip(minimum.tolist(), maximum.tolist(), strict=True)
    fracs = np.array([covering_frac(a, b, low, high, limit) for a, b in pairs], np.int64)
    if empty.any():
        fracs[empty] = fracs[~empty].min() if not empty.all() else 0
    return fracs


def covering_asymmetric(
    minimum: float, maximum: float, low: int, high: int, limit: int = FRAC_LIMIT
) -> tuple[int, int]:
    """Largest frac, with a zero point, at which the range fits ``low .. high``: (frac, zp).

    Zero is always a code, as padding and ReLU need it.  The smallest value is placed at ``low``, so
    that spare codes extend the upper end: right for GELU and Hardswish, whose minimum is known.
    """
    if not (math.isfinite(minimum) and math.isfinite(maximum)):
        raise ValueError(f"a range needs finite ends, got {minimum} .. {maximum}")
    minimum, maximum = min(minimum, 0.0), max(maximum, 0.0)
    frac = FRAC_FLOOR
    for frac in range(_upper_start(maximum - minimum, high - low, limit), FRAC_FLOOR - 1, -1):
        step = math.ldexp(1.0, frac)
        if _half_up(maximum * step) - _half_up(minimum * step) <= high - low:
            break
    zero_point = low - _half_up(math.ldexp(minimum, frac))
    return frac, min(max(zero_point, low), high)


def limit_for_bias(
    bias: RealInput, frac_x: int | npt.NDArray[np.int64], bits: int = 32
) -> npt.NDArray[np.int64]:
    """Largest weight frac per channel at which ``bias * 2**(frac_x + frac_w)`` takes half the range.

    bias [N] -> [N].  A weight channel of tiny values must not push its own bias out of int32.  The
    fracs of the input's channels, each of which serves as many outputs, may be given as an array.
    """
    magnitude = np.maximum(np.abs(bias.astype(np.float64)), 2.0**-FRAC_LIMIT)
    _, exponent = np.frexp(magnitude)
    fracs = np.atleast_1d(np.asarray(frac_x, np.int64))
    return (bits - 2) - exponent.astype(np.int64) - fracs.repeat(bias.size // fracs.size)


def fake_quantize(t: RealInput, frac: RealInput | int, low: int, high: int, zp: int = 0) -> Reals:
    """``t`` rounded (half to even) to the codes of a grid and back to real values, float64."""
    step = np.ldexp(1.0, np.asarray(frac, np.int32))
    codes = np.clip(np.rint(t.astype(np.float64) * step) + zp, low, high)
    return np.asarray((codes - zp) / step)


def candidate_fracs(scale: float) -> list[int]:
    """The fracs tried for a real scale, in the published order (coarser exponents last)."""
    if not scale > 0.0:
        return [0]
    floor = math.frexp(scale)[1] - 1
    return [-(floor + offset) for offset in CANDIDATE_OFFSETS]


def symmetric_scale(t: RealInput, low: int, high: int) -> float:
    """``max|t| / ((high - low) / 2)`` in float32, as published: /127.5 for int8, /7.5 for int4."""
    if t.size == 0:
        return 0.0
    return float(np.float32(np.abs(t).max()) / np.float32((high - low) / 2))


def first_minimum(fracs: Sequence[int], errors: Sequence[float]) -> int:
    """The frac of the first smallest error."""
    return fracs[int(np.argmin(np.asarray(errors)))]


def search_tensor(t: RealInput, low: int, high: int) -> int:
    """Frac of a tensor by its own mean squared error (activations, symmetric)."""
    fracs = candidate_fracs(symmetric_scale(t, low, high))
    errors = [float(np.square(fake_quantize(t, f, low, high) - t).sum()) for f in fracs]
    return first_minimum(fracs, errors)


def search_tensor_asymmetric(t: RealInput, low: int, high: int) -> tuple[int, int]:
    """Frac and zero point as P2-ViT published them, for conformance.

    The zero point belongs to the scale *before* it is rounded to a power of two, so the two do not
    describe one consistent grid; `covering_asymmetric` is the form to use.
    """
    minimum, maximum = np.float32(t.min()), np.float32(t.max())
    scale = np.float32(max((maximum - minimum) / np.float32(high - low), np.float32(1e-8)))
    zero_point = int(np.clip(low - np.rint(minimum / scale), low, high))
    fracs = candidate_fracs(float(scale))
    errors = [float(np.square(fake_quantize(t, f, low, high, zero_point) - t).sum()) for f in fracs]
    return first_minimum(fracs, errors), zero_point


PANEL = 512
"""Rows of a matrix of second moments that are multiplied together, up to the diagonal."""


def output_error(difference: Reals, moments: Reals) -> Reals:
    """Squared output error per row of a weight difference [N, K], with moments ``X^T X`` [K, K].

    The diagonal of ``D H D^T``; of H, which is symmetric, the lower triangle is read.
    """
    size = moments.shape[0]
    total = np.zeros(difference.shape[0])
    for start in range(0, size, PANEL):
        stop = min(start + PANEL, size)
        part = difference[:, start:stop] @ moments[start:stop, :stop]
        part[:, :start] *= 2.0
        total += np.einsum("nk,nk->n", part, difference[:, :stop])
    return total


def search_weight(
    weight: RealInput, moments: RealInput, low: int, high: int, per_channel: bool = True
) -> npt.NDArray[np.int64]:
    """Fracs of a weight [N, K] by the squared error of the layer's output: [N], or [1] per tensor.

    ``moments`` [K, K] is ``X^T X`` over the inputs of the calibration (`SecondMoments`).
    """
    exact = weight.astype(np.float64)
    moments = moments.astype(np.float64)
    groups = [exact[n : n + 1] for n in range(exact.shape[0])] if per_channel else [exact]
    chosen: list[int] = []
    for rows in groups:
        fracs = candidate_fracs(symmetric_scale(rows, low, high))
        errors = [
            float(output_error(fake_quantize(rows, f, low, high) - rows, moments).sum())
            for f in fracs
        ]
        chosen.append(first_minimum(fracs, errors))
    return np.array(chosen, np.int64)
