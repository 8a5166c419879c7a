"""Weights in DRAM: centred, in the narrowest form that holds them, with the bias that goes along."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.ir import Operation

from vit_opt.backends.accel.groups import pack_groups
from vit_opt.backends.accel.lowering.arena import Region, whole
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.context import Lowering, fixed_format, where
from vit_opt.backends.accel.lowering.tensors import load_vector
from vit_opt.backends.accel.memory import pack_int4
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.passes.quantization.weights import BYTE_GROUPS

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
class Narrow:
    """Weights [N, ..., C] of bytes that groups of columns make narrow: each block that a product
    asks for lies in DRAM as `ld.expand` reads it."""

    codes: Array
    blocks: dict[tuple[Pair, Pair], Region] = field(default_factory=dict[tuple[Pair, Pair], Region])
    """Where the block of some rows and of some entries of the last axis lies."""

    def load(self, builder: Builder, first: Pair, size: Pair) -> Region:
        """The rows of a block, one after the other, in the weight buffer; pinned.

        `first` and `size` count rows and entries of the last axis.
        """
        part = self.codes[first[0] : first[0] + size[0], ..., first[1] : first[1] + size[1]]
        rows, cols = size[0], part.size // size[0]
        source = self.blocks.get((first, size))
        if source is None:
            codes = np.ascontiguousarray(part, np.int8).reshape(rows, cols)
            packed: Array = pack_groups(codes)
            source = builder.constant(packed if packed.size < codes.size else codes, codes.size)
            self.blocks[first, size] = source
        key = (source, Space.BBUF)
        region = builder.cached(key)
        if region is None:
            region = builder.keep(key, rows * cols, Space.BBUF)
            inst: isa.UnitInst = isa.Load(region.addr(), source.addr(), source.size)
            if source.size < rows * cols:
                inst = isa.Expand(region.addr(), source.addr(), rows, cols, source.size, cols)
            builder.emit(inst, [whole(source)], [whole(region)])
        return region


def narrow_weights(lowering: Lowering, op: Any, weights: Array) -> Narrow | None:
    """Weights that were made narrow in groups, of 8 bits; None for others."""
    owner = lowering.source(op.weight).owner
    grouped = isinstance(owner, Operation) and BYTE_GROUPS in owner.attributes
    bytes_hold = int(weights.min()) >= -128 and int(weights.max()) <= 127
    return Narrow(weights) if grouped and bytes_hold else None
