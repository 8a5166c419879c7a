"""From a grouped graph to kernel calls with planned addresses.

`lower` is what the C text, its headers and the runner are made from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from xdsl.dialects.builtin import ArrayAttr, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation, SSAValue

from vit_opt.backends.c import movement, products, rows
from vit_opt.backends.c.attention import lower_attention, takes_places
from vit_opt.backends.c.code import Buffer, Call, Pointer
from vit_opt.backends.c.graph import Graph, build_graph
from vit_opt.backends.c.levels import PORTABLE, Level
from vit_opt.backends.c.linear_attention import lower_linear_attention
from vit_opt.backends.c.memory import Memory, Weights, size_of, type_text
from vit_opt.backends.c.packed import reads_planar
from vit_opt.backends.c.phases import split_transposed_convolutions
from vit_opt.backends.c.planner import plan
from vit_opt.backends.c.rearrange import (
    average_before_transposes,
    concatenate_before_transposes,
    dissolve_pipelines,
)
from vit_opt.backends.c.steps import Attention, Chain
from vit_opt.backends.c.tokens import LinearAttention
from vit_opt.backends.c.unsigned import use_unsigned_operands
from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops

Rule = Callable[[Memory, Any], None]

RULES: dict[type[Operation], Rule] = {
    ops.SoftmaxExpOp: rows.lower_softmax_exp,
    ops.ShiftmaxOp: rows.lower_shiftmax,
    ops.Log2SoftmaxOp: rows.lower_log2_softmax,
    ops.ShiftGeluOp: rows.lower_shift_gelu,
    ops.LayerNormOp: rows.lower_layernorm,
    ops.PotRequantOp: rows.lower_requant,
    ops.RequantOp: rows.lower_requant,
    ops.AddOp: rows.lower_binary,
    ops.MulOp: rows.lower_binary,
    ops.TransposeOp: movement.lower_transpose,
    ops.SliceOp: movement.lower_slice,
    ops.ConcatOp: movement.lower_concat,
    ops.PadOp: movement.lower_pad,
    ops.GatherOp: movement.lower_gather,
    ops.MeanOp: movement.lower_mean,
    ops.AvgPool2dOp: movement.lower_pool,
    ops.MaxPool2dOp: movement.lower_pool,
    ops.ResizeOp: movement.lower_resize,
}
"""Operations that run as calls of their own; chains and attentions cover the others."""


@dataclass
class Port:
    """An input or output of the model: the value whose codes cross the border."""

    name: str
    """Its name in the model."""
    buffer: Buffer
    value: SSAValue


@dataclass
class Lowered:
    """A model as kernel calls."""

    inputs: list[Port]
    outputs: list[Port]
    calls: list[Call]
    weights: Weights
    arena: int
    """Bytes of the caller's arena, scratch included."""
    threads: int = 1
    """Workers at most."""


def lower(
    function: FuncOp, store: AssetStore, level: Level = PORTABLE, threads: int = 1
) -> Lowered:
    """Kernel calls for a function of `vit` operations, for an instruction level.

    `threads` is the number of workers that may share a call, at most.

    Raises VitError for an operation or a combination of types without a kernel.
    """
    function = function.clone()
    dissolve_pipelines(function)
    split_transposed_convolutions(function, store)
    concatenate_before_transposes(function)
    average_before_transposes(function)
    if level.variant("vit_linear_u8") is not None and level.layout.direct:
        use_unsigned_operands(function)
    graph = build_graph(function, partial(takes_places, level))
    memory = Memory(graph, store, level, threads)
    inputs = _inputs(function, graph, memory)
    outputs = _outputs(function, graph, memory)
    for step in graph.steps:
        if isinstance(step, Attention):
            lower_attention(memory, step)
        elif isinstance(step, LinearAttention):
            lower_linear_attention(memory, step)
        elif isinstance(step, Chain):
            products.lower_chain(memory, step)
        else:
            _lower_operation(memory, step)
    _copy_outputs(memory, outputs)
    arena = plan(memory.calls)
    return Lowered(inputs, outputs, memory.calls, memory.weights, arena, threads)


def _lower_operation(memory: Memory, op: Operation) -> None:
    if isinstance(op, ops.ConstantOp | ops.QuantizeOp | ops.DequantizeOp):
        return
    if reads_planar(memory, op):
        return
    rule = RULES.get(type(op))
    if rule is None:
        raise VitError(f"{op.name} between these types has no C kernel")
    rule(memory, op)


def names_of(function: FuncOp, attribute: str, stem: str, count: int) -> list[str]:
    """Names from a function attribute such as `vit.input_names`, else `stem` and a number."""
    names = function.attributes.get(attribute)
    if isinstance(names, ArrayAttr):
        entries = cast("ArrayAttr[Attribute]", names).data
        return [entry.data for entry in entries if isinstance(entry, StringAttr)]
    return [f"{stem}{i}" for i in range(count)]


def _inputs(function: FuncOp, graph: Graph, memory: Memory) -> list[Port]:
    """Codes cross the border: the results of `vit.quantize`, or arguments that are codes.

    An argument that is quantised twice, to two formats, makes two ports of one name.
    """
    arguments = list(function.body.block.args)
    names = names_of(function, "vit.input_names", "input", len(arguments))
    ports: list[Port] = []
    for name, argument in zip(names, arguments, strict=True):
        readers = [op for op in graph.steps if isinstance(op, ops.QuantizeOp) and op.x is argument]
        values: list[SSAValue] = [op.result for op in readers] or [argument]
        for value in values:
            buffer = Buffer(f"input{len(ports)}", size_of(value), "input", len(ports))
            memory.places[value] = Pointer(buffer)
            ports.append(Port(name, buffer, value))
    return ports


def _outputs(function: FuncOp, graph: Graph, memory: Memory) -> list[Port]:
    """Operands of `vit.dequantize`, or returned codes; computed in place where possible."""
    names = names_of(function, "vit.output_names", "output", len(graph.outputs))
    ports: list[Port] = []
    for name, returned in zip(names, graph.outputs, strict=True):
        owner = graph.root(returned).owner
        value = owner.x if isinstance(owner, ops.DequantizeOp) else returned
        buffer = Buffer(f"output{len(ports)}", size_of(value), "output", len(ports))
        root = graph.root(value)
        if isinstance(root.owner, ops.VitOp) and not isinstance(
            root.owner, ops.ConstantOp | ops.QuantizeOp
        ):
            memory.outputs.setdefault(root, buffer)
        ports.append(Port(name, buffer, value))
    return ports


def _copy_outputs(memory: Memory, outputs: list[Port]) -> None:
    """Outputs that are inputs, constants or other outputs are copied."""
    for port in outputs:
        source = memory.address(port.value)
        if source.buffer is not port.buffer:
            size = port.buffer.size
            comment = f"output {port.name}: {type_text(port.value)}"
            target = Pointer(port.buffer), [1]
            movement.copy(memory, comment, 1, [size], (source, [1]), target)
