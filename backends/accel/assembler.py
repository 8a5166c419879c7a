"""Assembly text and back, exactly.

One line is one instruction: the mnemonic, then `field=value` for every field that differs from
its default; the body of a loop is indented. `#` starts a comment: a disassembled program names the
operation of the model behind every instruction, and behind data that which reads them. Numbers are
decimal or, after `0x`, hexadecimal. Every instruction goes into the queue of its engine, in the
order of the text; `examples/programs` has a program to start from. Directives describe the rest of
an image:

    .isa 6
    .arch p2vit
    .dram 0x8000
    .macs 1254000000
    .input  "image" 0x0 i8 3x224x224 frac=5 zp=0
    .output "logits" 0x4000 i32 1000 frac=4,4,5 axis=0
    .data 0x1000 00ff8020
    .blob 0x2000 36864 sha256:9f86d08...
    ld.copy dst=abuf[0x0] src=dram[0x0] run=192

`.isa` is the version, checked if it is there. `.arch` names the machine; the digest of its record may
follow, and does where it is no preset. `.dram` are the bytes of DRAM that the program may touch,
`.macs` those of the problem, by which utilisation and GOPS are measured (0: none). `.input` and
`.output` are a name, an address in DRAM, an element type and a shape (`scalar` without one); real
values are (integer - zp) * 2^-frac, and `axis` is there where every channel has its frac. `.data`
holds short segments of DRAM as hexadecimal; longer ones (weights) are named by address, length and
digest, never written out, and taken from a sidecar when the text is assembled.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field

from vit_opt.backends.accel.image import Image, Port, Segment
from vit_opt.backends.accel.unrolling import unroll
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.enums import DType, Engine
from vit_opt.dialects.vit_accel.fields import FieldError, Inst, Space, layout
from vit_opt.dialects.vit_accel.isa import (
    CONTROL,
    INSTRUCTIONS,
    ISA_VERSION,
    ControlInst,
    End,
    Loop,
    TransferInst,
    UnitInst,
)

INLINE_DATA = 64
"""Segments of up to this many bytes are written as hexadecimal."""

_PLAIN = re.compile(r"[\w.+-]+")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class AssemblyError(VitError):
    """Text that is not assembly; the message starts with the line number."""


def digest(data: bytes) -> str:
    """The name of a blob: `sha256:` and its hash."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blobs_of(image: Image) -> dict[str, bytes]:
    """The segments that assembly text names instead of writing them out, by digest."""
    return {digest(s.data): s.data for s in image.segments if len(s.data) > INLINE_DATA}


def _mnemonics() -> dict[str, tuple[type[Inst], dict[str, object]]]:
    """Instruction class and implied field values by mnemonic."""
    table: dict[str, tuple[type[Inst], dict[str, object]]] = {}
    for cls in INSTRUCTIONS:
        if cls in CONTROL:
            for engine in Engine:
                table[f"{engine.name.lower()}.{cls.mnemonic}"] = (cls, {"engine": engine})
        else:
            table[cls.mnemonic] = (cls, {})
    return table


MNEMONICS = _mnemonics()


# -- disassembly ------------------------------------------------------------------------------


def instruction_text(inst: Inst) -> str:
    """The line of one instruction."""
    text = inst.text()
    if isinstance(inst, CONTROL):
        text = text.replace(f" engine={inst.engine.name.lower()}", "", 1)
    return text


def _word(name: str) -> str:
    """A name as one word of a directive."""
    return name if _PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _port_text(kind: str, port: Port) -> str:
    shape = "x".join(map(str, port.shape)) or "scalar"
    words = [
        f".{kind}",
        json.dumps(port.name),
        f"{port.address:#x}",
        port.dtype.name.lower(),
        shape,
        f"frac={','.join(map(str, port.fracs))}",
    ]
    if port.zp:
        words.append(f"zp={port.zp}")
    if port.axis is not None:
        words.append(f"axis={port.axis}")
    return " ".join(words)


def disassemble(image: Image) -> str:
    """Assembly text of an image; `assemble` with `blobs_of(image)` gives the image back."""
    return "\n".join(_lines(image)) + "\n"


