"""Operations of the dialect: one for every instruction, derived from its declaration.

The fields of an instruction become properties of the same name; the custom syntax is the assembly's
with commas:

    vit_accel.mac.matmul acc = obuf[0], a = abuf[0], b = bbuf[64], m = 8, n = 64, k = 192, ...

Fields that hold their default are left out. `vit_accel.program` holds a program with its data and
the places of its inputs and outputs; its region is the stream of instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING
from typing import Any, ClassVar, cast

from xdsl.dialects.builtin import (
    I64,
    DenseIntOrFPElementsAttr,
    IntAttr,
    IntegerAttr,
    StringAttr,
    i64,
)
from xdsl.ir import Attribute, Dialect, ParametrizedAttribute, Region
from xdsl.irdl import (
    BaseAttr,
    IRDLOperation,
    ParsePropInAttrDict,
    irdl_attr_definition,
    irdl_op_definition,
    opt_prop_def,
    prop_def,
    region_def,
    traits_def,
)
from xdsl.parser import AttrParser, Parser
from xdsl.pattern_rewriter import RewritePattern
from xdsl.printer import Printer
from xdsl.traits import HasCanonicalizationPatternsTrait, HasParent, NoTerminator
from xdsl.utils.exceptions import VerifyException

from vit_opt.dialects.assets import AssetAttr
from vit_opt.dialects.vit.ops.base import I64Array
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import (
    NO_ADDR,
    Addr,
    AddrField,
    EnumField,
    FieldError,
    Inst,
    IntField,
    SetField,
    Slot,
    Space,
    layout,
)
from vit_opt.dialects.vit_accel.isa import INSTRUCTIONS


@irdl_attr_definition
class AddrAttr(ParametrizedAttribute):
    """`#vit_accel.addr<abuf[64]>`, `#vit_accel.addr<abuf[a1 + 64]>`, `#vit_accel.addr<none>`."""

    name = "vit_accel.addr"
    space: StringAttr
    offset: IntAttr
    areg: IntAttr

    @staticmethod
    def get(addr: Addr) -> AddrAttr:
        """The attribute of an address."""
        return AddrAttr(
            StringAttr(addr.space.name.lower()), IntAttr(addr.offset), IntAttr(addr.areg)
        )

    @property
    def addr(self) -> Addr:
        """The address of the attribute."""
        return Addr(Space[self.space.data.upper()], self.offset.data, self.areg.data)

    def verify(self) -> None:
        if self.space.data.upper() not in Space.__members__:
            raise VerifyException(f"address space '{self.space.data}' does not exist")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            return parse_address(parser).parameters

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(address_text(self.addr))


def address_text(addr: Addr) -> str:
    """`abuf[64]`, `abuf[a1 + 64]` or `none`."""
    if addr.space is Space.NONE:
        return "none"
    register = f"a{addr.areg} + " if addr.areg else ""
    return f"{addr.space.name.lower()}[{register}{addr.offset}]"


def parse_address(parser: AttrParser) -> AddrAttr:
    """The inverse of `address_text`."""
    space = parser.parse_identifier(" (address space)")
    if space.upper() not in Space.__members__:
        parser.raise_error(f"address space '{space}' does not exist")
    if space == "none":
        return AddrAttr.get(NO_ADDR)
    register = 0
    parser.parse_punctuation("[")
    name = parser.parse_optional_identifier()
    if name is not None:
        if not (name.startswith("a") and name[1:].isdigit()):
            parser.raise_error(f"'{name}' is not an address register")
        register = int(name[1:])
        parser.parse_punctuation("+")
    offset = parser.parse_integer(allow_boolean=False, allow_negative=False)
    parser.parse_punctuation("]")
    return AddrAttr(StringAttr(space), IntAttr(offset), IntAttr(register))


class InstructionOp(IRDLOperation):
    """Base of the operations derived from instructions."""

    INSTRUCTION: ClassVar[type[Inst]]

    @property
    def instruction(self) -> Inst:
        """The instruction; FieldError if a field has a value that it cannot hold."""
        values: dict[str, Any] = {}
        for slot in layout(self.INSTRUCTION).slots:
            values[slot.name] = _to_value(slot, self.properties[slot.name])
        return self.INSTRUCTION(**values)

    @classmethod
    def of(cls, inst: Inst) -> InstructionOp:
        """The operation of an instruction."""
        target = OP_OF[type(inst)]
        slots = layout(type(inst)).slots
        return target.create(
            properties={slot.name: _to_attribute(getattr(inst, slot.name)) for slot in slots}
        )

    def verify_(self) -> None:
        try:
            _ = self.instruction
        except FieldError as error:
            raise VerifyException(str(error)) from None

    @classmethod
    def parse(cls, parser: Parser) -> InstructionOp:
        slots = {slot.name: slot for slot in layout(cls.INSTRUCTION).slots}
        properties: dict[str, Attribute] = {}
        while True:
            name = parser.parse_identifier(" (field)")
            if name not in slots or name in properties:
                parser.raise_error(f"'{name}' is not a field, or given twice")
            parser.parse_punctuation("=")
            properties[name] = _parse_field(parser, slots[name])
            if parser.parse_optional_punctuation(",") is None:
                break
        for name, slot in slots.items():
            if name not in properties:
                if slot.default is MISSING:
                    parser.raise_error(f"missing field '{name}'")
                properties[name] = _to_attribute(slot.default)
        return cls.create(properties=properties)

    def print(self, printer: Printer) -> None:
        words: list[str] = []
        for slot in layout(self.INSTRUCTION).slots:
            attribute = self.properties[slot.name]
            if slot.default is MISSING or attribute != _to_attribute(slot.default):
                words.append(f"{slot.name} = {_attribute_text(attribute)}")
        printer.print_string(" " + ", ".join(words))


def _to_attribute(value: object) -> Attribute:
    """A field's value as an attribute."""
    if isinstance(value, Addr):
        return AddrAttr.get(value)
    if isinstance(value, int) and type(value) is int:
        return IntegerAttr(value, i64)
    if isinstance(value, tuple):
        return StringAttr(
            " + ".join(each.name.lower() for each in cast("tuple[Any]", value)) or "none"
        )
    return StringAttr(cast("Any", value).name.lower())


