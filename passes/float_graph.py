"""Reading and building the float graph: what the raising passes share.

Patterns see a value through what does not change it (Identity, casts between float types) and
through what changes it by less than a quantisation step (a QuantizeLinear/DequantizeLinear pair,
as quantised models have around most operations). `source` does that.

Constants are read and made through `Constants`, which knows the asset store of the context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType, f32
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriteWalker,
    RewritePattern,
)
from xdsl.rewriter import Rewriter

from vit_opt.dialects.assets import (
    AssetStore,
    VitContext,
    array_attribute,
    assets_of,
    attribute_array,
)
from vit_opt.dialects.onnx import (
    Cast,
    Constant,
    DequantizeLinear,
    Identity,
    OnnxOp,
    QuantizeLinear,
    Reshape,
    Transpose,
)
from vit_opt.dialects.onnx.base import element_of, shape_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

OpT = TypeVar("OpT", bound=Operation)


@dataclass(frozen=True)
class Constants:
    """Access to the constants of a graph through the asset store of a context."""

    store: AssetStore
    inline: bool | None
    """True if there is no store to keep arrays in (a plain xDSL context): all go into the IR."""

    @staticmethod
    def of(ctx: Context) -> Constants:
        """The constants of modules that belong to a context."""
        return Constants(assets_of(ctx), None if isinstance(ctx, VitContext) else True)

    def array(self, value: SSAValue | None) -> Array | None:
        """The array behind a constant value (read-only), None if the value is not constant."""
        if value is None or not isinstance(value.owner, Constant):
            return None
        return attribute_array(self.store, cast("Attribute", value.owner.value))

    def scalar(self, value: SSAValue | None) -> float | None:
        """The number behind a constant whose elements are all equal, else None."""
        array = self.array(value)
        if array is None or array.size == 0 or array.dtype.kind not in "fiu":
            return None
        first = array.flat[0]
        return float(first) if array.size == 1 or bool((array == first).all()) else None

    def make(self, array: Array, key: str) -> Constant:
        """A constant operation for an array; float64 becomes float32. `key` names the weight."""
        import numpy as np

        if array.dtype == np.float64:
            array = array.astype(np.float32)
        attribute = array_attribute(self.store, key, array, inline=self.inline)
        return Constant.of(attribute, node_name=key)


def is_pair(op: Operation) -> bool:
    """Whether an operation is the DequantizeLinear of a QuantizeLinear: a rounding in place."""
    return isinstance(op, DequantizeLinear) and isinstance(op.inputs[0].owner, QuantizeLinear)


def below(op: Operation) -> SSAValue | None:
    """The operand that an Identity, a float cast or a Q/DQ pair passes on; None for others."""
    if isinstance(op, Identity):
        return op.x
    if isinstance(op, Cast) and element_of(op.x) == element_of(op.y):
        return op.x
    if isinstance(op, DequantizeLinear) and isinstance(op.inputs[0].owner, QuantizeLinear):
        return op.inputs[0].owner.inputs[0]
    return None


def source(value: SSAValue) -> SSAValue:
    """The value below any Identity, cast without effect and Q/DQ pair."""
    while isinstance(value.owner, Operation) and (lower := below(value.owner)) is not None:
        value = lower
    return value


def producer(value: SSAValue, *kinds: type[OpT]) -> OpT | None:
    """The operation that makes a value, seen through `source`, if it is of one of the kinds."""
    owner = source(value).owner
    return owner if isinstance(owner, kinds) else None


def feeds_only(value: SSAValue, user: Operation) -> bool:
    """Whether nothing but `user` reads a value, Q/DQ pairs in between not counted."""
    while True:
        users = {use.operation for use in value.uses}
        if users == {user}:
            return True
        if len(users) != 1:
            return False
        [only] = users
        if not isinstance(only, Identity | Cast | QuantizeLinear | DequantizeLinear):
            return False
        value = only.results[0]


def label(op: Operation) -> str:
    """The node name of an operation, for messages and for the names of what replaces it."""
    return op.label if isinstance(op, OnnxOp) else op.name


def node_name(op: Operation) -> str | None:
    """The node name of an operation to hand on to its replacement."""
    return op.node_name.data if isinstance(op, OnnxOp) and op.node_name is not None else None


def result_type(value: SSAValue, shape: Sequence[int]) -> TensorType[Attribute]:
    """A tensor type with a value's element type and another shape."""
    return tensor_of(element_of(value), shape)


