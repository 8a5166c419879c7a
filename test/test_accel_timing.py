"""Timing without data: the same cycles, stalls, bytes and energy as the whole emulation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from accel_net import random_codes
from accel_programs import small_of_class
from accel_vit import CODES, Size, VitNet
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vit_opt.backends.accel.assembler import assemble
from vit_opt.backends.accel.emulator import Machine
from vit_opt.backends.accel.image import Image
from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.memory import Memories
from vit_opt.backends.accel.profile import Profile
from vit_opt.backends.accel.run import run_accel, time_accel
from vit_opt.backends.accel.units import EFFECTS, Port
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import ACCEL_TARGETS, P2VIT, AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType, Engine
from vit_opt.dialects.vit_accel.fields import Addr, AddrField, Inst, Space, layout
from vit_opt.dialects.vit_accel.traffic import traffic

UNITS = [cls for cls in isa.INSTRUCTIONS if issubclass(cls, isa.UnitInst)]


@pytest.mark.parametrize("arch", ACCEL_TARGETS.values(), ids=lambda arch: arch.name)
def test_equal_to_the_emulation(arch: AccelTarget) -> None:
    net = VitNet(Size(image=32, patch=8, dim=48, heads=3, layers=1, classes=10))
    image = lower_accel(net.module(net.result), net.store, arch)
    codes = random_codes(np.random.default_rng(1), (1, 3, 32, 32), CODES)
    profiles = Profile(image, arch), Profile(image, arch)
    whole = run_accel(image, {"arg0": codes}, arch, profiles[0]).stats
    assert time_accel(image, arch, profiles[1]) == whole
    assert profiles[0].events == profiles[1].events
    assert profiles[0].layers() == profiles[1].layers()


def test_loops_count_every_iteration() -> None:
    program = """
    .arch p2vit
    .dram 0x1000
    ld.base areg=1
    ld.step areg=1 depth=0 step=64
    ld.loop count=5
    ld.copy dst=abuf[a1+0] src=dram[a1+0] run=64
    ld.end
    """
    stats = time_accel(assemble(program))
    assert stats == Machine(assemble(program), P2VIT).run()
    assert stats.dram_bytes == stats.sram_bytes == 5 * 64


class Recorder(Memories):
    """Memories that note how many bytes every view of them covers."""

    def __init__(self) -> None:
        super().__init__(P2VIT, 4096)
        self.touched: dict[Space, int] = {}

    def view(
        self, addr: Addr, dtype: DType, shape: Sequence[int], strides: Sequence[int]
    ) -> NDArray[np.integer]:
        result = super().view(addr, dtype, tuple(shape), tuple(strides))
        self.touched[addr.space] = self.touched.get(addr.space, 0) + result.nbytes
        return result


EXAMPLES = {cls: small_of_class(cls) for cls in UNITS if cls not in (isa.Gather, isa.Lerp)}
"""All but those whose data says where they read."""


@settings(max_examples=300, deadline=None)
@given(st.one_of(list(EXAMPLES.values())))
def test_traffic_is_what_the_effects_touch(inst: Inst) -> None:
    assert isinstance(inst, isa.UnitInst)
    memories = Recorder()
    for array in memories.bytes.values():
        array[:] = 1
    try:
        with np.errstate(divide="raise", invalid="raise"):
            EFFECTS[type(inst)](Port(memories, lambda addr: addr), inst)
    except (VitError, ValueError, TypeError, ArithmeticError, IndexError):
        return
    assert traffic(inst) == memories.touched


@pytest.mark.parametrize("cls", UNITS, ids=lambda cls: cls.mnemonic)
def test_every_operand_counts(cls: type[isa.UnitInst]) -> None:
    """An operand in a memory of its own adds bytes there."""
    slots = layout(cls).slots
    borders = ("top", "left", "bottom", "right")
    sizes = {slot.name: slot.field.from_raw(int(slot.name not in borders)) for slot in slots}
    names = [slot.name for slot in slots if isinstance(slot.field, AddrField)]
    for name in names:
        places = {each: Addr(Space.OBUF if each == name else Space.ABUF) for each in names}
        assert traffic(cls(**sizes | places))[Space.OBUF] > 0, name


def test_image_runs_without_its_data() -> None:
    """An address outside a memory is not looked at; a deadlock is."""
    copy = "ld.copy dst=abuf[0xd3ff] src=dram[0] run=2"
    assert time_accel(assemble(f".arch p2vit\n.dram 0x1000\n{copy}")).busy["ld"] == 1
    stuck = Image("p2vit", (isa.Wait(Engine.MAC, 3),), dram_size=64)
    with pytest.raises(VitError, match="deadlock: mac waits at instruction 0"):
        time_accel(stuck)
