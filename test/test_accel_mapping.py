"""The mapper: its model of a product is what the program then costs, and the choice follows it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from accel_net import SMALL, Net, compare, random_codes
from accel_vit import Size, VitNet

from vit_opt.backends.accel.explain import explain_lines
from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.unrolling import unroll
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.ops.pipeline import LOOPS
from vit_opt.dialects.vit.targets import EDGE, P2VIT, P2VIT_LARGE, TRIO, TRIO_LARGE, AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.passes import rooms, windows
from vit_opt.passes.blocking import problem as problem_of
from vit_opt.passes.blocking import window_problem
from vit_opt.passes.mapping import (
    Mapping,
    Problem,
    ProductChoice,
    block_rows,
    candidates,
    rows_together,
)
from vit_opt.passes.tile import tile
from vit_opt.passes.windows import Choice, WindowChoice

I8 = (DType.I8, DType.I8)
LANES = {"M": "rows", "N": "columns", "K": "reduction"}


def problem(arch: AccelTarget, size: tuple[int, int, int]) -> Problem:
    """A product of bytes with nothing behind it."""
    return Problem(size, I8, block_rows(arch, size[0]))


@pytest.mark.parametrize("arch", [P2VIT, EDGE, SMALL], ids=lambda arch: arch.name)
@pytest.mark.parametrize("size", [(197, 192, 192), (50, 100, 70), (1, 1000, 64)])
def test_cycles_are_those_of_the_program(arch: AccelTarget, size: tuple[int, int, int]) -> None:
    m, n, k = size
    rng = np.random.default_rng(0)
    x, w = FixedType("i8", 5), FixedType("i8", 7)
    net = Net(((m, k), x))
    weight = net.constant(random_codes(rng, (n, k), w), w)
    (acc,) = net.add(ops.LinearOp, [net.args[0], weight], ((m, n), FixedType("i32", 12)))
    (y,) = net.add(ops.PotRequantOp, [acc], ((m, n), FixedType("i8", 3)))
    choices: list[Choice] = []
    image = lower_accel(net.module(y), net.store, arch, choices=choices)
    code, _ = unroll(image.code, image.origins)
    (choice,) = choices
    assert isinstance(choice, ProductChoice)
    products = [inst for inst in code if isinstance(inst, isa.Matmul)]
    assert sum(inst.cycles(arch) for inst in products) == choice.ways[0].array
    block = max((inst.m, inst.n, inst.k) for inst in products)
    assert all(a <= b for a, b in zip(block, choice.ways[0].block, strict=True))


def test_the_last_block_is_shared_by_two_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels of 49 x 256: the last one is cut into parts of its rows, so that no engine waits for
    the time of a whole block at the end."""

    def made() -> tuple[list[isa.Matmul], int]:
        rng = np.random.default_rng(0)
        x, w = FixedType("i8", 5), FixedType("i8", 7)
        net = Net(((49, 256), x))
        weight = net.constant(random_codes(rng, (192, 256), w), w)
        (acc,) = net.add(ops.LinearOp, [net.args[0], weight], ((49, 192), FixedType("i32", 12)))
        (y,) = net.add(ops.PotRequantOp, [acc], ((49, 192), FixedType("i8", 3)))
        image, ran = compare(net, [y], [random_codes(rng, (49, 256), x)], TRIO_LARGE)
        code, _ = unroll(image.code, image.origins)
        return [inst for inst in code if isinstance(inst, isa.Matmul)], ran.stats.cycles

    # The widest panels in either case, so that nothing else changes.
    monkeypatch.setattr(Mapping, "cycles", property(lambda way: -way.block[1]))
    products, cycles = made()
    way = candidates(TRIO_LARGE, problem(TRIO_LARGE, (49, 192, 256)))[0]
    last = [inst.m for inst in products if inst.m < 49]
    assert sum(last) == 49 and set(last[:-1]) == {way.tail} and len(last) > 2
    assert len(products) == 2 + len(last) and len({inst.engine for inst in products}) == 2
    monkeypatch.setattr(Mapping, "tail", 49)
    whole, longer = made()
    assert [inst.m for inst in whole] == [49] * 3 and cycles < longer


def test_the_cheapest_is_taken_and_what_is_cheap_is_up_to_the_machine() -> None:
    size = (197, 192, 768)
    for arch in (P2VIT, P2VIT_LARGE, EDGE):
        found = candidates(arch, problem(arch, size))
        assert found[0].cycles == min(way.cycles for way in found if way.fits)
    blocks = {arch.name: candidates(arch, problem(arch, size))[0].block for arch in (P2VIT, EDGE)}
    assert blocks["p2vit"] != blocks["edge"]
    # Narrow panels fill and drain the array more often, wide ones displace what could stay.
    slow = replace(P2VIT, dram_bytes_per_cycle=1.0)
    fast = replace(P2VIT, dram_bytes_per_cycle=10_000.0)
    widths = [candidates(arch, problem(arch, size))[0].block[1] for arch in (slow, P2VIT, fast)]
    assert widths == sorted(widths) and widths[0] < widths[2]


