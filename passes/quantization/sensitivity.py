"""How much narrow weights hurt, measured on the float graph.

The error is taken where it matters and where every architecture has a place: at what products
read, and at the model's outputs. A saliency map or a class may not move on one image and be lost on
the next; what the layers in between compute tells more with few images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import BlockArgument, Operation, SSAValue

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
        self.cuts = single_values(self.operations, returned)
        self.exact: list[Values] = []
        """Per batch, what the taps have with the weights as they are."""

    def alone(self) -> list[float]:
        """For each layer the mean error of the taps behind it with only its weights narrow.

        A change is followed to the first place behind the layer where a single value is alive. What
        an error there does to all that comes later is measured once, with the first layer that
        arrives, and taken as in proportion to the error for the others.
        """
        import numpy as np

        errors = np.zeros(len(self.layers))
        for inputs in self.inputs:
            values = self.evaluate(inputs)
            self.exact.append({tap: values[tap] for tap in self.taps})
            beyond: dict[SSAValue, float] = {}
            for index, (layer, weight) in enumerate(zip(self.layers, self.weights, strict=True)):
                errors[index] += self.change(values, layer, weight, beyond)
        return (errors / max(1, len(self.inputs))).tolist()

    def change(
        self, values: Values, layer: Layer, weight: Array, beyond: dict[SSAValue, float]
    ) -> float:
        """The error of the taps if one layer has another weight.

        `beyond` has the sum of the errors of all taps behind a single value, over its own error.
        """
        place = self.operations.index(layer.op)
        end = next((cut for cut in self.cuts if cut >= place), len(self.operations) - 1)
        single = self.cuts.get(end)
        changed: Values = {}
        self.follow(values, changed, layer, weight, range(place, end + 1))
        near = self.total(values, changed)
        if single is None or single not in changed:
            return near / len(self.taps)
        own = relative(values[single], changed[single])
        if own == 0.0:
            return near / len(self.taps)
        if single not in beyond:
            self.follow(values, changed, layer, weight, range(end + 1, len(self.operations)))
            beyond[single] = (self.total(values, changed) - near) / own
        return (near + beyond[single] * own) / len(self.taps)

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

    def follow(
        self, values: Values, changed: Values, layer: Layer, weight: Array, places: range
    ) -> None:
        """Compute what differs among some operations if one layer has another weight."""
        for op in (self.operations[place] for place in places):
            if op is layer.op or any(operand in changed for operand in op.operands):
                args = [changed.get(operand, values[operand]) for operand in op.operands]
                if op is layer.op:
                    args[1] = weight
                self.step(op, args, changed)

    def step(self, op: onnx.OnnxOp, args: Sequence[Array], into: Values) -> None:
        """Compute an operation."""
        from vit_opt.dialects.onnx.semantics import evaluate

        for result, array in zip(op.results, evaluate(op, args, self.store), strict=True):
            into[result] = array

    def error(self, exact: Values, found: Values) -> float:
        """Mean relative squared error over all taps; those that did not change count as zero."""
        return self.total(exact, found) / len(self.taps)

    def total(self, exact: Values, found: Values) -> float:
        """The sum over the taps that were found."""
        return sum(relative(exact[tap], found[tap]) for tap in self.taps if tap in found)


def single_values(operations: Sequence[Operation], ends: Sequence[SSAValue]) -> dict[int, SSAValue]:
    """Where a single computed value is alive: that value, by the operation it is alive behind.

    `ends` are read behind the last operation. Constants do not count, nor does a place where an
    input of the graph is still to be read.
    """
    last = dict.fromkeys(ends, len(operations))
    for place, op in reversed(list(enumerate(operations))):
        for operand in op.operands:
            last.setdefault(operand, place)
    alive = {v for v in last if isinstance(v, BlockArgument)}
    found: dict[int, SSAValue] = {}
    for place, op in enumerate(operations):
        if isinstance(op, onnx.Constant):
            continue
        alive = {v for v in (*alive, *op.results) if last.get(v, -1) > place}
        if len(alive) == 1:
            found[place] = next(iter(alive))
    return found


def relative(exact: Array, found: Array) -> float:
    """Squared error over the energy of the exact values."""
    import numpy as np

    energy = float(np.square(exact, dtype=np.float64).sum())
    return float(np.square(found - exact, dtype=np.float64).sum()) / (energy or 1.0)


__all__ = ["Sensitivity", "relative", "single_values"]
