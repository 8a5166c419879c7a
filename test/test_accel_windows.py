"""Convolutions, poolings, means and resizes through lowering and emulator."""

from __future__ import annotations

import numpy as np
import pytest
from accel_net import ARCHITECTURES, SMALL, Net, compare, random_codes
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from xdsl.ir import Operation
from xdsl.utils.exceptions import VerifyException

from vit_opt.backends.accel.lowering.arena import Region
from vit_opt.backends.accel.lowering.tensors import Tensor
from vit_opt.backends.accel.lowering.windows import Band, Patch, Sliding, slice_patch, slices
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, Log2Type
from vit_opt.dialects.vit.targets import P2VIT, AccelTarget
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import Space

seeds = st.integers(0, 2**32 - 1)
architectures = st.sampled_from(ARCHITECTURES)
small = st.integers(1, 3)
pair = st.tuples(small, small)
inputs = st.sampled_from(
    [FixedType("i8", 4), FixedType("ui8", 4, zp=30), FixedType("i8", 4, zp=-7)]
)


def out_size(size: int, kernel: int, stride: int, pads: int, dilation: int = 1) -> int:
    """Positions of a window."""
    return (size + pads - dilation * (kernel - 1) - 1) // stride + 1


@settings(max_examples=50, deadline=None)
@given(
    seeds,
    architectures,
    inputs,
    st.tuples(st.integers(1, 2), st.integers(1, 12), st.integers(1, 12)),
    st.sampled_from([(1, 3, 5), (1, 17, 70), (2, 2, 3), (4, 1, 1), (6, 1, 2), (3, 4, 30)]),
    pair,
    pair,
    pair,
    st.tuples(*[st.integers(0, 2)] * 4),
    st.sampled_from(["i8", "i4"]),
    st.booleans(),
)
def test_conv2d(
    seed: int,
    arch: AccelTarget,
    x: FixedType,
    image: tuple[int, int, int],
    channels: tuple[int, int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int, int, int],
    bits: str,
    requant: bool,
) -> None:
    """Any stride, padding, dilation and grouping, depthwise and with channel multipliers."""
    groups, inner, outer = channels
    out = tuple(
        out_size(image[1 + i], kernel[i], strides[i], pads[i] + pads[2 + i], dilations[i])
        for i in range(2)
    )
    assume(min(out) >= 1)
    rng = np.random.default_rng(seed)
    cout = groups * outer
    w = FixedType(bits, rng.integers(2, 6, cout), axis=0)
    acc = FixedType("i32", w.channel_fracs() + x.frac, axis=3)
    shape, result = (*image, groups * inner), (image[0], *out, cout)
    net = Net((shape, x))
    weight = net.constant(random_codes(rng, (cout, *kernel, inner), w), w)
    bias = net.constant(rng.integers(-9999, 9999, cout), acc.with_axis(0))
    (y,) = net.add(
        ops.Conv2dOp,
        [net.args[0], weight, bias],
        (result, acc),
        strides=strides,
        pads=pads,
        dilations=dilations,
        groups=groups,
    )
    if requant:
        (y,) = net.add(ops.PotRequantOp, [y], (result, FixedType("i8", 1)))
    compare(net, [y], [random_codes(rng, shape, x)], arch)


def test_planes_are_read_in_place() -> None:
    """A patch embedding of a CHW image reads its planes: no transposition moves a byte."""
    rng = np.random.default_rng(0)
    x, w = FixedType("i8", 5), FixedType("i8", 6)
    net = Net(((1, 3, 32, 32), x))
    (image,) = net.add(
        ops.TransposeOp, [net.args[0]], ((1, 32, 32, 3), x), permutation=[0, 2, 3, 1]
    )
    weight = net.constant(random_codes(rng, (10, 8, 8, 3), w), w)
    (y,) = net.add(
        ops.Conv2dOp,
        [image, weight],
        ((1, 4, 4, 10), FixedType("i32", 11)),
        strides=[8, 8],
        pads=[0] * 4,
        dilations=[1, 1],
        groups=1,
    )
    built, _ = compare(net, [y], [random_codes(rng, (1, 3, 32, 32), x)], P2VIT)
    (load,) = [i for i in built.code if i.mnemonic == "ld.copy" and i.src.offset == 0]
    assert load.run == 3 * 32 * 32


