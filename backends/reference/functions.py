"""`vit` operations for xDSL's own interpreter: an embedder registers them beside others.

    interpreter = Interpreter(module)
    interpreter.register_implementations(FuncFunctions())
    interpreter.register_implementations(VitFunctions(assets_of(ctx)))
    interpreter.call_op("main", (array,))

Values are numpy arrays. What an operation computes is `vit_opt.dialects.vit.evaluate`.
"""

from __future__ import annotations

from typing import Any

from xdsl.interpreter import (
    Interpreter,
    InterpreterFunctions,
    PythonValues,
    ReturnedValues,
    TerminatorValue,
    impl,
    impl_terminator,
    register_impls,
)
from xdsl.ir import Operation

from vit_opt.dialects.assets import AssetStore, attribute_array
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.evaluate import RULES, evaluate_op


@register_impls
class StructureFunctions(InterpreterFunctions):
    """Constants and pipelines; `VitFunctions` adds the computations."""

    def __init__(self, assets: AssetStore | None = None) -> None:
        self.assets = assets or AssetStore()

    @impl(ops.ConstantOp)
    def run_constant(
        self, interpreter: Interpreter, op: ops.ConstantOp, args: PythonValues
    ) -> PythonValues:
        """The array behind the constant."""
        return (attribute_array(self.assets, op.value),)

    @impl(ops.PipelineOp)
    def run_pipeline(
        self, interpreter: Interpreter, op: ops.PipelineOp, args: PythonValues
    ) -> PythonValues:
        """The body, its schedule ignored."""
        return interpreter.run_ssacfg_region(op.body, (), "pipeline")

    @impl_terminator(ops.YieldOp)
    def run_yield(
        self, interpreter: Interpreter, op: ops.YieldOp, args: PythonValues
    ) -> tuple[TerminatorValue, PythonValues]:
        """What the pipeline gives."""
        return ReturnedValues(args), ()


def _computation(operation: type[Operation]) -> Any:
    @impl(operation)
    def run(
        self: StructureFunctions, interpreter: Interpreter, op: Operation, args: PythonValues
    ) -> PythonValues:
        return evaluate_op(op, args)

    return run


VitFunctions = register_impls(
    type(
        "VitFunctions",
        (StructureFunctions,),
        {f"run_{index}": _computation(operation) for index, operation in enumerate(RULES)},
    )
)
"""Implementations of all `vit` operations; takes the asset store that holds the weights."""
