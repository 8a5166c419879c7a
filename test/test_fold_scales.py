"""fold-scales: channels of queries and keys, values and projections, meet in the middle."""

import numpy as np
from graphs import apply, constant, context, parse, run_float, run_integer, sqnr
from xdsl.dialects.builtin import ModuleOp

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.evaluation import main_function
from vit_opt.passes.calibrate import range_of, statistics_of

TOKENS, WIDTH, HEADS, DEPTH = 12, 16, 2, 8
SPLIT = f"1x{TOKENS}x{HEADS}x{DEPTH}xf32"
HEAD = f"1x{HEADS}x{TOKENS}x{DEPTH}xf32"
FLAT = f"1x{TOKENS}x{WIDTH}xf32"
WEIGHT = f"tensor<{WIDTH}x{WIDTH}xf32>"
SCORES = f"1x{HEADS}x{TOKENS}x{TOKENS}xf32"


def attention(weights: dict[str, np.ndarray], extra: str = "") -> str:
    """Text of an attention layer, projections named q, k, v, o."""
    turned = f"1x{HEADS}x{DEPTH}x{TOKENS}xf32"
    lines = [f"%w{name} = {constant(w)}" for name, w in weights.items()]
    for name, perm in (("q", "0, 2, 1, 3"), ("k", "0, 2, 3, 1"), ("v", "0, 2, 1, 3")):
        target = turned if name == "k" else HEAD
        lines += [
            f"%{name} = onnx.Linear %x, %w{name} : (tensor<{FLAT}>, {WEIGHT}) -> tensor<{FLAT}>",
            f"%{name}s = onnx.Reshape %{name} : (tensor<{FLAT}>) -> tensor<{SPLIT}>",
            f"%{name}h = onnx.Transpose %{name}s {{perm = array<i64: {perm}>}} : "
            f"(tensor<{SPLIT}>) -> tensor<{target}>",
        ]
    lines += [
        f"%s = onnx.MatMul %qh, %kh : (tensor<{HEAD}>, tensor<{turned}>) -> tensor<{SCORES}>",
        f"%p = onnx.Softmax %s {{axis = 3 : i64}} : (tensor<{SCORES}>) -> tensor<{SCORES}>",
        f"%a = onnx.MatMul %p, %vh : (tensor<{SCORES}>, tensor<{HEAD}>) -> tensor<{HEAD}>",
        f"%at = onnx.Transpose %a {{perm = array<i64: 0, 2, 1, 3>}} : "
        f"(tensor<{HEAD}>) -> tensor<{SPLIT}>",
        f"%af = onnx.Reshape %at : (tensor<{SPLIT}>) -> tensor<{FLAT}>",
        f"%y = onnx.Linear %af, %wo : (tensor<{FLAT}>, {WEIGHT}) -> tensor<{FLAT}>",
        extra,
        f"func.return %y : tensor<{FLAT}>",
    ]
    body = "\n".join(lines)
    return f"""builtin.module attributes {{vit.stage = "float"}} {{
      func.func @main(%x: tensor<{FLAT}>) -> tensor<{FLAT}>
          attributes {{vit.input_names = ["x"]}} {{ {body} }} }}"""


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Projections with loud channels: 3 of the queries, 5 of the keys, 9 of the values."""
    rng = np.random.default_rng(seed)
    made = {name: 0.3 * rng.standard_normal((WIDTH, WIDTH)) for name in "qkvo"}
    made["q"][3] *= 64
    made["k"][3] /= 64
    made["k"][5] *= 32
    made["q"][5] /= 32
    made["v"][9] *= 128
    made["o"][:, 9] /= 128
    return made


def calibrated(text: str) -> tuple[VitContext, ModuleOp]:
    rng = np.random.default_rng(1)
    shape = (1, TOKENS, WIDTH)
    ctx = context([{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(4)])
    module = parse(ctx, text)
    apply(ctx, module, "calibrate")
    return ctx, module


def spread(ctx: VitContext, module: ModuleOp, name: str) -> float:
    """Largest over median channel magnitude of a projection's output."""
    layers = [op for op in main_function(module).walk() if op.name == "onnx.Linear"]
    statistics = statistics_of(layers["qkvo".index(name)].results[0], ctx.assets)
    assert statistics is not None
    magnitude = statistics.channels.magnitude
    return float(magnitude.max() / np.median(magnitude))


def test_function_unchanged_and_channels_level() -> None:
    ctx, module = calibrated(attention(weights()))
    before = [run_float(ctx, module, batch)["output0"] for batch in ctx.assets.batches]
    assert min(spread(ctx, module, name) for name in "qkv") > 20
    apply(ctx, module, "fold-scales")
    after = [run_float(ctx, module, batch)["output0"] for batch in ctx.assets.batches]
    assert np.array_equal(before, after)
    assert max(spread(ctx, module, name) for name in "qkv") < 12


def test_recorded_ranges_are_those_of_the_new_values() -> None:
    ctx, module = calibrated(attention(weights()))
    apply(ctx, module, "fold-scales")
    told = [range_of(op.results[0]) for op in main_function(module).walk() if op.results]
    module.attributes.pop("vit.stage")
    apply(ctx, module, "calibrate")
    seen = [range_of(op.results[0]) for op in main_function(module).walk() if op.results]
    for left, right in zip(told, seen, strict=True):
        assert (left is None) == (right is None)
        if left is not None and right is not None:
            assert np.allclose(left, right, rtol=1e-5)


def test_accuracy_of_integers() -> None:
    results: dict[bool, float] = {}
    for folded in (False, True):
        ctx, module = calibrated(attention(weights()))
        reference = [run_float(ctx, module, batch)["output0"] for batch in ctx.assets.batches]
        apply(ctx, module, *(("fold-scales",) if folded else ()), "quantize", "pot-fold")
        values = [run_integer(ctx, module, batch)["output0"] for batch in ctx.assets.batches]
        results[folded] = sqnr(np.stack(reference), np.stack(values))
    assert results[True] > results[False] + 6


def test_a_projection_with_another_reader_is_left_alone() -> None:
    extra = f"%e = onnx.Relu %vh : (tensor<{HEAD}>) -> tensor<{HEAD}>"
    ctx, module = calibrated(attention(weights(), extra))
    apply(ctx, module, "fold-scales")
    assert spread(ctx, module, "v") > 20
    assert spread(ctx, module, "q") < 12


def test_silent_channels_are_no_error() -> None:
    made = weights()
    for name in "qkvo":
        made[name][2] = 0
    made["o"][:, 4] = 0
    ctx, module = calibrated(attention(made))
    reference = run_float(ctx, module, ctx.assets.batches[0])["output0"]
    apply(ctx, module, "fold-scales", "quantize", "pot-fold")
    assert sqnr(reference, run_integer(ctx, module, ctx.assets.batches[0])["output0"]) > 20