@pytest.mark.parametrize("arch", [P2VIT, EDGE, P2VIT_LARGE], ids=lambda arch: arch.name)
def test_blocks_fit_twice(arch: AccelTarget) -> None:
    for size in ((197, 768, 192), (3136, 64, 288), (1, 1000, 4096), (7, 5, 3)):
        for way in candidates(arch, problem(arch, size)):
            m, n, k = way.block
            assert 2 * m * k <= arch.memory_size("abuf")
            assert 2 * n * k <= arch.memory_size("bbuf")
            assert 4 * 4 * m * n <= arch.memory_size("obuf") or m == 1


def test_explanation_by_hand() -> None:
    """48 columns on the lanes, 16 steps of the reduction on 8 multipliers, 5 rows; 16 to fill."""
    net = VitNet(Size(image=16, patch=8, dim=16, heads=2, layers=2, classes=4))
    choices: list[Choice] = []
    lower_accel(net.module(net.result), net.store, P2VIT, choices=choices)
    text = "\n".join(explain_lines(choices, P2VIT))
    assert "products on p2vit: 64 lanes of 8 multipliers" in text
    # Two layers have one table each for qkv, scores, values, projection and both of the MLP.
    products = [choice for choice in choices if isinstance(choice, ProductChoice)]
    assert text.count("    axes: ") == len({(c.kind, c.batch, c.ways[0].problem) for c in products})
    assert "vit.linear: vit.linear, 5 x 48 x 16, i8 x i8" in text
    assert "columns on the lanes, reduction on the multipliers; cycles of a block: nk 26," in text


@pytest.mark.parametrize("arch", [P2VIT, EDGE, P2VIT_LARGE], ids=lambda arch: arch.name)
def test_what_tile_writes_is_what_the_lowering_does(arch: AccelTarget) -> None:
    net = VitNet(Size(image=96, patch=8, dim=96, heads=3, layers=1, classes=10))
    module = net.module(net.result)
    tile(module, arch)
    choices: list[Choice] = []
    lower_accel(module, net.store, arch, choices=choices)
    products = [choice for choice in choices if isinstance(choice, ProductChoice)]
    plans = {choice.ways[0].problem.size: choice.ways[0] for choice in products}
    found = 0
    for op in module.walk():
        loops = op.attributes.get(LOOPS)
        if isinstance(op, ops.LinearOp | ops.MatmulOp) and isinstance(loops, ops.LoopsAttr):
            found += 1
            way = plans[problem_of(op)]
            assert loops.lanes.data == LANES[way.axes.name[0]]
            sizes = zip(way.block, way.problem.size, strict=True)
            assert loops.block_sizes == tuple(min(pair) for pair in sizes)
    assert found >= 6


# -- convolutions -----------------------------------------------------------------------------


