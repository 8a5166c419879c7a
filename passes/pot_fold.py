"""Pass `pot-fold`: every scale becomes a power of two, every requantisation a shift."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.context import Context
from xdsl.dialects.builtin import I64, IntegerAttr, ModuleOp, StringAttr, TensorType, i64
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from vit_opt.dialects.assets import attribute_array
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import main_function
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, QuantizedType
from vit_opt.dialects.vit.ops.base import ROUNDINGS, VitOp, format_of
from vit_opt.dialects.vit.ops.linear import ConvBase
from vit_opt.passes.calibrate import STATISTICS, named_statistics
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.weights import BYTE_GROUPS, byte_groups
from vit_opt.passes.reproducible import reproducible
from vit_opt.passes.stage import require_stage, set_stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vit_opt.passes.algorithms.matching import Matched
    from vit_opt.passes.algorithms.rounding import Part
    from vit_opt.passes.quantization.lockstep import Lockstep

    Array: TypeAlias = NDArray[Any]

DAMPING = 0.5
"""Damping of error compensation: a few images give fewer rows than a layer has features, and less
damping fits the weights to those images."""

MATCHED_DAMPING = 0.1
"""The same for weights that are made for their integer inputs: noise in these damps as well."""

WEIGHTS = ("compensated", "nearest")
INPUTS = ("integer", "float")
EXPONENTS = ("cover", "search")
BIASES = ("corrected", "plain")


@dataclass(frozen=True)
class PotFoldPass(ModulePass):
    """Replace every scale by the power of two that covers the same range.

    Formats become `!vit.fixed`, `vit.requant` becomes `vit.pot_requant`, tables are made anew for
    their new grids, weights and biases are rounded here, once, from their float masters. This
    changes numbers; by how much is reported per weight as SQNR in dB. Structure stays as it is.

        %y = vit.requant %a : (tensor<...!vit.scaled<i32, 2.1e-4>>) -> tensor<...!vit.scaled<i8, 0.03>>
        %y = vit.pot_requant %a : (tensor<...!vit.fixed<i32, 12>>) -> tensor<...!vit.fixed<i8, 5>>
    """

    name = "pot-fold"

    weights: str = "compensated"
    """Weight rounding: "compensated" spreads each rounding error over the row's other weights, by
    the second moments of the inputs (the idea of GPTQ; plain where there are none), or "nearest"."""

    inputs: str = "integer"
    """What weights are rounded for: "integer" runs the float graph and the finished part of the
    integer graph side by side on the calibration inputs, and first changes each layer's weights so
    that they make up for what the integers that reach them lack (`algorithms.matching`); a layer that
    ends a block does so for the whole block. "float": for the inputs of the float graph."""

    exponents: str = "cover"
    """Weight exponents: "cover" the range, or "search" floor-1 .. floor+2 by output error (P2-ViT)."""

    rounding: str = "rhu"
    """Rounding of all shifts: rhu, rhe or floor."""

    bias: str = "corrected"
    """"corrected" takes what a layer's result is off by on average off its bias (Nagel et al., 2019):
    for integer inputs all of it, as far as calibration images agree, else what rounded weights of
    a linear layer add by the mean inputs of the calibration; "plain" leaves it."""

    def __post_init__(self) -> None:
        _check(self.weights, self.inputs, self.exponents, self.rounding, self.bias)

    @reproducible
    def apply(self, ctx: Context, op: ModuleOp) -> None:
        pot_fold(
            op,
            Constants.of(ctx),
            weights=self.weights,
            inputs=self.inputs,
            exponents=self.exponents,
            rounding=self.rounding,
            bias=self.bias,
        )


def _check(weights: str, inputs: str, exponents: str, rounding: str, bias: str) -> None:
    for name, value, allowed in (
        ("weights", weights, WEIGHTS),
        ("inputs", inputs, INPUTS),
        ("exponents", exponents, EXPONENTS),
        ("rounding", rounding, ROUNDINGS),
        ("bias", bias, BIASES),
    ):
        if value not in allowed:
            raise VitError(f"pot-fold: {name} '{value}' is not one of {', '.join(allowed)}")


def pot_fold(
    module: ModuleOp,
    constants: Constants,
    *,
    weights: str = "compensated",
    inputs: str = "integer",
    exponents: str = "cover",
    rounding: str = "rhu",
    bias: str = "corrected",
) -> None:
    """Fold all scales of @main to powers of two; see `PotFoldPass`.

    Raises VitError for an unknown option, or a table that does not say which function it holds.
    """
    require_stage(module, "pot-fold", "quantized")
    _check(weights, inputs, exponents, rounding, bias)
    from vit_opt.passes.quantization.lockstep import start_lockstep

    block = main_function(module).body.block
    folded = [op for op in block.ops if isinstance(op, VitOp)]
    lockstep = start_lockstep(module, constants.store) if inputs == "integer" else None
    folder = _Folder(constants, weights, exponents, rounding, bias, lockstep)
    for op in folded:
        folder.remember(op)
    for op in folded:
        folder.fold(op)
    for op in reversed(folded):
        if isinstance(op, ops.ConstantOp) and not any(op.result.uses):
            op.detach()
            op.erase()
    constants.store.reports["pot-fold"] = folder.report
    set_stage(module, "pot")


@dataclass
class _Folder:
    """Folds operations in order, each after its operands."""

    constants: Constants
    weights: str
    exponents: str
    rounding: str
    bias: str
    lockstep: Lockstep | None
    scales: dict[Operation, list[float]] = field(default_factory=dict["Operation", "list[float]"])
    readers: Counter[str] = field(default_factory=Counter[str])
    """Weights still to be rounded by the statistics under a key; then its moments are given up."""

    damping: float = DAMPING
    """Damping of error compensation for the weight at hand."""

    report: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def remember(self, op: VitOp) -> None:
        """Keep the first operand's scale, which folding of its producer will change."""
        key = op.attributes.get(STATISTICS)
        if isinstance(op, ops.ConstantOp) and isinstance(key, StringAttr):
            self.readers[key.data] += 1
        if isinstance(op, ops.LayerNormOp) and not format_of(op.x).is_per_channel:
            self.scales[op] = [float(format_of(op.x).channel_scales())]

    def fold(self, op: VitOp) -> None:
        """Fold one operation in place."""
        if "rounding" in op.get_irdl_definition().properties:
            op.properties["rounding"] = StringAttr(self.rounding)
        match op:
            case ops.ConstantOp() | ops.DequantizeOp():
                return
            case ops.RequantOp():
                self.requant(op)
                return
            case ops.LinearOp() | ConvBase():
                self.product(op)
            case ops.LutOp():
                self.table(op)
            case ops.ClampOp():
                self.clamp(op)
            case _:
                self.operands(op)
        if isinstance(op, ops.LayerNormOp) and op in self.scales:
            ratio = self.scales[op][0] / float(format_of(op.x).channel_scales())
            op.eps_q = integer(round(op.eps_q.value.data * ratio**2))
        op.infer(_chosen(op))

    def requant(self, op: ops.RequantOp) -> None:
        """vit.requant -> vit.pot_requant, or nothing where the grids agree."""
        from vit_opt.passes.quantization.formats import folded_type

        type_ = folded_type(format_of(op.result))
        if format_of(op.x) == type_:
            Rewriter.replace_op(op, (), (op.x,))
            return
        shifted = ops.PotRequantOp.of(
            op.x, type=type_, rounding=self.rounding, node_name=op.node_name
        )
        Rewriter.replace_op(op, shifted)

    def operands(self, op: VitOp) -> None:
        """Refold constant operands."""
        from vit_opt.passes.quantization.formats import folded_type

        for index, value in enumerate(op.operands):
            if isinstance(value.owner, ops.ConstantOp):
                self.replace(op, index, value.owner, folded_type(format_of(value)))

    def master(self, constant: ops.ConstantOp) -> Array:
        """The real values of a constant: its master, else what its codes stand for."""
        from vit_opt.dialects.vit.evaluate import scales_of

        if constant.master is not None:
            return attribute_array(self.constants.store, constant.master)
        codes = attribute_array(self.constants.store, constant.value)
        zero = format_of(constant.result).zero_point
        return cast("Array", (codes.astype("float64") - zero) * scales_of(constant.result))

    def replace(
        self,
        op: VitOp,
        index: int,
        constant: ops.ConstantOp,
        type_: QuantizedType,
        codes: Array | None = None,
    ) -> None:
        """Give an operation a constant in another format, rounded from the master."""
        from vit_opt.passes.quantization.formats import quantized_array

        if codes is None:
            if format_of(constant.result) == type_:
                constant.properties.pop("master", None)
                return
            codes = quantized_array(self.master(constant), type_)
        key = constant.node_name.data if constant.node_name is not None else op.name
        store, inline = self.constants.store, self.constants.inline
        made = ops.ConstantOp.make(store, key, codes, type_, inline=inline)
        Rewriter.insert_op(made, InsertPoint.before(op))
        op.operands[index] = made.result

    def product(self, op: ops.LinearOp | ConvBase) -> None:
        """Weights on their own powers of two, the bias on the accumulator's grid."""
        weight, bias = op.weight.owner, op.bias.owner if op.bias is not None else None
        if not isinstance(weight, ops.ConstantOp):
            raise VitError(f"{op.name}: the weight must be a constant")
        master = self.master(weight)
        offsets = self.master(bias) if isinstance(bias, ops.ConstantOp) else None
        statistics = self.statistics(weight, master)
        matched = self.matched(op, master, offsets)
        self.damping = DAMPING if matched is None else MATCHED_DAMPING
        if matched is not None:
            master = matched.target.reshape(master.shape)
            statistics = matched.parts or statistics
        if format_of(op.weight).storage.width.data < 8 or BYTE_GROUPS in weight.attributes:
            type_, codes = self.narrow(op, weight, master, offsets, statistics)
        else:
            type_ = self.weight_type(op, format_of(op.weight), master, offsets, statistics)
            codes = self.rounded(master, type_, statistics)
        self.note(weight, master, codes, type_)
        self.replace(op, 1, weight, type_, codes)
        if BYTE_GROUPS in weight.attributes:
            cast("Operation", op.weight.owner).attributes[BYTE_GROUPS] = weight.attributes[
                BYTE_GROUPS
            ]
        if isinstance(bias, ops.ConstantOp):
            op.infer()
            accumulator = format_of(op.result)
            vector = accumulator.with_axis(0) if accumulator.is_per_channel else accumulator
            if matched is None or offsets is None:
                fresh = self.corrected(weight, bias, type_, codes, vector)
            else:
                fresh = self.matched_bias(matched, offsets, type_, codes, vector)
            self.replace(op, 2, bias, vector, fresh)

    def matched(
        self, op: ops.LinearOp | ConvBase, master: Array, bias: Array | None
    ) -> Matched | None:
        """A weight made for the integers that reach it; None where it stays as it is.

        Weights that the model brings along on grids of their own stay.
        """
        from vit_opt.passes.algorithms.given import kept_fracs

        old = format_of(op.weight)
        rows = master.reshape(master.shape[0], -1).astype("float64")
        if self.lockstep is None:
            return None
        if kept_fracs(rows, old.channel_scales(), *old.bounds) is not None:
            self.lockstep.skip(op)
            return None
        found = self.lockstep.matching(op)
        if found is None:
            return None
        return found.solve(rows, centred=bias is not None and self.bias == "corrected")

    def matched_bias(
        self, matched: Matched, bias: Array, type_: FixedType, codes: Array, vector: QuantizedType
    ) -> Array:
        """Codes of the bias that goes with a matched weight."""
        from vit_opt.passes.quantization.formats import quantized_array

        real = bias.astype("float64")
        if self.bias == "corrected":
            scales = type_.channel_scales()
            column = scales.reshape(-1, 1) if type_.is_per_channel else scales
            real = matched.bias(real, codes.reshape(codes.shape[0], -1) * column)
        return quantized_array(real, vector)

    def corrected(
        self,
        weight: ops.ConstantOp,
        bias: ops.ConstantOp,
        type_: FixedType,
        codes: Array,
        vector: QuantizedType,
    ) -> Array | None:
        """Codes of a bias without what the weight's rounding adds on average; None: as it is."""
        from vit_opt.passes.quantization.formats import quantized_array

        key, master = weight.attributes.get(STATISTICS), self.master(weight)
        if self.bias != "corrected" or not isinstance(key, StringAttr) or master.ndim != 2:
            return None
        mean = named_statistics(key.data, self.constants.store).channels.mean
        if mean.size != master.shape[1]:
            return None
        shape = (-1, 1) if type_.is_per_channel else ()
        error = codes * type_.channel_scales().reshape(shape) - master.astype("float64")
        return quantized_array(self.master(bias) - error @ mean, vector)

    @property
    def needs_moments(self) -> bool:
        """Whether second moments of inputs decide anything."""
        return self.weights != "nearest" or self.exponents == "search"

    def statistics(self, weight: ops.ConstantOp, master: Array) -> list[Part]:
        """Second moments of the inputs of a weight [N, ...] in rows, if they were gathered."""
        key = weight.attributes.get(STATISTICS)
        if not isinstance(key, StringAttr) or not self.needs_moments:
            return []
        statistics = named_statistics(key.data, self.constants.store)
        moments = statistics.moments or statistics.windows
        self.readers[key.data] -= 1
        if not self.readers[key.data]:
            statistics.moments = statistics.windows = None
        parts = [] if moments is None else moments.parts(master.shape[0])
        return (
            parts
            if sum(part.rows.size * part.features.size for part in parts) == master.size
            else []
        )

    def weight_type(
        self,
        op: ops.LinearOp | ConvBase,
        old: QuantizedType,
        master: Array,
        bias: Array | None,
        parts: list[Part],
    ) -> FixedType:
        """A frac per output channel (or one for all, as before) that also suits the bias."""
        import numpy as np

        from vit_opt.passes.algorithms.exponents import (
            FRAC_FLOOR,
            FRAC_LIMIT,
            covering_fracs,
            limit_for_bias,
        )
        from vit_opt.passes.algorithms.given import kept_fracs
        from vit_opt.passes.algorithms.rounding import search_parts

        low, high = old.bounds
        rows = master.reshape(master.shape[0], -1).astype(np.float64)
        kept = kept_fracs(rows, old.channel_scales(), low, high)
        x = format_of(op.x)
        if kept is not None and old.is_per_channel and isinstance(x, FixedType):
            room = None if bias is None else limit_for_bias(bias, x.channel_fracs())
            if room is None or (kept <= room).all():
                return FixedType(old.storage, kept, axis=0)
        if self.exponents == "search" and parts:
            fracs = np.clip(search_parts(rows, parts, low, high), FRAC_FLOOR, FRAC_LIMIT)
        else:
            magnitude = np.abs(rows).max(axis=1)
            fracs = covering_fracs(-magnitude, magnitude, -high, high)
        if bias is not None and isinstance(x, FixedType):
            fracs = np.minimum(fracs, limit_for_bias(bias, x.channel_fracs()))
        if not old.is_per_channel:
            return FixedType(old.storage, int(fracs.min()))
        return FixedType(old.storage, fracs, axis=0)

    def narrow(
        self,
        op: ops.LinearOp | ConvBase,
        weight: ops.ConstantOp,
        master: Array,
        bias: Array | None,
        parts: list[Part],
    ) -> tuple[FixedType, Array]:
        """Format and codes of a weight of 4 bits, in part or all, which are chosen together."""
        from vit_opt.passes.algorithms.exponents import limit_for_bias
        from vit_opt.passes.algorithms.narrow import round_grouped, round_narrow

        old, x = format_of(op.weight), format_of(op.x)
        limit = None
        if bias is not None and isinstance(x, FixedType):
            limit = limit_for_bias(bias, x.channel_fracs())
        rows = master.reshape(master.shape[0], -1)
        if self.weights == "nearest":
            parts = []
        wide = byte_groups(weight)
        if wide is not None:
            fracs, codes = round_grouped(rows, parts, wide, limit=limit, damping=self.damping)
        else:
            fracs, codes = round_narrow(rows, parts, *old.bounds, limit=limit, damping=self.damping)
        return FixedType(old.storage, fracs, axis=0), codes.reshape(master.shape)

    def rounded(self, master: Array, type_: FixedType, parts: list[Part]) -> Array:
        """The codes of a weight."""
        import numpy as np

        from vit_opt.passes.algorithms.rounding import round_parts
        from vit_opt.passes.quantization.formats import quantized_array

        if self.weights != "nearest" and parts:
            rows = master.reshape(master.shape[0], -1)
            fracs = np.broadcast_to(type_.channel_fracs(), rows.shape[:1])
            found = round_parts(rows, parts, fracs, *type_.bounds, self.damping)
            return found.reshape(master.shape)
        return quantized_array(master, type_)

    def note(self, weight: ops.ConstantOp, master: Array, codes: Array, type_: FixedType) -> None:
        """Add a weight's SQNR in dB to the report, None where rounding changed nothing."""
        import numpy as np

        shape = [-1, *[1] * (master.ndim - 1)] if type_.is_per_channel else []
        exact = master.astype(np.float64)
        error = codes * type_.channel_scales().reshape(shape) - exact
        signal, noise = float(np.square(exact).sum()), float(np.square(error).sum())
        ratio = 10 * float(np.log10(signal / noise)) if signal and noise else None
        name = weight.node_name.data if weight.node_name is not None else "weight"
        self.report.append({"weight": name, "sqnr_db": ratio})

    def table(self, op: ops.LutOp) -> None:
        """The same function tabulated between the new grids."""
        from vit_opt.passes.quantization.formats import folded_type
        from vit_opt.passes.quantization.tables import table_codes

        table, type_ = op.table.owner, folded_type(format_of(op.table))
        if not isinstance(table, ops.ConstantOp) or op.function is None:
            raise VitError("pot-fold: a vit.lut needs a constant table and the attribute function")
        codes = table_codes(op.function.data, format_of(op.x), type_)
        self.replace(op, 1, table, type_, codes)

    def clamp(self, op: ops.ClampOp) -> None:
        """The same real bounds in codes of the new grid; open bounds stay open."""
        old, new = format_of(op.result), format_of(op.x)
        ratio = float(old.channel_scales() / new.channel_scales())
        (floor, ceiling), (low, high) = old.bounds, new.bounds

        def moved(bound: IntegerAttr[I64], edge: int, limit: int) -> IntegerAttr[I64]:
            if bound.value.data == edge:
                return integer(limit)
            code = round((bound.value.data - old.zero_point) * ratio) + new.zero_point
            return integer(min(max(code, low), high))

        op.min, op.max = moved(op.min, floor, low), moved(op.max, ceiling, high)


def integer(value: int) -> IntegerAttr[I64]:
    """A 64-bit integer attribute."""
    return IntegerAttr(value, i64)


def _chosen(op: VitOp) -> FixedType | None:
    """The folded format of a result whose format is free, None where operands imply it."""
    from vit_opt.passes.quantization.formats import folded_type

    type_ = cast("SSAValue", op.results[0]).type
    element = cast("TensorType[Attribute]", type_).get_element_type()
    return folded_type(element) if isinstance(element, QuantizedType) else None
