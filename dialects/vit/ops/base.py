"""What all `vit` operations share: shapes and formats of results follow from the operands.

An operation says, in one place, which result shapes its operands imply (`result_shapes`) and which
result formats (`derived_formats`; None where the format is a free choice, as after a
requantisation). The verifier compares, `pot-fold` retypes a graph with the same two methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self, TypeAlias, cast

from xdsl.dialects.builtin import (
    I64,
    DenseArrayBase,
    IntegerAttr,
    StringAttr,
    TensorType,
    UnitAttr,
    i64,
)
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.irdl import IRDLOperation, ParsePropInAttrDict, opt_prop_def
from xdsl.rewriter import Rewriter
from xdsl.utils.exceptions import VerifyException

from vit_opt.dialects.vit.attributes import (
    FixedType,
    QuantizedType,
    ScaledType,
    storage_of,
)

Shape: TypeAlias = tuple[int, ...]
I64Array: TypeAlias = DenseArrayBase[I64]

ROUNDINGS = ("rhu", "rhe", "floor")
"""Round half up, round half to even, floor (an arithmetic shift)."""

RHU = StringAttr("rhu")

FUNCTIONAL = "attr-dict `:` functional-type(operands, results)"


def tensor_type(value: SSAValue) -> TensorType[Attribute]:
    """The tensor type of a value; raises VerifyException for anything else."""
    if not isinstance(value.type, TensorType):
        raise VerifyException(f"expected a tensor, got {value.type}")
    return cast("TensorType[Attribute]", value.type)


def shape_of(value: SSAValue) -> Shape:
    """The static shape of a tensor value; raises VerifyException for a dynamic or empty one."""
    shape = tensor_type(value).get_shape()
    if any(size < 1 for size in shape):
        raise VerifyException(f"expected a static shape without empty dimensions, got {value.type}")
    return shape


def format_of(value: SSAValue) -> QuantizedType:
    """The number format of a tensor value; raises VerifyException if it has none."""
    element = tensor_type(value).get_element_type()
    if not isinstance(element, QuantizedType):
        raise VerifyException(f"expected elements of !vit.fixed or !vit.scaled, got {element}")
    return element


def is_fixed(*formats: QuantizedType) -> bool:
    """Whether all formats have power-of-two scales."""
    return all(isinstance(f, FixedType) for f in formats)


def require_per_tensor(format_: QuantizedType, what: str) -> None:
    """Reject a scale that varies along a dimension that is summed over."""
    if format_.is_per_channel:
        raise VerifyException(
            f"{what} has a scale per channel along axis {format_.channel_axis}, which is reduced; "
            f"use one scale for the tensor"
        )


def require_storage(format_: QuantizedType, what: str, *names: str) -> None:
    """Reject a storage type that an operand may not have."""
    if format_.storage not in {storage_of(name) for name in names}:
        raise VerifyException(
            f"{what} has storage {format_.storage}, expected {' or '.join(names)}"
        )


FACTORS = ("i4", "i8", "ui8", "i16", "ui16")
"""Storage types that a product may take; wider ones are accumulators."""


def check_power_ratio(source: QuantizedType, target: QuantizedType) -> None:
    """Scales of source and result must differ by powers of two (and vary along one axis)."""
    import numpy as np

    if (
        source.is_per_channel
        and target.is_per_channel
        and source.channel_axis != target.channel_axis
    ):
        raise VerifyException(
            f"operand varies along axis {source.channel_axis}, result along {target.channel_axis}"
        )
    mantissa, _ = np.frexp(source.channel_scales() / target.channel_scales())
    if not np.all(mantissa == 0.5):
        raise VerifyException(
            f"scales of {source} and {target} do not differ by a power of two; requantise with "
            f"vit.requant"
        )


def require_symmetric(format_: QuantizedType, what: str) -> None:
    """Reject a zero point where the arithmetic has none."""
    if format_.zero_point:
        raise VerifyException(f"{what} has zp {format_.zero_point}, expected 0")


def product_format(
    a: QuantizedType, b: QuantizedType, axis: int | None, repeat: int = 1
) -> QuantizedType:
    """The int32 accumulator format of a product: scales multiply, fractional bits add.

    `axis` is the result dimension along which either factor's scale varies. Each channel scale of
    `a` serves `repeat` consecutive channels of the result (depthwise convolutions).
    """
    import numpy as np

    if isinstance(a, FixedType) and isinstance(b, FixedType):
        a_fracs = np.repeat(a.channel_fracs(), repeat) if a.is_per_channel else a.channel_fracs()
        return FixedType("i32", a_fracs + b.channel_fracs(), axis=axis)
    a_scales = np.repeat(a.channel_scales(), repeat) if a.is_per_channel else a.channel_scales()
    return ScaledType("i32", a_scales * b.channel_scales(), axis=axis)


def scaled_by_power(format_: QuantizedType, exponent: int) -> QuantizedType:
    """The format of the same integers when the real value is multiplied by 2^exponent."""
    zp, axis = format_.zero_point, format_.channel_axis
    if isinstance(format_, FixedType):
        return FixedType(format_.storage, format_.channel_fracs() - exponent, zp, axis)
    return ScaledType(format_.storage, format_.channel_scales() * 2.0**exponent, zp, axis)


def i64_array(values: Sequence[int]) -> I64Array:
    """A dense array attribute of integers."""
    return DenseArrayBase.from_list(i64, list(values))


Plain: TypeAlias = "int | bool | str | Sequence[int] | Attribute | None"
"""A Python value that `plain_attribute` turns into a property."""


def plain_attribute(value: Plain) -> Attribute | None:
    """The attribute for a Python value: i64, unit (True), string or a dense array of i64."""
    match value:
        case None | False:
            return None
        case True:
            return UnitAttr()
        case int():
            return IntegerAttr(value, i64)
        case str():
            return StringAttr(value)
        case Attribute():
            return value
        case _:
            return i64_array(value)


def integers(values: I64Array) -> tuple[int, ...]:
    """The entries of a dense array attribute of integers."""
    return values.get_values()


class VitOp(IRDLOperation, ABC):
    """Base of the operations of the dialect."""

    irdl_options = (ParsePropInAttrDict(),)

    node_name = opt_prop_def(StringAttr)
    """The node of the imported model that this came from, for messages and reports."""

    @classmethod
    def of(
        cls,
        *operands: SSAValue | None,
        type: Attribute | None = None,
        shape: Sequence[int] = (),
        node_name: StringAttr | None = None,
        **properties: Plain,
    ) -> Self:
        """Build the operation and infer its result types.

        `type` is the element type of results whose format is free, `shape` the result's shape where
        operands leave it open (reshape, resize). None among operands and properties is left out.
        Raises VerifyException where operands do not fit.
        """
        given = {key: plain_attribute(value) for key, value in properties.items()}
        present = {key: value for key, value in given.items() if value is not None}
        if node_name is not None:
            present["node_name"] = node_name
        results = len(cls.get_irdl_definition().results)
        op = cls.create(
            operands=[operand for operand in operands if operand is not None],
            properties=present,
            result_types=[TensorType(type or i64, shape)] * results,
        )
        op.infer(type)
        return op

    def infer(self, chosen: Attribute | None = None) -> None:
        """Set the result types that the operands imply; `chosen` is the format where it is free.

        Without `chosen` a free result keeps its format.
        """
        shapes = self.result_shapes()
        if chosen is not None:
            self._retype([TensorType(chosen, shape) for shape in shapes])
        derived = self.derived_formats()
        self._retype(
            [
                TensorType(format_ or tensor_type(result).get_element_type(), shape)
                for format_, result, shape in zip(derived, self.results, shapes, strict=True)
            ]
        )

    def _retype(self, types: Sequence[Attribute]) -> None:
        for result, type_ in zip(self.results, types, strict=True):
            if result.type != type_:
                Rewriter.replace_value_with_new_type(result, type_)

    @abstractmethod
    def result_shapes(self) -> Sequence[Shape]:
        """The shapes of the results; raises VerifyException where operands do not fit."""

    def derived_formats(self) -> Sequence[Attribute | None]:
        """The element types that the operands imply for the results, None where free."""
        return [None] * len(self.results)

    def verify_formats(self) -> None:
        """Check what the formats of operands and results must satisfy beyond `derived_formats`."""

    def verify_(self) -> None:
        rounding = self.properties.get("rounding")
        if isinstance(rounding, StringAttr) and rounding.data not in ROUNDINGS:
            raise VerifyException(
                f"rounding '{rounding.data}' is not one of {', '.join(ROUNDINGS)}"
            )
        for operand in self.operands:
            if isinstance(tensor_type(operand).get_element_type(), QuantizedType):
                check_channels(operand)
        for result, shape in zip(self.results, self.result_shapes(), strict=True):
            if shape_of(result) != tuple(shape):
                raise VerifyException(
                    f"result has shape {list(shape_of(result))}, but the operands imply "
                    f"{list(shape)}"
                )
        self.verify_formats()
        for result, derived in zip(self.results, self.derived_formats(), strict=True):
            element = tensor_type(result).get_element_type()
            if derived is not None and derived != element:
                raise VerifyException(
                    f"result has format {element}, but the operands imply {derived}"
                )
            if isinstance(element, QuantizedType):
                check_channels(result)


def label_of(op: Operation) -> str:
    """An operation in a message: its name, and the node it came from where it says so."""
    node = op.properties.get("node_name", op.attributes.get("node_name"))
    return f'{op.name} "{node.data}"' if isinstance(node, StringAttr) else op.name


def check_channels(value: SSAValue) -> None:
    """A per-channel format must have as many scales as the tensor has channels."""
    format_, shape = format_of(value), shape_of(value)
    axis = format_.channel_axis
    if axis is None:
        return
    if axis >= len(shape):
        raise VerifyException(f"format has axis {axis}, but the tensor has {len(shape)} dimensions")
    if format_.channels() != shape[axis]:
        raise VerifyException(
            f"format has {format_.channels()} channels, but dimension {axis} has size {shape[axis]}"
        )


__all__ = [
    "FACTORS",
    "FUNCTIONAL",
    "RHU",
    "ROUNDINGS",
    "FixedType",
    "I64Array",
    "QuantizedType",
    "ScaledType",
    "Shape",
    "VitOp",
    "check_channels",
    "check_power_ratio",
    "format_of",
    "i64_array",
    "integers",
    "is_fixed",
    "label_of",
    "product_format",
    "require_per_tensor",
    "require_storage",
    "require_symmetric",
    "scaled_by_power",
    "shape_of",
    "storage_of",
    "tensor_type",
]
