"""Operations on rows through lowering and emulator: the bits of the reference."""

from __future__ import annotations

import numpy as np
import pytest
from accel_net import ARCHITECTURES, Format, Net, compare, random_codes
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.ir import Operation

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, Log2Type
from vit_opt.dialects.vit.targets import P2VIT, AccelTarget
from vit_opt.dialects.vit_accel import isa

seeds = st.integers(0, 2**32 - 1)
architectures = st.sampled_from(ARCHITECTURES)
LENGTHS = st.sampled_from([1, 2, 7, 16, 17, 197])
shapes = st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 3, 197]), LENGTHS)
STORAGES = ("i4", "i8", "ui8", "i16", "i32", "i64")
roundings = st.sampled_from(["rhu", "rhe", "floor"])


@st.composite
def formats(
    draw: st.DrawFn, shape: tuple[int, ...], storages: tuple[str, ...] = STORAGES
) -> FixedType:
    """A format for a tensor, per tensor or per channel, small zero points where allowed."""
    storage = draw(st.sampled_from(storages))
    axis = draw(st.sampled_from([None, None, len(shape) - 1, 0]))
    count = 1 if axis is None else shape[axis]
    fracs = draw(st.lists(st.integers(-2, 9), min_size=count, max_size=count))
    zp = draw(st.integers(0, 7)) if storage in ("i4", "i8", "ui8", "i16") else 0
    return FixedType(storage, fracs[0] if axis is None else fracs, zp, axis)


def unary(
    cls: type[Operation],
    seed: int,
    shape: tuple[int, ...],
    x: FixedType,
    y: Format,
    arch: AccelTarget,
    **properties: object,
) -> None:
    """One operation of one operand."""
    rng = np.random.default_rng(seed)
    net = Net((shape, x))
    (result,) = net.add(cls, net.args, (shape, y), **properties)
    compare(net, [result], [random_codes(rng, shape, x)], arch)


@settings(max_examples=50, deadline=None)
@given(seeds, architectures, st.data(), shapes, roundings)
def test_pot_requant(
    seed: int, arch: AccelTarget, data: st.DataObject, shape: tuple[int, ...], rounding: str
) -> None:
    x, y = data.draw(formats(shape)), data.draw(formats(shape))
    if x.channel_axis not in (None, y.channel_axis) and y.channel_axis is not None:
        y = FixedType(y.storage, 3, y.zero_point)
    unary(ops.PotRequantOp, seed, shape, x, y, arch, rounding=rounding)


@settings(max_examples=40, deadline=None)
@given(
    seeds,
    architectures,
    st.data(),
    shapes,
    st.sampled_from([ops.AddOp, ops.MulOp]),
    st.sampled_from(["same", "row", "column", "scalar", "batch"]),
    roundings,
)
def test_add_and_mul_with_broadcasting(
    seed: int,
    arch: AccelTarget,
    data: st.DataObject,
    shape: tuple[int, ...],
    cls: type[Operation],
    kind: str,
    rounding: str,
) -> None:
    other = {
        "same": shape,
        "row": shape[-1:],
        "column": (*shape[:-1], 1),
        "scalar": (1,),
        "batch": (1, *shape[1:]),
    }[kind]
    narrow = ("i8", "ui8", "i16")
    a = data.draw(formats(shape, (*narrow, "i32")))
    y = data.draw(formats(shape, narrow))
    axes = {f.channel_axis for f in (a, y)} - {None}
    if len(axes) > 1:
        y = FixedType(y.storage, 2, y.zero_point)
    b = FixedType(data.draw(st.sampled_from(narrow)), data.draw(st.integers(-2, 9)), 1)
    rng = np.random.default_rng(seed)
    swap = data.draw(st.booleans())
    operands = [(other, b), (shape, a)] if swap else [(shape, a), (other, b)]
    net = Net(*operands)
    (result,) = net.add(cls, net.args, (shape, y), rounding=rounding)
    compare(net, [result], [random_codes(rng, s, f) for s, f in operands], arch)


@settings(max_examples=20, deadline=None)
@given(seeds, architectures, shapes, st.sampled_from(STORAGES))
def test_clamp(seed: int, arch: AccelTarget, shape: tuple[int, ...], storage: str) -> None:
    f = FixedType(storage, 3)
    low, high = f.bounds
    unary(ops.ClampOp, seed, shape, f, f, arch, min=max(low, -3), max=min(high, 10**6))


