"""A batch of products or divisions in one instruction: what as many instructions do, filled once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.backends.accel.emulator import Machine, TrapError
from vit_opt.backends.accel.image import Image
from vit_opt.dialects.vit.targets import TRIO
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DivMode, DType, Flag, MacMap
from vit_opt.dialects.vit_accel.fields import NO_ADDR, Addr, Space
from vit_opt.dialects.vit_accel.traffic import traffic

Batched = TypeVar("Batched", isa.Matmul, isa.Divide)

SIZE = 1 << 14

counts = st.integers(1, 4)
gaps = st.integers(0, 5)


def run(program: Sequence[isa.UnitInst], seed: int) -> np.ndarray:
    """Bytes of the output buffer behind a program on random memories, its numbers 31 bits wide."""
    rng = np.random.default_rng(seed)
    machine = Machine(Image("trio", tuple(program)), TRIO)
    for space, data in machine.memories.bytes.items():
        size = min(SIZE, data.size)
        data[:size] = rng.integers(0, 256, size, np.uint8)
        if space is Space.OBUF:
            data.view(np.int32)[:] //= 4
            data.view(np.int32)[: size // 4 // 4] &= (1 << 30) - 1
    machine.run()
    return machine.memories.bytes[Space.OBUF][:SIZE]


def one_by_one(inst: Batched, *operands: str) -> list[Batched]:
    """A batch as instructions of one product or division each; `operands` lie apart."""
    return [replace(inst, batch=1, **moved(inst, operands, p)) for p in range(inst.batch)]


def moved(inst: isa.Matmul | isa.Divide, operands: Sequence[str], place: int) -> dict[str, Any]:
    """Addresses of the operands at a place of the batch."""
    return {
        name: getattr(inst, name).plus(place * getattr(inst, f"{name}_batch")) for name in operands
    }


@settings(max_examples=60, deadline=None)
@given(st.data(), counts, counts, counts, st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_matmul(data: st.DataObject, batch: int, m: int, n: int, k: int, seed: int) -> None:
    """The accumulators of a batch lie apart; operands may overlap, or repeat."""
    types = (
        data.draw(st.sampled_from([DType.I8, DType.LOG2, DType.I16])),
        data.draw(st.sampled_from([DType.I8, DType.UI8, DType.I4X2])),
    )
    cls = data.draw(st.sampled_from([isa.Matmul, isa.EngineMatmul]))
    row = 4 * (n + data.draw(gaps))
    inst = cls(
        Addr(Space.OBUF, 8),
        Addr(Space.ABUF, 3),
        Addr(Space.BBUF, 5),
        m,
        n,
        k,
        row,
        data.draw(st.integers(0, 40)),
        data.draw(st.integers(0, 40)),
        *types,
        data.draw(st.integers(0, 9)),
        data.draw(st.integers(0, 9)),
        data.draw(st.sampled_from([NO_ADDR, Addr(Space.OBUF, SIZE - 64)])),
        data.draw(st.sampled_from(Flag)),
        data.draw(st.sampled_from(MacMap)),
        batch,
        m * row + 4 * data.draw(gaps),
        data.draw(st.integers(0, 99)),
        data.draw(st.integers(0, 99)),
    )
    apart = one_by_one(inst, "acc", "a", "b")
    assert (run([inst], seed) == run(apart, seed)).all()
    skew = TRIO.array_fill + TRIO.array_drain
    assert inst.cycles(TRIO) - skew == sum(each.cycles(TRIO) - skew for each in apart)
    assert inst.macs() == batch * m * n * k == sum(each.macs() for each in apart)
    # All of it counts for each product, but the bias, which is one for all.
    found, bias = traffic(inst), 4 * n if inst.bias.space is Space.OBUF else 0
    assert found[Space.OBUF] - bias == sum(traffic(each)[Space.OBUF] - bias for each in apart)
    for space in (Space.ABUF, Space.BBUF):
        assert found[space] == sum(traffic(each)[space] for each in apart)


@settings(max_examples=40, deadline=None)
@given(st.data(), counts, counts, counts, st.sampled_from(DivMode), st.integers(0, 2**32 - 1))
def test_divide(
    data: st.DataObject, batch: int, rows: int, cols: int, mode: DivMode, seed: int
) -> None:
    """Results lie apart, as heads side by side do in a row; dividends and divisors anywhere."""
    side_by_side = data.draw(st.booleans())
    inst = isa.Divide(
        rows,
        cols,
        Addr(Space.OBUF, SIZE // 2),
        Addr(Space.OBUF, 0),
        Addr(Space.OBUF, 4),
        batch * cols if side_by_side else cols,
        4 * data.draw(st.integers(0, 9)),
        4 * data.draw(st.integers(0, 9)),
        data.draw(st.integers(-3, 9)),
        DType.I8,
        div_type=DType.I32,
        mode=mode,
        batch=batch,
        dst_batch=cols if side_by_side else rows * cols,
        acc_batch=4 * data.draw(st.integers(0, 9)),
        div_batch=4 * data.draw(st.integers(0, 9)),
    )
    apart = one_by_one(inst, "dst", "acc", "div")
    assert (run([inst], seed) == run(apart, seed)).all()
    width = TRIO.divider_width
    assert inst.cycles(TRIO) == -(-batch * rows * cols // width) + TRIO.divider_latency
    assert traffic(inst) == {Space.OBUF: sum(traffic(each)[Space.OBUF] for each in apart)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"batch": 0}, "an empty operand"),
        ({"a_batch": 1 << 30}, "abuf.* leaves the 131072 bytes of abuf"),
        ({"b_batch": 1 << 30}, "bbuf.* leaves"),
        ({"acc_batch": 1 << 30}, "obuf.* leaves"),
        ({"acc_batch": 0}, r"results at obuf\[0x0\] lie over each other"),
        ({"m": 3}, "lie over each other"),
        ({"batch": 65535, "m": 65535, "acc_row": 0}, "an operand of 4294836225 elements"),
    ],
)
def test_traps(change: dict[str, int], reason: str) -> None:
    """A batch that is empty, that leaves a memory, that no memory holds, or that writes twice."""
    places = (Addr(Space.OBUF), Addr(Space.ABUF), Addr(Space.BBUF))
    inst = isa.Matmul(*places, 1, 1, 1, 4, 1, 1, batch=2, acc_batch=4, a_batch=1, b_batch=1)
    run([inst, replace(inst, m=3, acc_row=8)], 0)  # Rows of two products may alternate.
    with pytest.raises(TrapError, match=reason):
        run([replace(inst, **change)], 0)
