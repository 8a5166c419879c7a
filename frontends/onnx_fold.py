"""Folding of what a model computes from constants and shapes alone; see `onnx_graph.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from vit_opt.dialects.errors import VitError
from vit_opt.frontends.onnx_expand import expand_nodes
from vit_opt.frontends.onnx_types import ValueType

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

SMALL = 64
"""Constants of up to this many elements may be shape arithmetic and stay in the model."""

KEPT = ("QuantizeLinear", "DequantizeLinear")
"""Operators that are never folded away, since they carry the scales of a quantised model."""

SKIPPED_FUSIONS = (
    "fuse_add_bias_into_conv",
    "fuse_bn_into_conv",
    "fuse_matmul_add_bias_into_gemm",
    "fuse_pad_into_conv",
    "fuse_pad_into_pool",
    "fuse_qkv",
    "fuse_transpose_into_gemm",
    "rewrite_where",
)
"""Simplifier passes that change operators: fusing is the business of our own passes."""


def tensor_array(tensor: onnx.TensorProto, folder: Path) -> Array:
    """The data of a tensor; floating-point data of any width becomes float32.

    Raises VitError for missing external data, and for NaN and infinities.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    if tensor.data_type == onnx.TensorProto.STRING:
        raise VitError(f"constant {tensor.name}: strings are not supported")
    try:
        array = numpy_helper.to_array(tensor, str(folder))
    except (OSError, ValueError, TypeError, onnx.checker.ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise VitError(f"weight {tensor.name} cannot be read (external data?): {reason}") from error
    integers = (np.integer, np.bool_)
    if np.issubdtype(array.dtype, np.floating) or not np.issubdtype(array.dtype, np.generic):
        array = array.astype(np.float32, copy=False)
    elif not any(np.issubdtype(array.dtype, kind) for kind in integers):
        array = array.astype(np.float32)
    if array.dtype == np.float32 and not np.isfinite(array).all():
        kind = "NaN" if np.isnan(array).any() else "infinity"
        raise VitError(f"weight {tensor.name} contains {kind}; the model is broken")
    return array


def is_open(model: onnx.ModelProto, types: Mapping[str, ValueType]) -> bool:
    """Whether folding left a value without shape, or a node with a subgraph."""
    return any(
        any(name and name not in types for name in node.output)
        or any(attribute.HasField("g") for attribute in node.attribute)
        for node in model.graph.node
    )


def simplify(model: onnx.ModelProto, inputs: Sequence[str]) -> onnx.ModelProto:
    """Resolve branches and shape arithmetic by onnxsim; the model as it is where that gives up."""
    import contextlib
    import io

    import onnxsim  # pyright: ignore[reportMissingTypeStubs]
    from onnx import shape_inference

    run = cast("Callable[..., tuple[onnx.ModelProto, bool]]", onnxsim.simplify)
    noise = io.StringIO()
    try:
        with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            shaped = shape_inference.infer_shapes(model)  # it wants a rank for every output
            cleaned, _ = run(shaped, skipped_optimizers=list(SKIPPED_FUSIONS))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return model
    kept = {value.name for value in cleaned.graph.input}
    return cleaned if kept.issuperset(inputs) else model


def fold(
    model: onnx.ModelProto, arrays: dict[str, Array], refusals: dict[str, str]
) -> dict[str, ValueType]:
    """Evaluate nodes with constant operands, and Shape, until nothing changes; expand fused ones.

    Shapes that the file claims for results are forgotten; they follow from those of the inputs.
    Results join `arrays`, the nodes go. `refusals` says, by the first output, why a fused node
    cannot be taken apart. Returns the types of all values; an entry is missing where a shape stays
    unknown.
    """
    from onnx import numpy_helper, shape_inference

    graph = model.graph
    opset = max((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=1)
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    for tensor in graph.initializer:
        arrays[tensor.name] = tensor_array(tensor, Path())
    while True:
        inferred = shape_inference.infer_shapes(model, data_prop=True)
        types = _types(inferred.graph)
        types |= {name: ValueType(array.shape, array.dtype) for name, array in arrays.items()}
        expanded = expand_nodes(graph.node, types, opset, refusals)
        if expanded is not None:
            _replace_nodes(graph, expanded)
            continue
        _drop_empty_parts(graph, types)
        rest: list[onnx.NodeProto] = []
        for node in graph.node:
            results = _evaluate(node, model, arrays, types)
            if results is None:
                rest.append(node)
                continue
            for name, array in results.items():
                arrays[name] = array
                types[name] = ValueType(array.shape, array.dtype)
                if array.size <= SMALL:
                    graph.initializer.append(numpy_helper.from_array(array, name))
        if len(rest) == len(graph.node):
            break
        _replace_nodes(graph, rest)
        _declare(model, arrays)
    return types


def _drop_empty_parts(graph: onnx.GraphProto, types: Mapping[str, ValueType]) -> None:
    """Takes parts without elements out of every Concat: a Roll by nothing is written with one."""
    for node in graph.node:
        if node.op_type == "Concat":
            kept = [name for name in node.input if name not in types or 0 not in types[name].shape]
            if 0 < len(kept) < len(node.input):
                del node.input[:]
                node.input.extend(kept)


def _declare(model: onnx.ModelProto, arrays: Mapping[str, Array]) -> None:
    """Declare folded weights as inputs, so that shape inference knows them."""
    from onnx import helper

    graph = model.graph
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for name, array in arrays.items():
        if name not in known:
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(helper.make_tensor_value_info(name, element, list(array.shape)))


def _evaluate(
    node: onnx.NodeProto,
    model: onnx.ModelProto,
    arrays: Mapping[str, Array],
    types: Mapping[str, ValueType],
) -> dict[str, Array] | None:
    """The results of a node whose operands are constants; None if it has to stay."""
    import numpy as np
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    operands = [name for name in node.input if name]
    if node.op_type in ("Shape", "Size") and operands[0] in types:
        shape = types[operands[0]].shape
        limits = {a.name: a.i for a in node.attribute}
        part = shape[limits.get("start", 0) : limits.get("end", len(shape))]
        result = np.array(part if node.op_type == "Shape" else prod(shape), np.int64)
        return {node.output[0]: result}
    if node.op_type in KEPT or not all(name in arrays for name in operands):
        return None
    if not operands and node.op_type != "Constant":
        return None
    if any(attribute.HasField("g") for attribute in node.attribute):
        return None
    inputs = [helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(operands)]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    single = helper.make_model(
        helper.make_graph([node], "fold", inputs, outputs), opset_imports=model.opset_import
    )
    try:
        run = cast("Callable[..., list[Array]]", ReferenceEvaluator(single).run)
        values = run(None, {name: arrays[name] for name in operands})
    except (NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError):
        return None
    results = {o.name: np.asarray(v) for o, v in zip(outputs, values, strict=True)}
    return {
        name: array.astype(np.float32) if array.dtype.kind == "f" else array
        for name, array in results.items()
    }


def _types(graph: onnx.GraphProto) -> dict[str, ValueType]:
    """Types of the values whose shape is fully known; every float type counts as float32."""
    import numpy as np
    import onnx
    from onnx import helper

    types: dict[str, ValueType] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        known = tensor.HasField("shape") and min(sizes, default=0) >= 0
        if known and tensor.elem_type not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            is_integer = np.issubdtype(dtype, np.integer) or dtype == np.bool_
            types[value.name] = ValueType(
                tuple(sizes), dtype if is_integer else np.dtype(np.float32)
            )
    return types


def _replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
