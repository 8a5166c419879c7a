"""Field descriptors: how an instruction is declared once.

An instruction is a frozen dataclass whose annotations carry descriptors::

    @dataclass(frozen=True)
    class Requant(Inst):
        opcode = 0x30
        dst: Annotated[Addr, address("rows x cols results")]
        rows: Annotated[int, unsigned(16, "rows of the block")]

Everything else is derived here: the encoding (little-endian: the opcode in the lowest 8 bits, one
bit for each field that says whether it follows, then those that do in the order of declaration, in
no more bits than they need, the whole rounded up to bytes), range checks that name the field, text,
and parsing of text. A field that does not follow is as in the last instruction of the same opcode,
or at its default in the first.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass
from dataclasses import fields as dataclass_fields
from enum import IntEnum
from functools import cache
from operator import attrgetter
from typing import (
    Annotated,
    Any,
    ClassVar,
    NamedTuple,
    Protocol,
    Self,
    get_args,
    get_origin,
    get_type_hints,
)

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.lengths import (
    MARK,
    Ways,
    lengthen,
    quarters,
    shorten,
    signed_of,
    unsigned_of,
)


class FieldError(VitError):
    """A field of an instruction has a value that it cannot hold, or text that is not one."""


class Space(IntEnum):
    """Address spaces. The on-chip memories' sizes are in the architecture record."""

    DRAM = 0
    ABUF = 1
    BBUF = 2
    CBUF = 3
    OBUF = 4
    PBUF = 5
    NONE = 7


_OFFSET_BITS, _AREG_BITS, _SPACE_BITS = 33, 4, 3
OFFSET_WAYS: tuple[Ways, Ways] = (
    ((14, 4), (18, 0), (26, 0), (_OFFSET_BITS, 0)),
    ((20, 6), (18, 0), (26, 0), (_OFFSET_BITS, 0)),
)
"""How offsets on chip, and in DRAM, follow: mostly in units of what buffers there are aligned to."""

_ADDR_TEXT = re.compile(r"([a-z]+)\[(?:a(\d+)\+)?(0x[0-9a-f]+|\d+)\]")


class Addr(NamedTuple):
    """A byte address: `abuf[0x40]`, or `abuf[a3+0x40]` relative to address register 3.

    Register 0 reads as zero. The effective offset is `offset + base + sum_d index_d * stride_d`
    over the enclosing hardware loops d of the engine. `none` stands for an absent operand.
    """

    space: Space
    offset: int = 0
    areg: int = 0

    def __str__(self) -> str:
        if self.space is Space.NONE:
            return "none"
        register = f"a{self.areg}+" if self.areg else ""
        return f"{self.space.name.lower()}[{register}{self.offset:#x}]"

    @staticmethod
    def parse(text: str) -> "Addr":
        """The inverse of `str`; FieldError if `text` is not an address."""
        if text == "none":
            return NO_ADDR
        match = _ADDR_TEXT.fullmatch(text)
        if match is None or match[1].upper() not in Space.__members__ or match[1] == "none":
            raise FieldError(f"'{text}' is not an address such as abuf[0x40], abuf[a1+0x40]")
        return Addr(Space[match[1].upper()], int(match[3], 0), int(match[2] or 0))

    def plus(self, offset: int) -> "Addr":
        """The address `offset` bytes further."""
        return Addr(self.space, self.offset + offset, self.areg)


NO_ADDR = Addr(Space.NONE)


class Field(Protocol):
    """A descriptor: width in bits, meaning, and the way between value, raw bits, code and text."""

    bits: int
    doc: str

    @property
    def longest(self) -> int:
        """Most bits of its code."""
        ...

    def encode(self, value: Any) -> tuple[int, int]:
        """The code of a value, and how many bits it has."""
        ...

    def decode(self, word: int) -> tuple[object, int]:
        """The value whose code the lowest bits of a word are, and how many bits these are."""
        ...

    def to_raw(self, value: Any) -> int: ...
    def from_raw(self, raw: int) -> object: ...
    def to_text(self, value: Any) -> str: ...
    def from_text(self, text: str) -> object: ...
    def kind(self) -> str: ...


