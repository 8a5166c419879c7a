"""Exact integer building blocks: shifts with rounding, saturation, division, square root.

A shift is mathematical: ``round_shift(x, s)`` is ``round(x / 2**s)`` for every integer ``s``, also
for ``s >= 64`` (where a machine shift is undefined) and for ``s < 0`` (a multiplication, which
saturates at the limits of int64 and never wraps).  Three roundings exist:

* ``rhu``   half up, towards plus infinity: ``floor(x / 2**s + 1/2)``; one carry-in in hardware;
* ``rhe``   half to the even neighbour, as IEEE arithmetic and ``torch.round`` do;
* ``floor`` towards minus infinity: the plain arithmetic shift.
"""

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from vit_opt.dialects.errors import VitError

Int64: TypeAlias = npt.NDArray[np.int64]
"""An array of 64-bit integers: what every definition returns."""

Ints: TypeAlias = int | npt.NDArray[np.integer]
"""An integer or an integer array of any width (uint64 excepted)."""

Rounding: TypeAlias = Literal["rhu", "rhe", "floor"]
"""How a result between two integers is resolved."""

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1


def as_int64(x: Ints) -> Int64:
    """``x`` as an int64 array; refuses floats, so that nothing is truncated unnoticed."""
    array = np.asarray(x)
    if array.dtype == np.int64:
        return array
    if array.dtype.kind not in "iub" or array.dtype == np.uint64:
        raise TypeError(f"expected integers that fit int64, got {array.dtype}")
    return array.astype(np.int64)


def magnitude(x: Ints) -> int:
    """Largest absolute value in ``x`` as a Python integer (0 for an empty array)."""
    array = np.asarray(x)
    if array.size == 0:
        return 0
    return max(abs(int(array.max())), abs(int(array.min())))


def shift_left(x: Ints, amount: Ints) -> Int64:
    """``x * 2**amount`` for ``amount >= 0``, saturated to the limits of int64.

    ``amount`` broadcasts against ``x``.
    """
    x = as_int64(x)
    amount = np.minimum(as_int64(amount), 63)
    largest = np.right_shift(np.int64(INT64_MAX), amount)
    if x.size == 0 or magnitude(x) <= int(largest.min()):
        return np.left_shift(x, amount)
    smallest = np.right_shift(np.int64(INT64_MIN), amount)
    shifted = np.left_shift(x, amount)
    return np.where(x > largest, INT64_MAX, np.where(x < smallest, INT64_MIN, shifted))


def _shift_right(x: Int64, amount: Int64, rounding: Rounding) -> Int64:
    """``round(x / 2**amount)`` for ``amount >= 0``, one amount for all or one per element."""
    quotient = np.right_shift(x, np.minimum(amount, 63))
    if rounding == "floor":
        return quotient
    # Bit amount-1 of the two's complement number with infinite sign extension; none for amount 0.
    below = np.clip(amount - 1, 0, 63)
    half = np.right_shift(x, below) & (amount > 0)
    if rounding == "rhu":
        return quotient + half
    if rounding == "rhe":
        sticky = (x & ~np.left_shift(np.int64(-1), below)) != 0
        return quotient + (half & (sticky | ((quotient & 1) == 1)))
    raise ValueError(f"unknown rounding '{rounding}'")


def round_shift(x: Ints, shift: Ints, rounding: Rounding = "rhu") -> Int64:
    """``round(x / 2**shift)`` for any shift; left shifts (negative) saturate to int64.

    ``shift`` is a scalar or broadcasts against ``x``.  rhu is
    ``(x >> s) + bit(s - 1)``, which unlike adding ``2**(s-1)`` first cannot overflow.
    """
    x = as_int64(x)
    amount = as_int64(shift)
    if amount.size == 0 or x.size == 0:
        return np.zeros(np.broadcast_shapes(x.shape, amount.shape), np.int64)
    first = int(amount.min())
    if first == int(amount.max()):
        uniform = np.asarray(min(max(first, -64), 64), np.int64)
        if first > 0:
            result = _shift_right(np.atleast_1d(x), uniform, rounding)
        else:
            result = shift_left(np.atleast_1d(x), -uniform)
        result = result.reshape(x.shape)
        shape = np.broadcast_shapes(x.shape, amount.shape)
        return result if shape == x.shape else np.broadcast_to(result, shape).copy()
    amount = np.clip(amount, -64, 64)
    result = _shift_right(np.atleast_1d(x), np.maximum(amount, 0), rounding)
    return shift_left(result, np.maximum(-amount, 0))


def saturate(x: Ints, low: int, high: int) -> Int64:
    """``x`` clamped to the codes ``low .. high``."""
    return np.clip(as_int64(x), low, high)


def saturate_offset(x: Ints, offset: Ints, low: int, high: int) -> Int64:
    """``saturate(x + offset, low, high)`` without overflow for an ``x`` anywhere in int64."""
    offset = as_int64(offset)
    return np.clip(as_int64(x), low - offset, high - offset) + offset


def rounded_division(a: Ints, b: Ints, rounding: Rounding = "rhu") -> Int64:
    """``round(a / b)`` for ``b > 0``; with rhu this is ``floor((2a + b) / (2b))`` (rdiv)."""
    a, b = as_int64(a), as_int64(b)
    quotient = np.floor_divide(a, b)
    remainder = a - quotient * b
    rest = b - remainder
    if rounding == "rhu":
        return quotient + (remainder >= rest)
    if rounding == "rhe":
        return quotient + ((remainder > rest) | ((remainder == rest) & ((quotient & 1) == 1)))
    if rounding == "floor":
        return quotient
    raise ValueError(f"unknown rounding '{rounding}'")


def bit_length(x: Ints) -> Int64:
    """Position of the leading one plus 1, for ``x >= 0`` (0 for 0): ``int.bit_length``."""
    x = as_int64(x)
    high = np.right_shift(x, 32)
    # Halves of 32 bits are exact in float64, so the binary exponent is the bit length.
    _, high_bits = np.frexp(high.astype(np.float64))
    _, low_bits = np.frexp((x & 0xFFFFFFFF).astype(np.float64))
    return np.where(high > 0, high_bits + 32, low_bits).astype(np.int64)


def integer_sqrt(x: npt.NDArray[np.integer]) -> Int64:
    """``floor(sqrt(x))`` for every ``0 <= x < 2**64``; int64 or uint64 input.

    The float64 root is off by at most one, which the two comparisons repair.
    """
    value = np.asarray(x).astype(np.uint64)
    root = np.minimum(np.sqrt(value.astype(np.float64)), 4294967295.0).astype(np.uint64)
    root = root - (root * root > value)
    above = np.minimum(root + np.uint64(1), np.uint64(4294967295))
    return np.where(above * above <= value, above, root).astype(np.int64)


def check_product(what: str, *factors: Ints, extra_bits: int = 0) -> None:
    """Raise `VitError` if a product of the factors' magnitudes could leave int64.

    ``extra_bits`` counts bits gained by sums and left shifts around the product.
    """
    bound = 1 << extra_bits
    for factor in factors:
        bound *= max(1, magnitude(factor))
    if bound > INT64_MAX:
        raise VitError(
            f"{what}: an intermediate may need {bound.bit_length() + 1} bits, 64 are available; "
            "use narrower operands or exponents closer to each other"
        )
