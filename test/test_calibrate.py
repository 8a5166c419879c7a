"""calibrate: ranges over all batches, statistics where later passes need them."""

import numpy as np
import pytest
from graphs import apply, context, parse

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import main_function
from vit_opt.passes.calibrate import range_of, statistics_of

TEXT = """
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<1x3xf32>) -> tensor<1x2xf32> attributes {vit.input_names = ["x"]} {
    %w = onnx.Constant dense<[[1.0, 2.0, 0.0], [0.0, -1.0, 1.0]]> : tensor<2x3xf32>
    %r = onnx.Relu %x : (tensor<1x3xf32>) -> tensor<1x3xf32>
    %y = onnx.Linear %r, %w : (tensor<1x3xf32>, tensor<2x3xf32>) -> tensor<1x2xf32>
    func.return %y : tensor<1x2xf32>
  }
}
"""
BATCHES = [
    {"x": np.array([[1.0, -2.0, 3.0]], np.float32)},
    {"x": np.array([[-4.0, 5.0, 0.5]], np.float32)},
]


def test_ranges_cover_all_batches() -> None:
    ctx = context(BATCHES)
    module = parse(ctx, TEXT)
    apply(ctx, module, "calibrate")
    func = main_function(module)
    relu, linear = list(func.body.block.ops)[1:3]
    assert range_of(func.args[0]) == (-4.0, 5.0)
    assert range_of(relu.results[0]) == (0.0, 5.0)
    assert range_of(linear.results[0]) == (-4.5, 10.0)


def test_inputs_of_linear_layers_have_moments() -> None:
    ctx = context(BATCHES)
    module = parse(ctx, TEXT)
    apply(ctx, module, "calibrate")
    relu = list(main_function(module).body.block.ops)[1]
    statistics = statistics_of(relu.results[0], ctx.assets)
    assert statistics is not None and statistics.moments is not None
    rows = np.array([[1.0, 0.0, 3.0], [0.0, 5.0, 0.5]])
    assert np.array_equal(statistics.moments.matrix(), rows.T @ rows)
    assert statistics.channels.maximum.tolist() == [1.0, 5.0, 3.0]


def test_moments_can_be_left_out() -> None:
    ctx = context(BATCHES)
    module = parse(ctx, TEXT)
    apply(ctx, module, "calibrate", moments=False)
    relu = list(main_function(module).body.block.ops)[1]
    statistics = statistics_of(relu.results[0], ctx.assets)
    assert statistics is not None and statistics.moments is None


def test_a_value_that_is_not_finite_is_an_error() -> None:
    ctx = context([{"x": np.array([[1.0, np.inf, 0.0]], np.float32)}])
    module = parse(ctx, TEXT)
    with pytest.raises(VitError, match="input x: calibration gives a value that is not finite"):
        apply(ctx, module, "calibrate")


def test_without_batches_is_an_error() -> None:
    ctx = context()
    with pytest.raises(VitError, match="needs calibration data"):
        apply(ctx, parse(ctx, TEXT), "calibrate")


def test_statistics_of_another_run_are_asked_for() -> None:
    ctx = context(BATCHES)
    module = parse(ctx, TEXT)
    apply(ctx, module, "calibrate")
    ctx.assets.statistics.clear()
    relu = list(main_function(module).body.block.ops)[1]
    with pytest.raises(VitError, match="statistics relu_2 of the calibration are not at hand"):
        statistics_of(relu.results[0], ctx.assets)
