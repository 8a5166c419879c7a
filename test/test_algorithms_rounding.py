"""Weight rounding: compensation lowers the output error and survives degenerate moments."""

import itertools

import numpy as np
import pytest

from vit_opt.dialects.vit.semantics.convolution import conv2d
from vit_opt.dialects.vit.semantics.linear import linear
from vit_opt.passes.algorithms.exponents import covering_fracs, output_error
from vit_opt.passes.algorithms.rounding import (
    SecondMoments,
    round_compensated,
    round_nearest,
)
from vit_opt.passes.algorithms.windows import unfold


def problem(rows: int, size: int, samples: int, seed: int = 0):
    """Correlated inputs with one feature 1000 times larger, one absent, one row of zeros."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(size, size)) / np.sqrt(size)
    x = generator.normal(size=(samples, size)) @ mixing + generator.normal(size=(samples, 1))
    x[:, 1] *= 1000.0
    x[:, 2] = 0.0
    weight = generator.normal(size=(rows, size)) * 0.05
    weight[0] = 0.0
    moments = SecondMoments(size)
    moments.update(x[: samples // 2])
    moments.update(x[samples // 2 :])
    np.testing.assert_allclose(moments.matrix(), x.T @ x, rtol=1e-9, atol=1e-6)
    assert moments.rows == samples
    return weight, moments.matrix()


def errors(weight, moments, frac, codes):
    return output_error(np.ldexp(codes.astype(float), -frac[:, None]) - weight, moments)


@pytest.mark.parametrize("limit", [(-128, 127), (-8, 7)])
@pytest.mark.parametrize("shape", [(24, 40, 400), (10, 300, 100)])
def test_compensation_lowers_the_output_error(limit, shape) -> None:
    weight, moments = problem(*shape)
    frac = covering_fracs(weight.min(1), weight.max(1), *limit)
    nearest = round_nearest(weight, frac, *limit)
    codes = round_compensated(weight, moments, frac, *limit)
    before, after = (errors(weight, moments, frac, c) for c in (nearest, codes))
    assert (after <= before).all()
    assert after.sum() < 0.8 * before.sum()
    assert codes.min() >= limit[0] and codes.max() <= limit[1]
    assert (codes[0] == 0).all()
    np.testing.assert_array_equal(codes, round_compensated(weight, moments, frac, *limit))


def test_close_to_the_best_of_all_roundings() -> None:
    """Up or down for each of 8 weights: 256 choices; the procedure is close to the best."""
    weight, moments = problem(6, 8, 60, seed=3)
    frac = np.full(6, 5)
    codes = round_compensated(weight, moments, frac, -128, 127)
    found = errors(weight, moments, frac, codes)
    floor = np.floor(np.ldexp(weight, 5)).astype(np.int64)
    best = np.full(6, np.inf)
    for choice in itertools.product((0, 1), repeat=8):
        best = np.minimum(best, errors(weight, moments, frac, floor + np.array(choice)))
    nearest = errors(weight, moments, frac, round_nearest(weight, frac, -128, 127))
    assert found.sum() <= 2.0 * best.sum() + 1e-9
    assert best.sum() < nearest.sum()


def test_without_correlation_it_is_nearest() -> None:
    weight = np.random.default_rng(6).normal(size=(5, 9))
    frac = np.full(5, 4)
    nearest = round_nearest(weight, frac, -128, 127)
    for moments in (np.eye(9), np.zeros((9, 9)), np.diag(np.arange(9.0))):
        codes = round_compensated(weight, moments, frac, -128, 127)
        np.testing.assert_array_equal(codes, nearest)


def test_singular_moments_and_bad_ones() -> None:
    x = np.ones((1, 6))
    weight = np.full((2, 6), 0.3)
    codes = round_compensated(weight, x.T @ x, np.array([0, 1]), -128, 127)
    assert codes.sum(axis=1).tolist() == [2, 4]
    with pytest.raises(ValueError, match="infinite values or NaN"):
        round_compensated(weight, np.full((6, 6), np.nan), 0, -8, 7)
    assert round_compensated(np.zeros((2, 0)), np.zeros((0, 0)), 0, -8, 7).shape == (2, 0)


def test_nearest_of_a_convolution_weight() -> None:
    weight = np.array([0.26, -9.0, 0.5, 0.375]).reshape(2, 1, 2, 1)
    codes = round_nearest(weight, np.array([2, 3]), -8, 7)
    assert codes.ravel().tolist() == [1, -8, 4, 3]
    assert round_nearest(weight, 0, -8, 7).ravel().tolist() == [0, -8, 0, 0]


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("dilations", [(1, 1), (2, 1)])
def test_unfolded_convolution_is_linear(strides, dilations) -> None:
    generator = np.random.default_rng(8)
    x = generator.integers(-9, 10, (2, 7, 8, 3))
    weight = generator.integers(-9, 10, (5, 3, 2, 3))
    pads = (1, 0, 2, 1)
    windows = unfold(x, (3, 2), strides, pads, dilations)
    expected = conv2d(x, weight, None, strides, pads, dilations)
    np.testing.assert_array_equal(linear(windows, weight.reshape(5, -1)), expected)
