"""Smoothing, PTF and migration: factors per channel, exact where they claim to be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vit_opt.dialects.vit.semantics.convolution import conv2d
from vit_opt.passes.algorithms.exponents import covering_frac, fake_quantize
from vit_opt.passes.algorithms.logarithmic import log2_ceil, log2_codes, log2_round
from vit_opt.passes.algorithms.migration import (
    channel_midpoints,
    migration_exponents,
    migration_ratio,
    migration_reference,
    shifted_bias,
)
from vit_opt.passes.algorithms.ptf import ptf_base, ptf_exponents, ptf_fracs
from vit_opt.passes.algorithms.smoothing import (
    round_pot_linear,
    smoothing_exponents,
    smoothing_ratio,
)


@given(st.floats(2.0**-40, 2.0**40))
def test_linear_midpoint(ratio: float) -> None:
    k = int(round_pot_linear(np.array([ratio]))[0])
    assert 0.75 * 2.0**k < ratio <= 1.5 * 2.0**k


def test_smoothing_balances_outliers_and_survives_empty_channels() -> None:
    x_max = np.array([1.0, 1000.0, 0.0, 1.0, 1e-30])
    w_max = np.array([1.0, 1.0, 1.0, 0.0, 1e30])
    assert smoothing_exponents(x_max, w_max, 0.5).tolist() == [0, 5, 0, 0, -15]
    assert smoothing_ratio(x_max, w_max, 1.0)[1] == 1000.0
    assert smoothing_ratio(x_max, 2 * w_max, 0.0)[1] == 0.5
    assert smoothing_exponents(x_max, w_max, 0.5, limit=3).tolist() == [0, 3, 0, 0, -3]


def test_smoothing_keeps_the_product() -> None:
    generator = np.random.default_rng(0)
    x, w = generator.normal(size=(5, 8)), generator.normal(size=(3, 8))
    p = smoothing_exponents(np.abs(x).max(0), np.abs(w).max(0), 0.5)
    np.testing.assert_array_equal(np.ldexp(x, -p) @ np.ldexp(w, p).T, x @ w.T)


def test_ptf_gives_small_channels_a_finer_grid() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(400, 5)) * np.array([1.0, 2.0, 4.0, 8.0, 0.0])
    fracs = ptf_fracs(x, -128, 127)
    coarsest = covering_frac(x.min(), x.max(), -128, 127)
    assert fracs[:4].tolist() == sorted(fracs[:4].tolist(), reverse=True)
    assert set(fracs.tolist()) <= set(range(coarsest, coarsest + 4))
    per_channel = np.square(fake_quantize(x, fracs, -128, 127) - x).sum()
    assert per_channel < 0.6 * np.square(fake_quantize(x, coarsest, -128, 127) - x).sum()


def test_ptf_of_constant_tensors() -> None:
    for variant in ("fq", "p2"):
        base, zero = ptf_base(np.zeros((3, 2)), -128, 127, variant)
        assert base > 0 and -128 <= zero <= 127
        assert ptf_exponents(np.zeros((3, 2)), base, -128, 127, zero).tolist() == [0, 0]


def test_migration() -> None:
    channel_max = np.array([1.0, 1.0, 1000.0, 0.0, 3.0])
    reference = migration_reference(channel_max, 2.0)
    assert reference == 201.0
    assert migration_exponents(channel_max, 1.0).tolist() == [0, 0, 5, 0, 2]
    assert migration_ratio(channel_max, 1.0).tolist() == [1.0, 1.0, 64.0, 0.1, 3.0]
    assert migration_ratio(np.zeros(3), migration_reference(np.zeros(3), 0.0)).tolist() == [1.0] * 3


def test_filter_wise_shift_returns_through_the_bias() -> None:
    """Exact for grouped weights, and at borders when they are padded with -z."""
    generator = np.random.default_rng(2)
    z = channel_midpoints(np.array([-3.0, 4.0, 0.0, 1.0]), np.array([9.0, 8.0, 0.0, 2.0]))
    assert z.tolist() == [3.0, 6.0, 0.0, 1.5]
    offset = np.rint(z).astype(np.int64)
    for groups in (1, 2, 4):
        x = generator.integers(-128, 128, (1, 5, 5, 4))
        weight = generator.integers(-128, 128, (8, 3, 3, 4 // groups))
        expected = conv2d(x, weight, None, pads=(1, 1, 1, 1), groups=groups)
        bordered = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))) - offset
        bias = shifted_bias(weight, offset)
        np.testing.assert_array_equal(conv2d(bordered, weight, bias, groups=groups), expected)


def test_logarithms() -> None:
    x = np.array([0.0, 1.0, 1.4, 1.42, 3.0, -8.1, 1e9, 1e-9])
    assert log2_round(x).tolist() == [-6, 0, 0, 1, 2, 3, 9, -6]
    assert log2_ceil(x).tolist() == [-12, 0, 1, 1, 2, 4, 11, -12]
    codes, zero = log2_codes(np.array([1.0, 0.5, 2.0**-15, 2.0**-16, 0.0]))
    assert codes.tolist() == [0, 1, 15, 15, 15]
    assert zero.tolist() == [False, False, False, True, True]
