"""The model builders: parameter counts of the papers, determinism, faithful exports."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from models.export import Exporter, export_onnx, quantize_qdq
from models.vit import create, deit_tiny_patch16_224, variant


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("deit_tiny_patch16_224", 5.72),
        ("deit_small_patch16_224", 22.05),
        ("deit_tiny_distilled_patch16_224", 5.91),
        ("vit_base_patch16_224", 86.57),
        ("vit_large_patch16_384", 304.72),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, millions: float) -> None:
    from models.vit import VisionTransformer

    with torch.device("meta"):
        model = VisionTransformer(variant(name))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown model"):
        variant("resnet50")
    with pytest.raises(ValueError, match="unknown options of ViTConfig: layers"):
        create("deit_tiny_patch16_224", layers=3)


def test_activations_of_random_models_are_alive() -> None:
    """Neither exploding nor dead: logits depend on the image and the residual stays moderate."""
    torch.manual_seed(0)
    model = deit_tiny_patch16_224(depth=4)
    with torch.no_grad():
        a, b = (model(torch.randn(1, 3, 224, 224)) for _ in range(2))
        again = deit_tiny_patch16_224(depth=4)(torch.ones(1, 3, 224, 224))
        assert torch.equal(again, model(torch.ones(1, 3, 224, 224)))
    assert 0.3 < a.std() < 5
    assert (a - b).std() > 0.2


@pytest.mark.parametrize(
    ("opset", "exporter", "options"),
    [
        (11, "torchscript", {}),
        (14, "torchscript", {"attention": "sdpa", "distilled": True}),
        (17, "torchscript", {"attention": "einsum", "layer_scale": 0.1}),
        (18, "dynamo", {"attention": "sdpa", "registers": 4}),
        (21, "dynamo", {"pool": "avg", "gelu": "tanh", "qkv_bias": False}),
    ],
)
def test_exports_compute_what_torch_computes(
    tmp_path: Path, opset: int, exporter: Exporter, options: dict[str, object]
) -> None:
    model = deit_tiny_patch16_224(depth=1, image_size=32, **options)
    path = export_onnx(model, tmp_path / "m.onnx", opset, exporter, dynamic_batch=opset % 2 == 0)
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    [got] = onnxruntime.InferenceSession(path).run(None, {"input": x})
    with torch.no_grad():
        np.testing.assert_allclose(got, model(torch.from_numpy(x)).numpy(), atol=1e-4)


def test_quantised_export_stays_near_the_float_model(tmp_path: Path) -> None:
    model = deit_tiny_patch16_224(depth=1, image_size=32)
    path = export_onnx(model, tmp_path / "m.onnx", 17)
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    quantised = quantize_qdq(path, tmp_path / "q.onnx", [{"input": x}], activations="int8")
    [a] = onnxruntime.InferenceSession(path).run(None, {"input": x})
    [b] = onnxruntime.InferenceSession(quantised).run(None, {"input": x})
    assert 0 < np.abs(a - b).max() < np.abs(a).max()
