"""Moving elements between DRAM and the chip, past what already lies there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from vit_opt.backends.accel.lowering.arena import Region, Use
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.residency import Piece
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit_accel import isa

Dim = tuple[int, int, int]
"""Count, stride in DRAM, stride on chip."""

_COUNT_MAX = (1 << 16) - 1
_RUN_MAX = (1 << 24) - 1


def transfer(
    builder: Builder,
    tensor: Region,
    source: int,
    item: int,
    dims: Sequence[Dim],
    region: Region,
    offset: int,
    store: bool,
) -> None:
    """Move elements of `item` bytes between a tensor, from byte `source` on, and a buffer, in as
    few instructions as their layout allows.

    What of the tensor lies on chip is copied from there.
    """
    if builder.rehearsing:
        return
    run = item
    inner: list[Dim] = [dim for dim in dims if dim[0] > 1]
    while inner and inner[-1][1] == run and inner[-1][2] == run:
        run *= inner.pop()[0]
    merged: list[Dim] = []
    for count, far, near in inner:
        if merged and merged[-1][1] == count * far and merged[-1][2] == count * near:
            merged[-1] = (merged[-1][0] * count, far, near)
        else:
            merged.append((count, far, near))
    if store:
        _split(builder, tensor, source, merged, run, region, offset, store=True)
    else:
        _fetch(builder, tensor, source, merged, run, region, offset)


def _span(dims: Sequence[Dim], run: int, axis: int = 1) -> int:
    """Bytes from the first to behind the last, in DRAM (axis 1) or on chip (axis 2)."""
    return run + sum((dim[0] - 1) * dim[axis] for dim in dims)


def _fetch(
    builder: Builder,
    tensor: Region,
    source: int,
    dims: list[Dim],
    run: int,
    region: Region,
    offset: int,
) -> None:
    """Load, part by part from the pieces on chip and from DRAM."""
    end = source + _span(dims, run)
    pieces = [
        piece
        for piece in builder.pieces.get(tensor, ())
        if piece.valid.start < end and source < piece.valid.end
    ]
    for piece in pieces:
        found = _within(piece, source, dims, run)
        if found is not None:
            moved = [(dim[0], far, dim[2]) for dim, far in zip(dims, found[1], strict=True)]
            builder.pin(piece)
            _split(builder, piece.region, found[0], moved, run, region, offset, store=False)
            return
    if not any(_meets(piece, source, dims, run) for piece in pieces):
        _split(builder, tensor, source, dims, run, region, offset, store=False)
        return
    if not dims:
        # Whole rows of parts: as rows again, so that neighbouring rows go together.
        pitch = max(piece.valid.pitch for piece in pieces)
        rows = run // pitch
        if rows > 1 and _fetch_bands(
            builder, tensor, source, (rows, pitch, pitch), pitch, region, offset, pieces
        ):
            source, run, offset = source + rows * pitch, run % pitch, offset + rows * pitch
        _fetch_run(builder, tensor, source, run, region, offset, pieces)
        return
    head = _common_run(pieces, source, run)
    if head < run and _is_uniform(pieces, source, dims, head):
        _fetch(builder, tensor, source, dims, head, region, offset)
        _fetch(builder, tensor, source + head, dims, run - head, region, offset + head)
        return
    if len(dims) == 1 and _fetch_bands(
        builder, tensor, source, dims[0], run, region, offset, pieces
    ):
        return
    _fetch_steps(builder, tensor, source, dims, run, region, offset, pieces)


def _fetch_steps(
    builder: Builder,
    tensor: Region,
    source: int,
    dims: list[Dim],
    run: int,
    region: Region,
    offset: int,
    pieces: Sequence[Piece],
) -> None:
    """Load step by step of the outermost dim: those that lie in one piece, or in none, together."""
    count, far, near = dims[0]
    inner = dims[1:]

    def owner(index: int) -> int:
        """Which piece holds all of one step of the outermost dim; -1 DRAM; -2 - i nobody alone."""
        place = source + index * far
        for number, piece in enumerate(pieces):
            if _within(piece, place, inner, run) is not None:
                return number
        meets = any(_meets(piece, place, inner, run) for piece in pieces)
        return -2 - index if meets else -1

    for who, group in groupby(range(count), owner):
        steps = list(group)
        part: list[Dim] = [(len(steps), far, near), *inner]
        place, here = source + steps[0] * far, offset + steps[0] * near
        if who == -1:
            _split(builder, tensor, place, part, run, region, here, store=False)
        elif who >= 0 and _within(pieces[who], place, part, run) is not None:
            _fetch(builder, tensor, place, part, run, region, here)
        else:
            for index in steps:
                place, here = source + index * far, offset + index * near
                _fetch(builder, tensor, place, inner, run, region, here)


def _fetch_bands(
    builder: Builder,
    tensor: Region,
    source: int,
    dim: Dim,
    run: int,
    region: Region,
    offset: int,
    pieces: Sequence[Piece],
) -> bool:
    """Load rows that several pieces share by columns: neighbouring rows that are cut alike together,
    a transfer for each part. False if there is nothing to gain."""
    count, far, near = dim
    cuts = [_cuts(pieces, source + index * far, run) for index in range(count)]
    bands = [list(group) for _, group in groupby(range(count), lambda index: cuts[index])]
    if len(bands) == count or max(map(len, cuts)) == 1:
        return False
    for band in bands:
        done = 0
        for _, head in cuts[band[0]]:
            place, here = source + band[0] * far + done, offset + band[0] * near + done
            part: list[Dim] = [(len(band), far, near)] if len(band) > 1 else []
            _fetch(builder, tensor, place, part, head, region, here)
            done += head
    return True


def _cuts(pieces: Sequence[Piece], source: int, run: int) -> tuple[tuple[int, int], ...]:
    """The parts of contiguous bytes: the piece that each lies in (-1: none), and its length."""
    found: list[tuple[int, int]] = []
    done = 0
    while done < run:
        head = _common_run(pieces, source + done, run - done)
        inside = (_within(piece, source + done, (), head) is not None for piece in pieces)
        found.append((next((i for i, there in enumerate(inside) if there), -1), head))
        done += head
    return tuple(found)


def _is_uniform(pieces: Sequence[Piece], source: int, dims: Sequence[Dim], run: int) -> bool:
    """Whether all elements lie in one piece, or in none."""
    if any(_within(piece, source, dims, run) is not None for piece in pieces):
        return True
    return not any(_meets(piece, source, dims, run) for piece in pieces)


def _fetch_run(
    builder: Builder,
    tensor: Region,
    source: int,
    run: int,
    region: Region,
    offset: int,
    pieces: Sequence[Piece],
) -> None:
    """Load contiguous bytes that begin in one piece and end in another, or in none."""
    done = 0
    while done < run:
        here = source + done
        head = _common_run(pieces, here, run - done)
        for piece in pieces:
            found = _within(piece, here, (), head)
            if found is not None:
                builder.pin(piece)
                _split(builder, piece.region, found[0], [], head, region, offset + done, False)
                break
        else:
            _split(builder, tensor, here, [], head, region, offset + done, store=False)
        done += head


def _within(
    piece: Piece, source: int, dims: Sequence[Dim], run: int
) -> tuple[int, list[int]] | None:
    """Where elements lie in a piece: offset in its buffer and strides; None if not all do."""
    valid, pitch = piece.valid, piece.valid.pitch
    if source < valid.start or source + _span(dims, run) > valid.end:
        return None
    first = source - piece.room.start
    if valid.width == pitch == piece.near:
        return first, [far for _, far, _ in dims]
    row, col = divmod(source - valid.start, pitch)
    height, width = _extent(dims, run, pitch)
    if row + height > valid.rows or col + width > valid.width:
        return None
    strides = [far // pitch * piece.near if far % pitch == 0 else far for _, far, _ in dims]
    return first // pitch * piece.near + first % pitch, strides


def _extent(dims: Sequence[Dim], run: int, pitch: int) -> tuple[int, int]:
    """Rows and bytes of a row that elements span, where rows are `pitch` apart."""
    height, width = 1, run
    for count, far, _ in dims:
        if far % pitch == 0:
            height += (count - 1) * (far // pitch)
        else:
            width += (count - 1) * far
    return height, width


def _meets(piece: Piece, source: int, dims: Sequence[Dim], run: int) -> bool:
    """Whether elements may share a byte with a piece that DRAM does not hold."""
    if not piece.dirty:
        return False
    valid, pitch = piece.valid, piece.valid.pitch
    if source >= valid.end or source + _span(dims, run) <= valid.start:
        return False
    row, col = divmod(source - valid.start, pitch)
    height, width = _extent(dims, run, pitch)
    if col + width > pitch:
        return bool(dims) or col < valid.width or width > pitch or col + run > pitch
    return col < valid.width and -height < row < valid.rows


def _common_run(pieces: Sequence[Piece], source: int, run: int) -> int:
    """Bytes from `source` on that lie in one piece, or in none."""
    head = run
    for piece in pieces:
        valid = piece.valid
        row, col = divmod(source - valid.start, valid.pitch)
        if 0 <= row < valid.rows and col < valid.width:
            flat = valid.width == valid.pitch == piece.near
            return min(run, valid.end - source if flat else valid.width - col)
        following = valid.start + max(0, row + 1) * valid.pitch
        if source < following < min(source + head, valid.end):
            head = following - source
    return head


def _split(
    builder: Builder,
    far_region: Region,
    source: int,
    dims: list[Dim],
    run: int,
    region: Region,
    offset: int,
    store: bool,
) -> None:
    """One instruction for up to three dims and a run; more are unrolled."""
    if run > _RUN_MAX:
        raise VitError(f"a contiguous run of {run} bytes is longer than an instruction can hold")
    if len(dims) > 3:
        count, far, near = dims[0]
        for index in range(count):
            there, here = source + index * far, offset + index * near
            _split(builder, far_region, there, dims[1:], run, region, here, store)
        return
    for position, (count, far, near) in enumerate(dims):
        if count > _COUNT_MAX:
            head, tail = dims[:position], dims[position + 1 :]
            for index in range(0, count, _COUNT_MAX):
                part = [*head, (min(_COUNT_MAX, count - index), far, near), *tail]
                there, here = source + index * far, offset + index * near
                _split(builder, far_region, there, part, run, region, here, store)
            return
    padded = [(1, 0, 0)] * (3 - len(dims)) + dims
    counts, fars, nears = zip(*padded, strict=True)
    far_use = Use(far_region, source, source + _span(dims, run))
    near_use = Use(region, offset, offset + _span(dims, run, 2))
    there, here = far_region.addr(source), region.addr(offset)
    if store:
        builder.emit(isa.Store(there, here, run, *counts, *fars, *nears), [near_use], [far_use])
    else:
        builder.emit(isa.Load(here, there, run, *counts, *nears, *fars), [far_use], [near_use])
