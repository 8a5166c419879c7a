"""Kernel calls of data movement, means, pools and resizes."""

from __future__ import annotations

from math import prod

import numpy as np

from vit_opt.backends.c.code import Pointer, Struct, Value
from vit_opt.backends.c.graph import is_narrow
from vit_opt.backends.c.memory import (
    Memory,
    describe,
    element_size,
    element_symbol,
    rounding,
    saturation,
    without_zeros,
    zero_point,
)
from vit_opt.backends.c.strides import dense_strides, merge_dimensions
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.evaluate import shift_between
from vit_opt.dialects.vit.ops.base import format_of, integers, shape_of
from vit_opt.dialects.vit.semantics.resize import linear_taps, nearest_indices


def copy(
    memory: Memory,
    comment: str,
    size: int,
    dims: list[int],
    x: tuple[Pointer, list[int]],
    y: tuple[Pointer, list[int]],
) -> None:
    """Copy [dims] elements of `size` bytes between two strided views (address, strides)."""
    merged, x_strides, y_strides = merge_dimensions([dims, x[1], y[1]])
    fields: dict[str, Value] = {
        "rank": len(merged),
        "size": size,
        "dims": merged,
        "x_strides": x_strides if merged != (1,) else (1,),
        "y_strides": y_strides if merged != (1,) else (1,),
    }
    memory.call("vit_copy", [Struct("vit_copy_shape", fields), x[0], y[0]], comment)


def lower_transpose(memory: Memory, op: ops.TransposeOp) -> None:
    """A copy that reads with permuted strides."""
    strides = dense_strides(shape_of(op.x))
    source = memory.address(op.x), [strides[i] for i in integers(op.permutation)]
    shape = shape_of(op.result)
    target = memory.allocate(op.result), dense_strides(shape)
    copy(memory, describe(op, op.result), element_size(op.x), list(shape), source, target)


def lower_slice(memory: Memory, op: ops.SliceOp) -> None:
    """A copy from inside the operand."""
    strides = dense_strides(shape_of(op.x))
    size = element_size(op.x)
    first = sum(o * s for o, s in zip(integers(op.offsets), strides, strict=True))
    steps = [a * b for a, b in zip(integers(op.strides), strides, strict=True)]
    base = memory.address(op.x)
    source = Pointer(base.buffer, base.offset + first * size), steps
    shape = shape_of(op.result)
    target = memory.allocate(op.result), dense_strides(shape)
    copy(memory, describe(op, op.result), size, list(shape), source, target)


def lower_concat(memory: Memory, op: ops.ConcatOp) -> None:
    """One copy per operand."""
    strides, size = dense_strides(shape_of(op.result)), element_size(op.result)
    axis, offset = op.axis.value.data, 0
    sources = [memory.address(x) for x in op.xs]
    base = memory.allocate(op.result)
    for x, source in zip(op.xs, sources, strict=True):
        shape = shape_of(x)
        if memory.graph.root(x) in memory.graph.parts:
            offset += shape[axis]
            continue
        target = Pointer(base.buffer, base.offset + offset * strides[axis] * size), strides
        copy(memory, describe(op, x), size, list(shape), (source, dense_strides(shape)), target)
        offset += shape[axis]


def lower_pad(memory: Memory, op: ops.PadOp) -> None:
    """Fill with the zero point, then copy the operand inside."""
    strides, size = dense_strides(shape_of(op.result)), element_size(op.x)
    source = memory.address(op.x), dense_strides(shape_of(op.x))
    base = memory.allocate(op.result)
    count = prod(shape_of(op.result))
    fill: list[Value] = [zero_point(op.x), element_symbol(op.x), count, base]
    memory.call("vit_fill", fill, describe(op, op.result))
    first = sum(low * stride for low, stride in zip(integers(op.low), strides, strict=True))
    target = Pointer(base.buffer, base.offset + first * size), strides
    copy(memory, describe(op, op.x), size, list(shape_of(op.x)), source, target)


def gather(
    memory: Memory,
    comment: str,
    sizes: tuple[int, int, int],
    indices: list[int],
    x: Pointer,
    y: Pointer,
) -> None:
    """y[outer][i] = x[outer][indices[i]], `sizes` being outer, length and inner bytes."""
    outer, length, inner = sizes
    fields: dict[str, Value] = {
        "outer": outer,
        "length": length,
        "count": len(indices),
        "inner": inner,
    }
    table = memory.vector(np.array(indices, np.int64))
    memory.call("vit_gather", [Struct("vit_gather_shape", fields), table, x, y], comment)


def lower_gather(memory: Memory, op: ops.GatherOp) -> None:
    """`vit.gather` along one axis."""
    shape, axis = shape_of(op.x), op.axis.value.data
    inner = prod(shape[axis + 1 :]) * element_size(op.x)
    sizes = prod(shape[:axis]), shape[axis], inner
    source = memory.address(op.x)
    target = memory.allocate(op.result)
    gather(memory, describe(op, op.result), sizes, list(integers(op.indices)), source, target)


