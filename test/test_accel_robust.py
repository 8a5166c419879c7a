"""Whatever an image holds, the emulator ends, or stops in a trap that says where and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
from accel_net import random_codes
from accel_programs import SPACES, images, instructions, small_instructions, small_of_class
from accel_vit import CODES, Size, VitNet
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.backends.accel.assembler import assemble, blobs_of, disassemble, instruction_text
from vit_opt.backends.accel.emulator import Machine, TrapError
from vit_opt.backends.accel.image import Image
from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.memory import AccessError, Memories
from vit_opt.backends.accel.run import run_accel
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import P2VIT
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.encoding import decode_stream, encode_stream
from vit_opt.dialects.vit_accel.enums import DType, Engine
from vit_opt.dialects.vit_accel.fields import Addr, FieldError, Inst, Space

TRAP = re.compile(r"instruction (\d+) '(.+?)': (.+)|deadlock: (.+)|data segment \d+ leaves .+")


def trap_of(image: Image, *, timing_only: bool = False) -> TrapError | None:
    """The trap, its text checked, or None if the program ends."""
    try:
        Machine(image, P2VIT, max_steps=3000, timing_only=timing_only).run()
    except TrapError as trap:
        text = str(trap)
        found = TRAP.fullmatch(text)
        assert found and "cannot do this" not in text, text
        if found[1] is not None:
            assert instruction_text(image.code[int(found[1])]) == found[2]
        return trap
    return None


def run_or_trap(image: Image, *, timing_only: bool = False) -> str | None:
    """The text of the trap, checked, or None if the program ends."""
    trap = trap_of(image, timing_only=timing_only)
    return None if trap is None else str(trap)


@settings(max_examples=80, deadline=None)
@given(images(small_instructions, size=20), st.booleans())
def test_traps_name_instruction_and_reason(image: Image, timing_only: bool) -> None:
    run_or_trap(image, timing_only=timing_only)


@settings(max_examples=50, deadline=None)
@given(images(small_instructions, size=12))
def test_what_the_disassembler_prints_is_the_program(image: Image) -> None:
    again = assemble(disassemble(image))
    assert again == image and disassemble(again) == disassemble(image)
    assert run_or_trap(again) == run_or_trap(image)


@settings(max_examples=150, deadline=None)
@given(images(small_instructions, size=8))
def test_timing_only_traps_as_a_whole_run_does(image: Image) -> None:
    """The same text, but for traps that numbers in memory are the reason of."""
    whole, timed = trap_of(image), trap_of(image, timing_only=True)
    if whole is not None and whole.of_data:
        assert str(timed) != str(whole)
    else:
        assert str(timed) == str(whole)
    assert timed is None or not timed.of_data


CONTENTS = (0, 1, 200)
"""Bytes that fill the memories."""

DATA_FREE = {
    cls: small_of_class(cls)
    for cls in isa.INSTRUCTIONS
    if issubclass(cls, isa.UnitInst) and cls not in (isa.Expand, isa.Sum)
}
"""Not `ld.expand`, as few sizes fit any marks, nor `table.sum`, as few sums fit narrow results."""


@settings(max_examples=400, deadline=None)
@given(st.one_of(list(DATA_FREE.values())))
def test_traps_of_data_depend_on_data(inst: Inst) -> None:
    """What passes the checks without data, runs with some."""
    image = Image("p2vit", (inst,), dram_size=4096)
    traps: list[str] = []
    for content in CONTENTS:
        machine = Machine(image, P2VIT)
        for memory in machine.memories.bytes.values():
            memory[:] = content
        try:
            machine.run()
        except TrapError as trap:
            if not trap.of_data:
                return
            traps.append(str(trap))
    assert len(traps) < len(CONTENTS), traps


# ---- memory --------------------------------------------------------------------------------------

sizes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 70)), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SPACES),
    st.sampled_from(list(DType)),
    st.integers(-20, 4200),
    sizes,
    st.booleans(),
)
def test_no_access_leaves_a_memory(
    space: Space, dtype: DType, offset: int, axes: list[tuple[int, int]], at_end: bool
) -> None:
    """A view is given exactly when every byte of every element lies inside."""
    memories = Memories(P2VIT, 4096)
    size = memories.bytes[space].size
    if at_end:
        offset += size - 4200
    shape, strides = zip(*axes, strict=True)
    starts = [
        offset + sum(i * stride for i, stride in zip(index, strides, strict=True))
        for index in product(*(range(count) for count in shape))
    ]
    inside = bool(starts) and min(starts) >= 0 and max(starts) + dtype.size <= size
    try:
        view = memories.view(Addr(space, offset), dtype, shape, strides)
    except AccessError as error:
        assert not inside
        assert not starts or re.search(
            r"\w+\[-?0x[0-9a-f]+\.\.-?0x[0-9a-f]+\] leaves the", str(error)
        )
        return
    assert inside and view.shape == shape
    view[...] = 1
    touched = {start + byte for start in starts for byte in range(dtype.size)}
    assert set(np.flatnonzero(memories.bytes[space])) <= touched


# ---- deadlock ------------------------------------------------------------------------------------


UNITS: dict[Engine, Callable[..., isa.UnitInst]] = {
    Engine.LD: partial(isa.Fill, Addr(Space.ABUF), 1, 0, DType.I8),
    Engine.ST: partial(isa.Store, Addr(Space.DRAM), Addr(Space.ABUF), 1),
    Engine.TABLE: partial(
        *(isa.Clamp, 1, 1, Addr(Space.ABUF), Addr(Space.BBUF), 1, 1, DType.I8, 0, 5)
    ),
}
"""Instructions of some engines."""


@st.composite
def token_programs(draw: st.DrawFn) -> list[Inst]:
    """Waits and signals, also in fields, in which only one engine waits for each semaphore.

    What blocks then does not depend on who goes first.
    """
    steps = st.tuples(st.sampled_from(Engine), st.integers(0, 7), st.integers(1, 3), st.booleans())
    some = st.lists(st.sampled_from(list(UNITS)), unique=True, max_size=2).map(sorted).map(tuple)
    fields = st.tuples(st.sampled_from(list(UNITS)), some, some)
    code: list[Inst] = []
    for step in draw(st.lists(steps | fields, max_size=24)):
        if len(step) == 3:
            engine, waits, signals = step
            code.append(UNITS[engine](wait=waits, signal=signals))
        else:
            engine, sem, count, waits = step
            cls = isa.Wait if waits else isa.Signal
            code.append(cls(Engine(sem) if waits else engine, sem, count))
    return code


def tokens_of(index: int, inst: Inst) -> list[tuple[int, isa.Wait | isa.Signal]]:
    """What an instruction waits for and signals."""
    if isinstance(inst, isa.Wait | isa.Signal):
        return [(index, inst)]
    assert isinstance(inst, isa.UnitInst)
    own = inst.engine
    waits = [isa.Wait(own, isa.between(other, own)) for other in inst.wait]
    signals = [isa.Signal(own, isa.between(own, other)) for other in inst.signal]
    return [(index, each) for each in (*waits, *signals)]


Blocked = dict[Engine, tuple[int, isa.Wait]]


def blocked_at(code: list[Inst]) -> tuple[Blocked, Counter[int]]:
    """Where engines end up waiting, and the tokens left, by plain rounds over the queues."""
    queues: dict[Engine, list[tuple[int, isa.Wait | isa.Signal]]] = {}
    for index, inst in enumerate(code):
        for place, token in tokens_of(index, inst):
            queues.setdefault(token.engine, []).append((place, token))
    tokens: Counter[int] = Counter()
    moved = True
    while moved:
        moved = False
        for queue in queues.values():
            while queue:
                _, inst = queue[0]
                if isinstance(inst, isa.Signal):
                    tokens[inst.sem] += inst.count
                elif tokens[inst.sem] >= inst.count:
                    tokens[inst.sem] -= inst.count
                else:
                    break
                queue.pop(0)
                moved = True
    blocked: Blocked = {}
    for engine, queue in queues.items():
        if queue:
            place, wait = queue[0]
            assert isinstance(wait, isa.Wait)
            blocked[engine] = place, wait
    return blocked, tokens


@settings(max_examples=100, deadline=None)
@given(token_programs())
def test_deadlocks_show_every_wait(code: list[Inst]) -> None:
    blocked, tokens = blocked_at(code)
    text = run_or_trap(Image("p2vit", tuple(code), dram_size=64))
    if not blocked:
        assert text is None
        return
    assert text is not None and text.startswith("deadlock: ")
    waits = text.removeprefix("deadlock: ").split("; ")
    expected: list[str] = []
    for engine, (index, wait) in sorted(blocked.items()):
        expected.append(
            f"{engine.name.lower()} waits at instruction {index} '{instruction_text(code[index])}' "
            f"(semaphore {wait.sem} holds {tokens[wait.sem]} of {wait.count})"
        )
    assert waits == expected


# ---- real programs, damaged ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled() -> Image:
    """A small vision transformer."""
    net = VitNet(Size(image=16, patch=8, dim=16, heads=2, layers=1, classes=4))
    return lower_accel(net.module(net.result), net.store, P2VIT)


@pytest.mark.parametrize("seed", range(16))
def test_damaged_programs_stop_or_end(compiled: Image, seed: int) -> None:
    """A few bits of the code flipped: refused as it is read, trapped as it runs, or run."""
    rng = np.random.default_rng(seed)
    code = bytearray(encode_stream(compiled.code))
    for place in rng.integers(0, len(code), rng.integers(1, 4)):
        code[place] ^= 1 << int(rng.integers(8))
    inputs = {"arg0": random_codes(rng, (1, 3, 16, 16), CODES)}
    try:
        image = Image(
            compiled.arch,
            decode_stream(bytes(code)),
            compiled.segments,
            compiled.inputs,
            compiled.outputs,
            compiled.dram_size,
        )
        run_accel(image, inputs, P2VIT)
    except TrapError as trap:
        assert TRAP.fullmatch(str(trap)), trap
    except VitError as error:
        assert re.match(r"instruction \d+ at code offset 0x", str(error)), error


@pytest.mark.parametrize("seed", range(12))
def test_instructions_left_out_or_moved(compiled: Image, seed: int) -> None:
    """Programs that lost their order end in a trap, a deadlock, or wrong numbers, never a crash."""
    rng = np.random.default_rng(seed)
    code = list(compiled.code)
    for _ in range(3):
        inst = code.pop(int(rng.integers(len(code))))
        if rng.random() < 0.6:
            code.insert(int(rng.integers(len(code))), inst)
    image = Image("p2vit", tuple(code), compiled.segments, dram_size=compiled.dram_size)
    run_or_trap(image)


def test_addresses_beyond_the_field_are_refused() -> None:
    with pytest.raises(FieldError, match=r"ld.copy: field 'dst': offset .* does not fit in u33"):
        isa.Load(dst=Addr(Space.ABUF, 1 << 33), src=Addr(Space.DRAM), run=1)


@settings(max_examples=60, deadline=None)
@given(
    images(instructions | small_instructions, size=6),
    st.sampled_from([0, 4096, 1 << 33]),
    st.booleans(),
)
def test_any_field_at_any_size(image: Image, dram: int, timing_only: bool) -> None:
    """Counts, strides, addresses and DRAM up to their largest: never more than a trap."""
    image = replace(image, segments=(), inputs=(), outputs=(), dram_size=dram)
    try:
        run_or_trap(image, timing_only=timing_only)
    except AccessError as error:
        assert "which this host does not have" in str(error)


SPOILT = (
    "",
    "-1",
    "65536",
    "9" * 30,
    "0x",
    "1e9",
    "nan",
    "none",
    "\x00",
    '"',
    "[",
    "#",
    "dram[-1]",
)


@pytest.mark.parametrize("seed", range(12))
def test_spoilt_assembly(compiled: Image, seed: int) -> None:
    """Words of a listing replaced: a line is named, or the text is a program that round-trips."""
    rng = np.random.default_rng(seed)
    blobs = blobs_of(compiled)
    listing = disassemble(compiled).splitlines()
    head = sum(line.startswith(".") for line in listing)
    for _ in range(20):
        lines = listing[: head + 10]
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(len(lines)))
            words = re.split(r"([\s=+\[\]])", lines[place])
            words[int(rng.integers(len(words)))] = str(rng.choice(SPOILT))
            lines[place] = "".join(words)
        try:
            image = assemble("\n".join(lines), blobs)
            raw = image.to_bytes()
        except VitError as error:
            assert "\n" not in str(error)
            continue
        assert Image.from_bytes(raw) == image
        assert assemble(disassemble(image), blobs | blobs_of(image)) == image
        if image.arch == "p2vit":
            run_or_trap(image)
