"""How much narrow weights hurt, measured on the float graph.

The error is taken where it matters and where every architecture has a place: at what products
read, and at the model's outputs. A saliency map or a class may not move on one image and be lost on
the next; what the layers in between compute tells more with few images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.evaluation import input_names, main_function
from vit_opt.passes.quantization.weights import Layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
    Values: TypeAlias = dict[SSAValue, Array]


class Sensitivity:
    """Errors of the float graph with some layers' weights replaced by rounded ones."""

    def __init__(
        self,
        module: ModuleOp,
        store: AssetStore,
        layers: Sequence[Layer],
        weights: Sequence[Array],
        batches: Sequence[Mapping[str, Array]],
    ):
        self.store, self.layers = store, layers
        func = main_function(module)
        block = func.body.block
        self.arguments = block.args
        self.operations = [op for op in block.ops if isinstance(op, onnx.OnnxOp)]
        self.inputs = [[batch[name] for name in input_names(func)] for batch in batches]
        self.weights = weights
        last = block.last_op
        returned = last.operands if last is not None else ()
        self.taps = list(dict.fromkeys([*(layer.op.x for layer in layers), *returned]))
        """Where errors are looked at."""
        self.exact: list[Values] = []
        """Per batch, what the taps have with the weights as they are."""

    def alone(self) -> list[float]:
        """For each layer the mean error of the taps behind it with only its weights narrow."""
        import numpy as np

        errors = np.zeros(len(self.layers))
        for inputs in self.inputs:
            values = self.evaluate(inputs)
            self.exact.append({tap: values[tap] for tap in self.taps})
            for index, (layer, weight) in enumerate(zip(self.layers, self.weights, strict=True)):
                changed = self.changes(values, layer, weight)
                errors[index] += self.error(values, changed)
        return (errors / max(1, len(self.inputs))).tolist()

    def together(self, choice: Sequence[bool]) -> float:
        """The error with all chosen layers narrow."""
        chosen: dict[Operation, Array] = {
            layer.op: weight
            for layer, weight, narrow in zip(self.layers, self.weights, choice, strict=True)
            if narrow
        }
        total = 0.0
        for inputs, exact in zip(self.inputs, self.exact, strict=True):
            total += self.error(exact, self.evaluate(inputs, chosen))
        return total / max(1, len(self.inputs))

    def evaluate(
        self, inputs: Sequence[Array], weights: Mapping[Operation, Array] | None = None
    ) -> Values:
        """All values of the graph, with other weights for some operations."""
        values: Values = dict(zip(self.arguments, inputs, strict=True))
        for op in self.operations:
            args = [values[operand] for operand in op.operands]
            if weights and op in weights:
                args[1] = weights[op]
            self.step(op, args, values)
        return values

    def changes(self, values: Values, layer: Layer, weight: Array) -> Values:
        """The values that differ if one layer has another weight."""
        changed: Values = {}
        for op in self.operations:
            if op is layer.op or any(operand in changed for operand in op.operands):
                args = [changed.get(operand, values[operand]) for operand in op.operands]
                if op is layer.op:
                    args[1] = weight
                self.step(op, args, changed)
        return changed

    def step(self, op: onnx.OnnxOp, args: Sequence[Array], into: Values) -> None:
        """Compute an operation."""
        from vit_opt.dialects.onnx.semantics import evaluate

        for result, array in zip(op.results, evaluate(op, args, self.store), strict=True):
            into[result] = array

    def error(self, exact: Values, found: Values) -> float:
        """Mean relative squared error over all taps; those that did not change count as zero."""
        total = sum(relative(exact[tap], found[tap]) for tap in self.taps if tap in found)
        return total / len(self.taps)


def relative(exact: Array, found: Array) -> float:
    """Squared error over the energy of the exact values."""
    import numpy as np

    energy = float(np.square(exact, dtype=np.float64).sum())
    return float(np.square(found - exact, dtype=np.float64).sum()) / (energy or 1.0)


__all__ = ["Sensitivity", "relative"]
