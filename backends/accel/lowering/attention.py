"""ReLU linear attention (docs/numerics.md 12): state and key sum first, then rows of queries.

    KV = sat8(round(K^T V, kv_shift));  Ks = satu8(round(sum_n K, ksum_shift))
    y  = (Q KV) / (Q Ks)

The array makes K^T V by walking both operands down their columns, and the sum of keys as a product
with ones. State and sum stay on chip; the division runs in the reconfigurable engine.
"""

from __future__ import annotations

import numpy as np

from vit_opt.backends.accel.lowering.arena import whole
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.context import Lowering, fixed_format, where
from vit_opt.backends.accel.lowering.engines import emit_matmul
from vit_opt.backends.accel.lowering.products import matrices
from vit_opt.backends.accel.lowering.residency import Rect
from vit_opt.backends.accel.lowering.steps import rounding
from vit_opt.backends.accel.lowering.tensors import Block, Tensor, load_block
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DivMode, DType, Flag
from vit_opt.dialects.vit_accel.fields import NO_ADDR, Space
from vit_opt.passes.mapping import best_map


def lower_linear_attention(lowering: Lowering, op: ops.LinearAttnOp) -> None:
    """`vit.linear_attn`: leading dimensions are a batch."""
    q, k, v = (matrices(lowering.tensor(x), transpose=False) for x in (op.q, op.k, op.v))
    out = matrices(lowering.define(op.result, rows=()), transpose=False)
    for q_i, k_i, v_i, out_i in zip(q, k, v, out, strict=True):
        state, key_sum = _state(lowering, op, k_i, v_i)
        _queries(lowering, op, q_i, state, key_sum, out_i)
        lowering.builder.release(state.region)
        lowering.builder.release(key_sum.region)
    lowering.done.add(op)


def _matmul(
    lowering: Lowering, acc: Block, a: Block, b: Block, size: tuple[int, int, int], more: bool
) -> None:
    """acc[m, n] (+)= a[m, k] b[n, k]^T on blocks; row and col of a block are its two strides."""
    m, n, k = size
    inst = isa.Matmul(
        acc.addr,
        a.addr,
        b.addr,
        m,
        n,
        k,
        acc.row,
        a.row,
        b.row,
        a.dtype,
        b.dtype,
        a.col,
        b.col,
        accumulate=Flag.ON if more else Flag.OFF,
        map=best_map(lowering.arch, size, (a.dtype, b.dtype)),
    )
    reads = [whole(a.region), whole(b.region)] + ([whole(acc.region)] if more else [])
    emit_matmul(lowering.builder, inst, reads, [whole(acc.region)])


def _turned(block: Block) -> Block:
    """A block seen transposed."""
    return Block(block.region, block.dtype, block.col, block.row, block.offset)


def _ones(lowering: Lowering) -> Block:
    """A single 1, repeated in both directions by strides of 0."""
    builder = lowering.builder
    source = builder.constant(np.ones(1, np.int8))
    region = builder.cached((source, Space.BBUF))
    if region is None:
        region = builder.keep((source, Space.BBUF), 1, Space.BBUF)
        builder.emit(isa.Load(region.addr(), source.addr(), 1), [whole(source)], [whole(region)])
    return Block(region, DType.I8, 0, 0)