class _Plain:
    """Fields whose code is the raw bits."""

    bits: int

    @property
    def longest(self) -> int:
        return self.bits

    def encode(self, value: Any) -> tuple[int, int]:
        return self.to_raw(value), self.bits

    def decode(self, word: int) -> tuple[object, int]:
        return self.from_raw(word & (1 << self.bits) - 1), self.bits

    @abstractmethod
    def to_raw(self, value: Any) -> int: ...
    @abstractmethod
    def from_raw(self, raw: int) -> object: ...


@dataclass(frozen=True)
class IntField(_Plain):
    """An integer of `bits` bits, two's complement if `signed`; if they are more than 8, its code has
    the `quarters` that it needs."""

    bits: int
    doc: str
    signed: bool

    @property
    def longest(self) -> int:
        return self.bits + (MARK if self.bits > 8 else 0)

    def encode(self, value: int) -> tuple[int, int]:
        if self.bits <= 8:
            return super().encode(value)
        return shorten(unsigned_of(value) if self.signed else value, quarters(self.bits))

    def decode(self, word: int) -> tuple[object, int]:
        if self.bits <= 8:
            return super().decode(word)
        number, bits = lengthen(word, quarters(self.bits))
        return signed_of(number) if self.signed else number, bits

    def bounds(self) -> tuple[int, int]:
        """Smallest and largest value."""
        if self.signed:
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1

    def to_raw(self, value: int) -> int:
        low, high = self.bounds()
        if not low <= value <= high:
            raise FieldError(f"value {value} does not fit in {self.kind()} ({low}..{high})")
        return value & ((1 << self.bits) - 1)

    def from_raw(self, raw: int) -> int:
        return raw - (1 << self.bits) if self.signed and raw >> (self.bits - 1) else raw

    def to_text(self, value: int) -> str:
        return str(value)

    def from_text(self, text: str) -> int:
        try:
            return int(text, 0)
        except ValueError:
            raise FieldError(f"'{text}' is not an integer") from None

    def kind(self) -> str:
        return f"{'s' if self.signed else 'u'}{self.bits}"


@dataclass(frozen=True)
class EnumField(_Plain):
    """One of the members of an enumeration, written in lower case."""

    bits: int
    doc: str
    members: type[IntEnum]

    def to_raw(self, value: IntEnum) -> int:
        if not isinstance(value, self.members):
            raise FieldError(f"value {value!r} is not one of {self.kind()}")
        return int(value)

    def from_raw(self, raw: int) -> IntEnum:
        try:
            return self.members(raw)
        except ValueError:
            raise FieldError(f"code {raw} is not one of {self.kind()}") from None

    def to_text(self, value: IntEnum) -> str:
        return value.name.lower()

    def from_text(self, text: str) -> IntEnum:
        if text.upper() not in self.members.__members__ or text != text.lower():
            raise FieldError(f"'{text}' is not one of {self.kind()}")
        return self.members[text.upper()]

    def kind(self) -> str:
        return "|".join(member.name.lower() for member in self.members)


@dataclass(frozen=True)
class SetField(_Plain):
    """Some members of an enumeration as a tuple in their order: `ld+shift`, or `none`."""

    bits: int
    doc: str
    members: type[IntEnum]

    def to_raw(self, value: tuple[IntEnum, ...]) -> int:
        raw = _mask(value)
        if self.from_raw(raw) != value:
            raise FieldError(f"{value!r} is not {self.kind()}, in their order")
        return raw

    def from_raw(self, raw: int) -> tuple[IntEnum, ...]:
        return tuple(member for member in self.members if raw >> member & 1)

    def to_text(self, value: tuple[IntEnum, ...]) -> str:
        return "+".join(member.name.lower() for member in value) or "none"

    def from_text(self, text: str) -> tuple[IntEnum, ...]:
        names = [] if text == "none" else [name.strip() for name in text.split("+")]
        known = {member.name.lower(): member for member in self.members}
        if not known.keys() >= set(names) or len(set(names)) < len(names):
            raise FieldError(f"'{text}' is not {self.kind()}")
        return tuple(sorted(known[name] for name in names))

    def kind(self) -> str:
        return "some of " + "|".join(member.name.lower() for member in self.members)


