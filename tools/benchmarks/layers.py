"""`vit-bench layers`: matrix products and convolutions by their sizes alone, one after the other.

    vit-bench layers 197x768x192 1x1000x192 --arch p2vit     products, m x n x k
    vit-bench layers resnet.csv gemms.csv --arch mine.yaml   topologies as SCALE-Sim reads them

Every layer is a program of its own: its operands (int8) come from DRAM, its results are requantised
to int8 and go to DRAM. It is mapped, lowered and timed as a layer of a model is, without data, so
cycles and energy are those of a run. What layers of a model do for each other (operands that stay
on chip, loads during the layer before) is left out, as it is in SCALE-Sim.

A topology is SCALE-Sim's: a line is a layer, commas separate, the first line is a header. A product
has the columns `name, M, N, K`, a convolution `name, IFMAP height, IFMAP width, filter height, filter
width, channels, filters, stride` and perhaps a second stride, for the width. Maps are padded already,
as SCALE-Sim means them. Where a last column says how sparse a layer is, it must say `1:1`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects.errors import VitError
from vit_opt.tools.architectures import DEFAULT, read_arch
from vit_opt.tools.benchmarks.scalesim import Gemm
from vit_opt.tools.progress import progress

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from vit_opt.dialects.assets import AssetStore
    from vit_opt.dialects.vit.targets import AccelTarget
    from vit_opt.passes.windows import Choice

INPUT_FRAC, WEIGHT_FRAC = 4, 7
"""Fractional bits of the operands; neither cycles nor energy depend on them."""

SIZE = r"0{0,99}[1-9][0-9]{0,99}"
"""A size: a number from 1 that is not too long to be read."""

MOST = 1 << 28
"""Numbers of an operand or a result at most: far more than layers have, and what a host can hold."""


@dataclass(frozen=True)
class Convolution:
    """A convolution of an image that is padded already."""

    name: str
    image: tuple[int, int]
    kernel: tuple[int, int]
    channels: int
    filters: int
    strides: tuple[int, int]

    def numbers(self) -> tuple[int, int, int]:
        """Of the image, the weights and the result."""
        outputs = [
            (size - taps) // stride + 1
            for size, taps, stride in zip(self.image, self.kernel, self.strides, strict=True)
        ]
        return (
            prod(self.image) * self.channels,
            prod(self.kernel) * self.channels * self.filters,
            prod(outputs) * self.filters,
        )

    def __str__(self) -> str:
        kernel, image = ("x".join(map(str, size)) for size in (self.kernel, self.image))
        return f"{kernel}, {self.channels} to {self.filters}, of {image}"


Layer: TypeAlias = Gemm | Convolution


# ---- what is asked for ---------------------------------------------------------------------------


def parse_layer(text: str) -> Layer:
    """`MxNxK` as a product; VitError if it is none, or too large."""
    found = re.fullmatch("x".join([f"({SIZE})"] * 3), text)
    if found is None:
        raise VitError(f"{text}: neither a .csv file nor a product MxNxK such as 197x768x192")
    return _bounded(Gemm(text, *map(int, found.groups())), text)


def _bounded(layer: Layer, where: str) -> Layer:
    """A layer that is not too large to be measured; VitError if it is."""
    if isinstance(layer, Gemm):
        m, n, k = layer.m, layer.n, layer.k
        numbers = m * k, n * k, m * n
    else:
        numbers = layer.numbers()
    if max(numbers) > MOST:
        raise VitError(
            f"{where}: {max(numbers):,} numbers in one operand or result, at most {MOST:,}"
        )
    return layer


def read_topology(path: Path) -> list[Layer]:
    """The layers of a SCALE-Sim topology; VitError with the line that is none."""
    try:
        _, *lines = path.read_text(encoding="utf-8-sig").splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise VitError(f"{path}: cannot be read: {reason}") from error
    rows = [(i, line) for i, line in enumerate(lines, 2) if line.strip(" ,\t")]
    if not rows:
        raise VitError(f"{path}: no layers below the header")
    return [_row(line, f"{path}:{index}") for index, line in rows]


def _row(line: str, where: str) -> Layer:
    """A line of a topology."""
    name, *cells = [cell.strip() for cell in line.rstrip(", \t").split(",")]
    if cells and re.fullmatch(r"\d+:\d+", cells[-1]):
        if len(set(cells[-1].split(":"))) > 1:
            raise VitError(f"{where}: {name} is sparse ({cells[-1]}), which no machine here uses")
        cells.pop()
    if len(cells) not in (3, 7, 8) or not all(re.fullmatch(SIZE, c) for c in cells):
        raise VitError(
            f"{where}: expected a name and 3 sizes (M, N, K) or 7 (IFMAP height and width, filter "
            f"height and width, channels, filters, stride), all at least 1"
        )
    sizes = [int(cell) for cell in cells]
    if len(sizes) == 3:
        return _bounded(Gemm(name, *sizes), where)
    high, wide, kernel_high, kernel_wide, channels, filters, *strides = sizes
    if kernel_high > high or kernel_wide > wide:
        raise VitError(f"{where}: the filter of {name} is larger than its IFMAP")
    image, kernel = (high, wide), (kernel_high, kernel_wide)
    layer = Convolution(name, image, kernel, channels, filters, (strides[0], strides[-1]))
    return _bounded(layer, where)


# ---- a layer as a program ------------------------------------------------------------------------


def module_of(layer: Layer, store: AssetStore) -> ModuleOp:
    """A function that is this layer: int8 operand, random int8 weights in `store`, int8 result."""
    import numpy as np
    from xdsl.dialects.builtin import FunctionType, ModuleOp, StringAttr, TensorType
    from xdsl.dialects.func import FuncOp, ReturnOp
    from xdsl.ir import Block, Region

    from vit_opt.dialects.vit import ops
    from vit_opt.dialects.vit.attributes import FixedType

    activation, weight = FixedType("i8", INPUT_FRAC), FixedType("i8", WEIGHT_FRAC)
    if isinstance(layer, Gemm):
        inputs, weights = (layer.m, layer.k), (layer.n, layer.k)
    else:
        inputs = (1, *layer.image, layer.channels)
        weights = (layer.filters, *layer.kernel, layer.channels)
    block = Block(arg_types=[TensorType(activation, inputs)])
    codes = np.random.default_rng(0).integers(-128, 128, weights, np.int8)
    constant = ops.ConstantOp.make(store, layer.name, codes, weight)
    operands, name = (block.args[0], constant.result), StringAttr(layer.name)
    if isinstance(layer, Gemm):
        product = ops.LinearOp.of(*operands, None, node_name=name)
    else:
        product = ops.Conv2dOp.of(
            *operands, None, node_name=name, strides=layer.strides, pads=(0, 0, 0, 0)
        )
    result = ops.PotRequantOp.of(product.result, type=activation, node_name=name)
    block.add_ops((constant, product, result, ReturnOp(result.result)))
    types = FunctionType.from_lists([block.args[0].type], [result.result.type])
    module = ModuleOp([FuncOp("main", types, Region(block))])
    module.verify()
    return module


def measure(layer: Layer, arch: AccelTarget, choices: list[Choice] | None = None) -> dict[str, Any]:
    """What a layer takes by itself, as `vit_opt.backends.accel.metrics` gives it, and its name.

    `choices`, if given, takes in how it was cut. Raises VitError where it does not fit.
    """
    from vit_opt.backends.accel.lowering import lower_accel
    from vit_opt.backends.accel.metrics import metrics
    from vit_opt.backends.accel.run import time_accel
    from vit_opt.dialects.assets import AssetStore
    from vit_opt.passes.tile import tile

    store = AssetStore()
    module = module_of(layer, store)
    tile(module, arch)
    image = lower_accel(module, store, arch, choices=choices)
    figures = metrics(time_accel(image, arch), arch, image)
    return {"name": layer.name, "size": str(layer), "instructions": len(image.code)} | figures


# ---- the command ---------------------------------------------------------------------------------


def total(found: Sequence[Mapping[str, Any]], arch: AccelTarget) -> dict[str, Any]:
    """The sum over layers, one after the other."""
    summed = ("macs", "cycles", "latency_ms", "dram_bytes", "compulsory_bytes", "energy_uj")
    figures = {key: sum(each[key] for each in found) for key in summed}
    joules = figures["energy_uj"] * 1e-6
    return {
        "name": "all",
        "size": "",
        **figures,
        "utilisation": figures["macs"] / (figures["cycles"] * arch.macs_per_cycle),
        "gops": 2e-6 * figures["macs"] / figures["latency_ms"],
        "gops_per_w": 2e-9 * figures["macs"] / joules if joules else 0.0,
    }


HEADER = (
    *("layer", "size", "MMAC", "cycles", "us", "used", "GOPS", "DRAM kB", "of needed"),
    *("uJ", "GOPS/W"),
)


def table_row(figures: Mapping[str, Any]) -> list[str]:
    """A layer's figures below `HEADER`."""
    return [
        figures["name"],
        figures["size"],
        f"{figures['macs'] / 1e6:,.1f}",
        f"{figures['cycles']:,}",
        f"{figures['latency_ms'] * 1e3:,.2f}",
        f"{figures['utilisation']:.1%}",
        f"{figures['gops']:.0f}",
        f"{figures['dram_bytes'] / 1e3:,.1f}",
        f"{figures['dram_bytes'] / figures['compulsory_bytes']:.2f}",
        f"{figures['energy_uj']:.1f}",
        f"{figures['gops_per_w']:.0f}",
    ]