def _lines(image: Image) -> Iterator[str]:
    yield f".isa {ISA_VERSION}"
    yield f".arch {_word(image.arch)} sha256:{image.arch_digest}"
    yield f".dram {image.dram_size:#x}"
    yield f".macs {image.macs}"
    for kind, ports in (("input", image.inputs), ("output", image.outputs)):
        for port in ports:
            yield _port_text(kind, port)
    for segment, reader in zip(image.segments, _readers(image), strict=True):
        if len(segment.data) <= INLINE_DATA:
            text = f".data {segment.address:#x} {segment.data.hex()}".rstrip()
        else:
            text = f".blob {segment.address:#x} {len(segment.data)} {digest(segment.data)}"
        yield text + _comment(reader)
    yield from _code_lines(image)


def _comment(name: str | None) -> str:
    """What stands behind a line that is a part of an operation."""
    return "" if name is None else f"  # {' '.join(name.split())}"


def _readers(image: Image) -> list[str | None]:
    """The operation that reads each segment first in the text, where it is known."""
    found: list[str | None] = [None] * len(image.segments)
    if not image.origins.runs:
        return found
    try:
        code, origins = unroll(image.code, image.origins)
    except VitError:  # A program that no machine runs can be read nevertheless.
        return found
    places = sorted((segment.address, number) for number, segment in enumerate(image.segments))
    starts = [address for address, _ in places]
    for index, inst in enumerate(code):
        if isinstance(inst, TransferInst) and inst.src.space is Space.DRAM:
            low, size = inst.src.offset, inst.reach()
            first = max(0, bisect_right(starts, low) - 1)
            for address, number in places[first : bisect_left(starts, low + size)]:
                inside = low < address + len(image.segments[number].data)
                if inside and found[number] is None:
                    found[number] = origins.of(index)
    return found


def _code_lines(image: Image) -> Iterator[str]:
    """The instructions, those in loops indented, with the operation that each is a part of."""
    depths = dict.fromkeys(Engine, 0)
    for index, inst in enumerate(image.code):
        origin = image.origins.of(index) if image.origins.runs else None
        assert isinstance(inst, (ControlInst, UnitInst))
        if isinstance(inst, End):
            depths[inst.engine] = max(0, depths[inst.engine] - 1)
        yield "  " * depths[inst.engine] + instruction_text(inst) + _comment(origin)
        if isinstance(inst, Loop):
            depths[inst.engine] += 1


# -- assembly ---------------------------------------------------------------------------------


def parse_instruction(text: str) -> Inst:
    """The instruction on one line (no comment); FieldError if it is not one."""
    name, *words = text.split()
    if name not in MNEMONICS:
        raise FieldError(f"unknown instruction '{name}'")
    cls, implied = MNEMONICS[name]
    values = dict(implied)
    slots = {slot.name: slot for slot in layout(cls).slots if slot.name not in implied}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise FieldError(f"{name}: expected field=value, found '{word}'")
        if key not in slots:
            raise FieldError(f"{name}: no field '{key}'; fields: {', '.join(slots)}")
        if key in values:
            raise FieldError(f"{name}: field '{key}' is given twice")
        try:
            values[key] = slots[key].field.from_text(value)
        except FieldError as error:
            raise FieldError(f"{name}: field '{key}': {error}") from None
    missing = [n for n, slot in slots.items() if n not in values and slot.default is MISSING]
    if missing:
        raise FieldError(f"{name}: missing field '{missing[0]}'")
    return cls(**values)


