"""What stays on chip: rectangles, their pieces, and traffic of DRAM close to what is compulsory."""

from __future__ import annotations

import numpy as np
import pytest
from accel_net import ARCHITECTURES, SMALL, Net, compare, random_codes
from accel_vit import CODES, Size, VitNet
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.backends.accel.lowering.arena import Region
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.context import Lowering
from vit_opt.backends.accel.lowering.memory import DATA, CapacityError
from vit_opt.backends.accel.lowering.products import load_operand
from vit_opt.backends.accel.lowering.residency import Piece, Rect, Trace, touching
from vit_opt.backends.accel.lowering.tensors import Tensor, load_block
from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.targets import P2VIT, P2VIT_LARGE, AccelTarget
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import Space


def places(rect: Rect) -> list[int]:
    """The bytes of a rectangle, row by row."""
    return [
        rect.start + row * rect.pitch + byte
        for row in range(rect.rows)
        for byte in range(rect.width)
    ]


@st.composite
def rects(draw: st.DrawFn) -> Rect:
    """Rectangles that do not overlap themselves."""
    pitch = draw(st.integers(1, 9))
    return Rect(
        draw(st.integers(0, 40)), draw(st.integers(1, 4)), pitch, draw(st.integers(1, pitch))
    )


@settings(max_examples=300, deadline=None)
@given(rects(), rects())
def test_touching_misses_nothing(a: Rect, b: Rect) -> None:
    """It may call disjoint rectangles of different pitches touching, never the other way round."""
    shared = bool(set(places(a)) & set(places(b)))
    assert touching(a, b) or not shared
    if a.pitch == b.pitch:
        assert touching(a, b) == shared


@settings(max_examples=300, deadline=None)
@given(rects(), rects(), st.integers(0, 3))
def test_piece_finds_the_right_bytes(room: Rect, wanted: Rect, gap: int) -> None:
    """Where a rectangle is found in a buffer, its bytes lie at the places computed from it."""
    near = room.width + gap
    buffer = Region(Space.OBUF, 0, near * room.rows)
    piece = Piece(buffer, [], tensor=Region(Space.DRAM, 0, 1000), room=room, valid=room, near=near)
    at = {
        room.start + row * room.pitch + byte: row * near + byte
        for row in range(room.rows)
        for byte in range(room.width)
    }
    found = piece.find(wanted)
    if found is None:
        # One that goes on in the next row of the room need not be found.
        wraps = (wanted.start - room.start) % room.pitch + wanted.width > room.width
        alike = wanted.pitch == room.pitch and wanted.rows > 1 and not wraps
        assert not set(places(wanted)) <= set(at) or not alike
        return
    offset, step = found
    here = [
        offset + row * step + byte for row in range(wanted.rows) for byte in range(wanted.width)
    ]
    assert here == [at[place] for place in places(wanted)]


@pytest.mark.parametrize("arch", [P2VIT, P2VIT_LARGE], ids=lambda arch: arch.name)
def test_traffic_is_compulsory_where_buffers_allow_it(arch: AccelTarget) -> None:
    """65 tokens of 96 channels stay on chip: DRAM gives the weights once and takes the result."""
    net = VitNet(Size(image=64, patch=8, dim=96, heads=3, layers=2, classes=10))
    codes = random_codes(np.random.default_rng(1), (1, 3, 64, 64), CODES)
    image, ran = compare(net, [net.result], [codes], arch)
    compulsory = sum(len(segment.data) for segment in image.segments)
    compulsory += sum(port.size for port in (*image.inputs, *image.outputs))
    assert ran.stats.dram_bytes <= 1.15 * compulsory


@pytest.mark.parametrize("zero", [0, 7])
def test_an_operand_stays_until_it_is_let_go(zero: int) -> None:
    """However much else is loaded meanwhile, and though nobody reads the block again later."""
    lowering = Lowering(VitNet(Size(layers=0)).block, AssetStore(), SMALL, Trace())
    builder = lowering.builder
    region = builder.allocate(Space.DRAM, 96)
    tensor = Tensor(region, DType.UI8, FixedType("ui8", 4, zp=zero), (4, 24), (24, 1))
    block = load_operand(lowering, tensor, (0, 0), (4, 24), Space.ABUF)
    while True:
        try:
            builder.allocate(Space.ABUF, 16)
        except CapacityError:
            break
    assert not block.region.gone
    builder.unpin()
    builder.allocate(Space.ABUF, 16)
    assert block.region.gone


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda arch: arch.name)
def test_rows_written_over_what_was_left_as_one_row(arch: AccelTarget) -> None:
    """A mean leaves its result on chip as one row; a sum in its place writes several."""
    rng = np.random.default_rng(0)
    x, y = FixedType("i16", 8), FixedType("i8", 5)
    net = Net(((1, 4, 8), x), ((1, 4, 8), y))
    (mean,) = net.add(ops.MeanOp, [net.args[0]], ((1, 4, 8), x), axes=[0], keepdims=True)
    (result,) = net.add(ops.AddOp, [mean, net.args[1]], ((1, 4, 8), FixedType("i16", 6)))
    compare(net, [result], [random_codes(rng, (1, 4, 8), each) for each in (x, y)], arch)


@pytest.mark.parametrize("rested", [True, False])
def test_space_that_rests_is_taken_before_what_is_read_again_is_stored(rested: bool) -> None:
    """If it has rested for half of the time; else it costs less to store what is read again."""
    trace, rect = Trace(), Rect(0, 1, 64, 64)
    builder = Builder(SMALL, trace)
    tensor = builder.allocate(Space.DRAM, 64)
    trace.read_rect(tensor, rect, 10)
    piece, _, _ = builder.place_for(tensor, rect, rect, Space.OBUF)
    builder.unpin()
    taken = [
        builder.allocate(space, high - low)
        for space in DATA
        for low, high in builder.arenas[space].gaps()
    ]
    builder.clock += builder.rest
    builder.release(next(region for region in taken if region.size >= 64))
    builder.clock += builder.rest // 2 if rested else 0
    builder.allocate(Space.OBUF, 64)
    assert piece.gone != rested


def test_pieces_that_were_copied_for_the_last_time_are_let_go() -> None:
    """Rows of two pieces are copied into one block; nobody reads the pieces again."""
    trace = Trace()
    builder = Builder(SMALL, trace)
    tensor = Tensor(
        builder.allocate(Space.DRAM, 64), DType.UI8, FixedType("ui8", 4), (4, 16), (16, 1)
    )
    trace.read_rect(tensor.region, Rect(0, 4, 16, 16), 3)
    for start in (0, 32):
        rect = Rect(start, 2, 16, 16)
        builder.place_for(tensor.region, rect, rect, Space.OBUF)
    builder.unpin()
    assert len(builder.pieces[tensor.region]) == 2
    load_block(builder, tensor, (0, 0), (4, 16), Space.ABUF)
    builder.unpin()
    assert not builder.pieces[tensor.region]
