"""`vit-bench scalesim`: cycles of plain matrix products against SCALE-Sim 3.0 on the same array.

SCALE-Sim (https://github.com/scalesim-project/SCALE-Sim, from PyPI) simulates a systolic array of
R x C multipliers in one of three dataflows, which are ours by the axes that lie on the array:

    dataflow   rows x columns   in time   our map
    os         M x N            K         mn
    ws         K x N            M         kn
    is         K x M            N         km

It cuts a product into folds that fill the array and lets each drain before the next one starts:

    cycles = ceil(rows / R) * ceil(columns / C) * (time + R + C - 2 [+ R for ws and is]) - 1

where R more cycles bring the stationary operand, and R + C - 2 are the skew of a systolic array.

Two figures of ours stand beside it. `same array` is the emulator on an array that works like that:
one instruction a fold, `array_fill` and `array_drain` those cycles. The models coincide there, and
so must the cycles. `preset` is `p2vit` (or `p2vit-large`): operands are broadcast, the next fold's
operands enter while the last one's results leave, so that filling and draining are paid once an
instruction. The difference is the skew, folds * (R + C - 2), and shrinks as the time axis grows.

SCALE-Sim needs numpy 1, so it gets a virtual environment of its own, made by the first call.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import P2VIT, P2VIT_LARGE, AccelTarget
from vit_opt.tools.command import write_text
from vit_opt.tools.progress import progress

VERSION = "3.0.0"
PACKAGES = ("numpy<2", f"scalesim=={VERSION}")

ARRAYS: Mapping[str, AccelTarget] = {"64x8": P2VIT, "64x36": P2VIT_LARGE}
"""Presets by their array."""


@dataclass(frozen=True)
class Flow:
    """A dataflow: which axes lie on the array, and whether an operand is loaded before a fold."""

    map: str
    stationary: bool


FLOWS: Mapping[str, Flow] = {
    "os": Flow("MN", False),
    "ws": Flow("KN", True),
    "is": Flow("KM", True),
}


@dataclass(frozen=True)
class Gemm:
    """A product of m x k by k x n."""

    name: str
    m: int
    n: int
    k: int

    def extent(self, axis: str) -> int:
        """Size of the axis called M, N or K."""
        return {"M": self.m, "N": self.n, "K": self.k}[axis]

    def __str__(self) -> str:
        return f"{self.m} x {self.n} x {self.k}"


GEMMS = (
    Gemm("patches", 196, 192, 768),
    Gemm("qkv", 197, 576, 192),
    Gemm("scores", 197, 197, 64),
    Gemm("values", 197, 64, 197),
    Gemm("projection", 197, 192, 192),
    Gemm("fc1", 197, 768, 192),
    Gemm("fc2", 197, 192, 768),
    Gemm("head", 1, 1000, 192),
    *(Gemm(f"square {size}", size, size, size) for size in (64, 128, 256)),
    Gemm("long k", 64, 72, 4096),
    Gemm("long m", 4096, 72, 64),
)
"""The matrix products of DeiT-T, square ones, and two whose time axis is long."""

CONFIG = """\
[general]
run_name = gemm
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {columns}
IfmapSramSzkB: 53
FilterSramSzkB: 53
OfmapSramSzkB: 108
IfmapOffset: 0
FilterOffset: 100000000
OfmapOffset: 200000000
Dataflow: {flow}
Bandwidth: 10
ReadRequestBuffer: 32
WriteRequestBuffer: 32
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""

DRIVER = """\
from scalesim.scale_sim import scalesim
scalesim(save_disk_space=True, verbose=False, config='array.cfg', topology='gemms.csv',
         layout='layout.csv', input_type_gemm=True).run_scale(top_path='out')
"""


# ---- ours ----------------------------------------------------------------------------------------


