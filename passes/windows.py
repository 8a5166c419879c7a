"""How a convolution lies on an accelerator: the candidates, what each costs, and the choice.

A convolution is cut into blocks of output pixels, panels of output channels, and passes over the
input channels where not all fit. Each triple is one instruction of the array, or of the
reconfigurable engine where every output channel has one input channel (depthwise), so its cycles are
known from the machine's record. As for matrix products (`mapping`),

    engine  sum over all blocks of the cycles of their instructions, the best axes for each
    loads   bytes of the input, pixels of halos as often as blocks share them, and of the weights,
            each as often as the order needs it: panel by panel the input is read again for every
            panel (not where panels have input channels of their own), block by block the weights
            for every block, unless they stay on chip
    room    bytes on chip that the blocks in work take, so that something else cannot stay

    cycles  max(engine, loads) + room

and the candidate with the fewest cycles is taken. Two blocks of input and of weights and four of
results have room. Blocks of an image are whole rows, as many as in all layers of its size, so that
what one layer leaves on chip the next takes as it lies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.enums import MacMap
from vit_opt.dialects.vit_accel.isa_base import ceil_div
from vit_opt.dialects.vit_accel.isa_products import depthwise_cycles
from vit_opt.dialects.vit_accel.isa_transfer import GROUP
from vit_opt.passes.mapping import (
    DISPLACED,
    LEAST_COLS,
    RESULT,
    Kind,
    ProductChoice,
    Size,
    Types,
    best_map,
    block_rows,
    image_rows,
    is_image,
    kind_of_part,
)
from vit_opt.passes.rooms import LOADED, MADE, on_chip, on_chip_beside, room

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Windows that slide: rows and columns of results, and of a window."""

    out: Pair
    kernel: Pair
    strides: Pair = (1, 1)
    dilations: Pair = (1, 1)

    def extent(self, count: Pair) -> Pair:
        """Input rows and columns under `count` output rows and columns."""
        height, width = (
            (count[i] - 1) * self.strides[i] + (self.kernel[i] - 1) * self.dilations[i] + 1
            for i in range(2)
        )
        return height, width

    def largest_block(
        self, room_out: int, room_in: int, result: int, pixel: int, likely: int = 0
    ) -> Pair | None:
        """Largest block of output pixels: whole rows if one fits, else part of a row; None if none.

        `result` is bytes of output a pixel, `pixel` bytes of input a pixel. A block has `likely`
        pixels, as those of a product that reads the result have, where these are whole rows.
        """

        def fits(count: Pair) -> bool:
            return prod(count) * result <= room_out and prod(self.extent(count)) * pixel <= room_in

        cols = self.out[1]
        while cols > 1 and not fits((1, cols)):
            cols = (cols + 1) // 2
        if not fits((1, cols)):
            return None
        rows = 1
        while cols == self.out[1] and rows < self.out[0] and fits((rows + 1, cols)):
            rows += 1
        if likely and not likely % cols and likely // cols <= rows:
            rows = likely // cols
        elif rows < self.out[0]:
            rows = -(-self.out[0] // -(-self.out[0] // rows))
        return rows, cols


@dataclass(frozen=True)
class Panel:
    """Output channels `first` to `first + count - 1` and the input channels that they need."""

    first: int
    count: int
    chan: int
    chans: int


@dataclass(frozen=True)
class Problem:
    """A convolution, and what its blocks must leave room for."""

    geometry: Geometry
    images: int
    outs: int
    """Output channels."""
    ins: int
    """Input channels of a group."""
    groups: int
    types: Types
    """Of input and weights on the array."""
    width: int
    """Bytes of obuf that a result takes, with what follows it on chip."""
    depthwise: bool
    """Whether the reconfigurable engine takes it."""
    by_panels: bool = False
    """Whether what reads the result wants all pixels of a panel before the next one."""
    wide: int | None = None
    """Groups of eight weights of an output channel that are bytes, where they are narrow in groups."""

    def kind(self, arch: AccelTarget, size: Size) -> Kind:
        """What the array multiplies in a block of this size. A pass over some of the channels takes
        them from every position of a window, where it must cut no group."""
        chans = size[2] // self.taps
        whole = chans == self.ins or not (self.ins % GROUP or chans % GROUP)
        wide = self.wide if whole else None
        return kind_of_part(arch, size, self.taps * self.ins, Kind(self.types, wide))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the result: images, rows, columns, channels."""
        return (self.images, *self.geometry.out, self.outs)

    @property
    def flows(self) -> bool:
        """Whether input and result pass by in parts, so that they never lie on chip as a whole."""
        return self.by_panels or is_image(self.shape)

    @property
    def taps(self) -> int:
        """Positions of a window."""
        return prod(self.geometry.kernel)

    def panels(self, width: int) -> list[Panel]:
        """Panels of about `width` output channels; several whole groups, or part of one."""
        outs = self.outs // self.groups
        result: list[Panel] = []
        if outs >= width or self.groups == 1:
            for group in range(self.groups):
                for first in range(0, outs, width):
                    count = min(width, outs - first)
                    result.append(Panel(group * outs + first, count, group * self.ins, self.ins))
            return result
        step = width // outs
        for group in range(0, self.groups, step):
            count = min(step, self.groups - group)
            result.append(Panel(group * outs, count * outs, group * self.ins, count * self.ins))
        return result


@dataclass(frozen=True)
class Mapping:
    """One way to cut a convolution."""

    arch: AccelTarget
    problem: Problem
    pixels: Pair
    """Rows and columns of a block."""
    width: int
    """Output channels of a panel."""
    depth: int
    """Input channels of one pass."""

    @cached_property
    def panels(self) -> list[Panel]:
        """The panels, in order."""
        return self.problem.panels(self.width)

    @cached_property
    def sizes(self) -> Counter[Pair]:
        """Rows and columns of the blocks of an image, and how many there are of each."""
        (height, width), (rows, cols) = self.problem.geometry.out, self.pixels
        return Counter(
            (min(rows, height - y), min(cols, width - x))
            for y in range(0, height, rows)
            for x in range(0, width, cols)
        )

    @property
    def block(self) -> Size:
        """Pixels, output channels and part of the reduction of a whole block."""
        return prod(self.pixels), max(p.count for p in self.panels), self.problem.taps * self.depth

    @cached_property
    def axes(self) -> MacMap:
        """The axes of a whole block on the array."""
        return best_map(self.arch, self.block, self.kind.types, self.kind.wide)

    @cached_property
    def kind(self) -> Kind:
        """What the array multiplies in a whole block."""
        return self.problem.kind(self.arch, self.block)

    @cached_property
    def array(self) -> int:
        """Cycles of the engine that takes it, the array or the reconfigurable one."""
        shapes = Counter((panel.count, panel.chans) for panel in self.panels)
        return self.problem.images * sum(
            blocks * panels * self._cycles(prod(pixels), *shape)
            for pixels, blocks in self.sizes.items()
            for shape, panels in shapes.items()
        )

    def _cycles(self, pixels: int, count: int, chans: int) -> int:
        """Cycles of a block of pixels by a panel of so many output and input channels."""
        problem, arch = self.problem, self.arch
        if problem.depthwise:
            one = depthwise_cycles(arch, pixels * chans * problem.taps, problem.types[0])
            return count // chans * one
        groups = chans // problem.ins
        total = 0
        for begin in range(0, problem.ins, self.depth):
            part = problem.taps * min(self.depth, problem.ins - begin)
            size = (pixels, count // groups, part)
            total += problem.kind(arch, size).least_cycles(arch, size, groups)
        return total

    @property
    def inputs(self) -> int:
        """Bytes of the input, what two blocks need twice."""
        problem = self.problem
        pixels = sum(prod(problem.geometry.extent(n)) * k for n, k in self.sizes.items())
        return problem.images * pixels * problem.ins * problem.groups * problem.types[0].size

    @property
    def weights(self) -> int:
        """Bytes of the weights."""
        return self.problem.outs * self.problem.taps * self.problem.ins * self.problem.types[1].size

    @property
    def weights_stay(self) -> bool:
        """Whether all weights stay on chip while pixels go by."""
        return self.weights <= on_chip_beside(self.arch)

    @cached_property
    def walks(self) -> Pair:
        """Bytes loaded panel by panel, and block by block."""
        stays = self.problem.groups > 1 or self.inputs <= on_chip(self.arch)
        again = 1 if stays else len(self.panels)
        blocks = self.problem.images * self.sizes.total()
        down = self.weights + self.inputs * again
        along = self.inputs + self.weights * (1 if self.weights_stay else blocks)
        return down, along

    @property
    def down(self) -> bool:
        """Whether all blocks of a panel come before the next panel: what loads fewer bytes, block
        by block if it makes no difference, so that rows of the result are complete early."""
        return self.problem.by_panels or self.walks[0] < self.walks[1]

    @cached_property
    def held(self) -> int:
        """Bytes on chip of the blocks in work: four of results, two of weights, two of input."""
        problem = self.problem
        pixels, count, depth = self.block
        chans = self.depth * max(panel.chans for panel in self.panels) // problem.ins
        patch = prod(problem.geometry.extent(self.pixels)) * chans * problem.types[0].size
        kernels = count * depth * problem.types[1].size
        return MADE * 4 * pixels * count + LOADED * (kernels + patch)

    @cached_property
    def loads(self) -> int:
        """Cycles of the loads. Where panels have channels of their own, what they read is a run for
        every pixel, of whole bursts."""
        problem, burst = self.problem, self.arch.dram_burst
        total = self.walks[0 if self.down else 1]
        if problem.groups > 1:
            pixels = self.inputs // (problem.ins * problem.groups * problem.types[0].size)
            runs = [ceil_div(p.chans * problem.types[0].size, burst) for p in self.panels]
            total += max(0, pixels * sum(runs) * burst - self.inputs)
        return round(total / self.arch.dram_bytes_per_cycle)

    @cached_property
    def displaced(self) -> int:
        """Cycles of DRAM to load again what does not stay, and to store and load what the blocks in
        work leave no room for."""
        problem = self.problem
        again = self.walks[0 if self.down else 1] - self.inputs - self.weights
        results = prod(problem.shape) * RESULT
        # Panel by panel, weights are not read again.
        others = 0 if self.down else self.weights
        others += 0 if problem.flows else self.inputs + results
        excess = max(0, min(self.held, others + self.held - on_chip(self.arch)))
        # What leaves does so in runs of a panel's channels, each of whole bursts.
        burst, run = self.arch.dram_burst, self.block[1]
        excess = excess * ceil_div(run, burst) * burst // run
        return round((again + DISPLACED * excess) / self.arch.dram_bytes_per_cycle)

    @property
    def cycles(self) -> int:
        """What the choice is made by."""
        return max(self.array, self.loads) + self.displaced


def _halvings(size: int) -> Iterator[int]:
    """A size, half of it, and so on down to 1."""
    while size > 1:
        yield size
        size = (size + 1) // 2
    yield 1


def candidates(arch: AccelTarget, problem: Problem) -> list[Mapping]:
    """The ways to cut a convolution, the best first; none if not even one window fits.

    Panels fill the lanes, or half of them and so on; for each the deepest pass, and as many pixels
    as there is room for. Those of a depthwise convolution of rows that flow by, which waits for no
    panel, may be wider where its engine also takes products: their latency is time that both lose.
    Where it has time to spare, narrow panels leave more on chip. Panels of fewer than LEAST_COLS
    only where wider ones do not fit. Where two ways cost the same, the one that loads less is better.
    """
    found: list[Mapping] = []
    wide = problem.depthwise and is_image(problem.shape) and arch.peak == "both"
    most = problem.outs if wide else arch.lanes
    for width in _halvings(min(problem.outs, most)):
        if found and width < LEAST_COLS:
            break
        way = _deepest(arch, problem, width)
        if way is not None:
            found.append(way)
    return sorted(found, key=lambda way: (way.cycles, way.loads))


def _deepest(arch: AccelTarget, problem: Problem, width: int) -> Mapping | None:
    """Panels of a width with the deepest pass of which two blocks of input and of weights fit, and
    four of results with what follows; None if there is none."""
    made, loaded, kernels = (
        room(arch, name, blocks)
        for name, blocks in (("obuf", MADE), ("abuf", LOADED), ("bbuf", LOADED))
    )
    left, right = (dtype.size for dtype in problem.types)
    panels = problem.panels(width)
    chans = max(panel.chans for panel in panels)
    count = max(panel.count for panel in panels)
    single = chans == problem.ins
    for depth in _halvings(chans) if single else (chans,):
        one = min(depth, problem.ins)
        result, pixel = problem.width * count, depth * left
        likely = block_rows(arch, prod(problem.geometry.out), 1)
        pixels = problem.geometry.largest_block(made, loaded, result, pixel, likely)
        if pixels is not None and problem.taps * one * count * right <= kernels:
            if is_image(problem.shape):
                rows = image_rows(arch, problem.shape) // problem.geometry.out[1]
                pixels = (min(pixels[0], rows), pixels[1])
            return Mapping(arch, problem, pixels, width, one)
    return None


@dataclass(frozen=True)
class WindowChoice:
    """How a convolution of the model was cut: the first of `ways`."""

    name: str
    """Its node in the imported model."""
    kind: str
    ways: list[Mapping]


Choice = ProductChoice | WindowChoice
"""How something of the model was cut."""
