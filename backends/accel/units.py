"""What each unit does to the memories: one function per instruction, one numpy operation each.

The arithmetic is that of `vit_opt.dialects.vit.semantics`, called on views of the memories; the
functions here only say which bytes are operands and which are results.  Where a result may have more
elements than an operand, its place is checked before anything is computed.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel import unit_windows
from vit_opt.backends.accel.groups import expand_groups
from vit_opt.backends.accel.memory import AccessError
from vit_opt.backends.accel.ports import (
    EFFECTS,
    Ints,
    Port,
    accumulate,
    check_macs,
    effect,
    rounding_of,
)
from vit_opt.dialects.vit.semantics import (
    activation,
    arithmetic,
    layernorm,
    linear,
    linear_attention,
    pooling,
    requant,
    softmax,
)
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import Addr, Space
from vit_opt.dialects.vit_accel.isa_base import UNLIMITED

# -- ld, st -----------------------------------------------------------------------------------


def _copy(port: Port, inst: isa.CopyInst) -> None:
    shape = (inst.n0, inst.n1, inst.n2, inst.run)
    source = port.view(inst.src, DType.UI8, shape, (inst.s0, inst.s1, inst.s2, 1))
    target = port.view(inst.dst, DType.UI8, shape, (inst.d0, inst.d1, inst.d2, 1))
    target[...] = source


@effect(isa.Load)
def _load(port: Port, inst: isa.Load) -> None:
    if inst.dst.space is Space.DRAM:
        raise AccessError("ld.copy writes to the chip; use st.copy for DRAM")
    _copy(port, inst)


@effect(isa.Expand)
def _expand(port: Port, inst: isa.Expand) -> None:
    if inst.src.space is not Space.DRAM or inst.dst.space is Space.DRAM:
        raise AccessError("ld.expand reads DRAM and writes to the chip")
    target = port.block(inst.dst, DType.I8, inst.rows, inst.cols, inst.dst_row)
    packed = port.vector(inst.src, DType.UI8, inst.size)
    target[...] = expand_groups(packed, (inst.rows, inst.cols), inst.shift)


@effect(isa.Store)
def _store(port: Port, inst: isa.Store) -> None:
    if inst.dst.space is not Space.DRAM or inst.src.space is Space.DRAM:
        raise AccessError("st.copy copies from the chip to DRAM")
    _copy(port, inst)


@effect(isa.Fill)
def _fill(port: Port, inst: isa.Fill) -> None:
    low, high = inst.type.bounds
    if not low <= inst.value <= high:
        raise AccessError(f"value {inst.value} is not a code of {inst.type.name.lower()}")
    shape = (inst.n0, inst.n1, inst.count)
    port.view(inst.dst, inst.type, shape, (inst.d0, inst.d1, inst.type.size))[...] = inst.value


# -- mac, dw ----------------------------------------------------------------------------------


@effect(isa.EngineMatmul)
@effect(isa.Matmul)
def _matmul(port: Port, inst: isa.Matmul) -> None:
    check_macs(inst)
    batch, m, n, k = inst.batch, inst.m, inst.n, inst.k
    a = port.operand(inst.a, inst.a_type, (batch, m, k), (inst.a_batch, inst.a_row, inst.a_step))
    b = port.weights(inst, inst.b, inst.b_type, (batch, n), (inst.b_batch, inst.b_row, inst.b_step))
    acc = port.view(inst.acc, DType.I32, (batch, m, n), (inst.acc_batch, inst.acc_row, 4))
    product = linear.matmul(a, b, transpose_b=True)
    accumulate(acc, product, port.bias(inst.bias, inst.n), bool(inst.accumulate))


@effect(isa.Divide)
def _divide(port: Port, inst: isa.Divide) -> None:
    def blocks(addr: Addr, dtype: DType, cols: int, strides: tuple[int, int]) -> NDArray[Any]:
        return port.view(addr, dtype, (inst.batch, inst.rows, cols), (*strides, dtype.size))

    acc = blocks(inst.acc, inst.acc_type, inst.cols, (inst.acc_batch, inst.acc_row))
    div = blocks(inst.div, inst.div_type, 1, (inst.div_batch, inst.div_row))
    shift = port.shifts(inst.shifts, inst.shift, inst.cols)
    mode = cast("linear_attention.Divisor", inst.mode.name.lower())
    low, high = inst.dst_type.bounds
    result = linear_attention.divide_rows(
        acc, div, shift, low, high, mode, inst.zp, rounding_of(inst)
    )
    target = blocks(inst.dst, inst.dst_type, inst.cols, (inst.dst_batch, inst.dst_row))
    target[...] = result


# -- shift ------------------------------------------------------------------------------------


def limits_of(inst: isa.Requant | isa.Add) -> tuple[int, int]:
    """Smallest and largest code of a result."""
    low, high = inst.dst_type.bounds
    if inst.low != UNLIMITED[0]:
        low = max(low, inst.low)
    if inst.high != UNLIMITED[1]:
        high = min(high, inst.high)
    if low > high:
        raise AccessError(f"limits {inst.low}..{inst.high} leave no code of the element type")
    return low, high


@effect(isa.Requant)
def _requant(port: Port, inst: isa.Requant) -> None:
    x = port.block(inst.src, inst.src_type, inst.rows, inst.cols, inst.src_row)
    shift = port.shifts(inst.shifts, inst.shift, inst.cols)
    low, high = limits_of(inst)
    y = requant.pot_requant(x, shift, low, high, inst.zp_in, inst.zp_out, rounding_of(inst))
    port.block(inst.dst, inst.dst_type, inst.rows, inst.cols, inst.dst_row)[...] = y


def _pair(port: Port, inst: isa.Add | isa.Mul) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both operands of an elementwise instruction; strides of 0 broadcast."""
    shape = (inst.rows, inst.cols)
    a = port.view(inst.a, inst.a_type, shape, (inst.a_row, inst.a_col))
    b = port.view(inst.b, inst.b_type, shape, (inst.b_row, inst.b_col))
    return a, b


