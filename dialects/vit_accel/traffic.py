"""Bytes that an instruction reads and writes, operand by operand.

They follow from its fields alone, so that energy can be counted without the data: each element of
an operand that the loop nest of the instruction names counts once, a repeated row or column as
often as it is read. Accumulators that are added to count once, as the array holds the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import Addr, Inst, Space
from vit_opt.dialects.vit_accel.isa_base import ceil_div
from vit_opt.dialects.vit_accel.isa_products import Weighted, group_row_bytes, wide_groups
from vit_opt.dialects.vit_accel.isa_transfer import GROUP

Operands = list[tuple[Addr, int]]
"""Addresses and bytes."""

AnyInst = TypeVar("AnyInst", bound=Inst)

_OPERANDS: dict[type[Inst], Callable[[Any], Operands]] = {}


def _operands_of(
    *classes: type[AnyInst],
) -> Callable[[Callable[[AnyInst], Operands]], Callable[[AnyInst], Operands]]:
    """Register the operands of instruction classes."""

    def register(function: Callable[[AnyInst], Operands]) -> Callable[[AnyInst], Operands]:
        for cls in classes:
            _OPERANDS[cls] = function
        return function

    return register


def operands(inst: isa.UnitInst) -> Operands:
    """The operands that are there."""
    return [each for each in _OPERANDS[type(inst)](inst) if each[0].space is not Space.NONE]


def traffic(inst: isa.UnitInst) -> dict[Space, int]:
    """Bytes touched of each memory."""
    touched: dict[Space, int] = {}
    for addr, count in operands(inst):
        touched[addr.space] = touched.get(addr.space, 0) + count
    return touched


def _matrix(dtype: DType, rows: int, cols: int) -> int:
    """Bytes of a matrix operand; `i4x2` holds two columns a byte."""
    return rows * ceil_div(cols, 2) if dtype is DType.I4X2 else rows * cols * dtype.size


def _weights(inst: Weighted, dtype: DType, rows: int, place: Addr) -> Operands:
    """Rows of the right operand, and the marks of their groups."""
    wide = wide_groups(inst)
    if wide is None:
        return [(place, _matrix(dtype, rows, inst.depth))]
    marks = ceil_div(inst.depth, 8 * GROUP)
    return [(place, rows * group_row_bytes(inst.depth, wide)), (inst.marks, marks)]


def _window(inst: isa.Conv | isa.DepthwiseConv | isa.Pool, chans: int) -> int:
    """Bytes of the input block under a sliding window."""
    height, width = isa.inside(inst)
    return max(0, height) * max(0, width) * chans * inst.src_type.size


@_operands_of(isa.Load, isa.Store)
def _copy(inst: isa.CopyInst) -> Operands:
    moved = inst.runs() * inst.run
    return [(inst.src, moved), (inst.dst, moved)]


@_operands_of(isa.Expand)
def _expand(inst: isa.Expand) -> Operands:
    return [(inst.src, inst.size), (inst.dst, inst.elements())]


@_operands_of(isa.Fill)
def _fill(inst: isa.Fill) -> Operands:
    return [(inst.dst, inst.n0 * inst.n1 * inst.count * inst.type.size)]


@_operands_of(isa.Matmul, isa.EngineMatmul)
def _matmul(inst: isa.Matmul) -> Operands:
    return [
        (inst.a, inst.batch * _matrix(inst.a_type, inst.m, inst.k)),
        *_weights(inst, inst.b_type, inst.batch * inst.n, inst.b),
        (inst.bias, 4 * inst.n),
        (inst.acc, 4 * inst.batch * inst.m * inst.n),
    ]


@_operands_of(isa.Conv)
def _conv(inst: isa.Conv) -> Operands:
    outs = inst.groups * inst.oc
    return [
        (inst.src, _window(inst, inst.groups * inst.ic)),
        *_weights(inst, inst.w_type, outs, inst.w),
        (inst.bias, 4 * outs),
        (inst.acc, 4 * inst.oh * inst.ow * outs),
    ]


@_operands_of(isa.DepthwiseConv)
def _depthwise(inst: isa.DepthwiseConv) -> Operands:
    return [
        (inst.src, _window(inst, inst.chans)),
        (inst.w, inst.chans * inst.kh * inst.kw),
        (inst.bias, 4 * inst.chans),
        (inst.acc, 4 * inst.oh * inst.ow * inst.chans),
    ]


@_operands_of(isa.Pool)
def _pool(inst: isa.Pool) -> Operands:
    return [
        (inst.src, _window(inst, inst.chans)),
        (inst.dst, inst.oh * inst.ow * inst.chans * inst.dst_type.size),
    ]


@_operands_of(isa.Requant)
def _requant(inst: isa.Requant) -> Operands:
    return [*_in_and_out(inst), (inst.shifts, inst.cols)]


@_operands_of(isa.Log2Softmax)
def _log2_softmax(inst: isa.Log2Softmax) -> Operands:
    return [(inst.src, inst.elements() * inst.src_type.size), (inst.dst, inst.elements())]


@_operands_of(isa.Shiftmax, isa.ShiftGelu)
def _elementwise(inst: isa.Shiftmax | isa.ShiftGelu) -> Operands:
    return _in_and_out(inst)


def _in_and_out(inst: isa.Shiftmax | isa.ShiftGelu | isa.Requant | isa.Mean) -> Operands:
    count = inst.elements()
    return [(inst.src, count * inst.src_type.size), (inst.dst, count * inst.dst_type.size)]


@_operands_of(isa.Clamp)
def _clamp(inst: isa.Clamp) -> Operands:
    count = inst.elements() * inst.type.size
    return [(inst.src, count), (inst.dst, count)]


@_operands_of(isa.Add, isa.Mul)
def _pair(inst: isa.Add | isa.Mul) -> Operands:
    count = inst.elements()
    vectors = 3 if isinstance(inst, isa.Add) else 1
    return [
        (inst.a, count * inst.a_type.size),
        (inst.b, count * inst.b_type.size),
        (inst.shifts, vectors * inst.cols),
        (inst.dst, count * inst.dst_type.size),
    ]


@_operands_of(isa.Normalize, isa.Divide)
def _normalize(inst: isa.NormalizeInst) -> Operands:
    count = inst.elements()
    rows = inst.rows * (inst.batch if isinstance(inst, isa.Divide) else 1)
    return [
        (inst.acc, count * inst.acc_type.size),
        (inst.div, rows * inst.div_type.size),
        (inst.shifts, inst.cols),
        (inst.dst, count * inst.dst_type.size),
    ]


@_operands_of(isa.SoftmaxExp)
def _softmax_exp(inst: isa.SoftmaxExp) -> Operands:
    count = inst.elements()
    return [(inst.src, count * inst.src_type.size), (inst.p, count), (inst.sum, 4 * inst.rows)]


@_operands_of(isa.LayerNorm)
def _layernorm(inst: isa.LayerNorm) -> Operands:
    count = inst.elements()
    return [
        (inst.src, count * inst.src_type.size),
        (inst.gamma, inst.cols * inst.gamma_type.size),
        (inst.beta, 4 * inst.cols),
        (inst.in_shifts, inst.cols),
        (inst.shifts, inst.cols),
        (inst.dst, count * inst.dst_type.size),
    ]


@_operands_of(isa.Lut, isa.Lut16)
def _lut(inst: isa.Lut | isa.Lut16) -> Operands:
    count = inst.elements()
    low, high = inst.src_type.bounds
    entries = 257 if isinstance(inst, isa.Lut16) else high - low + 1
    return [
        (inst.src, count * inst.src_type.size),
        (inst.table, entries * inst.dst_type.size),
        (inst.dst, count * inst.dst_type.size),
    ]


@_operands_of(isa.Lerp)
def _lerp(inst: isa.Lerp) -> Operands:
    """Two source pixels of either row for every result."""
    count = inst.elements()
    return [
        (inst.param, 8 * inst.rows),
        (inst.top, 2 * count * inst.src_type.size),
        (inst.low, 2 * count * inst.src_type.size),
        (inst.dst, count * inst.dst_type.size),
    ]


@_operands_of(isa.Gather)
def _gather(inst: isa.Gather) -> Operands:
    moved = inst.count * inst.run
    return [(inst.index, 4 * inst.count), (inst.src, moved), (inst.dst, moved)]


@_operands_of(isa.Sum)
def _sum(inst: isa.Sum) -> Operands:
    count = inst.elements()
    return [(inst.src, count * inst.src_type.size), (inst.acc, inst.cols * inst.acc_type.size)]


@_operands_of(isa.Mean)
def _mean(inst: isa.Mean) -> Operands:
    return [*_in_and_out(inst), (inst.counts, 4 * inst.rows)]
