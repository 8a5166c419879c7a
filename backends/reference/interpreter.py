"""Running a module on named arrays, one inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import BlockArgument, Operation, SSAValue

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import AssetStore, dtype_of
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import (
    input_names,
    main_function,
    output_names,
    run_function,
)
from vit_opt.dialects.onnx import semantics as onnx_semantics
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import QuantizedType
from vit_opt.dialects.vit.evaluate import evaluator, scales_of
from vit_opt.dialects.vit.ops.base import format_of, shape_of, tensor_type
from vit_opt.dialects.vit.semantics import quantize

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class ReferenceResult:
    """Outputs of one inference."""

    codes: dict[str, Array]
    """Raw integers by output name; outputs of a float graph have none."""
    reals: dict[str, Array]
    """Real values by output name: (code - zp) * 2^-frac, or the float graph's own."""


def run_reference(
    module: ModuleOp,
    assets: AssetStore,
    inputs: Mapping[str, Array],
    observe: Callable[[Operation, Sequence[Array]], None] | None = None,
) -> ReferenceResult:
    """One inference of @main at any stage of the road.

    Float arrays are real values; integer arrays are raw codes where the graph takes codes or
    quantises the input. `observe(op, results)` is called after every operation.

    Raises VitError for missing or unknown inputs, wrong shapes, and codes out of range.
    """
    func = main_function(module)
    names = input_names(func)
    _check_names(names, inputs)
    arguments = [
        _argument(value, name, np.asarray(inputs[name]))
        for name, value in zip(names, func.body.block.args, strict=True)
    ]
    integer = evaluator(assets)

    def evaluate(op: Operation, args: Sequence[Array]) -> Sequence[Array]:
        if isinstance(op, onnx.OnnxOp):
            return onnx_semantics.evaluate(op, args, assets)
        if isinstance(op, ops.QuantizeOp) and args[0].dtype.kind in "iu":
            return (args[0].astype(dtype_of(format_of(op.result).storage)),)
        if isinstance(op, ops.DequantizeOp):
            border[op.result] = args[0]
        return integer(op, args)

    border: dict[SSAValue, Array] = {}
    results = run_function(func, arguments, evaluate, observe)
    terminator = func.body.block.last_op
    assert terminator is not None
    codes: dict[str, Array] = {}
    reals: dict[str, Array] = {}
    for name, value, array in zip(output_names(func), terminator.operands, results, strict=True):
        if isinstance(tensor_type(value).get_element_type(), QuantizedType):
            codes[name] = array
            zero = format_of(value).zero_point
            reals[name] = quantize.dequantize_scaled(array, scales_of(value), zero)
        else:
            reals[name] = array
            if value in border:
                codes[name] = border[value]
    return ReferenceResult(codes, reals)


def _check_names(names: Sequence[str], inputs: Mapping[str, Array]) -> None:
    for name in names:
        if name not in inputs:
            raise VitError(
                f"no array for input '{name}'; given are {', '.join(inputs) or 'none'}, the model "
                f"takes {', '.join(names)}"
            )
    for name in inputs:
        if name not in names:
            raise VitError(f"unknown input '{name}'; the model takes {', '.join(names)}")


def _argument(value: BlockArgument, name: str, array: Array) -> Array:
    """An input array as @main takes it: reals, codes, or codes that skip a `vit.quantize`."""
    if array.shape != shape_of(value):
        raise VitError(
            f"input '{name}' has shape {list(array.shape)}, the model expects "
            f"{list(shape_of(value))}"
        )
    if array.dtype.kind not in "fiu":
        raise VitError(f"input '{name}' has dtype {array.dtype}, expected float or integer")
    element = tensor_type(value).get_element_type()
    if isinstance(element, QuantizedType):
        if array.dtype.kind == "f":
            return _quantized(value, array)
        return quantize.checked_codes(name, array, *element.bounds)
    if array.dtype.kind == "f" or dtype_of(element).kind != "f":
        return array.astype(dtype_of(element))
    formats = {
        format_of(use.operation.result)
        for use in value.uses
        if isinstance(use.operation, ops.QuantizeOp)
    }
    if len(formats) != 1 or not all(isinstance(u.operation, ops.QuantizeOp) for u in value.uses):
        raise VitError(f"input '{name}' takes real values; give it as a float array")
    return quantize.checked_codes(name, array, *formats.pop().bounds)


def _quantized(value: SSAValue, array: Array) -> Array:
    format_ = format_of(value)
    low, high = format_.bounds
    codes = quantize.quantize_scaled(array, scales_of(value), low, high, format_.zero_point)
    return codes.astype(dtype_of(format_.storage))