@effect(isa.Add)
def _add(port: Port, inst: isa.Add) -> None:
    a, b = _pair(port, inst)
    gap_a, gap_b, shift = inst.shift_a, inst.shift_b, inst.shift
    if inst.shifts.space is not Space.NONE:
        vectors = port.block(inst.shifts, DType.I8, 3, inst.cols, inst.cols).astype(np.int64)
        gap_a, gap_b, shift = vectors
    low, high = limits_of(inst)
    # On the common grid (frac 0) the operands have fracs -gap and the result -shift.
    y = requant.add(
        a,
        b,
        np.negative(gap_a),
        np.negative(gap_b),
        np.negative(shift),
        low,
        high,
        (inst.zp_a, inst.zp_b, inst.zp_out),
        rounding_of(inst),
    )
    port.block(inst.dst, inst.dst_type, inst.rows, inst.cols, inst.dst_row)[...] = y


# -- softmax, norm ----------------------------------------------------------------------------


@effect(isa.SoftmaxExp)
def _softmax_exp(port: Port, inst: isa.SoftmaxExp) -> None:
    scores = port.block(inst.src, inst.src_type, inst.rows, inst.cols, inst.src_row)
    p, total = softmax.softmax_exp(scores, inst.frac)
    port.block(inst.p, DType.UI8, inst.rows, inst.cols, inst.p_row)[...] = p
    port.block(inst.sum, DType.UI32, inst.rows, 1, inst.sum_row)[...] = total


@effect(isa.Normalize)
def _normalize(port: Port, inst: isa.Normalize) -> None:
    acc = port.block(inst.acc, inst.acc_type, inst.rows, inst.cols, inst.acc_row)
    total = port.block(inst.div, inst.div_type, inst.rows, 1, inst.div_row)
    shift = port.shifts(inst.shifts, inst.shift, inst.cols)
    low, high = inst.dst_type.bounds
    y = softmax.normalize(acc, total, shift, low, high, inst.zp, rounding_of(inst))
    port.block(inst.dst, inst.dst_type, inst.rows, inst.cols, inst.dst_row)[...] = y


