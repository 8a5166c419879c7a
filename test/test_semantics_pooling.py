"""Means, pooling and resizing against fractions and explicit loops."""

from fractions import Fraction

import numpy as np
import pytest
from exact import clamped, rounded, roundings
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.pooling import avg_pool2d, max_pool2d, mean
from vit_opt.dialects.vit.semantics.resize import (
    linear_taps,
    nearest_indices,
    resize_linear,
    resize_nearest,
    source_positions,
)

pool_cases = st.fixed_dictionaries(
    {
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "pads": st.tuples(*[st.integers(0, 2)] * 4),
        "seed": st.integers(0, 2**32),
    }
)


def windows(case: dict, x: np.ndarray):
    """Every output position with the real pixels of its window."""
    (kh, kw), (sh, sw) = case["kernel"], case["strides"]
    top, left, bottom, right = case["pads"]
    height = (x.shape[1] + top + bottom - kh) // sh + 1
    width = (x.shape[2] + left + right - kw) // sw + 1
    for y, z in np.ndindex(max(height, 0), max(width, 0)):
        rows = slice(max(y * sh - top, 0), max(y * sh - top + kh, 0))
        columns = slice(max(z * sw - left, 0), max(z * sw - left + kw, 0))
        yield (y, z), x[0, rows, columns].reshape(-1, x.shape[3])


@given(pool_cases, st.integers(-4, 4), st.booleans(), roundings)
@settings(max_examples=60)
def test_average_pool(case, shift, include, rounding) -> None:
    x = np.random.default_rng(case["seed"]).integers(-128, 128, (1, 5, 6, 2))
    found_windows = list(windows(case, x))
    if not include and any(not len(pixels) for _, pixels in found_windows):
        with pytest.raises(VitError, match="padding"):
            avg_pool2d(x, case["kernel"], shift, -128, 127, case["strides"], case["pads"])
        return
    found = avg_pool2d(
        x,
        case["kernel"],
        shift,
        -128,
        127,
        case["strides"],
        case["pads"],
        include,
        zp_in=3,
        zp_out=-1,
        rounding=rounding,
    )
    for (y, z), pixels in found_windows:
        count = np.prod(case["kernel"]) if include else len(pixels)
        for c in range(2):
            exact = Fraction(int((pixels[:, c] - 3).sum()), int(count)) / Fraction(2) ** shift
            assert found[0, y, z, c] == clamped(rounded(exact, rounding) - 1, -128, 127)


@given(pool_cases)
@settings(max_examples=60)
def test_max_pool(case) -> None:
    x = np.random.default_rng(case["seed"]).integers(-128, 128, (1, 5, 6, 2))
    found_windows = list(windows(case, x))
    if any(not len(pixels) for _, pixels in found_windows):
        with pytest.raises(VitError, match="padding"):
            max_pool2d(x, case["kernel"], case["strides"], case["pads"])
        return
    found = max_pool2d(x, case["kernel"], case["strides"], case["pads"])
    for (y, z), pixels in found_windows:
        assert found[0, y, z].tolist() == pixels.max(axis=0).tolist()


def test_max_pool_with_dilation() -> None:
    x = np.arange(25).reshape(1, 5, 5, 1)
    assert max_pool2d(x, (2, 2), dilations=(2, 2))[0, :, :, 0].tolist() == [
        [12, 13, 14],
        [17, 18, 19],
        [22, 23, 24],
    ]
    with pytest.raises(VitError, match="does not fit"):
        max_pool2d(x, (6, 1))


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=50),
    st.integers(-12, 12),
    roundings,
)
def test_mean(values, shift, rounding) -> None:
    exact = Fraction(sum(values), len(values)) / Fraction(2) ** shift
    expected = clamped(rounded(exact, rounding) + 5, -32768, 32767)
    x = np.array(values).reshape(1, -1, 1)
    found = mean(x, (1,), shift, -32768, 32767, 0, 5, True, rounding)
    assert found.shape == (1, 1, 1) and int(found[0, 0, 0]) == expected