def _state(lowering: Lowering, op: ops.LinearAttnOp, k: Tensor, v: Tensor) -> tuple[Block, Block]:
    """K^T V [d, D] in i8 and the sum of keys [d] in ui8, on chip."""
    builder = lowering.builder
    tokens, d, wide = k.shape[0], k.shape[1], v.shape[1]
    if d * wide * 5 + d * 5 > builder.capacity(Space.OBUF) // 2:
        raise VitError(f"{where(op)}: a state of {d} x {wide} does not fit into obuf")
    acc = Block(builder.allocate(Space.OBUF, d * wide * 4), DType.I32, wide * 4, 4)
    total = Block(builder.allocate(Space.OBUF, d * 4), DType.I32, 4, 4)
    chunk = max(1, builder.capacity(Space.ABUF) // 3 // max(d, wide))
    for first in range(0, tokens, chunk):
        mark = builder.mark()
        builder.next_turn()
        count = min(chunk, tokens - first)
        keys = load_block(builder, k, (first, 0), (count, d), Space.ABUF)
        values = load_block(builder, v, (first, 0), (count, wide), Space.BBUF)
        keys = _with_row(keys, d)
        values = _with_row(values, wide)
        _matmul(lowering, acc, _turned(keys), _turned(values), (d, wide, count), first > 0)
        _matmul(lowering, total, _turned(keys), _ones(lowering), (d, 1, count), first > 0)
        builder.unpin(mark)
    builder.macs += tokens * d * (wide + 1)
    state = _shifted(lowering, op, acc, (d, wide), op.kv_shift.value.data, DType.I8)
    key_sum = _shifted(lowering, op, total, (d, 1), op.ksum_shift.value.data, DType.UI8)
    return state, key_sum


def _with_row(block: Block, cols: int) -> Block:
    """A block of one row with its row stride spelled out."""
    if block.row:
        return block
    return Block(block.region, block.dtype, cols * block.dtype.size, block.dtype.size, block.offset)


def _shifted(
    lowering: Lowering,
    op: ops.LinearAttnOp,
    acc: Block,
    size: tuple[int, int],
    shift: int,
    dtype: DType,
) -> Block:
    """Accumulators shifted to 8 bits; the accumulators are released."""
    builder = lowering.builder
    region = builder.allocate(Space.CBUF, size[0] * size[1])
    inst = isa.Requant(
        *size,
        region.addr(),
        acc.addr,
        size[1],
        acc.row,
        DType.I32,
        dtype,
        max(-127, min(127, shift)),
        rounding=rounding(op),
    )
    builder.emit(inst, [whole(acc.region)], [whole(region)])
    builder.release(acc.region)
    return Block(region, dtype, size[1], 1)


def _home(builder: Builder, out: Tensor, first: int, rows: int) -> Block:
    """Where rows of a head's result are to be written: beside the heads before it if there is room
    for all heads in one place; pinned."""
    item, pitch = out.dtype.size, out.strides[0]
    wide = out.shape[1] * item
    start = out.offset + first * pitch
    right = pitch - start % pitch
    fits = rows * pitch <= builder.capacity(Space.OBUF) // 4
    rect = Rect(start, rows, pitch, wide)
    room = rect._replace(width=right if fits else wide)
    region, offset, row = builder.place_for(out.region, rect, room, Space.OBUF)
    return Block(region, out.dtype, row, item, offset)


def _queries(
    lowering: Lowering, op: ops.LinearAttnOp, q: Tensor, state: Block, key_sum: Block, out: Tensor
) -> None:
    """Rows of queries times the state, divided by rows times the key sum."""
    builder = lowering.builder
    tokens, d = q.shape
    wide = out.shape[1]
    source, target = fixed_format(op.v), out.format
    shift = op.ksum_shift.value.data - op.kv_shift.value.data + source.frac - target.frac
    chunk = builder.capacity(Space.OBUF) // 3 // (wide * (4 + out.dtype.size) + 4)
    chunk = max(1, min(chunk, builder.capacity(Space.ABUF) // 3 // d))
    for first in range(0, tokens, chunk):
        mark = builder.mark()
        builder.next_turn()
        rows = min(chunk, tokens - first)
        queries = _with_row(load_block(builder, q, (first, 0), (rows, d), Space.ABUF), d)
        num = Block(builder.allocate(Space.OBUF, rows * wide * 4), DType.I32, wide * 4, 4)
        den = Block(builder.allocate(Space.OBUF, rows * 4), DType.I32, 4, 4)
        _matmul(lowering, num, queries, _turned(state), (rows, wide, d), False)
        _matmul(lowering, den, queries, _turned(key_sum), (rows, 1, d), False)
        result = _home(builder, out, first, rows)
        inst = isa.Divide(
            rows,
            wide,
            result.addr,
            num.addr,
            den.addr,
            result.row,
            num.row,
            den.row,
            max(-127, min(127, shift)),
            out.dtype,
            DType.I32,
            DType.I32,
            NO_ADDR,
            target.zero_point,
            rounding(op),
            DivMode[op.divisor.data.upper()],
        )
        written = result.use(rows, wide)
        builder.emit(inst, [whole(num.region), whole(den.region)], [written])
        builder.release(num.region)
        builder.release(den.region)
        builder.unpin(mark)
    builder.macs += tokens * d * (wide + 1)
