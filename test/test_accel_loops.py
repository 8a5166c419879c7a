"""Rolling programs into hardware loops: the same instructions, cycles and bits, in fewer bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from accel_net import random_codes
from accel_programs import small_instructions
from accel_vit import CODES, Size, VitNet
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.backends.accel.assembler import assemble, blobs_of, disassemble
from vit_opt.backends.accel.image import Image, Origins
from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.lowering.loops import REGISTERS, roll
from vit_opt.backends.accel.profile import Profile
from vit_opt.backends.accel.run import run_accel, time_accel
from vit_opt.backends.accel.sequencer import Sequencer, fill_queues
from vit_opt.backends.accel.unrolling import unroll
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import EDGE, P2VIT, AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.encoding import encode_stream
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Addr, Inst, Space, layout

LOOPS = (isa.Loop, isa.End, isa.Base, isa.Step)

flat = small_instructions.filter(lambda inst: not isinstance(inst, LOOPS))


def moved(inst: Inst, distance: int) -> Inst:
    """The instruction with all its addresses further by a distance; registers left out."""
    addresses = {
        slot.name: Addr(value.space, value.offset + distance)
        for slot in layout(type(inst)).slots
        if isinstance(value := getattr(inst, slot.name), Addr) and value.space is not Space.NONE
    }
    return replace(inst, **addresses)


@st.composite
def repeating(draw: st.DrawFn) -> list[Inst]:
    """Programs in which sequences repeat, with a distance each time, within each other."""
    code = [moved(inst, 0) for inst in draw(st.lists(flat, min_size=1, max_size=3))]
    for _ in range(draw(st.integers(0, 4))):
        count, distance = draw(st.integers(1, 4)), draw(st.integers(0, 50))
        code = [moved(inst, index * distance) for index in range(count) for inst in code]
        ends = [moved(inst, 0) for inst in draw(st.lists(flat, max_size=2))]
        code = code + ends if draw(st.booleans()) else ends + code
        if len(code) > 200:
            break
    return code


def queues(code: tuple[Inst, ...], origins: Origins) -> list[list[tuple[str, Inst]]]:
    """What every engine is to execute, and for which operation."""
    engines = [Sequencer(engine) for engine in Engine]
    fill_queues(engines, code)
    return [[(origins.of(i), inst) for i, inst in engine.queue] for engine in engines]


@settings(max_examples=150, deadline=None)
@given(repeating(), st.integers(1, 30))
def test_unrolled_is_what_was_rolled(code: list[Inst], run: int) -> None:
    origins = Origins.from_names(f"op{index // run}" for index in range(len(code)))
    rolled, names = roll(code, origins)
    assert queues(*unroll(rolled, names)) == queues(tuple(code), origins)
    assert len(encode_stream(rolled)) <= len(encode_stream(code)) + 40
    assert sum(count for _, count in names.runs) == len(rolled)


def copies(count: int, step: int, base: int = 0) -> list[Inst]:
    """Copies whose destinations are `step` apart."""
    source = Addr(Space.DRAM, 64)
    return [isa.Load(Addr(Space.ABUF, base + step * i), source, 8) for i in range(count)]


def test_nested_loops_and_registers_by_hand() -> None:
    """Rows of a grid, something in between, the same grid again: one register serves both, and what
    moves by nothing has none."""
    grid = [inst for row in range(6) for inst in copies(5, 16, 1000 * row)]
    code = [*grid, isa.Wait(Engine.LD, 1), *grid]
    rolled, _ = roll(code, Origins())
    assert rolled == (
        isa.Step(Engine.LD, 1, 0, 1000),
        isa.Step(Engine.LD, 1, 1, 16),
        isa.Loop(Engine.LD, 6),
        isa.Loop(Engine.LD, 5),
        isa.Load(Addr(Space.ABUF, 0, 1), Addr(Space.DRAM, 64), 8),
        isa.End(Engine.LD),
        isa.End(Engine.LD),
        isa.Wait(Engine.LD, 1),
        isa.Loop(Engine.LD, 6),
        isa.Loop(Engine.LD, 5),
        isa.Load(Addr(Space.ABUF, 0, 1), Addr(Space.DRAM, 64), 8),
        isa.End(Engine.LD),
        isa.End(Engine.LD),
    )


def test_loops_found_inside_of_loops() -> None:
    """Three times seven rows of four copies and another: their addresses move by depth."""
    code: list[Inst] = []
    for plane in range(3):
        for row in range(7):
            base = 9000 * plane + 1152 * row
            code += [replace(inst, run=256) for inst in copies(4, 256, base)]
            code.append(isa.Load(Addr(Space.ABUF, base + 1024), Addr(Space.OBUF, 128 * row), 128))
        code.append(isa.Wait(Engine.LD, 3))
    rolled, names = roll(code, Origins())
    assert queues(*unroll(rolled, names)) == queues(tuple(code), Origins())
    assert [inst.count for inst in rolled if isinstance(inst, isa.Loop)] == [3, 7, 4]


def test_no_loop_spans_two_operations() -> None:
    code = copies(20, 8)
    origins = Origins((("a", 10), ("b", 10)))
    rolled, names = roll(code, origins)
    assert [inst.count for inst in rolled if isinstance(inst, isa.Loop)] == [10, 10]
    assert [name for name, _ in names.runs] == ["a", "b"]


def test_more_distances_than_registers_stay_flat() -> None:
    body = [inst for i in range(REGISTERS + 1) for inst in copies(1, 0, 100 * i)]
    code = [
        replace(inst, dst=Addr(Space.ABUF, 100 * j + 3 * turn * (j + 1)), run=j + 1)
        for turn in range(3)
        for j, inst in enumerate(body)
        if isinstance(inst, isa.Load)
    ]
    rolled, names = roll(code, Origins())
    assert queues(*unroll(rolled, names)) == queues(tuple(code), Origins())
    steps = {inst.areg for inst in rolled if isinstance(inst, isa.Step)}
    assert all(1 <= areg <= REGISTERS for areg in steps)


def test_endless_and_open_loops_are_refused() -> None:
    deep = [isa.Loop(Engine.LD, 65535)] * 4 + copies(1, 0) + [isa.End(Engine.LD)] * 4
    with pytest.raises(VitError, match="the loops make more than 100 instructions"):
        unroll(deep, Origins(), 100)
    with pytest.raises(VitError, match="the queue of mac ends inside a loop"):
        unroll([isa.Loop(Engine.MAC, 2)], Origins())


def vit_image(arch: AccelTarget) -> Image:
    """A small vision transformer, compiled."""
    net = VitNet(Size(image=32, patch=8, dim=48, heads=3, layers=2, classes=10))
    return lower_accel(net.module(net.result), net.store, arch)


@pytest.mark.parametrize("arch", [P2VIT, EDGE], ids=lambda arch: arch.name)
def test_a_model_gives_equal_bits_cycles_and_layers(arch: AccelTarget) -> None:
    rolled = vit_image(arch)
    code, origins = unroll(rolled.code, rolled.origins)
    unrolled = replace(rolled, code=code, origins=origins)
    assert any(isinstance(inst, isa.Loop) for inst in rolled.code)
    inputs = {"arg0": random_codes(np.random.default_rng(0), (1, 3, 32, 32), CODES)}
    profiles = [Profile(image, arch) for image in (rolled, unrolled)]
    results = [run_accel(profile.image, inputs, arch, profile) for profile in profiles]
    first, second = (result.stats for result in results)
    assert np.array_equal(results[0].codes["result0"], results[1].codes["result0"])
    assert replace(first, instructions=0) == replace(second, instructions=0)
    assert first.instructions > second.instructions == len(code)
    assert time_accel(rolled, arch) == first
    facts = [[layer.facts(arch) for layer in profile.layers()] for profile in profiles]
    assert facts[0] == facts[1]
    times = [[(e.engine, e.start, e.cycles, e.places) for e in p.events] for p in profiles]
    assert times[0] == times[1]


def test_text_of_loops_is_indented_and_names_operations() -> None:
    image = vit_image(EDGE)
    text = disassemble(image)
    names = [line.rpartition("  # ")[2] for line in text.splitlines() if not line.startswith(".")]
    assert names == [image.origins.of(index) for index in range(len(image.code))]
    assert "vit.layernorm" in names
    data = [line for line in text.splitlines() if line.startswith((".data", ".blob"))]
    assert len(data) == len(image.segments) and all("  # vit." in line for line in data)
    assert any(isinstance(inst, isa.Loop) and inst.engine is Engine.LD for inst in image.code)
    endless = replace(image, code=(*image.code[:-1], isa.Loop(Engine.ST, 2)))
    assert "  # vit." in disassemble(endless)
    body = text[text.index(".loop count=") :].splitlines()
    assert body[1].startswith("  ") and any(".end  # " in line for line in body)
    assert assemble(text, blobs_of(image)) == image
    code, _ = unroll(image.code, image.origins)
    assert len(image.code) < 0.95 * len(code)
    assert len(encode_stream(image.code)) < 0.9 * len(encode_stream(code))
