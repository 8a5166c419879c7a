"""C kernels of softmax, LayerNorm, activations and linear attention against the definition."""

import numpy as np
import pytest
from c_cases import Case, FixedType, codes, ops
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.attributes import ScaledType

EXAMPLES = settings(max_examples=80, deadline=None)
LENGTHS = st.sampled_from([1, 2, 3, 5, 16, 17, 64, 197])
ROUNDINGS = st.sampled_from(["rhu", "rhe", "floor"])
SEEDS = st.integers(0, 2**32 - 1)


@EXAMPLES
@given(SEEDS, LENGTHS, st.sampled_from(["i8", "ui8", "i16", "i32"]), st.integers(-6, 45))
def test_softmax_exp(seed, length, storage, frac) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    format_ = FixedType(storage, frac)
    s = case.input(format_, codes(rng, format_, (3, length)))
    p = case.op(ops.SoftmaxExpOp, [s])
    case.check(p, p.owner.sum, kernel="vit_softmax_exp_u8")


@pytest.mark.parametrize("frac", range(-6, 42, 2))
def test_softmax_exp_of_the_widest_scores(frac) -> None:
    case = Case()
    low, high = FixedType("i32", 0).bounds
    rows = np.array([[low, high, 0], [low, -1, low + 1], [0, 0, -1], [high, low, low]])
    s = case.input(FixedType("i32", frac), rows)
    p = case.op(ops.SoftmaxExpOp, [s])
    case.check(p, p.owner.sum)


@EXAMPLES
@given(
    SEEDS, LENGTHS, st.integers(-6, 9), ROUNDINGS, st.sampled_from(["i8", "ui8", "i16"]),
    st.booleans(),
)  # fmt: skip
def test_normalize(seed, length, frac, rounding, storage, per_channel) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    acc_format = (
        FixedType("i32", rng.integers(0, 9, 5), axis=1) if per_channel else FixedType("i32", 5)
    )
    acc = case.input(acc_format, rng.integers(-(2**23), 2**23, (length, 5)))
    largest = int(rng.choice([256, 60000, 2**24, 2**32]))
    total = case.input(FixedType("ui32", 0), rng.integers(255, largest, (length, 1)))
    out = FixedType(storage, frac, zp=7)
    case.check(case.op(ops.NormalizeOp, [acc, total], out, rounding=rounding), kernel="vit_map")


@EXAMPLES
@given(
    SEEDS, LENGTHS, st.integers(0, 8), st.sampled_from(["i8", "i16"]),
    st.sampled_from(["i8", "i16"]), ROUNDINGS, st.sampled_from(["standard", "ivit", "real"]),
)  # fmt: skip
def test_shiftmax(seed, length, frac, storage, out, rounding, mode) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    format_ = FixedType(storage, frac)
    if mode == "real":
        format_ = ScaledType(storage, float(rng.uniform(0.004, 0.9)))
    s = case.input(format_, codes(rng, format_, (3, length)))
    result = FixedType(out, {"i8": 7, "i16": 15}[out])
    mode = "ivit" if mode == "real" else mode
    y = case.op(ops.ShiftmaxOp, [s], result, rounding=rounding, mode=mode)
    case.check(y, kernel="vit_shiftmax")


@EXAMPLES
@given(SEEDS, LENGTHS, st.integers(0, 8), st.sampled_from(["i8", "ui8", "i16"]))
def test_log2_softmax(seed, length, frac, storage) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    format_ = FixedType(storage, frac)
    s = case.input(format_, codes(rng, format_, (3, length)))
    case.check(case.op(ops.Log2SoftmaxOp, [s]), kernel="vit_log2_softmax_u8")


@EXAMPLES
@given(SEEDS, LENGTHS, st.integers(0, 15), st.sampled_from(["i8", "i16"]), st.booleans())
def test_shift_gelu(seed, length, frac, storage, published) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    # Above 7 fractional bits the published sum saturates and sigmoids exceed 1 (int32 sums).
    format_ = FixedType(storage, min(frac, 7) if published else frac)
    x = case.input(format_, codes(rng, format_, (3, length)))
    y = case.op(ops.ShiftGeluOp, [x], mode="ivit" if published else "standard")
    case.check(y, kernel="vit_shift_gelu_ivit" if published else "vit_shift_gelu")


