"""Layers of the float graph as the choice of their weights' bits sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, ModuleOp
from xdsl.ir import Operation, SSAValue

from vit_opt.dialects import onnx
from vit_opt.dialects.evaluation import main_function
from vit_opt.dialects.onnx.base import integer, shape_of
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.passes.calibrate import statistics_of, windows_of
from vit_opt.passes.float_graph import Constants

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vit_opt.passes.algorithms.rounding import Part, SecondMoments
    from vit_opt.passes.algorithms.windows import WindowMoments

    Array: TypeAlias = NDArray[Any]
    Bools: TypeAlias = NDArray[np.bool_]
    Reals: TypeAlias = NDArray[np.float64]

Product: TypeAlias = onnx.Linear | onnx.Conv | onnx.ConvTranspose

WEIGHT_BITS = "vit.weight_bits"
"""Attribute of a product: the bits of its weights, 8 where it is absent."""

BYTE_GROUPS = "vit.byte_groups"
"""Attribute of a product, and of its weight: weights are narrow in groups (`algorithms.narrow`),
but for the groups of columns listed here, which keep 8 bits."""

GROUP_BYTES = 8
"""Bytes of a group of columns with 8 bits, per output channel."""

SCALE_BYTES = 1
"""Bytes of a scale: the exponent of an output channel."""


def weight_bits(op: Operation) -> int:
    """Bits of a product's weights."""
    found = op.attributes.get(WEIGHT_BITS)
    return cast("IntegerAttr[Any]", found).value.data if isinstance(found, IntegerAttr) else 8