@settings(max_examples=40, deadline=None)
@given(
    seeds,
    architectures,
    inputs,
    st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 6)),
    st.sampled_from([(1, 3, 5), (2, 2, 3), (4, 1, 1)]),
    pair,
    pair,
    st.tuples(*[st.integers(0, 1)] * 4),
    pair,
)
def test_conv_transpose2d(
    seed: int,
    arch: AccelTarget,
    x: FixedType,
    image: tuple[int, int, int],
    channels: tuple[int, int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    extra: tuple[int, int],
) -> None:
    groups, inner, outer = channels
    extra = (min(extra[0], strides[0]), min(extra[1], strides[1]))
    out = tuple(
        (image[1 + i] - 1) * strides[i] + kernel[i] + extra[i] - 1 - pads[i] - pads[2 + i]
        for i in range(2)
    )
    assume(min(out) >= 1)
    rng = np.random.default_rng(seed)
    w, cout = FixedType("i8", 3), groups * outer
    shape = (*image, groups * inner)
    net = Net((shape, x))
    weight = net.constant(random_codes(rng, (cout, *kernel, inner), w), w)
    (y,) = net.add(
        ops.ConvTranspose2dOp,
        [net.args[0], weight],
        ((image[0], *out, cout), FixedType("i32", x.frac + 3)),
        strides=strides,
        pads=pads,
        output_padding=[e - 1 for e in extra],
        groups=groups,
    )
    compare(net, [y], [random_codes(rng, shape, x)], arch)


@settings(max_examples=40, deadline=None)
@given(
    seeds,
    architectures,
    inputs,
    st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 5, 70])),
    pair,
    pair,
    st.tuples(*[st.integers(0, 2)] * 4),
    st.sampled_from(["max", "avg", "avg_pad"]),
)
def test_pooling(
    seed: int,
    arch: AccelTarget,
    x: FixedType,
    shape: tuple[int, int, int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    kind: str,
) -> None:
    pads = tuple(min(p, kernel[i % 2] - 1) for i, p in enumerate(pads))
    out = tuple(
        out_size(shape[1 + i], kernel[i], strides[i], pads[i] + pads[2 + i]) for i in range(2)
    )
    assume(min(out) >= 1)
    cls: type[Operation] = ops.MaxPool2dOp if kind == "max" else ops.AvgPool2dOp
    result = x if kind == "max" else FixedType("i16", x.frac + 2, zp=3)
    properties: dict[str, object] = {"kernel": kernel, "strides": strides, "pads": pads}
    if kind == "avg_pad":
        properties["count_include_pad"] = True
    rng = np.random.default_rng(seed)
    net = Net((shape, x))
    (y,) = net.add(cls, net.args, ((shape[0], *out, shape[3]), result), **properties)
    compare(net, [y], [random_codes(rng, shape, x)], arch)


@settings(max_examples=50, deadline=None)
@given(
    seeds,
    architectures,
    st.lists(st.sampled_from([1, 2, 5, 49, 70]), min_size=1, max_size=4),
    st.data(),
    st.booleans(),
    st.sampled_from([("i8", -2), ("i8", 2), ("i16", 0), ("ui8", 5)]),
)
def test_mean(
    seed: int,
    arch: AccelTarget,
    shape: list[int],
    data: st.DataObject,
    keepdims: bool,
    kind: tuple[str, int],
) -> None:
    axes = data.draw(
        st.lists(st.integers(0, len(shape) - 1), min_size=1, max_size=len(shape), unique=True)
    )
    x, y = FixedType(kind[0], 4, zp=3), FixedType("i8", 4 + kind[1], zp=-1)
    result = [1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes]
    assume(np.prod(shape) < 50_000)
    rng = np.random.default_rng(seed)
    net = Net((shape, x))
    (value,) = net.add(ops.MeanOp, net.args, (result, y), axes=axes, keepdims=keepdims)
    compare(net, [value], [random_codes(rng, shape, x)], arch)


@settings(max_examples=40, deadline=None)
@given(
    seeds,
    architectures,
    inputs,
    st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 5, 70])),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.sampled_from(["nearest", "linear"]),
    st.sampled_from(["half_pixel", "align_corners", "asymmetric"]),
)
def test_resize(
    seed: int,
    arch: AccelTarget,
    x: FixedType,
    shape: tuple[int, int, int, int],
    size: tuple[int, int],
    mode: str,
    coordinates: str,
) -> None:
    y = x if mode == "nearest" else FixedType("i8", 5, zp=4)
    rng = np.random.default_rng(seed)
    net = Net((shape, x))
    (value,) = net.add(
        ops.ResizeOp,
        net.args,
        ((shape[0], *size, shape[3]), y),
        mode=mode,
        coordinates=coordinates,
    )
    compare(net, [value], [random_codes(rng, shape, x)], arch)


