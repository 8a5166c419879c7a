"""Pass `refine`: activation formats chosen by what they do to the output of their block."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import BlockArgument, Operation, OpResult, SSAValue
from xdsl.passes import ModulePass

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import input_names, main_function, run_main
from vit_opt.dialects.onnx.base import real as real_number
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, storage_range
from vit_opt.dialects.vit.ops.base import VitOp, format_of, shape_of
from vit_opt.passes.calibrate import FLOAT_GRAPH
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.graph import NHWC
from vit_opt.passes.quantization.retype import (
    FREE,
    ImpossibleFormatError,
    Retyper,
    erase_unused_constants,
)
from vit_opt.passes.reproducible import reproducible
from vit_opt.passes.stage import require_stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
    Reals: TypeAlias = NDArray[np.float64]
    Slot: TypeAlias = tuple[Operation, int]
    Values: TypeAlias = MutableMapping[Slot, Array]


@dataclass(frozen=True)
class RefinePass(ModulePass):
    """Try each 8-bit activation format one step finer and coarser; keep what helps the block.

    The graph is cut where a single value is alive: after residual sums. Block by block, in order,
    every result of 8 bits whose format is free is tried with one fractional bit more (values that
    do not fit saturate) and one less, on the calibration batches; then what the block's output is
    off by on average is taken off the biases before its end. A change stays if it brings the
    integer block's output closer to the float block's, both on the float block's input, and does
    so on altered copies of images, too (mirrored, or a corner enlarged): formats fitted to few
    images saturate on images unlike them. Weights are left as they are; tables and the biases of
    readers follow. Needs what `calibrate` and `quantize` left in the asset store; without it
    nothing changes.

        %q = vit.pot_requant %a : (...) -> tensor<...!vit.fixed<i8, 4>>
        %q = vit.pot_requant %a : (...) -> tensor<...!vit.fixed<i8, 5>>
    """

    name = "refine"

    sweeps: int = 1
    """How often each block's formats are gone through."""

    batches: int = 6
    """How many calibration batches are looked at."""

    held: int = 6
    """How many altered copies of them, one of each at most, have to gain, too; 0: none."""

    def __post_init__(self) -> None:
        for name, value in (("sweeps", self.sweeps), ("batches", self.batches)):
            if value < 1:
                raise VitError(f"refine: {name} {value} is not at least 1")
        if self.held < 0:
            raise VitError(f"refine: held {self.held} is negative")

    @reproducible
    def apply(self, ctx: Context, op: ModuleOp) -> None:
        require_stage(op, self.name, "pot")
        refine(op, Constants.of(ctx), self.sweeps, self.batches, self.held)


def refine(
    module: ModuleOp, constants: Constants, sweeps: int = 1, batches: int = 6, held: int = 6
) -> int:
    """Refine every block; the number of changes. See `RefinePass`."""
    store = constants.store
    reference = store.statistics.get(FLOAT_GRAPH)
    chosen = store.batches[:batches]
    if not isinstance(reference, ModuleOp) or not chosen or sweeps < 1:
        return 0
    seen = len(chosen)
    chosen = [*chosen, *held_out(chosen, held)]
    blocks = list(blocks_of(module, reference, constants))
    targets = float_outputs(reference, blocks, chosen, store)
    names = input_names(main_function(module))
    runs: list[Values] = [{} for _ in chosen]
    changed, report = 0, list[dict[str, Any]]()
    for block in blocks:
        tuner = _Tuner(block, targets[block.name], Retyper(constants), store, seen, [])
        tuner.start(runs, [[batch[name] for name in names] for batch in chosen])
        before = tuner.errors()
        steps = [tuner.sweep() for _ in range(sweeps)] + [int(tuner.centre())]
        changed += sum(steps)
        report.append(tuner.row(before, sum(steps)))
        runs = tuner.leave()
    erase_unused_constants(main_function(module).body.block)
    store.reports["refine"] = report
    return changed


