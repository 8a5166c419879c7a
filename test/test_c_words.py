"""Products whose epilogues go on in 16 bits: sums, tables and branches in registers."""

import numpy as np
import pytest
from c_cases import Case, FixedType, codes, ops
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.backends.c.code import Struct, Symbol
from vit_opt.backends.c.levels import LEVELS, runs_here
from vit_opt.backends.c.lowering import lower

EXAMPLES = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
ROWS = st.sampled_from([1, 3, 6, 7, 13, 49])
COLUMNS = st.sampled_from([1, 15, 16, 17, 32, 33, 48, 64, 65, 96, 130])
AVX512 = LEVELS["avx512vnni"]


def product(rng: np.random.Generator, case: Case, m: int, n: int, k: int = 23) -> object:
    """Accumulators of a linear layer of unsigned codes, of 10 to 16 fractional bits."""
    format_ = FixedType("ui8", 5, zp=int(rng.integers(0, 256)))
    x = case.input(format_, codes(rng, format_, (1, m, k)))
    fracs = rng.integers(5, 12, n)
    weights = FixedType("i8", fracs, axis=0)
    w = case.constant(weights, codes(rng, weights, (n, k)))
    offsets = FixedType("i32", 5 + fracs, axis=0)
    bias = case.constant(offsets, rng.integers(-(2**20), 2**20, n))
    return case.op(ops.LinearOp, [x, w, [bias]])


def residual(rng: np.random.Generator, case: Case, m: int, n: int, frac: int) -> object:
    format_ = FixedType("i16", frac)
    return case.input(format_, codes(rng, format_, (1, m, n)))


def finishes(case: Case, *outputs: object) -> list[str]:
    """How the products of a function end with AVX-512."""
    found: list[str] = []
    for call in lower(case.function(*outputs), case.store, AVX512).calls:
        shape = call.arguments[0]
        finish = shape.fields.get("finish") if isinstance(shape, Struct) else None
        found += [finish.name] if isinstance(finish, Symbol) else []
    return found


@EXAMPLES
@given(
    SEEDS, ROWS, COLUMNS, st.integers(4, 13), st.integers(4, 13), st.booleans(), st.booleans(),
)  # fmt: skip
def test_sum_of_any_grids(seed, m, n, frac, frac_out, swap, again) -> None:
    """An accumulator and a residual, each on a grid of its own, and another residual behind it."""
    rng = np.random.default_rng(seed)
    case = Case()
    pair = [product(rng, case, m, n), residual(rng, case, m, n, frac)]
    y = case.op(ops.AddOp, pair[::-1] if swap else pair, FixedType("i16", frac_out))
    if again:
        more = residual(rng, case, m, n, int(rng.integers(4, 13)))
        y = case.op(ops.AddOp, [more, y] if swap else [y, more], FixedType("i16", frac_out))
    case.check(y)


@EXAMPLES
@given(
    SEEDS, ROWS, COLUMNS, st.sampled_from(["i16", "i8", "ui8"]), st.integers(5, 16),
    st.integers(2, 11), st.integers(2, 11), st.sampled_from(["i16", "i8", "ui8"]),
    st.integers(-3, 130), st.booleans(), st.booleans(),
)  # fmt: skip
def test_requantised_then_added(
    seed, m, n, storage, frac, other_frac, out_frac, out, zp, lookup, read_twice
):
    rng = np.random.default_rng(seed)
    case = Case()
    acc = product(rng, case, m, n)
    low, high = FixedType(storage, 0).bounds
    y = case.op(
        ops.PotRequantOp, [acc], FixedType(storage, frac, zp=max(low, min(high, zp)))
    )  # fmt: skip
    y = case.op(
        ops.AddOp, [y, residual(rng, case, m, n, other_frac)], FixedType("i16", out_frac, zp=zp)
    )
    if lookup:
        wide = FixedType("i16", 3)
        table = case.constant(wide, codes(rng, wide, (257,)))
        y = case.op(ops.LutOp, [y, table])
    low, high = FixedType(out, 0).bounds
    grid = FixedType(out, 3 if lookup else out_frac - 2, zp=max(low, min(high, zp)))
    z = case.op(ops.PotRequantOp, [y], grid)
    case.check(*([y, z] if read_twice else [z]))


