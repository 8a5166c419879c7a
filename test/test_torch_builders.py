"""Every builder straight from torch (opset 21), and by the dynamo exporter at 18 with open batch.

`test_model_families` has the dynamo exports of the others. All must end in the operators that the
TorchScript export there ends in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from float_checks import operators
from graphs import apply, context, run_float
from models import cct, dense, vit
from models.export import export_onnx
from models.weights import images
from test_model_families import (
    CCT,
    DENSE,
    EFFICIENTVIT,
    MOVEMENT,
    POOLED_BY_MEAN,
    SWIN,
    TINYVIT,
    small_efficientvit,
    small_swin,
    small_tinyvit,
    transformer,
)
from torch import nn

from vit_opt.dialects.evaluation import input_names, main_function
from vit_opt.frontends.onnx_import import import_onnx
from vit_opt.frontends.torch_import import import_torch
from vit_opt.passes.pipelines import RAISE

VIT = transformer(2, Conv=1, LayerNormalization=1, Linear=1)


def small_vit(name: str, **options: object) -> nn.Module:
    """Two blocks on four patches."""
    return vit.create(name, image_size=32, depth=2, num_classes=20, **options)


BUILDERS: dict[str, tuple[Callable[[], nn.Module], Counter[str]]] = {
    "vit": (
        partial(small_vit, "vit_small_patch16_384", qkv_bias=False, registers=4, layer_scale=0.1),
        VIT,
    ),
    "distilled": (
        partial(small_vit, "deit_tiny_distilled_patch16_224"),
        VIT + Counter(Linear=1, Mul=1),
    ),
    "swin": (small_swin, SWIN),
    "efficientvit": (small_efficientvit, EFFICIENTVIT + POOLED_BY_MEAN),
    "cct": (partial(cct.create, "cct_2_3x2_32"), transformer(2) + CCT),
    "tinyvit": (small_tinyvit, TINYVIT + Counter(Gelu=8)),
    "dense": (dense.create, transformer(2) + DENSE),
}


@pytest.mark.parametrize(
    ("road", "name"),
    [
        *(("import_torch", name) for name in BUILDERS),
        *(("dynamo", name) for name in ("cct", "tinyvit", "dense")),
    ],
)
def test_builder_from_torch(tmp_path: Path, road: str, name: str) -> None:
    create, expected = BUILDERS[name]
    model: Any = create().eval()
    batch = images(7, 1, 3, model.config.image_size)
    ctx = context()
    if road == "import_torch":
        module = import_torch(model, [torch.from_numpy(batch)], context=ctx)
    else:
        path = export_onnx(model, tmp_path / "m.onnx", 18, "dynamo", dynamic_batch=True)
        module = import_onnx(path, context=ctx)
    apply(ctx, module, *RAISE)
    [found] = run_float(ctx, module, {input_names(main_function(module))[0]: batch}).values()
    with torch.no_grad():
        exact = model(torch.from_numpy(batch)).numpy()
    assert np.abs(found - exact).max() < 2e-5 * np.abs(exact).max()
    kinds = {k: n for k, n in operators(module).items() if k not in MOVEMENT}
    assert kinds == dict(expected)
