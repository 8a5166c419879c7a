"""`prove-ranges`: its intervals hold what the definitions compute, and are reached where exact."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_graphs import RandomGraph, operations
from xdsl.dialects.builtin import TensorType
from xdsl.dialects.test import TestOp as Source
from xdsl.ir import Block, Operation, SSAValue

from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.errors import CheckError
from vit_opt.dialects.evaluation import run_main
from vit_opt.dialects.vit import FixedType, ops
from vit_opt.dialects.vit.evaluate import evaluate_op, evaluator
from vit_opt.dialects.vit.ops.base import integers
from vit_opt.dialects.vit.semantics.arithmetic import round_shift
from vit_opt.dialects.vit.semantics.layernorm import normalise
from vit_opt.passes.interval import Interval, rounded_shift
from vit_opt.passes.prove_ranges import RANGE, _Proof, prove_ranges

Array = NDArray[Any]


@pytest.mark.parametrize("seed", range(40))
def test_every_value_lies_in_its_interval(seed: int) -> None:
    graph = RandomGraph(seed, steps=20)
    ranges = prove_ranges(graph.module, graph.store)
    seen = 0

    def observe(op: Operation, results: Sequence[Array]) -> None:
        nonlocal seen
        for value, array in zip(op.results, results, strict=True):
            if value in ranges:
                seen += 1
                found = Interval(int(array.min()), int(array.max()))
                assert found.within((ranges[value].low, ranges[value].high)), op

    for extreme in (False, True):
        run_main(graph.module, graph.inputs(extreme), evaluator(graph.store), observe)
    assert seen > 20
    for kind in (ops.LinearOp, ops.MatmulOp, ops.AddOp, ops.LayerNormOp, ops.NormalizeOp):
        assert all(RANGE in op.attributes for op in operations(graph.module, kind))


def values(*types: tuple[FixedType, tuple[int, ...]]) -> list[SSAValue]:
    return list(Source(result_types=[TensorType(f, shape) for f, shape in types]).results)


def proof_of(op: Operation, store: AssetStore, *constants: Operation) -> tuple[int, ...]:
    """The recorded range of an operation."""
    _Proof(store).run(Block([*constants, op]))
    return integers(op.attributes[RANGE])  # pyright: ignore[reportArgumentType]


@given(st.integers(0, 2**32), st.sampled_from(["i8", "ui8"]), st.integers(0, 100))
def test_the_bound_of_a_linear_is_reached(seed: int, storage: str, zp: int) -> None:
    rng, store = np.random.default_rng(seed), AssetStore()
    n, k = rng.integers(1, 6, 2)
    weight = ops.ConstantOp.make(store, "w", rng.integers(-128, 128, (n, k)), FixedType("i8", 5))
    bias = ops.ConstantOp.make(store, "b", rng.integers(-1000, 1000, n), FixedType("i32", 10))
    x_type = FixedType(storage, 5, zp=zp)
    (x,) = values((x_type, (1, int(k))))
    op = ops.LinearOp.of(x, weight.result, bias.result)
    low, high = proof_of(op, store, weight, bias)
    codes = evaluator(store)(weight, [])[0]
    offsets = evaluator(store)(bias, [])[0]
    least, most = x_type.bounds
    reached: list[int] = []
    for row in codes:
        for x_codes in (np.where(row > 0, most, least), np.where(row > 0, least, most)):
            acc = evaluate_op(op, [x_codes[None], codes, offsets])[0]
            reached += [int(acc.min()), int(acc.max())]
    assert (low, high) == (min(reached), max(reached))


@given(st.integers(2, 40), st.integers(0, 2**32), st.booleans())
def test_the_bound_of_a_normalised_value_holds(channels: int, seed: int, one: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-2, 3, (20, channels))
    if one:
        rows = np.eye(channels, dtype=np.int64)[:20] * rng.integers(1, 30000) + rng.integers(9)
    store = AssetStore()
    gamma = ops.ConstantOp.make(store, "g", np.ones(channels), FixedType("i8", 0))
    beta = ops.ConstantOp.make(store, "b", np.zeros(channels), FixedType("i32", 0))
    (x,) = values((FixedType("i16", 5), (20, channels)))
    op = ops.LayerNormOp.of(x, gamma.result, beta.result, type=FixedType("i8", 5))
    low, high = proof_of(op, store, gamma, beta)
    found = normalise(rows)
    assert low <= found.min() and found.max() <= high
    if one:
        assert high <= 1.05 * found.max() + 4


@given(st.integers(-(2**62), 2**62), st.integers(-1, 70), st.sampled_from(["rhu", "rhe", "floor"]))
def test_rounding_is_that_of_the_definition(x: int, shift: int, rounding: Any) -> None:
    # Bounds are exact; the definition, in 64 bits, saturates: 2^62 shifted left is 2^63 - 1 there.
    exact = rounded_shift(x, shift, rounding)
    assert min(exact, 2**63 - 1) == int(round_shift(x, shift, rounding))


def test_a_code_outside_of_its_storage_is_found() -> None:
    store = AssetStore()
    value = store.add("w", np.array([[7, 8]], np.int8))
    constant = ops.ConstantOp(
        operands=[],
        properties={"value": value},
        result_types=[TensorType(FixedType("i4", 3), [1, 2])],
    )
    with pytest.raises(CheckError, match=r"vit.constant: a code may reach 7 to 8, but has 4 bits"):
        _Proof(store).run(Block([constant]))


@pytest.mark.parametrize(("tokens", "fits"), [(1 << 10, True), (1 << 17, True), (1 << 18, False)])
def test_linear_attention_state_has_32_bits(tokens: int, fits: bool) -> None:
    q, v = values((FixedType("i8", 5), (tokens, 4)), (FixedType("i8", 5), (tokens, 4)))
    relu = ops.ClampOp.of(q, min=0, max=127)
    op = ops.LinearAttnOp.of(
        relu.result, relu.result, v, type=FixedType("i8", 5), kv_shift=8, ksum_shift=8
    )
    if fits:
        assert proof_of(op, AssetStore(), relu)
        return
    with pytest.raises(CheckError, match=r"vit.linear_attn: the state K\^T V may reach"):
        proof_of(op, AssetStore(), relu)
