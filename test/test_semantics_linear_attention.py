"""ReLU linear attention against unbounded integers and the real quotient."""

import math

import numpy as np
import pytest
from exact import clamped, rounded, roundings, scaled
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.linear_attention import linear_attention, rounded_log2


@given(
    st.integers(0, 2**32),
    st.tuples(st.integers(0, 12), st.integers(0, 8), st.integers(-3, 3)),
    st.sampled_from(["recip", "pot"]),
    roundings,
    st.booleans(),
)
@settings(max_examples=60)
def test_linear_attention(seed, shifts, divisor, rounding, extreme) -> None:
    generator = np.random.default_rng(seed)
    s1, s2, shift = shifts
    q, k = generator.integers(0, 128, (2, 1, 5, 3))
    v = generator.integers(-128, 128, (1, 5, 4))
    q[0, 2] = 0
    if extreme:
        k[:], v[:] = 127, np.where(v > 0, 127, -128)
    found = linear_attention(q, k, v, s1, s2, shift, -128, 127, divisor, 4, rounding, v_zp=2)
    keys = [clamped(rounded(scaled(int(k[0, :, i].sum()), s2), rounding), 0, 255) for i in range(3)]
    for n, j in np.ndindex(5, 4):
        state = [
            rounded(
                scaled(sum(int(k[0, t, i]) * (int(v[0, t, j]) - 2) for t in range(5)), s1), rounding
            )
            for i in range(3)
        ]
        numerator = sum(int(q[0, n, i]) * clamped(state[i], -128, 127) for i in range(3))
        denominator = sum(int(q[0, n, i]) * keys[i] for i in range(3))
        c = s2 - s1 + shift
        if denominator == 0:
            exact = 0
        elif divisor == "recip":
            bits = denominator.bit_length()
            factor = 2 ** (bits + 15) // denominator
            exact = rounded(scaled(numerator * factor, bits + 15 + c), rounding)
        else:
            exact = rounded(scaled(numerator, round(math.log2(denominator)) + c), rounding)
        assert found[0, n, j] == clamped(exact + 4, -128, 127)


@given(st.integers(0, 31), st.integers(-3, 3), st.integers(1, 2**32 - 1))
def test_rounded_log2(b: int, offset: int, anything: int) -> None:
    """Rounds up exactly when x > sqrt(2) * 2**b, that is x**2 > 2**(2b+1); hardest next to it."""
    for x in (anything, clamped(math.isqrt(2 ** (2 * b + 1)) + offset, 1, 2**32 - 1)):
        octave = x.bit_length() - 1
        expected = octave + (x * x > 2 ** (2 * octave + 1))
        assert int(rounded_log2(np.array([x]))[0]) == expected


def test_negative_queries_are_refused() -> None:
    good, bad = np.ones((2, 3), np.int64), np.array([[1, -1, 0], [0, 0, 0]])
    with pytest.raises(VitError, match="q holds negative codes"):
        linear_attention(bad, good, good, 0, 0, 0, -128, 127)
    with pytest.raises(VitError, match="k holds negative codes"):
        linear_attention(good, bad, good, 0, 0, 0, -128, 127)
