"""From a module to an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, SSAValue

from vit_opt.backends.onnx_qdq.rules import Writer, write
from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import input_names, main_function, output_names
from vit_opt.dialects.vit.ops.base import VitOp, shape_of
from vit_opt.dialects.vit.ops.pipeline import PipelineOp, YieldOp

if TYPE_CHECKING:
    import onnx

OPSET = 21
"""The first operator set whose QuantizeLinear has 16 and 4 bits."""

IR_VERSION = 10
"""The first file format that holds 4-bit tensors."""

LARGEST = 2**31 - 1
"""Bytes of a protobuf message."""


def qdq_model(module: ModuleOp, store: AssetStore) -> onnx.ModelProto:
    """A quantised module, with or without a schedule, as an ONNX model with QDQ pairs.

    Inputs and outputs are float32 under the module's names. Raises VitError for a module that is
    not quantised, and for operations and formats that ONNX has no way to say.
    """
    import onnx

    func = main_function(module)
    writer = Writer(store)
    graph = writer.graph
    for name, value in zip(input_names(func), func.body.block.args, strict=True):
        graph.unique(name)
        graph.tensors[value] = {False: name}
    for op in operations(func.body.block, graph.tensors):
        write(writer, op)
    returned = func.body.block.last_op
    assert returned is not None
    outputs: list[onnx.ValueInfoProto] = []
    for name, value in zip(output_names(func), returned.operands, strict=True):
        read = graph.read(value)
        graph.nodes.append(onnx.helper.make_node("Identity", [read], [name], name=f"{name}.out"))
        outputs.append(_port(name, value))
    inputs = [
        _port(name, value)
        for name, value in zip(input_names(func), func.body.block.args, strict=True)
    ]
    return onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "main", inputs, outputs, graph.initializers),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="vit-opt",
    )


def operations(block: Block, tensors: dict[SSAValue, dict[bool, str]]) -> Iterator[VitOp]:
    """The operations of a block in order, those of pipelines in their place.

    After the operations of a pipeline, its results stand for what the pipeline yields.
    """
    for op in block.ops:
        if isinstance(op, PipelineOp):
            inner = op.body.block
            yield from operations(inner, tensors)
            last = inner.last_op
            assert isinstance(last, YieldOp)
            for outer, value in zip(op.outputs, last.values, strict=True):
                tensors[outer] = tensors[value]
        elif isinstance(op, VitOp):
            yield op
        elif op is not block.last_op:
            raise VitError(
                f"--export-qdq: the module is not quantised: {op.name}; run quantize and pot-fold"
            )


def _port(name: str, value: SSAValue) -> onnx.ValueInfoProto:
    """An input or output: float32, static."""
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape_of(value))


def export_qdq(module: ModuleOp, store: AssetStore, path: Path) -> int:
    """Write `qdq_model` to a file, whole or not at all; returns the file's size in bytes."""
    return write_model(qdq_model(module, store), path)


def write_model(model: onnx.ModelProto, path: Path) -> int:
    """Check a model and write it, whole or not at all; returns the file's size in bytes.

    Raises VitError for a missing folder, a model that is too large for a file, or an invalid one.
    """
    import onnx

    if not path.parent.is_dir():
        raise VitError(f"{path}: the folder {path.parent} does not exist")
    if model.ByteSize() > LARGEST:
        raise VitError(
            f"--export-qdq: the model takes {model.ByteSize() / 2**30:.1f} GiB; a file of ONNX "
            f"holds at most 2"
        )
    checker: Any = onnx.checker
    try:
        checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        raise VitError(f"--export-qdq: ONNX's checker refuses the model: {reason}") from error
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(model.SerializeToString())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path.stat().st_size


__all__ = ["export_qdq", "qdq_model", "write_model"]
