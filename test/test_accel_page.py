"""The accelerator's HTML page: rasters by hand, and a page that stands alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from accel_net import REPORT
from accel_vit import Size, VitNet

from vit_opt.backends.accel.assembler import assemble
from vit_opt.backends.accel.image import Image
from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.profile import Profile
from vit_opt.backends.accel.run import time_accel
from vit_opt.dialects.vit.targets import P2VIT
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.tools import run
from vit_opt.tools.architectures import arch_json
from vit_opt.tools.artefact import ARCH, IMAGE, ORIGINS
from vit_opt.tools.report import accel_plots


def profile_of(text: str) -> tuple[Profile, int]:
    """The record of a program and its cycles."""
    image = assemble(f".arch p2vit\n.dram 0x2000\n{text}")
    profile = Profile(image, P2VIT)
    return profile, time_accel(image, P2VIT, profile).cycles


def test_shares_of_time_by_hand() -> None:
    """10 cycles of filling, the signal, then the shifters that waited so long."""
    profile, cycles = profile_of(
        "ld.fill dst=abuf[0x0] count=640 value=1 type=i8\nld.signal sem=0\nshift.wait sem=0\n"
        "shift.requant rows=1 cols=640 dst=obuf[0x0] src=abuf[0x0] dst_row=640 src_row=640 "
        "src_type=i8 dst_type=i8 shift=0"
    )
    assert cycles == 12 + 10 + P2VIT.shift_latency
    work, stalls = accel_plots.busy_shares(profile, cycles, cycles)
    assert work[Engine.LD].sum() == pytest.approx(10)
    assert work[Engine.LD][:10] == pytest.approx(1) and not work[Engine.LD][10:].any()
    assert stalls[Engine.SHIFT][:11] == pytest.approx(1) and not stalls[Engine.SHIFT][11:].any()
    assert work[Engine.SHIFT].sum() == pytest.approx(10 + P2VIT.shift_latency)
    coarse, _ = accel_plots.busy_shares(profile, cycles, 2)
    assert coarse[Engine.LD] == pytest.approx([10 / (cycles / 2), 0])


def test_memories_by_hand() -> None:
    """The upper half of abuf is written by `ld` in the first half of the time, later read by `mac`."""
    half = P2VIT.memory_size("abuf") // 2
    profile, cycles = profile_of(
        f"ld.fill dst=abuf[{half}] count={half} value=1 type=i8\nld.signal sem=0\nmac.wait sem=0\n"
        f"mac.matmul acc=obuf[0] a=abuf[{half}] b=bbuf[0] m=64 n=64 k={half // 64} acc_row=256 "
        f"a_row={half // 64} b_row={half // 64}"
    )
    raster = accel_plots.memory_rasters(profile, (0, cycles))[Space.ABUF]
    lower, upper = np.split(raster, 2)
    assert not lower.any()
    filled = profile.events[0].cycles / cycles
    change = int(filled * accel_plots.BINS)
    assert (upper[:-1, :change] == Engine.LD + 1).all()
    assert (upper[:-1, change + 5 :] == Engine.MAC + 1).all()


def test_addresses_of_loops_are_resolved() -> None:
    profile, _ = profile_of(
        "ld.base areg=1\nld.step areg=1 depth=0 step=100\nld.loop count=3\n"
        "ld.fill dst=abuf[a1+4] count=10 value=1 type=i8\nld.end"
    )
    assert [event.places[0][0].offset for event in profile.events] == [4, 104, 204]
    assert {event.places[0][1] for event in profile.events} == {10}


class Outline(HTMLParser):
    """What a page refers to, and its headings."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.tags: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and value and value[0] != "#":
                self.outside.append(value)


def test_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = VitNet(Size(image=32, patch=8, dim=48, heads=3, layers=1, classes=10))
    image: Image = lower_accel(net.module(net.result), net.store, P2VIT)
    accel = tmp_path / "accel"
    accel.mkdir()
    image.save(accel / IMAGE)
    (accel / ARCH).write_text(arch_json(P2VIT))
    (accel / ORIGINS).write_text(image.origins.to_json())
    (tmp_path / "report.json").write_text(REPORT)
    path = tmp_path / "page.html"
    options = [str(tmp_path), "--on", "accel", "--timing-only", "--gpu", "2,50"]
    assert run.run([*options, "--html", str(path)]) == 0
    capsys.readouterr()
    text = path.read_text()
    outline = Outline()
    outline.feed(text)
    assert "<h1>&lt;tiny&gt;.onnx on p2vit</h1>" in text
    assert "DRAM traffic by cause: constants, inputs and outputs once" in text
    assert outline.tags["svg"] == outline.tags["figure"] == 9
    assert outline.tags["li"] == 2
    layers = len({name for name, _ in image.origins.runs})
    assert outline.tags["tr"] == layers + 1
    assert all(link.startswith("data:image/png;base64,") for link in outline.outside)
    assert not re.search(r"@import|url\((?!#)", text)
    assert run.run([*options, "--html", str(tmp_path / "no" / "page.html")]) == 1
    assert "the folder" in capsys.readouterr().err