@cache
def _mask(value: tuple[IntEnum, ...]) -> int:
    """A bit for each member."""
    return sum(1 << member for member in set(value))


@dataclass(frozen=True)
class AddrField:
    """An address: 33 bits of offset, 4 of address register, 3 of space (low to high).

    Its code: the space; if it is present, a bit that says whether a register follows; that; and the
    offset in one of four ways.
    """

    bits: int
    doc: str

    @property
    def longest(self) -> int:
        return self.bits + 1 + MARK

    def encode(self, value: Addr) -> tuple[int, int]:
        if value.space is Space.NONE:
            return value.space, _SPACE_BITS
        word, bits = shorten(value.offset, OFFSET_WAYS[value.space is Space.DRAM])
        if value.areg:
            word, bits = word << _AREG_BITS | value.areg, bits + _AREG_BITS
        low = _SPACE_BITS + 1
        return word << low | (value.areg > 0) << _SPACE_BITS | value.space, bits + low

    def decode(self, word: int) -> tuple[Addr, int]:
        code, low, areg = word & (1 << _SPACE_BITS) - 1, _SPACE_BITS + 1, 0
        if code == Space.NONE:
            return NO_ADDR, _SPACE_BITS
        if code not in Space.__members__.values():
            raise FieldError(f"address space {code} does not exist")
        if word >> _SPACE_BITS & 1:
            areg, low = word >> low & (1 << _AREG_BITS) - 1, low + _AREG_BITS
        offset, bits = lengthen(word >> low, OFFSET_WAYS[code == Space.DRAM])
        return Addr(Space(code), offset, areg), low + bits

    def to_raw(self, value: Addr) -> int:
        if not 0 <= value.offset < 1 << _OFFSET_BITS:
            raise FieldError(f"offset {value.offset} does not fit in u{_OFFSET_BITS}")
        if not 0 <= value.areg < 1 << _AREG_BITS:
            raise FieldError(f"address register {value.areg} is not one of a0..a15")
        high = value.areg | value.space << _AREG_BITS
        return value.offset | high << _OFFSET_BITS

    def from_raw(self, raw: int) -> Addr:
        code = raw >> (_OFFSET_BITS + _AREG_BITS)
        if code not in Space.__members__.values():
            raise FieldError(f"address space {code} does not exist")
        offset = raw & ((1 << _OFFSET_BITS) - 1)
        areg = raw >> _OFFSET_BITS & ((1 << _AREG_BITS) - 1)
        if code == Space.NONE and (offset or areg):
            raise FieldError("the absent address carries an offset")
        return Addr(Space(code), offset, areg)

    def to_text(self, value: Addr) -> str:
        return str(value)

    def from_text(self, text: str) -> Addr:
        return Addr.parse(text)

    def kind(self) -> str:
        return "address"


def unsigned(bits: int, doc: str) -> IntField:
    """An unsigned integer field."""
    return IntField(bits, doc, signed=False)


def signed(bits: int, doc: str) -> IntField:
    """A two's complement integer field."""
    return IntField(bits, doc, signed=True)


def choice(members: type[IntEnum], doc: str) -> EnumField:
    """A field holding a member of an enumeration."""
    return EnumField(max(1, max(members).bit_length()), doc, members)


def some(members: type[IntEnum], doc: str) -> SetField:
    """A field holding any members of an enumeration, which are numbered from 0."""
    return SetField(len(members), doc, members)


def address(doc: str) -> AddrField:
    """An address field."""
    return AddrField(_OFFSET_BITS + _AREG_BITS + _SPACE_BITS, doc)


@dataclass(frozen=True)
class Slot:
    """A field with its name and its default (MISSING: none)."""

    name: str
    field: Field
    default: object


@dataclass(frozen=True)
class Format:
    """Layout of an instruction."""

    slots: tuple[Slot, ...]
    head: int
    """Bits of the opcode and of the marks that say which fields follow."""
    size: int
    """Most bytes that it takes."""
    values: Callable[[Any], tuple[Any, ...]]
    """The fields of an instruction, in order."""
    bounds: tuple[tuple[int, int] | None, ...]
    """Smallest and largest value of every field that is an integer."""


OPCODE_BITS = 8


