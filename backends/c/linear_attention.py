"""Kernel calls of linear attention."""

from __future__ import annotations

from math import prod

from vit_opt.backends.c.code import Array, Pointer, Struct, Value
from vit_opt.backends.c.memory import (
    Memory,
    aligned,
    describe,
    element_size,
    element_symbol,
    rounding,
    saturation,
    storage_name,
    without_zeros,
)
from vit_opt.backends.c.products import stage_fields
from vit_opt.backends.c.tokens import LinearAttention, Tokens
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.evaluate import shift_between
from vit_opt.dialects.vit.ops.base import format_of, shape_of


def lower_linear_attention(memory: Memory, step: LinearAttention) -> None:
    """One call; operands are read, and the result is stored, through moves."""
    op = step.op
    *lead, tokens, dim = shape_of(op.q)
    key_tokens, value_dim = shape_of(op.v)[-2:]
    shift = op.ksum_shift.value.data - op.kv_shift.value.data
    shift += int(shift_between(op.v, op.result))
    fields: dict[str, Value] = {
        "batch": prod(lead),
        "tokens": tokens,
        "key_tokens": key_tokens,
        "dim": dim,
        "value_dim": value_dim,
        "y_ld": step.token_distance,
        "y_head": step.head_distance,
        "y_type": element_symbol(op.result),
        **saturation(op.result),
        **rounding(op),
        "kv_shift": op.kv_shift.value.data,
        "ksum_shift": op.ksum_shift.value.data,
        "shift": shift,
        "pot": int(op.divisor.data == "pot"),
    }
    operands: list[Value] = [_tokens(memory, each) for each in step.operands]
    y = memory.allocate(step.result)
    scratch = 4 * (dim * value_dim + 2 * dim + 2 * value_dim)
    variant = memory.level.variant("vit_linear_attn") if _is_plain(step, shift) else None
    if variant is not None:
        sizes = (4 * dim * value_dim, 4 * dim, dim * value_dim, 64, 256, 4 * value_dim)
        rows = (tokens * dim, key_tokens * dim, key_tokens * value_dim)
        scratch = sum(map(aligned, (*sizes, *rows)))
    arguments: list[Value] = [Struct("vit_linear_attn_shape", fields), *operands, y]
    memory.call(variant or "vit_linear_attn", arguments, describe(op, step.result), scratch)


def _tokens(memory: Memory, tokens: Tokens) -> Struct:
    """Where an operand is, and what its elements go through."""
    root = tokens.view.root
    base = memory.address(root)
    head = tokens.head_distance()
    assert head is not None
    stages = tuple(Struct("vit_stage", stage_fields(memory, op, 0)) for op in tokens.stages)
    fields: dict[str, Value] = {
        "x": Pointer(base.buffer, base.offset + tokens.view.offset * element_size(root)),
        "type": element_symbol(root),
        **without_zeros({"ld": tokens.view.strides[-2], "head": head}),
    }
    if stages:
        fields |= {"stages": Array("vit_stage", stages), "count": len(stages)}
    return Struct("vit_tokens", fields)


def _is_plain(step: LinearAttention, shift: int) -> bool:
    """Whether vit_linear_attn_avx512vnni.c takes it: its types and sizes, and a right shift."""
    op = step.op
    dim, value_dim = shape_of(op.q)[-1], shape_of(op.v)[-1]
    types = all(storage_name(value) == "S8" for value in (op.q, op.k, op.v))
    whole = format_of(op.result).storage.width.data == 8
    sizes = dim % 4 == 0 and dim <= 64 and value_dim % 16 == 0
    shifts = (0 if op.divisor.data == "pot" else -10) <= shift <= 14
    rounded = op.rounding.data == "rhu"
    return types and whole and sizes and shifts and rounded and all(map(_is_word, step.operands))


def _is_word(tokens: Tokens) -> bool:
    """Whether an operand is of signed bytes or words, requantised by at most one right shift."""
    first = tokens.stages[0] if tokens.stages else None
    if storage_name(tokens.view.root) not in ("S8", "S16"):
        return False
    if not isinstance(first, ops.PotRequantOp):
        return storage_name(tokens.view.root) == "S8"
    several = any(isinstance(stage, ops.PotRequantOp) for stage in tokens.stages[1:])
    centred = not format_of(first.x).zero_point and not format_of(first.result).zero_point
    shift = int(shift_between(first.x, first.result))
    return not several and centred and first.rounding.data == "rhu" and 1 <= shift <= 15
