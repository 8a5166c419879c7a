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
from vit_opt.backends.accel.emulator import Machine, TrapError
from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.memory import Memories
from vit_opt.backends.accel.profile import Profile
from vit_opt.backends.accel.run import run_accel, time_accel
from vit_opt.backends.accel.units import EFFECTS, Port
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import ACCEL_TARGETS, P2VIT, AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType
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
            EFFECTS[type(inst)](Port(memories, lambda addr: addr), inst)()
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


LOOPED = """
ld.base areg=1 value=54200
ld.step areg=1 depth=0 step=20
ld.loop count=9
ld.copy dst=abuf[a1+0] src=dram[0] run=2
ld.end
"""


@pytest.mark.parametrize(
    "text",
    [
        "ld.copy dst=abuf[0xd3ff] src=dram[0] run=2",
        LOOPED,
        "ld.fill dst=abuf[0] count=1 value=200 type=i8",
        "shift.requant rows=1 cols=1 dst=obuf[0] src=obuf[8] dst_row=1 src_row=4 src_type=i32 "
        "dst_type=i8 low=3 high=2",
        "dw.conv acc=obuf[0] src=abuf[0] w=bbuf[0] oh=2 ow=2 chans=4 kh=3 kw=3 acc_row=32 "
        "acc_pix=16 src_row=8 src_pix=4 w_row=9 top=2 bottom=2",
        "mac.conv acc=obuf[0] src=abuf[0] w=bbuf[0] oh=1 ow=1 oc=1 kh=1 kw=1 ic=1 acc_row=4 "
        "acc_pix=4 src_row=1 src_pix=1 w_row=1 src_type=i32",
        "table.mean rows=1 cols=1 dst=obuf[0] src=obuf[8] dst_row=1 src_row=4 src_type=i32 "
        "dst_type=i8 count=0",
        "mac.wait sem=3",
    ],
)
def test_traps_without_data(text: str) -> None:
    """What follows from the program alone stops it whether data are computed or not."""
    image = assemble(f".arch p2vit\n.dram 0x1000\n{text}")
    with pytest.raises(TrapError) as whole:
        run_accel(image, {}, P2VIT)
    with pytest.raises(TrapError) as timed:
        time_accel(image)
    assert str(timed.value) == str(whole.value) and not timed.value.of_data


def test_traps_of_data_stop_whole_runs_only() -> None:
    text = (
        "softmax.normalize rows=1 cols=1 dst=obuf[0] acc=obuf[8] div=obuf[16] dst_row=1 "
        "acc_row=4 div_row=4 shift=0 dst_type=i8"
    )
    image = assemble(f".arch p2vit\n.dram 0x1000\n{text}")
    with pytest.raises(TrapError, match="a row sum is 0") as trap:
        run_accel(image, {}, P2VIT)
    assert trap.value.of_data
    assert time_accel(image).busy["softmax"] > 0