def folds(gemm: Gemm, arch: AccelTarget, flow: Flow) -> list[Gemm]:
    """The product cut into pieces that the array holds at once, the last ones smaller."""
    on_lanes, on_columns = flow.map
    cuts = {on_lanes: arch.lanes, on_columns: arch.columns}

    def parts(axis: str) -> list[int]:
        size = gemm.extent(axis)
        step = cuts.get(axis, size)
        return [min(step, size - start) for start in range(0, size, step)]

    return [Gemm(gemm.name, m, n, k) for m in parts("M") for n in parts("N") for k in parts("K")]


def emulate(pieces: Sequence[Gemm], arch: AccelTarget, flow: Flow) -> int:
    """Cycles of the emulator for one `mac.matmul` a piece. All is taken to be on chip: rows of an
    operand lie on one another (strides of 0), and `obuf` is as large as the sums need it to be."""
    from vit_opt.backends.accel.image import Image
    from vit_opt.backends.accel.run import time_accel
    from vit_opt.dialects.vit_accel import isa
    from vit_opt.dialects.vit_accel.enums import MacMap
    from vit_opt.dialects.vit_accel.fields import Addr, Space

    sums = max(4 * piece.m * piece.n for piece in pieces)
    memories = (
        replace(m, size=max(m.size, sums if m.name == "obuf" else 0)) for m in arch.memories
    )
    arch = replace(arch, memories=tuple(memories))
    code = [
        isa.Matmul(
            acc=Addr(Space.OBUF),
            a=Addr(Space.ABUF),
            b=Addr(Space.BBUF),
            m=piece.m,
            n=piece.n,
            k=piece.k,
            acc_row=4 * piece.n,
            a_row=0,
            b_row=0,
            map=MacMap[flow.map],
        )
        for piece in pieces
    ]
    return time_accel(Image(arch.name, tuple(code), arch_digest=arch.digest()), arch).cycles


def systolic(arch: AccelTarget, flow: Flow) -> AccelTarget:
    """The array filled and drained as SCALE-Sim's: skew of both axes, and the stationary operand."""
    fill = arch.lanes - 1 + (arch.lanes if flow.stationary else 0)
    return replace(arch, array_fill=fill, array_drain=arch.columns - 1)


def ours(gemm: Gemm, arch: AccelTarget, flow: Flow) -> dict[str, int]:
    """Our cycles of a product: on the preset, and on the same array as SCALE-Sim's."""
    pieces = folds(gemm, arch, flow)
    return {
        "folds": len(pieces),
        "preset": emulate([gemm], arch, flow),
        "same_array": emulate(pieces, systolic(arch, flow), flow),
    }


# ---- theirs --------------------------------------------------------------------------------------


def install(venv: Path, say: Callable[[str], None]) -> Path:
    """The interpreter of SCALE-Sim's virtual environment, made if it is missing."""
    python = venv.absolute() / "bin" / "python"
    marker = venv / ".scalesim"
    if not marker.exists():
        say(f"installing SCALE-Sim into {venv}")
        _call([sys.executable, "-m", "venv", str(venv)], None)
        _call([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], None)
        write_text(marker, VERSION + "\n")
    return python


def simulate(python: Path, gemms: Sequence[Gemm], array: tuple[int, int], flow: str) -> list[int]:
    """SCALE-Sim's cycles (without filling the buffers before the start), product by product."""
    rows, columns = array
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "out").mkdir()
        config = CONFIG.format(rows=rows, columns=columns, flow=flow)
        (folder / "array.cfg").write_text(config, encoding="utf-8")
        lines = [f"g{i},{g.m},{g.n},{g.k},1:1," for i, g in enumerate(gemms)]
        _write_csv(folder / "gemms.csv", "Layer,M,N,K,Sparsity,", lines)
        ones = ",".join(["1"] * 20)
        _write_csv(folder / "layout.csv", "Layer,", [f"g{i},{ones}," for i in range(len(gemms))])
        _call([str(python), "-c", DRIVER], folder)
        report = next((folder / "out").glob("*/COMPUTE_REPORT.csv"), None)
        if report is None:
            raise VitError("SCALE-Sim wrote no COMPUTE_REPORT.csv")
        header, *rows_ = report.read_text(encoding="utf-8").splitlines()
        column = [title.strip() for title in header.split(",")].index("Total Cycles")
        return [int(float(row.split(",")[column])) for row in rows_ if row.strip()]


