"""Weights in groups of 4 and 8 bits: packed in DRAM, and on chip where the array is faster so."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest
import test_accel_random
from accel_net import ARCHITECTURES, SMALL, Net, compare, random_codes
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import RandomGraph
from random_images import RandomImages
from test_accel_random import MACHINES, check
from xdsl.dialects.builtin import DenseArrayBase, i64
from xdsl.ir import Operation, SSAValue

from vit_opt.backends.accel.emulator import Machine, TrapError
from vit_opt.backends.accel.explain import explain_lines
from vit_opt.backends.accel.groups import expand_groups, group_shifts, pack_groups
from vit_opt.backends.accel.image import Image
from vit_opt.backends.accel.run import time_accel
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.targets import EDGE, P2VIT, AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType, Flag, MacMap
from vit_opt.dialects.vit_accel.fields import NO_ADDR, Addr, Space
from vit_opt.dialects.vit_accel.traffic import traffic
from vit_opt.passes import windows
from vit_opt.passes.mapping import Problem, ProductChoice, candidates
from vit_opt.passes.quantization.weights import BYTE_GROUPS

I8 = FixedType("i8", 5)
ACC = FixedType("i32", 10)


def grouped_codes(rng: np.random.Generator, rows: int, cols: int, wide: float) -> Any:
    """Codes [rows, cols] of which a share of the groups of eight columns needs all of 8 bits."""
    shifts = np.repeat(rng.integers(1, 5, (rows, -(-cols // 8))), 8, axis=1)[:, :cols]
    codes = rng.integers(-8, 8, (rows, cols)) << shifts
    full = np.repeat(rng.random(-(-cols // 8)) < wide, 8)[:cols]
    return np.where(full, rng.integers(-128, 128, (rows, cols)), codes).astype(np.int8)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 150), st.floats(0, 1), st.integers(0, 1), st.integers(0, 1000)
)
def test_expanding_gives_the_codes_back(
    rows: int, cols: int, wide: float, least: int, seed: int
) -> None:
    codes = grouped_codes(np.random.default_rng(seed), rows, cols, wide)
    packed = pack_groups(codes, least)
    np.testing.assert_array_equal(expand_groups(packed, (rows, cols), least), codes)


def test_bytes_by_hand() -> None:
    """Two rows of ten: a narrow group of shifts 1 and 4, then two columns that need bytes."""
    codes = np.array(
        [[2, 4, -2, -16, 14, 0, 6, -8, 1, 100], [16, -128, 112, 0, 0, 0, 0, 32, 3, -5]], np.int8
    )
    assert group_shifts(codes, 1).tolist() == [[1, 5], [4, 5]]
    first = [0, 0x21, 0x8F, 0x07, 0xC3, 1, 100]
    second = [3, 0x81, 0x07, 0x00, 0x20, 3, 256 - 5]
    assert pack_groups(codes).tolist() == [0b10, *first, *second]


def test_four_and_a_quarter_bits() -> None:
    codes = grouped_codes(np.random.default_rng(0), 64, 192, 0.0)
    assert pack_groups(codes).size == 3 + 64 * (6 + 96)


@pytest.mark.parametrize("cut", [1, 90, 100])
def test_marks_and_size_must_agree(cut: int) -> None:
    codes = grouped_codes(np.random.default_rng(1), 4, 40, 0.5)
    packed = pack_groups(codes)
    with pytest.raises(VitError, match="bytes"):
        expand_groups(packed[: max(0, packed.size - cut)], (4, 40), 1)


def _mark(net: Net) -> None:
    """Say of all constants that their groups were rounded to 4 bits; the codes tell which."""
    for op in net.block.ops:
        if isinstance(op, ops.ConstantOp):
            op.attributes[BYTE_GROUPS] = DenseArrayBase.from_list(i64, [])


def _linear(
    size: tuple[int, int, int], wide: float, arch: AccelTarget, marked: bool
) -> tuple[Image, int]:
    """A linear layer m x k x n compared with the reference: image and bytes on the DRAM bus."""
    rng = np.random.default_rng(3)
    m, k, n = size
    net = Net(((m, k), I8))
    weight = net.constant(grouped_codes(rng, n, k, wide), I8)
    if marked:
        _mark(net)
    (y,) = net.add(ops.LinearOp, [net.args[0], weight], ((m, n), ACC))
    (y,) = net.add(ops.PotRequantOp, [y], ((m, n), FixedType("i8", 1)))
    image, ran = compare(net, [y], [random_codes(rng, (m, k), I8)], arch)
    return image, ran.stats.dram_bytes


def _data(image: Image) -> int:
    return sum(len(segment.data) for segment in image.segments)


def _in_groups(image: Image) -> list[isa.Matmul | isa.Conv]:
    """The instructions that read groups as they lie."""
    products = [inst for inst in image.code if isinstance(inst, isa.Matmul | isa.Conv)]
    return [inst for inst in products if inst.marks.space is not Space.NONE]


def _expanded(image: Image) -> bool:
    return any(isinstance(inst, isa.Expand) for inst in image.code)


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda arch: arch.name)
@pytest.mark.parametrize(("size", "wide"), [((33, 200, 70), 0.3), ((5, 1501, 17), 0.1)])
def test_packed_weights_give_equal_bits(
    arch: AccelTarget, size: tuple[int, int, int], wide: float
) -> None:
    plain, plain_bus = _linear(size, wide, arch, marked=False)
    packed, bus = _linear(size, wide, arch, marked=True)
    assert plain.packing_saves == 0 and not _expanded(plain) and not _in_groups(plain)
    whole = arch.int4_rate > 1 and size[1] % 8 == 0
    assert _expanded(packed) != whole
    assert not whole or _in_groups(packed)
    assert arch.int4_rate > 1 or not _in_groups(packed)
    assert _data(packed) + packed.packing_saves >= _data(plain) > 1.3 * _data(packed)
    assert bus < 0.8 * plain_bus


def test_weights_that_need_bytes_stay_as_they_are() -> None:
    image, _ = _linear((9, 64, 10), 1.0, P2VIT, marked=True)
    assert not _expanded(image) and not _in_groups(image)


def test_groups_make_products_faster() -> None:
    """Without bytes twice as fast; where weights of a row end inside a group, not at all."""

    def cycles(k: int, arch: AccelTarget, marked: bool = True) -> int:
        image, _ = _linear((64, k, 64), 0.0, arch, marked)
        return time_accel(image, arch).busy["mac"] - 2 * 16  # two blocks fill and drain

    assert cycles(256, P2VIT) == 8 * 128 and cycles(256, P2VIT, marked=False) == 8 * 256
    assert cycles(252, P2VIT) == 8 * 252
    assert cycles(256, replace(P2VIT, int4_rate=1)) == 8 * 256


@pytest.mark.parametrize("arch", [P2VIT, SMALL, EDGE], ids=lambda arch: arch.name)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions(arch: AccelTarget, groups: int, transposed: bool) -> None:
    """Panels and passes over some of the channels are each packed on their own."""
    rng = np.random.default_rng(4)
    net = Net(((1, 7, 7, 48 * groups), I8))
    shape = (20 * groups, 3, 3, 48)
    codes = grouped_codes(rng, shape[0], 9 * 48, 0.2).reshape(shape)
    weight = net.constant(codes, I8)
    _mark(net)
    kind: type[Operation] = ops.ConvTranspose2dOp if transposed else ops.Conv2dOp
    options = {"output_padding": [0, 0]} if transposed else {"dilations": [1, 1]}
    options |= {"strides": [1, 1], "pads": [1] * 4}
    operands = [net.args[0], weight]
    (y,) = net.add(kind, operands, ((1, 7, 7, shape[0]), ACC), groups=groups, **options)
    image, _ = compare(net, [y], [random_codes(rng, (1, 7, 7, 48 * groups), I8)], arch)
    in_groups = _in_groups(image)
    # A pass over some of the channels may end inside a group.
    assert in_groups if arch.memory_size("bbuf") > 4000 else _expanded(image)
    assert all(isinstance(inst, isa.Conv) for inst in in_groups)


@pytest.mark.parametrize(
    ("depth", "wide", "text"),
    [
        (64, None, "i8 x i8"),
        (64, 3, "i8 x i8, weights in groups at the rate of 4 bits but 3 of 8 of bytes"),
        (60, 3, "i8 x i8, weights in groups made bytes by ld.expand"),
    ],
)
def test_what_explains_a_choice_says_how_weights_are_taken(
    depth: int, wide: int | None, text: str
) -> None:
    size, types = (64, 64, depth), (DType.I8, DType.I8)
    ways = candidates(P2VIT, Problem.of(P2VIT, (1, 64, 64), size, types, 8, False, wide))
    lines = list(explain_lines([ProductChoice("fc", "vit.linear", 1, ways, False)], P2VIT))
    assert f"fc: vit.linear, 64 x 64 x {depth}, {text}" in lines


def test_passes_over_channels_cut_no_group() -> None:
    """A pass takes its channels from every position of the window: whole groups, or all channels."""

    def wide(ins: int, depth: int) -> int | None:
        geometry = windows.Geometry((14, 14), (4, 4))
        problem = windows.Problem(
            geometry, 1, 64, ins, 1, (DType.I8, DType.I8), 5, False, wide=2 * ins // 8
        )
        return problem.kind(P2VIT, (56, 64, 16 * depth)).wide

    assert wide(24, 24) == 6 and wide(24, 8) == 2 and wide(24, 12) is None
    assert wide(3, 3) == 0 and wide(3, 1) is None and wide(20, 8) is None


class Grouped(RandomGraph):
    """Random networks whose weights are narrow in groups."""

    def constant(self, shape: tuple[int, ...], format_: FixedType) -> SSAValue:
        if len(shape) == 1 or format_.storage.width.data != 8 or format_.bounds[0] == 0:
            return super().constant(shape, format_)
        codes = grouped_codes(self.rng, shape[0], prod(shape[1:]), float(self.rng.random()) ** 2)
        op = ops.ConstantOp.make(self.store, "constant", codes.reshape(shape), format_)
        op.attributes[BYTE_GROUPS] = DenseArrayBase.from_list(i64, [])
        return self.emit(op)


class GroupedImages(Grouped, RandomImages):
    """Of images, tokens and matrices."""


@pytest.mark.parametrize("seed", range(5))
def test_random_networks_of_groups(seed: int) -> None:
    check(GroupedImages(seed, steps=6), MACHINES[seed], "both")


@pytest.mark.parametrize(("kind", "seed"), [(Grouped, 5), (GroupedImages, 2)])
def test_instructions_touch_no_more_of_groups_than_is_told(kind: type[Grouped], seed: int) -> None:
    test_accel_random.test_instructions_touch_no_more_than_is_told(kind, seed)


def test_cycles_by_hand() -> None:
    """Bursts at DRAM's peak, unless writing 8 bytes a cycle takes longer."""
    inst = isa.Expand(Addr(Space.BBUF), Addr(Space.DRAM), 16, 64, 3 * 64 + 1, 64)
    assert inst.dram_bytes(P2VIT) == 256 and inst.cycles(P2VIT) == 7  # 1024 / 153.6
    assert inst.dram_bytes(EDGE) == 208 and inst.cycles(EDGE) == 128  # 1024 / 8
    assert replace(inst, size=8 * 64).cycles(EDGE) == 128
    assert replace(inst, size=9 * 64).cycles(EDGE) == 144  # 576 / 4


