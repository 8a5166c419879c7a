"""Options of quantize: each does what it says, and both backends execute it bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import apply, canonicalize, context, parse, run_float, run_integer, sqnr
from test_adversarial import images, model, ordinary_weights
from xdsl.dialects.builtin import ModuleOp

from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.run import run_accel
from vit_opt.backends.c.emit import emit_c
from vit_opt.backends.c.run import CModel
from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import main_function
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.base import format_of
from vit_opt.dialects.vit.targets import accel_target
from vit_opt.passes.quantization.attention import FORMS, attended
from vit_opt.tools.steps import run_pipeline

BEFORE = ("smooth", "fold-scales", "split-channels", "fill-grids")


def quantized(
    text: str, batches: list[dict[str, np.ndarray]], **options: Any
) -> tuple[VitContext, ModuleOp, float]:
    """A model with powers of two, and the SQNR of its first output on the calibration inputs."""
    ctx = context(batches)
    module = parse(ctx, text)
    exact = np.stack([next(iter(run_float(ctx, module, b).values())) for b in batches])
    apply(ctx, module, "calibrate", augment="none")  # measured on the calibration inputs
    apply(ctx, module, *BEFORE)
    apply(ctx, module, "quantize", **options)
    apply(ctx, module, "pot-fold")
    canonicalize(ctx, module)
    found = np.stack([next(iter(run_integer(ctx, module, b).values())) for b in batches])
    return ctx, module, sqnr(exact, found)


def vit(**options: Any) -> tuple[VitContext, ModuleOp, float]:
    """The small ViT of the adversarial tests, on ordinary weights and images."""
    return quantized(
        model(ordinary_weights()), [{"image": x} for x in images("ordinary")], **options
    )


def kinds(module: ModuleOp) -> set[type]:
    """Kinds of operations in @main."""
    return {type(op) for op in main_function(module).body.block.ops}


CASES: list[tuple[dict[str, Any], float, type]] = [
    ({}, 23, ops.SoftmaxExpOp),
    ({"residual": "int8"}, 23, ops.SoftmaxExpOp),
    ({"residual": "int8-ptf"}, 23, ops.SoftmaxExpOp),
    ({"softmax": "int16"}, 23, ops.ShiftmaxOp),
    ({"softmax": "int8"}, 23, ops.ShiftmaxOp),
    ({"softmax": "log2"}, 14, ops.Log2SoftmaxOp),
    ({"softmax": "auto"}, 23, ops.SoftmaxExpOp),
    ({"gelu": "shift"}, 23, ops.ShiftGeluOp),
    ({"wide": ("gelu",)}, 23, ops.LutOp),
    ({"wide": ("input", "norm", "attention", "gelu")}, 34, ops.LinearOp),
]


@pytest.mark.parametrize(("options", "least", "kind"), CASES)
def test_both_backends_execute_every_option(
    options: dict[str, Any], least: float, kind: type, tmp_path: Path
) -> None:
    ctx, module, ratio = vit(**options)
    assert kind in kinds(module)
    assert ratio > least
    image = {"image": images("ordinary")[0]}
    exact = run_integer(ctx, module, image)["logits"]
    checks = "verify-integer,prove-ranges,fuse"
    scheduled, target = module.clone(), module.clone()
    run_pipeline(scheduled, ctx, f"{checks},tile{{target=c}}")
    emit_c(scheduled, ctx.assets, tmp_path / "c")
    compiled = CModel(tmp_path / "c")
    assert np.array_equal(compiled.reals(compiled.run(image))["logits"], exact)
    run_pipeline(target, ctx, f"{checks},tile{{target=p2vit}}")
    result = run_accel(lower_accel(target, ctx.assets, accel_target("p2vit")), image)
    assert np.array_equal(result.reals["logits"], exact)


def test_the_residual_stream_takes_the_bits_asked_for() -> None:
    for option, width in (("int16", 16), ("int8", 8), ("int8-ptf", 8)):
        _, module, _ = vit(residual=option)
        norms = [op for op in main_function(module).walk() if isinstance(op, ops.LayerNormOp)]
        formats = [format_of(op.x) for op in norms]
        assert {f.storage.width.data for f in formats} == {width}
        assert all(f.is_per_channel == (option == "int8-ptf") for f in formats)


def test_ptf_helps_a_residual_with_one_loud_channel() -> None:
    """The loud channel's grid is 8 times too coarse for the others, which the norm brings out."""
    weights = ordinary_weights()
    weights["position"][..., 3] += 40.0
    batches = [{"image": x} for x in images("ordinary")]
    ratios = {
        option: quantized(model(weights), batches, residual=option)[2]
        for option in ("int16", "int8", "int8-ptf")
    }
    assert min(ratios["int16"], ratios["int8-ptf"]) > ratios["int8"] + 3


def test_wide_activations_help() -> None:
    narrow, wide = (vit(wide=places)[2] for places in ((), ("input", "norm", "gelu", "attention")))
    assert wide > narrow + 3


def test_softmax_is_chosen_by_error() -> None:
    ctx, _, _ = vit(softmax="auto")
    [row] = ctx.assets.reports["softmax"]
    best = max(FORMS, key=lambda form: row["sqnr_db"][form])
    assert row["softmax"] == "probabilities" and row["form"] == best


def test_forms_of_softmax_agree_with_the_real_one() -> None:
    rng = np.random.default_rng(0)
    scores = 2 * rng.standard_normal((2, 5, 33))
    values = rng.standard_normal((2, 33, 8))
    exact = np.exp(scores - scores.max(-1, keepdims=True))
    exact = exact / exact.sum(-1, keepdims=True) @ values
    ratios = {form: sqnr(exact, got) for form, got in attended(scores, values).items()}
    assert ratios["deferred"] > 35 and ratios["int16"] > 25
    assert 10 < ratios["log2"] < ratios["int8"] < ratios["int16"] < ratios["deferred"]


@pytest.mark.parametrize("option", ["residual", "softmax", "gelu", "divisor"])
def test_unknown_values_are_refused(option: str) -> None:
    with pytest.raises(VitError, match=f"quantize: {option} 'best' is not one of"):
        vit(**{option: "best"})
    with pytest.raises(VitError, match="quantize: wide 'logits' is not one of input, norm"):
        vit(wide=("logits",))
