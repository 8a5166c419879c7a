"""C kernels of means, pools, resizes and data movement against the definition."""

import numpy as np
import pytest
from c_cases import Case, FixedType, codes, ops
from hypothesis import given, settings
from hypothesis import strategies as st

EXAMPLES = settings(max_examples=80, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
NARROW = st.sampled_from(["i8", "ui8", "i16", "i32"])
ANY = st.sampled_from(["i4", "i8", "ui8", "i16", "ui16", "i32", "ui32", "i64"])


def any_input(case: Case, seed: int, storage: str, shape: tuple[int, ...], zp: int = 3):
    format_ = FixedType(storage, 5, zp=zp if "16" in storage or "8" in storage else 0)
    return case.input(format_, codes(np.random.default_rng(seed), format_, shape))


@EXAMPLES
@given(
    SEEDS, NARROW, st.sets(st.integers(0, 3), min_size=1), st.booleans(), st.integers(-4, 14),
)  # fmt: skip
def test_mean(seed, storage, axes, keepdims, frac) -> None:
    case = Case()
    x = any_input(case, seed, storage, (2, 3, 5, 7))
    out = FixedType("i16", frac, zp=-5)
    axes = sorted(axes)
    fields = {"axes": axes, "keepdims": keepdims or None}
    case.check(case.op(ops.MeanOp, [x], out, **fields), kernel="vit_mean")


@EXAMPLES
@given(
    SEEDS, st.sampled_from(["i8", "ui8", "i16"]), st.booleans(), st.integers(-2, 9), st.data(),
)  # fmt: skip
def test_pools(seed, storage, include, frac, data) -> None:
    draw = data.draw
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    pads = [draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4)]
    fields = {
        "kernel": kernel,
        "strides": [draw(st.integers(1, 3)) for _ in range(2)],
        "pads": pads,
    }
    case = Case()
    x = any_input(case, seed, storage, (2, 5, 6, 3))
    average = case.op(
        ops.AvgPool2dOp,
        [x],
        FixedType("i8", frac, zp=1),
        count_include_pad=include or None,
        **fields,
    )
    case.check(average, case.op(ops.MaxPool2dOp, [x], **fields))


@EXAMPLES
@given(
    SEEDS, st.sampled_from(["i8", "ui8", "i16"]), st.integers(1, 11), st.integers(1, 11),
    st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]),
    st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    st.integers(-3, 12), st.sampled_from(["rhu", "rhe", "floor"]),
)  # fmt: skip
def test_resize(seed, storage, height, width, coordinates, nearest, frac, rounding) -> None:
    case = Case()
    x = any_input(case, seed, storage, (2, 5, 4, 3))
    fields = {"coordinates": coordinates, "shape": (2, height, width, 3)}
    near = case.op(ops.ResizeOp, [x], mode="nearest", nearest=nearest, **fields)
    out = FixedType("i16", frac, zp=9)
    linear = case.op(ops.ResizeOp, [x], out, mode="linear", rounding=rounding, **fields)
    case.check(near, linear, kernel="vit_resize_linear")


@EXAMPLES
@given(SEEDS, ANY, st.permutations(range(4)))
def test_transpose(seed, storage, permutation) -> None:
    case = Case()
    x = any_input(case, seed, storage, (2, 3, 5, 7))
    case.check(case.op(ops.TransposeOp, [x], permutation=permutation))


@EXAMPLES
@given(SEEDS, ANY, st.data())
def test_slice_pad_concat_gather(seed, storage, data) -> None:
    draw = data.draw
    case = Case()
    shape = (2, 3, 5, 7)
    x = any_input(case, seed, storage, shape)
    offsets = [draw(st.integers(0, size - 1)) for size in shape]
    strides = [draw(st.integers(1, 3)) for _ in shape]
    room = [(s - 1 - o) // t + 1 for s, o, t in zip(shape, offsets, strides, strict=True)]
    sizes = [draw(st.integers(1, most)) for most in room]
    part = case.op(ops.SliceOp, [x], offsets=offsets, sizes=sizes, strides=strides)
    low, high = ([draw(st.integers(0, 2)) for _ in shape] for _ in range(2))
    padded = case.op(ops.PadOp, [part], low=low, high=high)
    axis = draw(st.integers(0, 3))
    indices = draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=6))
    taken = case.op(ops.GatherOp, [x], axis=axis, indices=indices)
    joined = case.op(ops.ConcatOp, [[x, taken, x]], axis=axis)
    case.check(part, padded, taken, joined)


def test_reshapes_and_reinterpretation_cost_nothing() -> None:
    """They share their operand's memory; an output that is an input is copied."""
    case = Case()
    x = any_input(case, 0, "i8", (2, 3, 4), zp=0)
    y = case.op(ops.ReshapeOp, [x], shape=(6, 4))
    y = case.op(ops.ReinterpretOp, [y], exponent=3)
    lowered = case.check(y)
    assert [call.kernel for call in lowered.calls] == ["vit_copy"]
    assert lowered.arena == 0


@EXAMPLES
@given(SEEDS, ANY, st.integers(-4, 4), st.integers(-2, 8))
def test_reinterpretation_moves_the_grid_of_what_follows(seed, storage, exponent, frac) -> None:
    case = Case()
    x = any_input(case, seed, storage, (3, 8))
    same = case.op(ops.ReinterpretOp, [x], exponent=exponent)
    flat = case.op(ops.ReshapeOp, [same], shape=(24,))
    case.check(flat, case.op(ops.PotRequantOp, [flat], FixedType("i8", frac)))


def test_one_value_as_two_outputs() -> None:
    case = Case()
    x = any_input(case, 0, "i8", (2, 3, 4))
    y = case.op(ops.TransposeOp, [x], permutation=(1, 0, 2))
    case.check(y, y)


@pytest.mark.parametrize("order", [(0, 3, 1, 2), (0, 2, 3, 1), (0, 3, 2, 1)])
@pytest.mark.parametrize("axes", [(2, 3), (1,), (1, 3)])
def test_mean_reads_through_a_transpose(order, axes) -> None:
    rng = np.random.default_rng(0)
    case, format_ = Case(), FixedType("i16", 5)
    x = case.input(format_, codes(rng, format_, (1, 5, 4, 300)))
    x = case.op(ops.TransposeOp, [x], permutation=order)
    y = case.op(ops.MeanOp, [x], FixedType("i8", -2), axes=axes)
    lowered = case.check(y)
    in_order = len(axes) == 2 or order == (0, 3, 1, 2)
    assert len(lowered.calls) == (1 if in_order else 2)
