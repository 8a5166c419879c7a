"""Banks of the memories on chip: engines that work at the same time share what these give a cycle.

An instruction asks a memory for its bytes (`traffic`) spread evenly over its cycles. Addresses go
round the banks, so that all of a memory's banks serve any engine, `banks * width` bytes a cycle in
all. If engines at work leave too little for an instruction, it stalls as long as the rest of its
bytes take; an eighth of the memory, a port's share, is never taken from it.
"""

from __future__ import annotations

from math import ceil

from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Space

Demand = tuple[tuple[Space, float], ...]
"""Bytes a cycle of each memory on chip."""


def demand_of(touched: dict[Space, int], cycles: int) -> Demand:
    """What an instruction that touches so many bytes asks for."""
    chip = ((space, count) for space, count in touched.items() if space is not Space.DRAM)
    return tuple((space, count / max(1, cycles)) for space, count in chip)


class Banks:
    """What every engine takes of each memory, and until when."""

    def __init__(self, arch: AccelTarget) -> None:
        self.room = {Space[m.name.upper()]: float(m.banks * m.width) for m in arch.memories}
        self._rates = {space: [0.0] * len(Engine) for space in self.room}
        self._total = dict.fromkeys(self.room, 0.0)
        """Sums of the rates, of engines that are done already included."""
        self._ends = [0] * len(Engine)

    def stall(self, engine: Engine, time: int, cycles: int, demand: Demand) -> tuple[int, str]:
        """Cycles that an instruction loses for want of banks if it starts now, and the memory."""
        lost, cause = 0, ""
        for space, rate in demand:
            room = self.room.get(space)
            if room is None or self._total[space] - self._rates[space][engine] + rate <= room:
                continue
            taken = sum(
                other
                for who, other in enumerate(self._rates[space])
                if who != engine and self._ends[who] > time
            )
            left = max(room - taken, room / len(Engine))
            extra = ceil(cycles * (rate / left - 1) - 1e-9)
            if extra > lost:
                lost, cause = extra, space.name.lower()
        return lost, cause

    def take(self, engine: Engine, end: int, demand: Demand) -> None:
        """Let an engine have what its instruction asks for, until it ends."""
        self._ends[engine] = end
        for space, rates in self._rates.items():
            self._total[space] -= rates[engine]
            rates[engine] = 0.0
        for space, rate in demand:
            if space in self._rates:
                self._rates[space][engine] = rate
                self._total[space] += rate
