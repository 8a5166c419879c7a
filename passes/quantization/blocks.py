"""A finished integer graph in blocks, each beside what the float graph has at its end.

Blocks end where a single value is alive: after residual sums, which both graphs have under the same
name. What a block's output is off by says more than the error of one layer in it, and needs no run of
the whole graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from vit_opt.dialects import onnx
from vit_opt.dialects.evaluation import main_function, run_main
from vit_opt.dialects.onnx.base import real as real_number
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.base import VitOp, shape_of
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.graph import NHWC

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
    Reals: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """Operations between two places where one value is alive."""

    name: str
    """Node name of the sum that ends it, or of the output."""

    operations: tuple[VitOp, ...]

    end: VitOp
    """The operation whose result is compared with the float graph's."""

    view: View | None = None
    """What the blocks behind make of the result, where that is a LayerNorm."""


@dataclass(frozen=True)
class View:
    """A residual as the next block sees it: normalised, weighted by the weights that read it.

    Raw residuals are dominated by a few loud channels and tokens that normalisation mutes.
    """

    weight: Reals
    """[C]: LayerNorm's scale times the root of the summed squares of the reading weights' columns."""

    epsilon: float

    def __call__(self, x: Array) -> Reals:
        """[..., C] -> [..., C]."""
        import numpy as np

        x = x.astype(np.float64)
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        return np.asarray(centred / np.sqrt(variance + self.epsilon) * self.weight)


def view_of(value: SSAValue, constants: Constants) -> View | None:
    """The view of the first LayerNorm that reads a value of the float graph."""
    import numpy as np

    for use in value.uses:
        norm = use.operation
        if isinstance(norm, onnx.LayerNormalization) and norm.x is value:
            scale = constants.array(norm.scale)
            readers = [
                constants.array(u.operation.w)
                for u in norm.y.uses
                if isinstance(u.operation, onnx.Linear)
            ]
            if scale is None:
                return None
            weight = np.abs(scale).astype(np.float64)
            squares = [np.square(w, dtype=np.float64).sum(axis=0) for w in readers if w is not None]
            if squares:
                weight = weight * np.sqrt(np.sum(squares, axis=0))
            return View(weight, real_number(norm.epsilon))
    return None


def blocks_of(module: ModuleOp, reference: ModuleOp, constants: Constants) -> Iterator[Block]:
    """The blocks of @main: cut after sums that the float graph has too, under the same name."""
    sums = {
        op.node_name.data: op
        for op in main_function(reference).body.block.ops
        if isinstance(op, onnx.Add) and op.node_name is not None
    }
    body = main_function(module).body.block
    alive = _alive_after(body)
    pending: list[VitOp] = []
    for op in body.ops:
        if not isinstance(op, VitOp):
            continue
        pending.append(op)
        named = isinstance(op, ops.AddOp) and op.node_name is not None
        if named and alive[op] == 1 and cast("Any", op.node_name).data in sums:
            name = cast("Any", op.node_name).data
            yield Block(name, tuple(pending), op, view_of(sums[name].y, constants))
            pending = []
    last = body.last_op
    if pending and isinstance(last, ReturnOp) and list(last.operands) == [pending[-1].results[0]]:
        yield Block("", tuple(pending), pending[-1])


def _alive_after(body: Any) -> dict[Operation, int]:
    """For each operation, how many values made before its end are still read after it."""
    order = {op: index for index, op in enumerate(body.ops)}
    last: dict[SSAValue, int] = {}
    for op in body.ops:
        if isinstance(op, ops.ConstantOp):
            continue
        for value in op.results:
            readers = [order[use.operation] for use in value.uses if use.operation in order]
            last[value] = max(readers, default=-1)
    counts = dict.fromkeys(body.ops, 0)
    alive: set[SSAValue] = set()
    for op, index in order.items():
        alive |= {value for value in op.results if last.get(value, -1) > index}
        alive = {value for value in alive if last[value] > index}
        counts[op] = len(alive)
    return counts


def float_outputs(
    reference: ModuleOp, blocks: Sequence[Block], batches: Sequence[Mapping[str, Array]], store: Any
) -> dict[str, list[Array]]:
    """What the float graph has at the end of each block, per batch, images channels last."""
    from vit_opt.dialects.onnx.semantics import evaluate

    wanted = {block.name: shape_of(block.end.results[0]) for block in blocks}
    found: dict[str, list[Array]] = {name: [] for name in wanted}

    def observe(op: Operation, results: Sequence[Array]) -> None:
        if isinstance(op, onnx.Add) and op.node_name is not None and op.node_name.data in wanted:
            same = results[0].shape == wanted[op.node_name.data]
            found[op.node_name.data].append(results[0] if same else results[0].transpose(NHWC))

    for batch in batches:
        outputs = run_main(reference, batch, lambda op, args: evaluate(op, args, store), observe)
        if "" in wanted:
            found[""].append(next(iter(outputs.values())))
    return found


def relative_error(real: Array, target: Array) -> float:
    """Squared error over the energy of the target."""
    import numpy as np

    energy = float(np.square(target).sum(dtype=np.float64))
    return float(np.square(real - target).sum(dtype=np.float64)) / (energy or 1.0)


__all__ = ["Block", "View", "blocks_of", "float_outputs", "relative_error"]
