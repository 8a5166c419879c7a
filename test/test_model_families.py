"""Every family of models from export to integers: the operators it ends in, and its MACs.

The models are small in depth and width; their structure is that of the real ones. MACs are counted
at full size, on models of two depths where whole ones would be slow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime
import pytest
import torch
from accel_races import OrderedMachine
from float_checks import operators
from graphs import apply, canonicalize, context, run_float, run_integer, sqnr
from models import cct, dense, efficientvit, swin, tinyvit, vit
from models.export import Exporter, export_onnx
from models.weights import images
from torch import nn

from vit_opt.backends.accel import run
from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.reference import run_reference
from vit_opt.dialects.macs import count_macs
from vit_opt.dialects.vit.targets import EDGE, TRIO
from vit_opt.frontends.onnx_import import import_onnx
from vit_opt.passes.pipelines import RAISE

BLOCK = {"Gelu": 1, "LayerNormalization": 2, "Linear": 6, "MatMul": 2, "Mul": 1, "Softmax": 1}
"""A transformer block without its sums and data movement: q, k, v, projection, two layers."""


def transformer(count: int, **others: int) -> Counter[str]:
    """The operators of some transformer blocks, and others."""
    return Counter({name: count * number for name, number in BLOCK.items()}) + Counter(others)


@dataclass(frozen=True)
class Family:
    """A small model, and the operators that it ends in, data movement and sums not counted."""

    model: Callable[[], nn.Module]
    expected: Counter[str]
    exporter: Exporter = "torchscript"
    opset: int = 17
    integers: bool = True
    """Whether to go on to integers, where another family does not end in the same graph."""


def small_swin() -> nn.Module:
    """Two blocks with 2x2 windows, the second shifted, merging, and a block with one window."""
    return swin.create(
        "swin_tiny_patch4_window7_224",
        image_size=56,
        dim=48,
        depths=(2, 1),
        heads=(3, 6),
        num_classes=20,
    )


def small_efficientvit(**options: object) -> nn.Module:
    """One block in each of four stages, the last with linear attention."""
    return efficientvit.create(
        "efficientvit_b0",
        image_size=64,
        widths=(16, 32, 48, 64),
        depths=(1, 1, 1, 1),
        head_widths=(96, 64),
        num_classes=20,
        **options,
    )


def small_tinyvit(**options: object) -> nn.Module:
    """A stage of MBConv and two with attention, whose windows do not fill the map."""
    fields: dict[str, object] = {
        "image_size": 96,
        "dims": (32, 48, 64),
        "depths": (1, 1, 1),
        "heads": (1, 2, 2),
        "windows": (5, 5, 5),
        "num_classes": 20,
    }
    return tinyvit.create("tiny_vit_5m_224", **(fields | options))


SWIN = transformer(3, Conv=1, LayerNormalization=3, Linear=2, ReduceMean=1)
"""More norms for patches, merging and head; linear layers for merging and head."""

EFFICIENTVIT = Counter(
    Conv=20, HardSwish=12, LayerNormalization=1, Linear=2, LinearAttention=1, GlobalAveragePool=1
)
POOLED_BY_MEAN = Counter({"GlobalAveragePool": -1, "ReduceMean": 1})
"""What the dynamo exporter writes otherwise."""

CCT = Counter(Conv=2, Relu=2, MaxPool=2, LayerNormalization=1, Linear=2, MatMul=1, Softmax=1)
"""Tokenizer, norm, sequence pooling and head."""

TINYVIT = transformer(2, Conv=13, LayerNormalization=1, Linear=1, ReduceMean=1)
DENSE = Counter(Conv=3, ConvTranspose=1, LayerNormalization=1, Relu=1, Resize=2, Sigmoid=1, Gelu=1)

FAMILIES: dict[str, Family] = {
    "swin": Family(small_swin, SWIN),
    "swin dynamo": Family(small_swin, SWIN, "dynamo", 18),
    "efficientvit": Family(small_efficientvit, EFFICIENTVIT),
    "efficientvit dynamo": Family(
        small_efficientvit, EFFICIENTVIT + POOLED_BY_MEAN, "dynamo", 18, integers=False
    ),
    **{
        f"efficientvit {form}": Family(
            partial(small_efficientvit, attention=form), EFFICIENTVIT, integers=False
        )
        for form in ("columns", "sum", "quadratic")
    },
    "cct": Family(partial(cct.create, "cct_2_3x2_32"), transformer(2) + CCT),
    "tinyvit": Family(small_tinyvit, TINYVIT + Counter(Gelu=8)),
    "tinyvit relu6": Family(partial(small_tinyvit, act="relu6"), TINYVIT + Counter(Clip=8)),
    "tinyvit silu": Family(partial(small_tinyvit, act="silu"), TINYVIT + Counter(Swish=8)),
    "dense": Family(dense.create, transformer(2) + DENSE),
    "dense aligned": Family(partial(dense.create, align_corners=True), transformer(2) + DENSE),
}

MOVEMENT = ("Add", "Concat", "Pad", "Reshape", "Slice", "Transpose")


@pytest.mark.parametrize("name", FAMILIES)
def test_family_from_export_to_integers(tmp_path: Path, name: str) -> None:
    """Raised it equals ONNX Runtime and has the expected operators; its integers are near, and of one
    model of a family those of the accelerator are the same."""
    family = FAMILIES[name]
    model: Any = family.model()
    path = export_onnx(model, tmp_path / "m.onnx", family.opset, family.exporter)
    batch = images(7, 9, 3, model.config.image_size)
    ctx = context([{"input": image[None]} for image in batch[:8]])
    feeds = {"input": batch[8:]}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [exact] = session.run(None, feeds)

    module = import_onnx(path, context=ctx)
    apply(ctx, module, *RAISE)
    [raised] = run_float(ctx, module, feeds).values()
    assert np.abs(raised - exact).max() < 2e-5 * np.abs(exact).max()
    found = operators(module)
    assert {k: n for k, n in found.items() if k not in MOVEMENT} == dict(family.expected)

    if not family.integers:
        return
    apply(ctx, module, "calibrate", "smooth")
    # The input is the one that calibration saw: nothing lies beyond its ranges.
    apply(ctx, module, "fill-grids", headroom=1.0)
    apply(ctx, module, "quantize", "pot-fold", "verify-integer")
    canonicalize(ctx, module)
    [integers] = run_integer(ctx, module, feeds).values()
    assert sqnr(exact, integers) > 15

    if " " in name:
        return
    arch = TRIO if name in ("swin", "efficientvit") else EDGE
    codes = run_reference(module, ctx.assets, feeds).codes
    with patch.object(run, "Machine", OrderedMachine):
        ran = run.run_accel(lower_accel(module, ctx.assets, arch), feeds, arch)
    assert all(np.array_equal(ran.codes[output], codes[output]) for output in codes)


def macs(model: nn.Module, folder: Path) -> int:
    """MACs of a model after raising."""
    ctx = context()
    module = import_onnx(export_onnx(model, folder / "m.onnx", 17), context=ctx)
    apply(ctx, module, *RAISE)
    return count_macs(module)


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (partial(efficientvit.EfficientViT, efficientvit.VARIANTS["efficientvit_b0"]), 0.100),
        (partial(efficientvit.EfficientViT, efficientvit.VARIANTS["efficientvit_b1"]), 0.519),
        (partial(cct.create, "cct_7_3x1_32"), 1.18),
        (partial(vit.create, "deit_tiny_patch16_224"), 1.254),
    ],
)
def test_macs_of_whole_models(
    tmp_path: Path, model: Callable[[], nn.Module], published: float
) -> None:
    assert macs(model(), tmp_path) / 1e9 == pytest.approx(published, abs=0.002)


@pytest.mark.parametrize(
    ("name", "published"), [("deit_small_patch16_224", 4.599), ("deit_base_patch16_224", 17.56)]
)
def test_macs_of_deit_from_two_depths(tmp_path: Path, name: str, published: float) -> None:
    one, two = (macs(vit.create(name, depth=depth), tmp_path) for depth in (1, 2))
    assert (one + 11 * (two - one)) / 1e9 == pytest.approx(published, abs=0.006)


def test_macs_of_swin_from_two_depths(tmp_path: Path) -> None:
    """Swin-T has six blocks in its third stage, of which here are two and three."""
    two, three = (
        macs(swin.create("swin_tiny_patch4_window7_224", depths=(2, 2, depth, 2)), tmp_path)
        for depth in (2, 3)
    )
    assert (two + 4 * (three - two)) / 1e9 == pytest.approx(4.491, abs=0.001)


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        (partial(swin.SwinTransformer, swin.VARIANTS["swin_tiny_patch4_window7_224"]), 28.29),
        (partial(swin.SwinTransformer, swin.VARIANTS["swin_small_patch4_window7_224"]), 49.61),
        (partial(efficientvit.EfficientViT, efficientvit.VARIANTS["efficientvit_b1"]), 9.10),
        (partial(efficientvit.EfficientViT, efficientvit.VARIANTS["efficientvit_b2"]), 24.33),
        (partial(cct.CCT, cct.VARIANTS["cct_14_7x2_224"]), 22.37),
        (partial(tinyvit.TinyViT, tinyvit.VARIANTS["tiny_vit_5m_224"]), 5.39),
        (partial(tinyvit.TinyViT, tinyvit.VARIANTS["tiny_vit_21m_224"]), 21.20),
    ],
)
def test_parameter_counts_are_the_published_ones(
    model: Callable[[], nn.Module], millions: float
) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in model().parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.006)
