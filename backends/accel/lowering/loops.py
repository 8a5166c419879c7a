"""Rolling: instructions that repeat in a queue become hardware loops.

The lowering emits every block of a tensor on its own. Where a sequence of a queue's instructions
follows itself with addresses that move by the same distance every time, and nothing else differs,
it is a loop; registers add the distances to the addresses:

    ld.copy dst=abuf[0x0]   src=dram[0x100] run=64       ld.step areg=1 depth=0 step=64
    ld.copy dst=abuf[0x40]  src=dram[0x180] run=64       ld.step areg=2 depth=0 step=128
    ld.copy dst=abuf[0x80]  src=dram[0x200] run=64   ->  ld.loop count=4
    ld.copy dst=abuf[0xc0]  src=dram[0x280] run=64         ld.copy dst=abuf[a1+0x0] src=dram[a2+0x100] run=64
                                                         ld.end

Each queue is cut so that its bytes are fewest, by dynamic programming over all periods and places;
then the same is done inside of the loops found, and around them, until nothing repeats. What each
engine does, in which order, is the same as before, and as loops cost no cycle, so is the time.
A loop never spans two operations of the model, so it is known what every instruction is a part of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.image import Origins
from vit_opt.backends.accel.sequencer import Sequencer, fill_queues
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Addr, Inst, layout

PERIOD = 64
"""Longest body that is looked for, in instructions and loops."""

COUNT_MAX = 65535
REGISTERS = 15
LOOP_BYTES, STEP_BYTES = 6, 7
"""Size of `loop` with `end`, and of `step`."""

Strides = tuple[int, ...]
"""Bytes by iteration, of one address by depth (outermost first), or of the addresses of a node."""

Ids = dict[tuple[Any, ...], int]

_FACTORS = [
    int(factor) | 1 for factor in np.random.default_rng(0).integers(0, 2**63, 1024, dtype=np.uint64)
]


@dataclass(eq=False, slots=True)
class _Node:
    """An instruction or a loop."""

    key: int
    """Equal if nothing but addresses differs."""
    place: int
    """Of its first instruction in the program."""
    origin: str
    size: int
    """Bytes."""
    offsets: tuple[int, ...]
    """Of all its addresses, in the first iteration."""
    moves: tuple[Strides, ...]
    """How far each goes in an iteration of the loops that were around it when they were found; the
    last one is that which it is in the body of."""
    inst: Inst | None = None
    count: int = 1
    body: tuple[_Node, ...] = ()
    height: int = 0
    """Loops within each other; 0: an instruction."""

    def digest(self) -> int:
        """A sum of products of the offsets: equal distances have equal differences of digests."""
        pairs = zip(self.offsets, cycle(_FACTORS), strict=False)
        return sum(offset * factor for offset, factor in pairs) & (1 << 64) - 1

    def inside(self, around: Sequence[Strides]) -> Iterator[tuple[_Node, list[Strides]]]:
        """The nodes of the body, and how far their addresses go by depth; `around`: the node's."""
        start = 0
        for node in self.body:
            end = start + len(node.offsets)
            outer = zip(around[start:end], node.moves, strict=True)
            yield node, [(*far, move[-1]) for far, move in outer]
            start = end

    def distances(self, around: Sequence[Strides]) -> set[Strides]:
        """How far the addresses of its instructions go, by depth, those that go anywhere."""
        if not self.body:
            return {far for far in around if any(far)}
        return set[Strides]().union(*(node.distances(far) for node, far in self.inside(around)))


def roll(code: Sequence[Inst], origins: Origins) -> tuple[tuple[Inst, ...], Origins]:
    """A program with loops that does what `code`, which has none, does; and what it is a part of."""
    ids: Ids = {}
    engines = [Sequencer(engine) for engine in Engine]
    fill_queues(engines, code)
    parts: list[tuple[_Node, list[Inst]]] = []
    for engine in engines:
        nodes = _leaves(engine.queue, origins, ids)
        while (rolled := _roll_once(nodes, ids)) is not None:
            nodes = rolled
        registers = _Registers(engine.engine)
        parts += [(node, registers.program(node)) for node in nodes]
    parts.sort(key=lambda part: part[0].place)
    names = [node.origin for node, program in parts for _ in program]
    return tuple(inst for _, program in parts for inst in program), Origins.from_names(names)


