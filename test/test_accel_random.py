"""Random networks on small machines: the reference's bits, and semaphores for all that is shared."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from accel_net import SMALL, random_codes, reference
from accel_races import OrderedMachine, RaceError, Recorder
from accel_vit import Size, VitNet
from random_graphs import RandomGraph
from random_images import RandomChains, RandomImages

from vit_opt.backends.accel import run
from vit_opt.backends.accel.assembler import assemble
from vit_opt.backends.accel.lowering import context, lower_accel
from vit_opt.backends.accel.lowering.arena import Use
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.pipelines import CASES
from vit_opt.backends.accel.memory import Memories
from vit_opt.backends.accel.run import run_accel
from vit_opt.backends.accel.units import EFFECTS
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.ops.base import format_of, shape_of
from vit_opt.dialects.vit.targets import EDGE, P2VIT, TRIO, AccelTarget, MemorySpec
from vit_opt.dialects.vit_accel import isa


def machine(name: str, base: AccelTarget, lanes: int, *sizes: int, dw: int = 64) -> AccelTarget:
    """A machine like another, with so many lanes of four and bytes of memory."""
    names = ("abuf", "bbuf", "cbuf", "obuf", "pbuf")
    memories = tuple(MemorySpec(*each) for each in zip(names, sizes, strict=True))
    return replace(base, name=name, lanes=lanes, columns=4, memories=memories, dw_width=dw)


MACHINES = (
    SMALL,
    machine("tiny", P2VIT, 4, 900, 900, 900, 1800, 1500),
    machine("middle", P2VIT, 16, 8000, 8000, 8000, 16000, 8000),
    machine("two-engines", TRIO, 8, 6000, 6000, 6000, 12000, 8000, dw=32),
    EDGE,
)


def check(graph: RandomGraph, arch: AccelTarget, case: str) -> None:
    """Emulator and reference agree on random codes, whatever order semaphores leave open."""
    args = graph.block.args
    inputs = [random_codes(graph.rng, shape_of(arg), format_of(arg)) for arg in args]
    image = lower_accel(graph.module, graph.store, arch, CASES[case])
    with patch.object(run, "Machine", OrderedMachine):
        ran = run_accel(image, {f"arg{i}": codes for i, codes in enumerate(inputs)}, arch)
    for index, want in enumerate(reference(graph.module, graph.store, inputs)):
        assert np.array_equal(ran.codes[f"result{index}"], want), index


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [RandomGraph, RandomImages, RandomChains])
def test_random_networks(kind: type[RandomGraph], seed: int) -> None:
    case = ("both", "inter", "intra", "none")[seed % 4]
    check(kind(seed, steps=6), MACHINES[(3 * seed + 1) % len(MACHINES)], case)


class Recording(Builder):
    """A builder that remembers what each instruction is said to read and to write."""

    told: list[tuple[isa.UnitInst, list[Use], list[Use]]]

    def emit(
        self,
        inst: isa.UnitInst,
        reads: Iterable[Use],
        writes: Iterable[Use],
        instead: isa.UnitInst | None = None,
    ) -> None:
        both = list(reads), list(writes)
        super().emit(inst, *both, instead)
        if not self.rehearsing:
            self.told.append((inst, *both))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [RandomGraph, RandomImages, RandomChains])
def test_instructions_touch_no_more_than_is_told(kind: type[RandomGraph], seed: int) -> None:
    """The order of a program follows from what the lowering says of its instructions."""
    graph = kind(100 + seed, steps=6)
    arch = MACHINES[(2 * seed + 1) % len(MACHINES)]
    Recording.told = []
    with patch.object(context, "Builder", Recording):
        lower_accel(graph.module, graph.store, arch)
    assert Recording.told
    memories = Memories(arch, 1 << 22)
    for inst, reads, writes in Recording.told:
        port = Recorder(memories, lambda addr: addr)
        with suppress(VitError, ArithmeticError, ValueError):  # All data are zero.
            EFFECTS[type(inst)](port, inst)()
        for (space, where), written in port.accesses(inst):
            uses = [use for use in (writes if written else reads) if use.region.space is space]
            assert covers(uses, *where), inst.text()


def covers(
    uses: Iterable[Use], offset: int, item: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> bool:
    """Whether uses cover all bytes from the first to the last of a strided view."""
    end = offset + item + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    spans = sorted((use.region.start + use.low, use.region.start + use.high) for use in uses)
    for low, high in spans:
        if low <= offset:
            offset = max(offset, high)
    return offset >= end


# ---- the check itself ----------------------------------------------------------------------------


class Forgetful(OrderedMachine):
    """Learns nothing from one token: an instruction and the semaphore that it takes it from."""

    forgotten: tuple[int, int] = -1, -1

    def _take(self, state: object, index: int, wait: isa.Wait) -> bool:
        before = self.clocks[wait.engine].copy()
        taken = super()._take(state, index, wait)
        if (index, wait.sem) == self.forgotten:
            self.clocks[wait.engine][:] = before
        return taken


def test_hardly_a_wait_can_be_left_out() -> None:
    """Of the waits of a small vision transformer; others may say what the missing one said."""
    net = VitNet(Size(image=16, patch=8, dim=16, heads=2, layers=1, classes=4))
    image = lower_accel(net.module(net.result), net.store, P2VIT)
    waits = [
        (index, isa.between(other, inst.engine))
        for index, inst in enumerate(image.code)
        if isinstance(inst, isa.UnitInst)
        for other in inst.wait
    ]
    missed = 0
    for wait in waits:
        machine = Forgetful(image, P2VIT)
        machine.forgotten = wait
        try:
            machine.run()
        except RaceError:
            missed += 1
    assert len(waits) > 10 and 0.8 * len(waits) < missed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "st.copy dst=dram[0] src=obuf[0] run=4",
            r"OBUF is read before anything is written",
        ),
        ("ld.copy dst=abuf[0] src=dram[0x40] run=4", "is read before anything is written"),
        (
            "ld.fill dst=obuf[0] count=4 value=1 type=i8\nst.copy dst=dram[0] src=obuf[0] run=4",
            "is read while ld may be writing it",
        ),
        (
            "ld.copy dst=abuf[0] src=dram[0] run=8\nld.signal sem=0\nld.signal sem=1\nmac.wait sem=0\n"
            "mac.matmul acc=obuf[0] a=abuf[0] b=abuf[0] m=1 n=1 k=8 acc_row=4 a_row=8 b_row=8\n"
            "shift.wait sem=1\n"
            "shift.requant rows=1 cols=4 dst=abuf[4] src=dram[0] dst_row=4 src_row=4 src_type=i8 "
            "dst_type=i8",
            "is written while mac may be reading it",
        ),
        (
            "ld.fill dst=obuf[0] count=4 value=1 type=i8\n"
            "table.clamp rows=1 cols=4 dst=obuf[0] src=dram[0] dst_row=4 src_row=4 type=i8 low=0 "
            "high=1",
            "is written while ld may be writing it",
        ),
    ],
)
def test_accesses_without_order_are_noticed(text: str, reason: str) -> None:
    image = assemble(f".arch p2vit\n.dram 0x80\n.data 0 0001020304050607\n{text}")
    with pytest.raises(RaceError, match=reason):
        OrderedMachine(image, P2VIT).run()
