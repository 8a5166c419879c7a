"""Filter-wise shifting between convolutions: worth it, exact, and only where no padding forbids it."""

from __future__ import annotations

import numpy as np
import pytest
from golden_vectors import Golden
from graphs import apply, constant, context, parse, run_float, tensor_of
from test_migrate import IMAGE, SIDE, WIDTH, calibrated, quality, rng, road

from vit_opt.dialects import onnx
from vit_opt.passes.calibrate import range_of, windows_of
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization import shifting
from vit_opt.passes.quantization.shifting import covered

SECOND = {
    "pointwise": (1, 1, 0),
    "grouped": (4, 1, 0),
    "valid": (1, 3, 0),
    "depthwise": (WIDTH, 3, 0),
    "padded": (1, 3, 1),
}
"""The second convolution: groups, size, padding."""


def pair(
    kind: str, spread: float = 8.0, *, biased: bool = True, factor: np.ndarray | None = None
) -> str:
    """Two convolutions; channels in between lie up to `spread` from zero, times a factor [C]."""
    groups, size, pad = SECOND[kind]
    factor = np.ones(WIDTH) if factor is None else factor
    first = 0.3 * rng(4).standard_normal((WIDTH, WIDTH, 1, 1)) * factor[:, None, None, None]
    bias = np.linspace(-spread, spread, WIDTH) * factor
    second = 0.3 * rng(5).standard_normal((WIDTH, WIDTH // groups, size, size))
    arrays = {"w": first, "b": bias, "v": second}
    if biased:
        arrays["c"] = 0.1 * rng(6).standard_normal(WIDTH)
    outer = size - 1 - 2 * pad
    hidden = f"tensor<1x{WIDTH}x{SIDE + outer}x{SIDE + outer}xf32>"
    around = [f"pads = array<i64: {', '.join([str(p)] * 4)}>" for p in (outer // 2, pad)]
    more = ("%v, %c", f"{tensor_of(second)}, tensor<{WIDTH}xf32>")
    operands, types = more if biased else ("%v", tensor_of(second))
    lines = [
        *(f"%{name} = {constant(array)}" for name, array in arrays.items()),
        f"%h = onnx.Conv %x, %w, %b {{{around[0]}}} : "
        f"({IMAGE}, {tensor_of(first)}, tensor<{WIDTH}xf32>) -> {hidden}",
        f"%y = onnx.Conv %h, {operands} {{{around[1]}, group = {groups} : i64}} : "
        f"({hidden}, {types}) -> {IMAGE}",
        f"func.return %y : {IMAGE}",
    ]
    body = "\n".join(lines)
    return f"""builtin.module attributes {{vit.stage = "float"}} {{
      func.func @main(%x: {IMAGE}) -> {IMAGE}
          attributes {{vit.input_names = ["x"], vit.output_names = ["y"]}} {{ {body} }} }}"""


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("kind", ["pointwise", "grouped", "valid", "depthwise"])
def test_channels_off_centre(kind: str, biased: bool) -> None:
    text = pair(kind, biased=biased)
    apart = {"equalize": False, "channels": False}
    plain = quality(text, "migrate", centre=False, **apart)
    assert quality(text, "migrate", **apart) > plain + 4


def test_padded_with_zeros() -> None:
    """Zeros at the border are no zeros of a shifted image: nothing is done."""
    ctx, module = calibrated(pair("padded"))
    before = str(module)
    apply(ctx, module, "migrate", equalize=False)
    assert str(module) == before


def test_what_something_else_reads_stays() -> None:
    text = pair("pointwise").replace(
        f"func.return %y : {IMAGE}",
        f"%s = onnx.Add %h, %y : ({IMAGE}, {IMAGE}) -> {IMAGE}\nfunc.return %s : {IMAGE}",
    )
    ctx, module = calibrated(text)
    before = str(module)
    apply(ctx, module, "migrate", equalize=False)
    assert str(module) == before


def test_records_follow() -> None:
    """Ranges and the moments of windows are those of the shifted channels."""
    ctx, module = calibrated(pair("valid"))
    apply(ctx, module, "migrate", equalize=False)
    [first, second] = [op for op in module.walk() if isinstance(op, onnx.Conv)]
    ends, moments = range_of(first.y), windows_of(second, ctx.assets)
    assert ends is not None and ends[1] - ends[0] < 10
    again = context(ctx.assets.batches)
    again.assets.arrays.update(ctx.assets.arrays)
    del module.attributes["vit.stage"]
    apply(again, module, "calibrate", augment="none")
    fresh = windows_of(second, again.assets)
    assert moments is not None and fresh is not None
    for ours, exact in zip(moments.parts(WIDTH), fresh.parts(WIDTH), strict=True):
        np.testing.assert_allclose(ours.moments, exact.moments, rtol=1e-4, atol=1e-2)
    [low, high] = range_of(first.y) or (0.0, 0.0)
    assert low >= ends[0] - 1e-4 and high <= ends[1] + 1e-4


@pytest.mark.parametrize("kind", ["pointwise", "depthwise"])
@pytest.mark.parametrize("adverse", ["loud", "dead", "constant", "zero"])
def test_adverse_data(kind: str, adverse: str) -> None:
    """A channel 1000 times larger, or dead; a constant image: always a single one."""
    factor = np.ones(WIDTH)
    factor[3] = {"loud": 1000.0, "dead": 0.0}.get(adverse, 1.0)
    text = pair(kind, factor=factor)
    feed = {"x": rng(0).standard_normal((1, WIDTH, SIDE, SIDE)).astype(np.float32)}
    if adverse in ("constant", "zero"):
        feed["x"][:] = 0.7 if adverse == "constant" else 0.0
    exact, found = road(text, feed)
    assert np.isfinite(found).all()
    ctx = context([feed])
    module = parse(ctx, text)
    [plain] = run_float(
        ctx, module, {"x": rng(99).standard_normal(feed["x"].shape).astype("f4")}
    ).values()
    np.testing.assert_allclose(exact, plain, rtol=1e-4, atol=1e-4 * np.abs(plain).max())


def test_what_a_format_covers() -> None:
    assert covered(np.array([3.0, -1.0]), np.array([9.0, 2.0])) == 10.0
    assert covered(np.array([-8.0, 1.0]), np.array([2.0, 9.0])) == 18.0
    assert covered(np.zeros(2), np.zeros(2)) == 0.0


def test_published_midpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Trio-ViT's code subtracts (QuantModule_Shifted) is what moves from one bias to the other.

    It does so whatever is gained.
    """
    monkeypatch.setattr(shifting, "GAIN", np.inf)
    golden, case = Golden("trio_migration"), "shifted_pw_nosc"
    image, weight, bias, z = (
        golden[f"{case}/{key}"].astype(np.float64) for key in ("x", "W", "b", "z_after")
    )
    _, channels, height, width = image.shape
    kind = f"tensor<1x{channels}x{height}x{width}xf32>"
    result = f"tensor<1x{weight.shape[0]}x{height}x{width}xf32>"
    same = np.eye(channels).reshape(channels, channels, 1, 1)
    ctx = context([{"x": each[None].astype(np.float32)} for each in image])
    module = parse(
        ctx,
        f"""builtin.module attributes {{vit.stage = "float"}} {{
  func.func @main(%x: {kind}) -> {result} attributes {{vit.input_names = ["x"]}} {{
    %i = {constant(same)}
    %w = {constant(weight)}
    %b = {constant(bias)}
    %h = onnx.Conv %x, %i : ({kind}, {tensor_of(same)}) -> {kind}
    %y = onnx.Conv %h, %w, %b : ({kind}, {tensor_of(weight)}, {tensor_of(bias)}) -> {result}
    func.return %y : {result} }} }}""",
    )
    apply(ctx, module, "calibrate", augment="none")
    apply(ctx, module, "migrate", equalize=False)
    constants = Constants.of(ctx)
    first, second = (constants.array(op.bias) for op in module.walk() if isinstance(op, onnx.Conv))
    assert first is not None and second is not None
    np.testing.assert_allclose(first, -z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second, bias + weight[..., 0, 0] @ z, rtol=1e-4, atol=1e-5)
