"""Transposed convolutions as ordinary ones: one for each phase of the stride.

Output pixels whose place is the same modulo the stride meet the same taps, and neighbours among them
meet neighbouring input pixels. So with strides s the result is s_h * s_w ordinary convolutions of the
input with every s-th tap, their pixels interleaved: no zeros are multiplied, and packed kernels apply.

    y = conv_transpose2d(x, w)          y_ab = conv2d(x, w[:, ::s, ::s] mirrored)      a, b < s
    z = elementwise(y)             ->   z_ab = elementwise(y_ab)
                                        z = the z_ab, interleaved by concatenation
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from vit_opt.dialects.assets import AssetStore, attribute_array
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import QuantizedType
from vit_opt.dialects.vit.ops.base import format_of, integers, shape_of, tensor_type

Array: TypeAlias = NDArray[Any]

ELEMENTWISE = (ops.PotRequantOp, ops.RequantOp, ops.LutOp, ops.ClampOp)
"""Operations that a phase takes along: the first operand element by element, others constant."""


@dataclass(frozen=True)
class Phase:
    """The taps that outputs of one phase meet along one dimension."""

    taps: tuple[int, ...]
    """Of the transposed convolution, in the order in which the ordinary one reads its input."""
    before: int
    after: int
    """Padding at both ends."""


def split_transposed_convolutions(function: FuncOp, store: AssetStore) -> None:
    """Replace the transposed convolutions of a function whose phases are ordinary convolutions."""
    for op in list(function.walk()):
        if isinstance(op, ops.ConvTranspose2dOp) and op.groups.value.data == 1:
            weight = op.weight.owner
            rows, columns = (_phases(op, axis) for axis in (0, 1))
            if isinstance(weight, ops.ConstantOp) and rows and columns:
                codes = attribute_array(store, weight.value).reshape(shape_of(op.weight))
                _split(op, codes, rows, columns)


def _phases(op: ops.ConvTranspose2dOp, axis: int) -> list[Phase] | None:
    """The phases along rows (0) or columns (1); None if one of them is no padded convolution."""
    size, kernel = shape_of(op.x)[1 + axis], shape_of(op.weight)[1 + axis]
    out, stride = shape_of(op.result)[1 + axis], integers(op.strides)[axis]
    if out % stride or kernel < stride:
        return None
    found: list[Phase] = []
    for place in range(stride):
        skipped, first = divmod(place + integers(op.pads)[axis], stride)
        taps = tuple(range(first, kernel, stride))[::-1]
        before = len(taps) - 1 - skipped
        after = out // stride - size + len(taps) - 1 - before
        if before < 0 or after < 0:
            return None
        found.append(Phase(taps, before, after))
    return found


def _split(
    op: ops.ConvTranspose2dOp, codes: Array, rows: Sequence[Phase], columns: Sequence[Phase]
) -> None:
    chain = list(_followers(op.result))
    last = chain[-1].results[0] if chain else op.result
    if shape_of(last)[-1] == 1 and format_of(last).is_per_channel:
        return  # its axis would be taken for one of those along which phases are joined
    format_ = tensor_type(op.weight).get_element_type()
    assert isinstance(format_, QuantizedType)
    parts: list[SSAValue] = []
    made: list[Operation] = []
    for row, column in product(rows, columns):
        taps = np.ascontiguousarray(codes[:, row.taps][:, :, column.taps])
        weight = ops.ConstantOp.make(AssetStore(), "phase", taps, format_, inline=True)
        conv = ops.Conv2dOp.of(
            op.x,
            weight.result,
            op.bias,
            strides=[1, 1],
            pads=[row.before, column.before, row.after, column.after],
            dilations=[1, 1],
            groups=1,
            node_name=op.node_name,
        )
        made += [weight, conv]
        value: SSAValue = conv.result
        for each in chain:
            copy = each.clone({each.operands[0]: value})
            assert isinstance(copy, ops.VitOp)
            copy.infer()
            made.append(copy)
            value = copy.results[0]
        parts.append(value)
    whole = _interleaved(parts, len(columns), made)
    after = chain[-1] if chain else op
    Rewriter.insert_op(made, InsertPoint.after(after))
    last.replace_all_uses_with(whole)
    for each in (*reversed(chain), op):
        Rewriter.erase_op(each)


def _followers(value: SSAValue) -> Iterator[ops.VitOp]:
    """The operations on single elements that alone read a value, one after the other."""
    while True:
        uses = list(value.uses)
        user = uses[0].operation if len(uses) == 1 else None
        if not isinstance(user, ELEMENTWISE) or uses[0].index != 0:
            return
        if any(not isinstance(other.owner, ops.ConstantOp) for other in user.operands[1:]):
            return
        yield user
        value = user.results[0]


def _interleaved(parts: Sequence[SSAValue], columns: int, made: list[Operation]) -> SSAValue:
    """Phases [N, H, W, C], those of a row together, as one [N, H * rows, W * columns, C]."""
    n, height, width, channels = shape_of(parts[0])
    split = (n, height, 1, width, 1, channels)
    lines: list[SSAValue] = []
    for first in range(0, len(parts), columns):
        line = [ops.ReshapeOp.of(p, shape=split) for p in parts[first : first + columns]]
        joined = ops.ConcatOp.of(*(each.result for each in line), axis=4)
        made += [*line, joined]
        lines.append(joined.result)
    whole = ops.ConcatOp.of(*lines, axis=2)
    rows = len(parts) // columns
    shaped = ops.ReshapeOp.of(whole.result, shape=(n, height * rows, width * columns, channels))
    made += [whole, shaped]
    return shaped.result
