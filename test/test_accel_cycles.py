"""Cycles of every instruction, worked out by hand on `p2vit`.

Its array has 64 lanes of 8, 8 + 8 cycles to fill and drain; DRAM gives 153.6 bytes a cycle in bursts
of 64; copies on chip move 64 bytes a cycle. Elements a cycle and latency: reconfigurable engine 64, 8;
divisions 16, 20; shifters 64, 4; softmax 16, 16; LayerNorm 16, 64; tables 32, 4.
"""

from __future__ import annotations

import pytest

from vit_opt.backends.accel.assembler import parse_instruction
from vit_opt.backends.accel.emulator import Machine
from vit_opt.backends.accel.image import Image
from vit_opt.dialects.vit.targets import P2VIT
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.fields import Inst

PRODUCT = "acc=obuf[0] a=abuf[0] b=bbuf[0] m=100 n=70 k=30 acc_row=280 a_row=30 b_row=30"
CONV = (
    "mac.conv acc=obuf[0] src=abuf[0] w=bbuf[0] oh=6 ow=10 oc=70 kh=3 kw=3 ic=4 acc_row=2800 "
    "acc_pix=280 src_row=48 src_pix=4 w_row=36"
)
GROUPS = (
    "mac.conv acc=obuf[0] src=abuf[0] w=bbuf[0] oh=6 ow=10 oc=70 kh=3 kw=3 ic=4 acc_row=8400 "
    "acc_pix=840 src_row=144 src_pix=12 w_row=36 groups=3"
)
DEPTHWISE = (
    "dw.conv acc=obuf[0] src=abuf[0] w=bbuf[0] oh=6 ow=10 chans=20 kh=3 kw=3 acc_row=1600 "
    "acc_pix=160 src_row=480 src_pix=40 w_row=9"
)
BORDERS = "top=1 left=2 bottom=1 right=1 fill=5"
BLOCK = "rows=10 cols=33 dst=abuf[0] dst_row=66"
MAPPED = f"{BLOCK} src=bbuf[0] src_row=132 dst_type=i16"
PAIR = (
    f"{BLOCK} a=bbuf[0] b=bbuf[0] a_row=33 b_row=33 a_col=1 b_col=1 a_type=i8 b_type=i8 dst_type=i8"
)
DIVISION = f"{BLOCK} acc=obuf[0] div=obuf[0x2000] acc_row=132 div_row=4 shift=3 dst_type=i8"
LIMITS = "low=-3 high=9"

