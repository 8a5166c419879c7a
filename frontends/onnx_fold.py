"""Folding of what a model computes from constants and shapes alone; see `onnx_graph.py`."""

from __future__ import annotations

import re
import warnings
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

KINDS = (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 16)
"""Element types (numbers of TensorProto.DataType) that values may have: floats, integers, bool."""

LARGEST = 1 << 28
"""Nothing with more elements is folded: a file of a few bytes can ask for any number."""


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    return max((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=1)


def tensor_array(tensor: onnx.TensorProto, folder: Path) -> Array:
    """The data of a tensor; floating-point data of any width becomes float32.

    Raises VitError for missing external data, and for NaN and infinities.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    if tensor.data_type == onnx.TensorProto.STRING:
        raise VitError(f"constant {tensor.name}: strings are not supported")
    if any(size < 0 for size in tensor.dims):
        raise VitError(f"weight {tensor.name} has a negative size, {list(tensor.dims)}")
    try:
        array = numpy_helper.to_array(tensor, str(folder))
    except (OSError, ValueError, TypeError, KeyError, onnx.checker.ValidationError) as error:
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


def fold(
    model: onnx.ModelProto, arrays: dict[str, Array], refusals: dict[str, str]
) -> dict[str, ValueType]:
    """Evaluate nodes with constant operands, and Shape, until nothing changes; expand fused ones.

    Shapes that the file claims for results are forgotten; they follow from those of the inputs.
    Results join `arrays`, the nodes go. `refusals` says, by the first output, why a fused node
    cannot be taken apart. Returns the types of all values; an entry is missing where a shape stays
    unknown.
    """
    from onnx import numpy_helper

    graph = model.graph
    opset = opset_of(model)
    del graph.value_info[:]
    inputs = {value.name for value in graph.input}
    for output in graph.output:
        if output.name not in inputs:
            output.type.ClearField("tensor_type")
    for tensor in graph.initializer:
        arrays[tensor.name] = tensor_array(tensor, Path())
    while True:
        types = _types(_inferred(model).graph)
        types |= {name: ValueType(array.shape, array.dtype) for name, array in arrays.items()}
        expanded = inline_branches(graph, arrays)
        if expanded is None:
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
    _explain(model, types, refusals)
    return types


def _explain(
    model: onnx.ModelProto, types: Mapping[str, ValueType], refusals: dict[str, str]
) -> None:
    """Add to `refusals` why results have no shape, where ONNX's inference finds an inconsistency."""
    from onnx import shape_inference

    unknown = [node for node in model.graph.node if node.output[0] not in types]
    if not unknown:
        return
    try:
        shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (shape_inference.InferenceError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        for node in unknown:
            found = re.search(
                rf"node name: {re.escape(node.name)}\): (\[\w+\] )?([^()\[\]]+)", text
            )
            if node.name and found:
                refusals.setdefault(node.output[0], found[2].strip())


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes that follow from those of the inputs."""
    from onnx import shape_inference

    try:
        return shape_inference.infer_shapes(model, data_prop=True)
    except (shape_inference.InferenceError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise VitError(f"the shapes of the model do not fit together: {reason}") from error


def inline_branches(
    graph: onnx.GraphProto, arrays: dict[str, Array]
) -> list[onnx.NodeProto] | None:
    """Nodes with the taken branch in place of every If whose condition is known; None if none is.

    Weights of the branch join `arrays`; its names get that of the If in front.
    """
    result: list[onnx.NodeProto] = []
    found = False
    for node in graph.node:
        condition = arrays.get(node.input[0]) if node.op_type == "If" and node.input else None
        if condition is None or condition.size != 1:
            result.append(node)
            continue
        wanted = "then_branch" if condition.item() else "else_branch"
        branch = next(a.g for a in node.attribute if a.name == wanted)
        result += _inlined(node, branch, graph, arrays)
        found = True
    return result if found else None


def _inlined(
    node: onnx.NodeProto, branch: onnx.GraphProto, graph: onnx.GraphProto, arrays: dict[str, Array]
) -> list[onnx.NodeProto]:
    """The nodes of a branch under new names, and its results as those of the If."""
    from onnx import helper, numpy_helper

    if len(branch.output) != len(node.output):
        raise VitError(f"node {node.name} (If): its branch has {len(branch.output)} results")
    prefix = node.name or node.output[0]
    own = [t.name for t in branch.initializer] + [n for inner in branch.node for n in inner.output]
    names = {name: f"{prefix}/{name}" for name in own if name}
    made = {name for inner in branch.node for name in inner.output}
    copied: list[tuple[str, str]] = []
    for value, name in zip(branch.output, node.output, strict=True):
        if value.name in made:
            made.discard(value.name)
            names[value.name] = name
        else:
            copied.append((names.get(value.name, value.name), name))
    for tensor in branch.initializer:
        array, name = tensor_array(tensor, Path()), names[tensor.name]
        arrays[name] = array
        if array.size <= SMALL:
            graph.initializer.append(numpy_helper.from_array(array, name))
        else:
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(helper.make_tensor_value_info(name, element, list(array.shape)))
    nodes = [_renamed(inner, names) for inner in branch.node]
    nodes += [helper.make_node("Identity", [source], [name]) for source, name in copied]
    return nodes


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of a node with other names of values, in its subgraphs as well."""
    copy = type(node).FromString(node.SerializeToString())
    for field in (copy.input, copy.output):
        renamed = [names.get(name, name) for name in field]
        del field[:]
        field.extend(renamed)
    for attribute in copy.attribute:
        if attribute.HasField("g"):
            inner = [_renamed(each, names) for each in attribute.g.node]
            del attribute.g.node[:]
            attribute.g.node.extend(inner)
            for value in attribute.g.output:
                value.name = names.get(value.name, value.name)
    return copy


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
    if _grows(node, arrays, types):
        return None
    inputs = [helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(operands)]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    single = helper.make_model(
        helper.make_graph([node], "fold", inputs, outputs), opset_imports=model.opset_import
    )
    try:
        run = cast("Callable[..., list[Array]]", ReferenceEvaluator(single).run)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            values = run(None, {name: arrays[name] for name in operands})
    except Exception:  # whatever the evaluator meets: the node stays and is judged later
        return None
    results = {o.name: np.asarray(v) for o, v in zip(outputs, values, strict=True)}
    return {
        name: array.astype(np.float32) if array.dtype.kind == "f" else array
        for name, array in results.items()
    }


def _grows(
    node: onnx.NodeProto, arrays: Mapping[str, Array], types: Mapping[str, ValueType]
) -> bool:
    """Whether a node makes more elements than anything reasonable has."""
    if node.op_type in ("ConstantOfShape", "Expand") and node.input:
        return prod(arrays[node.input[-1]].ravel().tolist()) > LARGEST
    known = types.get(node.output[0])
    return known is not None and prod(known.shape) > LARGEST


def _types(graph: onnx.GraphProto) -> dict[str, ValueType]:
    """Types of the values whose shape is fully known; every float type counts as float32."""
    import numpy as np
    from onnx import helper

    types: dict[str, ValueType] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        known = tensor.HasField("shape") and min(sizes, default=0) >= 0
        if known and tensor.elem_type in KINDS:
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
