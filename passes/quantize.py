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
from vit_opt.dialects.evaluation import input_names, main_function, output_names
from vit_opt.dialects.vit import ops
from vit_opt.passes.calibrate import FLOAT_GRAPH, INPUT_CLIPS, INPUT_RANGES
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.options import QuantizeOptions, mark_wide
from vit_opt.passes.reproducible import reproducible
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

    residual: str = "int16"
    """Residual sums: "int16", "int8", or "int8-ptf" (a power of two per channel)."""

    softmax: str = "deferred"
    """Softmax: "deferred" (u8 exponentials, one division a row after the product with the values),
    "int8" or "int16" (probabilities by shifts, I-ViT), "log2" (4-bit exponents, FQ-ViT), or "auto"
    (for each softmax the one with the least error of that product on calibration inputs)."""

    gelu: str = "table"
    """GELU: "table" (exact for every code), or "shift" (I-ViT's form)."""

    divisor: str = "recip"
    """Linear attention divides by a reciprocal ("recip") or a power of two ("pot", Trio-ViT)."""

    wide: tuple[str, ...] = ()
    """Places whose values products read in 16 bits: any of input, norm, attention, gelu."""

    def __post_init__(self) -> None:
        self.options()

    def options(self) -> QuantizeOptions:
        """The same as the function takes them; raises VitError for a value that is not known."""
        return QuantizeOptions(
            self.residual, self.softmax, self.gelu, self.divisor, tuple(self.wide)
        )

    @reproducible
    def apply(self, ctx: Context, op: ModuleOp) -> None:
        quantize(op, Constants.of(ctx), self.options())


def quantize(
    module: ModuleOp, constants: Constants, options: QuantizeOptions | None = None
) -> None:
    """Replace the float graph by an integer one; see `QuantizePass`.

    Raises VitError naming every operation that has no integer form, all at once.
    """
    from vit_opt.passes.quantization.attention import ATTENTION_RULES, choose_forms
    from vit_opt.passes.quantization.graph import IntegerGraph
    from vit_opt.passes.quantization.movement import MOVEMENT_RULES
    from vit_opt.passes.quantization.pairs import absorb_pairs
    from vit_opt.passes.quantization.rules import RULES, activation_type

    require_stage(module, "quantize", "calibrated")
    func = main_function(module)
    rules = {**RULES, **MOVEMENT_RULES, **ATTENTION_RULES}
    options = options or QuantizeOptions()
    given = absorb_pairs(func, constants)
    mark_wide(func, options.wide)
    floats = [op for op in func.body.block.ops if isinstance(op, onnx.OnnxOp)]
    check_supported(floats, set(rules))
    returned = func.body.block.last_op
    assert isinstance(returned, ReturnOp)
    constants.store.statistics[FLOAT_GRAPH] = module.clone()
    graph = IntegerGraph(constants, returned, options, given=given)
    if options.softmax == "auto" and constants.store.batches:
        report = constants.store.reports["softmax"] = []
        graph.softmax_forms.update(choose_forms(func, constants, report))
    for name, argument in zip(input_names(func), func.args, strict=True):
        argument.name_hint = argument.name_hint or (name if name.isidentifier() else None)
        quantized = ops.QuantizeOp.of(argument, type=activation_type(graph, argument))
        graph.define(argument, graph.emit(quantized).result)
    for op in floats:
        if not isinstance(op, onnx.Constant):
            rules[type(op)](graph, op)
    for name, value in zip(output_names(func), returned.operands, strict=True):
        if isinstance(value.owner, onnx.Constant):
            raise VitError(f"output {name} is a constant; leave it out of the model")
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
