"""Shifts, divisions and roots against unbounded integers."""

import math
from fractions import Fraction

import numpy as np
import pytest
from exact import ROUNDINGS, clamped, int64s, rounded, roundings, scaled
from hypothesis import given
from hypothesis import strategies as st

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.arithmetic import (
    INT64_MAX,
    INT64_MIN,
    as_int64,
    bit_length,
    check_product,
    integer_sqrt,
    magnitude,
    round_shift,
    rounded_division,
    saturate_offset,
)


@given(st.lists(int64s, min_size=1, max_size=8), st.integers(-200, 200), roundings)
def test_uniform_shift(values: list[int], shift: int, rounding: str) -> None:
    expected = [clamped(rounded(scaled(v, shift), rounding), INT64_MIN, INT64_MAX) for v in values]
    assert round_shift(np.array(values), shift, rounding).tolist() == expected


@given(st.lists(st.tuples(int64s, st.integers(-80, 80)), min_size=1, max_size=8), roundings)
def test_shift_per_element(pairs: list[tuple[int, int]], rounding: str) -> None:
    values, shifts = np.array(pairs, np.int64).T
    expected = [clamped(rounded(scaled(v, s), rounding), INT64_MIN, INT64_MAX) for v, s in pairs]
    assert round_shift(values, shifts, rounding).tolist() == expected


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_shift_broadcasts_and_keeps_the_operand(rounding: str) -> None:
    x = np.arange(-6, 6).reshape(2, 1, 6)
    before = x.copy()
    y = round_shift(x, np.array([[1], [2], [3]]), rounding)
    assert y.shape == (2, 3, 6)
    for i, shift in enumerate((1, 2, 3)):
        np.testing.assert_array_equal(y[:, i], round_shift(x[:, 0], shift, rounding))
    assert round_shift(x, np.array([[2], [2]]), rounding).shape == (2, 2, 6)
    np.testing.assert_array_equal(x, before)
    assert round_shift(np.zeros((0, 3), np.int8), 2, rounding).shape == (0, 3)


def test_scalars_and_unknown_roundings() -> None:
    assert int(round_shift(5, 1)) == 3
    with pytest.raises(ValueError, match="unknown rounding 'up'"):
        round_shift(5, 1, "up")
    with pytest.raises(TypeError, match="float64"):
        as_int64(np.zeros(2))


@given(int64s, int64s.filter(lambda v: v > 0), roundings)
def test_division(a: int, b: int, rounding: str) -> None:
    expected = rounded(Fraction(a, b), rounding)
    assert int(rounded_division(np.array([a]), np.array([b]), rounding)[0]) == expected


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6))
def test_bit_length(values: list[int]) -> None:
    assert bit_length(np.array(values)).tolist() == [v.bit_length() for v in values]


@given(st.integers(0, 2**32 - 1), st.integers(-2, 2))
def test_square_root_around_squares(root: int, offset: int) -> None:
    value = clamped(root * root + offset, 0, 2**64 - 1)
    found = integer_sqrt(np.array([value], np.uint64))
    assert int(found[0]) == math.isqrt(value)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6))
def test_square_root(values: list[int]) -> None:
    found = integer_sqrt(np.array(values, np.uint64))
    assert found.tolist() == [math.isqrt(v) for v in values]


@given(int64s, st.integers(-255, 255))
def test_saturation_with_offset_never_wraps(value: int, offset: int) -> None:
    found = saturate_offset(np.array([value]), offset, -128, 127)
    assert int(found[0]) == clamped(value + offset, -128, 127)


def test_products_are_checked() -> None:
    assert magnitude(np.array([-(2**63), 5])) == 2**63
    check_product("x", np.array([2**31]), np.array([2**31]))
    with pytest.raises(VitError, match="x: an intermediate may need 66 bits"):
        check_product("x", np.array([2**32]), np.array([2**31]), extra_bits=1)
