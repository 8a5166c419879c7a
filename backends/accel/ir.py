"""Images as IR and back: a `vit_accel.program` holds exactly what an image holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, ModuleOp, StringAttr, i64
from xdsl.ir import Block, Operation, Region

from vit_opt.backends.accel.assembler import digest
from vit_opt.backends.accel.image import Image, Port, Segment
from vit_opt.dialects.assets import AssetStore, array_attribute, attribute_array
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.ops import DataOp, InstructionOp, PortOp, ProgramOp


def _integer(value: int) -> IntegerAttr[Any]:
    return IntegerAttr(value, i64)


def _integers(attribute: DenseArrayBase[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in attribute.get_values())


def image_to_ir(image: Image, store: AssetStore) -> ModuleOp:
    """The module of an image; longer data go to the asset store."""
    ops: list[Operation] = []
    for kind, ports in (("input", image.inputs), ("output", image.outputs)):
        ops += [_port_op(kind, port) for port in ports]
    for segment in image.segments:
        array = np.frombuffer(segment.data, np.uint8)
        value = array_attribute(store, digest(segment.data)[7:23], array)
        ops.append(DataOp.create(properties={"address": _integer(segment.address), "value": value}))
    ops += [InstructionOp.of(inst) for inst in image.code]
    body = Region(Block(ops))
    return ModuleOp([ProgramOp(image.arch, image.arch_digest, image.dram_size, image.macs, body)])


def _port_op(kind: str, port: Port) -> PortOp:
    return PortOp.create(
        properties={
            "kind": StringAttr(kind),
            "label": StringAttr(port.name),
            "address": _integer(port.address),
            "dtype": StringAttr(port.dtype.name.lower()),
            "shape": DenseArrayBase.from_list(i64, port.shape),
            "fracs": DenseArrayBase.from_list(i64, port.fracs),
            "zp": _integer(port.zp),
            **({} if port.axis is None else {"axis": _integer(port.axis)}),
        }
    )


def _port(op: PortOp) -> Port:
    axis = op.axis
    return Port(
        op.label.data,
        op.address.value.data,
        DType[op.dtype.data.upper()],
        _integers(op.shape),
        _integers(op.fracs),
        op.zp.value.data,
        None if axis is None else axis.value.data,
    )


def program_of(module: ModuleOp) -> ProgramOp | None:
    """The program of a module, or None if it has not been lowered."""
    return next((op for op in module.ops if isinstance(op, ProgramOp)), None)


def ir_to_image(module: ModuleOp, store: AssetStore) -> Image:
    """The image of a module with a `vit_accel.program`; VitError if it has none."""
    program = program_of(module)
    if program is None:
        raise VitError("the module has no vit_accel.program; lower it for an architecture first")
    ports: dict[str, list[Port]] = {"input": [], "output": []}
    segments: list[Segment] = []
    code: list[InstructionOp] = []
    for op in program.body.block.ops:
        if isinstance(op, PortOp):
            ports[op.kind.data].append(_port(op))
        elif isinstance(op, DataOp):
            data = np.ascontiguousarray(attribute_array(store, op.value)).tobytes()
            segments.append(Segment(op.address.value.data, data))
        elif isinstance(op, InstructionOp):
            code.append(op)
        else:
            raise VitError(f"{op.name} does not belong into a vit_accel.program")
    return Image(
        program.arch.data,
        tuple(op.instruction for op in code),
        tuple(segments),
        tuple(ports["input"]),
        tuple(ports["output"]),
        program.dram.value.data,
        program.macs.value.data,
        program.digest.data,
    )