def test_depthwise_of_planes() -> None:
    """A depthwise convolution of a CHW image needs its channels side by side: they are copied."""
    rng = np.random.default_rng(0)
    x, w = FixedType("i8", 5), FixedType("i8", 6)
    net = Net(((1, 6, 9, 9), x))
    (image,) = net.add(ops.TransposeOp, net.args, ((1, 9, 9, 6), x), permutation=[0, 2, 3, 1])
    weight = net.constant(random_codes(rng, (6, 3, 3, 1), w), w)
    (y,) = net.add(
        ops.Conv2dOp,
        [image, weight],
        ((1, 9, 9, 6), FixedType("i32", 11)),
        strides=[1, 1],
        pads=[1] * 4,
        dilations=[1, 1],
        groups=6,
    )
    compare(net, [y], [random_codes(rng, (1, 6, 9, 9), x)])


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda arch: arch.name)
def test_depthwise_with_more_results_than_lanes(arch: AccelTarget) -> None:
    """A channel that makes 70 results: they are cut into panels, each with the group's one input."""
    rng = np.random.default_rng(0)
    x, w, acc = FixedType("i8", 5), FixedType("i8", 6), FixedType("i32", 11)
    net = Net(((1, 5, 4, 2), x))
    weight = net.constant(random_codes(rng, (140, 3, 3, 1), w), w)
    bias = net.constant(rng.integers(-9999, 9999, 140), acc)
    (y,) = net.add(
        ops.Conv2dOp,
        [net.args[0], weight, bias],
        ((1, 5, 4, 140), acc),
        strides=[1, 1],
        pads=[1] * 4,
        dilations=[1, 1],
        groups=2,
    )
    compare(net, [y], [random_codes(rng, (1, 5, 4, 2), x)], arch)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_slices_take_every_row_of_every_window_once(data: st.DataObject) -> None:
    """Each from the band that holds the row, or that is next to it where it lies outside."""
    height, kernel = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    stride, dilation = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    pad = data.draw(st.integers(0, kernel // 2))
    first, count = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 6))
    starts = sorted({0, *data.draw(st.lists(st.integers(1, max(1, height - 1)), max_size=3))})
    starts = [start for start in starts if start < height]
    bands = [
        Band(start, Patch(Region(Space.ABUF, 0, 0), 100, 10, 1, (end - start, 3), offset=1000 * n))
        for n, (start, end) in enumerate(zip(starts, [*starts[1:], height], strict=True))
    ]
    x = Tensor(
        Region(Space.DRAM, 0, 0), DType.I8, FixedType("i8", 4), (1, height, 3, 10), (1, 1, 1, 1)
    )
    s = Sliding(x, (1, 1), (kernel, 1), (stride, 1), (pad, 0), (dilation, 1))
    for row in range(first, first + count):
        places = [row * stride - pad + tap * dilation for tap in range(kernel)]
        assume(any(0 <= place < height for place in places))
    seen: dict[tuple[int, int], bool] = {}
    for part in slices(s, first, count, bands):
        for row in range(part.rows[0], part.rows[0] + part.rows[1]):
            for tap in range(part.taps[0], part.taps[0] + part.taps[1]):
                assert (row, tap) not in seen
                seen[row, tap] = part.more
                place = (first + row) * stride - pad + tap * dilation
                if not 0 <= place < height:
                    continue
                patch, (reach, _) = slice_patch(s, first, part, (count, 3))
                here = place - ((first + part.rows[0]) * stride - pad + part.taps[0] * dilation)
                assert 0 <= here - patch.top < patch.size[0] <= reach - patch.top
                begin = max(start for start in starts if start <= place)
                offset = 1000 * starts.index(begin) + 100 * (place - begin)
                assert patch.offset + 100 * (here - patch.top) == offset
    assert sorted(seen) == [(row, tap) for row in range(count) for tap in range(kernel)]
    assert not any(seen[row, 0] for row in range(count))


@pytest.mark.parametrize("arch", [P2VIT, SMALL], ids=lambda arch: arch.name)
@pytest.mark.parametrize("groups", [1, 16])
def test_images_of_four_bits(arch: AccelTarget, groups: int) -> None:
    """A code a byte, made on chip and from DRAM."""
    rng = np.random.default_rng(5)
    four, x = FixedType("i4", 2, zp=3), FixedType("i8", 4)
    net = Net(((1, 7, 9, 16), x))
    (codes,) = net.add(ops.PotRequantOp, net.args, ((1, 7, 9, 16), four))
    shape = (16, 3, 3, 16 // groups)
    weight = net.constant(random_codes(rng, shape, FixedType("i4", 5)), FixedType("i4", 5))
    options = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "groups": groups}
    (acc,) = net.add(ops.Conv2dOp, [codes, weight], ((1, 7, 9, 16), FixedType("i32", 7)), **options)
    compare(net, [acc, codes], [random_codes(rng, (1, 7, 9, 16), x)], arch)


def test_images_of_log2_codes_are_refused() -> None:
    """Windows have no place for them, which the operation says before anything is compiled."""
    net = Net(((1, 4, 4, 8), FixedType("i8", 4)))
    (codes,) = net.add(ops.Log2SoftmaxOp, net.args, ((1, 4, 4, 8), Log2Type()))
    weight = net.constant(np.ones((2, 1, 1, 8)), FixedType("i8", 4))
    options = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "groups": 1}
    with pytest.raises(VerifyException, match=r"expected elements of !vit.fixed .* got !vit\.log2"):
        net.add(ops.Conv2dOp, [codes, weight], ((1, 4, 4, 2), FixedType("i32", 18)), **options)