BY_HAND = (
    # Three runs of 16 bursts: 3072 bytes / 153.6. One run: 1024 / 153.6 = 6.7.
    ("ld.copy dst=abuf[0] src=dram[0] run=1000 n2=3 d2=1000 s2=5000", 20),
    ("st.copy dst=dram[0] src=abuf[0] run=1000", 7),
    # Rows that lie behind one another are one run: 47 bursts, 3008 / 153.6 = 19.6.
    ("ld.copy dst=abuf[0] src=dram[0] run=1000 n2=3 d2=1000 s2=1000", 20),
    ("ld.copy dst=abuf[0] src=dram[0] run=10 n2=100 d2=10 s2=10", 7),
    # On chip: six runs of two steps; of four for 200 bytes.
    ("ld.copy dst=abuf[0] src=bbuf[0] run=100 n1=3 n2=2 d1=200 d2=100 s1=200 s2=100", 12),
    ("ld.fill dst=abuf[0] count=100 value=0 type=i16 n0=3 n1=2 d0=400 d1=200", 24),
    # 5 bursts arrive in 2.1 cycles, 400 codes leave in 400 / 153.6 = 2.6.
    ("ld.expand dst=abuf[0] src=dram[0] rows=4 cols=100 size=300 dst_row=100", 3),
    # ceil(70 / 64) * ceil(100 / 8) * 30 = 780, and 16.
    (f"mac.matmul {PRODUCT}", 796),
    (f"mac.matmul {PRODUCT} accumulate=on", 796),
    (f"mac.matmul {PRODUCT} bias=pbuf[0]", 796),
    (f"mac.matmul {PRODUCT} batch=3 acc_batch=28000 a_batch=3000 b_batch=2100", 3 * 780 + 16),
    (f"mac.matmul {PRODUCT} a_type=log2", 2 * 780 + 16),
    (f"mac.matmul {PRODUCT} b_type=i4x2", 2 * 13 * 15 + 16),
    # The other ways to lay the axes: mn, nk, mk, kn, km.
    (f"mac.matmul {PRODUCT} map=mn", 2 * 9 * 30 + 16),
    (f"mac.matmul {PRODUCT} map=nk", 2 * 4 * 100 + 16),
    (f"mac.matmul {PRODUCT} map=mk", 2 * 4 * 70 + 16),
    (f"mac.matmul {PRODUCT} map=kn", 1 * 9 * 100 + 16),
    (f"mac.matmul {PRODUCT} map=km", 1 * 13 * 70 + 16),
    # Twelve groups of eight, three of bytes: 9 * 4 + 3 * 8 steps for each of two times eight rows.
    (
        "mac.matmul acc=obuf[0] a=abuf[0] b=bbuf[0] m=16 n=64 k=96 acc_row=256 a_row=96 b_row=96 "
        "b_type=i4x2 marks=pbuf[0] wide=3",
        2 * 60 + 16,
    ),
    # On eight lanes of eight: ceil(70 / 8) * 13 * 30.
    (f"dw.matmul {PRODUCT}", 3510 + 16),
    # 60 pixels, 70 outputs, sums of 36: 2 * 8 * 36.
    (CONV, 576 + 16),
    (f"{CONV} {BORDERS} accumulate=on", 576 + 16),
    (f"{CONV} map=mn", 1 * 9 * 36 + 16),
    (GROUPS, 3 * 576 + 16),
    (f"{GROUPS} {BORDERS}", 3 * 576 + 16),
    (f"{CONV} sh=2 sw=2 dh=2 dw=2", 576 + 16),
    (f"{CONV.replace('ic=4', 'ic=8')} w_type=i4x2 marks=pbuf[0] wide=1", 2 * 8 * 40 + 16),
    # 60 * 20 * 9 / 64 = 168.75.
    (DEPTHWISE, 169 + 8),
    (f"{DEPTHWISE} {BORDERS}", 169 + 8),
    (f"{DEPTHWISE} accumulate=on acc_step=2 bias=pbuf[0] bias_step=2", 169 + 8),
    (f"{DEPTHWISE} src_type=i16", 338 + 8),
    # 60 * 20 * 4 / 64.
    (
        "dw.pool dst=abuf[0] src=bbuf[0] mode=max oh=6 ow=10 chans=20 kh=2 kw=2 dst_row=200 "
        f"dst_pix=20 src_row=220 src_pix=20 src_type=i8 dst_type=i8 {BORDERS}",
        75 + 8,
    ),
    # 330 / 16 = 20.6, 660 / 16 = 41.3.
    (f"dw.divide {DIVISION}", 21 + 20),
    (f"dw.divide {DIVISION} batch=2 acc_batch=1320 div_batch=40 dst_batch=660", 42 + 20),
    (f"softmax.normalize {DIVISION}", 21 + 20),
    # 330 / 64 = 5.2; limits take no time.
    (f"shift.requant {MAPPED} src_type=i32", 6 + 4),
    (f"shift.requant {MAPPED} src_type=i32 {LIMITS} shifts=pbuf[0]", 6 + 4),
    (f"shift.add {PAIR}", 6 + 4),
    (f"shift.add {PAIR} {LIMITS} shifts=pbuf[0]", 6 + 4),
    # Ten rows of three steps: once, twice, and ten and one.
    (
        "softmax.exp rows=10 cols=33 p=abuf[0] sum=abuf[0x400] src=obuf[0] p_row=33 sum_row=4 "
        "src_row=132 src_type=i32 frac=5",
        30 + 16,
    ),
    (f"softmax.shiftmax {MAPPED} src_type=i32 frac=4", 60 + 16 + 20),
    (f"softmax.log2 {BLOCK} src=bbuf[0] src_row=132 src_type=i32 frac=4", 60 + 16),
    (
        f"norm.layernorm {MAPPED} src_type=i16 gamma=pbuf[0] beta=pbuf[0] gamma_type=i8 "
        "beta_shift=3 shift=5",
        33 + 64,
    ),
    # 330 / 32 = 10.3; an eighth as wide 330 / 4 = 82.5; four numbers each 1320 / 32 = 41.3.
    (f"table.lut {MAPPED} src_type=i8 table=pbuf[0]", 11 + 4),
    (f"table.lut16 {MAPPED} src_type=i16 table=pbuf[0]", 22 + 4),
    (f"table.gelu {MAPPED} src_type=i8 frac=4", 83 + 20),
    (f"table.mul {PAIR}", 11 + 4),
    (f"table.clamp {BLOCK} src=bbuf[0] src_row=33 type=i8 low=0 high=5", 11 + 4),
    (
        f"table.lerp {BLOCK} top=bbuf[0] low=bbuf[0] param=pbuf[0] pix=33 src_type=i8 dst_type=i8 "
        "w0=128 w1=128",
        42 + 4,
    ),
    (f"table.mean {MAPPED} src_type=i32 count=7", 83 + 20),
    # Ten times two steps.
    (
        "table.gather dst=abuf[0] src=bbuf[0] index=pbuf[0] count=10 run=33 dst_row=33 src_row=33",
        24,
    ),
    ("table.sum rows=10 cols=33 acc=obuf[0] src=bbuf[0] src_row=33 src_type=i8", 20 + 4),
)


@pytest.mark.parametrize(("text", "cycles"), BY_HAND, ids=[text[:40] for text, _ in BY_HAND])
def test_by_hand(text: str, cycles: int) -> None:
    """The formula, and what the emulator charges the engine with."""
    inst = parse_instruction(text)
    assert isinstance(inst, isa.UnitInst)
    assert inst.cycles(P2VIT) == cycles
    stats = Machine(Image("p2vit", (inst,), dram_size=1 << 16), P2VIT, timing_only=True).run()
    assert stats.busy[inst.engine.name.lower()] == cycles


def test_every_instruction_is_there() -> None:
    seen: set[type[Inst]] = {type(parse_instruction(text)) for text, _ in BY_HAND}
    assert seen | set(isa.CONTROL) == set(isa.INSTRUCTIONS)


def test_control_by_hand() -> None:
    """Tokens take a cycle each, loops and address registers none: 5 * (24 + 2) for five fills."""
    fill = parse_instruction("ld.fill dst=abuf[a1+0] count=100 value=0 type=i16 n0=3 n1=2 d1=200")
    texts = (
        "ld.base areg=1",
        "ld.step areg=1 depth=0 step=400",
        "ld.loop count=5",
        "ld.signal sem=3",
    )
    code = [*map(parse_instruction, texts), fill, parse_instruction("ld.wait sem=3")]
    code.append(parse_instruction("ld.end"))
    stats = Machine(Image("p2vit", tuple(code), dram_size=64), P2VIT, timing_only=True).run()
    assert stats.cycles == 5 * (24 + 2) and stats.busy["ld"] == 5 * 24 and stats.stalled["ld"] == 0
