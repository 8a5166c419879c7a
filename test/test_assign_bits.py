"""Bits of weights: rounding to 4, the search within a budget, and the whole road to each backend."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from c_kernels import HOST_LEVELS, Machine
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.run import run_accel
from vit_opt.backends.c.lowering import lower
from vit_opt.backends.reference import run_reference
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import main_function
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.evaluate import evaluate_op
from vit_opt.dialects.vit.ops.base import format_of
from vit_opt.dialects.vit.targets import P2VIT
from vit_opt.passes.algorithms.bit_search import Costs, coarse_choice, fine_choice
from vit_opt.passes.algorithms.exponents import covering_fracs, output_error
from vit_opt.passes.algorithms.narrow import GROUP, columns_of, round_grouped, round_narrow
from vit_opt.passes.algorithms.rounding import Part, round_nearest
from vit_opt.passes.assign_bits import AssignBitsPass, assign_bits, costs_of
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.sensitivity import Sensitivity
from vit_opt.passes.quantization.weights import (
    BYTE_GROUPS,
    byte_groups,
    layers_of,
    weight_bytes,
)
from vit_opt.tools.steps import import_onnx, new_context, provide_batches, run_pipeline

EXAMPLES = Path(__file__).parents[1] / "examples"
CALIB = EXAMPLES / "digits" / "calib.npz"


def problem(seed: int, rows: int = 6, size: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """A weight with a heavy tail, and second moments of correlated inputs."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(3, (rows, size)) * 0.1
    x = rng.normal(size=(60, size)) @ (np.eye(size) + 0.3 * rng.normal(size=(size, size)))
    return weight, x.T @ x


def whole(weight: np.ndarray, moments: np.ndarray) -> list[Part]:
    """The moments of all rows and features of a weight."""
    rows, size = weight.shape
    return [Part(np.arange(int(rows)), np.arange(int(size)), moments)]


