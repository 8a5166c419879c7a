"""What the profile of a run says adds up to what the run cost, and reaches the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accel_net import Net, random_codes
from accel_vit import CODES, Size, VitNet

from vit_opt.backends.accel.assembler import assemble
from vit_opt.backends.accel.emulator import Machine, Stats
from vit_opt.backends.accel.image import Image, ImageError, Origins
from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.profile import Profile
from vit_opt.backends.accel.run import run_accel
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.targets import ACCEL_TARGETS, P2VIT, TRIO, AccelTarget
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.tools import compile, run
from vit_opt.tools.artefact import read_origins

DIGITS = Path(__file__).parent.parent / "examples" / "digits"


@pytest.fixture(scope="module", params=ACCEL_TARGETS.values(), ids=lambda arch: arch.name)
def profiled(request: pytest.FixtureRequest) -> tuple[Profile, Stats]:
    """A small vision transformer on each preset."""
    arch: AccelTarget = request.param
    net = VitNet(Size(image=32, patch=8, dim=48, heads=3, layers=1, classes=10))
    image = lower_accel(net.module(net.result), net.store, arch)
    profile = Profile(image, arch)
    codes = random_codes(np.random.default_rng(1), (1, 3, 32, 32), CODES)
    return profile, run_accel(image, {"arg0": codes}, arch, profile).stats


def test_layers_add_up(profiled: tuple[Profile, Stats]) -> None:
    profile, stats = profiled
    facts = [layer.facts(profile.arch) for layer in profile.layers()]
    assert sum(layer["cycles"] for layer in facts) == stats.cycles
    assert sum(layer["macs"] for layer in facts) == stats.macs
    assert sum(layer["bytes"].get("dram", 0) for layer in facts) == stats.dram_bytes
    chip = sum(n for layer in facts for name, n in layer["bytes"].items() if name != "dram")
    assert chip == stats.sram_bytes
    for cause, energy in stats.energy_pj.items():
        assert sum(layer["energy_pj"][cause] for layer in facts) == pytest.approx(energy)
    for key, want in (("engine_pj", stats.engine_pj), ("memory_pj", stats.memory_pj)):
        for name, energy in want.items():
            assert sum(layer[key].get(name, 0) for layer in facts) == pytest.approx(energy)
    for layer in facts:
        parts = [*layer["engine_pj"].values(), *layer["memory_pj"].values()]
        assert sum(parts) == pytest.approx(sum(layer["energy_pj"].values()))
    for engine in stats.busy:
        assert sum(layer["busy"].get(engine, 0) for layer in facts) == stats.busy[engine]
        stalls = [sum(layer["stalled"].get(engine, {}).values()) for layer in facts]
        assert sum(stalls) == stats.stalled[engine]
    assert all(layer["utilisation"] is None or 0 < layer["utilisation"] <= 1 for layer in facts)
    assert sum(work.macs for work in profile.work()) == stats.macs
    for engine in ("mac", "dw"):
        assert sum(work.busy.get(engine, 0) for work in profile.work()) == stats.busy[engine]
    assert all(max(work.busy.values()) <= work.cycles <= stats.cycles for work in profile.work())
    working = {layer["name"] for layer in facts if layer["macs"]}
    assert working == {"vit.conv2d", "vit.linear", "vit.matmul"}


def test_a_profile_changes_nothing(profiled: tuple[Profile, Stats]) -> None:
    profile, stats = profiled
    codes = random_codes(np.random.default_rng(1), (1, 3, 32, 32), CODES)
    assert run_accel(profile.image, {"arg0": codes}, profile.arch).stats == stats


def test_an_engine_does_one_thing_at_a_time(profiled: tuple[Profile, Stats]) -> None:
    profile, stats = profiled
    for engine in Engine:
        free = 0
        for event in sorted(
            (e for e in profile.events if e.engine is engine), key=lambda e: e.start
        ):
            assert event.start >= free
            free = event.start + event.cycles
        assert free <= stats.cycles


PROGRAM = """
.arch p2vit
.dram 0x1000
ld.fill dst=abuf[0x0] count=640 value=1 type=i8
ld.signal sem=0
shift.wait sem=0
shift.requant rows=1 cols=640 dst=obuf[0x0] src=abuf[0x0] dst_row=640 src_row=640 src_type=i8 \
dst_type=i8 shift=0
"""


def test_layers_by_hand() -> None:
    """10 cycles to fill 640 bytes and one to say so; waiting, then 10 and the shifters' latency."""
    image = assemble(PROGRAM.replace("\\\n", ""))
    image = Image(
        image.arch,
        image.code,
        dram_size=image.dram_size,
        origins=Origins.from_names(["fill", "fill", "scale", "scale"]),
    )
    profile = Profile(image, P2VIT)
    assert Machine(image, P2VIT, profile=profile).run().cycles == 11 + 1 + 10 + P2VIT.shift_latency
    fill, scale = profile.layers()
    assert (fill.name, fill.path, fill.busy) == ("fill", {"ld": 11}, {"ld": 10})
    assert scale.path == {"shift": 11 + P2VIT.shift_latency} and scale.stalled == {
        "shift": {"ld": 11}
    }
    trace = profile.trace()["traceEvents"]
    work = [(e["tid"], e["name"], e["args"]["cycle"]) for e in trace if e["ph"] == "X"]
    shifters = int(Engine.SHIFT)
    assert work == [
        (int(Engine.LD), "ld.fill", 0),
        (shifters, "waits for ld", 0),
        (shifters, "shift.requant", 12),
    ]


