"""`vit-bench cpu` and `vit-bench models` on a tiny transformer, and the parts they are made of.

Nothing here asserts how fast anything is, only that everything takes part and is booked rightly.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from c_vit import VitBuilder, VitShape
from models.export import export_onnx
from models.vit import deit_tiny_patch16_224

from vit_opt.backends.c.emit import emit_c
from vit_opt.backends.c.run import CModel
from vit_opt.dialects.errors import VitError
from vit_opt.tools import bench
from vit_opt.tools.benchmarks import (
    contest,
    cpu_report,
    machine,
    models,
    peers,
    profile,
    sources,
)
from vit_opt.tools.tables import markdown_table


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer of one block on 32x32 images, with an open batch."""
    model = deit_tiny_patch16_224(depth=1, image_size=32, dim=48, num_classes=10)
    path = tmp_path_factory.mktemp("bench") / "tiny.onnx"
    return export_onnx(model, path, 17, dynamic_batch=True)


# ---- parts ---------------------------------------------------------------------------------------


def test_every_contestant_takes_part_in_every_round() -> None:
    order: list[str] = []

    def contestant(name: str, seconds: float) -> contest.Contestant:
        def infer() -> contest.Sample:
            order.append(name)
            return contest.Sample(seconds * (1 + (len(order) % 2)), 2 * seconds)

        return contest.Contestant(name, infer)

    racers = [contestant("a", 0.05), contestant("b", 0.1), contestant("c", 0.2)]
    times = contest.compete(racers, rounds=4, seconds=0)
    assert {name: len(each.turns) for name, each in times.items()} == {"a": 4, "b": 4, "c": 4}
    assert order[:6] == ["a", "a", "b", "b", "c", "c"]  # warming up
    starts = [order[6 + 6 * turn] for turn in range(4)]
    assert starts == ["a", "b", "c", "a"]
    assert times["b"].best in (0.1, 0.2)
    assert times["b"].cpu_turns == [0.2] * 4


def test_ratios_are_taken_within_rounds() -> None:
    assert contest.ratio([0.5, 5.0, 3.0], [1.0, 10.0, 2.0]) == 0.5


def test_call_sites_span_their_statements() -> None:
    text = """\
    /* vit.linear a + vit.pot_requant a + vit.lut b: 1x2 s8 */
    {
        const vit_linear_shape shape = {.m = 1};
        vit_linear_s16(&shape,
            (void *)(a + 0));
    }

    /* vit.pot_requant c: 4 s8 */
    vit_map((void *)(a + 0), 1);
"""
    first, second = profile.call_sites(text)
    assert (first.kernel, first.first_line, first.last_line) == ("vit_linear_s16", 4, 5)
    assert (second.kernel, second.first_line, second.last_line) == ("vit_map", 9, 9)
    assert profile.operation_kind(first) == "linear + lut"
    assert profile.operation_kind(second) == "pot_requant"
    shares = profile.shares([profile.CallTime(first, 3.0), profile.CallTime(second, 1.0)])
    assert shares == {"linear + lut": 0.75, "pot_requant": 0.25}


def test_profile_books_time_on_every_call(tmp_path: Path) -> None:
    builder = VitBuilder(VitShape(depth=1))
    project = emit_c(builder.case.module(builder.build()), builder.case.store, tmp_path)
    codes = {port.name: np.zeros(port.shape, port.dtype) for port in CModel(tmp_path).inputs}
    calls = profile.profile(tmp_path, codes, repeats=3)
    assert len(calls) == project.calls
    assert all(call.seconds > 0 for call in calls)


def test_open_batches_are_fixed(tiny: Path, tmp_path: Path) -> None:
    path, batch = sources.with_batch(tiny, tmp_path / "four.onnx", 4, {})
    assert (path, batch) == (tmp_path / "four.onnx", 4)
    assert [each.shape for each in sources.model_inputs(path)] == [(4, 3, 32, 32)]
    again, batch = sources.with_batch(path, tmp_path / "unused.onnx", 8, {})
    assert (again, batch) == (path, 4)
    feed, other = sources.feeds(path, None, None, 6)
    assert feed["input"].shape == (4, 3, 32, 32)
    np.testing.assert_array_equal(feed["input"][:2], other["input"][2:])
    assert not np.array_equal(feed["input"][:2], other["input"][:2])


