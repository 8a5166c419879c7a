"""What quantisation did to each layer: format, range, clipped share and error, layer by layer.

The integer graph and the float graph it was made from carry the same node names, so that one run of
each, on one calibration batch, tells where the error comes from and how it grows with depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import AssetStore, attribute_array
from vit_opt.dialects.evaluation import run_main
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, QuantizedType
from vit_opt.dialects.vit.ops.base import VitOp, format_of, tensor_type
from vit_opt.dialects.vit.ops.linear import ConvBase
from vit_opt.passes.calibrate import FLOAT_GRAPH
from vit_opt.passes.quantization.graph import NHWC
from vit_opt.passes.quantization.tables import scaled_operand

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vit_opt.dialects.evaluation import Evaluate

    Array: TypeAlias = NDArray[Any]
    Function: TypeAlias = Callable[[Array], Array]

UNTOLD = (ops.ConstantOp, ops.DequantizeOp, ops.ReshapeOp, ops.TransposeOp, ops.SliceOp)
"""Operations without a row: they change no number."""

FUNCTIONS = (
    onnx.Relu,
    onnx.Clip,
    onnx.HardSwish,
    onnx.HardSigmoid,
    onnx.Sigmoid,
    onnx.Swish,
    onnx.Tanh,
    onnx.Erf,
    onnx.Gelu,
)
"""Functions of one value that are flat somewhere: what a format clips there is not lost."""

BINS = 48
"""Bars of a layer's histogram."""


@dataclass(frozen=True)
class _Traced:
    """The codes of a value three times over."""

    array: Array
    """As the integer graph gives them."""

    clean: Array
    """With nothing lost before: the float value rounded to the format where there is one."""

    alone: Array
    """As its own layer gives them from clean operands: the error of this layer and no other."""

    node: str | None


def layer_rows(module: ModuleOp, store: AssetStore) -> list[dict[str, Any]]:
    """A row per float operation that has an integer form under its name, in order of execution.

    Keys: layer, operation, bits, fracs ([smallest, largest], None for real scales), low and high
    (range of the float value), through (the function of one value that alone reads the result, such
    as Relu or Gelu, else None; errors are then those of what it gives), clipped (share of float
    values outside of the format, and not where that function is flat), grid_db (SQNR
    in dB of the float value rounded to the format: the error of this format alone), alone_db (of
    the layer's result from operands without error: format, weights and function of this layer) and
    sqnr_db (of the integers against the float graph: everything up to here; None where nothing
    differs), histogram (counts of the float value in equal bins from low to high) and grid (smallest
    and largest value of the format, its coarsest step). Layers with weights have weight_bits (their
    mean where groups differ), weight_fracs and weight_db, the SQNR of their rounding. Where several
    integer operations carry the name, the last counts.
    Empty without batches or the float graph that `quantize` leaves in the store.
    """
    from vit_opt.dialects.onnx.semantics import evaluate

    reference = store.statistics.get(FLOAT_GRAPH)
    if not isinstance(reference, ModuleOp) or not store.batches:
        return []
    floats: dict[str, Array] = {}
    readers: dict[str, Sequence[onnx.OnnxOp]] = {}

    def keep(op: Operation, results: Sequence[Array]) -> None:
        if not isinstance(op, onnx.OnnxOp) or isinstance(op, onnx.Constant):
            return
        if op.node_name is not None and results[0].dtype.kind == "f":
            floats[op.node_name.data] = results[0]
            readers[op.node_name.data] = functions_behind(op.results[0])

    batch = store.batches[0]
    run_main(reference, batch, lambda op, args: evaluate(op, args, store), keep)
    rows = _Rows(store, floats, readers)
    run_main(module, batch, cast("Evaluate", rows.evaluate))
    weights = weight_facts(module, store)
    return [row | weights.get(name, {}) for name, row in rows.rows.items()]


