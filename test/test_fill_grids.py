"""fill-grids: ranges end where codes do, the function stays, and shifts get what real scales give."""

import numpy as np
import pytest
from graphs import apply, canonicalize, context, parse, run_float, run_integer, sqnr
from test_adversarial import images, model, ordinary_weights
from test_fold_scales import attention, weights
from xdsl.dialects.builtin import ModuleOp

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import main_function
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.functions import function_name, function_parts
from vit_opt.passes.calibrate import range_of
from vit_opt.passes.quantization.tables import real_function


def calibrated() -> tuple[VitContext, ModuleOp, list[dict[str, np.ndarray]]]:
    """The small ViT of the adversarial tests."""
    batches = [{"image": x} for x in images("ordinary", 6)]
    ctx = context(batches)
    module = parse(ctx, model(ordinary_weights()))
    apply(ctx, module, "calibrate")
    return ctx, module, batches


def share(low: float, high: float, *, symmetric: bool) -> float:
    """The part of the codes of the covering power-of-two grid that a range uses, above a half."""
    width = 2 * max(-low, high) / 254 if symmetric else (high - low) / 255
    return width / 2.0 ** np.ceil(np.log2(width))


def test_ranges_end_where_codes_do() -> None:
    ctx, module, batches = calibrated()
    before = [run_float(ctx, module, batch)["logits"] for batch in batches]
    apply(ctx, module, "fill-grids", headroom=1.0)
    after = [run_float(ctx, module, batch)["logits"] for batch in batches]
    assert sqnr(np.stack(before), np.stack(after)) > 100
    seen = 0
    for op in main_function(module).body.block.ops:
        if isinstance(op, onnx.LayerNormalization | onnx.Mul):
            if isinstance(op.operands[0].owner, onnx.Linear):  # the operand of a table
                continue
            low, high = range_of(op.results[0]) or (0.0, 0.0)
            one_sided = -low < 0.5 * high
            assert share(low, high, symmetric=not one_sided) > 0.97
            seen += 1
    assert seen == 4


def test_products_of_queries_and_keys_stay() -> None:
    rng = np.random.default_rng(1)
    batches = [{"x": rng.standard_normal((1, 12, 16)).astype(np.float32)} for _ in range(4)]
    ctx = context(batches)
    module = parse(ctx, attention(weights()))
    before = [run_float(ctx, module, batch)["output0"] for batch in batches]
    apply(ctx, module, "calibrate")
    apply(ctx, module, "fill-grids", headroom=1.0)
    after = [run_float(ctx, module, batch)["output0"] for batch in batches]
    assert sqnr(np.stack(before), np.stack(after)) > 100
    named = {
        op.results[0].name_hint: op.results[0] for op in main_function(module).walk() if op.results
    }
    spare: list[float] = []
    for name in ("qh", "kh", "af"):
        low, high = range_of(named[name]) or (0.0, 0.0)
        spare.append(1 / share(low, high, symmetric=True))
    assert spare[2] < 1.03
    assert np.isclose(spare[0], spare[1], rtol=0.03) and spare[0] < 1.5


MISSED = """
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<32x64xf32>) -> tensor<32x64xf32> attributes {vit.input_names = ["x"]} {
    %g = onnx.Constant dense<SCALE> : tensor<64xf32>
    %b = onnx.Constant dense<0.0> : tensor<64xf32>
    %w = onnx.Constant dense<WEIGHT> : tensor<64x64xf32>
    %n = onnx.LayerNormalization %x, %g, %b : (tensor<32x64xf32>, tensor<64xf32>, tensor<64xf32>) -> tensor<32x64xf32>
    %y = onnx.Linear %n, %w : (tensor<32x64xf32>, tensor<64x64xf32>) -> tensor<32x64xf32>
    func.return %y : tensor<32x64xf32>
  }
}
"""  # noqa: E501


def test_it_is_worth_it() -> None:
    """The largest result just misses a grid twice as fine: nearly half of the codes are unused."""
    rng = np.random.default_rng(0)
    batch = {"x": rng.standard_normal((32, 64)).astype(np.float32)}
    normal = (batch["x"] - batch["x"].mean(1, keepdims=True)) / batch["x"].std(1, keepdims=True)
    weight = rng.standard_normal((64, 64)).astype(np.float32).tolist()
    text = MISSED.replace("SCALE", str(4.1 / np.abs(normal).max())).replace("WEIGHT", str(weight))
    results: list[float] = []
    for passes in ((), ("fill-grids",)):
        ctx = context([batch])
        module = parse(ctx, text)
        exact = run_float(ctx, module, batch)["output0"]
        apply(ctx, module, "calibrate", *passes, "quantize", "pot-fold")
        canonicalize(ctx, module)
        results.append(sqnr(exact, run_integer(ctx, module, batch)["output0"]))
    assert results[1] > results[0] + 2


