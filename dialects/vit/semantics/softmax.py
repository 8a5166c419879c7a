"""Softmax in integers: deferred (the default), Shiftmax (I-ViT) and logarithmic (FQ-/P2-ViT).

All work on the last axis.  docs/numerics.md, sections 3, 4, 7 and 18.

*Deferred* softmax never divides scores: an exponential table gives 8-bit weights ``p`` with the
row maximum at 255, ``P x V`` runs on them, and one reciprocal of the row sum scales the product.
*Shiftmax* replaces ``exp`` by ``2**`` of a shift-and-add argument with a linear mantissa.
*Log2 softmax* keeps only the exponent of each probability, so that ``P x V`` becomes shifts.
"""

import numpy as np

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.arithmetic import (
    INT64_MAX,
    Int64,
    Ints,
    Rounding,
    as_int64,
    bit_length,
    magnitude,
    round_shift,
    rounded_division,
    saturate,
    saturate_offset,
    shift_left,
)
from vit_opt.dialects.vit.semantics.linear import Operand, matmul

EXP_TABLE: Int64 = np.floor(255.0 * np.exp(-np.arange(256) / 16.0) + 0.5).astype(np.int64)
"""``floor(255 * exp(-u/16) + 1/2)`` for ``u = 0 .. 255``; no entry is near a rounding tie."""

SUM_MAX = 2**31 - 1
"""Row sums of Shiftmax saturate here."""

LOG2_ZERO = 15
"""The code of `vit.log2_softmax` that stands for probability 0."""


def row_distance(x: Ints) -> Int64:
    """``max(row) - x`` along the last axis, never negative."""
    x = as_int64(x)
    return x.max(axis=-1, keepdims=True) - x


def softmax_exp(scores: Ints, frac: int) -> tuple[Int64, Int64]:
    """Exponentials relative to the row maximum, and their sum (`vit.softmax_exp`).

    scores [..., L] with ``frac`` fractional bits -> p [..., L] in 0..255, sum [..., 1] >= 255.
    The table index counts steps of 1/16: ``u = min(255, rhu((max - s) / 2**(frac - 4)))``.
    """
    index = np.minimum(round_shift(row_distance(scores), frac - 4), 255)
    weights = EXP_TABLE[index]
    return weights, weights.sum(axis=-1, keepdims=True)


def reciprocal(value: Ints, precision: int) -> tuple[Int64, Int64]:
    """Normalised reciprocal of ``value > 0``: ``floor(2**(nb + precision) / value)`` and ``nb``.

    ``nb`` is the bit length of ``value``, so the result lies in ``2**precision ..
    2**(precision + 1)``.
    """
    value = as_int64(value)
    bits = bit_length(value)
    return np.left_shift(np.int64(1), bits + precision) // value, bits


def normalize(
    acc: Ints,
    total: Ints,
    shift: Ints,
    low: int,
    high: int,
    zp_out: Ints = 0,
    rounding: Rounding = "rhu",
) -> Int64:
    """``acc / total`` through one 16-bit reciprocal a row (`vit.normalize`).

    acc [..., D] (int32 products of p and v), total [..., 1]; ``shift = frac_v - frac_out``.
    ``sat(round(acc * R / 2**(nb + 15 + shift)) + zp)`` with ``R = floor(2**(nb+15) / total)``.
    """
    acc, total = as_int64(acc), as_int64(total)
    if total.size and int(total.min()) < 1:
        raise VitError("vit.normalize: a row sum is 0; sums of vit.softmax_exp are at least 255")
    factor, bits = reciprocal(total, 15)
    scaled = round_shift(acc * factor, bits + 15 + as_int64(shift), rounding)
    return saturate_offset(scaled, zp_out, low, high)


def exp_shift(d: Ints, step: int, n: int) -> Int64:
    """``step * 2**n * exp(d / step)`` by shifts and additions (docs/numerics.md 3).

    ``d`` counts steps of ``1/step`` and is normally <= 0 (I-ViT's GELU also passes d > 0, where the
    result may saturate at 2**63-1).  ``step`` = I0, an integer; for the scale ``2**-e`` it is
    ``2**e`` and the division becomes a shift.  The error is at most +6.15 %.
    """
    d = as_int64(d)
    p = np.maximum(d + (d >> 1) - (d >> 4), -n * step)
    power_of_two = step & (step - 1) == 0
    octaves = np.right_shift(-p, step.bit_length() - 1) if power_of_two else -p // step
    mantissa = p + octaves * step + 2 * step
    # One shift by n - octaves - 1, which is -1 for the last octave: shift by one more, then back.
    left = n - octaves
    if int(left.max(initial=0)) + (2 * step).bit_length() <= 62:
        return np.left_shift(mantissa, left) >> 1
    return shift_left(mantissa, left) >> 1


