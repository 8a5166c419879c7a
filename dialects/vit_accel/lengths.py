"""Numbers that follow in no more bits than they need.

Most numbers of a program are small, or multiples of what buffers are aligned to. So a number follows
behind two bits that say in which of four ways: how many bits it has, and in what units it counts.
"""

from __future__ import annotations

from functools import cache

Way = tuple[int, int]
"""Bits, and the logarithm of the unit."""

Ways = tuple[Way, Way, Way, Way]
"""Four ways, in the order in which they are tried; the last one holds every number."""

MARK = 2
"""Bits that say which way it is."""


@cache
def quarters(bits: int) -> Ways:
    """A quarter, half, three quarters or all of so many bits, rounded up."""
    return (-(-bits // 4), 0), (-(-bits // 2), 0), (-(-3 * bits // 4), 0), (bits, 0)


def shorten(number: int, ways: Ways) -> tuple[int, int]:
    """A number that is not negative, in the first way that holds it: (word, bits)."""
    for mark, (bits, unit) in enumerate(ways):
        units = number >> unit
        if units >> bits == 0 and units << unit == number:
            return units << MARK | mark, MARK + bits
    raise AssertionError(f"{number} does not fit in {ways[-1][0]} bits")


def lengthen(word: int, ways: Ways) -> tuple[int, int]:
    """The number at the lowest bits of a word, and how many bits it takes there."""
    bits, unit = ways[word & (1 << MARK) - 1]
    return (word >> MARK & (1 << bits) - 1) << unit, MARK + bits


def unsigned_of(number: int) -> int:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ..., so that small ones stay small."""
    return number << 1 if number >= 0 else ~number << 1 | 1


def signed_of(number: int) -> int:
    """The inverse of `unsigned_of`."""
    return ~(number >> 1) if number & 1 else number >> 1
