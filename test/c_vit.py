"""A Vision Transformer written directly in the vit dialect, with seeded random weights.

The structure is the default one: int16 residual stream fed from accumulators, deferred softmax,
table GELU with a zero point, per-channel weight exponents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from c_cases import Case, FixedType, ops
from xdsl.ir import SSAValue

from vit_opt.dialects.vit.ops.base import shape_of
from vit_opt.dialects.vit.semantics.activation import gelu, make_table

RESIDUAL = FixedType("i16", 8)
EIGHT = FixedType("i8", 4)


@dataclass(frozen=True)
class VitShape:
    image: int = 32
    patch: int = 8
    dim: int = 48
    depth: int = 2
    heads: int = 3
    classes: int = 10


DEIT_TINY = VitShape(224, 16, 192, 12, 3, 1000)
DEIT_SMALL = VitShape(224, 16, 384, 12, 6, 1000)
DEIT_BASE = VitShape(224, 16, 768, 12, 12, 1000)


class VitBuilder:
    """Appends the layers of a ViT to a case."""

    def __init__(self, shape: VitShape, seed: int = 0) -> None:
        self.shape, self.rng, self.case = shape, np.random.default_rng(seed), Case()

    def weight(self, *shape: int) -> tuple[SSAValue, np.ndarray]:
        fracs = self.rng.integers(9, 11, shape[0])
        codes = np.clip(self.rng.normal(0, 20, shape), -128, 127).astype(np.int64)
        return self.case.constant(FixedType("i8", fracs, axis=0), codes), fracs

    def linear(self, x: SSAValue, n: int) -> SSAValue:
        case, format_ = self.case, x.type.get_element_type()
        w, fracs = self.weight(n, shape_of(x)[-1])
        bias = FixedType("i32", format_.frac + fracs, axis=0)
        b = case.constant(bias, self.rng.integers(-(2**11), 2**11, n))
        return case.op(ops.LinearOp, [x, w, [b]])

    def norm(self, x: SSAValue) -> SSAValue:
        dim = shape_of(x)[-1]
        gamma = self.case.constant(FixedType("i8", 5), self.rng.integers(20, 44, dim))
        beta = self.case.constant(FixedType("i32", 12), self.rng.integers(-(2**9), 2**9, dim))
        eps = dim * dim // 16
        return self.case.op(ops.LayerNormOp, [x, gamma, beta], EIGHT, eps_q=eps)

    def attention(self, x: SSAValue) -> SSAValue:
        case, heads = self.case, self.shape.heads
        _, tokens, dim = shape_of(x)
        head = dim // heads
        qkv = case.op(ops.PotRequantOp, [self.linear(x, 3 * dim)], FixedType("i8", 5))
        qkv = case.op(ops.ReshapeOp, [qkv], shape=(1, tokens, 3, heads, head))
        qkv = case.op(ops.TransposeOp, [qkv], permutation=(2, 0, 3, 1, 4))
        parts = []
        for i in range(3):
            size = (1, 1, heads, tokens, head)
            part = case.op(
                ops.SliceOp, [qkv], offsets=(i, 0, 0, 0, 0), sizes=size, strides=(1,) * 5
            )
            parts.append(case.op(ops.ReshapeOp, [part], shape=size[1:]))
        q, k, v = parts
        s = case.op(ops.MatmulOp, [q, k], transpose_b=True)
        s = case.op(ops.ReinterpretOp, [s], exponent=-3)
        p = case.op(ops.SoftmaxExpOp, [s])
        acc = case.op(ops.MatmulOp, [p, v])
        y = case.op(ops.NormalizeOp, [acc, p.owner.sum], FixedType("i8", 6))
        y = case.op(ops.TransposeOp, [y], permutation=(0, 2, 1, 3))
        y = case.op(ops.ReshapeOp, [y], shape=(1, tokens, dim))
        return self.linear(y, dim)

    def mlp(self, x: SSAValue) -> SSAValue:
        case = self.case
        hidden = case.op(ops.PotRequantOp, [self.linear(x, 4 * shape_of(x)[-1])], EIGHT)
        table = make_table(gelu, 2.0**-4, 2.0**-5, -128, -128, 127, zp_out=-120)
        table = case.constant(FixedType("i8", 5, zp=-120), table)
        return self.linear(case.op(ops.LutOp, [hidden, table]), shape_of(x)[-1])

    def build(self) -> SSAValue:
        case, s = self.case, self.shape
        pixels = FixedType("i8", 5)
        size = (1, s.image, s.image, 3)
        x = case.input(pixels, np.clip(self.rng.normal(0, 40, size), -128, 127).astype(int))
        w, fracs = self.weight(s.dim, s.patch, s.patch, 3)
        b = case.constant(FixedType("i32", 5 + fracs, axis=0), np.zeros(s.dim, int))
        patches = (s.image // s.patch) ** 2
        fields = {"strides": (s.patch, s.patch), "pads": (0, 0, 0, 0)}
        x = case.op(ops.Conv2dOp, [x, w, [b]], **fields)
        x = case.op(ops.PotRequantOp, [x], RESIDUAL)
        x = case.op(ops.ReshapeOp, [x], shape=(1, patches, s.dim))
        cls = case.constant(RESIDUAL, self.rng.integers(-100, 100, (1, 1, s.dim)))
        x = case.op(ops.ConcatOp, [[cls, x]], axis=1)
        position = self.rng.integers(-200, 200, (1, patches + 1, s.dim))
        x = case.op(ops.AddOp, [x, case.constant(RESIDUAL, position)], RESIDUAL)
        for _ in range(s.depth):
            x = case.op(ops.AddOp, [x, self.attention(self.norm(x))], RESIDUAL)
            x = case.op(ops.AddOp, [x, self.mlp(self.norm(x))], RESIDUAL)
        x = case.op(ops.SliceOp, [x], offsets=(0, 0, 0), sizes=(1, 1, s.dim), strides=(1, 1, 1))
        x = case.op(ops.ReshapeOp, [self.norm(x)], shape=(1, s.dim))
        return case.op(ops.PotRequantOp, [self.linear(x, s.classes)], FixedType("i16", 8))
