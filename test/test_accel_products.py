"""Products through lowering and emulator: the bits of the reference for every size and format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from accel_net import ARCHITECTURES, SMALL, Net, compare, random_codes
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.backends.accel.unrolling import unroll
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, Log2Type, ScaledType
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel import isa

SIZES = st.sampled_from([1, 2, 3, 7, 8, 9, 31, 64, 65])
seeds = st.integers(0, 2**32 - 1)
architectures = st.sampled_from(ARCHITECTURES)
inputs = st.sampled_from(
    [FixedType("i8", 5), FixedType("ui8", 4, zp=77), FixedType("i8", 3, zp=-9), FixedType("i16", 9)]
)


def linear_net(
    rng: np.random.Generator,
    size: tuple[int, int, int],
    x: FixedType,
    bits: str,
    per_channel: bool,
    weight_zp: int = 0,
) -> tuple[Net, ops.LinearOp, FixedType]:
    """A linear layer with bias: the net, the accumulator value, its format."""
    rows, depth, cols = size
    fracs = rng.integers(2, 7, cols) if per_channel else 4
    w = FixedType(bits, fracs, weight_zp, 0 if per_channel else None)
    acc = FixedType("i32", w.channel_fracs() + x.frac, axis=1 if per_channel else None)
    net = Net(((rows, depth), x), ((rows, cols), FixedType("i16", 6)))
    weight = net.constant(random_codes(rng, (cols, depth), w), w)
    bias = net.constant(rng.integers(-9999, 9999, cols), acc.with_axis(0) if per_channel else acc)
    (value,) = net.add(ops.LinearOp, [net.args[0], weight, bias], ((rows, cols), acc))
    return net, value, acc


@settings(max_examples=30, deadline=None)
@given(
    seeds,
    architectures,
    st.tuples(SIZES | st.just(197), SIZES | st.just(300), SIZES | st.just(130)),
    inputs,
    st.sampled_from(["i8", "i4"]),
    st.booleans(),
    st.sampled_from(["acc", "requant", "residual"]),
)
def test_linear(
    seed: int,
    arch: AccelTarget,
    size: tuple[int, int, int],
    x: FixedType,
    bits: str,
    per_channel: bool,
    end: str,
) -> None:
    rng = np.random.default_rng(seed)
    net, acc, _ = linear_net(rng, size, x, bits, per_channel)
    shape = (size[0], size[2])
    result = acc
    if end == "requant":
        (result,) = net.add(ops.PotRequantOp, [acc], (shape, FixedType("ui8", 1, zp=40)))
    elif end == "residual":
        (result,) = net.add(ops.AddOp, [acc, net.args[1]], (shape, FixedType("i16", 5)))
        (result,) = net.add(ops.ClampOp, [result], (shape, FixedType("i16", 5)), min=0, max=999)
    data = [random_codes(rng, (size[0], size[1]), x), random_codes(rng, shape, FixedType("i16", 6))]
    compare(net, [result], data, arch)


def test_long_reduction_is_split() -> None:
    """A reduction that no buffer holds accumulates over parts, without another rounding."""
    rng = np.random.default_rng(1)
    net, acc, _ = linear_net(rng, (5, 4001, 17), FixedType("i8", 5), "i4", True)
    data = [random_codes(rng, (5, 4001), FixedType("i8", 5)), np.zeros((5, 17), np.int16)]
    image, _ = compare(net, [acc], data, SMALL)
    assert any(getattr(inst, "accumulate", 0) for inst in image.code)


@pytest.mark.parametrize("lanes", [5, 7])
def test_pairs_of_codes_are_not_cut(lanes: int) -> None:
    """Parts of a reduction are multiples of the lanes, but never odd where two codes share a byte."""
    arch = replace(SMALL, lanes=lanes, name="odd lanes")
    rng = np.random.default_rng(1)
    net, acc, _ = linear_net(rng, (5, 1001, 17), FixedType("i8", 5), "i4", True)
    data = [random_codes(rng, (5, 1001), FixedType("i8", 5)), np.zeros((5, 17), np.int16)]
    image, _ = compare(net, [acc], data, arch)
    parts = {inst.k for inst in image.code if isinstance(inst, isa.Matmul)}
    assert len(parts) == 2 and max(parts) % (2 * lanes) == 0


def test_weight_zero_point_is_folded() -> None:
    rng = np.random.default_rng(2)
    net, acc, _ = linear_net(rng, (9, 33, 10), FixedType("ui8", 5, zp=3), "i8", False, 100)
    data = [random_codes(rng, (9, 33), FixedType("ui8", 5, zp=3)), np.zeros((9, 10), np.int16)]
    compare(net, [acc], data)


def test_accumulators_stay_on_chip() -> None:
    """Nothing but the 8-bit result of a linear layer is stored."""
    rng = np.random.default_rng(3)
    x = FixedType("i8", 5)
    net, acc, _ = linear_net(rng, (197, 64, 130), x, "i8", True)
    (y,) = net.add(ops.PotRequantOp, [acc], ((197, 130), FixedType("i8", 1)))
    data = [random_codes(rng, (197, 64), x), np.zeros((197, 130), np.int16)]
    image, ran = compare(net, [y], data)
    code, _ = unroll(image.code, image.origins)
    stored = sum(inst.runs() * inst.run for inst in code if isinstance(inst, isa.Store))
    assert stored == 197 * 130
    assert image.macs == ran.stats.macs == 197 * 64 * 130


@settings(max_examples=30, deadline=None)
@given(
    seeds,
    architectures,
    st.sampled_from([(), (1,), (2, 3)]),
    st.tuples(SIZES, SIZES | st.just(197), SIZES),
    inputs,
    inputs,
    st.booleans(),
)
def test_matmul(
    seed: int,
    arch: AccelTarget,
    lead: tuple[int, ...],
    size: tuple[int, int, int],
    a: FixedType,
    b: FixedType,
    transposed: bool,
) -> None:
    rng = np.random.default_rng(seed)
    m, k, n = size
    shape = (*lead, n, k) if transposed else (*lead, k, n)
    net = Net(((*lead, m, k), a), (shape, b))
    (acc,) = net.add(
        ops.MatmulOp,
        net.args,
        ((*lead, m, n), FixedType("i32", a.frac + b.frac)),
        transpose_b=transposed,
    )
    # 16-bit codes kept small enough that no sum leaves the accumulator, which is an error.
    data = [
        codes // 16 if (codes := random_codes(rng, shape_of, f)).itemsize == 2 else codes
        for shape_of, f in (((*lead, m, k), a), (shape, b))
    ]
    compare(net, [acc], data, arch)


@settings(max_examples=20, deadline=None)
@given(seeds, architectures, SIZES, st.sampled_from([1, 5, 64, 197]), st.sampled_from([1, 16, 33]))
def test_attention(seed: int, arch: AccelTarget, tokens: int, length: int, dim: int) -> None:
    """Scores, exponentials and the normalised product, with a mask that broadcasts over heads."""
    rng = np.random.default_rng(seed)
    heads = FixedType("i8", 4)
    net = Net(
        ((2, tokens, dim), heads),
        ((2, length, dim), heads),
        ((2, length, dim), heads),
        ((1, tokens, length), FixedType("i16", 6)),
    )
    q, k, v, mask = net.args
    scores, rows = (2, tokens, length), (2, tokens, 1)
    (s,) = net.add(ops.MatmulOp, [q, k], (scores, FixedType("i32", 8)), transpose_b=True)
    (s,) = net.add(ops.ReinterpretOp, [s], (scores, FixedType("i32", 11)), exponent=-3)
    (s,) = net.add(ops.AddOp, [s, mask], (scores, FixedType("i32", 10)))
    p, total = net.add(
        ops.SoftmaxExpOp, [s], (scores, FixedType("ui8", 0)), (rows, FixedType("ui32", 0))
    )
    (y,) = net.add(ops.MatmulOp, [p, v], ((2, tokens, dim), FixedType("i32", 4)))
    (y,) = net.add(ops.NormalizeOp, [y, total], ((2, tokens, dim), FixedType("i8", 5, zp=3)))
    data = [random_codes(rng, (2, n, dim), heads) for n in (tokens, length, length)]
    data.append(random_codes(rng, (1, tokens, length), FixedType("i16", 6)))
    compare(net, [y], data, arch)


@settings(max_examples=15, deadline=None)
@given(seeds, architectures, SIZES, st.sampled_from([1, 5, 197]), st.sampled_from([0, 7]))
def test_log2_matmul(seed: int, arch: AccelTarget, tokens: int, length: int, zp: int) -> None:
    rng = np.random.default_rng(seed)
    v = FixedType("i8", 4, zp=zp)
    net = Net(((2, tokens, length), Log2Type()), ((2, length, 9), v))
    (acc,) = net.add(ops.Log2MatmulOp, net.args, ((2, tokens, 9), FixedType("i32", 18)))
    data = [
        random_codes(rng, (2, tokens, length), Log2Type()),
        random_codes(rng, (2, length, 9), v),
    ]
    compare(net, [acc], data, arch)


@settings(max_examples=20, deadline=None)
@given(
    seeds,
    architectures,
    st.sampled_from([1, 5, 49, 197]),
    st.sampled_from([1, 8, 16]),
    st.sampled_from(["recip", "pot"]),
    st.sampled_from(["rhu", "rhe", "floor"]),
)
def test_linear_attention(
    seed: int, arch: AccelTarget, tokens: int, dim: int, divisor: str, rounding: str
) -> None:
    rng = np.random.default_rng(seed)
    f, shape = FixedType("i8", 4), (2, tokens, dim)
    net = Net((shape, f), (shape, f), (shape, f))
    (y,) = net.add(
        ops.LinearAttnOp,
        net.args,
        (shape, FixedType("i8", 6, zp=2)),
        kv_shift=8,
        ksum_shift=5,
        divisor=divisor,
        rounding=rounding,
    )
    q, k = (np.maximum(random_codes(rng, shape, f), 0) for _ in range(2))
    q[:, 0] = 0
    compare(net, [y], [q, k, random_codes(rng, shape, f)], arch)


def test_scaled_formats_are_refused() -> None:
    net = Net(((2, 3), ScaledType("i8", 0.3)))
    (y,) = net.add(ops.RequantOp, [net.args[0]], ((2, 3), ScaledType("i8", 0.7)))
    with pytest.raises(VitError, match=r"not !vit.fixed; run pot-fold first"):
        compare(net, [y], [np.zeros((2, 3), np.int8)])


def test_products_need_constant_weights() -> None:
    f = FixedType("i8", 4)
    net = Net(((2, 3), f), ((4, 3), f))
    (y,) = net.add(ops.LinearOp, net.args, ((2, 4), FixedType("i32", 8)))
    with pytest.raises(VitError, match=r"vit.linear: weight is not a constant"):
        compare(net, [y], [np.zeros((2, 3), np.int8), np.zeros((4, 3), np.int8)])


@settings(max_examples=20, deadline=None)
@given(seeds, architectures, st.permutations(range(4)), st.booleans())
def test_linear_of_a_transposed_view(
    seed: int, arch: AccelTarget, order: list[int], flatten: bool
) -> None:
    """Rows without a common stride are copied, then multiplied."""
    rng = np.random.default_rng(seed)
    f, w, shape = FixedType("i8", 5), FixedType("i8", 4), (2, 3, 4, 5)
    net = Net((shape, f))
    turned = [shape[i] for i in order]
    (x,) = net.add(ops.TransposeOp, net.args, (turned, f), permutation=order)
    if flatten:
        turned = [turned[0], turned[1] * turned[2], turned[3]]
        (x,) = net.add(ops.ReshapeOp, [x], (turned, f))
    weight = net.constant(random_codes(rng, (7, turned[-1]), w), w)
    (y,) = net.add(ops.LinearOp, [x, weight], ((*turned[:-1], 7), FixedType("i32", 9)))
    compare(net, [y], [random_codes(rng, shape, f)], arch)
