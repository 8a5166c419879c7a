"""Lowering of PoT `vit` modules to accelerator programs.

A product and the elementwise operations behind it run block by block without their accumulators
leaving the chip. Every tensor has a place in DRAM; results stay on chip nevertheless until their
last reader has come, as far as there is room (`residency`). Every operation of the dialect in its
standard form has a lowering; zero points of inputs are folded into biases here. See `builder` for
how the sequential emission becomes overlapping queues, `loops` for how those become short again,
`pipelines` for what can be switched off.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue

from vit_opt.backends.accel.image import Image, Port
from vit_opt.backends.accel.lowering.attention import lower_linear_attention
from vit_opt.backends.accel.lowering.builder import Origin
from vit_opt.backends.accel.lowering.context import Lowering, node_of, where
from vit_opt.backends.accel.lowering.convolution import lower_conv2d, lower_conv_transpose2d
from vit_opt.backends.accel.lowering.elementwise import lower_rows
from vit_opt.backends.accel.lowering.linear import lower_linear
from vit_opt.backends.accel.lowering.loops import roll
from vit_opt.backends.accel.lowering.memory import CapacityError
from vit_opt.backends.accel.lowering.movement import (
    contiguous,
    lower_concat,
    lower_gather,
    lower_pad,
    lower_view,
)
from vit_opt.backends.accel.lowering.pipelines import Pipelines, parts_of
from vit_opt.backends.accel.lowering.products import lower_matmul
from vit_opt.backends.accel.lowering.reductions import (
    lower_avg_pool,
    lower_max_pool,
    lower_mean,
    lower_resize,
)
from vit_opt.backends.accel.lowering.steps import STEPS
from vit_opt.backends.accel.lowering.tensors import Tensor, value_format
from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.passes.windows import Choice

Rule = Callable[[Lowering, Any], None]

RULES: dict[type[Operation], Rule] = {
    ops.LinearOp: lower_linear,
    ops.MatmulOp: lower_matmul,
    ops.Log2MatmulOp: lower_matmul,
    ops.Conv2dOp: lower_conv2d,
    ops.ConvTranspose2dOp: lower_conv_transpose2d,
    ops.LinearAttnOp: lower_linear_attention,
    ops.MeanOp: lower_mean,
    ops.AvgPool2dOp: lower_avg_pool,
    ops.MaxPool2dOp: lower_max_pool,
    ops.ResizeOp: lower_resize,
    ops.ReshapeOp: lower_view,
    ops.TransposeOp: lower_view,
    ops.SliceOp: lower_view,
    ops.ReinterpretOp: lower_view,
    ops.ConcatOp: lower_concat,
    ops.PadOp: lower_pad,
    ops.GatherOp: lower_gather,
    **dict.fromkeys(STEPS, lower_rows),
}
"""How each operation is lowered."""


def lower_accel(
    module: ModuleOp,
    assets: AssetStore,
    arch: AccelTarget,
    pipelines: Pipelines | None = None,
    choices: list[Choice] | None = None,
) -> Image:
    """The image that runs the function `main` of a PoT module on `arch`.

    `pipelines` switches pipelines off for comparison; by default all are used. `choices`, if given,
    takes in how products and convolutions were cut.
    VitError for modules with scales that are not powers of two, operations in conformance modes,
    and operations that do not fit the architecture's memories.
    """
    function = _main(module)
    body = function.body.block

    def lowered(pairs: bool) -> Image:
        """The image; `pairs` of linear products may keep accumulators on chip."""
        first = Lowering(body, assets, arch, None, pipelines, pairs)
        trace = _emit(first, function).lowering.builder.trace
        lowering = Lowering(body, assets, arch, trace, pipelines, pairs)
        result = _emit(lowering, function)
        if choices is not None:
            choices.extend(lowering.choices)
        return result.image()

    with _without_collection():
        try:
            return lowered(pairs=True)
        except CapacityError:
            # Their room is reckoned, but where buffers lie decides in the end.
            return lowered(pairs=False)


@contextmanager
def _without_collection() -> Generator[None]:
    """Without the search for circles of garbage: a program is many small objects that all stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def part_names(module: ModuleOp, assets: AssetStore, arch: AccelTarget) -> dict[str, str]:
    """The part of the model (`pipelines.parts_of`) by the names that an image's origins have."""
    lowering = Lowering(_main(module).body.block, assets, arch)
    parts = parts_of(lowering.order, lowering.source)
    return {node_of(op): part for op, part in parts.items()}


