"""Import of ONNX models: a file or ModelProto to a module of the `onnx` dialect.

    module = import_onnx("model.onnx", shapes={"input": (1, 3, 224, 224)}, context=ctx)

The module holds one function `@main` with static shapes and batch 1; the names of inputs and
outputs are in its attributes `vit.input_names` and `vit.output_names`. One ONNX node is one
operation, after generic cleaning (see `onnx_graph.py`); weights lie in the asset store of the
context under the names of their initializers. Nothing here changes what the model computes, except
that float16 models compute in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.utils.exceptions import VerifyException

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import AssetStore, VitContext, array_attribute, element_type_of
from vit_opt.dialects.errors import VitError
from vit_opt.frontends.onnx_graph import Graph, ModelSource, Node, load_graph
from vit_opt.frontends.onnx_operators import Form, UnsupportedError, View, rule_for
from vit_opt.frontends.onnx_types import ValueType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]


def import_onnx(
    source: ModelSource,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    context: VitContext,
) -> ModuleOp:
    """Import a model; see the module docstring.

    `shapes` gives the shapes of inputs whose dimensions (other than the batch) the file leaves
    open. Raises VitError for everything that cannot be imported; unsupported operators are listed
    all at once, with opset and node name.
    """
    graph = load_graph(source, shapes)
    _check_inputs(graph)
    forms = _forms(graph)
    block = Block(arg_types=[_tensor_type(graph.types[name]) for name in graph.inputs])
    values: dict[str, SSAValue] = dict(zip(graph.inputs, block.args, strict=True))
    for name, value in values.items():
        value.name_hint = _hint(name)
    for node, form in zip(graph.nodes, forms, strict=True):
        for operation in _operations(node, form, graph, values, context.assets):
            block.add_op(operation)
            _verify(operation, node)
    for name in graph.outputs:
        for constant in _constants([name], graph, values, context.assets):
            block.add_op(constant)
    results = [values[name] for name in graph.outputs]
    block.add_op(ReturnOp(*results))
    arguments = [argument.type for argument in block.args]
    function = FuncOp("main", (arguments, [value.type for value in results]), Region(block))
    function.attributes["vit.input_names"] = _names(graph.inputs)
    function.attributes["vit.output_names"] = _names(graph.outputs)
    if graph.integer_inputs:
        function.attributes["vit.integer_inputs"] = _names(graph.integer_inputs)
    module = ModuleOp([function], {"vit.stage": StringAttr("float")})
    module.verify()
    return module


def _check_inputs(graph: Graph) -> None:
    """Raise VitError for inputs of a type or size that no value has, or if there is none."""
    if not graph.inputs:
        raise VitError("the model has no input")
    for name in graph.inputs:
        if name not in graph.types:
            raise VitError(f"input {name} is no tensor of numbers")
        shape = graph.types[name].shape
        if prod(shape) > LARGEST_VALUE or not shape:
            text = "too large" if shape else "a single number, no tensor"
            raise VitError(f"input {name} is {text}, {list(shape)}")


LARGEST_VALUE = 1 << 31
"""Nothing with more elements is imported."""


def _forms(graph: Graph) -> list[Form]:
    """All nodes in normal form; raises VitError with the list of those that have none.

    A node whose operands have no known shape is named only if nothing before it is to blame.
    """
    forms: list[Form] = []
    problems: list[str] = []
    for node in graph.nodes:
        blind = any(name and name not in graph.types for name in node.inputs)
        if blind and problems and rule_for(node) is not None:
            continue
        try:
            forms.append(_form(node, graph))
        except UnsupportedError as error:
            problems.append(
                f"{_describe(node, graph)}: {error}" if str(error) else _describe(node, graph)
            )
    if problems:
        raise VitError(f"unsupported: {'; '.join(problems)}")
    return forms


def _why_dynamic(name: str, node: Node, graph: Graph) -> str:
    """Why the shape of an operand or result is not known."""
    shapes = [list(graph.types[each].shape) for each in node.inputs if each in graph.types]
    if name in node.inputs or len(shapes) < sum(map(bool, node.inputs)):
        return f"the shape of {name} is dynamic; give input shapes with --shape"
    given = ", ".join(map(str, shapes))
    return f"operands of shapes {given} do not fit together, or their values decide the result's"


def _form(node: Node, graph: Graph) -> Form:
    rule = rule_for(node)
    if rule is None:
        raise UnsupportedError(graph.refusals.get(node.outputs[0], _why_unknown(node)))
    for name in (*node.inputs, node.outputs[0]):
        if name and name not in graph.types:
            reason = _why_dynamic(name, node, graph)
            raise UnsupportedError(graph.refusals.get(node.outputs[0], reason))
    try:
        form = rule(View(node, graph))
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise UnsupportedError("its operands or attributes do not fit together") from error
    results = node.outputs[: form.results]
    for name in (*form.operands, *results):
        if name not in graph.types:
            raise UnsupportedError(f"the shape of {name} is unknown")
        shape = graph.types[name].shape
        if 0 in shape:
            raise UnsupportedError(f"{name} has a dimension of size zero, {list(shape)}")
        if prod(shape) > LARGEST_VALUE:
            raise UnsupportedError(f"{name} is too large, {list(shape)}")
    extra = [name for name in node.outputs[form.results :] if name in graph.used]
    if extra:
        raise UnsupportedError(f"its output {extra[0]} is used")
    return form


def _why_unknown(node: Node) -> str:
    if node.operator in ("If", "Loop", "Scan"):
        return "control flow"
    if node.operator.startswith("Sequence") or node.operator == "ConcatFromSequence":
        return "sequences"
    return ""


def _describe(node: Node, graph: Graph) -> str:
    domain = node.domain or "ai.onnx"
    prefix = "" if domain == "ai.onnx" else f"{domain}."
    return f"{prefix}{node.operator} (opset {graph.opsets.get(domain, '?')}, node {node.name})"


def _operations(
    node: Node, form: Form, graph: Graph, values: dict[str, SSAValue], assets: AssetStore
) -> Iterator[Operation]:
    """The operation of a node, after the constants that it is the first to use."""
    yield from _constants(form.operands, graph, values, assets)
    results = node.outputs[: form.results]
    operation = form.operation.make(
        [values[name] for name in form.operands],
        [_tensor_type(graph.types[name]) for name in results],
        node_name=node.name,
        **form.attributes,
    )
    for name, value in zip(results, operation.results, strict=True):
        value.name_hint = _hint(name)
        values[name] = value
    yield operation


def _constants(
    names: Sequence[str], graph: Graph, values: dict[str, SSAValue], assets: AssetStore
) -> Iterator[Operation]:
    for name in names:
        if name in values:
            continue
        if name not in graph.constants:
            raise VitError(f"{name} is used, or an output, but no node or weight defines it")
        attribute = array_attribute(assets, name, graph.constants[name])
        constant = onnx.Constant.of(attribute, node_name=name)
        constant.y.name_hint = _hint(name)
        values[name] = constant.y
        yield constant


def _verify(operation: Operation, node: Node) -> None:
    try:
        operation.verify()
    except VerifyException as error:
        raise VitError(f"node {node.name} ({node.operator}) is inconsistent: {error}") from error


def _tensor_type(type_: ValueType) -> TensorType[Attribute]:
    return TensorType(element_type_of(type_.dtype), type_.shape)


def _names(names: Sequence[str]) -> ArrayAttr[StringAttr]:
    return ArrayAttr([StringAttr(name) for name in names])


def _hint(name: str) -> str | None:
    """A value name for text: letters, digits and underscores only."""
    hint = "".join(c if c.isalnum() and c.isascii() else "_" for c in name).strip("_")
    return f"v{hint}" if hint[:1].isdigit() else hint or None
