"""refine: changes that altered copies of the images have to gain from, too; biases."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import apply, context, run_float, run_integer, sqnr
from onnx import NodeProto, helper, numpy_helper
from xdsl.dialects.builtin import ModuleOp

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import main_function
from vit_opt.dialects.vit import ops
from vit_opt.frontends.onnx_import import import_onnx
from vit_opt.passes.algorithms.copies import AUGMENTS, CORNERS, HELD_OUT, cropped
from vit_opt.passes.calibrate import copies_of
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.pipelines import RAISE
from vit_opt.passes.quantization.retype import ImpossibleFormatError, Retyper
from vit_opt.passes.refine import held_out, refine

Images = list[dict[str, np.ndarray]]


def calibrated(
    weights: list[np.ndarray], images: Images, *, residual: bool
) -> tuple[VitContext, ModuleOp]:
    """x -> products with weights, the first of them beside a residual if wanted; raised."""
    nodes: list[NodeProto] = []
    value, shape = "x", images[0]["x"].shape
    for i, _ in enumerate(weights):
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"m{i}"], f"m{i}"))
        nodes.append(helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"], f"a{i}"))
        value = f"a{i}"
        if residual and not i:
            nodes.append(helper.make_node("Add", [value, "x"], ["sum"], "sum"))
            value = "sum"
    held = [numpy_helper.from_array(w.astype(np.float32), f"w{i}") for i, w in enumerate(weights)]
    held += [
        numpy_helper.from_array(np.full(int(w.shape[1]), 0.1, np.float32), f"b{i}")
        for i, w in enumerate(weights)
    ]
    ports = [helper.make_tensor_value_info(name, 1, list(shape)) for name in ("x", value)]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    ctx = context(images)
    module = import_onnx(model, context=ctx)
    apply(ctx, module, *RAISE)
    return ctx, module


def outputs(ctx: VitContext, module: ModuleOp, images: Images) -> np.ndarray:
    return np.stack([next(iter(run_integer(ctx, module, each).values())) for each in images])


def test_copies_that_saturate_hold_a_finer_format_back() -> None:
    """Mirrored images have twice the values; on the images alone a finer grid looks better."""
    rng = np.random.default_rng(0)
    images: Images = []
    for _ in range(4):
        x = np.zeros((1, 1, 512, 8), np.float32)
        x[..., :4] = rng.uniform(-0.8, 0.8, (1, 1, 512, 4))
        x[0, 0, 0, 0] = 0.98  # with the bias 1.08: covered by a grid that reaches 2
        images.append({"x": x})
    mirrored = [{"x": np.ascontiguousarray(image["x"][..., ::-1])} for image in images]
    found: dict[int, float] = {}
    for held in (0, 4):
        first = np.diag([1.0] * 4 + [1.9] * 4)
        ctx, module = calibrated([first, np.eye(8)], images, residual=False)
        exact = np.stack([next(iter(run_float(ctx, module, each).values())) for each in mirrored])
        apply(ctx, module, "calibrate", "quantize")
        apply(ctx, module, "pot-fold", inputs="float")
        refine(module, Constants.of(ctx), held=held)
        module.verify()
        found[held] = sqnr(exact, outputs(ctx, module, mirrored))
    assert found[4] > found[0] + 10


def test_a_mean_error_is_taken_off_the_bias() -> None:
    rng = np.random.default_rng(1)
    images = [{"x": rng.normal(size=(1, 32, 8)).astype(np.float32)} for _ in range(6)]
    weights = [rng.normal(size=(8, 8)) / 3, rng.normal(size=(8, 8)) / 3]
    ctx, module = calibrated(weights, images, residual=True)
    exact = np.stack([next(iter(run_float(ctx, module, each).values())) for each in images])
    apply(ctx, module, "calibrate", "quantize", "pot-fold")
    retyper = Retyper(Constants.of(ctx))
    [layer, *_] = [
        op for op in main_function(module).body.block.ops if isinstance(op, ops.LinearOp)
    ]
    text = str(module)
    with pytest.raises(ImpossibleFormatError, match="the bias leaves its accumulator"):
        retyper.shift_bias(layer, np.full(8, 1e12))
    assert str(module) == text
    retyper.shift_bias(layer, np.full(8, 0.2))
    retyper.keep()
    spoilt = sqnr(exact, outputs(ctx, module, images))
    assert refine(module, Constants.of(ctx)) > 0
    module.verify()
    assert sqnr(exact, outputs(ctx, module, images)) > spoilt + 15


def test_enlarged_corners() -> None:
    ramp = np.add.outer(3.0 * np.arange(12), np.arange(20)).astype(np.float32)[None, None]
    for corner in CORNERS:
        part = cropped(corner, ramp)
        assert part.shape == ramp.shape and part.dtype == np.float32
        assert np.ptp(np.diff(part, axis=2)) < 1e-4 and np.ptp(np.diff(part, axis=3)) < 1e-4
        place = tuple(-1 if share else 0 for share in corner)
        assert part[0, 0][place] == ramp[0, 0][place]
    assert cropped(CORNERS[1], ramp[:, :, :1, :1]) == ramp[0, 0, 0, 0]
    tokens = np.zeros((1, 5, 4), np.float32)
    assert all(copy(tokens) is tokens for copy in HELD_OUT)
    assert len(AUGMENTS["crops"]) == 5
    assert held_out([{"x": tokens}], 4) == []
    assert len(held_out([{"x": ramp}] * 5, 4)) == 4


def test_crops_of_few_inputs_only() -> None:
    assert copies_of("few", 7) == AUGMENTS["crops"]
    assert copies_of("few", 8) == AUGMENTS["none"]


def test_wrong_options_are_refused() -> None:
    ctx, module = calibrated([np.eye(8)], [{"x": np.ones((1, 4, 8), np.float32)}], residual=False)
    apply(ctx, module, "calibrate", "quantize", "pot-fold")
    with pytest.raises(VitError, match="refine: held -1 is negative"):
        apply(ctx, module, "refine", held=-1)
