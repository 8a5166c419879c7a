"""quantize on linear attention: its state is calibrated and covered, and the result is near."""

import numpy as np
import pytest
from graphs import Array, apply, context, parse, run_float, run_integer, sqnr

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.passes.calibrate import state_of
from vit_opt.passes.quantization.linear_attention import covering_shift

T = "tensor<1x2x50x16xf32>"
MODULE = f"""
func.func @main(%q: {T}, %k: {T}, %v: {T}) -> {T}
    attributes {{vit.input_names = ["q", "k", "v"], vit.output_names = ["y"]}} {{
  %y = onnx.LinearAttention %q, %k, %v {{eps = 1.0e-5}} : ({T}, {T}, {T}) -> {T}
  func.return %y : {T}
}}
"""


def feeds(seed: int) -> dict[str, Array]:
    """q, k of different sizes and v, float32."""
    rng = np.random.default_rng(seed)
    sizes = {"q": 3.0, "k": 0.3, "v": 1.7}
    return {
        name: (size * rng.standard_normal((1, 2, 50, 16))).astype(np.float32)
        for name, size in sizes.items()
    }


def test_integers_are_near_and_shifts_cover_the_state() -> None:
    ctx = context([feeds(seed) for seed in range(3)])
    module = parse(ctx, MODULE)
    [exact] = run_float(ctx, module, feeds(9)).values()
    apply(ctx, module, "calibrate")
    [attention] = [op for op in module.walk() if isinstance(op, onnx.LinearAttention)]
    states = []
    for seed in range(3):
        k, v = np.maximum(feeds(seed)["k"], 0), feeds(seed)["v"]
        states.append((np.abs(k.swapaxes(2, 3) @ v).max(), k.sum(axis=2).max()))
    assert state_of(attention) == pytest.approx(np.max(states, axis=0))
    apply(ctx, module, "quantize", "pot-fold", "verify-integer", "prove-ranges")
    [got] = run_integer(ctx, module, feeds(9)).values()
    assert sqnr(exact, got) > 30
    [integer] = [op for op in module.walk() if isinstance(op, ops.LinearAttnOp)]
    assert integer.kv_shift.value.data > 0 and integer.ksum_shift.value.data > 0


def test_state_that_was_not_calibrated_is_an_error() -> None:
    ctx = context([feeds(0)])
    module = parse(ctx, MODULE)
    apply(ctx, module, "calibrate")
    [attention] = [op for op in module.walk() if isinstance(op, onnx.LinearAttention)]
    del attention.attributes["vit.state"]
    with pytest.raises(VitError, match="no calibrated state"):
        apply(ctx, module, "quantize")


@pytest.mark.parametrize(
    ("largest", "shift"), [(0.0, 0), (1.0, 0), (127.0, 0), (127.5, 1), (254.0, 1), (255.0, 2)]
)
def test_covering_shift(largest: float, shift: int) -> None:
    assert covering_shift(largest, 127) == shift
