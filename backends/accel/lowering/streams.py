"""Images that flow through several layers in parts, so that only a few exist at a time.

A convolution, or a function of single pixels, needs a few rows of its input for a row of its
result. Where all readers of an image are such, it is made as they read it: the last layer of the
chain asks for rows, its input for rows of its own input, and so on up to the first. The expanded
tensor of an inverted bottleneck never exists as a whole, depthwise convolutions run beside the
pointwise ones of neighbouring rows, and a layer that the tables delay overlaps with one that the
multipliers delay, many layers further on.

An image of a few rows is not cut so. It flows in panels of channels to convolutions, which load their
weights meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable

from xdsl.ir import Operation, SSAValue

from vit_opt.backends.accel.lowering.context import Lowering
from vit_opt.backends.accel.lowering.tensors import value_shape
from vit_opt.dialects.vit import ops
from vit_opt.passes.mapping import is_image, is_small_image

ROWWISE = (
    ops.Conv2dOp,
    ops.PotRequantOp,
    ops.AddOp,
    ops.MulOp,
    ops.LutOp,
    ops.ClampOp,
    ops.ShiftGeluOp,
)
"""Operations that make an image from rows of images."""


def stream_reader(lowering: Lowering, value: SSAValue) -> Operation | None:
    """The last reader of an image if all readers take it row by row; None if it is made at once."""
    if not lowering.pipelines.inter or not is_image(value_shape(value)):
        return None
    readers = lowering.users.get(value, [])
    if not readers or not all(_takes_rows(lowering, reader, value) for reader in readers):
        return None
    return max(readers, key=lambda reader: lowering.position[reader])


def panel_reader(lowering: Lowering, value: SSAValue) -> Operation | None:
    """The last reader of a small image if all its readers are convolutions; else None."""
    if not lowering.pipelines.inter or not is_small_image(value_shape(value)):
        return None
    readers = lowering.users.get(value, [])
    if not readers or not all(_convolves(lowering, reader, value) for reader in readers):
        return None
    return max(readers, key=lambda reader: lowering.position[reader])


def _convolves(lowering: Lowering, reader: Operation, value: SSAValue) -> bool:
    """Whether an operation convolves an image."""
    return isinstance(reader, ops.Conv2dOp) and lowering.source(reader.x) is value


def _takes_rows(lowering: Lowering, reader: Operation, value: SSAValue) -> bool:
    """Whether an operation reads rows of an image in order, and does so through its image operand."""
    if not isinstance(reader, ROWWISE) or value_shape(reader.results[0])[0] != 1:
        return False
    if isinstance(reader, ops.Conv2dOp):
        return lowering.source(reader.x) is value
    return value_shape(reader.results[0]) == value_shape(value)


def windowed(lowering: Lowering, values: Iterable[SSAValue]) -> bool:
    """Whether windows of several rows slide over one of some images."""
    readers = [reader for value in values for reader in lowering.users.get(value, ())]
    return any(
        isinstance(reader, ops.Conv2dOp) and value_shape(reader.weight)[1] > 1 for reader in readers
    )
