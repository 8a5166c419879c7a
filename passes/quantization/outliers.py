"""Outlier channels behind a function that no factor gets through.

Between two convolutions with Hardswish or GELU in between, a channel 1000 times larger than the others
takes all codes of the one grid they share, and neither side can be scaled. Where the noise to be
expected drowns what the second convolution computes, the loud channels go a way of their own, with a
table and grids of their own: the function is the same, and so is the number of multiplications.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, OpResult, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from vit_opt.dialects import onnx
from vit_opt.dialects.evaluation import main_function, run_main
from vit_opt.dialects.onnx.base import integer, integers, shape_of
from vit_opt.passes.algorithms.exponents import covering_asymmetric
from vit_opt.passes.calibrate import CLIP, RANGE, set_range
from vit_opt.passes.float_graph import Constants, label, result_type
from vit_opt.passes.quantization.webs import Seen, by_weight, is_depthwise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints: TypeAlias = NDArray[np.int64]
    Reals: TypeAlias = NDArray[np.float64]

FUNCTIONS = (onnx.Gelu, onnx.HardSwish, onnx.Swish)
"""What a table computes between two layers, and channels cannot be scaled through."""

DROWNED = 0.25
"""Expected noise over energy (6 dB) from which on channels are split."""

GAIN = 0.1
"""Largest share of the noise that a split may leave for it to be made."""


def behind_function(op: onnx.Conv, constants: Constants) -> bool:
    """Whether a convolution reads channels that another makes, through a function, for it alone."""
    function = op.x.owner
    if not isinstance(function, FUNCTIONS) or not isinstance(function.x.owner, onnx.Conv):
        return False
    first = function.x.owner
    plain = integer(first.group) == 1 and (is_depthwise(op) or integer(op.group) == 1)
    single = shape_of(op.y)[1] == shape_of(op.x)[1] if is_depthwise(op) else True
    parameters = [first.w, op.w, *(b for b in (first.bias, op.bias) if b is not None)]
    known = all(constants.array(value) is not None for value in parameters)
    return plain and single and known and first.y.has_one_use() and function.y.has_one_use()


def split_outliers(module: ModuleOp, seen: Seen, constants: Constants) -> int:
    """Split channels where convolutions would be drowned in noise; the number of convolutions."""
    found = [op for op in module.walk() if isinstance(op, onnx.Conv)]
    done = sum(
        _split(op, seen, constants)
        for op in found
        if behind_function(op, constants) and op.x in seen.squares
    )
    if done:
        complete_ranges(module, constants)
    return done


def input_noise(op: onnx.Conv, seen: Seen, constants: Constants, channels: Ints) -> Reals:
    """Expected noise in a convolution's result, over its energy, of some input channels in 8 bits.

    One number; for a depthwise convolution one for each channel, at most 1 (all is lost). Channels
    are taken as independent, rounding errors as uniform.
    """
    import numpy as np

    weight = constants.array(op.w)
    assert weight is not None
    low, high = seen.low[op.x][:, channels], seen.high[op.x][:, channels]
    frac, _ = covering_asymmetric(float(low.min()), float(high.max()), 0, 255)
    mean = seen.squares[op.x].mean(axis=(0, 2, 3)) / seen.batches
    energy = np.square(weight, dtype=np.float64)
    signal = energy * by_weight(op, weight.shape, mean)
    if is_depthwise(op):
        lost = energy[channels].sum(axis=(1, 2, 3)) * math.ldexp(1.0, -2 * frac) / 12
        whole = signal[channels].sum(axis=(1, 2, 3))
        return np.where(whole > 0, np.minimum(1.0, lost / np.where(whole > 0, whole, 1.0)), 0.0)
    lost = energy[:, channels].sum() * math.ldexp(1.0, -2 * frac) / 12
    return np.array([lost / signal.sum() if signal.any() else 0.0])


def _split(op: onnx.Conv, seen: Seen, constants: Constants) -> bool:
    """Split one convolution's input where that pays."""
    import numpy as np

    count = shape_of(op.x)[1]
    everything = np.arange(count)

    def noise(*parts: Ints) -> float:
        each = [input_noise(op, seen, constants, part) for part in parts]
        return float(np.concatenate(each).mean() if is_depthwise(op) else np.sum(each))

    whole = noise(everything)
    if whole < DROWNED:
        return False
    largest = np.maximum(seen.high[op.x], -seen.low[op.x]).max(axis=(0, 2, 3))
    order = np.argsort(-largest, kind="stable")
    cuts = [2**power for power in range(count.bit_length()) if 2**power < count]
    tried = {cut: noise(order[:cut], order[cut:]) for cut in cuts}
    best = min(tried, key=lambda cut: tried[cut], default=0)
    if not best or tried[best] > GAIN * whole:
        return False
    parts = [np.sort(order[:best]), np.sort(order[best:])]
    branches = [_branch(op, part, constants, role) for part, role in zip(parts, ROLES, strict=True)]
    _join(op, branches, parts, constants)
    return True