def test_the_factor_becomes_part_of_the_table() -> None:
    ctx, module, _ = calibrated()
    apply(ctx, module, "fill-grids", "quantize", "pot-fold")
    body = main_function(module).body.block
    [table] = [op for op in body.ops if isinstance(op, ops.LutOp)]
    assert table.function is not None
    base, inner, outer = function_parts(table.function.data)
    assert base == "gelu" and 0.5 < inner < 1 < outer < 2
    assert table.function.data == function_name(base, inner, outer)
    assert not any(isinstance(op, ops.MulOp) for op in body.ops)
    function, plain = real_function(table.function.data), real_function("gelu")
    assert function is not None and plain is not None
    points = np.linspace(-3, 3, 7)
    assert np.allclose(function(points), outer * plain(inner * points))


HIDDEN = """
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<32x64xf32>) -> tensor<32x64xf32> attributes {vit.input_names = ["x"]} {
    %w = onnx.Constant dense<FIRST> : tensor<64x64xf32>
    %b = onnx.Constant dense<0.0> : tensor<64xf32>
    %v = onnx.Constant dense<SECOND> : tensor<64x64xf32>
    %h = onnx.Linear %x, %w, %b : (tensor<32x64xf32>, tensor<64x64xf32>, tensor<64xf32>) -> tensor<32x64xf32>
    %g = onnx.FUNCTION %h : (tensor<32x64xf32>) -> tensor<32x64xf32>
    %y = onnx.Linear %g, %v : (tensor<32x64xf32>, tensor<64x64xf32>) -> tensor<32x64xf32>
    func.return %y : tensor<32x64xf32>
  }
}
"""


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        ("HardSwish", "ordinary"),
        ("Gelu", "loud"),
        ("Swish", "loud"),
        ("HardSwish", "dead"),
        ("Gelu", "constant"),
        ("Swish", "zero"),
    ],
)
def test_operands_of_tables(function: str, kind: str) -> None:
    """Hidden values up to 5, of which those from -3 change Hardswish's: a little too many for a finer grid.

    In adversarial data a channel is 1000 times louder or dead, all images are alike or zero.
    """
    codes = np.random.default_rng(3).integers(-20, 21, (32, 64))
    codes[0, :2] = 127, -127
    batch = {"x": (codes / 32).astype(np.float32)}
    first, second = 1.34 * np.eye(64), np.eye(64)
    if kind in ("loud", "dead"):
        first[0] *= {"loud": 1000.0, "dead": 0.0}[kind]
    elif kind != "ordinary":
        batch = {"x": np.full((32, 64), 0.7 if kind == "constant" else 0.0, np.float32)}
    text = HIDDEN.replace("FIRST", str(first.tolist())).replace("SECOND", str(second.tolist()))
    results: list[float] = []
    for operands in (False, True):
        ctx = context([batch])
        module = parse(ctx, text.replace("FUNCTION", function))
        exact = run_float(ctx, module, batch)["output0"]
        apply(ctx, module, "calibrate")
        apply(ctx, module, "fill-grids", headroom=1.0, operands=operands)
        np.testing.assert_allclose(
            run_float(ctx, module, batch)["output0"], exact, atol=1e-5 * (1 + np.abs(exact).max())
        )
        apply(ctx, module, "quantize", "pot-fold", "verify-integer", "prove-ranges")
        found = run_integer(ctx, module, batch)["output0"]
        assert np.isfinite(found).all()
        results.append(sqnr(exact, found) if exact.any() else 0.0)
    assert kind != "ordinary" or results[1] > results[0] + 2
    assert kind == "zero" or results[1] > 25


def test_headroom_outside_its_range_is_refused() -> None:
    ctx, module, _ = calibrated()
    with pytest.raises(VitError, match="fill-grids: headroom 2 is not at least 1 and below 2"):
        apply(ctx, module, "fill-grids", headroom=2.0)
