"""What the operations of the `onnx` dialect share: syntax, attributes and shape checks.

All of them print as

    %y = onnx.Conv %x, %w, %b {strides = [2, 2], node_name = "stem"} : (T, T, T) -> T

where an attribute is an integer, a real number, a string or a list of integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self, TypeAlias, cast

from xdsl.dialects.builtin import (
    I64,
    DenseArrayBase,
    Float64Type,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    StringAttr,
    TensorType,
    f64,
    i64,
)
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.irdl import BaseAttr, IRDLOperation, opt_attr_def, opt_prop_def, traits_def
from xdsl.parser import Parser
from xdsl.pattern_rewriter import RewritePattern
from xdsl.printer import Printer
from xdsl.traits import HasCanonicalizationPatternsTrait, Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.hints import isa

IntAttribute: TypeAlias = IntegerAttr[I64]
RealAttribute: TypeAlias = FloatAttr[Float64Type]
IntsAttribute: TypeAlias = DenseArrayBase[I64]
Plain: TypeAlias = "int | float | str | Sequence[int] | Attribute"
"""A Python value that `plain_attribute` turns into an attribute."""

TENSOR = BaseAttr[TensorType[Attribute]](TensorType)
"""The constraint on every operand and result: a builtin tensor type."""


def int_prop(default: int) -> IntAttribute:
    """An integer attribute with its ONNX default."""
    return opt_prop_def(IntAttribute, IntegerAttr(default, i64))


def real_prop(default: float) -> RealAttribute:
    """A real attribute with its ONNX default."""
    return opt_prop_def(RealAttribute, FloatAttr(default, f64))


def opt_real_prop() -> RealAttribute | None:
    """A real attribute that may be left out."""
    return opt_prop_def(RealAttribute)


def str_prop(default: str) -> StringAttr:
    """A string attribute with its ONNX default."""
    return opt_prop_def(StringAttr, StringAttr(default))


def ints_prop(*default: int) -> IntsAttribute:
    """A list of integers with the default that it has for two spatial dimensions."""
    return opt_prop_def(IntsAttribute, DenseArrayBase.from_list(i64, default))


def plain_attribute(value: Plain) -> Attribute:
    """The attribute for a Python value: i64, f64, string, or a dense array of i64."""
    if isinstance(value, Attribute):
        return value
    if isinstance(value, str):
        return StringAttr(value)
    if isinstance(value, float):
        return FloatAttr(value, f64)
    if isinstance(value, int):
        return IntegerAttr(value, i64)
    return DenseArrayBase.from_list(i64, list(value))


def integers(attribute: IntsAttribute) -> tuple[int, ...]:
    """The integers of a list attribute."""
    return tuple(attribute.iter_values())


def integer(attribute: IntAttribute) -> int:
    """The value of an integer attribute."""
    return attribute.value.data


def real(attribute: RealAttribute) -> float:
    """The value of a real attribute."""
    return attribute.value.data


def tensor_type(value: SSAValue) -> TensorType[Attribute]:
    """The tensor type of a value; raises VerifyException for any other type."""
    if not isinstance(value.type, TensorType):
        raise VerifyException(f"expected a tensor, got {value.type}")
    return cast("TensorType[Attribute]", value.type)


def shape_of(value: SSAValue) -> tuple[int, ...]:
    """The static shape of a tensor value."""
    return tensor_type(value).get_shape()


def element_of(value: SSAValue) -> Attribute:
    """The element type of a tensor value."""
    return tensor_type(value).get_element_type()


def dims(shape: Sequence[int]) -> str:
    """A shape as text: `[1, 3, 224, 224]`."""
    return str(list(shape))


def require(condition: bool, message: str) -> None:
    """Raise VerifyException with a message unless a condition holds."""
    if not condition:
        raise VerifyException(message)


def normal_axis(axis: int, rank: int, what: str = "axis") -> int:
    """An axis counted from the front; raises VerifyException if it is out of range."""
    require(-rank <= axis < rank, f"{what} {axis} is out of range for rank {rank}")
    return axis % rank if rank else 0


def broadcast(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The shape that numpy broadcasting gives; raises VerifyException if there is none."""
    rank = max(len(shape) for shape in shapes)
    result: list[int] = []
    for position in range(rank):
        sizes = {
            shape[position - rank + len(shape)]
            for shape in shapes
            if position - rank + len(shape) >= 0
        } - {1}
        if len(sizes) > 1:
            raise VerifyException(
                "operand shapes " + " and ".join(map(dims, shapes)) + " do not broadcast"
            )
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


class OnnxCanonicalization(HasCanonicalizationPatternsTrait):
    """Drop operations without effect, bring data movement into one form."""

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from vit_opt.dialects.onnx import canonicalization as patterns

        return (
            patterns.DropNoOp(),
            patterns.MergeReshapes(),
            patterns.MergeTransposes(),
            patterns.TransposeOfOnes(),
        )


