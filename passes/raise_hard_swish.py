"""Finds HardSwish and HardSigmoid in the pieces that exporters write them in."""

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


def hard_sigmoid(x: Array) -> Array:
    """relu6(x + 3) / 6 (Howard et al. 2019, "Searching for MobileNetV3", section 5.2)."""
    import numpy as np

    return np.clip(x + 3, 0, 6) / 6


def hard_swish(x: Array) -> Array:
    """x * relu6(x + 3) / 6 (same source)."""
    return x * hard_sigmoid(x)


def raise_hard_swish(module: ModuleOp, ctx: Context) -> None:
    """Replaces every elementwise subgraph that computes HardSwish or HardSigmoid."""

    def swish(x: SSAValue, name: str | None) -> Operation:
        return onnx.HardSwish.make([x], [x.type], node_name=name)

    def sigmoid(x: SSAValue, name: str | None) -> Operation:
        return onnx.HardSigmoid.make([x], [x.type], node_name=name, alpha=1 / 6, beta=0.5)

    hints = (onnx.HardSigmoid, onnx.Clip, onnx.Relu, onnx.Min)
    functions = [
        Function(hard_swish, swish, hints),
        Function(hard_sigmoid, sigmoid, (onnx.Clip, onnx.Relu, onnx.Min)),
    ]
    raise_functions(module, Constants.of(ctx), functions)


@dataclass(frozen=True)
class RaiseHardSwishPass(ModulePass):
    """Replaces what computes HardSwish by `onnx.HardSwish`, HardSigmoid alike.

    A subgraph is recognised by its values at sample points: x * HardSigmoid(x),
    x * Clip(x + 3, 0, 6) / 6, forms with Relu and Min, any order of factors. Assumes constants
    are folded (`fold-constants`). In quantised models the roundings inside go away.

        %0 = onnx.Add %x, %three
        %1 = onnx.Clip %0 {min = 0.0, max = 6.0}     ->   %y = onnx.HardSwish %x
        %2 = onnx.Mul %x, %1
        %y = onnx.Div %2, %six
    """

    name = "raise-hard-swish"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        raise_hard_swish(op, ctx)
