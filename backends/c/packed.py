"""Kernel calls of products with weights packed for an instruction level."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from xdsl.ir import Operation, SSAValue

from vit_opt.backends.c.code import Struct, Symbol, Value
from vit_opt.backends.c.expand import placed_panels
from vit_opt.backends.c.graph import rows_and_columns
from vit_opt.backends.c.levels import Layout
from vit_opt.backends.c.memory import Memory, aligned, element_symbol, without_zeros
from vit_opt.backends.c.packing import (
    BYTE_FINISHES,
    COLUMNS,
    Array,
    Finish,
    Product,
    choose_finish,
    finishes_of,
    pack_depthwise,
    pack_panels,
    product_of,
)
from vit_opt.backends.c.steps import Chain
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import QuantizedType, is_unsigned
from vit_opt.dialects.vit.ops.base import format_of, integers, shape_of, tensor_type

TILE_ROWS = 48
"""VIT_TILE_ROWS of vit_kernels.h."""

COPY_BYTES = 96 * 1024
"""Rows of an operand copied at a time."""

SHORTEST_RUN = 4
"""Neighbouring bytes of a window for which it is read from NCHW."""

PackedCall = tuple[str, Struct, list[Value], int]
"""Kernel, shape, operands and scratch bytes."""


def is_byte_operand(value: SSAValue) -> bool:
    """Whether the codes of an activation are bytes."""
    element = tensor_type(value).get_element_type()
    return isinstance(element, QuantizedType) and element.storage.width.data <= 8


def packable_weight(memory: Memory, weight: SSAValue) -> Array | None:
    """The codes of constant weights of at most 8 signed bits without zero point, else None."""
    format_ = format_of(weight)
    if format_.storage.width.data > 8 or is_unsigned(format_.storage) or format_.zero_point:
        return None
    return memory.constant(weight)


def packable_product(
    memory: Memory, x: SSAValue, weight: SSAValue, bias: SSAValue | None
) -> Product | None:
    """The product of an activation with constant weights, if packed kernels can take it."""
    codes = packable_weight(memory, weight)
    offsets = None if bias is None else memory.constant(bias)
    if codes is None or not is_byte_operand(x) or (bias is not None and offsets is None):
        return None
    return product_of(
        x, codes.reshape(codes.shape[0], -1).astype(np.int8), offsets, memory.level.layout
    )


def tile_scratch(finish: Finish) -> int:
    """Scratch for accumulators that go through stages."""
    return TILE_ROWS * COLUMNS * 4 if finish.name == "VIT_BY_STAGES" else 0


def packed_linear(memory: Memory, chain: Chain, op: ops.LinearOp) -> PackedCall | None:
    """A linear layer on packed weights; None if the level or the operands do not allow it."""
    kernel = memory.level.variant("vit_linear_u8")
    product = packable_product(memory, op.x, op.weight, op.bias) if kernel else None
    if kernel is None or product is None:
        return None
    rows = rows_and_columns(shape_of(op.x))[0]
    return _rows_times_weight(memory, kernel, chain, op.x, rows, product)


def _rows_times_weight(
    memory: Memory, kernel: str, chain: Chain, x: SSAValue, m: int, product: Product, ld: int = 0
) -> PackedCall:
    """`m` rows of x, one after the other in memory, times a weight matrix.

    `ld` is the length of a row where a product takes only a part of it, else 0.
    """
    layout = memory.level.layout
    finish = choose_finish(product, chain, finishes_of(layout))
    n, k = product.weight.shape
    row = row_bytes(ld or k, layout)
    copied = row != (ld or k) or not layout.direct or not is_unsigned(format_of(x).storage)
    block = block_of(m, row) if copied else m
    fields: dict[str, Value] = {
        "m": m,
        "n": n,
        "k": k,
        "block": block,
        "x_type": element_symbol(x),
        "finish": Symbol(finish.name),
    }
    scratch = (aligned(block * row) if copied else 0) + tile_scratch(finish)
    assert isinstance(chain.head, ops.LinearOp | ops.Conv2dOp)
    weight = placed_panels(memory, pack_panels(product, finish, layout), k, chain.head)
    shape = Struct("vit_packed_linear_shape", fields)
    return kernel, shape, [memory.address(x), weight], scratch


def row_bytes(k: int, layout: Layout) -> int:
    """Bytes of a copied operand row."""
    return -(-k // layout.group) * layout.group * np.dtype(layout.weight).itemsize


def block_of(rows: int, size: int) -> int:
    """Rows of `size` bytes copied at a time: whole tiles of 6, or all."""
    return min(rows, max(6, COPY_BYTES // size // 6 * 6))


def reads_planar(memory: Memory, move: Operation) -> bool:
    """Whether a transpose from NCHW has one reader, a convolution that reads NCHW itself.

    Windows of `SHORTEST_RUN` columns or more are worth it; shorter ones are copied byte by byte.
    """
    if not isinstance(move, ops.TransposeOp) or integers(move.permutation) != (0, 2, 3, 1):
        return False
    users = [use.operation for use in move.result.uses]
    reader = users[0] if len(users) == 1 else None
    if not isinstance(reader, ops.Conv2dOp) or memory.level.variant("vit_conv2d_u8") is None:
        return False
    wide = shape_of(reader.weight)[2] >= SHORTEST_RUN
    return wide and _packable_convolution(memory, reader) is not None


def _packable_convolution(memory: Memory, op: ops.Conv2dOp) -> Product | None:
    """The product that a convolution is, if the level has a kernel for it."""
    kernel = "vit_linear_u8" if _is_pointwise(op) else "vit_conv2d_u8"
    if memory.level.variant(kernel) is None or op.groups.value.data != 1:
        return None
    return packable_product(memory, op.x, op.weight, op.bias)


def _is_pointwise(op: ops.Conv2dOp) -> bool:
    """Whether each output pixel is computed from the pixel at its place."""
    kernel = shape_of(op.weight)[1:3]
    return kernel == (1, 1) and integers(op.strides) == (1, 1) and not any(integers(op.pads))


def packed_convolution(
    memory: Memory, chain: Chain, op: ops.Conv2dOp | ops.ConvTranspose2dOp
) -> PackedCall | None:
    """A convolution on packed weights; None if the level or the operands do not allow it."""
    if not isinstance(op, ops.Conv2dOp):
        return None
    if is_depthwise(op):
        return _packed_depthwise(memory, chain, op)
    if is_grouped(op):
        return _packed_groups(memory, chain, op)
    product = _packable_convolution(memory, op)
    if product is None:
        return None
    batch, height, width, channels = shape_of(op.x)
    kernel = memory.level.variant("vit_conv2d_u8")
    planar = isinstance(op.x.owner, Operation) and reads_planar(memory, op.x.owner)
    if kernel is None or (_is_pointwise(op) and not planar):
        rows, kernel = batch * height * width, memory.level.best("vit_linear_u8")
        return _rows_times_weight(memory, kernel, chain, op.x, rows, product)
    out_height, out_width, out_channels = shape_of(op.result)[1:]
    row = row_bytes(product.weight.shape[1], memory.level.layout)
    block = block_of(batch * out_height * out_width, row)
    finish = choose_finish(product, chain, finishes_of(memory.level.layout))
    fields = _window_fields(op, product, finish) | {"block": block}
    fields |= without_zeros({"planar": int(planar)})
    source = op.x
    if planar:
        assert isinstance(op.x.owner, ops.TransposeOp)
        source = op.x.owner.x
        taps = product.weight.reshape(out_channels, -1, channels).swapaxes(1, 2)
        product = replace(product, weight=taps.reshape(out_channels, -1))
    packed = pack_panels(product, finish, memory.level.layout)
    weight = placed_panels(memory, packed, product.weight.shape[1], op)
    scratch = aligned(block * row) + tile_scratch(finish)
    if not memory.level.layout.in_lanes:
        scratch += aligned(product.weight.shape[1])  # a window of bytes, see vit_narrow_conv.h
    shape = Struct("vit_packed_conv_shape", fields)
    return kernel, shape, [memory.address(source), weight], scratch


def _window_fields(op: ops.Conv2dOp, product: Product, finish: Finish) -> dict[str, Value]:
    """The fields of `vit_packed_conv_shape` that all convolutions have."""
    batch, height, width, channels = shape_of(op.x)
    out_channels, kernel_h, kernel_w, _ = shape_of(op.weight)
    _, out_height, out_width, _ = shape_of(op.result)
    strides, pads, dilations = map(integers, (op.strides, op.pads, op.dilations))
    return {
        "batch": batch,
        "height": height,
        "width": width,
        "channels": channels,
        "out_height": out_height,
        "out_width": out_width,
        "out_channels": out_channels,
        "kernel_h": kernel_h,
        "kernel_w": kernel_w,
        "stride_h": strides[0],
        "stride_w": strides[1],
        "dilation_h": dilations[0],
        "dilation_w": dilations[1],
        **without_zeros({"pad_top": pads[0], "pad_left": pads[1]}),
        "padding": product.zero_point,
        "x_type": element_symbol(op.x),
        "finish": Symbol(finish.name),
    }


# ---- groups ------------------------------------------------------------------------------------


def groups_of_panel(op: ops.Conv2dOp) -> int:
    """Groups whose output channels make up a panel of a pointwise convolution; 0 if none do."""
    groups = op.groups.value.data
    columns = shape_of(op.weight)[0] // groups
    count = COLUMNS // columns if COLUMNS % columns == 0 else 0
    reduction = count * shape_of(op.weight)[3]
    whole = count > 0 and groups % count == 0 and reduction % 4 == 0
    return count if whole and reduction <= MAX_GROUPED else 0


MAX_GROUPED = 256
"""Input channels of a panel up to which products with its zeros are cheaper than many small ones."""


def is_grouped(op: ops.Conv2dOp) -> bool:
    """A pointwise convolution whose groups fill panels."""
    several = op.groups.value.data > 1
    return several and not is_depthwise(op) and _is_pointwise(op) and groups_of_panel(op) > 0


def _packed_groups(memory: Memory, chain: Chain, op: ops.Conv2dOp) -> PackedCall | None:
    """A pointwise convolution in groups: each panel is a dense product with zeros between groups."""
    kernel = memory.level.variant("vit_linear_u8")
    product = packable_product(memory, op.x, op.weight, op.bias) if kernel else None
    direct = is_unsigned(format_of(op.x).storage) or not memory.level.layout.in_lanes
    if kernel is None or product is None or not direct:
        return None
    columns, depth = product.weight.shape
    count = groups_of_panel(op)
    group = np.arange(columns, dtype=np.int64) * op.groups.value.data // columns % count
    weight = np.zeros((columns, count, depth), np.int8)
    weight[np.arange(columns), group] = product.weight
    product = replace(product, weight=weight.reshape(columns, count * depth))
    batch, height, width, channels = shape_of(op.x)
    rows = batch * height * width
    call = _rows_times_weight(memory, kernel, chain, op.x, rows, product, ld=channels)
    shape = replace(call[1], fields=call[1].fields | {"ld": channels, "step": count * depth})
    return (kernel, shape, *call[2:])


# ---- depthwise convolution -----------------------------------------------------------------------

MAX_TAPS = 60
"""Taps of a depthwise kernel, rounded up to four, fit MAX_TAPS of vit_dwconv_lines.h."""


def is_depthwise(op: ops.Conv2dOp) -> bool:
    """One input and one output channel a group."""
    return op.groups.value.data == shape_of(op.x)[3] == shape_of(op.weight)[0]


def _packed_depthwise(memory: Memory, chain: Chain, op: ops.Conv2dOp) -> PackedCall | None:
    """A depthwise convolution on packed weights."""
    kernel = memory.level.variant("vit_dwconv2d_u8")
    product = packable_product(memory, op.x, op.weight, op.bias) if kernel else None
    if kernel is None or product is None or product.weight.shape[1] > MAX_TAPS:
        return None
    finish = choose_finish(product, chain, BYTE_FINISHES)
    channels = shape_of(op.x)[3]
    patterns = math.lcm(channels, COLUMNS) // COLUMNS
    fields = _window_fields(op, product, finish) | {"patterns": patterns}
    weight = memory.weights.add(pack_depthwise(product, finish, memory.level.layout))
    shape = Struct("vit_packed_conv_shape", fields)
    return kernel, shape, [memory.address(op.x), weight], _depthwise_scratch(op, finish)


def _depthwise_scratch(op: ops.Conv2dOp, finish: Finish) -> int:
    """Scratch of vit_dwconv_lines.h: lines of the ring, one of padding, and a tile."""
    _, kernel_h, kernel_w, _ = shape_of(op.weight)
    _, _, out_width, channels = shape_of(op.result)
    stride, dilations = integers(op.strides)[1], integers(op.dilations)
    pixels = out_width + (kernel_w - 1) * dilations[1] // stride
    line = aligned(pixels * channels + 64) * stride
    window = (kernel_h - 1) * dilations[0] + 1
    tile = aligned(out_width * channels * 4 + 256) if finish.name == "VIT_BY_STAGES" else 0
    return (window + 1) * line + tile