def _write_csv(path: Path, header: str, lines: Sequence[str]) -> None:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def _call(command: Sequence[str], folder: Path | None) -> None:
    """Run a command; VitError with the last line it said if it fails."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode != 0:
        said = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
        raise VitError(f"{' '.join(command[:4])}: {said}")


# ---- the command ---------------------------------------------------------------------------------


def compare(
    arrays: Sequence[str],
    flows: Sequence[str],
    venv: Path,
    say: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """One row for every array, dataflow and product."""
    python = install(venv, say)
    found: list[dict[str, Any]] = []
    for array in arrays:
        arch = ARRAYS[array]
        for flow in flows:
            say(f"SCALE-Sim on {array}, {flow}")
            theirs = simulate(python, GEMMS, (arch.lanes, arch.columns), flow)
            for gemm, cycles in zip(GEMMS, theirs, strict=True):
                row = {"array": array, "flow": flow, "gemm": gemm.name}
                sizes = {"m": gemm.m, "n": gemm.n, "k": gemm.k}
                found.append(row | sizes | ours(gemm, arch, FLOWS[flow]) | {"scalesim": cycles})
    return found


def table(found: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Header and rows; differences are relative to SCALE-Sim."""
    header = ("product", "array", "flow", "m x n x k", "folds", "SCALE-Sim", "same array", "")
    rows: list[list[str]] = []
    for row in found:
        theirs = row["scalesim"]
        rows.append(
            [
                row["gemm"],
                row["array"],
                row["flow"],
                f"{row['m']} x {row['n']} x {row['k']}",
                f"{row['folds']:,}",
                f"{theirs:,}",
                f"{row['same_array']:,}",
                f"{row['same_array'] / theirs - 1:+.2%}",
                f"{row['preset']:,}",
                f"{row['preset'] / theirs - 1:+.1%}",
            ]
        )
    return (*header, "preset", ""), rows


def _choices(text: str, known: Mapping[str, Any], what: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in known:
            raise VitError(f"unknown {what} '{name}'; known: {', '.join(known)}")
    return names


LIMIT = 0.05
"""Largest difference allowed where the models coincide."""


def _run(args: argparse.Namespace) -> None:
    from vit_opt.tools.tables import print_table

    arrays = _choices(args.array, ARRAYS, "array")
    flows = _choices(args.flow, FLOWS, "dataflow")
    venv = Path(args.venv)
    venv.parent.mkdir(parents=True, exist_ok=True)
    with progress("vit-bench scalesim") as say:
        found = compare(arrays, flows, venv, say)
    if args.json:
        print(json.dumps(found))
    else:
        print_table(*table(found))
    worst = max(abs(math.log(row["same_array"] / row["scalesim"])) for row in found)
    if worst > LIMIT:
        raise VitError(f"cycles on the same array differ by {worst:.1%} from SCALE-Sim's")


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add `scalesim` to the commands of `vit-bench`."""
    command = commands.add_parser("scalesim", help="cycles of matrix products against SCALE-Sim")
    command.add_argument(
        "--array", default=",".join(ARRAYS), metavar="RxC,..", help="default: 64x8,64x36"
    )
    command.add_argument(
        "--flow", default=",".join(FLOWS), metavar="NAME,..", help="default: os,ws,is"
    )
    command.add_argument(
        "--venv",
        default="build/scalesim",
        metavar="DIR",
        help="SCALE-Sim's virtual environment, made if missing (default: build/scalesim)",
    )
    command.add_argument("--json", action="store_true", help="one JSON list on standard output")
    command.set_defaults(run=_run)
