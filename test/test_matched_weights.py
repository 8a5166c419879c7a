"""pot-fold{inputs=integer}: weights made for the integers that reach them, block by block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import apply, context, parse, run_float, run_integer, sqnr
from test_windows import KINDS, convolution, layer_of
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.evaluation import main_function
from vit_opt.dialects.onnx.semantics import evaluate
from vit_opt.dialects.vit import ops
from vit_opt.frontends.onnx_import import import_onnx
from vit_opt.passes.algorithms.matching import Matching, Pair, Sums
from vit_opt.passes.calibrate import FLOAT_GRAPH
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.pipelines import RAISE
from vit_opt.passes.quantization.lockstep import Lockstep, Runner, lockstep_inputs
from vit_opt.passes.quantization.weights import in_rows
from vit_opt.passes.quantization.windows import window_moments

DIGITS = Path(__file__).parent.parent / "examples" / "digits"
OUTPUTS, SIZE, ROWS = 6, 12, 40


def gathered(
    rng: np.random.Generator, images: int, error: np.ndarray, noise: float, offset: float = 0.0
) -> Matching:
    """A layer on inputs X that lacks ``error`` X, an offset, and noise of each row."""
    matching = Matching([Pair(np.arange(SIZE), (Sums(SIZE, OUTPUTS), Sums(SIZE, OUTPUTS)))])
    for image in range(images):
        x = rng.normal(size=(ROWS, SIZE)) + rng.normal(size=(ROWS, 1))
        e = x @ error.T + noise * rng.normal(size=(ROWS, OUTPUTS)) + offset
        matching.update(image, [(x, e)], e)
    return matching


def test_a_lack_that_inputs_explain_goes_into_the_weights() -> None:
    rng = np.random.default_rng(0)
    weight, lack = rng.normal(size=(2, OUTPUTS, SIZE)) * [[[1.0]], [[0.1]]]
    found = gathered(rng, 8, lack, noise=0.02, offset=0.3).solve(weight, centred=True)
    assert np.abs(found.target - weight - lack).max() < 0.05
    bias = found.bias(np.ones(OUTPUTS), found.target)
    fresh = rng.normal(size=(1000, SIZE)) + 1.0
    wanted = fresh @ (weight + lack).T + 1.3
    left = fresh @ found.target.T + bias - wanted
    assert np.square(left).mean() < 0.05 * np.square(fresh @ lack.T + 0.3).mean()


@pytest.mark.parametrize("images", range(1, 6))
def test_noise_is_not_fitted(images: int) -> None:
    """Without anything to explain, weights and bias stay about as they are: on average over draws."""
    moved, means = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        weight, none = rng.normal(size=(OUTPUTS, SIZE)), np.zeros((OUTPUTS, SIZE))
        found = gathered(rng, images, none, noise=1.0).solve(weight, centred=True)
        moved.append(np.square(found.target - weight).sum())
        means.append(np.square(found.mean).sum())
    # The least squares fit on all rows would change weights by about sqrt(N K / rows) of the noise,
    # and the mean over all rows biases by sqrt(N / rows).
    assert np.mean(moved) < 0.05 * OUTPUTS * SIZE / (images * ROWS)
    assert np.mean(means) < 0.4 * OUTPUTS / (images * ROWS)
    if images == 1:
        assert not np.any(moved)
        assert not np.any(means)


def test_degenerate_inputs() -> None:
    """A channel 1000 times larger, one that is always zero, one constant, equal ones; one image."""
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(OUTPUTS, SIZE))
    for images in (1, 4):
        for centred in (False, True):
            matching = gathered(rng, 0, weight, 0.0)
            for image in range(images):
                x = rng.normal(size=(ROWS, SIZE)).astype(np.float32)
                x[:, 0] *= 1000
                x[:, 1], x[:, 2], x[:, 3] = 0.0, 5.0, x[:, 4]
                e = (x @ weight.T * 0.01).astype(np.float32)
                matching.update(image, [(x, e)], e)
            found = matching.solve(weight, centred)
            assert np.isfinite(found.target).all()
            assert np.isfinite(found.bias(np.zeros(OUTPUTS), found.target)).all()
            assert (found.target[:, 1] == weight[:, 1]).all()


@pytest.mark.parametrize("kind", [name for name in KINDS if name not in ("grouped", "depthwise")])
def test_windows_go_with_the_outputs_that_they_give(kind: str) -> None:
    ctx, module, images = convolution(kind)
    op = layer_of(module)
    weight = Constants.of(ctx).array(op.w)
    moments = window_moments(op)
    assert weight is not None and moments is not None
    [y] = evaluate(op, [images[0], weight], ctx.assets)
    total = 0.0
    for features, (windows, outputs) in zip(
        moments.features,
        moments.rows(images[0].transpose(0, 2, 3, 1), y.transpose(0, 2, 3, 1)),
        strict=True,
    ):
        found = windows @ in_rows(op, weight)[:, features].T
        np.testing.assert_allclose(found, outputs, rtol=1e-4, atol=1e-4)
        total += float(np.square(outputs).sum())
    # Outputs that no window gives, where a stride is larger than the kernel, are zero.
    np.testing.assert_allclose(total, np.square(y).sum(), rtol=1e-4)


TEXT = """
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<32x24xf32>) -> tensor<32x24xf32> attributes {vit.input_names = ["x"]} {
    %v = onnx.Constant #vit.asset<"v", "V", tensor<24x24xf32>>
    %w = onnx.Constant #vit.asset<"w", "W", tensor<24x24xf32>>
    %b = onnx.Constant dense<0.5> : tensor<24xf32>
    %h = onnx.Linear %x, %v, %b {node_name = "first"} : (tensor<32x24xf32>, tensor<24x24xf32>, tensor<24xf32>) -> tensor<32x24xf32>
    %r = onnx.Relu %h {node_name = "relu"} : (tensor<32x24xf32>) -> tensor<32x24xf32>
    %y = onnx.Linear %r, %w, %b {node_name = "second"} : (tensor<32x24xf32>, tensor<24x24xf32>, tensor<24xf32>) -> tensor<32x24xf32>
    %s = onnx.Add %h, %y {node_name = "sum"} : (tensor<32x24xf32>, tensor<32x24xf32>) -> tensor<32x24xf32>
    func.return %s : tensor<32x24xf32>
  }
}
"""  # noqa: E501


def two_layers(
    seed: int, count: int = 8
) -> tuple[VitContext, ModuleOp, list[dict[str, np.ndarray]]]:
    """A block of two layers with a shortcut, whose first has 4 bits; and inputs not calibrated on."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(24, 24)) * 2.0 ** -np.arange(0, 6, 0.25)[:, None]
    batches = [
        {"x": (rng.normal(size=(32, 24)) @ mixing).astype(np.float32)} for _ in range(count + 4)
    ]
    ctx = context(batches[:count])
    arrays = {
        name: ctx.assets.add(name.lower(), rng.standard_t(3, (24, 24)).astype(np.float32) / 6)
        for name in "VW"
    }
    text = TEXT
    for name, attribute in arrays.items():
        text = text.replace(f'"{name}"', f'"{attribute.digest.data}"')
    module = parse(ctx, text)
    apply(ctx, module, "calibrate")
    [first, _] = [op for op in module.walk() if isinstance(op, onnx.Linear)]
    first.attributes["vit.weight_bits"] = IntegerAttr(4, i64)
    return ctx, module, batches[count:]


