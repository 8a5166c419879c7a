"""Requantisation, addition and product against fractions."""

from fractions import Fraction

import numpy as np
import pytest
from exact import clamped, int64s, rounded, roundings, scaled
from hypothesis import given
from hypothesis import strategies as st

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.requant import (
    add,
    clamp,
    dyadic_add,
    dyadic_multiplier,
    dyadic_requant,
    mul,
    pot_requant,
)

int32s = st.integers(-(2**31), 2**31 - 1)
limits = st.sampled_from([(-128, 127), (0, 255), (-8, 7), (-32768, 32767)])


@given(int32s, st.integers(-40, 70), limits, st.integers(-9, 9), st.integers(0, 7), roundings)
def test_pot_requant(x, shift, limit, zp_in, zp_out, rounding) -> None:
    expected = clamped(rounded(scaled(x - zp_in, shift), rounding) + zp_out, *limit)
    found = pot_requant(np.array([x]), shift, *limit, zp_in, zp_out, rounding)
    assert int(found[0]) == expected


def test_pot_requant_per_channel() -> None:
    x = np.arange(-60, 60).reshape(2, 3, 20) * 7
    shift, zero = np.arange(-3, 17), np.arange(20)
    found = pot_requant(x, shift, -128, 127, zp_in=zero)
    for c in range(20):
        expected = pot_requant(x[..., c], int(shift[c]), -128, 127, int(zero[c]))
        np.testing.assert_array_equal(found[..., c], expected)


@given(int32s, st.floats(1e-9, 1e6), limits, roundings)
def test_dyadic(x, ratio, limit, rounding) -> None:
    m, shift = dyadic_multiplier(ratio)
    assert 2**30 <= int(m) < 2**31
    assert abs(scaled(int(m), int(shift)) / Fraction(ratio) - 1) <= Fraction(1, 2**31)
    expected = clamped(rounded(scaled(x * int(m), int(shift)), rounding), *limit)
    assert int(dyadic_requant(np.array([x]), m, shift, *limit, rounding=rounding)[0]) == expected


def test_dyadic_multiplier_fits_int32_at_the_top_and_keeps_signs() -> None:
    ratio = np.array([1 - 2.0**-40, -(1 - 2.0**-40), -0.75, 0.5])
    m, shift = dyadic_multiplier(ratio)
    assert m.tolist() == [2**30, -(2**30), -3 * 2**29, 2**30]
    assert shift.tolist() == [30, 30, 31, 31]


@given(int32s, st.integers(-20, 20), limits)
def test_dyadic_of_a_power_of_two_is_the_shift(x, shift, limit) -> None:
    m, sh = dyadic_multiplier(2.0**-shift)
    expected = pot_requant(np.array([x]), shift, *limit, rounding="rhe")
    assert dyadic_requant(np.array([x]), m, sh, *limit).tolist() == expected.tolist()


@given(
    int32s,
    st.integers(-32768, 32767),
    st.tuples(*[st.integers(-4, 14)] * 3),
    limits,
    st.booleans(),
    roundings,
)
def test_add(a, b, fracs, limit, separate, rounding) -> None:
    fa, fb, fo = fracs
    if separate:
        exact = rounded(scaled(a, fa - fo), rounding) + rounded(scaled(b, fb - fo), rounding)
    else:
        exact = rounded(scaled(a, fa - fo) + scaled(b, fb - fo), rounding)
    found = add(np.array([a]), np.array([b]), fa, fb, fo, *limit, (0, 0, 0), rounding, separate)
    assert int(found[0]) == clamped(exact, *limit)


def test_add_of_accumulator_per_channel_and_residual_broadcasts() -> None:
    acc = np.array([[1000, -2000, 3000]])
    residual = np.array([[5], [-7]])
    fracs = np.array([9, 10, 11])
    found = add(acc, residual, fracs, 4, 6, -32768, 32767, (0, 2, 1))
    for i in range(2):
        for c in range(3):
            exact = scaled(int(acc[0, c]), int(fracs[c]) - 6) + scaled(int(residual[i, 0]) - 2, -2)
            assert found[i, c] == rounded(exact, "rhu") + 1


def test_dyadic_add_rounds_each_operand() -> None:
    m, shift = dyadic_multiplier(0.5)
    a, b = np.array([1, 3]), np.array([1, 3])
    found = dyadic_add(a, b, (m, m), (shift, shift), -128, 127, (0, 0, 3))
    assert found.tolist() == [3, 7]


@given(st.integers(-32768, 32767), int32s, st.integers(-5, 50), limits, roundings)
def test_mul(a, b, shift, limit, rounding) -> None:
    expected = clamped(rounded(scaled((a - 1) * (b + 2), shift), rounding) + 3, *limit)
    found = mul(np.array([a]), np.array([b]), shift, *limit, (1, -2, 3), rounding)
    assert int(found[0]) == expected


@given(int64s)
def test_clamp(x: int) -> None:
    assert int(clamp(np.array([x]), 0, 96)[0]) == clamped(x, 0, 96)


def test_impossible_widths_are_refused() -> None:
    wide = np.array([2**31 - 1])
    with pytest.raises(VitError, match="addition: an intermediate may need"):
        add(wide, wide, 0, 40, 0, -128, 127)
    with pytest.raises(VitError, match="product"):
        mul(wide << 20, wide, 0, -128, 127)
