"""Constants and data movement: reshapes, slices, concatenation, padding, resizing.

Target shapes are not operands here (ONNX passes them as tensors): they are in the result type.
"""

from __future__ import annotations

from math import prod
from typing import Self, cast

from xdsl.dialects.builtin import DenseIntOrFPElementsAttr
from xdsl.irdl import (
    BaseAttr,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import ConstantLike

from vit_opt.dialects.assets import ArrayAttribute, AssetAttr
from vit_opt.dialects.onnx.base import (
    TENSOR,
    IntsAttribute,
    OnnxOp,
    broadcast,
    dims,
    element_of,
    int_prop,
    integer,
    integers,
    ints_prop,
    normal_axis,
    opt_real_prop,
    parse_attributes,
    print_attributes,
    require,
    shape_of,
    str_prop,
)
from vit_opt.dialects.onnx.contraction import expect_shape


@irdl_op_definition
class Constant(OnnxOp):
    """A weight: `onnx.Constant #vit.asset<"key", "digest", type>` or `onnx.Constant dense<..>`."""

    name = "onnx.Constant"
    value = prop_def(BaseAttr(AssetAttr) | BaseAttr(DenseIntOrFPElementsAttr))
    y = result_def(TENSOR)

    traits = traits_def(ConstantLike())

    @classmethod
    def of(cls, value: ArrayAttribute, *, node_name: str | None = None) -> Self:
        """The constant of an array attribute; its result type is the attribute's type."""
        return cls.make([], [value.type], node_name=node_name, value=value)

    def verify_(self) -> None:
        type_ = self.value.type
        require(type_ == self.y.type, f"value has type {type_}, the result {self.y.type}")
        if isinstance(self.value, DenseIntOrFPElementsAttr):
            count, given = prod(type_.get_shape()), len(self.value)
            require(given in (1, count), f"value holds {given} elements, its type {count}")

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_attribute(self.value)
        print_attributes(printer, self.attributes)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        value = parser.parse_attribute()
        attributes = parse_attributes(parser)
        if not isinstance(value, AssetAttr | DenseIntOrFPElementsAttr):
            parser.raise_error(f"value must be dense or #vit.asset, got {value}")
        constant = cls.of(cast("ArrayAttribute", value))
        constant.attributes.update(attributes)
        return constant


class SameElements(OnnxOp):
    """The elements in their order under another shape, which is the result type."""

    x = operand_def(TENSOR)
    y = result_def(TENSOR)

    def verify_(self) -> None:
        x, y = shape_of(self.x), shape_of(self.y)
        require(
            prod(x) == prod(y),
            f"operand shape {dims(x)} has {prod(x)} elements, result shape {dims(y)} has {prod(y)}",
        )


@irdl_op_definition
class Reshape(SameElements):
    """The elements under the shape of the result."""

    name = "onnx.Reshape"


@irdl_op_definition
class Flatten(SameElements):
    """Two dimensions: those before the axis, and those from it on."""

    name = "onnx.Flatten"


@irdl_op_definition
class Squeeze(SameElements):
    """Drops dimensions of size one."""

    name = "onnx.Squeeze"


@irdl_op_definition
class Unsqueeze(SameElements):
    """Inserts dimensions of size one."""

    name = "onnx.Unsqueeze"


@irdl_op_definition
class Transpose(OnnxOp):
    """Dimension i of the result is dimension perm[i] of the operand."""

    name = "onnx.Transpose"
    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    perm: IntsAttribute = ints_prop()

    def verify_(self) -> None:
        x, perm = shape_of(self.x), integers(self.perm)
        require(
            sorted(perm) == list(range(len(x))),
            f"perm {dims(perm)} is no permutation of the {len(x)} dimensions of x",
        )
        expect_shape(shape_of(self.y), [x[axis] for axis in perm])


@irdl_op_definition
class Expand(OnnxOp):
    """x broadcast to the shape of the result."""

    name = "onnx.Expand"
    x = operand_def(TENSOR)
    y = result_def(TENSOR)

    def verify_(self) -> None:
        expect_shape(broadcast([shape_of(self.x), shape_of(self.y)]), shape_of(self.y))


@irdl_op_definition
class Tile(OnnxOp):
    """x repeated `repeats[i]` times along dimension i."""

    name = "onnx.Tile"
    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    repeats = ints_prop()

    def verify_(self) -> None:
        x, repeats = shape_of(self.x), integers(self.repeats)
        require(len(repeats) == len(x), f"repeats {dims(repeats)} does not fit shape {dims(x)}")
        expect_shape(shape_of(self.y), [a * b for a, b in zip(x, repeats, strict=True)])


@irdl_op_definition
class Concat(OnnxOp):
    """Operands one after the other along an axis."""

    name = "onnx.Concat"
    inputs = var_operand_def(TENSOR)
    y = result_def(TENSOR)
    axis = int_prop(0)

    def verify_(self) -> None:
        shapes = [shape_of(value) for value in self.inputs]
        require(bool(shapes), "Concat needs at least one operand")
        axis = normal_axis(integer(self.axis), len(shapes[0]))
        for shape in shapes[1:]:
            require(
                shape[:axis] + shape[axis + 1 :] == shapes[0][:axis] + shapes[0][axis + 1 :],
                f"operand shapes {dims(shapes[0])} and {dims(shape)} differ beside axis {axis}",
            )
        expected = list(shapes[0])
        expected[axis] = sum(shape[axis] for shape in shapes)
        expect_shape(shape_of(self.y), expected)


@irdl_op_definition
class Split(OnnxOp):
    """The inverse of Concat: the sizes of the parts are those of the result types."""

    name = "onnx.Split"
    x = operand_def(TENSOR)
    parts = var_result_def(TENSOR)
    axis = int_prop(0)

    def verify_(self) -> None:
        x = shape_of(self.x)
        axis = normal_axis(integer(self.axis), len(x))
        total = 0
        for part in self.parts:
            got = shape_of(part)
            total += got[axis] if len(got) > axis else 0
            expect_shape(got[:axis] + got[axis + 1 :], x[:axis] + x[axis + 1 :])
        require(total == x[axis], f"parts have {total} along axis {axis}, x has {x[axis]}")


@irdl_op_definition
class Slice(OnnxOp):
    """x[start:end:step] along each of `axes`, with the meaning of ONNX (and of Python).

    Starts and ends are counted from the front and lie within the dimension; with a negative step
    an end of -size - 1 stands for "down to and including element 0".
    """

    name = "onnx.Slice"
    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    starts = ints_prop()
    ends = ints_prop()
    axes = ints_prop()
    steps = ints_prop()

    def slices(self) -> tuple[slice, ...]:
        """One Python slice per dimension of x."""
        x = shape_of(self.x)
        result = [slice(None)] * len(x)
        entries = (self.axes, self.starts, self.ends, self.steps)
        for axis, start, end, step in zip(*map(integers, entries), strict=True):
            stop = None if step < 0 and end < -x[axis] else end
            result[axis] = slice(start, stop, step)
        return tuple(result)

    def verify_(self) -> None:
        x = shape_of(self.x)
        lengths = {len(integers(a)) for a in (self.axes, self.starts, self.ends, self.steps)}
        require(len(lengths) == 1, "axes, starts, ends and steps differ in length")
        for axis in integers(self.axes):
            normal_axis(axis, len(x), "axes entry")
        require(0 not in integers(self.steps), "steps contains 0")
        sizes = [len(range(*s.indices(n))) for s, n in zip(self.slices(), x, strict=True)]
        expect_shape(shape_of(self.y), sizes)


@irdl_op_definition
class Gather(OnnxOp):
    """numpy.take: the slices of x along `axis` that the integer indices name."""

    name = "onnx.Gather"
    x = operand_def(TENSOR)
    indices = operand_def(TENSOR)
    y = result_def(TENSOR)
    axis = int_prop(0)

    def verify_(self) -> None:
        x, indices = shape_of(self.x), shape_of(self.indices)
        axis = normal_axis(integer(self.axis), len(x))
        expect_shape(shape_of(self.y), x[:axis] + indices + x[axis + 1 :])


@irdl_op_definition
class Pad(OnnxOp):
    """`pads` = all starts, then all ends; constant mode fills with `value`."""

    name = "onnx.Pad"
    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    pads = ints_prop()
    mode = str_prop("constant")
    value = opt_real_prop()

    def verify_(self) -> None:
        x, pads = shape_of(self.x), integers(self.pads)
        require(
            len(pads) == 2 * len(x) and min(pads, default=0) >= 0,
            f"pads {dims(pads)} does not fit shape {dims(x)}",
        )
        require(
            self.mode.data in ("constant", "reflect", "edge"),
            f'mode "{self.mode.data}" is not constant, reflect or edge',
        )
        expected = [n + pads[d] + pads[d + len(x)] for d, n in enumerate(x)]
        expect_shape(shape_of(self.y), expected)


@irdl_op_definition
class Resize(OnnxOp):
    """2-D resampling of x[N, C, H, W] to the size of the result; `mode` nearest or linear."""

    name = "onnx.Resize"
    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    mode = str_prop("nearest")
    coordinates = str_prop("half_pixel")
    rounding = str_prop("round_prefer_floor")
    scale_h = opt_real_prop()
    scale_w = opt_real_prop()

    def verify_(self) -> None:
        x, y = shape_of(self.x), shape_of(self.y)
        require(len(x) == 4, f"x has shape {dims(x)}, expected [N, C, H, W]")
        require(x[:2] == y[:2], f"result shape {dims(y)} changes batch or channels of {dims(x)}")
        require(
            self.mode.data in ("nearest", "linear"),
            f'mode "{self.mode.data}" is not nearest or linear',
        )


@irdl_op_definition
class DepthToSpace(OnnxOp):
    """Blocks of channels to blocks of pixels; `mode` DCR or CRD."""

    name = "onnx.DepthToSpace"
    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    blocksize = int_prop(1)
    mode = str_prop("DCR")

    def verify_(self) -> None:
        x, block = shape_of(self.x), integer(self.blocksize)
        require(
            len(x) == 4 and block > 0 and x[1] % (block * block) == 0,
            f"blocksize {block} does not fit shape {dims(x)}",
        )
        expect_shape(shape_of(self.y), (x[0], x[1] // block**2, x[2] * block, x[3] * block))


@irdl_op_definition
class SpaceToDepth(OnnxOp):
    """Blocks of pixels to channels, the inverse of DepthToSpace in DCR mode."""

    name = "onnx.SpaceToDepth"
    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    blocksize = int_prop(1)

    def verify_(self) -> None:
        x, block = shape_of(self.x), integer(self.blocksize)
        require(
            len(x) == 4 and block > 0 and x[2] % block == 0 and x[3] % block == 0,
            f"blocksize {block} does not fit shape {dims(x)}",
        )
        expect_shape(shape_of(self.y), (x[0], x[1] * block**2, x[2] // block, x[3] // block))


class QuantizationOp(OnnxOp):
    """Shared by QuantizeLinear and DequantizeLinear: scale and zero point, scalar or per axis."""

    inputs = var_operand_def(TENSOR)
    y = result_def(TENSOR)
    axis = int_prop(1)

    def verify_(self) -> None:
        count = len(self.inputs)
        require(count in (2, 3), f"expected x, scale and optionally a zero point, got {count}")
        x, scale = shape_of(self.inputs[0]), shape_of(self.inputs[1])
        expect_shape(shape_of(self.y), x)
        if scale not in ((), (1,)):
            axis = normal_axis(integer(self.axis), len(x))
            require(
                scale == (x[axis],),
                f"scale has shape {dims(scale)}, but dimension {axis} of x has {x[axis]}",
            )
        if count == 3:
            zero = shape_of(self.inputs[2])
            require(
                zero == scale or prod(zero) == prod(scale) == 1,
                f"zero point has shape {dims(zero)}, scale {dims(scale)}",
            )
            code = self.y if isinstance(self, QuantizeLinear) else self.inputs[0]
            require(
                element_of(self.inputs[2]) == element_of(code),
                f"zero point has element type {element_of(self.inputs[2])}, the codes "
                f"{element_of(code)}",
            )


@irdl_op_definition
class QuantizeLinear(QuantizationOp):
    """saturate(round_half_even(x / scale) + zero_point)."""

    name = "onnx.QuantizeLinear"


@irdl_op_definition
class DequantizeLinear(QuantizationOp):
    """(x - zero_point) * scale; `scale` is the second operand, the zero point the third."""

    name = "onnx.DequantizeLinear"