@EXAMPLES
@given(
    SEEDS, st.sampled_from([1, 2, 3, 16, 17, 197, 2560]), st.sampled_from(["i8", "ui8", "i16"]),
    st.sampled_from(["i8", "i16"]),
    st.integers(-50, 50), ROUNDINGS, st.booleans(), st.booleans(), st.sampled_from([0, 1, 2416]),
    st.sampled_from(["i8", "i16"]),
)  # fmt: skip
def test_layernorm(
    seed, channels, storage, gamma_storage, zp, rounding, ptf, smoothed, eps, out
):  # fmt: skip
    rng = np.random.default_rng(seed)
    case = Case()
    zp = max(zp, 0) if storage == "ui8" else zp
    wide = storage == "i16"
    fracs = rng.integers(3, 6 if wide else 9, channels)
    x_format = FixedType(storage, fracs, zp=zp, axis=1) if ptf else FixedType(storage, 5, zp=zp)
    x = case.input(x_format, codes(rng, x_format, (4, channels)))
    gamma_format = FixedType(gamma_storage, rng.integers(2, 7, channels), axis=0)
    gamma = case.constant(gamma_format, codes(rng, gamma_format, (channels,)))
    beta = case.constant(FixedType("i32", 9), rng.integers(-(2**20), 2**20, channels))
    result = FixedType(out, 4, zp=3)
    if smoothed:
        result = FixedType(out, rng.integers(0, 6, channels), zp=3, axis=1)
    y = case.op(ops.LayerNormOp, [x, gamma, beta], result, eps_q=eps, rounding=rounding)
    case.check(y)


@EXAMPLES
@given(
    SEEDS, st.sampled_from([1, 2, 5, 16, 33, 65, 192, 1024, 1536, 2560]),
    st.sampled_from(["i8", "ui8", "i16"]),
    st.integers(-20, 40), st.sampled_from([0, 2416]), st.integers(1, 33),
)  # fmt: skip
def test_layernorm_of_the_residual_stream(seed, channels, storage, zp, eps, rows) -> None:
    """int16 to any code with smoothed exponents: the form that has vectorised variants."""
    rng = np.random.default_rng(seed)
    case = Case()
    x_format = FixedType("i16", 5)
    values = codes(rng, x_format, (rows, channels))
    values[0] = -32768  # no variance at the end of the range
    values[-1, ::2] = 32767
    x = case.input(x_format, values)
    gamma_format = FixedType("i16", rng.integers(2, 15, channels), axis=0)
    gamma = case.constant(gamma_format, codes(rng, gamma_format, (channels,)))
    beta = case.constant(FixedType("i32", 12), rng.integers(-(2**20), 2**20, channels))
    result = FixedType(storage, rng.integers(0, 6, channels), zp=max(zp, 0), axis=1)
    case.check(case.op(ops.LayerNormOp, [x, gamma, beta], result, eps_q=eps))


@EXAMPLES
@given(SEEDS, LENGTHS, st.sampled_from(["i8", "i16"]))
def test_layernorm_as_published(seed, channels, storage) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    x_format = FixedType(storage, 5)
    x = case.input(x_format, codes(rng, x_format, (4, channels)))
    gamma = case.constant(FixedType("i8", 5), codes(rng, FixedType("i8", 5), (channels,)))
    beta = case.constant(FixedType("i32", 9), rng.integers(-(2**20), 2**20, channels))
    y = case.op(ops.LayerNormOp, [x, gamma, beta], ScaledType("i32", 0.25), mode="ivit")
    case.check(y, kernel="vit_layernorm_ivit")


