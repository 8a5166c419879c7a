"""What units do with windows that slide over an image: convolutions and pooling, with borders."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.memory import AccessError
from vit_opt.backends.accel.ports import Port, accumulate, check_macs, effect
from vit_opt.dialects.vit.semantics import arithmetic, convolution, pooling
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType, PoolMode

MAX_REACH = 1 << 26
"""Elements under the windows of an instruction; more is a damaged program."""

MAX_TAPS = 1 << 16
"""Positions of a sliding window; more is a damaged program."""


def _window(port: Port, inst: Any, chans: int, step: int | None = None) -> NDArray[Any]:
    """The input block of a sliding window as a batch of one image; `step` between channels."""
    if not 0 < inst.kh * inst.kw <= MAX_TAPS:
        raise AccessError("an empty window, or one larger than any memory")
    if inst.src_type in (DType.I4X2, DType.LOG2):
        raise AccessError(
            f"windows read one number a byte or more, not {inst.src_type.name.lower()}"
        )
    (height, width), (rows, cols) = isa.reach(inst), isa.inside(inst)
    if min(rows, cols) < 1:
        raise AccessError("no pixel of the source lies under the windows")
    if height * width * chans > MAX_REACH:
        raise AccessError("windows that reach over more than any memory")
    strides = (inst.src_row, inst.src_pix, inst.src_type.size if step is None else step)
    image = port.view(inst.src, inst.src_type, (rows, cols, chans), strides)
    if (rows, cols) != (height, width):
        image = _bordered(inst, image, (height, width))
    return image[np.newaxis]


def _bordered(inst: Any, image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The pixels under the windows with their borders."""
    low, high = inst.src_type.bounds
    if not low <= inst.fill <= high:
        raise AccessError(f"value {inst.fill} is not a code of {inst.src_type.name.lower()}")
    rows, cols, chans = image.shape
    full = np.full((*size, chans), inst.fill, image.dtype)
    full[inst.top : inst.top + rows, inst.left : inst.left + cols] = image
    return full


@effect(isa.Conv)
def _conv(port: Port, inst: isa.Conv) -> None:
    check_macs(inst)
    outs = inst.groups * inst.oc
    shape, strides = (inst.oh, inst.ow, outs), (inst.acc_row, inst.acc_pix, 4)
    acc = port.view(inst.acc, DType.I32, shape, strides)
    weight = port.weights(inst, inst.w, inst.w_type, (outs,), (inst.w_row, inst.w_type.size))
    product = convolution.conv2d(
        _window(port, inst, inst.groups * inst.ic, inst.src_step),
        weight.reshape(outs, inst.kh, inst.kw, inst.ic),
        None,
        (inst.sh, inst.sw),
        (0, 0, 0, 0),
        (inst.dh, inst.dw),
        inst.groups,
    )[0]
    accumulate(acc, product, port.bias(inst.bias, outs), bool(inst.accumulate))


@effect(isa.DepthwiseConv)
def _depthwise(port: Port, inst: isa.DepthwiseConv) -> None:
    check_macs(inst)
    shape = (inst.oh, inst.ow, inst.chans)
    acc = port.view(inst.acc, DType.I32, shape, (inst.acc_row, inst.acc_pix, 4 * inst.acc_step))
    taps = inst.kh * inst.kw
    weight = port.operand(inst.w, DType.I8, (inst.chans, taps), (inst.w_row, 1))
    product = convolution.conv2d(
        _window(port, inst, inst.chans),
        weight.reshape(inst.chans, inst.kh, inst.kw, 1),
        None,
        (inst.sh, inst.sw),
        (0, 0, 0, 0),
        (inst.dh, inst.dw),
        inst.chans,
    )[0]
    bias = port.bias(inst.bias, inst.chans, inst.bias_step)
    accumulate(acc, product, bias, bool(inst.accumulate))


@effect(isa.Pool)
def _pool(port: Port, inst: isa.Pool) -> None:
    check_macs(inst)
    shape, places = (inst.oh, inst.ow, inst.chans), (inst.dst_row, inst.dst_pix, inst.dst_type.size)
    target = port.view(inst.dst, inst.dst_type, shape, places)
    image = _window(port, inst, inst.chans)
    kernel, strides, dilations = (inst.kh, inst.kw), (inst.sh, inst.sw), (inst.dh, inst.dw)
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
