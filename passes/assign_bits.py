"""Pass `assign-bits`: which layers have weights of 4 bits, within a budget of bytes or cycles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import accel_target
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.weights import BYTE_GROUPS, WEIGHT_BITS, Layer, layers_of
from vit_opt.passes.reproducible import reproducible
from vit_opt.passes.stage import require_stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vit_opt.passes.algorithms.bit_search import Choice, Costs
    from vit_opt.passes.quantization.sensitivity import Sensitivity

    Bools: TypeAlias = NDArray[np.bool_]

Row: TypeAlias = dict[str, Any]
"""Of the report."""

COSTS = ("bytes", "cycles")
"""What a budget may limit."""

NOTHING = 1e-9
"""Cost of a group that saves nothing: it becomes wide before all others."""

FORMS = ("channel", "group")
"""What weights of 4 bits share a scale with."""


@dataclass(frozen=True)
class AssignBitsPass(ModulePass):
    """Give weights 4 bits where that hurts least, so that a model keeps a budget.

    `budget` is the share that weights with their scales may take of the bytes of an int8 model, or
    that products may take of its array cycles on an accelerator (cost=cycles, arch=NAME). For
    each layer the float graph is run on calibration batches with its weights alone rounded to 4
    bits; the relative error of what products read is its sensitivity.

    form=channel: whole layers have 4 bits (`!vit.fixed<i4, ...>`, a scale per output channel). A
    knapsack over sensitivities makes a choice, and exchanges that lower the measured error of the
    whole choice refine it. form=group: eight weights along the reduction share a shift, and within
    each layer the groups of columns that matter most keep 8 bits; the type stays i8, since all
    lies on one 8-bit grid per output channel (`algorithms.narrow`).

    Depthwise convolutions have few weights and keep 8 bits. Without a budget (1.0) all layers have
    `bits`. The choice is written to the IR, where `quantize` and `pot-fold` follow it; no value
    changes here. The same data give the same choice.

        %y = onnx.Linear %x, %w, %b
        %y = onnx.Linear %x, %w, %b {vit.weight_bits = 4 : i64}
    """

    name = "assign-bits"

    bits: int = 8
    """Bits of weights where there is no budget: 8 or 4."""

    budget: float = 1.0
    """Cost of the weights, relative to int8, that may not be exceeded."""

    form: str = "channel"
    """"channel": a layer has 4 or 8 bits; "group": groups of columns have."""

    cost: str = "bytes"
    """What the budget limits: "bytes", or "cycles" of the accelerator's array."""

    arch: str = "p2vit"
    """The accelerator whose cycles are meant."""

    batches: int = 4
    """How many calibration batches sensitivities are measured on."""

    trials: int = 24
    """How often the error of a whole choice is measured to refine it; 0: additive errors only."""

    def __post_init__(self) -> None:
        _check(self)

    @reproducible
    def apply(self, ctx: Context, op: ModuleOp) -> None:
        require_stage(op, self.name, "calibrated")
        assign_bits(op, Constants.of(ctx), self)


