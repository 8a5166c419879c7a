"""The observers of calibrate: what each leaves out, and that it reaches formats, outputs and all."""

import numpy as np
import pytest
from graphs import apply, canonicalize, context, parse, run_float, run_integer, sqnr

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import main_function
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.ops.base import format_of
from vit_opt.passes.algorithms.observers import ChannelHistogram, Histogram
from vit_opt.passes.algorithms.ranges import OBSERVERS, Observer, candidate_grids
from vit_opt.passes.calibrate import clip_of, range_of, statistics_of

CLIPPING = ("percentile", "mse", "entropy")

# A rotation W and one of its inverse: the product is x again, so that what is lost is rounding.
TEXT = """
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<1x64x8xf32>) -> tensor<1x64x8xf32> attributes {vit.input_names = ["x"]} {
    %w = onnx.Constant dense<WEIGHT> : tensor<8x8xf32>
    %y = onnx.Linear %x, %w {node_name = "y"} : (tensor<1x64x8xf32>, tensor<8x8xf32>) -> tensor<1x64x8xf32>
    %z = onnx.Linear %y, %w {node_name = "z"} : (tensor<1x64x8xf32>, tensor<8x8xf32>) -> tensor<1x64x8xf32>
    func.return %z : tensor<1x64x8xf32>
  }
}
"""


def tailed(seed: int, spike: float) -> dict[str, np.ndarray]:
    """Normal values with one far away."""
    x = np.random.default_rng(seed).standard_normal((1, 64, 8)).astype(np.float32)
    x[0, 0, 0] = spike
    return {"x": x}


def text() -> str:
    """The model, with an orthogonal symmetric weight."""
    v = np.random.default_rng(5).standard_normal(8)
    weight = np.eye(8) - 2 * np.outer(v, v) / (v @ v)
    return TEXT.replace("WEIGHT", str(weight.astype(np.float32).tolist()))


def quality(observer: str) -> tuple[float, int]:
    """SQNR on ordinary inputs after calibration on one with a spike; frac of the middle value."""
    ctx = context([tailed(seed, 12.0 if seed == 0 else 0.0) for seed in range(8)])
    module = parse(ctx, text())
    plain = parse(ctx, text())
    apply(ctx, module, "calibrate", observer=observer, fraction=0.999)
    apply(ctx, module, "quantize", "pot-fold")
    canonicalize(ctx, module)
    fresh = [tailed(seed, 0.0) for seed in range(20, 24)]
    exact = np.stack([run_float(ctx, plain, each)["output0"] for each in fresh])
    found = np.stack([run_integer(ctx, module, each)["output0"] for each in fresh])
    middle = next(op for op in main_function(module).walk() if isinstance(op, ops.PotRequantOp))
    format_ = format_of(middle.result)
    assert isinstance(format_, FixedType)
    return sqnr(exact, found), format_.frac


@pytest.mark.parametrize("observer", CLIPPING)
def test_clipping_a_spike_helps_ordinary_inputs(observer: str) -> None:
    base, coarse = quality("minmax")
    better, fine = quality(observer)
    assert fine > coarse
    assert better > base + 1.5


@pytest.mark.parametrize("grid", ["pot", "real"])
@pytest.mark.parametrize("kind", OBSERVERS)
def test_choices_lie_within_what_was_seen(kind: str, grid: str) -> None:
    rng = np.random.default_rng(1)
    samples = {
        "normal": rng.standard_normal(5000),
        "tail": rng.standard_t(2, 5000),
        "positive": np.abs(rng.standard_normal(5000)),
        "negative": -np.abs(rng.standard_normal(5000)) - 1,
        "constant": np.full(10, -3.0),
        "zero": np.zeros(4),
        "empty": np.zeros(0),
        "huge": np.array([1e30, -1.0, 0.5]),
        "tiny": np.array([1e-40, 0.0]),
    }
    for name, sample in samples.items():
        seen = Histogram()
        seen.update(sample)
        low, high = Observer(kind, 0.99, 2.4, grid).range(seen)
        assert np.isfinite([low, high]).all() and low <= 0 <= high, name
        if sample.size:
            assert low >= min(0.0, sample.min()) and high <= max(0.0, sample.max()), name
        if kind == "minmax" and sample.size:
            assert (low, high) == (min(0.0, sample.min()), max(0.0, sample.max()))


def test_least_squares_beats_all_other_candidates() -> None:
    seen = Histogram()
    seen.update(np.random.default_rng(2).laplace(0, 1, 20_000))
    grids = list(candidate_grids(*seen.range, "pot"))
    chosen = Observer("mse").range(seen)
    errors = [seen.grid_error(*grid) for grid in grids]
    scale, zero, low, high = grids[int(np.argmin(errors))]
    assert scale < grids[0][0]
    assert chosen == ((low - zero) * scale, (high - zero) * scale)


