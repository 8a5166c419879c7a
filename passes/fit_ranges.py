"""Pass `fit-ranges`: what 8 bits cover, by the error of the layers that read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, OpResult
from xdsl.passes import ModulePass

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import run_main
from vit_opt.passes.algorithms.trials import better, held_out
from vit_opt.passes.calibrate import range_of, set_clip
from vit_opt.passes.float_graph import Constants, label
from vit_opt.passes.raise_attention import climb
from vit_opt.passes.reproducible import reproducible
from vit_opt.passes.stage import require_stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vit_opt.passes.algorithms.observers import Histogram

    Array: TypeAlias = NDArray[Any]
    Reals: TypeAlias = NDArray[np.float64]

SHARES = (1.0, 0.88, 0.77, 0.62, 0.5, 0.25)
"""Shares of the whole range that are tried."""

PERCENTILES = (0.9999, 0.999)
"""Shares of the values whose range is tried."""

ROWS = 1024
"""Most rows of a value that are looked at in one input."""


@dataclass(frozen=True)
class FitRangesPass(ModulePass):
    """Choose the range that the grid of each value covers by the output error of its readers.

    Concerns what `fill-grids` scales: there a grid may end at any value, not at powers of two only.
    Results of LayerNorm, GELU and the like, and attention are rounded to grids that cover all of the
    calibrated range, shares of it, or all but a share of the values, on calibration inputs and on
    altered copies of them; the squared error of the linear layers behind decides. A smaller range is
    taken if the inputs and the copies gain by it and none of them loses. It is written to
    `vit.clip`, as an observer's choice. Needs the statistics of `calibrate` and its inputs.

        %y = onnx.Gelu %x {vit.range = array<f64: -0.17, 9.5>}
        %y = onnx.Gelu %x {vit.range = array<f64: -0.17, 9.5>, vit.clip = array<f64: -0.17, 5.9>}
    """

    name = "fit-ranges"

    batches: int = 6
    """How many calibration inputs choose."""

    held: int = 6
    """How many altered copies of them have to gain, too; 0: none."""

    headroom: float = 1.3
    """How far beyond a range its grid reaches: what `fill-grids` has."""

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise VitError(f"fit-ranges: batches {self.batches} is not at least 1")
        if self.held < 0:
            raise VitError(f"fit-ranges: held {self.held} is negative")
        if not 1.0 <= self.headroom < 2.0:
            raise VitError(f"fit-ranges: headroom {self.headroom:g} is not at least 1 and below 2")

    @reproducible
    def apply(self, ctx: Context, op: ModuleOp) -> None:
        require_stage(op, self.name, "calibrated")
        fit_ranges(op, Constants.of(ctx), self.batches, self.held, self.headroom)


def fit_ranges(
    module: ModuleOp,
    constants: Constants,
    batches: int = 6,
    held: int = 6,
    headroom: float = 1.3,
) -> int:
    """Choose the range of every value that qualifies; the number of smaller ones."""
    from vit_opt.dialects.onnx.semantics import evaluate

    store = constants.store
    chosen = store.batches[:batches]
    found = values_of(module, constants, headroom)
    if not chosen or not found:
        return 0
    copies = held_out(chosen, held)

    def run(inputs: Sequence[Any], look: Any) -> None:
        for batch in inputs:
            run_main(module, batch, lambda op, args: evaluate(op, args, store), look)

    def count(op: Operation, results: Sequence[Array]) -> None:
        if op.results and op.results[0] in found:
            found[op.results[0]].seen.update(results[0])

    def measure(op: Operation, results: Sequence[Array]) -> None:
        if op.results and op.results[0] in found:
            found[op.results[0]].measure(results[0])

    run(chosen, count)
    for value in found.values():
        value.prepare()
    run([*chosen, *copies], measure)
    report: list[dict[str, Any]] = []
    for result, value in found.items():
        best = value.best(len(chosen))
        if best:
            set_clip(result, *value.ranges[best])
            report.append({"value": label(result.op), "range": list(value.ranges[best])})
    store.reports["fit-ranges"] = report
    return len(report)


@dataclass
class _Value:
    """A value, and what its candidate ranges do to its readers."""

    low: float
    high: float
    symmetric: bool
    """Whether its format has no zero point, whatever its range."""

    gram: Reals
    """W^T W [C, C] of the linear layers that read it."""

    headroom: float
    seen: Histogram
    ranges: list[tuple[float, float]] = field(default_factory=list["tuple[float, float]"])
    """Candidates, the whole range first."""

    errors: list[Reals] = field(default_factory=list["Reals"])
    """Squared errors of the readers' results, for each input [candidates]."""

    def prepare(self) -> None:
        """Set up the candidates. One end of a one-sided range is never clipped."""
        from vit_opt.passes.quantization.formats import ASYMMETRY

        one_sided = min(-self.low, self.high) < ASYMMETRY * max(-self.low, self.high)
        below, above = True, True
        if one_sided and not self.symmetric:
            below, above = -self.low > self.high, self.high >= -self.low
        wanted = [(self.low * share, self.high * share) for share in SHARES]
        wanted += [self.seen.percentile(fraction) for fraction in PERCENTILES]
        for low, high in wanted:
            ends = low if below else self.low, high if above else self.high
            if ends not in self.ranges and max(-ends[0], ends[1]) > 0:
                self.ranges.append(ends)

    def measure(self, array: Array) -> None:
        """Add an input [..., C]."""
        import numpy as np

        rows = array.reshape(-1, array.shape[-1])
        rows = rows[:: -(-rows.shape[0] // ROWS)].astype(np.float64)
        found: list[float] = []
        for ends in self.ranges:
            difference = self.rounded(rows, *ends) - rows
            found.append(float(((difference @ self.gram) * difference).sum()))
        self.errors.append(np.array(found))

    def rounded(self, rows: Reals, low: float, high: float) -> Reals:
        """Values on the grid of 8 bits that reaches `headroom` beyond a range."""
        import numpy as np

        from vit_opt.passes.quantization.formats import covering_type

        type_ = covering_type(
            low * self.headroom, high * self.headroom, 8, symmetric=self.symmetric, pot=False
        )
        scale, zero, (floor, ceiling) = (
            float(type_.channel_scales()),
            type_.zero_point,
            type_.bounds,
        )
        codes = np.clip(np.rint(rows / scale) + zero, floor, ceiling)
        return np.asarray((codes - zero) * scale)

    def best(self, seen: int) -> int:
        """Of the candidates better than the whole range, the one with the least error; 0: none."""
        import numpy as np

        table = np.maximum(np.array(self.errors), np.finfo(np.float64).tiny)
        whole, mean = table[:, [0]], np.log(table).mean(axis=0)
        good = [i for i in range(1, len(self.ranges)) if better(table[:, [i]], whole, seen)]
        return min(good, key=lambda i: float(mean[i]), default=0)


def values_of(module: ModuleOp, constants: Constants, headroom: float) -> dict[OpResult, _Value]:
    """What `fill-grids` scales and linear layers alone read, with ranges."""
    import numpy as np

    from vit_opt.passes.algorithms.observers import Histogram

    functions = (onnx.Gelu, onnx.HardSwish, onnx.Swish)
    found: dict[OpResult, _Value] = {}
    for op in module.walk():
        if not isinstance(op, onnx.Linear) or not isinstance(op.x, OpResult) or op.x in found:
            continue
        ends, made = range_of(op.x), op.x.op
        filled = isinstance(made, (onnx.LayerNormalization, *functions)) or isinstance(
            climb(op.x, constants).top.owner, onnx.MatMul
        )
        readers = [use.operation for use in op.x.uses]
        weights = [constants.array(r.w) for r in readers if isinstance(r, onnx.Linear)]
        if ends is None or not filled or len(weights) < len(readers):
            continue
        held = [w.astype(np.float64) for w in weights if w is not None]
        if len(held) == len(weights) and max(-ends[0], ends[1]) > 0:
            gram = np.asarray(sum(w.T @ w for w in held))
            low, high = min(ends[0], 0.0), max(ends[1], 0.0)
            symmetric = not isinstance(made, functions)
            found[op.x] = _Value(low, high, symmetric, gram, headroom, Histogram())
    return found


__all__ = ["FitRangesPass", "fit_ranges"]