def assign_bits(
    module: ModuleOp, constants: Constants, options: AssignBitsPass | None = None
) -> int:
    """Choose the bits of every weight; the number of layers with narrow ones. See `AssignBitsPass`.

    Raises VitError for an option out of range, a budget that no choice keeps, or one without
    calibration batches.
    """
    options = options or AssignBitsPass()
    if options.bits == 8 and options.budget >= 1.0:
        return 0
    layers, fixed = layers_of(module, constants)
    rows = [Row(layer=layer.op.label, weights=layer.size) for layer in layers]
    if options.form == "group":
        found = _groups(module, constants, layers, fixed, rows, options)
        sizes = [_mark_groups(layer, wide) for layer, wide in zip(layers, found, strict=True)]
    else:
        choice = (True,) * len(layers)
        if options.budget < 1.0:
            choice = _layers(module, constants, layers, fixed, rows, options)
        for layer, narrow in zip(layers, choice, strict=True):
            if narrow:
                layer.op.attributes[WEIGHT_BITS] = IntegerAttr(4, i64)
        sizes = [layer.bytes(4 if c else 8) for layer, c in zip(layers, choice, strict=True)]
    narrow = [layer for layer, size in zip(layers, sizes, strict=True) if size < layer.bytes(8)]
    for layer, row, size in zip(layers, rows, sizes, strict=True):
        row |= {"bytes": size, "bits": 8.0 * (size - layer.channels) / layer.size}
    wide = sum(layer.bytes(8) for layer in layers) + fixed
    share = (sum(sizes) + fixed) / max(1, wide)
    rows.append({"layer": "all", "bytes": sum(sizes) + fixed, "bytes_8": wide, "share": share})
    constants.store.reports["assign-bits"] = rows
    return len(narrow)


def _check(options: AssignBitsPass) -> None:
    if options.bits not in (4, 8):
        raise VitError(f"assign-bits: bits {options.bits} is not 4 or 8")
    if not 0.0 < options.budget <= 1.0:
        raise VitError(f"assign-bits: budget {options.budget:g} is not above 0 and at most 1")
    for name, value, known in (("cost", options.cost, COSTS), ("form", options.form, FORMS)):
        if value not in known:
            raise VitError(f"assign-bits: {name} '{value}' is not one of {', '.join(known)}")
    for name, count in (("batches", options.batches), ("trials", options.trials)):
        if count < 0:
            raise VitError(f"assign-bits: {name} {count} is negative")
    if options.cost == "cycles":
        accel_target(options.arch)


def _sensitivity(
    module: ModuleOp, constants: Constants, layers: Sequence[Layer], options: AssignBitsPass
) -> Sensitivity:
    from vit_opt.passes.quantization.sensitivity import Sensitivity

    batches = constants.store.batches[: max(0, options.batches)]
    if not batches:
        raise VitError("assign-bits: a budget needs calibration data; give it with --calib")
    if options.form == "group":
        weights = [layer.grouped(layer.no_group()) for layer in layers]
    else:
        weights = [layer.narrowed() for layer in layers]
    return Sensitivity(module, constants.store, layers, weights, batches)


def _infeasible(options: AssignBitsPass, share: float) -> VitError:
    return VitError(
        f"assign-bits: no choice of bits keeps budget {options.budget:g} of {options.cost}; "
        f"with 4 bits everywhere it is {share:.3f}"
    )


def _layers(
    module: ModuleOp,
    constants: Constants,
    layers: Sequence[Layer],
    fixed: int,
    rows: Sequence[Row],
    options: AssignBitsPass,
) -> Choice:
    """Which layers have 4 bits; adds errors to the rows of the report."""
    from vit_opt.passes.algorithms.bit_search import coarse_choice, fine_choice

    costs = costs_of(layers, fixed, options)
    if costs.least > costs.budget:
        apart = _apart(fixed, options)
        raise _infeasible(options, (costs.least + apart) / max(1, sum(costs.wide) + apart))
    sensitivity = _sensitivity(module, constants, layers, options)
    errors = sensitivity.alone()
    for row, error in zip(rows, errors, strict=True):
        row["error"] = error
    choice = coarse_choice(costs, errors)
    if options.trials > 0:
        choice, _ = fine_choice(costs, errors, choice, sensitivity.together, options.trials)
    return choice


