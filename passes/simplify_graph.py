"""Removes operations of the float graph that do nothing, and merges those that move data."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from vit_opt.dialects import onnx
from vit_opt.dialects.onnx.base import OnnxCanonicalization, element_of, integer, real, shape_of
from vit_opt.dialects.onnx.movement import SameElements
from vit_opt.passes.float_graph import (
    Constants,
    is_pair,
    label,
    node_name,
    reshape,
    result_type,
    rewrite,
    transpose,
)


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


@dataclass
class DivToMul(RewritePattern):
    """x / c -> x * (1 / c): exact for powers of two, otherwise one more rounding."""

    constants: Constants

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: onnx.Div, rewriter: PatternRewriter) -> None:
        import numpy as np

        x, divisor = op.inputs
        array = self.constants.array(divisor)
        if array is None or array.dtype != np.float32 or not array.all():
            return
        inverse = self.constants.make(np.reciprocal(array), f"{label(op)}.inverse")
        product = onnx.Mul.make([x, inverse], [op.y.type], node_name=node_name(op))
        rewriter.replace(op, [inverse, product])


@dataclass
class SubToAdd(RewritePattern):
    """x - c -> x + (-c), exactly."""

    constants: Constants

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: onnx.Sub, rewriter: PatternRewriter) -> None:
        import numpy as np

        x, subtrahend = op.inputs
        array = self.constants.array(subtrahend)
        if array is None or array.dtype != np.float32 or self.constants.array(x) is not None:
            return
        negative = self.constants.make(-array, f"{label(op)}.negative")
        total = onnx.Add.make([x, negative], [op.y.type], node_name=node_name(op))
        rewriter.replace(op, [negative, total])


@dataclass
class RepeatedRounding(RewritePattern):
    """DequantizeLinear(QuantizeLinear(x)) -> x where x is rounded alike already.

    That is, where x comes from another such pair with the same parameters by moving data only.
    """

    constants: Constants

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: onnx.DequantizeLinear, rewriter: PatternRewriter) -> None:
        if not is_pair(op):
            return
        quantize = op.inputs[0].owner
        assert isinstance(quantize, onnx.QuantizeLinear)
        value = quantize.inputs[0]
        while isinstance(value.owner, SameElements | onnx.Transpose | onnx.Slice | onnx.Split):
            value = value.owner.operands[0]
        earlier = value.owner
        if not isinstance(earlier, onnx.DequantizeLinear) or not is_pair(earlier):
            return
        if self._same(op, earlier) and element_of(op.inputs[0]) == element_of(earlier.inputs[0]):
            rewriter.replace(op, [], [quantize.inputs[0]])

    def _same(self, a: onnx.DequantizeLinear, b: onnx.DequantizeLinear) -> bool:
        """Whether two pairs have equal scalar scales and zero points."""
        if len(a.inputs) != len(b.inputs):
            return False
        pairs = zip(a.inputs[1:], b.inputs[1:], strict=True)
        numbers = [(self.constants.scalar(p), self.constants.scalar(q)) for p, q in pairs]
        return all(p is not None and p == q for p, q in numbers)


@dataclass
class ClipOfCodes(RewritePattern):
    """DequantizeLinear(Clip(q, a, b)) -> Clip(DequantizeLinear(q), (a - z) s, (b - z) s).

    For codes of fewer bits than their storage has; s and z are numbers, so it is exact.
    """

    constants: Constants

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: onnx.DequantizeLinear, rewriter: PatternRewriter) -> None:
        clip = op.inputs[0].owner
        if not isinstance(clip, onnx.Clip) or not isinstance(clip.x.owner, onnx.QuantizeLinear):
            return
        scale = self.constants.scalar(op.inputs[1])
        zero = self.constants.scalar(op.inputs[2]) if len(op.inputs) > 2 else 0.0
        if scale is None or zero is None:
            return
        bounds = {
            name: (real(bound) - zero) * scale
            for name, bound in (("min", clip.min), ("max", clip.max))
            if bound is not None
        }
        wide = onnx.DequantizeLinear.make(
            [clip.x, *op.inputs[1:]],
            [op.y.type],
            node_name=node_name(op),
            axis=integer(op.axis),
        )
        limited = onnx.Clip.make([wide], [op.y.type], node_name=node_name(clip), **bounds)
        rewriter.replace(op, [wide, limited])


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


class SoftmaxOverLast(RewritePattern):
    """Softmax over another axis -> Transpose, Softmax over the last axis, Transpose."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: onnx.Softmax, rewriter: PatternRewriter) -> None:
        last = len(shape_of(op.x)) - 1
        axis = integer(op.axis) % (last + 1)
        if axis == last:
            return
        name = node_name(op)
        swap = [*range(last + 1)]
        swap[axis], swap[last] = last, axis
        turned = transpose(op.x, swap, name and f"{name}.turned")
        softmax = onnx.Softmax.make([turned], [turned.y.type], node_name=name, axis=last)
        rewriter.replace(op, [turned, softmax, transpose(softmax.y, swap, name and f"{name}.back")])


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
    """Applies canonicalisation and the patterns of this file until none fits; drops unused ops."""
    constants = Constants.of(ctx)
    rewrite(
        module,
        [
            *OnnxCanonicalization.get_canonicalization_patterns(),
            DropNeutral(constants),
            DivToMul(constants),
            SubToAdd(constants),
            RepeatedRounding(constants),
            ClipOfCodes(constants),
            GatherToSlice(constants),
            SoftmaxOverLast(),
            SplitToSlices(),
        ],
    )


@dataclass(frozen=True)
class SimplifyGraphPass(ModulePass):
    """Removes operations without effect and brings data movement into one form.

    Identity (Dropout), casts, reshapes, expands, slices, pads that change nothing, sums with 0
    and products with 1 go. Flatten, Squeeze and Unsqueeze become Reshape, consecutive reshapes
    and transposes merge, Split and single-index Gather become Slice, Softmax runs over the last
    axis, between transposes if need be; a Q/DQ pair on a value that is rounded the same way
    already goes, a constant is added rather than subtracted. All of that is exact; a division by a
    constant becomes a product, exact for powers of two.

        %0 = onnx.Identity %x
        %1 = onnx.Squeeze %0                       ->   %y = onnx.Reshape %x
        %y = onnx.Unsqueeze %1
    """

    name = "simplify-graph"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        simplify_graph(op, ctx)