def step_of(frac: int) -> int:
    """Integer steps per unit, ``2**frac``, of a power-of-two scale; refuses a negative frac."""
    if not 0 <= frac <= 15:
        raise VitError(
            f"exponential by shifts: needs 0 to 15 fractional bits, got {frac}; "
            "requantise its input first"
        )
    return 1 << frac


def shiftmax(
    x: Ints,
    step: int,
    bits: int = 16,
    n: int = 15,
    rounding: Rounding = "floor",
    numerator: int = SUM_MAX,
) -> Int64:
    """Shiftmax (`vit.shiftmax`; I-ViT, IntSoftmax): x [..., L] -> codes of scale 2**-(bits-1).

    ``step`` is ``2**frac`` (`step_of`), or ``ceil(1/scale)`` for the published form.
    ``F = floor(numerator / min(S, 2**31-1))``, ``y = sat(round(E * F / 2**(32-bits)))``.
    The published simulation has numerator 2**31 and floor; 8-bit results should use rhu.
    """
    exponentials = exp_shift(-row_distance(x), step, n)
    total = np.minimum(exponentials.sum(axis=-1, keepdims=True), SUM_MAX)
    factor = numerator // total
    codes = round_shift(exponentials * factor, 32 - bits, rounding)
    return saturate(codes, 0, (1 << (bits - 1)) - 1)


def log2_softmax(x: Ints, step: int, n: int = 15) -> Int64:
    """Probability exponents (`vit.log2_softmax`): x [..., L] -> codes 0..15, 15 meaning zero.

    The code is the number of ``j`` in 0..14 with ``2*S >= 3 * 2**j * E``: a ladder of comparators
    that rounds ``log2(S/E)`` at the linear midpoint ``1.5 * 2**j``.
    """
    exponentials = exp_shift(-row_distance(x), step, n)
    doubled = 2 * exponentials.sum(axis=-1, keepdims=True)
    thresholds = 3 * exponentials
    codes = np.zeros(exponentials.shape, np.int64)
    for j in range(LOG2_ZERO):
        codes += doubled >= (thresholds << j)
    return codes


def log2_matmul(codes: Ints, v: Operand, v_zp: int = 0) -> Int64:
    """``sum_l (v_l - zp) << (14 - code)``, code 15 adding nothing (`vit.log2_matmul`).

    codes [..., M, L] in 0..15, v [..., L, D] -> accumulators [..., M, D] with frac_v + 14.
    """
    weights = np.append(1 << np.arange(14, -1, -1), 0)[as_int64(codes)]
    return matmul(weights, v, 0, v_zp)


def log_int_softmax(x: Ints, scale: float, n: int, bits: int = 4) -> tuple[Int64, Int64]:
    """Log-int-softmax as published (FQ-ViT n = 30, P2-ViT n = 32; QIntSoftmax), for conformance.

    x [..., L] of real scale ``scale`` -> (codes 0..2**bits-1, 1 where the value is exactly 0).
    The exponential is a second-order polynomial; all constants are evaluated in float32, as the
    published code does.  Intermediates need up to 58 bits.
    """
    s = np.float32(scale)
    a = 0.35815147
    linear_term = int(np.floor(np.float32(0.96963238 / a) / s))
    constant_term = int(np.floor(np.float32(1.0 / a) / s**2))
    octave = int(np.ceil(np.float32(0.6931) / s))
    d = np.maximum(-row_distance(x), -n * octave)
    q = -d // octave
    r = d + q * octave
    polynomial = r * (r + linear_term) + constant_term
    if magnitude(polynomial) << n > INT64_MAX // max(1, d.shape[-1]):
        raise VitError(f"log-int-softmax: scale {scale} needs more than 64 bits")
    exponentials = np.left_shift(polynomial, n - q)
    total = exponentials.sum(axis=-1, keepdims=True)
    ratio = rounded_division(total, np.maximum(exponentials, 1), "rhe")
    k = bit_length(ratio) - 1
    k = k + (2 * ratio >= 3 * np.left_shift(np.int64(1), k))
    return np.minimum(k, (1 << bits) - 1), (k >= 1 << bits).astype(np.int64)