ROLES = ("loud", "quiet")


def _branch(op: onnx.Conv, channels: Ints, constants: Constants, role: str) -> SSAValue:
    """What the convolution makes of some channels; the bias is added with the loud ones."""
    function = op.x.owner
    assert isinstance(function, FUNCTIONS)
    first = function.x.owner
    assert isinstance(first, onnx.Conv)
    made = _part(first, first.x, channels, None, constants, role, op)
    turned = function.clone()
    turned.operands[0] = made
    Rewriter.replace_value_with_new_type(turned.y, result_type(turned.y, shape_of(made)))
    for name in (RANGE, CLIP):  # those of all channels
        turned.attributes.pop(name, None)
    Rewriter.insert_op(turned, InsertPoint.before(op))
    outputs = channels if is_depthwise(op) else None
    keep = None if is_depthwise(op) else channels
    return _part(op, turned.y, outputs, keep, constants, role, op)


def _part(
    op: onnx.Conv,
    x: SSAValue,
    outputs: Ints | None,
    inputs: Ints | None,
    constants: Constants,
    role: str,
    place: Operation,
) -> OpResult:
    """A convolution with some of the outputs, or of the inputs, of another."""
    weight, bias = constants.array(op.w), constants.array(op.bias)
    assert weight is not None
    if outputs is not None:
        weight = weight[outputs]
        bias = None if bias is None else bias[outputs]
    if inputs is not None:
        weight = weight[:, inputs]
        bias = bias if role == ROLES[0] else None
    arrays = [("w", weight), *([] if bias is None else [("b", bias)])]
    made = [constants.make(array, f"{label(op)}.{role}.{key}") for key, array in arrays]
    batch, _, height, width = shape_of(op.y)
    result = onnx.Conv.make(
        [x, *made],
        [result_type(op.y, (batch, weight.shape[0], height, width))],
        node_name=f"{label(op)}.{role}",
        strides=integers(op.strides),
        pads=integers(op.pads),
        dilations=integers(op.dilations),
        group=shape_of(x)[1] if is_depthwise(op) else 1,
    )
    for each in (*made, result):
        Rewriter.insert_op(each, InsertPoint.before(place))
    return result.results[0]


def _join(
    op: onnx.Conv, branches: Sequence[SSAValue], parts: Sequence[Ints], constants: Constants
) -> None:
    """Put the sum of the branches, or their channels in order, in the place of a convolution."""
    import numpy as np

    name = label(op)
    if not is_depthwise(op):
        joined: Operation = onnx.Add.make(list(branches), [op.y.type], node_name=name)
    else:
        both = onnx.Concat.make(list(branches), [op.y.type], node_name=f"{name}.both", axis=1)
        Rewriter.insert_op(both, InsertPoint.before(op))
        order = np.argsort(np.concatenate(parts)).astype(np.int64)
        indices = constants.make(order, f"{name}.order")
        Rewriter.insert_op(indices, InsertPoint.before(op))
        joined = onnx.Gather.make([both, indices], [op.y.type], node_name=name, axis=1)
    if RANGE in op.attributes:
        joined.attributes[RANGE] = op.attributes[RANGE]
    function = op.x.owner
    assert isinstance(function, FUNCTIONS)
    first = function.x.owner
    Rewriter.replace_op(op, joined)
    for old in (function, first):
        assert isinstance(old, Operation)
        Rewriter.erase_op(old)


def complete_ranges(module: ModuleOp, constants: Constants) -> None:
    """Record the ranges of values that have none, on the calibration batches."""
    from vit_opt.dialects.onnx.semantics import evaluate

    missing = {
        op
        for op in main_function(module).body.block.ops
        if isinstance(op, onnx.OnnxOp)
        and not isinstance(op, onnx.Constant)
        and RANGE not in op.attributes
    }
    found: dict[Operation, tuple[float, float]] = {}

    def note(op: Operation, results: Sequence[Reals]) -> None:
        if op in missing and results[0].dtype.kind == "f":
            low, high = found.get(op, (math.inf, -math.inf))
            found[op] = min(low, float(results[0].min())), max(high, float(results[0].max()))

    for batch in constants.store.batches:
        run_main(module, batch, lambda op, args: evaluate(op, args, constants.store), note)
    for op, (low, high) in found.items():
        set_range(op.results[0], low, high)


__all__ = ["FUNCTIONS", "behind_function", "split_outliers"]
