"""Kernel calls of attention with deferred softmax."""

from __future__ import annotations

from math import prod

import numpy as np

from vit_opt.backends.c.code import Pointer, Struct, Value
from vit_opt.backends.c.levels import Layout, Level
from vit_opt.backends.c.memory import (
    Memory,
    aligned,
    element_size,
    element_symbol,
    without_zeros,
    zero_point,
)
from vit_opt.backends.c.packing import COLUMNS
from vit_opt.backends.c.products import chain_comment, epilogue, padded, stages_of
from vit_opt.backends.c.steps import Attention
from vit_opt.backends.c.strides import View
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, QuantizedType, is_unsigned
from vit_opt.dialects.vit.evaluate import shift_between
from vit_opt.dialects.vit.ops.base import format_of, shape_of
from vit_opt.dialects.vit.semantics.softmax import EXP_TABLE


def lower_attention(memory: Memory, attention: Attention) -> None:
    """One call for scores, exponentials, product with the values and what follows."""
    fields = _shape_fields(attention)
    if attention.places is not None:
        fields |= {"rows": memory.vector(attention.places.reshape(-1))}
    sizes = {name: size for name in "mnkd" if isinstance(size := fields[name], int)}
    variant = memory.level.variant("vit_attention_u8") if _fits_variant(attention) else None
    if variant is None:
        scratch = plain_scratch(_block(attention), **sizes)
    else:
        scratch = packed_scratch(memory.level.layout, **sizes)
    first = stages_of(memory, attention.scores)
    second = stages_of(memory, attention.product, normalizer=False)
    between: dict[str, Value] = {"stages": first, "count": len(first.items) if first else 0}
    table = memory.weights.add(EXP_TABLE.astype(np.uint8))
    views = attention.query, attention.key, attention.value
    sources: list[Value] = [_address(memory, view) for view in views]
    y = memory.allocate(attention.result)
    end = epilogue(memory, attention.product, attention.result_strides[-2], second, y)
    comment = chain_comment(attention.scores, attention.softmax, attention.product)
    arguments: list[Value] = [
        Struct("vit_attention_shape", fields),
        *sources,
        table,
        Struct("vit_epilogue", between),
        end,
    ]
    memory.call(variant or "vit_attention_u8", arguments, comment, scratch)


def _block(attention: Attention) -> int:
    """Query rows at a time of the portable kernel."""
    return min(attention.query.shape[-2], 32)


def _address(memory: Memory, view: View) -> Pointer:
    base = memory.address(view.root)
    return Pointer(base.buffer, base.offset + view.offset * element_size(view.root))


def _shape_fields(attention: Attention) -> dict[str, Value]:
    scores, product = attention.scores.head, attention.product.head
    assert isinstance(scores, ops.MatmulOp) and isinstance(product, ops.MatmulOp)
    frac = format_of(attention.softmax.s)
    assert isinstance(frac, FixedType)
    *lead, m, k = shape_of(scores.a)
    n, d = shape_of(product.b)[-2:]
    query, key, value = attention.query, attention.key, attention.value
    key_rows = key.strides[-2:] if scores.transpose_b is not None else key.strides[:-3:-1]
    merged = attention.batch()
    outer = [column[0] if len(column) == 2 else 0 for column in merged]
    inner = [column[-1] for column in merged]
    distances = {
        "q_ld": query.strides[-2],
        "q_head": inner[1],
        "q_outer": outer[1],
        "key_row": key_rows[0],
        "key_step": key_rows[1],
        "key_head": inner[2],
        "key_outer": outer[2],
        "value_ld": value.strides[-2],
        "value_head": inner[3],
        "value_outer": outer[3],
        "y_head": inner[4],
        "y_outer": outer[4],
    }
    if attention.places is not None:
        distances |= {name: 0 for name in distances if name.endswith("_outer")}
    zeros = {
        "q_zp": zero_point(scores.a),
        "key_zp": zero_point(scores.b),
        "value_zp": zero_point(product.b),
    }
    return {
        "batch": prod(lead),
        "m": m,
        "n": n,
        "k": k,
        "d": d,
        "block": _block(attention),
        "heads": inner[0],
        **without_zeros(distances),
        "q_type": element_symbol(scores.a),
        "key_type": element_symbol(scores.b),
        "value_type": element_symbol(product.b),
        "frac": frac.frac,
        **without_zeros(zeros),
    }