def quality(seed: int, **options: str) -> float:
    """SQNR of the block on fresh inputs."""
    ctx, module, fresh = two_layers(seed)
    exact = np.stack([run_float(ctx, module, each)["output0"] for each in fresh])
    apply(ctx, module, "quantize")
    apply(ctx, module, "pot-fold", **options)
    return sqnr(exact, np.stack([run_integer(ctx, module, each)["output0"] for each in fresh]))


def test_the_second_layer_makes_up_for_the_first() -> None:
    gains = [quality(seed) - quality(seed, inputs="float", bias="plain") for seed in range(4)]
    assert min(gains) > 2


def test_the_same_bits_each_time() -> None:
    modules: list[str] = []
    for _ in range(2):
        ctx, module, _ = two_layers(0)
        apply(ctx, module, "quantize", "pot-fold")
        modules.append(str(module))
    assert modules[0] == modules[1]


@pytest.mark.parametrize("missing", ["batches", "float graph", "names"])
def test_without_what_it_needs_it_rounds_for_float_inputs(missing: str) -> None:
    texts: list[str] = []
    for inputs in ("integer", "float"):
        ctx, module, _ = two_layers(0)
        if missing == "names":
            for op in module.walk():
                op.attributes.pop("node_name", None)
        apply(ctx, module, "quantize")
        if missing == "batches":
            ctx.assets.batches = []
        elif missing == "float graph":
            del ctx.assets.statistics[FLOAT_GRAPH]
        apply(ctx, module, "pot-fold", inputs=inputs)
        texts.append(str(module))
    assert texts[0] == texts[1]


def test_a_runner_runs_all_once_and_forgets() -> None:
    images = np.load(DIGITS / "calib.npz")["image"].astype(np.float32)[:2]
    ctx = context([{"image": image[None]} for image in images])
    module = import_onnx(DIGITS / "model.onnx", context=ctx)
    apply(ctx, module, *RAISE, "calibrate", "quantize")
    reference = ctx.assets.statistics[FLOAT_GRAPH]
    assert isinstance(reference, ModuleOp)
    inputs = lockstep_inputs(reference, ctx.assets.batches, [lambda array: array] * 2)
    assert [image for image, _ in inputs] == [0, 0, 1, 1]
    seen: list[ops.VitOp] = []

    def run(op, args):
        seen.append(op)
        return evaluate(op, args, ctx.assets)

    block = main_function(reference).body.block
    runner = Runner(block, [[batch["image"]] for _, batch in inputs], run)
    most, last = 0, block.last_op
    assert last is not None
    for op in block.ops:
        runner.advance(op)
        most = max(most, len(runner.values[0]))
    operations = [op for op in block.ops if op.operands and op is not last]
    assert [op for op in seen if op.operands] == [op for op in operations for _ in inputs]
    assert most <= 5 and not any(v for v in runner.values)

    lockstep = Lockstep(module, reference, ctx.assets, inputs)
    products = [op for op in module.walk() if isinstance(op, ops.LinearOp)]
    for op in products:
        assert lockstep.matching(op) is not None
    assert len(lockstep.floats.values[0]) <= 5 and len(lockstep.integers.values[0]) <= 5


def test_large_images_are_run_on_fewer_inputs() -> None:
    ctx, module, _ = two_layers(0, count=100)
    inputs = lockstep_inputs(module, ctx.assets.batches, [lambda array: array])
    assert 30 < len(inputs) <= 40
    assert len({image for image, _ in inputs}) == len(inputs)
