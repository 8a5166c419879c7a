"""C kernels of accumulating operations, with and without an epilogue, against the definition."""

import numpy as np
import pytest
from c_cases import Case, FixedType, Log2Type, codes, ops
from hypothesis import given, settings
from hypothesis import strategies as st

EXAMPLES = settings(max_examples=60, deadline=None)
LENGTHS = st.sampled_from([1, 2, 3, 15, 16, 17, 31, 33, 64, 65, 197])
ROUNDINGS = st.sampled_from(["rhu", "rhe", "floor"])
SEEDS = st.integers(0, 2**32 - 1)
NARROW = st.sampled_from(["i8", "ui8", "i16", "ui16"])


def format_with(storage: str, frac: int, zp: int) -> FixedType:
    low, high = FixedType(storage, 0).bounds
    return FixedType(storage, frac, zp=max(low, min(high, zp)))


def small(rng: np.random.Generator, format_: FixedType, shape: tuple[int, ...]) -> np.ndarray:
    """Codes; those of 16 bits stay near the zero point, so that int32 holds every sum."""
    values = codes(rng, format_, shape)
    if format_.storage.width.data == 8:
        return values
    low, high = format_.bounds
    return np.clip(values % 512 - 256 + format_.zero_point, low, high)


def weights(
    rng: np.random.Generator, case: Case, shape: tuple[int, ...], storage: str, per_channel: bool
) -> tuple[object, FixedType]:
    fracs = rng.integers(3, 9, shape[0])
    format_ = FixedType(storage, fracs, axis=0) if per_channel else FixedType(storage, 6)
    return case.constant(format_, codes(rng, format_, shape)), format_


def bias(rng: np.random.Generator, case: Case, x: FixedType, w: FixedType, n: int) -> object:
    fracs = x.frac + w.channel_fracs()
    format_ = FixedType("i32", fracs, axis=0) if w.is_per_channel else FixedType("i32", int(fracs))
    return case.constant(format_, rng.integers(-(2**20), 2**20, n))