def _leaves(queue: Sequence[tuple[int, Inst]], origins: Origins, ids: Ids) -> list[_Node]:
    """The instructions of a queue, which are given with their places in the program."""
    latest: dict[type[Inst], Inst] = {}
    nodes: list[_Node] = []
    for place, inst in queue:
        values = layout(type(inst)).values(inst)
        offsets = tuple(value.offset for value in values if type(value) is Addr)
        same = [value.space if type(value) is Addr else value for value in values]
        key = ids.setdefault((type(inst), origins.of(place), *same), len(ids))
        size = len(inst.encode(latest.get(type(inst))))
        latest[type(inst)] = inst
        moves = ((),) * len(offsets)
        nodes.append(_Node(key, place, origins.of(place), size, offsets, moves, inst=inst))
    return nodes


# -- finding ----------------------------------------------------------------------------------


def _roll_once(nodes: Sequence[_Node], ids: Ids) -> list[_Node] | None:
    """Nodes with loops in place of what repeats, or None if that saves nothing."""
    if len({node.key for node in nodes}) == len(nodes):
        return None
    choices = _choose(nodes)
    result: list[_Node] = []
    index = 0
    while index < len(nodes):
        period, count = choices[index]
        loop = _loop(nodes[index : index + period * count], period, ids) if count > 1 else None
        result.append(loop or nodes[index])
        index += 1 if loop is None else period * count
    return result if len(result) < len(nodes) else None


def _choose(nodes: Sequence[_Node]) -> list[tuple[int, int]]:
    """From each node on, the period and the iterations of the loop to begin there; (1, 1): none."""
    size = len(nodes)
    sums = np.concatenate([[0], np.cumsum([node.size for node in nodes])])
    candidates = _candidates(nodes, sums)
    best = [0] * (size + 1)
    choices = [(1, 1)] * size
    for index in range(size - 1, -1, -1):
        best[index] = best[index + 1] + nodes[index].size
        for period, most in candidates[index]:
            body = int(sums[index + period] - sums[index]) + LOOP_BYTES + STEP_BYTES
            for count in {most, max(2, most - 1)}:
                cost = body + best[index + period * count]
                if cost < best[index]:
                    best[index], choices[index] = cost, (period, count)
    return choices


