"""Canonical form of the float graph: nothing that does nothing, one form of data movement.

All patterns are exact: they only remove or merge operations that pass elements on unchanged.
"""

from __future__ import annotations

from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from vit_opt.dialects.onnx.base import OnnxOp, integers, shape_of
from vit_opt.dialects.onnx.elementwise import Cast, Identity
from vit_opt.dialects.onnx.movement import (
    Concat,
    Expand,
    Pad,
    Reshape,
    SameElements,
    Slice,
    Split,
    Tile,
    Transpose,
)


class DropNoOp(RewritePattern):
    """f(x) -> x for Identity and for Cast, Reshape, Expand, Slice, ... that change nothing."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if does_nothing(op):
            rewriter.replace(op, [], [op.operands[0]])


def does_nothing(op: Operation) -> bool:
    """Whether an operation passes its first operand on unchanged."""
    if isinstance(op, Identity):
        return True
    if not op.operands or len(op.results) != 1 or op.operands[0].type != op.results[0].type:
        return False
    if isinstance(op, Transpose):
        return list(integers(op.perm)) == sorted(integers(op.perm))
    if isinstance(op, Slice):
        return all(step > 0 for step in integers(op.steps))
    if isinstance(op, Concat):
        return len(op.inputs) == 1
    return isinstance(op, SameElements | Cast | Expand | Split | Tile | Pad)


class MergeReshapes(RewritePattern):
    """Flatten, Squeeze, Unsqueeze -> Reshape; Reshape(Reshape(x)) -> Reshape(x)."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, SameElements):
            return
        inner = op.x.owner
        x: SSAValue = inner.x if isinstance(inner, SameElements) else op.x
        if x is not op.x or not isinstance(op, Reshape):
            rewriter.replace(op, Reshape.make([x], [op.y.type], node_name=_name(op)))


class MergeTransposes(RewritePattern):
    """Transpose(Transpose(x, p), q) -> Transpose(x, p[q])."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: Transpose, rewriter: PatternRewriter) -> None:
        inner = op.x.owner
        if isinstance(inner, Transpose):
            first = integers(inner.perm)
            merged = [first[axis] for axis in integers(op.perm)]
            new = Transpose.make([inner.x], [op.y.type], node_name=_name(op), perm=merged)
            rewriter.replace(op, new)


class TransposeOfOnes(RewritePattern):
    """Transpose -> Reshape where only dimensions of size one change places."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: Transpose, rewriter: PatternRewriter) -> None:
        shape = shape_of(op.x)
        moved = [axis for axis in integers(op.perm) if shape[axis] != 1]
        if moved == sorted(moved):
            rewriter.replace(op, Reshape.make([op.x], [op.y.type], node_name=_name(op)))


def _name(op: OnnxOp) -> str | None:
    """The node name that a replacement inherits."""
    return None if op.node_name is None else op.node_name.data
