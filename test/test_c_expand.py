"""Weights of 4 bits in the C project: packing is lossless, products on them are exact, files shrink."""

from __future__ import annotations

import numpy as np
import pytest
from c_cases import Case, FixedType, ops
from c_kernels import HOST_LEVELS
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import DenseArrayBase, i64

from vit_opt.backends.c.expand import GROUP, Panels, narrow, rows_of
from vit_opt.backends.c.lowering import lower
from vit_opt.passes.quantization.weights import BYTE_GROUPS

SEEDS = st.integers(0, 2**32 - 1)


def grouped(rng: np.random.Generator, rows: int, size: int, wide: np.ndarray) -> np.ndarray:
    """Codes [N, K]: groups of 8 columns that are 4-bit codes times 2^1 .. 2^4, wide ones any."""
    groups = -(-size // GROUP)
    shifts = np.repeat(rng.integers(1, 5, (rows, groups)), GROUP, axis=1)[:, :size]
    codes = rng.integers(-8, 8, (rows, size)) << shifts
    anything = rng.integers(-128, 128, (rows, size))
    return np.where(np.repeat(wide, GROUP)[:size], anything, codes).astype(np.int8)


def unpacked(panels: Panels, data: np.ndarray, shift: int, bits: int) -> np.ndarray:
    """The codes that the format of `backends/c/expand.py` describes, read one by one."""
    count, length = panels.codes.shape
    chunks = -(-length // panels.chunk)
    marks = np.unpackbits(data[: -(-chunks // 8)], bitorder="little")[:chunks]
    rows = data[-(-chunks // 8) :].reshape(count, -1)[:, panels.head.shape[1] :]
    narrow_columns = int((marks == 0).sum()) * panels.columns
    start = -(-narrow_columns // 4) if bits else 0
    out = np.zeros((count, length), np.int64)
    for panel in range(count):
        at, column = start, 0
        for chunk, wide in enumerate(marks):
            first = chunk * panels.chunk
            n = min(panels.chunk, length - first)
            half = -(-n // 2)
            for j in range(n):
                if wide:
                    out[panel, first + j] = np.int8(rows[panel, at + j])
                    continue
                nibble = int(rows[panel, at + j % half]) >> (4 * (j // half)) & 15
                place = column + j // panels.unit % panels.columns
                own = int(rows[panel, place // 4]) >> (2 * (place % 4)) & 3 if bits else 0
                out[panel, first + j] = (nibble - 16 * (nibble > 7)) << (shift + own)
            at += n if wide else half
            column += 0 if wide else panels.columns
    return out


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 5), st.integers(1, 70), st.integers(0, 3))
def test_packing_gives_the_codes_back(seed: int, rows: int, size: int, wide: int) -> None:
    rng = np.random.default_rng(seed)
    panels = rows_of(grouped(rng, rows, size, rng.integers(0, 4, -(-size // GROUP)) < wide))
    found = narrow(panels)
    codes = unpacked(panels, found.data, found.shift, found.shift_bits)
    np.testing.assert_array_equal(codes, panels.codes)


def test_what_is_narrow() -> None:
    rng = np.random.default_rng(0)
    none, all_ = np.zeros(8, bool), np.ones(8, bool)
    found = narrow(rows_of(grouped(rng, 16, 64, none)))
    assert found.data.size == 1 + 16 * (32 + 2)  # marks; nibbles and a shift for each 8 codes
    assert narrow(rows_of(grouped(rng, 16, 64, all_))).data.size == 1 + 16 * 64
    plain = narrow(rows_of(rng.integers(-8, 8, (16, 64))))
    assert (plain.data.size, plain.shift_bits) == (1 + 16 * 32, 0)


@settings(max_examples=12, deadline=None)
@given(
    SEEDS, st.sampled_from([1, 7, 50]), st.sampled_from([3, 64, 65, 130]),
    st.sampled_from([8, 19, 64, 100]), st.integers(0, 3), st.sampled_from(["i8", "ui8"]),
    st.sampled_from(["groups", "i4"]), st.sampled_from(["i8", "i16"]),
)  # fmt: skip
def test_linear_on_narrow_weights(seed, m, n, k, wide, storage, form, out) -> None:
    rng = np.random.default_rng(seed)
    case = Case()
    x_format = FixedType(storage, 5, zp=3)
    low, high = x_format.bounds
    x = case.input(x_format, rng.integers(low, high + 1, (1, m, k)))
    fracs = rng.integers(3, 9, n)
    marks = rng.integers(0, 4, -(-k // GROUP)) < wide
    if form == "i4":
        w_format = FixedType("i4", fracs, axis=0)
        w = case.constant(w_format, rng.integers(-8, 8, (n, k)))
    else:
        w_format = FixedType("i8", fracs, axis=0)
        w = case.constant(w_format, grouped(rng, n, k, marks))
        chosen = [int(g) for g in marks.nonzero()[0]]
        w.owner.attributes[BYTE_GROUPS] = DenseArrayBase.from_list(i64, chosen)
    b = case.constant(FixedType("i32", 5 + fracs, axis=0), rng.integers(-(2**16), 2**16, n))
    acc = case.op(ops.LinearOp, [x, w, [b]])
    y = case.op(ops.PotRequantOp, [acc], FixedType(out, 2))
    case.check(y)


@pytest.mark.parametrize("level", HOST_LEVELS, ids=lambda level: level.name)
def test_weights_of_a_convolution_shrink_on_every_level(level) -> None:
    rng = np.random.default_rng(1)
    sizes: list[int] = []
    for storage in ("i8", "i4"):
        case = Case()
        x = case.input(FixedType("ui8", 5), rng.integers(0, 256, (1, 6, 6, 16)))
        w = case.constant(FixedType(storage, 5), rng.integers(-8, 8, (64, 3, 3, 16)))
        acc = case.op(
            ops.Conv2dOp, [x, w, []], strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), groups=1
        )
        function = case.function(case.op(ops.PotRequantOp, [acc], FixedType("i8", 2)))
        sizes.append(len(lower(function, case.store, level).weights.tobytes()))
    wide, narrow_ = sizes
    assert narrow_ < 0.56 * wide + 512
