"""The emulator: control, traps, time."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from accel_programs import images, small_instructions
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.backends.accel.assembler import assemble
from vit_opt.backends.accel.emulator import Machine, TrapError
from vit_opt.backends.accel.image import Image
from vit_opt.backends.accel.memory import pack_int4, unpack_int4
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import P2VIT
from vit_opt.dialects.vit_accel.encoding import decode_stream, encode_stream
from vit_opt.dialects.vit_accel.fields import Space

HEAD = ".arch p2vit\n.dram 0x1000\n"


def machine(text: str) -> Machine:
    """A machine with an assembled program."""
    return Machine(assemble(HEAD + text), P2VIT)


def test_hardware_loops_walk_strided_addresses() -> None:
    """Two nested loops copy a 2 x 3 grid of 4-byte tiles, transposed."""
    m = machine(
        """
        .data 0 000102030405060708090a0b0c0d0e0f1011121314151617
        ld.base areg=1
        ld.step areg=1 depth=0 step=12
        ld.step areg=1 depth=1 step=4
        ld.base areg=2 value=16
        ld.step areg=2 depth=0 step=4
        ld.step areg=2 depth=1 step=8
        ld.loop count=2
        ld.loop count=3
        ld.copy dst=abuf[a2+0x0] src=dram[a1+0x0] run=4
        ld.end
        ld.end
        """
    )
    stats = m.run()
    want = np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(1, 0, 2)
    assert m.memories.bytes[Space.ABUF][16:40].tolist() == want.reshape(-1).tolist()
    assert stats.instructions == 6 + 1 + 2 * (1 + 3 * 2 + 1)


def test_time_of_a_chain_by_hand() -> None:
    """Load 8 bytes (1 cycle + latency), matmul, requant, store; each waits for the one before."""
    m = machine(
        """
        ld.copy dst=abuf[0] src=dram[0] run=8
        ld.signal sem=0
        mac.wait sem=0
        mac.matmul acc=obuf[0] a=abuf[0] b=abuf[0] m=2 n=2 k=4 acc_row=8 a_row=4 b_row=4
        mac.signal sem=1
        shift.wait sem=1
        shift.requant rows=2 cols=2 dst=obuf[64] src=obuf[0] dst_row=2 src_row=8 src_type=i32 dst_type=i8
        shift.signal sem=2
        st.wait sem=2
        st.copy dst=dram[64] src=obuf[64] run=4
        """
    )
    stats = m.run()
    load = 1 + P2VIT.dram_latency
    product = P2VIT.array_fill + 4 + P2VIT.array_drain
    requant = 1 + P2VIT.shift_latency
    store = 1 + P2VIT.dram_latency
    # A wait and a signal cost a cycle each; the load's own signal hides behind its latency.
    assert stats.cycles == load + 1 + product + 2 + requant + 2 + store
    assert stats.busy["mac"] == product and stats.stalled["mac"] == load
    assert stats.macs == 16 and stats.dram_bytes == 128


def test_loads_in_a_queue_overlap_their_latency_and_share_the_bus() -> None:
    one = machine("ld.copy dst=abuf[0] src=dram[0] run=1536").run()
    two = machine("ld.copy dst=abuf[0] src=dram[0] run=1536\n" * 2).run()
    assert one.cycles == 10 + P2VIT.dram_latency and two.cycles == 20 + P2VIT.dram_latency
    both = machine(
        "ld.copy dst=abuf[0] src=dram[0] run=1536\nst.copy dst=dram[0x800] src=bbuf[0] run=1536"
    ).run()
    assert both.cycles == 20 + P2VIT.dram_latency


def test_scattered_bytes_cost_whole_bursts() -> None:
    stats = machine("ld.copy dst=abuf[0] src=dram[0] run=1 n2=10 d2=1 s2=100").run()
    assert stats.dram_bytes == 640


def test_tokens_of_an_instruction_are_waits_and_signals_around_it() -> None:
    """What stands in fields does and costs what it does on lines of its own."""
    lines = """
        ld.copy {0} dst=abuf[0] src=dram[0] run=16
        {1}
        {2}
        mac.matmul {3} acc=obuf[0] a=abuf[0] b=abuf[8] m=1 n=1 k=8 acc_row=4 a_row=8 b_row=8
        {4}
        {5}
        {6}
        st.copy {7} dst=dram[0x40] src=obuf[0] run=4
    """
    apart = "", "ld.signal sem=2", "mac.wait sem=2", "", "mac.signal sem=17", "mac.signal sem=20"
    apart += "shift.wait sem=20\nst.wait sem=17", ""
    within = "signal=mac", "", "", "wait=ld signal=st+shift", "", "", "", "wait=mac"
    first = machine(lines.format(*apart)).run()
    second = machine(lines.format(*within)).run()
    assert first.instructions == 3 + 6 and second.instructions == 3
    assert second.stalled["mac"] == first.stalled["mac"] == P2VIT.dram_latency + 1
    assert replace(second, instructions=0, stalled={}) == replace(first, instructions=0, stalled={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "mac.wait sem=3\nld.wait sem=4 count=2\nld.signal sem=3",
            r"deadlock: ld waits at instruction 1 'ld.wait sem=4 count=2' \(semaphore 4 holds 0 of "
            r"2\); mac waits at instruction 0 'mac.wait sem=3'",
        ),
        (
            "st.copy wait=ld+mac dst=dram[0] src=obuf[0] run=1\n"
            "ld.copy signal=st dst=abuf[0] src=dram[0] run=1",
            r"deadlock: st waits at instruction 0 'st.copy wait=ld.mac .*' \(semaphore 17 holds 0 of",
        ),
        (
            "mac.loop count=300\nmac.matmul signal=st acc=obuf[0] a=abuf[0] b=abuf[0] m=1 n=1 k=1 "
            "acc_row=4 a_row=1 b_row=1\nmac.end\n" * 250,
            "instruction .* 'mac.matmul .*': at its 'mac.signal sem=17': semaphore 17 holds more than",
        ),
        (
            "ld.copy dst=abuf[0xd3ff] src=dram[0] run=2",
            r"instruction 0 'ld.copy .*': abuf\[0xd3ff..0xd401\] leaves the 54272 bytes of abuf",
        ),
        ("ld.copy dst=abuf[0] src=dram[0xfff] run=2", r"dram\[0xfff..0x1001\] leaves the 4096"),
        ("ld.copy dst=dram[0] src=dram[0x10] run=2", "ld.copy writes to the chip"),
        ("st.copy dst=abuf[0] src=obuf[0x10] run=2", "st.copy copies from the chip to DRAM"),
        ("ld.copy dst=abuf[0] src=none run=2", "the machine has no memory none"),
        ("ld.copy dst=abuf[0] src=dram[0] run=0", "an empty operand"),
        ("mac.end", "instruction 0 'mac.end': no loop is open"),
        ("mac.loop count=2", "the queue ends inside a loop"),
        ("mac.loop count=0", "at least one iteration"),
        ("mac.loop count=1\n" * 5, "more than 4 nested loops"),
        ("mac.base areg=0", "register 0 is always zero"),
        ("ld.fill dst=abuf[0] count=1 value=200 type=i8", "value 200 is not a code of i8"),
        (
            "ld.base areg=1 value=54271\nld.step areg=1 depth=0 step=-1\nld.loop count=60000\n"
            "ld.fill dst=abuf[a1+0] count=1 value=1 type=i8\nld.end",
            r"instruction 3 .* abuf\[-0x1..0x0\]",
        ),
        (
            "ld.fill dst=abuf[0] count=200 value=-32768 type=i16\n"
            "ld.signal sem=0\nmac.wait sem=0\n"
            "mac.matmul acc=obuf[0] a=abuf[0] b=abuf[0] m=1 n=1 k=200 acc_row=4 a_row=0 b_row=0 "
            "a_type=i16 b_type=i16 a_step=2 b_step=2",
            "an accumulator leaves 32 bits",
        ),
        (
            "softmax.normalize rows=1 cols=1 dst=obuf[0] acc=obuf[8] div=obuf[16] dst_row=1 "
            "acc_row=4 div_row=4 shift=0 dst_type=i8",
            "a row sum is 0",
        ),
        (
            "table.mean rows=1 cols=1 dst=obuf[0] src=obuf[8] dst_row=1 src_row=4 src_type=i32 "
            "dst_type=i8 count=0",
            "division by zero",
        ),
        (
            "shift.requant rows=1 cols=1 dst=obuf[0] src=obuf[8] dst_row=1 src_row=4 src_type=i32 "
            "dst_type=i8 low=3 high=2",
            "limits 3..2 leave no code",
        ),
        (
            "shift.requant rows=1 cols=1 dst=obuf[0] src=obuf[8] dst_row=1 src_row=4 src_type=i32 "
            "dst_type=i8 low=128",
            "leave no code of the element type",
        ),
        (
            "dw.conv acc=obuf[0] src=abuf[0] w=bbuf[0] oh=2 ow=2 chans=4 kh=3 kw=3 acc_row=32 acc_pix=16 "
            "src_row=8 src_pix=4 w_row=9 top=2 bottom=2",
            "no pixel of the source lies under the windows",
        ),
        (
            "dw.conv acc=obuf[0] src=abuf[0] w=bbuf[0] oh=2 ow=2 chans=4 kh=3 kw=3 acc_row=32 acc_pix=16 "
            "src_row=8 src_pix=4 w_row=9 left=1 fill=200",
            "value 200 is not a code of i8",
        ),
        (
            "mac.conv acc=obuf[0] src=abuf[0] w=bbuf[0] oh=1 ow=1 oc=1 kh=1 kw=1 ic=1 acc_row=4 acc_pix=4 "
            "src_row=1 src_pix=1 w_row=1 src_type=log2",
            "not log2",
        ),
        (
            "dw.pool dst=obuf[0] src=abuf[0] mode=max oh=1 ow=1 chans=2 kh=1 kw=1 dst_row=2 dst_pix=2 "
            "src_row=2 src_pix=2 src_type=i4x2 dst_type=i8",
            "not i4x2",
        ),
        (
            "dw.conv acc=obuf[0] src=abuf[0] w=bbuf[0] oh=16000 ow=16000 chans=4 kh=3 kw=3 acc_row=32 "
            "acc_pix=16 src_row=8 src_pix=4 w_row=9 top=16000 left=16000",
            "larger than any memory|more than any memory",
        ),
        (
            "table.gather dst=obuf[0] src=obuf[0] index=none count=1 run=1 dst_row=1 src_row=1",
            "none",
        ),
    ],
)
def test_traps_name_instruction_and_reason(text: str, message: str) -> None:
    with pytest.raises(TrapError, match=message):
        machine(text).run()


def test_endless_programs_stop() -> None:
    text = "mac.loop count=65535\n" * 4 + "mac.end\n" * 4
    m = Machine(assemble(HEAD + text), P2VIT, max_steps=1000)
    with pytest.raises(TrapError, match=r"instruction 0 .*instructions run, at most 1000"):
        m.run()


def test_length_counts_all_engines() -> None:
    """Two engines that run about 600 each run more than 1000; the longest loop is named."""
    text = "mac.loop count=299\nmac.base areg=1\nmac.end\nst.loop count=300\nst.base areg=1\nst.end"
    machine = Machine(assemble(HEAD + text), P2VIT, max_steps=1000)
    with pytest.raises(TrapError, match=r"instruction 3 'st.loop .*: 1200 instructions run, at"):
        machine.run()
    assert Machine(assemble(HEAD + text), P2VIT, max_steps=1200).run().instructions == 1200


@pytest.mark.parametrize("timing_only", [False, True])
def test_work_without_end_is_refused_before_it_begins(timing_only: bool) -> None:
    """2^33 cycles a machine may work; the loop that would take more is named."""
    text = (
        "mac.loop count=2\nmac.end\nmac.loop count=60000\n"
        "mac.matmul acc=obuf[0] a=abuf[0] b=bbuf[0] m=1 n=200 k=65535 acc_row=4 a_row=0 b_row=0 "
        "a_step=0 b_step=0\nmac.end\n"
    )
    machine = Machine(assemble(HEAD + text), P2VIT, timing_only=timing_only)
    with pytest.raises(TrapError, match=r"instruction 2 'mac.loop count=60000': .* cycles of work"):
        machine.run()
    assert machine.steps == 0


@pytest.mark.parametrize(
    "text",
    [
        "mac.matmul acc=obuf[0] a=abuf[0] b=bbuf[0] m=65535 n=65535 k=1 acc_row=0 a_row=0 b_row=0",
        "mac.conv acc=obuf[0] src=abuf[0] w=bbuf[0] oh=60000 ow=60000 oc=1 kh=1 kw=1 ic=1 acc_row=0 "
        "acc_pix=0 src_row=0 src_pix=0 w_row=1",
        "dw.conv acc=obuf[0] src=abuf[0] w=bbuf[0] oh=1 ow=1 chans=1 kh=60000 kw=60000 acc_row=0 "
        "acc_pix=0 src_row=0 src_pix=0 w_row=0 dh=0 dw=0",
        "dw.pool dst=obuf[0] src=abuf[0] mode=sum oh=1 ow=1 chans=1 kh=60000 kw=60000 dst_row=0 "
        "dst_pix=0 src_row=0 src_pix=0 dh=0 dw=0 src_type=i8 dst_type=i32",
        "table.lerp rows=65535 cols=4000 dst=obuf[0] top=abuf[0] low=abuf[0] param=dram[0] dst_row=0 "
        "pix=0 src_type=i8 dst_type=i8 w0=0 w1=0",
        "table.gather dst=obuf[0] src=abuf[0] index=bbuf[0] count=5000 run=50000 dst_row=0 src_row=0",
    ],
)
def test_huge_results_trap_before_anything_is_computed(text: str) -> None:
    start = time.process_time()
    with pytest.raises(TrapError, match=r"leaves the|elements at|larger than any memory"):
        machine(text).run()
    assert time.process_time() - start < 2


def test_memory_that_the_host_lacks() -> None:
    with pytest.raises(VitError, match=f"asks for {1 << 60} bytes of DRAM, which this host"):
        Machine(Image("p2vit", (), dram_size=1 << 60), P2VIT)


def test_semaphores_do_not_overflow() -> None:
    text = "mac.loop count=300\nmac.signal sem=1 count=255\nmac.end"
    with pytest.raises(TrapError, match="semaphore 1 holds more than 65535"):
        machine(text).run()


@settings(max_examples=150, deadline=None)
@given(images(small_instructions, size=20))
def test_random_programs_end_or_trap(image: Image) -> None:
    try:
        Machine(image, P2VIT, max_steps=2000).run()
    except VitError as error:
        assert "\n" not in str(error)


SOUND = assemble(
    HEAD
    + """
    ld.copy dst=abuf[0] src=dram[0] run=64
    ld.signal sem=0
    mac.wait sem=0
    mac.matmul acc=obuf[0] a=abuf[0] b=abuf[0] m=2 n=2 k=4 acc_row=8 a_row=4 b_row=4
    mac.conv acc=obuf[0x40] src=abuf[0] w=abuf[8] oh=2 ow=2 oc=2 kh=2 kw=2 ic=1 acc_row=16 acc_pix=8 \
        src_row=4 src_pix=1 w_row=4
    mac.signal sem=1
    norm.layernorm rows=2 cols=4 dst=obuf[0x80] src=abuf[0] gamma=abuf[0] beta=abuf[16] dst_row=4 \
        src_row=4 src_type=i8 dst_type=i8 gamma_type=i8 beta_shift=3 shift=5
    softmax.wait sem=1
    softmax.exp rows=2 cols=2 p=obuf[0x90] sum=obuf[0x98] src=obuf[0] p_row=2 sum_row=4 \
        src_row=8 src_type=i32 frac=5
    softmax.shiftmax rows=2 cols=2 dst=obuf[0xa0] src=obuf[0] dst_row=2 src_row=8 \
        src_type=i32 dst_type=i8 frac=4
    """
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_code_ends_or_traps(edits: list[tuple[int, int]]) -> None:
    code = bytearray(encode_stream(SOUND.code))
    for place, value in edits:
        code[place % len(code)] = value
    try:
        image = Image("p2vit", decode_stream(bytes(code)), dram_size=4096)
        Machine(image, P2VIT, max_steps=2000).run()
    except VitError as error:
        assert "\n" not in str(error)


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=9))
def test_int4_pairs(codes: list[int]) -> None:
    packed = pack_int4(np.array([codes]))
    assert packed.shape == (1, (len(codes) + 1) // 2)
    assert unpack_int4(packed, len(codes)).tolist() == [codes]
