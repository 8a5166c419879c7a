"""Instructions of every engine's sequencer: semaphores, hardware loops, address registers."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.enums import (
    Engine,
)
from vit_opt.dialects.vit_accel.fields import (
    Inst,
    choice,
    signed,
    unsigned,
)


@dataclass(frozen=True)
class ControlInst(Inst):
    """An instruction that every engine's sequencer executes.

    Tokens take the engine a cycle. Loops and address registers cost it none: the sequencer sees to
    them while the unit is at work.
    """

    engine: Annotated[Engine, choice(Engine, "whose queue it belongs to")]

    def cycles(self, arch: AccelTarget) -> int:
        return 0

    def name(self) -> str:
        return f"{self.engine.name.lower()}.{self.mnemonic}"


@dataclass(frozen=True)
class Wait(ControlInst):
    """Block the engine until semaphore `sem` holds at least `count`, then subtract `count`.

    while (semaphore[sem] < count) stall;  semaphore[sem] -= count
    """

    opcode: ClassVar[int] = 0x01
    mnemonic: ClassVar[str] = "wait"
    sem: Annotated[int, unsigned(6, "semaphore")]
    count: Annotated[int, unsigned(8, "tokens to take")] = 1

    def cycles(self, arch: AccelTarget) -> int:
        return 1


@dataclass(frozen=True)
class Signal(ControlInst):
    """Add `count` to semaphore `sem` when all earlier instructions of the engine are complete.

    semaphore[sem] += count
    """

    opcode: ClassVar[int] = 0x02
    mnemonic: ClassVar[str] = "signal"
    sem: Annotated[int, unsigned(6, "semaphore")]
    count: Annotated[int, unsigned(8, "tokens to give")] = 1

    def cycles(self, arch: AccelTarget) -> int:
        return 1


@dataclass(frozen=True)
class Loop(ControlInst):
    """Open a hardware loop of `count` iterations (at least 1); at most 4 are nested per engine.

    for (index[depth] = 0; index[depth] < count; index[depth]++) { body up to the matching end }
    """

    opcode: ClassVar[int] = 0x03
    mnemonic: ClassVar[str] = "loop"
    count: Annotated[int, unsigned(16, "iterations")]


@dataclass(frozen=True)
class End(ControlInst):
    """Close the innermost hardware loop of the engine."""

    opcode: ClassVar[int] = 0x04
    mnemonic: ClassVar[str] = "end"


@dataclass(frozen=True)
class Base(ControlInst):
    """Set an address register and clear its loop strides.

    base[areg] = value;  stride[areg][*] = 0
    """

    opcode: ClassVar[int] = 0x05
    mnemonic: ClassVar[str] = "base"
    areg: Annotated[int, unsigned(4, "address register, 1..15")]
    value: Annotated[int, unsigned(33, "bytes")] = 0


@dataclass(frozen=True)
class Step(ControlInst):
    """Set how far an address register moves in each iteration of the loop at `depth`.

    stride[areg][depth] = step;  effective offset = offset + base[areg] + sum_d index[d] *
    stride[areg][d] over the open loops d, outermost depth 0.
    """

    opcode: ClassVar[int] = 0x06
    mnemonic: ClassVar[str] = "step"
    areg: Annotated[int, unsigned(4, "address register, 1..15")]
    depth: Annotated[int, unsigned(2, "loop level")]
    step: Annotated[int, signed(34, "bytes per iteration")]
