"""Window attention on images: tokens stay where they are where the kernel takes their places."""

import numpy as np
import pytest
from c_cases import Case, FixedType, codes, ops
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.backends.c.code import Symbol
from vit_opt.backends.c.levels import LEVELS
from vit_opt.backends.c.lowering import lower

EXAMPLES = settings(max_examples=15, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)


def rolled(case: Case, x: object, size: int, by: int) -> object:
    """Rows and columns of [1, size, size, c] moved up and left, as exporters write it."""
    for axis in (1, 2) if by else ():
        parts = []
        for offset, length in ((by, size - by), (0, by)):
            offsets, sizes = [0, 0, 0, 0], [1, size, size, 0]
            sizes[3] = x.type.get_shape()[3]
            offsets[axis], sizes[axis] = offset, length
            fields = {"offsets": offsets, "sizes": sizes, "strides": (1,) * 4}
            parts.append(case.op(ops.SliceOp, [x], **fields))
        x = case.op(ops.ConcatOp, [parts], axis=axis)
    return x


def attention(case: Case, x: object, heads: int, window: int, **options: object) -> object:
    """An attention with requantised products before and behind it, on windows of tokens."""
    rng, eight = np.random.default_rng(1), FixedType("i8", 4)
    tokens, width = window * window, x.type.get_shape()[-1]
    count = x.type.get_shape()[1] * x.type.get_shape()[2]
    parts = []
    for _ in range(3):
        w = case.constant(FixedType("i8", 7), rng.integers(-20, 20, (width, width)))
        acc = case.op(ops.LinearOp, [x, w, []])
        parts.append(case.op(ops.PotRequantOp, [acc], eight))
    split = [
        case.op(
            ops.TransposeOp,
            [case.op(ops.ReshapeOp, [part], shape=(count, tokens, heads, width // heads))],
            permutation=(0, 2, 1, 3),
        )
        for part in parts
    ]
    s = case.op(ops.MatmulOp, split[:2], transpose_b=True)
    if options.get("bias"):
        sixteen = FixedType("i16", 5)
        table = case.constant(sixteen, rng.integers(-99, 99, (1, heads, tokens, tokens)))
        s = case.op(ops.AddOp, [s, table], FixedType("i16", 6))
    p = case.op(ops.SoftmaxExpOp, [s])
    acc = case.op(ops.MatmulOp, [p, split[2]])
    y = case.op(ops.NormalizeOp, [acc, p.owner.sum], FixedType("ui8", 5, zp=128))
    y = case.op(ops.TransposeOp, [y], permutation=(0, 2, 1, 3))
    y = case.op(ops.ReshapeOp, [y], shape=x.type.get_shape())
    w = case.constant(FixedType("i8", 7), rng.integers(-20, 20, (width, width)))
    acc = case.op(ops.LinearOp, [y, w, []])
    return acc if options.get("plain") else case.op(ops.PotRequantOp, [acc], FixedType("i16", 8))


def block(case: Case, image: object, heads: int, window: int, shift: int, **options: object):
    """Rows of an image to windows, attention, and back; returns the moved image and the result."""
    _, size, _, width = image.type.get_shape()
    count = size // window
    moved = rolled(case, image, size, shift)
    moved = case.op(ops.ReshapeOp, [moved], shape=(1, count, window, count, window, width))
    moved = case.op(ops.TransposeOp, [moved], permutation=(0, 1, 3, 2, 4, 5))
    y = attention(case, moved, heads, window, **options)
    y = case.op(ops.TransposeOp, [y], permutation=(0, 1, 3, 2, 4, 5))
    y = case.op(ops.ReshapeOp, [y], shape=(1, size, size, width))
    back = options.get("back", size - shift if shift else 0)
    return moved, rolled(case, y, size, back)


def image_of(rng: np.random.Generator, case: Case, size: int, width: int) -> tuple[object, object]:
    """An image of signed bytes, which products rather read unsigned, and a residual."""
    sixteen = FixedType("i16", 7)
    image = case.input(sixteen, codes(rng, sixteen, (1, size, size, width)))
    image = case.op(ops.PotRequantOp, [image], FixedType("i8", 1, zp=9))
    return image, case.input(sixteen, codes(rng, sixteen, (1, size, size, width)))


@EXAMPLES
@given(
    SEEDS, st.sampled_from([2, 6, 7]), st.just(2), st.booleans(), st.integers(2, 3),
    st.sampled_from([4, 8, 20]), st.booleans(), st.booleans(),
)  # fmt: skip
def test_windows_of_an_image(seed, window, count, shifted, heads, dim, bias, plain) -> None:
    rng = np.random.default_rng(seed)
    case, size = Case(), window * count
    image, residual = image_of(rng, case, size, heads * dim)
    shift = window // 2 if shifted else 0
    _, y = block(case, image, heads, window, shift, bias=bias, plain=plain)
    case.check(case.op(ops.AddOp, [residual, y], FixedType("i16", 7)))


@pytest.mark.parametrize("shift", [0, 3])
def test_nothing_moves(shift) -> None:
    rng, case = np.random.default_rng(0), Case()
    image, residual = image_of(rng, case, 14, 64)
    _, y = block(case, image, 2, 7, shift, bias=True)
    y = case.op(ops.AddOp, [residual, y], FixedType("i16", 7))
    calls = lower(case.function(y), case.store, LEVELS["avx512vnni"]).calls
    product, attention = "vit_linear_u8_avx512vnni", "vit_attention_u8_avx512vnni"
    assert [call.kernel for call in calls[1:]] == [product] * 3 + [attention, product]
    shapes = [call.arguments[0].fields for call in calls if call.kernel == product]
    assert {str(shape["x_type"]) for shape in shapes} == {str(Symbol("VIT_U8"))}


@pytest.mark.parametrize("kind", ["windows are read", "other way back", "one head"])
def test_moves_that_are_needed(kind) -> None:
    """Rows that something else reads, or that do not come back, are copied; the result is right."""
    rng, case = np.random.default_rng(0), Case()
    image, residual = image_of(rng, case, 14, 64)
    heads = 1 if kind == "one head" else 2
    options = {"back": 3} if kind == "other way back" else {}
    moved, y = block(case, image, heads, 7, 3, **options)
    outputs = [case.op(ops.AddOp, [residual, y], FixedType("i16", 7))]
    if kind == "windows are read":
        outputs.append(case.op(ops.PotRequantOp, [moved], FixedType("i8", 3)))
    case.check(*outputs)


def test_a_value_that_leaves_is_in_windows() -> None:
    """What the projection gives is an output, too: in windows, as the model says."""
    rng, case = np.random.default_rng(0), Case()
    image, residual = image_of(rng, case, 14, 64)
    moved, y = block(case, image, 2, 7, 3)
    case.check(moved, y, case.op(ops.AddOp, [residual, y], FixedType("i16", 7)))
