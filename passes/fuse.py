"""Pass `fuse`: fewer operations on fewer rows, and not one bit of a result changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType, UnitAttr
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
    op_type_rewrite_pattern,
)
from xdsl.rewriter import InsertPoint
from xdsl.transforms.canonicalize import CanonicalizationRewritePattern
from xdsl.transforms.common_subexpression_elimination import cse

from vit_opt.dialects.assets import AssetStore, VitContext, assets_of, attribute_array
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import QuantizedType
from vit_opt.dialects.vit.evaluate import evaluate_op
from vit_opt.dialects.vit.ops.base import VitOp, format_of, integers, shape_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class FusePass(ModulePass):
    """Rewrite locally where the integers stay the same: each pattern states its equation.

    Besides the canonicalisations: a turned second factor becomes `transpose_b`; rows that a slice
    throws away are not computed; limits and functions of single codes go into the tables beside
    them; what depends on constants only is computed here; equal operations become one.

        %t = vit.transpose %k {permutation = array<i64: 0, 2, 1>} : ...
        %s = vit.matmul %q, %t : ...         ->     %s = vit.matmul %q, %k {transpose_b} : ...
    """

    name = "fuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        fuse(op, assets_of(ctx), inline=None if isinstance(ctx, VitContext) else True)


def fuse(module: ModuleOp, store: AssetStore, inline: bool | None = None) -> None:
    """Fuse a module in place. New constants go into the store, or into the IR where `inline`."""
    constants = _Constants(store, inline)
    patterns: list[RewritePattern] = [
        CanonicalizationRewritePattern(),
        TransposeIntoMatmul(),
        GatherAsSlice(),
        SliceBeforeRows(),
        SliceBeforeTranspose(),
        SliceBeforeReshape(),
        SliceBeforeSoftmax(),
        DropIdleClamp(),
        MergeClamps(),
        TableOfFunction(constants),
        FunctionOfTable(constants),
        FoldConstants(constants),
    ]
    walker = PatternRewriteWalker(GreedyRewritePatternApplier(patterns))
    # Equal slices become one, which may let that one move on.
    while walker.rewrite_module(module):
        cse(module)


def _like(op: VitOp, operands: list[SSAValue], type_: Attribute) -> Operation:
    """The operation on other operands, with another result type."""
    return type(op).create(
        operands=operands,
        properties=dict(op.properties),
        attributes=dict(op.attributes),
        result_types=[type_],
    )


class TransposeIntoMatmul(RewritePattern):
    """matmul(a, transpose(b, p)) -> matmul(a, transpose(b, p')) {transpose_b toggled}.

    p' is p with its last two entries swapped. Done where p moves the last dimension of b away from
    the end and p' leaves it there, so that rows stay contiguous; often p' is the identity.
    """

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ops.MatmulOp, rewriter: PatternRewriter) -> None:
        turn = op.b.owner
        if not isinstance(turn, ops.TransposeOp):
            return
        permutation = integers(turn.permutation)
        if permutation[-2] != len(permutation) - 1:
            return
        swapped = (*permutation[:-2], permutation[-1], permutation[-2])
        b = ops.TransposeOp.of(turn.x, permutation=swapped, node_name=turn.node_name)
        new = _like(op, [op.a, b.result], op.result.type)
        if op.transpose_b is None:
            new.properties["transpose_b"] = UnitAttr()
        else:
            del new.properties["transpose_b"]
        rewriter.replace(op, [b, new])


class GatherAsSlice(RewritePattern):
    """gather(x, [i, i+1, ...]) -> slice x: consecutive indices."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ops.GatherOp, rewriter: PatternRewriter) -> None:
        indices, axis = integers(op.indices), op.axis.value.data
        if indices != tuple(range(indices[0], indices[0] + len(indices))):
            return
        offsets = [0] * len(shape_of(op.x))
        offsets[axis] = indices[0]
        sizes = shape_of(op.result)
        new = ops.SliceOp.of(
            op.x,
            offsets=offsets,
            sizes=sizes,
            strides=[1] * len(sizes),
            node_name=op.node_name,
        )
        rewriter.replace(op, new)


def _slice_like(op: ops.SliceOp, value: SSAValue) -> ops.SliceOp | None:
    """The part of an operand that a slice of an elementwise result needs; None for all of it.

    Dimensions count from the right, as numpy broadcasts; a dimension of size 1 is kept.
    """
    shape = shape_of(value)
    skip = len(shape_of(op.x)) - len(shape)
    fields = [integers(field)[skip:] for field in (op.offsets, op.sizes, op.strides)]
    for axis, size in enumerate(shape):
        if size == 1:
            fields = [
                (*field[:axis], plain, *field[axis + 1 :])
                for field, plain in zip(fields, (0, 1, 1), strict=True)
            ]
    offsets, sizes, strides = fields
    if sizes == shape:
        return None
    return ops.SliceOp.of(
        value, offsets=offsets, sizes=sizes, strides=strides, node_name=op.node_name
    )


ELEMENTWISE = (
    ops.PotRequantOp,
    ops.RequantOp,
    ops.ClampOp,
    ops.ReinterpretOp,
    ops.LutOp,
    ops.AddOp,
    ops.MulOp,
)
"""Each result element depends on the same element of the operands (the table of a lut aside)."""

ROWWISE = (ops.LayerNormOp, ops.LinearOp, ops.NormalizeOp, ops.MatmulOp)
"""Each result row depends on the same row of the first operand."""


class SliceBeforeRows(RewritePattern):
    """slice(f(x)) -> f(slice x), for f that works on elements or rows and is read by the slice only.

    For f that works on rows the last dimension must be whole, for a matmul all but the rows'. The
    class token of the last block is the case in point: one row instead of 197 through the MLP.
    """

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ops.SliceOp, rewriter: PatternRewriter) -> None:
        f = op.x.owner
        if not isinstance(f, (*ELEMENTWISE, *ROWWISE)) or not op.x.has_one_use():
            return
        whole, sizes = shape_of(op.x), integers(op.sizes)
        if isinstance(f, ROWWISE) and sizes[-1] != whole[-1]:
            return
        if isinstance(f, ops.MatmulOp) and sizes[:-2] != whole[:-2]:
            return
        count = 2 if isinstance(f, ops.AddOp | ops.MulOp | ops.NormalizeOp) else 1
        operands = list(f.operands)
        slices: list[Operation] = []
        for index, operand in enumerate(operands[:count]):
            part = _slice_operand(op, f, operand)
            if part is not None:
                slices.append(part)
                operands[index] = part.result
        rewriter.replace(op, [*slices, _like(f, operands, op.result.type)])


def _slice_operand(op: ops.SliceOp, f: VitOp, operand: SSAValue) -> ops.SliceOp | None:
    if not isinstance(f, ROWWISE):
        return _slice_like(op, operand)
    offsets, sizes, strides = (list(integers(v)) for v in (op.offsets, op.sizes, op.strides))
    sizes[-1] = shape_of(operand)[-1]
    return ops.SliceOp.of(
        operand, offsets=offsets, sizes=sizes, strides=strides, node_name=op.node_name
    )


class SliceBeforeTranspose(RewritePattern):
    """slice(transpose(x, p), o) -> transpose(slice(x, o[p^-1]), p)."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ops.SliceOp, rewriter: PatternRewriter) -> None:
        turn = op.x.owner
        if not isinstance(turn, ops.TransposeOp) or not op.x.has_one_use():
            return
        permutation = integers(turn.permutation)
        offsets, sizes, strides = (
            [integers(field)[permutation.index(axis)] for axis in range(len(permutation))]
            for field in (op.offsets, op.sizes, op.strides)
        )
        part = ops.SliceOp.of(
            turn.x, offsets=offsets, sizes=sizes, strides=strides, node_name=op.node_name
        )
        rewriter.replace(op, [part, _like(turn, [part.result], op.result.type)])


class SliceBeforeReshape(RewritePattern):
    """slice(reshape x) -> reshape(slice x), where only leading dimensions that stay are cut."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ops.SliceOp, rewriter: PatternRewriter) -> None:
        reshape = op.x.owner
        if not isinstance(reshape, ops.ReshapeOp) or not op.x.has_one_use():
            return
        before, after, sizes = shape_of(reshape.x), shape_of(op.x), integers(op.sizes)
        kept = 0
        while kept < min(len(before), len(after)) and before[kept] == after[kept]:
            kept += 1
        if sizes[kept:] != after[kept:]:
            return
        rest = len(before) - kept
        part = ops.SliceOp.of(
            reshape.x,
            offsets=(*integers(op.offsets)[:kept], *[0] * rest),
            sizes=(*sizes[:kept], *before[kept:]),
            strides=(*integers(op.strides)[:kept], *[1] * rest),
            node_name=op.node_name,
        )
        rewriter.replace(op, [part, _like(reshape, [part.result], op.result.type)])


class SliceBeforeSoftmax(RewritePattern):
    """slice p, slice sum of softmax_exp(s) -> softmax_exp(slice s), where both cut the same rows."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ops.SliceOp, rewriter: PatternRewriter) -> None:
        softmax = op.x.owner
        if not isinstance(softmax, ops.SoftmaxExpOp) or op.x is not softmax.p:
            return
        users = [use.operation for use in softmax.sum.uses]
        if not op.x.has_one_use() or len(users) != 1 or not isinstance(users[0], ops.SliceOp):
            return
        other, rows = users[0], slice(None, -1)
        if integers(op.sizes)[-1] != shape_of(op.x)[-1] or any(
            integers(mine)[rows] != integers(its)[rows]
            for mine, its in (
                (op.offsets, other.offsets),
                (op.sizes, other.sizes),
                (op.strides, other.strides),
            )
        ):
            return
        part = ops.SliceOp.of(
            softmax.s,
            offsets=op.offsets,
            sizes=op.sizes,
            strides=op.strides,
            node_name=op.node_name,
        )
        new = ops.SoftmaxExpOp.of(part.result, node_name=softmax.node_name)
        rewriter.insert([part, new], InsertPoint.before(softmax))
        rewriter.replace(other, (), (new.sum,))
        rewriter.replace(op, (), (new.p,))


class DropIdleClamp(RewritePattern):
    """clamp(x, min, max) -> x where every code of the storage lies within the limits."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ops.ClampOp, rewriter: PatternRewriter) -> None:
        if (op.min.value.data, op.max.value.data) == format_of(op.x).bounds:
            rewriter.replace(op, (), (op.x,))


class MergeClamps(RewritePattern):
    """clamp(clamp(x, a, b), c, d) -> clamp(x, clamp(a, c, d), clamp(b, c, d))."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ops.ClampOp, rewriter: PatternRewriter) -> None:
        inner = op.x.owner
        if not isinstance(inner, ops.ClampOp):
            return
        low, high = op.min.value.data, op.max.value.data
        limits = [
            min(max(bound, low), high) for bound in (inner.min.value.data, inner.max.value.data)
        ]
        merged = ops.ClampOp(inner.x, *limits, node_name=op.node_name)
        rewriter.replace(op, merged)


FUNCTIONS = (ops.PotRequantOp, ops.RequantOp, ops.ClampOp, ops.ReinterpretOp, ops.LutOp)
"""Functions of single codes that may be tabulated."""


@dataclass(frozen=True)
class _Constants:
    """Reading and making constants."""

    store: AssetStore
    inline: bool | None

    def array(self, value: SSAValue) -> NDArray[Any] | None:
        """The codes of a constant, None for another value."""
        owner = value.owner
        if not isinstance(owner, ops.ConstantOp):
            return None
        return attribute_array(self.store, cast("Attribute", owner.value))

    def make(self, op: VitOp, codes: NDArray[Any], format_: QuantizedType) -> ops.ConstantOp:
        """A constant that takes the place of an operation's result."""
        key = op.node_name.data if op.node_name is not None else op.name
        return ops.ConstantOp.make(self.store, key, codes, format_, inline=self.inline)


def _per_tensor(*values: SSAValue) -> bool:
    return not any(format_of(value).is_per_channel for value in values)


def _tabulated(constants: _Constants, f: VitOp, codes: NDArray[Any]) -> NDArray[Any] | None:
    """f of each of some codes; None if f is an interpolation or its table is not constant."""
    operands = [codes]
    if isinstance(f, ops.LutOp):
        table = constants.array(f.table)
        if table is None or table.size != 256:
            return None
        operands.append(table)
    return evaluate_op(f, operands)[0]


@dataclass(frozen=True)
class TableOfFunction(RewritePattern):
    """lut(f(x), t) -> lut(x, t[f]) for f of single 8-bit codes, read by the table only."""

    constants: _Constants

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ops.LutOp, rewriter: PatternRewriter) -> None:
        import numpy as np

        f, table = op.x.owner, self.constants.array(op.table)
        if not isinstance(f, FUNCTIONS) or not op.x.has_one_use():
            return
        if table is None or table.size != 256 or not _per_tensor(f.x, op.x):
            return
        low, high = format_of(f.x).bounds
        if high - low != 255:
            return
        middle = _tabulated(self.constants, f, np.arange(low, high + 1))
        if middle is None:
            return
        self._replace(op, f.x, evaluate_op(op, [middle, table])[0], rewriter)

    def _replace(
        self, op: ops.LutOp, x: SSAValue, codes: NDArray[Any], rewriter: PatternRewriter
    ) -> None:
        table = self.constants.make(op, codes, format_of(op.table))
        new = ops.LutOp.of(x, table.result, node_name=op.node_name)
        rewriter.replace(op, [table, new])


