"""The report of layers: rows say what the formats do, and where an error comes from."""

from pathlib import Path

import numpy as np
from graphs import apply, canonicalize, context

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
        assert (row["clipped"] > 0) == (
            row["low"] < low - step / 2 or row["high"] > high + step / 2
        )
    products = [row for row in rows if "weight_db" in row]
    assert len(products) == 26
    for row in products:
        assert row["weight_bits"] == 8 and row["weight_fracs"][0] <= row["weight_fracs"][1]
        assert 30 < row["weight_db"] < 60
        assert row["alone_db"] <= row["grid_db"] + 0.5
    assert np.median([row["alone_db"] - row["sqnr_db"] for row in products]) > 1
    norms = [row for row in rows if row["operation"] == "vit.layernorm"]
    assert norms and all(row["grid_db"] > row["sqnr_db"] for row in norms)
    lines = layer_lines(rows)
    assert len(lines) == len(rows) + 1 and "SQNR dB" in lines[0]
    del ctx.assets.statistics[FLOAT_GRAPH]
    assert layer_rows(module, ctx.assets) == []
