"""What quantisation did to each layer: format, range, clipped share and error, layer by layer.

The integer graph and the float graph it was made from carry the same node names, so that one run of
each, on one calibration batch, tells where the error comes from and how it grows with depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.evaluation import run_main
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, QuantizedType
from vit_opt.dialects.vit.ops.base import VitOp, format_of
from vit_opt.passes.calibrate import FLOAT_GRAPH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

NHWC = (0, 2, 3, 1)

UNTOLD = (ops.ConstantOp, ops.DequantizeOp, ops.ReshapeOp, ops.TransposeOp, ops.SliceOp)
"""Operations without a row: they change no number."""


def layer_rows(module: ModuleOp, store: AssetStore) -> list[dict[str, Any]]:
    """A row per float operation that has an integer form under its name, in order of execution.

    Keys: layer, operation, bits, fracs ([smallest, largest], None for real scales), low and high
    (range of the float value), clipped (share of float values outside of the format), grid_db (SQNR
    in dB of the float value rounded to the format: the error of this format alone) and sqnr_db (of
    the integers against the float graph: everything up to here; None where nothing differs). Where
    several integer operations carry the name, the last counts.
    Empty without batches or the float graph that `quantize` leaves in the store.
    """
    from vit_opt.dialects.onnx.semantics import evaluate
    from vit_opt.dialects.vit.evaluate import evaluator

    reference = store.statistics.get(FLOAT_GRAPH)
    if not isinstance(reference, ModuleOp) or not store.batches:
        return []
    floats: dict[str, Array] = {}
    rows: dict[str, dict[str, Any]] = {}

    def keep(op: Operation, results: Sequence[Array]) -> None:
        if not isinstance(op, onnx.OnnxOp) or isinstance(op, onnx.Constant):
            return
        if op.node_name is not None and results[0].dtype.kind == "f":
            floats[op.node_name.data] = results[0]

    def compare(op: Operation, results: Sequence[Array]) -> None:
        if not isinstance(op, VitOp) or op.node_name is None or len(results) != 1:
            return
        exact = floats.get(op.node_name.data)
        if exact is None or isinstance(op, UNTOLD):
            return
        row = _row(op, results[0], exact)
        if row is not None:
            rows.pop(op.node_name.data, None)
            rows[op.node_name.data] = row

    batch = store.batches[0]
    run_main(reference, batch, lambda op, args: evaluate(op, args, store), keep)
    run_main(module, batch, evaluator(store), compare)
    return list(rows.values())


def _row(op: VitOp, codes: Array, exact: Array) -> dict[str, Any] | None:
    """The row of one operation; None where its shape is not that of the float value."""
    import numpy as np

    from vit_opt.passes.quantization.formats import quantized_array

    if exact.shape != codes.shape:
        if exact.ndim != 4 or exact.transpose(NHWC).shape != codes.shape:
            return None
        exact = exact.transpose(NHWC)
    format_ = format_of(op.results[0])
    scales = _along_axis(format_, codes.ndim)
    exact = exact.astype(np.float64)
    real = (codes.astype(np.float64) - format_.zero_point) * scales
    rounded = quantized_array(exact, format_).astype(np.float64) - format_.zero_point
    low, high = format_.bounds
    bits = format_.storage.width.data
    wanted = np.rint(exact / scales) + format_.zero_point
    clipped = float(((wanted < low) | (wanted > high)).mean())
    fracs = format_.channel_fracs() if isinstance(format_, FixedType) else None
    return {
        "layer": op.node_name.data if op.node_name is not None else "",
        "operation": op.name,
        "bits": bits,
        "fracs": None if fracs is None else [int(fracs.min()), int(fracs.max())],
        "low": float(exact.min()),
        "high": float(exact.max()),
        "clipped": clipped,
        "grid_db": _ratio(exact, rounded * scales),
        "sqnr_db": _ratio(exact, real),
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
    lines = [head + f"{'grid dB':>9}{'SQNR dB':>9}"]
    for row in rows:
        fracs = row["fracs"]
        frac = "" if fracs is None else "..".join(str(f) for f in dict.fromkeys(fracs))
        grid, ratio = (
            "exact" if row[key] is None else f"{row[key]:.1f}" for key in ("grid_db", "sqnr_db")
        )
        lines.append(
            f"  {row['layer'][-39:]:<40}{row['bits']:>5}{frac:>8}{row['low']:>11.4g}"
            f"{row['high']:>11.4g}{row['clipped']:>9.2%}{grid:>9}{ratio:>9}"
        )
    return lines


__all__ = ["layer_lines", "layer_rows"]
