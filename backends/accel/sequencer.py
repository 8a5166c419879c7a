"""The sequencer of an engine: where its queue stands, open loops and address registers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Addr, Inst


@dataclass(slots=True)
class OpenLoop:
    """A hardware loop at work: position of its `loop` in the queue, iterations, current index."""

    start: int
    count: int
    index: int = 0


@dataclass
class Sequencer:
    """A queue of (index in the program, instruction) and the state that loops need."""

    engine: Engine
    queue: list[tuple[int, Inst]] = field(default_factory=list[tuple[int, Inst]])
    position: int = 0
    loops: list[OpenLoop] = field(default_factory=list[OpenLoop])
    base: list[int] = field(default_factory=lambda: [0] * 16)
    stride: list[list[int]] = field(default_factory=lambda: [[0] * isa.LOOP_DEPTH] * 16)

    def resolve(self, addr: Addr) -> Addr:
        """The address with its register and the loop strides added."""
        if addr.areg == 0:
            return addr
        offset = addr.offset + self.base[addr.areg]
        for loop, stride in zip(self.loops, self.stride[addr.areg], strict=False):
            offset += loop.index * stride
        return Addr(addr.space, offset)

    def total(self, weight: Callable[[int, Inst], int]) -> tuple[int, int]:
        """The weights (of a place in the program, and what is done there) of all that the queue will
        run, loops counted; and where in the queue the outermost loop, or the instruction, with most
        of it is."""
        open_loops: list[tuple[int, int, int]] = []
        so_far, most, heaviest = 0, 0, 0
        for place, (index, inst) in enumerate(self.queue):
            own, start = weight(index, inst), place
            if type(inst) is isa.Loop:
                open_loops.append((place, inst.count, so_far + own))
                so_far = 0
                continue
            if type(inst) is isa.End and open_loops:
                start, count, before = open_loops.pop()
                own, so_far = count * (so_far + own), before
            so_far += own
            if not open_loops and own > most:
                most, heaviest = own, start
        return so_far + sum(before for _, _, before in open_loops), heaviest

    def control(self, inst: Inst) -> None:
        """Execute a loop's beginning or end, or set an address register; `position` stays at it,
        or goes back to the beginning of the loop. VitError for what no sequencer can do."""
        match inst:
            case isa.Loop():
                if inst.count < 1:
                    raise VitError("a loop has at least one iteration")
                if len(self.loops) == isa.LOOP_DEPTH:
                    raise VitError(f"more than {isa.LOOP_DEPTH} nested loops")
                self.loops.append(OpenLoop(self.position, inst.count))
            case isa.End():
                if not self.loops:
                    raise VitError("no loop is open")
                loop = self.loops[-1]
                loop.index += 1
                if loop.index < loop.count:
                    self.position = loop.start
                else:
                    self.loops.pop()
            case isa.Base() | isa.Step():
                self._register(inst)
            case _:
                raise VitError("no engine executes this instruction")

    def _register(self, inst: isa.Base | isa.Step) -> None:
        if inst.areg == 0:
            raise VitError("address register 0 is always zero")
        if isinstance(inst, isa.Base):
            self.base[inst.areg] = inst.value
            self.stride[inst.areg] = [0] * isa.LOOP_DEPTH
        else:
            strides = list(self.stride[inst.areg])
            strides[inst.depth] = inst.step
            self.stride[inst.areg] = strides


def fill_queues(engines: Sequence[Sequencer], code: Iterable[Inst], apart: bool = False) -> None:
    """Hand every instruction of a program to the queue of its engine; `engines` is in order of
    `Engine`. With `apart` what a unit's instruction waits for and signals stands around it."""
    for index, inst in enumerate(code):
        if not isinstance(inst, (isa.ControlInst, isa.UnitInst)):
            raise TypeError(f"{type(inst).__name__} belongs to no engine")
        queue = engines[inst.engine].queue
        if apart and isinstance(inst, isa.UnitInst) and (inst.wait or inst.signal):
            before, behind = _tokens(inst.engine, inst.wait, inst.signal)
            queue += [(index, wait) for wait in before]
            queue.append((index, inst))
            queue += [(index, signal) for signal in behind]
        else:
            queue.append((index, inst))


@cache
def _tokens(
    engine: Engine, waits: tuple[Engine, ...], signals: tuple[Engine, ...]
) -> tuple[list[isa.Wait], list[isa.Signal]]:
    """What the sequencer does before and behind an instruction of an engine."""
    return (
        [isa.Wait(engine, isa.between(other, engine)) for other in waits],
        [isa.Signal(engine, isa.between(engine, other)) for other in signals],
    )