def convolution(
    arch: AccelTarget, size: int, channels: tuple[int, int, int], kernel: int, stride: int = 1
) -> tuple[Net, ops.Conv2dOp, list[isa.UnitInst], WindowChoice]:
    """A convolution of an image of so many rows and columns by groups, channels of a group, and
    results of a group, lowered: it, its instructions and how it was cut."""
    groups, inner, outer = channels
    out, pad = -(-size // stride), kernel // 2
    x, w = FixedType("i8", 4), FixedType("i8", 6)
    net = Net(((1, size, size, groups * inner), x))
    codes = random_codes(np.random.default_rng(0), (groups * outer, kernel, kernel, inner), w)
    shape = (1, out, out, groups * outer)
    (acc,) = net.add(
        ops.Conv2dOp,
        [net.args[0], net.constant(codes, w)],
        (shape, FixedType("i32", 10)),
        strides=[stride, stride],
        pads=[pad, pad, pad, pad],
        dilations=[1, 1],
        groups=groups,
    )
    (y,) = net.add(ops.PotRequantOp, [acc], (shape, FixedType("i8", 3)))
    choices: list[Choice] = []
    image = lower_accel(net.module(y), net.store, arch, choices=choices)
    code, _ = unroll(image.code, image.origins)
    (choice,) = choices
    assert isinstance(choice, WindowChoice)
    assert isinstance(acc.owner, ops.Conv2dOp)
    done = [inst for inst in code if isinstance(inst, isa.Conv | isa.DepthwiseConv)]
    return net, acc.owner, list(done), choice


@pytest.mark.parametrize("arch", [P2VIT, TRIO, EDGE], ids=lambda arch: arch.name)
@pytest.mark.parametrize(
    ("size", "channels", "kernel", "stride"),
    [
        (20, (1, 24, 40), 3, 1),
        (14, (24, 16, 16), 3, 1),
        (30, (96, 1, 1), 5, 2),
        (9, (7, 1, 3), 3, 1),
    ],
)
def test_windows_cost_what_the_program_does(
    arch: AccelTarget, size: int, channels: tuple[int, int, int], kernel: int, stride: int
) -> None:
    _, op, done, choice = convolution(arch, size, channels, kernel, stride)
    best = choice.ways[0]
    assert sum(inst.cycles(arch) for inst in done) == best.array
    assert best.cycles == min(way.cycles for way in choice.ways)
    assert best.problem == window_problem(op)


def test_windows_are_cut_by_cost() -> None:
    """Groups of 16 channels by 14 x 14 pixels: on lanes all pixels at once beat full panels."""
    _, _, _, choice = convolution(P2VIT, 14, (24, 16, 16), 1)
    widest = max(choice.ways, key=lambda way: way.width)
    assert choice.ways[0].width < widest.width == P2VIT.lanes
    assert choice.ways[0].array < widest.array
    # Where bytes are dear, weights are loaded once; where the array is slow, nothing else counts.
    problem = replace(choice.ways[0].problem, groups=1, ins=512, outs=512)
    cheap = replace(P2VIT, dram_bytes_per_cycle=1e5)
    ways = {arch: windows.candidates(arch, problem) for arch in (P2VIT, cheap)}
    assert ways[P2VIT][0].down
    assert ways[cheap][0].array == min(way.array for way in ways[cheap])


def test_depthwise_panels_are_wide_where_the_engine_also_takes_products() -> None:
    """A small part of its time elsewhere; there its latency is time that products lose."""
    window = windows.Geometry((56, 56), (3, 3))
    problem = windows.Problem(window, 1, 256, 1, 256, I8, 8, depthwise=True)
    assert max(way.width for way in windows.candidates(P2VIT, problem)) == P2VIT.lanes
    assert max(way.width for way in windows.candidates(TRIO, problem)) == 256
    small = replace(problem, geometry=replace(window, out=(7, 7)))
    assert max(way.width for way in windows.candidates(TRIO, small)) == TRIO.lanes


def test_explanation_of_a_convolution_by_hand() -> None:
    """72 steps on 64 lanes, 32 channels or half of them on 8 multipliers, 4 pixels in time; 16 cycles
    to fill and drain."""
    _, _, _, choice = convolution(P2VIT, 2, (1, 8, 32), 3)
    text = "\n".join(explain_lines([choice], P2VIT))
    assert "vit.conv2d 3 x 3, 8 to 1 x 2 x 2 x 32, i8 x i8" in text
    assert [way.array for way in choice.ways] == [16 + 2 * 4 * 4, 2 * (16 + 2 * 2 * 4)]
    assert "order: block by block (" in text
    assert "weights 2,304 B loaded once" in text


def test_rooms_by_hand() -> None:
    """53, 53, 53 and 108 KiB; four blocks of 3,456 results of 8 bytes fill the 108."""
    assert rooms.elements(P2VIT) == 108 * 1024 // 4 // 8 == 3456
    assert rooms.room(P2VIT, "bbuf", rooms.LOADED) == 53 * 1024 // 2
    kept = (3 * 53 + 108) * 1024 - 4 * 4 * 3456 - 53 * 1024 // 2
    assert rooms.on_chip(P2VIT) == kept
    larger = tuple(
        replace(memory, size=memory.size * (2 if memory.name == "pbuf" else 1))
        for memory in P2VIT.memories
    )
    assert rooms.on_chip(replace(P2VIT, memories=larger)) == kept


def test_blocks_of_rows_are_enough_for_all_stages() -> None:
    """Three where each fills the lanes, in steps of the columns, even if one would have room."""
    assert rooms.elements(P2VIT_LARGE) // 64 >= 197
    assert block_rows(P2VIT_LARGE, 197) == 72
    assert block_rows(P2VIT_LARGE, 197, 1) == 197
    assert block_rows(P2VIT_LARGE, 49) == 49
    # Where there is room for less, for as many as there is.
    assert block_rows(P2VIT, 197) == 40
    # A small image flows in panels; heads of a softmax are as high as what they are made of.
    assert rows_together(P2VIT_LARGE, (1, 14, 14, 256), 196) == 196
    assert rows_together(P2VIT_LARGE, (1, 16, 197, 197), 197) == 72


def test_heads_are_no_image() -> None:
    """[1, 16, 197, 197] are 16 products of 197 rows, not rows of an image."""
    made = Problem.of(P2VIT, (1, 16, 197, 64), (197, 64, 197), I8, 5, False)
    alone = Problem.of(P2VIT, (197, 64), (197, 64, 197), I8, 5, False)
    assert made == alone
    image = Problem.of(P2VIT, (1, 16, 16, 64), (256, 64, 64), I8, 5, False)
    assert image.flows and image.height % 16 == 0
