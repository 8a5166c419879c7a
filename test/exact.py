"""Slow, obvious definitions in Python's unbounded integers, to test the fast ones against."""

import math
from fractions import Fraction

from hypothesis import strategies as st

ROUNDINGS = ("rhu", "rhe", "floor")

roundings = st.sampled_from(ROUNDINGS)
int64s = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-300, 300),
    st.sampled_from([-(2**63), 2**63 - 1, -(2**62), 2**62, -(2**31), 2**31 - 1, 2**24, 2**53]),
)


def rounded(value: Fraction | int, rounding: str) -> int:
    """``value`` to the nearest integer: rhu half up, rhe half to even, or floor."""
    if rounding == "rhu":
        return math.floor(value + Fraction(1, 2))
    if rounding == "rhe":
        return round(Fraction(value))
    return math.floor(value)


def clamped(value: int, low: int, high: int) -> int:
    """``value`` limited to ``low .. high``."""
    return min(max(value, low), high)


def scaled(value: int, shift: int) -> Fraction:
    """``value / 2**shift`` for a shift of either sign."""
    return Fraction(value) / Fraction(2) ** shift


def exp_segment(d: int, step: int, n: int) -> int:
    """The shift exponential of docs/numerics.md 3, as printed there."""
    p = max(d + (d >> 1) - (d >> 4), -n * step)
    q = (-p) // step
    r = p + q * step
    return math.floor(Fraction(r + 2 * step) * Fraction(2) ** (n - q - 1))
