"""Matrix products and convolutions against Python integers and naive loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.convolution import conv2d, conv_transpose2d
from vit_opt.dialects.vit.semantics.linear import exact_type, linear, matmul


def exact_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.astype(object) @ b.astype(object)


@given(
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 40),
    st.sampled_from([7, 8, 15, 16, 25, 31]),
    st.integers(-300, 300),
    st.booleans(),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_matmul_is_exact_at_every_width(batch, m, k, bits, zero, extreme, seed) -> None:
    """Widths are chosen so that float32, float64 and int64 are all used."""
    generator = np.random.default_rng(seed)
    high = 2**bits - 1
    a = generator.integers(-high, high + 1, (batch, m, k))
    b = generator.integers(-high, high + 1, (batch, k, 5))
    if extreme:
        a, b = np.where(a > 0, high, -high), np.full_like(b, high)
        b[..., 0] = -high
    if bits == 31 and k > 1:
        k = 1
        a, b = a[..., :1] // 4, b[:, :1]
    found = matmul(a, b, zero, 1)
    assert (found == exact_matmul(a - zero, b - 1)).all()
    assert (matmul(a, np.swapaxes(b, 1, 2), zero, 1, transpose_b=True) == found).all()


def test_accumulation_types() -> None:
    assert exact_type(2**24 - 1) is np.float32
    assert exact_type(2**24) is np.float64
    assert exact_type(2**53) is np.int64
    with pytest.raises(VitError, match="66 bits"):
        exact_type(2**64)


def test_bound_of_real_magnitudes_not_of_types() -> None:
    """An odd sum just below 2**24 is right; the next one needs float64, and gets it."""
    for k in (1039, 1041, 4097):
        a = np.full((1, k), 127, np.int8)
        b = np.full((k, 1), 127, np.int8)
        a[0, 0] = 125
        assert int(matmul(a, b)[0, 0]) == 127 * 127 * k - 254


def test_linear_zero_points_and_bias() -> None:
    generator = np.random.default_rng(3)
    x = generator.integers(0, 256, (2, 3, 70)).astype(np.uint8)
    w = generator.integers(-128, 128, (9, 70)).astype(np.int8)
    w_zp, bias = np.arange(9), generator.integers(-(2**31), 2**31, 9)
    expected = exact_matmul(x.astype(int) - 7, (w - w_zp[:, None]).T) + bias
    assert (linear(x, w, bias, 7, w_zp) == expected).all()
    assert linear(x[0, 0], w).shape == (9,)


conv_cases = st.fixed_dictionaries(
    {
        "groups": st.sampled_from([1, 2, 3]),
        "per_group": st.sampled_from([1, 2]),
        "multiplier": st.sampled_from([1, 2]),
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "dilations": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "pads": st.tuples(*[st.integers(0, 2)] * 4),
        "zero": st.integers(-5, 5),
        "seed": st.integers(0, 2**32),
    }
)


def operands(case: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(case["seed"])
    channels, outs = case["groups"] * case["per_group"], case["groups"] * case["multiplier"]
    x = generator.integers(-128, 128, (2, 6, 5, channels))
    weight = generator.integers(-128, 128, (outs, *case["kernel"], case["per_group"]))
    return x, weight, generator.integers(-1000, 1000, outs)


def group_slices(case: dict, out_channel: int) -> slice:
    first = out_channel // case["multiplier"] * case["per_group"]
    return slice(first, first + case["per_group"])


@given(conv_cases)
@settings(max_examples=60, deadline=None)
def test_conv2d(case: dict) -> None:
    x, weight, bias = operands(case)
    (kh, kw), (sh, sw), (dh, dw) = case["kernel"], case["strides"], case["dilations"]
    top, left, bottom, right = case["pads"]
    padded = np.pad(x - case["zero"], ((0, 0), (top, bottom), (left, right), (0, 0)))
    height = (padded.shape[1] - dh * (kh - 1) - 1) // sh + 1
    width = (padded.shape[2] - dw * (kw - 1) - 1) // sw + 1
    options = (case["strides"], case["pads"], case["dilations"], case["groups"], case["zero"])
    if height < 1 or width < 1:
        with pytest.raises(VitError, match="does not fit"):
            conv2d(x, weight, bias, *options)
        return
    expected = np.zeros((2, height, width, weight.shape[0]), np.int64) + bias
    for y, z, o in np.ndindex(height, width, weight.shape[0]):
        rows = slice(y * sh, y * sh + dh * (kh - 1) + 1, dh)
        columns = slice(z * sw, z * sw + dw * (kw - 1) + 1, dw)
        window = padded[:, rows, columns, group_slices(case, o)]
        expected[:, y, z, o] += (window * weight[o]).sum(axis=(1, 2, 3))
    assert (conv2d(x, weight, bias, *options) == expected).all()


@given(conv_cases, st.tuples(st.integers(0, 1), st.integers(0, 1)))
@settings(max_examples=60, deadline=None)
def test_conv_transpose2d(case: dict, extra: tuple[int, int]) -> None:
    x, weight, bias = operands(case)
    (kh, kw), (sh, sw), (dh, dw) = case["kernel"], case["strides"], case["dilations"]
    top, left, bottom, right = case["pads"]
    height = 5 * sh - top - bottom + dh * (kh - 1) + 1 + extra[0]
    width = 4 * sw - left - right + dw * (kw - 1) + 1 + extra[1]
    options = (
        case["strides"],
        case["pads"],
        case["dilations"],
        extra,
        case["groups"],
        case["zero"],
    )
    expected = np.zeros((2, height, width, weight.shape[0]), np.int64) + bias
    for y, z, i, j, o in np.ndindex(6, 5, kh, kw, weight.shape[0]):
        row, column = y * sh + i * dh - top, z * sw + j * dw - left
        if 0 <= row < height and 0 <= column < width:
            pixels = x[:, y, z, group_slices(case, o)] - case["zero"]
            expected[:, row, column, o] += (pixels * weight[o, i, j]).sum(axis=1)
    assert (conv_transpose2d(x, weight, bias, *options) == expected).all()


def test_convolution_in_blocks_and_wide_operands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unfolding by blocks of rows changes nothing, nor do 16-bit operands (float64)."""
    generator = np.random.default_rng(1)
    x = generator.integers(-32768, 32768, (1, 11, 9, 4))
    weight = generator.integers(-32768, 32768, (6, 3, 3, 4))
    whole = conv2d(x, weight, None, (2, 1), (1, 1, 1, 1))
    monkeypatch.setattr("vit_opt.dialects.vit.semantics.convolution._COLUMN_ELEMENTS", 700)
    blocks = conv2d(x, weight, None, (2, 1), (1, 1, 1, 1))
    assert (whole == blocks).all()
    unit = linear(x, weight[:, 1, 1])
    assert (conv2d(x, weight[:, 1:2, 1:2]) == unit).all()


def test_weight_zero_point_per_channel() -> None:
    generator = np.random.default_rng(2)
    x = generator.integers(0, 256, (1, 4, 4, 3))
    weight = generator.integers(0, 256, (5, 3, 3, 3))
    zero = np.arange(5) * 20
    pads = (1, 1, 1, 1)
    expected = conv2d(x, weight - zero.reshape(-1, 1, 1, 1), None, (1, 1), pads, x_zp=9)
    assert (conv2d(x, weight, None, (1, 1), pads, x_zp=9, w_zp=zero) == expected).all()


def test_mismatched_channels_are_refused() -> None:
    with pytest.raises(VitError, match="4 input channels"):
        conv2d(np.zeros((1, 3, 3, 4), np.int8), np.zeros((6, 1, 1, 3), np.int8))
