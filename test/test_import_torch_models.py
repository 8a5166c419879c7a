"""Real exports of a small ViT, by both exporters and several opsets, imported and compared.

The imported graph must give what ONNX Runtime gives for the file, hold no leftover of shape
arithmetic, and know its weights by the names of the file.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest
import torch
from models.export import export_onnx, quantize_qdq
from models.vit import ViTConfig, build
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import AssetAttr, VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import input_names, main_function, output_names, run_main
from vit_opt.dialects.onnx.semantics import evaluate
from vit_opt.frontends.onnx_import import import_onnx
from vit_opt.frontends.torch_import import import_torch
from vit_opt.tools.steps import new_context

Array = NDArray[Any]
Attention = Literal["matmul", "sdpa", "einsum"]
CONFIG = ViTConfig(
    image_size=32, patch_size=8, num_classes=10, dim=48, depth=2, heads=3, layer_scale=0.1
)
IMAGE = np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32)


def model(attention: Attention = "matmul") -> torch.nn.Module:
    """A ViT of two blocks with LayerScale."""
    from dataclasses import replace

    return build(replace(CONFIG, attention=attention))


def run(module: ModuleOp, context: VitContext, image: Array = IMAGE) -> Array:
    """The first output for an image."""
    name = input_names(main_function(module))[0]
    results = run_main(module, {name: image}, lambda op, args: evaluate(op, args, context.assets))
    return next(iter(results.values()))


def reference(path: Path, image: Array = IMAGE) -> Array:
    """The first output by ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: image})[0])


def kinds(module: ModuleOp) -> Counter[str]:
    """How often each operation occurs."""
    return Counter(op.name for op in main_function(module).body.block.ops)


@pytest.mark.parametrize("dynamic_batch", [False, True])
@pytest.mark.parametrize(
    ("exporter", "opset", "attention"),
    [
        ("torchscript", 11, "matmul"),
        ("torchscript", 14, "sdpa"),
        ("torchscript", 17, "einsum"),
        ("dynamo", 18, "matmul"),
        ("dynamo", 21, "sdpa"),
    ],
)
def test_export_equals_onnxruntime(
    tmp_path: Path,
    exporter: Literal["torchscript", "dynamo"],
    opset: int,
    attention: Attention,
    dynamic_batch: bool,
) -> None:
    path = export_onnx(
        model(attention),
        tmp_path / "m.onnx",
        opset,
        exporter,
        dynamic_batch=dynamic_batch,
        external_data=exporter == "dynamo",
    )
    context = VitContext()
    module = import_onnx(path, context=context)
    expected = reference(path)
    assert np.abs(run(module, context) - expected).max() < 1e-4 * np.abs(expected).max()
    found = kinds(module)
    assert found["onnx.Softmax"] == 2 and found["onnx.Conv"] == 1
    assert not found.keys() & {"onnx.Expand", "onnx.Cast", "onnx.Equal", "onnx.Where"}
    names = [
        op.node_name for op in main_function(module).body.block.ops if isinstance(op, onnx.OnnxOp)
    ]
    assert None not in names and len(set(names)) == len(names)


def test_names_stage_and_weights(tmp_path: Path) -> None:
    path = export_onnx(model(), tmp_path / "m.onnx", 17, dynamic_batch=True)
    context = VitContext()
    module = import_onnx(path, context=context)
    func = main_function(module)
    assert input_names(func) == ("input",) and output_names(func) == ("output",)
    assert str(module.attributes["vit.stage"]) == '"float"'
    assert [str(t) for t in func.function_type.inputs] == ["tensor<1x3x32x32xf32>"]
    state = {name: value.numpy() for name, value in model().state_dict().items()}
    assets = {
        op.value.key.data: context.assets.array(op.value)
        for op in func.body.block.ops
        if isinstance(op, onnx.Constant) and isinstance(op.value, AssetAttr)
    }
    shared = state.keys() & assets.keys()
    assert {"patch_embed.weight", "pos_embed", "head.weight", "blocks.0.mlp.fc1.bias"} <= shared
    for name in shared:
        np.testing.assert_array_equal(assets[name], state[name])


def test_text_reads_back(tmp_path: Path) -> None:
    context = new_context()
    path = export_onnx(model(), tmp_path / "m.onnx", 14)
    module = import_onnx(path, context=context)
    again = Parser(context, str(module)).parse_module()
    again.verify()
    np.testing.assert_array_equal(run(again, context), run(module, context))


@pytest.mark.parametrize("activations", ["int8", "uint8"])
def test_quantised_model_keeps_its_scales(
    tmp_path: Path, activations: Literal["int8", "uint8"]
) -> None:
    path = export_onnx(model(), tmp_path / "m.onnx", 17, dynamic_batch=True)
    quantised = quantize_qdq(path, tmp_path / "q.onnx", [{"input": IMAGE}], activations=activations)
    context = VitContext()
    module = import_onnx(quantised, context=context)
    expected = reference(quantised)
    assert np.abs(run(module, context) - expected).max() < 0.05 * np.abs(expected).max()
    ops = list(main_function(module).body.block.ops)
    weights = [
        op
        for op in ops
        if isinstance(op, onnx.DequantizeLinear) and isinstance(op.inputs[0].owner, onnx.Constant)
    ]
    per_channel = [op for op in weights if op.inputs[1].type.get_shape() not in ((), (1,))]
    assert len(per_channel) >= 9
    assert any("xi8>" in str(op.inputs[0].type) for op in weights)
    assert kinds(module)["onnx.QuantizeLinear"] > 10


def test_half_precision_model_computes_in_float32(tmp_path: Path) -> None:
    from onnx import load, save
    from onnxruntime.transformers.float16 import convert_float_to_float16

    path = export_onnx(model(), tmp_path / "m.onnx", 17)
    half = tmp_path / "half.onnx"
    save(convert_float_to_float16(load(path)), half)
    context = VitContext()
    module = import_onnx(half, context=context)
    func = main_function(module)
    assert [str(t) for t in func.function_type.outputs] == ["tensor<1x10xf32>"]
    assert "f16" not in str(module)
    expected = reference(path)
    assert np.abs(run(module, context) - expected).max() < 0.02 * np.abs(expected).max()


def test_import_torch_equals_torch() -> None:
    net, context = model("sdpa"), VitContext()
    net.train()
    module = import_torch(net, [torch.from_numpy(IMAGE)], context=context)
    assert net.training
    net.eval()
    with torch.no_grad():
        expected = net(torch.from_numpy(IMAGE)).numpy()
    assert np.abs(run(module, context) - expected).max() < 1e-4 * np.abs(expected).max()
    assert kinds(module)["onnx.LayerNormalization"] == 5


class Broken(torch.nn.Module):
    """A module whose code fails in the way it is told to."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fails."""
        if self.how == "index":
            return x[5, 6]
        if self.how == "own error":
            raise ValueError("no\nluck")
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("index", "torch cannot export Broken: index 5 is out of bounds"),
        ("own error", "torch cannot export Broken: no"),
        ("control flow", "torch cannot export Broken: Could not guard on data-dependent"),
    ],
)
def test_modules_that_cannot_be_exported(how: str, reason: str) -> None:
    with pytest.raises(VitError) as caught:
        import_torch(Broken(how), [torch.ones(1, 4)], context=VitContext())
    assert str(caught.value).startswith(reason) and "\n" not in str(caught.value)


def test_import_torch_wants_a_module() -> None:
    with pytest.raises(VitError, match="takes a torch module, not str"):
        import_torch("model", [torch.ones(1, 4)], context=VitContext())