@effect(isa.Shiftmax)
def _shiftmax(port: Port, inst: isa.Shiftmax) -> None:
    x = port.block(inst.src, inst.src_type, inst.rows, inst.cols, inst.src_row)
    bits = 8 * inst.dst_type.size
    if bits > 16:
        raise AccessError("a shiftmax result has 8 or 16 bits")
    step = softmax.step_of(inst.frac)
    y = softmax.shiftmax(x, step, bits, inst.n, rounding_of(inst))
    port.block(inst.dst, inst.dst_type, inst.rows, inst.cols, inst.dst_row)[...] = y


@effect(isa.Log2Softmax)
def _log2_softmax(port: Port, inst: isa.Log2Softmax) -> None:
    x = port.block(inst.src, inst.src_type, inst.rows, inst.cols, inst.src_row)
    y = softmax.log2_softmax(x, softmax.step_of(inst.frac))
    port.block(inst.dst, DType.LOG2, inst.rows, inst.cols, inst.dst_row)[...] = y


@effect(isa.LayerNorm)
def _layernorm(port: Port, inst: isa.LayerNorm) -> None:
    cols = inst.cols
    x = port.block(inst.src, inst.src_type, inst.rows, cols, inst.src_row)
    gamma = port.vector(inst.gamma, inst.gamma_type, cols)
    beta = port.vector(inst.beta, DType.I32, cols)
    shift = np.asarray(port.shifts(inst.shifts, inst.shift, cols), np.int64)
    low, high = inst.dst_type.bounds
    # With gamma's frac taken as 0, beta has frac 10 - beta_shift and the result 10 - shift.
    y = layernorm.layernorm(
        x,
        gamma,
        beta,
        0,
        layernorm.NORM_FRAC - inst.beta_shift,
        layernorm.NORM_FRAC - shift,
        low,
        high,
        port.shifts(inst.in_shifts, 0, cols),
        inst.eps,
        inst.zp_in,
        inst.zp_out,
        rounding_of(inst),
    )
    port.block(inst.dst, inst.dst_type, inst.rows, cols, inst.dst_row)[...] = y


# -- table ------------------------------------------------------------------------------------


def _table(port: Port, inst: isa.Lut | isa.Lut16, entries: int) -> None:
    x = port.block(inst.src, inst.src_type, inst.rows, inst.cols, inst.src_row)
    dtype = DType.I16 if isinstance(inst, isa.Lut16) else inst.dst_type
    table = port.vector(inst.table, dtype, entries)
    function = activation.lut16 if isinstance(inst, isa.Lut16) else activation.lut
    y = function(x, table, inst.src_type.bounds[0])
    port.block(inst.dst, inst.dst_type, inst.rows, inst.cols, inst.dst_row)[...] = y


@effect(isa.Lut)
def _lut(port: Port, inst: isa.Lut) -> None:
    if inst.src_type.size != 1:
        raise AccessError("table.lut takes 8-bit codes")
    _table(port, inst, inst.src_type.bounds[1] - inst.src_type.bounds[0] + 1)


@effect(isa.Lut16)
def _lut16(port: Port, inst: isa.Lut16) -> None:
    if inst.src_type.size != 2 or inst.dst_type is not DType.I16:
        raise AccessError("table.lut16 takes 16-bit codes and gives i16")
    _table(port, inst, 257)


@effect(isa.ShiftGelu)
def _shift_gelu(port: Port, inst: isa.ShiftGelu) -> None:
    x = port.block(inst.src, inst.src_type, inst.rows, inst.cols, inst.src_row)
    if inst.src_type.size > 2 or inst.frac > 15:
        raise AccessError("table.gelu takes 8- and 16-bit codes with 0 to 15 fractional bits")
    y = arithmetic.saturate(activation.shift_gelu(x, inst.frac), *inst.dst_type.bounds)
    port.block(inst.dst, inst.dst_type, inst.rows, inst.cols, inst.dst_row)[...] = y