class OnnxOp(IRDLOperation):
    """Base of every operation: optional node name, pure, canonical form, the common syntax."""

    node_name = opt_attr_def(StringAttr)

    traits = traits_def(Pure(), OnnxCanonicalization())

    @classmethod
    def make(
        cls,
        operands: Sequence[SSAValue | Operation],
        result_types: Sequence[Attribute],
        *,
        node_name: str | None = None,
        **attributes: Plain | None,
    ) -> Self:
        """Build the operation from operands in ONNX order and plain Python attribute values.

        Attributes that are None are left out. `make` does not verify.
        """
        properties = {
            key: plain_attribute(value) for key, value in attributes.items() if value is not None
        }
        discardable: dict[str, Attribute] = (
            {} if node_name is None else {"node_name": StringAttr(node_name)}
        )
        return cls.create(
            operands=[SSAValue.get(operand) for operand in operands],
            result_types=result_types,
            properties=properties,
            attributes=discardable,
        )

    @property
    def label(self) -> str:
        """The node name for messages, or the operation's name where there is none."""
        return self.name if self.node_name is None else self.node_name.data

    def print(self, printer: Printer) -> None:
        if self.operands:
            printer.print_string(" ")
            printer.print_list(self.operands, printer.print_ssa_value)
        print_attributes(printer, {**self.properties, **self.attributes})
        printer.print_string(" : ")
        printer.print_operation_type(self)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        operands = parser.parse_optional_undelimited_comma_separated_list(
            parser.parse_optional_unresolved_operand, parser.parse_unresolved_operand
        )
        properties, attributes = split_attributes(cls, parse_attributes(parser))
        parser.parse_punctuation(":")
        position = parser.pos
        types = parser.parse_function_type()
        values = parser.resolve_operands(operands or [], types.inputs.data, position)
        return cls.create(
            operands=values,
            result_types=types.outputs.data,
            properties=properties,
            attributes=attributes,
        )


def split_attributes(
    op: type[IRDLOperation], attributes: Mapping[str, Attribute]
) -> tuple[dict[str, Attribute], dict[str, Attribute]]:
    """Split parsed attributes into the properties that an operation declares and the others."""
    declared = op.get_irdl_definition().properties
    properties = {key: value for key, value in attributes.items() if key in declared}
    others = {key: value for key, value in attributes.items() if key not in declared}
    return properties, others


def print_attributes(printer: Printer, attributes: Mapping[str, Attribute]) -> None:
    """Print ` {key = value, ...}`, or nothing if there are none."""
    if not attributes:
        return

    def entry(pair: tuple[str, Attribute]) -> None:
        printer.print_identifier_or_string_literal(pair[0])
        printer.print_string(" = ")
        _print_plain(printer, pair[1])

    printer.print_string(" ")
    with printer.in_braces():
        printer.print_list(attributes.items(), entry)


def _print_plain(printer: Printer, value: Attribute) -> None:
    text = None
    if isa(value, IntegerAttr[I64]) and value.type == i64:
        text = str(value.value.data)
    elif isa(value, FloatAttr[Float64Type]):
        text = _real_text(value.value.data)
    elif isa(value, DenseArrayBase[I64]) and value.elt_type == i64:
        text = dims(integers(value))
    if text is None:
        printer.print_attribute(value)
    else:
        printer.print_string(text)


def _real_text(value: float) -> str | None:
    """The shortest literal that the lexer reads back, None for infinities and NaN."""
    text = repr(value)
    if not text.strip("-")[0].isdigit():
        return None
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}{exponent}{power}"


def parse_attributes(parser: Parser) -> dict[str, Attribute]:
    """Parse what `print_attributes` prints."""
    entries = parser.parse_optional_comma_separated_list(
        parser.Delimiter.BRACES, lambda: _parse_entry(parser)
    )
    return dict(entries or [])


def _parse_entry(parser: Parser) -> tuple[str, Attribute]:
    key = parser.parse_identifier_or_str_literal()
    parser.parse_punctuation("=")
    numbers = parser.parse_optional_comma_separated_list(
        parser.Delimiter.SQUARE, lambda: parser.parse_integer(allow_boolean=False)
    )
    if numbers is not None:
        return key, DenseArrayBase.from_list(i64, numbers)
    number = parser.parse_optional_number()
    if number is None:
        return key, parser.parse_attribute()
    if parser.parse_optional_punctuation(":") is None:
        return key, plain_attribute(number)
    type_ = parser.parse_type()
    if isinstance(type_, IntegerType) and isinstance(number, int):
        return key, cast("Attribute", IntegerAttr(number, cast("IntegerType", type_)))
    if type_ == f64:
        return key, FloatAttr(float(number), f64)
    parser.raise_error(f"attribute {key} has the unexpected type {type_}")
