"""Every preset, and an architecture from a file, runs the digits models bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.run import run_accel
from vit_opt.backends.reference import run_reference
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.pipeline import LOOPS
from vit_opt.dialects.vit.targets import (
    ACCEL_TARGETS,
    EDGE,
    P2VIT,
    P2VIT_LARGE,
    TRIO,
    AccelTarget,
    MemorySpec,
)
from vit_opt.passes.pipelines import passes_of, remaining
from vit_opt.passes.tile import TileRecordPass
from vit_opt.tools.architectures import arch_json, read_arch
from vit_opt.tools.compile_options import CompileOptions
from vit_opt.tools.steps import import_onnx, new_context, provide_batches, run_pipeline

EXAMPLES = Path(__file__).parent.parent / "examples"
CALIB = EXAMPLES / "digits" / "calib.npz"
MODELS = ("digits", "digits_swin", "digits_efficientvit")


@cache
def pot_module(name: str) -> tuple[Any, Any]:
    """An example ready for `tile`, which may be run on it again, and its context."""
    context = new_context()
    module = import_onnx(EXAMPLES / name / "model.onnx", shapes={}, context=context)
    provide_batches(module, context, CALIB, None)
    run_pipeline(module, context, passes_of(remaining(module, "tile")))
    return module, context


@pytest.fixture(scope="module", params=MODELS)
def example(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    """Module, context and the reference's codes for one image."""
    module, context = pot_module(request.param)
    codes = run_reference(module, context.assets, context.assets.batches[0]).codes
    return module, context, codes


@pytest.mark.parametrize("arch", ACCEL_TARGETS.values(), ids=lambda arch: arch.name)
def test_digits_end_to_end(example: tuple[Any, Any, Any], arch: AccelTarget) -> None:
    module, context, codes = example
    run_pipeline(module, context, (TileRecordPass(arch),))
    pipelines = [op for op in module.walk() if isinstance(op, ops.PipelineOp)]
    assert {op.schedule.target.data for op in pipelines} == {arch.name}
    image = lower_accel(module, context.assets, arch)
    ran = run_accel(image, context.assets.batches[0], arch)
    assert ran.codes.keys() == codes.keys()
    for name, want in codes.items():
        np.testing.assert_array_equal(ran.codes[name], want)
    assert 0 < ran.stats.utilisation < 1


def test_stated_figures() -> None:
    assert (P2VIT_LARGE.lanes, P2VIT_LARGE.columns, P2VIT_LARGE.macs_per_cycle) == (64, 36, 2304)
    assert TRIO.macs_per_cycle == (8 * 8 + 8 * 8) * 16 and TRIO.clock_mhz == 200
    assert TRIO.lanes * TRIO.columns == TRIO.dw_width == 1024
    assert EDGE.macs_per_cycle == 64
    assert sum(memory.size for memory in EDGE.memories) == 128 * 1024
    assert EDGE.clock_mhz * EDGE.dram_bytes_per_cycle == 400
    with pytest.raises(VitError, match="field 'peak' is 'all', expected 'array' or 'both'"):
        replace(P2VIT, peak="all")


@pytest.mark.parametrize("arch", ACCEL_TARGETS.values(), ids=lambda arch: arch.name)
def test_presets_survive_a_file(arch: AccelTarget, tmp_path: Path) -> None:
    (tmp_path / "arch.json").write_text(arch_json(arch))
    assert read_arch(str(tmp_path / "arch.json")) == arch


