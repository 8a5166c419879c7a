"""Movement of values in the float graph, done on their integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.ir import Operation, SSAValue

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.onnx.base import integer, integers, real
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.base import shape_of
from vit_opt.passes.quantization.graph import IntegerGraph
from vit_opt.passes.quantization.rules import feeds_softmax, wanted_bits

if TYPE_CHECKING:
    Rule: TypeAlias = Callable[["IntegerGraph", Any], None]


def moved(graph: IntegerGraph, x: SSAValue, result: SSAValue) -> SSAValue:
    """The integers of an operand in the precision that the result is read in."""
    return graph.codes(x, wanted_bits(result), pot=feeds_softmax(result))


def reshape(graph: IntegerGraph, op: Any) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze."""
    shaped = ops.ReshapeOp.of(moved(graph, op.x, op.y), shape=shape_of(op.y))
    graph.define(op.y, graph.emit(shaped, op).result)


def transpose(graph: IntegerGraph, op: onnx.Transpose) -> None:
    """Transpose."""
    turned = ops.TransposeOp.of(moved(graph, op.x, op.y), permutation=integers(op.perm))
    graph.define(op.y, graph.emit(turned, op).result)


def sliced(
    graph: IntegerGraph, x: SSAValue, offsets: Sequence[int], sizes: Sequence[int], strides: Any
) -> SSAValue:
    """A strided box of a value."""
    part = ops.SliceOp.of(x, offsets=offsets, sizes=sizes, strides=strides)
    return graph.emit(part).result


def slice_(graph: IntegerGraph, op: onnx.Slice) -> None:
    """Slice; a negative step gathers in its order."""
    x = moved(graph, op.x, op.y)
    offsets, sizes, strides = [0] * len(shape_of(op.x)), list(shape_of(op.x)), [1] * 8
    for axis, (part, size) in enumerate(zip(op.slices(), shape_of(op.x), strict=True)):
        positions = range(*part.indices(size))
        if positions.step < 0:
            x = graph.emit(ops.GatherOp.of(x, axis=axis, indices=list(positions))).result
        else:
            offsets[axis], sizes[axis], strides[axis] = positions.start, len(positions), part.step
    strides = [stride or 1 for stride in strides[: len(sizes)]]
    current = shape_of(x)
    sizes = [min(size, limit) for size, limit in zip(sizes, current, strict=True)]
    graph.define(op.y, sliced(graph, x, offsets, sizes, strides))


def split(graph: IntegerGraph, op: onnx.Split) -> None:
    """Split: one slice for each part."""
    axis, start = integer(op.axis) % len(shape_of(op.x)), 0
    for part in op.parts:
        x = moved(graph, op.x, part)
        offsets = [0] * len(shape_of(part))
        offsets[axis] = start
        start += shape_of(part)[axis]
        graph.define(part, sliced(graph, x, offsets, shape_of(part), [1] * len(offsets)))


def gather(graph: IntegerGraph, op: onnx.Gather) -> None:
    """Gather at constant indices of any shape."""
    indices = graph.constants.array(op.indices)
    if indices is None:
        raise VitError(f"{op.label}: Gather needs constant indices")
    axis = integer(op.axis) % len(shape_of(op.x))
    size = shape_of(op.x)[axis]
    positions = [int(i) % size for i in indices.ravel()]
    picked = ops.GatherOp.of(moved(graph, op.x, op.y), axis=axis, indices=positions)
    value = graph.emit(picked, op).result
    graph.define(op.y, graph.emit(ops.ReshapeOp.of(value, shape=shape_of(op.y)), op).result)


def concat(graph: IntegerGraph, op: onnx.Concat) -> None:
    """Concatenation: all operands on the grid of the result."""
    axis = integer(op.axis) % len(shape_of(op.y))
    type_ = graph.type_for(op.y, wanted_bits(op.y), pot=feeds_softmax(op.y))
    parts = [graph.typed(value, type_) for value in op.inputs]
    graph.define(op.y, graph.emit(ops.ConcatOp.of(*parts, axis=axis), op).result)


def pad(graph: IntegerGraph, op: onnx.Pad) -> None:
    """Padding with zeros."""
    if op.mode.data != "constant" or (op.value is not None and real(op.value) != 0):
        raise VitError(f"{op.label}: only padding with constant zero is supported")
    rank, pads = len(shape_of(op.x)), integers(op.pads)
    padded = ops.PadOp.of(moved(graph, op.x, op.y), low=pads[:rank], high=pads[rank:])
    graph.define(op.y, graph.emit(padded, op).result)


def expand(graph: IntegerGraph, op: onnx.Expand) -> None:
    """Broadcasting to a larger shape: repeated slices."""
    x, target = moved(graph, op.x, op.y), shape_of(op.y)
    shape = (1,) * (len(target) - len(shape_of(x))) + shape_of(x)
    x = graph.emit(ops.ReshapeOp.of(x, shape=shape), op).result
    for axis, (size, wanted) in enumerate(zip(shape, target, strict=True)):
        if size != wanted:
            x = graph.emit(ops.GatherOp.of(x, axis=axis, indices=[0] * wanted), op).result
    graph.define(op.y, x)


def identity(graph: IntegerGraph, op: onnx.Identity) -> None:
    """Nothing happens."""
    record = graph.record(op.x)
    graph.define(op.y, record.raw, channels_last=record.channels_last, total=record.total)


MOVEMENT_RULES: dict[type[Operation], Rule] = {
    onnx.Reshape: reshape,
    onnx.Flatten: reshape,
    onnx.Squeeze: reshape,
    onnx.Unsqueeze: reshape,
    onnx.Transpose: transpose,
    onnx.Slice: slice_,
    onnx.Split: split,
    onnx.Gather: gather,
    onnx.Concat: concat,
    onnx.Pad: pad,
    onnx.Expand: expand,
    onnx.Identity: identity,
}
"""The rule of every operation that only moves values."""
