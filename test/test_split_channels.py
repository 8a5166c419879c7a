"""split-channels: a loud channel gets a grid of its own, the function stays."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from graphs import apply, constant, context, parse, run_float, run_integer, sqnr
from xdsl.dialects.builtin import ModuleOp

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import main_function
from vit_opt.passes.split_channels import MULTIPLE, best_cuts

TOKENS, WIDTH, HIDDEN = 8, 16, 640
X = f"tensor<1x{TOKENS}x{WIDTH}xf32>"
H = f"tensor<1x{TOKENS}x{HIDDEN}xf32>"


def calibrated(loud: float, quieter: float = 1.0) -> tuple[VitContext, ModuleOp]:
    """x + fc2(gelu(fc1 x)), with one hidden channel `loud` times as large as the others."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, HIDDEN, WIDTH))
    second = second.T / HIDDEN
    first[5] *= loud
    second[:, 5] /= loud
    first[HIDDEN // 2 :] /= quieter
    second[:, HIDDEN // 2 :] *= quieter
    ctx = context(
        [{"x": rng.standard_normal((1, TOKENS, WIDTH)).astype(np.float32)} for _ in range(4)]
    )
    bias = rng.standard_normal(HIDDEN)
    bias[HIDDEN // 2 :] /= quieter

    module = parse(
        ctx,
        f"""builtin.module attributes {{vit.stage = "float"}} {{
          func.func @main(%x: {X}) -> {X} attributes {{vit.input_names = ["x"]}} {{
            %w = {constant(first)}
            %b = {constant(bias)}
            %v = {constant(second)}
            %c = {constant(bias[:WIDTH])}
            %h = onnx.Linear %x, %w, %b : ({X}, tensor<{HIDDEN}x{WIDTH}xf32>, tensor<{HIDDEN}xf32>) -> {H}
            %g = onnx.Gelu %h : ({H}) -> {H}
            %y = onnx.Linear %g, %v, %c : ({H}, tensor<{WIDTH}x{HIDDEN}xf32>, tensor<{WIDTH}xf32>) -> {X}
            %s = onnx.Add %x, %y : ({X}, {X}) -> {X}
            func.return %s : {X}
          }} }}""",
    )
    apply(ctx, module, "calibrate")
    return ctx, module


def layers(module: ModuleOp) -> list[tuple[int, ...]]:
    """Weight shapes of the linear layers."""
    return [
        op.operands[1].type.get_shape()  # pyright: ignore[reportAttributeAccessIssue]
        for op in main_function(module).walk()
        if op.name == "onnx.Linear"
    ]


def test_a_loud_channel_is_computed_apart() -> None:
    ctx, module = calibrated(32.0)
    before = [run_float(ctx, module, batch)["output0"] for batch in ctx.assets.batches]
    apply(ctx, module, "split-channels")
    after = [run_float(ctx, module, batch)["output0"] for batch in ctx.assets.batches]
    assert layers(module) == [(576, WIDTH), (WIDTH, 576), (64, WIDTH), (WIDTH, 64)]
    assert sqnr(np.stack(before), np.stack(after)) > 100


def test_channels_alike_stay_together() -> None:
    ctx, module = calibrated(1.0)
    text = str(module)
    apply(ctx, module, "split-channels")
    assert str(module) == text


def test_it_is_worth_it() -> None:
    results: list[float] = []
    for passes in ((), ("split-channels",)):
        ctx, module = calibrated(32.0)
        inputs = ctx.assets.batches
        reference = np.stack([run_float(ctx, module, batch)["output0"] for batch in inputs])
        apply(ctx, module, *passes, "quantize", "pot-fold", weights="nearest")
        integers = np.stack([run_integer(ctx, module, batch)["output0"] for batch in inputs])
        results.append(sqnr(reference, integers))
    assert results[1] > results[0] + 6


def test_a_negative_gain_is_an_error() -> None:
    ctx, module = calibrated(1.0)
    with pytest.raises(VitError, match="gain -1 is not 0 or more"):
        apply(ctx, module, "split-channels", gain=-1.0)


def test_the_best_cuts_are_found() -> None:
    """Against all divisions of a few blocks of channels, tried one by one."""
    rng = np.random.default_rng(7)
    span = np.sort(np.abs(rng.standard_normal(5 * MULTIPLE)))[::-1].copy()
    energy = rng.random(span.size)
    starts = range(MULTIPLE, span.size, MULTIPLE)
    found = best_cuts(span, energy, 4)
    assert [len(cuts.starts) for cuts in found] == [0, 1, 2, 3]
    for cuts in found:
        noise = [
            sum(span[a] ** 2 * energy[a:b].sum() for a, b in pairwise((0, *chosen, span.size)))
            for chosen in combinations(starts, len(cuts.starts))
        ]
        assert np.isclose(cuts.noise, min(noise))


def test_more_parts_for_more_loudnesses() -> None:
    ctx, module = calibrated(32.0, quieter=8.0)
    before = [run_float(ctx, module, batch)["output0"] for batch in ctx.assets.batches]
    apply(ctx, module, "split-channels", gain=1.0, parts=3)
    after = [run_float(ctx, module, batch)["output0"] for batch in ctx.assets.batches]
    assert len(layers(module)) == 6
    assert sqnr(np.stack(before), np.stack(after)) > 100


def test_no_parts_are_refused() -> None:
    ctx, module = calibrated(1.0)
    with pytest.raises(VitError, match="split-channels: 0 parts; expected 1 or more"):
        apply(ctx, module, "split-channels", parts=0)
