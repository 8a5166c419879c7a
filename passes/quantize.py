"""Pass `quantize`: the calibrated float graph becomes a `vit` graph."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import input_names, main_function
from vit_opt.dialects.vit import ops
from vit_opt.passes.calibrate import FLOAT_GRAPH, INPUT_CLIPS, INPUT_RANGES
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.stage import require_stage, set_stage


@dataclass(frozen=True)
class QuantizePass(ModulePass):
    """Give every value a format and turn float operations into integer ones.

    Scales are arbitrary real numbers (`!vit.scaled`), requantisations dyadic (`vit.requant`), except
    around row operations, which work on powers of two: LayerNorm results, queries and keys. Weights
    are rounded on a scale per output channel and keep their float masters. Residual sums are 16
    bits and take accumulators directly; softmax is deferred; GELU and the like are tables.
    Assumes raised operations and the ranges of `calibrate`.

        %y = onnx.Linear %x, %w, %b
        %q = vit.linear %x_q, %w_q, %b_q : ... -> tensor<... !vit.scaled<i32, ...>>
    """

    name = "quantize"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        quantize(op, Constants.of(ctx))


def quantize(module: ModuleOp, constants: Constants) -> None:
    """Replace the float graph by an integer one; see `QuantizePass`.

    Raises VitError naming every operation that has no integer form, all at once.
    """
    from vit_opt.passes.quantization.graph import IntegerGraph
    from vit_opt.passes.quantization.movement import MOVEMENT_RULES
    from vit_opt.passes.quantization.rules import RULES, activation_type

    require_stage(module, "quantize", "calibrated")
    func = main_function(module)
    rules = {**RULES, **MOVEMENT_RULES}
    floats = [op for op in func.body.block.ops if isinstance(op, onnx.OnnxOp)]
    check_supported(floats, set(rules))
    returned = func.body.block.last_op
    assert isinstance(returned, ReturnOp)
    constants.store.statistics[FLOAT_GRAPH] = module.clone()
    graph = IntegerGraph(constants, returned)
    for name, argument in zip(input_names(func), func.args, strict=True):
        argument.name_hint = argument.name_hint or (name if name.isidentifier() else None)
        quantized = ops.QuantizeOp.of(argument, type=activation_type(graph, argument))
        graph.define(argument, graph.emit(quantized).result)
    for op in floats:
        if not isinstance(op, onnx.Constant):
            rules[type(op)](graph, op)
    for index, value in enumerate(returned.operands):
        real = ops.DequantizeOp.of(graph.codes(value, 16))
        returned.operands[index] = graph.emit(real).result
    remove(func, floats)
    set_stage(module, "quantized")


def check_supported(floats: list[onnx.OnnxOp], known: set[type[Operation]]) -> None:
    """Raise VitError naming all operations without an integer form."""
    unknown = [
        f"{op.name.removeprefix('onnx.')} ({op.label})"
        for op in floats
        if type(op) not in known and not isinstance(op, onnx.Constant)
    ]
    if unknown:
        raise VitError(
            f"quantize: {len(unknown)} operations have no integer form: {', '.join(unknown)}"
        )


def remove(func: FuncOp, floats: list[onnx.OnnxOp]) -> None:
    """Erase the float operations, whose results are no longer used, and their ranges."""
    for op in reversed(floats):
        op.detach()
        op.erase()
    for name in (INPUT_RANGES, INPUT_CLIPS):
        func.attributes.pop(name, None)
