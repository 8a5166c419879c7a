"""Softmax, normalisation and activation functions in integers.

All work along the last dimension of a row (or per element), need no float, and at most one
division a row.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import I64, IntegerAttr, StringAttr, TensorType, i64
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.pattern_rewriter import RewritePattern
from xdsl.traits import HasCanonicalizationPatternsTrait, Pure
from xdsl.utils.exceptions import VerifyException

from vit_opt.dialects.vit.attributes import FixedType, Log2Type, QuantizedType
from vit_opt.dialects.vit.ops.base import (
    FUNCTIONAL,
    RHU,
    Shape,
    VitOp,
    check_power_ratio,
    format_of,
    is_fixed,
    require_per_tensor,
    require_storage,
    require_symmetric,
    shape_of,
)

STANDARD = StringAttr("standard")

MOST_CHANNELS = 32767
"""Channels of `vit.layernorm`: C * sum X^2 of 16 bits stays below 2^60."""


def check_mode(mode: StringAttr) -> None:
    """`standard` is the hardware form, `ivit` the form of I-ViT's published code."""
    if mode.data not in ("standard", "ivit"):
        raise VerifyException(f"mode '{mode.data}' is not standard or ivit")


SCORES = ("i8", "ui8", "i16", "i32")
"""Storage types of scores before a softmax."""


def check_rows(x: SSAValue, what: str) -> Shape:
    """The shape of an operand that is worked on row by row: it has a last dimension."""
    shape = shape_of(x)
    if not shape:
        raise VerifyException(f"{what} is a scalar, expected rows along a last dimension")
    return shape


def check_fixed(format_: QuantizedType, what: str) -> None:
    """Shift-only arithmetic needs a power-of-two scale."""
    if not is_fixed(format_):
        raise VerifyException(f"{what} has format {format_}, expected !vit.fixed")


