"""Folds batch normalisation, and per-channel factors and offsets, into convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.onnx.base import integer, real, shape_of
from vit_opt.passes.float_graph import (
    Constants,
    as_row,
    feeds_only,
    label,
    node_name,
    producer,
    rewrite,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]


@dataclass
class BatchNormToAffine(RewritePattern):
    """(x - mean) / sqrt(var + eps) * scale + bias -> x * a + b per channel.

    a = scale / sqrt(var + eps), b = bias - mean * a, computed in float64.
    """

    constants: Constants

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: onnx.BatchNormalization, rewriter: PatternRewriter) -> None:
        import numpy as np

        arrays = [self.constants.array(v) for v in (op.scale, op.bias, op.mean, op.var)]
        scale, bias, mean, var = (None if a is None else a.astype(np.float64) for a in arrays)
        if scale is None or bias is None or mean is None or var is None:
            raise VitError(f"{label(op)}: BatchNormalization with computed parameters")
        factor = scale / np.sqrt(var + real(op.epsilon))
        offset = bias - mean * factor
        shape = (1, -1, *[1] * (len(shape_of(op.x)) - 2))
        a = self.constants.make(factor.reshape(shape), f"{label(op)}.factor")
        b = self.constants.make(offset.reshape(shape), f"{label(op)}.offset")
        product = onnx.Mul.make([op.x, a], [op.y.type], node_name=f"{label(op)}.scale")
        total = onnx.Add.make([product, b], [op.y.type], node_name=node_name(op))
        rewriter.replace(op, [a, b, product, total])


@dataclass
class FoldFactor(RewritePattern):
    """Conv(x, w, b) * a -> Conv(x, w * a, b * a) for a factor per output channel."""

    constants: Constants

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, onnx.Mul | onnx.Div):
            return
        found = _channel_operand(op, self.constants)
        if found is None:
            return
        conv, factor = found
        if isinstance(op, onnx.Div):
            factor = 1 / factor
        weight = self.constants.array(conv.w)
        if weight is None:
            return
        weight = weight * _over_outputs(conv, factor, weight)
        bias = self.constants.array(conv.bias)
        if conv.bias is not None and bias is None:
            return
        bias = None if bias is None else bias * factor
        rewriter.replace(op, _with_weights(conv, weight, bias, op, self.constants))


@dataclass
class FoldOffset(RewritePattern):
    """Conv(x, w, b) + c -> Conv(x, w, b + c) for an offset per output channel."""

    constants: Constants

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, onnx.Add | onnx.Sub):
            return
        found = _channel_operand(op, self.constants)
        if found is None:
            return
        conv, offset = found
        offset = -offset if isinstance(op, onnx.Sub) else offset
        bias = self.constants.array(conv.bias)
        if conv.bias is not None and bias is None:
            return
        total = offset if bias is None else bias + offset
        rewriter.replace(op, _with_weights(conv, None, total, op, self.constants))


Convolution: TypeAlias = "onnx.Conv | onnx.ConvTranspose"


def _channel_operand(
    op: onnx.Mul | onnx.Div | onnx.Add | onnx.Sub, constants: Constants
) -> tuple[Convolution, Array] | None:
    """The convolution whose result `op` alone uses, and the constant vector over its channels."""
    commutes = isinstance(op, onnx.Mul | onnx.Add)
    pairs = [tuple(op.inputs), tuple(reversed(op.inputs))] if commutes else [tuple(op.inputs)]
    for x, parameter in pairs:
        conv = producer(x, onnx.Conv, onnx.ConvTranspose)
        array = constants.array(parameter)
        if conv is None or array is None or shape_of(op.y) != shape_of(conv.y):
            continue
        row = as_row(array, shape_of(conv.y), 1)
        if row is not None and feeds_only(conv.y, op):
            return conv, row
    return None


def _over_outputs(conv: Convolution, vector: Array, weight: Array) -> Array:
    """A vector over output channels, shaped to multiply the weight: OIHW, or [C, O/g] per group."""
    if isinstance(conv, onnx.Conv):
        return vector.reshape(-1, 1, 1, 1)
    groups = integer(conv.group)
    per_input = vector.reshape(groups, -1).repeat(weight.shape[0] // groups, axis=0)
    return per_input[:, :, None, None]


def _with_weights(
    conv: Convolution,
    weight: Array | None,
    bias: Array | None,
    root: Operation,
    constants: Constants,
) -> list[Operation]:
    """The convolution with other weights and bias, in place of `root` and under its name."""
    name = label(conv)
    new: list[Operation] = []
    w: SSAValue = conv.w
    if weight is not None:
        new.append(constants.make(weight, f"{name}.weight"))
        w = new[-1].results[0]
    operands = [conv.x, w]
    if bias is not None:
        new.append(constants.make(bias, f"{name}.bias"))
        operands.append(new[-1].results[0])
    folded = type(conv).create(
        operands=operands,
        result_types=[conv.y.type],
        properties=dict(conv.properties),
        attributes=dict(root.attributes or conv.attributes),
    )
    return [*new, folded]


def fold_batch_norm(module: ModuleOp, ctx: Context) -> None:
    """Folds batch norms and per-channel Mul and Add into the convolutions before them.

    Raises VitError for a batch norm whose parameters are not constants.
    """
    constants = Constants.of(ctx)
    rewrite(module, [BatchNormToAffine(constants), FoldFactor(constants), FoldOffset(constants)])


@dataclass(frozen=True)
class FoldBatchNormPass(ModulePass):
    """Folds BatchNormalization, and per-channel Mul and Add, into the convolution before it.

    Equal up to float rounding of the weights. A batch norm without a convolution before it
    becomes a Mul and an Add per channel; after a linear layer, `raise-linear` folds those.

        %0 = onnx.Conv %x, %w, %b                      ->   %y = onnx.Conv %x, %w', %b'
        %y = onnx.BatchNormalization %0, %s, %t, %m, %v
    """

    name = "fold-batch-norm"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        fold_batch_norm(op, ctx)
