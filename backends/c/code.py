"""The language between lowering and text: kernel calls on buffers.

A lowered model is a list of `Call`s. The arguments are plain numbers, enumerators, pointers into
buffers, and structs of these; there is nothing else, so that the same calls can be printed as C
(`CWriter`) or, in the tests, made through ctypes on a library of the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

ALIGNMENT = 64
"""Bytes that every buffer, and every pointer the caller passes, is aligned to."""


@dataclass(eq=False)
class Buffer:
    """A piece of memory: part of the arena, of the weights, or a caller's input or output."""

    name: str
    size: int
    """Bytes."""
    space: str
    """"arena", "scratch", "weights", "input" or "output"."""
    offset: int = 0
    """Bytes from the start of its space, once planned; index of an input or output."""


@dataclass(frozen=True)
class Symbol:
    """An enumerator of vit_kernels.h."""

    name: str


@dataclass(frozen=True)
class Pointer:
    """An address `offset` bytes into a buffer."""

    buffer: Buffer
    offset: int = 0


@dataclass(frozen=True)
class Struct:
    """A struct of vit_kernels.h with designated fields; absent fields are zero."""

    type: str
    fields: dict[str, Value]


@dataclass(frozen=True)
class Array:
    """An array of structs of one type, passed by address."""

    type: str
    items: tuple[Struct, ...]


Value: TypeAlias = "int | Symbol | Pointer | Struct | Array | tuple[int, ...] | None"
"""None is the null pointer; a struct as an argument is passed by address."""


@dataclass
class Call:
    """One call of a kernel."""

    kernel: str
    arguments: list[Value]
    comment: str = ""
    """What of the model this computes."""
    scratch: int = 0
    """Bytes of scratch that the last argument, a scratch pointer, must have."""

    def pointers(self) -> list[Pointer]:
        """Every pointer among the arguments, also inside structs."""
        found: list[Pointer] = []
        _collect(self.arguments, found)
        return found


def _collect(values: Sequence[Value], found: list[Pointer]) -> None:
    for value in values:
        if isinstance(value, Pointer):
            found.append(value)
        elif isinstance(value, Struct):
            _collect(list(value.fields.values()), found)
        elif isinstance(value, Array):
            _collect(value.items, found)


WIDTH = 96
"""Columns of emitted C."""

_SPACES = {"arena": "arena", "scratch": "arena", "weights": "weights"}


@dataclass
class CWriter:
    """Prints calls as C statements."""

    lines: list[str] = field(default_factory=list[str])
    indent: int = 1

    def line(self, text: str = "") -> None:
        """One line at the current indentation."""
        self.lines.append("    " * self.indent + text if text else "")

    def call(self, call: Call) -> None:
        """A comment and a call; arrays of structs become local constants in a block."""
        self.line(f"/* {call.comment} */")
        arrays: dict[int, str] = {}
        for struct in call.arguments:
            if isinstance(struct, Struct):
                for value in struct.fields.values():
                    if isinstance(value, Array):
                        arrays[id(value)] = f"stages{len(arrays) or ''}"
        if not arrays:
            self._statement(call, arrays)
            return
        self.line("{")
        self.indent += 1
        for struct in call.arguments:
            if isinstance(struct, Struct):
                for value in struct.fields.values():
                    if isinstance(value, Array):
                        self._array(value, arrays[id(value)])
        self._statement(call, arrays)
        self.indent -= 1
        self.line("}")

    def _array(self, array: Array, name: str) -> None:
        self.line(f"const {array.type} {name}[] = {{")
        self.indent += 1
        for item in array.items:
            self._wrapped("{", [f".{k} = {_text(v, {})}" for k, v in item.fields.items()], "},")
        self.indent -= 1
        self.line("};")

    def _statement(self, call: Call, arrays: dict[int, str]) -> None:
        arguments = [_text(argument, arrays) for argument in call.arguments]
        self._wrapped(f"{call.kernel}(", arguments, ");")

    def _wrapped(self, head: str, parts: Sequence[str], tail: str) -> None:
        """`head part, part, ... tail`, broken between parts where a line gets too long."""
        room = WIDTH - 4 * self.indent
        current = head
        for index, part in enumerate(parts):
            piece = part + (tail if index == len(parts) - 1 else ",")
            gap = "" if current.endswith(("(", "{")) or not current.strip() else " "
            if len(current) + len(gap) + len(piece) > room and current.strip() not in ("", head):
                self.line(current)
                current = "    " + piece
            else:
                current += gap + piece
        self.line(current)


def _text(value: Value, arrays: dict[int, str]) -> str:
    """C text of an argument or field."""
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, Symbol):
        return value.name
    if isinstance(value, Pointer):
        return _pointer(value)
    if isinstance(value, Struct):
        fields = ", ".join(f".{key} = {_text(v, arrays)}" for key, v in value.fields.items())
        return f"&(const {value.type}){{{fields}}}"
    if isinstance(value, Array):
        return arrays[id(value)]
    return "{" + ", ".join(map(str, value)) + "}"


def _integer(value: int) -> str:
    """A C integer constant; the smallest negative numbers have no literal of their own."""
    if value == -(2**31):
        return "INT32_MIN"
    if value == -(2**63):
        return "INT64_MIN"
    if value > 2**63 - 1:
        return f"UINT64_C({value})"
    if not -(2**31) <= value < 2**31:
        return f"INT64_C({value})"
    return str(value)


def _pointer(pointer: Pointer) -> str:
    buffer = pointer.buffer
    if buffer.space in ("input", "output"):
        base = buffer.name
        if pointer.offset == 0:
            return base
        cast = "const unsigned char" if buffer.space == "input" else "unsigned char"
        return f"({cast} *){base} + {pointer.offset}"
    offset = buffer.offset + pointer.offset
    base = _SPACES[buffer.space]
    kind = "const void" if buffer.space == "weights" else "void"
    return f"({kind} *)({base} + {offset})"
