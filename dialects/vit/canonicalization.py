"""Rewrites of `vit` operations that change no bit.

Each pattern states its equation. A pattern that does not apply returns.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from xdsl.dialects.builtin import BytesAttr, DenseIntOrFPElementsAttr, TensorType
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from vit_opt.dialects.vit.attributes import FixedType, QuantizedType
from vit_opt.dialects.vit.ops.base import (
    format_of,
    i64_array,
    integers,
    shape_of,
    tensor_type,
)
from vit_opt.dialects.vit.ops.border import ConstantOp
from vit_opt.dialects.vit.ops.movement import (
    ConcatOp,
    GatherOp,
    PadOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    reshaped_format,
)
from vit_opt.dialects.vit.ops.nonlinear import LutOp
from vit_opt.dialects.vit.ops.requant import PotRequantOp

if TYPE_CHECKING:
    from numpy.typing import NDArray


class DropIdentityRequant(RewritePattern):
    """pot_requant x -> x where source and result have the same format."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: PotRequantOp, rewriter: PatternRewriter) -> None:
        if op.x.type == op.result.type:
            rewriter.replace(op, (), (op.x,))


class MergeRequantIntoWider(RewritePattern):
    """pot_requant(pot_requant x) -> pot_requant x where the inner one loses nothing.

    The inner one is exact when it only shifts left (e_mid >= e_in, for every channel) into a
    storage that holds every shifted code; then round((x << a) / 2^b) = round(x / 2^(b - a)).
    """

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: PotRequantOp, rewriter: PatternRewriter) -> None:
        inner = op.x.owner
        if not isinstance(inner, PotRequantOp):
            return
        source, middle = format_of(inner.x), format_of(inner.result)
        assert isinstance(source, FixedType) and isinstance(middle, FixedType)
        gain = middle.channel_fracs() - source.channel_fracs()
        if (gain < 0).any() or int(gain.max()) > 64:
            return
        target = format_of(op.result)
        axes = {f.channel_axis for f in (source, target) if f.is_per_channel}
        (low, high), (floor, ceiling) = source.bounds, middle.bounds
        factor, zero = 1 << int(gain.max()), source.zero_point
        widest = [(bound - zero) * factor + middle.zero_point for bound in (low, high)]
        if len(axes) > 1 or min(widest) < floor or max(widest) > ceiling:
            return
        rewriter.replace(
            op,
            PotRequantOp(
                operands=[inner.x],
                properties={"rounding": op.rounding, "node_name": op.node_name},
                result_types=[op.result.type],
            ),
        )


def inline_codes(constant: ConstantOp) -> NDArray[Any] | None:
    """The codes of a constant that is spelled out in the IR, else None."""
    from vit_opt.dialects.assets import AssetStore, attribute_array

    if not isinstance(constant.value, DenseIntOrFPElementsAttr):
        return None
    return attribute_array(AssetStore(), constant.value)


def inline_constant(type_: TensorType[Attribute], codes: NDArray[Any]) -> ConstantOp:
    """A constant of codes that is spelled out in the IR."""
    from vit_opt.dialects.assets import dtype_of

    element = type_.get_element_type()
    assert isinstance(element, QuantizedType)
    stored = codes.astype(dtype_of(element.storage))
    held = TensorType(element.storage, codes.shape)
    value = DenseIntOrFPElementsAttr(held, BytesAttr(stored.tobytes()))
    return ConstantOp(operands=[], properties={"value": value}, result_types=[type_])


class FoldRequantOfConstant(RewritePattern):
    """pot_requant(constant) -> constant, for constants spelled out in the IR."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: PotRequantOp, rewriter: PatternRewriter) -> None:
        from vit_opt.dialects.vit.evaluate import evaluate_op

        if not isinstance(op.x.owner, ConstantOp):
            return
        codes = inline_codes(op.x.owner)
        if codes is None:
            return
        rewriter.replace(op, inline_constant(tensor_type(op.result), evaluate_op(op, [codes])[0]))


class ComposeTables(RewritePattern):
    """lut(lut(x, s), t) -> lut(x, t[s]) for 8-bit tables spelled out in the IR."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: LutOp, rewriter: PatternRewriter) -> None:
        from vit_opt.dialects.vit.evaluate import evaluate_op

        inner = op.x.owner
        if not isinstance(inner, LutOp) or format_of(op.x).storage.width.data != 8:
            return
        if not isinstance(inner.table.owner, ConstantOp) or not isinstance(
            op.table.owner, ConstantOp
        ):
            return
        first, second = inline_codes(inner.table.owner), inline_codes(op.table.owner)
        if first is None or second is None or first.size != 256:
            return
        table = inline_constant(tensor_type(op.table), evaluate_op(op, [first, second])[0])
        composed = LutOp(
            operands=[inner.x, table.result],
            properties={"node_name": op.node_name},
            result_types=[op.result.type],
        )
        rewriter.replace(op, [table, composed])


