"""Exact movement of integers: no value changes, only its place.

These are operations of this dialect rather than of `tensor`, because moving a dimension moves the
channel axis of a per-channel format with it, which is part of the element type.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from xdsl.dialects.builtin import I64, IntegerAttr, TensorType
from xdsl.ir import Attribute
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.pattern_rewriter import RewritePattern
from xdsl.traits import HasCanonicalizationPatternsTrait, Pure
from xdsl.utils.exceptions import VerifyException

from vit_opt.dialects.vit.attributes import FixedType, QuantizedType, ScaledType
from vit_opt.dialects.vit.ops.base import (
    FUNCTIONAL,
    I64Array,
    Shape,
    VitOp,
    format_of,
    integers,
    shape_of,
    tensor_type,
)


class MovementCanonicalization(HasCanonicalizationPatternsTrait):
    """Drop movements that move nothing and merge consecutive ones."""

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from vit_opt.dialects.vit import canonicalization as patterns

        return (
            patterns.DropIdentityMovement(),
            patterns.MergeReshapes(),
            patterns.MergeTransposes(),
            patterns.TransposeAsReshape(),
            patterns.FlattenTransposedImage(),
        )


def selected_channels(element: Attribute, indices: Sequence[int]) -> Attribute:
    """A per-channel format restricted to some of its channels."""
    chosen = list(indices)
    if isinstance(element, FixedType):
        fracs = element.channel_fracs()[chosen]
        return FixedType(element.storage, fracs, element.zero_point, element.channel_axis)
    if isinstance(element, ScaledType):
        scales = element.channel_scales()[chosen]
        return ScaledType(element.storage, scales, element.zero_point, element.channel_axis)
    return element


def reshaped_format(source: TensorType[Attribute], shape: Shape) -> Attribute | None:
    """The element type after a reshape: a channel axis moves to where its dimension went.

    None if the reshape breaks the dimension up.
    """
    element = source.get_element_type()
    if not isinstance(element, QuantizedType) or element.channel_axis is None:
        return element
    before, axis = source.get_shape(), element.channel_axis
    for index, size in enumerate(shape):
        if prod(shape[:index]) == prod(before[:axis]) and size == before[axis]:
            return element.with_axis(index)
    return None


@irdl_op_definition
class ReshapeOp(VitOp):
    """The same elements in row-major order under another shape."""

    name = "vit.reshape"
    x = operand_def(TensorType)
    result = result_def(TensorType)
    traits = traits_def(Pure(), MovementCanonicalization())
    assembly_format = f"$x {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        x, y = shape_of(self.x), shape_of(self.result)
        if prod(x) != prod(y):
            raise VerifyException(f"{list(x)} has {prod(x)} elements, {list(y)} has {prod(y)}")
        return [y]

    def derived_formats(self) -> Sequence[Attribute | None]:
        shape = shape_of(self.result)
        element = reshaped_format(tensor_type(self.x), shape)
        if element is None:
            raise VerifyException(
                f"reshape {list(shape_of(self.x))} to {list(shape)} breaks up dimension "
                f"{format_of(self.x).channel_axis}, along which the scale varies"
            )
        return [element]


@irdl_op_definition
class TransposeOp(VitOp):
    """Dimension i of the result is dimension permutation[i] of the operand."""

    name = "vit.transpose"
    x = operand_def(TensorType)
    permutation = prop_def(I64Array)
    result = result_def(TensorType)
    traits = traits_def(Pure(), MovementCanonicalization())
    assembly_format = f"$x {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        x, permutation = shape_of(self.x), integers(self.permutation)
        if sorted(permutation) != list(range(len(x))):
            raise VerifyException(
                f"permutation {list(permutation)} does not order the {len(x)} dimensions of x"
            )
        return [tuple(x[i] for i in permutation)]

    def derived_formats(self) -> Sequence[Attribute | None]:
        element = tensor_type(self.x).get_element_type()
        if isinstance(element, QuantizedType) and element.channel_axis is not None:
            return [element.with_axis(integers(self.permutation).index(element.channel_axis))]
        return [element]


@irdl_op_definition
class SliceOp(VitOp):
    """result[i] = x[offsets + i * strides], `sizes` elements along each dimension."""

    name = "vit.slice"
    x = operand_def(TensorType)
    offsets = prop_def(I64Array)
    sizes = prop_def(I64Array)
    strides = prop_def(I64Array)
    result = result_def(TensorType)
    traits = traits_def(Pure(), MovementCanonicalization())
    assembly_format = f"$x {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        x = shape_of(self.x)
        offsets, sizes, strides = map(integers, (self.offsets, self.sizes, self.strides))
        if not len(offsets) == len(sizes) == len(strides) == len(x):
            raise VerifyException(f"offsets, sizes and strides must have {len(x)} entries each")
        for axis, (offset, size, stride) in enumerate(zip(offsets, sizes, strides, strict=True)):
            last = offset + (size - 1) * stride
            if size < 1 or stride < 1 or offset < 0 or last >= x[axis]:
                raise VerifyException(
                    f"dimension {axis} of size {x[axis]} has no {size} elements from {offset} by {stride}"
                )
        return [sizes]

    def derived_formats(self) -> Sequence[Attribute | None]:
        element = tensor_type(self.x).get_element_type()
        if isinstance(element, QuantizedType) and element.channel_axis is not None:
            axis = element.channel_axis
            offset, size, stride = (
                integers(f)[axis] for f in (self.offsets, self.sizes, self.strides)
            )
            return [selected_channels(element, range(offset, offset + size * stride, stride))]
        return [element]


@irdl_op_definition
class ConcatOp(VitOp):
    """Operands of one format, one after the other along `axis`."""

    name = "vit.concat"
    xs = var_operand_def(TensorType)
    axis = prop_def(IntegerAttr[I64])
    result = result_def(TensorType)
    traits = traits_def(Pure(), MovementCanonicalization())
    assembly_format = f"$xs {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        shapes, axis = [shape_of(x) for x in self.xs], self.axis.value.data
        if not shapes or not 0 <= axis < len(shapes[0]):
            raise VerifyException(f"axis {axis} is not a dimension of the operands")
        first = shapes[0]
        for shape in shapes[1:]:
            if len(shape) != len(first) or any(
                a != b for i, (a, b) in enumerate(zip(shape, first, strict=True)) if i != axis
            ):
                raise VerifyException(
                    f"operands {list(first)} and {list(shape)} differ beside axis {axis}"
                )
        return [(*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :])]

    def derived_formats(self) -> Sequence[Attribute | None]:
        elements = [tensor_type(x).get_element_type() for x in self.xs]
        for element in elements:
            if isinstance(element, QuantizedType) and element.channel_axis == self.axis.value.data:
                raise VerifyException(
                    f"cannot join along axis {self.axis.value.data}, where scales vary"
                )
            if element != elements[0]:
                raise VerifyException(
                    f"operands have formats {elements[0]} and {element}; requantise to one first"
                )
        return elements[:1]


@irdl_op_definition
class PadOp(VitOp):
    """Real zeros (the zero point) before (`low`) and after (`high`) each dimension."""

    name = "vit.pad"
    x = operand_def(TensorType)
    low = prop_def(I64Array)
    high = prop_def(I64Array)
    result = result_def(TensorType)
    traits = traits_def(Pure(), MovementCanonicalization())
    assembly_format = f"$x {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        x, low, high = shape_of(self.x), integers(self.low), integers(self.high)
        if not len(low) == len(high) == len(x) or any(v < 0 for v in (*low, *high)):
            raise VerifyException(f"low and high must be {len(x)} non-negative sizes each")
        return [tuple(a + s + b for a, s, b in zip(low, x, high, strict=True))]

    def derived_formats(self) -> Sequence[Attribute | None]:
        element = format_of(self.x)
        axis = element.channel_axis
        if axis is not None and (integers(self.low)[axis] or integers(self.high)[axis]):
            raise VerifyException(f"cannot pad dimension {axis}, along which the scale varies")
        return [element]


@irdl_op_definition
class GatherOp(VitOp):
    """Slices of x at constant `indices` along `axis`, in their order."""

    name = "vit.gather"
    x = operand_def(TensorType)
    axis = prop_def(IntegerAttr[I64])
    indices = prop_def(I64Array)
    result = result_def(TensorType)
    traits = traits_def(Pure(), MovementCanonicalization())
    assembly_format = f"$x {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        x, axis, indices = shape_of(self.x), self.axis.value.data, integers(self.indices)
        if not 0 <= axis < len(x):
            raise VerifyException(f"axis {axis} is not a dimension of {list(x)}")
        if not indices or not all(0 <= i < x[axis] for i in indices):
            raise VerifyException(f"indices {list(indices)} leave dimension {axis} of {list(x)}")
        return [(*x[:axis], len(indices), *x[axis + 1 :])]

    def derived_formats(self) -> Sequence[Attribute | None]:
        element = tensor_type(self.x).get_element_type()
        if isinstance(element, QuantizedType) and element.channel_axis == self.axis.value.data:
            return [selected_channels(element, integers(self.indices))]
        return [element]
