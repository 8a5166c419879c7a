"""A Vision Transformer classifier as a PoT `vit` module with random weights, for tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from accel_net import Net
from xdsl.ir import SSAValue

from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType

CODES = FixedType("i8", 5)
HEADS = FixedType("i8", 4)
RESIDUAL = FixedType("i16", 8)


@dataclass(frozen=True)
class Size:
    """Dimensions of a ViT; the defaults are DeiT-Tiny's."""

    image: int = 224
    patch: int = 16
    dim: int = 192
    heads: int = 3
    layers: int = 12
    classes: int = 1000

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.image // self.patch) ** 2 + 1


class VitNet(Net):
    """Builds the network; `result` is the accumulator of the classifier."""

    def __init__(self, size: Size, seed: int = 0):
        super().__init__(((1, 3, size.image, size.image), CODES))
        self.size = size
        self.rng = np.random.default_rng(seed)
        x = self.embed(self.args[0])
        for _ in range(size.layers):
            x = self.block_of(x)
        x = self.norm(x)
        dim = size.dim
        (x,) = self.add(
            ops.SliceOp,
            [x],
            ((1, 1, dim), CODES),
            offsets=[0, 0, 0],
            sizes=[1, 1, dim],
            strides=[1, 1, 1],
        )
        (x,) = self.add(ops.ReshapeOp, [x], ((1, dim), CODES))
        self.result = self.linear(x, dim, size.classes, CODES.frac, (1,))

    def weights(self, *shape: int) -> SSAValue:
        """Random weights with a frac per output channel."""
        format_ = FixedType("i8", self.rng.integers(7, 10, shape[0]), axis=0)
        return self.constant(self.rng.integers(-60, 60, shape), format_)

    def accumulator(self, weight: SSAValue, frac: int, axis: int) -> FixedType:
        """The format of a product with `weight`."""
        format_ = weight.type.element_type
        return FixedType("i32", format_.channel_fracs() + frac, axis=axis)

    def linear(
        self, x: SSAValue, depth: int, width: int, frac: int, lead: tuple[int, ...]
    ) -> SSAValue:
        """A linear layer's accumulators."""
        weight = self.weights(width, depth)
        acc = self.accumulator(weight, frac, len(lead))
        bias = self.constant(self.rng.integers(-5000, 5000, width), acc.with_axis(0))
        (y,) = self.add(ops.LinearOp, [x, weight, bias], ((*lead, width), acc))
        return y

    def requant(self, x: SSAValue, format_: FixedType) -> SSAValue:
        """A requantisation."""
        (y,) = self.add(ops.PotRequantOp, [x], (x.type.get_shape(), format_))
        return y

    def embed(self, image: SSAValue) -> SSAValue:
        """Patches, class token and positions."""
        size, s = self.size, self.size.image
        side, dim, n = s // size.patch, size.dim, size.tokens
        (x,) = self.add(ops.TransposeOp, [image], ((1, s, s, 3), CODES), permutation=[0, 2, 3, 1])
        weight = self.weights(dim, size.patch, size.patch, 3)
        acc = self.accumulator(weight, CODES.frac, 3)
        bias = self.constant(self.rng.integers(-500, 500, dim), acc.with_axis(0))
        (x,) = self.add(
            ops.Conv2dOp,
            [x, weight, bias],
            ((1, side, side, dim), acc),
            strides=[size.patch] * 2,
            pads=[0] * 4,
            dilations=[1, 1],
            groups=1,
        )
        x = self.requant(x, RESIDUAL)
        (x,) = self.add(ops.ReshapeOp, [x], ((1, n - 1, dim), RESIDUAL))
        token = self.constant(self.rng.integers(-500, 500, (1, 1, dim)), RESIDUAL)
        (x,) = self.add(ops.ConcatOp, [token, x], ((1, n, dim), RESIDUAL), axis=1)
        positions = self.constant(self.rng.integers(-500, 500, (1, n, dim)), RESIDUAL)
        (x,) = self.add(ops.AddOp, [x, positions], ((1, n, dim), RESIDUAL))
        return x

    def norm(self, x: SSAValue) -> SSAValue:
        """LayerNorm."""
        dim = self.size.dim
        gamma = self.constant(self.rng.integers(20, 90, dim), FixedType("i8", 6))
        beta = self.constant(self.rng.integers(-900, 900, dim), FixedType("i32", 12))
        (y,) = self.add(ops.LayerNormOp, [x, gamma, beta], ((1, self.size.tokens, dim), CODES))
        return y

    def block_of(self, x: SSAValue) -> SSAValue:
        """One encoder block."""
        lead, dim = (1, self.size.tokens), self.size.dim
        (x,) = self.add(ops.AddOp, [self.attention(self.norm(x)), x], ((*lead, dim), RESIDUAL))
        h = self.requant(self.linear(self.norm(x), dim, 4 * dim, CODES.frac, lead), HEADS)
        format_ = FixedType("i8", 4, zp=-100)
        table = self.constant(self.rng.integers(-128, 128, 256), format_)
        (h,) = self.add(ops.LutOp, [h, table], ((*lead, 4 * dim), format_))
        h = self.linear(h, 4 * dim, dim, HEADS.frac, lead)
        (x,) = self.add(ops.AddOp, [h, x], ((*lead, dim), RESIDUAL))
        return x

    def attention(self, x: SSAValue) -> SSAValue:
        """Multi-head attention with deferred softmax; the projection's accumulators."""
        n, dim, heads = self.size.tokens, self.size.dim, self.size.heads
        d = dim // heads
        qkv = self.requant(self.linear(x, dim, 3 * dim, CODES.frac, (1, n)), HEADS)
        (qkv,) = self.add(ops.ReshapeOp, [qkv], ((1, n, 3, heads, d), HEADS))
        (qkv,) = self.add(
            ops.TransposeOp, [qkv], ((3, 1, heads, n, d), HEADS), permutation=[2, 0, 3, 1, 4]
        )
        parts: list[SSAValue] = []
        for i in range(3):
            (part,) = self.add(
                ops.SliceOp,
                [qkv],
                ((1, 1, heads, n, d), HEADS),
                offsets=[i, 0, 0, 0, 0],
                sizes=[1, 1, heads, n, d],
                strides=[1] * 5,
            )
            parts += self.add(ops.ReshapeOp, [part], ((1, heads, n, d), HEADS))
        q, k, v = parts
        (k,) = self.add(ops.TransposeOp, [k], ((1, heads, d, n), HEADS), permutation=[0, 1, 3, 2])
        scores, rows = (1, heads, n, n), (1, heads, n, 1)
        (s,) = self.add(ops.MatmulOp, [q, k], (scores, FixedType("i32", 8)))
        (s,) = self.add(ops.ReinterpretOp, [s], (scores, FixedType("i32", 11)), exponent=-3)
        p, total = self.add(
            ops.SoftmaxExpOp, [s], (scores, FixedType("ui8", 0)), (rows, FixedType("ui32", 0))
        )
        (y,) = self.add(ops.MatmulOp, [p, v], ((1, heads, n, d), FixedType("i32", 4)))
        (y,) = self.add(ops.NormalizeOp, [y, total], ((1, heads, n, d), CODES))
        (y,) = self.add(ops.TransposeOp, [y], ((1, n, heads, d), CODES), permutation=[0, 2, 1, 3])
        (y,) = self.add(ops.ReshapeOp, [y], ((1, n, dim), CODES))
        return self.linear(y, dim, dim, CODES.frac, (1, n))