def _integer(text: str, what: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise FieldError(f"{what} '{text}' is not an integer") from None


@dataclass
class _Parts:
    """What the directives have said so far."""

    arch: str | None = None
    arch_digest: str = ""
    dram: int = 0
    macs: int = 0
    inputs: list[Port] = field(default_factory=list[Port])
    outputs: list[Port] = field(default_factory=list[Port])
    segments: list[Segment] = field(default_factory=list[Segment])
    code: list[Inst] = field(default_factory=list[Inst])

    def directive(self, text: str, blobs: Mapping[str, bytes]) -> None:
        """Take in one directive; FieldError if it is not one."""
        try:
            name, *words = shlex.split(text)
        except ValueError as error:
            raise FieldError(f"unbalanced quotes ({error})") from None
        counts = {".isa": (1, 1), ".arch": (1, 2), ".dram": (1, 1), ".macs": (1, 1)}
        counts |= {".data": (1, 2), ".blob": (3, 3), ".input": (4, 7), ".output": (4, 7)}
        if name not in counts:
            raise FieldError(f"unknown directive '{name}'")
        low, high = counts[name]
        if not low <= len(words) <= high:
            raise FieldError(f"{name}: expected {low} to {high} words, found {len(words)}")
        if name == ".isa":
            if _integer(words[0], ".isa") != ISA_VERSION:
                raise FieldError(f"text is for ISA version {words[0]}, this tool has {ISA_VERSION}")
        elif name == ".arch":
            self.arch = words[0]
            if len(words) == 2:
                self.arch_digest = _digest(words[1])
        elif name == ".dram":
            self.dram = _integer(words[0], ".dram")
        elif name == ".macs":
            self.macs = _integer(words[0], ".macs")
        elif name == ".data":
            self.segments.append(Segment(_integer(words[0], "address"), _hex(words[1:])))
        elif name == ".blob":
            self.segments.append(_blob(words, blobs))
        else:
            ports = self.inputs if name == ".input" else self.outputs
            ports.append(_parse_port(text))


def _digest(text: str) -> str:
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise FieldError(f"'{text}' is not sha256: and 64 hexadecimal digits")
    return match[1]


def _hex(words: list[str]) -> bytes:
    try:
        return bytes.fromhex("".join(words))
    except ValueError:
        raise FieldError(f"'{words[0]}' is not a sequence of hexadecimal bytes") from None


def _blob(words: list[str], blobs: Mapping[str, bytes]) -> Segment:
    _digest(words[2])
    if words[2] not in blobs:
        raise FieldError(
            f".blob {words[2][:19]}... is not in the sidecar; name the file that has it"
        )
    data = blobs[words[2]]
    if len(data) != _integer(words[1], "length") or digest(data) != words[2]:
        raise FieldError(f".blob {words[2][:19]}... does not match its length or digest")
    return Segment(_integer(words[0], "address"), data)


def _parse_port(text: str) -> Port:
    name, end = json.JSONDecoder().raw_decode(text, text.index('"')) if '"' in text else (None, 0)
    if not isinstance(name, str):
        raise FieldError("the name of an input or output stands in double quotes")
    address, dtype, shape, *rest = text[end:].split()
    if dtype.upper() not in DType.__members__:
        raise FieldError(f"'{dtype}' is not an element type")
    options = {"frac": "0", "zp": "0", "axis": ""}
    for word in rest:
        key, _, value = word.partition("=")
        if key not in options:
            raise FieldError(f"unknown option '{word}'; known: frac, zp, axis")
        options[key] = value
    sizes = () if shape == "scalar" else tuple(_integer(s, "size") for s in shape.split("x"))
    return Port(
        name,
        _integer(address, "address"),
        DType[dtype.upper()],
        sizes,
        tuple(_integer(f, "frac") for f in options["frac"].split(",")),
        _integer(options["zp"], "zp"),
        _integer(options["axis"], "axis") if options["axis"] else None,
    )


def assemble(
    text: str, blobs: Mapping[str, bytes] | None = None, arch: AccelTarget | None = None
) -> Image:
    """The image that assembly text describes.

    `blobs` holds the data behind `.blob` directives; `arch` is the machine of a text that names it
    without its digest, where it is no preset. AssemblyError names the line that is wrong;
    ImageError says what lies outside of DRAM.
    """
    parts = _Parts()
    for number, raw in enumerate(text.splitlines(), 1):
        line = _without_comment(raw).strip()
        if not line:
            continue
        try:
            if line.startswith("."):
                parts.directive(line, blobs or {})
            else:
                parts.code.append(parse_instruction(line))
        except (VitError, ValueError) as error:
            raise AssemblyError(f"line {number}: {error}") from None
    if parts.arch is None:
        raise AssemblyError("line 1: the text has no .arch directive")
    if arch is not None and arch.name == parts.arch and not parts.arch_digest:
        parts.arch_digest = arch.digest()
    return Image(
        parts.arch,
        tuple(parts.code),
        tuple(parts.segments),
        tuple(parts.inputs),
        tuple(parts.outputs),
        parts.dram,
        parts.macs,
        parts.arch_digest,
    )


def _without_comment(line: str) -> str:
    """The line up to a `#` outside double quotes."""
    quoted = False
    for index, char in enumerate(line):
        if char == '"' and (index == 0 or line[index - 1] != "\\"):
            quoted = not quoted
        elif char == "#" and not quoted:
            return line[:index]
    return line
