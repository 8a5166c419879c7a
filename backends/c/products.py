"""Kernel calls of accumulating operations and of the elementwise chains behind them."""

from __future__ import annotations

from math import prod

import numpy as np
from xdsl.ir import Operation, SSAValue

from vit_opt.backends.c.code import Array, Buffer, Pointer, Struct, Symbol, Value
from vit_opt.backends.c.expand import placed_rows
from vit_opt.backends.c.graph import other_rows, rows_and_columns
from vit_opt.backends.c.memory import (
    Memory,
    describe,
    element_symbol,
    pack_int4,
    rounding,
    saturation,
    size_of,
    type_text,
    without_zeros,
    zero_point,
)
from vit_opt.backends.c.packed import packed_convolution, packed_linear
from vit_opt.backends.c.steps import Chain, Stage
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.evaluate import dyadic_between, fracs_of, scales_of, shift_between
from vit_opt.dialects.vit.ops.base import format_of, integers, is_fixed, shape_of
from vit_opt.dialects.vit.ops.linear import ConvBase
from vit_opt.dialects.vit.semantics.requant import dyadic_multiplier

PANEL = 32
"""VIT_PANEL of vit_kernels.h: columns of a product computed at a time."""

BLOCK_BYTES = 192 * 1024
"""Operand rows widened at a time should stay in a second-level cache."""

RHE = {"rounding": Symbol("VIT_RHE")}


def row_block(rows: int, reduction: int) -> int:
    """Rows of a product computed at a time: a multiple of 4 between 8 and 64, or all."""
    block = BLOCK_BYTES // (2 * padded(reduction)) // 4 * 4
    return min(rows, max(8, min(64, block)))