def _candidates(nodes: Sequence[_Node], sums: NDArray[Any]) -> list[list[tuple[int, int]]]:
    """From each node on, the periods with which it repeats, and how often; `sums` of the sizes.

    A longer period that reaches no further than a shorter one is left out.
    """
    keys = np.array([node.key for node in nodes])
    digests = np.array([node.digest() for node in nodes], np.uint64)
    single = _ahead(np.array([a.origin == b.origin for a, b in pairwise(nodes)], np.bool_))
    reach = np.zeros(len(nodes), np.int64)
    found: list[list[tuple[int, int]]] = [[] for _ in nodes]
    for period in range(1, min(PERIOD, len(nodes) // 2) + 1):
        same = keys[:-period] == keys[period:]
        far = digests[period:] - digests[:-period]
        steady = same[:-period] & same[period:] & (far[:-period] == far[period:])
        more = np.concatenate([_ahead(steady), np.zeros(period, np.int64)])
        count = np.minimum(2 + more[: len(same)] // period, COUNT_MAX)
        saved = (count - 1) * (sums[period:] - sums[:-period])[: len(same)]
        wanted = (_ahead(same)[:-1] >= period) & (single[: len(same)] >= period - 1)
        wanted &= (saved > LOOP_BYTES + STEP_BYTES) & (count * period > reach[: len(same)])
        for index in np.flatnonzero(wanted):
            found[index].append((period, int(count[index])))
            reach[index] = count[index] * period
    return found


def _ahead(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """From each place on, how many entries in a row are true; one more entry, 0, at the end."""
    size = len(mask)
    ends = np.where(mask, size, np.arange(size))
    ends = np.minimum.accumulate(ends[::-1])[::-1]
    return np.append(ends - np.arange(size), 0)


def _loop(nodes: Sequence[_Node], period: int, ids: Ids) -> _Node | None:
    """The loop whose iterations are `nodes`, or None if the machine has none such."""
    first = nodes[:period]
    moves = [_distance(a, b) for a, b in zip(first, nodes[period:], strict=False)]
    if any(
        _distance(a, b) != moves[index % period]
        for index, (a, b) in enumerate(zip(nodes, nodes[period:], strict=False))
    ):
        return None
    plain = [
        replace(
            node,
            key=ids.setdefault((node.key, move), len(ids)),
            moves=tuple((*far, step) for far, step in zip(node.moves, move, strict=True)),
        )
        for node, move in zip(first, moves, strict=True)
    ]
    body = _roll_once(plain, ids) or plain
    count = len(nodes) // period
    loop = _Node(
        key=ids.setdefault((count, *(node.key for node in body)), len(ids)),
        place=first[0].place,
        origin=first[0].origin,
        size=LOOP_BYTES + sum(node.size for node in body),
        offsets=tuple(offset for node in body for offset in node.offsets),
        moves=tuple(far[:-1] for node in body for far in node.moves),
        count=count,
        body=tuple(body),
        height=1 + max(node.height for node in body),
    )
    registers = loop.distances([()] * len(loop.offsets))
    steps = {far for move in moves for far in move if far}
    saved = sum(node.size for node in nodes) - loop.size - STEP_BYTES * len(steps)
    fits = loop.height <= isa.LOOP_DEPTH and len(registers) <= REGISTERS
    return loop if fits and saved > 0 else None


def _distance(node: _Node, following: _Node) -> Strides:
    return tuple(b - a for a, b in zip(node.offsets, following.offsets, strict=True))


# -- emission ---------------------------------------------------------------------------------


class _Registers:
    """The address registers of an engine, all with base 0, and what each adds in which loop."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.strides = {areg: [0] * isa.LOOP_DEPTH for areg in range(1, REGISTERS + 1)}
        """The least recently used first."""

    def program(self, node: _Node) -> list[Inst]:
        """The instructions of a node, behind those that set the registers it needs."""
        if node.inst is not None:
            return [node.inst]
        result: list[Inst] = []
        held: dict[Strides, int] = {(): 0}
        # The longest first: it may serve the shorter ones that it begins with.
        around: list[Strides] = [()] * len(node.offsets)
        for far in sorted(node.distances(around), key=_deepest):
            areg = self._register(far, held)
            for depth, step in enumerate(far):
                if self.strides[areg][depth] != step:
                    self.strides[areg][depth] = step
                    result.append(isa.Step(self.engine, areg, depth, step))
            self.strides[areg] = self.strides.pop(areg)
            held[far] = areg
        return result + list(self._expand(node, around, held))

    def _register(self, far: Strides, held: dict[Strides, int]) -> int:
        """A register that adds `far` already, or the one that the longest was not used."""
        for areg, strides in self.strides.items():
            if tuple(strides[: len(far)]) == far:
                return areg
        return next(areg for areg in self.strides if areg not in held.values())

    def _expand(
        self, node: _Node, around: Sequence[Strides], held: dict[Strides, int]
    ) -> Iterator[Inst]:
        """The instructions of a node; `around`, by depth, is how far its addresses go."""
        if node.inst is not None:
            yield _relative(node.inst, [held[far if any(far) else ()] for far in around])
            return
        yield isa.Loop(self.engine, node.count)
        for inner, far in node.inside(around):
            yield from self._expand(inner, far, held)
        yield isa.End(self.engine)


def _deepest(far: Strides) -> tuple[int, Strides]:
    return -len(far), far


def _relative(inst: Inst, aregs: Sequence[int]) -> Inst:
    """An instruction with its addresses relative to registers."""
    values = {slot.name: getattr(inst, slot.name) for slot in layout(type(inst)).slots}
    names = [name for name, value in values.items() if type(value) is Addr]
    moved = {
        name: values[name]._replace(areg=areg)
        for name, areg in zip(names, aregs, strict=True)
        if areg
    }
    return replace(inst, **moved) if moved else inst
