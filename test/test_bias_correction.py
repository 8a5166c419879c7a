"""pot-fold{bias=corrected}: what rounded weights add on average is taken off the bias."""

import numpy as np
import pytest
from graphs import apply, canonicalize, context, parse, run_float, run_integer, sqnr

from vit_opt.dialects.errors import VitError

TEXT = """
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<16x32xf32>) -> tensor<16x8xf32> attributes {vit.input_names = ["x"]} {
    %w = onnx.Constant dense<WEIGHT> : tensor<8x32xf32>
    %b = onnx.Constant dense<0.5> : tensor<8xf32>
    %h = onnx.HardSigmoid %x {alpha = 0.16666667 : f64, beta = 0.5 : f64} : (tensor<16x32xf32>) -> tensor<16x32xf32>
    %y = onnx.Linear %h, %w, %b : (tensor<16x32xf32>, tensor<8x32xf32>, tensor<8xf32>) -> tensor<16x8xf32>
    func.return %y : tensor<16x8xf32>
  }
}
"""  # noqa: E501


def quality(bias: str, weights: str = "nearest") -> float:
    """SQNR on inputs that calibration has not seen; the layer's inputs are all positive."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 32)).astype(np.float32)
    weight[:, 0] = 40.0  # a coarse grid for all others
    ctx = context([{"x": rng.standard_normal((16, 32)).astype(np.float32)} for _ in range(8)])
    module = parse(ctx, TEXT.replace("WEIGHT", str(weight.tolist())))
    fresh = [{"x": rng.standard_normal((16, 32)).astype(np.float32)} for _ in range(4)]
    exact = np.stack([run_float(ctx, module, each)["output0"] for each in fresh])
    apply(ctx, module, "calibrate", "quantize")
    apply(ctx, module, "pot-fold", weights=weights, bias=bias, inputs="float")
    canonicalize(ctx, module)
    return sqnr(exact, np.stack([run_integer(ctx, module, each)["output0"] for each in fresh]))


def test_it_helps_inputs_that_are_not_centred() -> None:
    assert quality("corrected") > quality("plain") + 3


def test_unknown_values_are_refused() -> None:
    with pytest.raises(VitError, match="pot-fold: bias 'none' is not one of corrected, plain"):
        quality("none")
