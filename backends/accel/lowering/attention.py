"""ReLU linear attention (docs/numerics.md 12): state and key sum first, then rows of queries.

    KV = sat8(round(K^T V, kv_shift));  Ks = satu8(round(sum_n K, ksum_shift))
    y  = (Q KV) / (Q Ks)

The array makes K^T V by walking both operands down their columns, and the sum of keys as a product
with ones. State and sum stay on chip; the division runs in the reconfigurable engine. Heads are small
and alike, so an instruction takes a batch of them: the array fills and drains once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd, prod
from typing import NamedTuple

import numpy as np

from vit_opt.backends.accel.lowering.arena import whole
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.context import Lowering, fixed_format, where
from vit_opt.backends.accel.lowering.engines import ONE, Batch, emit_product
from vit_opt.backends.accel.lowering.residency import Rect
from vit_opt.backends.accel.lowering.steps import rounding
from vit_opt.backends.accel.lowering.tensors import Block, Tensor, load_block, span_of
from vit_opt.backends.accel.lowering.transfers import Dim, transfer
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DivMode, DType
from vit_opt.dialects.vit_accel.fields import NO_ADDR, Addr, Space
from vit_opt.passes.mapping import Kind, Size, row_blocks
from vit_opt.passes.rooms import LOADED, MADE, PASSING, room


class Heads(NamedTuple):
    """Matrices of equal shape on chip."""

    block: Block
    """The first one."""
    apart: int
    """Bytes from one to the next."""

    @property
    def addr(self) -> Addr:
        """Address of the first element."""
        return self.block.addr

    def turned(self) -> Heads:
        """The matrices seen transposed."""
        x = self.block
        return Heads(replace(x, row=x.col, col=x.row), self.apart)


@dataclass(frozen=True)
class Cut:
    """How linear attention is cut: heads in a batch, tokens of keys and of queries in a block."""

    heads: int
    keys: int
    queries: int


@dataclass(frozen=True)
class Attention:
    """One linear attention: q, k [H, N, d]; v and the result [H, N, D]."""

    op: ops.LinearAttnOp
    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor

    @property
    def heads(self) -> int:
        """Heads H."""
        return self.q.shape[0]

    @property
    def tokens(self) -> int:
        """Tokens N."""
        return self.q.shape[1]

    @property
    def sizes(self) -> tuple[int, int]:
        """Columns d of queries and keys, and D of values."""
        return self.q.shape[2], self.v.shape[2]

    def cut(self, arch: AccelTarget, together: int) -> Cut:
        """The cut of the fewest cycles: more heads in a batch fill and drain the array less often,
        fewer let the units behind it begin earlier, and the last ones be done sooner. Of those that
        lie `together` on chip, a batch is an even share.

        VitError if not even one head's state fits.
        """
        counts = [count for count in range(1, together + 1) if not together % count]
        found = [cut for count in counts if (cut := self._fitting(arch, count))]
        if not found:
            d, wide = self.sizes
            raise VitError(f"{where(self.op)}: a state of {d} x {wide} does not fit into obuf")
        return min(found, key=lambda cut: self._cycles(arch, cut))

    def _fitting(self, arch: AccelTarget, count: int) -> Cut | None:
        """A batch of so many heads with as many tokens as fit; None if none do."""
        (d, wide), item = self.sizes, self.out.dtype.size
        rows, sums = room(arch, "abuf", PASSING), room(arch, "obuf", PASSING)
        # A state is used while the next one is summed.
        if count * 5 * d * (wide + 1) > room(arch, "obuf", LOADED):
            return None
        keys = min(self.tokens, rows // (count * max(d, wide)))
        results = sums // (count * (wide * (4 + item) + 4))
        queries = min(self.tokens, results, rows // (count * d))
        if count == 1:
            return Cut(1, max(1, keys), max(1, queries))
        joined = _beside(self.out) or (_below(self.out) and queries == self.tokens)
        return Cut(count, keys, queries) if keys and queries and joined else None

    def _cycles(self, arch: AccelTarget, cut: Cut) -> int:
        """Cycles of all batches one after the other, and those of the largest one again, for which
        some unit has nothing to do."""
        batches = row_blocks(self.heads, self.heads, cut.heads)
        each = [self._batch_cycles(arch, cut, count) for _, count in batches]
        return sum(each) + max(each)

    def _batch_cycles(self, arch: AccelTarget, cut: Cut, count: int) -> int:
        """Cycles of a batch's products and divisions."""
        d, wide = self.sizes
        kind, total = Kind((DType.I8, DType.I8)), 0
        for _, keys in row_blocks(self.tokens, self.tokens, cut.keys):
            total += kind.least_cycles(arch, (d, wide, keys), count)
            total += kind.least_cycles(arch, (d, 1, keys), count)
        for _, rows in row_blocks(self.tokens, self.tokens, cut.queries):
            total += kind.least_cycles(arch, (rows, wide, d), count)
            total += kind.least_cycles(arch, (rows, 1, d), count)
            total += -(-count * rows * wide // arch.divider_width) + arch.divider_latency
        return total


def lower_linear_attention(lowering: Lowering, op: ops.LinearAttnOp) -> None:
    """`vit.linear_attn`: leading dimensions are a batch, of which the last one are heads."""
    tensors = [_with_heads(lowering.tensor(x)) for x in (op.q, op.k, op.v)]
    tensors.append(_with_heads(lowering.define(op.result, rows=())))
    for index in np.ndindex(tensors[0].shape[:-3]):
        views = tensors
        for i in index:
            views = [view.at(0, i) for view in views]
        _lower(lowering, Attention(op, *views))
    lowering.done.add(op)


def _with_heads(tensor: Tensor) -> Tensor:
    """A tensor with a dimension for heads, of which there may be one."""
    if len(tensor.shape) > 2:
        return tensor
    return replace(tensor, shape=(1, *tensor.shape), strides=(tensor.size, *tensor.strides))


def _lower(lowering: Lowering, attention: Attention) -> None:
    """All heads, batch by batch."""
    planes = (lowering.planes.get(x.region, 0) for x in (attention.q, attention.k, attention.v))
    together = gcd(*planes) or attention.heads
    cut = attention.cut(lowering.arch, together)
    for heads in row_blocks(attention.heads, attention.heads, cut.heads):
        state, key_sum = _state(lowering, attention, heads, cut.keys)
        for rows in row_blocks(attention.tokens, attention.tokens, cut.queries):
            _queries(lowering, attention, heads, rows, (state, key_sum))
        for each in (state, key_sum):
            lowering.builder.release(each.block.region)
    d, wide = attention.sizes
    lowering.builder.macs += 2 * attention.heads * attention.tokens * d * (wide + 1)


# -- operands ---------------------------------------------------------------------------------


def _below(tensor: Tensor) -> bool:
    """Whether the rows of all heads [H, N, d] are equally far from each other."""
    return tensor.strides[0] == tensor.shape[1] * tensor.strides[1]


def _beside(tensor: Tensor) -> bool:
    """Whether a row has the heads [H, N, d] side by side."""
    heads, _, cols = tensor.shape
    apart, pitch, item = tensor.strides
    return apart == cols * item and heads * apart <= pitch


Part = tuple[int, int]
"""First and number, of heads or tokens."""


def _load(builder: Builder, x: Tensor, heads: Part, rows: Part, space: Space) -> Heads:
    """Some tokens of some heads of x [H, N, d] on chip, where they lie if they lie there; pinned."""
    (first, count), (row, tokens), cols = heads, rows, x.shape[2]
    if count == 1:
        head = x.at(0, first)
        return Heads(_spelled(load_block(builder, head, (row, 0), (tokens, cols), space), cols), 0)
    if _below(x) and tokens == x.shape[1]:
        flat = replace(x, shape=(x.shape[0] * tokens, cols), strides=x.strides[1:])
        block = load_block(builder, flat, (first * tokens, 0), (count * tokens, cols), space)
        return Heads(block, tokens * block.row)
    if _beside(x):
        flat = replace(x, shape=(x.shape[1], x.shape[0] * cols), strides=x.strides[1:])
        block = load_block(builder, flat, (row, first * cols), (tokens, count * cols), space)
        return Heads(_spelled(block, count * cols), cols * block.col)
    return _gathered(builder, x, heads, rows, space)


def _gathered(builder: Builder, x: Tensor, heads: Part, rows: Part, space: Space) -> Heads:
    """Some tokens of some heads of x [H, N, d], copied to where they lie one behind the other."""
    (first, count), (row, tokens), cols, item = heads, rows, x.shape[2], x.dtype.size
    for number in range(first, first + count):
        head = x.at(0, number)
        builder.read(x.region, span_of(head, row * x.strides[1], tokens, cols))
    start = x.offset + first * x.strides[0] + row * x.strides[1]
    key = (x.region, "heads", start, x.strides, count, tokens, cols, space)
    region = builder.cached(key)
    wide = cols * item
    if region is None:
        region = builder.keep(key, count * tokens * wide, space)
        counts, near = (count, tokens, cols), (tokens * wide, wide, item)
        dims: list[Dim] = list(zip(counts, x.strides, near, strict=True))
        transfer(builder, x.region, start, item, dims, region, 0, store=False)
    return Heads(Block(region, x.dtype, wide, item), tokens * wide)


def _spelled(block: Block, cols: int) -> Block:
    """A block of one row with its row stride spelled out."""
    item = block.dtype.size
    return block if block.row else replace(block, row=cols * item, col=item)


def _ones(lowering: Lowering) -> Heads:
    """A single 1, repeated in all directions by strides of 0."""
    builder = lowering.builder
    source = builder.constant(np.ones(1, np.int8))
    region = builder.cached((source, Space.BBUF))
    if region is None:
        region = builder.keep((source, Space.BBUF), 1, Space.BBUF)
        builder.emit(isa.Load(region.addr(), source.addr(), 1), [whole(source)], [whole(region)])
    return Heads(Block(region, DType.I8, 0, 0), 0)


def _sums(builder: Builder, count: int, rows: int, cols: int) -> Heads:
    """Room for accumulators of some heads."""
    region = builder.allocate(Space.OBUF, count * rows * cols * 4)
    return Heads(Block(region, DType.I32, cols * 4, 4), rows * cols * 4)


# -- instructions -----------------------------------------------------------------------------


def _multiply(
    builder: Builder, acc: Heads, a: Heads, b: Heads, count: int, size: Size, more: bool = False
) -> None:
    """acc[m, n] (+)= a[m, k] b[n, k]^T for each head."""
    batch = Batch(count, acc.apart, a.apart, b.apart) if count > 1 else ONE
    emit_product(builder, acc.block, a.block, b.block, size, more, batch=batch)


def _state(
    lowering: Lowering, attention: Attention, heads: Part, chunk: int
) -> tuple[Heads, Heads]:
    """K^T V [d, D] in i8 and the sum of keys [d] in ui8 of some heads, on chip."""
    builder, op, count = lowering.builder, attention.op, heads[1]
    d, wide = attention.sizes
    acc, total = _sums(builder, count, d, wide), _sums(builder, count, d, 1)
    for rows in row_blocks(attention.tokens, attention.tokens, chunk):
        mark = builder.mark()
        builder.next_turn()
        keys = _load(builder, attention.k, heads, rows, Space.ABUF).turned()
        values = _load(builder, attention.v, heads, rows, Space.BBUF).turned()
        more = rows[0] > 0
        _multiply(builder, acc, keys, values, count, (d, wide, rows[1]), more)
        _multiply(builder, total, keys, _ones(lowering), count, (d, 1, rows[1]), more)
        builder.unpin(mark)
    size, shift = (count * d, wide), op.kv_shift.value.data
    state = _shifted(lowering, op, acc.block, size, shift, DType.I8)
    size, shift = (count * d, 1), op.ksum_shift.value.data
    key_sum = _shifted(lowering, op, total.block, size, shift, DType.UI8)
    return Heads(state, d * wide), Heads(key_sum, d)


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
    region = builder.allocate(Space.CBUF, prod(size))
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


def _home(builder: Builder, out: Tensor, heads: Part, rows: Part) -> Heads:
    """Where rows of some heads' results are to be written: beside the heads before them if there is
    room for all heads in one place; pinned."""
    (first, count), (row, tokens), item = heads, rows, out.dtype.size
    start = out.offset + first * out.strides[0] + row * out.strides[1]
    pitch, wide = out.strides[1], out.shape[2] * item
    if count > 1 and not _beside(out):
        rect = Rect(start, count * tokens, pitch, wide)
        region, offset, near = builder.place_for(out.region, rect, rect, Space.OBUF)
        return Heads(Block(region, out.dtype, near, item, offset), tokens * near)
    right = pitch - start % pitch
    fits = tokens * pitch <= room(builder.arch, "obuf", MADE)
    rect = Rect(start, tokens, pitch, count * wide)
    space = rect._replace(width=right if fits else count * wide)
    region, offset, near = builder.place_for(out.region, rect, space, Space.OBUF)
    return Heads(Block(region, out.dtype, near, item, offset), wide)


def _queries(
    lowering: Lowering, attention: Attention, heads: Part, rows: Part, sums: tuple[Heads, Heads]
) -> None:
    """Rows of queries times the state, divided by rows times the key sum."""
    builder, op, out, count = lowering.builder, attention.op, attention.out, heads[1]
    (d, wide), tokens = attention.sizes, rows[1]
    shift = op.ksum_shift.value.data - op.kv_shift.value.data
    shift += fixed_format(op.v).frac - out.format.frac
    state, key_sum = sums
    mark = builder.mark()
    builder.next_turn()
    queries = _load(builder, attention.q, heads, rows, Space.ABUF)
    num, den = _sums(builder, count, tokens, wide), _sums(builder, count, tokens, 1)
    _multiply(builder, num, queries, state.turned(), count, (tokens, wide, d))
    _multiply(builder, den, queries, key_sum.turned(), count, (tokens, 1, d))
    result = _home(builder, out, heads, rows)
    inst = isa.Divide(
        tokens,
        wide,
        result.addr,
        num.addr,
        den.addr,
        result.block.row,
        num.block.row,
        den.block.row,
        max(-127, min(127, shift)),
        out.dtype,
        DType.I32,
        DType.I32,
        NO_ADDR,
        out.format.zero_point,
        rounding(op),
        DivMode[op.divisor.data.upper()],
        batch=count,
        dst_batch=result.apart,
        acc_batch=num.apart,
        div_batch=den.apart,
    )
    written = result.block.use(tokens, wide, count, result.apart)
    builder.emit(inst, [whole(num.block.region), whole(den.block.region)], [written])
    builder.release(num.block.region)
    builder.release(den.block.region)
    builder.unpin(mark)
