"""fit-ranges: ranges that the readers gain by, and none that they or other inputs lose by."""

import numpy as np
import pytest
from graphs import apply, context, parse, run_float, run_integer, sqnr
from xdsl.dialects.builtin import ModuleOp

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import main_function
from vit_opt.passes.algorithms.copies import HELD_OUT, negative, tiled
from vit_opt.passes.algorithms.trials import GAIN, LOSS, bearable, better
from vit_opt.passes.calibrate import clip_of, range_of
from vit_opt.passes.fit_ranges import FitRangesPass, fit_ranges
from vit_opt.passes.float_graph import Constants

LAYER = """
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<64x16xf32>) -> tensor<64x16xf32> attributes {vit.input_names = ["x"]} {
    %w = onnx.Constant dense<WEIGHT> : tensor<16x16xf32>
    %g = onnx.Gelu %x : (tensor<64x16xf32>) -> tensor<64x16xf32>
    %y = onnx.Linear %g, %w : (tensor<64x16xf32>, tensor<16x16xf32>) -> tensor<64x16xf32>
    func.return %y : tensor<64x16xf32>
  }
}
"""

NORM = (
    "onnx.LayerNormalization %x, %s, %b : (tensor<64x16xf32>, tensor<16xf32>, tensor<16xf32>)"
    " -> tensor<64x16xf32>"
)

Images = list[dict[str, np.ndarray]]


def calibrated(weight_of_loud: float) -> tuple[VitContext, ModuleOp, Images]:
    """A GELU one of whose channels goes ten times as far as the others, and its reader's weight."""
    rng = np.random.default_rng(0)
    batches: Images = []
    for _ in range(3):
        x = rng.standard_normal((64, 16)).astype(np.float32)
        x[::8, 0] = 30.0
        batches.append({"x": x})
    weight = rng.standard_normal((16, 16))
    weight[:, 0] *= weight_of_loud
    ctx = context(batches)
    module = parse(ctx, LAYER.replace("WEIGHT", str(weight.tolist())))
    apply(ctx, module, "calibrate")
    return ctx, module, batches


def ratio(*, fitted: bool) -> float:
    """SQNR in dB behind a LayerNorm one of whose channels is 30 times louder and hardly read."""
    rng = np.random.default_rng(1)
    scale, weight = np.ones(16), rng.standard_normal((16, 16))
    scale[0], weight[:, 0] = 30.0, 1e-4
    gelu = "onnx.Gelu %x : (tensor<64x16xf32>) -> tensor<64x16xf32>"
    text = LAYER.replace(gelu, NORM).replace("WEIGHT", str(weight.tolist()))
    constants = f"""%s = onnx.Constant dense<{scale.tolist()}> : tensor<16xf32>
    %b = onnx.Constant dense<0.0> : tensor<16xf32>
    %w = """
    batches = [{"x": rng.standard_normal((64, 16)).astype(np.float32)} for _ in range(6)]
    ctx = context(batches[:3])
    module = parse(ctx, text.replace("%w = ", constants, 1))
    exact = np.stack([run_float(ctx, module, batch)["output0"] for batch in batches])
    apply(ctx, module, "calibrate")
    if fitted:
        apply(ctx, module, "fit-ranges")
    apply(ctx, module, "fill-grids", "quantize", "pot-fold")
    return sqnr(exact, np.stack([run_integer(ctx, module, batch)["output0"] for batch in batches]))


def test_values_that_no_reader_weighs_are_clipped() -> None:
    assert ratio(fitted=True) > ratio(fitted=False) + 6


def test_values_that_readers_need_are_covered() -> None:
    ctx, module, _ = calibrated(1.0)
    fit_ranges(module, Constants.of(ctx))
    [gelu] = [op for op in main_function(module).walk() if op.name == "onnx.Gelu"]
    (_, high), (_, top) = range_of(gelu.results[0]), clip_of(gelu.results[0])
    assert 1.3 * top >= high  # headroom alone is given up


def test_the_flat_end_of_a_function_stays() -> None:
    ctx, module, _ = calibrated(1e-4)
    assert fit_ranges(module, Constants.of(ctx)) == 1
    [gelu] = [op for op in main_function(module).walk() if op.name == "onnx.Gelu"]
    (low, high), (bottom, top) = range_of(gelu.results[0]), clip_of(gelu.results[0])
    assert bottom == low and top < 0.7 * high
    assert ctx.assets.reports["fit-ranges"][0]["range"] == [bottom, top]


def test_twice_the_same() -> None:
    texts: list[str] = []
    for _ in range(2):
        ctx, module, _ = calibrated(1e-3)
        apply(ctx, module, "fit-ranges")
        texts.append(str(module))
    assert texts[0] == texts[1]


def test_a_change_has_to_help_everywhere() -> None:
    best = np.ones((4, 2))
    assert better(best * np.exp(-2 * GAIN), best, 2)
    assert not better(best * np.exp(-GAIN / 2), best, 2)
    held = best * np.exp(-2 * GAIN)
    held[2:] = 1.0
    assert not better(held, best, 2)
    one = best * np.exp(-5 * GAIN)
    one[3, 1] = np.exp(2 * LOSS)
    assert not bearable(one, best) and not better(one, best, 2)
    assert better(best[:2] * 0.5, best[:2], 2)


def test_copies_held_out() -> None:
    image = np.arange(60, dtype=np.float32).reshape(1, 2, 5, 6)
    assert (negative(image)[0, 0] == 29 - image[0, 0]).all()
    four = tiled(image)
    assert four.shape == image.shape
    assert (four[0, 0, :3, :3] == image[0, 0, ::2, ::2]).all()
    assert (four[..., ::-1] == four).all()
    assert all(copy(image).shape == image.shape for copy in HELD_OUT)
    assert not any(np.array_equal(copy(image), image) for copy in HELD_OUT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": 0}, "batches 0 is not at least 1"),
        ({"held": -1}, "held -1 is negative"),
        ({"headroom": 2.0}, "headroom 2 is not at least 1 and below 2"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(VitError, match=f"fit-ranges: {message}"):
        FitRangesPass(**options)  # pyright: ignore[reportArgumentType]
