"""quantize and pot-fold on a trained model: what the structure is worth, and what folding costs."""

from pathlib import Path

import numpy as np
import pytest
from graphs import apply, canonicalize, context, parse, run_float, run_integer, sqnr

from vit_opt.dialects.errors import VitError
from vit_opt.frontends.onnx_import import import_onnx
from vit_opt.passes.pipelines import RAISE

DIGITS = Path(__file__).parent.parent / "examples" / "digits"


@pytest.fixture(scope="module")
def batches() -> list[dict[str, np.ndarray]]:
    images = np.load(DIGITS / "calib.npz")["image"].astype(np.float32)
    return [{"image": image[None]} for image in images]


@pytest.mark.parametrize("weights", ["compensated", "nearest"])
def test_digits_keep_their_logits(batches: list[dict[str, np.ndarray]], weights: str) -> None:
    ctx = context(batches[:8])
    module = import_onnx(DIGITS / "model.onnx", context=ctx)
    apply(ctx, module, *RAISE)
    reference = np.stack([run_float(ctx, module, b)["logits"] for b in batches])
    apply(ctx, module, "calibrate", "smooth", "quantize")
    dyadic = np.stack([run_integer(ctx, module, b)["logits"] for b in batches])
    apply(ctx, module, "pot-fold", weights=weights)
    canonicalize(ctx, module)
    folded = np.stack([run_integer(ctx, module, b)["logits"] for b in batches])
    assert sqnr(reference, dyadic) > 32
    assert sqnr(reference, folded) > 29
    rows = ctx.assets.reports["pot-fold"]
    assert len(rows) == 26 and min(row["sqnr_db"] for row in rows) > 30


def test_search_of_exponents_needs_moments_and_runs(batches: list[dict[str, np.ndarray]]) -> None:
    ctx = context(batches[:4])
    module = import_onnx(DIGITS / "model.onnx", context=ctx)
    apply(ctx, module, *RAISE)
    reference = np.stack([run_float(ctx, module, b)["logits"] for b in batches])
    apply(ctx, module, "calibrate", "smooth", "quantize")
    apply(ctx, module, "pot-fold", exponents="search")
    folded = np.stack([run_integer(ctx, module, b)["logits"] for b in batches])
    assert sqnr(reference, folded) > 28


@pytest.mark.parametrize(
    ("option", "value"), [("weights", "magic"), ("exponents", "none"), ("rounding", "up")]
)
def test_unknown_options_are_named(option: str, value: str) -> None:
    ctx = context()
    module = parse(ctx, 'builtin.module attributes {vit.stage = "quantized"} {}')
    with pytest.raises(VitError, match=f"pot-fold: {option} '{value}' is not one of"):
        apply(ctx, module, "pot-fold", **{option: value})
