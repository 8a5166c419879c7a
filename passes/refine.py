"""Pass `refine`: activation formats chosen by what they do to the output of their block."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import BlockArgument, Operation, OpResult, SSAValue
from xdsl.passes import ModulePass

from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import input_names, main_function
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, storage_range
from vit_opt.dialects.vit.ops.base import VitOp, format_of
from vit_opt.passes.algorithms.trials import bearable, better, held_out
from vit_opt.passes.calibrate import FLOAT_GRAPH
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.blocks import Block, blocks_of, float_outputs, relative_error
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
    do not fit saturate) and one less, on as long as that helps, on the calibration batches; then
    what the block's output is off by on average is taken off the biases before its end. A change
    stays if it brings the integer block's output closer to the float block's, both on the float
    block's input, and does so on altered copies of images, too (`HELD_OUT`, none of which
    calibration sees): what is fitted to few images saturates on images unlike them. Weights are
    left as they are; tables and the biases of readers follow. Needs what `calibrate` and `quantize`
    left in the asset store; without it nothing changes.

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
    module: ModuleOp,
    constants: Constants,
    sweeps: int = 1,
    batches: int = 6,
    held: int = 6,
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

    def errors(self) -> Reals:
        """`error` of the block's output as it now is, per batch [B, ways]."""
        import numpy as np

        pairs = zip(self.values, self.targets, strict=True)
        return np.array([self.error(held, target) for held, target in pairs])

    def error(self, held: Mapping[Slot, Array], target: Array) -> Reals:
        """Relative squared errors of the block's output on a batch [ways to look at it].

        The ways: as it is; channel by channel; and as the LayerNorm behind it sees it. Later blocks
        read a residual in other ways than the next one, so none may suffer.
        """
        import numpy as np

        view, real = self.block.view, self.real(held)
        found = [relative_error(real, target)]
        if view is not None:
            rms = np.sqrt(np.square(target).reshape(-1, target.shape[-1]).mean(axis=0))
            rms = np.where(rms > 0, rms, 1.0)
            found.append(relative_error(real / rms, target / rms))
            found.append(relative_error(view(real), view(target)))
        return np.array(found)

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
        """The errors after a change at an operation if they are better; else undo it.

        The first input that loses too much ends the trial.
        """
        import numpy as np

        fresh: list[Values] = []
        rows: list[Reals] = []
        for values, target, before in zip(self.values, self.targets, best, strict=True):
            fresh.append(self.again(op, values))
            rows.append(self.error(ChainMap(fresh[-1], values), target))
            if not bearable(rows[-1], before):
                self.retyper.revert()
                return None
        errors = np.array(rows)
        if not better(errors, best, self.seen):
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


__all__ = ["RefinePass", "refine", "stepped"]