@EXAMPLES
@given(
    SEEDS, LENGTHS, LENGTHS, LENGTHS, NARROW, st.sampled_from(["i8", "i4"]), st.booleans(),
    st.booleans(), st.integers(-300, 300), ROUNDINGS, NARROW, st.integers(-4, 24),
)  # fmt: skip
def test_linear(
    seed, m, n, k, storage, weight_storage, per_channel, with_bias, zp, rounding, out, frac
):
    rng = np.random.default_rng(seed)
    case = Case()
    format_ = format_with(storage, 5, zp)
    x = case.input(format_, small(rng, format_, (1, m, k)))
    w, w_format = weights(rng, case, (n, k), weight_storage, per_channel)
    b = [bias(rng, case, format_, w_format, n)] if with_bias else []
    acc = case.op(ops.LinearOp, [x, w, b])
    y = case.op(ops.PotRequantOp, [acc], format_with(out, frac, zp // 2), rounding=rounding)
    lowered = case.check(y, kernel="vit_linear_s16")
    assert len(lowered.calls) == 1


@EXAMPLES
@given(
    SEEDS, LENGTHS, LENGTHS, st.booleans(), st.sampled_from(["i8", "i16"]), st.integers(-3, 16),
    st.integers(-3, 16), ROUNDINGS, st.sampled_from(["same", "row", "rows"]), st.booleans(),
)  # fmt: skip
def test_residual_in_epilogue(
    seed, m, n, per_channel, storage, frac, frac_out, rounding, broadcast, swap
):
    rng = np.random.default_rng(seed)
    case = Case()
    x = case.input(FixedType("i8", 5), codes(rng, FixedType("i8", 5), (2, m, 19)))
    w, _ = weights(rng, case, (n, 19), "i8", per_channel)
    shape = {"same": (2, m, n), "row": (1, 1, n), "rows": (1, m, n)}[broadcast]
    format_ = FixedType(storage, frac, zp=3)
    residual = case.input(format_, codes(rng, format_, shape))
    acc = case.op(ops.LinearOp, [x, w, []])
    pair = [residual, acc] if swap else [acc, residual]
    y = case.op(ops.AddOp, pair, FixedType("i16", frac_out), rounding=rounding)
    lowered = case.check(y, kernel="vit_linear_s16")
    assert len(lowered.calls) == 1


@pytest.mark.parametrize(("storage", "zp"), [("ui16", 3), ("ui16", 65535), ("i16", -32768)])
@pytest.mark.parametrize("length", [3, 4000])
def test_wide_operands_with_zero_points(storage, zp, length) -> None:
    """The whole range of codes; the codes as they are would overflow sums that fit centred."""
    rng = np.random.default_rng(0)
    case = Case()
    format_ = FixedType(storage, 5, zp=zp)
    low, high = format_.bounds
    few = np.full((2, length), zp)
    few[:, :3] = rng.choice([low, high], (2, 3))
    x = case.input(format_, few)
    w = case.constant(FixedType("i8", 6), np.full((5, length), -128))
    case.check(case.op(ops.LinearOp, [x, w, []]))


def test_residual_on_the_grid_of_the_result() -> None:
    """The usual case takes the 32-bit path; extremes of both operands must saturate alike."""
    rng = np.random.default_rng(0)
    for zp in (0, 7):
        case = Case()
        x = case.input(FixedType("i8", 4), np.tile([[-128], [127], [0], [1]], 600))
        w = case.constant(FixedType("i8", 7), rng.choice([-128, 127], (5, 600)))
        big = case.constant(FixedType("i32", 11), np.array([2**31 - 10**7, -(2**30), 0, 5, -5]))
        residual = case.input(FixedType("i16", 8, zp=zp), rng.choice([-32768, 32767], (4, 5)))
        acc = case.op(ops.LinearOp, [x, w, [big]])
        y = case.op(ops.AddOp, [acc, residual], FixedType("i16", 8))
        case.check(y)


@EXAMPLES
@given(
    SEEDS, LENGTHS, LENGTHS, LENGTHS, NARROW, NARROW, st.booleans(), st.integers(-200, 200),
    st.booleans(),
)  # fmt: skip
def test_matmul(seed, m, n, k, a_storage, b_storage, transposed, zp, requantised) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    a_format, b_format = format_with(a_storage, 3, zp), format_with(b_storage, 4, -zp)
    a = case.input(a_format, small(rng, a_format, (2, m, k)))
    b = case.input(b_format, small(rng, b_format, (2, n, k) if transposed else (2, k, n)))
    y = case.op(ops.MatmulOp, [a, b], transpose_b=transposed or None)
    if requantised:
        y = case.op(ops.PotRequantOp, [y], FixedType("i16", -2))
    case.check(y, kernel="vit_matmul_s16")


@EXAMPLES
@given(SEEDS, LENGTHS, LENGTHS, LENGTHS)
def test_log2_matmul(seed, m, n, k) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    a = case.input(Log2Type(), rng.integers(0, 16, (2, m, k)))
    b = case.input(FixedType("i8", 4), codes(rng, FixedType("i8", 4), (2, k, n)))
    acc = case.op(ops.Log2MatmulOp, [a, b])
    case.check(case.op(ops.PotRequantOp, [acc], FixedType("i8", 3)))


@EXAMPLES
@given(SEEDS, st.data())
def test_conv2d(seed, data) -> None:
    rng = np.random.default_rng(seed)
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    depth, multiple = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    size = [draw(st.integers(d * (k - 1) + 1, 9)) for k, d in zip(kernel, dilations, strict=True)]
    storage, zp = draw(NARROW), draw(st.integers(-200, 200))
    case = Case()
    format_ = format_with(storage, 5, zp)
    x = case.input(format_, small(rng, format_, (2, *size, groups * depth)))
    shape = (groups * multiple, *kernel, depth)
    w, w_format = weights(rng, case, shape, draw(st.sampled_from(["i8", "i4"])), True)
    b = [bias(rng, case, format_, w_format, groups * multiple)] if draw(st.booleans()) else []
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    fields = {"strides": strides, "pads": pads, "dilations": dilations, "groups": groups}
    acc = case.op(ops.Conv2dOp, [x, w, b], **fields)
    y = case.op(ops.PotRequantOp, [acc], FixedType("i8", 3, zp=5))
    case.check(y)


@EXAMPLES
@given(SEEDS, st.data())
def test_depthwise(seed, data) -> None:
    rng = np.random.default_rng(seed)
    draw = data.draw
    channels = draw(st.sampled_from([2, 3, 16, 33, 64, 96]))
    kernel = draw(st.sampled_from([1, 3, 5]))
    storage, zp = draw(NARROW), draw(st.integers(-200, 200))
    case = Case()
    format_ = format_with(storage, 5, zp)
    x = case.input(format_, small(rng, format_, (1, 7, 6, channels)))
    w, w_format = weights(rng, case, (channels, kernel, kernel, 1), "i8", True)
    b = [bias(rng, case, format_, w_format, channels)] if draw(st.booleans()) else []
    stride, pad = draw(st.integers(1, 2)), draw(st.integers(0, 2))
    fields = {"strides": [stride] * 2, "pads": [pad] * 4, "groups": channels}
    acc = case.op(ops.Conv2dOp, [x, w, b], **fields)
    case.check(case.op(ops.PotRequantOp, [acc], FixedType("i8", 3)), kernel="vit_dwconv2d_s8")


@EXAMPLES
@given(SEEDS, st.data())
def test_conv_transpose2d(seed, data) -> None:
    rng = np.random.default_rng(seed)
    draw = data.draw
    groups, depth, multiple = (draw(st.integers(1, 3)) for _ in range(3))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    format_ = format_with(draw(NARROW), 5, draw(st.integers(-200, 200)))
    case = Case()
    x = case.input(format_, small(rng, format_, (1, 4, 5, groups * depth)))
    w, _ = weights(rng, case, (groups * multiple, *kernel, depth), "i8", False)
    extra = [draw(st.integers(0, s - 1)) for s in strides]
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    acc = case.op(
        ops.ConvTranspose2dOp,
        [x, w, []],
        strides=strides,
        pads=pads,
        output_padding=extra,
        groups=groups,
        shape=(1, 1, 1, 1),
    )
    case.check(case.op(ops.PotRequantOp, [acc], FixedType("i16", 6)))


@pytest.mark.parametrize(("kernel", "pad"), [(2, 0), (3, 0), (4, 1), (5, 2)])
def test_transposed_convolution_by_phases(kernel: int, pad: int) -> None:
    """Each phase is an ordinary convolution with what follows; sizes that do not divide stay."""
    rng = np.random.default_rng(kernel)
    case, eight = Case(), FixedType("i8", 5, zp=-3)
    x = case.input(eight, codes(rng, eight, (2, 5, 4, 24)))
    w, w_format = weights(rng, case, (40, kernel, kernel, 24), "i8", True)
    b = bias(rng, case, eight, w_format, 40)
    fields = {"strides": (2, 2), "pads": (pad,) * 4, "output_padding": (0, 0), "groups": 1}
    acc = case.op(ops.ConvTranspose2dOp, [x, w, [b]], shape=(1, 1, 1, 1), **fields)
    y = case.op(ops.PotRequantOp, [acc], FixedType("ui8", 2, zp=9))
    y = case.op(ops.LutOp, [y, case.constant(eight, rng.integers(-128, 128, 256))], eight)
    found = [call.kernel for call in case.check(y).calls]
    whole = kernel in (3, 5)
    assert (found == ["vit_conv2d_s16"]) == whole
    assert (found.count("vit_conv2d_s16") == 4) != whole


def test_transposed_convolution_to_one_channel_with_its_own_scale() -> None:
    """The accumulators themselves are the result, as at the end of a model for depth or masks."""
    rng = np.random.default_rng(0)
    case, eight = Case(), FixedType("i8", 5)
    x = case.input(eight, codes(rng, eight, (1, 3, 4, 8)))
    w, w_format = weights(rng, case, (1, 2, 2, 8), "i8", True)
    fields = {"strides": (2, 2), "pads": (0,) * 4, "output_padding": (0, 0), "groups": 1}
    acc = case.op(
        ops.ConvTranspose2dOp,
        [x, w, [bias(rng, case, eight, w_format, 1)]],
        shape=(1, 1, 1, 1),
        **fields,
    )
    assert case.check(acc).calls


@EXAMPLES
@given(
    SEEDS, st.sampled_from([1, 2, 7, 33, 197]), st.sampled_from([1, 5, 16, 33]), st.booleans(),
    st.sampled_from(["none", "i16", "masked"]), st.integers(2, 9), st.integers(-20, 20),
)  # fmt: skip
def test_attention(seed, length, dim, transposed, between, frac, zp) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    heads, queries = 2, 3 if seed % 2 else length
    q_format, v_format = FixedType("i8", frac - 4), FixedType("i8", 5, zp=zp)
    q = case.input(q_format, codes(rng, q_format, (heads, queries, dim)))
    k_shape = (heads, length, dim) if transposed else (heads, dim, length)
    k = case.input(FixedType("i8", 4), codes(rng, FixedType("i8", 4), k_shape))
    v = case.input(v_format, codes(rng, v_format, (heads, length, dim)))
    s = case.op(ops.MatmulOp, [q, k], transpose_b=transposed or None)
    if between == "i16":
        s = case.op(ops.PotRequantOp, [s], FixedType("i16", frac - 2))
    elif between == "masked":
        mask = codes(rng, FixedType("i16", 0), (1, queries, length))
        mask = case.constant(FixedType("i16", frac - 3), mask)
        s = case.op(ops.AddOp, [s, mask], FixedType("i16", frac - 3))
    p = case.op(ops.SoftmaxExpOp, [s])
    acc = case.op(ops.MatmulOp, [p, v])
    y = case.op(ops.NormalizeOp, [acc, p.owner.sum], FixedType("i8", 6, zp=-zp))
    lowered = case.check(y, kernel="vit_attention_u8")
    assert len(lowered.calls) == 1


@pytest.mark.parametrize("extra_reader", [False, True])
def test_attention_falls_apart_when_its_parts_are_read(extra_reader) -> None:
    """Exponentials that something else reads are stored, and the result stays the same."""
    rng = np.random.default_rng(1)
    case = Case()
    eight = FixedType("i8", 4)
    q, k, v = (case.input(eight, codes(rng, eight, (2, 9, 8))) for _ in range(3))
    s = case.op(ops.MatmulOp, [q, k], transpose_b=True)
    p = case.op(ops.SoftmaxExpOp, [s])
    acc = case.op(ops.MatmulOp, [p, v])
    y = case.op(ops.NormalizeOp, [acc, p.owner.sum], FixedType("i8", 5))
    lowered = case.check(*([y, p] if extra_reader else [y]))
    names = [call.kernel for call in lowered.calls]
    split = ["vit_matmul_s16", "vit_softmax_exp_u8", "vit_matmul_s16"]
    assert names == (split if extra_reader else ["vit_attention_u8"])


def heads_of(case: Case, x: object, shape: tuple[int, ...], permutation: tuple[int, ...]) -> object:
    """A matrix of tokens split into heads, as exporters write it."""
    split = case.op(ops.ReshapeOp, [x], shape=shape)
    return case.op(ops.TransposeOp, [split], permutation=permutation)


@EXAMPLES
@given(
    SEEDS, st.sampled_from([1, 5, 6, 7, 49, 64, 197, 257]), st.sampled_from([4, 13, 32, 64, 80]),
    st.integers(1, 3), st.sampled_from(["i8", "ui8"]), st.booleans(), st.booleans(),
)  # fmt: skip
def test_attention_through_transposes(seed, length, dim, windows, storage, fused, swap_key) -> None:
    """Heads are read and written in place: nothing is copied before or after."""
    rng = np.random.default_rng(seed)
    case, heads, width = Case(), 2, 2 * dim
    query, eight = format_with(storage, 4, 9), FixedType("i8", 4, zp=int(rng.integers(-5, 6)))
    if fused:
        packed = case.input(eight, codes(rng, eight, (windows, length, 3 * width)))
        every = heads_of(case, packed, (windows, length, 3, heads, dim), (2, 0, 3, 1, 4))
        parts = [
            case.op(
                ops.SliceOp, [every], offsets=(i, 0, 0, 0, 0),
                sizes=(1, windows, heads, length, dim), strides=(1,) * 5,
            )
            for i in range(3)
        ]  # fmt: skip
        q, k, v = (
            case.op(ops.ReshapeOp, [part], shape=(windows, heads, length, dim)) for part in parts
        )
    else:
        shape, order = (windows, length, heads, dim), (0, 2, 1, 3)
        x = [
            case.input(format_, codes(rng, format_, (windows, length, width)))
            for format_ in (query, eight, eight)
        ]
        q, v = heads_of(case, x[0], shape, order), heads_of(case, x[2], shape, order)
        k = heads_of(case, x[1], shape, (0, 2, 3, 1) if swap_key else order)
    columns = swap_key and not fused
    s = case.op(ops.MatmulOp, [q, k], transpose_b=None if columns else True)
    p = case.op(ops.SoftmaxExpOp, [s])
    acc = case.op(ops.MatmulOp, [p, v])
    y = case.op(ops.NormalizeOp, [acc, p.owner.sum], format_with(storage, 5, 3))
    y = case.op(ops.TransposeOp, [y], permutation=(0, 2, 1, 3))
    lowered = case.check(y, kernel="vit_attention_u8")
    assert len(lowered.calls) == 1


def test_a_transpose_that_something_else_reads_is_copied() -> None:
    rng = np.random.default_rng(0)
    case, eight = Case(), FixedType("i8", 4)
    x = case.input(eight, codes(rng, eight, (1, 9, 16)))
    q = heads_of(case, x, (1, 9, 2, 8), (0, 2, 1, 3))
    s = case.op(ops.MatmulOp, [q, q], transpose_b=True)
    p = case.op(ops.SoftmaxExpOp, [s])
    acc = case.op(ops.MatmulOp, [p, q])
    y = case.op(ops.NormalizeOp, [acc, p.owner.sum], eight)
    lowered = case.check(y, q)
    assert [call.kernel for call in lowered.calls] == ["vit_copy", "vit_attention_u8"]


@EXAMPLES
@given(
    SEEDS, st.integers(1, 4), st.sampled_from([1, 2, 3, 7, 16]), st.sampled_from(["i8", "ui8"]),
    st.booleans(), st.integers(0, 2), st.sampled_from(["i8", "i16"]),
)  # fmt: skip
def test_patch_embedding(seed, channels, patch, storage, read_twice, pad, out) -> None:
    """An image with planes of channels goes through a transpose into a convolution."""
    rng = np.random.default_rng(seed)
    case, format_ = Case(), format_with(storage, 5, 4)
    x = case.input(format_, codes(rng, format_, (2, channels, 3 * patch + 1, 2 * patch)))
    image = case.op(ops.TransposeOp, [x], permutation=(0, 2, 3, 1))
    w, w_format = weights(rng, case, (70, patch, patch, channels), "i8", True)
    b = [bias(rng, case, format_, w_format, 70)]
    fields = {"strides": (patch, patch), "pads": (pad,) * 4, "dilations": (1, 1), "groups": 1}
    acc = case.op(ops.Conv2dOp, [image, w, b], **fields)
    y = case.op(ops.PotRequantOp, [acc], FixedType(out, 3, zp=5))
    case.check(*([y, image] if read_twice else [y]), kernel="vit_conv2d_s16")


@EXAMPLES
@given(
    SEEDS, st.sampled_from([4, 9, 33, 49, 64, 65]), st.sampled_from([5, 8, 31, 32, 33]),
    st.integers(1, 3), st.integers(1, 3), st.integers(0, 6), st.integers(0, 6),
    st.sampled_from([4, 5, 8, 12, 13]), st.sampled_from(["i8", "ui8"]), st.booleans(),
)  # fmt: skip
def test_window_attention(
    seed, length, dim, heads, windows, bias_frac, mask_frac, frac, storage, flat
):
    """Relative position bias per head, then a mask per window: both inside of the one kernel."""
    rng = np.random.default_rng(seed)
    case, eight = Case(), FixedType("i8", 3)
    shape = (2 * windows, heads, length, dim)
    zp = int(rng.integers(-9, 200))
    query = format_with(storage, 3, zp)
    q, k, v = (codes(rng, each, shape) for each in (query, eight, eight))
    limit = 3 if flat else 2**15  # scores near each other, or far apart
    q = case.input(query, np.clip(q, query.zero_point - limit, query.zero_point + limit))
    k, v = case.input(eight, np.clip(k, -limit, limit)), case.input(eight, v)
    s = case.op(ops.MatmulOp, [q, k], transpose_b=True)
    sixteen = FixedType("i16", bias_frac + 2)
    bias_ = np.clip(codes(rng, sixteen, (1, heads, length, length)), -8 * limit, 8 * limit)
    bias_ = case.constant(sixteen, bias_)
    s = case.op(ops.AddOp, [s, bias_], FixedType("i16", bias_frac))
    s = case.op(ops.ReshapeOp, [s], shape=(2, windows, heads, length, length))
    mask_format = FixedType("i16", mask_frac)
    mask = codes(rng, mask_format, (1, windows, 1, length, length))
    mask = case.constant(mask_format, np.clip(mask, -8 * limit, 8 * limit))
    s = case.op(ops.AddOp, [s, mask], FixedType("i16", frac))
    s = case.op(ops.ReshapeOp, [s], shape=(*shape[:3], length))
    p = case.op(ops.SoftmaxExpOp, [s])
    acc = case.op(ops.MatmulOp, [p, v])
    y = case.op(ops.NormalizeOp, [acc, p.owner.sum], format_with(storage, 6, 7))
    lowered = case.check(y, kernel="vit_attention_u8")
    assert len(lowered.calls) == 1


@EXAMPLES
@given(
    SEEDS, st.sampled_from([1, 2, 16, 32, 64]), st.sampled_from([1, 4, 16, 20]),
    st.sampled_from([2, 4, 8, 24]), st.sampled_from(["i8", "ui8"]),
)  # fmt: skip
def test_pointwise_groups(seed, columns, depth, groups, storage) -> None:
    rng = np.random.default_rng(seed)
    case, format_ = Case(), format_with(storage, 5, 4)
    x = case.input(format_, codes(rng, format_, (1, 3, 5, groups * depth)))
    w, w_format = weights(rng, case, (groups * columns, 1, 1, depth), "i8", True)
    b = [bias(rng, case, format_, w_format, groups * columns)]
    fields = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "groups": groups}
    acc = case.op(ops.Conv2dOp, [x, w, b], **fields)
    case.check(case.op(ops.PotRequantOp, [acc], FixedType("i8", 3, zp=5)))