def lower_resize(memory: Memory, op: ops.ResizeOp) -> None:
    """Nearest: two gathers, columns then rows, through scratch. Linear: its kernel."""
    batch, height, width, channels = shape_of(op.x)
    _, out_height, out_width, _ = shape_of(op.result)
    source = memory.address(op.x)
    comment = describe(op, op.result)
    rule = op.coordinates.data
    if op.mode.data == "nearest":
        mode = op.nearest.data
        rows = nearest_indices(height, out_height, rule, mode).tolist()
        columns = nearest_indices(width, out_width, rule, mode).tolist()
        pixels = (np.array(rows)[:, None] * width + np.array(columns)).reshape(-1).tolist()
        sizes = batch, height * width, channels * element_size(op.x)
        gather(memory, comment, sizes, pixels, source, memory.allocate(op.result))
        return
    fields: dict[str, Value] = {
        "batch": batch,
        "height": height,
        "width": width,
        "channels": channels,
        "out_height": out_height,
        "out_width": out_width,
        "rows": memory.vector(np.stack(linear_taps(height, out_height, rule))),
        "columns": memory.vector(np.stack(linear_taps(width, out_width, rule))),
        "x_type": element_symbol(op.x),
        "y_type": element_symbol(op.result),
        "shift": 16 + int(shift_between(op.x, op.result)),
        **without_zeros({"x_zp": zero_point(op.x)}),
        **saturation(op.result),
        **rounding(op),
    }
    _check_result(op)
    y = memory.allocate(op.result)
    memory.call("vit_resize_linear", [Struct("vit_resize_shape", fields), source, y], comment)


def _check_result(op: ops.MeanOp | ops.AvgPool2dOp | ops.MaxPool2dOp | ops.ResizeOp) -> None:
    if not is_narrow(op.result):
        raise VitError(f"{describe(op)}: results of more than 32 signed bits have no C kernel")


def _check_average(op: ops.MeanOp | ops.AvgPool2dOp, count: int, shift: int) -> None:
    """The kernels divide 64-bit numbers; twice the scaled sum must fit."""
    low, high = format_of(op.x).bounds
    if count * (high - low) << max(0, shift) >= 2**61 or count << max(0, -shift) >= 2**61:
        raise VitError(
            f"{describe(op)}: the sum of {count} values shifted by {shift} leaves 64 bits; bring "
            "the exponents of operand and result closer together"
        )


def lower_mean(memory: Memory, op: ops.MeanOp) -> None:
    """`vit.mean`: kept dimensions first, reduced ones after them."""
    _check_result(op)
    shape, axes = shape_of(op.x), integers(op.axes)
    strides = dense_strides(shape)
    kept = [i for i in range(len(shape)) if i not in axes]
    kept_dims, kept_strides = merge_dimensions(
        [[shape[i] for i in kept], [strides[i] for i in kept]]
    )
    reduced = sorted(axes)
    shift = -int(shift_between(op.x, op.result))
    _check_average(op, prod(shape[i] for i in axes), shift)
    dims, steps = merge_dimensions([[shape[i] for i in reduced], [strides[i] for i in reduced]])
    fields: dict[str, Value] = {
        "rank": len(kept_dims) + len(dims),
        "reduced": len(dims),
        "dims": (*kept_dims, *dims),
        "x_strides": (*kept_strides, *steps),
        "x_type": element_symbol(op.x),
        "y_type": element_symbol(op.result),
        **without_zeros({"x_zp": zero_point(op.x), "shift": shift}),
        **saturation(op.result),
    }
    if len(kept_dims) + len(dims) > 8:
        raise VitError(f"{describe(op)}: more than 8 dimensions remain")
    arguments: list[Value] = [
        Struct("vit_mean_shape", fields),
        memory.address(op.x),
        memory.allocate(op.result),
    ]
    memory.call("vit_mean", arguments, describe(op, op.result))


def lower_pool(memory: Memory, op: ops.AvgPool2dOp | ops.MaxPool2dOp) -> None:
    """Average and maximum pooling."""
    _check_result(op)
    batch, height, width, channels = shape_of(op.x)
    _, out_height, out_width, _ = shape_of(op.result)
    kernel, strides, pads = integers(op.kernel), integers(op.strides), integers(op.pads)
    fields: dict[str, Value] = {
        "batch": batch,
        "height": height,
        "width": width,
        "channels": channels,
        "out_height": out_height,
        "out_width": out_width,
        "kernel_h": kernel[0],
        "kernel_w": kernel[1],
        "stride_h": strides[0],
        "stride_w": strides[1],
        **without_zeros(
            dict(zip(("pad_top", "pad_left", "pad_bottom", "pad_right"), pads, strict=True))
        ),
        "x_type": element_symbol(op.x),
        "y_type": element_symbol(op.result),
        **saturation(op.result),
    }
    average = isinstance(op, ops.AvgPool2dOp)
    if average:
        shift = -int(shift_between(op.x, op.result))
        _check_average(op, kernel[0] * kernel[1], shift)
        fields |= without_zeros(
            {
                "count_pad": int(op.count_include_pad is not None),
                "x_zp": zero_point(op.x),
                "shift": shift,
            }
        )
    name = "vit_avg_pool2d" if average else "vit_max_pool2d"
    source = memory.address(op.x)
    y = memory.allocate(op.result)
    memory.call(name, [Struct("vit_pool2d_shape", fields), source, y], describe(op, op.result))
