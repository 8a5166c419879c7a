"""Pass `verify-integer`: proof that no float is left between the borders of a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from xdsl.context import Context
from xdsl.dialects.builtin import AnyFloat, ModuleOp, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass

from vit_opt.dialects.errors import CheckError
from vit_opt.dialects.vit.attributes import ScaledType
from vit_opt.dialects.vit.ops import DequantizeOp, QuantizeOp
from vit_opt.dialects.vit.ops.base import label_of

SHOWN = 3
"""How many findings a message spells out; the others are counted."""


@dataclass(frozen=True)
class VerifyIntegerPass(ModulePass):
    """Fail if anything but integers is left inside the model; change nothing.

    Floats may be arguments of a function that only `vit.quantize` reads, and results of
    `vit.dequantize` that the function returns. There may be no operation of the `onnx` dialect, and
    with `pot` no value of `!vit.scaled`. Masters of constants are not looked at: they are kept for
    other passes, and no backend reads them.

        %y = vit.pot_requant %x : ... -> tensor<4x!vit.fixed<i8, 5>>     passes, unchanged
        %y = onnx.Gelu %x : (tensor<4xf32>) -> tensor<4xf32>             error: names it
    """

    name = "verify-integer"

    pot: bool = True
    """Insist on power-of-two scales, too: off for the dyadic road, which runs on reference and C."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        verify_integer(op, pot=self.pot)


def verify_integer(module: ModuleOp, pot: bool = True) -> None:
    """Raise CheckError naming the operations and values of a module that are not integer."""
    findings = list(_findings(module, pot))
    if findings:
        more = len(findings) - SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        raise CheckError(f"verify-integer: {'; '.join(findings[:SHOWN])}{rest}")


def _findings(module: ModuleOp, pot: bool) -> Iterator[str]:
    pending = [op for op in module.walk() if op.name.startswith("onnx.")]
    for op in pending:
        yield f"{label_of(op)} has not been quantised; run quantize first"
    for op in () if pending else module.walk():
        values: list[SSAValue] = list(op.results)
        for region in op.regions:
            for block in region.blocks:
                values.extend(block.args)
        for value in values:
            element = _element(value.type)
            if isinstance(element, AnyFloat):
                reason = _misplaced(value)
                if reason is not None:
                    yield reason
            elif pot and isinstance(element, ScaledType):
                yield (
                    f"{_name(value)} has format {element}, which is not a power of two; "
                    f"run pot-fold first"
                )


def _element(type_: Attribute) -> Attribute:
    if isinstance(type_, TensorType):
        return cast("TensorType[Attribute]", type_).get_element_type()
    return type_


def _name(value: SSAValue) -> str:
    if isinstance(value, BlockArgument):
        return f"argument {value.index}"
    owner = value.owner
    assert isinstance(owner, Operation)
    return f"the result of {label_of(owner)}"


def _misplaced(value: SSAValue) -> str | None:
    """Why a float value is not at the border of the model, None if it is."""
    if isinstance(value, BlockArgument):
        if not isinstance(value.block.parent_op(), FuncOp):
            return f"{_name(value)} of a region is a float"
        allowed = QuantizeOp
    elif isinstance(value.owner, DequantizeOp):
        allowed = ReturnOp
    else:
        return f"{_name(value)} is a float"
    for use in value.uses:
        if not isinstance(use.operation, allowed):
            return (
                f"{label_of(use.operation)} reads the float {_name(value)}, which only "
                f"{allowed.name} may"
            )
    return None