def tensor_of(element: Attribute, shape: Sequence[int]) -> TensorType[Attribute]:
    """A tensor type."""
    return TensorType(element, shape)


def reshape(value: SSAValue, shape: Sequence[int], name: str | None = None) -> Reshape:
    """A Reshape of a value."""
    assert prod(shape) == prod(shape_of(value))
    return Reshape.make([value], [result_type(value, shape)], node_name=name)


def transpose(value: SSAValue, perm: Sequence[int], name: str | None = None) -> Transpose:
    """A Transpose of a value."""
    shape = shape_of(value)
    type_ = result_type(value, [shape[axis] for axis in perm])
    return Transpose.make([value], [type_], node_name=name, perm=perm)


def rounding_like(
    pair: DequantizeLinear, value: SSAValue, ratio: float, constants: Constants
) -> list[Operation]:
    """A copy of a per-tensor Q/DQ pair on a value `ratio` times as large; none if per channel."""
    import numpy as np

    scale = constants.array(pair.inputs[1])
    if scale is None or scale.size != 1:
        return []
    new: list[Operation] = []
    factor = pair.inputs[1]
    if ratio != 1.0:
        new.append(constants.make(scale * np.float32(ratio), f"{label(pair)}.scale"))
        factor = new[0].results[0]
    parameters = [factor, *pair.inputs[2:]]
    codes = result_type(pair.inputs[0], shape_of(value))
    quantize = QuantizeLinear.make([value, *parameters], [codes])
    dequantize = DequantizeLinear.make([quantize, *parameters], [value.type])
    return [*new, quantize, dequantize]


def is_float(value: SSAValue) -> bool:
    """Whether a value is a float32 tensor."""
    return element_of(value) == f32


def as_row(array: Array, shape: Sequence[int], axis: int) -> Array | None:
    """The vector along `axis` of an array that broadcasts against `shape` along that axis alone.

    Scalars become a constant vector. None if the array varies along another axis, or has more
    dimensions than `shape`.
    """
    import numpy as np

    rank = len(shape)
    if array.ndim > rank:
        return None
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    axis %= rank
    if any(size != 1 for d, size in enumerate(full.shape) if d != axis):
        return None
    return np.broadcast_to(full.reshape(-1), (shape[axis],))


def blocks(module: ModuleOp) -> Iterator[Block]:
    """Every block of operations in a module, function by function."""
    for op in module.walk():
        for region in op.regions:
            yield from region.blocks


def replace_value(root: Operation, new: Sequence[Operation], value: SSAValue | None = None) -> None:
    """Inserts operations before `root` and makes the last (or `value`) stand for its result.

    `root` stays, without uses, for `erase_dead` to remove.
    """
    assert root.parent is not None
    root.parent.insert_ops_before(new, root)
    root.results[0].replace_all_uses_with(value or new[-1].results[0])


def erase_dead(block: Block) -> None:
    """Removes the `onnx` operations of a block that nothing uses."""
    for op in reversed(list(block.ops)):
        if isinstance(op, OnnxOp) and not any(result.first_use for result in op.results):
            Rewriter.erase_op(op)


def rewrite(module: ModuleOp, patterns: list[RewritePattern]) -> bool:
    """Applies patterns until none fits; returns whether anything changed. Dead code goes too."""
    return PatternRewriteWalker(GreedyRewritePatternApplier(patterns)).rewrite_module(module)
