"""Changing the scale of integers: power-of-two and dyadic requantisation, addition, product.

Power-of-two scales need a shift and nothing else (docs/numerics.md 1, P2-ViT).  Arbitrary real scales are
approximated by a multiplier of 31 bits and a shift, a *dyadic* number (docs/numerics.md 2; I-ViT,
`fixedpoint_mul` and `batch_frexp`).  When the ratio of two scales is a power of two the multiplier
is ``2**30`` and the dyadic result equals the shift, bit for bit.
"""

import numpy as np
import numpy.typing as npt

from vit_opt.dialects.vit.semantics.arithmetic import (
    Int64,
    Ints,
    Rounding,
    as_int64,
    check_product,
    magnitude,
    round_shift,
    saturate,
    saturate_offset,
)


def pot_requant(
    x: Ints,
    shift: Ints,
    low: int,
    high: int,
    zp_in: Ints = 0,
    zp_out: Ints = 0,
    rounding: Rounding = "rhu",
) -> Int64:
    """``sat(round((x - zp_in) / 2**shift) + zp_out)``, ``shift = frac_in - frac_out``.

    ``shift`` and the zero points are scalars or broadcast against ``x`` (per channel).
    """
    return saturate_offset(round_shift(_centred(x, zp_in), shift, rounding), zp_out, low, high)


def _centred(x: Ints, zero_point: Ints) -> Int64:
    """``x - zero_point`` as int64, without a copy when the zero point is 0."""
    x = as_int64(x)
    return x if np.ndim(zero_point) == 0 and zero_point == 0 else x - as_int64(zero_point)


def batch_frexp(ratio: npt.ArrayLike) -> tuple[Int64, Int64]:
    """Multiplier ``m`` and shift ``sh`` with ``ratio ~ m * 2**-sh``, exactly as published.

    ``ratio = f * 2**p`` with ``1/2 <= |f| < 1``; ``m = round_half_away(f * 2**31)``,
    ``sh = 31 - p``.  ``m`` may be ``2**31``, which does not fit int32: see `dyadic_multiplier`.
    """
    fraction, exponent = np.frexp(np.asarray(ratio, dtype=np.float64))
    multiplier = np.copysign(np.floor(np.abs(fraction) * 2.0**31 + 0.5), fraction)
    return multiplier.astype(np.int64), 31 - exponent.astype(np.int64)


def dyadic_multiplier(ratio: npt.ArrayLike) -> tuple[Int64, Int64]:
    """As `batch_frexp`, with ``|m| = 2**31`` rewritten to the equal pair that fits int32."""
    multiplier, shift = batch_frexp(ratio)
    too_wide = np.abs(multiplier) == 2**31
    return np.where(too_wide, multiplier // 2, multiplier), shift - too_wide


def dyadic_requant(
    x: Ints,
    multiplier: Ints,
    shift: Ints,
    low: int,
    high: int,
    zp_in: Ints = 0,
    zp_out: Ints = 0,
    rounding: Rounding = "rhe",
) -> Int64:
    """``sat(round((x - zp_in) * multiplier / 2**shift) + zp_out)``; the product in 64 bits."""
    centred = _centred(x, zp_in)
    scaled = _dyadic(centred, multiplier, shift, rounding)
    return saturate_offset(scaled, zp_out, low, high)


def _dyadic(x: Int64, multiplier: Ints, shift: Ints, rounding: Rounding) -> Int64:
    check_product("dyadic requantisation", x, multiplier)
    return round_shift(x * as_int64(multiplier), shift, rounding)


def dyadic_add(
    a: Ints,
    b: Ints,
    multipliers: tuple[Ints, Ints],
    shifts: tuple[Ints, Ints],
    low: int,
    high: int,
    zero_points: tuple[Ints, Ints, Ints] = (0, 0, 0),
    rounding: Rounding = "rhe",
) -> Int64:
    """Sum of two dyadic rescalings, each rounded on its own (I-ViT's residual addition).

    ``zero_points`` are those of ``a``, ``b`` and the result.
    """
    total = _dyadic(_centred(a, zero_points[0]), multipliers[0], shifts[0], rounding)
    total = total + _dyadic(_centred(b, zero_points[1]), multipliers[1], shifts[1], rounding)
    return saturate_offset(total, zero_points[2], low, high)


def add(
    a: Ints,
    b: Ints,
    frac_a: Ints,
    frac_b: Ints,
    frac_out: Ints,
    low: int,
    high: int,
    zero_points: tuple[Ints, Ints, Ints] = (0, 0, 0),
    rounding: Rounding = "rhu",
    separate: bool = False,
) -> Int64:
    """``a + b`` on the grid of the result: aligned by left shifts, rounded once (docs/numerics.md 2).

    With ``E = max(frac_a, frac_b)`` the result is
    ``sat(round(((a << (E-frac_a)) + (b << (E-frac_b))) / 2**(E-frac_out)) + zp)``.
    ``separate`` rounds each operand to the result's grid before the sum instead, as I-ViT does.
    Operands, fracs and zero points broadcast as in numpy.
    """
    a, b = _centred(a, zero_points[0]), _centred(b, zero_points[1])
    frac_a, frac_b, frac_out = as_int64(frac_a), as_int64(frac_b), as_int64(frac_out)
    if separate:
        # Halving the saturation limits keeps the sum in int64.
        limit = 2**62 - 1
        total = saturate(round_shift(a, frac_a - frac_out, rounding), -limit, limit)
        total = total + saturate(round_shift(b, frac_b - frac_out, rounding), -limit, limit)
    else:
        common = np.maximum(frac_a, frac_b)
        for operand, gap in ((a, common - frac_a), (b, common - frac_b)):
            check_product("addition", operand, extra_bits=magnitude(gap) + 1)
        total = np.left_shift(a, common - frac_a) + np.left_shift(b, common - frac_b)
        total = round_shift(total, common - frac_out, rounding)
    return saturate_offset(total, zero_points[2], low, high)


def mul(
    a: Ints,
    b: Ints,
    shift: Ints,
    low: int,
    high: int,
    zero_points: tuple[Ints, Ints, Ints] = (0, 0, 0),
    rounding: Rounding = "rhu",
) -> Int64:
    """``sat(round(a * b / 2**shift) + zp)``, ``shift = frac_a + frac_b - frac_out``."""
    a, b = _centred(a, zero_points[0]), _centred(b, zero_points[1])
    check_product("product", a, b)
    return saturate_offset(round_shift(a * b, shift, rounding), zero_points[2], low, high)


def clamp(x: Ints, low: int, high: int) -> Int64:
    """ReLU, ReLU6 and Clip on codes: ``low`` and ``high`` are codes of the same format."""
    return saturate(x, low, high)
