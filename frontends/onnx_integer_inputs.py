"""Inputs that are bytes: pixels as a camera gives them, or codes of a quantised model.

Inside, every input is real. An input of 8- or 16-bit integers becomes a float input that is rounded
to those integers at once, by a QuantizeLinear of scale 1, so its format is known without calibration
and nothing is lost. What reads it, Cast and DequantizeLinear, starts from there. Callers may hand
over integers as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vit_opt.dialects.errors import VitError

if TYPE_CHECKING:
    import onnx

READERS = ("Cast", "DequantizeLinear", "Shape")
"""Operators that may read integers of an input."""


def make_inputs_real(model: onnx.ModelProto, names: Sequence[str]) -> list[str]:
    """Give inputs of 8- and 16-bit integers the type float, in place; their names.

    Raises VitError if one of them is read by anything but Cast to float and DequantizeLinear.
    """
    from onnx import TensorProto

    narrow = (TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16)
    inputs = [value for value in model.graph.input if value.name in names]
    integer = [value for value in inputs if value.type.tensor_type.elem_type in narrow]
    for value in integer:
        _make_real(model.graph, value)
    return [value.name for value in integer]


def _make_real(graph: onnx.GraphProto, value: onnx.ValueInfoProto) -> None:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    storage = value.type.tensor_type.elem_type
    name, one, zero = value.name, f"{value.name}//one", f"{value.name}//zero"
    code, real = f"{name}//code", f"{name}//real"
    rank = len(value.type.tensor_type.shape.dim)
    readers = [node for node in graph.node if name in node.input]
    for node in readers:
        _check_reader(node, name)
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    dtype = helper.tensor_dtype_to_np_dtype(storage)
    nodes = [
        _constant(one, numpy_helper.from_array(np.array(1, np.float32), one)),
        _constant(zero, numpy_helper.from_array(np.array(0, dtype), zero)),
        helper.make_node("QuantizeLinear", [name, one, zero], [code], name=f"{name}//quantize"),
        helper.make_node("DequantizeLinear", [code, one, zero], [real], name=f"{name}//real"),
    ]
    for node in graph.node:
        nodes += _reader(node, real, rank) if node in readers else [node]
    del graph.node[:]
    graph.node.extend(nodes)


def _constant(name: str, tensor: onnx.TensorProto) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Constant", [], [name], value=tensor)


def _check_reader(node: onnx.NodeProto, name: str) -> None:
    from onnx import TensorProto

    casts = [attribute.i for attribute in node.attribute if attribute.name == "to"]
    if node.op_type not in READERS or any(to != TensorProto.FLOAT for to in casts):
        raise VitError(
            f"input {name} holds integers, which node {node.name or node.output[0]} "
            f"({node.op_type}) reads; only Cast to float and DequantizeLinear may"
        )


def _reader(node: onnx.NodeProto, real: str, rank: int) -> list[onnx.NodeProto]:
    """What a node that read the integers is on their real values, a tensor of `rank` dimensions."""
    from onnx import helper

    if node.op_type == "Cast":
        return [helper.make_node("Identity", [real], node.output, name=node.name)]
    if node.op_type == "Shape":
        node.input[0] = real
        return [node]
    return _dequantize(node, real, rank)


def _dequantize(node: onnx.NodeProto, real: str, rank: int) -> list[onnx.NodeProto]:
    """(x - zero point) * scale; scales and zero points per channel lie along the node's axis."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    output = node.output[0]
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    behind = max(rank - 1 - axis % rank, 0) if rank else 0
    shape, scale = f"{output}//shape", f"{output}//scale"
    sizes = numpy_helper.from_array(np.array([-1] + [1] * behind), shape)
    nodes = [_constant(shape, sizes), helper.make_node("Reshape", [node.input[1], shape], [scale])]
    if len(node.input) > 2 and node.input[2]:
        zero, offset, shifted = (f"{output}//{part}" for part in ("zero", "offset", "shifted"))
        nodes += [
            helper.make_node("Cast", [node.input[2]], [zero], to=TensorProto.FLOAT),
            helper.make_node("Reshape", [zero, shape], [offset]),
            helper.make_node("Sub", [real, offset], [shifted], name=f"{node.name}//shift"),
        ]
        real = shifted
    return [*nodes, helper.make_node("Mul", [real, scale], [output], name=node.name)]
