"""Each exact form of a function is worth its price where the cheap one errs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from graphs import Array, apply, context, parse, run_float, run_integer, sqnr
from test_quantize_linear_attention import MODULE, feeds

GELU = """
func.func @main(%x: tensor<1x64x8xf32>) -> tensor<1x64x8xf32> attributes {vit.input_names = ["x"]} {
  %y = onnx.Gelu %x : (tensor<1x64x8xf32>) -> tensor<1x64x8xf32>
  func.return %y : tensor<1x64x8xf32>
}
"""

IMAGE = "tensor<1x3x4x4xf32>"

CONV = f"""
func.func @main(%x: {IMAGE}) -> {IMAGE} attributes {{vit.input_names = ["x"]}} {{
  %w = onnx.Constant dense<0.1> : tensor<3x3x3x3xf32>
  %c = onnx.Conv %x, %w {{pads = array<i64: 1, 1, 1, 1>}} : ({IMAGE}, tensor<3x3x3x3xf32>) -> {IMAGE}
  %y = onnx.Gelu %c : ({IMAGE}) -> {IMAGE}
  func.return %y : {IMAGE}
}}
"""


def ratio(
    text: str,
    batches: list[dict[str, Array]],
    inputs: dict[str, Array],
    options: Mapping[str, Mapping[str, Any]],
) -> float:
    """SQNR in dB of a module quantised with options by pass, on inputs."""
    ctx = context(batches)
    module = parse(ctx, text)
    [exact] = run_float(ctx, module, inputs).values()
    for name in ("calibrate", "quantize", "pot-fold"):
        apply(ctx, module, name, **options.get(name, {}))
    [found] = run_integer(ctx, module, inputs).values()
    return sqnr(exact, found)


def test_an_exact_table_of_gelu() -> None:
    x = {"x": (2 * np.random.default_rng(0).standard_normal((1, 64, 8))).astype(np.float32)}
    table, shift = (ratio(GELU, [x], x, {"quantize": {"gelu": g}}) for g in ("table", "shift"))
    assert table > shift + 5


@pytest.mark.parametrize("seed", [9, 10])
def test_a_reciprocal_divides_linear_attention(seed: int) -> None:
    batches = [feeds(each) for each in range(3)]
    exact, power = (
        ratio(MODULE, batches, feeds(seed), {"quantize": {"divisor": d}}) for d in ("recip", "pot")
    )
    assert exact > power + 10


def test_flipped_copies_help_images_that_look_the_other_way() -> None:
    rng = np.random.default_rng(1)
    x = 0.1 * rng.standard_normal((1, 3, 4, 4)).astype(np.float32)
    x[..., :1] += np.float32(3.0)
    loud = np.array(([0.2, 0.2, 1.0],) * 3, np.float32)
    text = CONV.replace("dense<0.1>", f"dense<{[[loud.tolist()] * 3] * 3}>")
    mirrored = {"x": np.ascontiguousarray(x[..., ::-1])}
    plain, flipped = (
        ratio(text, [{"x": x}], mirrored, {"calibrate": {"augment": a}}) for a in ("none", "flip")
    )
    assert flipped > plain + 10
