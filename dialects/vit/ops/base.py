"""What all `vit` operations share: shapes and formats of results follow from the operands.

An operation says, in one place, which result shapes its operands imply (`result_shapes`) and which
result formats (`derived_formats`; None where the format is a free choice, as after a
requantisation). The verifier compares, `pot-fold` retypes a graph with the same two methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias, cast

from xdsl.dialects.builtin import I64, DenseArrayBase, StringAttr, TensorType, i64
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import IRDLOperation, ParsePropInAttrDict, opt_prop_def
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
    """The static shape of a tensor value; raises VerifyException for a dynamic one."""
    shape = tensor_type(value).get_shape()
    if any(size < 0 for size in shape):
        raise VerifyException(f"expected a static shape, got {value.type}")
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


def integers(values: I64Array) -> tuple[int, ...]:
    """The entries of a dense array attribute of integers."""
    return values.get_values()


class VitOp(IRDLOperation, ABC):
    """Base of the operations of the dialect."""

    irdl_options = (ParsePropInAttrDict(),)

    node_name = opt_prop_def(StringAttr)
    """The node of the imported model that this came from, for messages and reports."""

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
    "format_of",
    "i64_array",
    "integers",
    "is_fixed",
    "product_format",
    "require_per_tensor",
    "require_storage",
    "scaled_by_power",
    "shape_of",
    "storage_of",
    "tensor_type",
]