def test_other_open_dimensions_need_a_shape(tiny: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "open.onnx")
    with pytest.raises(VitError, match="--shape"):
        sources.with_batch(tmp_path / "open.onnx", tmp_path / "x.onnx", 1, {})
    shapes = {"input": (1, 3, 32, 32)}
    sources.with_batch(tmp_path / "open.onnx", tmp_path / "x.onnx", 2, shapes)
    assert sources.model_inputs(tmp_path / "x.onnx")[0].shape == (2, 3, 32, 32)


def test_machine_is_described() -> None:
    facts = machine.describe_machine()
    assert facts["processors"] >= 1
    assert facts["versions"]["onnxruntime"]
    assert json.loads(json.dumps(facts)) == facts
    peak = machine.peak_macs(facts["features"], seconds=0.01)
    assert peak is None or peak > 1e9
    assert machine.peak_macs([]) is None


def test_failed_preparations_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "float.onnx").write_bytes(b"not a model")
    monkeypatch.setattr(peers, "missing_peers", lambda: {peers.OV_F32: "not installed"})
    wanted = (peers.ORT_F32, peers.ORT_DYNAMIC, peers.OV_F32)
    failed = peers.prepare(tmp_path / "float.onnx", tmp_path, [], wanted)
    assert set(failed) == {peers.ORT_DYNAMIC, peers.OV_F32}
    assert failed[peers.OV_F32] == "not installed"


