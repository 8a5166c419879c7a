"""Data movement put where kernels can do it on the side: exact rewrites before grouping.

Exporters of models with channels first leave transposes around whatever works on channels last. Here
they move behind concatenations, where a later reader may read through them:

    concat(transpose(a), transpose(b))  ->  transpose(concat(a, b))
    mean(transpose(a))                  ->  reshape(mean(a)), where what is kept stays in order

Pipelines are dissolved before: their schedules say nothing that C needs, and what they separate may
belong together.
"""

from __future__ import annotations

from xdsl.dialects.func import FuncOp
from xdsl.rewriter import InsertPoint, Rewriter

from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.base import format_of, integers, shape_of


def dissolve_pipelines(function: FuncOp) -> None:
    """Put the operations of every pipeline in its place."""
    for op in list(function.walk()):
        if isinstance(op, ops.PipelineOp):
            results = list(op.terminator.values)
            Rewriter.erase_op(op.terminator)
            Rewriter.inline_block(op.body.block, InsertPoint.before(op))
            Rewriter.replace_op(op, [], results)


def concatenate_before_transposes(function: FuncOp) -> None:
    """Join operands that are all transposed alike, and for this alone, before they are transposed."""
    for op in list(function.walk()):
        if not isinstance(op, ops.ConcatOp):
            continue
        moves = [x.owner for x in op.xs]
        transposes = [move for move in moves if isinstance(move, ops.TransposeOp)]
        permutations = {integers(move.permutation) for move in transposes}
        alone = all(len(list(move.result.uses)) == 1 for move in transposes)
        if len(transposes) < len(moves) or len(permutations) != 1 or not alone:
            continue
        (permutation,) = permutations
        joined = ops.ConcatOp.of(
            *(move.x for move in transposes),
            axis=permutation[op.axis.value.data],
            node_name=op.node_name,
        )
        moved = ops.TransposeOp.of(joined.result, permutation=permutation)
        Rewriter.insert_op([joined, moved], InsertPoint.before(op))
        op.result.replace_all_uses_with(moved.result)
        for each in (op, *transposes):
            Rewriter.erase_op(each)


def average_before_transposes(function: FuncOp) -> None:
    """Let means read what was transposed, if the dimensions that they keep stay in order."""
    for op in list(function.walk()):
        if not isinstance(op, ops.MeanOp) or not isinstance(op.x.owner, ops.TransposeOp):
            continue
        move = op.x.owner
        permutation, axes = integers(move.permutation), integers(op.axes)
        shape = shape_of(op.x)
        kept = [permutation[i] for i in range(len(shape)) if i not in axes and shape[i] != 1]
        if kept != sorted(kept):
            continue
        mean = ops.MeanOp.of(
            move.x,
            type=format_of(op.result),
            axes=sorted(permutation[axis] for axis in axes),
            keepdims=True,
            node_name=op.node_name,
        )
        shaped = ops.ReshapeOp.of(mean.result, shape=shape_of(op.result))
        Rewriter.insert_op([mean, shaped], InsertPoint.before(op))
        op.result.replace_all_uses_with(shaped.result)
        Rewriter.erase_op(op)
        if not list(move.result.uses):
            Rewriter.erase_op(move)
