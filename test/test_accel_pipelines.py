"""Pipelines switched off: the same bits in more time, and the command that compares them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from accel_net import REPORT, random_codes, reference
from accel_vit import CODES, Size, VitNet

from vit_opt.backends.accel.lowering import lower_accel, part_names
from vit_opt.backends.accel.lowering.context import Lowering
from vit_opt.backends.accel.lowering.pipelines import ATTENTION, CASES, MLP, REST
from vit_opt.backends.accel.profile import Profile
from vit_opt.backends.accel.run import run_accel
from vit_opt.dialects.vit import ops
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
        image = lower_accel(module, net.store, P2VIT, case)
        profile = Profile(image, P2VIT)
        ran = run_accel(image, {"arg0": codes}, P2VIT, profile)
        assert np.array_equal(ran.codes["result0"], expected), name
        cycles[name] = ran.stats.cycles
        assert _takes_turns(profile) == (name == "none"), name
    assert cycles["none"] > cycles["intra"] > cycles["inter"] > cycles["both"]
    assert cycles["none"] > 1.4 * cycles["both"]


def _takes_turns(profile: Profile) -> bool:
    """Whether never two engines work at a time."""
    work = sorted((e.start, e.cycles) for e in profile.events if e.cause is None)
    return all(start + cycles <= then for (start, cycles), (then, _) in pairwise(work))


def test_the_pipeline_within_layers_is_that_of_attention() -> None:
    net = VitNet(SIZE)
    module = net.module(net.result)
    names = part_names(module, net.store, P2VIT)
    assert set(names.values()) == {ATTENTION, MLP, REST}
    lowering = Lowering(next(iter(module.ops)).regions[0].block, net.store, P2VIT)
    inside = [op for op in lowering.order if lowering.layers.of[op] in lowering.layers.attention]
    kinds = [type(op) for op in inside if not isinstance(op, ops.ReinterpretOp)]
    assert kinds[0] is kinds[kinds.index(ops.SoftmaxExpOp) + 1] is ops.MatmulOp
    assert kinds.count(ops.MatmulOp) == 2 and ops.LinearOp not in kinds


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = VitNet(Size(image=32, patch=8, dim=48, heads=3, layers=1, classes=10))
    context = new_context()
    module = net.module(net.result)
    context.assets = net.store
    (tmp_path / "report.json").write_text(REPORT)
    Artefact(tmp_path).write_module(module, context)
    assert bench.run(["pipelines", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["none", "inter", "intra", "both"]
    assert found["both"]["relative"] == 1.0 < found["none"]["relative"]
    assert found["none"]["paper"] == 1.57
    assert found["inter"]["paper_parts"] == {"attention": 1.45, "MLP": 1.0}
    assert found["inter"]["relative_parts"]["MLP"] < found["intra"]["relative_parts"]["MLP"]
    assert bench.run(["pipelines", str(tmp_path)]) == 0
    assert "P2-ViT" in capsys.readouterr().out