class DropIdentityMovement(RewritePattern):
    """A movement whose result equals its operand -> the operand.

    Reshape to the same shape, identity permutation, full slice, concatenation of one, no padding.
    """

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        identity = False
        match op:
            case ReshapeOp() | SliceOp():
                identity = shape_of(op.operands[0]) == shape_of(op.results[0])
            case TransposeOp():
                permutation = integers(op.permutation)
                identity = list(permutation) == list(range(len(permutation)))
            case ConcatOp():
                identity = len(op.xs) == 1
            case PadOp():
                identity = not any((*integers(op.low), *integers(op.high)))
            case GatherOp():
                size = shape_of(op.x)[op.axis.value.data]
                identity = list(integers(op.indices)) == list(range(size))
            case _:
                return
        if identity and op.operands[0].type == op.results[0].type:
            rewriter.replace(op, (), (op.operands[0],))


def reshape_like(op: ReshapeOp | TransposeOp, source: SSAValue) -> ReshapeOp:
    """A reshape of another value that takes the place of an operation."""
    return ReshapeOp(
        operands=[source], properties={"node_name": op.node_name}, result_types=[op.result.type]
    )


class MergeReshapes(RewritePattern):
    """reshape(reshape x) -> reshape x."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ReshapeOp, rewriter: PatternRewriter) -> None:
        if not isinstance(op.x.owner, ReshapeOp):
            return
        source, target = op.x.owner.x, tensor_type(op.result)
        derived = reshaped_format(tensor_type(source), target.get_shape())
        if derived == target.get_element_type():
            rewriter.replace(op, reshape_like(op, source))


class MergeTransposes(RewritePattern):
    """transpose(transpose(x, p), q) -> transpose(x, p[q])."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: TransposeOp, rewriter: PatternRewriter) -> None:
        inner = op.x.owner
        if not isinstance(inner, TransposeOp):
            return
        first, second = integers(inner.permutation), integers(op.permutation)
        merged = TransposeOp(
            operands=[inner.x],
            properties={
                "permutation": i64_array([first[i] for i in second]),
                "node_name": op.node_name,
            },
            result_types=[op.result.type],
        )
        rewriter.replace(op, merged)


class TransposeAsReshape(RewritePattern):
    """transpose x -> reshape x where only dimensions of size 1 change places."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: TransposeOp, rewriter: PatternRewriter) -> None:
        shape, permutation = shape_of(op.x), integers(op.permutation)
        moved = [axis for axis in permutation if shape[axis] != 1]
        if moved != sorted(moved) or list(permutation) == sorted(permutation):
            return
        target = tensor_type(op.result)
        if reshaped_format(tensor_type(op.x), target.get_shape()) == target.get_element_type():
            rewriter.replace(op, reshape_like(op, op.x))


class FlattenTransposedImage(RewritePattern):
    """transpose(reshape(transpose(x, NHWC -> NCHW), [N, C, H*W]), [0, 2, 1]) -> reshape x.

    Turning an image channel first, flattening it and turning the tokens back is no movement.
    """

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: TransposeOp, rewriter: PatternRewriter) -> None:
        if integers(op.permutation) != (0, 2, 1) or not isinstance(op.x.owner, ReshapeOp):
            return
        reshape = op.x.owner
        turn = reshape.x.owner
        if not isinstance(turn, TransposeOp) or integers(turn.permutation) != (0, 3, 1, 2):
            return
        n, c, h, w = shape_of(turn.result)
        if shape_of(reshape.result) != (n, c, h * w) or prod((h, w)) == 0:
            return
        target = tensor_type(op.result)
        if reshaped_format(tensor_type(turn.x), target.get_shape()) == target.get_element_type():
            rewriter.replace(op, reshape_like(op, turn.x))