PARALLEL = """
.arch trio
.dram 0x1000
ld.copy dst=abuf[0x0] src=dram[0x0] run=1024
ld.signal sem=0 count=2
mac.wait sem=0
mac.matmul acc=obuf[0x0] a=abuf[0x0] b=abuf[0x200] m=16 n=64 k=8 acc_row=256 a_row=8 b_row=8
mac.conv acc=obuf[0x2000] src=abuf[0x0] w=abuf[0x200] oh=1 ow=16 oc=64 kh=1 kw=2 ic=4 acc_row=4096 \
acc_pix=256 src_row=64 src_pix=4 w_row=8
dw.wait sem=0
dw.matmul acc=obuf[0x1000] a=abuf[0x0] b=abuf[0x200] m=16 n=64 k=16 acc_row=256 a_row=16 b_row=0
"""


def test_the_critical_path_and_kinds_of_work_by_hand() -> None:
    """What is loaded in 11 cycles and 20 of latency feeds two engines; the array works longer."""
    image = assemble(PARALLEL.replace("\\\n", ""))
    names = ["load", "load", "array", "array", "window", "beside", "beside"]
    image = replace(image, origins=Origins.from_names(names))
    profile = Profile(image, TRIO)
    matmul, window, beside = 8 + 8 + 8, 8 + 8 + 8, 8 + 16 + 8
    loaded = 11 + TRIO.dram_latency
    total = loaded + 1 + matmul + window
    assert Machine(image, TRIO, profile=profile).run().cycles == total
    paths = {layer.name: layer.path for layer in profile.layers()}
    assert paths["load"] == {"ld": loaded} and paths["beside"] == {}
    assert paths["array"] == {"mac": 1 + matmul} and paths["window"] == {"mac": window}
    products, windows = profile.work()
    assert products.macs == 16 * 64 * (8 + 16) and windows.macs == 16 * 64 * 8
    assert products.busy == {"mac": matmul, "dw": beside} and products.cycles == beside
    assert windows.busy == {"mac": window} and windows.cycles == window
    assert products.utilisation(TRIO) == pytest.approx(24 / (matmul + beside))


def test_stalls_for_the_bus() -> None:
    """Of two transfers of 10 cycles that start together, the one of the later engine stalls."""
    copies = """
ld.copy dst=abuf[0x0] src=dram[0x0] run=1536
st.copy dst=dram[0x800] src=obuf[0x0] run=1536
"""
    image = assemble(".arch p2vit\n.dram 0x1000\n" + copies)
    profile = Profile(image, P2VIT)
    stats = Machine(image, P2VIT, profile=profile).run()
    assert stats.cycles == 20 + P2VIT.dram_latency
    (layer,) = profile.layers()
    assert (layer.name, layer.busy) == ("program", {"ld": 10, "st": 10})
    assert layer.stalled == {"st": {"dram": 10}} and stats.stalled["st"] == 10


