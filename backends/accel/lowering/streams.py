"""Images that flow through several layers in rows, so that only a few rows exist at a time.

A convolution, or a function of single pixels, needs a few rows of its input for a row of its
result. Where all readers of an image are such, it is made as they read it: the last layer of the
chain asks for rows, its input for rows of its own input, and so on up to the first. The expanded
tensor of an inverted bottleneck never exists as a whole, depthwise convolutions run beside the
pointwise ones of neighbouring rows, and a layer that the tables delay overlaps with one that the
multipliers delay, many layers further on.
"""

from __future__ import annotations

from xdsl.ir import Operation, SSAValue

from vit_opt.backends.accel.lowering.context import Lowering
from vit_opt.backends.accel.lowering.tensors import Shape, value_shape
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.targets import AccelTarget

LEAST_HEIGHT = 16
"""Rows that an image must have to be worth cutting."""

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


def is_image(shape: Shape) -> bool:
    """Whether a value is one image [1, H, W, C] that is worth cutting into rows."""
    return len(shape) == 4 and shape[0] == 1 and shape[1] >= LEAST_HEIGHT


def image_rows(arch: AccelTarget, shape: Shape) -> int:
    """Pixels of a block of an image: whole rows, so many that the array is busy for a while."""
    height, width = shape[1:3]
    most = max(2 * arch.columns, arch.memory_size("obuf") // 8 // (4 * arch.lanes))
    rows = max(1, min(most // width, height // 14))
    return rows * width


def stream_reader(lowering: Lowering, value: SSAValue) -> Operation | None:
    """The last reader of an image if all readers take it row by row; None if it is made at once."""
    if not lowering.pipelines.inter or not is_image(value_shape(value)):
        return None
    readers = lowering.users.get(value, [])
    if not readers or not all(_takes_rows(lowering, reader, value) for reader in readers):
        return None
    return max(readers, key=lambda reader: lowering.position[reader])


def _takes_rows(lowering: Lowering, reader: Operation, value: SSAValue) -> bool:
    """Whether an operation reads rows of an image in order, and does so through its image operand."""
    if not isinstance(reader, ROWWISE) or value_shape(reader.results[0])[0] != 1:
        return False
    if isinstance(reader, ops.Conv2dOp):
        return lowering.source(reader.x) is value
    return value_shape(reader.results[0]) == value_shape(value)