@EXAMPLES
@given(
    SEEDS, ROWS, COLUMNS, st.lists(
        st.tuples(st.sampled_from(["i16", "i8", "ui8"]), st.integers(2, 17), st.integers(-90, 90)),
        min_size=2, max_size=3,
    ), st.booleans(),
)  # fmt: skip
def test_branches(seed, m, n, branches, from_words) -> None:
    """Several requantisations of the same accumulators, or of the same words."""
    rng = np.random.default_rng(seed)
    case = Case()
    y = product(rng, case, m, n)
    if from_words:
        y = case.op(ops.PotRequantOp, [y], FixedType("i16", 8))
    results = []
    for storage, frac, zp in branches:
        low, high = FixedType(storage, 0).bounds
        format_ = FixedType(storage, frac, zp=max(low, min(high, zp)))
        results.append(case.op(ops.PotRequantOp, [y], format_))
    case.check(*results)


@pytest.mark.parametrize("kind", ["sum", "words", "branches", "table"])
def test_no_accumulators_in_memory(kind) -> None:
    """What these tests are about is what AVX-512 is given."""
    rng = np.random.default_rng(0)
    case = Case()
    acc = product(rng, case, 7, 96)
    sixteen = FixedType("i16", 8)
    if kind == "sum":
        outputs = [case.op(ops.AddOp, [acc, residual(rng, case, 7, 96, 9)], sixteen)]
    elif kind == "branches":
        formats = FixedType("ui8", 4, zp=128), sixteen
        outputs = [case.op(ops.PotRequantOp, [acc], each) for each in formats]
    else:
        y = case.op(ops.PotRequantOp, [acc], sixteen)
        if kind == "table":
            y = case.op(ops.LutOp, [y, case.constant(sixteen, codes(rng, sixteen, (257,)))])
        outputs = [case.op(ops.AddOp, [y, residual(rng, case, 7, 96, 7)], FixedType("i8", 0))]
    assert finishes(case, *outputs) == ["VIT_TO_WORDS"]


@EXAMPLES
@given(SEEDS, ROWS, COLUMNS, st.booleans(), st.sampled_from([5, 8, 12]))
def test_product_in_two_parts(seed, m, n, swap, frac) -> None:
    """Columns of the reduction in two products, whose sum has 16 bits between them."""
    rng = np.random.default_rng(seed)
    case = Case()
    first, second = product(rng, case, m, n), product(rng, case, m, n, 8)
    sixteen = FixedType("i16", frac)
    y = case.op(ops.AddOp, [first, residual(rng, case, m, n, frac)], sixteen)
    case.check(case.op(ops.AddOp, [second, y] if swap else [y, second], sixteen))


def test_second_product_adds_to_the_first() -> None:
    """Its accumulators are not stored, whichever product comes first."""
    rng = np.random.default_rng(0)
    for order in (1, -1):
        case, sixteen = Case(), FixedType("i16", 5)
        acc = [product(rng, case, 7, 64), product(rng, case, 7, 64)][::order]
        y = case.op(ops.AddOp, [acc[0], residual(rng, case, 7, 64, 5)], sixteen)
        y = case.op(ops.AddOp, [acc[1], y], sixteen)
        assert finishes(case, y) == ["VIT_TO_SUM", "VIT_TO_SUM"]


def test_levels_without_the_finish() -> None:
    """The other levels go by stages."""
    case = Case()
    rng = np.random.default_rng(0)
    acc = product(rng, case, 7, 64)
    results = [case.op(ops.PotRequantOp, [acc], FixedType("i16", each)) for each in (7, 8)]
    function = case.function(*results)
    for level in (each for each in LEVELS.values() if each is not AVX512 and runs_here(each)):
        text = str([call.arguments[0] for call in lower(function, case.store, level).calls])
        assert "VIT_TO_WORDS" not in text
