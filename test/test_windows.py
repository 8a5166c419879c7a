"""Second moments of convolutions' windows, and rounding that makes up for errors by them."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import apply, context, parse, run_float, run_integer, sqnr
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import VitContext
from vit_opt.passes.algorithms.exponents import search_weight
from vit_opt.passes.algorithms.rounding import (
    Part,
    parts_error,
    round_nearest,
    round_parts,
    search_parts,
)
from vit_opt.passes.algorithms.windows import MOST_WINDOWS, Axis, WindowMoments
from vit_opt.passes.calibrate import windows_of
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.channels import divide_windows
from vit_opt.passes.quantization.weights import in_rows

KINDS = {
    "plain": ("Conv", "4x6x3x2", "strides = [2, 1], pads = [1, 0, 2, 1]", "1x4x5x7"),
    "dilated": ("Conv", "4x6x2x3", "dilations = [2, 1], pads = [1, 1, 0, 1]", "1x4x7x7"),
    "grouped": ("Conv", "4x3x3x3", "group = 2, pads = [1, 1, 1, 1]", "1x4x8x7"),
    "depthwise": ("Conv", "6x1x3x3", "group = 6, strides = [2, 2], pads = [0, 1, 1, 1]", "1x6x4x4"),
    "transposed": (
        "ConvTranspose",
        "6x4x4x4",
        "strides = [2, 2], pads = [1, 1, 1, 1]",
        "1x4x16x14",
    ),
    "phases unlike": (
        "ConvTranspose",
        "6x4x3x2",
        "strides = [2, 3], pads = [0, 1, 1, 0], output_padding = [1, 0]",
        "1x4x17x19",
    ),
}


def convolution(kind: str, seed: int = 0) -> tuple[VitContext, ModuleOp, list[np.ndarray]]:
    """A calibrated module of one convolution, whose inputs are correlated, and these."""
    name, shape, attributes, result = KINDS[kind]
    rng = np.random.default_rng(seed)
    noise = [rng.normal(size=(1, 6, 8, 7)).cumsum(axis=3) for _ in range(3)]
    images = [(each + 2 * each.mean(axis=1, keepdims=True)).astype(np.float32) for each in noise]
    weight = rng.normal(size=[int(n) for n in shape.split("x")]).astype(np.float32)
    ctx = context([{"x": image} for image in images])
    x, y, w = (f"tensor<{dims}xf32>" for dims in ("1x6x8x7", result, shape))
    text = f"""builtin.module attributes {{vit.stage = "float"}} {{
  func.func @main(%x: {x}) -> {y}
      attributes {{vit.input_names = ["x"], vit.output_names = ["y"]}} {{
    %w = onnx.Constant #vit.asset<"w", "{ctx.assets.add("w", weight).digest.data}", {w}>
    %y = onnx.{name} %x, %w {{{attributes}}} : ({x}, {w}) -> {y}
    func.return %y : {y}
  }}
}}"""
    module = parse(ctx, text)
    apply(ctx, module, "calibrate", augment="none")
    return ctx, module, images


def layer_of(module: ModuleOp) -> onnx.Conv | onnx.ConvTranspose:
    return next(op for op in module.walk() if isinstance(op, onnx.Conv | onnx.ConvTranspose))


def recorded(ctx: VitContext, module: ModuleOp) -> tuple[np.ndarray, WindowMoments]:
    """The weight of the convolution in rows, and what was recorded of its windows."""
    op = layer_of(module)
    weight, found = Constants.of(ctx).array(op.w), windows_of(op, ctx.assets)
    assert weight is not None and found is not None
    return in_rows(op, weight).astype(np.float64), found


@pytest.mark.parametrize("kind", KINDS)
def test_the_moments_give_the_energy_of_the_output(kind: str) -> None:
    ctx, module, images = convolution(kind)
    outputs = [run_float(ctx, module, {"x": image})["y"] for image in images]
    energy = np.square(np.stack(outputs), dtype=np.float64).sum(axis=(0, 1, 3, 4))
    rows, found = recorded(ctx, module)
    np.testing.assert_allclose(parts_error(rows, found.parts(len(rows))), energy, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("low, high", [(-128, 127), (-8, 7)])
def test_compensation_lowers_the_output_error(kind: str, low: int, high: int) -> None:
    ctx, module, _ = convolution(kind)
    rows, found = recorded(ctx, module)
    parts = found.parts(len(rows))
    fracs = search_parts(rows, parts, low, high)

    def error(codes: np.ndarray) -> float:
        return parts_error(np.ldexp(codes.astype(float), -fracs[:, None]) - rows, parts).sum()

    plain = error(round_nearest(rows, fracs, low, high))
    assert error(round_parts(rows, parts, fracs, low, high, 0.01)) < 0.8 * plain


def test_a_convolution_comes_closer_with_its_moments() -> None:
    found: dict[str, float] = {}
    for weights in ("nearest", "compensated"):
        ctx, module, images = convolution("plain")
        exact = [run_float(ctx, module, {"x": image})["y"] for image in images]
        layer_of(module).attributes["vit.weight_bits"] = IntegerAttr(4, i64)
        apply(ctx, module, "quantize")
        apply(ctx, module, "pot-fold", weights=weights)
        real = [run_integer(ctx, module, {"x": image})["y"] for image in images]
        found[weights] = sqnr(np.stack(exact), np.stack(real))
    assert found["compensated"] > found["nearest"] + 2


@pytest.mark.parametrize("kind", ["plain", "grouped", "depthwise", "transposed"])
def test_division_is_that_of_the_input(kind: str) -> None:
    ctx, module, images = convolution(kind)
    factor, (_, found) = 2.0 ** np.arange(-3.0, 3.0), recorded(ctx, module)
    divide_windows(layer_of(module), factor, ctx.assets)
    again = WindowMoments(found.axes, 6, found.groups)
    for image in images:
        again.update((image / factor[:, None, None].astype(np.float32)).transpose(0, 2, 3, 1))
    for a, b in zip(found.parts(12), again.parts(12), strict=True):
        np.testing.assert_allclose(a.moments, b.moments, rtol=1e-4, atol=1e-3)
        np.testing.assert_array_equal(a.features, b.features)


def test_memory_is_bounded() -> None:
    large = (Axis(32, 32, 7, 1, 3), Axis(32, 32, 7, 1, 3))
    assert WindowMoments.fit(large, 32, 1) and not WindowMoments.fit(large, 64, 1)
    assert WindowMoments.fit(large, 512, 512) and not WindowMoments.fit(large, 8192, 8192)
    image = (Axis(300, 300, 1), Axis(300, 300, 1))
    moments = WindowMoments(image, 2)
    moments.update(np.ones((1, 300, 300, 2), np.float32))
    [only] = moments.parts(1)
    assert 0.5 * MOST_WINDOWS < only.moments[0, 0] <= MOST_WINDOWS


def test_exponents_by_parts_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(2)
    weight, x = rng.standard_t(3, (5, 12)), rng.normal(size=(50, 12))
    moments = x.T @ x
    parts = [Part(np.arange(5), np.arange(12), moments)]
    for low, high in ((-128, 127), (-8, 7)):
        np.testing.assert_array_equal(
            search_parts(weight, parts, low, high), search_weight(weight, moments, low, high)
        )
    assert search_parts(np.zeros((5, 12)), parts, -8, 7).tolist() == [0] * 5
