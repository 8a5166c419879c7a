"""Engines share the banks of a memory: what is lost when these do not suffice, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vit_opt.backends.accel.assembler import assemble
from vit_opt.backends.accel.image import Image
from vit_opt.backends.accel.profile import Profile
from vit_opt.backends.accel.run import time_accel
from vit_opt.dialects.vit.targets import P2VIT, AccelTarget

FILL = "ld.fill dst=obuf[0] count=6400 value=1 type=i8"
"""100 cycles of 64 bytes."""

REQUANT = (
    "shift.requant rows=1 cols=6144 dst=obuf[0x8000] src=obuf[0x4000] dst_row=0 src_row=0 "
    "src_type=i8 dst_type=i8 shift=0"
)
"""96 + 4 cycles, 122.88 bytes of obuf a cycle."""


def timed(text: str, banks: int, width: int = 64) -> tuple[int, dict[str, int], list[str | None]]:
    """Cycles, stalls by engine, and causes of stalls, with so many banks in every memory."""
    memories = tuple(replace(memory, banks=banks, width=width) for memory in P2VIT.memories)
    arch: AccelTarget = replace(P2VIT, memories=memories)
    image = assemble(f".arch p2vit\n{text}")
    image = replace(image, arch_digest=arch.digest())
    profile = Profile(image, arch)
    stats = time_accel(image, arch, profile)
    return stats.cycles, stats.stalled, [e.cause for e in profile.events if e.cause]


def test_two_engines_at_once() -> None:
    """512 bytes a cycle are enough; of 128, the filling leaves 64 to 122.88; other memories are free."""
    assert timed(f"{FILL}\n{REQUANT}", banks=8) == (100, _stalls(), [])
    lost = 92  # ceil(100 * (122.88 / 64 - 1))
    assert timed(f"{FILL}\n{REQUANT}", banks=2) == (100 + lost, _stalls(shift=lost), ["obuf"])
    elsewhere = FILL.replace("obuf", "abuf")
    assert timed(f"{elsewhere}\n{REQUANT}", banks=2) == (100, _stalls(), [])


def test_one_engine_alone() -> None:
    """Banks narrower than the unit slow it by themselves, and leave others their port's share."""
    assert timed(REQUANT, banks=1) == (100 + 92, _stalls(shift=92), ["obuf"])
    cycles, stalls, _ = timed(f"{FILL}\n{REQUANT}", banks=1)
    assert stalls == _stalls(shift=1436) and cycles == 100 + 1436  # 100 * (122.88 / 8 - 1)


def test_engines_that_are_done_take_nothing() -> None:
    text = f"{FILL}\nld.signal sem=0\nshift.wait sem=0\n{REQUANT}"
    cycles, stalls, causes = timed(text, banks=2)
    assert cycles == 100 + 1 + 1 + 100
    assert stalls == _stalls(shift=101) and causes == ["ld"]


@pytest.mark.parametrize("timing_only", [False, True])
def test_data_make_no_difference(timing_only: bool) -> None:
    from vit_opt.backends.accel.emulator import Machine

    memories = tuple(replace(memory, banks=2) for memory in P2VIT.memories)
    arch = replace(P2VIT, memories=memories)
    code = assemble(f".arch p2vit\n{FILL}\n{REQUANT}").code
    image = Image("p2vit", code, arch_digest=arch.digest())
    assert Machine(image, arch, timing_only=timing_only).run().cycles == 192


def _stalls(**some: int) -> dict[str, int]:
    """Stalls of all engines, those named and none."""
    names = ("ld", "st", "mac", "dw", "shift", "softmax", "norm", "table")
    return dict.fromkeys(names, 0) | some
