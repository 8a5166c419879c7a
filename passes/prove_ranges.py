"""Pass `prove-ranges`: no intermediate of any operation leaves the integers that hold it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isqrt, prod
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass

from vit_opt.dialects.assets import AssetStore, assets_of, attribute_array
from vit_opt.dialects.errors import CheckError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, Log2Type, QuantizedType
from vit_opt.dialects.vit.ops.base import (
    format_of,
    i64_array,
    integers,
    is_fixed,
    label_of,
    shape_of,
    tensor_type,
)
from vit_opt.passes.interval import INT32, INT64, Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints: TypeAlias = NDArray[np.int64]

RANGE = "range"
"""Name of the attribute that holds the proven interval of an operation's wide intermediate."""

DYADIC_BITS = 31
"""Bits of a dyadic multiplier."""


@dataclass(frozen=True)
class ProveRangesPass(ModulePass):
    """Bound every intermediate from number formats and actual weights; fail where one may overflow.

    Accumulators must fit their storage, other intermediates 64 bits. Assumes nothing about inputs
    but their storage types. Each operation that sums or multiplies gets the interval of its wide
    intermediate, before rounding, so that a backend can take 32-bit arithmetic where it suffices:

        %a = vit.linear %x, %w, %b {range = array<i64: -40321, 39877>} : ...

    For products it is the accumulator, for `vit.add` the aligned sum, for `vit.mul` the product, for
    `vit.mean`, pooling and resize the (weighted) sum, for `vit.layernorm` N * gamma + beta, for
    `vit.normalize` acc * R.
    """

    name = "prove-ranges"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        prove_ranges(op, assets_of(ctx))


def prove_ranges(module: ModuleOp, store: AssetStore) -> dict[SSAValue, Interval]:
    """Prove a module and record the intervals; returns the interval of every integer value.

    Raises CheckError naming operation, node and bound for what may overflow, VitError for weights
    that are not loaded.
    """
    proof = _Proof(store)
    for op in module.walk():
        if isinstance(op, FuncOp) and op.body.blocks:
            proof.run(op.body.block)
    return proof.ranges


@dataclass
class _Proof:
    """The intervals found so far, and the rules to find more."""

    store: AssetStore
    ranges: dict[SSAValue, Interval] = field(default_factory=dict[SSAValue, Interval])

    def run(self, block: Block) -> None:
        """Bound all operations of a block, in order."""
        for op in block.ops:
            if isinstance(op, ops.PipelineOp):
                self.run(op.body.block)
                for result, value in zip(op.results, op.terminator.values, strict=True):
                    self.ranges[result] = self.of(value)
                continue
            rule = RULES.get(type(op))
            found = rule(self, op) if rule is not None else None
            if found is not None:
                bounds = _storage(op.results[0])
                self.ranges[op.results[0]] = found.clamped(*bounds)

    def of(self, value: SSAValue) -> Interval:
        """Codes that a value may hold: what is proven, else what its storage holds."""
        return self.ranges.get(value) or Interval(*_storage(value))

    def centred(self, value: SSAValue) -> Interval:
        """Codes less their zero point."""
        return self.of(value) - format_of(value).zero_point

    def array(self, value: SSAValue | None) -> NDArray[Any] | None:
        """The codes of a constant, None for any other value."""
        owner = value.owner if value is not None else None
        return (
            attribute_array(self.store, owner.value) if isinstance(owner, ops.ConstantOp) else None
        )

    def fits(
        self, op: Operation, what: str, found: Interval, bounds: tuple[int, int] = INT64
    ) -> Interval:
        """The interval itself, or CheckError if it leaves the bounds."""
        if not found.within(bounds):
            bits = (bounds[1] - bounds[0]).bit_length()
            kind = "unsigned bits" if bounds[0] == 0 else "bits"
            raise CheckError(
                f"prove-ranges: {label_of(op)}: {what} may reach {found}, but has {bits} {kind}; "
                f"use narrower operands or exponents closer to each other"
            )
        return found

    def record(self, op: Operation, what: str, found: Interval) -> Interval:
        """Keep the proven interval of a 64-bit intermediate on its operation."""
        self.fits(op, what, found)
        op.attributes[RANGE] = i64_array([found.low, found.high])
        return found


Rule: TypeAlias = Callable[[_Proof, Any], Interval | None]


def _storage(value: SSAValue) -> tuple[int, int]:
    element = tensor_type(value).get_element_type()
    if isinstance(element, QuantizedType):
        return element.bounds
    return (0, 15) if isinstance(element, Log2Type) else INT64


def _constant(proof: _Proof, op: ops.ConstantOp) -> Interval:
    codes = proof.array(op.result)
    assert codes is not None
    found = Interval(int(codes.min()), int(codes.max()))
    return proof.fits(op, "a code", found, _storage(op.result))


