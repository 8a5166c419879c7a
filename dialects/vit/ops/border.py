"""Where real numbers meet integers: constants, and the model's border.

`vit.quantize` and `vit.dequantize` run on the host; between them there is no float.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    Float32Type,
    Float64Type,
    StringAttr,
    TensorType,
)
from xdsl.ir import Attribute
from xdsl.irdl import (
    BaseAttr,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import ConstantLike, Pure
from xdsl.utils.exceptions import VerifyException

from vit_opt.dialects.assets import (
    ArrayAttribute,
    AssetAttr,
    AssetStore,
    array_attribute,
    dtype_of,
)
from vit_opt.dialects.vit.attributes import QuantizedType
from vit_opt.dialects.vit.ops.base import (
    FUNCTIONAL,
    Shape,
    VitOp,
    format_of,
    shape_of,
    tensor_type,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

DENSE: BaseAttr[DenseIntOrFPElementsAttr[Any]] = BaseAttr(DenseIntOrFPElementsAttr)

ArrayConstraint = DENSE | BaseAttr(AssetAttr)


@irdl_op_definition
class ConstantOp(VitOp):
    """Weights, biases and tables: storage integers, with the format in the result type.

        %w = vit.constant {value = dense<[[1, -2]]> : tensor<1x2xi8>} : tensor<1x2x!vit.fixed<i8, 5>>

    `value` holds the raw codes (i4 as one byte each). `master`, where present, holds the real
    values that the codes were rounded from; passes that choose another grid round from it, so that
    nothing is rounded twice.
    """

    name = "vit.constant"
    value = prop_def(ArrayConstraint)
    master = opt_prop_def(ArrayConstraint)
    result = result_def(TensorType)
    traits = traits_def(Pure(), ConstantLike())
    assembly_format = "attr-dict `:` type($result)"

    @staticmethod
    def make(
        store: AssetStore,
        key: str,
        codes: NDArray[Any],
        type_: QuantizedType,
        *,
        master: ArrayAttribute | None = None,
        inline: bool | None = None,
    ) -> ConstantOp:
        """A constant of codes (in any integer dtype that holds them) with a format.

        `key` names the weight; `inline` as in `array_attribute`.
        """
        stored = codes.astype(dtype_of(type_.storage))
        value = array_attribute(store, key, stored, inline=inline)
        if isinstance(value, DenseIntOrFPElementsAttr):
            value = DenseIntOrFPElementsAttr(TensorType(type_.storage, codes.shape), value.data)
        properties: dict[str, Attribute] = {"value": value, "node_name": StringAttr(key)}
        if master is not None:
            properties["master"] = master
        return ConstantOp.create(
            properties=properties, result_types=[TensorType(type_, codes.shape)]
        )

    def result_shapes(self) -> Sequence[Shape]:
        shape = shape_of(self.result)
        for field, attribute in (("value", self.value), ("master", self.master)):
            if attribute is None:
                continue
            held = attribute.type.get_shape()
            if held != shape:
                raise VerifyException(f"{field} has shape {list(held)}, the result {list(shape)}")
        return [shape]

    def verify_formats(self) -> None:
        if self.master is not None:
            real = self.master.type.get_element_type()
            if not isinstance(real, Float32Type | Float64Type):
                raise VerifyException(f"master has elements {real}, expected f32 or f64")
        format_, value = format_of(self.result), self.value
        held = value.type.get_element_type()
        if isinstance(value, AssetAttr):
            expected: Attribute = format_.storage
            if format_.storage.width.data == 4:
                from vit_opt.dialects.vit.attributes import storage_of

                expected = storage_of("i8")
        else:
            expected = format_.storage
            elements = len(value)
            count = 1
            for size in value.get_shape():
                count *= size
            if elements not in (1, count):
                raise VerifyException(f"value holds {elements} elements, its type {count}")
        if held != expected:
            raise VerifyException(f"value has elements {held}, but the result stores {expected}")


@irdl_op_definition
class QuantizeOp(VitOp):
    """Real input to codes: sat(floor(x * 2^frac + 1/2) + zp), on the host."""

    name = "vit.quantize"
    x = operand_def(TensorType[Float32Type])
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$x {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        return [shape_of(self.x)]

    def verify_formats(self) -> None:
        format_of(self.result)


@irdl_op_definition
class DequantizeOp(VitOp):
    """Codes to the real output (int - zp) * 2^-frac, on the host."""

    name = "vit.dequantize"
    x = operand_def(TensorType)
    result = result_def(TensorType[Float32Type])
    traits = traits_def(Pure())
    assembly_format = f"$x {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        return [shape_of(self.x)]

    def derived_formats(self) -> Sequence[Attribute | None]:
        return [Float32Type()]

    def verify_formats(self) -> None:
        element = tensor_type(self.x).get_element_type()
        if not isinstance(element, QuantizedType):
            raise VerifyException(f"x has elements {element}, expected !vit.fixed or !vit.scaled")
