"""Writing the C project of a model.

    model.c, model.h   one kernel call a line, each with the operation it computes
    weights.bin        every constant, 64-byte aligned, little-endian; weights.S links it in
    kernels/           the kernel sources that the model calls, and no others
    main.c             reads raw codes from files, writes raw codes to files
    Makefile, CMakeLists.txt
    model.json         names, shapes and number formats of inputs and outputs, for vit-run

The model keeps nothing between calls: weights, inputs, outputs and an arena for everything in
between are the caller's, and the arena's size is a constant in the header.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xdsl.dialects.builtin import ModuleOp

from vit_opt.backends.c import project
from vit_opt.backends.c.code import ALIGNMENT, CWriter, comment_text
from vit_opt.backends.c.cpu_check import cpu_check
from vit_opt.backends.c.graph import main_function
from vit_opt.backends.c.levels import KERNELS, Level, check_threads, find_level
from vit_opt.backends.c.lowering import Lowered, Port, lower
from vit_opt.backends.c.memory import element_size, storage_name, type_text
from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.attributes import FixedType, QuantizedType
from vit_opt.dialects.vit.ops.base import shape_of, tensor_type


@dataclass(frozen=True)
class EmitOptions:
    """What the project is called in C."""

    name: str = "model"
    """Prefix of the C functions and constants; a C identifier."""

    cpu: str = "portable"
    """Instruction level, a key of `levels.LEVELS` or `host`."""

    threads: int = 1
    """Threads that share an inference, at most; with 1 the project holds nothing about threads."""

    def __post_init__(self) -> None:
        """Raises VitError for a name that C would not take, an unknown level, too many threads."""
        check_threads(self.threads)
        if not re.fullmatch(r"[A-Za-z_]\w*", self.name, flags=re.ASCII):
            raise VitError(f"'{self.name}' cannot be the prefix of C names; use letters and digits")
        find_level(self.cpu)


@dataclass(frozen=True)
class CProject:
    """An emitted project."""

    folder: Path
    arena_bytes: int
    """Memory the caller must lend for one inference, scratch included."""
    weight_bytes: int
    """Size of weights.bin."""
    calls: int
    """Kernel calls of one inference."""
    cpu: str
    """Instruction level that it needs."""


def emit_c(
    module: ModuleOp, assets: AssetStore, folder: Path, options: EmitOptions | None = None
) -> CProject:
    """Write the C project of a module of `vit` operations into a folder.

    Raises VitError if an operation has no kernel or the folder cannot be written; everything is
    computed before the first file is touched.
    """
    options = options or EmitOptions()
    level = find_level(options.cpu)
    lowered = lower(main_function(module), assets, level, options.threads)
    texts = {
        "model.h": header_text(lowered, options),
        "model.c": source_text(lowered, options),
        "main.c": main_text(lowered, options),
        "model.json": interface_text(lowered, level),
        **project.build_files(options.name, level.flags, lowered.threads > 1),
    }
    weights = lowered.weights.tobytes()
    team = {"vit_team_run"} if lowered.threads > 1 else set[str]()
    kernels = needed_kernels({call.kernel for call in lowered.calls} | team)
    try:
        (folder / "kernels").mkdir(parents=True, exist_ok=True)
        for stale in (folder / "kernels").glob("vit_*"):
            stale.unlink()
        for source in kernels:
            _write(folder / "kernels" / source.name, source.read_bytes())
        for name, text in texts.items():
            _write(folder / name, text.encode())
        _write(folder / "weights.bin", weights)
    except OSError as error:
        raise VitError(f"{folder}: cannot write the C project: {error}") from error
    return CProject(folder, lowered.arena, len(weights), len(lowered.calls), level.name)


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def needed_kernels(names: set[str]) -> list[Path]:
    """The kernel sources that define these functions, what they call in turn, and headers."""
    texts = {path: _code_of(path) for path in sorted(KERNELS.glob("vit_*.[ch]"))}
    defined: dict[str, Path] = {}
    for path, text in texts.items():
        for name in re.findall(r"^[a-z]\w* (vit_\w+)\(", text if path.suffix == ".c" else "", re.M):
            defined[name] = path
    found: set[Path] = set()
    queue = [defined[name] for name in names]
    while queue:
        path = queue.pop()
        if path in found:
            continue
        found.add(path)
        called = set(re.findall(r"\b(vit_\w+)\(", texts[path]))
        queue += [defined[name] for name in called if name in defined]
        queue += [KERNELS / name for name in re.findall(r'^#include "(.*)"', texts[path], re.M)]
    return sorted(found, key=lambda path: (path.suffix != ".h", path))


def _code_of(source: Path) -> str:
    """C text without comments; that of the interface, without what is declared there."""
    text = re.sub(r"/\*.*?\*/", "", source.read_text(encoding="utf-8"), flags=re.S)
    return "" if source.name == "vit_kernels.h" else text


# ---- C text --------------------------------------------------------------------------------------

_C_TYPES = {"S": "int", "U": "uint"}


def c_type(port: Port) -> str:
    """The C type of a port's codes."""
    name = storage_name(port.value)
    return "uint8_t" if name == "LOG2" else f"{_C_TYPES[name[0]]}{name[1:]}_t"


