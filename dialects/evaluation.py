"""Running a function of the IR on arrays, one operation after the other.

The runner knows blocks and values; what an operation computes is a function that it is given
(`vit_opt.dialects.onnx.semantics.evaluate` with its asset store, for example). An operation with a
region (`vit.pipeline`) is run by running its block in place: the block sees the values around it.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.traits import IsTerminator
from xdsl.utils.hints import isa

from vit_opt.dialects.errors import VitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
    Evaluate: TypeAlias = Callable[[Operation, Sequence[Array]], Sequence[Array]]
    Observe: TypeAlias = Callable[[Operation, Sequence[Array]], None]


def run_block(
    block: Block,
    arguments: Sequence[Array],
    evaluate: Evaluate,
    observe: Observe | None = None,
    outer: MutableMapping[SSAValue, Array] | None = None,
) -> tuple[Array, ...]:
    """Run a block and return the operands of its terminator.

    A value is dropped after its last use in the block. `observe(op, results)` is called after
    every operation. `outer` gives values that are defined outside of the block.
    """
    values: dict[SSAValue, Array] = dict(zip(block.args, arguments, strict=True))
    visible = values if outer is None else ChainMap(values, outer)
    last_use = _last_uses(block)
    for op in block.ops:
        operands = [visible[operand] for operand in op.operands]
        if op.has_trait(IsTerminator):
            return tuple(operands)
        if op.regions:
            results = run_block(op.regions[0].block, (), evaluate, observe, visible)
        else:
            results = tuple(evaluate(op, operands))
        if observe is not None:
            observe(op, results)
        values.update(zip(op.results, results, strict=True))
        for value in (*op.operands, *op.results):
            if last_use.get(value, op) is op:
                values.pop(value, None)
    raise VitError("a block without a terminator cannot be run")


def _last_uses(block: Block) -> dict[SSAValue, Operation]:
    """For each value that is used in a block, the last operation of the block that needs it.

    A use inside a nested region counts for the operation that holds the region.
    """
    last: dict[SSAValue, Operation] = {}
    for op in block.ops:
        for inner in op.walk():
            for operand in inner.operands:
                last[operand] = op
    return last


def run_function(
    func: FuncOp, inputs: Sequence[Array], evaluate: Evaluate, observe: Observe | None = None
) -> tuple[Array, ...]:
    """Run a function of one block on its arguments, in order, and return its results.

    Raises VitError if number, shape or kind of the arguments do not fit.
    """
    block = func.body.block
    if len(inputs) != len(block.args):
        raise VitError(f"@{func.sym_name.data} takes {len(block.args)} inputs, got {len(inputs)}")
    return run_block(block, inputs, evaluate, observe)


def main_function(module: ModuleOp) -> FuncOp:
    """The function @main of a module; raises VitError if there is none."""
    for op in module.body.block.ops:
        if isinstance(op, FuncOp) and op.sym_name.data == "main":
            return op
    raise VitError("the module has no function @main")


def value_names(func: FuncOp, attribute: str, count: int, default: str) -> tuple[str, ...]:
    """The names in `vit.input_names` or `vit.output_names`; numbered defaults if there are none."""
    names = func.attributes.get(attribute)
    if not isa(names, ArrayAttr[StringAttr]):
        return tuple(f"{default}{index}" for index in range(count))
    return tuple(name.data for name in names)


def input_names(func: FuncOp) -> tuple[str, ...]:
    """Names of the arguments, in order."""
    return value_names(func, "vit.input_names", len(func.function_type.inputs), "input")


def output_names(func: FuncOp) -> tuple[str, ...]:
    """Names of the results, in order."""
    return value_names(func, "vit.output_names", len(func.function_type.outputs), "output")


def run_main(
    module: ModuleOp,
    inputs: Mapping[str, Array],
    evaluate: Evaluate,
    observe: Observe | None = None,
) -> dict[str, Array]:
    """Run @main on arrays by input name and return arrays by output name.

    Raises VitError, naming them, for inputs that are missing.
    """
    func = main_function(module)
    names = input_names(func)
    missing = [name for name in names if name not in inputs]
    if missing:
        raise VitError(
            f"no array for input {', '.join(missing)}; the model takes {', '.join(names)}, "
            f"given are {', '.join(inputs) or 'none'}"
        )
    results = run_function(func, [inputs[name] for name in names], evaluate, observe)
    return dict(zip(output_names(func), results, strict=True))
