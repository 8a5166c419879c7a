"""Images that flow between layers in parts: rows of large ones, panels of channels of small ones."""

from __future__ import annotations

import numpy as np
import pytest
from accel_net import ARCHITECTURES, SMALL, Net, compare, random_codes
from xdsl.ir import SSAValue

from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.targets import EDGE, TRIO, AccelTarget
from vit_opt.dialects.vit_accel import isa

X, W, SUM = FixedType("i8", 4), FixedType("i8", 8), FixedType("i32", 12)


def convolve(
    net: Net,
    rng: np.random.Generator,
    x: SSAValue,
    image: tuple[int, int, int],
    channels: tuple[int, int],
    kernel: int,
    groups: int,
) -> SSAValue:
    """A convolution that keeps the image's size, requantised to 8 bits; `channels` in and out."""
    inner, outer = channels
    shape = (1, image[0], image[1], outer)
    weight = net.constant(random_codes(rng, (outer, kernel, kernel, inner // groups), W), W)
    (acc,) = net.add(
        ops.Conv2dOp,
        [x, weight],
        (shape, SUM),
        strides=[1, 1],
        pads=[kernel // 2] * 4,
        dilations=[1, 1],
        groups=groups,
    )
    (y,) = net.add(ops.PotRequantOp, [acc], (shape, X))
    return y


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda arch: arch.name)
@pytest.mark.parametrize("size", [(8, 8), (24, 5)], ids=["panels", "rows"])
@pytest.mark.parametrize("groups", [1, 2])
def test_inverted_bottleneck(arch: AccelTarget, size: tuple[int, int], groups: int) -> None:
    """Convolutions of groups of more channels than there are lanes, of single channels, of pixels."""
    rng = np.random.default_rng(0)
    net = Net(((1, *size, 12), X))
    image = (*size, 1)
    x = convolve(net, rng, net.args[0], image, (12, 200), 3, groups)
    x = convolve(net, rng, x, image, (200, 200), 3, 200)
    x = convolve(net, rng, x, image, (200, 24), 1, 1)
    lowered, _ = compare(net, [x], [random_codes(rng, (1, *size, 12), X)], arch)
    depthwise = [inst for inst in lowered.code if isinstance(inst, isa.DepthwiseConv)]
    assert any(inst.top for inst in depthwise) and any(inst.right for inst in depthwise)
    assert not any(isinstance(inst, isa.Fill) for inst in lowered.code)


@pytest.mark.parametrize("arch", [SMALL, EDGE], ids=lambda arch: arch.name)
@pytest.mark.parametrize(
    ("kernel", "dilation", "pad", "stride"),
    [
        (3, 2, 2, 1),
        (3, 2, 1, 2),
        (2, 5, 4, 1),
        (3, 3, 3, 3),
        (5, 2, 4, 1),
        (2, 7, 6, 2),
        (5, 1, 4, 4),
    ],
)
def test_rows_in_several_buffers(
    arch: AccelTarget, kernel: int, dilation: int, pad: int, stride: int
) -> None:
    """A depthwise window's rows lie in several buffers; those outside the image lie in none."""
    rng = np.random.default_rng(0)
    height, width, channels = 24, 5, 40
    net = Net(((1, height, width, 12), X))
    x = convolve(net, rng, net.args[0], (height, width, 1), (12, channels), 3, 1)
    reach = dilation * (kernel - 1) + 1
    out = tuple((size + 2 * pad - reach) // stride + 1 for size in (height, width))
    weight = net.constant(random_codes(rng, (channels, kernel, kernel, 1), W), W)
    (y,) = net.add(
        ops.Conv2dOp,
        [x, weight],
        ((1, *out, channels), SUM),
        strides=[stride] * 2,
        pads=[pad] * 4,
        dilations=[dilation] * 2,
        groups=channels,
    )
    compare(net, [y], [random_codes(rng, (1, height, width, 12), X)], arch)


def test_both_engines_take_products() -> None:
    """On `trio` the reconfigurable engine takes blocks that the array would complete later."""
    rng = np.random.default_rng(0)
    net = Net(((196, 64), X))
    weight = net.constant(random_codes(rng, (256, 64), W), W)
    (acc,) = net.add(ops.LinearOp, [net.args[0], weight], ((196, 256), SUM))
    (y,) = net.add(ops.PotRequantOp, [acc], ((196, 256), X))
    image, _ = compare(net, [y], [random_codes(rng, (196, 64), X)], TRIO)
    kinds = {type(inst) for inst in image.code}
    assert {isa.Matmul, isa.EngineMatmul} <= kinds