def _format_text(port: Port) -> str:
    """How codes of a port stand for real numbers."""
    element = tensor_type(port.value).get_element_type()
    if not isinstance(element, QuantizedType):
        return "log2 codes"
    offset = f" - {element.zero_point}" if element.zero_point else ""
    code = f"(code{offset})" if offset else "code"
    if element.is_per_channel:
        return f"real = {code} * scale per channel, see model.json"
    if isinstance(element, FixedType):
        return f"real = {code} * 2^{-element.frac}"
    return f"real = {code} * {float(element.channel_scales())!r}"


def _parameters(lowered: Lowered) -> list[str]:
    parts = ["const void *weights", "void *arena"]
    parts += [f"const {c_type(port)} *{port.buffer.name}" for port in lowered.inputs]
    parts += [f"{c_type(port)} *{port.buffer.name}" for port in lowered.outputs]
    return parts


def _declaration(lowered: Lowered, options: EmitOptions, tail: str) -> list[str]:
    """The model's function, wrapped."""
    writer = CWriter(indent=0)
    writer.wrapped(f"int {options.name}_run(", _parameters(lowered), tail)
    return writer.lines


def header_text(lowered: Lowered, options: EmitOptions) -> str:
    """model.h: sizes and the one function."""
    prefix = options.name.upper()
    ports = [
        f" *   {port.buffer.name}: {comment_text(port.name)}, {type_text(port.value)}, "
        f"{_format_text(port)}"
        for port in (*lowered.inputs, *lowered.outputs)
    ]
    threads = _thread_lines(prefix, lowered.threads)
    sizes = [
        f"#define {prefix}_{port.buffer.name.upper()}_BYTES {port.buffer.size}"
        for port in (*lowered.inputs, *lowered.outputs)
    ]
    lines = [
        "/* Generated by vit-opt: integer-only inference, no floating point, heap or global state. */",
        f"#ifndef {prefix}_H",
        f"#define {prefix}_H",
        "",
        "#include <stdint.h>",
        "",
        f"#define {prefix}_ALIGNMENT {ALIGNMENT}",
        f"#define {prefix}_ARENA_BYTES {lowered.arena}",
        f"#define {prefix}_WEIGHT_BYTES {lowered.weights.buffer.size}",
        *threads,
        *sizes,
        "",
        "/* One inference on integer codes, dense and row-major:",
        *ports,
        f" * weights: the contents of weights.bin; arena: {prefix}_ARENA_BYTES of scratch memory. Both",
        f" * aligned to {prefix}_ALIGNMENT bytes. Returns 0; 1 if a pointer is not aligned, 2 on a",
        " * big-endian machine, 3 on a processor that lacks the instructions of the kernels, with",
        " * the outputs untouched."
        + (" Results are the same for any number of threads. */" if threads else " */"),
        *_declaration(lowered, options, ");"),
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _thread_lines(prefix: str, threads: int) -> list[str]:
    """How many threads work on an inference; nothing where there is one."""
    if threads == 1:
        return []
    return [
        "",
        f"/* Threads of an inference: {threads}, or fewer with -DVIT_THREADS=N; with 1, the operating",
        " * system's threads are not used at all. */",
        "#ifndef VIT_THREADS",
        f"#define VIT_THREADS {threads}",
        "#endif",
        f"#if VIT_THREADS < 1 || VIT_THREADS > {threads}",
        f'#error "VIT_THREADS must be 1 to {threads}, for which the arena is laid out"',
        "#endif",
        f"#define {prefix}_THREADS VIT_THREADS",
        "",
    ]


def source_text(lowered: Lowered, options: EmitOptions) -> str:
    """model.c: the calls."""
    includes, check = cpu_check(find_level(options.cpu))
    several = lowered.threads > 1
    writer = CWriter(indent=0, workers=several)
    for line in (
        "/* Generated by vit-opt. a + N is the arena, w + N the weights. */",
        '#include "model.h"',
        "",
        *includes,
        '#include "vit_kernels.h"',
        *(('#include "vit_team.h"',) if several else ()),
        "",
        *check,
    ):
        writer.line(line)
    if several:
        _write_worker(writer, lowered)
    writer.lines += _declaration(lowered, options, ")")
    writer.line("{")
    writer.indent = 1
    for line in (
        "unsigned char *const a = arena;",
        "const unsigned char *const w = weights;",
        "const uint16_t one = 1;",
        f"if (((uintptr_t)a | (uintptr_t)w) % {options.name.upper()}_ALIGNMENT != 0) {{",
        "    return 1;",
        "}",
        "if (*(const unsigned char *)&one != 1) {",
        "    return 2;",
        "}",
        *(("if (!cpu_is_supported()) {", "    return 3;", "}") if check else ()),
    ):
        writer.line(line)
    if several:
        names = ", ".join(port.buffer.name for port in (*lowered.inputs, *lowered.outputs))
        writer.line(f"const tensors all = {{a, w, {names}}};")
        writer.line(f"vit_team_run({options.name.upper()}_THREADS, work, &all);")
    else:
        _write_calls(writer, lowered)
    writer.line("return 0;")
    writer.indent = 0
    writer.line("}")
    return "\n".join(writer.lines) + "\n"


def _write_calls(writer: CWriter, lowered: Lowered) -> None:
    for call in lowered.calls:
        writer.line()
        writer.call(call)
        if writer.workers:
            writer.line("vit_team_wait(team);")


def _write_worker(writer: CWriter, lowered: Lowered) -> None:
    """The function that every worker runs, and the struct of what it works on."""
    ports = [*lowered.inputs, *lowered.outputs]
    fields = [("unsigned char *", "a"), ("const unsigned char *", "w")]
    for port in ports:
        const = "const " if port in lowered.inputs else ""
        fields.append((f"{const}{c_type(port)} *", port.buffer.name))
    for line in (
        "typedef struct {",
        *(f"    {kind}{name};" for kind, name in fields),
        "} tensors;",
        "",
        "/* All calls, as one of the workers makes them. */",
        "static void work(const void *model, vit_team *team, int32_t part, int32_t parts)",
        "{",
        "    const tensors *const all = (const tensors *)model;",
        *(f"    {kind}const {name} = all->{name};" for kind, name in fields),
    ):
        writer.line(line)
    writer.indent = 1
    _write_calls(writer, lowered)
    writer.indent = 0
    writer.line("}")
    writer.line()


def main_text(lowered: Lowered, options: EmitOptions) -> str:
    """main.c: files of raw codes in, files of raw codes out."""
    ports = [*lowered.inputs, *lowered.outputs]
    prefix = options.name.upper()
    return project.main_program(
        options.name,
        [(p.buffer.name, c_type(p), f"{prefix}_{p.buffer.name.upper()}_BYTES") for p in ports],
        len(lowered.inputs),
    )


def interface_text(lowered: Lowered, level: Level) -> str:
    """model.json: what a host needs to build the project, prepare inputs and read outputs."""
    interface = {
        "cpu": level.name,
        "inputs": [_port_record(port) for port in lowered.inputs],
        "outputs": [_port_record(port) for port in lowered.outputs],
        "arena_bytes": lowered.arena,
        "weight_bytes": lowered.weights.buffer.size,
        "calls": len(lowered.calls),
        "threads": lowered.threads,
    }
    return json.dumps(interface, indent=1) + "\n"


def _port_record(port: Port) -> dict[str, Any]:
    element = tensor_type(port.value).get_element_type()
    record: dict[str, Any] = {
        "name": port.name,
        "shape": list(shape_of(port.value)),
        "dtype": c_type(port).removesuffix("_t"),
        "bytes": port.buffer.size,
        "item_bytes": element_size(port.value),
    }
    if isinstance(element, QuantizedType):
        record |= {
            "scale": element.channel_scales().tolist(),
            "axis": element.channel_axis,
            "zero_point": element.zero_point,
            "bounds": list(element.bounds),
        }
    return record
