"""An ONNX model as plain Python data: the only place where protobuf is touched.

`load_graph` reads a file or takes a ModelProto, checks it (`onnx_check.py`), makes every shape
static, folds shape arithmetic and branches with a constant condition (`onnx_fold.py`), takes fused
operators apart (`onnx_expand.py`), and hands back a `Graph` of nodes, constants and value types.
Shapes come from ONNX's own inference, folding uses ONNX's own reference evaluator.

Weights take no part in this. They are taken out of the model first and stand in it as extra inputs
of known shape, which makes cleaning cheap for any size of model (protobuf stops at 2 GB) and keeps
everything from touching them. Only small constants, those of shape arithmetic, stay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects.errors import VitError
from vit_opt.frontends.onnx_check import (
    check_definitions,
    check_file,
    check_nodes,
    sorted_nodes,
    source_name,
)
from vit_opt.frontends.onnx_fold import KEPT, SMALL, fold, opset_of, tensor_array
from vit_opt.frontends.onnx_integer_inputs import make_inputs_real
from vit_opt.frontends.onnx_types import ValueType

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

ModelSource: TypeAlias = "str | Path | onnx.ModelProto"


@dataclass
class Node:
    """One operator application; optional inputs that are left out have the name ""."""

    operator: str
    domain: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    """Attribute values as Python numbers, strings (decoded), lists and arrays."""


@dataclass
class Graph:
    """A model with static shapes, its nodes in an order in which they can run."""

    nodes: list[Node]
    inputs: list[str]
    outputs: list[str]
    types: dict[str, ValueType]
    constants: dict[str, Array]
    opsets: dict[str, int]
    """Operator set version by domain; the domain of ONNX itself is "ai.onnx"."""

    refusals: dict[str, str]
    """Why a fused node is still there, by its first output."""

    integer_inputs: list[str]
    """Inputs whose real values are integers: those that the file types so."""

    @cached_property
    def used(self) -> frozenset[str]:
        """Names of the values that a node takes or that are outputs."""
        return frozenset(self.outputs).union(*(node.inputs for node in self.nodes))


def load_graph(source: ModelSource, shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """Read a model and make it static and plain; see the module docstring.

    `shapes` gives input shapes by input name, for dimensions that the file leaves open.

    Raises VitError for a file that cannot be read, is no ONNX model, lacks its external data, or
    has control flow, sparse weights, or shapes that stay dynamic.
    """
    try:
        model, arrays = _separate(source)
        inputs = _fix_input_shapes(model, set(arrays), shapes or {})
        integer_inputs = make_inputs_real(model, inputs)
        outputs = [value.name for value in model.graph.output]
        refusals: dict[str, str] = {}
        types = fold(model, arrays, refusals)
        nodes = [_plain_node(node) for node in model.graph.node]
    except UnicodeDecodeError as error:
        raise VitError(f"{source_name(source)}: damaged: a name in it is no text") from error
    _number_names(nodes)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    nodes = _reachable(nodes, outputs)
    return Graph(nodes, inputs, outputs, types, arrays, opsets, refusals, integer_inputs)


def _separate(source: ModelSource) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model with weights replaced by inputs, and the weights by name.

    The message that was read, which holds the weights once more, dies with this function.
    """
    model, folder = _read(source)
    check_file(model, source_name(source))
    if model.functions:
        model = _inlined(model)
    check_definitions(model.graph)
    return _without_weights(model, folder)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its own functions in place of their calls."""
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise VitError(f"functions of the model cannot be resolved: {reason}") from error


def _read(source: ModelSource) -> tuple[onnx.ModelProto, Path]:
    """The model without its external data, and the folder where that data lies."""
    import onnx
    from google.protobuf.message import DecodeError

    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
        return model, Path.cwd()
    path = Path(source)
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except OSError as error:
        raise VitError(f"{path}: cannot be read: {error.strerror}") from error
    except (DecodeError, ValueError) as error:
        raise VitError(f"{path}: not an ONNX model, or a truncated one") from error
    return model, path.parent


def _without_weights(
    model: onnx.ModelProto, folder: Path
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A copy of a model in which weights are inputs of known shape, and the weights as arrays.

    A weight is a constant with more than SMALL elements, or an operand of a quantisation operator.
    `Constant` nodes become initializers on the way.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph, slim = model.graph, onnx.ModelProto()
    check_nodes(graph.node, opset_of(model))
    nodes = sorted_nodes(graph)
    slim.ir_version = model.ir_version
    slim.opset_import.extend(model.opset_import)
    slim.graph.name = graph.name or "graph"
    slim.graph.output.extend(graph.output)
    constants = {node.output[0]: _node_constant(node) for node in nodes if _is_constant(node)}
    slim.graph.node.extend(node for node in nodes if not _is_constant(node))
    tensors = [*graph.initializer, *constants.values()]
    names = {tensor.name for tensor in tensors}
    slim.graph.input.extend(value for value in graph.input if value.name not in names)
    quantised = {name for node in nodes if node.op_type in KEPT for name in node.input}
    arrays: dict[str, Array] = {}
    for tensor in tensors:
        array = tensor_array(tensor, folder)
        if array.size > SMALL or tensor.name in quantised:
            arrays[tensor.name] = array
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            slim.graph.input.append(
                helper.make_tensor_value_info(tensor.name, element, list(tensor.dims))
            )
        else:
            slim.graph.initializer.append(numpy_helper.from_array(array, tensor.name))
    _widen(slim.graph)
    return slim, arrays


def _widen(graph: onnx.GraphProto) -> None:
    """Declare every float of another width (float16, bfloat16, float64) as float32."""
    import onnx
    from onnx import numpy_helper

    kinds = onnx.TensorProto
    others = {kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE}
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in others:
            value.type.tensor_type.elem_type = kinds.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == attribute.TENSOR and attribute.t.data_type in others:
                attribute.t.CopyFrom(numpy_helper.from_array(tensor_array(attribute.t, Path())))
            elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i in others:
                attribute.i = kinds.FLOAT
            elif attribute.type == attribute.GRAPH:
                _widen(attribute.g)


def _is_constant(node: onnx.NodeProto) -> bool:
    names = {attribute.name for attribute in node.attribute}
    return node.op_type == "Constant" and not names & {
        "sparse_value",
        "value_string",
        "value_strings",
    }


def _node_constant(node: onnx.NodeProto) -> onnx.TensorProto:
    """The tensor of a `Constant` node, under the name of the node's output."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        return tensor
    dtype = np.float32 if attribute.name.startswith("value_float") else np.int64
    return numpy_helper.from_array(np.array(value, dtype), node.output[0])


