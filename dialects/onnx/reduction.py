"""Operations that look at many elements for one: reductions, pooling, softmax, normalisation."""

from __future__ import annotations

from xdsl.irdl import irdl_op_definition, operand_def, opt_operand_def, result_def

from vit_opt.dialects.onnx.base import (
    TENSOR,
    OnnxOp,
    dims,
    int_prop,
    integer,
    integers,
    ints_prop,
    normal_axis,
    real_prop,
    require,
    shape_of,
)
from vit_opt.dialects.onnx.contraction import expect_shape, expect_window, window_output
from vit_opt.dialects.onnx.elementwise import Unary


class Reduce(OnnxOp):
    """Reduction over the listed axes (always spelled out; no axes: nothing is reduced)."""

    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    axes = ints_prop()
    keepdims = int_prop(1)

    def verify_(self) -> None:
        x = shape_of(self.x)
        axes = {normal_axis(axis, len(x), "axes entry") for axis in integers(self.axes)}
        kept = [1 if axis in axes else size for axis, size in enumerate(x)]
        if not integer(self.keepdims):
            kept = [size for axis, size in enumerate(kept) if axis not in axes]
        expect_shape(shape_of(self.y), kept)


@irdl_op_definition
class ReduceMean(Reduce):
    """Arithmetic mean."""

    name = "onnx.ReduceMean"


@irdl_op_definition
class ReduceSum(Reduce):
    """Sum."""

    name = "onnx.ReduceSum"


@irdl_op_definition
class ReduceMax(Reduce):
    """Maximum."""

    name = "onnx.ReduceMax"


@irdl_op_definition
class ReduceMin(Reduce):
    """Minimum."""

    name = "onnx.ReduceMin"


@irdl_op_definition
class ReduceL2(Reduce):
    """Square root of the sum of squares."""

    name = "onnx.ReduceL2"


class GlobalPool(OnnxOp):
    """x[N, C, H, W] to y[N, C, 1, 1]."""

    x = operand_def(TENSOR)
    y = result_def(TENSOR)

    def verify_(self) -> None:
        x = shape_of(self.x)
        require(len(x) > 2, f"x has shape {dims(x)}, expected [N, C, ...]")
        expect_shape(shape_of(self.y), (*x[:2], *(1 for _ in x[2:])))


@irdl_op_definition
class GlobalAveragePool(GlobalPool):
    """Mean over all spatial positions."""

    name = "onnx.GlobalAveragePool"


@irdl_op_definition
class GlobalMaxPool(GlobalPool):
    """Maximum over all spatial positions."""

    name = "onnx.GlobalMaxPool"


class Pool(OnnxOp):
    """2-D window pooling over x[N, C, H, W]; partial windows are dropped."""

    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    kernel_shape = ints_prop(1, 1)
    strides = ints_prop(1, 1)
    pads = ints_prop(0, 0, 0, 0)
    dilations = ints_prop(1, 1)

    def verify_(self) -> None:
        x, kernel = shape_of(self.x), integers(self.kernel_shape)
        require(len(x) == 4, f"x has shape {dims(x)}, expected [N, C, H, W]")
        require(
            len(kernel) == 2 and min(kernel) > 0,
            f"kernel_shape {dims(kernel)}: want 2 > 0",
        )
        strides, pads, dilations = expect_window(self.strides, self.pads, self.dilations)
        spatial = [
            window_output(x[2 + d], kernel[d], strides[d], pads[d] + pads[2 + d], dilations[d])
            for d in range(2)
        ]
        expect_shape(shape_of(self.y), (*x[:2], *spatial))


@irdl_op_definition
class MaxPool(Pool):
    """Largest value in the window; padding never wins."""

    name = "onnx.MaxPool"


@irdl_op_definition
class AveragePool(Pool):
    """Mean over the window; padding counts as zeros only with `count_include_pad = 1`."""

    name = "onnx.AveragePool"
    count_include_pad = int_prop(0)


@irdl_op_definition
class Softmax(Unary):
    """exp(x - max) / sum(exp(x - max)) along one axis (opset 13 meaning)."""

    name = "onnx.Softmax"
    axis = int_prop(-1)

    def verify_(self) -> None:
        normal_axis(integer(self.axis), len(shape_of(self.x)))
        super().verify_()


@irdl_op_definition
class LayerNormalization(OnnxOp):
    """(x - mean) / sqrt(var + epsilon) * scale + bias, over the dimensions from `axis` on."""

    name = "onnx.LayerNormalization"
    x = operand_def(TENSOR)
    scale = operand_def(TENSOR)
    bias = opt_operand_def(TENSOR)
    y = result_def(TENSOR)
    axis = int_prop(-1)
    epsilon = real_prop(1e-5)

    def verify_(self) -> None:
        x = shape_of(self.x)
        normalised = x[normal_axis(integer(self.axis), len(x)) :]
        for name, value in (("scale", self.scale), ("bias", self.bias)):
            require(
                value is None or shape_of(value) == normalised,
                f"{name} has shape {dims(shape_of(value)) if value else ''}, "
                f"but the normalised dimensions are {dims(normalised)}",
            )
        expect_shape(shape_of(self.y), x)


@irdl_op_definition
class BatchNormalization(OnnxOp):
    """(x - mean[c]) / sqrt(var[c] + epsilon) * scale[c] + bias[c], channels in dimension 1."""

    name = "onnx.BatchNormalization"
    x = operand_def(TENSOR)
    scale = operand_def(TENSOR)
    bias = operand_def(TENSOR)
    mean = operand_def(TENSOR)
    var = operand_def(TENSOR)
    y = result_def(TENSOR)
    epsilon = real_prop(1e-5)

    def verify_(self) -> None:
        x = shape_of(self.x)
        require(len(x) >= 2, f"x has shape {dims(x)}, expected [N, C, ...]")
        for name in ("scale", "bias", "mean", "var"):
            got = shape_of(getattr(self, name))
            require(got == x[1:2], f"{name} has shape {dims(got)}, but x has {x[1]} channels")
        expect_shape(shape_of(self.y), x)
