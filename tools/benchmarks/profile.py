"""Where an emitted C project spends its time, kernel call by kernel call.

The project itself has no hooks. For a profile, its model.c is compiled inside another source file
in which every kernel's name is a macro that reads the clock before and after the call and books
the difference on the line of the call. The kernels are the same objects as ever.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects.errors import VitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class CallSite:
    """A kernel call in model.c."""

    kernel: str
    operation: str
    """The comment above it: the operations of the model that it computes."""
    first_line: int
    last_line: int
    """Lines of the statement, from 1."""


@dataclass(frozen=True)
class CallTime:
    """A kernel call and the seconds it takes in an inference."""

    site: CallSite
    seconds: float


def call_sites(source: str) -> list[CallSite]:
    """The kernel calls in the text of a model.c, in order."""
    found: list[CallSite] = []
    comment, start, kernel = "", 0, ""
    for number, line in enumerate(source.splitlines(), 1):
        text = line.strip()
        if text.startswith("/*"):
            comment = text.removeprefix("/*").removesuffix("*/").strip()
        called = re.match(r"(vit_\w+)\(", text)
        if called is not None and not kernel:
            kernel, start = called[1], number
        if kernel and text.endswith(";"):
            found.append(CallSite(kernel, comment, start, number))
            kernel = ""
    return found


def _timed_source(sites: Sequence[CallSite]) -> str:
    """A model.c that includes the emitted one, as calls.c, with a clock around every call."""
    macros = [
        f"#define {name}(...) TIMED({name}(__VA_ARGS__))"
        for name in sorted({site.kernel for site in sites})
    ]
    return "\n".join(
        [
            "#define _POSIX_C_SOURCE 199309L",
            "#include <stdint.h>",
            "#include <time.h>",
            "",
            '#include "vit_kernels.h"',
            "",
            f"uint64_t profile_ns[{sites[-1].last_line + 1}];",
            "",
            "static uint64_t now(void)",
            "{",
            "    struct timespec t;",
            "    clock_gettime(CLOCK_MONOTONIC, &t);",
            "    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;",
            "}",
            "",
            "#define TIMED(call) \\",
            "    do { \\",
            "        const uint64_t begin = now(); \\",
            "        call; \\",
            "        profile_ns[__LINE__] += now() - begin; \\",
            "    } while (0)",
            *macros,
            "",
            '#include "calls.c"',
            "",
        ]
    )


def _timed_project(project: Path, folder: Path) -> list[CallSite]:
    """Make `folder` the same project with timed calls; returns the calls."""
    sites = call_sites((project / "model.c").read_text(encoding="utf-8"))
    if not sites:
        raise VitError(f"{project}: model.c calls no kernels")
    for name in ("kernels", "model.h", "model.json", "weights.bin"):
        (folder / name).symlink_to((project / name).resolve())
    (folder / "calls.c").symlink_to((project / "model.c").resolve())
    (folder / "model.c").write_text(_timed_source(sites), encoding="utf-8")
    return sites


def profile(project: Path, codes: Mapping[str, Array], repeats: int = 20) -> list[CallTime]:
    """Seconds of each kernel call, the median of some inferences.

    `codes` are inputs by name as `CModel.run` takes them. Raises VitError if the project cannot be
    built or calls no kernels.
    """
    import numpy as np

    from vit_opt.backends.c.build import build_c
    from vit_opt.backends.c.run import CModel

    with TemporaryDirectory() as name:
        folder = Path(name)
        sites = _timed_project(project, folder)
        model = CModel(folder)
        library = ctypes.CDLL(str(build_c(folder).resolve()))
        size = sites[-1].last_line + 1
        counters = np.ctypeslib.as_array((ctypes.c_uint64 * size).in_dll(library, "profile_ns"))
        model.run(codes)
        taken: list[Array] = []
        for _ in range(repeats):
            counters[:] = 0
            model.run(codes)
            taken.append(counters.copy())
    lines = np.median(np.stack(taken), axis=0) * 1e-9
    return [
        CallTime(site, float(lines[site.first_line : site.last_line + 1].sum())) for site in sites
    ]


def operation_kind(site: CallSite) -> str:
    """Kinds of the operations of a call, such as `linear + lut`; requantisation left out."""
    kinds = re.findall(r"\bvit\.(\w+)", site.operation)
    shown = [kind for kind in kinds if kind not in ("pot_requant", "requant")] or kinds
    return " + ".join(dict.fromkeys(shown)) or site.kernel


def shares(calls: Sequence[CallTime]) -> dict[str, float]:
    """Share of the time by kind of operation, the largest first."""
    total = sum(call.seconds for call in calls) or 1.0
    sums: dict[str, float] = {}
    for call in calls:
        kind = operation_kind(call.site)
        sums[kind] = sums.get(kind, 0.0) + call.seconds / total
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
