"""Why bytes are on the DRAM bus: what a run moved, byte by byte.

An image says where its constants, inputs and outputs are when a run begins, or ends. In between
activations lie anywhere, in the place of an input too once it has been read. So every byte that a
transfer moves is one of these, and together they are what the run moved:

    once             constants and inputs read for the first time, outputs written for the last
    constants_again  constants read once more
    inputs_again     inputs read once more
    activations      any other byte stored, and any byte read that was stored: results for which
                     there was no room on chip until their last reader had come
    bursts           what came along because DRAM moves whole bursts
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.image import Image
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.dialects.vit_accel.traffic import operands

Transfers = Mapping[tuple[int, int, int], int]
"""How often, by place in the program and the offsets of result and source, registers resolved; in
the order in which they were first executed."""

PARTS = {
    "once": "constants, inputs and outputs once",
    "constants_again": "constants read again",
    "inputs_again": "inputs read again",
    "activations": "activations stored and read again",
    "bursts": "rest of bursts",
}
"""The parts in words."""


@dataclass(frozen=True)
class _Access:
    """The bytes that an instruction touches on one side, as a nest of loops."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @staticmethod
    def of(inst: isa.TransferInst, offset: int, stored: bool) -> _Access:
        """Those of the result if `stored`, else of the source; at an address in DRAM."""
        if not isinstance(inst, isa.CopyInst):
            return _Access(offset, (inst.reach(),), (1,))
        steps = (inst.d0, inst.d1, inst.d2) if stored else (inst.s0, inst.s1, inst.s2)
        return _Access(offset, (inst.n0, inst.n1, inst.n2, inst.run), (*steps, 1))

    def bytes(self, memory: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What a memory has at them; a byte stands as often as it is touched."""
        return np.ndarray(self.shape, np.bool_, memory.data, self.offset, self.strides)

    def span(self, memory: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The same from the first to the last of them, with what lies in between."""
        steps = zip(self.shape, self.strides, strict=True)
        end = self.offset + 1 + sum((count - 1) * stride for count, stride in steps)
        return memory[self.offset : end]


class _Account:
    """What has been read and stored so far."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.parts = dict.fromkeys(PARTS, 0)
        self.stored = np.zeros(image.dram_size, np.bool_)
        self.known = np.zeros(image.dram_size, np.bool_)
        """What has been read, or stored."""
        self._given = sorted(
            [
                *((s.address, s.address + len(s.data), "constants_again") for s in image.segments),
                *((p.address, p.address + p.size, "inputs_again") for p in image.inputs),
            ]
        )
        self._starts = [start for start, _, _ in self._given]

    def store(self, inst: isa.TransferInst, offset: int, count: int) -> None:
        """Note that an instruction has stored so many bytes from `offset` on."""
        access = _Access.of(inst, offset, stored=True)
        access.bytes(self.stored)[...] = True
        access.bytes(self.known)[...] = True
        self.parts["activations"] += count

    def load(self, inst: isa.TransferInst, offset: int, count: int, times: int) -> None:
        """Note that one has read so many bytes from `offset` on, so many times."""
        place = bisect_right(self._starts, offset) - 1
        if place < 0 or offset >= self._given[place][1]:
            self.parts["activations"] += times * count
            return
        access = _Access.of(inst, offset, stored=False)
        span = access.span(self.known)
        before = np.count_nonzero(span)
        access.bytes(self.known)[...] = True
        new = int(np.count_nonzero(span) - before)
        stored = int(np.count_nonzero(access.bytes(self.stored)))
        self.parts["once"] += new
        self.parts[self._given[place][2]] += times * (count - stored) - new
        self.parts["activations"] += times * stored

    def finish(self, moved: int) -> dict[str, int]:
        """The parts, when so many bytes have been on the bus."""
        for port in self.image.outputs:
            there = self.stored[port.address : port.address + port.size]
            written = int(np.count_nonzero(there))
            there[...] = False
            self.parts["once"] += written
            self.parts["activations"] -= written
        self.parts["bursts"] = moved - sum(self.parts.values())
        return self.parts


def traffic_parts(image: Image, transfers: Transfers, moved: int) -> dict[str, int]:
    """The parts, as in `PARTS`, of the `moved` bytes that the transfers had on the bus."""
    account = _Account(image)
    for (index, dst, src), times in transfers.items():
        inst = image.code[index]
        assert isinstance(inst, isa.TransferInst), "only transfers use the bus"
        (_, read), (_, written) = operands(inst)
        if inst.src.space is Space.DRAM:
            account.load(inst, src, read, times)
        if inst.dst.space is Space.DRAM:
            account.store(inst, dst, times * written)
    return account.finish(moved)


def parts_line(parts: Mapping[str, int]) -> str:
    """The parts that are there, to read."""
    total = sum(parts.values())
    there = (
        f"{PARTS[name]} {count:,} ({count / total:.1%})" for name, count in parts.items() if count
    )
    return "DRAM traffic by cause: " + (", ".join(there) or "none")
