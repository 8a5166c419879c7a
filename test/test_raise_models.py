"""The raising road on exported models: one set of operators for every exporter and opset."""

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from float_checks import Array, float_context, operators, random_inputs, run
from models.export import Exporter, export_onnx, quantize_qdq
from models.vit import VisionTransformer, deit_tiny_patch16_224
from xdsl.dialects.builtin import ModuleOp

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import VitContext
from vit_opt.frontends.onnx_import import import_onnx
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.pipelines import RAISE, passes_of

DEPTH = 2

CANONICAL = {
    "Add": 1 + 2 * DEPTH,
    "Concat": 1,
    "Conv": 1,
    "Gelu": DEPTH,
    "LayerNormalization": 1 + 2 * DEPTH,
    "Linear": 1 + 6 * DEPTH,
    "MatMul": 2 * DEPTH,
    "Mul": DEPTH,
    "Reshape": 2 + 4 * DEPTH,
    "Slice": 1,
    "Softmax": DEPTH,
    "Transpose": 1 + 4 * DEPTH,
}
"""A DeiT: patch embedding, class token, positions, blocks, norm, head on the class token."""


@cache
def deit(**options: object) -> VisionTransformer:
    """A DeiT-T of little depth on small images, so that 17 tokens are left."""
    return deit_tiny_patch16_224(depth=DEPTH, image_size=64, **options)


def raised(path: Path, ctx: VitContext) -> tuple[ModuleOp, list[Array], Array, Array]:
    """The raised module, an input, and the results before and after raising."""
    module = import_onnx(path, context=ctx)
    inputs = random_inputs(module)
    [before] = run(module, inputs, ctx)
    for each in passes_of(RAISE):
        each.apply(ctx, module)
        module.verify()
    [after] = run(module, inputs, ctx)
    return module, inputs, before, after


EXPORTS: list[tuple[int, Exporter, dict[str, object]]] = [
    (11, "torchscript", {}),
    (14, "torchscript", {"attention": "sdpa"}),
    (17, "torchscript", {}),
    (17, "torchscript", {"attention": "einsum"}),
    (18, "dynamo", {"attention": "sdpa"}),
    (21, "dynamo", {}),
    (21, "dynamo", {"attention": "einsum", "layer_scale": 0.1, "qkv_bias": False}),
    (17, "torchscript", {"registers": 4, "layer_scale": 0.1}),
]


@pytest.mark.parametrize(("opset", "exporter", "options"), EXPORTS)
def test_every_export_ends_in_the_same_operators(
    tmp_path: Path, opset: int, exporter: Exporter, options: dict[str, object]
) -> None:
    model = deit(**options)
    path = export_onnx(model, tmp_path / "m.onnx", opset, exporter, dynamic_batch=opset % 3 == 2)
    ctx = float_context()
    module, inputs, before, after = raised(path, ctx)
    assert operators(module) == CANONICAL
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-5)
    with torch.no_grad():
        reference = model(torch.from_numpy(inputs[0])).numpy()
    np.testing.assert_allclose(after, reference, rtol=0, atol=5e-5)
    factors = [op.inputs[1] for op in module.walk() if isinstance(op, onnx.Mul)]
    assert [Constants.of(ctx).scalar(factor) for factor in factors] == [0.125] * DEPTH


VARIANTS = [
    ({"distilled": True}, {"Add": 1, "Linear": 1, "Mul": 1, "Reshape": 1, "Slice": 1}),
    ({"pool": "avg", "gelu": "tanh"}, {"Concat": -1, "Slice": -1, "ReduceMean": 1, "Reshape": -1}),
]


@pytest.mark.parametrize(("options", "difference"), VARIANTS)
def test_variants_of_the_head(
    tmp_path: Path, options: dict[str, object], difference: dict[str, int]
) -> None:
    path = export_onnx(deit(**options), tmp_path / "m.onnx", 17)
    module, _, before, after = raised(path, float_context())
    expected = Counter(CANONICAL)
    expected.update(difference)
    assert operators(module) == +expected
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-5)


QUANTISED = [
    (14, {}, "uint8", True),  # decomposed LayerNorm and GELU with roundings inside
    (17, {"layer_scale": 0.3}, "int8", True),  # Gemm between reshapes
    (17, {"attention": "sdpa"}, "int8", False),
]


@pytest.mark.parametrize(("opset", "options", "activations", "preprocess"), QUANTISED)
def test_quantised_models_are_raised_too(
    tmp_path: Path, opset: int, options: dict[str, object], activations: str, preprocess: bool
) -> None:
    """The operators are those of the float model; what changes is rounding noise."""
    model = deit(**options)
    path = export_onnx(model, tmp_path / "m.onnx", opset)
    batches = [
        {"input": np.random.default_rng(seed).standard_normal((1, 3, 64, 64), dtype=np.float32)}
        for seed in range(3)
    ]
    quantised = quantize_qdq(
        path,
        tmp_path / "q.onnx",
        batches,
        activations="int8" if activations == "int8" else "uint8",
        preprocess=preprocess,
    )
    module, inputs, before, after = raised(quantised, float_context())
    left = operators(module)
    assert left.pop("QuantizeLinear") == left.pop("DequantizeLinear") > 20
    assert left == CANONICAL
    with torch.no_grad():
        exact = model(torch.from_numpy(inputs[0])).numpy()
    noise = [np.square(result - exact).mean() for result in (before, after)]
    assert noise[1] < 1.2 * noise[0] < 0.05 * np.square(exact).mean()