@dataclass
class _Rows:
    """Runs the integer graph beside the float values of its layers."""

    store: AssetStore
    floats: Mapping[str, Array]
    readers: Mapping[str, Sequence[onnx.OnnxOp]]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict[str, "dict[str, Any]"])

    def evaluate(self, op: Operation, args: Sequence[_Traced | Array]) -> tuple[_Traced, ...]:
        """The results of an operation, traced; notes the row of its layer."""
        from vit_opt.dialects.vit.evaluate import evaluator

        run = evaluator(self.store)
        traced = [a if isinstance(a, _Traced) else _Traced(a, a, a, None) for a in args]
        name = op.node_name.data if isinstance(op, VitOp) and op.node_name is not None else None
        arrays = run(op, [each.array for each in traced])
        own = [each.alone if each.node == name and name else each.clean for each in traced]
        same = all(a is each.array for a, each in zip(own, traced, strict=True))
        alone = arrays if same else run(op, own)
        if not isinstance(op, VitOp) or name is None or len(arrays) != 1:
            return tuple(_Traced(a, b, b, name) for a, b in zip(arrays, alone, strict=True))
        exact = matching(self.floats.get(name), op, arrays[0])
        if exact is None:
            return (_Traced(arrays[0], alone[0], alone[0], name),)
        clean = rounded_to(exact, format_of(op.results[0]))
        if not isinstance(op, UNTOLD):
            self.rows.pop(name, None)
            self.rows[name] = {
                "layer": name,
                **_row(op, arrays[0], alone[0], exact, self.function(name)),
            }
        return (_Traced(arrays[0], clean, alone[0], name),)

    def function(self, name: str) -> tuple[str | None, Function]:
        """What alone reads the value of a layer, with its name; the identity where there is none."""
        from vit_opt.dialects.onnx.semantics import evaluate

        readers = self.readers.get(name)
        if not readers:
            return None, lambda array: array

        def run(array: Array) -> Array:
            for reader in readers:
                factors = [attribute_array(self.store, op.value) for op in constants_of(reader)]
                [array] = evaluate(reader, [array.astype("float32"), *factors], self.store)
            return array.astype("float64")

        return readers[-1].name.removeprefix("onnx."), run


def functions_behind(value: SSAValue) -> Sequence[onnx.OnnxOp]:
    """The function of one value that alone reads a value, behind a scaling of its operand if any."""
    users = [use.operation for use in value.uses]
    [user, *others] = users or [None]
    if others or not isinstance(user, (onnx.Mul, *FUNCTIONS)):
        return ()
    if not isinstance(user, onnx.Mul):
        return (user,)
    behind = functions_behind(user.y)
    return (user, *behind) if behind and scaled_operand(behind[0]) is user else ()


def constants_of(op: Operation) -> list[onnx.Constant]:
    """The constants among the operands of an operation."""
    return [v.owner for v in op.operands if isinstance(v.owner, onnx.Constant)]


def matching(exact: Array | None, op: VitOp, codes: Array) -> Array | None:
    """The float value of an operation in the layout of its codes; None where shapes differ."""
    element = tensor_type(op.results[0]).get_element_type()
    if exact is None or not isinstance(element, QuantizedType):
        return None
    if exact.shape != codes.shape:
        if exact.ndim != 4 or exact.transpose(NHWC).shape != codes.shape:
            return None
        exact = exact.transpose(NHWC)
    return exact


def rounded_to(exact: Array, format_: QuantizedType) -> Array:
    """A float value as codes of a format."""
    from vit_opt.passes.quantization.formats import quantized_array

    return quantized_array(exact, format_)


def weight_facts(module: ModuleOp, store: AssetStore) -> dict[str, dict[str, Any]]:
    """Format and rounding error of the weight of every layer that has one, by layer."""
    rows = store.reports.get("assign-bits", [])
    chosen = {row["layer"]: row["bits"] for row in rows if "bits" in row}
    losses = {row["weight"]: row["sqnr_db"] for row in store.reports.get("pot-fold", [])}
    facts: dict[str, dict[str, Any]] = {}
    for op in module.walk():
        if not isinstance(op, ops.LinearOp | ConvBase) or op.node_name is None:
            continue
        format_, owner = format_of(op.weight), op.weight.owner
        if not isinstance(owner, ops.ConstantOp):
            continue
        name, weight = op.node_name.data, "" if owner.node_name is None else owner.node_name.data
        facts[name] = {
            "weight_bits": round(chosen.get(name, format_.storage.width.data), 2),
            "weight_fracs": _frac_range(format_),
        }
        if weight in losses:
            facts[name]["weight_db"] = losses[weight]
        elif owner.master is not None:
            codes, master = (attribute_array(store, each) for each in (owner.value, owner.master))
            real = (codes.astype("float64") - format_.zero_point) * _along_axis(format_, codes.ndim)
            facts[name]["weight_db"] = _ratio(master.astype("float64"), real)
    return facts