# ---- rounding ------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_narrow_rounding_beats_the_covering_grid(seed: int, known: bool) -> None:
    weight, moments = problem(seed)
    fracs, codes = round_narrow(weight, whole(weight, moments) if known else [], -8, 7)
    assert codes.min() >= -8 and codes.max() <= 7
    magnitude = np.abs(weight).max(axis=1)
    cover = covering_fracs(-magnitude, magnitude, -7, 7)
    by = moments if known else np.eye(weight.shape[1])

    def error(fracs: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return output_error(np.ldexp(codes.astype(float), -fracs[:, None]) - weight, by)

    plain = error(cover, round_nearest(weight, cover, -8, 7))
    assert (error(fracs, codes) <= plain * (1 + 1e-9)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([7, 8, 20]), st.integers(0, 3))
def test_groups_hold_what_four_bits_and_a_shift_can(seed: int, size: int, wide: int) -> None:
    weight, moments = problem(seed, size=size)
    marks = np.random.default_rng(seed).integers(0, 4, -(-size // GROUP)) < wide
    _, codes = round_grouped(weight, whole(weight, moments), marks)
    assert codes.min() >= -128 and codes.max() <= 127
    for group in np.flatnonzero(~marks):
        part = codes[:, GROUP * group : GROUP * (group + 1)]
        fits = [
            (part % (1 << s) == 0).all(axis=1)
            & (np.abs(part + (1 << s >> 1)) <= 15 << s >> 1).all(axis=1)
            for s in (1, 2, 3, 4)
        ]
        assert np.any(fits, axis=0).all()


def test_groups_beat_one_grid_where_columns_differ() -> None:
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(16, 64)) * np.repeat(2.0 ** rng.integers(-3, 1, 8), GROUP)
    x = rng.normal(size=(300, 64))
    moments = x.T @ x

    def error(fracs: np.ndarray, codes: np.ndarray) -> float:
        return output_error(
            np.ldexp(codes.astype(float), -fracs[:, None].astype(np.int32)) - weight, moments
        ).sum()

    channel = error(*round_narrow(weight, whole(weight, moments), -8, 7))
    none = np.zeros(8, bool)
    group = error(*round_grouped(weight, whole(weight, moments), none))
    half = error(*round_grouped(weight, whole(weight, moments), np.arange(8) < 4))
    assert group < 0.5 * channel
    assert half < group


@pytest.mark.parametrize("case", ["zeros", "loud", "dead inputs", "constant"])
def test_extreme_weights(case: str) -> None:
    weight, moments = problem(5)
    if case == "zeros":
        weight[:] = 0.0
    elif case == "loud":
        weight[:, 3] *= 1000.0
    elif case == "dead inputs":
        moments[:] = 0.0
    else:
        weight[:] = 0.7
    marks = np.array([True, False, False])
    for fracs, codes in (
        round_narrow(weight, whole(weight, moments), -8, 7),
        round_grouped(weight, whole(weight, moments), marks),
        round_grouped(weight, [], ~marks, limit=np.full(6, 4)),
    ):
        assert np.isfinite(fracs).all() and np.abs(fracs).max() <= 60
        assert np.abs(codes).max() <= 128
    assert columns_of(marks, 20).tolist() == [True] * 8 + [False] * 12


# ---- search --------------------------------------------------------------------------------------

LAYERS = st.lists(
    st.tuples(st.integers(1, 1000), st.floats(0, 1, allow_subnormal=False)), min_size=1, max_size=9
)


@settings(max_examples=60, deadline=None)
@given(LAYERS, st.floats(0.5, 1.1))
def test_coarse_choice_is_the_best_within_the_budget(
    layers: list[tuple[int, float]], share: float
) -> None:
    wide = tuple(2 * size for size, _ in layers)
    errors = [error for _, error in layers]
    costs = Costs(wide, tuple(size for size, _ in layers), int(share * sum(wide)))
    choices = list(product((False, True), repeat=len(layers)))
    if not any(map(costs.allows, choices)):
        with pytest.raises(ValueError, match="least possible cost"):
            coarse_choice(costs, errors)
        return
    choice = coarse_choice(costs, errors)
    assert costs.allows(choice)
    # The grid of costs may hide a choice that keeps the budget by less than a part in a thousand.
    spare = (sum(wide) - costs.budget) // 400 + 1
    tight = Costs(costs.wide, costs.narrow, costs.budget - spare)
    best = min(
        (sum(np.compress(c, errors)) for c in choices if tight.allows(c)), default=float("inf")
    )
    assert sum(np.compress(choice, errors)) <= best + 1e-9


def test_fine_choice_finds_what_additive_errors_miss() -> None:
    costs = Costs((10,) * 4, (5,) * 4, 30)
    errors = [1.0, 1.1, 1.2, 1.3]
    looked: list[tuple[bool, ...]] = []

    def measure(choice: tuple[bool, ...]) -> float:
        looked.append(choice)
        together = 5.0 if choice[0] and choice[1] else 0.0  # these two make each other worse
        return together + float(np.compress(choice, errors).sum())

    start = coarse_choice(costs, errors)
    assert start == (True, True, False, False)
    choice, error = fine_choice(costs, errors, start, measure, 20)
    assert choice == (True, False, True, False)
    assert error == pytest.approx(2.2)
    assert all(map(costs.allows, looked))
    assert fine_choice(costs, errors, start, measure, 20) == (choice, error)


# ---- a model -------------------------------------------------------------------------------------


@cache
def calibrated(name: str) -> Any:
    context = new_context()
    module = import_onnx(EXAMPLES / name / "model.onnx", shapes={}, context=context)
    provide_batches(module, context, CALIB, None)
    from vit_opt.passes.pipelines import passes_of, remaining

    run_pipeline(module, context, passes_of(remaining(module, "assign-bits")))
    return module, context


def test_the_search_beats_chance_and_size_at_equal_bytes() -> None:
    module, context = calibrated("digits_swin")
    constants = Constants.of(context)
    options = AssignBitsPass(budget=0.7, batches=2, trials=4)
    copy = module.clone()
    count = assign_bits(copy, constants, options)
    rows = context.assets.reports["assign-bits"]
    chosen = tuple(row["bits"] == 4 for row in rows[:-1])
    assert sum(chosen) == count
    assert rows[-1]["share"] <= 0.7
    layers, fixed = layers_of(copy, constants)
    costs = costs_of(layers, fixed, options)
    assert costs.allows(chosen)
    weights = [layer.narrowed() for layer in layers]
    unseen = context.assets.batches[8:10]
    judge = Sensitivity(copy, context.assets, layers, weights, unseen)
    judge.alone()
    ours = judge.together(chosen)
    rng = np.random.default_rng(0)
    others: list[float] = []
    by_size = np.argsort([-layer.size for layer in layers], kind="stable")
    for order in (by_size, *(rng.permutation(len(layers)) for _ in range(3))):
        picked = np.zeros(len(layers), bool)
        for index in order:
            if costs.allows(tuple(picked.tolist())):
                break
            picked[index] = True
        others.append(judge.together(picked.tolist()))
    assert ours < min(others)
    assert ours < 0.5 * float(np.mean(others))
    again = module.clone()
    assign_bits(again, constants, options)
    assert str(again) == str(copy)


def test_errors_far_behind_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes are followed to where a single value is alive, and all the way for one layer each."""
    module, context = calibrated("digits_swin")
    layers, _ = layers_of(module, Constants.of(context))
    weights = [layer.grouped(layer.no_group()) for layer in layers]
    meter = Sensitivity(module, context.assets, layers, weights, context.assets.batches[:2])
    steps = 0
    plain = meter.step

    def counted(*args: Any) -> None:
        nonlocal steps
        steps += 1
        plain(*args)

    monkeypatch.setattr(meter, "step", counted)
    found = np.array(meter.alone())
    taken, steps = steps, 0
    exact = np.zeros(len(layers))
    for inputs in meter.inputs:
        values = meter.evaluate(inputs)
        for index, (layer, weight) in enumerate(zip(layers, weights, strict=True)):
            changed: dict[Any, Any] = {}
            place = meter.operations.index(layer.op)
            places = range(place, len(meter.operations))
            meter.follow(values, changed, layer, weight, places)
            exact[index] += meter.error(values, changed) / len(meter.inputs)
    assert taken < 0.6 * steps
    ratio = 10 * np.log10(found / exact)
    assert abs(ratio.mean()) < 1.5 and np.abs(ratio).max() < 6
    assert np.corrcoef(np.log(found), np.log(exact))[0, 1] > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "bits 5 is not 4 or 8"),
        ({"bits": 4, "form": "tensor"}, "form 'tensor' is not one of channel, group"),
        ({"budget": 0.6, "cost": "time"}, "cost 'time' is not one of bytes, cycles"),
        ({"budget": -1.0}, "budget -1 is not above 0 and at most 1"),
        ({"budget": 0.4}, "no choice of bits keeps budget 0.4 of bytes; .* everywhere it is 0.507"),
        ({"budget": 0.4, "form": "group"}, "with 4 bits everywhere it is 0.539"),
        ({"budget": 0.6, "batches": 0}, "a budget needs calibration data; give it with --calib"),
        ({"budget": 0.3, "form": "group", "cost": "cycles"}, "keeps budget 0.3 of cycles"),
    ],
)
def test_what_cannot_be_chosen(options: dict[str, Any], message: str) -> None:
    module, context = calibrated("digits_swin")
    with pytest.raises(VitError, match=message):
        assign_bits(module.clone(), Constants.of(context), AssignBitsPass(**options))


def test_cycles_are_a_budget_too() -> None:
    module, context = calibrated("digits_swin")
    constants = Constants.of(context)
    options = AssignBitsPass(budget=0.8, cost="cycles", batches=1, trials=0)
    assert assign_bits(module.clone(), constants, options) > 0
    layers, fixed = layers_of(module, constants)
    costs = costs_of(layers, fixed, options)
    assert costs.budget == int(0.8 * sum(layer.cycles(P2VIT, 8) for layer in layers))
    assert costs.least < sum(costs.wide)


def test_groups_within_a_budget_of_cycles() -> None:
    """As many groups have 8 bits as keep it; where groups save no cycles, all have."""
    module, context = calibrated("digits_swin")
    constants, module = Constants.of(context), module.clone()
    options = AssignBitsPass(budget=0.7, cost="cycles", form="group", batches=1)
    assert assign_bits(module, constants, options) > 0
    layers, _ = layers_of(module, constants)
    spent = 0
    for layer in layers:
        wide, all_wide = byte_groups(layer.op), ~layer.no_group()
        saves = layer.grouped_cycles(P2VIT, layer.no_group()) < layer.cycles(P2VIT, 8)
        assert saves or wide is None
        spent += layer.grouped_cycles(P2VIT, all_wide if wide is None else wide)
    budget = 0.7 * sum(layer.cycles(P2VIT, 8) for layer in layers)
    assert 0.98 * budget < spent <= budget
    none = AssignBitsPass(budget=0.7, cost="cycles", form="group", arch="trio")
    with pytest.raises(VitError, match=r"with 4 bits everywhere it is 1\.000"):
        assign_bits(module.clone(), constants, none)


@pytest.mark.parametrize(
    ("name", "form", "budget"),
    [("digits_efficientvit", "channel", 0.58), ("digits_swin", "group", 0.65)],
)
def test_every_backend_gives_the_reference_bits(name: str, form: str, budget: float) -> None:
    module, context = calibrated(name)
    module = module.clone()
    given = f"assign-bits{{budget={budget} form={form} batches=2 trials=0}}"
    run_pipeline(
        module, context, f"{given},quantize,pot-fold,verify-integer,prove-ranges,fuse,tile"
    )
    store, batch = context.assets, context.assets.batches[0]
    codes = next(iter(run_reference(module, store, batch).codes.values()))
    function = main_function(module)
    [quantize] = [op for op in function.walk() if isinstance(op, ops.QuantizeOp)]
    inputs = list(evaluate_op(quantize, [next(iter(batch.values()))]))
    for level in HOST_LEVELS:
        lowered = lower(function, store, level)
        [found] = Machine(lowered, cpu=level.name).run(inputs)
        np.testing.assert_array_equal(found.view(codes.dtype), codes.reshape(-1), level.name)
    image = lower_accel(module, store, P2VIT)
    ran = run_accel(image, batch, P2VIT)
    [found] = ran.codes.values()
    np.testing.assert_array_equal(found, codes)
    assert 0 < ran.stats.narrow_macs < ran.stats.macs
    total = store.reports["assign-bits"][-1]
    assert total["bytes"] <= budget * total["bytes_8"]
    weights = [op for op in function.walk() if isinstance(op, ops.ConstantOp)]
    assert any(format_of(op.result).storage.width.data == 4 for op in weights) == (
        form == "channel"
    )
    grouped = [op for op in weights if BYTE_GROUPS in op.attributes]
    assert bool(grouped) == (form == "group")
    if grouped:
        size = len(lower(function, store).weights.tobytes())
        for op in grouped:
            op.attributes.pop(BYTE_GROUPS)
        saved = len(lower(function, store).weights.tobytes()) - size
        assert saved > 0.9 * (total["bytes_8"] - total["bytes"])


def test_bytes_of_weights() -> None:
    assert weight_bytes(4, 9, 8) == 4 * 10
    assert weight_bytes(4, 9, 4) == 4 * 6
