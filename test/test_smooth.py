"""smooth: the real function stays, the range of an outlier channel shrinks."""

import numpy as np
from graphs import apply, context, parse, run_float

from vit_opt.dialects.evaluation import main_function
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