def _accumulator(proof: _Proof, op: Operation, found: Interval) -> Interval:
    proof.fits(op, "the accumulator", found, _storage(op.results[0]))
    return proof.record(op, "the accumulator", found)


def _weighted(proof: _Proof, op: ops.LinearOp | ops.Conv2dOp | ops.ConvTranspose2dOp) -> Interval:
    """sum (x - z) * w + b: x at its extremes, by sign of each weight, per output channel."""
    import numpy as np

    x, bias = proof.centred(op.x).with_zero(), proof.array(op.bias)
    low, high = _weighted_sums(proof, op, x)
    sums = Interval(int(low.min()), int(high.max()))
    if bias is not None:
        wide = bias.astype(np.int64)
        found = Interval(int((low + wide).min()), int((high + wide).max()))
    else:
        found = sums + (Interval(0, 0) if op.bias is None else proof.of(op.bias))
    proof.fits(op, "the sum before the bias", sums, _storage(op.result))
    return _accumulator(proof, op, found)


def _weighted_sums(
    proof: _Proof, op: ops.LinearOp | ops.Conv2dOp | ops.ConvTranspose2dOp, x: Interval
) -> tuple[Ints, Ints]:
    """Least and largest sum of every output channel; one for all where weights are not constant."""
    import numpy as np

    weight, zero = proof.array(op.weight), format_of(op.weight).zero_point
    if weight is None:
        each = (x * proof.centred(op.weight)).times(prod(shape_of(op.weight)[1:]))
        return np.array([each.low]), np.array([each.high])
    rows = weight.reshape(len(weight), -1)
    rows = rows if zero == 0 else rows.astype(np.int64) - zero
    positive = np.maximum(rows, 0).sum(axis=1, dtype=np.int64)
    negative = rows.sum(axis=1, dtype=np.int64) - positive
    return x.low * positive + x.high * negative, x.high * positive + x.low * negative


def _matmul(proof: _Proof, op: ops.MatmulOp) -> Interval:
    each = proof.centred(op.a) * proof.centred(op.b)
    return _accumulator(proof, op, each.with_zero().times(shape_of(op.a)[-1]))


def _log2_matmul(proof: _Proof, op: ops.Log2MatmulOp) -> Interval:
    each = proof.centred(op.v).with_zero().times(1 << 14)
    return _accumulator(proof, op, each.times(shape_of(op.codes)[-1]))


def _linear_attn(proof: _Proof, op: ops.LinearAttnOp) -> None:
    """Bounds of docs/numerics.md 12: state and key sum in 32 bits, the product with the reciprocal in 64."""
    q, k, v = (proof.of(value) for value in (op.q, op.k, op.v))
    for name, value in (("q", q), ("k", k)):
        if value.low < 0:
            raise CheckError(
                f"prove-ranges: {label_of(op)}: {name} may reach {value.low}, but must not be "
                f"negative; put vit.clamp with min 0 before it"
            )
    tokens, depth = shape_of(op.k)[-2:]
    proof.fits(op, "the state K^T V", (k * v).with_zero().times(tokens), INT32)
    proof.fits(op, "the key sum", k.times(tokens), (0, (1 << 32) - 1))
    state = (k * v).with_zero().times(tokens).shifted(op.kv_shift.value.data).clamped(-128, 127)
    keys = k.times(tokens).shifted(op.ksum_shift.value.data).clamped(0, 255)
    numerator = proof.fits(op, "Q K^T V", (q * state).with_zero().times(depth), INT32)
    proof.fits(op, "the divisor", (q * keys).with_zero().times(depth), (0, (1 << 32) - 1))
    proof.record(op, "the product with the reciprocal", numerator.times(1 << 16))


def _shifts(source: SSAValue, target: SSAValue) -> list[int]:
    """The shifts between two formats, over all channels, ascending."""
    import numpy as np

    ratio = format_of(target).channel_scales() / format_of(source).channel_scales()
    return np.unique(np.frexp(ratio)[1].astype(int) - 1).tolist()


def _rescaled(x: Interval, shifts: list[int], zero: int, rounding: str = "rhu") -> Interval:
    ends = [x.shifted(shift, rounding) for shift in {shifts[0], shifts[-1]}]
    return (ends[0] | ends[-1]) - -zero


def _pot_requant(proof: _Proof, op: ops.PotRequantOp) -> Interval:
    shifts = _shifts(op.x, op.result)
    zero = format_of(op.result).zero_point
    return _rescaled(proof.centred(op.x), shifts, zero, op.rounding.data)


def _dyadic_product(proof: _Proof, op: Operation, x: Interval) -> None:
    proof.fits(op, "the product with the multiplier", x.times(1 << DYADIC_BITS))


