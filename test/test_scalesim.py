"""Cycles of matrix products: by hand, by SCALE-Sim's closed form, and by what SCALE-Sim said.

The stored figures are those of SCALE-Sim 3.0.0 (PyPI, numpy 1.26, Python 3.11), column `Total Cycles`
of COMPUTE_REPORT.csv, written by `vit-bench scalesim --json`.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.dialects.vit.targets import P2VIT
from vit_opt.tools import bench
from vit_opt.tools.benchmarks import scalesim
from vit_opt.tools.benchmarks.scalesim import ARRAYS, FLOWS, LIMIT, Gemm

STORED: dict[tuple[str, str], tuple[int, ...]] = {
    ("64x8", "os"): (
        80447,
        75455,
        13399,
        8543,
        25151,
        100607,
        80447,
        32749,
        1071,
        6335,
        41727,
        37493,
        77183,
    ),
    ("64x8", "ws"): (
        95039,
        71495,
        8274,
        10591,
        23831,
        95327,
        95327,
        50624,
        1583,
        8383,
        49919,
        114047,
        38069,
    ),
    ("64x8", "is"): (
        97799,
        53249,
        8274,
        19799,
        24449,
        67649,
        97799,
        3401,
        1583,
        8383,
        49919,
        105471,
        105471,
    ),
    ("64x36", "os"): (
        20783,
        18559,
        3887,
        2359,
        6959,
        25519,
        20783,
        8119,
        323,
        1807,
        11327,
        8387,
        20735,
    ),
    ("64x36", "ws"): (
        25775,
        17231,
        2153,
        2871,
        6461,
        23693,
        25847,
        13691,
        451,
        2319,
        13375,
        28927,
        8515,
    ),
    ("64x36", "is"): (
        25487,
        13283,
        2153,
        5423,
        6371,
        16739,
        25487,
        3485,
        451,
        2319,
        13375,
        29951,
        26675,
    ),
}
"""Cycles of `scalesim.GEMMS` by array and dataflow."""


def closed_form(gemm: Gemm, rows: int, columns: int, flow: str) -> int:
    """SCALE-Sim's cycles as the module's text gives them."""
    on_rows, on_columns = FLOWS[flow].map
    (time,) = set("MNK") - {on_rows, on_columns}
    folds = ceil(gemm.extent(on_rows) / rows) * ceil(gemm.extent(on_columns) / columns)
    skew = rows + columns - 2 + (rows if flow != "os" else 0)
    return folds * (gemm.extent(time) + skew) - 1


STORED_CASES = [
    (array, flow, gemm, cycles)
    for (array, flow), figures in STORED.items()
    for gemm, cycles in zip(scalesim.GEMMS, figures, strict=True)
]


@pytest.mark.parametrize(("array", "flow", "gemm", "theirs"), STORED_CASES)
def test_against_scalesim(array: str, flow: str, gemm: Gemm, theirs: int) -> None:
    """Equal to a cycle on the same array; the preset lacks the skew of all folds but one, unless
    its banks take longer to give the operands."""
    arch = ARRAYS[array]
    found = scalesim.ours(gemm, arch, FLOWS[flow])
    assert found["same_array"] == theirs + 1
    assert abs(found["same_array"] / theirs - 1) < LIMIT
    assert closed_form(gemm, arch.lanes, arch.columns, flow) == theirs
    skew = arch.lanes + arch.columns - 2 + (arch.lanes if flow != "os" else 0)
    overhead = arch.array_fill + arch.array_drain
    banks = arch.memories[0].banks * arch.memories[0].width
    operands = (gemm.m * gemm.k, gemm.n * gemm.k, 4 * gemm.m * gemm.n)
    cycles = theirs + 1 - found["folds"] * skew + overhead
    assert found["preset"] == max(cycles, ceil(max(operands) / banks))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(FLOWS)),
    st.integers(1, 200),
    st.integers(1, 200),
    st.integers(1, 200),
    st.integers(12, 70),
    st.integers(6, 40),
)
def test_same_array_is_the_closed_form(
    flow: str, m: int, n: int, k: int, rows: int, columns: int
) -> None:
    arch = replace(P2VIT, lanes=rows, columns=columns)
    gemm = Gemm("any", m, n, k)
    found = scalesim.ours(gemm, arch, FLOWS[flow])
    assert found["same_array"] == closed_form(gemm, rows, columns, flow) + 1


def test_by_hand() -> None:
    """100 x 20 x 30 on 64 x 8, results on the array: 2 x 3 folds of 30 steps."""
    gemm = Gemm("hand", 100, 20, 30)
    pieces = scalesim.folds(gemm, P2VIT, FLOWS["os"])
    assert [(p.m, p.n, p.k) for p in pieces] == [
        (64, 8, 30),
        (64, 8, 30),
        (64, 4, 30),
        (36, 8, 30),
        (36, 8, 30),
        (36, 4, 30),
    ]
    found = scalesim.ours(gemm, P2VIT, FLOWS["os"])
    assert found == {"folds": 6, "preset": 8 + 6 * 30 + 8, "same_array": 6 * (63 + 30 + 7)}
    weights = scalesim.ours(gemm, P2VIT, FLOWS["ws"])
    assert weights == {"folds": 3, "preset": 8 + 3 * 100 + 8, "same_array": 3 * (127 + 100 + 7)}


def test_report_is_read(tmp_path: Path) -> None:
    """A stand-in for the interpreter writes what SCALE-Sim writes."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\ntest -f array.cfg && grep -q 'Dataflow: ws' array.cfg || exit 3\n"
        "mkdir out/gemm\nprintf 'LayerID, Total Cycles (incl. prefetch), Total Cycles, Stall,\\n"
        "0, 9, 7.0, 0,\\n1, 10, 8, 0,\\n' > out/gemm/COMPUTE_REPORT.csv\n"
    )
    python.chmod(0o755)
    assert scalesim.simulate(python, scalesim.GEMMS[:2], (64, 8), "ws") == [7, 8]


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / ".scalesim").write_text(scalesim.VERSION)
    python = venv / "bin" / "python"
    python.write_text("#!/bin/sh\necho first >&2\necho no such module >&2\nexit 1\n")
    python.chmod(0o755)
    for options, message in (
        (["--array", "8x8"], "unknown array '8x8'; known: 64x8, 64x36"),
        (["--flow", "rs"], "unknown dataflow 'rs'; known: os, ws, is"),
        (["--venv", str(venv)], "no such module"),
    ):
        assert bench.run(["scalesim", *options]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
