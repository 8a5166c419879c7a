"""Loads of what lies in part on chip, in part in DRAM."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.backends.accel.lowering.arena import Region
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.residency import Piece, Rect, Trace
from vit_opt.backends.accel.lowering.transfers import Dim, transfer
from vit_opt.dialects.vit.targets import P2VIT
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.fields import Addr, Space

ROWS, PITCH = 6, 8


class Chip:
    """A tensor of ROWS x PITCH bytes, each with its own number, rectangles of it on chip, which
    DRAM does not hold, and loads of it."""

    def __init__(self, rects: Sequence[tuple[int, int, int, int]]):
        """`rects`: first row and column, rows and columns."""
        self.builder = Builder(P2VIT, Trace())
        self.tensor = self.builder.allocate(Space.DRAM, ROWS * PITCH)
        self.bytes: dict[Addr, int] = {self.tensor.addr(i): i for i in range(ROWS * PITCH)}
        pieces: list[Piece] = []
        for row, col, rows, cols in rects:
            rect = Rect(row * PITCH + col, rows, PITCH, cols)
            places = [(y * PITCH + x, (y - row) * cols + x - col) for y, x in _cells(rect)]
            if any(self.tensor.addr(far) not in self.bytes for far, _ in places):
                continue
            region = self.builder.allocate(Space.OBUF, rows * cols)
            for far, near in places:
                self.bytes[region.addr(near)] = self.bytes.pop(self.tensor.addr(far))
            piece = Piece(region, [], tensor=self.tensor, room=rect, valid=rect, near=cols)
            pieces.append(piece)
        self.builder.pieces[self.tensor] = pieces

    def load(self, source: int, dims: Sequence[Dim], size: int) -> tuple[list[int], int]:
        """The bytes that arrive, and the number of instructions."""
        region: Region = self.builder.allocate(Space.ABUF, size)
        transfer(self.builder, self.tensor, source, 1, dims, region, 0, store=False)
        loads = [inst for inst in self.builder.program()[0] if isinstance(inst, isa.Load)]
        for load in loads:
            for i in range(load.n0):
                for j in range(load.n1):
                    for k in range(load.n2):
                        to = load.dst.plus(i * load.d0 + j * load.d1 + k * load.d2)
                        of = load.src.plus(i * load.s0 + j * load.s1 + k * load.s2)
                        for byte in range(load.run):
                            self.bytes[to.plus(byte)] = self.bytes[of.plus(byte)]
        return [self.bytes[region.addr(i)] for i in range(size)], len(loads)


def _cells(rect: Rect) -> list[tuple[int, int]]:
    row, col = divmod(rect.start, PITCH)
    return [(y, x) for y in range(row, row + rect.rows) for x in range(col, col + rect.width)]


@st.composite
def boxes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """First row and column, rows and columns."""
    row, col = draw(st.integers(0, ROWS - 1)), draw(st.integers(0, PITCH - 1))
    return row, col, draw(st.integers(1, ROWS - row)), draw(st.integers(1, PITCH - col))


@settings(max_examples=300, deadline=None)
@given(st.lists(boxes(), max_size=5), boxes())
def test_every_byte_comes_from_where_it_lies(
    rects: list[tuple[int, int, int, int]], wanted: tuple[int, int, int, int]
) -> None:
    """A rectangle, which is one run if it is as wide as the tensor."""
    row, col, rows, cols = wanted
    source = row * PITCH + col
    dims = [(rows, PITCH, cols), (cols, 1, 1)]
    expected = [y * PITCH + x for y, x in _cells(Rect(source, rows, PITCH, cols))]
    assert Chip(rects).load(source, dims, rows * cols)[0] == expected


def test_columns_on_chip_and_columns_in_dram_are_a_load_each() -> None:
    """Not one for every row, with DRAM's latency each time; nor where row blocks lie apart."""
    whole = [(ROWS, PITCH, PITCH), (PITCH, 1, 1)]
    assert Chip([(0, 0, ROWS, 5)]).load(0, whole, ROWS * PITCH)[1] == 2
    assert Chip([(0, 0, 4, 5), (4, 0, 2, 5)]).load(0, whole, ROWS * PITCH)[1] <= 4
