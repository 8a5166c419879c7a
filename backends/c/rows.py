"""Kernel calls of operations on rows: softmax, LayerNorm, activations, attention, elementwise."""

from __future__ import annotations

from math import prod
from typing import cast

import numpy as np
from xdsl.ir import SSAValue

from vit_opt.backends.c.code import Pointer, Struct, Symbol, Value
from vit_opt.backends.c.graph import is_narrow, rows_and_columns
from vit_opt.backends.c.memory import (
    Array,
    Memory,
    aligned,
    describe,
    element_symbol,
    rounding,
    saturation,
    storage_name,
    type_text,
    without_zeros,
    zero_point,
)
from vit_opt.backends.c.products import RHE, stage_fields
from vit_opt.backends.c.strides import merge_dimensions
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.evaluate import (
    dyadic_between,
    fracs_of,
    published_step,
    shift_between,
)
from vit_opt.dialects.vit.ops.base import format_of, shape_of
from vit_opt.dialects.vit.semantics.activation import shift_gelu_step
from vit_opt.dialects.vit.semantics.arithmetic import Rounding, round_shift
from vit_opt.dialects.vit.semantics.softmax import EXP_TABLE, SUM_MAX


def frac_of(value: SSAValue) -> int:
    """Fractional bits of a per-tensor fixed value."""
    format_ = format_of(value)
    assert isinstance(format_, FixedType)
    return format_.frac


def lower_softmax_exp(memory: Memory, op: ops.SoftmaxExpOp) -> None:
    """`vit.softmax_exp` on its own."""
    rows, columns = rows_and_columns(shape_of(op.s))
    source = memory.address(op.s)
    table = memory.weights.add(EXP_TABLE.astype(np.uint8))
    p, total = memory.allocate(op.p), memory.allocate(op.sum)
    arguments: list[Value] = [source, element_symbol(op.s), rows, columns, frac_of(op.s), table]
    memory.call("vit_softmax_exp_u8", [*arguments, p, total], describe(op, op.p), 4 * columns)


def lower_shiftmax(memory: Memory, op: ops.ShiftmaxOp) -> None:
    """`vit.shiftmax`, standard or as published."""
    published = op.mode.data == "ivit"
    step = published_step(format_of(op.s)) if published else 1 << frac_of(op.s)
    fields: dict[str, Value] = {
        "step": step,
        "n": op.n.value.data,
        "bits": format_of(op.result).storage.width.data,
        "numerator": 1 << 31 if published else SUM_MAX,
        **({"rounding": Symbol("VIT_FLOOR")} if published else rounding(op)),
    }
    _row_softmax(memory, "vit_shiftmax", op, fields)


def lower_log2_softmax(memory: Memory, op: ops.Log2SoftmaxOp) -> None:
    """`vit.log2_softmax`."""
    _row_softmax(memory, "vit_log2_softmax_u8", op, {"step": 1 << frac_of(op.s), "n": 15})


def _row_softmax(
    memory: Memory, kernel: str, op: ops.ShiftmaxOp | ops.Log2SoftmaxOp, fields: dict[str, Value]
) -> None:
    rows, columns = rows_and_columns(shape_of(op.s))
    types = {"x_type": element_symbol(op.s), "y_type": element_symbol(op.result)}
    shape = Struct("vit_shiftmax_shape", {"rows": rows, "cols": columns, **types, **fields})
    source = memory.address(op.s)
    y = memory.allocate(op.result)
    scratch = aligned(4 * columns) + 8 * columns
    memory.call(kernel, [shape, source, y], describe(op, op.result), scratch)


def lower_shift_gelu(memory: Memory, op: ops.ShiftGeluOp) -> None:
    """`vit.shift_gelu`, standard or as published."""
    rows, columns = rows_and_columns(shape_of(op.x))
    fields: dict[str, Value] = {
        "rows": rows,
        "cols": columns,
        "x_type": element_symbol(op.x),
        "y_type": element_symbol(op.result),
    }
    published = op.mode.data == "ivit"
    if published:
        step = shift_gelu_step(float(format_of(op.x).channel_scales()))
        fields |= {"step": step, "n": 23, "numerator": SUM_MAX}
    else:
        fields |= {"frac": frac_of(op.x)}
    shape = Struct("vit_shift_gelu_shape", fields)
    arguments: list[Value] = [shape, memory.address(op.x), memory.allocate(op.result)]
    kernel = "vit_shift_gelu_ivit" if published else "vit_shift_gelu"
    memory.call(kernel, arguments, describe(op, op.result), 4 * columns if published else None)