def test_a_file_is_tiled_for_what_it_says(tmp_path: Path) -> None:
    """Buffers an eighth as large give smaller blocks, under the name in the file."""
    memories = {memory.name: memory.size // 8 for memory in P2VIT.memories}
    data = {"name": "narrow", "base": "p2vit", "memories": memories}
    (tmp_path / "narrow.json").write_text(json.dumps(data))
    blocks: list[list[tuple[int, ...]]] = []
    module, context = pot_module("digits")
    for arch in ("p2vit", str(tmp_path / "narrow.json")):
        run_pipeline(module, context, CompileOptions(arch=arch).tiling("accel", {}))
        found = [op.attributes.get(LOOPS) for op in module.walk()]
        blocks.append([a.block_sizes for a in found if isinstance(a, ops.LoopsAttr)])
    assert blocks[0] != blocks[1]
    schedules = [op.schedule for op in module.walk() if isinstance(op, ops.PipelineOp)]
    assert {schedule.target.data for schedule in schedules} == {"narrow"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "x", "lanez": 3}', "unknown field 'lanez'; did you mean 'lanes'?"),
        ('{"name": "x", "nothing": 3}', "unknown field 'nothing'; known: base, name, clock_mhz"),
        ('{"name": "x", "lanes": -3}', "field 'lanes' is -3, expected 1 to 65535"),
        ('{"name": "x", "lanes": "3"}', "field 'lanes' is '3', expected a whole number"),
        ('{"name": "x", "lanes": 2.5}', "field 'lanes' is 2.5, expected a whole number"),
        ('{"name": "x", "norm_latency": -1}', "field 'norm_latency' is -1, expected 0 to 1000000"),
        ('{"name": "x", "dram_bytes_per_cycle": NaN}', "is nan, expected 0.001 to"),
        ('{"name": "x", "memories": {"abuf": -1}}', "memory 'abuf' is -1, expected 1 to"),
        (
            '{"name": "x", "memories": {"xbuf": 1}}',
            "unknown entry 'xbuf' of 'memories'; known: abuf",
        ),
        (
            '{"name": "x", "memories": {"abuf": {"bank": 1}}}',
            "unknown entry 'bank' of 'memories.abuf",
        ),
        (
            '{"name": "x", "memories": {"abuf": {"banks": 0}}}',
            "banks of memory 'abuf' is 0, expected",
        ),
        ('{"name": "x", "memories": {"abuf": "9 K"}}', "of 'memories.abuf' is '9 K', expected a"),
        ('{"name": "x", "energy": {"dram_byte": "a"}}', "entry 'dram_byte' of 'energy' is 'a'"),
        ('{"name": "x", "energy": {"dram_byte": -1}}', "energy 'dram_byte' is -1, expected 0 to"),
        ('{"name": "x", "base": "none"}', "unknown architecture 'none'; known: edge, p2vit"),
        ('{"name": "x", "lanes": 3, "lanes": 4}', "not JSON: key 'lanes' comes twice"),
        ('{"name": ""}', "field 'name' must be 1 to 32 bytes of text on one line"),
        ('{"lanes": 3}', "an architecture needs a name"),
        ("[]", "expected an object with the fields of an architecture"),
        ("{", "not JSON"),
    ],
)
def test_wrong_files_say_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "arch.json"
    path.write_text(text)
    with pytest.raises(VitError) as caught:
        read_arch(str(path))
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


def test_yaml_files(tmp_path: Path) -> None:
    path = tmp_path / "arch.yaml"
    path.write_text("name: wide  # twice p2vit\nlanes: 128\nenergy: {dram_byte: 20}\n")
    assert read_arch(str(path)) == replace(
        P2VIT,
        name="wide",
        lanes=128,
        energy=replace(P2VIT.energy, dram_byte=20, source="own figures of the architecture"),
    )
    path.write_text("name: banks\nmemories: {abuf: {banks: 2, width: 32}, obuf: 4K}\n")
    first, *_, obuf, _ = read_arch(str(path)).memories
    assert first == MemorySpec("abuf", 53 * 1024, banks=2, width=32)
    assert obuf == MemorySpec("obuf", 4096)
    path.write_text("name: wide\nname: wider\n")
    with pytest.raises(VitError, match="not YAML: key 'name' comes twice"):
        read_arch(str(path))


def test_too_small_for_any_block(tmp_path: Path) -> None:
    memories = dict.fromkeys((memory.name for memory in P2VIT.memories), 16)
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({"name": "tiny", "memories": memories}))
    module, context = pot_module("digits")
    with pytest.raises(VitError, match="architecture 'tiny'"):
        lower_accel(module, context.assets, read_arch(str(path)))
