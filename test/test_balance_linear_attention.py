"""fold-scales on linear attention: state and sums of all heads use the codes of one grid alike."""

import numpy as np
import pytest
from graphs import Array, apply, constant, context, parse, run_float, run_integer, sqnr, tensor_of
from xdsl.dialects.builtin import ModuleOp

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.passes.calibrate import range_of, state_of
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.webs import webs_of

WIDTH, HEADS, DEPTH, SIDE = 16, 4, 8, 6
OWN = 3 * HEADS // 2 * DEPTH
IMAGE = f"tensor<1x{WIDTH}x{SIDE}x{SIDE}xf32>"
QKV = f"tensor<1x{OWN}x{SIDE}x{SIDE}xf32>"
BOTH = f"tensor<1x{2 * OWN}x{SIDE}x{SIDE}xf32>"
CUT = f"tensor<1x{HEADS}x{3 * DEPTH}x{SIDE * SIDE}xf32>"
TURNED = f"tensor<1x{HEADS}x{SIDE * SIDE}x{3 * DEPTH}xf32>"
PART = f"tensor<1x{HEADS}x{SIDE * SIDE}x{DEPTH}xf32>"
BACK = f"tensor<1x{HEADS}x{DEPTH}x{SIDE * SIDE}xf32>"
MERGED = f"tensor<1x{HEADS * DEPTH}x{SIDE}x{SIDE}xf32>"


def attention(weights: dict[str, Array], extra: str = "") -> str:
    """EfficientViT's attention: half of the heads as they are, half over their neighbourhood."""
    w = weights
    lines = [f"%{name} = {constant(array)}" for name, array in w.items()]
    lines += [
        f"%qkv = onnx.Conv %x, %wqkv : ({IMAGE}, {tensor_of(w['wqkv'])}) -> {QKV}",
        f"%near = onnx.Conv %qkv, %wdw {{pads = array<i64: 1, 1, 1, 1>, group = {OWN} : i64}} : "
        f"({QKV}, {tensor_of(w['wdw'])}) -> {QKV}",
        f"%all = onnx.Concat %qkv, %near {{axis = 1 : i64}} : ({QKV}, {QKV}) -> {BOTH}",
        f"%cut = onnx.Reshape %all : ({BOTH}) -> {CUT}",
        f"%turned = onnx.Transpose %cut {{perm = array<i64: 0, 1, 3, 2>}} : ({CUT}) -> {TURNED}",
    ]
    for index, name in enumerate("qkv"):
        lines.append(
            f"%{name} = onnx.Slice %turned {{starts = array<i64: {index * DEPTH}>, ends = "
            f"array<i64: {(index + 1) * DEPTH}>, axes = array<i64: 3>, steps = array<i64: 1>}} : "
            f"({TURNED}) -> {PART}"
        )
    lines += [
        f"%a = onnx.LinearAttention %q, %k, %v {{eps = 1.0e-15}} : "
        f"({PART}, {PART}, {PART}) -> {PART}",
        f"%at = onnx.Transpose %a {{perm = array<i64: 0, 1, 3, 2>}} : ({PART}) -> {BACK}",
        f"%am = onnx.Reshape %at : ({BACK}) -> {MERGED}",
        f"%y = onnx.Conv %am, %wo : ({MERGED}, {tensor_of(w['wo'])}) -> {IMAGE}",
        extra or f"func.return %y : {IMAGE}",
    ]
    body = "\n".join(lines)
    return f"""builtin.module attributes {{vit.stage = "float"}} {{
      func.func @main(%x: {IMAGE}) -> {IMAGE}
          attributes {{vit.input_names = ["x"], vit.output_names = ["y"]}} {{ {body} }} }}"""


def weights(loud: float = 30.0) -> dict[str, Array]:
    """Projections in which the keys and values of the first head are `loud` times larger."""
    rng = np.random.default_rng(0)
    made = {
        "wqkv": 0.3 * rng.standard_normal((OWN, WIDTH, 1, 1)),
        "wdw": 0.3 * rng.standard_normal((OWN, 1, 3, 3)),
        "wo": 0.3 * rng.standard_normal((WIDTH, HEADS * DEPTH, 1, 1)),
    }
    made["wqkv"][DEPTH : 3 * DEPTH] *= loud
    made["wo"][:, :DEPTH] /= loud
    made["wdw"][: 3 * DEPTH] /= loud
    return made


