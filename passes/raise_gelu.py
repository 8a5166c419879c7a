"""Finds GELU in the pieces that exporters write it in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from vit_opt.dialects.onnx import Erf, Gelu, Tanh
from vit_opt.passes.cones import Function, raise_functions
from vit_opt.passes.float_graph import Constants

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]


def gelu(x: Array) -> Array:
    """x * Phi(x) with the normal distribution function Phi (Hendrycks and Gimpel 2016)."""
    from scipy.special import ndtr  # pyright: ignore[reportMissingTypeStubs]

    return x * cast("Array", ndtr(x))


def gelu_tanh(x: Array) -> Array:
    """The tanh approximation: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""
    import numpy as np

    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def raise_gelu(module: ModuleOp, ctx: Context) -> None:
    """Replaces every elementwise subgraph that computes GELU by `onnx.Gelu`."""

    def exact(x: SSAValue, name: str | None) -> Operation:
        return Gelu.make([x], [x.type], node_name=name)

    def approximate(x: SSAValue, name: str | None) -> Operation:
        return Gelu.make([x], [x.type], node_name=name, approximate="tanh")

    functions = [Function(gelu, exact, (Erf,)), Function(gelu_tanh, approximate, (Tanh,))]
    raise_functions(module, Constants.of(ctx), functions)


@dataclass(frozen=True)
class RaiseGeluPass(ModulePass):
    """Replaces what computes GELU by `onnx.Gelu` (erf form) or its tanh form.

    A subgraph is recognised by its values at sample points, so the order of factors, divisions
    for multiplications and split constants do not matter. Assumes constants are folded
    (`fold-constants`). In quantised models the roundings inside of the subgraph go away.

        %0 = onnx.Div %x, %sqrt2
        %1 = onnx.Erf %0
        %2 = onnx.Add %1, %one          ->   %y = onnx.Gelu %x
        %3 = onnx.Mul %x, %2
        %y = onnx.Mul %3, %half
    """

    name = "raise-gelu"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        raise_gelu(op, ctx)
