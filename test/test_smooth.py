"""smooth: the real function stays, the range of an outlier channel shrinks."""

import numpy as np
import pytest
from graphs import apply, context, parse, run_float, run_integer, sqnr

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import main_function
from vit_opt.passes.algorithms.smoothing import (
    rounding_noise,
    search_exponents,
    smoothing_exponents,
)
from vit_opt.passes.calibrate import range_of

TEXT = """
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x2xf32> attributes {vit.input_names = ["x"]} {
    %g = onnx.Constant dense<[1.0, 64.0, 1.0, 1.0]> : tensor<4xf32>
    %b = onnx.Constant dense<[0.0, 8.0, 0.0, 0.5]> : tensor<4xf32>
    %w = onnx.Constant dense<[[1.0, 0.25, -1.0, 0.5], [0.5, 0.125, 1.0, 1.0]]> : tensor<2x4xf32>
    %n = onnx.LayerNormalization %x, %g, %b : (tensor<1x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<1x4xf32>
    %y = onnx.Linear %n, %w : (tensor<1x4xf32>, tensor<2x4xf32>) -> tensor<1x2xf32>
    func.return %y : tensor<1x2xf32>
  }
}
"""  # noqa: E501


def test_powers_of_two_move_from_the_norm_into_the_weights() -> None:
    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((1, 4)).astype(np.float32)} for _ in range(8)]
    ctx = context(batches)
    module = parse(ctx, TEXT)
    apply(ctx, module, "calibrate")
    before = [run_float(ctx, module, batch)["output0"] for batch in batches]
    norm = next(op for op in main_function(module).walk() if "LayerNorm" in op.name)
    low, high = range_of(norm.results[0]) or (0.0, 0.0)
    apply(ctx, module, "smooth")
    after = [run_float(ctx, module, batch)["output0"] for batch in batches]
    assert np.array_equal(before, after)
    smoothed = range_of(norm.results[0]) or (0.0, 0.0)
    assert smoothed[1] - smoothed[0] < (high - low) / 4


def test_a_norm_with_other_readers_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    ctx = context([{"x": rng.standard_normal((1, 4)).astype(np.float32)}])
    shared = TEXT.replace(
        "func.return %y",
        "%e = onnx.Relu %n : (tensor<1x4xf32>) -> tensor<1x4xf32>\n    func.return %y",
    )
    module = parse(ctx, shared)
    apply(ctx, module, "calibrate")
    before = str(module)
    apply(ctx, module, "smooth")
    assert str(module) == before


def test_alpha_is_searched_by_the_expected_noise() -> None:
    """Weights that all rows of which need one loud column: moving more into them costs too much."""
    rng = np.random.default_rng(3)
    x_max, squares = np.array([1.0, 1.0, 1.0, 64.0]), np.array([0.1, 0.1, 0.1, 400.0])
    even, loud = rng.standard_normal((64, 4)), rng.standard_normal((64, 4))
    loud[:, 3] *= 64
    channels = np.arange(4)
    quiet = search_exponents(x_max, squares, [(even, channels)])
    kept = search_exponents(x_max, squares, [(loud, channels)])
    assert quiet[3] - quiet[0] >= 4
    assert kept[3] - kept[0] < quiet[3] - quiet[0]
    for weights, found in (([even], quiet), ([loud], kept), ([even, loud], None)):
        parts = [(weight, channels) for weight in weights]
        chosen = search_exponents(x_max, squares, parts) if found is None else found
        w_max = np.max([np.abs(w).max(axis=0) for w in weights], axis=0)
        noise = rounding_noise(x_max, squares, parts, chosen)
        for alpha in (0.0, 0.35, 0.5, 1.0):
            other = smoothing_exponents(x_max, w_max, alpha)
            assert noise <= rounding_noise(x_max, squares, parts, other)


def test_searching_helps_where_half_is_the_wrong_share() -> None:
    """Channels far apart in the norm, weights alike: all of it should move into the weights."""
    results: list[float] = []
    for options in ({"alpha": 0.0, "search": False}, {}):
        rng = np.random.default_rng(0)
        batches = [{"x": rng.standard_normal((1, 4)).astype(np.float32)} for _ in range(8)]
        ctx = context(batches)
        module = parse(ctx, TEXT.replace("0.25, -1.0", "1.0, -1.0").replace("0.125", "-1.0"))
        exact = np.stack([run_float(ctx, module, batch)["output0"] for batch in batches])
        apply(ctx, module, "calibrate")
        apply(ctx, module, "smooth", **options)
        apply(ctx, module, "quantize", "pot-fold")
        found = np.stack([run_integer(ctx, module, batch)["output0"] for batch in batches])
        results.append(sqnr(exact, found))
    assert results[1] > results[0]


def test_alpha_outside_its_range_is_refused() -> None:
    ctx = context([{"x": np.ones((1, 4), np.float32)}])
    module = parse(ctx, TEXT)
    apply(ctx, module, "calibrate")
    with pytest.raises(VitError, match=r"smooth: alpha 1\.5 is not between 0 and 1"):
        apply(ctx, module, "smooth", alpha=1.5)