@dataclass(frozen=True)
class FunctionOfTable(RewritePattern):
    """f(lut(x, t)) -> lut(x, f(t)) for f of single codes, where only f reads the table's result.

    Not for interpolated tables: interpolation and f do not commute.
    """

    constants: _Constants

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, FUNCTIONS):
            return
        inner = op.x.owner
        if not isinstance(inner, ops.LutOp) or not op.x.has_one_use():
            return
        table = self.constants.array(inner.table)
        width = format_of(op.result).storage.width.data
        if table is None or table.size != 256 or width not in (8, 16):
            return
        if not _per_tensor(op.x, op.result):
            return
        codes = _tabulated(self.constants, op, table)
        if codes is None:
            return
        made = self.constants.make(op, codes, format_of(op.result))
        new = ops.LutOp.of(inner.x, made.result, node_name=op.node_name)
        rewriter.replace(op, [made, new])


@dataclass(frozen=True)
class FoldConstants(RewritePattern):
    """f(constants) -> a constant."""

    constants: _Constants

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, VitOp) or not op.operands or len(op.results) != 1:
            return
        result = cast("TensorType[Attribute]", op.results[0].type)
        format_ = result.get_element_type()
        if not isinstance(format_, QuantizedType):
            return
        arrays: list[NDArray[Any]] = []
        for operand in op.operands:
            array = self.constants.array(operand)
            if array is None:
                return
            arrays.append(array)
        rewriter.replace(op, self.constants.make(op, evaluate_op(op, arrays)[0], format_))
