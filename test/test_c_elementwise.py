"""C kernels of requantisation, sums, products, tables and clamps against the definition."""

import numpy as np
from c_cases import Case, FixedType, codes, ops
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.dialects.vit.attributes import ScaledType

EXAMPLES = settings(max_examples=100, deadline=None)
ROUNDINGS = st.sampled_from(["rhu", "rhe", "floor"])
SEEDS = st.integers(0, 2**32 - 1)
ANY = st.sampled_from(["i4", "i8", "ui8", "i16", "ui16", "i32", "ui32", "i64"])
NARROW = st.sampled_from(["i4", "i8", "ui8", "i16", "ui16", "i32"])
FRACS = st.one_of(st.integers(-8, 20), st.integers(-70, 70))


def format_of(rng, storage: str, frac: int, axis: int | None, channels: int) -> FixedType:
    low, high = FixedType(storage, 0).bounds
    zp = int(rng.integers(max(low, -40), min(high, 40) + 1)) if high < 2**16 else 0
    if axis is None:
        return FixedType(storage, frac, zp=zp)
    return FixedType(storage, frac + rng.integers(-3, 4, channels), zp=zp, axis=axis)


@EXAMPLES
@given(SEEDS, ANY, ANY, FRACS, FRACS, ROUNDINGS, st.sampled_from([None, 0, 1, 2]), st.booleans())
def test_pot_requant(seed, source, target, frac_in, frac_out, rounding, axis, both) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    shape = (3, 5, 7)
    channels = shape[axis or 0]
    x_format = format_of(rng, source, frac_in, axis, channels)
    x = case.input(x_format, codes(rng, x_format, shape))
    y_format = format_of(rng, target, frac_out, axis if both else None, channels)
    case.check(case.op(ops.PotRequantOp, [x], y_format, rounding=rounding))


@EXAMPLES
@given(SEEDS, NARROW, NARROW, st.sampled_from([None, 1, 2]))
def test_dyadic_requant(seed, source, target, axis) -> None:
    rng = np.random.default_rng(seed)
    case = Case()

    def scaled(storage, axis):
        values = np.exp2(rng.uniform(-12, 4, 5 if axis == 1 else 7))
        zp = 0 if storage == "i32" else int(rng.integers(0, 7))
        if axis is None:
            return ScaledType(storage, float(values[0]), zp=zp)
        return ScaledType(storage, values, zp=zp, axis=axis)

    x_format = scaled(source, axis)
    x = case.input(x_format, codes(rng, x_format, (2, 5, 7)))
    case.check(case.op(ops.RequantOp, [x], scaled(target, None)))


SHAPES = st.sampled_from(
    [
        ((2, 5, 7), (2, 5, 7)),
        ((2, 5, 7), (7,)),
        ((2, 5, 7), (1, 5, 7)),
        ((2, 5, 7), (2, 1, 7)),
        ((2, 5, 7), (2, 5, 1)),
        ((1, 5, 1), (2, 1, 7)),
        ((7,), (2, 5, 7)),
        ((1,), (1, 1)),
        ((2, 300), (2, 300)),
        ((2, 3, 4, 5), (3, 1, 5)),
    ]
)


@EXAMPLES
@given(
    SEEDS, SHAPES, NARROW, NARROW, NARROW, st.integers(-4, 12), st.integers(-4, 12),
    st.integers(-8, 16), ROUNDINGS, st.booleans(),
)  # fmt: skip
def test_add_and_mul(
    seed, shapes, a_storage, b_storage, out, fa, fb, fo, rounding, product
) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    a_format, b_format = (
        format_of(rng, s, f, None, 1) for s, f in ((a_storage, fa), (b_storage, fb))
    )
    a = case.input(a_format, codes(rng, a_format, shapes[0]))
    b = case.input(b_format, codes(rng, b_format, shapes[1]))
    cls = ops.MulOp if product else ops.AddOp
    case.check(case.op(cls, [a, b], format_of(rng, out, fo, None, 1), rounding=rounding))


@EXAMPLES
@given(SEEDS, st.sampled_from([0, 1, 2]), st.booleans(), st.booleans(), st.booleans())
def test_add_and_mul_per_channel(seed, axis, a_varies, b_varies, product) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    shape = (3, 5, 7)
    a_format = format_of(rng, "i32", 9, axis if a_varies else None, shape[axis])
    b_format = format_of(rng, "i16", 5, axis if b_varies else None, shape[axis])
    out = format_of(rng, "i16", 4, axis, shape[axis])
    a = case.input(a_format, codes(rng, a_format, shape))
    b = case.input(b_format, codes(rng, b_format, shape))
    case.check(case.op(ops.MulOp if product else ops.AddOp, [a, b], out))


