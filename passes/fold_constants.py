"""Computes what depends on constants alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation
from xdsl.passes import ModulePass

from vit_opt.dialects.onnx import Constant, DequantizeLinear, Expand, OnnxOp, Tile
from vit_opt.dialects.onnx.base import shape_of
from vit_opt.passes.float_graph import Constants, blocks, erase_dead, label

LARGEST_GROWTH = 1 << 20
"""Expand and Tile are folded up to this many elements; beyond, they stay operations."""


def fold_constants(module: ModuleOp, ctx: Context) -> None:
    """Replaces every operation with constant operands by its result."""
    constants = Constants.of(ctx)
    for block in blocks(module):
        _fold_block(block, constants)


def _fold_block(block: Block, constants: Constants) -> None:
    from vit_opt.dialects.onnx.semantics import evaluate

    for op in list(block.ops):
        if not _foldable(op):
            continue
        operands = [constants.array(operand) for operand in op.operands]
        known = [array for array in operands if array is not None]
        if len(known) < len(operands):
            continue
        for index, array in enumerate(evaluate(op, known, constants.store)):
            suffix = f".{index}" if len(op.results) > 1 else ""
            new = constants.make(array, _key(op) + suffix)
            block.insert_op_before(new, op)
            op.results[index].replace_all_uses_with(new.y)
    erase_dead(block)


def _foldable(op: Operation) -> bool:
    if not isinstance(op, OnnxOp) or isinstance(op, Constant) or not op.operands:
        return False
    grows = isinstance(op, Expand | Tile)
    return not grows or prod(shape_of(op.results[0])) <= LARGEST_GROWTH


def _key(op: Operation) -> str:
    """The name of the folded constant: that of the weight for a dequantised weight."""
    owner = op.operands[0].owner
    if isinstance(op, DequantizeLinear) and isinstance(owner, Constant):
        return label(owner).removesuffix("_quantized")
    return label(op)


@dataclass(frozen=True)
class FoldConstantsPass(ModulePass):
    """Replaces operations whose operands are all constants by their value.

    Among them are the DequantizeLinear of int8 weights: the dequantised weight becomes the float
    master that later passes work on. Values agree with the interpreter bit for bit, since it is
    the interpreter that computes them. Expand and Tile that make more than 2^20 elements stay.

        %0 = onnx.DequantizeLinear %w8, %scale  ->  %1 = onnx.Constant dense<...>
        %1 = onnx.Transpose %0 {perm = [1, 0]}
    """

    name = "fold-constants"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        fold_constants(op, ctx)
