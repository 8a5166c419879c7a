"""The float graph and the integer graph made of it, run side by side on calibration inputs.

While the integer graph is finished operation by operation, each product can look at the integers
that reach it, and at what the float graph has where its result goes. Values live no longer than
something reads them, for all inputs at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, OpResult, SSAValue
from xdsl.traits import IsTerminator

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.evaluation import input_names, main_function
from vit_opt.dialects.onnx.base import integer
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.base import shape_of
from vit_opt.dialects.vit.ops.linear import ConvBase
from vit_opt.passes.calibrate import FLOAT_GRAPH, copies_of
from vit_opt.passes.quantization.graph import NCHW, NHWC

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vit_opt.dialects.evaluation import Evaluate
    from vit_opt.passes.algorithms.matching import Matching
    from vit_opt.passes.algorithms.windows import WindowMoments

    Array: TypeAlias = NDArray[Any]
    Product: TypeAlias = onnx.Linear | onnx.Conv | onnx.ConvTranspose

OpT = TypeVar("OpT", bound=onnx.OnnxOp)

MOST = 40
"""Inputs that are run, altered copies included: their values are in memory together."""

MEMORY = 1 << 30
"""Bytes that these values may take, about: large images are run on fewer inputs."""

NUMBER = 12
"""Bytes for each number of the largest value: three or so are alive at a time, of 2 to 4 bytes."""

QUIET = 1e-3
"""Share of the mean variance below which a row counts no more than at it."""


def by_name(operations: Sequence[OpT]) -> dict[str, OpT]:
    """Operations by node name; those that share one are left out."""
    named = [(op.node_name.data, op) for op in operations if op.node_name is not None]
    counts = Counter(name for name, _ in named)
    return {name: op for name, op in named if counts[name] == 1}


class Runner:
    """A block that is run on several inputs, as far as is asked for.

    Operations may change until they are run, and constants may be put before them.
    """

    def __init__(self, block: Block, inputs: Sequence[Sequence[Array]], evaluate: Evaluate):
        self.evaluate = evaluate
        self.values: list[dict[SSAValue, Array]] = [
            dict(zip(block.args, each, strict=True)) for each in inputs
        ]
        self.kept: set[SSAValue] = set()
        """Values that stay although nothing in the block reads them any more."""
        self._next = block.first_op
        self._done: set[Operation] = set()

    def advance(self, until: Operation) -> None:
        """Run all operations before one that has not been run."""
        while self._next is not None and self._next is not until:
            self._step(self._next)
            self._next = self._next.next_op

    def through(self, op: Operation) -> None:
        """Run all operations up to one, and this one, if that was not done."""
        if op not in self._done:
            self.advance(op)
            self._step(op)
            self._next = op.next_op

    def constant(self, value: SSAValue) -> Array | None:
        """A value that needs no input."""
        owner = value.owner
        if isinstance(owner, Block) or owner.operands:
            return None
        return self.evaluate(owner, [])[cast("OpResult", value).index]

    def _step(self, op: Operation) -> None:
        if not op.operands or op.has_trait(IsTerminator):
            return
        constants = {value: self.constant(value) for value in op.operands}
        for values in self.values:
            arrays = (constants[v] for v in op.operands)
            args = [
                values[v] if array is None else array
                for v, array in zip(op.operands, arrays, strict=True)
            ]
            values.update(zip(op.results, self.evaluate(op, args), strict=True))
        self._done.add(op)
        for value in (*op.operands, *op.results):
            self.release(value)

    def release(self, value: SSAValue) -> None:
        """Forget a value that nothing will read."""
        if value in self.kept or any(self._reads(use.operation) for use in value.uses):
            return
        for values in self.values:
            values.pop(value, None)

    def _reads(self, op: Operation) -> bool:
        return op not in self._done and not op.has_trait(IsTerminator)


class Lockstep:
    """Both graphs on the same inputs; `inputs` has each with the number of its image."""

    def __init__(
        self,
        module: ModuleOp,
        reference: ModuleOp,
        store: AssetStore,
        inputs: Sequence[tuple[int, Mapping[str, Array]]],
    ):
        from vit_opt.dialects.onnx.semantics import evaluate
        from vit_opt.dialects.vit.evaluate import evaluator

        self.images = [image for image, _ in inputs]
        block, names = main_function(reference).body.block, input_names(main_function(module))
        arrays = [[batch[name] for name in names] for _, batch in inputs]
        self.floats = Runner(block, arrays, lambda op, args: evaluate(op, args, store))
        self.integers = Runner(main_function(module).body.block, arrays, evaluator(store))
        products = [
            op for op in block.ops if isinstance(op, onnx.Linear | onnx.Conv | onnx.ConvTranspose)
        ]
        sums = [op for op in block.ops if isinstance(op, onnx.Add)]
        self.products, self.sums = by_name(products), by_name(sums)
        for op in self.products.values():
            self.floats.kept |= {op.y, *_sums_of(op)}

    def matching(self, op: ops.LinearOp | ConvBase) -> Matching | None:
        """What a product is off by with its weights as they are; None where that is not known."""
        node = self._node(op)
        if node is None:
            return None
        self.integers.advance(op)
        self.floats.through(node)
        windows = self._windows(node)
        found = _empty(node, windows)
        for image, x, error, weights in self._errors(op, node):
            if not found.pairs:
                rows = []
            elif windows is None:
                rows = [(x.reshape(-1, x.shape[-1]), error.reshape(-1, error.shape[-1]))]
            else:
                rows = list(windows.rows(x, error))
            found.update(image, rows, error, weights)
        self.skip(op)
        return found

    def skip(self, op: ops.LinearOp | ConvBase) -> None:
        """Forget what was kept for a product."""
        node = self._node(op)
        for value in () if node is None else (node.y, *_sums_of(node)):
            self.floats.kept.discard(value)
            self.floats.release(value)

    def _node(self, op: ops.LinearOp | ConvBase) -> Product | None:
        """The product of the float graph that an integer one is made of."""
        node = None if op.node_name is None else self.products.get(op.node_name.data)
        return None if node is None or _rows_of(node) != _rows_of(op) else node

    @staticmethod
    def _windows(node: Product) -> WindowMoments | None:
        """The windows of a convolution; None for linear layers and where windows are left out."""
        from vit_opt.passes.quantization.windows import window_moments

        if isinstance(node, onnx.Linear) or integer(node.group) > 1:
            return None
        return window_moments(node)

    def _errors(
        self, op: ops.LinearOp | ConvBase, node: Product
    ) -> Iterator[tuple[int, Array, Array, Array | None]]:
        """For each input its image, the product's real inputs, its output's error, rows' weights.

        The error of a product that goes into a sum is that of the sum. Images are channels last.
        """
        import numpy as np

        constants = [self.floats.constant(value) for value in node.operands[1:]]
        if any(array is None for array in constants):
            return
        total = self._sum(op, node)
        channels_first = not isinstance(node, onnx.Linear)
        for image, exact, codes in zip(
            self.images, self.floats.values, self.integers.values, strict=True
        ):
            x = real_values(op.x, codes[op.x])
            args = [x.transpose(NCHW) if channels_first else x, *cast("list[Array]", constants)]
            [y] = self.floats.evaluate(node, args)
            wanted = exact[node.y if total is None else total[0].y]
            error = (wanted - y).transpose(NHWC) if channels_first else wanted - y
            if total is not None:
                error = error - real_values(total[1], codes[total[1]])
            weights = None if total is None or channels_first else row_weights(wanted)
            yield image, x, np.asarray(error, np.float32), weights

    def _sum(self, op: ops.LinearOp | ConvBase, node: Product) -> tuple[onnx.Add, SSAValue] | None:
        """The float sum that the product's result goes into and nowhere else; its integer summand."""
        readers = [use.operation for use in op.result.uses]
        if len(readers) != 1 or not isinstance(reader := readers[0], ops.AddOp):
            return None
        other = reader.b if reader.a is op.result else reader.a
        total = None if reader.node_name is None else self.sums.get(reader.node_name.data)
        known = all(other in values for values in self.integers.values)
        if total is None or node.y not in total.operands or not known:
            return None
        if shape_of(total.y) != shape_of(node.y) or shape_of(other) != shape_of(op.result):
            return None
        self.floats.through(total)
        return total, other