def _fix_input_shapes(
    model: onnx.ModelProto, weights: Collection[str], shapes: Mapping[str, Sequence[int]]
) -> list[str]:
    """Make the shapes of all inputs static; the names of the inputs.

    A symbolic first dimension is the batch and becomes 1. Raises VitError, naming the input, for
    other open dimensions, for shapes that contradict the file, and for a batch other than 1.
    """
    inputs = [value for value in model.graph.input if value.name not in weights]
    names = [value.name for value in inputs]
    unknown = [name for name in shapes if name not in names]
    if unknown:
        raise VitError(f"no input {', '.join(unknown)}; the model's inputs are {', '.join(names)}")
    for value in inputs:
        if not value.type.HasField("tensor_type"):
            raise VitError(f"input {value.name} is not a tensor")
        _fix_shape(value, shapes.get(value.name))
    return names


def _fix_shape(value: onnx.ValueInfoProto, given: Sequence[int] | None) -> None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        if given is None:
            raise VitError(f"input {value.name} has no shape; {_shape_advice(value.name, 4)}")
        for _ in given:
            tensor.shape.dim.add()
    found = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    if given is not None and (
        len(given) != len(found)
        or any(size not in (None, new) for size, new in zip(found[1:], given[1:], strict=True))
    ):
        raise VitError(f"input {value.name} has shape {_text(value)}, but {list(given)} was given")
    sizes = list(given) if given is not None else found
    if sizes and sizes[0] is None:
        sizes[0] = 1
    if None in sizes:
        advice = _shape_advice(value.name, len(sizes))
        raise VitError(f"input {value.name} has dynamic dimensions {_text(value)}; {advice}")
    if any(size is not None and size < 1 for size in sizes):
        raise VitError(f"input {value.name} has a dimension of size zero: {_text(value)}")
    if len(sizes) == 4 and sizes[0] != 1:
        raise VitError(
            f"input {value.name} has the fixed batch {sizes[0]}; export the model with batch 1 or "
            f"a symbolic batch (a batch is run image by image)"
        )
    for dimension, size in zip(tensor.shape.dim, sizes, strict=True):
        dimension.Clear()
        dimension.dim_value = size or 1


def _shape_advice(name: str, rank: int) -> str:
    example = "1x3x224x224" if rank == 4 else "x".join(["1", *["N"] * (rank - 1)])
    return f"give them, as in --shape {name}={example}"


def _text(value: onnx.ValueInfoProto) -> str:
    """The shape of an input as the file has it."""
    dimensions = value.type.tensor_type.shape.dim
    sizes = [str(d.dim_value) if d.HasField("dim_value") else d.dim_param for d in dimensions]
    return f"[{', '.join(size or '?' for size in sizes)}]"


def _plain_node(node: onnx.NodeProto) -> Node:
    attributes = {attribute.name: _attribute(attribute) for attribute in node.attribute}
    return Node(
        node.op_type, node.domain, node.name, list(node.input), list(node.output), attributes
    )


def _attribute(attribute: onnx.AttributeProto) -> Any:
    """The value of an attribute, None for one of a type that does not exist."""
    from onnx import helper

    if attribute.type == attribute.TENSOR:
        return tensor_array(attribute.t, Path())
    try:
        value = helper.get_attribute_value(attribute)
    except ValueError:
        return None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if attribute.type in (attribute.INTS, attribute.FLOATS):
        return list(value)
    return value


def _number_names(nodes: Iterable[Node]) -> None:
    """Give every node a name of its own: that of the file, of its first output, or numbered."""
    taken: set[str] = set()
    for node in nodes:
        base = node.name or node.outputs[0]
        name, count = base, 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        node.name = name


def _reachable(nodes: Sequence[Node], outputs: Iterable[str]) -> list[Node]:
    """The nodes that an output depends on, in their order."""
    needed = set(outputs)
    kept: list[Node] = []
    for node in reversed(nodes):
        if needed & set(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return kept[::-1]