def plain_scratch(block: int, *, m: int, n: int, k: int, d: int) -> int:
    """Scratch of vit_attention_u8: the arrays that its `carve` lays out."""
    del m
    sizes = (
        n * padded(k) * 2,
        d * padded(n) * 2,
        block * padded(k) * 2,
        block * padded(n) * 2,
        block * max(n, d) * 4,
        n * 4,
        block * 4,
        block * n,
    )
    return sum(map(aligned, sizes))


# ---- the variant with packed keys and values -----------------------------------------------------

ROWS = 6
"""Query rows at a time."""


def packed_scratch(layout: Layout, *, m: int, n: int, k: int, d: int) -> int:
    """Scratch of the variants with packed keys and values: the arrays that their `carve` lays out."""
    del m
    if not layout.in_lanes:
        return _narrow_scratch(layout, n, k, d)
    steps, vectors, blocks, panels = -(-k // 4), -(-n // 16), -(-n // 64), -(-d // 64)
    sizes = (
        steps * vectors * 64,
        vectors * 64,
        panels * vectors * 1024,
        ROWS * steps * 4,
        ROWS * blocks * 256,
        ROWS * blocks * 64,
        vectors * 16,
    )
    return sum(map(aligned, sizes))


def _narrow_scratch(layout: Layout, n: int, k: int, d: int) -> int:
    """Scratch of vit_narrow_attention.h."""
    size = np.dtype(layout.weight).itemsize
    keys, columns = (-(-length // COLUMNS) * COLUMNS for length in (n, d))
    key_steps, value_steps = (-(-length // layout.group) * layout.group for length in (k, n))
    sizes = (
        keys * key_steps * size,
        columns * value_steps * size,
        ROWS * key_steps * size,
        ROWS * value_steps * size,
        keys * 4,
        columns * 4,
        ROWS * keys * 4,
        keys,
    )
    return sum(map(aligned, sizes))


def takes_places(level: Level, attention: Attention) -> bool:
    """Whether the kernel of an attention finds its tokens by a list of places."""
    return level.layout.in_lanes and _fits_variant(attention)


def _fits_variant(attention: Attention) -> bool:
    """Whether an attention is one that kernels with packed keys compute exactly."""
    scores, product = attention.scores.head, attention.product.head
    assert isinstance(scores, ops.MatmulOp) and isinstance(product, ops.MatmulOp)
    bytes_ = all(
        format_of(value).storage.width.data <= 8 for value in (scores.a, scores.b, product.b)
    )
    signed = not any(is_unsigned(format_of(value).storage) for value in (scores.b, product.b))
    between = attention.scores.stages
    entering = format_of(attention.softmax.s)
    narrow = entering.storage.width.data <= 16 and not zero_point(scores.b) if between else True
    short = shape_of(scores.a)[-1] <= 4096 and shape_of(product.b)[-2] <= 2**16
    assert isinstance(entering, FixedType)
    index = 0 <= entering.frac - 4 <= 21
    return bytes_ and signed and narrow and short and index and _normalizes_to_bytes(attention)


def _normalizes_to_bytes(attention: Attention) -> bool:
    """Whether the product ends in one normalisation to all of s8 or u8, rounded half up."""
    stages = attention.product.stages
    if len(stages) != 1 or not isinstance(stages[0][0], ops.NormalizeOp):
        return False
    op = stages[0][0]
    format_: QuantizedType = format_of(op.result)
    shift = np.unique(15 + shift_between(op.acc, op.result))
    return (
        format_.storage.width.data == 8
        and op.rounding.data == "rhu"
        and shift.size == 1
        and 1 <= int(shift[0]) <= 30
    )