@irdl_op_definition
class SoftmaxExpOp(VitOp):
    """The exponentials of a deferred softmax and their sum, along the last dimension.

        u = min(255, round((max - s) * 2^(4 - e)));  p = T[u];  T[u] = floor(255 exp(-u / 16) + 1/2)

    s [..., L] -> p ui8 [..., L] and sum ui32 [..., 1], both with frac 0: p / sum is the softmax, and
    `vit.normalize` divides once, after the product with the values. s may be the int32 accumulator.
    """

    name = "vit.softmax_exp"
    s = operand_def(TensorType)
    p = result_def(TensorType)
    sum = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$s {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        s = check_rows(self.s, "s")
        return [s, (*s[:-1], 1)]

    def derived_formats(self) -> Sequence[Attribute | None]:
        return [FixedType("ui8", 0), FixedType("ui32", 0)]

    def verify_formats(self) -> None:
        check_fixed(format_of(self.s), "s")
        require_storage(format_of(self.s), "s", *SCORES)
        require_per_tensor(format_of(self.s), "s")


@irdl_op_definition
class NormalizeOp(VitOp):
    """y = acc / sum, the division that a deferred softmax postponed.

        nb = blen(sum);  R = floor(2^(nb + 15) / sum)
        y = sat(round(acc * R, nb + 15 + e_acc - e_y) + z)

    acc [..., M, N] is the product of exponentials and values, sum [..., M, 1]; one division a row.
    """

    name = "vit.normalize"
    acc = operand_def(TensorType)
    sum = operand_def(TensorType)
    rounding = prop_def(StringAttr, default_value=RHU)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$acc `,` $sum {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        acc, total = check_rows(self.acc, "acc"), shape_of(self.sum)
        if total != (*acc[:-1], 1):
            raise VerifyException(f"sum has shape {list(total)}, expected {[*acc[:-1], 1]}")
        return [acc]

    def verify_formats(self) -> None:
        require_storage(format_of(self.acc), "acc", "i32")
        if format_of(self.sum) != FixedType("ui32", 0):
            raise VerifyException(
                f"sum has format {format_of(self.sum)}, expected !vit.fixed<ui32, 0>"
            )
        check_power_ratio(format_of(self.acc), format_of(self.result))


@irdl_op_definition
class ShiftmaxOp(VitOp):
    """Softmax by shifts (I-ViT): 2^x for e^x, one division a row, probabilities with frac b - 1.

    `n` is the number of octaves kept. mode "standard" has numerator 2^31 - 1 and rounds the last
    shift as `rounding` says; mode "ivit" has numerator 2^31 and floors, as the published code does.
    """

    name = "vit.shiftmax"
    s = operand_def(TensorType)
    n = prop_def(IntegerAttr[I64], default_value=IntegerAttr(15, i64))
    mode = prop_def(StringAttr, default_value=STANDARD)
    rounding = prop_def(StringAttr, default_value=RHU)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$s {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        return [check_rows(self.s, "s")]

    def derived_formats(self) -> Sequence[Attribute | None]:
        storage = format_of(self.result).storage
        return [FixedType(storage, storage.width.data - 1)]

    def verify_formats(self) -> None:
        check_mode(self.mode)
        s = format_of(self.s)
        require_storage(s, "s", *SCORES)
        require_per_tensor(s, "s")
        if not 1 <= self.n.value.data <= 31:
            raise VerifyException(f"n {self.n.value.data} is not 1 to 31 octaves")
        if self.mode.data == "standard":
            check_fixed(s, "s")
        require_storage(format_of(self.result), "result", "i8", "i16")
        if isinstance(s, FixedType):
            length = shape_of(self.s)[-1]
            bits = s.frac + self.n.value.data + (length - 1).bit_length()
            if s.frac < 0 or bits > 31:
                raise VerifyException(
                    f"frac {s.frac} + n {self.n.value.data} + log2 of length {length} needs {bits} "
                    f"bits; the row sum has 31 (frac must be 0 or more)"
                )


@irdl_op_definition
class Log2SoftmaxOp(VitOp):
    """Softmax to 4-bit codes c of 2^-c (FQ-ViT, P2-ViT), by comparisons 2 S >= 3 * 2^j * E."""

    name = "vit.log2_softmax"
    s = operand_def(TensorType)
    result = result_def(TensorType[Log2Type])
    traits = traits_def(Pure())
    assembly_format = f"$s {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        return [check_rows(self.s, "s")]

    def derived_formats(self) -> Sequence[Attribute | None]:
        return [Log2Type()]

    def verify_formats(self) -> None:
        s = format_of(self.s)
        check_fixed(s, "s")
        require_storage(s, "s", *SCORES)
        require_per_tensor(s, "s")
        assert isinstance(s, FixedType)
        bits = s.frac + 15 + (shape_of(self.s)[-1] - 1).bit_length()
        if s.frac < 0 or bits > 31:
            raise VerifyException(f"frac {s.frac} needs {bits} bits for the row sum, which has 31")


class LutCanonicalization(HasCanonicalizationPatternsTrait):
    """Fold a table into the table before it."""

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from vit_opt.dialects.vit import canonicalization as patterns

        return (patterns.ComposeTables(),)


@irdl_op_definition
class LutOp(VitOp):
    """y = table[x - smallest code of x]: any function of 8-bit codes, 256 entries of 8 or 16 bits.

    For 16-bit x the table has 257 entries of i16 at the codes -32768 + 256 j, interpolated:
    i = (x + 32768) >> 8, g = (x + 32768) & 255, y = t[i] + round((t[i + 1] - t[i]) * g, 8).
    `function` names what was tabulated, so that a pass which changes a format can make it anew:
    `gelu`, or with factors inside and outside `gelu(x*0.6)*1.7`.
    """

    name = "vit.lut"
    x = operand_def(TensorType)
    table = operand_def(TensorType)
    function = opt_prop_def(StringAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure(), LutCanonicalization())
    assembly_format = f"$x `,` $table {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        width = format_of(self.x).storage.width.data
        entries = {8: 256, 16: 257}.get(width)
        if entries is None or shape_of(self.table) != (entries,):
            raise VerifyException(
                f"x has {width} bits and the table shape {list(shape_of(self.table))}; expected "
                f"[256] for 8 bits, [257] for 16"
            )
        return [shape_of(self.x)]

    def derived_formats(self) -> Sequence[Attribute | None]:
        return [format_of(self.table)]

    def verify_formats(self) -> None:
        require_per_tensor(format_of(self.x), "x")
        table = format_of(self.table)
        require_per_tensor(table, "table")
        if format_of(self.x).storage.width.data == 16:
            require_storage(format_of(self.x), "x", "i16")
            require_storage(table, "table", "i16")
        else:
            require_storage(table, "table", "i8", "ui8", "i16", "ui16")


@irdl_op_definition
class ShiftGeluOp(VitOp):
    """x * sigmoid(1.702 x) by shifts (I-ViT's ShiftGELU): result i16 (i32 for i16 x), frac e + 7.

    mode "standard" works per element; mode "ivit" is the published form, relative to the row
    maximum, for conformance (n = 23).
    """

    name = "vit.shift_gelu"
    x = operand_def(TensorType)
    mode = prop_def(StringAttr, default_value=STANDARD)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$x {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        return [shape_of(self.x)]

    def derived_formats(self) -> Sequence[Attribute | None]:
        x = format_of(self.x)
        storage = "i16" if x.storage.width.data == 8 else "i32"
        return [FixedType(storage, x.frac + 7)] if isinstance(x, FixedType) else [None]

    def verify_formats(self) -> None:
        check_mode(self.mode)
        x = format_of(self.x)
        require_storage(x, "x", "i8", "i16")
        require_per_tensor(x, "x")
        require_symmetric(x, "x")
        check_fixed(x, "x")
        assert isinstance(x, FixedType)
        if not 0 <= x.frac <= 15:
            raise VerifyException(f"x has frac {x.frac}, expected 0 to 15")


@irdl_op_definition
class LayerNormOp(VitOp):
    """LayerNorm over the last dimension with one integer root and one reciprocal a token (I-ViT).

        V = C * sum X^2 - (sum X)^2 + eps_q;  T = isqrt(V << 12);  R = floor(2^(nb+16) / T)
        N = round((C * X - sum X) * R, nb)                              normalised, Q.10
        y = sat(round(N * g + (b << (10 + e_g - e_b)), 10 + e_g - e_y) + z)

    x [..., C], gamma [C] i8 or i16, beta [C] i32. The scale of x may be per channel (PTF: X is x
    aligned to the finest grid) and so may those of gamma, beta and the result (smoothing folded
    in). `eps_q` is round(eps * C^2 * 2^(2 e)).
    mode "ivit" is I-ViT's published integer form (10 Newton steps from 2^16), for conformance.
    """

    name = "vit.layernorm"
    x = operand_def(TensorType)
    gamma = operand_def(TensorType)
    beta = operand_def(TensorType)
    eps_q = prop_def(IntegerAttr[I64], default_value=IntegerAttr(0, i64))
    mode = prop_def(StringAttr, default_value=STANDARD)
    rounding = prop_def(StringAttr, default_value=RHU)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$x `,` $gamma `,` $beta {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        x = check_rows(self.x, "x")
        for what, value in (("gamma", self.gamma), ("beta", self.beta)):
            if shape_of(value) != x[-1:]:
                raise VerifyException(
                    f"{what} has shape {list(shape_of(value))}, expected {list(x[-1:])}"
                )
        if x[-1] > MOST_CHANNELS:
            raise VerifyException(
                f"x has {x[-1]} channels; sums fit 64 bits up to {MOST_CHANNELS} of them"
            )
        return [x]

    def verify_formats(self) -> None:
        check_mode(self.mode)
        last = len(shape_of(self.x)) - 1
        x, y = format_of(self.x), format_of(self.result)
        require_storage(x, "x", "i8", "ui8", "i16")
        for what, format_ in (("x", x), ("result", y)):
            if format_.is_per_channel and format_.channel_axis != last:
                raise VerifyException(
                    f"{what} has channel axis {format_.channel_axis}, expected {last}"
                )
        gamma, beta = format_of(self.gamma), format_of(self.beta)
        require_storage(gamma, "gamma", "i8", "i16")
        require_storage(beta, "beta", "i32")
        if self.mode.data == "ivit":
            require_per_tensor(x, "x")
            require_storage(y, "result", "i32")
            return
        if x.is_per_channel:
            check_fixed(x, "x, which has a scale per channel,")
        check_fixed(gamma, "gamma")
        check_fixed(beta, "beta")
        check_fixed(y, "result")
        assert isinstance(gamma, FixedType) and isinstance(beta, FixedType)
        slack = 10 + gamma.channel_fracs() - beta.channel_fracs()
        if (slack < 0).any():
            raise VerifyException(
                f"beta has frac {int(beta.channel_fracs().max())}, at most 10 + frac of gamma allowed"
            )


__all__ = [
    "LayerNormOp",
    "Log2SoftmaxOp",
    "LutOp",
    "NormalizeOp",
    "ShiftGeluOp",
    "ShiftmaxOp",
    "SoftmaxExpOp",
]
