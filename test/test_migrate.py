"""migrate: channels are centred, scaled between layers, and read apart by depthwise convolutions."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Array, apply, constant, context, parse, run_float, run_integer, sqnr, tensor_of
from xdsl.dialects.builtin import ModuleOp

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.base import format_of
from vit_opt.passes.calibrate import clip_of, range_of, statistics_of

WIDTH, SIDE, TOKENS = 16, 6, 24
FUNCTIONS = ("Gelu", "HardSwish")
IMAGE = f"tensor<1x{WIDTH}x{SIDE}x{SIDE}xf32>"
ROWS = f"tensor<1x{TOKENS}x{WIDTH}xf32>"


def model(kind: str, constants: dict[str, Array], lines: list[str]) -> str:
    """A module from %x to %y, both of the type `kind`."""
    body = "\n".join([f"%{name} = {constant(array)}" for name, array in constants.items()] + lines)
    return f"""builtin.module attributes {{vit.stage = "float"}} {{
      func.func @main(%x: {kind}) -> {kind}
          attributes {{vit.input_names = ["x"], vit.output_names = ["y"]}} {{
        {body}
        func.return %y : {kind}
      }} }}"""


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def norm(offset: float) -> str:
    """LayerNorm and linear layer; two channels of the norm lie `offset` from zero."""
    beta = 0.1 * rng(1).standard_normal(WIDTH)
    beta[[2, 9]] += [offset, -offset]
    vector = f"tensor<{WIDTH}xf32>"
    constants = {
        "g": np.ones(WIDTH),
        "b": beta,
        "w": 0.3 * rng(2).standard_normal((WIDTH, WIDTH)),
        "c": -0.3 * rng(3).standard_normal(WIDTH),
    }
    return model(
        ROWS,
        constants,
        [
            f"%n = onnx.LayerNormalization %x, %g, %b : ({ROWS}, {vector}, {vector}) -> {ROWS}",
            f"%y = onnx.Linear %n, %w, %c : ({ROWS}, tensor<{WIDTH}x{WIDTH}xf32>, {vector}) -> {ROWS}",
        ],
    )


def convolutions(loud: float, between: str = "", second: str = "plain") -> str:
    """Two convolutions; in between channel 3 is `loud` times larger, 7 is zero.

    Where no function lies between them, channel 5 is `loud` times smaller.
    """
    factor = np.ones(WIDTH)
    factor[[3, 5, 7]] = loud, 1 if between in FUNCTIONS else 1 / loud, 0
    first = 0.3 * rng(4).standard_normal((WIDTH, WIDTH, 1, 1)) * factor[:, None, None, None]
    factor[7] = 1
    groups = WIDTH if second == "depthwise" else 1
    weight = 0.3 * rng(5).standard_normal((WIDTH, WIDTH // groups, 3, 3))
    weight /= factor[:, None, None, None] if groups > 1 else factor[None, :, None, None]
    bias = 0.2 * rng(6).standard_normal(WIDTH) * factor
    bias[7] = 0
    vector = f"tensor<{WIDTH}xf32>"
    lines = [f"%h = onnx.Conv %x, %w, %b : ({IMAGE}, {tensor_of(first)}, {vector}) -> {IMAGE}"]
    if between:
        lines.append(f"%r = onnx.{between} %h : ({IMAGE}) -> {IMAGE}")
    read = "%r" if between else "%h"
    fields = f"{{pads = array<i64: 1, 1, 1, 1>, group = {groups} : i64}}"
    lines.append(f"%y = onnx.Conv {read}, %v {fields} : ({IMAGE}, {tensor_of(weight)}) -> {IMAGE}")
    return model(IMAGE, {"w": first, "b": bias, "v": weight}, lines)


def feeds(text: str, seed: int) -> dict[str, Array]:
    shape = (1, WIDTH, SIDE, SIDE) if IMAGE in text else (1, TOKENS, WIDTH)
    return {"x": rng(seed).standard_normal(shape).astype(np.float32)}


def calibrated(text: str, count: int = 6) -> tuple[VitContext, ModuleOp]:
    ctx = context([feeds(text, seed) for seed in range(count)])
    module = parse(ctx, text)
    apply(ctx, module, "calibrate")
    return ctx, module


def quality(text: str, *passes: str, **options: object) -> float:
    """SQNR on an input that calibration did not see; the float graph must stay the function it is."""
    ctx, module = calibrated(text)
    [exact] = run_float(ctx, module, feeds(text, 99)).values()
    if passes:
        apply(ctx, module, *passes, **options)
    [same] = run_float(ctx, module, feeds(text, 99)).values()
    np.testing.assert_allclose(same, exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())
    apply(ctx, module, "quantize", "pot-fold", "verify-integer", "prove-ranges")
    [found] = run_integer(ctx, module, feeds(text, 99)).values()
    return sqnr(exact, found)


def test_channels_off_centre() -> None:
    text = norm(9.0)
    plain = quality(text)
    assert quality(text, "migrate", shift=False) == plain
    assert quality(text, "migrate") > plain + 3
    assert quality(text, "migrate", share=1.0) > plain + 6


@pytest.mark.parametrize("between", ["", "Relu"])
def test_layers_are_equalized(between: str) -> None:
    text = convolutions(64.0, between)
    plain = quality(text)
    assert quality(text, "migrate", equalize=False) == plain
    assert quality(text, "migrate") > plain + 10


@pytest.mark.parametrize("between", ["", "Relu"])
def test_depthwise_convolutions_read_channels_apart(between: str) -> None:
    text = convolutions(16.0, between, second="depthwise")
    ctx, module = calibrated(text)
    apply(ctx, module, "migrate", "quantize", "pot-fold")
    [depthwise] = [op for op in module.walk() if isinstance(op, ops.Conv2dOp)][1:]
    format_ = format_of(depthwise.x)
    assert format_.channel_axis == 3
    assert format_.storage.width.data == 8
    assert (format_.bounds[0] == 0) == (between == "Relu")
    assert np.ptp(np.log2(format_.channel_scales())) >= 4
    [exact] = run_float(ctx, parse(ctx, text), feeds(text, 99)).values()
    [found] = run_integer(ctx, module, feeds(text, 99)).values()
    quiet = [c for c in range(WIDTH) if c != 3]
    assert sqnr(exact[:, quiet], found[:, quiet]) > 30


def test_gelu_is_no_way_through() -> None:
    text = convolutions(4.0, "Gelu")
    ctx, module = calibrated(text)
    before = str(module)
    apply(ctx, module, "migrate")
    assert str(module) == before


def test_a_split_leaves_no_clip_of_all_channels_behind() -> None:
    """The quiet branch has the range of its own channels, also where an observer clips."""
    text = convolutions(1000.0, "Gelu")
    ctx = context([feeds(text, seed) for seed in range(6)])
    module = parse(ctx, text)
    apply(ctx, module, "calibrate", observer="percentile")
    apply(ctx, module, "migrate")
    functions = [op for op in module.walk() if isinstance(op, onnx.Gelu)]
    clips = [clip_of(op.y) for op in functions]
    loud, quiet = sorted((clip for clip in clips if clip), key=lambda ends: ends[1], reverse=True)
    assert loud[1] > 100 * quiet[1]


@pytest.mark.parametrize("text", [norm(12.0), convolutions(64.0, "Relu")])
def test_records_follow(text: str) -> None:
    ctx, module = calibrated(text)
    apply(ctx, module, "migrate")
    ranges = {op: range_of(op.results[0]) for op in module.walk() if "vit.range" in op.attributes}
    norms = [op for op in module.walk() if isinstance(op, onnx.LayerNormalization)]
    kept = [statistics_of(op.y, ctx.assets) for op in norms]
    del module.attributes["vit.stage"]
    apply(ctx, module, "calibrate")
    for op, found in ranges.items():
        assert found == pytest.approx(range_of(op.results[0]), rel=1e-4, abs=1e-5)
    for op, old in zip(norms, kept, strict=True):
        new = statistics_of(op.y, ctx.assets)
        assert old is not None and new is not None
        for name in ("minimum", "maximum", "squares", "sums"):
            own = getattr(old.channels, name)
            np.testing.assert_allclose(own, getattr(new.channels, name), rtol=1e-4, atol=1e-3)
        assert old.moments is not None and new.moments is not None
        np.testing.assert_allclose(old.moments.matrix(), new.moments.matrix(), atol=2e-2)


def road(text: str, feed: dict[str, Array]) -> tuple[Array, Array]:
    """Float and integer result on the one image of the calibration's kind, by the standard road."""
    ctx = context([feed])
    module = parse(ctx, text)
    apply(ctx, module, "calibrate", "migrate", "smooth", "fold-scales", "split-channels")
    [exact] = run_float(ctx, module, feeds(text, 99)).values()
    apply(ctx, module, "fill-grids", "assign-bits", "quantize", "pot-fold")
    apply(ctx, module, "verify-integer", "prove-ranges")
    [found] = run_integer(ctx, module, feeds(text, 99)).values()
    return exact, found


@pytest.mark.parametrize("second", ["plain", "depthwise"])
@pytest.mark.parametrize("between", ["", "Relu", "Gelu", "HardSwish"])
def test_a_channel_a_thousand_times_larger(between: str, second: str) -> None:
    """On the way between two convolutions; calibrated on a single image."""
    text = convolutions(1000.0, between, second)
    exact, found = road(text, feeds(text, 0))
    quiet = [c for c in range(WIDTH) if c not in (3, 5)] if second == "depthwise" else range(WIDTH)
    assert sqnr(exact, found) > 25
    assert sqnr(exact[:, quiet], found[:, quiet]) > 25


@pytest.mark.parametrize("second", ["plain", "depthwise"])
@pytest.mark.parametrize("value", [0.0, 7.5])
def test_constant_images(value: float, second: str) -> None:
    text = convolutions(4.0, "Relu", second)
    exact, found = road(text, {"x": np.full((1, WIDTH, SIDE, SIDE), value, np.float32)})
    assert np.isfinite(found).all()
    assert found.shape == exact.shape
