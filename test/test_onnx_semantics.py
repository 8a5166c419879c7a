"""Float semantics and import, operator by operator, against ONNX Runtime on random data.

Each case is a model of one node. It is imported and evaluated by our definitions, and run by ONNX
Runtime; both must agree to 1e-4 of the largest value (integers exactly).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vit_opt.dialects import onnx as dialect
from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.evaluation import main_function, run_main
from vit_opt.dialects.onnx.semantics import evaluate
from vit_opt.frontends.onnx_import import import_onnx

Array = NDArray[Any]
RNG = np.random.default_rng(20261121)


def real(*shape: int) -> Array:
    """Normal random numbers."""
    return RNG.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Array:
    """Random numbers in 0.5 .. 2."""
    return RNG.uniform(0.5, 2.0, shape).astype(np.float32)


def ints(*values: int) -> Array:
    """A constant list of integers."""
    return np.array(values, np.int64)


def scalar(value: float, dtype: Any = np.float32) -> Array:
    """A constant scalar."""
    return np.array(value, dtype)


@dataclass
class Case:
    """A node: operator, graph inputs, constant inputs that follow them, attributes, opset."""

    operator: str
    inputs: list[Array]
    constants: list[Array | None] = field(default_factory=list[Array | None])
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    opset: int = 17
    outputs: int = 1
    output_type: int = TensorProto.UNDEFINED

    def model(self) -> onnx.ModelProto:
        """The model of the one node."""
        given = [f"x{i}" for i in range(len(self.inputs))]
        fixed = [None if c is None else f"c{i}" for i, c in enumerate(self.constants)]
        results = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(
            self.operator, given + [name or "" for name in fixed], results, "n", **self.attributes
        )
        values = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in zip(given, self.inputs, strict=True)
        ]
        tensors = [
            numpy_helper.from_array(a, n)
            for n, a in zip(fixed, self.constants, strict=True)
            if n is not None and a is not None
        ]
        kinds = [helper.make_tensor_value_info(r, self.output_type, None) for r in results]
        if self.output_type == TensorProto.UNDEFINED:
            kinds = [onnx.ValueInfoProto(name=r) for r in results]
        graph = helper.make_graph([node], "g", values, kinds, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        inferred = onnx.shape_inference.infer_shapes(model)
        for output, found in zip(model.graph.output, inferred.graph.output, strict=True):
            output.CopyFrom(found)
        return model


IMAGE = real(1, 6, 9, 11)
TOKENS = real(2, 7, 12)
UNARY = [
    "Abs",
    "Erf",
    "Exp",
    "Floor",
    "HardSwish",
    "Identity",
    "Neg",
    "Relu",
    "Sigmoid",
    "Softplus",
]
CASES: dict[str, Case] = {
    **{name: Case(name, [TOKENS * 3]) for name in [*UNARY, "Tanh", "HardSigmoid", "LeakyRelu"]},
    **{name: Case(name, [positive(3, 5)]) for name in ("Log", "Reciprocal", "Sqrt")},
    **{name: Case(name, [TOKENS, real(7, 1)]) for name in ("Add", "Sub", "Mul", "Div")},
    "Add constant": Case("Add", [TOKENS], [real(12)]),
    "Div integers": Case("Div", [ints(7, -7, 9, -9)], [ints(2, 2, -4, -4)]),
    "Max three": Case("Max", [TOKENS, real(7, 12), real(1)]),
    "Min": Case("Min", [TOKENS], [scalar(0.25)]),
    "Sum two": Case("Sum", [TOKENS, real(12)]),
    "Pow square": Case("Pow", [TOKENS], [scalar(2.0)]),
    "Pow half": Case("Pow", [positive(3, 4)], [scalar(0.5)]),
    "Where": Case("Where", [np.array([True, False, True]), real(4, 3), real(1, 3)]),
    "Greater": Case("Greater", [TOKENS], [scalar(0.1)]),
    "Less": Case("Less", [TOKENS], [scalar(0.1)]),
    "Equal": Case("Equal", [ints(1, 2, 3)], [ints(1, 5, 3)]),
    "Not": Case("Not", [np.array([True, False])]),
    "And": Case("And", [np.array([True, False]), np.array([True, True])]),
    "Or": Case("Or", [np.array([True, False]), np.array([False, False])]),
    "Cast": Case("Cast", [TOKENS * 5], attributes={"to": TensorProto.INT32}),
    "Clip inputs": Case("Clip", [TOKENS], [scalar(0.0), scalar(0.8)]),
    "Clip maximum": Case("Clip", [TOKENS], [None, scalar(0.5)]),
    "Clip attributes": Case("Clip", [TOKENS], attributes={"min": -0.5, "max": 6.0}, opset=10),
    "HardSigmoid alpha": Case("HardSigmoid", [TOKENS], attributes={"alpha": 1 / 6, "beta": 0.5}),
    "Gelu": Case("Gelu", [TOKENS], opset=20),
    "Gelu tanh": Case("Gelu", [TOKENS], attributes={"approximate": "tanh"}, opset=20),
    "Swish": Case("Swish", [TOKENS * 3], attributes={"alpha": 1.702}, opset=24),
    "Dropout": Case("Dropout", [TOKENS], [scalar(0.5)]),
    "MatMul": Case("MatMul", [real(1, 3, 5, 4), real(3, 4, 6)]),
    "MatMul vector": Case("MatMul", [real(5, 4), real(4)]),
    "Gemm": Case("Gemm", [real(5, 4)], [real(6, 4), real(6)], {"transB": 1}),
    "Gemm scaled": Case(
        "Gemm", [real(4, 5), real(4, 6), real(6)], [], {"transA": 1, "alpha": 0.5, "beta": 2.0}
    ),
    "Einsum": Case(
        "Einsum", [real(2, 3, 4), real(2, 5, 4)], [], {"equation": "b i d, b j d -> b i j"}
    ),
    "Conv": Case(
        "Conv", [IMAGE], [real(8, 6, 3, 2), real(8)], {"strides": [2, 1], "pads": [1, 0, 2, 1]}
    ),
    "Conv grouped": Case("Conv", [IMAGE], [real(4, 3, 3, 3)], {"group": 2, "dilations": [2, 2]}),
    "Conv depthwise": Case("Conv", [IMAGE], [real(6, 1, 3, 3), real(6)], {"group": 6}),
    "Conv multiplier": Case("Conv", [IMAGE], [real(12, 1, 3, 3)], {"group": 6}),
    "Conv same": Case(
        "Conv", [IMAGE], [real(4, 6, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}
    ),
    "Conv same lower": Case("Conv", [IMAGE], [real(4, 6, 2, 2)], {"auto_pad": "SAME_LOWER"}),
    "ConvTranspose": Case(
        "ConvTranspose",
        [IMAGE],
        [real(6, 4, 3, 3), real(4)],
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    "ConvTranspose grouped": Case(
        "ConvTranspose", [IMAGE], [real(6, 2, 2, 3)], {"group": 3, "dilations": [1, 2]}
    ),
    "MaxPool": Case(
        "MaxPool", [IMAGE], [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    ),
    "MaxPool ceil": Case(
        "MaxPool",
        [real(1, 2, 10, 10)],
        [],
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    ),
    "AveragePool": Case(
        "AveragePool",
        [IMAGE],
        [],
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    ),
    "AveragePool counted": Case(
        "AveragePool",
        [IMAGE],
        [],
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    "AveragePool ceil": Case(
        "AveragePool",
        [real(1, 2, 10, 10)],
        [],
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        opset=19,
    ),
    "GlobalAveragePool": Case("GlobalAveragePool", [IMAGE]),
    "GlobalMaxPool": Case("GlobalMaxPool", [IMAGE]),
    "ReduceMean attribute": Case("ReduceMean", [TOKENS], [], {"axes": [-1]}),
    "ReduceMean input": Case("ReduceMean", [TOKENS], [ints(1)], {"keepdims": 0}, 18),
    "ReduceMean all": Case("ReduceMean", [TOKENS]),
    "ReduceSum": Case("ReduceSum", [TOKENS], [ints(0, 2)]),
    "ReduceMax": Case("ReduceMax", [TOKENS], [], {"axes": [1]}),
    "ReduceMin": Case("ReduceMin", [TOKENS], [], {"axes": [1], "keepdims": 0}),
    "ReduceL2": Case("ReduceL2", [TOKENS], [], {"axes": [-1]}),
    "Softmax": Case("Softmax", [TOKENS * 4], [], {"axis": -1}),
    "Softmax inner": Case("Softmax", [TOKENS], [], {"axis": 1}),
    "Softmax opset 11": Case("Softmax", [TOKENS], [], {"axis": 2}, 11),
    "LayerNormalization": Case(
        "LayerNormalization", [TOKENS], [real(12), real(12)], {"epsilon": 1e-6}
    ),
    "LayerNormalization axis": Case("LayerNormalization", [TOKENS], [real(7, 12)], {"axis": 1}),
    "BatchNormalization": Case(
        "BatchNormalization", [IMAGE], [real(6), real(6), real(6), positive(6)], {"epsilon": 1e-3}
    ),
    "Reshape": Case("Reshape", [TOKENS], [ints(0, -1, 3, 4)]),
    "Flatten": Case("Flatten", [IMAGE], [], {"axis": 2}),
    "Squeeze": Case("Squeeze", [real(1, 3, 1, 5)], [ints(2)]),
    "Unsqueeze": Case("Unsqueeze", [TOKENS], [ints(0, -1)]),
    "Transpose": Case("Transpose", [TOKENS], [], {"perm": [2, 0, 1]}),
    "Transpose default": Case("Transpose", [TOKENS]),
    "Expand": Case("Expand", [real(1, 1, 12)], [ints(2, 7, 1)]),
    "Tile": Case("Tile", [TOKENS], [ints(1, 2, 3)]),
    "Concat": Case("Concat", [TOKENS, real(2, 1, 12)], [], {"axis": -2}),
    "Split sizes": Case("Split", [TOKENS], [ints(3, 4)], {"axis": 1}, outputs=2),
    "Split equal": Case("Split", [TOKENS], [], {"axis": -1}, outputs=3),
    "Slice": Case("Slice", [TOKENS], [ints(1, -5), ints(2**62, -1), ints(1, 2), ints(2, 1)]),
    "Slice reversed": Case("Slice", [TOKENS], [ints(-1), ints(-(2**62)), ints(1), ints(-2)]),
    "Slice attributes": Case("Slice", [TOKENS], [], {"starts": [1], "ends": [9], "axes": [2]}, 9),
    "Gather": Case("Gather", [TOKENS], [ints(0, -1, 3)], {"axis": 1}),
    "Gather scalar": Case("Gather", [TOKENS], [scalar(0, np.int64)], {"axis": 1}),
    "Pad": Case("Pad", [TOKENS], [ints(0, 1, 2, 0, 3, 4), scalar(0.5)]),
    "Pad axes": Case("Pad", [TOKENS], [ints(1, 2), None, ints(-1)], opset=18),
    "Pad reflect": Case("Pad", [IMAGE], [ints(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "reflect"}),
    "Pad edge": Case("Pad", [IMAGE], [ints(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "edge"}),
    "Resize nearest": Case(
        "Resize",
        [IMAGE],
        [None, scalar(0)[None][:0], ints(1, 6, 18, 22)],
        {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        },
    ),
    "Resize linear": Case(
        "Resize", [IMAGE], [None, np.array([1, 1, 1.7, 2], np.float32)], {"mode": "linear"}
    ),
    "Resize pytorch": Case(
        "Resize",
        [IMAGE],
        [None, None, ints(1, 6, 1, 7)],
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    ),
    "Resize corners": Case(
        "Resize",
        [IMAGE],
        [None, None, ints(1, 6, 5, 23)],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    "Resize rounding": Case(
        "Resize",
        [IMAGE],
        [None, None, ints(1, 6, 13, 5)],
        {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
    ),
    "Upsample": Case("Upsample", [IMAGE], [np.array([1, 1, 2, 3], np.float32)], opset=9),
    "DepthToSpace": Case("DepthToSpace", [real(1, 8, 3, 2)], [], {"blocksize": 2}),
    "DepthToSpace CRD": Case(
        "DepthToSpace", [real(1, 8, 3, 2)], [], {"blocksize": 2, "mode": "CRD"}
    ),
    "SpaceToDepth": Case("SpaceToDepth", [real(1, 2, 6, 4)], [], {"blocksize": 2}),
    "QuantizeLinear": Case("QuantizeLinear", [TOKENS], [scalar(0.02), scalar(100, np.uint8)]),
    "QuantizeLinear signed": Case("QuantizeLinear", [TOKENS], [scalar(0.02), scalar(-3, np.int8)]),
    "QuantizeLinear channels": Case(
        "QuantizeLinear", [TOKENS], [positive(7) / 50, np.zeros(7, np.int8)], {"axis": 1}
    ),
    "DequantizeLinear": Case(
        "DequantizeLinear",
        [RNG.integers(0, 256, (3, 4)).astype(np.uint8)],
        [scalar(0.02), scalar(100, np.uint8)],
    ),
    "DequantizeLinear channels": Case(
        "DequantizeLinear",
        [RNG.integers(-128, 128, (5, 4)).astype(np.int8)],
        [positive(5)],
        {"axis": 0},
    ),
}
RAISED = {dialect.Constant, dialect.Linear, dialect.LinearAttention}


def run_ours(case: Case) -> tuple[list[Array], set[type[Any]]]:
    """Results of the imported model, and the operations in it."""
    context = VitContext()
    module = import_onnx(case.model(), context=context)
    feeds = {f"x{i}": array for i, array in enumerate(case.inputs)}
    results = run_main(module, feeds, lambda op, args: evaluate(op, args, context.assets))
    kinds = {type(op) for op in main_function(module).body.block.ops}
    return list(results.values()), kinds


@pytest.mark.parametrize("name", CASES)
def test_operator_equals_onnxruntime(name: str) -> None:
    case = CASES[name]
    session = onnxruntime.InferenceSession(
        case.model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, {f"x{i}": array for i, array in enumerate(case.inputs)})
    results, _ = run_ours(case)
    assert len(results) == len(expected)
    for got, want in zip(results, expected, strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        if want.dtype.kind == "f":
            assert np.abs(got - want).max() <= 1e-4 * max(1.0, float(np.abs(want).max()))
        else:
            np.testing.assert_array_equal(got, want)


def test_every_operation_has_a_case() -> None:
    """A new operation of the dialect needs a case above (raised ones are tested below)."""
    seen = set[type[Any]]().union(*(run_ours(case)[1] for case in CASES.values()))
    missing = set(dialect.OPERATIONS) - seen - RAISED - {dialect.Identity}
    assert not missing


def evaluate_one(op: Any, *operands: Array) -> Array:
    """The one result of an operation."""
    return evaluate(op, list(operands), VitContext().assets)[0]


def test_linear_is_matmul_with_transposed_weights() -> None:
    from xdsl.dialects.builtin import TensorType, f32
    from xdsl.dialects.test import TestOp

    x, w, bias = real(2, 3, 8), real(5, 8), real(5)
    source = TestOp(result_types=[TensorType(f32, a.shape) for a in (x, w, bias)])
    op = dialect.Linear.make(source.results, [TensorType(f32, [2, 3, 5])])
    op.verify()
    np.testing.assert_allclose(evaluate_one(op, x, w, bias), x @ w.T + bias, rtol=1e-5)


def test_linear_attention_equals_its_quadratic_form() -> None:
    """Attention with weights relu(q) relu(k)^T, normalised by row, is what it computes."""
    from xdsl.dialects.builtin import TensorType, f32
    from xdsl.dialects.test import TestOp

    q, k, v = real(2, 6, 4) + 1, real(2, 6, 4) + 1, real(2, 6, 3)
    source = TestOp(result_types=[TensorType(f32, a.shape) for a in (q, k, v)])
    op = dialect.LinearAttention.make(source.results, [TensorType(f32, [2, 6, 3])])
    op.verify()
    weights = np.maximum(q, 0) @ np.maximum(k, 0).swapaxes(1, 2)
    expected = weights @ v / weights.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(evaluate_one(op, q, k, v), expected, rtol=1e-4)
