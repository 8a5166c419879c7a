"""Streams of instructions as bytes and back.

A stream is decoded from its beginning: a field that an instruction leaves out is as in the last one
of the same opcode, whatever its engine. Loops do not matter, they are decoded once.
"""

from __future__ import annotations

from collections.abc import Iterable

from vit_opt.dialects.vit_accel.fields import FieldError, Inst, layout
from vit_opt.dialects.vit_accel.isa import BY_OPCODE


def encode_stream(code: Iterable[Inst]) -> bytes:
    """The bytes of a stream."""
    latest: dict[type[Inst], Inst] = {}
    parts: list[bytes] = []
    for inst in code:
        parts.append(inst.encode(latest.get(type(inst))))
        latest[type(inst)] = inst
    return b"".join(parts)


def decode_stream(code: bytes) -> tuple[Inst, ...]:
    """The instructions of a stream; FieldError naming the index and offset of a bad one."""
    latest: dict[type[Inst], Inst] = {}
    result: list[Inst] = []
    offset = 0
    while offset < len(code):
        where = f"instruction {len(result)} at code offset {offset:#x}"
        cls = BY_OPCODE.get(code[offset])
        if cls is None:
            raise FieldError(f"{where}: illegal opcode {code[offset]:#04x}")
        try:
            inst, size = cls.decode(code[offset : offset + layout(cls).size], latest.get(cls))
        except FieldError as error:
            raise FieldError(f"{where}: {error}") from None
        latest[cls] = inst
        result.append(inst)
        offset += size
    return tuple(result)
