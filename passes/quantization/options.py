"""Choices of `quantize` that a caller can make, and what they mean for single operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xdsl.dialects.builtin import IntegerAttr, i64
from xdsl.dialects.func import FuncOp
from xdsl.ir import BlockArgument, Operation, SSAValue

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError

RESIDUALS = ("int16", "int8", "int8-ptf")
SOFTMAXES = ("deferred", "int8", "int16", "log2", "auto")
GELUS = ("table", "shift")
DIVISORS = ("recip", "pot")
PLACES = ("input", "norm", "attention", "gelu")

WIDE = "vit.x_bits"
"""Attribute of a product whose activations are read in 16 bits."""

CARRIES = (
    onnx.Reshape,
    onnx.Transpose,
    onnx.Slice,
    onnx.Concat,
    onnx.Flatten,
    onnx.Identity,
    onnx.Mul,
)
"""Operations that a wide value passes through on its way to a product."""


@dataclass(frozen=True)
class QuantizeOptions:
    """See `QuantizePass`; raises VitError for a value that is not known."""

    residual: str = "int16"
    softmax: str = "deferred"
    gelu: str = "table"
    divisor: str = "recip"
    wide: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (
            ("residual", self.residual, RESIDUALS),
            ("softmax", self.softmax, SOFTMAXES),
            ("gelu", self.gelu, GELUS),
            ("divisor", self.divisor, DIVISORS),
            *(("wide", place, PLACES) for place in self.wide),
        ):
            if value not in known:
                raise VitError(f"quantize: {name} '{value}' is not one of {', '.join(known)}")


def mark_wide(func: FuncOp, places: tuple[str, ...]) -> None:
    """Mark the products that read values of some places in 16 bits."""
    for op in func.body.block.ops:
        if isinstance(op, onnx.Linear | onnx.Conv) and _place_of(op.operands[0]) in places:
            op.attributes[WIDE] = IntegerAttr(16, i64)


def activation_bits(op: Operation) -> int:
    """Bits in which a product reads its activations."""
    return 16 if WIDE in op.attributes else 8


def _place_of(value: SSAValue) -> str | None:
    """Which of `PLACES` a value comes from."""
    while isinstance(value.owner, CARRIES):
        value = value.owner.operands[0]
    match value.owner:
        case onnx.LayerNormalization():
            return "norm"
        case onnx.Gelu() | onnx.HardSwish() | onnx.Swish():
            return "gelu"
        case onnx.MatMul() | onnx.LinearAttention():
            return "attention"
        case _:
            return "input" if isinstance(value, BlockArgument) else None


def readers_through(value: SSAValue) -> Iterator[Operation]:
    """What reads a value, seen through operations that only move elements."""
    for use in value.uses:
        if isinstance(use.operation, CARRIES):
            for result in use.operation.results:
                yield from readers_through(result)
        else:
            yield use.operation


__all__ = [
    "PLACES",
    "QuantizeOptions",
    "activation_bits",
    "mark_wide",
    "readers_through",
]
