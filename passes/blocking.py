"""How `tile` blocks one operation: what it writes down of how its loops lie on a machine.

What `mapping` says of an accelerator's matrix products and `windows` of its convolutions is written
down; here is what they leave open. A product has rows m, columns n and a reduction k. The machine has
lanes, and multipliers in a lane (an accelerator's array, or the vector registers of a CPU). Rows or
columns go over the lanes, a second axis over the multipliers, the third runs in time, so that a step
needs

    ceil(lanes_axis / lanes) * ceil(second / multipliers) * third

cycles. The ceilings are what decides: 197 tokens over 64 lanes waste a fifth of the array, 192
columns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from xdsl.ir import Operation, SSAValue

from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import Log2Type, QuantizedType
from vit_opt.dialects.vit.ops.base import VitOp, integers, shape_of, tensor_type
from vit_opt.dialects.vit.ops.pipeline import LoopsAttr
from vit_opt.dialects.vit.targets import AccelTarget, CpuTarget
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.isa_base import ceil_div
from vit_opt.passes import windows
from vit_opt.passes.mapping import (
    AXES,
    Problem,
    candidates,
    is_small_image,
    rows_together,
    waits_for_rows,
)
from vit_opt.passes.quantization.weights import wide_groups
from vit_opt.passes.rooms import LOADED, on_chip, on_chip_beside, room

PRODUCTS = (
    ops.LinearOp,
    ops.MatmulOp,
    ops.Log2MatmulOp,
    ops.Conv2dOp,
    ops.ConvTranspose2dOp,
)
"""Operations of the MAC array."""

ROW_REDUCTIONS = (ops.LayerNormOp, ops.SoftmaxExpOp, ops.ShiftmaxOp, ops.Log2SoftmaxOp)
"""Operations that see a whole row before its first result."""

MATRICES = (ops.LinearOp, ops.MatmulOp, ops.Log2MatmulOp)
"""Products of matrices."""

ELEMENTWISE = (
    ops.PotRequantOp,
    ops.AddOp,
    ops.MulOp,
    ops.ClampOp,
    ops.LutOp,
    ops.ShiftGeluOp,
    ops.NormalizeOp,
    ops.ReinterpretOp,
)
"""Operations that take the results of a product element by element."""


@dataclass(frozen=True)
class Machine:
    """What a schedule needs of a target; sizes in bytes."""

    lanes: int
    multipliers: int
    weights: int
    """Room for the operand that is used again for every row."""
    rows: int
    """Room for rows on their way in."""
    results: int
    """Room for accumulators and results."""
    arch: AccelTarget | None = None
    """The record of an accelerator."""

    @staticmethod
    def of(target: AccelTarget | CpuTarget) -> Machine:
        """The figures of a record. Half of each memory: the other half is being filled."""
        if isinstance(target, CpuTarget):
            half = target.l1 // 2
            return Machine(target.lanes, target.dot, target.l2 // 2, half, half)
        sizes = [room(target, name, LOADED) for name in ("bbuf", "abuf", "obuf")]
        return Machine(target.lanes, target.columns, *sizes, arch=target)


def element_bytes(value: SSAValue) -> int:
    """Bytes of one element in memory."""
    element = tensor_type(value).get_element_type()
    return ceil_div(element.storage.width.data, 8) if isinstance(element, QuantizedType) else 1


def row_bytes(value: SSAValue) -> int:
    """Bytes of one row (the last dimension)."""
    return shape_of(value)[-1] * element_bytes(value) if shape_of(value) else element_bytes(value)


def row_count(value: SSAValue) -> int:
    """Rows of a tensor: all dimensions but the last."""
    return prod(shape_of(value)[:-1])


def problem(op: Operation) -> tuple[int, int, int]:
    """Rows, columns and reduction length of an operation; a batch counts as separate problems."""
    shape = shape_of(op.results[0])
    columns = shape[-1] if shape else 1
    match op:
        case ops.LinearOp():
            return row_count(op.result), columns, shape_of(op.x)[-1]
        case ops.MatmulOp():
            return shape[-2], columns, shape_of(op.a)[-1]
        case ops.Log2MatmulOp():
            return shape[-2], columns, shape_of(op.codes)[-1]
        case ops.Conv2dOp() | ops.ConvTranspose2dOp():
            groups = op.groups.value.data
            return row_count(op.result), columns // groups, prod(shape_of(op.weight)[1:])
        case _ if isinstance(op, ROW_REDUCTIONS):
            return row_count(op.results[0]), columns, columns
        case _:
            return row_count(op.results[0]), columns, 1


def best_lanes(machine: Machine, size: tuple[int, int, int]) -> str:
    """The axis whose ceilings waste least, "columns" where both take the same time."""
    rows, columns, reduction = size

    def cycles(lanes_axis: int, other: int) -> int:
        steps = ceil_div(lanes_axis, machine.lanes)
        return steps * min(
            ceil_div(other, machine.multipliers) * reduction,
            other * ceil_div(reduction, machine.multipliers),
        )

    return "rows" if cycles(rows, columns) < cycles(columns, rows) else "columns"


def _rounded(size: int, limit: int, step: int) -> int:
    """At most `limit` and `size`, a multiple of `step` unless it is all of `size`; at least 1."""
    if size <= limit:
        return size
    return max(1, limit if limit < step else limit - limit % step)


@dataclass(frozen=True)
class Stream:
    """The rows that flow through a chain: `total` there are, `rows` at a time."""

    total: int
    rows: int

    @staticmethod
    def of(chain: Sequence[Operation], machine: Machine) -> Stream:
        """As many rows as there is room for: for those that arrive, and for every stage's results.
        On an accelerator, the rows of the blocks of its products.

        What a stage of the chain makes lies with the results until the next one has read it.
        A multiple of the lanes where more rows than lanes fit, so that only the last block has a
        remainder; blocks of about equal size where fewer do.
        """
        products = [problem(op)[0] for op in chain if isinstance(op, PRODUCTS)]
        total = max(products) if products else min(problem(op)[0] for op in chain)
        if machine.arch is not None:
            shapes = [shape_of(op.results[0]) for op in chain]
            shape = next((shape for shape in shapes if prod(shape[:-1]) == total), (total, 1))
            return Stream(total, rows_together(machine.arch, shape, total))
        whole, limit = Stream(total, total), total
        for op in chain:
            share = whole.share(op)
            leaving = share * max(row_bytes(result) for result in op.results)
            limit = min(limit, machine.results // leaving)
            if op.operands[0].owner not in chain:
                limit = min(limit, machine.rows // (share * row_bytes(op.operands[0])))
        limit = max(1, limit)
        if limit < machine.lanes:
            return Stream(total, ceil_div(total, ceil_div(total, limit)))
        return Stream(total, _rounded(total, limit, machine.lanes))

    def share(self, op: Operation) -> int:
        """Rows of an operation that belong to one row of the stream: heads, pixels of a window."""
        rows = row_count(op.results[0])
        return rows // self.total if rows % self.total == 0 else 1


def loops_of(op: Operation, machine: Machine, stream: Stream, needs: Sequence[str]) -> LoopsAttr:
    """The loops of an operation in a pipeline.

    Blocks of a product: columns and reduction so that their weights fit, rows so that their
    accumulators do. The weights stay on chip if all of them fit, else the rows do while weights
    stream by, if a block of them fits. On an accelerator, matrix products are cut as `mapping`
    says and convolutions as `windows` does, which the lowering asks, too.
    """
    size = problem(op)
    lanes = best_lanes(machine, size)
    if machine.arch is not None and isinstance(op, MATRICES):
        return _mapped(op, machine.arch, needs)
    if machine.arch is not None and isinstance(op, ops.Conv2dOp | ops.ConvTranspose2dOp):
        return _windowed(op, machine.arch, needs)
    if not isinstance(op, PRODUCTS):
        rows = min(stream.rows * stream.share(op), size[0])
        return LoopsAttr.get(lanes, (rows, *size[1:]), "none", needs)
    m, n, k = size
    weight = op.operands[1]
    bytes_w, bytes_x = element_bytes(weight), element_bytes(op.operands[0])
    lane_step = machine.lanes if lanes == "columns" else machine.multipliers
    block_k = _rounded(k, machine.weights // (bytes_w * min(n, lane_step)), machine.multipliers)
    block_n = _rounded(n, machine.weights // (bytes_w * block_k), lane_step)
    row_step = machine.lanes if lanes == "rows" else 1
    block_m = _rounded(min(stream.rows, m), max(1, machine.results // (4 * block_n)), row_step)
    resident = "none"
    if n * k * bytes_w <= machine.weights:
        resident = "weight"
    elif block_m * k * bytes_x <= machine.rows:
        resident = "rows"
    return LoopsAttr.get(lanes, (block_m, block_n, block_k), resident, needs)


def _mapped(op: Operation, arch: AccelTarget, needs: Sequence[str]) -> LoopsAttr:
    """The loops of a matrix product on an accelerator."""
    size = problem(op)
    types = _array_type(op, op.operands[0]), _array_type(op, op.operands[1])
    width, whole_rows = _followed(op, size, arch)
    shape = shape_of(op.results[0])
    wide = wide_groups(op.operands[1])
    way = candidates(arch, Problem.of(arch, shape, size, types, width, whole_rows, wide))[0]
    left, right = size[0] * size[2] * types[0].size, size[1] * size[2] * types[1].size
    block = [min(a, b) for a, b in zip(way.block, size, strict=True)]
    return LoopsAttr.get(AXES[way.axes.name[0]], block, _resident(arch, left, right), needs)


def _resident(arch: AccelTarget, rows: int, weights: int) -> str:
    """Which operand of a product stays on chip, by their bytes."""
    if weights <= on_chip_beside(arch):
        return "weight"
    return "rows" if rows <= on_chip(arch) else "none"


def _array_type(op: Operation, value: SSAValue) -> DType:
    """The type of an operand on the array; centred on a zero point it takes 16 bits, unless that
    goes into the bias."""
    element = tensor_type(value).get_element_type()
    if isinstance(element, Log2Type):
        return DType.LOG2
    if not isinstance(element, QuantizedType):
        return DType.I8
    if element.zero_point and not isinstance(op, ops.LinearOp):
        return DType.I16
    name = str(element.storage).upper()
    weight = isinstance(op, (ops.LinearOp, ops.Conv2dOp, ops.ConvTranspose2dOp)) and (
        value is op.weight
    )
    return DType.I4X2 if name == "I4" and weight else DType[name]


def _followed(op: Operation, size: tuple[int, int, int], arch: AccelTarget) -> tuple[int, bool]:
    """Bytes that a result takes at most with the operations that follow a product on chip, and
    whether one of them needs whole rows."""
    _, cols, depth = size
    right = op.operands[1]
    operand = cols * depth * element_bytes(right)
    may_wait = waits_for_rows(arch, cols, operand, len(shape_of(right)) > 2)
    width, whole, _ = _behind(op.results[0], 4, may_wait)
    return width, whole


def _behind(value: SSAValue, item: int, may_wait: bool) -> tuple[int, bool, SSAValue]:
    """Bytes that an element takes at most with the operations that follow on chip, `item` by
    itself; whether one of them needs whole rows; the last result."""
    sizes, whole = [item], False
    while len(uses := list(value.uses)) == 1:
        reader = uses[0].operation
        if not isinstance(reader, (*ELEMENTWISE, *(ROW_REDUCTIONS if may_wait else ()))):
            break
        if shape_of(reader.results[0]) != shape_of(value):
            break
        whole = whole or isinstance(reader, ROW_REDUCTIONS)
        sizes.append(element_bytes(reader.results[0]))
        value = reader.results[0]
        if len(reader.results) > 1:
            break
    return max(a + b for a, b in zip(sizes, [*sizes[1:], 0], strict=True)), whole, value


def _windowed(
    op: ops.Conv2dOp | ops.ConvTranspose2dOp, arch: AccelTarget, needs: Sequence[str]
) -> LoopsAttr:
    """The loops of a convolution on an accelerator."""
    way = windows.candidates(arch, window_problem(op))
    if not way:
        return LoopsAttr.get("columns", problem(op), "none", needs)
    best = way[0]
    lanes = "columns" if best.problem.depthwise else AXES[best.axes.name[0]]
    block = [min(a, b) for a, b in zip(best.block, problem(op), strict=True)]
    return LoopsAttr.get(lanes, block, _resident(arch, best.inputs, best.weights), needs)


def window_problem(op: ops.Conv2dOp | ops.ConvTranspose2dOp) -> windows.Problem:
    """What the mapper must know of a convolution; the lowering asks with what it has found out, as
    what weights are less their zero point."""
    outs, *kernel, ins = shape_of(op.weight)
    shape = shape_of(op.result)
    strides = dilations = (1, 1)
    if isinstance(op, ops.Conv2dOp):
        strides, dilations = integers(op.strides), integers(op.dilations)
    geometry = windows.Geometry(
        (shape[1], shape[2]),
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (dilations[0], dilations[1]),
    )
    groups = op.groups.value.data
    types = _stored_type(op.x), _array_type(op, op.weight)
    readers = [use.operation for use in op.result.uses]
    ends = [_behind(op.result, 4, may_wait=False)]
    if len(readers) > 1 and all(isinstance(reader, ops.PotRequantOp) for reader in readers):
        made = [(reader.results[0], element_bytes(reader.results[0])) for reader in readers]
        ends = [_behind(value, item, may_wait=False) for value, item in made]
        ends = [
            (max(width, 4 + item), False, value)
            for (width, _, value), (_, item) in zip(ends, made, strict=True)
        ]
    by_panels = is_small_image(shape) and any(
        all(isinstance(use.operation, ops.Conv2dOp) and use.index == 0 for use in end.uses)
        for _, _, end in ends
    )
    depthwise = groups > 1 and ins == 1 and types[1] is not DType.I16
    width = max(width for width, _, _ in ends)
    wide = wide_groups(op.weight)
    return windows.Problem(
        geometry, shape[0], outs, ins, groups, types, width, depthwise, by_panels, wide
    )


def _stored_type(value: SSAValue) -> DType:
    """The type of the codes of a value."""
    element = tensor_type(value).get_element_type()
    return DType[str(element.storage).upper()] if isinstance(element, QuantizedType) else DType.I8


def needs_of(op: Operation) -> tuple[str, ...]:
    """What each operand must hold before a row of the result can start."""
    kinds = [_need(op, index) for index in range(len(op.operands))]
    return tuple(
        "constant" if isinstance(operand.owner, ops.ConstantOp) else kind
        for operand, kind in zip(op.operands, kinds, strict=True)
    )


def _need(op: Operation, index: int) -> str:
    match op:
        case ops.LinearOp() | ops.LayerNormOp() | ops.LutOp():
            return "row" if index == 0 else "all"
        case ops.MatmulOp() | ops.Log2MatmulOp() | ops.LinearAttnOp():
            return "row" if index == 0 else "all"
        case ops.Conv2dOp():
            return _window(op, integers(op.strides), integers(op.pads)) if index == 0 else "all"
        case ops.ConvTranspose2dOp():
            return "halo" if index == 0 else "all"
        case ops.AvgPool2dOp() | ops.MaxPool2dOp():
            kernel, strides = integers(op.kernel), integers(op.strides)
            return "window" if kernel == strides and not any(integers(op.pads)) else "halo"
        case ops.ResizeOp() | ops.PadOp():
            return "halo"
        case ops.MeanOp():
            return "row" if integers(op.axes) == (len(shape_of(op.x)) - 1,) else "all"
        case ops.SliceOp() | ops.GatherOp():
            return "row" if shape_of(op.x)[:-1] == shape_of(op.result)[:-1] else "window"
        case ops.TransposeOp():
            return "row" if integers(op.permutation)[-1] == len(shape_of(op.x)) - 1 else "all"
        case ops.ReshapeOp():
            return _reshaped(op)
        case _:
            return "row"


def _window(op: ops.Conv2dOp, strides: Sequence[int], pads: Sequence[int]) -> str:
    """A 1x1 kernel needs its pixel, one as large as its stride its window, others a halo."""
    kernel = shape_of(op.weight)[1:3]
    if tuple(kernel) == (1, 1) and tuple(strides) == (1, 1):
        return "row"
    return "window" if tuple(kernel) == tuple(strides) and not any(pads) else "halo"


def _reshaped(op: ops.ReshapeOp) -> str:
    """Rows stay rows where the last dimension is split or several are joined to it."""
    before, after = shape_of(op.x) or (1,), shape_of(op.result) or (1,)
    last = (before[-1], after[-1])
    return "row" if max(last) % min(last) == 0 else "all"


def is_compute(op: Operation) -> bool:
    """Whether an operation does arithmetic on rows (movement and constants do not)."""
    movement = (ops.ReshapeOp, ops.TransposeOp, ops.SliceOp, ops.ConcatOp, ops.PadOp, ops.GatherOp)
    border = (ops.ConstantOp, ops.QuantizeOp, ops.DequantizeOp, ops.ReinterpretOp)
    return isinstance(op, VitOp) and not isinstance(op, (*movement, *border))
