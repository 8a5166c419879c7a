"""The report of layers: rows say what the formats do, and where an error comes from."""

from pathlib import Path

import numpy as np
import pytest
from graphs import apply, canonicalize, context, parse

from vit_opt.frontends.onnx_import import import_onnx
from vit_opt.passes.calibrate import FLOAT_GRAPH
from vit_opt.passes.layer_report import BINS, layer_lines, layer_rows
from vit_opt.passes.pipelines import RAISE, STAGE_PASSES

DIGITS = Path(__file__).parent.parent / "examples" / "digits"


def test_rows_of_a_model() -> None:
    images = np.load(DIGITS / "calib.npz")["image"].astype(np.float32)
    ctx = context([{"image": image[None]} for image in images[:2]])
    module = import_onnx(DIGITS / "model.onnx", context=ctx)
    apply(ctx, module, *RAISE, "calibrate", *STAGE_PASSES["quantized"], "pot-fold")
    canonicalize(ctx, module)
    rows = layer_rows(module, ctx.assets)
    assert len(rows) > 30
    assert len({row["layer"] for row in rows}) == len(rows)
    for row in rows:
        assert row["low"] <= row["high"] and row["bits"] in (8, 16, 32)
        assert 0 <= row["clipped"] < 0.01
        assert row["sqnr_db"] is None or row["sqnr_db"] > 18, row
        assert sum(row["histogram"]) > 0 and len(row["histogram"]) == BINS
        low, high, step = row["grid"]
        outside = row["low"] < low - step / 2 or row["high"] > high + step / 2
        assert (row["clipped"] > 0) == outside or row["through"] == "Gelu"
    products = [row for row in rows if "weight_db" in row]
    assert len(products) == 26
    for row in products:
        assert row["weight_bits"] == 8 and row["weight_fracs"][0] <= row["weight_fracs"][1]
        assert 30 < row["weight_db"] < 60
        assert row["alone_db"] <= row["grid_db"] + 0.5
    assert np.median([row["alone_db"] - row["sqnr_db"] for row in products]) > 1
    norms = [row for row in rows if row["operation"] == "vit.layernorm"]
    assert {row["layer"].split(".")[-1] for row in rows if row["through"]} == {"0/Add"}
    assert norms and all(row["grid_db"] > row["sqnr_db"] for row in norms)
    lines = layer_lines(rows)
    assert len(lines) == len(rows) + 1 and "SQNR dB" in lines[0]
    del ctx.assets.statistics[FLOAT_GRAPH]
    assert layer_rows(module, ctx.assets) == []


def test_weights_of_arbitrary_scales_have_their_rounding_error() -> None:
    """Without pot-fold there is no report of the weights; their masters are at hand instead."""
    images = np.load(DIGITS / "calib.npz")["image"].astype(np.float32)
    ctx = context([{"image": images[:1]}])
    module = import_onnx(DIGITS / "model.onnx", context=ctx)
    apply(ctx, module, *RAISE, "calibrate", *STAGE_PASSES["quantized"])
    products = [row for row in layer_rows(module, ctx.assets) if "weight_bits" in row]
    assert len(products) == 26
    assert all(30 < row["weight_db"] < 60 for row in products)


@pytest.mark.parametrize("function", ["Relu", "Gelu", "Tanh"])
def test_errors_are_those_of_what_a_flat_function_gives(function: str) -> None:
    """What ReLU drops and GELU flattens is no loss of the layer before, though far off its format."""
    rng = np.random.default_rng(0)
    ctx = context([{"x": rng.normal(size=(1, 16, 64)).astype(np.float32)}])
    w = ctx.assets.add("w", rng.normal(size=(32, 64)).astype(np.float32))
    v = ctx.assets.add("v", rng.normal(size=(8, 32)).astype(np.float32))
    hidden, image = "tensor<1x16x32xf32>", "tensor<1x16x64xf32>"
    module = parse(
        ctx,
        f"""builtin.module attributes {{vit.stage = "float"}} {{
  func.func @main(%x: {image}) -> tensor<1x16x8xf32> attributes {{vit.input_names = ["x"]}} {{
    %w = onnx.Constant #vit.asset<"w", "{w.digest.data}", tensor<32x64xf32>>
    %v = onnx.Constant #vit.asset<"v", "{v.digest.data}", tensor<8x32xf32>>
    %h = onnx.Linear %x, %w {{node_name = "before"}} : ({image}, tensor<32x64xf32>) -> {hidden}
    %r = onnx.{function} %h {{node_name = "flat"}} : ({hidden}) -> {hidden}
    %y = onnx.Linear %r, %v {{node_name = "after"}} : ({hidden}, tensor<8x32xf32>) -> tensor<1x16x8xf32>
    func.return %y : tensor<1x16x8xf32>
  }}
}}""",
    )
    apply(ctx, module, "calibrate", *STAGE_PASSES["quantized"], "pot-fold")
    canonicalize(ctx, module)
    rows = {row["layer"]: row for row in layer_rows(module, ctx.assets)}
    before = rows["before"]
    assert before["through"] == function and rows["after"]["through"] is None
    assert before["grid"][0] > before["low"] / 2
    assert before["clipped"] == 0
    assert before["alone_db"] > 25 and before["grid_db"] > 25