# ---- products that read groups as they lie -------------------------------------------------------

TYPES = DType.I8, DType.I4X2


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20)),
    st.floats(0, 1),
    st.sampled_from([isa.Matmul, isa.EngineMatmul]),
    st.sampled_from(Flag),
    st.integers(0, 1000),
)
def test_products_of_groups(
    size: tuple[int, int, int], wide: float, cls: type[isa.Matmul], more: Flag, seed: int
) -> None:
    """Against numpy on the codes that the groups stand for; k is so many groups."""
    rng = np.random.default_rng(seed)
    (m, n, groups), k = size, 8 * size[2]
    codes = grouped_codes(rng, n, k, wide)
    packed = pack_groups(codes)
    head, marked = -(-groups // 8), int(np.unpackbits(packed[: -(-groups // 8)]).sum())
    a = rng.integers(-128, 128, (m, k), np.int8)
    start = rng.integers(-1000, 1000, (m, n), np.int32)
    marks, rows = Addr(Space.BBUF, 7), Addr(Space.BBUF, 7 + head)
    inst = cls(
        Addr(Space.OBUF), Addr(Space.ABUF), rows, m, n, k, 4 * n, k,
        isa.group_row_bytes(k, marked), *TYPES, accumulate=more, marks=marks, wide=marked,
    )  # fmt: skip
    machine = Machine(Image("p2vit", (inst,)), P2VIT)
    memory = machine.memories.bytes
    memory[Space.ABUF][: m * k] = a.view(np.uint8).reshape(-1)
    memory[Space.BBUF][7 : 7 + packed.size] = packed
    memory[Space.OBUF][: 4 * m * n] = start.view(np.uint8).reshape(-1)
    stats = machine.run()
    acc = memory[Space.OBUF][: 4 * m * n].view(np.int32).reshape(m, n)
    expected = a.astype(np.int64) @ codes.T.astype(np.int64) + (start if more else 0)
    np.testing.assert_array_equal(acc, expected)
    assert stats.cycles == inst.cycles(P2VIT) and inst.macs() == m * n * k
    assert inst.narrow_macs() == m * n * 8 * (groups - marked) == 2 * inst.elements()
    assert traffic(inst)[Space.BBUF] == packed.size


def test_cycles_of_groups_by_hand() -> None:
    """Twelve groups, three of bytes: 4 or 8 steps each, but 8 of a lane's multipliers at a time."""

    def cycles(axes: MacMap, wide: int | None, arch: AccelTarget = P2VIT) -> int:
        return isa.array_cycles(arch, (16, 64, 96), axes, TYPES, wide=wide) - 16

    assert cycles(MacMap.NM, None) == 2 * 48
    assert cycles(MacMap.NM, 0) == 2 * 48 and cycles(MacMap.NM, 3) == 2 * (9 * 4 + 3 * 8)
    assert cycles(MacMap.KN, 3) == 1 * 8 * 16 and cycles(MacMap.KN, 0) == 1 * 8 * 16
    assert cycles(MacMap.KN, 12) == 2 * 8 * 16  # 96 of 64 lanes
    assert cycles(MacMap.NK, None) == 16 * 6 and cycles(MacMap.NK, 0) == 16 * 12
    assert cycles(MacMap.NK, 12) == 16 * 12
    assert cycles(MacMap.NM, 3, replace(P2VIT, int4_rate=1)) == 2 * 96
    assert cycles(MacMap.NM, 3, replace(P2VIT, int4_rate=4)) == 2 * (9 * 2 + 3 * 8)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"wide": 2}, "1 groups are marked, not 2"),
        ({"k": 12}, "groups are rows of i4x2 of a multiple of 8, not 12 of i4x2"),
        ({"b_type": DType.I8}, "not 16 of i8"),
        ({"marks": NO_ADDR}, "1 groups of bytes, but no marks that say which"),
        ({"marks": Addr(Space.BBUF, 1 << 20)}, "leaves the .* bytes of bbuf"),
        ({"k": 0}, "an empty operand"),
    ],
)
def test_groups_that_make_no_sense_trap(changes: dict[str, Any], reason: str) -> None:
    places = (Addr(Space.OBUF), Addr(Space.ABUF), Addr(Space.BBUF, 1))
    inst = isa.Matmul(*places, 1, 1, 16, 4, 16, 13, *TYPES, marks=Addr(Space.BBUF), wide=1)
    machine = Machine(Image("p2vit", (replace(inst, **changes),)), P2VIT)
    machine.memories.bytes[Space.BBUF][0] = 0b10
    with pytest.raises(TrapError, match=reason):
        machine.run()