def _groups(
    module: ModuleOp,
    constants: Constants,
    layers: Sequence[Layer],
    fixed: int,
    rows: Sequence[Row],
    options: AssignBitsPass,
) -> list[Bools]:
    """For each layer, which groups of columns keep 8 bits; adds errors to the rows of the report.

    A layer's measured error is divided among its groups by the noise that each is expected to
    make; the groups that make most for what they cost become wide until the budget is used up.
    """
    import numpy as np

    from vit_opt.passes.algorithms.narrow import group_noise

    found = [layer.no_group() for layer in layers]
    if options.budget >= 1.0:
        return found
    apart = _apart(fixed, options)
    total = sum(costs_of(layers, fixed, options).wide) + apart
    costs = [_grouped_cost(layer, wide, options) for layer, wide in zip(layers, found, strict=True)]
    room = int(options.budget * total) - apart - sum(costs)
    if room < 0:
        raise _infeasible(options, options.budget - room / max(1, total))
    errors = _sensitivity(module, constants, layers, options).alone()
    candidates: list[tuple[float, int, int]] = []
    for index, (layer, error) in enumerate(zip(layers, errors, strict=True)):
        rows[index]["error"] = error
        noise = group_noise(layer.rows(), layer.parts())
        all_wide = _grouped_cost(layer, np.ones_like(found[index]), options)
        saved = (all_wide - costs[index]) / found[index].size
        gains = error * noise / (noise.sum() or 1.0) / max(saved, NOTHING)
        candidates += [(-float(gain), index, group) for group, gain in enumerate(gains)]
    for _, index, group in sorted(candidates):
        wide = found[index]
        wide[group] = True
        cost = _grouped_cost(layers[index], wide, options)
        room -= cost - costs[index]
        costs[index] = cost
        if room < 0:
            wide[group] = False
            break
    return found


def _grouped_cost(layer: Layer, wide: Bools, options: AssignBitsPass) -> int:
    """What the budget counts of a layer whose weights are narrow in groups but for the wide ones."""
    if options.cost == "cycles":
        return layer.grouped_cycles(accel_target(options.arch), wide)
    return layer.grouped_bytes(wide)


def _mark_groups(layer: Layer, wide: Bools) -> int:
    """Write a layer's choice of groups to the IR; its bytes."""
    if wide.all():
        return layer.bytes(8)
    marked = [int(index) for index in wide.nonzero()[0]]
    layer.op.attributes[BYTE_GROUPS] = DenseArrayBase.from_list(i64, marked)
    return layer.grouped_bytes(wide)


def costs_of(layers: Sequence[Layer], fixed: int, options: AssignBitsPass) -> Costs:
    """What each layer costs with 8 and with 4 bits, and what all may cost together."""
    from vit_opt.passes.algorithms.bit_search import Costs

    if options.cost == "cycles":
        arch = accel_target(options.arch)
        wide, narrow = (tuple(layer.cycles(arch, bits) for layer in layers) for bits in (8, 4))
    else:
        wide, narrow = (tuple(layer.bytes(bits) for layer in layers) for bits in (8, 4))
    apart = _apart(fixed, options)
    return Costs(wide, narrow, int(options.budget * (sum(wide) + apart)) - apart)


def _apart(fixed: int, options: AssignBitsPass) -> int:
    """The part of the cost that no choice changes."""
    return fixed if options.cost == "bytes" else 0


def bits_summary(rows: Sequence[Row]) -> str:
    """One line on a report of this pass."""
    layers, total = rows[:-1], rows[-1]
    narrow = sum(row["bits"] < 8 for row in layers)
    return (
        f"{narrow} of {len(layers)} layers have weights of 4 bits; with scales the weights take "
        f"{total['bytes']:,} bytes, {total['share']:.3f} of int8"
    )


def bits_lines(rows: Sequence[Row]) -> list[str]:
    """The report of this pass as text: a line for each layer, sensitivity and mean bits."""
    lines = [bits_summary(rows)]
    for row in rows[:-1]:
        error = f"{row['error']:10.2e}" if "error" in row else " " * 10
        lines.append(f"{row['bits']:6.2f} bits {error} {row['bytes']:>12,} bytes  {row['layer']}")
    return lines


__all__ = ["AssignBitsPass", "assign_bits", "bits_lines", "bits_summary", "costs_of"]