def held_out(batches: Sequence[Mapping[str, Array]], count: int) -> list[dict[str, Array]]:
    """Altered copies of batches, one of each in turn; none where nothing is an image."""
    from vit_opt.passes.algorithms.copies import HELD_OUT

    copies: list[dict[str, Array]] = []
    for index in range(min(count, len(batches))):
        alter = HELD_OUT[index % len(HELD_OUT)]
        altered = {name: alter(array) for name, array in batches[index].items()}
        if all(altered[name] is array for name, array in batches[index].items()):
            return []
        copies.append(altered)
    return copies


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


@dataclass
class _Tuner:
    """Coordinate descent over the formats of one block."""

    block: Block
    targets: list[Array]
    retyper: Retyper
    store: AssetStore
    seen: int
    """Of the batches, how many changes are made by; the others are held out."""

    values: list[Values]
    """For each batch, every value of the block as the formats now are."""

    def start(self, runs: Sequence[Values], inputs: Sequence[Sequence[Array]]) -> None:
        """Evaluate the block on what the block before left."""
        for before, arguments in zip(runs, inputs, strict=True):
            values: Values = dict(before)
            for op in self.block.operations:
                self.evaluate(op, values, values, arguments)
            self.values.append(values)

    def evaluate(
        self, op: VitOp, values: Mapping[Slot, Array], into: Values, inputs: Sequence[Array] = ()
    ) -> None:
        """Compute an operation's results."""
        from vit_opt.dialects.vit.evaluate import evaluator

        args = [
            inputs[v.index] if isinstance(v, BlockArgument) else values[_slot(v)]
            for v in op.operands
        ]
        for index, result in enumerate(evaluator(self.store)(op, args)):
            into[op, index] = result

    def leave(self) -> list[Values]:
        """The float block's output in the codes of the integer one: what the next block is given.

        Errors of earlier blocks would drown those that the formats of one block make.
        """
        from vit_opt.passes.quantization.formats import quantized_array

        end = self.block.end
        if isinstance(end, ops.DequantizeOp):
            return [{(end, 0): target} for target in self.targets]
        format_ = format_of(end.results[0])
        return [{(end, 0): quantized_array(target, format_)} for target in self.targets]

    def real(self, held: Mapping[Slot, Array]) -> Reals:
        """The block's output as real values."""
        end = self.block.end
        if isinstance(end, ops.DequantizeOp):
            return held[end, 0]
        format_ = format_of(end.results[0])
        return (held[end, 0].astype("float64") - format_.zero_point) * format_.channel_scales()

    def errors(self, values: Sequence[Mapping[Slot, Array]] | None = None) -> Reals:
        """Relative squared errors of the block's output, per batch [B, ways to look at it].

        The ways: as it is; channel by channel; and as the LayerNorm behind it sees it. Later blocks
        read a residual in other ways than the next one, so none may suffer.
        """
        import numpy as np

        view, found = self.block.view, list[list[float]]()
        for held, target in zip(values or self.values, self.targets, strict=True):
            real = self.real(held)
            found.append([relative_error(real, target)])
            if view is not None:
                rms = np.sqrt(np.square(target).reshape(-1, target.shape[-1]).mean(axis=0))
                rms = np.where(rms > 0, rms, 1.0)
                found[-1].append(relative_error(real / rms, target / rms))
                found[-1].append(relative_error(view(real), view(target)))
        return np.array(found)

    def better(self, errors: Reals, best: Reals) -> bool:
        """Whether a change helps, on the batches it is made by and on those held out."""
        return all(
            better(errors[part], best[part])
            for part in (slice(0, self.seen), slice(self.seen, None))
            if best[part].size
        )

    def centre(self) -> bool:
        """Take the mean error of the block's output off the bias of the product that ends in it."""
        import numpy as np

        end = self.block.end
        product = next((v.owner for v in end.operands if isinstance(v.owner, ops.LinearOp)), None)
        if not isinstance(end, ops.AddOp) or product is None:
            return False
        errors = [
            (self.real(held) - target).reshape(-1, target.shape[-1]).mean(axis=0)
            for held, target in zip(self.values[: self.seen], self.targets, strict=False)
        ]
        try:
            self.retyper.shift_bias(product, -np.mean(errors, axis=0))
        except ImpossibleFormatError:
            return False
        return self.judge(product, self.errors()) is not None

    def sweep(self) -> int:
        """Try every format once; the number of changes kept."""
        return sum(self.tune(op) for op in self.block.operations if _tunable(op))

    def tune(self, op: VitOp) -> bool:
        """Move one format a step at a time as long as that helps."""
        best, changed = self.errors(), False
        for direction in (1, -1):
            while (found := self.attempt(op, direction, best)) is not None:
                best, changed = found, True
            if changed:
                break
        return changed

    def attempt(self, op: VitOp, direction: int, best: Reals) -> Reals | None:
        """The errors with one step finer (1) or coarser (-1) if that is better; else undo."""
        try:
            self.retyper.retype(op, stepped(cast("FixedType", format_of(op.results[0])), direction))
        except ImpossibleFormatError:
            return None
        return self.judge(op, best)

    def judge(self, op: VitOp, best: Reals) -> Reals | None:
        """The errors after a change at an operation if they are better; else undo it."""
        fresh = [self.again(op, values) for values in self.values]
        errors = self.errors([ChainMap(a, b) for a, b in zip(fresh, self.values, strict=True)])
        if not self.better(errors, best):
            self.retyper.revert()
            return None
        self.retyper.keep()
        for values, changed in zip(self.values, fresh, strict=True):
            values.update(changed)
        return errors

    def again(self, changed: VitOp, values: Values) -> Values:
        """The values that a changed format leads to."""
        fresh: Values = {}
        held = ChainMap(fresh, values)
        operations = self.block.operations
        for op in operations[operations.index(changed) :]:
            if op is changed or any(_slot(v) in fresh for v in op.operands):
                for operand in op.operands:
                    owner = operand.owner
                    if isinstance(owner, ops.ConstantOp) and _slot(operand) not in held:
                        self.evaluate(owner, held, fresh)
                self.evaluate(op, held, fresh)
        return fresh

    def row(self, before: Reals, changes: int) -> dict[str, Any]:
        """A row of the report: SQNR of the block's output in dB."""
        import numpy as np

        before, after = before[: self.seen], self.errors()[: self.seen]
        decibels = [float(-10 * np.log10(e.mean())) if e.any() else np.inf for e in (before, after)]
        return {
            "block": self.block.name or "output",
            "changes": changes,
            "sqnr_db_before": decibels[0],
            "sqnr_db": decibels[1],
        }