def _to_value(slot: Slot, attribute: Attribute) -> object:
    """The value of a field; FieldError if the attribute is not one of the field's kind."""
    field = slot.field
    if isinstance(field, AddrField) and isinstance(attribute, AddrAttr):
        return attribute.addr
    if isinstance(field, IntField) and isinstance(attribute, IntegerAttr):
        return cast("IntegerAttr[Any]", attribute).value.data
    if isinstance(field, EnumField | SetField) and isinstance(attribute, StringAttr):
        try:
            return field.from_text(attribute.data)
        except FieldError as error:
            raise FieldError(f"field '{slot.name}': {error}") from None
    raise FieldError(f"field '{slot.name}': {attribute} is not of kind {field.kind()}")


def _parse_field(parser: Parser, slot: Slot) -> Attribute:
    if isinstance(slot.field, AddrField):
        return parse_address(parser)
    if isinstance(slot.field, IntField):
        return IntegerAttr(parser.parse_integer(allow_boolean=False), i64)
    words = [parser.parse_identifier(f" ({slot.field.kind()})")]
    while isinstance(slot.field, SetField) and parser.parse_optional_punctuation("+"):
        words.append(parser.parse_identifier(f" ({slot.field.kind()})"))
    return StringAttr(" + ".join(words))


def _attribute_text(attribute: Attribute) -> str:
    if isinstance(attribute, AddrAttr):
        return address_text(attribute.addr)
    if isinstance(attribute, StringAttr):
        return attribute.data
    return str(cast("IntegerAttr[Any]", attribute).value.data)


class SemaphoreCanonicalization(HasCanonicalizationPatternsTrait):
    """Join neighbouring waits, or signals, of one engine on one semaphore."""

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from vit_opt.dialects.vit_accel.canonicalization import JoinTokens

        return (JoinTokens(),)


