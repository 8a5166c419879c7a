"""What must hold of an ONNX file before anything is done with it; see `onnx_graph.py`.

A file may be truncated, damaged or written by hand. Each function raises VitError that names the
place. Operators that ONNX does not know are not an error here: the importer lists them together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vit_opt.dialects.errors import VitError

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET = 7
"""Operators broadcast as they do today from here on."""


def check_file(model: onnx.ModelProto, where: str) -> None:
    """Whether a message that was parsed is an ONNX model at all, of an opset that is known."""
    from onnx import defs

    if not model.opset_import or not (model.graph.node or model.graph.output):
        raise VitError(f"{where}: not an ONNX model (no operator set or no graph)")
    if not model.graph.output:
        raise VitError(f"{where}: the graph has no output; the file may be truncated")
    if model.graph.sparse_initializer:
        names = ", ".join(s.values.name for s in model.graph.sparse_initializer)
        raise VitError(f"{where}: sparse weights are not supported: {names}")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    version, newest = versions.get("", versions.get("ai.onnx")), defs.onnx_opset_version()
    if version is None:
        raise VitError(f"{where}: no version of ONNX's operators is declared (opset_import)")
    if version < OLDEST_OPSET:
        raise VitError(
            f"{where}: opset {version} is too old; export the model with opset {OLDEST_OPSET} or "
            f"later"
        )
    if version > newest:
        raise VitError(
            f"{where}: opset {version} is newer than the installed onnx package knows ({newest}); "
            f"export the model with opset {newest} or earlier, or update onnx"
        )


def check_nodes(nodes: Iterable[onnx.NodeProto], opset: int) -> None:
    """Whether nodes, and those inside of them, have the operands and attributes that they need."""
    from onnx import defs

    for node in nodes:
        texts: list[object] = [node.op_type, node.domain, node.name, *node.input, *node.output]
        if not all(isinstance(text, str) for text in texts):
            raise VitError("the model is damaged: a name in it is no text")
        if not node.output or not any(node.output):
            raise VitError(f"node {label_of(node)} has no output; the file may be damaged")
        for attribute in node.attribute:
            for graph in [attribute.g, *attribute.graphs]:
                check_nodes(graph.node, opset)
        if node.domain in ("", "ai.onnx"):
            try:
                schema = defs.get_schema(node.op_type, opset)
            except defs.SchemaError:
                continue
            _check_node(node, schema)


def _check_node(node: onnx.NodeProto, schema: Any) -> None:
    """Compare a node with its operator's definition; the file may be damaged where they differ."""
    label = f"node {label_of(node)} ({node.op_type})"
    count = len(node.input)
    if not schema.min_input <= count <= schema.max_input:
        wanted = f"{schema.min_input} to {schema.max_input}"
        raise VitError(f"{label} has {count} operands instead of {wanted}")
    if len(node.output) > schema.max_output:
        raise VitError(f"{label} has {len(node.output)} outputs, at most {schema.max_output} exist")
    if not all(node.input[: schema.min_input]):
        raise VitError(f"{label} lacks an operand that it needs")
    known = cast("Mapping[str, Any]", schema.attributes)
    given = {attribute.name: attribute.type for attribute in node.attribute}
    for name, type_ in given.items():
        if name in known and int(known[name].type.value) != type_:
            raise VitError(f"{label}: the attribute {name} has a wrong type")
    missing = [name for name, each in known.items() if each.required and name not in given]
    if missing:
        raise VitError(f"{label} lacks the attribute {', '.join(missing)}")


def label_of(node: onnx.NodeProto) -> str:
    """The name of a node, or that of its first output."""
    return node.name or next(iter(node.output), "") or "without a name"


def check_definitions(graph: onnx.GraphProto) -> None:
    """Whether every value is defined once, and no input is an output."""
    inputs = [value.name for value in graph.input]
    weights = [tensor.name for tensor in graph.initializer]
    for kind, names in (("inputs", inputs), ("weights", weights)):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise VitError(f"two {kind} have the name {twice[0]}")
    both = {value.name for value in graph.output}.intersection(inputs).difference(weights)
    if both:
        raise VitError(f"{min(both)} is input and output of the model; leave the output out")
    origin = dict.fromkeys([*inputs, *weights], "an input or weight")
    for node in graph.node:
        for name in filter(None, node.output):
            if name in origin:
                label = f"node {label_of(node)}"
                raise VitError(f"value {name} is defined twice, by {origin[name]} and by {label}")
            origin[name] = f"node {label_of(node)}"


def sorted_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes in an order in which they can run; as they stand where that is one.

    Raises VitError for values that nothing defines, and for nodes that wait for each other.
    """
    ready = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    ready.add("")
    defined = ready.union(*(node.output for node in graph.node))
    waiting = list(graph.node)
    result: list[onnx.NodeProto] = []
    while waiting:
        rest: list[onnx.NodeProto] = []
        for node in waiting:
            if all(name in ready for name in operands_of(node) if name in defined):
                result.append(node)
                ready.update(node.output)
            else:
                rest.append(node)
        if len(rest) == len(waiting):
            names = ", ".join(label_of(node) for node in rest[:4])
            raise VitError(f"the graph has a cycle, near the nodes {names}")
        waiting = rest
    for node in result:
        for name in node.input:
            if name not in defined:
                raise VitError(
                    f"value {name} is used by node {label_of(node)}, but no node or weight "
                    f"defines it"
                )
    return result


def operands_of(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node reads, those that its subgraphs take from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                yield from operands_of(inner)


def source_name(source: object) -> str:
    """How messages call the model that was given."""
    return str(source) if isinstance(source, str | Path) else "the model"
