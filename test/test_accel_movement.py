"""Data movement, whole models and the schedule of engines through lowering and emulator."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from accel_net import ARCHITECTURES, Net, compare, random_codes
from accel_vit import CODES, Size, VitNet
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.backends.accel.ir import image_to_ir, ir_to_image
from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.lowering.builder import CapacityError
from vit_opt.backends.accel.lowering.tensors import Tensor, reshaped, row_major
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.targets import P2VIT, AccelTarget
from vit_opt.dialects.vit_accel.enums import DType

seeds = st.integers(0, 2**32 - 1)
architectures = st.sampled_from(ARCHITECTURES)
FORMAT = FixedType("i16", 4, zp=7)


@settings(max_examples=40, deadline=None)
@given(
    seeds,
    architectures,
    st.lists(st.sampled_from([1, 2, 3, 5, 40]), min_size=1, max_size=4),
    st.lists(
        st.sampled_from(["transpose", "slice", "flat", "pad", "concat", "gather"]), max_size=5
    ),
    st.data(),
)
def test_movements_in_any_order(
    seed: int, arch: AccelTarget, shape: list[int], steps: list[str], data: st.DataObject
) -> None:
    """Views of views and copies of views; a requantisation at the end reads the last one."""
    rng = np.random.default_rng(seed)
    net = Net((shape, FORMAT))
    value, now = net.args[0], list(shape)
    for step in steps:
        rank = len(now)
        axis = data.draw(st.integers(0, rank - 1))
        if step == "transpose":
            order = list(data.draw(st.permutations(range(rank))))
            now = [now[i] for i in order]
            (value,) = net.add(ops.TransposeOp, [value], (now, FORMAT), permutation=order)
        elif step == "slice":
            offsets = [data.draw(st.integers(0, n - 1)) for n in now]
            strides = [data.draw(st.integers(1, 3)) for _ in now]
            now = [(n - 1 - o) // s + 1 for n, o, s in zip(now, offsets, strides, strict=True)]
            (value,) = net.add(
                ops.SliceOp, [value], (now, FORMAT), offsets=offsets, sizes=now, strides=strides
            )
        elif step == "flat":
            now = [int(np.prod(now[:axis])), *now[axis:]] if axis else [1, *now]
            (value,) = net.add(ops.ReshapeOp, [value], (now, FORMAT))
        elif step == "pad":
            low = [int(i == axis) for i in range(rank)]
            now = [n + 3 * p for n, p in zip(now, low, strict=True)]
            high = [2 * p for p in low]
            (value,) = net.add(ops.PadOp, [value], (now, FORMAT), low=low, high=high)
        elif step == "concat":
            now = [2 * n if i == axis else n for i, n in enumerate(now)]
            (value,) = net.add(ops.ConcatOp, [value, value], (now, FORMAT), axis=axis)
        else:
            indices = data.draw(st.lists(st.integers(0, now[axis] - 1), min_size=1, max_size=4))
            now[axis] = len(indices)
            (value,) = net.add(ops.GatherOp, [value], (now, FORMAT), axis=axis, indices=indices)
    exponent = data.draw(st.integers(-3, 3))
    finer = FixedType("i16", FORMAT.frac - exponent, zp=FORMAT.zero_point)
    (same,) = net.add(ops.ReinterpretOp, [value], (now, finer), exponent=exponent)
    (end,) = net.add(ops.PotRequantOp, [same], (now, FixedType("i8", 1)))
    compare(net, [value, same, end], [random_codes(rng, shape, FORMAT)], arch)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_reshaped_views_agree_with_numpy(order: tuple[int, ...]) -> None:
    """A reshape of a view is a view exactly where numpy finds one without a copy."""
    array: Any = np.arange(24, dtype=np.int8).reshape(2, 3, 4).transpose(order)
    region: Any = object()
    view = Tensor(region, DType.I8, FixedType("i8", 0), array.shape, array.strides)
    assert row_major((2, 3, 4), 1) == (12, 4, 1)
    for shape in ((24,), (6, 4), (4, 6), (2, 12), (12, 2), (2, 3, 4), (1, 24, 1), (3, 8)):
        found = reshaped(view, shape, view.format)
        copied = not np.shares_memory(array.reshape(shape), array)
        assert (found is None) == copied
        if found is not None:
            strided = np.lib.stride_tricks.as_strided(array, shape, found.strides)
            assert np.array_equal(strided, array.reshape(shape))


TINY = Size(image=32, patch=8, dim=48, heads=3, layers=2, classes=10)


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda arch: arch.name)
def test_vision_transformer(arch: AccelTarget) -> None:
    net = VitNet(TINY)
    rng = np.random.default_rng(1)
    image, ran = compare(net, [net.result], [random_codes(rng, (1, 3, 32, 32), CODES)], arch)
    assert image.macs == ran.stats.macs
    assert (0.2 if arch is P2VIT else 0.02) < ran.stats.utilisation < 1


def test_images_round_trip_through_the_dialect() -> None:
    net = VitNet(TINY)
    image = lower_accel(net.module(net.result), net.store, P2VIT)
    module = image_to_ir(image, net.store)
    module.verify()
    assert ir_to_image(module, net.store) == image


def test_engines_overlap() -> None:
    """The run is much shorter than the sum of the engines' work: the queues overlap."""
    net = VitNet(Size(image=64, patch=8, dim=96, heads=3, layers=1, classes=10))
    codes = random_codes(np.random.default_rng(1), (1, 3, 64, 64), CODES)
    _, ran = compare(net, [net.result], [codes])
    assert ran.stats.cycles < 0.9 * sum(ran.stats.busy.values())


def test_what_does_not_fit_is_refused() -> None:
    shape = (1, 2, 60_000)
    net = Net((shape, FixedType("i32", 5)))
    p, _ = net.add(
        ops.SoftmaxExpOp,
        net.args,
        (shape, FixedType("ui8", 0)),
        ((1, 2, 1), FixedType("ui32", 0)),
    )
    with pytest.raises(
        Exception, match=r"vit\.softmax_exp: \d+ bytes do not fit into abuf .* 'p2vit'"
    ) as caught:
        compare(net, [p], [np.zeros(shape, np.int32)])
    assert isinstance(caught.value.__cause__, CapacityError)