def _requant(proof: _Proof, op: ops.RequantOp) -> None:
    _dyadic_product(proof, op, proof.centred(op.x))


def _fracs(value: SSAValue) -> Ints:
    return cast("FixedType", format_of(value)).channel_fracs()


def _add(proof: _Proof, op: ops.AddOp) -> Interval | None:
    """a << (E - e_a) + b << (E - e_b), for each distinct set of exponents of the channels."""
    import numpy as np

    a, b = proof.centred(op.a), proof.centred(op.b)
    if not is_fixed(format_of(op.a), format_of(op.b), format_of(op.result)):
        _dyadic_product(proof, op, a | b)
        return None
    fracs = np.broadcast_arrays(*map(_fracs, (op.a, op.b, op.result)))
    sums: list[Interval] = []
    results: list[Interval] = []
    for e_a, e_b, e_y in np.unique(np.stack([f.ravel() for f in fracs]), axis=1).T.tolist():
        common = max(e_a, e_b)
        sums.append(a.shifted(e_a - common) + b.shifted(e_b - common))
        results.append(sums[-1].shifted(common - e_y, op.rounding.data))
        for term, e in ((a, e_a), (b, e_b)):
            proof.fits(op, "an aligned operand", term.shifted(e - common - 1))
    proof.record(op, "the aligned sum", _hull(sums))
    return _hull(results) - -format_of(op.result).zero_point


def _hull(intervals: list[Interval]) -> Interval:
    found = intervals[0]
    for each in intervals[1:]:
        found |= each
    return found


def _mul(proof: _Proof, op: ops.MulOp) -> Interval | None:
    product = proof.record(op, "the product", proof.centred(op.a) * proof.centred(op.b))
    if not is_fixed(format_of(op.a), format_of(op.b), format_of(op.result)):
        _dyadic_product(proof, op, product)
        return None
    shifts = (_fracs(op.a) + _fracs(op.b) - _fracs(op.result)).ravel()
    ends = [int(shifts.min()), int(shifts.max())]
    return _rescaled(product, ends, format_of(op.result).zero_point, op.rounding.data)


def _clamp(proof: _Proof, op: ops.ClampOp) -> Interval:
    return proof.of(op.x).clamped(op.min.value.data, op.max.value.data)


def _softmax_exp(proof: _Proof, op: ops.SoftmaxExpOp) -> Interval:
    """At least the row's maximum has p = 255; the sum is the second result."""
    total = Interval(255, 255 * shape_of(op.s)[-1])
    proof.ranges[op.sum] = proof.fits(op, "the row sum", total, _storage(op.sum))
    return Interval(0, 255)


def _normalize(proof: _Proof, op: ops.NormalizeOp) -> None:
    """acc * R with R = floor(2^(nb + 15) / S) <= 2^16."""
    proof.record(op, "the product with the reciprocal", proof.of(op.acc).times(1 << 16))


def _shiftmax(proof: _Proof, op: ops.ShiftmaxOp) -> Interval:
    """Exponentials reach step * 2^n, of which a row sums L; codes are never negative."""
    step = int(1 / float(format_of(op.s).channel_scales())) + 1
    row = Interval(0, (step << op.n.value.data) * shape_of(op.s)[-1])
    proof.fits(op, "the row sum", row)
    return Interval(0, _storage(op.result)[1])


def _lut(proof: _Proof, op: ops.LutOp) -> Interval:
    """The entries that the codes of x reach; interpolation stays between its two knots."""
    table = proof.array(op.table)
    if table is None:
        return proof.of(op.table)
    x, first = proof.of(op.x), format_of(op.x).bounds[0]
    low, high = x.low - first, x.high - first
    if table.size == 257:
        low, high = low >> 8, (high >> 8) + 1
    reached = table[low : high + 1]
    return Interval(int(reached.min()), int(reached.max()))