def test_origins_survive_a_file() -> None:
    origins = Origins.from_names(["a", "a", "b", "a"])
    assert origins.runs == (("a", 2), ("b", 1), ("a", 1))
    assert Origins.from_plain(json.loads(origins.to_json()), 4) == origins
    assert [origins.of(i) for i in range(5)] == ["a", "a", "b", "a", "program"]
    with pytest.raises(ImageError, match="operations of 4 instructions, the image has 5"):
        Origins.from_plain(json.loads(origins.to_json()), 5)
    for runs in (1, [1], [["a", None]], [["a", "b"]], [["a", 4.0]], [["a", 4, 1]], {"a": 1}):
        with pytest.raises(ImageError, match="not a list of operations and counts"):
            Origins.from_plain(runs, 4)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\xff", "cannot be read: it is not text"),
        (b"[[", "not JSON: Expecting value"),
        (b"[" * 100_000, "not JSON: "),
        (b'[["a", 1], ["b"]]', "not a list of operations and counts"),
        (b'[["a", 3]]', "operations of 3 instructions, the image has 4"),
    ],
)
def test_damaged_origins_are_one_line(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "origins.json"
    path.write_bytes(raw)
    with pytest.raises(VitError, match=message) as error:
        read_origins(path, 4)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, trace = tmp_path / "out", tmp_path / "trace.json"
    calib = str(DIGITS / "calib.npz")
    options = ["--calib", calib, "--target", "accel", "--arch", "edge"]
    assert compile.run([str(DIGITS / "model.onnx"), "-o", str(out), *options]) == 0
    with np.load(calib) as data:
        np.savez(tmp_path / "in.npz", allow_pickle=False, image=data["image"][:2])
    capsys.readouterr()
    arguments = [str(out), "--input", str(tmp_path / "in.npz"), "--layers"]
    assert run.run([*arguments, "--on", "accel", "--trace", str(trace), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert sum(layer["cycles"] for layer in facts["layers"]) == facts["cycles"]
    energy = sum(sum(layer["energy_pj"].values()) for layer in facts["layers"])
    assert energy * 1e-6 == pytest.approx(facts["energy_uj"])
    assert any(layer["name"] == "/patch_embed/Conv" for layer in facts["layers"])

    events = json.loads(trace.read_text())["traceEvents"]
    names = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {engine.name.lower() for engine in Engine}
    work = [event for event in events if event["ph"] == "X"]
    assert all(event["ts"] >= 0 and event["dur"] > 0 for event in work)
    end = max(event["ts"] + event["dur"] for event in work)
    clock = ACCEL_TARGETS["edge"].clock_mhz
    assert 0.9 * facts["cycles"] < end * clock <= facts["cycles"] + 1e-6

    assert run.run([*arguments, "--on", "accel"]) == 0
    assert "/patch_embed/Conv" in capsys.readouterr().out
    assert run.run([*arguments, "--on", "reference"]) == 2
    assert "add --on accel" in capsys.readouterr().err
    (out / "accel" / "origins.json").write_text("[]")
    assert run.run([*arguments, "--on", "accel"]) == 1
    assert "origins.json: it names the operations of 0" in capsys.readouterr().err


def test_operations_without_a_name_are_a_part_of_what_they_read() -> None:
    codes, small = FixedType("i8", 5), FixedType("i32", 10)
    net = Net(((4, 8), codes))
    weight = net.constant(np.ones((8, 8)), codes)
    (y,) = net.add(ops.LinearOp, [net.args[0], weight], ((4, 8), small), node_name="fc")
    (y,) = net.add(ops.PotRequantOp, [y], ((4, 8), codes))
    (y,) = net.add(ops.ClampOp, [y], ((4, 8), codes), min=0, max=9)
    (z,) = net.add(ops.ClampOp, [net.args[0]], ((4, 8), codes), min=0, max=9)
    image = lower_accel(net.module(y, z), net.store, P2VIT)
    assert {name for name, _ in image.origins.runs} == {"fc", "vit.clamp", "outputs"}
