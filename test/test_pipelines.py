"""Which passes run: each stage once, whatever is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from xdsl.dialects.builtin import ModuleOp, StringAttr

from vit_opt.passes.pipelines import DYADIC_ROAD, POT_ROAD, RAISE, remaining
from vit_opt.tools.command import UsageError, run_command
from vit_opt.tools.compile_options import CompileOptions
from vit_opt.tools.opt import VitOptMain

DIGITS = Path(__file__).parent.parent / "examples" / "digits"


def module_at(stage: str) -> ModuleOp:
    """An empty module with a recorded stage."""
    return ModuleOp([], {"vit.stage": StringAttr(stage)})


def test_remaining() -> None:
    assert remaining(module_at("float")) == POT_ROAD
    assert remaining(ModuleOp([])) == POT_ROAD
    assert remaining(module_at("scheduled")) == ()
    assert remaining(module_at("float"), "raise-gelu") == POT_ROAD[: POT_ROAD.index("raise-gelu")]
    calibrate, quantize = POT_ROAD.index("calibrate"), POT_ROAD.index("quantize")
    assert remaining(module_at("float"), "quantize") == POT_ROAD[:quantize]
    assert remaining(module_at("calibrated"), "quantize") == POT_ROAD[calibrate + 1 : quantize]
    assert remaining(module_at("quantized"), "pot-fold") == ()
    assert remaining(module_at("pot"), "smooth") == ()
    assert remaining(module_at("float"), "canonicalize") == ()
    assert remaining(module_at("quantized"), None, DYADIC_ROAD) == DYADIC_ROAD[-4:]


def passes_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The passes that vit-opt runs on the digits model, in order."""
    options = [str(DIGITS / "model.onnx"), *arguments, "--time-passes"]
    assert run_command("vit-opt", lambda: VitOptMain(options).run()) == 0
    return re.findall(r"^Pass ([\w-]+) took", capsys.readouterr().out, re.MULTILINE)


def test_each_stage_runs_once(capsys: pytest.CaptureFixture[str]) -> None:
    calib = ("--calib", str(DIGITS / "calib.npz"))
    before = list(POT_ROAD[: POT_ROAD.index("pot-fold")])
    assert passes_run(capsys, "-p", "pot-fold,tile", *calib) == [*before, "pot-fold", "tile"]
    assert passes_run(capsys, "-p", "vit-migrate", *calib) == [*RAISE, "calibrate", "vit-migrate"]
    assert passes_run(capsys, "-p", "canonicalize") == ["canonicalize"]
    assert passes_run(capsys) == []


def test_target_runs_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("-p", "calibrate", "--calib", str(DIGITS / "calib.npz"), "-t", "vit-c")
    assert passes_run(capsys, *arguments) == list(POT_ROAD)


def test_synthetic_calibration_warns_once(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(DIGITS / "model.onnx"), "-p", "calibrate"]
    assert run_command("vit-opt", lambda: VitOptMain(arguments).run()) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "synthetic" in error


def test_refine_goes_onto_the_road_where_it_is_asked_for() -> None:
    def names(passes: str, scales: str = "pot") -> list[str]:
        settings = CompileOptions(passes=passes, scales=scales).settings(Path("m.onnx"))
        return [each.name for each in settings.passes]

    assert "refine" not in names("")
    asked = names("refine{held=2}")
    assert asked.index("refine") == asked.index("pot-fold") + 1
    assert [name for name in asked if name != "refine"] == names("")
    with pytest.raises(UsageError, match="refine is not on the dyadic road"):
        names("refine", "dyadic")
