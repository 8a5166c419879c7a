"""The softmaxes against the formulas in unbounded integers, and against the real softmax."""

import math
from fractions import Fraction

import numpy as np
import pytest
from exact import clamped, exp_segment, rounded, roundings, scaled
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.linear import matmul
from vit_opt.dialects.vit.semantics.softmax import (
    EXP_TABLE,
    exp_shift,
    log2_matmul,
    log2_softmax,
    log_int_softmax,
    normalize,
    reciprocal,
    shiftmax,
    softmax_exp,
    step_of,
)

scores = st.lists(st.integers(-32768, 32767), min_size=1, max_size=9)
wide_scores = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=9)


@given(wide_scores, st.integers(-8, 40))
def test_exponentials_and_sum(row: list[int], frac: int) -> None:
    p, total = softmax_exp(np.array([row]), frac)
    largest = max(row)
    index = [min(255, rounded(scaled(largest - s, frac - 4), "rhu")) for s in row]
    assert p[0].tolist() == [math.floor(255 * math.exp(-u / 16) + 0.5) for u in index]
    assert total.tolist() == [[sum(p[0].tolist())]]
    assert int(total[0, 0]) >= 255 and int(p.max()) == 255


def test_exponential_table_is_far_from_rounding_ties() -> None:
    """The table does not depend on the last digits of exp."""
    fraction = np.mod(255.0 * np.exp(-np.arange(256) / 16.0), 1.0)
    assert np.abs(fraction - 0.5).min() > 1e-6
    assert EXP_TABLE[0] == 255 and EXP_TABLE[255] == 0


@given(
    st.integers(-(2**31), 2**31 - 1),
    st.integers(1, 2**32 - 1),
    st.integers(-20, 20),
    st.integers(-3, 3),
    roundings,
)
def test_normalize(acc: int, total: int, shift: int, zero: int, rounding: str) -> None:
    bits = total.bit_length()
    factor = 2 ** (bits + 15) // total
    assert 2**15 <= factor <= 2**16
    expected = rounded(scaled(acc * factor, bits + 15 + shift), rounding) + zero
    found = normalize(np.array([[acc]]), np.array([[total]]), shift, -128, 127, zero, rounding)
    assert int(found[0, 0]) == clamped(expected, -128, 127)


def test_deferred_softmax_approximates_attention() -> None:
    generator = np.random.default_rng(0)
    s = generator.integers(-400, 400, (3, 50, 197))
    v = generator.integers(-128, 128, (3, 197, 16))
    p, total = softmax_exp(s, 6)
    y = normalize(matmul(p, v), total, 5 - 11, -32768, 32767) / 2.0**11
    weight = np.exp((s - s.max(axis=-1, keepdims=True)) / 64.0)
    exact = weight / weight.sum(axis=-1, keepdims=True) @ (v / 32.0)
    assert np.abs(y - exact).max() < 0.03


def test_empty_sum_is_refused() -> None:
    with pytest.raises(VitError, match="a row sum is 0"):
        normalize(np.zeros((2, 3), np.int64), np.array([[255], [0]]), 0, -128, 127)


@given(st.integers(1, 2**40), st.sampled_from([15, 16]))
def test_reciprocal(value: int, precision: int) -> None:
    found, bits = reciprocal(np.array([value]), precision)
    assert int(bits[0]) == value.bit_length()
    assert int(found[0]) == 2 ** (value.bit_length() + precision) // value


@given(st.integers(-70000, 0), st.integers(1, 300), st.sampled_from([15, 16, 23]))
def test_shift_exponential(d: int, step: int, n: int) -> None:
    assert int(exp_shift(np.array([d]), step, n)[0]) == exp_segment(d, step, n)


@given(st.integers(1, 127), st.sampled_from([5, 10, 151]))
def test_shift_exponential_of_positive_arguments_saturates(d: int, step: int) -> None:
    found = int(exp_shift(np.array([d]), step, 23)[0])
    exact = exp_segment(d, step, 23)
    assert found == exact or (found >= 2**61 and exact >= 2**61)


@given(
    scores,
    st.integers(0, 10),
    st.sampled_from([8, 16]),
    st.sampled_from(["rhu", "floor"]),
    st.sampled_from([2**31 - 1, 2**31]),
)
def test_shiftmax(row: list[int], frac: int, bits: int, rounding: str, numerator: int) -> None:
    exponentials = [exp_segment(x - max(row), 1 << frac, 15) for x in row]
    factor = numerator // min(sum(exponentials), 2**31 - 1)
    expected = [
        min(rounded(scaled(e * factor, 32 - bits), rounding), 2 ** (bits - 1) - 1)
        for e in exponentials
    ]
    found = shiftmax(np.array([row]), step_of(frac), bits, 15, rounding, numerator)
    assert found[0].tolist() == expected


def test_shift_softmax_needs_a_representable_step() -> None:
    for frac in (-1, 16):
        with pytest.raises(VitError, match="0 to 15 fractional bits"):
            step_of(frac)


@given(scores, st.integers(0, 10))
def test_log2_softmax(row: list[int], frac: int) -> None:
    exponentials = [exp_segment(x - max(row), 1 << frac, 15) for x in row]
    total = sum(exponentials)
    expected = [sum(2 * total >= 3 * 2**j * e for j in range(15)) for e in exponentials]
    assert log2_softmax(np.array([row]), 1 << frac)[0].tolist() == expected


@given(st.lists(st.integers(0, 15), min_size=4, max_size=4), st.integers(-9, 9))
def test_log2_product(codes: list[int], zero: int) -> None:
    v = np.arange(-128, 128, 32).reshape(4, 2)
    weight = [0 if c == 15 else 2 ** (14 - c) for c in codes]
    expected = np.array([weight]) @ (v - zero)
    np.testing.assert_array_equal(log2_matmul(np.array([codes]), v, zero), expected)


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=7), st.integers(3, 7))
@settings(max_examples=50)
def test_published_log_softmax_is_the_comparator_ladder(row: list[int], frac: int) -> None:
    """code = [2S >= 3E] + [2S > 5E] + sum_{j>=2} [2S >= (3*2^j - 1)E], docs/numerics.md 7."""
    step, n = 1 << frac, 32
    b0, c0 = int(0.96963238 / 0.35815147 * step), int(1 / 0.35815147 * step**2)
    octave = math.ceil(0.6931 * step)
    exponentials: list[int] = []
    for x in row:
        d = max(x - max(row), -n * octave)
        q = -d // octave
        r = d + q * octave
        exponentials.append((r * (r + b0) + c0) << (n - q))
    codes, zero = log_int_softmax(np.array([row]), 2.0**-frac, n)
    for code, is_zero, e in zip(codes[0], zero[0], exponentials, strict=True):
        ratio = Fraction(2 * sum(exponentials), e)
        k = (ratio >= 3) + (ratio > 5) + sum(ratio >= 3 * 2**j - 1 for j in range(2, 40))
        assert (int(code), bool(is_zero)) == (min(k, 15), k >= 16)