def test_a_larger_power_clips_less() -> None:
    seen = Histogram()
    seen.update(np.random.default_rng(3).laplace(0, 1, 50_000))
    low, high = Observer("mse", power=1.0, grid="real").range(seen)
    wide_low, wide_high = Observer("mse", power=8.0, grid="real").range(seen)
    assert high - low < wide_high - wide_low


def test_channels_are_seen_apart_and_in_any_batches() -> None:
    rng = np.random.default_rng(4)
    data = rng.standard_normal((400, 3)) * [1.0, 1000.0, 0.0]
    whole, parts = ChannelHistogram.empty(3), ChannelHistogram.empty(3)
    whole.update(data)
    for part in np.array_split(data, 7):
        parts.update(part)
    assert np.array_equal(whole.counts, parts.counts)
    assert np.array_equal(whole.exponents, parts.exponents)
    assert [whole.channel(c).total for c in range(3)] == [400] * 3
    low, high = Observer("percentile", 0.9).channel_ranges(whole)
    exact = np.quantile(data, [0.05, 0.95], axis=0)
    step = np.array([2.0**3, 2.0**13, 1.0]) / 256
    assert (np.abs(low - exact[0]) <= step).all() and (np.abs(high - exact[1]) <= step).all()


def test_the_choice_is_recorded_beside_the_range() -> None:
    ctx = context([tailed(0, 40.0)])
    module = parse(ctx, text())
    apply(ctx, module, "calibrate", observer="percentile", fraction=0.9)
    func = main_function(module)
    first = func.body.block.first_op
    assert first is not None and first.next_op is not None
    value = first.next_op.results[0]
    whole, part = range_of(value), clip_of(value)
    assert whole is not None and part is not None
    assert part[1] - part[0] < (whole[1] - whole[0]) / 2
    assert clip_of(func.args[0]) != range_of(func.args[0])
    found = statistics_of(value, ctx.assets)
    assert found is not None and (found.magnitude < found.channels.magnitude).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observer": "median"}, "observer 'median' is not one of minmax, percentile"),
        ({"grid": "log"}, "grid 'log' is not one of pot, real"),
        ({"fraction": 0.0}, "fraction 0 is not above 0"),
        ({"power": -1.0}, "power -1 is not above 0"),
        ({"augment": "rotate"}, "augment 'rotate' is not one of none, flip, flips, crops, few"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    ctx = context([tailed(0, 1.0)])
    with pytest.raises(VitError, match=message):
        apply(ctx, parse(ctx, text()), "calibrate", **options)


IMAGE = """
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<1x1x2x2xf32>) -> tensor<1x1x2x1xf32> attributes {vit.input_names = ["x"]} {
    %w = onnx.Constant dense<[[2.0, 1.0]]> : tensor<1x2xf32>
    %y = onnx.Linear %x, %w : (tensor<1x1x2x2xf32>, tensor<1x2xf32>) -> tensor<1x1x2x1xf32>
    func.return %y : tensor<1x1x2x1xf32>
  }
}
"""


@pytest.mark.parametrize(("augment", "high"), [("none", 5.0), ("flip", 7.0), ("flips", 7.0)])
def test_flipped_copies_are_seen_too(augment: str, high: float) -> None:
    ctx = context([{"x": np.array([[[[1.0, 3.0], [0.0, 0.0]]]], np.float32)}])
    module = parse(ctx, IMAGE)
    apply(ctx, module, "calibrate", augment=augment)
    last = main_function(module).body.block.last_op
    assert last is not None
    assert range_of(last.operands[0]) == (0.0, high)


@pytest.mark.parametrize("grid", ["pot", "real"])
@pytest.mark.parametrize("name", ["hardswish", "relu", "gelu"])
def test_entropy_does_not_spend_all_codes_on_a_peak(name: str, grid: str) -> None:
    """Most values lie in a narrow peak, most of the signal beside it."""
    x = 1.5 * np.random.default_rng(4).standard_normal(40000) - 1.0
    y = {
        "hardswish": x * np.clip(x + 3, 0, 6) / 6,
        "relu": np.maximum(x, 0),
        "gelu": x / (1 + np.exp(-1.702 * x)),
    }[name]
    seen = Histogram()
    seen.update(y)
    chosen, whole = (
        seen.grid_error(*next(candidate_grids(*ends, grid)))
        for ends in (Observer("entropy", grid=grid).range(seen), seen.range)
    )
    assert chosen < 2 * whole
