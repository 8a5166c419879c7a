"""Activations as unsigned bytes, where packed products read them.

The instructions behind packed products take one unsigned operand. A signed 8-bit code c with zero
point z stands for the same number as the unsigned code c + 128 with zero point z + 128, and
saturation moves along, so that a producer may as well store the unsigned code: an exact rewrite of
types, after which no kernel has to copy the rows that it multiplies.
"""

from __future__ import annotations

from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue, Use

from vit_opt.backends.c.packed import is_depthwise, is_grouped
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, QuantizedType, ScaledType, is_unsigned
from vit_opt.dialects.vit.ops.base import tensor_type

PRODUCERS = (ops.PotRequantOp, ops.RequantOp, ops.LayerNormOp, ops.NormalizeOp, ops.LinearAttnOp)
"""Operations that give any 8-bit format."""

MOVES = (ops.ReshapeOp, ops.ReinterpretOp, ops.TransposeOp, ops.SliceOp, ops.ConcatOp)
"""Operations whose result has the format of their operand."""


def use_unsigned_operands(function: FuncOp) -> None:
    """Let products read unsigned bytes wherever that is exact."""
    for op in function.walk():
        if not isinstance(op, PRODUCERS):
            continue
        element = tensor_type(op.result).get_element_type()
        if not isinstance(element, QuantizedType) or not _is_signed_byte(element):
            continue
        moves: set[Operation] = set()
        uses = list(op.result.uses)
        if not uses or not all(_takes_unsigned(use, moves) for use in uses):
            continue
        if all(x.owner is op or x.owner in moves for move in moves for x in move.operands):
            op.infer(unsigned_format(element))
            for move in function.walk():
                if move in moves and isinstance(move, ops.VitOp):
                    move.infer()


def _is_signed_byte(format_: QuantizedType) -> bool:
    return format_.storage.width.data == 8 and not is_unsigned(format_.storage)


def _takes_unsigned(use: Use, moves: set[Operation]) -> bool:
    """Whether a use is the activation of a product with weights, maybe by way of moves.

    The moves that are found are added to `moves`; each is followed once.
    """
    op: Operation = use.operation
    if isinstance(op, ops.LinearOp):
        return use.index == 0 and _is_constant(op.weight)
    if isinstance(op, ops.Conv2dOp):
        packed = op.groups.value.data == 1 or is_depthwise(op) or is_grouped(op)
        return use.index == 0 and _is_constant(op.weight) and packed
    if isinstance(op, MOVES):
        if op in moves:
            return True
        moves.add(op)
        uses = list(op.result.uses)
        return bool(uses) and all(_takes_unsigned(inner, moves) for inner in uses)
    return False


def _is_constant(value: SSAValue) -> bool:
    return isinstance(value.owner, ops.ConstantOp)


def unsigned_format(format_: QuantizedType) -> QuantizedType:
    """The format of unsigned bytes for the same numbers as one of signed bytes."""
    zero_point = format_.zero_point + 128
    axis = format_.channel_axis
    if isinstance(format_, FixedType):
        fracs = format_.channel_fracs() if axis is not None else format_.frac
        return FixedType("ui8", fracs, zero_point, axis)
    assert isinstance(format_, ScaledType)
    scales = format_.channel_scales()
    return ScaledType("ui8", scales if axis is not None else float(scales), zero_point, axis)
