"""Removes operations of the float graph that do nothing, and merges those that move data."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from vit_opt.dialects import onnx
from vit_opt.dialects.onnx.base import integer, integers, shape_of
from vit_opt.dialects.onnx.movement import SameElements
from vit_opt.passes.float_graph import (
    Constants,
    node_name,
    reshape,
    result_type,
    rewrite,
    transpose,
)


class DropNoOp(RewritePattern):
    """f(x) -> x for Identity and for Cast, Reshape, Expand, Slice, ... that change nothing."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if _does_nothing(op):
            rewriter.replace(op, [], [op.operands[0]])


def _does_nothing(op: Operation) -> bool:
    """Whether an operation passes its first operand on unchanged."""
    if isinstance(op, onnx.Identity):
        return True
    if not op.operands or len(op.results) != 1 or op.operands[0].type != op.results[0].type:
        return False
    if isinstance(op, onnx.Transpose):
        return list(integers(op.perm)) == sorted(integers(op.perm))
    if isinstance(op, onnx.Slice):
        return all(step > 0 for step in integers(op.steps))
    if isinstance(op, onnx.Resize):
        return False
    if isinstance(op, onnx.Concat):
        return len(op.inputs) == 1
    same = SameElements | onnx.Cast | onnx.Expand | onnx.Split | onnx.Tile | onnx.Pad
    return isinstance(op, same)


@dataclass
class DropNeutral(RewritePattern):
    """x + 0, x - 0, x * 1, x / 1 -> x."""

    constants: Constants

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, onnx.Add | onnx.Sub | onnx.Mul | onnx.Div):
            return
        neutral = 0.0 if isinstance(op, onnx.Add | onnx.Sub) else 1.0
        a, b = op.inputs
        if a.type == op.y.type and self.constants.scalar(b) == neutral:
            rewriter.replace(op, [], [a])
        elif (
            isinstance(op, onnx.Add | onnx.Mul)
            and b.type == op.y.type
            and self.constants.scalar(a) == neutral
        ):
            rewriter.replace(op, [], [b])


class ReshapeForm(RewritePattern):
    """Flatten, Squeeze, Unsqueeze -> Reshape; Reshape(Reshape(x)) -> Reshape(x)."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, SameElements):
            return
        inner = op.x.owner
        x: SSAValue = inner.x if isinstance(inner, SameElements) else op.x
        if x is not op.x or not isinstance(op, onnx.Reshape):
            rewriter.replace(op, reshape(x, shape_of(op.y), node_name(op)))


class MergeTransposes(RewritePattern):
    """Transpose(Transpose(x, p), q) -> Transpose(x, p[q])."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: onnx.Transpose, rewriter: PatternRewriter) -> None:
        inner = op.x.owner
        if isinstance(inner, onnx.Transpose):
            first = integers(inner.perm)
            merged = [first[axis] for axis in integers(op.perm)]
            rewriter.replace(op, transpose(inner.x, merged, node_name(op)))


class TransposeOfOnes(RewritePattern):
    """Transpose -> Reshape where only dimensions of size one change places."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: onnx.Transpose, rewriter: PatternRewriter) -> None:
        shape = shape_of(op.x)
        moved = [axis for axis in integers(op.perm) if shape[axis] != 1]
        if moved == sorted(moved):
            rewriter.replace(op, reshape(op.x, shape_of(op.y), node_name(op)))


@dataclass
class GatherToSlice(RewritePattern):
    """Gather of one constant index -> Slice, and a Reshape where the index is a scalar."""

    constants: Constants

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: onnx.Gather, rewriter: PatternRewriter) -> None:
        indices = self.constants.array(op.indices)
        if indices is None or indices.size != 1:
            return
        shape, axis = shape_of(op.x), integer(op.axis)
        index = int(indices.flat[0]) % shape[axis]
        kept = [1 if d == axis else n for d, n in enumerate(shape)]
        cut = slice_along(op.x, axis, index, index + 1, node_name(op))
        if tuple(kept) == shape_of(op.y):
            rewriter.replace(op, cut)
        else:
            rewriter.replace(op, [cut, reshape(cut.y, shape_of(op.y), node_name(op))])


class SplitToSlices(RewritePattern):
    """Split -> one Slice per part."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: onnx.Split, rewriter: PatternRewriter) -> None:
        axis, start = integer(op.axis), 0
        parts: list[Operation] = []
        name = node_name(op)
        for index, part in enumerate(op.parts):
            end = start + shape_of(part)[axis]
            parts.append(
                slice_along(op.x, axis, start, end, None if name is None else f"{name}.{index}")
            )
            start = end
        rewriter.replace(op, parts, [part.results[0] for part in parts])


def slice_along(
    x: SSAValue, axis: int, start: int, end: int, name: str | None = None
) -> onnx.Slice:
    """x[start:end] along one axis."""
    shape = list(shape_of(x))
    shape[axis] = end - start
    return onnx.Slice.make(
        [x],
        [result_type(x, shape)],
        node_name=name,
        starts=[start],
        ends=[end],
        axes=[axis],
        steps=[1],
    )


def simplify_graph(module: ModuleOp, ctx: Context) -> None:
    """Applies the patterns of this file until none fits, and removes unused operations."""
    constants = Constants.of(ctx)
    rewrite(
        module,
        [
            DropNoOp(),
            DropNeutral(constants),
            ReshapeForm(),
            MergeTransposes(),
            TransposeOfOnes(),
            GatherToSlice(constants),
            SplitToSlices(),
        ],
    )


@dataclass(frozen=True)
class SimplifyGraphPass(ModulePass):
    """Removes operations without effect and brings data movement into one form. Exact.

    Identity (Dropout), casts, reshapes, expands, slices, pads that change nothing, sums with 0
    and products with 1 go. Flatten, Squeeze and Unsqueeze become Reshape, consecutive reshapes
    and transposes merge, Split and single-index Gather become Slice.

        %0 = onnx.Identity %x
        %1 = onnx.Squeeze %0                       ->   %y = onnx.Reshape %x
        %y = onnx.Unsqueeze %1
    """

    name = "simplify-graph"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        simplify_graph(op, ctx)
