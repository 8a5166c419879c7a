"""Linear attention as the C backend sees it: operands read, and a result stored, where they lie.

Heads are usually cut out of one tensor by slices and transposes, and requantised one by one. Both can
happen while a kernel reads its operands; its result can be stored in the order that is read next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from xdsl.ir import Operation, SSAValue

from vit_opt.backends.c.strides import View, dense_strides, dense_view, merge_dimensions, view_of
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.base import format_of, integers, shape_of

TokenStage: TypeAlias = ops.PotRequantOp | ops.ClampOp

SingleReader: TypeAlias = Callable[[SSAValue], "Operation | None"]
"""The only operation that reads a value, if there is one and nothing else needs the value."""


@dataclass
class Tokens:
    """An operand of linear attention."""

    view: View
    stages: list[TokenStage] = field(default_factory=list["TokenStage"])
    """What the elements of the view go through before they are the operand."""

    def reader(self, op: Operation) -> Operation:
        """The operation that reads the view."""
        return self.stages[0] if self.stages else op

    def head_distance(self) -> int | None:
        """Elements from head to head; None where heads do not follow each other evenly."""
        dims, strides = self.view.shape[:-2], self.view.strides[:-2]
        merged = merge_dimensions([list(dims), list(strides)])
        return merged[1][0] if len(merged[0]) == 1 and self.view.strides[-1] == 1 else None


@dataclass
class LinearAttention:
    """A linear attention with its operands' stages and the moves of its result."""

    op: ops.LinearAttnOp
    operands: list[Tokens]
    """Query, key and value."""
    result: SSAValue
    """What is stored: the operation's result, or what transposes make of it."""
    token_distance: int
    """Elements from token to token of `result`."""
    head_distance: int
    moves: list[Operation]
    """The transposes that storing replaces."""

    def members(self) -> list[Operation]:
        """Operations that run as this one call, beside those that operands are read through."""
        stages: list[Operation] = [stage for each in self.operands for stage in each.stages]
        return [*stages, self.op, *self.moves]


def linear_attention(op: ops.LinearAttnOp, single_reader: SingleReader) -> LinearAttention:
    """The step of an operation; its operands are dense as long as `read_through` is not called."""
    operands = [Tokens(dense_view(value)) for value in op.operands]
    result, distances, moves = _stored_result(op, single_reader)
    return LinearAttention(op, operands, result, *distances, moves)


def operand_views(
    step: LinearAttention,
    single_reader: SingleReader,
    aliases: dict[SSAValue, SSAValue],
    kept: set[Operation],
) -> list[Tokens]:
    """The operands, through stages and moves where that saves copies; moves in `kept` do run."""
    found: list[Tokens] = []
    for value in step.op.operands:
        stages, source = _stages_before(value, single_reader)
        tokens = Tokens(view_of(source, aliases, kept), stages)
        if not tokens.view.moves or tokens.head_distance() is None:
            tokens = Tokens(view_of(value, aliases, kept))
        if tokens.head_distance() is None:
            tokens = Tokens(dense_view(value))
        found.append(tokens)
    return found


def _stages_before(
    value: SSAValue, single_reader: SingleReader
) -> tuple[list[TokenStage], SSAValue]:
    """Requantisations and clamps that make a value and nothing else, and what they start from."""
    stages: list[TokenStage] = []
    while isinstance(value.owner, TokenStage) and single_reader(value) is not None:
        op = value.owner
        formats = format_of(op.x), format_of(op.result)
        wide = any(each.storage.width.data > 16 or each.is_per_channel for each in formats)
        if wide:
            break
        stages.insert(0, op)
        value = op.x
    return stages, value


def _stored_result(
    op: ops.LinearAttnOp, single_reader: SingleReader
) -> tuple[SSAValue, tuple[int, int], list[Operation]]:
    """What the kernel stores, its distances from token to token and head to head, and moves."""
    shape = shape_of(op.result)
    size, tokens, width = int(np.prod(shape)), shape[-2], shape[-1]
    strides = dense_strides(shape)
    best: tuple[SSAValue, tuple[int, int], list[Operation]]
    best = op.result, (strides[-2], tokens * width), []
    places = np.arange(size)
    moves: list[Operation] = []
    value: SSAValue = op.result
    while isinstance(reader := single_reader(value), ops.TransposeOp):
        places = places.reshape(shape_of(reader.x)).transpose(integers(reader.permutation))
        value, moves = reader.result, [*moves, reader]
        where = np.empty(size, np.int64)
        where[places.reshape(-1)] = np.arange(size)
        where = where.reshape(-1, tokens, width)
        token = int(where[0, 1, 0]) if tokens > 1 else width
        head = int(where[1, 0, 0]) if len(where) > 1 else size
        heads = np.arange(len(where))[:, None, None] * head
        if (where == heads + np.arange(tokens)[:, None] * token + np.arange(width)).all():
            best = value, (token, head), list(moves)
    return best
