"""Running lowered calls through ctypes on a library of all kernels.

The structs and prototypes are read from vit_kernels.h, so that a field that is renamed in one place
only fails here. Nothing is compiled per test case, which is what lets hypothesis try many.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vit_opt.backends.c.build import BuildOptions, kernel_objects, link_library
from vit_opt.backends.c.code import Array, Buffer, Pointer, Struct, Symbol, Value
from vit_opt.backends.c.levels import KERNELS, LEVELS, runs_here, shared_shapes
from vit_opt.backends.c.lowering import Lowered

_SCALARS: dict[str, Any] = {
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "uint32_t": ctypes.c_uint32,
}


class Header:
    """The enumerators and structs of vit_kernels.h."""

    def __init__(self) -> None:
        text = re.sub(r"/\*.*?\*/", "", (KERNELS / "vit_kernels.h").read_text(), flags=re.S)
        self.symbols: dict[str, int] = {}
        self.structs: dict[str, type[ctypes.Structure]] = {}
        defines = dict(re.findall(r"#define (VIT_\w+) (\d+)", text))
        for body, name in re.findall(r"typedef enum \{(.*?)\} (\w+);", text, flags=re.S):
            _SCALARS[name] = ctypes.c_int
            for index, symbol in enumerate(re.findall(r"VIT_\w+", body)):
                self.symbols[symbol] = index
        for body, name in re.findall(r"typedef struct (?:\w+ )?\{(.*?)\} (\w+);", text, flags=re.S):
            fields: list[tuple[str, Any]] = []
            for declaration in body.split(";"):
                fields += self._fields(declaration.strip(), defines)
            self.structs[name] = type(name, (ctypes.Structure,), {"_fields_": fields})

    @staticmethod
    def _fields(declaration: str, defines: dict[str, str]) -> list[tuple[str, Any]]:
        if not declaration:
            return []
        base, names = re.match(
            r"(?:const )?(?:struct )?(\w+) (.*)", declaration, flags=re.S
        ).groups()
        found: list[tuple[str, Any]] = []
        for name in names.split(","):
            name = name.strip()
            if name.startswith("*"):
                found.append((name.lstrip("*"), ctypes.c_void_p))
                continue
            array = re.match(r"(\w+)\[(\w+)\]", name)
            if array:
                count = int(defines.get(array[2], array[2]))
                found.append((array[1], _SCALARS[base] * count))
            else:
                found.append((name, _SCALARS[base]))
        return found


@cache
def header() -> Header:
    return Header()


HOST_LEVELS = [level for level in LEVELS.values() if runs_here(level)]
"""Instruction levels that this machine can run."""


@cache
def library(compiler: str | None = None, cpu: str = "portable") -> ctypes.CDLL:
    """All kernels of a level as one shared library; signed overflow and bad shifts trap."""
    traps = ("-fsanitize=undefined,bounds", "-fsanitize-undefined-trap-on-error")
    if compiler == "clang":
        traps = ("-fsanitize=undefined,bounds", "-fsanitize-trap=all")
    options = BuildOptions(cpu, compiler, traps, "-O1")
    folder = Path(tempfile.mkdtemp(prefix="vit-kernels-"))
    return ctypes.CDLL(
        str(link_library(kernel_objects(KERNELS, options), folder / "kernels.so", options))
    )


def guarded(size: int) -> np.ndarray:
    """Bytes that end where a page begins that must not be touched."""
    page = mmap.PAGESIZE
    length = -(-size // page) * page
    whole = np.frombuffer(mmap.mmap(-1, length + page), np.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    behind = ctypes.c_void_p(whole.ctypes.data + length)
    if protect(behind, ctypes.c_size_t(page), 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    found = whole[length - size : length]
    found[:] = 0xA5
    return found


class Machine:
    """Memory for a lowered model, and its calls made through ctypes, for one worker after the other.

    Every buffer has memory of its own that ends at a page without access, so that a kernel that
    reads or writes too far stops the program whatever the plan would have put there. Buffers of the
    arena and the weights are aligned, as in a project, so up to 63 bytes lie in between: of these only
    writes are noticed. Inputs and outputs end right there.
    """

    def __init__(
        self, lowered: Lowered, compiler: str | None = None, cpu: str = "portable"
    ) -> None:
        self.lowered = lowered
        self.part = 0
        self.library = library(compiler, cpu)
        self.memory: dict[Buffer, np.ndarray] = {}
        self.kept: list[Any] = []
        data = np.frombuffer(lowered.weights.tobytes(), np.uint8)
        self.bytes_of(lowered.weights.buffer)[: data.size] = data

    def bytes_of(self, buffer: Buffer) -> np.ndarray:
        buffer = buffer.root()
        if buffer not in self.memory:
            own = buffer.space in ("input", "output")
            self.memory[buffer] = guarded(buffer.size if own else -(-buffer.size // 64) * 64)
        return self.memory[buffer]

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Raw output codes, as bytes, for raw input codes."""
        for port, array in zip(self.lowered.inputs, inputs, strict=True):
            raw = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
            self.bytes_of(port.buffer)[: raw.size] = raw
        for call in self.lowered.calls:
            for part in range(self.lowered.threads if call.is_shared else 1):
                self.part = part
                self.kept.clear()
                arguments = [self.argument(value) for value in call.arguments]
                getattr(self.library, call.kernel)(*arguments)
        for buffer, block in self.memory.items():
            if buffer.space == "arena" and not (block[buffer.size :] == 0xA5).all():
                raise AssertionError(f"a kernel wrote behind {buffer.space} {buffer.name}")
        return [self.bytes_of(p.buffer)[: p.buffer.size] for p in self.lowered.outputs]

    def pointer(self, pointer: Pointer) -> int:
        own = self.part * pointer.buffer.per_worker
        return self.bytes_of(pointer.buffer).ctypes.data + pointer.offset + own

    def argument(self, value: Value) -> Any:
        if value is None:
            return ctypes.c_void_p(0)
        if isinstance(value, int):
            return ctypes.c_int32(value)
        if isinstance(value, Symbol):
            return ctypes.c_int(header().symbols[value.name])
        if isinstance(value, Pointer):
            return ctypes.c_void_p(self.pointer(value))
        assert isinstance(value, Struct)
        built = self.struct(value)
        self.kept.append(built)
        return ctypes.byref(built)

    def struct(self, value: Struct) -> ctypes.Structure:
        built = header().structs[value.type]()
        names = {name for name, _ in built._fields_}
        if value.type in shared_shapes():
            built.part, built.parts = self.part, self.lowered.threads
        for name, field in value.fields.items():
            assert name in names, f"{value.type} has no field {name}"
            setattr(built, name, self.field(field))
        return built

    def field(self, value: Value) -> Any:
        if isinstance(value, Symbol):
            return header().symbols[value.name]
        if isinstance(value, Pointer):
            return self.pointer(value)
        if isinstance(value, Array):
            array = (header().structs[value.type] * len(value.items))(
                *(self.struct(item) for item in value.items)
            )
            self.kept.append(array)
            return ctypes.addressof(array)
        return value
