"""The instruction set: encoding, range checks, and that everything derived covers all of it."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from accel_programs import instructions
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.backends.accel.emulator import Machine
from vit_opt.backends.accel.image import Image
from vit_opt.backends.accel.units import EFFECTS
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import ACCEL_TARGETS, EDGE, P2VIT, TRIO, accel_target
from vit_opt.dialects.vit_accel import VitAccel, isa
from vit_opt.dialects.vit_accel.encoding import decode_stream, encode_stream
from vit_opt.dialects.vit_accel.enums import DType, Engine, Flag, MacMap
from vit_opt.dialects.vit_accel.fields import (
    NO_ADDR,
    Addr,
    FieldError,
    Inst,
    IntField,
    Space,
    address,
    layout,
)
from vit_opt.dialects.vit_accel.isa import BY_OPCODE, CONTROL, INSTRUCTIONS, array_cycles
from vit_opt.dialects.vit_accel.ops import OP_OF, InstructionOp
from vit_opt.dialects.vit_accel.traffic import traffic


@settings(max_examples=300, deadline=None)
@given(instructions)
def test_encoding_round_trip(inst: Inst) -> None:
    code = inst.encode()
    assert len(code) <= layout(type(inst)).size and code[0] == type(inst).opcode
    assert BY_OPCODE[code[0]].decode(code + b"x") == (inst, len(code))


@settings(max_examples=100, deadline=None)
@given(st.lists(instructions, max_size=6))
def test_stream_round_trip(insts: list[Inst]) -> None:
    twice = tuple(insts) * 2
    code = encode_stream(twice)
    assert decode_stream(code) == twice
    assert len(code) <= sum(layout(type(inst)).size for inst in twice)


def test_fields_that_stay_are_left_out() -> None:
    """A wait is its opcode and three marks; the engine, six bits and eight follow if they change."""
    first, second = isa.Wait(Engine.MAC, 3), isa.Wait(Engine.MAC, 4)
    word = 0x01 | 0b011 << 8 | Engine.MAC << 11 | 3 << 14
    assert first.encode() == word.to_bytes(3, "little")
    assert len(first.encode()) == 3 and len(second.encode(first)) == 3
    assert first.encode(first) == bytes([0x01, 0])
    code = encode_stream((first, first, second))
    assert len(code) == 3 + 2 + 3 and decode_stream(code) == (first, first, second)


@settings(max_examples=100, deadline=None)
@given(instructions)
def test_dialect_round_trip(inst: Inst) -> None:
    op = InstructionOp.of(inst)
    op.verify_()
    assert op.instruction == inst


def test_opcodes_and_mnemonics_are_unique() -> None:
    assert len(BY_OPCODE) == len(INSTRUCTIONS) == len({cls.mnemonic for cls in INSTRUCTIONS})


@pytest.mark.parametrize("cls", INSTRUCTIONS, ids=lambda cls: cls.__name__)
def test_every_instruction_is_complete(cls: type[Inst]) -> None:
    assert (cls in EFFECTS) != (cls in CONTROL)
    assert OP_OF[cls] in VitAccel.operations
    assert (cls.__doc__ and "=" in cls.__doc__) or cls in (isa.Loop, isa.End)
    form = layout(cls)
    assert all(slot.field.doc for slot in form.slots) and form.head == 8 + len(form.slots)
    bits = form.head + sum(slot.field.longest for slot in form.slots)
    assert bits <= 8 * form.size < bits + 8


def test_range_errors_name_field_and_width() -> None:
    with pytest.raises(
        FieldError, match=r"field 'm': value 65536 does not fit in u16 \(0..65535\)"
    ):
        isa.Matmul(A, A, A, 65536, 1, 1, 0, 0, 0)
    with pytest.raises(FieldError, match=r"field 'shift': value 128 does not fit in s8"):
        isa.Requant(1, 1, A, A, 0, 0, DType.I8, DType.I8, 128)
    with pytest.raises(FieldError, match="field 'dst': address register 16"):
        isa.Load(Addr(Space.ABUF, 0, 16), A, 1)


A = Addr(Space.ABUF)


def test_decoding_refuses_codes_that_mean_nothing() -> None:
    code = bytearray(isa.Wait(Engine.MAC, 3).encode())
    code[-1] |= 0x80
    with pytest.raises(FieldError, match=r"wait: bits 20 to 23 are not zero"):
        isa.Wait.decode(bytes(code))
    with pytest.raises(FieldError, match="wait runs past the end of the code"):
        isa.Wait.decode(bytes(code[:2]))
    with pytest.raises(FieldError, match="wait: field 'engine' is missing"):
        isa.Wait.decode(bytes([0x01, 0]))
    fill = isa.Fill(A, 1, 0, DType.I8)
    word = int.from_bytes(fill.encode(), "little")
    low = layout(isa.Fill).head + (3 + 1 + 2 + 14) + (2 + 6) + (2 + 9)
    assert word >> low == DType.I8 == 1
    with pytest.raises(FieldError, match="field 'type': code 15 is not one of i4"):
        isa.Fill.decode((word | 15 << low).to_bytes(32, "little"))


@pytest.mark.parametrize(
    ("addr", "bits"),
    [
        (NO_ADDR, 3),
        (Addr(Space.OBUF), 3 + 1 + 2 + 14),
        (Addr(Space.OBUF, 16 * 0x3FFF), 3 + 1 + 2 + 14),
        (Addr(Space.OBUF, 16 * 0x3FFF + 1), 3 + 1 + 2 + 18),
        (Addr(Space.OBUF, 16 * 0x4000), 3 + 1 + 2 + 26),
        (Addr(Space.ABUF, 3, 7), 3 + 1 + 4 + 2 + 18),
        (Addr(Space.DRAM, 64 * 0xFFFFF), 3 + 1 + 2 + 20),
        (Addr(Space.DRAM, 80), 3 + 1 + 2 + 18),
        (Addr(Space.DRAM, (1 << 33) - 1), 3 + 1 + 2 + 33),
    ],
)
def test_an_address_takes_the_bits_that_it_needs(addr: Addr, bits: int) -> None:
    field = address("")
    code, size = field.encode(addr)
    assert size == bits <= field.longest and code >> size == 0
    assert field.decode(code | 0b1011 << size) == (addr, size)


@pytest.mark.parametrize(
    ("width", "signed_", "value", "bits"),
    [
        (8, False, 255, 8),
        (16, False, 15, 2 + 4),
        (16, False, 16, 2 + 8),
        (16, False, 65535, 2 + 16),
        (34, True, -256, 2 + 9),
        (34, True, 256, 2 + 17),
        (34, True, -(1 << 33), 2 + 34),
    ],
)
def test_a_number_takes_a_quarter_of_its_bits_or_more(
    width: int, signed_: bool, value: int, bits: int
) -> None:
    field = IntField(width, "", signed_)
    code, size = field.encode(value)
    assert size == bits <= field.longest and code >> size == 0
    assert field.decode(code | 0b1011 << size) == (value, size)


def test_what_an_instruction_waits_for_is_in_the_order_of_engines() -> None:
    inst = isa.Load(A, A, 1, wait=(Engine.MAC, Engine.NORM), signal=(Engine.ST,))
    assert inst.text() == "ld.copy wait=mac+norm signal=st dst=abuf[0x0] src=abuf[0x0] run=1"
    with pytest.raises(FieldError, match=r"field 'wait': .* is not some of ld.*, in their order"):
        isa.Load(A, A, 1, wait=(Engine.NORM, Engine.MAC))
    with pytest.raises(FieldError, match="field 'wait'"):
        isa.Load(A, A, 1, wait=(Engine.MAC, Engine.MAC))


def test_array_cycles_by_hand() -> None:
    """197 x 64 times 64 x 197 on 64 lanes of 8: the axes decide how well 197 fills 64 lanes."""
    types = (DType.I8, DType.I8)
    fill_drain = P2VIT.array_fill + P2VIT.array_drain
    assert array_cycles(P2VIT, (197, 197, 64), MacMap.NM, types) == fill_drain + 4 * 25 * 64
    assert array_cycles(P2VIT, (197, 197, 64), MacMap.KM, types) == fill_drain + 1 * 25 * 197
    assert array_cycles(P2VIT, (8, 64, 100), MacMap.NM, (DType.I8, DType.I4X2)) == fill_drain + 50
    assert array_cycles(P2VIT, (8, 64, 100), MacMap.NM, (DType.I16, DType.I8)) == fill_drain + 200


def on_engine(inst: isa.Matmul) -> isa.EngineMatmul:
    """The same product on the reconfigurable engine."""
    return isa.EngineMatmul(**{item.name: getattr(inst, item.name) for item in fields(inst)})


def test_engine_matmul_cycles_by_hand() -> None:
    """The reconfigurable engine has dw_width / columns lanes, one at the least."""
    inst = on_engine(isa.Matmul(A, A, A, 197, 197, 64, 788, 64, 64))
    fill_drain = TRIO.array_fill + TRIO.array_drain
    assert TRIO.dw_width // TRIO.columns == 64
    assert inst.cycles(TRIO) == fill_drain + 4 * 13 * 64  # ceil(197 / 64), ceil(197 / 16)
    assert replace(inst, map=MacMap.KM).cycles(TRIO) == fill_drain + 1 * 13 * 197
    assert inst.cycles(replace(TRIO, dw_width=47)) == fill_drain + 99 * 13 * 64  # two lanes
    assert inst.cycles(replace(TRIO, dw_width=9)) == fill_drain + 197 * 13 * 64  # one
    assert inst.cycles(EDGE) == EDGE.array_fill + EDGE.array_drain + 99 * 50 * 64  # two of four
    assert replace(inst, b_type=DType.I16).cycles(TRIO) == fill_drain + 2 * 4 * 13 * 64
    assert inst.macs() == 197 * 197 * 64 and inst.engine is Engine.DW


@pytest.mark.parametrize(
    "types", [(DType.I8, DType.I8), (DType.LOG2, DType.I8), (DType.I8, DType.I4X2)]
)
@pytest.mark.parametrize("accumulate", Flag)
def test_engine_matmul_does_what_the_array_does(
    types: tuple[DType, DType], accumulate: Flag
) -> None:
    rng = np.random.default_rng(0)
    places = (Addr(Space.OBUF, 64), Addr(Space.ABUF, 3), Addr(Space.BBUF, 5))
    inst = isa.Matmul(
        *places, 5, 7, 9, 32, 11, 10, *types, bias=Addr(Space.PBUF, 8), accumulate=accumulate
    )
    found: list[list[int]] = []
    contents = {space: rng.integers(0, 256, 2048, np.uint8) for space in Space}
    for each in (inst, on_engine(inst)):
        machine = Machine(Image("trio", (each,)), TRIO)
        for space in (Space.ABUF, Space.BBUF, Space.PBUF, Space.OBUF):
            machine.memories.bytes[space][:2048] = contents[space]
        for space in (Space.PBUF, Space.OBUF):
            machine.memories.bytes[space].view(np.int32)[:] //= 2
        stats = machine.run()
        assert stats.busy[each.engine.name.lower()] == stats.cycles == each.cycles(TRIO)
        found.append(machine.memories.bytes[Space.OBUF].tolist())
    assert found[0] == found[1]
    assert found[0][64:] != contents[Space.OBUF].tolist()[64:]


def test_targets() -> None:
    assert P2VIT.macs_per_cycle == 512 and P2VIT.memory_size("obuf") == 108 * 1024
    assert P2VIT.clock_mhz == 500 and P2VIT.dram_bytes_per_cycle * P2VIT.clock_mhz == 76800
    assert all(accel_target(name).name == name for name in ACCEL_TARGETS)
    with pytest.raises(
        VitError,
        match="unknown architecture 'nope'; known: edge, p2vit, p2vit-large, trio, trio-large",
    ):
        accel_target("nope")
    with pytest.raises(VitError, match="no memory 'zbuf'"):
        P2VIT.memory_size("zbuf")


def test_groups_of_a_convolution_fill_the_array_once() -> None:
    """Each of 5 groups has 7 x 14 pixels, 16 outputs and 16 inputs; bytes and MACs count for all."""
    places = (A, A, A, 7, 14, 16, 1, 1, 16, 14 * 320, 320, 14 * 80, 80, 16)
    one, five = isa.Conv(*places), isa.Conv(*places, groups=5)
    skew = P2VIT.array_fill + P2VIT.array_drain
    assert five.cycles(P2VIT) == 5 * (one.cycles(P2VIT) - skew) + skew
    assert five.macs() == 5 * one.macs() == 5 * 98 * 16 * 16
    assert traffic(five) == {A.space: 5 * traffic(one)[A.space]}