def _run(args: argparse.Namespace) -> None:
    from vit_opt.backends.accel.explain import explain_lines
    from vit_opt.tools.tables import print_table

    arch = read_arch(args.arch)
    layers: list[Layer] = []
    for text in args.layers:
        layers += read_topology(Path(text)) if text.endswith(".csv") else [parse_layer(text)]
    found: list[dict[str, Any]] = []
    choices: list[Choice] = []
    with progress("vit-bench layers") as say:
        for layer in layers:
            say(layer.name)
            found.append(_named(layer.name, lambda each=layer: measure(each, arch, choices)))
    everything = total(found, arch)
    if args.json:
        print(json.dumps({"arch": arch.name, "layers": found, "total": everything}))
        return
    print_table(HEADER, [table_row(each) for each in (*found, everything)])
    print(
        f"on {arch.name}, {arch.clock_mhz} MHz, {arch.macs_per_cycle} MACs a cycle; used: MACs / (cycles "
        "x MACs a cycle); of needed: DRAM traffic to operands and results once; energies: "
        + arch.energy.source
    )
    if args.explain:
        print("\n".join(explain_lines(choices, arch)))


def _named(name: str, body: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `body` returns; its errors name the layer."""
    try:
        return body()
    except VitError as error:
        raise VitError(f"{name}: {error}") from error


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add `layers` to the commands of `vit-bench`."""
    command = commands.add_parser("layers", help="products and convolutions by their sizes alone")
    command.add_argument(
        "layers",
        nargs="+",
        metavar="LAYER",
        help="a product MxNxK, or a .csv file with a SCALE-Sim topology",
    )
    command.add_argument("--arch", default=DEFAULT, metavar="NAME|FILE", help="default: p2vit")
    command.add_argument("--explain", action="store_true", help="why every layer is cut as it is")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")
    command.set_defaults(run=_run)
