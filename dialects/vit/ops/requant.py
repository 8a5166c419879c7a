"""Moving integers between grids: requantisation, sums, products, clamping.

Let e be fractional bits and z zero points. A power-of-two requantisation is one shift,

    y = sat(round((x - z_in) / 2^(e_in - e_out)) + z_out),

a dyadic one (I-ViT) a multiplication by m * 2^-sh with the 31-bit m nearest to s_in / s_out.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import I64, IntegerAttr, StringAttr, TensorType, i64
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, prop_def, result_def, traits_def
from xdsl.pattern_rewriter import RewritePattern
from xdsl.traits import HasCanonicalizationPatternsTrait, Pure
from xdsl.utils.exceptions import VerifyException

from vit_opt.dialects.vit.ops.base import (
    FUNCTIONAL,
    RHU,
    Shape,
    VitOp,
    format_of,
    is_fixed,
    scaled_by_power,
    shape_of,
)


class RequantCanonicalization(HasCanonicalizationPatternsTrait):
    """Drop identities, merge consecutive shifts where that is exact, fold constants."""

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from vit_opt.dialects.vit import canonicalization as patterns

        return (
            patterns.DropIdentityRequant(),
            patterns.MergeRequantIntoWider(),
            patterns.FoldRequantOfConstant(),
        )


def check_requant_axes(x: VitOp, operand: str = "x") -> None:
    """A per-channel operand and a per-channel result must vary along the same dimension."""
    source, target = format_of(x.operands[0]), format_of(x.results[0])
    if (
        source.is_per_channel
        and target.is_per_channel
        and source.channel_axis != target.channel_axis
    ):
        raise VerifyException(
            f"{operand} varies along axis {source.channel_axis}, the result along axis "
            f"{target.channel_axis}"
        )


@irdl_op_definition
class PotRequantOp(VitOp):
    """y = sat(round((x - z_in) / 2^(e_in - e_out)) + z_out); a left shift where e_in < e_out.

    Per tensor or per channel, from any storage to any other (P2-ViT, requantisation by shift).
    """

    name = "vit.pot_requant"
    x = operand_def(TensorType)
    rounding = prop_def(StringAttr, default_value=RHU)
    result = result_def(TensorType)
    traits = traits_def(Pure(), RequantCanonicalization())
    assembly_format = f"$x {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        return [shape_of(self.x)]

    def verify_formats(self) -> None:
        for what, value in (("x", self.x), ("result", self.result)):
            if not is_fixed(format_of(value)):
                raise VerifyException(
                    f"{what} has format {format_of(value)}; pot_requant needs power-of-two scales "
                    f"(!vit.fixed), use vit.requant or run pot-fold first"
                )
        check_requant_axes(self)


@irdl_op_definition
class RequantOp(VitOp):
    """y = sat(rhe((x - z_in) * m / 2^sh) + z_out), m / 2^sh nearest to s_in / s_out (I-ViT)."""

    name = "vit.requant"
    x = operand_def(TensorType)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$x {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        return [shape_of(self.x)]

    def verify_formats(self) -> None:
        check_requant_axes(self)


def broadcast_shape(a: Shape, b: Shape) -> Shape:
    """The shape of an elementwise result under numpy's broadcasting rule."""
    rank = max(len(a), len(b))
    padded_a, padded_b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    for left, right in zip(padded_a, padded_b, strict=True):
        if left != right and 1 not in (left, right):
            raise VerifyException(f"shapes {list(a)} and {list(b)} do not broadcast")
    return tuple(max(p, q) for p, q in zip(padded_a, padded_b, strict=True))


def check_broadcast_axes(op: VitOp) -> None:
    """Channel axes of elementwise operands count from the result's dimensions, so ranks match."""
    rank = len(op.result_shapes()[0])
    axes: set[int] = set()
    for index, value in enumerate((*op.operands, op.results[0])):
        axis = format_of(value).channel_axis
        if axis is None:
            continue
        if len(shape_of(value)) != rank:
            raise VerifyException(
                f"operand {index} has a scale per channel and must have rank {rank}"
            )
        axes.add(axis)
    if len(axes) > 1:
        raise VerifyException(f"operands and result vary along different axes {sorted(axes)}")


@irdl_op_definition
class AddOp(VitOp):
    """y = sat(round(a * 2^(E - e_a) + b * 2^(E - e_b), E - e_out) + z_out), E = max(e_a, e_b).

    Zero points are subtracted first; one rounding. Operands may be int32 accumulators (also per
    channel) beside an int16 residual. With a scaled operand each term is rescaled by its own
    dyadic multiplier and rounded before the sum (I-ViT). Shapes broadcast as in numpy.
    """

    name = "vit.add"
    a = operand_def(TensorType)
    b = operand_def(TensorType)
    rounding = prop_def(StringAttr, default_value=RHU)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$a `,` $b {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        return [broadcast_shape(shape_of(self.a), shape_of(self.b))]

    def verify_formats(self) -> None:
        check_broadcast_axes(self)


@irdl_op_definition
class MulOp(VitOp):
    """y = sat(round((a - z_a) * (b - z_b), e_a + e_b - e_out) + z_out); shapes broadcast."""

    name = "vit.mul"
    a = operand_def(TensorType)
    b = operand_def(TensorType)
    rounding = prop_def(StringAttr, default_value=RHU)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$a `,` $b {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        return [broadcast_shape(shape_of(self.a), shape_of(self.b))]

    def verify_formats(self) -> None:
        check_broadcast_axes(self)


@irdl_op_definition
class ClampOp(VitOp):
    """y = min(max(x, min), max) on the codes, exact; ReLU is min = zero point."""

    name = "vit.clamp"
    x = operand_def(TensorType)
    min = prop_def(IntegerAttr[I64])
    max = prop_def(IntegerAttr[I64])
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$x {FUNCTIONAL}"

    def __init__(self, x: SSAValue, low: int, high: int, node_name: StringAttr | None = None):
        super().__init__(
            operands=[x],
            properties={
                "min": IntegerAttr(low, i64),
                "max": IntegerAttr(high, i64),
                "node_name": node_name,
            },
            result_types=[x.type],
        )

    def result_shapes(self) -> Sequence[Shape]:
        return [shape_of(self.x)]

    def derived_formats(self) -> Sequence[Attribute | None]:
        return [format_of(self.x)]

    def verify_formats(self) -> None:
        low, high = self.min.value.data, self.max.value.data
        if low > high:
            raise VerifyException(f"min {low} is greater than max {high}")
        least, most = format_of(self.x).bounds
        if low < least or high > most:
            raise VerifyException(f"min {low} and max {high} must be codes of x, {least} to {most}")


@irdl_op_definition
class ReinterpretOp(VitOp):
    """The same integers, the real value times 2^exponent: frac decreases by `exponent`."""

    name = "vit.reinterpret"
    x = operand_def(TensorType)
    exponent = prop_def(IntegerAttr[I64])
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$x {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        return [shape_of(self.x)]

    def derived_formats(self) -> Sequence[Attribute | None]:
        return [scaled_by_power(format_of(self.x), self.exponent.value.data)]
