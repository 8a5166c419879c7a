"""pot-fold{weights=learned}: codes improved one by one after error compensation."""

import numpy as np
import pytest
from graphs import apply, context, parse, run_float, run_integer, sqnr
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import IntegerAttr, i64

from vit_opt.dialects import onnx
from vit_opt.passes.algorithms.narrow import round_grouped, round_narrow
from vit_opt.passes.algorithms.rounding import Part, compensate, damped_factor, descend

TEXT = """
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<32x48xf32>) -> tensor<32x16xf32> attributes {vit.input_names = ["x"]} {
    %w = onnx.Constant dense<WEIGHT> : tensor<16x48xf32>
    %n = onnx.HardSigmoid %x {alpha = 0.16666667 : f64, beta = 0.5 : f64} : (tensor<32x48xf32>) -> tensor<32x48xf32>
    %y = onnx.Linear %n, %w : (tensor<32x48xf32>, tensor<16x48xf32>) -> tensor<32x16xf32>
    func.return %y : tensor<32x16xf32>
  }
}
"""  # noqa: E501


def correlated(rng: np.random.Generator, rows: int, size: int) -> np.ndarray:
    """Inputs that a few directions explain, as the activations of a network."""
    mixing = rng.normal(size=(size, size)) * 2.0 ** -np.arange(0, 6, 6 / size)[:, None]
    return rng.normal(size=(rows, size)) @ mixing


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.booleans())
def test_the_error_never_grows(seed: int, sweeps: int, grouped: bool) -> None:
    rng = np.random.default_rng(seed)
    columns, x = rng.standard_t(3, (20, 5)) * 4, correlated(rng, 60, 20)
    hessian = x.T @ x
    hessian += np.diag(0.1 * np.diag(hessian))
    low, high = np.full(20, -8), np.full(20, 7)
    steps = 1 << rng.integers(0, 3, (20, 5)) if grouped else None
    before = compensate(columns, damped_factor(hessian.copy(), 0.0), low, high, steps)
    after = descend(before, columns, hessian, low, high, steps, sweeps)

    def error(codes: np.ndarray) -> np.ndarray:
        difference = codes - columns
        return np.einsum("kn,kj,jn->n", difference, hessian, difference)

    assert (error(after) <= error(before) * (1 + 1e-9)).all()
    scale = 1 if steps is None else steps
    assert (after % scale == 0).all()
    assert (after // scale >= -8).all() and (after // scale <= 7).all()
    if sweeps == 0:
        assert np.array_equal(before, after)


def test_it_helps_four_bits_on_inputs_like_the_ones_seen() -> None:
    gains: list[float] = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        weight, x = rng.standard_t(3, (24, 64)), correlated(rng, 800, 64)
        seen, fresh = x[:600], x[600:]
        parts = [Part(np.arange(24), np.arange(64), seen.T @ seen)]
        wide = np.zeros(8, bool)
        for form in ("channel", "group"):
            errors: list[float] = []
            for sweeps in (0, 3):
                if form == "channel":
                    found = round_narrow(weight, parts, -8, 7, damping=0.1, sweeps=sweeps)
                else:
                    found = round_grouped(weight, parts, wide, damping=0.1, sweeps=sweeps)
                fracs, codes = found
                real = np.ldexp(codes.astype(float), -fracs[:, None].astype(np.int32))
                errors.append(float(np.square(fresh @ (real - weight).T).sum()))
            gains.append(float(10 * np.log10(errors[0] / errors[1])))
    assert np.mean(gains) > 0.4
    assert min(gains) > -0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_the_option_reaches_a_layer_of_four_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(3, (16, 48)).astype(np.float32)
    batches = [{"x": correlated(rng, 32, 48).astype(np.float32)} for _ in range(12)]
    found: dict[str, float] = {}
    for weights in ("compensated", "learned"):
        ctx = context(batches[:8])
        module = parse(ctx, TEXT.replace("WEIGHT", str(weight.tolist())))
        exact = np.stack([run_float(ctx, module, each)["output0"] for each in batches[8:]])
        apply(ctx, module, "calibrate")
        [layer] = [op for op in module.walk() if isinstance(op, onnx.Linear)]
        layer.attributes["vit.weight_bits"] = IntegerAttr(4, i64)
        apply(ctx, module, "quantize")
        apply(ctx, module, "pot-fold", weights=weights)
        real = np.stack([run_integer(ctx, module, each)["output0"] for each in batches[8:]])
        found[weights] = sqnr(exact, real)
    assert found["learned"] > found["compensated"]
