"""Reductions and resampling of feature maps, NHWC."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import StringAttr, TensorType, UnitAttr
from xdsl.ir import Attribute
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from vit_opt.dialects.vit.attributes import QuantizedType
from vit_opt.dialects.vit.ops.base import (
    FUNCTIONAL,
    RHU,
    I64Array,
    Shape,
    VitOp,
    check_power_ratio,
    format_of,
    integers,
    require_per_tensor,
    shape_of,
)
from vit_opt.dialects.vit.ops.linear import check_image, check_window, window_shape


@irdl_op_definition
class MeanOp(VitOp):
    """Mean over `axes`: y = sat(rdiv(sum << max(0, s), N << max(0, -s)) + z), s = e_y - e_x.

    rdiv(a, b) = floor((2a + b) / 2b): rounded division, half up. N is the number of values.
    """

    name = "vit.mean"
    x = operand_def(TensorType)
    axes = prop_def(I64Array)
    keepdims = opt_prop_def(UnitAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$x {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        x, axes = shape_of(self.x), integers(self.axes)
        if not axes or sorted(set(axes)) != sorted(axes) or not all(0 <= a < len(x) for a in axes):
            raise VerifyException(f"axes {list(axes)} are not distinct dimensions of {list(x)}")
        if self.keepdims is not None:
            return [tuple(1 if i in axes else size for i, size in enumerate(x))]
        return [tuple(size for i, size in enumerate(x) if i not in axes)]

    def verify_formats(self) -> None:
        require_per_tensor(format_of(self.x), "x")
        require_per_tensor(format_of(self.result), "result")
        check_power_ratio(format_of(self.x), format_of(self.result))


def check_channels_last(format_: QuantizedType) -> None:
    """Pixels of one scale may be mixed: a scale per channel varies along the last dimension."""
    if format_.channel_axis not in (None, 3):
        require_per_tensor(format_, "x")


class PoolBase(VitOp):
    """Operands and fields that both poolings have."""

    x = operand_def(TensorType)
    kernel = prop_def(I64Array)
    strides = prop_def(I64Array)
    pads = prop_def(I64Array)
    result = result_def(TensorType)

    def result_shapes(self) -> Sequence[Shape]:
        n, h, w, c = check_image(self.x)
        kernel, strides, pads = map(integers, (self.kernel, self.strides, self.pads))
        if len(kernel) != 2 or any(k < 1 for k in kernel):
            raise VerifyException(f"kernel {list(kernel)}: expected two positive sizes")
        check_window(strides, pads)
        if any(pads[i] >= kernel[i % 2] for i in range(4)):
            raise VerifyException(f"pads {list(pads)} must be smaller than kernel {list(kernel)}")
        return [(n, *window_shape((h, w), (kernel[0], kernel[1]), strides, pads, (1, 1)), c)]


@irdl_op_definition
class AvgPool2dOp(PoolBase):
    """Average pooling: the mean's formula per window; padding counts with `count_include_pad`."""

    name = "vit.avg_pool2d"
    count_include_pad = opt_prop_def(UnitAttr)
    traits = traits_def(Pure())
    assembly_format = f"$x {FUNCTIONAL}"

    def verify_formats(self) -> None:
        require_per_tensor(format_of(self.x), "x")
        require_per_tensor(format_of(self.result), "result")
        check_power_ratio(format_of(self.x), format_of(self.result))


@irdl_op_definition
class MaxPool2dOp(PoolBase):
    """Maximum pooling, exact on the codes; padding never wins."""

    name = "vit.max_pool2d"
    traits = traits_def(Pure())
    assembly_format = f"$x {FUNCTIONAL}"

    def derived_formats(self) -> Sequence[Attribute | None]:
        return [format_of(self.x)]

    def verify_formats(self) -> None:
        check_channels_last(format_of(self.x))


COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@irdl_op_definition
class ResizeOp(VitOp):
    """Nearest (exact) or bilinear resize of the height and width of the result type.

    Bilinear: per axis the two source rows and weights floor(256 t + 1/2) in Q.8, t by ONNX's
    coordinate rule, y = sat(round(sum w_y w_x (x - z), 16 + e_x - e_y) + z_y).
    """

    name = "vit.resize"
    x = operand_def(TensorType)
    mode = prop_def(StringAttr)
    coordinates = prop_def(StringAttr, default_value=StringAttr("half_pixel"))
    nearest = prop_def(StringAttr, default_value=StringAttr("round_prefer_floor"))
    rounding = prop_def(StringAttr, default_value=RHU)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$x {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        n, _, _, c = check_image(self.x)
        _, height, width, _ = check_image(self.result)
        return [(n, height, width, c)]

    def derived_formats(self) -> Sequence[Attribute | None]:
        return [format_of(self.x) if self.mode.data == "nearest" else None]

    def verify_formats(self) -> None:
        for name, value, allowed in (
            ("mode", self.mode, ("nearest", "linear")),
            ("coordinates", self.coordinates, COORDINATES),
            ("nearest", self.nearest, NEAREST),
        ):
            if value.data not in allowed:
                raise VerifyException(f"{name} '{value.data}' is not one of {', '.join(allowed)}")
        if self.mode.data == "linear":
            require_per_tensor(format_of(self.x), "x")
            require_per_tensor(format_of(self.result), "result")
            check_power_ratio(format_of(self.x), format_of(self.result))
        check_channels_last(format_of(self.x))