@EXAMPLES
@given(SEEDS, SHAPES, st.booleans(), st.booleans())
def test_dyadic_add_and_mul(seed, shapes, product, fixed_operand) -> None:
    """A scaled operand takes the published dyadic form, also beside a fixed one."""
    rng = np.random.default_rng(seed)
    case = Case()
    a_format = ScaledType("i16", float(np.exp2(rng.uniform(-9, 2))), zp=3)
    b_format = FixedType("i8", 5) if fixed_operand else ScaledType("i8", 0.0173, zp=-4)
    a = case.input(a_format, codes(rng, a_format, shapes[0]))
    b = case.input(b_format, codes(rng, b_format, shapes[1]))
    out = ScaledType("i16", float(np.exp2(rng.uniform(-9, 2))), zp=11)
    case.check(case.op(ops.MulOp if product else ops.AddOp, [a, b], out))


@EXAMPLES
@given(SEEDS, st.sampled_from(["i8", "ui8"]), st.sampled_from(["i8", "ui8", "i16", "ui16"]))
def test_lut(seed, storage, out) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    x = case.input(FixedType(storage, 4), codes(rng, FixedType(storage, 4), (2, 5, 300)))
    table = case.constant(FixedType(out, 6), codes(rng, FixedType(out, 6), (256,)))
    case.check(case.op(ops.LutOp, [x, table]), kernel="vit_map")


@EXAMPLES
@given(SEEDS)
def test_lut_of_16_bits(seed) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    wide = FixedType("i16", 8)
    x = case.input(wide, codes(rng, wide, (2, 777)))
    table = case.constant(wide, codes(rng, wide, (257,)))
    case.check(case.op(ops.LutOp, [x, table]), kernel="vit_map")


@EXAMPLES
@given(SEEDS, NARROW, st.integers(-(2**40), 2**40), st.integers(0, 300))
def test_clamp(seed, storage, low, width) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    format_ = FixedType(storage, 4)
    bounds = format_.bounds
    low = max(bounds[0], min(bounds[1], low))
    x = case.input(format_, codes(rng, format_, (2, 300)))
    y = case.op(ops.ClampOp, [x], format_, min=low, max=min(bounds[1], low + width))
    case.check(y, kernel="vit_map")


def test_a_chain_on_a_stored_tensor_is_one_pass() -> None:
    """requantise, table, residual, clamp: one call, and the intermediate values are not stored."""
    rng = np.random.default_rng(0)
    case = Case()
    x = case.input(FixedType("i16", 8), codes(rng, FixedType("i16", 8), (1, 9, 70)))
    y = case.op(ops.PotRequantOp, [x], FixedType("i8", 4))
    table = case.constant(FixedType("i8", 5), codes(rng, FixedType("i8", 5), (256,)))
    y = case.op(ops.LutOp, [y, table])
    y = case.op(ops.AddOp, [x, y], FixedType("i16", 6))
    y = case.op(ops.ClampOp, [y], min=-100, max=4000)
    lowered = case.check(y)
    assert [call.kernel for call in lowered.calls] == ["vit_map"]


@EXAMPLES
@given(
    SEEDS,
    st.integers(1, 5),
    st.sampled_from([3, 16, 33, 64]),
    st.sampled_from("lrn"),
    st.booleans(),
)
def test_branches(seed, rows, columns, head, stored) -> None:
    """One value in several formats: they are stored by the kernel that computes it."""
    rng = np.random.default_rng(seed)
    case, eight = Case(), FixedType("i8", 4)
    x = case.input(eight, codes(rng, eight, (rows, columns)))
    residual = case.input(FixedType("i16", 7), rng.integers(-(2**15), 2**15, (rows, columns)))
    if head == "l":
        weight = case.constant(FixedType("i8", 6), rng.integers(-128, 128, (columns, columns)))
        value = case.op(ops.LinearOp, [x, weight, []])
    elif head == "r":
        value = case.op(ops.AddOp, [x, residual], FixedType("i16", 6))
    else:
        value = case.op(ops.PotRequantOp, [x], FixedType("i16", rng.integers(2, 9)))
    ends = [case.op(ops.PotRequantOp, [value], FixedType("ui8", 3, zp=9))]
    wide = case.op(ops.PotRequantOp, [value], FixedType("i16", rng.integers(4, 9, columns), axis=1))
    ends.append(case.op(ops.ClampOp, [wide], min=-500, max=9000))
    ends.append(case.op(ops.AddOp, [value, residual], FixedType("i16", 5)))
    if stored:
        ends.append(case.op(ops.TransposeOp, [value], permutation=(1, 0)))
    lowered = case.check(*ends)
    assert len(lowered.calls) == 1 + stored
