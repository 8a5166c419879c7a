"""Data movement: views where strides can say it, copies by DMA where not.

`reshape`, `transpose`, `slice` and `reinterpret` cost nothing while a strided view describes their
result. `concat`, `pad`, `gather` and reshapes of views copy, through the chip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from xdsl.ir import Operation

from vit_opt.backends.accel.lowering.arena import whole
from vit_opt.backends.accel.lowering.context import Lowering, fixed_format, where
from vit_opt.backends.accel.lowering.tensors import (
    Block,
    Shape,
    Tensor,
    reshaped,
    row_major,
    store_block,
    value_shape,
)
from vit_opt.backends.accel.lowering.transfers import Dim, transfer
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.base import integers
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.passes.rooms import PASSING, room


def copy_tensor(lowering: Lowering, source: Tensor, target: Tensor) -> None:
    """Copy a view onto another of the same shape, block by block through the chip."""
    builder = lowering.builder
    item = source.dtype.size
    order = sorted(range(len(source.shape)), key=lambda axis: -target.strides[axis])
    source, target = _permuted(source, order), _permuted(target, order)
    limit = room(lowering.arch, "cbuf", PASSING) // item
    for start, shape in pieces(source.shape, limit):
        builder.next_turn()
        near = row_major(shape, item)
        offset = sum(i * s for i, s in zip(start, source.strides, strict=True))
        span = sum((n - 1) * s for n, s in zip(shape, source.strides, strict=True)) + item
        builder.note_read(source.region, source.offset + offset, span)
        region = builder.allocate(Space.CBUF, prod(shape) * item)
        dims = _dims(shape, source.strides, near)
        begin = source.offset + offset
        mark = builder.mark()
        transfer(builder, source.region, begin, item, dims, region, 0, store=False)
        builder.unpin(mark)
        block = Block(region, target.dtype, shape[-1] * item if shape else item, item)
        plane = _plane(part(target, start, shape))
        if plane is not None:
            store_block(builder, block, plane, (0, 0), (plane.shape[0], plane.shape[1]))
            continue
        offset = sum(i * s for i, s in zip(start, target.strides, strict=True))
        dims = _dims(shape, target.strides, near)
        begin = target.offset + offset
        transfer(builder, target.region, begin, item, dims, region, 0, store=True)
        builder.release(region)


def _permuted(tensor: Tensor, order: Sequence[int]) -> Tensor:
    """The view with its axes in another order."""
    shape = tuple(tensor.shape[axis] for axis in order)
    return replace(tensor, shape=shape, strides=tuple(tensor.strides[axis] for axis in order))


def _dims(shape: Shape, far: Shape, near: Shape) -> list[Dim]:
    """Count and strides of every dimension, at least one."""
    return list(zip(shape, far, near, strict=True)) or [(1, 0, 0)]


def _plane(tensor: Tensor) -> Tensor | None:
    """The tensor as rows of its last dimension; None if they have no one distance."""
    flat = reshaped(tensor, (prod(tensor.shape[:-1]), tensor.shape[-1] if tensor.shape else 1))
    if flat is None or flat.strides[1] != tensor.dtype.size:
        return None
    return flat


def pieces(shape: Shape, limit: int) -> list[tuple[Shape, Shape]]:
    """Boxes (start, shape) of at most `limit` elements that cover a shape, in order."""
    if prod(shape) <= limit or not shape:
        return [((0,) * len(shape), shape)]
    inner = prod(shape[1:])
    result: list[tuple[Shape, Shape]] = []
    if inner <= limit:
        step = limit // inner
        for start in range(0, shape[0], step):
            size = min(step, shape[0] - start)
            result.append(((start, *(0,) * (len(shape) - 1)), (size, *shape[1:])))
        return result
    rest = pieces(shape[1:], limit)
    for index in range(shape[0]):
        result += [((index, *start), (1, *size)) for start, size in rest]
    return result


def contiguous(lowering: Lowering, tensor: Tensor) -> Tensor:
    """The tensor itself if row-major, else a copy that is."""
    if tensor.is_contiguous:
        return tensor
    copy = lowering.temporary(tensor)
    copy_tensor(lowering, tensor, copy)
    return copy


def lower_view(lowering: Lowering, op: Operation) -> None:
    """Operations whose result is a view of their operand."""
    tensor = lowering.tensor(op.operands[0])
    result = op.results[0]
    shape = value_shape(result)
    format_ = fixed_format(result)
    if isinstance(op, ops.TransposeOp):
        order = integers(op.permutation)
        view = replace(
            tensor, shape=shape, strides=tuple(tensor.strides[i] for i in order), format=format_
        )
    elif isinstance(op, ops.SliceOp):
        steps = integers(op.strides)
        offset = sum(o * s for o, s in zip(integers(op.offsets), tensor.strides, strict=True))
        strides = tuple(k * s for k, s in zip(steps, tensor.strides, strict=True))
        view = Tensor(tensor.region, tensor.dtype, format_, shape, strides, tensor.offset + offset)
    elif isinstance(op, ops.ReshapeOp):
        found = reshaped(tensor, shape, format_)
        if found is None:
            found = reshaped(contiguous(lowering, tensor), shape, format_)
        assert found is not None, "a row-major tensor has every shape"
        view = found
    else:
        view = replace(tensor, format=format_)
    lowering.bind(result, view)
    lowering.done.add(op)


def part(tensor: Tensor, start: Sequence[int], shape: Shape) -> Tensor:
    """The box of a view that begins at `start`."""
    offset = sum(i * s for i, s in zip(start, tensor.strides, strict=True))
    return replace(tensor, shape=shape, offset=tensor.offset + offset)


def lower_concat(lowering: Lowering, op: ops.ConcatOp) -> None:
    """`vit.concat`: each operand is copied to its place, unless it was made there."""
    axis = op.axis.value.data
    sources = [lowering.tensor(x) for x in op.xs]
    target = lowering.tensors.get(op.result)
    if target is None:
        target = lowering.define(op.result, like=max(sources, key=lambda source: source.size))
    position = 0
    for source in sources:
        start = [0] * len(source.shape)
        start[axis] = position
        if source.region is not target.region:
            copy_tensor(lowering, source, part(target, start, source.shape))
        position += source.shape[axis]
    lowering.done.add(op)


def lower_pad(lowering: Lowering, op: ops.PadOp) -> None:
    """`vit.pad`: the border is filled with the zero point, the inside copied."""
    source, target = lowering.tensor(op.x), lowering.define(op.result)
    low, high = integers(op.low), integers(op.high)
    start = list(low)
    for axis, (before, after) in enumerate(zip(low, high, strict=True)):
        for width, place in ((before, 0), (after, target.shape[axis] - after)):
            if width:
                shape = list(target.shape)
                shape[axis] = width
                corner = [0] * len(shape)
                corner[axis] = place
                _fill(lowering, part(target, corner, tuple(shape)), source.format.zero_point)
    copy_tensor(lowering, source, part(target, start, source.shape))
    lowering.done.add(op)


def _fill(lowering: Lowering, target: Tensor, value: int) -> None:
    """Write one code everywhere in a view."""
    builder = lowering.builder
    item = target.dtype.size
    limit = room(lowering.arch, "cbuf", PASSING) // item
    for start, shape in pieces(target.shape, limit):
        region = builder.allocate(Space.CBUF, prod(shape) * item)
        inst = isa.Fill(region.addr(), prod(shape), value, target.dtype)
        builder.emit(inst, [], [whole(region)])
        offset = sum(i * s for i, s in zip(start, target.strides, strict=True))
        dims: list[Dim] = list(zip(shape, target.strides, row_major(shape, item), strict=True))
        begin = target.offset + offset
        transfer(builder, target.region, begin, item, dims, region, 0, store=True)
        builder.release(region)


def lower_gather(lowering: Lowering, op: ops.GatherOp) -> None:
    """`vit.gather`: runs of evenly spaced indices are slices, copied one after the other."""
    source, target = lowering.tensor(op.x), lowering.define(op.result)
    axis, indices = op.axis.value.data, list(integers(op.indices))
    if not indices:
        raise VitError(f"{where(op)}: no indices")
    position = 0
    while position < len(indices):
        count, step = _progression(indices[position:])
        start = [0] * len(source.shape)
        start[axis] = indices[position]
        shape = (*source.shape[:axis], count, *source.shape[axis + 1 :])
        piece = part(source, start, shape)
        strides = list(piece.strides)
        strides[axis] *= step
        start[axis] = position
        copy_tensor(lowering, replace(piece, strides=tuple(strides)), part(target, start, shape))
        position += count
    lowering.done.add(op)


def _progression(indices: Sequence[int]) -> tuple[int, int]:
    """Length and step (0 or more) of the longest arithmetic progression at the start."""
    if len(indices) == 1 or indices[1] < indices[0]:
        return 1, 0
    step = indices[1] - indices[0]
    count = 2
    while count < len(indices) and indices[count] - indices[count - 1] == step:
        count += 1
    return count, step
