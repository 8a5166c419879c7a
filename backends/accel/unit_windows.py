"""What units do with windows that slide over an image: convolutions and pooling, with borders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.memory import AccessError
from vit_opt.backends.accel.ports import (
    Port,
    Work,
    accumulate,
    check_macs,
    check_types,
    effect,
)
from vit_opt.dialects.vit.semantics import arithmetic, convolution, pooling
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType, PoolMode

MAX_REACH = 1 << 26
"""Elements under the windows of an instruction; more is a damaged program."""

MAX_TAPS = 1 << 16
"""Positions of a sliding window; more is a damaged program."""


def _window(
    port: Port, inst: Any, chans: int, step: int | None = None
) -> Callable[[], NDArray[Any]]:
    """What gives the input block of a sliding window, with borders, as a batch of one image; `step`
    between channels."""
    if not 0 < inst.kh * inst.kw <= MAX_TAPS:
        raise AccessError("an empty window, or one larger than any memory")
    if 0 in (inst.sh, inst.sw, inst.dh, inst.dw):
        raise AccessError("strides and dilations of windows are at least 1")
    if inst.src_type is DType.LOG2:
        raise AccessError("windows read numbers, not log2 codes")
    size, (rows, cols) = isa.reach(inst), isa.inside(inst)
    if min(rows, cols) < 1:
        raise AccessError("no pixel of the source lies under the windows")
    if size[0] * size[1] * chans > MAX_REACH:
        raise AccessError("windows that reach over more than any memory")
    strides = (inst.src_row, inst.src_pix, inst.src_type.size if step is None else step)
    image = port.view(inst.src, inst.src_type, (rows, cols, chans), strides)
    if (rows, cols) == size:
        return lambda: image[np.newaxis]
    low, high = inst.src_type.bounds
    if not low <= inst.fill <= high:
        raise AccessError(f"value {inst.fill} is not a code of {inst.src_type.name.lower()}")

    def bordered() -> NDArray[Any]:
        full = np.full((1, *size, chans), inst.fill, image.dtype)
        full[0, inst.top : inst.top + rows, inst.left : inst.left + cols] = image
        return full

    return bordered


@effect(isa.Conv)
def _conv(port: Port, inst: isa.Conv) -> Work:
    check_macs(inst)
    check_types(inst.src_type, bits=16)
    outs = inst.groups * inst.oc
    acc = port.apart(inst.acc, DType.I32, (inst.oh, inst.ow, outs), (inst.acc_row, inst.acc_pix, 4))
    weight = port.weights(inst, inst.w, inst.w_type, (outs,), (inst.w_row, inst.w_type.size))
    image = _window(port, inst, inst.groups * inst.ic, inst.src_step)
    bias = port.bias(inst.bias, outs)

    def work() -> None:
        product = convolution.conv2d(
            image(),
            weight().reshape(outs, inst.kh, inst.kw, inst.ic),
            None,
            (inst.sh, inst.sw),
            (0, 0, 0, 0),
            (inst.dh, inst.dw),
            inst.groups,
        )[0]
        accumulate(acc, product, bias, bool(inst.accumulate))

    return work


@effect(isa.DepthwiseConv)
def _depthwise(port: Port, inst: isa.DepthwiseConv) -> Work:
    check_macs(inst)
    check_types(inst.src_type, bits=16)
    shape = (inst.oh, inst.ow, inst.chans)
    acc = port.apart(inst.acc, DType.I32, shape, (inst.acc_row, inst.acc_pix, 4 * inst.acc_step))
    taps = inst.kh * inst.kw
    weight = port.operand(inst.w, DType.I8, (inst.chans, taps), (inst.w_row, 1))
    image = _window(port, inst, inst.chans)
    bias = port.bias(inst.bias, inst.chans, inst.bias_step)

    def work() -> None:
        product = convolution.conv2d(
            image(),
            weight().reshape(inst.chans, inst.kh, inst.kw, 1),
            None,
            (inst.sh, inst.sw),
            (0, 0, 0, 0),
            (inst.dh, inst.dw),
            inst.chans,
        )[0]
        accumulate(acc, product, bias, bool(inst.accumulate))

    return work


@effect(isa.Pool)
def _pool(port: Port, inst: isa.Pool) -> Work:
    check_macs(inst)
    check_types(inst.src_type, bits=32)
    check_types(inst.dst_type)
    shape, places = (inst.oh, inst.ow, inst.chans), (inst.dst_row, inst.dst_pix, inst.dst_type.size)
    target = port.view(inst.dst, inst.dst_type, shape, places)
    window = _window(port, inst, inst.chans)
    kernel, strides, dilations = (inst.kh, inst.kw), (inst.sh, inst.sw), (inst.dh, inst.dw)

    def work() -> None:
        image = window()
        if inst.mode is PoolMode.MAX:
            result = pooling.max_pool2d(image, kernel, strides, dilations=dilations)[0]
        else:
            centred = image.astype(np.int64) - inst.zp
            result = np.zeros(shape, np.int64)
            for r in range(inst.kh):
                for q in range(inst.kw):
                    place = (r * inst.dh, q * inst.dw)
                    result += convolution.tap(centred, place, (inst.oh, inst.ow), strides)[0]
        target[...] = arithmetic.saturate(result, *inst.dst_type.bounds)

    return work