def lower_layernorm(memory: Memory, op: ops.LayerNormOp) -> None:
    """`vit.layernorm`; beta is aligned to the grid of N * gamma here, once."""
    beta = memory.constant(op.beta)
    if beta is None or memory.constant(op.gamma) is None:
        raise VitError(f"{describe(op)}: gamma and beta must be constants")
    rows, columns = rows_and_columns(shape_of(op.x))
    low, high = format_of(op.result).bounds
    fields: dict[str, Value] = {
        "rows": rows,
        "cols": columns,
        "x_type": element_symbol(op.x),
        "y_type": element_symbol(op.result),
        "lo": low,
        "hi": high,
    }
    source, y = memory.address(op.x), memory.allocate(op.result)
    comment = describe(op, op.result)
    if op.mode.data == "ivit":
        bias = memory.vector(beta, "int64")
        shape = Struct("vit_layernorm_shape", fields)
        memory.call("vit_layernorm_ivit", [shape, source, bias, y], comment, 4 * columns)
        return
    x, gamma, result = format_of(op.x), format_of(op.gamma), format_of(op.result)
    assert isinstance(gamma, FixedType) and isinstance(result, FixedType)
    fracs = x.channel_fracs() if isinstance(x, FixedType) else np.zeros(1, np.int64)
    _check_variance(op, columns, int(fracs.max() - fracs.min()))
    if (fracs != fracs.max()).any():
        fields["align"] = memory.vector(fracs.max() - fracs)
    beta_shift = fracs_of(op.beta) - gamma.channel_fracs() - 10
    aligned_beta = round_shift(beta, beta_shift, cast("Rounding", op.rounding.data))
    shift = 10 + gamma.channel_fracs() - result.channel_fracs()
    fields |= {
        "gamma_type": element_symbol(op.gamma),
        **memory.parameter("shift", np.broadcast_to(shift, (columns,))),
        **without_zeros(
            {
                "eps": op.eps_q.value.data,
                "x_zp": zero_point(op.x),
                "zp": result.zero_point,
            }
        ),
        **rounding(op),
    }
    folded = _folded_layernorm(memory, op, aligned_beta, np.broadcast_to(shift, (columns,)))
    if folded is not None:
        scale, offset = folded
        fields["shift_c"] = memory.vector(np.broadcast_to(shift, (columns,)))
        shape = Struct("vit_layernorm_shape", fields)
        kernel = memory.level.best("vit_layernorm_s16")
        memory.call(kernel, [shape, source, scale, offset, y], comment)
        return
    arguments: list[Value] = [
        Struct("vit_layernorm_shape", fields),
        source,
        memory.address(op.gamma),
        memory.vector(aligned_beta, "int64"),
        y,
    ]
    memory.call("vit_layernorm", arguments, comment, 4 * columns)


LARGEST_NORMAL = 1041
"""Bound of |N| / sqrt(C - 1). By Samuelson's inequality |C x - sum| <= sqrt(V (C - 1)), and the
divisor is at least 64 sqrt(V) - 1 >= 63 sqrt(V), so |N| <= 2^16 / 63 sqrt(C - 1) + 1/2."""


def _folded_layernorm(
    memory: Memory, op: ops.LayerNormOp, beta: Array, shift: Array
) -> tuple[Pointer, Pointer] | None:
    """gamma and beta of the form for the residual stream, None where 32 bits do not hold it.

    The rounding constant and the zero point, on the grid of N * gamma, are part of beta.
    """
    x, result = format_of(op.x), format_of(op.result)
    gamma = memory.constant(op.gamma)
    channels = shape_of(op.x)[-1]
    plain = not x.is_per_channel and not x.zero_point and op.rounding.data == "rhu"
    types = storage_name(op.x) == "S16" and storage_name(op.result) in ("S8", "U8", "S16")
    whole = result.storage.width.data >= 8
    if gamma is None or not (plain and types and whole):
        return None
    variance = channels * channels * 2**30 + op.eps_q.value.data
    if (shift < 0).any() or (shift > 31).any() or variance >= 2**52:
        return None
    wide = gamma.astype(np.int64)
    offset = beta + np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0)
    offset = offset + (result.zero_point << shift)
    largest = int(LARGEST_NORMAL * np.sqrt(channels - 1)) + 2
    if (np.abs(wide) * largest + np.abs(offset) >= 2**31).any():
        return None
    return memory.vector(wide), memory.vector(offset)


