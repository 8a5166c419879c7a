"""Tables and shift GELU against their formulas, and against the real functions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from exact import clamped, rounded
from hypothesis import given
from hypothesis import strategies as st

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.activation import (
    FUNCTIONS,
    lut,
    lut16,
    make_table,
    make_table16,
    shift_gelu,
)


def exact_shift_gelu(x: int, e: int) -> int:
    """docs/numerics.md 5, the standard form, as printed."""
    a = abs(x)
    u = 2 * a + (a >> 1) - (a >> 4) + (a >> 6)
    n = 15
    p = max(-u, -n << e)
    q = -p >> e
    r = p + (q << e)
    exponential = math.floor(Fraction(r + (2 << e)) * Fraction(2) ** (n - q - 1))
    one = 2 ** (e + n)
    factor = (2**31 - 1) // (one + exponential)
    numerator = one if x >= 0 else exponential
    return x * ((numerator * factor + 2**23) >> 24)


@given(st.integers(-32768, 32767), st.integers(0, 15))
def test_shift_gelu(x: int, frac: int) -> None:
    assert int(shift_gelu(np.array([x]), frac)[0]) == exact_shift_gelu(x, frac)


@given(st.integers(-128, 127), st.integers(-6, -1))
def test_shift_gelu_of_a_coarse_grid(x: int, frac: int) -> None:
    """A negative frac means integers above 1: GELU is the identity or zero there, nearly."""
    found = int(shift_gelu(np.array([x]), frac)[0])
    aligned = exact_shift_gelu(x << -frac, 0)
    assert Fraction(aligned, 1 << -frac) == found


@pytest.mark.parametrize("frac", [3, 4, 5])
def test_shift_gelu_is_close_to_gelu(frac: int) -> None:
    x = np.arange(-128, 128)
    y = shift_gelu(x, frac) * 2.0 ** -(frac + 7)
    assert np.abs(y - FUNCTIONS["gelu"](x * 2.0**-frac)).max() < 0.0315


def test_functions_have_their_known_values() -> None:
    x = np.array([-2.0, 0.0, 1.0, 3.0])
    expected = {
        "gelu": [-0.04550026, 0.0, 0.84134475, 2.99595031],
        "gelu_tanh": [-0.04540231, 0.0, 0.84119199, 2.99636261],
        "sigmoid": [0.11920292, 0.5, 0.73105858, 0.95257413],
        "silu": [-0.23840584, 0.0, 0.73105858, 2.85772238],
        "hardswish": [-1 / 3, 0.0, 2 / 3, 3.0],
        "relu6": [0.0, 0.0, 1.0, 3.0],
        "softplus": [0.12692801, 0.69314718, 1.31326169, 3.04858735],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(FUNCTIONS[name](x), values, atol=1e-8)
    for function in FUNCTIONS.values():
        assert np.isfinite(function(np.array([-500.0, 500.0]))).all()


@given(
    st.sampled_from(sorted(FUNCTIONS)),
    st.sampled_from([-128, 0]),
    st.integers(0, 9),
    st.integers(0, 200),
    st.integers(3, 8),
    st.integers(0, 40),
)
def test_table(name, low_in, frac_in, zp_in, frac_out, zp_out) -> None:
    """Every code of an 8-bit format, signed or unsigned, with zero points."""
    function, zp_in = FUNCTIONS[name], zp_in + low_in
    table = make_table(function, 2.0**-frac_in, 2.0**-frac_out, low_in, -128, 127, zp_in, zp_out)
    codes = np.arange(low_in, low_in + 256)
    reals = function((codes - zp_in) * 2.0**-frac_in) * 2.0**frac_out
    expected = [clamped(math.floor(r + 0.5) + zp_out, -128, 127) for r in reals.tolist()]
    assert lut(codes, table, low_in).tolist() == expected


def test_table_of_16_bit_codes_interpolates() -> None:
    table = make_table16(FUNCTIONS["gelu"], 2.0**-12, 2.0**-12, -32768, -32768, 32767)
    assert table.shape == (257,)
    x = np.arange(-32768, 32768)
    y = lut16(x, table, -32768)
    real = FUNCTIONS["gelu"](x * 2.0**-12) * 2.0**12
    assert np.abs(y - real)[x < 32000].max() < 4
    for code in (-32768, -32513, -1, 0, 255, 1000, 32767):
        index, weight = (code + 32768) >> 8, (code + 32768) & 255
        slope = int(table[index + 1] - table[index]) * weight
        expected = int(table[index]) + rounded(Fraction(slope, 256), "rhu")
        assert int(lut16(np.array(code), table, -32768)) == expected


def test_table_without_a_value_is_refused() -> None:
    with np.errstate(divide="ignore"), pytest.raises(VitError, match="no finite value at 0"):
        make_table(lambda x: 1.0 / x, 1.0, 1.0, -128, -128, 127)
