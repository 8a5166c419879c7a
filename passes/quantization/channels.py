"""Moving factors between channels of adjacent layers of the float graph.

A factor on an output channel of one layer and its inverse on the input channel of the next leave
the function as it is. With powers of two not even a rounding changes. The statistics that
`calibrate` recorded for the values in between are scaled along.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.dialects.builtin import DenseArrayBase, f64
from xdsl.ir import Operation, OpResult, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import AssetStore
from vit_opt.passes.calibrate import set_range, statistics_of, windows_of
from vit_opt.passes.float_graph import Constants

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reals: TypeAlias = NDArray[np.float64]


INPUT_CHANNELS = "vit.input_channels"
"""Attribute of a depthwise convolution: minimum and maximum of each input channel, [min0, max0, ...]."""


def replace_operand(op: onnx.OnnxOp, index: int, array: Reals, constants: Constants) -> None:
    """Give an operation another constant operand; the old one goes if nothing else reads it."""
    owner = op.operands[index].owner
    key = owner.label if isinstance(owner, onnx.Constant) else op.label
    constant = constants.make(array, key)
    Rewriter.insert_op(constant, InsertPoint.before(op))
    op.operands[index] = constant.y
    if isinstance(owner, onnx.Constant) and not any(owner.y.uses):
        owner.detach()
        owner.erase()


def divide_outputs(op: onnx.Linear | onnx.LayerNormalization, factor: Reals, c: Constants) -> None:
    """Divide the output channels of a layer with constant parameters by factors [C]."""
    weight, bias = c.array(op.operands[1]), c.array(op.bias)
    assert weight is not None
    column = factor.reshape(-1, *[1] * (weight.ndim - 1))
    replace_operand(op, 1, weight / column, c)
    if bias is not None:
        replace_operand(op, 2, bias / factor, c)


def multiply_inputs(op: onnx.Linear, factor: Reals, constants: Constants) -> None:
    """Multiply the weight columns of a linear layer by factors [K]."""
    weight = constants.array(op.w)
    assert weight is not None
    replace_operand(op, 1, weight * factor, constants)


def divide_statistics(value: SSAValue, factor: Reals, constants: Constants) -> None:
    """Scale what is known of a value [..., C] whose channels were divided by factors [C]."""
    import numpy as np

    statistics = statistics_of(value, constants.store)
    assert statistics is not None and isinstance(value, OpResult)
    channels = statistics.channels
    channels.minimum, channels.maximum = channels.minimum / factor, channels.maximum / factor
    channels.squares = channels.squares / np.square(factor)
    channels.sums = channels.sums / factor
    if statistics.reach is not None:
        statistics.reach = statistics.reach / factor
    if statistics.moments is not None:
        statistics.moments.divide(factor)
    copy_range([value], float(channels.minimum.min()), float(channels.maximum.max()))


def divide_windows(op: onnx.Conv | onnx.ConvTranspose, factor: Reals, store: AssetStore) -> None:
    """Scale what is known of a convolution's windows, whose input channels were divided [C]."""
    found = windows_of(op, store)
    if found is not None:
        found.divide(factor)


def set_input_channels(op: onnx.Conv, low: Reals, high: Reals) -> None:
    """Let a depthwise convolution read each channel [C] on a power of two that covers its range."""
    ends = [float(end) for pair in zip(low, high, strict=True) for end in pair]
    op.attributes[INPUT_CHANNELS] = DenseArrayBase.from_list(f64, ends)


def input_channels(op: Operation) -> tuple[Reals, Reals] | None:
    """The ranges of an operation's input channels, lower and upper ends [C], where there are any."""
    import numpy as np

    found = op.attributes.get(INPUT_CHANNELS)
    if not isinstance(found, DenseArrayBase):
        return None
    ends = np.array(cast("DenseArrayBase[Any]", found).get_values(), np.float64).reshape(-1, 2)
    return ends[:, 0], ends[:, 1]


def copy_range(values: Sequence[SSAValue], low: float, high: float) -> None:
    """Set the range of several values."""
    for value in values:
        if isinstance(value, OpResult):
            set_range(value, low, high)