def _check_variance(op: ops.LayerNormOp, channels: int, spread: int) -> None:
    """The kernel holds C * sum(x^2) and (C * x - sum) * R in 64 bits."""
    low, high = format_of(op.x).bounds
    largest = (high - low) << spread
    if channels * channels * largest * largest >= 2**63 or channels * largest >= 2**45:
        raise VitError(
            f"{describe(op)}: {channels} channels of {largest.bit_length()} aligned bits leave 64 "
            "bits; bring the exponents of the channels closer together"
        )


# ---- elementwise operations that are no stage ----------------------------------------------------


def lower_requant(memory: Memory, op: ops.PotRequantOp | ops.RequantOp) -> None:
    """A requantisation along any axis and between any storage types."""
    x, result = format_of(op.x), format_of(op.result)
    shape = shape_of(op.x)
    axis = result.channel_axis if result.is_per_channel else x.channel_axis
    channels = 1 if axis is None else shape[axis]
    inner = 1 if axis is None else prod(shape[axis + 1 :])
    fields: dict[str, Value] = {
        "outer": prod(shape) // (channels * inner),
        "channels": channels,
        "inner": inner,
        "x_type": element_symbol(op.x),
        "y_type": element_symbol(op.result),
        **saturation(op.result),
        **without_zeros({"zp_in": zero_point(op.x)}),
    }
    if isinstance(op, ops.PotRequantOp):
        fields |= memory.parameter("shift", shift_between(op.x, op.result))
        fields |= {"multiplier": 1, **rounding(op)}
    else:
        multiplier, shift = dyadic_between(op.x, op.result)
        fields |= memory.parameter("multiplier", multiplier)
        fields |= memory.parameter("shift", shift) | RHE
    arguments: list[Value] = [
        Struct("vit_requant_shape", fields),
        memory.address(op.x),
        memory.allocate(op.result),
    ]
    memory.call("vit_requant_s64", arguments, describe(op, op.result))


def broadcast_strides(shape: tuple[int, ...], result: tuple[int, ...]) -> list[int]:
    """Elements from one index to the next in a dense operand broadcast to `result`."""
    full = (1,) * (len(result) - len(shape)) + shape
    strides: list[int] = []
    step = 1
    for size in reversed(full):
        strides.append(0 if size == 1 else step)
        step *= size
    return strides[::-1]


def lower_binary(memory: Memory, op: ops.AddOp | ops.MulOp) -> None:
    """An addition or product with any broadcasting and any channel axis."""
    _check_narrow(op, op.a, op.b, op.result)
    result = shape_of(op.result)
    axes = {format_of(v).channel_axis for v in (op.a, op.b, op.result)} - {None}
    channel = [1 if index in axes else 0 for index in range(len(result))]
    columns = [
        list(result),
        broadcast_strides(shape_of(op.a), result),
        broadcast_strides(shape_of(op.b), result),
        channel,
    ]
    dims, a_strides, b_strides, c_strides = merge_dimensions(columns)
    fields: dict[str, Value] = {
        "rank": len(dims),
        "dims": dims,
        "a_strides": a_strides,
        "b_strides": b_strides,
        "c_strides": c_strides,
        "a_type": element_symbol(op.a),
        "b_type": element_symbol(op.b),
    }
    stage = Struct("vit_stage", stage_fields(memory, op, 0))
    sources: list[Value] = [memory.address(op.a), memory.address(op.b)]
    y = memory.allocate(op.result)
    arguments = [Struct("vit_binary_shape", fields), *sources, stage, y, element_symbol(op.result)]
    memory.call("vit_binary", arguments, describe(op, op.result))


def _check_narrow(op: ops.VitOp, *values: SSAValue) -> None:
    """Rows are loaded as int32."""
    for value in values:
        if not is_narrow(value):
            raise VitError(
                f"{describe(op)}: {type_text(value)} does not fit 32 signed bits; requantise it first"
            )
