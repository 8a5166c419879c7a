"""Gathers MatMul, Gemm, bias and per-channel factors into linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from vit_opt.dialects import onnx
from vit_opt.dialects.onnx.base import integer, real, shape_of
from vit_opt.passes.float_graph import (
    Constants,
    as_row,
    feeds_only,
    label,
    node_name,
    producer,
    reshape,
    result_type,
    rewrite,
    rounding_like,
    transpose,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]


def linear(
    x: SSAValue,
    weight: Array,
    bias: Array | None,
    constants: Constants,
    *,
    key: str,
    name: str | None = None,
) -> list[Operation]:
    """Constants and the `onnx.Linear` (last) of a weight [N, K] and a bias [N].

    `key` names the weights in the asset store, `name` is the node name.
    """
    new: list[Operation] = [constants.make(weight, f"{key}.weight")]
    if bias is not None:
        new.append(constants.make(bias, f"{key}.bias"))
    type_ = result_type(x, (*shape_of(x)[:-1], weight.shape[0]))
    operands = [x, *(op.results[0] for op in new)]
    return [*new, onnx.Linear.make(operands, [type_], node_name=name)]


@dataclass
class MatMulToLinear(RewritePattern):
    """MatMul(x, W) -> Linear(x, W^T) for a constant matrix W[K, N] (or [1, .., K, N])."""

    constants: Constants

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: onnx.MatMul, rewriter: PatternRewriter) -> None:
        weight = self.constants.array(op.b)
        if weight is None or weight.ndim < 2 or weight.ndim > len(shape_of(op.y)):
            return
        if any(size != 1 for size in weight.shape[:-2]) or len(shape_of(op.a)) < weight.ndim:
            return
        matrix = weight.reshape(weight.shape[-2:]).T
        rewriter.replace(
            op, linear(op.a, matrix, None, self.constants, key=label(op), name=node_name(op))
        )


@dataclass
class LeftMatMulToLinear(RewritePattern):
    """MatMul(W, x) -> Transpose(Linear(Transpose(x), W)) for a constant matrix W[M, K]."""

    constants: Constants

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: onnx.MatMul, rewriter: PatternRewriter) -> None:
        weight = self.constants.array(op.a)
        rank = len(shape_of(op.b))
        if weight is None or weight.ndim != 2 or rank < 2:
            return
        swap = [*range(rank - 2), rank - 1, rank - 2]
        first = transpose(op.b, swap)
        core = linear(first.y, weight, None, self.constants, key=label(op), name=node_name(op))
        rewriter.replace(op, [first, *core, transpose(core[-1].results[0], swap)])


@dataclass
class GemmToLinear(RewritePattern):
    """Gemm(x, W, c) -> Linear(x, alpha W', beta c) for constant W, any transposition.

    A c that is no constant vector over the columns is multiplied by beta and added.
    """

    constants: Constants

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: onnx.Gemm, rewriter: PatternRewriter) -> None:
        import numpy as np

        weight = self.constants.array(op.b)
        if weight is None:
            return
        matrix = weight if integer(op.trans_b) else weight.T
        matrix = matrix * np.float32(real(op.alpha))
        before: list[Operation] = [transpose(op.a, [1, 0])] if integer(op.trans_a) else []
        x = before[0].results[0] if before else op.a
        beta = np.float32(real(op.beta))
        offset = self.constants.array(op.c)
        bias = None if offset is None else as_row(offset * beta, shape_of(op.y), 1)
        separate = op.c is not None and bias is None
        name = None if separate else node_name(op)
        core = linear(x, matrix, bias, self.constants, key=label(op), name=name)
        after: Sequence[Operation] = ()
        if separate:
            after = self._add(op, core[-1].results[0], beta)
        rewriter.replace(op, [*before, *core, *after])

    def _add(self, op: onnx.Gemm, y: SSAValue, beta: Any) -> Sequence[Operation]:
        """y + beta * c as operations of their own."""
        import numpy as np

        assert op.c is not None
        factor = self.constants.make(np.asarray(beta), f"{label(op)}.beta")
        scaled = onnx.Mul.make([op.c, factor], [op.c.type])
        total = onnx.Add.make([y, scaled], [op.y.type], node_name=node_name(op))
        return [factor, scaled, total]


def _linear_and_row(
    op: onnx.Add | onnx.Sub | onnx.Mul | onnx.Div, constants: Constants
) -> tuple[onnx.Linear, Array, Array, Array | None] | None:
    """The linear that `op` alone reads, the row it is combined with, its weight and its bias."""
    commutes = isinstance(op, onnx.Add | onnx.Mul)
    pairs = [tuple(op.inputs), tuple(reversed(op.inputs))] if commutes else [tuple(op.inputs)]
    for x, parameter in pairs:
        found = producer(x, onnx.Linear)
        array = constants.array(parameter)
        if found is None or array is None or shape_of(op.y) != shape_of(found.y):
            continue
        row = as_row(array, shape_of(found.y), -1)
        weight, bias = constants.array(found.w), constants.array(found.bias)
        if row is None or weight is None or (bias is None and found.bias is not None):
            continue
        if feeds_only(found.y, op):
            return found, row, weight, bias
    return None


@dataclass
class AddToBias(RewritePattern):
    """Linear(x, W, b) + c -> Linear(x, W, b + c) for a constant vector c over the channels."""

    constants: Constants

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, onnx.Add | onnx.Sub):
            return
        found = _linear_and_row(op, self.constants)
        if found is None:
            return
        old, row, _, bias = found
        row = -row if isinstance(op, onnx.Sub) else row
        total = row if bias is None else bias + row
        offset = self.constants.make(total, f"{label(old)}.bias")
        new = onnx.Linear.make([old.x, old.w, offset], [op.y.type], node_name=node_name(op))
        rewriter.replace(op, [offset, new])


@dataclass
class FactorToWeights(RewritePattern):
    """Linear(x, W, b) * c -> Linear(x, diag(c) W, c b) for a constant vector c (LayerScale).

    Scalars stay: `raise-attention` gathers those of attention scores.
    """

    constants: Constants

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, onnx.Mul | onnx.Div):
            return
        sizes = [array.size for v in op.inputs if (array := self.constants.array(v)) is not None]
        found = _linear_and_row(op, self.constants)
        if found is None or sizes == [1]:
            return
        old, row, weight, bias = found
        row = 1 / row if isinstance(op, onnx.Div) else row
        bias = None if bias is None else bias * row
        rewriter.replace(
            op,
            linear(
                old.x,
                weight * row[:, None],
                bias,
                self.constants,
                key=label(old),
                name=node_name(op),
            ),
        )


@dataclass
class BatchedLinear(RewritePattern):
    """Reshape(Linear(Reshape(x))) -> Reshape(Linear(x)) or Linear(Reshape(x)).

    The linear layer takes the leading dimensions of what comes out, if its channels come out
    whole, else of what goes in. A rounding between the layer and the reshape behind it stays.
    """

    constants: Constants

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: onnx.Reshape, rewriter: PatternRewriter) -> None:
        core = producer(op.x, onnx.Linear)
        if core is None or not feeds_only(core.y, op) or not isinstance(core.x.owner, onnx.Reshape):
            return
        x = core.x.owner.x
        (n, k), before, after = shape_of(core.w), shape_of(x), shape_of(op.y)
        if after[-1:] == (n,) and prod(after[:-1]) == prod(shape_of(core.y)[:-1]):
            lead = after[:-1]
        elif before[-1:] == (k,):
            lead = before[:-1]
        else:
            return
        new: list[Operation] = []
        if before != (*lead, k):
            new.append(reshape(x, (*lead, k), node_name(core.x.owner)))
            x = new[-1].results[0]
        type_ = result_type(core.y, (*lead, n))
        layer = onnx.Linear.make([x, *core.operands[1:]], [type_], node_name=node_name(core))
        new.append(layer)
        if isinstance(op.x.owner, onnx.DequantizeLinear):
            new += rounding_like(op.x.owner, layer.y, 1.0, self.constants)
        if after != (*lead, n):
            new.append(reshape(new[-1].results[0], after, node_name(op)))
        rewriter.replace(op, new)


def raise_linear(module: ModuleOp, ctx: Context) -> None:
    """Raises every product with a constant matrix to `onnx.Linear`, and folds what follows."""
    constants = Constants.of(ctx)
    rewrite(
        module,
        [
            MatMulToLinear(constants),
            LeftMatMulToLinear(constants),
            GemmToLinear(constants),
            AddToBias(constants),
            FactorToWeights(constants),
            BatchedLinear(constants),
        ],
    )


@dataclass(frozen=True)
class RaiseLinearPass(ModulePass):
    """Replaces MatMul and Gemm with constant matrices by `onnx.Linear` with weights [N, K].

    The bias Add and per-channel factors (LayerScale) behind it are folded into bias and weights,
    seen through the roundings of quantised models; reshapes around it that only merge tokens go.
    Equal up to float rounding. Assumes constants are folded.

        %0 = onnx.MatMul %x, %w
        %1 = onnx.Add %b, %0         ->   %y = onnx.Linear %x, %w', %b'
        %y = onnx.Mul %1, %gamma
    """

    name = "raise-linear"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        raise_linear(op, ctx)