def _layernorm(proof: _Proof, op: ops.LayerNormOp) -> None:
    """docs/numerics.md 6.3: C * sum X^2, V, (C X - S1) R and N gamma + beta in 64 bits.

    V << 12 may need more: a root taken digit by digit never forms it.
    For values in an interval of width w, V <= (C w / 2)^2, and a row's largest deviation is at most
    sqrt(C - 1) standard deviations, so |N| <= 1024 sqrt(C - 1), times 64/63 for the floor of T.
    """
    channels, x = shape_of(op.x)[-1], proof.centred(op.x)
    if op.mode.data == "ivit":
        beta = proof.of(op.beta)
        row = Interval(-(1 << 30) - (1 << 16), (1 << 30) + (1 << 16))
        _accumulator(proof, op, row + beta)
        return
    format_ = format_of(op.x)
    fracs = format_.channel_fracs() if isinstance(format_, FixedType) else None
    aligned = x.shifted(int(fracs.min() - fracs.max())) | x if fracs is not None else x
    squares = Interval(0, 2 * (channels * aligned.magnitude) ** 2)
    proof.fits(op, "C * sum X^2", squares)
    width = aligned.high - aligned.low
    variance = Interval(0, (channels * width) ** 2 // 4 + op.eps_q.value.data)
    proof.fits(op, "the variance V", variance)
    deviation = channels * width
    proof.fits(op, "(C X - sum X) * R", Interval(-deviation, deviation).times(1 << 17))
    most = isqrt((1024 * 64) ** 2 * (channels - 1)) // 63 + 2
    proof.record(op, "N * gamma + beta", _affine(proof, op, most))


def _affine(proof: _Proof, op: ops.LayerNormOp, most: int) -> Interval:
    """N * gamma + (beta << (10 + e_g - e_b)) for |N| <= most, from actual gamma and beta."""
    import numpy as np

    gamma, beta = proof.array(op.gamma), proof.array(op.beta)
    shifts = 10 + _fracs(op.gamma) - _fracs(op.beta)
    if gamma is None or beta is None:
        reach = most * proof.of(op.gamma).magnitude
        return Interval(-reach, reach) + proof.of(op.beta).shifted(-int(shifts.max()))
    reaches = most * np.abs(gamma.astype(np.int64))
    offsets = np.broadcast_to(shifts, beta.shape).tolist()
    sums = [
        Interval(-reach + (b << s), reach + (b << s))
        for reach, b, s in zip(reaches.tolist(), beta.tolist(), offsets, strict=True)
    ]
    return _hull(sums)


def _average(proof: _Proof, op: ops.MeanOp | ops.AvgPool2dOp, count: int) -> Interval:
    """sum << max(0, s) and count << max(0, -s), s = e_y - e_x; a mean stays inside its values."""
    x = proof.centred(op.x)
    (shift,) = _shifts(op.x, op.result)
    sums = proof.record(op, "the sum", x.with_zero().times(count))
    proof.fits(op, "the scaled sum", sums.times(1 << max(0, -shift) + 1))
    proof.fits(op, "the scaled divisor", Interval(0, count << max(0, shift) + 1))
    return _rescaled(x.with_zero(), [shift], format_of(op.result).zero_point)


def _mean(proof: _Proof, op: ops.MeanOp) -> Interval:
    return _average(proof, op, prod(shape_of(op.x)[axis] for axis in integers(op.axes)))


def _avg_pool(proof: _Proof, op: ops.AvgPool2dOp) -> Interval:
    return _average(proof, op, prod(integers(op.kernel)))


def _resize(proof: _Proof, op: ops.ResizeOp) -> Interval:
    """Bilinear weights are not negative and sum to 2^16."""
    if op.mode.data == "nearest":
        return proof.of(op.x)
    x = proof.centred(op.x)
    proof.record(op, "the weighted sum", x.with_zero().times(1 << 16))
    zero = format_of(op.result).zero_point
    return _rescaled(x, _shifts(op.x, op.result), zero, op.rounding.data)


def _moved(proof: _Proof, op: Operation) -> Interval | None:
    if not isinstance(tensor_type(op.results[0]).get_element_type(), QuantizedType):
        return None
    found = _hull([proof.of(operand) for operand in op.operands])
    if isinstance(op, ops.PadOp):
        zero = format_of(op.x).zero_point
        found |= Interval(zero, zero)
    return found


RULES: dict[type[Operation], Rule] = {
    ops.ConstantOp: _constant,
    ops.LinearOp: _weighted,
    ops.Conv2dOp: _weighted,
    ops.ConvTranspose2dOp: _weighted,
    ops.MatmulOp: _matmul,
    ops.Log2MatmulOp: _log2_matmul,
    ops.LinearAttnOp: _linear_attn,
    ops.PotRequantOp: _pot_requant,
    ops.RequantOp: _requant,
    ops.AddOp: _add,
    ops.MulOp: _mul,
    ops.ClampOp: _clamp,
    ops.SoftmaxExpOp: _softmax_exp,
    ops.NormalizeOp: _normalize,
    ops.ShiftmaxOp: _shiftmax,
    ops.LutOp: _lut,
    ops.LayerNormOp: _layernorm,
    ops.MeanOp: _mean,
    ops.AvgPool2dOp: _avg_pool,
    ops.ResizeOp: _resize,
    ops.MaxPool2dOp: _moved,
    ops.ReshapeOp: _moved,
    ops.TransposeOp: _moved,
    ops.SliceOp: _moved,
    ops.ConcatOp: _moved,
    ops.PadOp: _moved,
    ops.GatherOp: _moved,
    ops.ReinterpretOp: _moved,
}
"""How each operation bounds its result. Operations without a rule saturate to their storage."""
