"""`vit-bench dse`: axes, area, Pareto front, and the figures of a small transformer's machines."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accel_net import REPORT
from accel_vit import Size, VitNet
from hypothesis import given
from hypothesis import strategies as st

from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.run import time_accel
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import P2VIT, MemorySpec
from vit_opt.passes.tile import tile
from vit_opt.tools import bench
from vit_opt.tools.architectures import OWN_FIGURES
from vit_opt.tools.artefact import Artefact
from vit_opt.tools.benchmarks import dse, dse_workers
from vit_opt.tools.benchmarks.dse import Axis
from vit_opt.tools.steps import new_context

SIZE = Size(image=32, patch=8, dim=48, heads=3, layers=1, classes=10)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small vision transformer."""
    folder = tmp_path_factory.mktemp("dse") / "tiny"
    folder.mkdir()
    net = VitNet(SIZE)
    module = net.module(net.result)
    context = new_context()
    context.assets = net.store
    (folder / "report.json").write_text(REPORT)
    Artefact(folder).write_module(module, context)
    return folder


def test_axes() -> None:
    axis = dse.parse_axis("abuf,bbuf=27K, 1000", P2VIT)
    assert axis == Axis(("abuf", "bbuf"), (27 * 1024, 1000))
    other = dse.parse_axis("energy.dram_byte=80.5", P2VIT)
    made = dse.machine(P2VIT, (axis, other), (1000, 80.5))
    assert (made.memory_size("abuf"), made.memory_size("bbuf")) == (1000, 1000)
    assert made.memory_size("cbuf") == P2VIT.memory_size("cbuf")
    assert made.energy == replace(P2VIT.energy, dram_byte=80.5, source=OWN_FIGURES)
    assert dse.machine(P2VIT, (Axis(("lanes",), (32,)),), (32,)) == replace(P2VIT, lanes=32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lane=32", "no field 'lane' in an architecture; did you mean lanes"),
        ("abu=32", "did you mean abuf"),
        ("energy.dram=1", "did you mean energy.dram_byte"),
        ("xyzzy=1", "known: clock_mhz, lanes"),
        ("name=1", "no field 'name'"),
        ("lanes", "expected NAME=VALUE"),
        ("lanes,lanes=1", "expected NAME=VALUE"),
        ("lanes=", "'' is not a number"),
        ("lanes=a", "'a' is not a number"),
        ("lanes=nan", "'nan' is not a number"),
        (f"lanes={'9' * 400}", "9' is not a number"),
        ("lanes=1,1", "a value is there twice"),
        ("lanes=1.5", "expected a whole number"),
        ("lanes=4,0", "expected 1 to 65535"),
    ],
)
def test_axes_are_checked(text: str, message: str) -> None:
    with pytest.raises(VitError, match=message):
        dse.parse_axis(text, P2VIT)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.none() | st.integers(1, 300),
    st.integers(0, 5),
)
def test_points_are_of_the_grid_and_differ(sizes: list[int], count: int | None, seed: int) -> None:
    axes = [Axis((f"f{i}",), tuple(range(size))) for i, size in enumerate(sizes)]
    chosen = dse.choose(axes, count, seed)
    total = 1
    for size in sizes:
        total *= size
    assert len(set(chosen)) == len(chosen) == min(total, count or total)
    assert all(v in a.values for point in chosen for a, v in zip(axes, point, strict=True))
    assert chosen == dse.choose(axes, count, seed)


def test_too_many_points() -> None:
    axes = [Axis((name,), tuple(range(100))) for name in "abc"]
    with pytest.raises(VitError, match="1,000,000 combinations: draw some"):
        dse.choose(axes, None, 0)
    assert len(dse.choose(axes, 7, 0)) == 7
    with pytest.raises(VitError, match="one axis only"):
        dse.choose([axes[0], axes[0]], None, 0)


def test_area_by_hand() -> None:
    small = replace(
        P2VIT,
        lanes=2,
        columns=3,
        dw_width=4,
        shift_width=5,
        table_width=6,
        divider_width=1,
        softmax_width=2,
        norm_width=3,
        memories=(MemorySpec("abuf", 10), MemorySpec("obuf", 20)),
    )
    adders = (2 * 3 + 4) * (64 + 32) + (5 + 6) * 32 + (1 + 2 + 3) * 1024
    assert dse.area_mtr(small) == pytest.approx((28 * adders + 6 * 8 * 30) / 1e6)