def _operation(inst: type[Inst]) -> type[InstructionOp]:
    """The operation class of an instruction class."""
    constraints: dict[type[Any], Any] = {
        AddrField: AddrAttr,
        IntField: IntegerAttr[I64],
        EnumField: StringAttr,
        SetField: StringAttr,
    }
    members: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": inst.__doc__,
        "name": f"vit_accel.{inst.mnemonic}",
        "__annotations__": {"INSTRUCTION": ClassVar[type[Inst]]},
        "INSTRUCTION": inst,
        "traits": traits_def(
            HasParent(ProgramOp),
            *([SemaphoreCanonicalization()] if inst.mnemonic in ("wait", "signal") else []),
        ),
    }
    for slot in layout(inst).slots:
        members[f"field_{slot.name}"] = prop_def(constraints[type(slot.field)], prop_name=slot.name)
    return irdl_op_definition(type(f"{inst.__name__}Op", (InstructionOp,), members))


@irdl_op_definition
class ProgramOp(IRDLOperation):
    """A program for an architecture: data, places of inputs and outputs, and the instructions.

    vit_accel.program {arch = "p2vit", digest = "08874a53...", dram = 4096 : i64, macs = 24 : i64} {
      vit_accel.data {address = 64 : i64, value = dense<[1, 2]> : tensor<2xui8>}
      vit_accel.ld.copy dst = abuf[0], src = dram[64], run = 2
    }
    """

    name = "vit_accel.program"
    arch = prop_def(StringAttr)
    digest = prop_def(StringAttr)
    dram = prop_def(IntegerAttr[I64])
    macs = prop_def(IntegerAttr[I64])
    body = region_def("single_block")
    traits = traits_def(NoTerminator())
    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "attr-dict-with-keyword $body"

    def __init__(self, arch: str, digest: str, dram: int, macs: int, body: Region):
        super().__init__(
            properties={
                "arch": StringAttr(arch),
                "digest": StringAttr(digest),
                "dram": IntegerAttr(dram, i64),
                "macs": IntegerAttr(macs, i64),
            },
            regions=[body],
        )


DENSE: BaseAttr[DenseIntOrFPElementsAttr[Any]] = BaseAttr(DenseIntOrFPElementsAttr)


@irdl_op_definition
class DataOp(IRDLOperation):
    """Bytes in DRAM when the program starts."""

    name = "vit_accel.data"
    address = prop_def(IntegerAttr[I64])
    value = prop_def(DENSE | BaseAttr(AssetAttr))
    traits = traits_def(HasParent(ProgramOp))
    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "attr-dict"


@irdl_op_definition
class PortOp(IRDLOperation):
    """An input or output of the model: a row-major tensor of codes in DRAM.

    real = (code - zp) * 2^-frac, one frac or one per channel along `axis`.
    """

    name = "vit_accel.port"
    kind = prop_def(StringAttr)
    label = prop_def(StringAttr)
    address = prop_def(IntegerAttr[I64])
    dtype = prop_def(StringAttr)
    shape = prop_def(I64Array)
    fracs = prop_def(I64Array)
    zp = prop_def(IntegerAttr[I64])
    axis = opt_prop_def(IntegerAttr[I64])
    traits = traits_def(HasParent(ProgramOp))
    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "attr-dict"

    def verify_(self) -> None:
        if self.kind.data not in ("input", "output"):
            raise VerifyException(f"kind '{self.kind.data}' is not input or output")
        if self.dtype.data.upper() not in DType.__members__:
            raise VerifyException(f"dtype '{self.dtype.data}' is not an element type")


OP_OF: dict[type[Inst], type[InstructionOp]] = {inst: _operation(inst) for inst in INSTRUCTIONS}
"""The operation of every instruction."""

VitAccel = Dialect("vit_accel", [ProgramOp, DataOp, PortOp, *OP_OF.values()], [AddrAttr])

__all__ = ["OP_OF", "AddrAttr", "DataOp", "InstructionOp", "PortOp", "ProgramOp", "VitAccel"]
