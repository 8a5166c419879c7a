"""Multiply-accumulate operations of a model, counted from shapes as the literature counts them.

Counted are convolutions, linear layers and the matrix products of attention, one MAC for each
product of a weight (or second operand) with an activation; padding counts like data. Biases, norms,
activations, softmax, sums and pooling are not counted. The figures published for DeiT, Swin and
EfficientViT are counted this way.
"""

from __future__ import annotations

from math import prod

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from vit_opt.dialects import onnx
from vit_opt.dialects.onnx.base import shape_of
from vit_opt.dialects.vit import ops


def _per_result(result: SSAValue, reduced: int) -> int:
    return prod(shape_of(result)) * reduced


def _attention(q: SSAValue, k: SSAValue, v: SSAValue) -> int:
    """K^T [V, 1] and Q times that: the column of ones gives the divisor."""
    *lead, rows, dim = shape_of(q)
    tokens, width = shape_of(k)[-2], shape_of(v)[-1] + 1
    return prod(lead) * (tokens + rows) * dim * width


def macs_of(op: Operation) -> int:
    """MACs of one operation of the float or the integer graph, 0 for those not counted."""
    match op:
        case onnx.Linear() | onnx.Conv():
            return _per_result(op.y, prod(shape_of(op.w)[1:]))
        case onnx.ConvTranspose():
            return _per_result(op.x, prod(shape_of(op.w)[1:]))
        case onnx.MatMul() | onnx.Gemm():
            transposed = isinstance(op, onnx.Gemm) and bool(op.trans_a.value.data)
            return _per_result(op.y, shape_of(op.a)[0 if transposed else -1])
        case onnx.LinearAttention() | ops.LinearAttnOp():
            return _attention(op.q, op.k, op.v)
        case ops.LinearOp() | ops.Conv2dOp():
            return _per_result(op.result, prod(shape_of(op.weight)[1:]))
        case ops.ConvTranspose2dOp():
            per_input = prod(shape_of(op.weight)) // shape_of(op.x)[-1]
            return _per_result(op.x, per_input)
        case ops.MatmulOp():
            return _per_result(op.result, shape_of(op.a)[-1])
        case ops.Log2MatmulOp():
            return _per_result(op.result, shape_of(op.codes)[-1])
        case _:
            return 0


def count_macs(module: ModuleOp) -> int:
    """MACs of one inference of a module, all functions and regions together."""
    return sum(macs_of(op) for op in module.walk())