def _frac_range(format_: QuantizedType) -> list[int] | None:
    """Smallest and largest frac of a format; None for real scales."""
    if not isinstance(format_, FixedType):
        return None
    fracs = format_.channel_fracs()
    return [int(fracs.min()), int(fracs.max())]


def _row(
    op: VitOp, codes: Array, alone: Array, exact: Array, reader: tuple[str | None, Function]
) -> dict[str, Any]:
    """The row of one operation, from its codes and the float value in the same layout."""
    import numpy as np

    format_ = format_of(op.results[0])
    scales = _along_axis(format_, codes.ndim)
    exact = exact.astype(np.float64)
    low, high = format_.bounds
    zero = format_.zero_point

    def real(array: Array) -> Array:
        return (array.astype(np.float64) - zero) * scales

    through, function = reader
    seen, rounded = function(exact), function(real(rounded_to(exact, format_)))
    wanted = np.rint(exact / scales) + zero
    outside = ((wanted < low) | (wanted > high)) & (np.abs(seen - rounded) > scales / 2)
    step = float(scales.max())
    counts, _ = np.histogram(exact, bins=BINS)
    return {
        "operation": op.name,
        "bits": format_.storage.width.data,
        "fracs": _frac_range(format_),
        "low": float(exact.min()),
        "high": float(exact.max()),
        "through": through,
        "clipped": float(outside.mean()),
        "grid_db": _ratio(seen, rounded),
        "alone_db": _ratio(seen, function(real(alone))),
        "sqnr_db": _ratio(seen, function(real(codes))),
        "histogram": [int(count) for count in counts],
        "grid": [(low - zero) * step, (high - zero) * step, step],
    }


def _along_axis(format_: QuantizedType, rank: int) -> Array:
    """Scales that broadcast against a tensor of this rank."""
    scales = format_.channel_scales()
    if format_.channel_axis is None:
        return scales
    shape = [1] * rank
    shape[format_.channel_axis] = -1
    return scales.reshape(shape)


def _ratio(exact: Array, value: Array) -> float | None:
    """Signal to noise in dB; None where there is no noise, or no signal."""
    import numpy as np

    signal, noise = float(np.square(exact).sum()), float(np.square(exact - value).sum())
    return 10 * float(np.log10(signal / noise)) if signal > 0 and noise > 0 else None


def layer_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as lines of a table to read."""
    head = f"  {'layer':<40}{'bits':>5}{'frac':>8}{'low':>11}{'high':>11}{'clipped':>9}"
    lines = [head + f"{'weight dB':>10}{'grid dB':>9}{'alone dB':>9}{'SQNR dB':>9}"]
    for row in rows:
        fracs = row["fracs"]
        frac = "" if fracs is None else "..".join(str(f) for f in dict.fromkeys(fracs))
        grid, alone, ratio = (
            "exact" if row[key] is None else f"{row[key]:.1f}"
            for key in ("grid_db", "alone_db", "sqnr_db")
        )
        loss = row.get("weight_db")
        weight = "" if loss is None else f"{loss:.1f}"
        lines.append(
            f"  {row['layer'][-39:]:<40}{row['bits']:>5}{frac:>8}{row['low']:>11.4g}"
            f"{row['high']:>11.4g}{row['clipped']:>9.2%}{weight:>10}{grid:>9}{alone:>9}{ratio:>9}"
        )
    return lines


__all__ = ["layer_lines", "layer_rows"]
