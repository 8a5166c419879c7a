"""Calibration data as bad as it gets: no exception, no invalid format, no NaN, whatever it holds.

A small Vision Transformer (patch embedding, position, one block, head) is calibrated on images
with one huge channel, dead channels, constants, zeros or a single image, and on weights with
dead or huge rows; then it runs on those images and on an ordinary one.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from graphs import apply, canonicalize, context, parse, run_float, run_integer, sqnr
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import main_function
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.ops.base import ROUNDINGS, VitOp, format_of
from vit_opt.passes.algorithms.ranges import GRIDS, OBSERVERS
from vit_opt.passes.pipelines import OPTIONAL
from vit_opt.passes.pot_fold import BIASES, INPUTS, WEIGHTS
from vit_opt.passes.quantization.options import GELUS, PLACES, RESIDUALS, SOFTMAXES

SIDE, PATCH, WIDTH, HEADS, HIDDEN, CLASSES = 8, 4, 16, 2, 32, 5
TOKENS, DEPTH = (SIDE // PATCH) ** 2, WIDTH // HEADS
IMAGE = f"tensor<1x3x{SIDE}x{SIDE}xf32>"
GRID = f"tensor<1x{WIDTH}x{SIDE // PATCH}x{SIDE // PATCH}xf32>"
COLUMNS = f"tensor<1x{WIDTH}x{TOKENS}xf32>"
X = f"tensor<1x{TOKENS}x{WIDTH}xf32>"
H = f"tensor<1x{TOKENS}x{HIDDEN}xf32>"
SPLIT = f"tensor<1x{TOKENS}x{HEADS}x{DEPTH}xf32>"
HEAD = f"tensor<1x{HEADS}x{TOKENS}x{DEPTH}xf32>"
TURNED = f"tensor<1x{HEADS}x{DEPTH}x{TOKENS}xf32>"
SCORES = f"tensor<1x{HEADS}x{TOKENS}x{TOKENS}xf32>"

Weights = dict[str, np.ndarray]


def ordinary_weights() -> Weights:
    """Parameters of the model, all of ordinary size."""
    rng = np.random.default_rng(0)
    made = {name: 0.3 * rng.standard_normal((WIDTH, WIDTH)) for name in "qkvo"}
    made |= {
        "patch": 0.2 * rng.standard_normal((WIDTH, 3, PATCH, PATCH)),
        "patch_b": 0.1 * rng.standard_normal(WIDTH),
        "position": 0.1 * rng.standard_normal((1, TOKENS, WIDTH)),
        "first": 0.3 * rng.standard_normal((HIDDEN, WIDTH)),
        "first_b": 0.1 * rng.standard_normal(HIDDEN),
        "second": 0.2 * rng.standard_normal((WIDTH, HIDDEN)),
        "second_b": 0.1 * rng.standard_normal(WIDTH),
        "head": 0.3 * rng.standard_normal((CLASSES, WIDTH)),
        "head_b": 0.1 * rng.standard_normal(CLASSES),
    }
    for norm in ("n1", "n2", "n3"):
        made |= {norm: 1 + 0.1 * rng.standard_normal(WIDTH), f"{norm}_b": np.zeros(WIDTH)}
    return made


def model(weights: Weights) -> str:
    """The model as text of the float dialect, as the raising passes leave it."""
    types: dict[str, str] = {}
    lines: list[str] = []

    def put(name: str, op: str, operands: str, result: str, attributes: str = "") -> None:
        types[name] = result
        given = ", ".join(f"%{each}" for each in operands.split())
        signature = ", ".join(types[each] for each in operands.split())
        note = f' {{node_name = "{name}"{attributes}}}'
        lines.append(f"%{name} = onnx.{op} {given}{note} : ({signature}) -> {result}")

    for name, array in weights.items():
        types[name] = f"tensor<{'x'.join(map(str, array.shape))}xf32>"
        values = array.astype(np.float32).tolist()
        lines.append(f"%{name} = onnx.Constant dense<{values}> : {types[name]}")
    types["image"] = IMAGE
    put(
        "embedded", "Conv", "image patch patch_b", GRID, f", strides = array<i64: {PATCH}, {PATCH}>"
    )
    put("columns", "Reshape", "embedded", COLUMNS)
    put("tokens", "Transpose", "columns", X, ", perm = array<i64: 0, 2, 1>")
    put("placed", "Add", "tokens position", X)
    put("m1", "LayerNormalization", "placed n1 n1_b", X)
    for name, order in (("q", "0, 2, 1, 3"), ("k", "0, 2, 3, 1"), ("v", "0, 2, 1, 3")):
        put(f"{name}l", "Linear", f"m1 {name}", X)
        put(f"{name}s", "Reshape", f"{name}l", SPLIT)
        target = TURNED if name == "k" else HEAD
        put(f"{name}h", "Transpose", f"{name}s", target, f", perm = array<i64: {order}>")
    put("scores", "MatMul", "qh kh", SCORES)
    put("probabilities", "Softmax", "scores", SCORES, ", axis = 3 : i64")
    put("mixed", "MatMul", "probabilities vh", HEAD)
    put("mixed_t", "Transpose", "mixed", SPLIT, ", perm = array<i64: 0, 2, 1, 3>")
    put("attended", "Reshape", "mixed_t", X)
    put("projected", "Linear", "attended o", X)
    put("r1", "Add", "placed projected", X)
    put("m2", "LayerNormalization", "r1 n2 n2_b", X)
    put("hidden", "Linear", "m2 first first_b", H)
    put("gelu", "Gelu", "hidden", H)
    put("shrunk", "Linear", "gelu second second_b", X)
    put("r2", "Add", "r1 shrunk", X)
    put("m3", "LayerNormalization", "r2 n3 n3_b", X)
    logits = f"tensor<1x{TOKENS}x{CLASSES}xf32>"
    put("logits", "Linear", "m3 head head_b", logits)
    body = "\n".join(lines)
    return f"""builtin.module attributes {{vit.stage = "float"}} {{
      func.func @main(%image: {IMAGE}) -> {logits}
          attributes {{vit.input_names = ["image"], vit.output_names = ["logits"]}} {{
        {body}
        func.return %logits : {logits} }} }}"""


def images(kind: str, count: int = 3) -> list[np.ndarray]:
    """Calibration images [1, 3, SIDE, SIDE] of a kind."""
    rng = np.random.default_rng(1)
    made = [rng.standard_normal((1, 3, SIDE, SIDE)).astype(np.float32) for _ in range(count)]
    change: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "ordinary": lambda x: x,
        "huge channel": lambda x: x * np.array([1, 1000, 1], np.float32).reshape(1, 3, 1, 1),
        "dead channel": lambda x: x * np.array([1, 0, 1], np.float32).reshape(1, 3, 1, 1),
        "constant": lambda x: np.full_like(x, 0.7),
        "zero": np.zeros_like,
        "tiny": lambda x: x * np.float32(1e-30),
        "vast": lambda x: x * np.float32(1e6),
    }
    return [change[kind](x) for x in made]


WEIGHT_KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ordinary": lambda w: w,
    "zero": np.zeros_like,
    "dead row": lambda w: np.concatenate([np.zeros_like(w[:1]), w[1:]]),
    "huge row": lambda w: np.concatenate([1000 * w[:1], w[1:]]),
    "tiny": lambda w: 1e-20 * w,
    "constant": lambda w: np.full_like(w, 0.5),
}

ROAD = (
    "calibrate",
    "migrate",
    "smooth",
    "fold-scales",
    "split-channels",
    "fit-ranges",
    "fill-grids",
    "assign-bits",
    "quantize",
    "pot-fold",
    "refine",
)

KINDS = ("ordinary", "huge channel", "dead channel", "constant", "zero", "tiny", "vast")


def through(
    weights: Weights, data: list[np.ndarray], options: Mapping[str, Mapping[str, Any]]
) -> float:
    """Down the road and over all images: SQNR in dB on the calibration images.

    `options` by the name of the pass. Infinite where calibration says that a range is beyond all
    formats, which is the one way not to arrive.
    """
    ctx = context([{"image": image} for image in data])
    module = parse(ctx, model(weights))
    floats = module.clone()
    try:
        for name in ROAD:
            if name not in OPTIONAL or name in options:
                apply(ctx, module, name, **options.get(name, {}))
    except VitError as error:
        assert "cannot be represented by integers" in str(error)
        return np.inf
    canonicalize(ctx, module)
    for op in main_function(module).walk():
        if isinstance(op, VitOp) and op.name not in ("vit.dequantize", "vit.log2_softmax"):
            for result in op.results:
                format_ = format_of(result)
                assert isinstance(format_, FixedType), op
                limit = 96 if format_.storage.width.data == 32 else 64
                assert np.abs(format_.channel_fracs()).max() <= limit, op
                low, high = format_.bounds
                assert min(low, 0) <= format_.zero_point <= high, op
    reference, codes = (
        np.stack([run(ctx, graph, {"image": x})["logits"] for x in data])
        for run, graph in ((run_float, floats), (run_integer, module))
    )
    other = run_integer(ctx, module, {"image": images("ordinary")[0]})["logits"]
    assert np.isfinite(codes).all() and np.isfinite(other).all()
    return sqnr(reference, codes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3])
def test_images_of_every_kind(kind: str, count: int) -> None:
    ratio = through(ordinary_weights(), images(kind, count), {})
    assert ratio > 20


@pytest.mark.parametrize("kind", WEIGHT_KINDS)
def test_weights_of_every_kind(kind: str) -> None:
    weights = {name: WEIGHT_KINDS[kind](w) for name, w in ordinary_weights().items()}
    ratio = through(weights, images("ordinary"), {})
    assert kind == "tiny" or ratio > 20  # logits of 1e-20 may become zeros


OPTIONS: dict[str, dict[str, list[Any]]] = {
    "calibrate": {"observer": list(OBSERVERS), "grid": list(GRIDS), "augment": ["none", "flips"]},
    "smooth": {"search": [False, True]},
    "split-channels": {"parts": [1, 3]},
    "fill-grids": {"headroom": [1.0, 1.5]},
    "assign-bits": {"bits": [8, 4], "budget": [1.0, 0.75], "form": ["channel", "group"]},
    "quantize": {
        "residual": list(RESIDUALS),
        "softmax": list(SOFTMAXES),
        "gelu": list(GELUS),
        "wide": [(), ("norm",), PLACES],
    },
    "pot-fold": {
        "weights": list(WEIGHTS),
        "inputs": list(INPUTS),
        "exponents": ["cover", "search"],
        "bias": list(BIASES),
        "rounding": list(ROUNDINGS),
    },
    "fit-ranges": {"batches": [1, 6], "held": [0, 6]},
    "refine": {"batches": [1, 6]},
}
"""Options of the passes and the values to mix."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("observer", OBSERVERS)
def test_every_observer_survives(observer: str, kind: str) -> None:
    through(ordinary_weights(), images(kind, 1), {"calibrate": {"observer": observer}})


@settings(max_examples=12, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
@given(st.data())
def test_any_mixture_of_them(data: st.DataObject) -> None:
    weights = {
        name: WEIGHT_KINDS[data.draw(st.sampled_from(list(WEIGHT_KINDS)), label=name)](w)
        for name, w in ordinary_weights().items()
    }
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3), label="images")
    options = {
        name: {key: data.draw(st.sampled_from(values), label=key) for key, values in keys.items()}
        for name, keys in OPTIONS.items()
    }
    through(weights, [images(kind, 1)[0] for kind in kinds], options)