@settings(max_examples=25, deadline=None)
@given(
    seeds,
    architectures,
    shapes,
    st.sampled_from(["i8", "ui8", "i16", "i32", "i64"]),
    st.lists(st.tuples(st.integers(-40, 300), st.integers(0, 100)), min_size=1, max_size=3),
    st.sampled_from([ops.PotRequantOp, ops.AddOp]),
)
def test_clamps_behind_the_shifters_are_theirs(
    seed: int,
    arch: AccelTarget,
    shape: tuple[int, ...],
    storage: str,
    limits: list[tuple[int, int]],
    cls: type[Operation],
) -> None:
    rng = np.random.default_rng(seed)
    x, y = FixedType("i16", 4), FixedType(storage, 2)
    count = 2 if cls is ops.AddOp else 1
    net = Net(*((shape, x) for _ in range(count)))
    (result,) = net.add(cls, net.args, (shape, y))
    low, high = y.bounds
    for smallest, span in limits:
        smallest = min(max(smallest, low), high)
        properties = {"min": smallest, "max": min(smallest + span, high)}
        (result,) = net.add(ops.ClampOp, [result], (shape, y), **properties)
    image, _ = compare(net, [result], [random_codes(rng, shape, x) for _ in range(count)], arch)
    apart = storage == "i64"
    assert any(isinstance(inst, isa.Clamp) for inst in image.code) == apart


@settings(max_examples=30, deadline=None)
@given(
    seeds,
    architectures,
    shapes,
    st.sampled_from(["i8", "ui8", "i16"]),
    st.sampled_from(["i8", "ui8", "i16"]),
)
def test_tables(
    seed: int, arch: AccelTarget, shape: tuple[int, ...], storage: str, result: str
) -> None:
    rng = np.random.default_rng(seed)
    x = FixedType(storage, 4, zp=2)
    y = FixedType("i16" if storage == "i16" else result, 5, zp=1)
    net = Net((shape, x))
    table = net.constant(random_codes(rng, (257 if storage == "i16" else 256,), y), y)
    (value,) = net.add(ops.LutOp, [net.args[0], table], (shape, y))
    compare(net, [value], [random_codes(rng, shape, x)], arch)


@settings(max_examples=20, deadline=None)
@given(seeds, architectures, shapes, st.sampled_from(["i8", "i16"]), st.integers(0, 15))
def test_shift_gelu(
    seed: int, arch: AccelTarget, shape: tuple[int, ...], storage: str, frac: int
) -> None:
    y = FixedType("i16" if storage == "i8" else "i32", frac + 7)
    unary(ops.ShiftGeluOp, seed, shape, FixedType(storage, frac), y, arch)


@settings(max_examples=30, deadline=None)
@given(seeds, architectures, shapes, st.sampled_from(["i8", "i16", "i32"]), st.integers(-3, 12))
def test_deferred_softmax(
    seed: int, arch: AccelTarget, shape: tuple[int, ...], storage: str, frac: int
) -> None:
    rng = np.random.default_rng(seed)
    s = FixedType(storage, frac)
    net = Net((shape, s))
    sums = (*shape[:-1], 1)
    p, total = net.add(
        ops.SoftmaxExpOp, net.args, (shape, FixedType("ui8", 0)), (sums, FixedType("ui32", 0))
    )
    compare(net, [p, total], [random_codes(rng, shape, s)], arch)


@settings(max_examples=20, deadline=None)
@given(seeds, architectures, shapes, st.integers(0, 8), st.sampled_from(["i8", "i16", "log2"]))
def test_softmax_by_shifts(
    seed: int, arch: AccelTarget, shape: tuple[int, ...], frac: int, result: str
) -> None:
    x = FixedType("i8", frac)
    if result == "log2":
        unary(ops.Log2SoftmaxOp, seed, shape, x, Log2Type(), arch)
    else:
        y = FixedType(result, 7 if result == "i8" else 15)
        unary(ops.ShiftmaxOp, seed, shape, x, y, arch)


