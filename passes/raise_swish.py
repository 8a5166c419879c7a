"""Finds Swish in the product of a value and its sigmoid that exporters write it as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from vit_opt.dialects import onnx
from vit_opt.passes.cones import Function, raise_functions
from vit_opt.passes.float_graph import Constants

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

ALPHAS = (1.0, 1.702)
"""SiLU (Elfwing et al. 2017) and the fast form of GELU (Hendrycks and Gimpel 2016, section 2)."""


def swish(x: Array, alpha: float) -> Array:
    """x / (1 + exp(-alpha * x))."""
    from scipy.special import expit  # pyright: ignore[reportMissingTypeStubs]

    factor: Array = expit(alpha * x)
    return x * factor


def raise_swish(module: ModuleOp, ctx: Context) -> None:
    """Replaces every elementwise subgraph that computes Swish with one of `ALPHAS`."""

    def function(alpha: float) -> Function:
        def build(x: SSAValue, name: str | None) -> Operation:
            return onnx.Swish.make([x], [x.type], node_name=name, alpha=alpha)

        return Function(lambda x: swish(x, alpha), build, (onnx.Sigmoid, onnx.Exp, onnx.Tanh))

    raise_functions(module, Constants.of(ctx), [function(alpha) for alpha in ALPHAS])


@dataclass(frozen=True)
class RaiseSwishPass(ModulePass):
    """Replaces what computes x * sigmoid(alpha * x) by `onnx.Swish`, for alpha 1 and 1.702.

    A subgraph is recognised by its values at sample points. One table then does what otherwise
    takes a table, a product and two roundings. Assumes constants are folded (`fold-constants`). In
    quantised models the roundings inside go away.

        %0 = onnx.Sigmoid %x                           ->   %y = onnx.Swish %x {alpha = 1.0}
        %y = onnx.Mul %x, %0
    """

    name = "raise-swish"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        raise_swish(op, ctx)
