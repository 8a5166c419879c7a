"""QDQ models with power-of-two scales: our integers are those of the model, to the last bit.

The models are written as Brevitas and its like export them: int8 weights as codes with a
DequantizeLinear, or as floats between a pair; int32 biases through DequantizeLinear; activations
signed with zero point 0; fewer than 8 bits by a Clip of the codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import apply, canonicalize, context, run_integer
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vit_opt.dialects.evaluation import main_function
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.ops.base import format_of
from vit_opt.frontends.onnx_import import import_onnx
from vit_opt.passes.algorithms.given import given_fracs, kept_fracs
from vit_opt.passes.pipelines import POT_ROAD

Array = NDArray[Any]
ROAD = POT_ROAD[: POT_ROAD.index("verify-integer") + 1]
TOKENS, WIDTH, HIDDEN, CLASSES = 7, 24, 40, 16


@dataclass
class Writer:
    """Writes a small QDQ model; everything random comes from one seed."""

    per_channel: bool
    bits: int = 8
    float_weights: bool = False
    narrow: bool = True
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)
    fracs: dict[str, list[int]] = field(default_factory=dict)

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """A node named after its result."""
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))

    def pair(self, x: str, y: str, frac: int, bits: int = 8) -> None:
        """QuantizeLinear, a Clip for fewer bits, DequantizeLinear."""
        scale, zero, codes = f"{y}.scale", f"{y}.zero", f"{y}.codes"
        self.weights |= {scale: np.float32(2.0**-frac), zero: np.int8(0)}
        self.add("QuantizeLinear", [x, scale, zero], codes)
        if bits < 8:
            limits = (-(2 ** (bits - 1)) + self.narrow, 2 ** (bits - 1) - 1)
            self.weights |= {f"{y}.low": np.int8(limits[0]), f"{y}.high": np.int8(limits[1])}
            self.add("Clip", [codes, f"{y}.low", f"{y}.high"], f"{y}.clipped")
            codes = f"{y}.clipped"
        self.add("DequantizeLinear", [codes, scale, zero], y)

    def linear(self, x: str, y: str, k: int, n: int, x_frac: int) -> None:
        """x @ w + b with dequantised w and b."""
        rng = self.rng
        fracs = rng.integers(5, 8, n) if self.per_channel else np.array(6)
        codes = rng.integers(-100, 101, (k, n)) if self.bits == 8 else rng.integers(-7, 8, (k, n))
        codes[0] |= 1  # an odd weight in every column: the grid can be told from the values
        if not self.narrow:
            codes[1, 0] = -128
        scale = np.exp2(-fracs.astype(np.float64)).astype(np.float32)
        self.fracs[y] = np.broadcast_to(fracs, n).tolist()
        self.weights |= {f"{y}.ws": scale, f"{y}.wz": np.zeros(fracs.shape, np.int8)}
        parameters = [f"{y}.ws", f"{y}.wz"]
        if self.float_weights:
            self.weights[f"{y}.w"] = (codes * scale).astype(np.float32)
            self.add("QuantizeLinear", [f"{y}.w", *parameters], f"{y}.wq", axis=1)
        else:
            self.weights[f"{y}.wq"] = codes.astype(np.int8)
        self.add("DequantizeLinear", [f"{y}.wq", *parameters], f"{y}.wd", axis=1)
        self.weights |= {
            f"{y}.b": rng.integers(-2000, 2000, n).astype(np.int32),
            f"{y}.bs": scale * np.float32(2.0**-x_frac),
            f"{y}.bz": np.zeros(fracs.shape, np.int32),
        }
        self.add("DequantizeLinear", [f"{y}.b", f"{y}.bs", f"{y}.bz"], f"{y}.bd", axis=0)
        self.add("MatMul", [x, f"{y}.wd"], f"{y}.product")
        self.add("Add", [f"{y}.product", f"{y}.bd"], y)

    def model(self) -> onnx.ModelProto:
        """Two layers with ReLU in between, every activation rounded."""
        self.pair("x", "x1", 5)
        self.linear("x1", "hidden", WIDTH, HIDDEN, 5)
        self.pair("hidden", "h1", 3, self.bits)
        self.add("Relu", ["h1"], "r")
        self.pair("r", "r1", 3)
        self.linear("r1", "out", HIDDEN, CLASSES, 3)
        self.pair("out", "y", 1)
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, TOKENS, WIDTH))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(a), name) for name, a in self.weights.items()],
        )
        result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        result.ir_version = 9
        return result


def reference(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Array:
    """The output by ONNX Runtime, node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return np.asarray(session.run(None, dict(feeds))[0])


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"float_weights": True}, {"narrow": False}, {"bits": 4}],
    ids=["codes", "floats", "full range", "4 bits"],
)
def test_integers_and_exponents_are_those_of_the_model(
    per_channel: bool, options: dict[str, Any]
) -> None:
    writer = Writer(per_channel, **options)
    model = writer.model()
    rng = np.random.default_rng(1)
    shape = (1, TOKENS, WIDTH)
    batches = [{"x": (1.2 * rng.standard_normal(shape)).astype(np.float32)} for _ in range(5)]
    ctx = context(batches[:4])
    module = import_onnx(model, context=ctx)
    for name in ROAD:
        apply(ctx, module, name, **({"rounding": "rhe"} if name == "pot-fold" else {}))
    canonicalize(ctx, module)
    for feeds in batches[3:]:
        np.testing.assert_array_equal(run_integer(ctx, module, feeds)["y"], reference(model, feeds))
    block = main_function(module).body.block
    layers = [op for op in block.ops if isinstance(op, ops.LinearOp)]
    found = [format_of(op.weight).channel_fracs().tolist() for op in layers]
    assert found == [writer.fracs["hidden"], writer.fracs["out"]]
    inputs = [format_of(op.x) for op in layers]
    assert inputs == [FixedType("i8", 5), FixedType("i8", 3)]
    [border] = [op for op in block.ops if isinstance(op, ops.DequantizeOp)]
    assert format_of(border.x) == FixedType("i8", 1)


def test_grids_read_off_values() -> None:
    rows = np.array([[3, -100], [0, 0], [4, 6], [-128, 127]]) / np.array([[8], [1], [2], [32]])
    assert given_fracs(rows, None, 1.0).tolist() == [3, 5, 0, 5]
    assert given_fracs(rows, np.array([0, 0, 0.25, 0.0]), 0.5).tolist() == [3, 5, 1, 5]
    assert given_fracs(rows, np.array([0, 0, 0.3, 0.0]), 0.5).tolist() == [3, 5, 5, 5]
    assert given_fracs(rows / 3, None, 1.0) is None
    assert given_fracs(np.array([[1.0, 257.0]]), None, 1.0) is None
    assert given_fracs(np.zeros((2, 3)), None, 1.0) is None
    scales = np.exp2([-3.0, -5.0, 0.0, -5.0])
    assert kept_fracs(rows, scales, -128, 127).tolist() == [3, 5, 0, 5]
    assert kept_fracs(rows, scales, -127, 127) is None
    assert kept_fracs(rows, scales * 1.5, -128, 127) is None
    assert kept_fracs(rows + 2.0**-9, scales, -128, 127) is None