def image(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((1, WIDTH, SIDE, SIDE)).astype(np.float32)}


def calibrated(text: str) -> tuple[VitContext, ModuleOp]:
    ctx = context([image(seed) for seed in range(6)])
    module = parse(ctx, text)
    apply(ctx, module, "calibrate", augment="none")
    return ctx, module


def quantized(ctx: VitContext, module: ModuleOp) -> float:
    """SQNR of the integer model on an image that calibration did not see."""
    exact = run_float(ctx, module, image(99))["y"]
    apply(ctx, module, "quantize", "pot-fold", "verify-integer", "prove-ranges")
    return sqnr(exact, run_integer(ctx, module, image(99))["y"])


def test_a_loud_head_does_not_drown_the_others() -> None:
    ctx, module = calibrated(attention(weights()))
    plain = quantized(ctx, module)
    ctx, module = calibrated(attention(weights()))
    exact = run_float(ctx, module, image(99))["y"]
    apply(ctx, module, "fold-scales")
    np.testing.assert_allclose(run_float(ctx, module, image(99))["y"], exact, rtol=2e-4, atol=2e-4)
    assert quantized(ctx, module) > plain + 8


def test_records_follow_the_factors() -> None:
    ctx, module = calibrated(attention(weights()))
    apply(ctx, module, "fold-scales")
    ranges = {op: range_of(op.results[0]) for op in module.walk() if "vit.range" in op.attributes}
    [linear] = [op for op in module.walk() if isinstance(op, onnx.LinearAttention)]
    state = state_of(linear)
    module.attributes.pop("vit.stage")
    apply(ctx, module, "calibrate", augment="none")
    for op, found in ranges.items():
        assert found == pytest.approx(range_of(op.results[0]), rel=1e-3, abs=1e-4)
    assert state == pytest.approx(state_of(linear), rel=1e-3)


@pytest.mark.parametrize("channel", ["q", "k", "v"])
def test_channels_of_zeros(channel: str) -> None:
    made = weights(loud=1000.0)
    made["wqkv"][DEPTH * "qkv".index(channel) + 2] = 0
    ctx, module = calibrated(attention(made))
    apply(ctx, module, "fold-scales")
    for op in module.walk():
        array = Constants.of(ctx).array(op.y) if isinstance(op, onnx.Constant) else None
        assert array is None or np.isfinite(array).all()
    assert quantized(ctx, module) > 20


def test_channels_that_something_else_reads_stay() -> None:
    """Keys of the first head that are also an output: their head is left alone, and so are all."""
    text = attention(
        weights(),
        f"%s = onnx.Relu %qkv : ({QKV}) -> {QKV}\nfunc.return %y, %s : {IMAGE}, {QKV}",
    )
    text = text.replace(
        f"-> {IMAGE}\n          attributes", f"-> ({IMAGE}, {QKV})\n          attributes"
    )
    text = text.replace('["y"]', '["y", "s"]')
    ctx, module = calibrated(text)
    before = str(module)
    apply(ctx, module, "fold-scales")
    assert str(module) == before
    assert not webs_of(module, Constants.of(ctx)).free(np.array([1]))


def test_attentions_that_share_keys_stay() -> None:
    """The factors of both would meet in the shared channels, and neither's state would be even."""
    again = [
        f"%a2 = onnx.LinearAttention %v, %k, %q {{eps = 1.0e-15}} : "
        f"({PART}, {PART}, {PART}) -> {PART}",
        f"%t2 = onnx.Transpose %a2 {{perm = array<i64: 0, 1, 3, 2>}} : ({PART}) -> {BACK}",
        f"%m2 = onnx.Reshape %t2 : ({BACK}) -> {MERGED}",
        f"%y2 = onnx.Conv %m2, %wo : ({MERGED}, {tensor_of(weights()['wo'])}) -> {IMAGE}",
        f"%s = onnx.Add %y, %y2 : ({IMAGE}, {IMAGE}) -> {IMAGE}",
        f"func.return %s : {IMAGE}",
    ]
    ctx, module = calibrated(attention(weights(), "\n".join(again)))
    before = str(module)
    apply(ctx, module, "fold-scales")
    assert str(module) == before


def test_headroom_is_checked() -> None:
    ctx, module = calibrated(attention(weights()))
    with pytest.raises(VitError, match=r"headroom 0\.5 is not from 1"):
        apply(ctx, module, "fold-scales", headroom=0.5)
