"""Attention in windows whose tokens stay where they are.

Window attention permutes the rows of an image so that the tokens of a window follow each other, and
back again behind the projection. What lies between works on every row by itself, except the attention,
which picks its rows anyway. So where the kernel takes a list of places, nothing moves: products
before and behind the attention run in the order of the image, and the list says which rows are a
window (rolled images included).

    x -> rows to windows -> products -> attention -> projection -> rows to image -> y
    x -> products -> attention with places -> projection -> y
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from xdsl.ir import Operation, SSAValue

from vit_opt.backends.c.steps import Attention
from vit_opt.backends.c.strides import View
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.base import integers, shape_of

Array: TypeAlias = NDArray[Any]
Readers: TypeAlias = "dict[SSAValue, list[tuple[Operation, int]]]"

MOVES = (ops.TransposeOp, ops.SliceOp, ops.ConcatOp)
"""Operations that move rows; reshapes move nothing."""


@dataclass(frozen=True)
class Rows:
    """A value as rows of another one."""

    root: SSAValue
    index: Array
    """The row of `root` that each row is, in the shape of the value's leading dimensions."""
    moves: frozenset[Operation]


def rows_of(value: SSAValue) -> Rows:
    """A value through the reshapes and moves that leave its columns alone."""
    owner, shape = value.owner, shape_of(value)
    if isinstance(owner, ops.ReshapeOp) and shape_of(owner.x)[-1:] == shape[-1:]:
        inner = rows_of(owner.x)
        return Rows(inner.root, inner.index.reshape(shape[:-1]), inner.moves)
    if isinstance(owner, ops.TransposeOp) and integers(owner.permutation)[-1] == len(shape) - 1:
        inner = rows_of(owner.x)
        index = inner.index.transpose(integers(owner.permutation)[:-1])
        return Rows(inner.root, index, inner.moves | {owner})
    if isinstance(owner, ops.SliceOp) and shape_of(owner.x)[-1:] == shape[-1:]:
        inner = rows_of(owner.x)
        fields = map(integers, (owner.offsets, owner.sizes, owner.strides))
        parts = [slice(o, o + n * s, s) for o, n, s in zip(*fields, strict=True)][:-1]
        return Rows(inner.root, inner.index[tuple(parts)], inner.moves | {owner})
    if isinstance(owner, ops.ConcatOp) and owner.axis.value.data < len(shape) - 1:
        parts = [rows_of(x) for x in owner.xs]
        if all(part.root is parts[0].root for part in parts):
            index = np.concatenate([part.index for part in parts], axis=owner.axis.value.data)
            moves = frozenset[Operation]().union(*(part.moves for part in parts))
            return Rows(parts[0].root, index, moves | {owner})
    count = int(np.prod(shape[:-1]))
    return Rows(value, np.arange(count).reshape(shape[:-1]), frozenset())


@dataclass(frozen=True)
class Found:
    """Moves on one side of an attention: rows of `rows.root` that make up `result`."""

    rows: Rows
    result: SSAValue


