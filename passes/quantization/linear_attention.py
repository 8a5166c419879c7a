"""ReLU linear attention in integers (Trio-ViT; EfficientViT's LiteMLA)."""

from __future__ import annotations

from math import ceil, log2

from xdsl.ir import SSAValue

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.ops.base import format_of
from vit_opt.passes.calibrate import state_of
from vit_opt.passes.quantization.formats import covering_type, mean_type
from vit_opt.passes.quantization.graph import IntegerGraph

STATE_TOP = 127
"""Largest code of K^T V, which is kept as i8."""

SUM_TOP = 255
"""Largest code of the sum of K, which is kept as ui8."""


def covering_shift(largest: float, top: int) -> int:
    """The smallest shift that brings an integer magnitude to `top` or below; at least 0."""
    return max(0, ceil(log2(largest / top))) if largest > 0 else 0


def rectified(graph: IntegerGraph, value: SSAValue) -> SSAValue:
    """The ReLU of a value as i8 codes 0..127, on a power-of-two grid."""
    high = max(graph.span(value, 8)[1], 0.0)
    type_ = covering_type(0.0, high, 8, symmetric=True, pot=True)
    codes = graph.typed(value, type_)
    return graph.emit(ops.ClampOp.of(codes, min=0, max=type_.bounds[1])).result


def linear_attention(graph: IntegerGraph, op: onnx.LinearAttention) -> None:
    """q, k and v in 8 bits; K^T V and the sum of K are brought to 8 bits by shifts.

    The shifts cover what calibration saw of both. The number added to the divisor is left out: it
    lies far below the grid of the divisor, and where that is 0 the result is.
    """
    largest = state_of(op)
    if largest is None:
        raise VitError(f"{op.label}: no calibrated state; run calibrate first")
    q, k = rectified(graph, op.q), rectified(graph, op.k)
    v = graph.codes(op.v, 8, symmetric=True, pot=True)
    k_type, v_type = format_of(k), format_of(v)
    assert isinstance(k_type, FixedType) and isinstance(v_type, FixedType)
    low, high = graph.span(op.y, 8)
    attention = ops.LinearAttnOp.of(
        q,
        k,
        v,
        type=mean_type(v_type, low, high, 8),
        kv_shift=covering_shift(largest[0] * 2.0 ** (k_type.frac + v_type.frac), STATE_TOP),
        divisor=graph.options.divisor,
        ksum_shift=covering_shift(largest[1] * 2.0**k_type.frac, SUM_TOP),
    )
    graph.define(op.y, graph.emit(attention, op).result)
