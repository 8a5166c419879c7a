"""LayerNorm against unbounded integers and the real function."""

import math

import numpy as np
import pytest
from exact import clamped, rounded, roundings, scaled
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.layernorm import layernorm, layernorm_eps, normalise


def exact_norm(row: list[int], eps_q: int) -> list[int]:
    """docs/numerics.md 6.3 up to N_c."""
    channels, total = len(row), sum(row)
    variance = channels * sum(v * v for v in row) - total * total + eps_q
    root = max(1, math.isqrt(variance << 12))
    bits = root.bit_length()
    factor = 2 ** (bits + 16) // root
    return [rounded(scaled((channels * v - total) * factor, bits), "rhu") for v in row]


rows = st.one_of(
    st.lists(st.integers(-128, 127), min_size=1, max_size=40),
    st.lists(st.sampled_from([-32768, 32767, 0, 1]), min_size=1, max_size=40),
    st.lists(st.integers(-(2**25), 2**25), min_size=1, max_size=12),
)


@given(rows, st.integers(0, 5000))
def test_normalise(row: list[int], eps_q: int) -> None:
    assert normalise(np.array([row]), eps_q)[0].tolist() == exact_norm(row, eps_q)


@pytest.mark.parametrize("channels", [1024, 1536, 2047, 2048, 2560, 8191, 32767])
def test_extremes_of_wide_rows(channels: int) -> None:
    """V << 12 passes 63 bits here, and from 2048 channels on or with PTF shifts 64."""
    row = np.where(np.arange(channels) % 2, 32767, -32768)
    one = np.zeros(channels, np.int64)
    one[5] = 32767
    for x in (row, one, row << 3 if channels < 2**13 else -row):
        assert normalise(x[None])[0].tolist() == exact_norm(x.tolist(), 0)


@given(
    st.lists(st.integers(-128, 127), min_size=2, max_size=24),
    st.integers(0, 2**32),
    st.tuples(st.integers(3, 9), st.integers(0, 20), st.integers(0, 8)),
    roundings,
)
@settings(max_examples=60)
def test_layernorm(row, seed, fracs, rounding) -> None:
    """With PTF shifts, zero points, negative gamma, rounded beta shift, per-channel frac."""
    generator = np.random.default_rng(seed)
    size, (frac_g, frac_b, frac_o) = len(row), fracs
    gamma = generator.integers(-128, 128, size)
    beta = generator.integers(-(2**20), 2**20, size)
    ptf, smooth = generator.integers(0, 4, size), generator.integers(-2, 3, size)
    aligned = [(v - 3) << int(a) for v, a in zip(row, ptf, strict=True)]
    norm = exact_norm(aligned, 77)
    expected: list[int] = []
    for c in range(size):
        offset = rounded(scaled(int(beta[c]), frac_b - frac_g - 10), rounding)
        total = norm[c] * int(gamma[c]) + offset
        shift = 10 + frac_g - (frac_o - int(smooth[c]))
        expected.append(clamped(rounded(scaled(total, shift), rounding) + 9, -128, 127))
    found = layernorm(
        np.array([row]),
        gamma,
        beta,
        frac_g,
        frac_b,
        frac_o - smooth,
        -128,
        127,
        input_shift=ptf,
        eps_q=77,
        zp_in=3,
        zp_out=9,
        rounding=rounding,
    )
    assert found[0].tolist() == expected


def test_constant_row_gives_beta() -> None:
    beta = np.array([-64, 0, 200])
    y = layernorm(np.full((2, 3), 77), np.array([50, -50, 9]), beta, 6, 8, 6, -128, 127)
    assert y.tolist() == [[-16, 0, 50]] * 2


@pytest.mark.parametrize("spread", [1.0, 30.0, 2000.0])
def test_close_to_the_real_layernorm(spread: float) -> None:
    generator = np.random.default_rng(4)
    x = np.clip(generator.normal(0, spread, (20, 384)), -32768, 32767).astype(np.int64)
    gamma, beta = generator.integers(-127, 128, 384), generator.integers(-4096, 4096, 384)
    y = layernorm(x, gamma, beta, 6, 12, 4, -128, 127)
    normal = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    real = np.clip((normal * gamma / 64 + beta / 4096) * 16, -128, 127)
    assert np.abs(y - real).max() < 0.53


def test_epsilon() -> None:
    assert layernorm_eps(1e-6, 192, 8) == 2416
    assert layernorm_eps(1e-12, 64, 0) == 0


def test_impossible_widths_are_refused() -> None:
    with pytest.raises(VitError, match="variance"):
        normalise(np.full((1, 4096), 2**31 - 1))
    with pytest.raises(VitError, match="beta"):
        x = np.arange(4)[None]
        layernorm(x, np.ones(4, int), np.full(4, 2**31 - 1), 6, -40, 4, -128, 127)