def padded(reduction: int) -> int:
    """Length of a widened operand row."""
    return -(-reduction // 16) * 16


def product_scratch(block: int, reduction: int) -> int:
    """Scratch of the linear, matmul and convolution kernels (see their headers)."""
    return (block + PANEL) * padded(reduction) * 2 + block * PANEL * 4


# ---- stages --------------------------------------------------------------------------------------


def stage_fields(memory: Memory, op: Stage, index: int) -> dict[str, Value]:
    """The fields of `vit_stage` that do not depend on how the other operand is addressed."""
    main = op.operands[index]
    if isinstance(op, ops.PotRequantOp):
        shift = memory.parameter("shift", shift_between(op.x, op.result))
        kind = "REQUANT"
        fields = {"zp_in": zero_point(main), **shift, **saturation(op.result), **rounding(op)}
    elif isinstance(op, ops.RequantOp):
        kind = "DYADIC"
        fields = {"zp_in": zero_point(main), **_dyadic(memory, main, op.result), **RHE}
        fields |= saturation(op.result)
    elif isinstance(op, ops.NormalizeOp):
        kind = "NORMALIZE"
        shift = memory.parameter("shift", 15 + shift_between(op.acc, op.result))
        fields = {**shift, **saturation(op.result), **rounding(op)}
    elif isinstance(op, ops.LutOp):
        wide = format_of(op.x).storage.width.data == 16
        kind = "LUT16" if wide else "LUT"
        fields = {
            "table": memory.address(op.table),
            "table_type": element_symbol(op.table),
            "lut_min": format_of(op.x).bounds[0],
        }
    elif isinstance(op, ops.ClampOp):
        low, high = (int(np.clip(v.value.data, -(2**31), 2**31 - 1)) for v in (op.min, op.max))
        kind, fields = "CLAMP", {"lo": low, "hi": high}
    else:
        return _binary_fields(memory, op, index)
    return {"kind": Symbol(f"VIT_{kind}"), **without_zeros(fields)}


def _dyadic(
    memory: Memory, source: SSAValue, target: SSAValue, suffix: str = ""
) -> dict[str, Value]:
    multiplier, shift = dyadic_between(source, target)
    found = {**memory.parameter("multiplier", multiplier), **memory.parameter("shift", shift)}
    if not suffix:
        return found
    names = {
        "multiplier": "multiplier_o",
        "multiplier_c": "multiplier_o_c",
        "shift": "shift_o",
        "shift_c": "shift_o_c",
    }
    return {names[key]: value for key, value in found.items()}


def _binary_fields(memory: Memory, op: ops.AddOp | ops.MulOp, index: int) -> dict[str, Value]:
    """Fields of an addition or product whose operand `index` is the tile."""
    main, other = op.operands[index], op.operands[1 - index]
    fixed = is_fixed(format_of(op.a), format_of(op.b), format_of(op.result))
    fields: dict[str, Value] = {
        "zp_in": zero_point(main),
        "other_zp": zero_point(other),
        **saturation(op.result),
    }
    if isinstance(op, ops.MulOp):
        kind = "MUL"
        if fixed:
            shift = fracs_of(op.a) + fracs_of(op.b) - fracs_of(op.result)
            fields |= {**memory.parameter("shift", shift), "multiplier": 1, **rounding(op)}
        else:
            ratio = scales_of(op.a) * scales_of(op.b) / scales_of(op.result)
            multiplier, shift = dyadic_multiplier(ratio)
            fields |= memory.parameter("multiplier", multiplier)
            fields |= {**memory.parameter("shift", shift), **RHE}
    elif fixed:
        kind = "ADD"
        mine, theirs = fracs_of(main), fracs_of(other)
        common = np.maximum(mine, theirs)
        fields |= memory.parameter("left_v", common - mine)
        fields |= memory.parameter("left_o", common - theirs)
        fields |= memory.parameter("shift", common - fracs_of(op.result))
        fields |= rounding(op)
    else:
        kind = "ADD_SEPARATE"
        fields |= _dyadic(memory, main, op.result) | _dyadic(memory, other, op.result, "o") | RHE
    return {"kind": Symbol(f"VIT_{kind}"), **without_zeros(fields)}


def _stage(memory: Memory, op: Stage, index: int, normalizer: bool) -> Struct:
    """One stage of a chain; `normalizer` says that row sums are in memory."""
    fields = stage_fields(memory, op, index)
    if isinstance(op, ops.AddOp | ops.MulOp):
        other = op.operands[1 - index]
        rows = other_rows(shape_of(op.operands[index]), shape_of(other))
        assert rows is not None
        fields |= {
            "other": memory.address(other),
            "other_type": element_symbol(other),
            **without_zeros(
                {
                    "other_ld": rows.distance,
                    "other_inner": rows.inner,
                    "other_repeat": rows.repeat,
                    "other_rows": rows.period,
                }
            ),
        }
    elif isinstance(op, ops.NormalizeOp) and normalizer:
        fields |= {"other": memory.address(op.sum)}
    return Struct("vit_stage", fields)


def stages_of(memory: Memory, chain: Chain, normalizer: bool = True) -> Array | None:
    """The stages of a chain, None if it has none."""
    items = tuple(_stage(memory, op, index, normalizer) for op, index in chain.stages)
    return Array("vit_stage", items) if items else None


def epilogue(
    memory: Memory, chain: Chain, columns: int, stages: Array | None, y: Pointer | None
) -> Struct:
    """The epilogue that stores a chain's result and those of its branches."""
    assert chain.result is not None
    branches = tuple(
        epilogue(memory, each, columns, stages_of(memory, each), _stored(memory, each))
        for each in chain.branches
    )
    fields: dict[str, Value] = {
        "stages": stages,
        "count": len(stages.items) if stages else 0,
        "type": element_symbol(chain.result),
        "y": y,
        "ld": memory.row_distance(chain.result) or columns,
    }
    if branches:
        fields |= {"branch": Array("vit_epilogue", branches), "branches": len(branches)}
    return Struct("vit_epilogue", fields)


def _stored(memory: Memory, chain: Chain) -> Pointer | None:
    """Memory for a chain's result, if it is needed there."""
    assert chain.result is not None
    return memory.allocate(chain.result) if chain.is_stored else None


def chain_comment(*parts: Chain | ops.VitOp) -> str:
    """What a call computes: its operations, each node of the model once, and the result's type."""
    members: list[Operation] = []
    for part in parts:
        if isinstance(part, Chain):
            members += part.members()
        else:
            members.append(part)
    names: list[str] = []
    previous = ""
    for op in members:
        name, _, node = describe(op).partition(" ")
        names.append(f"{name} {node}" if node and node != previous else name)
        previous = node or previous
    last = parts[-1]
    assert isinstance(last, Chain) and last.result is not None
    return f"{' + '.join(names)}: {type_text(last.result)}"


# ---- calls ---------------------------------------------------------------------------------------


def lower_chain(memory: Memory, chain: Chain) -> None:
    """One kernel call for an operation and its epilogue."""
    assert chain.result is not None
    head = chain.head
    columns = rows_and_columns(shape_of(head.results[0]))[1]
    if isinstance(head, ops.LinearOp):
        packed = packed_linear(memory, chain, head)
        kernel, shape, operands, scratch = packed or _linear(memory, head)
    elif isinstance(head, ops.MatmulOp | ops.Log2MatmulOp):
        kernel, shape, operands, scratch = _matmul(memory, head)
    elif isinstance(head, ops.Conv2dOp | ops.ConvTranspose2dOp):
        packed = packed_convolution(memory, chain, head)
        kernel, shape, operands, scratch = packed or _convolution(memory, head)
    else:
        _map(memory, chain)
        return
    end = epilogue(memory, chain, columns, stages_of(memory, chain), _stored(memory, chain))
    alone = chain.is_stored and not memory.row_distance(chain.result)
    in_place = _residual(memory, chain) if alone else None
    memory.call(kernel, [shape, *operands, end], chain_comment(chain), scratch, in_place)


def _residual(memory: Memory, chain: Chain) -> tuple[Buffer, Buffer] | None:
    """Result and residual of a sum that the epilogue may compute over the residual.

    Each element of the residual is read just before the result's element is stored in its place.
    """
    assert chain.result is not None
    result = memory.address(chain.result)
    for op, index in chain.stages:
        if isinstance(op, ops.AddOp | ops.MulOp):
            other = op.operands[1 - index]
            place = memory.address(other)
            dense = shape_of(other)[-1:] == shape_of(chain.result)[-1:]
            if dense and place.offset == 0 and place.buffer.size == size_of(chain.result):
                return result.buffer, place.buffer
    return None


def _map(memory: Memory, chain: Chain) -> None:
    """A chain on a stored tensor."""
    assert chain.result is not None
    first, index = chain.stages[0]
    x = first.operands[index]
    rows, columns = rows_and_columns(shape_of(x))
    stages = stages_of(memory, chain)
    assert stages is not None
    source = memory.address(x)
    end = epilogue(memory, chain, columns, stages, _stored(memory, chain))
    ends = (chain, *chain.branches)
    placed = any(memory.row_distance(each.result) for each in ends if each.result is not None)
    if not placed and not _depends_on_place(end):
        total = rows * columns
        columns = next((n for n in MAP_COLUMNS if total % n == 0), total)
        rows, end = total // columns, _with_row_distance(end, columns)
    shape: dict[str, Value] = {"rows": rows, "cols": columns, "x_type": element_symbol(x)}
    kernel = memory.level.best("vit_map")
    memory.call(kernel, [Struct("vit_map_shape", shape), source, end], chain_comment(chain))


MAP_COLUMNS = (64, 32, 16)
"""Lengths of rows that suit kernels where any will do."""


def _parts_of(end: Struct, name: str) -> tuple[Struct, ...]:
    """Stages or branches of an epilogue."""
    value = end.fields.get(name)
    return value.items if isinstance(value, Array) else ()


def _depends_on_place(end: Struct) -> bool:
    """Whether stages of an epilogue or its branches treat elements by their row or column."""
    own = (key for stage in _parts_of(end, "stages") for key in stage.fields)
    return any(key == "other" or key.endswith("_c") for key in own) or any(
        map(_depends_on_place, _parts_of(end, "branch"))
    )


def _with_row_distance(end: Struct, distance: int) -> Struct:
    """An epilogue with another distance from row to row of all that it stores."""
    fields = end.fields | {"ld": distance}
    if branches := _parts_of(end, "branch"):
        each = tuple(_with_row_distance(branch, distance) for branch in branches)
        fields["branch"] = Array("vit_epilogue", each)
    return Struct(end.type, fields)


def _weight(memory: Memory, op: Operation, weight: SSAValue) -> tuple[Pointer, Symbol]:
    """Address and type of a weight matrix; int4 is packed when it is placed.

    The kernel reads nibbles; narrow codes with shifts are expanded before.
    """
    bits, codes = format_of(weight).storage.width.data, memory.constant(weight)
    if bits != 4:
        found = None
        if bits == 8 and codes is not None and isinstance(op, ops.LinearOp | ConvBase):
            found = placed_rows(memory, codes.reshape(codes.shape[0], -1), op)
        return found or memory.address(weight), element_symbol(weight)
    if codes is None:
        raise VitError(f"{describe(op)}: int4 weights must be constants")
    packed = pack_int4(codes.reshape(codes.shape[0], -1))
    return memory.weights.add(packed), Symbol("VIT_S4")


def _bias(memory: Memory, bias: SSAValue | None) -> Pointer | None:
    return None if bias is None else memory.address(bias)


def _linear(memory: Memory, op: ops.LinearOp) -> tuple[str, Struct, list[Value], int]:
    m, k = rows_and_columns(shape_of(op.x))
    block = row_block(m, k)
    weight, weight_type = _weight(memory, op, op.weight)
    fields: dict[str, Value] = {
        "m": m,
        "n": shape_of(op.weight)[0],
        "k": k,
        "block": block,
        "x_type": element_symbol(op.x),
        "w_type": weight_type,
    }
    zeros = without_zeros({"x_zp": zero_point(op.x), "w_zp": zero_point(op.weight)})
    shape = Struct("vit_linear_shape", fields | zeros)
    operands: list[Value] = [memory.address(op.x), weight, _bias(memory, op.bias)]
    return "vit_linear_s16", shape, operands, product_scratch(block, k)


def _matmul(
    memory: Memory, op: ops.MatmulOp | ops.Log2MatmulOp
) -> tuple[str, Struct, list[Value], int]:
    a, b = op.operands
    transposed = isinstance(op, ops.MatmulOp) and op.transpose_b is not None
    *lead, m, k = shape_of(a)
    n = shape_of(op.result)[-1]
    block = row_block(m, k)
    fields: dict[str, Value] = {
        "batch": prod(lead),
        "m": m,
        "n": n,
        "k": k,
        "block": block,
        "transpose_b": int(transposed),
        "a_type": element_symbol(a),
        "b_type": element_symbol(b),
        "a_ld": k,
        "b_ld": k if transposed else n,
        "a_batch": m * k,
        "b_batch": n * k,
    }
    zeros = without_zeros({"a_zp": zero_point(a), "b_zp": zero_point(b)})
    shape = Struct("vit_matmul_shape", fields | zeros)
    operands: list[Value] = [memory.address(a), memory.address(b)]
    return "vit_matmul_s16", shape, operands, product_scratch(block, k)


def _convolution(
    memory: Memory, op: ops.Conv2dOp | ops.ConvTranspose2dOp
) -> tuple[str, Struct, list[Value], int]:
    batch, height, width, channels = shape_of(op.x)
    out_channels, kernel_h, kernel_w, depth = shape_of(op.weight)
    _, out_height, out_width, _ = shape_of(op.result)
    groups = op.groups.value.data
    dilations = integers(op.dilations) if isinstance(op, ops.Conv2dOp) else (1, 1)
    strides, pads = integers(op.strides), integers(op.pads)
    pixels, k = batch * out_height * out_width, kernel_h * kernel_w * depth
    fields: dict[str, Value] = {
        "batch": batch,
        "height": height,
        "width": width,
        "channels": channels,
        "out_height": out_height,
        "out_width": out_width,
        "out_channels": out_channels,
        "kernel_h": kernel_h,
        "kernel_w": kernel_w,
        "stride_h": strides[0],
        "stride_w": strides[1],
        "pad_top": pads[0],
        "pad_left": pads[1],
        "dilation_h": dilations[0],
        "dilation_w": dilations[1],
        "groups": groups,
        "x_type": element_symbol(op.x),
        **without_zeros({"x_zp": zero_point(op.x), "w_zp": zero_point(op.weight)}),
    }
    bias = _bias(memory, op.bias)
    weight = memory.constant(op.weight)
    if isinstance(op, ops.Conv2dOp) and _is_depthwise(op) and weight is not None:
        taps = np.ascontiguousarray(weight.reshape(channels, -1).T).astype(np.int8, copy=False)
        block = min(pixels, 8)
        shape = Struct("vit_conv2d_shape", fields | {"block": block})
        operands: list[Value] = [memory.address(op.x), memory.weights.add(taps), bias]
        return "vit_dwconv2d_s8", shape, operands, (block + 1) * channels * 4
    address, weight_type = _weight(memory, op, op.weight)
    block = row_block(pixels, k)
    fields |= {"block": block, "w_type": weight_type}
    if isinstance(op, ops.ConvTranspose2dOp):
        fields["transposed"] = 1
    shape = Struct("vit_conv2d_shape", fields)
    return "vit_conv2d_s16", shape, [memory.address(op.x), address, bias], product_scratch(block, k)


def _is_depthwise(op: ops.Conv2dOp) -> bool:
    """One input and one output channel a group, and weights that fit the depthwise kernel."""
    weight = format_of(op.weight)
    channels = shape_of(op.x)[3]
    return (
        op.groups.value.data == channels == shape_of(op.weight)[0]
        and weight.storage.width.data <= 8
        and not weight.zero_point
    )