def test_layernorm_too_wide_is_refused() -> None:
    """Exponents 10 apart on int16 leave 64 bits; the backend says so instead of wrapping."""
    case = Case()
    channels = 1536
    x_format = FixedType("i16", [14] + [4] * (channels - 1), axis=1)
    x = case.input(x_format, np.zeros((1, channels), int))
    gamma = case.constant(FixedType("i8", 5), np.ones(channels, int))
    beta = case.constant(FixedType("i32", 9), np.zeros(channels, int))
    y = case.op(ops.LayerNormOp, [x, gamma, beta], FixedType("i8", 4))
    with pytest.raises(VitError, match="closer together"):
        case.lower(y)


@EXAMPLES
@given(
    SEEDS, LENGTHS, st.sampled_from([1, 3, 9, 16, 32, 64]), st.integers(-1, 14), st.integers(-1, 12),
    st.integers(-2, 6), st.booleans(), ROUNDINGS,
)  # fmt: skip
def test_linear_attn(seed, tokens, dim, kv_shift, ksum_shift, frac, pot, rounding) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    eight, top = FixedType("i8", 4), int(rng.choice([1, 2, 128]))
    q, k = (case.input(eight, rng.integers(0, top, (2, tokens, dim))) for _ in range(2))
    value_dim = dim if dim % 16 == 0 else dim + 1
    v = case.input(eight, codes(rng, eight, (2, tokens, value_dim)))
    fields = {"kv_shift": kv_shift, "ksum_shift": ksum_shift, "rounding": rounding}
    divisor = "pot" if pot else "recip"
    y = case.op(ops.LinearAttnOp, [q, k, v], FixedType("i8", frac, zp=2), divisor=divisor, **fields)
    case.check(y, kernel="vit_linear_attn")


@EXAMPLES
@given(
    SEEDS, st.sampled_from([1, 4, 7]), st.sampled_from([4, 16, 20]), st.integers(1, 3),
    st.integers(1, 6), st.booleans(),
)  # fmt: skip
def test_linear_attn_in_place(seed, side, dim, groups, shift, read_again) -> None:
    """EfficientViT's: two tensors joined along channels, heads cut out, requantised one by one."""
    rng = np.random.default_rng(seed)
    case, wide, heads = Case(), FixedType("i16", 9), 2 * groups
    half, tokens = groups * 3 * dim, side * side
    parts = []
    for _ in range(2):
        x = case.input(FixedType("i8", 4), codes(rng, FixedType("i8", 4), (1, side, side, 8)))
        weight = case.constant(FixedType("i8", 7), rng.integers(-128, 128, (half, 8)))
        value = case.op(ops.PotRequantOp, [case.op(ops.LinearOp, [x, weight, []])], wide)
        parts.append(case.op(ops.TransposeOp, [value], permutation=(0, 3, 1, 2)))
    x = case.op(ops.ConcatOp, [parts], axis=1)
    x = case.op(ops.ReshapeOp, [x], shape=(1, heads, 3 * dim, tokens))
    x = case.op(ops.TransposeOp, [x], permutation=(0, 1, 3, 2))
    operands = []
    for i in range(3):
        size = (1, heads, tokens, dim)
        cut = {"offsets": (0, 0, 0, i * dim), "sizes": size, "strides": (1,) * 4}
        value = case.op(ops.SliceOp, [x], **cut)
        value = case.op(ops.PotRequantOp, [value], FixedType("i8", 9 - shift - i))
        operands.append(case.op(ops.ClampOp, [value], min=0, max=127) if i < 2 else value)
    fields = {"kv_shift": 7, "ksum_shift": 4, "divisor": "recip"}
    y = case.op(ops.LinearAttnOp, operands, FixedType("i8", 5), **fields)
    moved = case.op(ops.TransposeOp, [y], permutation=(0, 1, 3, 2))
    moved = case.op(ops.ReshapeOp, [moved], shape=(1, heads * dim, side, side))
    moved = case.op(ops.TransposeOp, [moved], permutation=(0, 2, 3, 1))
    lowered = case.check(*[moved, operands[1]] if read_again else [moved])
    if not read_again:
        calls = ["vit_linear_s16", "vit_linear_s16", "vit_linear_attn"]
        assert [call.kernel for call in lowered.calls] == calls