GAIN = 0.01
"""Least mean gain (in the logarithm of the error) for which a format is changed."""

LOSS = 0.02
"""Most that any batch may lose: a finer grid saturates first on inputs unlike the others."""


def better(errors: Reals, best: Reals) -> bool:
    """Whether errors [B, ways] are an improvement that can be expected to carry over."""
    import numpy as np

    tiny = np.finfo(np.float64).tiny
    change = np.log(np.maximum(errors, tiny)) - np.log(np.maximum(best, tiny))
    return bool(change.mean() < -GAIN and change.max() < LOSS)


def relative_error(real: Array, target: Array) -> float:
    """Squared error over the energy of the target."""
    import numpy as np

    energy = float(np.square(target).sum(dtype=np.float64))
    return float(np.square(real - target).sum(dtype=np.float64)) / (energy or 1.0)


def _slot(value: SSAValue) -> Slot:
    """A name for a value that survives a change of its type."""
    result = cast("OpResult", value)
    return result.op, result.index


def _tunable(op: VitOp) -> bool:
    if not isinstance(op, FREE):
        return False
    format_ = format_of(op.results[0])
    return format_.storage.width.data == 8 and not format_.is_per_channel


def stepped(type_: FixedType, direction: int) -> FixedType:
    """A format with one more (1) or one less (-1) fractional bit and the same smallest value."""
    low, high = storage_range(type_.storage)
    zero = type_.zero_point - low
    zero = zero * 2 if direction > 0 else (zero + 1) // 2
    if type_.zero_point == 0:
        return FixedType(type_.storage, type_.frac + direction)
    return FixedType(type_.storage, type_.frac + direction, min(low + zero, high))


__all__ = ["Block", "RefinePass", "blocks_of", "refine", "stepped"]
