"""Two linear products in a row: the hidden layer goes by in panels, the sums stay on chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from accel_net import compare, random_codes
from accel_vit import CODES, Size, VitNet

from vit_opt.backends.accel.lowering import linear
from vit_opt.backends.accel.lowering.context import Lowering, Plan
from vit_opt.backends.accel.lowering.elementwise import Branch
from vit_opt.backends.accel.lowering.products import Product
from vit_opt.dialects.vit.targets import P2VIT, AccelTarget, MemorySpec
from vit_opt.dialects.vit_accel import isa

SMALL = Size(image=64, patch=8, dim=96, heads=3, layers=1, classes=10)
"""65 tokens: 6,240 bytes of input, 24,960 of hidden layer and of accumulators."""

TINY = Size(image=112, patch=8, dim=192, heads=3, layers=1, classes=10)
"""A block of DeiT-T: 197 tokens."""


def machine(abuf: int, obuf: int) -> AccelTarget:
    """`p2vit` with smaller memories, in KiB, and a narrower array."""
    sizes = {"abuf": abuf, "bbuf": abuf, "cbuf": abuf, "obuf": obuf, "pbuf": 8}
    memories = tuple(MemorySpec(name, size << 10) for name, size in sizes.items())
    return replace(P2VIT, name="small", lanes=16, dram_burst=16, memories=memories)


@pytest.mark.parametrize(
    ("size", "arch", "groups"),
    [(TINY, P2VIT, 1), (SMALL, machine(8, 18), 2), (SMALL, P2VIT, 0)],
    ids=["one group", "two groups", "all on chip"],
)
def test_hidden_layer_goes_by(
    size: Size, arch: AccelTarget, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = VitNet(size)
    codes = random_codes(np.random.default_rng(2), (1, 3, size.image, size.image), CODES)
    found: list[int] = []
    emit = linear.sum_panels

    def noted(lowering: Lowering, product: Product, branches: Sequence[Branch], plan: Plan) -> None:
        found.append(len(plan.groups))
        emit(lowering, product, branches, plan)

    def alone(lowering: Lowering, product: Product, branches: Sequence[Branch]) -> None:
        """No product has a partner."""

    monkeypatch.setattr(linear, "sum_panels", noted)
    image, ran = compare(net, [net.result], [codes], arch)
    assert set(found) == ({groups} if groups else set())
    monkeypatch.setattr(linear, "find_pair", alone)
    net = VitNet(size)
    _, apart = compare(net, [net.result], [codes], arch)
    if groups:
        assert any(isinstance(inst, isa.Matmul) and inst.accumulate for inst in image.code)
    if groups == 1:
        assert ran.stats.dram_bytes < apart.stats.dram_bytes
    if groups == 0:
        assert ran.stats == apart.stats
