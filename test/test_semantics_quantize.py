"""Real numbers to codes and back."""

import math
from fractions import Fraction

import numpy as np
import pytest
from exact import clamped, rounded, roundings
from hypothesis import given
from hypothesis import strategies as st

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.quantize import (
    dequantize,
    dequantize_scaled,
    quantize,
    quantize_scaled,
)


@given(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.integers(-20, 20),
    st.integers(-20, 20),
    roundings,
)
def test_quantize(x: float, frac: int, zero: int, rounding: str) -> None:
    exact = rounded(Fraction(x) * Fraction(2) ** frac, rounding) + zero
    found = quantize(np.array([x], np.float32), frac, -128, 127, zero, rounding)
    assert int(found[0]) == clamped(exact, -128, 127)


def test_neighbours_of_one_half() -> None:
    below = np.nextafter(0.5, 0.0)
    x = np.array([below, 0.5, -0.5, np.nextafter(-0.5, -1.0), 1.5, 2.5])
    assert quantize(x, 0, -128, 127).tolist() == [0, 1, 0, -1, 2, 3]
    assert quantize(x, 0, -128, 127, rounding="rhe").tolist() == [0, 0, 0, -1, 2, 2]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(VitError, match="1 of 2 values are NaN or infinite"):
        quantize([value, 0.0], 3, 0, 255)


def test_per_channel_round_trip() -> None:
    frac, zero = np.array([0, 3, 7]), np.array([0, -5, 9])
    codes = np.arange(-12, 12).reshape(8, 3)
    reals = dequantize(codes, frac, zero)
    assert reals.dtype == np.float32
    np.testing.assert_array_equal(quantize(reals, frac, -128, 127, zero), codes)
    scale = np.array([0.013, 1.7, 3e-5])
    reals = dequantize_scaled(codes, scale, zero)
    np.testing.assert_array_equal(quantize_scaled(reals, scale, -128, 127, zero), codes)
