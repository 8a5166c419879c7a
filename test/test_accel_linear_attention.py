"""Linear attention of many heads, which lie in all the ways in which models bring them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from accel_net import ARCHITECTURES, SMALL, Net, compare, random_codes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from xdsl.ir import SSAValue

from vit_opt.backends.accel.lowering.builder import Builder, Rect, Region
from vit_opt.backends.accel.lowering.context import Lowering
from vit_opt.backends.accel.lowering.places import Place, planes_together
from vit_opt.backends.accel.lowering.planes import Grid
from vit_opt.backends.accel.lowering.tensors import Tensor, value_format, value_shape
from vit_opt.backends.accel.unrolling import unroll
from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.targets import TRIO, TRIO_LARGE, AccelTarget, MemorySpec
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import Space

F = FixedType("i8", 4)
WIDE = FixedType("i16", 9)

Codes = NDArray[np.integer]
Size = tuple[int, int, int, int]
"""Images, heads, tokens, columns."""


def transposed(net: Net, value: SSAValue, shape: Size, f: FixedType) -> SSAValue:
    """[B, N, H, d] as [B, H, N, d], or back."""
    shape = (shape[0], shape[2], shape[1], shape[3])
    return net.add(ops.TransposeOp, [value], (shape, f), permutation=[0, 2, 1, 3])[0]


def parts(net: Net, value: SSAValue, size: Size, f: FixedType) -> list[SSAValue]:
    """q, k, v of [B, H, N, 3d]."""
    cols = size[3]
    return [
        net.add(
            ops.SliceOp,
            [value],
            (size, f),
            offsets=[0, 0, 0, i * cols],
            sizes=size,
            strides=[1, 1, 1, 1],
        )[0]
        for i in range(3)
    ]


def attention(size: Size, source: str, target: str, divisor: str) -> tuple[Net, SSAValue]:
    """A net of linear attention whose operands and result lie in some way."""
    images, heads, tokens, cols = size
    beside: Size = (images, tokens, heads, cols)
    if source == "apart":
        net = Net(*[(size, F)] * 3)
        q, k, v = net.args
    elif source == "beside":
        net = Net(*[(beside, F)] * 3)
        q, k, v = (transposed(net, x, beside, F) for x in net.args)
    else:
        f = WIDE if source == "rescaled" else F
        joined: Size = (images, tokens, heads, 3 * cols)
        net = Net((joined, f))
        q, k, v = parts(net, transposed(net, net.args[0], joined, f), size, f)
    if source == "rescaled":
        q, k, v = (net.add(ops.PotRequantOp, [x], (size, F))[0] for x in (q, k, v))
    y = FixedType("i8", 6, zp=2)
    (result,) = net.add(
        ops.LinearAttnOp, [q, k, v], (size, y), kv_shift=8, ksum_shift=5, divisor=divisor
    )
    if target == "beside":
        result = transposed(net, result, size, y)
        shape = (images, tokens, heads * cols)
        (result,) = net.add(ops.ReshapeOp, [result], (shape, y))
    return net, result


def codes(rng: np.random.Generator, net: Net) -> list[Codes]:
    """Inputs; what may be queries and keys is not negative, and sometimes a row of zeros."""
    found: list[Codes] = []
    for number, arg in enumerate(net.args):
        x = random_codes(rng, value_shape(arg), value_format(arg)[1])
        keys = (..., slice(0, x.shape[-1] * 2 // 3 if len(net.args) == 1 else (number < 2) * 99))
        x[keys] = np.maximum(x[keys], 0)
        found.append(x)
    return found


sources = st.sampled_from(["apart", "beside", "joined", "rescaled"])
targets = st.sampled_from(["apart", "beside"])
sizes = st.tuples(
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 3, 5, 8]),
    st.sampled_from([1, 2, 7, 49, 130]),
    st.sampled_from([1, 3, 8, 16]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([*ARCHITECTURES, TRIO_LARGE]),
    sizes,
    sources,
    targets,
    st.sampled_from(["recip", "pot"]),
)
def test_bits(
    seed: int, arch: AccelTarget, size: Size, source: str, target: str, divisor: str
) -> None:
    net, result = attention(size, source, target, divisor)
    compare(net, [result], codes(np.random.default_rng(seed), net), arch)


@pytest.mark.parametrize("source", ["apart", "beside", "rescaled"])
def test_heads_are_a_batch(source: str) -> None:
    """8 heads of 49 x 16: two products for the state, two for the queries and one division a batch;
    what lies on chip in one place is not copied."""
    net, result = attention((1, 8, 49, 16), source, "beside", "recip")
    image, ran = compare(net, [result], codes(np.random.default_rng(0), net), TRIO)
    code, _ = unroll(image.code, image.origins)
    products = [inst for inst in code if isinstance(inst, isa.Matmul)]
    divisions = [inst for inst in code if isinstance(inst, isa.Divide)]
    assert {inst.batch for inst in (*products, *divisions)} == {divisions[0].batch}
    assert divisions[0].batch > 1
    assert len(products) == 4 * len(divisions) and divisions[0].batch * len(divisions) == 8
    assert sum(inst.macs() for inst in products) == 2 * 8 * 49 * 16 * 17 == ran.stats.macs
    copies = [inst for inst in code if isinstance(inst, isa.Load) and inst.src.space != 0]
    assert not copies


def batches(arch: AccelTarget, size: Size, source: str) -> set[int]:
    """Heads in a division."""
    net, result = attention(size, source, "beside", "recip")
    image, _ = compare(net, [result], codes(np.random.default_rng(0), net), arch)
    code, _ = unroll(image.code, image.origins)
    return {inst.batch for inst in code if isinstance(inst, isa.Divide)}


def test_batches_are_cut_by_cost_and_room() -> None:
    """Where filling costs much a batch is large, as far as it fits: 16 x 16 of state and 16 of key
    sum take 1,360 bytes a head, half of 6,000 hold 2. Where 15 of 16 heads would have room in one
    place, 8 lie together, and a batch is an even share."""
    other = replace(SMALL, name="other")
    slow, quick = (replace(other, array_fill=n, divider_latency=n) for n in (5000, 0))
    size = (1, 8, 5, 16)
    assert batches(quick, size, "apart") == {1} and batches(slow, size, "apart") == {2}
    assert all(not 8 % count for count in batches(TRIO, (1, 16, 196, 16), "rescaled"))


def test_state_that_does_not_fit() -> None:
    net, result = attention((1, 2, 4, 40), "apart", "apart", "recip")
    with pytest.raises(VitError, match=r"linear_attn: a state of 40 x 40 does not fit into obuf"):
        compare(net, [result], codes(np.random.default_rng(0), net), SMALL)


def test_planes_lie_together() -> None:
    """5 planes of 7 rows of 16 bytes where 448 bytes may lie together: 3 and 2."""
    arch = replace(SMALL, memories=(MemorySpec("abuf", 448 * 8 // 3), *SMALL.memories[1:]))
    target = Tensor(Region(Space.DRAM, 0, 560), DType.I8, F, (5, 7, 16), (112, 16, 1))
    grid = Grid(target.shape, (0,), (1,))
    assert planes_together(arch, [target], grid) == 3
    assert planes_together(arch, [replace(target, strides=(16, 80, 1))], grid) == 0
    rooms: list[Rect] = []

    class Noted(Builder):
        """Notes what room a block is given."""

        def place_for(
            self, tensor: Region, rect: Rect, room: Rect, space: Space
        ) -> tuple[Region, int, int]:
            assert rect == room._replace(rows=rect.rows)
            rooms.append(room)
            return tensor, 0, room.width

    lowering = Lowering(Net((target.shape, F)).block, AssetStore(), arch)
    lowering.builder = Noted(arch)
    for index, row, rows in ((0, 0, 4), (2, 4, 3), (3, 0, 4), (4, 4, 3)):
        Place(grid, (index,), (row, 0), (rows, 16), (21, 16)).home(lowering, target)
    assert [(room.start // 16, room.rows) for room in rooms] == [
        (0, 21),
        (18, 3),
        (21, 14),
        (32, 3),
    ]
