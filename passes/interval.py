"""Intervals of unbounded integers: what `prove-ranges` calculates with.

Python's integers do not overflow, so neither does the proof. An interval covers a whole tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

INT32 = (-(1 << 31), (1 << 31) - 1)
INT64 = (-(1 << 63), (1 << 63) - 1)


def rounded_shift(x: int, shift: int, rounding: str = "rhu") -> int:
    """round(x / 2^shift) for a shift of either sign; rounding rhu, rhe or floor (docs/numerics.md 1)."""
    if shift <= 0:
        return x << -shift
    if rounding == "floor":
        return x >> shift
    floor, rest = x >> shift, x & ((1 << shift) - 1)
    half = 1 << (shift - 1)
    if rest != half:
        return floor + (rest > half)
    return floor + 1 if rounding == "rhu" else floor + (floor & 1)


@dataclass(frozen=True)
class Interval:
    """All integers from `low` to `high`, both included."""

    low: int
    high: int

    @property
    def magnitude(self) -> int:
        """Largest absolute value."""
        return max(abs(self.low), abs(self.high))

    def __or__(self, other: Interval) -> Interval:
        """The smallest interval that covers both."""
        return Interval(min(self.low, other.low), max(self.high, other.high))

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.high + other.high)

    def __sub__(self, offset: int) -> Interval:
        return Interval(self.low - offset, self.high - offset)

    def __mul__(self, other: Interval) -> Interval:
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(min(ends), max(ends))

    def times(self, factor: int) -> Interval:
        """Sums of `factor` values (factor >= 0), or one value times it."""
        return Interval(self.low * factor, self.high * factor)

    def with_zero(self) -> Interval:
        """The interval widened to hold 0: what sums of any number of terms start from."""
        return Interval(min(self.low, 0), max(self.high, 0))

    def shifted(self, shift: int, rounding: str = "rhu") -> Interval:
        """round(x / 2^shift): monotonic, so the ends are enough."""
        low, high = (rounded_shift(end, shift, rounding) for end in (self.low, self.high))
        return Interval(low, high)

    def clamped(self, low: int, high: int) -> Interval:
        """Saturated to low .. high."""
        return Interval(min(max(self.low, low), high), min(max(self.high, low), high))

    def within(self, bounds: tuple[int, int]) -> bool:
        """Whether no value leaves the bounds."""
        return bounds[0] <= self.low and self.high <= bounds[1]

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"
