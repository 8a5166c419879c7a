"""Fused operators: every one is taken apart into what ONNX Runtime computes for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from test_import_torch_models import kinds, model, reference, run

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import run_main
from vit_opt.dialects.onnx.semantics import evaluate
from vit_opt.frontends.onnx_import import import_onnx

Array = NDArray[Any]
RNG = np.random.default_rng(3)


def normal(*shape: int) -> Array:
    """Random numbers."""
    return RNG.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Fused:
    """A fused node: shapes of its inputs, weights by position, attributes."""

    operator: str
    inputs: Mapping[int, Sequence[int]]
    weights: Mapping[int, Array] = field(default_factory=dict)
    outputs: Sequence[str] = ("y",)
    domain: str = "com.microsoft"
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 17

    def model(self) -> onnx.ModelProto:
        """A model of this node alone."""
        count = 1 + max([*self.inputs, *self.weights])
        names = [
            f"w{i}" if i in self.weights else f"x{i}" if i in self.inputs else ""
            for i in range(count)
        ]
        node = helper.make_node(
            self.operator, names, self.outputs, "fused", domain=self.domain, **self.attributes
        )
        wanted = [name for name in self.outputs if name]
        graph = helper.make_graph(
            [node],
            "g",
            [
                helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, s)
                for i, s in self.inputs.items()
            ],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted],
            [numpy_helper.from_array(array, f"w{i}") for i, array in self.weights.items()],
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        result = helper.make_model(graph, opset_imports=opsets)
        result.ir_version = 10
        return result


X, W = (1, 5, 12), normal(12)
CASES = {
    "Gelu": Fused("Gelu", {0: X}),
    "BiasGelu": Fused("BiasGelu", {0: X}, {1: W}),
    "FastGelu": Fused("FastGelu", {0: X}),
    "FastGelu with bias": Fused("FastGelu", {0: X}, {1: W}),
    "QuickGelu": Fused("QuickGelu", {0: X}, attributes={"alpha": 1.5}),
    "SkipLayerNormalization": Fused(
        "SkipLayerNormalization", {0: X, 1: X}, {2: W, 3: normal(12)}, attributes={"epsilon": 1e-3}
    ),
    "SkipLayerNormalization with sum, before opset 17": Fused(
        "SkipLayerNormalization",
        {0: X, 1: X},
        {2: W, 3: normal(12), 4: normal(12)},
        ("y", "", "", "total"),
        attributes={"epsilon": 1e-3},
        opset=14,
    ),
    "LayerNormalization before opset 17": Fused(
        "LayerNormalization", {0: X}, {1: W, 2: normal(12)}, domain="", opset=11
    ),
    "FusedMatMul": Fused(
        "FusedMatMul",
        {0: (2, 7, 3), 1: (2, 4, 7)},
        attributes={"alpha": 0.5, "transA": 1, "transB": 1},
    ),
    "FusedGemm": Fused(
        "FusedGemm",
        {0: (5, 12)},
        {1: normal(12, 7), 2: normal(7)},
        attributes={"activation": "LeakyRelu", "activation_alpha": 0.2, "alpha": 0.5},
    ),
    "FusedConv": Fused(
        "FusedConv",
        {0: (1, 4, 6, 6), 3: (1, 8, 3, 3)},
        {1: normal(8, 2, 3, 3), 2: normal(8)},
        attributes={
            "activation": "Clip",
            "activation_params": [-1.0, 2.0],
            "group": 2,
            "kernel_shape": [3, 3],
            "strides": [2, 2],
            "pads": [1, 1, 1, 1],
        },
    ),
    "Attention": Fused(
        "Attention", {0: X}, {1: normal(12, 36), 2: normal(36)}, attributes={"num_heads": 3}
    ),
    "Attention with sizes, scale and bias": Fused(
        "Attention",
        {0: X, 5: (1, 2, 5, 5)},
        {1: normal(12, 32), 2: normal(32)},
        attributes={"num_heads": 2, "qkv_hidden_sizes": [8, 8, 16], "scale": 0.7},
    ),
    "MultiHeadAttention": Fused(
        "MultiHeadAttention",
        {0: X, 1: (1, 7, 12), 2: (1, 7, 18)},
        {3: normal(42)},
        attributes={"num_heads": 3},
    ),
    "MultiHeadAttention by heads": Fused(
        "MultiHeadAttention",
        {0: X, 1: (1, 3, 7, 4), 2: (1, 3, 7, 4), 5: (1, 3, 5, 7)},
        attributes={"num_heads": 3, "scale": 0.3},
    ),
    "Attention of ONNX": Fused(
        "Attention", {0: (1, 3, 5, 4), 1: (1, 3, 7, 4), 2: (1, 3, 7, 6)}, domain="", opset=23
    ),
    "Attention of ONNX, flat, with mask": Fused(
        "Attention",
        {0: X, 1: (1, 7, 12), 2: (1, 7, 18), 3: (5, 7)},
        domain="",
        opset=23,
        attributes={"q_num_heads": 3, "kv_num_heads": 3, "scale": 0.4},
    ),
}


def results(case: Fused, feeds: Mapping[str, Array]) -> tuple[list[Array], list[Array]]:
    """Outputs by our float graph and by ONNX Runtime."""
    proto, context = case.model(), VitContext()
    module = import_onnx(proto, context=context)
    ours = run_main(module, feeds, lambda op, args: evaluate(op, args, context.assets))
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(ours.values()), list(session.run(None, dict(feeds)))


@pytest.mark.parametrize("name", CASES)
def test_expansion_equals_onnxruntime(name: str) -> None:
    case = CASES[name]
    feeds = {f"x{index}": normal(*shape) for index, shape in case.inputs.items()}
    for ours, theirs in zip(*results(case, feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


REFUSED = {
    "its operand 3 (mask or cache)": Fused(
        "Attention",
        {0: X, 3: (1, 5)},
        {1: normal(12, 36), 2: normal(36)},
        attributes={"num_heads": 3},
    ),
    "unidirectional is not supported": Fused(
        "Attention",
        {0: X},
        {1: normal(12, 36), 2: normal(36)},
        attributes={"num_heads": 3, "unidirectional": 1},
    ),
    "the activation Elu is not supported": Fused(
        "FusedGemm", {0: (5, 12)}, {1: normal(12, 7)}, attributes={"activation": "Elu"}
    ),
    "4 heads of queries and 2 of keys": Fused(
        "Attention", {0: (1, 4, 5, 4), 1: (1, 2, 5, 4), 2: (1, 2, 5, 4)}, domain="", opset=23
    ),
    "is_causal is not supported": Fused(
        "Attention",
        {0: (1, 2, 5, 4), 1: (1, 2, 5, 4), 2: (1, 2, 5, 4)},
        domain="",
        opset=23,
        attributes={"is_causal": 1},
    ),
    "its operands or attributes do not fit": Fused(
        "MultiHeadAttention", {0: X, 1: X, 2: X}, attributes={"num_heads": 0}
    ),
    "packed in one": Fused("MultiHeadAttention", {0: (1, 5, 3, 3, 4)}, attributes={"num_heads": 3}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_expressed_is_named_with_the_reason(reason: str) -> None:
    case = REFUSED[reason]
    with pytest.raises(VitError) as caught:
        import_onnx(case.model(), context=VitContext())
    text = str(caught.value)
    assert reason in text and f"{case.operator} (opset" in text and "node fused" in text
    assert "\n" not in text


@pytest.mark.parametrize("opset", [11, 18])
def test_model_fused_by_onnxruntime(tmp_path: Path, opset: int) -> None:
    """As ONNX Runtime's transformer optimiser leaves it, and the session's own after it."""
    import logging

    from models.export import export_onnx
    from onnxruntime.transformers.optimizer import optimize_model

    plain = export_onnx(model(), tmp_path / "m.onnx", opset)
    fused = tmp_path / "fused.onnx"
    logging.disable(logging.WARNING)
    try:
        optimised = optimize_model(str(plain), "vit", num_heads=3, hidden_size=48, opt_level=2)
        optimised.save_model_to_file(str(fused))
    finally:
        logging.disable(logging.NOTSET)
    operators = {node.op_type for node in onnx.load(fused).graph.node}
    assert {"SkipLayerNormalization", "BiasGelu"} <= operators
    context = VitContext()
    module = import_onnx(fused, context=context)
    expected = reference(plain)
    assert np.abs(run(module, context) - expected).max() < 1e-4 * np.abs(expected).max()
    assert kinds(module)["onnx.Softmax"] == 2
