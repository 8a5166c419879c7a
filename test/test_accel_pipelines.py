"""Pipelines switched off: the same bits in more time, and the command that compares them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from accel_net import random_codes, reference
from accel_vit import CODES, Size, VitNet

from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.lowering.pipelines import CASES
from vit_opt.backends.accel.run import run_accel
from vit_opt.dialects.vit.targets import P2VIT
from vit_opt.tools import bench
from vit_opt.tools.artefact import Artefact
from vit_opt.tools.steps import new_context

SIZE = Size(image=64, patch=8, dim=96, heads=3, layers=1, classes=10)


def test_every_case_gives_the_same_bits_and_each_pipeline_helps() -> None:
    net = VitNet(SIZE)
    codes = random_codes(np.random.default_rng(3), (1, 3, 64, 64), CODES)
    module = net.module(net.result)
    (expected,) = reference(module, net.store, [codes])
    cycles: dict[str, int] = {}
    for name, case in CASES.items():
        ran = run_accel(lower_accel(module, net.store, P2VIT, case), {"arg0": codes}, P2VIT)
        assert np.array_equal(ran.codes["result0"], expected), name
        cycles[name] = ran.stats.cycles
    assert cycles["both"] < min(cycles["intra"], cycles["inter"])
    assert max(cycles["intra"], cycles["inter"]) < cycles["none"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = VitNet(Size(image=32, patch=8, dim=48, heads=3, layers=1, classes=10))
    context = new_context()
    module = net.module(net.result)
    context.assets = net.store
    (tmp_path / "report.json").write_text("{}")
    Artefact(tmp_path).write_module(module, context)
    assert bench.run(["pipelines", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["none", "inter", "intra", "both"]
    assert found["both"]["relative"] == 1.0 < found["none"]["relative"]
    assert found["none"]["paper"] == 1.57
    assert bench.run(["pipelines", str(tmp_path)]) == 0
    assert "P2-ViT" in capsys.readouterr().out