def test_mean_over_several_axes_and_per_channel() -> None:
    x = np.arange(24).reshape(1, 2, 3, 4)
    found = mean(x, (1, 2), np.array([0, 1, -1, 0]), -128, 127, zp_in=np.arange(4))
    assert found.tolist() == [[10, 5, 20, 10]]
    with pytest.raises(VitError, match="no values"):
        mean(np.zeros((2, 0), np.int8), (1,), 0, -128, 127)


RULES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]


def test_positions() -> None:
    half = Fraction(1, 2)
    assert source_positions(2, 4, "half_pixel") == [-half / 2, half / 2, 3 * half / 2, 5 * half / 2]
    assert source_positions(2, 4, "asymmetric") == [0, half, 1, 3 * half]
    assert source_positions(2, 4, "align_corners") == [0, Fraction(1, 3), Fraction(2, 3), 1]
    assert source_positions(5, 1, "pytorch_half_pixel") == [0]
    assert source_positions(5, 1, "half_pixel") == [2]
    assert source_positions(4, 2, "asymmetric", 0.6)[1] == 1 / Fraction(0.6)
    with pytest.raises(VitError, match="coordinate rule 'cubic'"):
        source_positions(2, 4, "cubic")
    with pytest.raises(VitError, match="nearest mode"):
        nearest_indices(2, 4, "asymmetric", "up")


def test_nearest_modes_at_ties() -> None:
    """Doubling with half_pixel has no ties; asymmetric has one at every odd pixel."""
    modes = {
        "round_prefer_floor": [0, 0, 1, 1],
        "round_prefer_ceil": [0, 1, 1, 1],
        "floor": [0, 0, 1, 1],
        "ceil": [0, 1, 1, 1],
    }
    for mode, expected in modes.items():
        assert nearest_indices(2, 4, "asymmetric", mode).tolist() == expected
        if mode.startswith("round"):
            assert nearest_indices(2, 4, "half_pixel", mode).tolist() == [0, 0, 1, 1]
    x = np.arange(6).reshape(1, 2, 3, 1)
    found = resize_nearest(x, (4, 3), "asymmetric", "floor")
    assert found[0, :, :, 0].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]


@given(
    st.sampled_from(RULES),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(-6, 6),
    roundings,
)
@settings(max_examples=60)
def test_bilinear(rule, size, target, shift, rounding) -> None:
    x = np.random.default_rng(7).integers(-128, 128, (1, *size, 2))
    found = resize_linear(x, target, shift, -128, 127, rule, None, 5, 2, rounding)
    taps = [linear_taps(a, b, rule) for a, b in zip(size, target, strict=True)]
    for y, z in np.ndindex(target):
        exact = np.zeros(2, object)
        for tap_y, weight_y in _axis(taps[0], y):
            for tap_x, weight_x in _axis(taps[1], z):
                exact += weight_y * weight_x * (x[0, tap_y, tap_x] - 5).astype(object)
        for c in range(2):
            value = rounded(Fraction(int(exact[c])) / Fraction(2) ** (16 + shift), rounding)
            assert found[0, y, z, c] == clamped(value + 2, -128, 127)


def _axis(taps, index):
    lower, upper, weight = (int(part[index]) for part in taps)
    return ((lower, 256 - weight), (upper, weight))


@pytest.mark.parametrize("rule", RULES)
def test_bilinear_agrees_with_onnx(rule: str) -> None:
    """ONNX's own reference within half a step of Q.8 in either axis."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    node = helper.make_node(
        "Resize", ["x", "", "", "s"], ["y"], mode="linear", coordinate_transformation_mode=rule
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("s", TensorProto.INT64, [4], [1, 1, 7, 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    x = np.random.default_rng(1).integers(-128, 128, (1, 1, 4, 5))
    expected = ReferenceEvaluator(model).run(None, {"x": x.astype(np.float32)})[0]
    found = resize_linear(x.transpose(0, 2, 3, 1), (7, 8), -8, -(2**31), 2**31 - 1, rule)
    assert np.abs(found[..., 0] / 256 - expected[0]).max() < 1.01