def real_values(value: SSAValue, codes: Array) -> Array:
    """What codes of a value stand for, float32."""
    import numpy as np

    from vit_opt.dialects.vit.evaluate import scales_of
    from vit_opt.dialects.vit.ops.base import format_of

    centred = codes.astype(np.float64) - format_of(value).zero_point
    return (centred * scales_of(value)).astype(np.float32)


def _sums_of(op: Product) -> list[SSAValue]:
    """The sums that a product's result goes into."""
    readers = (use.operation for use in op.y.uses)
    return [reader.y for reader in readers if isinstance(reader, onnx.Add)]


def _rows_of(op: Product | ops.LinearOp | ConvBase) -> tuple[int, int]:
    """Output channels, and numbers in the weight."""
    last = isinstance(op, ops.LinearOp | ConvBase | onnx.Linear)
    shape = shape_of(op.results[0])
    return shape[-1 if last else 1], prod(shape_of(op.operands[1]))


def _empty(node: Product, windows: WindowMoments | None) -> Matching:
    """Sums over no row yet: a pair for a linear layer, one for each phase of a convolution's windows,
    none where windows are left out."""
    import numpy as np

    from vit_opt.passes.algorithms.matching import Matching, Pair, Sums

    outputs, size = _rows_of(node)
    if isinstance(node, onnx.Linear):
        features = [np.arange(size // outputs)]
    else:
        features = [] if windows is None else windows.features
    return Matching(
        [Pair(each, (Sums(len(each), outputs), Sums(len(each), outputs))) for each in features]
    )


def row_weights(values: Array) -> Array | None:
    """Weights [R] of the rows of values [..., N] as a LayerNorm sees them: 1 / variance, mean 1."""
    import numpy as np

    variance = values.reshape(-1, values.shape[-1]).var(axis=1, dtype=np.float64)
    mean = float(variance.mean()) if variance.size else 0.0
    if not mean > 0.0:
        return None
    weights = 1.0 / np.maximum(variance, QUIET * mean)
    return np.asarray(weights / weights.mean(), np.float32)


def start_lockstep(module: ModuleOp, store: AssetStore) -> Lockstep | None:
    """The float graph beside an integer one, on calibration inputs; None where either is not known."""
    reference = store.statistics.get(FLOAT_GRAPH)
    if not isinstance(reference, ModuleOp) or not store.batches:
        return None
    inputs = lockstep_inputs(reference, store.batches, copies_of("few", len(store.batches)))
    return Lockstep(module, reference, store, inputs)


def lockstep_inputs(
    reference: ModuleOp,
    batches: Sequence[Mapping[str, Array]],
    copies: Sequence[Callable[[Array], Array]],
) -> list[tuple[int, dict[str, Array]]]:
    """Batches and their altered copies, each with the number of its batch, as many as there may be.

    Where there are too many, every n-th batch is taken, and the first copies.
    """
    values = (v for op in main_function(reference).body.block.ops for v in op.results)
    largest = max((prod(shape_of(v)) for v in values), default=1)
    most = min(MOST, max(2, MEMORY // (NUMBER * largest)))
    few = batches[:: -(-len(batches) // most)] if batches else batches
    copies = copies[: max(1, most // max(1, len(few)))]
    return [
        (index, {name: copy(array) for name, array in batch.items()})
        for index, batch in enumerate(few)
        for copy in copies
    ]


__all__ = ["Lockstep", "Runner", "lockstep_inputs", "real_values", "row_weights", "start_lockstep"]
