"""What each unit does to the memories: one function per instruction, one numpy operation each.

The arithmetic is that of `vit_opt.dialects.vit.semantics`, called on views of the memories; the
functions here only say which bytes are operands and which are results.  Each has two halves (`effect`):
the first checks whatever follows from the instruction alone, the function that it returns does the work.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from vit_opt.backends.accel import unit_windows
from vit_opt.backends.accel.groups import expand_groups
from vit_opt.backends.accel.memory import AccessError
from vit_opt.backends.accel.ports import (
    EFFECTS,
    Ints,
    Places,
    Port,
    Work,
    accumulate,
    check_macs,
    check_types,
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
from vit_opt.dialects.vit.semantics.arithmetic import check_product
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.dialects.vit_accel.isa_base import UNLIMITED, RowMap

# -- ld, st -----------------------------------------------------------------------------------


def _copy(port: Port, inst: isa.CopyInst) -> Work:
    shape = (inst.n0, inst.n1, inst.n2, inst.run)
    source = port.view(inst.src, DType.UI8, shape, (inst.s0, inst.s1, inst.s2, 1))
    target = port.view(inst.dst, DType.UI8, shape, (inst.d0, inst.d1, inst.d2, 1))

    def work() -> None:
        target[...] = source

    return work


@effect(isa.Load)
def _load(port: Port, inst: isa.Load) -> Work:
    if inst.dst.space is Space.DRAM:
        raise AccessError("ld.copy writes to the chip; use st.copy for DRAM")
    return _copy(port, inst)


@effect(isa.Expand)
def _expand(port: Port, inst: isa.Expand) -> Work:
    if inst.src.space is not Space.DRAM or inst.dst.space is Space.DRAM:
        raise AccessError("ld.expand reads DRAM and writes to the chip")
    target = port.block(inst.dst, DType.I8, inst.rows, inst.cols, inst.dst_row)
    packed = port.vector(inst.src, DType.UI8, inst.size)

    def work() -> None:
        target[...] = expand_groups(packed, (inst.rows, inst.cols), inst.shift)

    return work


@effect(isa.Store)
def _store(port: Port, inst: isa.Store) -> Work:
    if inst.dst.space is not Space.DRAM or inst.src.space is Space.DRAM:
        raise AccessError("st.copy copies from the chip to DRAM")
    return _copy(port, inst)


@effect(isa.Fill)
def _fill(port: Port, inst: isa.Fill) -> Work:
    check_types(inst.type)
    low, high = inst.type.bounds
    if not low <= inst.value <= high:
        raise AccessError(f"value {inst.value} is not a code of {inst.type.name.lower()}")
    shape = (inst.n0, inst.n1, inst.count)
    target = port.view(inst.dst, inst.type, shape, (inst.d0, inst.d1, inst.type.size))

    def work() -> None:
        target[...] = inst.value

    return work


# -- mac, dw ----------------------------------------------------------------------------------


@effect(isa.EngineMatmul)
@effect(isa.Matmul)
def _matmul(port: Port, inst: isa.Matmul) -> Work:
    check_macs(inst)
    batch, m, n, k = inst.batch, inst.m, inst.n, inst.k
    a = port.operand(inst.a, inst.a_type, (batch, m, k), (inst.a_batch, inst.a_row, inst.a_step))
    b = port.weights(inst, inst.b, inst.b_type, (batch, n), (inst.b_batch, inst.b_row, inst.b_step))
    acc = port.apart(inst.acc, DType.I32, (batch, m, n), (inst.acc_batch, inst.acc_row, 4))
    bias = port.bias(inst.bias, inst.n)

    def work() -> None:
        product = linear.matmul(a(), b(), transpose_b=True)
        accumulate(acc, product, bias, bool(inst.accumulate))

    return work


@effect(isa.Divide)
def _divide(port: Port, inst: isa.Divide) -> Work:
    check_types(inst.acc_type, inst.div_type, bits=32)
    check_types(inst.dst_type)

    count, (acc_type, div_type, dst_type) = (
        inst.batch,
        (inst.acc_type, inst.div_type, inst.dst_type),
    )
    shape = (count, inst.rows, inst.cols)
    acc = port.view(inst.acc, acc_type, shape, (inst.acc_batch, inst.acc_row, acc_type.size))
    places = (inst.div_batch, inst.div_row, div_type.size)
    div = port.view(inst.div, div_type, (count, inst.rows, 1), places)
    target = port.apart(inst.dst, dst_type, shape, (inst.dst_batch, inst.dst_row, dst_type.size))
    shift = port.shifts(inst.shifts, inst.shift, inst.cols)
    mode = cast("linear_attention.Divisor", inst.mode.name.lower())
    low, high = inst.dst_type.bounds

    def work() -> None:
        target[...] = linear_attention.divide_rows(
            acc, div, shift, low, high, mode, inst.zp, rounding_of(inst)
        )

    return work


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


def _mapped(port: Port, inst: RowMap, bits: int = 64) -> tuple[Ints, Ints]:
    """Operand, of up to so many bits, and result."""
    check_types(inst.src_type, bits=bits)
    check_types(inst.dst_type)
    return (
        port.block(inst.src, inst.src_type, inst.rows, inst.cols, inst.src_row),
        port.block(inst.dst, inst.dst_type, inst.rows, inst.cols, inst.dst_row),
    )


@effect(isa.Requant)
def _requant(port: Port, inst: isa.Requant) -> Work:
    x, target = _mapped(port, inst)
    shift = port.shifts(inst.shifts, inst.shift, inst.cols)
    low, high = limits_of(inst)

    def work() -> None:
        target[...] = requant.pot_requant(
            x, shift, low, high, inst.zp_in, inst.zp_out, rounding_of(inst)
        )

    return work


def _pair(port: Port, inst: isa.Add | isa.Mul) -> tuple[Ints, Ints, Ints]:
    """Both operands of an elementwise instruction, strides of 0 broadcast, and the result."""
    check_types(inst.a_type, inst.b_type, inst.dst_type)
    shape = (inst.rows, inst.cols)
    a = port.view(inst.a, inst.a_type, shape, (inst.a_row, inst.a_col))
    b = port.view(inst.b, inst.b_type, shape, (inst.b_row, inst.b_col))
    return a, b, port.block(inst.dst, inst.dst_type, inst.rows, inst.cols, inst.dst_row)


@effect(isa.Add)
def _add(port: Port, inst: isa.Add) -> Work:
    a, b, target = _pair(port, inst)
    low, high = limits_of(inst)
    vectors: Ints | None = None
    if inst.shifts.space is not Space.NONE:
        vectors = port.block(inst.shifts, DType.I8, 3, inst.cols, inst.cols)
    else:
        check_product("addition", 1, extra_bits=abs(inst.shift_a - inst.shift_b) + 1)

    def work() -> None:
        shifts = (inst.shift_a, inst.shift_b, inst.shift)
        left_a, left_b, right = shifts if vectors is None else vectors.astype(np.int64)
        # On the common grid (frac 0) the operands have fracs -left and the result -right.
        target[...] = requant.add(
            a,
            b,
            np.negative(left_a),
            np.negative(left_b),
            np.negative(right),
            low,
            high,
            (inst.zp_a, inst.zp_b, inst.zp_out),
            rounding_of(inst),
        )

    return work


# -- softmax, norm ----------------------------------------------------------------------------


@effect(isa.SoftmaxExp)
def _softmax_exp(port: Port, inst: isa.SoftmaxExp) -> Work:
    check_types(inst.src_type, bits=32)
    scores = port.block(inst.src, inst.src_type, inst.rows, inst.cols, inst.src_row)
    p = port.block(inst.p, DType.UI8, inst.rows, inst.cols, inst.p_row)
    total = port.block(inst.sum, DType.UI32, inst.rows, 1, inst.sum_row)

    def work() -> None:
        p[...], total[...] = softmax.softmax_exp(scores, inst.frac)

    return work


@effect(isa.Normalize)
def _normalize(port: Port, inst: isa.Normalize) -> Work:
    check_types(inst.acc_type, inst.div_type, bits=32)
    check_types(inst.dst_type)
    acc = port.block(inst.acc, inst.acc_type, inst.rows, inst.cols, inst.acc_row)
    total = port.block(inst.div, inst.div_type, inst.rows, 1, inst.div_row)
    target = port.block(inst.dst, inst.dst_type, inst.rows, inst.cols, inst.dst_row)
    shift = port.shifts(inst.shifts, inst.shift, inst.cols)
    low, high = inst.dst_type.bounds

    def work() -> None:
        target[...] = softmax.normalize(acc, total, shift, low, high, inst.zp, rounding_of(inst))

    return work


@effect(isa.Shiftmax)
def _shiftmax(port: Port, inst: isa.Shiftmax) -> Work:
    x, target = _mapped(port, inst, 32)
    bits = 8 * inst.dst_type.size
    if bits > 16:
        raise AccessError("a shiftmax result has 8 or 16 bits")
    step = softmax.step_of(inst.frac)

    def work() -> None:
        target[...] = softmax.shiftmax(x, step, bits, inst.n, rounding_of(inst))

    return work


@effect(isa.Log2Softmax)
def _log2_softmax(port: Port, inst: isa.Log2Softmax) -> Work:
    check_types(inst.src_type, bits=32)
    x = port.block(inst.src, inst.src_type, inst.rows, inst.cols, inst.src_row)
    target = port.block(inst.dst, DType.LOG2, inst.rows, inst.cols, inst.dst_row)
    step = softmax.step_of(inst.frac)

    def work() -> None:
        target[...] = softmax.log2_softmax(x, step)

    return work


@effect(isa.LayerNorm)
def _layernorm(port: Port, inst: isa.LayerNorm) -> Work:
    cols = inst.cols
    x, target = _mapped(port, inst, 32)
    check_types(inst.gamma_type, bits=32)
    gamma = port.vector(inst.gamma, inst.gamma_type, cols)
    beta = port.vector(inst.beta, DType.I32, cols)
    shifts = port.shifts(inst.shifts, inst.shift, cols)
    in_shifts = port.shifts(inst.in_shifts, 0, cols)
    check_product("beta", 1, extra_bits=max(0, inst.beta_shift) + 1)
    low, high = inst.dst_type.bounds

    def work() -> None:
        if np.min(in_shifts) < 0:
            raise AccessError("a left shift of an operand is negative")
        check_product("operand", x, extra_bits=int(np.max(in_shifts)) + 2)
        # With gamma's frac taken as 0, beta has frac 10 - beta_shift and the result 10 - shift.
        target[...] = layernorm.layernorm(
            x,
            gamma,
            beta,
            0,
            layernorm.NORM_FRAC - inst.beta_shift,
            layernorm.NORM_FRAC - np.asarray(shifts, np.int64),
            low,
            high,
            in_shifts,
            inst.eps,
            inst.zp_in,
            inst.zp_out,
            rounding_of(inst),
        )

    return work


# -- table ------------------------------------------------------------------------------------


def _table(port: Port, inst: isa.Lut | isa.Lut16, dtype: DType, entries: int) -> Work:
    x, target = _mapped(port, inst)
    table = port.vector(inst.table, dtype, entries)
    function = activation.lut16 if isinstance(inst, isa.Lut16) else activation.lut
    low, high = inst.src_type.bounds

    def work() -> None:
        if inst.src_type in (DType.I4, DType.LOG2) and (np.min(x) < low or np.max(x) > high):
            raise AccessError(f"an operand is not a code of {inst.src_type.name.lower()}")
        target[...] = function(x, table, low)

    return work


@effect(isa.Lut)
def _lut(port: Port, inst: isa.Lut) -> Work:
    if inst.src_type.size != 1:
        raise AccessError("table.lut takes 8-bit codes")
    low, high = inst.src_type.bounds
    return _table(port, inst, inst.dst_type, high - low + 1)


@effect(isa.Lut16)
def _lut16(port: Port, inst: isa.Lut16) -> Work:
    if inst.src_type.size != 2 or inst.dst_type is not DType.I16:
        raise AccessError("table.lut16 takes 16-bit codes and gives i16")
    return _table(port, inst, DType.I16, 257)


@effect(isa.ShiftGelu)
def _shift_gelu(port: Port, inst: isa.ShiftGelu) -> Work:
    x, target = _mapped(port, inst)
    if inst.src_type.size > 2 or inst.frac > 15:
        raise AccessError("table.gelu takes 8- and 16-bit codes with 0 to 15 fractional bits")

    def work() -> None:
        y = activation.shift_gelu(x, inst.frac)
        target[...] = arithmetic.saturate(y, *inst.dst_type.bounds)

    return work


@effect(isa.Mul)
def _mul(port: Port, inst: isa.Mul) -> Work:
    a, b, target = _pair(port, inst)
    shift = port.shifts(inst.shifts, inst.shift, inst.cols)
    low, high = inst.dst_type.bounds
    zero_points = (inst.zp_a, inst.zp_b, inst.zp_out)

    def work() -> None:
        target[...] = requant.mul(a, b, shift, low, high, zero_points, rounding_of(inst))

    return work


@effect(isa.Clamp)
def _clamp(port: Port, inst: isa.Clamp) -> Work:
    check_types(inst.type)
    low, high = inst.type.bounds
    if not low <= inst.low <= inst.high <= high:
        raise AccessError(f"limits {inst.low}..{inst.high} are not codes of the element type")
    x = port.block(inst.src, inst.type, inst.rows, inst.cols, inst.src_row)
    target = port.block(inst.dst, inst.type, inst.rows, inst.cols, inst.dst_row)

    def work() -> None:
        target[...] = requant.clamp(x, inst.low, inst.high)

    return work


@effect(isa.Lerp)
def _lerp(port: Port, inst: isa.Lerp) -> Work:
    rows, cols, dtype = inst.rows, inst.cols, inst.src_type
    check_types(dtype, bits=32)
    check_types(inst.dst_type)
    target = port.block(inst.dst, inst.dst_type, rows, cols, inst.dst_row)
    param = port.block(inst.param, DType.UI16, 4, rows, 2 * rows)
    for row in (inst.top, inst.low):
        port.inside(row, dtype, cols)

    def work() -> None:
        left, right, u0, u1 = param.astype(np.int64)
        pixels = int(max(left.max(), right.max())) + 1
        top = port.block(inst.top, dtype, pixels, cols, inst.pix).astype(np.int64)
        low = port.block(inst.low, dtype, pixels, cols, inst.pix).astype(np.int64)
        both = inst.w0 * (top - inst.zp_in) + inst.w1 * (low - inst.zp_in)
        total = u0[:, None] * both[left] + u1[:, None] * both[right]
        target[...] = requant.pot_requant(
            total, 16 + inst.shift, *inst.dst_type.bounds, 0, inst.zp_out, rounding_of(inst)
        )

    return work


@effect(isa.Gather)
def _gather(port: Port, inst: isa.Gather) -> Work:
    target = port.block(inst.dst, DType.UI8, inst.count, inst.run, inst.dst_row)
    index = port.vector(inst.index, DType.UI32, inst.count)
    port.inside(inst.src, DType.UI8, inst.run)

    def work() -> None:
        entries = int(index.max()) + 1
        source = port.block(inst.src, DType.UI8, entries, inst.run, inst.src_row)
        target[...] = source[index]

    return work


@effect(isa.Sum)
def _sum(port: Port, inst: isa.Sum) -> Work:
    check_types(inst.src_type, bits=32)
    check_types(inst.acc_type)
    x = port.block(inst.src, inst.src_type, inst.rows, inst.cols, inst.src_row)
    acc = port.vector(inst.acc, inst.acc_type, inst.cols)
    low, high = inst.acc_type.bounds

    def work() -> None:
        total = x.sum(axis=0, dtype=np.int64) - inst.zp * inst.rows
        if inst.accumulate:
            # Each at most half of 64 bits, or their sum might wrap.
            check_product("a sum", acc, extra_bits=1)
            total = total + acc
        if int(total.min()) < low or int(total.max()) > high:
            raise AccessError("a sum leaves its accumulator")
        acc[...] = total

    return work


@effect(isa.Mean)
def _mean(port: Port, inst: isa.Mean) -> Work:
    check_types(inst.src_type, inst.dst_type)
    total = port.block(inst.src, inst.src_type, inst.rows, inst.cols, inst.src_row)
    target = port.block(inst.dst, inst.dst_type, inst.rows, inst.cols, inst.dst_row)
    counts: Ints | None = None
    if inst.counts.space is not Space.NONE:
        counts = port.vector(inst.counts, DType.UI32, inst.rows)
    elif inst.count < 1:
        raise AccessError("division by zero")
    check_product("sum", 1, extra_bits=max(0, -inst.shift) + 1)
    check_product(
        "divisor", 1 if counts is not None else inst.count, extra_bits=max(0, inst.shift) + 1
    )

    def work() -> None:
        count = np.int64(inst.count) if counts is None else counts[:, np.newaxis]
        if int(np.min(count)) < 1:
            raise AccessError("division by zero")
        quotient = pooling.divide_scaled(
            total.astype(np.int64), np.asarray(count, np.int64), inst.shift, rounding_of(inst)
        )
        target[...] = arithmetic.saturate_offset(quotient, inst.zp_out, *inst.dst_type.bounds)

    return work


__all__ = ["EFFECTS", "Places", "Port", "unit_windows"]