@dataclass(frozen=True)
class Inst(ABC):
    """Base of all instructions; subclasses declare `opcode`, `mnemonic` and their fields."""

    opcode: ClassVar[int] = -1
    mnemonic: ClassVar[str] = ""

    def __post_init__(self) -> None:
        form = layout(type(self))
        for slot, bounds, value in zip(form.slots, form.bounds, form.values(self), strict=True):
            if bounds is not None and bounds[0] <= value <= bounds[1]:
                continue
            try:
                slot.field.to_raw(value)
            except FieldError as error:
                raise FieldError(f"{self.mnemonic}: field '{slot.name}': {error}") from None

    @abstractmethod
    def cycles(self, arch: AccelTarget) -> int:
        """Cycles the engine is busy with the instruction."""

    def encode(self, previous: "Inst | None" = None) -> bytes:
        """The instruction's bytes behind `previous`, the last one of its opcode in the stream."""
        form = layout(type(self))
        word, low = self.opcode, form.head
        before: Iterable[Any] = (slot.default for slot in form.slots)
        if previous is not None:
            before = form.values(previous)
        for index, (slot, value, old) in enumerate(
            zip(form.slots, form.values(self), before, strict=True)
        ):
            if value != old:
                code, bits = slot.field.encode(value)
                word |= 1 << OPCODE_BITS + index | code << low
                low += bits
        return word.to_bytes(-(-low // 8), "little")

    @classmethod
    def decode(cls, code: bytes, previous: "Inst | None" = None) -> tuple[Self, int]:
        """The instruction that `code` begins with behind `previous`, and its size in bytes.

        FieldError for an illegal field, one that is missing, or one behind the end of `code`.
        """
        form = layout(cls)
        word = int.from_bytes(code[: form.size], "little")
        low = form.head
        values: dict[str, Any] = {}
        for index, slot in enumerate(form.slots):
            if word >> OPCODE_BITS + index & 1:
                try:
                    values[slot.name], bits = slot.field.decode(word >> low)
                except FieldError as error:
                    raise FieldError(f"{cls.mnemonic}: field '{slot.name}': {error}") from None
                low += bits
            elif previous is not None:
                values[slot.name] = getattr(previous, slot.name)
            elif slot.default is MISSING:
                raise FieldError(f"{cls.mnemonic}: field '{slot.name}' is missing")
        size = -(-low // 8)
        if size > len(code):
            raise FieldError(f"{cls.mnemonic} runs past the end of the code")
        if word >> low & ((1 << 8 * size - low) - 1):
            raise FieldError(f"{cls.mnemonic}: bits {low} to {8 * size - 1} are not zero")
        return cls(**values), size

    def text(self) -> str:
        """Assembly text; fields that hold their default are left out."""
        words = [self.name()]
        for slot in layout(type(self)).slots:
            value = getattr(self, slot.name)
            if slot.default is MISSING or value != slot.default:
                words.append(f"{slot.name}={slot.field.to_text(value)}")
        return " ".join(words)

    def name(self) -> str:
        """Mnemonic with the engine, for example `mac.matmul`."""
        return self.mnemonic


@cache
def layout(cls: type[Inst]) -> Format:
    """The format of an instruction class, from the annotations of its fields."""
    hints = get_type_hints(cls, include_extras=True)
    slots: list[Slot] = []
    for item in dataclass_fields(cls):
        hint = hints[item.name]
        if get_origin(hint) is not Annotated:
            raise TypeError(f"{cls.__name__}.{item.name} has no field descriptor")
        field: Field = get_args(hint)[1]
        slots.append(Slot(item.name, field, item.default))
    head = OPCODE_BITS + len(slots)
    bits = head + sum(slot.field.longest for slot in slots)
    bounds = [s.field.bounds() if isinstance(s.field, IntField) else None for s in slots]
    return Format(tuple(slots), head, -(-bits // 8), _getter(slots), tuple(bounds))


def _getter(slots: Sequence[Slot]) -> Callable[[Any], tuple[Any, ...]]:
    """What gives the fields of an instruction as a tuple."""
    names = [slot.name for slot in slots]
    if len(names) > 1:
        return attrgetter(*names)
    return lambda inst: tuple(getattr(inst, name) for name in names)
