"""Choice of power-of-two scales, zero points and real scales, also for degenerate tensors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vit_opt.passes.algorithms.affine import SMALLEST_SCALE, affine_range, symmetric_rows
from vit_opt.passes.algorithms.exponents import (
    FRAC_FLOOR,
    FRAC_LIMIT,
    candidate_fracs,
    covering_asymmetric,
    covering_frac,
    covering_fracs,
    fake_quantize,
    limit_for_bias,
    search_tensor,
    search_tensor_asymmetric,
    search_weight,
)

reals = st.floats(-1e6, 1e6)
limits = st.sampled_from([(-128, 127), (-8, 7), (-32768, 32767), (0, 255)])


def code(value: float, frac: int) -> int:
    return math.floor(math.ldexp(value, frac) + 0.5)


@given(reals, reals, limits)
def test_covering_is_the_finest_grid_without_saturation(a, b, limit) -> None:
    low, high = limit
    if low == 0:
        a, b = abs(a), abs(b)
    minimum, maximum = min(a, b, 0.0), max(a, b, 0.0)
    frac = covering_frac(a, b, low, high) if a <= b else covering_frac(b, a, low, high)
    assert low <= code(minimum, frac) and code(maximum, frac) <= high
    if frac < FRAC_LIMIT:
        finer = frac + 1
        assert code(minimum, finer) < low or code(maximum, finer) > high


@given(reals, reals, limits)
def test_covering_with_a_zero_point(a, b, limit) -> None:
    low, high = limit
    minimum, maximum = min(a, b), max(a, b)
    frac, zero = covering_asymmetric(minimum, maximum, low, high)
    minimum, maximum = min(minimum, 0.0), max(maximum, 0.0)
    assert low <= zero <= high
    assert low <= code(minimum, frac) + zero and code(maximum, frac) + zero <= high
    if frac < FRAC_LIMIT:
        assert code(maximum, frac + 1) - code(minimum, frac + 1) > high - low


def test_known_exponents() -> None:
    assert covering_frac(-1.0, 1.0, -128, 127) == 6
    assert covering_frac(-0.99, 0.99, -128, 127) == 7
    assert covering_frac(-1.0, 0.5, -128, 127) == 7
    # GELU: the minimum is known, the spare codes lie at the top.
    assert covering_asymmetric(-0.17, 5.0, 0, 255) == (5, 5)
    assert covering_frac(0.0, 0.0, -128, 127) == FRAC_LIMIT
    assert covering_frac(-1e-30, 0.0, -128, 127) == FRAC_LIMIT
    assert covering_frac(-1e30, 0.0, -128, 127) == FRAC_FLOOR
    assert covering_asymmetric(0.0, 0.0, 0, 255) == (FRAC_LIMIT, 0)
    assert covering_asymmetric(3.0, 3.0, 0, 255) == (6, 0)
    with pytest.raises(ValueError, match="finite"):
        covering_frac(-math.inf, 0.0, -128, 127)
    with pytest.raises(ValueError, match="finite"):
        covering_asymmetric(0.0, math.nan, 0, 255)


def test_channels_are_independent_and_empty_ones_stay_coarse() -> None:
    maximum = np.array([1000.0, 1.0, 0.0, 0.9])
    assert covering_fracs(-maximum, maximum, -128, 127).tolist() == [-3, 6, -3, 7]
    assert covering_fracs(np.zeros(3), np.zeros(3), -128, 127).tolist() == [0, 0, 0]


@given(st.floats(-1e9, 1e9), st.integers(-8, 16))
def test_bias_fits_at_its_limit(bias: float, frac_x: int) -> None:
    frac = int(limit_for_bias(np.array([bias]), frac_x)[0])
    assert abs(math.ldexp(bias, frac + frac_x)) <= 2**30


def test_candidates() -> None:
    assert candidate_fracs(0.3) == [3, 2, 1, 0]
    assert candidate_fracs(0.25) == [3, 2, 1, 0]
    assert candidate_fracs(0.0) == [0]


def test_search_prefers_clipping_of_a_lonely_outlier() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(0, 1, 20000)
    x[0] = 30.0
    assert search_tensor(x, -8, 7) > covering_frac(x.min(), x.max(), -8, 7)
    assert search_tensor(np.zeros(5), -128, 127) == 0
    assert search_tensor(np.full(5, 3.0), -128, 127) == 5
    assert search_tensor_asymmetric(np.zeros(5), 0, 255)[1] == 0


def test_weight_search_sees_the_data() -> None:
    """A feature that never occurs does not count, however large its weight."""
    weight = np.array([[0.9, 100.0], [0.0, 0.0]])
    moments = np.diag([1.0, 0.0])
    fracs = search_weight(weight, moments, -128, 127)
    assert fracs.tolist() == [2, 0]
    assert search_weight(weight, np.eye(2), -128, 127).tolist() == [0, 0]
    assert search_weight(weight, np.eye(2), -128, 127, per_channel=False).shape == (1,)


def test_fake_quantisation_per_channel() -> None:
    t = np.array([[0.3, 0.3], [9.0, -9.0]])
    found = fake_quantize(t, np.array([2, 4]), -128, 127)
    assert found.tolist() == [[0.25, 0.3125], [9.0, -8.0]]


def test_real_scales_of_degenerate_tensors() -> None:
    codes, scales = symmetric_rows(np.array([[0.0, 0.0], [1000.0, -1.0]]), 8)
    assert codes.tolist() == [[0, 0], [127, 0]]
    assert scales[0] == np.float32(SMALLEST_SCALE)
    for method in ("max", "max_scale", "mse"):
        zero = affine_range(np.zeros(4), 8, method)
        assert zero.scale > 0 and zero.zero_point == 0
    constant = affine_range(np.full(4, -2.0), 8)
    assert constant.zero_point == 255
    np.testing.assert_allclose(constant.reals(constant.codes(np.full(4, -2.0), 0, 255)), -2.0)
