"""Figures in the papers' units, against sums done by hand, and from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accel_net import REPORT, random_codes
from accel_vit import CODES, Size, VitNet

from vit_opt.backends.accel.assembler import assemble
from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.metrics import GpuFigure, metrics, metrics_lines
from vit_opt.backends.accel.run import run_accel, time_accel
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import P2VIT, TRIO, EnergyTable
from vit_opt.tools import run
from vit_opt.tools.architectures import arch_json
from vit_opt.tools.artefact import ARCH, IMAGE, ORIGINS

TABLE = EnergyTable()


def test_by_hand() -> None:
    """64 columns on the lanes, 64 rows by eights, 8 steps each; 16 cycles to fill and drain."""
    program = """
    .arch p2vit
    .dram 0x1000
    mac.matmul acc=obuf[0] a=abuf[0] b=bbuf[0] m=64 n=64 k=8 acc_row=256 a_row=8 b_row=8 map=nm
    """
    image = assemble(program)
    stats = time_accel(image)
    cycles, macs = 8 * 8 + 16, 64 * 64 * 8
    assert stats.cycles == cycles
    found = metrics(stats, P2VIT, replace(image, macs=macs))
    assert found["latency_ms"] == pytest.approx(cycles / 500e3)
    assert found["fps"] == pytest.approx(500e6 / cycles)
    assert found["gops"] == pytest.approx(2 * macs / (cycles / 500e6) / 1e9)
    assert found["gops_per_mac"] == pytest.approx(2 * 0.5 * macs / (cycles * 512))
    assert found["occupied"] == found["utilisation"] and not found["narrow_macs"]
    assert not any("4 bits" in line for line in metrics_lines(found))
    assert found["engine_uj"] == {"mac": pytest.approx(macs * TABLE.mac_int8 * 1e-6)}
    memory = {"abuf": 64 * 8, "bbuf": 64 * 8, "obuf": 64 * 64 * 4}
    assert found["memory_uj"] == {
        name: pytest.approx(count * TABLE.sram_byte * 1e-6) for name, count in memory.items()
    }
    joules = (macs * TABLE.mac_int8 + sum(memory.values()) * TABLE.sram_byte) * 1e-12
    assert found["gops_per_w"] == pytest.approx(2 * macs / joules / 1e9)
    assert found["power_w"] == pytest.approx(joules * 500e6 / cycles)


def test_weights_of_four_bits_by_hand() -> None:
    """Half of the groups of eight are bytes: 12 steps of k, of which 8 for half of the MACs."""
    program = """
    .arch p2vit
    .dram 0x1000
    mac.matmul acc=obuf[0] a=abuf[0] b=bbuf[1] m=64 n=64 k=16 acc_row=256 a_row=16 b_row=13 b_type=i4x2
      marks=bbuf[0] wide=1
    """
    cycles, macs = 8 * 12 + 16, 64 * 64 * 16
    image = replace(assemble(program.replace("\n      ", " ")), macs=macs)
    stats = time_accel(image)
    assert (stats.cycles, stats.macs, stats.narrow_macs) == (cycles, macs, macs // 2)
    found = metrics(stats, P2VIT, image)
    assert found["utilisation"] == pytest.approx(macs / (cycles * 512)) and found["utilisation"] > 1
    assert found["narrow_share"] == 0.5 and found["occupied"] == pytest.approx(8 * 12 / cycles)
    assert any(line.startswith("50.0% of the MACs by weights") for line in metrics_lines(found))
    shifts = 64 * 64 * 8 // 2
    assert stats.energy_pj["elements"] == pytest.approx(shifts * TABLE.add_int32)


def test_against_a_gpu() -> None:
    """A GPU twice as slow at 10 W, as stated."""
    image = assemble(".arch p2vit\n.dram 0x1000\nld.copy dst=abuf[0] src=dram[0] run=1536")
    stats = time_accel(image)
    alone = metrics(stats, P2VIT, image)
    assert "gpu" not in alone
    gpu = GpuFigure(2 * alone["latency_ms"], 10.0)
    found = metrics(stats, P2VIT, image, gpu)["gpu"]
    assert found["speed_up"] == pytest.approx(2)
    energy = 1536 * (TABLE.dram_byte + TABLE.sram_byte) * 1e-12
    assert found["energy_ratio"] == pytest.approx(10 * gpu.latency_ms * 1e-3 / energy)
    assert "2.00 times as fast" in metrics_lines(metrics(stats, P2VIT, image, gpu))[-1]


def test_dram_traffic_by_hand() -> None:
    """Bursts of 64 bytes; each line with bytes on the bus, and for what."""
    program = f"""
    .arch p2vit
    .dram 0x1000
    .data 0x0 {"ab" * 100}
    .input "x" 0x80 i8 64
    .output "y" 0x100 i8 32
    ld.copy dst=abuf[0] src=dram[0] run=100  # 128: 100 once
    ld.copy dst=abuf[0] src=dram[0] run=40 n0=2 d0=40  # 128: 80 constants again
    ld.copy dst=abuf[0] src=dram[0x80] run=48  # 64: 48 once
    ld.copy dst=abuf[0] src=dram[0x80] run=64  # 64: 16 once, 48 of the input again
    ld.signal sem=1
    st.wait sem=1
    st.copy dst=dram[0x90] src=abuf[0] run=16  # 64: an activation in the place of the input
    st.copy dst=dram[0x100] src=abuf[0] run=32  # 64: overwritten by the next
    st.copy dst=dram[0x100] src=abuf[0] run=32  # 64: 32 once
    st.signal sem=8
    ld.wait sem=8
    ld.copy dst=abuf[0] src=dram[0x80] run=64  # 64: 48 of the input again, an activation of 16
    ld.base areg=1
    ld.step areg=1 depth=0 step=64
    ld.loop count=2
    ld.copy dst=abuf[0] src=dram[a1+0x180] run=64  # 2 x 64 of activations
    ld.copy dst=abuf[0] src=dram[0x200] run=64  # 2 x 64 likewise
    ld.end
    """
    image = assemble(program)
    found = metrics(time_accel(image), P2VIT, image)
    assert found["dram_bytes"] == 896
    assert found["dram_parts"] == {
        "once": 100 + 64 + 32,
        "constants_again": 80,
        "inputs_again": 48 + 48,
        "activations": 16 + 32 + 16 + 4 * 64,
        "bursts": 896 - 692,
    }
    line = "DRAM traffic by cause: constants, inputs and outputs once 196 (21.9%), constants read "
    assert any(each.startswith(line + "again 80 (8.9%), ") for each in metrics_lines(found))


@pytest.mark.parametrize("text", ["", "3", "3,", "3,4,5", "a,b", "0,1", "1,-1", "nan,1", "inf,1"])
def test_gpu_figures_are_checked(text: str) -> None:
    with pytest.raises(VitError, match=r"is not a GPU's MS,WATTS, such as 1.02,250"):
        GpuFigure.parse(text)


def test_parts_add_up() -> None:
    net = VitNet(Size(image=32, patch=8, dim=48, heads=3, layers=1, classes=10))
    image = lower_accel(net.module(net.result), net.store, TRIO)
    codes = random_codes(np.random.default_rng(1), (1, 3, 32, 32), CODES)
    stats = run_accel(image, {"arg0": codes}, TRIO).stats
    found = metrics(stats, TRIO, image)
    assert found["energy_uj"] == pytest.approx(
        sum(found["engine_uj"].values()) + sum(found["memory_uj"].values())
    )
    data = sum(len(segment.data) for segment in image.segments)
    assert found["compulsory_bytes"] == data + 3 * 32 * 32 + image.outputs[0].size
    assert found["dram_bytes"] >= found["compulsory_bytes"]
    assert found["dram_parts"]["once"] == found["compulsory_bytes"]
    assert sum(found["dram_parts"].values()) == found["dram_bytes"]
    assert min(found["dram_parts"].values()) >= 0
    assert any("times constants" in line for line in metrics_lines(found))
    assert {"mac", "shift", "softmax", "norm"} <= set(found["engine_uj"])
    assert found["gops_per_mac"] == pytest.approx(stats.utilisation * 2 * TRIO.clock_mhz / 1e3)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`vit-run --timing-only` needs no input and says what a run says."""
    net = VitNet(Size(image=32, patch=8, dim=48, heads=3, layers=1, classes=10))
    image = lower_accel(net.module(net.result), net.store, P2VIT)
    accel = tmp_path / "accel"
    accel.mkdir()
    image.save(accel / IMAGE)
    (accel / ARCH).write_text(arch_json(P2VIT))
    (accel / ORIGINS).write_text(image.origins.to_json())
    (tmp_path / "report.json").write_text(REPORT)
    options = [str(tmp_path), "--on", "accel", "--timing-only"]
    assert run.run([*options, "--json", "--gpu", "1.02,400", "--layers"]) == 0
    facts = json.loads(capsys.readouterr().out)
    codes = random_codes(np.random.default_rng(1), (1, 3, 32, 32), CODES)
    stats = run_accel(image, {"arg0": codes}, P2VIT).stats
    assert facts["metrics"]["cycles"] == stats.cycles
    assert facts["metrics"]["energy_uj"] == pytest.approx(stats.energy_uj)
    assert sum(layer["cycles"] for layer in facts["layers"]) == stats.cycles
    assert facts["metrics"]["gpu"]["watts"] == 400
    assert sum(work["macs"] for work in facts["work"]) == stats.macs
    assert run.run(options) == 0
    text = capsys.readouterr().out
    assert "GOPS per MAC unit" in text and "% used meanwhile" in text and "s on the host" in text
    for wrong, message in (
        (["--gpu", "3"], "MS,WATTS"),
        (["--output", "x.npz"], "computes no data: leave out --output"),
        (["--input", "x.npz"], "computes no data: leave out --input"),
        (["--jobs", "2"], "computes no data: leave out --jobs"),
        (["--on", "c"], "--timing-only is for the accelerator"),
    ):
        assert run.run([*options, *wrong]) in (1, 2)
        assert message in capsys.readouterr().err
