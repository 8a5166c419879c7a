"""Softmax and the products around it, in the forms that `quantize` offers.

| form | probabilities | product with the values |
|---|---|---|
| deferred | u8 exponentials and their sum | divided by the sum afterwards, one division a row |
| int8 | i8 with 7 fractional bits (I-ViT's Shiftmax) | plain |
| int16 | i16 with 15 fractional bits (I-ViT's Shiftmax) | plain, 16-bit operand |
| log2 | 4-bit exponents (FQ-ViT, P2-ViT) | shifts and sums |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, log2
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import run_main
from vit_opt.dialects.onnx.base import integer
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, Log2Type
from vit_opt.dialects.vit.ops.base import format_of, is_fixed, shape_of, tensor_type
from vit_opt.passes.algorithms.exponents import covering_frac
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.graph import IntegerGraph
from vit_opt.passes.quantization.rules import wanted_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

SUM_BITS = 31
"""Bits of a row sum of exponentials; its octaves are `OCTAVES`."""

OCTAVES = 15


def softmax(graph: IntegerGraph, op: onnx.Softmax) -> None:
    """Probabilities in the form asked for; deferred where anything but a product reads them."""
    rank = len(shape_of(op.x))
    if integer(op.axis) % rank != rank - 1:
        raise VitError(
            f"{op.label}: softmax over axis {integer(op.axis)}; transpose it to the last"
        )
    form = graph.softmax_forms.get(op, graph.options.softmax)
    form = "deferred" if form == "auto" else form
    readers = [use.operation for use in op.y.uses]
    if not all(isinstance(reader, onnx.MatMul) and reader.a is op.y for reader in readers):
        form = "deferred"
    if form == "deferred":
        raw = graph.record(op.x).raw
        scores = raw
        if not is_fixed(format_of(raw)) or format_of(raw).is_per_channel:
            scores = graph.codes(op.x, 16, symmetric=True, pot=True)
        exponentials = graph.emit(ops.SoftmaxExpOp.of(scores), op)
        graph.define(op.y, exponentials.p, total=exponentials.sum)
        return
    scores = graph.typed(op.x, score_type(graph, op.x))
    if form == "log2":
        probabilities = ops.Log2SoftmaxOp.of(scores, type=Log2Type())
        graph.define(op.y, graph.emit(probabilities, op).result)
        return
    bits = 8 if form == "int8" else 16
    shifted = ops.ShiftmaxOp.of(scores, type=FixedType(f"i{bits}", bits - 1))
    graph.define(op.y, graph.emit(shifted, op).result)


def score_type(graph: IntegerGraph, scores: SSAValue) -> FixedType:
    """16 bits for scores whose row sum of exponentials stays within `SUM_BITS`."""
    low, high = graph.range(scores)
    frac = covering_frac(1.5 * low, 1.5 * high, -(1 << 15), (1 << 15) - 1)
    return FixedType("i16", limited_frac(frac, shape_of(scores)[-1]))


def limited_frac(frac: int, length: int) -> int:
    """The frac of scores, at most `frac`, at which the sum over a row of `length` fits."""
    return max(0, min(frac, SUM_BITS - OCTAVES - ceil(log2(max(2, length)))))


def matmul(graph: IntegerGraph, op: onnx.MatMul) -> None:
    """A product of two activations; of exponentials and values, divided by the row sums after."""
    record = graph.records.get(op.a)
    if record is not None and record.total is not None:
        # The result's scale is that of the values times a power of two: with any scale, folding
        # would round both up.
        v = graph.codes(op.b, 8, symmetric=True, pot=True)
        acc = graph.emit(ops.MatmulOp.of(record.raw, v), op).result
        bits = wanted_bits(op.y)
        type_ = graph.averaged_type(op.y, format_of(v), bits)
        normalized = ops.NormalizeOp.of(acc, record.total, type=type_)
        graph.define(op.y, graph.emit(normalized, op).result)
        return
    if record is not None and is_log2(record.raw):
        v = graph.codes(op.b, 8, symmetric=True, pot=True)
        graph.define(op.y, graph.emit(ops.Log2MatmulOp.of(record.raw, v), op).result)
        return
    wide = record is not None and isinstance(record.raw.owner, ops.ShiftmaxOp)
    a = graph.codes(op.a, 16 if wide else 8, symmetric=True, pot=True)
    b = graph.codes(op.b, 8, symmetric=True, pot=True)
    graph.define(op.y, graph.emit(ops.MatmulOp.of(a, b), op).result)


def is_log2(value: SSAValue) -> bool:
    """Whether a value holds exponents of powers of two."""
    return isinstance(tensor_type(value).get_element_type(), Log2Type)


FORMS = ("deferred", "int16", "int8", "log2")
"""The forms of softmax, the one to prefer at equal error first."""

CHOICE_BATCHES = 2
"""Calibration inputs on which the forms are compared."""


def choose_forms(
    func: FuncOp, constants: Constants, report: list[dict[str, Any]]
) -> dict[Operation, str]:
    """For each softmax the form whose product with the values errs least on calibration inputs.

    Each form is evaluated with the definitions of its operations, the values in 8 bits; `report`
    gets a row per softmax with its name, the form and the SQNR in dB of every form.
    """
    import numpy as np

    from vit_opt.dialects.onnx.semantics import evaluate

    noise: dict[Operation, dict[str, float]] = {}
    signal: dict[Operation, float] = {}
    scores: dict[SSAValue, Array] = {}

    def run(op: Operation, args: Sequence[Array]) -> Sequence[Array]:
        results = evaluate(op, args, constants.store)
        if isinstance(op, onnx.Softmax):
            scores[op.y] = args[0]
        if isinstance(op, onnx.MatMul) and op.a in scores:
            owner, exact = op.a.owner, results[0]
            assert isinstance(owner, Operation)
            signal[owner] = signal.get(owner, 0.0) + float(np.square(exact).sum())
            sums = noise.setdefault(owner, dict.fromkeys(FORMS, 0.0))
            for form, got in attended(scores[op.a], args[1]).items():
                sums[form] += float(np.square(got - exact).sum())
        return results

    module = func.parent_op()
    assert isinstance(module, ModuleOp)
    for batch in constants.store.batches[:CHOICE_BATCHES]:
        run_main(module, batch, run)
    chosen: dict[Operation, str] = {}
    for op, sums in noise.items():
        chosen[op] = min(FORMS, key=lambda form, sums=sums: sums[form])
        ratios = {
            form: 10 * float(np.log10(signal[op] / value)) if signal[op] and value else None
            for form, value in sums.items()
        }
        name = op.label if isinstance(op, onnx.OnnxOp) else op.name
        report.append({"softmax": name, "form": chosen[op], "sqnr_db": ratios})
    return chosen


def attended(scores: Array, values: Array) -> dict[str, Array]:
    """Softmax(scores) @ values by every form, from real numbers and to real numbers."""
    import numpy as np

    from vit_opt.dialects.vit.semantics import linear, softmax

    largest = float(np.abs(values).max(initial=0.0))
    value_frac = covering_frac(-largest, largest, -128, 127)
    v = np.clip(np.rint(np.ldexp(values.astype(np.float64), value_frac)), -128, 127)
    v = v.astype(np.int64)
    top = 1.5 * float(np.abs(scores).max(initial=0.0))
    fine = covering_frac(-top, top, -(1 << 15), (1 << 15) - 1)
    frac = limited_frac(fine, scores.shape[-1])
    s, deferred = (
        np.rint(np.ldexp(scores.astype(np.float64), f)).astype(np.int64) for f in (frac, fine)
    )
    p, total = softmax.softmax_exp(deferred, fine)
    found: dict[str, Array] = {"deferred": linear.matmul(p, v) / total * 2.0**-value_frac}
    step = softmax.step_of(frac)
    for bits in (16, 8):
        codes = softmax.shiftmax(s, step, bits, rounding="rhu")
        found[f"int{bits}"] = linear.matmul(codes, v) * 2.0 ** -(value_frac + bits - 1)
    powers = softmax.log2_softmax(s, step)
    found["log2"] = softmax.log2_matmul(powers, v) * 2.0 ** -(value_frac + 14)
    return found


ATTENTION_RULES: Mapping[type[Operation], Any] = {onnx.Softmax: softmax, onnx.MatMul: matmul}
"""The rules of attention."""

__all__ = ["ATTENTION_RULES", "attended", "choose_forms", "matmul", "score_type", "softmax"]