def test_pareto_by_hand() -> None:
    figures = [(1, 5, 5), (2, 4, 5), (2, 5, 5), (1, 5, 5), (9, 9, 1), None]
    points: list[dict[str, Any]] = [
        {} if f is None else dict(zip(dse.OBJECTIVES, f, strict=True)) for f in figures
    ]
    assert dse.pareto(points) == [True, True, False, True, True, False]


def test_points_are_whole_compilations(
    compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every point equals tiling, lowering and timing apart, in processes and in one."""
    plot, output = tmp_path / "pareto.svg", tmp_path / "points.json"
    command = ["dse", str(compiled), "--sweep", "lanes=8,64", "--sweep", "obuf=108K,16"]
    assert bench.run([*command, "--jobs", "2", "--plot", str(plot), "-o", str(output)]) == 0
    text = capsys.readouterr().out
    assert "4 points" in text and "failed" in text and "architecture 'p2vit'" in text
    found = json.loads(output.read_text())
    assert plot.read_text().count("<svg") == 1
    good = [point for point in found["points"] if "error" not in point]
    assert len(good) == 2 and any(point["pareto"] for point in good)
    for point in good:
        context = new_context()
        module = Artefact(compiled).read_module(context)
        arch = replace(P2VIT, lanes=point["fields"]["lanes"])
        tile(module, arch)
        image = lower_accel(module, context.assets, arch)
        stats = time_accel(image, arch)
        assert point["cycles"] == stats.cycles
        assert point["energy_uj"] == pytest.approx(stats.energy_uj)
    assert bench.run([*command, "--jobs", "1", "--json", "--random", "3"]) == 0
    drawn = json.loads(capsys.readouterr().out)["points"]
    assert len(drawn) == 3
    for point in drawn:
        [same] = [other for other in found["points"] if other["fields"] == point["fields"]]
        assert point.get("cycles") == same.get("cycles")


def test_architectures_side_by_side(compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["dse", str(compiled), "--arch", "p2vit,edge", "--jobs", "1"]
    assert bench.run([*command, "--json"]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    assert [point["arch"] for point in points] == ["p2vit", "edge"]
    assert points[0]["macs_per_cycle"] == 512 and points[1]["macs_per_cycle"] == 64
    assert bench.run([*command, "--sweep", "dram_latency=20"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("arch ") and "2 points around p2vit, edge" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to compare: give --sweep"),
        (["--arch", "edge,edge"], "two architectures have the same name"),
        (["--sweep", "lane=2"], "did you mean lanes"),
        (["--sweep", "lanes=2", "--scheduler", "slurm"], "expected processes, dask"),
        (["--sweep", "lanes=2", "--random", "0"], "at least one point"),
        (["--sweep", "lanes=2", "--jobs", "-3"], "--jobs: at least one"),
        (["--sweep", "lanes=2", "--calib", "x.npz"], "is calibrated already"),
        (["--sweep", "lanes=2", "--plot", "x.pdf"], "written as .svg or .png"),
        (["--sweep", "lanes=2", "--arch", "tpu"], "unknown architecture 'tpu'"),
    ],
)
def test_mistakes(
    compiled: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run(["dse", str(compiled), *options]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_dask_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(VitError, match=r"needs Dask: pip install 'vit-opt\[cluster\]'"):
        dse_workers.require_scheduler("dask")


def test_dask_gives_the_same(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of one process and its address give what this process gives."""
    distributed = pytest.importorskip("distributed")
    arch = replace(P2VIT, lanes=16)
    prepared = dse.prepare(compiled, None, lambda _: None)
    here = dse_workers.evaluate(prepared, arch).figures
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(processes=False, protocol="tcp", **options) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        [there] = dse_workers.evaluate_all(prepared, [arch], 1, address, lambda _: None)
    assert there.figures == here
    monkeypatch.setattr(dse_workers, "CONNECT_SECONDS", 1)
    with pytest.raises(VitError, match="no such cluster"):
        dse_workers.evaluate_all(prepared, [arch], 1, "dask://127.0.0.1:1", lambda _: None)
