"""Weights of products laid out for an instruction level, with what folds into them.

A packed product computes, for codes u of an operand stored as unsigned bytes,

    acc[n] = init[n] + sum_k u[k] * w[n, k]        modulo 2^32

where `init` holds the bias, minus the zero point of u times the sum of the weights. Where the
epilogue starts with a requantisation by right shifts, its rounding constant 2^(s-1) and its zero
point times 2^s are part of `init` too, so that the finished code is sat(acc >> s):

    floor((a + 2^(s-1)) / 2^s) + zp = floor((a + 2^(s-1) + zp * 2^s) / 2^s).

This is exact as long as the sum on the right fits 32 bits, which is proven here from the weights;
otherwise nothing is folded and the stages run one after the other.

The panel layout is that of the kernels: 64 columns a panel, each `init`, `shift` and the weights in
groups along the reduction, as many steps as an instruction takes (`levels.Layout`). For AVX-512,
columns are permuted so that the instructions that pack 32-bit lanes into bytes or words return them
in order, and a last panel of no more than 32 columns is half as wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from xdsl.ir import SSAValue

from vit_opt.backends.c.levels import Layout
from vit_opt.backends.c.memory import zero_point
from vit_opt.backends.c.steps import Chain, Stage
from vit_opt.backends.c.words import first_stages
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import is_unsigned
from vit_opt.dialects.vit.evaluate import fracs_of, shift_between
from vit_opt.dialects.vit.ops.base import format_of, is_fixed, shape_of

Array: TypeAlias = NDArray[Any]

COLUMNS = 64
"""Columns of a panel."""


@dataclass(frozen=True)
class Finish:
    """How accumulators leave a packed product: an enumerator of `vit_finish` and what it folds."""

    name: str
    covers: int
    """Leading stages of the chain that it computes; all of them, or none."""
    shift: Array
    """Right shift per column, at most 31; negative ones, to the left, only with words."""
    extra: Array
    """Rounding constant and zero point per column, added to `init`."""
    dead: Array
    """Columns that are zero before the zero point is added: their weights and bias are dropped."""


@dataclass(frozen=True)
class Product:
    """A product with constant weights, as the packing sees it."""

    weight: Array
    """[n, k] int8 codes."""
    bias: Array
    """[n] int64."""
    bounds: tuple[int, int]
    """Least and greatest value of the codes minus zero point."""
    zero_point: int
    """Of the activations as the kernel multiplies them."""

    def accumulator_bounds(self) -> tuple[Array, Array]:
        """Least and greatest accumulator per column."""
        low, high = self.bounds
        wide = self.weight.astype(np.int64)
        positive, negative = np.maximum(wide, 0).sum(1), np.minimum(wide, 0).sum(1)
        return (
            self.bias + positive * low + negative * high,
            self.bias + positive * high + negative * low,
        )

    def largest(self, extra: Array) -> Array:
        """Largest magnitude of an accumulator per column, with what is added to it."""
        low, high = self.accumulator_bounds()
        return np.maximum(np.abs(low + extra), np.abs(high + extra))


def product_of(x: SSAValue, weight: Array, bias: Array | None, layout: Layout) -> Product:
    """The product of an 8-bit activation with constant weights [n, k]."""
    format_ = format_of(x)
    low, high = format_.bounds
    columns = weight.shape[0]
    values = np.zeros(columns, np.int64) if bias is None else bias.astype(np.int64)
    offset = (0 if is_unsigned(format_.storage) else 128) - (128 if layout.signed else 0)
    zp = zero_point(x)
    return Product(weight, values, (low - zp, high - zp), zp + offset)


def choose_finish(product: Product, chain: Chain, allowed: tuple[str, ...]) -> Finish:
    """The finish of a chain that starts with a product; by stages if no other one is exact.

    `allowed` are the finishes that the kernel has.
    """
    found = _single_finish(product, chain, allowed)
    if found is None and "VIT_TO_WORDS" in allowed:
        found = _words_finish(product, chain)
    if found is not None:
        return found
    none = np.zeros(product.weight.shape[0], np.int64)
    return Finish("VIT_BY_STAGES", 0, none, none, none.astype(bool))


def _single_finish(product: Product, chain: Chain, allowed: tuple[str, ...]) -> Finish | None:
    """The finish of a chain that has one to itself."""
    columns, stages = product.weight.shape[0], chain.stages
    found = None if chain.branches else _folded(columns, stages)
    if found is None or found[0] not in allowed:
        return None
    name, shift, zp = found
    left = np.maximum(-shift, 0)
    if left.any() and (name != "VIT_TO_S16" or zp or left.max() > 30):
        return None
    dead = shift > 31  # |acc| < 2^31, so rounding half up gives 0
    shift = np.where(dead, 0, shift)
    right = np.maximum(shift, 0)
    extra = np.where(right > 0, 1 << np.maximum(right - 1, 0), 0) + (zp << right)
    if (~dead & (product.largest(extra) << left >= 2**31)).any():
        return None
    return Finish(name, len(stages), shift, extra, dead)


def _words_finish(product: Product, chain: Chain) -> Finish | None:
    """The finish of a chain whose stages are in 16 bits, with folded parameters of its first one."""
    firsts = first_stages(product.weight.shape[0], chain)
    if firsts is None:
        return None
    for first in firsts:
        left, right = np.maximum(-first.shift, 0), np.clip(first.shift, 0, 31)
        if (left > 30).any():
            return None
        shifted = (product.largest(first.extra) << left) >> right
        dead = first.shift > 31
        unfit = (product.largest(first.extra) << left >= 2**31) | (
            shifted + first.headroom >= 2**31 - 1
        )
        if (~dead & unfit).any():
            return None
    first = firsts[0]
    dead = first.shift > 31
    extra = np.where(dead, first.zero_point, first.extra)
    return Finish("VIT_TO_WORDS", len(chain.stages), np.where(dead, 0, first.shift), extra, dead)


def per_column(values: Array, columns: int) -> Array:
    """A parameter that broadcasts along columns, as one value each."""
    return np.broadcast_to(np.asarray(values, np.int64).reshape(-1), (columns,))


def _folded(columns: int, stages: list[tuple[Stage, int]]) -> tuple[str, Array, int] | None:
    """Finish, shifts and zero point of stages that a kernel finishes in registers."""
    if not stages:
        return None
    first, index = stages[0]
    result = format_of(first.results[0])
    if not is_fixed(result) or not isinstance(first, ops.PotRequantOp | ops.AddOp):
        return None
    if first.rounding.data != "rhu" or result.storage.width.data not in (8, 16):
        return None
    unsigned = is_unsigned(result.storage)
    width = result.storage.width.data
    if isinstance(first, ops.PotRequantOp):
        shift = per_column(shift_between(first.x, first.result), columns)
        if len(stages) == 1:
            if width == 16:
                return None if unsigned else ("VIT_TO_S16", shift, result.zero_point)
            return f"VIT_TO_{'U' if unsigned else 'S'}8", shift, result.zero_point
        table = stages[1][0]
        if len(stages) == 2 and width == 8 and isinstance(table, ops.LutOp):
            if format_of(table.result).storage.width.data != 8:
                return None
            return "VIT_TO_TABLE", shift, result.zero_point + (0 if unsigned else 128)
    elif len(stages) == 1 and width == 16 and not unsigned:
        return _folded_sum(columns, first, index)
    return None


def _folded_sum(columns: int, op: ops.AddOp, index: int) -> tuple[str, Array, int] | None:
    """An accumulator added to an int16 tensor that is on the grid of the result."""
    acc, other = op.operands[index], op.operands[1 - index]
    storage = format_of(other).storage
    mine, theirs, result = fracs_of(acc), fracs_of(other), fracs_of(op.result)
    same_grid = (theirs == result).all() and (mine >= theirs).all()
    if not same_grid or storage.width.data != 16 or is_unsigned(storage):
        return None
    if shape_of(other) != shape_of(op.result):
        return None
    shift = per_column(mine - result, columns)
    return "VIT_TO_SUM", shift, format_of(op.result).zero_point - format_of(other).zero_point


BYTE_FINISHES = ("VIT_TO_S8", "VIT_TO_U8", "VIT_TO_TABLE")

FINISHES = (*BYTE_FINISHES, "VIT_TO_S16", "VIT_TO_SUM")
"""Finishes of all packed products."""


def finishes_of(layout: Layout) -> tuple[str, ...]:
    """The finishes that the packed products of a level have."""
    return (*FINISHES, "VIT_TO_WORDS") if layout.in_lanes else FINISHES


def column_order(finish: str) -> Array:
    """Column of a panel that lane e of accumulator j holds, at index 16 j + e.

    For 512-bit registers: saturating packs work within 128 bits, so that a pack of accumulators
    0..3 to bytes returns, per 128 bits L and accumulator j, the lanes 4 L .. 4 L + 3.
    """
    j, e = np.divmod(np.arange(COLUMNS), 16)
    if finish in BYTE_FINISHES:
        return 16 * (e // 4) + 4 * j + e % 4
    if finish == "VIT_BY_STAGES":
        return 16 * j + e
    return 32 * (j // 2) + 8 * (e // 4) + 4 * (j % 2) + e % 4


def wrap32(values: Array) -> Array:
    """Integers modulo 2^32 as int32."""
    return (values.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def pack_depthwise(product: Product, finish: Finish, layout: Layout) -> Array:
    """The packed weights of a depthwise convolution [channels, taps], as bytes.

    Its columns are the neighbouring outputs of a line, pixel by pixel, up to where channels repeat;
    their order in wide registers is that of accumulators which are packed to bytes.
    """
    channels = product.weight.shape[0]
    channel = np.arange(math.lcm(channels, COLUMNS)) % channels
    columns = replace(product, weight=product.weight[channel], bias=product.bias[channel])
    folded = replace(
        finish,
        shift=finish.shift[channel],
        extra=finish.extra[channel],
        dead=finish.dead[channel],
    )
    order = column_order("VIT_TO_S8") if layout.in_lanes else None
    return pack_panels(columns, folded, layout, order)


def pack_panels(
    product: Product, finish: Finish, layout: Layout, order: Array | None = None
) -> Array:
    """The packed weights of a product, as bytes; `order` replaces that of the finish."""
    n, k = product.weight.shape
    panels, steps = -(-n // COLUMNS), -(-k // layout.group)
    alive = np.where(finish.dead, 0, 1)
    weight = np.zeros((panels * COLUMNS, steps * layout.group), layout.weight)
    weight[:n, :k] = product.weight * alive[:, None].astype(np.int8)
    sums = product.weight.astype(np.int64).sum(1)
    init = np.zeros(panels * COLUMNS, np.int64)
    init[:n] = (product.bias - product.zero_point * sums) * alive + finish.extra
    shift = np.zeros(panels * COLUMNS, np.int64)
    shift[:n] = finish.shift
    whole = order is not None
    if order is None:
        order = column_order(finish.name) if layout.in_lanes else np.arange(COLUMNS)
    rows = weight.reshape(-1, steps, layout.group)
    last = n - (panels - 1) * COLUMNS
    if not layout.in_lanes or whole or last > COLUMNS // 2:
        return _panels(rows, init, shift, order)
    edge = (panels - 1) * COLUMNS
    half = column_order("VIT_TO_S16" if finish.name != "VIT_BY_STAGES" else finish.name)
    narrow = _panels(rows[edge:], init[edge:], shift[edge:], half[: COLUMNS // 2])
    if edge == 0:
        return narrow
    return np.concatenate([_panels(rows[:edge], init[:edge], shift[:edge], order), narrow])


def _panels(rows: Array, init: Array, shift: Array, order: Array) -> Array:
    """Panels of columns [n, steps, group], each with the columns `order` of 64."""
    panels = len(rows) // COLUMNS
    columns = rows.reshape(panels, COLUMNS, *rows.shape[1:])[:, order].transpose(0, 2, 1, 3)
    head = [
        np.ascontiguousarray(wrap32(v).reshape(panels, COLUMNS)[:, order]).view(np.int8)
        for v in (init, shift)
    ]
    parts = [*head, np.ascontiguousarray(columns).reshape(panels, -1).view(np.int8)]
    return np.concatenate(parts, axis=1).reshape(-1)
