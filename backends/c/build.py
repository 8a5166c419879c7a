"""Building emitted projects with the system's C compiler.

Kernel objects depend on nothing but their sources, the compiler and its flags, so they are kept in
a cache and a model is compiled in the time that its own model.c takes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from vit_opt.backends.c.levels import find_level
from vit_opt.dialects.errors import VitError

WARNINGS = ("-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class BuildOptions:
    """How to compile."""

    cpu: str | None = None
    """Instructions that kernels may use, a key of `levels.LEVELS` or `host`; None: the level that
    the project was emitted for."""

    compiler: str | None = None
    """The C compiler, by default $CC or cc."""

    flags: tuple[str, ...] = ()
    """More flags, such as sanitizers."""

    optimize: str = "-O3"
    """Optimisation level."""

    def command(self) -> list[str]:
        """Compiler and flags for what runs on any processor, without files.

        Raises VitError if there is no compiler.
        """
        return [
            *find_compiler(self.compiler),
            "-std=c11",
            self.optimize,
            *WARNINGS,
            *self.flags,
        ]

    def kernel_command(self) -> list[str]:
        """Compiler and flags for kernels; raises VitError for an unknown level."""
        return [*self.command(), *find_level(self.cpu or "portable").flags]


def find_compiler(name: str | None = None) -> list[str]:
    """The C compiler as a command; raises VitError if it is not installed."""
    words = shlex.split(name or os.environ.get("CC", "")) or ["cc"]
    if shutil.which(words[0]) is None:
        raise VitError(f"C compiler '{words[0]}' not found; install gcc or clang, or set CC")
    return words


@lru_cache
def _compiler_version(compiler: str) -> str:
    """What a compiler says of itself, and the machine that -march=native means."""
    command = [*shlex.split(compiler), "--version"]
    version = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    features = sorted({line for line in lines if line.startswith(("flags", "Features"))})
    return "\n".join([version, platform.machine(), *features])


def compile_c(command: Sequence[str], what: str) -> None:
    """Run the compiler; raises VitError with the first lines of what it says."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if "error" in line]
        shown = "; ".join((lines or result.stderr.splitlines())[:3])
        raise VitError(f"{what}: {command[0]} failed: {shown or 'no message'}")


def cache_folder() -> Path:
    """Where compiled kernels are kept ($XDG_CACHE_HOME/vit-opt, usually ~/.cache/vit-opt)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vit-opt" / "objects"


def kernel_objects(folder: Path, options: BuildOptions) -> list[Path]:
    """Objects of the kernels in a folder, compiled as position independent code or cached.

    Variants for instruction levels that `options` do not allow are left out.
    """
    level = find_level(options.cpu or "portable")
    sources = sorted(path for path in folder.glob("vit_*.c") if level.runs(path))
    headers = b"".join(path.read_bytes() for path in sorted(folder.glob("*.h")))
    command = [*options.kernel_command(), "-fPIC"]
    identity = f"{command}{_compiler_version(shlex.join(find_compiler(options.compiler)))}".encode()
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VitError(f"{cache}: cannot create the cache of compiled kernels: {error}") from error

    def compiled(source: Path) -> Path:
        key = hashlib.sha256(identity + headers + source.read_bytes()).hexdigest()[:32]
        target = cache / f"{source.stem}-{key}.o"
        if not target.exists():
            with tempfile.NamedTemporaryFile(dir=cache, suffix=".o") as part:
                compile_c([*command, "-c", str(source), "-o", part.name], source.name)
                shutil.copyfile(part.name, f"{part.name}.done")
                Path(f"{part.name}.done").replace(target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compiled, sources))


def link_library(objects: Sequence[Path], target: Path, options: BuildOptions) -> Path:
    """A shared library from sources and objects, written in one step."""
    part = target.with_name(target.name + ".part")
    files = [str(path) for path in objects]
    threads = ["-pthread"] if any(path.stem.startswith("vit_team") for path in objects) else []
    command = [*options.command(), "-fPIC", "-shared", *files, *threads, "-o", str(part)]
    compile_c(command, target.name)
    part.replace(target)
    return target


def emitted_level(project: Path) -> str:
    """The instruction level that a project was emitted for; raises VitError if it does not say."""
    try:
        return json.loads((project / "model.json").read_text())["cpu"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VitError(f"{project}: not a complete C project: {error}") from error


def build_c(project: Path, options: BuildOptions | None = None) -> Path:
    """Compile an emitted project into a shared library and return its path.

    The library holds model and kernels, not the weights. Raises VitError if the folder is no
    project or the compiler fails.
    """
    options = options or BuildOptions()
    model = project / "model.c"
    if not model.exists():
        raise VitError(f"{project}: no model.c here; emit the C project first")
    if options.cpu is None:
        options = replace(options, cpu=emitted_level(project))
    kernels = project / "kernels"
    objects = kernel_objects(kernels, options)
    identity = [model.read_bytes(), str(options).encode(), *(p.name.encode() for p in objects)]
    digest = hashlib.sha256(b"".join(identity)).hexdigest()[:16]
    build = project / "build"
    build.mkdir(exist_ok=True)
    target = build / f"libmodel-{digest}.so"
    if not target.exists():
        include = replace(options, flags=(*options.flags, f"-I{kernels}", f"-I{project}"))
        link_library([model, *objects], target, include)
    return target