@dataclass(frozen=True)
class _Result:
    """A function that has been lowered."""

    lowering: Lowering
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def image(self) -> Image:
        """The image."""
        builder, arch = self.lowering.builder, self.lowering.arch
        peak = builder.arenas[Space.DRAM].peak
        code, origins = roll(*builder.program())
        return Image(
            arch.name,
            code,
            tuple(builder.segments),
            self.inputs,
            self.outputs,
            -(-peak // 64) * 64,
            builder.macs,
            arch.digest(),
            origins,
            builder.saved,
        )


def _emit(lowering: Lowering, function: FuncOp) -> _Result:
    """Lower all operations in order."""
    inputs = _inputs(lowering, function)
    outputs: tuple[Port, ...] = ()
    layer = -1
    for position, op in enumerate(lowering.order):
        lowering.now = position
        if isinstance(op, ReturnOp):
            lowering.builder.origin = Origin("outputs", position)
            outputs = _outputs(lowering, function, op)
        elif op in lowering.done:
            lowering.drain(op)
        elif not isinstance(op, ops.ConstantOp | ops.QuantizeOp | ops.DequantizeOp):
            lowering.builder.origin = lowering.origin_of(op)
            if lowering.layers.of[op] != layer:
                _part(lowering)
            layer = lowering.layers.of[op]
            _lower(lowering, op)
            lowering.drain(op)
            lowering.retire(position)
    return _Result(lowering, inputs, outputs)


def _part(lowering: Lowering) -> None:
    """Without the pipeline between layers: store all results and wait, before a layer begins."""
    builder, pipelines = lowering.builder, lowering.pipelines
    if not pipelines.inter:
        if not pipelines.intra:
            builder.barrier()
        builder.spill()
        builder.barrier()


def _main(module: ModuleOp) -> FuncOp:
    for op in module.ops:
        if isinstance(op, FuncOp) and op.sym_name.data == "main":
            return op
    raise VitError("the module has no function @main")


def _lower(lowering: Lowering, op: Operation) -> None:
    rule = RULES.get(type(op))
    if isinstance(op, ops.RequantOp):
        raise VitError(
            f"{where(op)}: the accelerator has shifters and no dyadic multiplier; run pot-fold first"
        )
    if rule is None:
        raise VitError(f"{where(op)} cannot be lowered to the accelerator")
    try:
        rule(lowering, op)
    except VitError as error:
        message = str(error)
        kind = CapacityError if isinstance(error, CapacityError) else VitError
        raise kind(message if op.name in message else f"{where(op)}: {message}") from error


def _names(function: FuncOp, key: str, count: int, default: str) -> list[str]:
    """Names in a function attribute, or numbered ones."""
    attribute = function.attributes.get(key)
    if isinstance(attribute, ArrayAttr):
        names = [cast("StringAttr", entry).data for entry in cast("ArrayAttr[Any]", attribute)]
        if len(names) == count:
            return names
    return [f"{default}{index}" for index in range(count)]


def _port(name: str, tensor: Tensor) -> Port:
    fracs = tensor.format.channel_fracs().reshape(-1)
    return Port(
        name,
        tensor.region.start + tensor.offset,
        tensor.dtype,
        tensor.shape,
        tuple(int(frac) for frac in fracs),
        tensor.format.zero_point,
        tensor.format.channel_axis,
    )


def _inputs(lowering: Lowering, function: FuncOp) -> tuple[Port, ...]:
    """Place the inputs in DRAM: an argument itself, or what `vit.quantize` makes of it."""
    arguments = function.body.block.args
    names = _names(function, "vit.input_names", len(arguments), "arg")
    ports: list[Port] = []
    for name, argument in zip(names, arguments, strict=True):
        users = lowering.users.get(argument, [])
        quantizers = [op for op in users if isinstance(op, ops.QuantizeOp)]
        if not quantizers:
            ports.append(_port(name, lowering.define(argument)))
            continue
        first = lowering.define(quantizers[0].result)
        for other in quantizers[1:]:
            if other.result.type != quantizers[0].result.type:
                raise VitError(f"input '{name}' is quantised to two formats; use one")
            lowering.bind(other.result, first)
        ports.append(_port(name, first))
    return tuple(ports)


def _outputs(lowering: Lowering, function: FuncOp, op: ReturnOp) -> tuple[Port, ...]:
    """The results in DRAM, row-major; `vit.dequantize` runs on the host."""
    names = _names(function, "vit.output_names", len(op.arguments), "result")
    ports: list[Port] = []
    for name, value in zip(names, op.arguments, strict=True):
        tensor = contiguous(lowering, lowering.tensor(_codes(lowering, value)))
        lowering.builder.settle(tensor.region)
        ports.append(_port(name, tensor))
    return tuple(ports)


def _codes(lowering: Lowering, value: SSAValue) -> SSAValue:
    """The integers behind an output."""
    value = lowering.source(value)
    if isinstance(value.owner, ops.DequantizeOp):
        return lowering.source(value.owner.x)
    value_format(value)
    return value


__all__ = ["lower_accel", "part_names"]
