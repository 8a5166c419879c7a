"""The language between lowering and text: kernel calls on buffers.

A lowered model is a list of `Call`s. The arguments are plain numbers, enumerators, pointers into
buffers, and structs of these; there is nothing else, so that the same calls can be printed as C
(`CWriter`) or, in the tests, made through ctypes on a library of the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from vit_opt.backends.c.levels import shared_shapes

ALIGNMENT = 64
"""Bytes that every buffer, and every pointer the caller passes, is aligned to."""


@dataclass(eq=False)
class Buffer:
    """A piece of memory: part of the arena, of the weights, or a caller's input or output."""

    name: str
    size: int
    """Bytes."""
    space: str
    """"arena", "weights", "input" or "output"."""
    offset: int = 0
    """Bytes from the start of its space, once planned; index of an input or output."""
    home: Buffer | None = None
    """The buffer of an operand whose memory this one takes over, if it is computed in place."""
    per_worker: int = 0
    """Bytes from one worker's piece to the next one's in scratch memory; 0 in any other."""

    def root(self) -> Buffer:
        """The buffer that stands for the memory this one is in."""
        return self if self.home is None else self.home.root()


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
    in_place: tuple[Buffer, Buffer] | None = None
    """A result and an operand of equal size that the kernel may have in one place."""

    @property
    def is_shared(self) -> bool:
        """Whether several workers can compute a piece of it each."""
        first = self.arguments[0] if self.arguments else None
        return isinstance(first, Struct) and first.type in shared_shapes()

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


def comment_text(text: str) -> str:
    """Text of a model (names of nodes and tensors) that may stand in a C comment."""
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable.replace("*/", "* /").replace("/*", "/ *").replace("??/", "?? /")


WIDTH = 96
"""Columns of emitted C."""

_SPACES = {"arena": "a", "weights": "w"}


@dataclass
class CWriter:
    """Prints calls as C statements."""

    lines: list[str] = field(default_factory=list[str])
    indent: int = 1
    workers: bool = False
    """Whether calls are made by several workers, each of which knows its `part` of `parts`."""

    def line(self, text: str = "") -> None:
        """One line at the current indentation."""
        self.lines.append("    " * self.indent + text if text else "")

    def call(self, call: Call) -> None:
        """A comment and a call; structs and arrays become constants in a block of their own."""
        self.line(f"/* {comment_text(call.comment)} */")
        names: dict[int, str] = {}
        alone = self.workers and not call.is_shared
        if not alone and not any(isinstance(argument, Struct) for argument in call.arguments):
            self._statement(call, names)
            return
        self.line("if (part == 0) {" if alone else "{")
        self.indent += 1
        for argument in call.arguments:
            if isinstance(argument, Struct):
                self._declare(argument, names)
        self._statement(call, names)
        self.indent -= 1
        self.line("}")

    def _declare(self, value: Struct | Array, names: dict[int, str]) -> None:
        """A constant for a struct or array, those it points to first."""
        for item in (value,) if isinstance(value, Struct) else value.items:
            for inner in item.fields.values():
                if isinstance(inner, Array):
                    self._declare(inner, names)
        stem = value.type.rsplit("_", 1)[-1] + ("s" if isinstance(value, Array) else "")
        taken = sum(name.rstrip("0123456789") == stem for name in names.values())
        names[id(value)] = name = f"{stem}{taken + 1 if taken else ''}"
        if isinstance(value, Array):
            self.line(f"const {value.type} {name}[] = {{")
            self.indent += 1
            for item in value.items:
                self.wrapped("{", self._fields(item, names), "},")
            self.indent -= 1
            self.line("};")
        else:
            fields = self._fields(value, names)
            if self.workers and value.type in shared_shapes():
                fields += [".part = part", ".parts = parts"]
            self.wrapped(f"const {value.type} {name} = {{", fields, "};")

    def _statement(self, call: Call, names: dict[int, str]) -> None:
        arguments = [
            f"&{names[id(value)]}" if isinstance(value, Struct) else self._text(value, names)
            for value in call.arguments
        ]
        self.wrapped(f"{call.kernel}(", arguments, ");")

    def _fields(self, struct: Struct, names: dict[int, str]) -> list[str]:
        """Designated initialisers."""
        return [f".{key} = {self._text(value, names)}" for key, value in struct.fields.items()]

    def _text(self, value: Value, names: dict[int, str]) -> str:
        """C text of an argument or field."""
        if value is None:
            return "NULL"
        if isinstance(value, int):
            return _integer(value)
        if isinstance(value, Symbol):
            return value.name
        if isinstance(value, Pointer):
            return _pointer(value, self.workers)
        if isinstance(value, Struct | Array):
            return names[id(value)]
        return "{" + ", ".join(map(str, value)) + "}"

    def wrapped(self, head: str, parts: Sequence[str], tail: str) -> None:
        """`head part, part, ... tail`, broken between parts where a line gets too long."""
        room = WIDTH - 4 * self.indent
        current, started = head, False
        for index, part in enumerate(parts):
            piece = part + (tail if index == len(parts) - 1 else ",")
            if started and len(current) + 1 + len(piece) > room:
                self.line(current)
                current = "    " + piece
            else:
                current += (" " if started else "") + piece
            started = True
        self.line(current if parts else head + tail)


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


def _pointer(pointer: Pointer, workers: bool) -> str:
    buffer = pointer.buffer
    if buffer.space in ("input", "output"):
        base = buffer.name
        if pointer.offset == 0:
            return base
        cast = "const unsigned char" if buffer.space == "input" else "unsigned char"
        return f"({cast} *){base} + {pointer.offset}"
    offset = buffer.root().offset + pointer.offset
    base = _SPACES[buffer.space]
    kind = "const void" if buffer.space == "weights" else "void"
    own = f" + (size_t)part * {buffer.per_worker}" if workers and buffer.per_worker else ""
    return f"({kind} *)({base} + {offset}{own})"