@effect(isa.Mul)
def _mul(port: Port, inst: isa.Mul) -> None:
    a, b = _pair(port, inst)
    shift = port.shifts(inst.shifts, inst.shift, inst.cols)
    low, high = inst.dst_type.bounds
    zero_points = (inst.zp_a, inst.zp_b, inst.zp_out)
    y = requant.mul(a, b, shift, low, high, zero_points, rounding_of(inst))
    port.block(inst.dst, inst.dst_type, inst.rows, inst.cols, inst.dst_row)[...] = y


@effect(isa.Clamp)
def _clamp(port: Port, inst: isa.Clamp) -> None:
    low, high = inst.type.bounds
    if not low <= inst.low <= inst.high <= high:
        raise AccessError(f"limits {inst.low}..{inst.high} are not codes of the element type")
    x = port.block(inst.src, inst.type, inst.rows, inst.cols, inst.src_row)
    y = requant.clamp(x, inst.low, inst.high)
    port.block(inst.dst, inst.type, inst.rows, inst.cols, inst.dst_row)[...] = y


@effect(isa.Lerp)
def _lerp(port: Port, inst: isa.Lerp) -> None:
    rows, cols = inst.rows, inst.cols
    target = port.block(inst.dst, inst.dst_type, rows, cols, inst.dst_row)
    left, right, u0, u1 = port.block(inst.param, DType.UI16, 4, rows, 2 * rows).astype(np.int64)
    pixels = int(max(left.max(), right.max())) + 1
    top = port.block(inst.top, inst.src_type, pixels, cols, inst.pix).astype(np.int64)
    low = port.block(inst.low, inst.src_type, pixels, cols, inst.pix).astype(np.int64)
    both = inst.w0 * (top - inst.zp_in) + inst.w1 * (low - inst.zp_in)
    total = u0[:, None] * both[left] + u1[:, None] * both[right]
    target[...] = requant.pot_requant(
        total, 16 + inst.shift, *inst.dst_type.bounds, 0, inst.zp_out, rounding_of(inst)
    )


@effect(isa.Gather)
def _gather(port: Port, inst: isa.Gather) -> None:
    target = port.block(inst.dst, DType.UI8, inst.count, inst.run, inst.dst_row)
    index = port.vector(inst.index, DType.UI32, inst.count).astype(np.int64)
    entries = int(index.max()) + 1
    source = port.block(inst.src, DType.UI8, entries, inst.run, inst.src_row)
    target[...] = source[index]


@effect(isa.Sum)
def _sum(port: Port, inst: isa.Sum) -> None:
    x = port.block(inst.src, inst.src_type, inst.rows, inst.cols, inst.src_row)
    acc = port.vector(inst.acc, inst.acc_type, inst.cols)
    total = x.sum(axis=0, dtype=np.int64) - inst.zp * inst.rows
    if inst.accumulate:
        total = total + acc
    low, high = inst.acc_type.bounds
    if int(total.min()) < low or int(total.max()) > high:
        raise AccessError("a sum leaves its accumulator")
    acc[...] = total


@effect(isa.Mean)
def _mean(port: Port, inst: isa.Mean) -> None:
    total = port.block(inst.src, inst.src_type, inst.rows, inst.cols, inst.src_row)
    count: int | Ints = inst.count
    if inst.counts.space is not Space.NONE:
        count = port.vector(inst.counts, DType.UI32, inst.rows)[:, np.newaxis]
    if int(np.min(count)) < 1:
        raise AccessError("division by zero")
    quotient = pooling.divide_scaled(
        total.astype(np.int64), np.asarray(count, np.int64), inst.shift, rounding_of(inst)
    )
    y = arithmetic.saturate_offset(quotient, inst.zp_out, *inst.dst_type.bounds)
    port.block(inst.dst, inst.dst_type, inst.rows, inst.cols, inst.dst_row)[...] = y


__all__ = ["EFFECTS", "Port", "unit_windows"]
