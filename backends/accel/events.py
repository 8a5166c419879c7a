"""What happened in a run: instructions at work, and stalls before them."""

from __future__ import annotations

from typing import NamedTuple

from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Addr

BUS = "dram"
"""The cause of a stall for the DRAM bus; otherwise it is the engine that was waited for, or the
memory on chip whose banks were."""


class Event(NamedTuple):
    """An instruction at work, or a stall before it (`cause`), in cycles."""

    engine: Engine
    place: int
    """Its place in the program."""
    start: int
    cycles: int
    cause: str | None = None
    places: tuple[tuple[Addr, int], ...] = ()
    """Where its operands begin, and how many bytes it touches there."""
