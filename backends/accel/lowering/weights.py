"""Weights in DRAM: centred, in the narrowest form that holds them, with the bias that goes along."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.groups import narrow_groups, pack_groups
from vit_opt.backends.accel.lowering.arena import Region, Use, whole
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.context import Lowering, fixed_format, where
from vit_opt.backends.accel.lowering.tensors import Block, load_vector, value_shape
from vit_opt.backends.accel.memory import pack_int4
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import NO_ADDR, Addr, Space
from vit_opt.dialects.vit_accel.isa_transfer import GROUP
from vit_opt.passes.mapping import Kind, block_rows, faster_kind
from vit_opt.passes.quantization.weights import wide_groups

Array = NDArray[Any]
Pair = tuple[int, int]

NOWHERE = Region(Space.DRAM, 0, 0)
"""Stands for the place of what is loaded otherwise."""


def centred_weights(lowering: Lowering, op: Any) -> Array:
    """Weight codes less their zero point, [N, ...] int64."""
    codes = lowering.constant(op.weight, op, "weight").astype(np.int64)
    return codes - fixed_format(op.weight).zero_point


def folded_bias(lowering: Lowering, op: Any, weights: Array) -> Array | None:
    """Bias [N] less input zero point times the sum of each output channel's weights."""
    zero_point = fixed_format(op.x).zero_point
    bias: Array | None = None
    if op.bias is not None:
        bias = lowering.constant(op.bias, op, "bias").astype(np.int64)
        bias = bias - fixed_format(op.bias).zero_point
    if zero_point:
        sums = weights.reshape(weights.shape[0], -1).sum(axis=1)
        bias = (0 if bias is None else bias) - zero_point * sums
    if bias is None:
        return None
    if np.abs(bias).max() >= 1 << 31:
        raise VitError(f"{where(op)}: bias with the zero point folded in needs more than 32 bits")
    return bias.astype(np.int32)


def bias_region(builder: Builder, bias: Array | None, first: int, count: int) -> Region | None:
    """The biases of some columns in the parameter buffer, or None."""
    return None if bias is None else load_vector(builder, bias, first, count)


def pack_weights(builder: Builder, op: Any, weights: Array) -> tuple[Region, DType, int]:
    """Rows of weights in the narrowest type that holds them: region, type, bytes per row."""
    rows = weights.reshape(weights.shape[0], -1)
    dtype = weight_type(op, weights)
    if dtype is DType.I4X2:
        packed: Array = pack_int4(rows)
        return builder.constant(packed, rows.size), dtype, packed.shape[1]
    if dtype is DType.I8:
        return builder.constant(rows.astype(np.int8)), dtype, rows.shape[1]
    return builder.constant(rows.astype(np.int16)), dtype, 2 * rows.shape[1]


def weight_type(op: Any, weights: Array) -> DType:
    """The narrowest type of the array that holds weights; VitError if there is none."""
    bits = fixed_format(op.weight).storage.width.data
    low, high = int(weights.min()), int(weights.max())
    if bits == 4 and low >= -8 and high <= 7:
        return DType.I4X2
    if low >= -128 and high <= 127:
        return DType.I8
    if low >= -(1 << 15) and high < 1 << 15:
        return DType.I16
    raise VitError(f"{where(op)}: weights less their zero point need more than 16 bits")


@dataclass(frozen=True)
class WeightBlock(Block):
    """Rows of weights in the weight buffer."""

    wide: int | None = None
    """Groups of a row that are bytes, where rows lie in groups with their marks before them."""

    @property
    def marks(self) -> Addr:
        """Where the marks of groups lie."""
        return NO_ADDR if self.wide is None else self.region.addr()

    def use(self, rows: int, cols: int, count: int = 1, apart: int = 0) -> Use:
        if self.wide is not None:
            return whole(self.region)
        return super().use(rows, cols, count, apart)


@dataclass(frozen=True)
class Narrow:
    """Weights [N, ..., C] of bytes that groups of columns make narrow: each block that a product
    asks for lies in DRAM as `ld.expand` and the array read it."""

    codes: Array
    left: DType
    """Type of the operand that they are multiplied by."""
    height: int
    """Rows of it that an instruction takes."""
    wide: int
    """Groups of a row that are marked as bytes in all of it."""
    blocks: dict[tuple[Pair, Pair], tuple[Region, int | None]] = field(
        default_factory=dict[tuple[Pair, Pair], tuple[Region, "int | None"]]
    )
    """Where the block of some rows and of some entries of the last axis lies, and its groups that
    are bytes; None where it is bytes on chip."""

    def load(self, builder: Builder, first: Pair, size: Pair) -> WeightBlock:
        """The rows of a block, one after the other, in the weight buffer; pinned.

        `first` and `size` count rows and entries of the last axis. They stay in groups where the
        array is faster so.
        """
        if (first, size) not in self.blocks:
            self.blocks[first, size] = self._pack(builder, first, size)
        source, wide = self.blocks[first, size]
        rows, cols = size[0], self.codes[0, ..., : size[1]].size
        row = cols if wide is None else isa.group_row_bytes(cols, wide)
        total = rows * cols if wide is None else source.size
        key = (source, Space.BBUF)
        region = builder.cached(key)
        if region is None:
            region = builder.keep(key, total, Space.BBUF)
            inst: isa.UnitInst = isa.Load(region.addr(), source.addr(), source.size)
            if source.size < total:
                inst = isa.Expand(region.addr(), source.addr(), rows, cols, source.size, cols)
            builder.emit(inst, [whole(source)], [whole(region)])
        dtype = DType.I8 if wide is None else DType.I4X2
        return WeightBlock(region, dtype, row, 1, total - rows * row, wide)

    def _pack(self, builder: Builder, first: Pair, size: Pair) -> tuple[Region, int | None]:
        """A block in DRAM, and its groups that are bytes if it stays in groups on chip."""
        part = self.codes[first[0] : first[0] + size[0], ..., first[1] : first[1] + size[1]]
        codes = np.ascontiguousarray(part, np.int8).reshape(size[0], -1)
        packed: Array = pack_groups(codes)
        if packed.size >= codes.size:
            return builder.constant(codes, codes.size), None
        groups = -(-codes.shape[1] // GROUP)
        wide = groups - int(narrow_groups(packed[: -(-groups // 8)], groups).sum())
        block = (self.height, *codes.shape)
        kind = faster_kind(builder.arch, block, Kind((self.left, DType.I8), wide))
        return builder.constant(packed, codes.size), kind.wide


def narrow_weights(lowering: Lowering, op: Any, weights: Array) -> Narrow | None:
    """Weights that were made narrow in groups, of 8 bits; None for others."""
    wide = wide_groups(lowering.source(op.weight))
    if wide is None or int(weights.min()) < -128 or int(weights.max()) > 127:
        return None
    height = block_rows(lowering.arch, prod(value_shape(op.result)[:-1]))
    return Narrow(weights, lowering.tensor(op.x).dtype, height, wide)