@settings(max_examples=40, deadline=None)
@given(
    seeds,
    architectures,
    st.data(),
    st.tuples(st.just(1), st.sampled_from([1, 3, 197]), st.sampled_from([1, 2, 17, 96, 197])),
    st.sampled_from(["i8", "ui8", "i16"]),
    roundings,
)
def test_layernorm(
    seed: int,
    arch: AccelTarget,
    data: st.DataObject,
    shape: tuple[int, int, int],
    storage: str,
    rounding: str,
) -> None:
    rng = np.random.default_rng(seed)
    channels = shape[-1]
    per_channel = data.draw(st.lists(st.booleans(), min_size=4, max_size=4))

    def fracs(index: int, low: int, high: int, axis: int) -> tuple[object, int | None]:
        if per_channel[index]:
            return rng.integers(low, high, channels), axis
        return int(rng.integers(low, high)), None

    def fixed(kind: str, index: int, low: int, high: int, axis: int, zp: int = 0) -> FixedType:
        values, where = fracs(index, low, high, axis)
        return FixedType(kind, values, zp, where)

    x = fixed(storage, 0, 3, 7, 2, zp=5)
    y = fixed("i8", 1, 3, 6, 2, zp=-2)
    gain = fixed("i8", 2, 5, 7, 0)
    offset = fixed("i32", 3, 9, 12, 0)
    net = Net((shape, x))
    gamma = net.constant(random_codes(rng, (channels,), gain), gain)
    beta = net.constant(rng.integers(-9999, 9999, channels), offset)
    (value,) = net.add(
        ops.LayerNormOp,
        [net.args[0], gamma, beta],
        (shape, y),
        eps_q=int(rng.integers(0, 5000)),
        rounding=rounding,
    )
    codes = random_codes(rng, shape, x)
    codes[:, 0] = codes[:, 0, :1]
    compare(net, [value], [codes], arch)


@pytest.mark.parametrize("storage", ["i8", "i16"])
def test_layernorm_of_rows_whose_radicand_leaves_64_bits(storage: str) -> None:
    """As many channels as before the classifier of EfficientViT-B2."""
    rng = np.random.default_rng(3)
    shape, x = (1, 5, 2560), FixedType(storage, 4)
    net = Net((shape, x))
    gamma_format = FixedType("i16", 8)
    gamma = net.constant(random_codes(rng, shape[-1:], gamma_format), gamma_format)
    beta = net.constant(rng.integers(-9999, 9999, shape[-1]), FixedType("i32", 12))
    y = FixedType("i8", 4)
    (value,) = net.add(ops.LayerNormOp, [net.args[0], gamma, beta], (shape, y), eps_q=2416)
    codes = random_codes(rng, shape, x)
    codes[:, 1], codes[:, 2] = np.where(np.arange(2560) % 2, *x.bounds), 7
    compare(net, [value], [codes], P2VIT)


def test_published_forms_are_refused() -> None:
    net = Net(((2, 8), FixedType("i8", 4)))
    (y,) = net.add(ops.ShiftGeluOp, net.args, ((2, 8), FixedType("i16", 11)), mode="ivit")
    with pytest.raises(VitError, match=r"vit.shift_gelu: mode 'ivit' has no unit"):
        compare(net, [y], [np.zeros((2, 8), np.int8)])


@pytest.mark.parametrize("viewed", [False, True])
def test_a_sum_leaves_what_an_earlier_operation_reads_later(viewed: bool) -> None:
    """A chain behind a product reaches past operations that stand before its end: they still read
    the operand whose place a sum would take, by itself or as another view."""
    rng = np.random.default_rng(6)
    i8, wide = FixedType("i8", 5), FixedType("i16", 6)
    shape = (1, 10, 7, 12)
    net = Net((shape, i8))
    weight = net.constant(random_codes(rng, (12, 1, 1, 12), i8), i8)
    options = {"strides": [1, 1], "pads": [0] * 4}
    acc = (shape, FixedType("i32", 10))
    (sums,) = net.add(ops.Conv2dOp, [net.args[0], weight], acc, **options)
    (x,) = net.add(ops.PotRequantOp, [sums], (shape, i8))
    if viewed:
        (other,) = net.add(ops.ReshapeOp, [x], ((1, 70, 12), i8))
        (other,) = net.add(ops.ReshapeOp, [other], (shape, i8))
    else:
        (other,) = net.add(ops.ConcatOp, [x], (shape, i8), axis=3)
    (scaled,) = net.add(ops.PotRequantOp, [x], (shape, wide))
    (total,) = net.add(ops.AddOp, [scaled, x], (shape, i8))
    (again,) = net.add(ops.Conv2dOp, [other, weight], acc, **options)
    compare(net, [total, again], [random_codes(rng, shape, i8)], P2VIT)