def test_markdown_table() -> None:
    assert (
        markdown_table(("a", "b"), [("x|y", "1")]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n"
    )


# ---- commands ------------------------------------------------------------------------------------


def test_cpu_measures_all_settings(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = os.sched_getaffinity(0)
    out = tmp_path / "results.json"
    arguments = [str(tiny), "--batch", "2", "--threads", "1", "--rounds", "2", "--seconds", "0"]
    arguments += ["--cpu", "portable", "--peer", peers.ORT_DYNAMIC, "--json", "--out", str(out)]
    assert bench.run(["cpu", *arguments]) == 0
    assert json.loads(out.read_text()) == json.loads(capsys.readouterr().out)
    assert bench.run(["cpu", "--out", str(out), "--json"]) == 0
    assert os.sched_getaffinity(0) == before
    facts = json.loads(capsys.readouterr().out)
    [model] = facts["models"]
    [entry] = model["results"]
    assert (entry["batch"], entry["threads"], entry["failed"]) == (2, 1, {})
    rows = {row["name"]: row for row in entry["rows"]}
    assert list(rows) == ["vit-opt", peers.ORT_F32, peers.ORT_DYNAMIC]
    assert rows[peers.ORT_F32]["ratio"] == 1
    assert all(row["rounds"] == 2 and 0 < row["best_ms"] <= row["ms"] for row in rows.values())
    assert model["macs"] > 0
    assert sum(model["shares"].values()) == pytest.approx(1)
    assert model["start"]["first_inference"] > model["start"]["compile_c"] > model["start"]["load"]
    from vit_opt.tools.benchmarks.cpu_report import print_report

    for markdown in (False, True):
        print_report(facts, markdown)
        text = capsys.readouterr().out
        assert "vit-opt" in text
        assert "ONNX to first inference" in text
        assert "batch 2, 1 thread, 2 rounds" in text


def test_results_are_kept_from_run_to_run(tmp_path: Path) -> None:
    def facts(name: str, peak: float, *settings: tuple[int, int, str]) -> dict[str, Any]:
        results = [{"batch": b, "threads": t, "rows": mark} for b, t, mark in settings]
        model = {"name": name, "results": results}
        about = {"processor": "Z80"}
        return {"machine": about, "peak_macs_per_second": peak, "models": [model]}

    first = facts("a", 2.0, (1, 2, "old"), (8, 1, "kept"))
    both = cpu_report.merged(first, facts("a", 1.0, (1, 1, "more"), (1, 2, "new")))
    assert both["peak_macs_per_second"] == 2.0
    assert [row["rows"] for row in both["models"][0]["results"]] == ["more", "new", "kept"]
    both = cpu_report.merged(both, facts("b", 1.0, (1, 1, "x")))
    assert [model["name"] for model in both["models"]] == ["a", "b"]
    with pytest.raises(VitError, match="cannot hold those of 6502"):
        cpu_report.merged(both, {**first, "machine": {"processor": "6502"}})
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(VitError, match="no results of vit-bench cpu"):
        cpu_report.read_results(tmp_path / "x.json")


@pytest.mark.skipif(machine.processor_count() < 2, reason="one processor")
def test_our_project_for_several_threads(tiny: Path, tmp_path: Path) -> None:
    from vit_opt.tools.benchmarks import cpu

    options = cpu.CpuOptions(threads=(1, 2), cpu="portable")
    cpu._compile(sources.Source("tiny", tiny), options, tmp_path)
    feed = {"input": np.zeros((1, 3, 32, 32), np.float32)}
    for threads in (1, 2):
        project = cpu.our_project(tmp_path, threads)
        assert json.loads((project / "model.json").read_text())["threads"] == threads
        contestant = cpu.our_contestant(project, feed, 3, threads)
        assert contestant.note.startswith(f"{threads} thread")
        assert contestant.infer().seconds > 0


def test_models_compares_all_backends(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "broken.onnx").write_bytes(b"not a model")
    (folder / "tiny.onnx").symlink_to(tiny)
    assert bench.run(["models", str(folder), "--markdown", "--inferences", "2"]) == 1
    out, err = capsys.readouterr()
    header, _, broken, good, reason = out.splitlines()
    assert header.split(" | ")[1] == "ops"
    assert broken.startswith("| broken |  |")
    assert "not an ONNX model" in broken
    assert good.startswith("| tiny | ")
    assert "| equal on c, accel |" in good
    assert reason.startswith("broken, export: ")
    assert err == "vit-bench: error: 1 of 2 models failed: broken\n"


def test_models_can_be_compiled_only(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run(["models", str(tiny), "--inferences", "0", "--json"]) == 0
    [facts] = json.loads(capsys.readouterr().out)
    assert facts["cycles"] > 0 and not facts["bits_equal"] and "c_ms" not in facts
    assert models.table_rows([facts])[0][5] == "compiled"


def test_builders_take_options(tmp_path: Path) -> None:
    small = "deit_tiny_patch16_224,image_size=32,depth=1,pool=avg,layer_scale=0.1"
    source = sources.find_source(f"{small},num_classes=5")
    path, _ = source.export(tmp_path, 1, {})
    [output] = onnx.load(str(path)).graph.output
    assert [d.dim_value for d in output.type.tensor_type.shape.dim] == [1, 5]
    swin = "swin_tiny_patch4_window7_224,image_size=56,dim=24,depths=(1,1),heads=(1,2)"
    sources.find_source(swin).export(tmp_path, 1, {})
    with pytest.raises(VitError, match="unknown options of ViTConfig: layers"):
        sources.find_source(f"{small},layers=5").export(tmp_path, 1, {})


def test_different_bits_are_a_failure() -> None:
    one, other = np.arange(3), np.array([0, 1, 3])
    assert models.same_integers([{"y": one}], [{"y": one.copy()}])
    assert not models.same_integers([{"y": one}], [{"y": other}])
    assert not models.same_integers([{"y": one}], [{"z": one}])
    assert not models.same_integers([{"y": one}], [])
    facts = {"errors": {}, "bits_equal": {"c": True, "accel": False}, "name": "m"}
    assert not models.succeeded(facts)
    assert models.table_rows([facts])[0][5] == "accel DIFFERENT"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cpu", "missing.onnx"], "missing.onnx: no such file"),
        (["cpu", "resnet"], "neither an .onnx file nor a builder"),
        (["cpu", "TINY", "TINY"], "models of the same name"),
        (["cpu", "TINY", "--threads", "4096"], "more than this machine has"),
        (["cpu", "TINY", "--plot", "figure.jpg"], "figures are written as .svg or .png"),
        (["models"], "no models"),
        (["cpu"], "no models"),
        (["models", "TINY", "--scales", "dyadic", "--target", "all"], "shifts alone"),
    ],
)
def test_mistakes_are_told_in_one_line(
    tiny: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = bench.run([str(tiny) if part == "TINY" else part for part in arguments])
    assert status in (1, 2)
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_builders_need_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sources.find_source("deit_tiny_patch16_224").path is None
    monkeypatch.setattr(sources, "_test_folder", lambda: tmp_path)
    with pytest.raises(VitError, match="from a checkout"):
        sources.find_source("deit_tiny_patch16_224")


def test_unknown_variants_are_refused(tmp_path: Path) -> None:
    for name in ("swin_huge", "deit_huge_patch16_224", "dense_vit_224"):
        with pytest.raises(VitError, match="do not know"):
            sources.find_source(name).export(tmp_path, 1, {})