def byte_groups(op: Operation) -> Bools | None:
    """Which groups of columns keep 8 bits, of a weight that is narrow in groups; else None.

    For a product or its constant weight [N, ...]; the shape is [ceil(K / GROUP)].
    """
    import numpy as np

    from vit_opt.passes.algorithms.narrow import GROUP

    found = op.attributes.get(BYTE_GROUPS)
    if not isinstance(found, DenseArrayBase):
        return None
    weight = op.operands[1] if op.operands else op.results[0]
    shape = shape_of(weight)
    size = prod(shape[1:]) if not isinstance(op, onnx.ConvTranspose) else prod(shape) // shape[1]
    marked = np.zeros(-(-size // GROUP), bool)
    marked[list(cast("DenseArrayBase[Any]", found).get_values())] = True
    return marked


def wide_groups(weight: SSAValue) -> int | None:
    """How many groups of columns of a constant keep 8 bits; None if it is not narrow in groups."""
    owner = weight.owner
    groups = byte_groups(owner) if isinstance(owner, Operation) else None
    return None if groups is None else int(groups.sum())


def weight_bytes(channels: int, reduction: int, bits: int) -> int:
    """Bytes of a weight [channels, reduction] with its scales; int4 rows end on a byte."""
    return channels * (-(-reduction * bits // 8) + SCALE_BYTES)


def grouped_bytes(channels: int, groups: int, wide: int) -> int:
    """Bytes of a weight with `groups` groups of columns, `wide` of them with 8 bits.

    The others have 4 bits a weight and 2 a group and channel; a bit for each group says which.
    """
    row = wide * GROUP_BYTES + (groups - wide) * GROUP_BYTES // 2
    shifts = -(-(groups - wide) // 4)
    return channels * (row + shifts + SCALE_BYTES) + -(-groups // 8)


def in_rows(op: Product, weight: Array) -> Array:
    """A product's weight as [output channels, reduction], the reduction ordered as in `vit`."""
    if isinstance(op, onnx.Conv):
        weight = weight.transpose(0, 2, 3, 1)
    elif isinstance(op, onnx.ConvTranspose):
        weight = weight.transpose(1, 2, 3, 0)
    return weight.reshape(weight.shape[0], -1)


def from_rows(op: Product, rows: Array, shape: Sequence[int]) -> Array:
    """The inverse of `in_rows`, for a weight of this shape in the float graph."""
    if isinstance(op, onnx.Linear):
        return rows.reshape(shape)
    first, second, height, width = shape
    if isinstance(op, onnx.Conv):
        return rows.reshape(first, height, width, second).transpose(0, 3, 1, 2)
    return rows.reshape(second, height, width, first).transpose(3, 0, 1, 2)


@dataclass
class Layer:
    """A product whose weights may have 4 bits."""

    op: Product
    weight: Array
    """As in the float graph."""

    moments: SecondMoments | WindowMoments | None = field(default=None, repr=False)
    """Of the product's input rows, or windows."""

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.weight.size

    @property
    def channels(self) -> int:
        """Output channels."""
        return shape_of(self.op.y)[-1 if isinstance(self.op, onnx.Linear) else 1]

    def bytes(self, bits: int) -> int:
        """Bytes of the weights with their scales."""
        return weight_bytes(self.channels, self.size // self.channels, bits)

    def no_group(self) -> Bools:
        """The choice that keeps no group of columns wide."""
        import numpy as np

        from vit_opt.passes.algorithms.narrow import GROUP

        return np.zeros(-(-(self.size // self.channels) // GROUP), bool)

    def grouped_bytes(self, wide: Bools) -> int:
        """Bytes of the weights, narrow in groups but for the wide ones."""
        return grouped_bytes(self.channels, wide.size, int(wide.sum()))

    def cycles(self, arch: AccelTarget, bits: int) -> int:
        """Cycles of the MAC array, as if the product were one instruction."""
        from vit_opt.dialects.vit_accel.enums import DType
        from vit_opt.passes.mapping import Kind

        types = (DType.I8, DType.I4X2 if bits == 4 else DType.I8)
        return Kind(types).least_cycles(arch, self.product)

    def grouped_cycles(self, arch: AccelTarget, wide: Bools) -> int:
        """The same with weights that are narrow in groups but for the wide ones."""
        from vit_opt.dialects.vit_accel.enums import DType
        from vit_opt.passes.mapping import Kind, faster_kind

        kind = faster_kind(arch, self.product, Kind((DType.I8, DType.I8), int(wide.sum())))
        return kind.least_cycles(arch, self.product)

    @property
    def product(self) -> tuple[int, int, int]:
        """Rows, columns and reduction of the matrix product."""
        rows = prod(shape_of(self.op.y)) // self.channels
        return rows, self.channels, self.size // self.channels

    def narrowed(self) -> Array:
        """The weight rounded to 4 bits, as real values in its own shape."""
        import numpy as np

        from vit_opt.passes.algorithms.narrow import round_narrow

        fracs, codes = round_narrow(self.rows(), self.parts(), -8, 7)
        rows = np.ldexp(codes.astype(np.float32), -fracs[:, None].astype(np.int32))
        return from_rows(self.op, rows, self.weight.shape)

    def grouped(self, wide: Bools) -> Array:
        """The weight with all groups but the wide ones narrow, as real values in its own shape.

        The first way of rounding, not the best of three: enough to tell layers apart.
        """
        import numpy as np

        from vit_opt.passes.algorithms.narrow import round_grouped

        fracs, codes = round_grouped(self.rows(), self.parts(), wide, tries=1)
        rows = np.ldexp(codes.astype(np.float32), -fracs[:, None].astype(np.int32))
        return from_rows(self.op, rows, self.weight.shape)

    def rows(self) -> Array:
        """The weight [N, K]."""
        return in_rows(self.op, self.weight)

    def parts(self) -> list[Part]:
        """The second moments of the inputs, if they are known."""
        return [] if self.moments is None else self.moments.parts(self.channels)


def layers_of(module: ModuleOp, constants: Constants) -> tuple[list[Layer], int]:
    """The layers whose bits are a choice, with moments; bytes of the weights that keep 8 bits."""
    layers: list[Layer] = []
    fixed = 0
    for op in main_function(module).body.block.ops:
        if not isinstance(op, onnx.Linear | onnx.Conv | onnx.ConvTranspose):
            continue
        weight = constants.array(op.w)
        if weight is None:
            continue
        layer = Layer(op, weight)
        if not isinstance(op, onnx.Linear) and is_depthwise(op):
            fixed += layer.bytes(8)
            continue
        layers.append(layer)
        if isinstance(op, onnx.Linear):
            statistics = statistics_of(op.x, constants.store)
            layer.moments = None if statistics is None else statistics.moments
        else:
            layer.moments = windows_of(op, constants.store)
    return layers, fixed


def is_depthwise(op: onnx.Conv | onnx.ConvTranspose) -> bool:
    """Whether a convolution has one input channel a group, or cannot be taken as one product."""
    groups = integer(op.group)
    depth = shape_of(op.x)[1] // groups
    return groups > 1 and (depth == 1 or isinstance(op, onnx.ConvTranspose))


__all__: Sequence[str] = [
    "BYTE_GROUPS",
    "WEIGHT_BITS",
    "Layer",
    "byte_groups",
    "from_rows",
    "grouped_bytes",
    "in_rows",
    "layers_of",
    "weight_bits",
    "weight_bytes",
    "wide_groups",
]
