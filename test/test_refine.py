"""refine: formats that serve the output of their block; changes that can be taken back."""

from pathlib import Path

import numpy as np
import pytest
from graphs import apply, canonicalize, context, run_float, run_integer, sqnr
from onnx import helper, numpy_helper
from xdsl.dialects.builtin import ModuleOp

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.evaluation import main_function
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.ops.base import format_of
from vit_opt.frontends.onnx_import import import_onnx
from vit_opt.passes.calibrate import FLOAT_GRAPH
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.pipelines import RAISE
from vit_opt.passes.quantization.blocks import blocks_of
from vit_opt.passes.quantization.retype import FREE, ImpossibleFormatError, Retyper
from vit_opt.passes.refine import refine, stepped

DIGITS = Path(__file__).parent.parent / "examples" / "digits"


@pytest.fixture(scope="module")
def images() -> list[dict[str, np.ndarray]]:
    data = np.load(DIGITS / "calib.npz")["image"].astype(np.float32)
    return [{"image": image[None]} for image in data]


def folded(images: list[dict[str, np.ndarray]]) -> tuple[VitContext, ModuleOp, np.ndarray]:
    """The digits model at stage pot, and its float logits."""
    ctx = context(images[:4])
    module = import_onnx(DIGITS / "model.onnx", context=ctx)
    apply(ctx, module, *RAISE)
    reference = np.stack([run_float(ctx, module, image)["logits"] for image in images])
    apply(ctx, module, "calibrate", "smooth", "fold-scales", "quantize", "pot-fold")
    canonicalize(ctx, module)
    return ctx, module, reference


def test_blocks_end_in_sums(images: list[dict[str, np.ndarray]]) -> None:
    ctx, module, _ = folded(images)
    reference = ctx.assets.statistics[FLOAT_GRAPH]
    blocks = list(blocks_of(module, reference, Constants.of(ctx)))
    assert [type(block.end) for block in blocks[:-1]] == [ops.AddOp] * (len(blocks) - 1)
    assert blocks[-1].name == "" and len(blocks) > 4
    held = [op for block in blocks for op in block.operations]
    body = main_function(module).body.block
    assert held == [op for op in body.ops if op.name.startswith("vit.")]


def test_a_spoilt_format_is_repaired(images: list[dict[str, np.ndarray]]) -> None:
    ctx, module, reference = folded(images)
    retyper = Retyper(Constants.of(ctx))
    spoilt = [op for op in main_function(module).body.block.ops if isinstance(op, ops.NormalizeOp)]
    for op in spoilt:
        format_ = format_of(op.result)
        assert isinstance(format_, FixedType)
        retyper.retype(op, stepped(stepped(format_, -1), -1))
        retyper.keep()
    module.verify()

    def quality() -> float:
        outputs = [run_integer(ctx, module, image)["logits"] for image in images]
        return sqnr(reference, np.stack(outputs))

    before = quality()
    assert refine(module, Constants.of(ctx), batches=4) >= len(spoilt)
    module.verify()
    assert quality() > before + 2
    rows = ctx.assets.reports["refine"]
    assert all(row["sqnr_db"] >= row["sqnr_db_before"] - 1e-9 for row in rows)


def test_without_calibration_nothing_changes(images: list[dict[str, np.ndarray]]) -> None:
    ctx, module, _ = folded(images)
    text = str(module)
    del ctx.assets.statistics[FLOAT_GRAPH]
    apply(ctx, module, "refine")
    assert str(module) == text


def test_changes_can_be_taken_back(images: list[dict[str, np.ndarray]]) -> None:
    ctx, module, _ = folded(images)
    text = str(module)
    retyper, tried = Retyper(Constants.of(ctx)), 0
    for op in list(main_function(module).body.block.ops):
        if isinstance(op, FREE) and not format_of(op.results[0]).is_per_channel:
            format_ = format_of(op.results[0])
            assert isinstance(format_, FixedType)
            for direction in (1, -1):
                try:
                    retyper.retype(op, stepped(format_, direction))
                except ImpossibleFormatError:
                    continue
                module.verify()
                retyper.revert()
                tried += 1
    assert tried > 20
    assert str(module) == text


@pytest.mark.parametrize(
    ("type_", "finer", "coarser"),
    [
        (FixedType("i8", 4), FixedType("i8", 5), FixedType("i8", 3)),
        (FixedType("ui8", 3, 17), FixedType("ui8", 4, 34), FixedType("ui8", 2, 9)),
        (FixedType("ui8", 3, 200), FixedType("ui8", 4, 255), FixedType("ui8", 2, 100)),
    ],
)
def test_the_smallest_value_stays(type_: FixedType, finer: FixedType, coarser: FixedType) -> None:
    assert stepped(type_, 1) == finer
    assert stepped(type_, -1) == coarser


def test_images_that_the_integers_hold_channels_last() -> None:
    """A residual of convolutions: the float sum is [N, C, H, W], the integer one [N, H, W, C]."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((4, 4, 1, 1)) / 2).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "a"),
        helper.make_node("Add", ["a", "x"], ["b"], "b"),
        helper.make_node("Conv", ["b", "w"], ["c"], "c"),
        helper.make_node("Add", ["c", "b"], ["y"], "y"),
    ]
    ports = [helper.make_tensor_value_info(name, 1, [1, 4, 6, 5]) for name in "xy"]
    graph = helper.make_graph(
        nodes, "g", ports[:1], ports[1:], [numpy_helper.from_array(weight, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    images = [{"x": rng.standard_normal((1, 4, 6, 5)).astype(np.float32)} for _ in range(3)]
    ctx = context(images)
    module = import_onnx(model, context=ctx)
    apply(ctx, module, *RAISE, "calibrate", "quantize", "pot-fold")
    refine(module, Constants.of(ctx))
    module.verify()
    names = {row["block"] for row in ctx.assets.reports["refine"]}
    assert "b" in names
    assert all(row["sqnr_db"] > 25 for row in ctx.assets.reports["refine"])
