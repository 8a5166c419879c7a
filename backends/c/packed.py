"""Kernel calls of products with weights packed for an instruction level."""

from __future__ import annotations

import numpy as np
from xdsl.ir import SSAValue

from vit_opt.backends.c.code import Struct, Symbol, Value
from vit_opt.backends.c.graph import Chain, rows_and_columns
from vit_opt.backends.c.memory import Memory, aligned, element_symbol
from vit_opt.backends.c.packing import (
    COLUMNS,
    GROUP,
    Array,
    Finish,
    Product,
    choose_finish,
    pack_panels,
    product_of,
)
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import QuantizedType, is_unsigned
from vit_opt.dialects.vit.ops.base import format_of, shape_of, tensor_type

TILE_ROWS = 48
"""VIT_TILE_ROWS of vit_kernels.h."""

COPY_BYTES = 96 * 1024
"""Rows of an operand copied at a time."""

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
    return product_of(x, codes.reshape(codes.shape[0], -1).astype(np.int8), offsets)


def tile_scratch(finish: Finish) -> int:
    """Scratch for accumulators that go through stages."""
    return TILE_ROWS * COLUMNS * 4 if finish.name == "VIT_BY_STAGES" else 0


def packed_linear(memory: Memory, chain: Chain, op: ops.LinearOp) -> PackedCall | None:
    """A linear layer on packed weights; None if the level or the operands do not allow it."""
    kernel = memory.level.variant("vit_linear_u8")
    product = packable_product(memory, op.x, op.weight, op.bias) if kernel else None
    if kernel is None or product is None:
        return None
    finish = choose_finish(product, chain.stages)
    m, k = rows_and_columns(shape_of(op.x))
    row = -(-k // GROUP) * GROUP
    copied = row != k or not is_unsigned(format_of(op.x).storage)
    block = min(m, max(6, COPY_BYTES // row // 6 * 6)) if copied else m
    fields: dict[str, Value] = {
        "m": m,
        "n": product.weight.shape[0],
        "k": k,
        "block": block,
        "x_type": element_symbol(op.x),
        "finish": Symbol(finish.name),
    }
    scratch = (aligned(block * row) if copied else 0) + tile_scratch(finish)
    weight = memory.weights.add(pack_panels(product, finish))
    shape = Struct("vit_packed_linear_shape", fields)
    return kernel, shape, [memory.address(op.x), weight], scratch