@dataclass
class Windows:
    """Puts attentions on images; the fields are those of the grouping and its graph."""

    readers: Readers
    aliases: dict[SSAValue, SSAValue]
    taken: set[Operation]
    returned: set[SSAValue]

    def place(self, attention: Attention) -> Array | None:
        """The places of the tokens [windows, tokens] of an attention, None where they must move.

        The moves before and behind it are taken, and what they give stands for what they read.
        """
        before = self._before(attention)
        if before is None:
            return None
        places = before.rows.index.reshape(-1, attention.query.shape[-2])
        behind = self._behind(attention, places.reshape(-1))
        if behind is None:
            return None
        for side in (before, behind):
            root, moves = self._root(side.rows.root), side.rows.moves
            self.taken |= moves
            others = [each for each in self.readers[root] if each[0] not in moves]
            self.readers[root] = others + self.readers.pop(side.result)
            self.aliases[side.result] = root
        return places

    def _root(self, value: SSAValue) -> SSAValue:
        """The value whose memory another one shares."""
        while value in self.aliases:
            value = self.aliases[value]
        return value

    def _only_read_by(self, value: SSAValue, readers: Iterable[Operation]) -> bool:
        found = self.readers.get(value, [])
        return value not in self.returned and all(op in readers for op, _ in found)

    def _before(self, attention: Attention) -> Found | None:
        """The rows that make the windows, if query, key and value are products of them."""
        if not _is_dense(attention):
            return None
        heads = {attention.scores.head, attention.product.head}
        views = attention.query, attention.key, attention.value
        products: list[ops.LinearOp] = []
        for view in views:
            product = self._product_of(view, heads | set(view.moves))
            if product is None:
                return None
            products.append(product)
        result = self._root(products[0].x)
        if any(self._root(product.x) is not result for product in products):
            return None
        rows = rows_of(products[0].x)
        index = rows.index.reshape(-1)
        moves = rows.moves
        every = index.size == int(np.prod(shape_of(rows.root)[:-1]))
        if not moves or moves & self.taken or not every or np.unique(index).size < index.size:
            return None
        inside = moves | set(products)
        private = all(self._only_read_by(move.results[0], inside) for move in moves)
        return Found(rows, result) if private else None

    def _product_of(self, view: View, readers: set[Operation]) -> ops.LinearOp | None:
        """The product that an attention's operand is the requantised result of."""
        requant = view.root.owner
        if not isinstance(requant, ops.PotRequantOp) or requant in self.taken:
            return None
        product = requant.x.owner
        plain = isinstance(product, ops.LinearOp) and _has_constant_weights(product)
        if not isinstance(product, ops.LinearOp) or not plain or product in self.taken:
            return None
        private = self._only_read_by(view.root, readers)
        return product if private and self._only_read_by(requant.x, {requant}) else None

    def _behind(self, attention: Attention, index: Array) -> Found | None:
        """The rows that make the image again, if they do so right behind a projection."""
        readers = self.readers.get(attention.result, [])
        if len(readers) != 1 or attention.result in self.returned:
            return None
        product = readers[0][0]
        if not isinstance(product, ops.LinearOp) or not _has_constant_weights(product):
            return None
        if product in self.taken or shape_of(product.x)[-1] != attention.result_strides[-2]:
            return None
        value = product.result
        after = [op for op, _ in self.readers.get(value, [])]
        if len(after) == 1 and isinstance(after[0], ops.PotRequantOp):
            if value in self.returned or after[0] in self.taken:
                return None
            value = after[0].result
        end = self._end_of_moves(value)
        if end is None:
            return None
        rows = rows_of(end)
        order = rows.index.reshape(-1)
        same = rows.root is value and order.size == index.size
        if not same or (order[index] != np.arange(index.size)).any() or rows.moves & self.taken:
            return None
        return Found(rows, end)

    def _end_of_moves(self, value: SSAValue) -> SSAValue | None:
        """What moves of a value end in, if that is one value and nothing else is read."""
        reached: set[SSAValue] = {value}
        moves = set[Operation]()
        while True:
            readers = [op for each in reached for op, _ in self.readers.get(each, [])]
            found = {
                op
                for op in readers
                if isinstance(op, MOVES) and all(self._root(x) in reached for x in op.operands)
            }
            if found == moves:
                break
            moves = found
            reached = {value, *(op.results[0] for op in moves)}
        ends = [each for each in reached if not self._only_read_by(each, moves)]
        if len(ends) != 1 or ends[0] is value or ends[0] in self.returned:
            return None
        return None if any(op in moves for op, _ in self.readers[ends[0]]) else ends[0]


def _has_constant_weights(product: ops.LinearOp) -> bool:
    """Whether nothing but the operand of a product depends on the row."""
    return all(isinstance(each.owner, ops.ConstantOp) for each in product.operands[1:])


def _is_dense(attention: Attention) -> bool:
    """Whether windows follow each other in all operands, as rows of heads next to each other."""
    scores = attention.scores.head
    assert isinstance(scores, ops.MatmulOp)
    dims, *distances = attention.batch()
    tokens, width = attention.query.shape[-2:]
    if len(dims) != 2 or attention.value.shape[-2] != tokens:
        return False
    key = attention.key.strides[-2:]
    key_row, key_step = key if scores.transpose_b is not None else key[::-1]
    steps = attention.query.strides[-2], key_row, attention.value.strides[-2]
    for view, row, (outer, inner) in zip(
        (attention.query, attention.key, attention.value), steps, distances[:3], strict=True
    ):
        columns = shape_of(view.root)[-1]
        size = attention.value.shape[-1] if view is attention.value else width
        last = view.offset + (dims[1] - 1) * inner + size
        rows = int(np.prod(shape_of(view.root)[:-1]))
        if row != columns or outer != tokens * columns or last > columns:
            return False
        if rows != dims[0] * tokens:
            return False
    return key_step == 1 and distances[3][0] == tokens * attention.result_strides[-2]
