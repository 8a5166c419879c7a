"""I-ViT's published code, replayed: Shiftmax, ShiftGELU, LayerNorm, dyadic arithmetic, QuantLinear."""

import numpy as np
import pytest
from golden_vectors import I8, I16, Golden, assert_equal

from vit_opt.dialects.vit.semantics.activation import shift_gelu_ivit, shift_gelu_step
from vit_opt.dialects.vit.semantics.arithmetic import integer_sqrt
from vit_opt.dialects.vit.semantics.layernorm import layernorm_ivit, newton_sqrt_ivit
from vit_opt.dialects.vit.semantics.linear import linear
from vit_opt.dialects.vit.semantics.requant import (
    batch_frexp,
    dyadic_add,
    dyadic_multiplier,
    dyadic_requant,
    pot_requant,
)
from vit_opt.dialects.vit.semantics.softmax import shiftmax
from vit_opt.passes.algorithms.affine import symmetric_rows

SHIFTMAX = [
    f"ivit_shiftmax_pot_{kind}_L{length}" for kind in ("i8", "i16") for length in (5, 49, 197)
]
SHIFTGELU = ["ivit_shiftgelu_pot_i8", "ivit_shiftgelu_pot_i16"]
LAYERNORM = [f"ivit_layernorm_C{channels}" for channels in (96, 192, 384)]
FILES = {
    *SHIFTMAX,
    *SHIFTGELU,
    *LAYERNORM,
    "ivit_shiftmax_nonpot",
    "ivit_shiftgelu_nonpot",
    "ivit_newton_sqrt",
    "ivit_dyadic",
    "ivit_batch_frexp",
    "ivit_quantlinear",
}
BITS = {8: I8, 16: I16}


@pytest.mark.parametrize("name", SHIFTMAX)
def test_shiftmax_power_of_two(name: str) -> None:
    golden = Golden(name)
    stems = [key[2:] for key in golden.arrays if key.startswith("x_e")]
    assert len(stems) == 6
    for e in stems:
        x, step, n = golden[f"x_{e}"], golden.number(f"I0_{e}"), golden.number("n")
        for bits in (8, 16):
            published = shiftmax(x, step, bits, n, "floor", 2**31)
            assert_equal(published, golden[f"y{bits}_{e}"])
            assert_equal(published, golden[f"exact31_{bits}_{e}"])
            exact = golden[f"exact{bits}_{e}"]
            assert_equal(shiftmax(x, step, bits, n), exact)


def test_shiftmax_other_scales() -> None:
    """Floors of an inexact x/scale may be one step off in the published float code."""
    golden = Golden("ivit_shiftmax_nonpot")
    n = golden.number("n")
    for i in range(len(golden["scales"])):
        step = golden.number(f"I0_{i}")
        for length in (5, 49, 197):
            x = golden[f"x_{i}_L{length}"]
            for bits in (8, 16):
                key = f"{bits}_{i}_L{length}"
                assert_equal(shiftmax(x, step, bits, n), golden[f"exact{key}"])
                published = shiftmax(x, step, bits, n, "floor", 2**31)
                assert_equal(published, golden[f"exact31_{key}"])
                difference = np.abs(published - golden[f"y{key}"])
                unit = 1 if bits == 8 else 256
                assert difference.max() <= 3 * unit
                assert (difference > unit).mean() <= 0.05


@pytest.mark.parametrize("name", SHIFTGELU)
def test_shift_gelu_power_of_two(name: str) -> None:
    golden = Golden(name)
    for e in [key[2:] for key in golden.arrays if key.startswith("x_e")]:
        x, step = golden[f"x_{e}"], golden.number(f"I0_{e}")
        assert shift_gelu_step(golden.real(f"scale_{e}")) == step
        assert_equal(shift_gelu_ivit(x, step), golden[f"exact_{e}"])
        published = shift_gelu_ivit(x, step, numerator=2**31)
        assert_equal(published, golden[f"exact31_{e}"])
        assert (np.abs(published - golden[f"y_{e}"]) <= np.abs(x)).all()


def test_shift_gelu_other_scales() -> None:
    golden = Golden("ivit_shiftgelu_nonpot")
    for i, scale in enumerate(golden["scales"]):
        x, step = golden[f"x_{i}"], golden.number(f"I0_{i}")
        assert shift_gelu_step(float(scale)) == step
        assert_equal(shift_gelu_ivit(x, step), golden[f"exact_{i}"])
        published = shift_gelu_ivit(x, step, numerator=2**31)
        assert_equal(published, golden[f"exact31_{i}"])
        # One code of the sigmoid, and one more where x/scale was truncated.
        assert (np.abs(published - golden[f"y_{i}"]) <= 2 * np.abs(x)).all()


@pytest.mark.parametrize("name", LAYERNORM)
@pytest.mark.parametrize("kind", ["i8", "i16", "small"])
def test_layernorm(name: str, kind: str) -> None:
    golden = Golden(name)
    y = layernorm_ivit(golden[f"x_{kind}"], golden[f"bias_int_{kind}"])
    assert_equal(y, golden[f"exact_y_{kind}"])
    assert np.abs(y - golden[f"y_{kind}"]).max() <= 2**13
    variance = golden[f"exact_var_{kind}"]
    assert_equal(newton_sqrt_ivit(variance), golden[f"exact_std_{kind}"])


def test_newton_square_root() -> None:
    golden = Golden("ivit_newton_sqrt")
    assert_equal(newton_sqrt_ivit(golden["var"]), golden["k_exact10"])
    assert_equal(integer_sqrt(golden["var"]), golden["isqrt"])
    a = golden["a"][:, None]
    y = layernorm_ivit(np.concatenate([a, -a], axis=1), np.zeros(2, np.int64))
    assert_equal(y, golden["ln_exact01"])
    np.testing.assert_allclose(y, golden["ln_y01"], rtol=2**-22, atol=2)


def test_batch_frexp() -> None:
    golden = Golden("ivit_batch_frexp")
    multiplier, shift = batch_frexp(golden["scale"])
    assert_equal(multiplier, golden["m"])
    assert_equal(shift, golden["e"])
    narrow, fixed_shift = dyadic_multiplier(golden["scale"])
    assert np.abs(narrow).max() < 2**31 <= np.abs(multiplier).max()
    np.testing.assert_array_equal(np.ldexp(narrow, -fixed_shift), np.ldexp(multiplier, -shift))


@pytest.mark.parametrize("case", Golden("ivit_dyadic").cases())
def test_dyadic(case: str) -> None:
    golden = Golden("ivit_dyadic")
    if f"{case}/m" in golden:
        low, high = BITS[golden.number(f"{case}/bits")]
        m, e = golden[f"{case}/m"], golden[f"{case}/e"]
    else:
        low, high = I16
        m, e = batch_frexp(golden[f"{case}/s_in"].astype(np.float64) / golden[f"{case}/s_out"])
    z = golden[f"{case}/z"]
    if f"{case}/w" not in golden:
        y = dyadic_requant(z, m, e, low, high)
    else:
        if f"{case}/m_id" in golden:
            m_id, e_id = golden[f"{case}/m_id"], golden[f"{case}/e_id"]
        else:  # the file leaves out the identity's scale, 2**-9: half a step of the result
            m_id, e_id = batch_frexp(2.0**-9 / golden.real(f"{case}/s_out"))
        y = dyadic_add(z, golden[f"{case}/w"], (m, m_id), (e, e_id), low, high)
    if f"{case}/exact" in golden:
        assert_equal(y, golden[f"{case}/exact"])
    if "wide" not in case:
        assert_equal(y, golden[f"{case}/y"])


def test_dyadic_equals_shift_for_powers_of_two() -> None:
    golden = Golden("ivit_dyadic")
    shift = round(np.log2(golden.real("pot_noid/s_out") / golden.real("pot_noid/s_in")))
    z = golden["pot_noid/z"]
    assert_equal(pot_requant(z, shift, *I16, rounding="rhe"), golden["pot_noid/y"])
    assert (pot_requant(z, shift, *I16) != golden["pot_noid/y"]).any()


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_linear(bits: int) -> None:
    golden = Golden("ivit_quantlinear")
    codes, scales = symmetric_rows(golden[f"W{bits}"], bits)
    assert_equal(codes, golden[f"Wint{bits}"])
    grid = scales * np.float32(golden.real(f"s{bits}"))
    np.testing.assert_allclose(grid, golden[f"yscale{bits}"], rtol=1e-6)
    bias = np.rint(golden[f"bias{bits}"] / grid).astype(np.int64)
    assert_equal(bias, golden[f"bint{bits}"])
    y = linear(golden[f"x{bits}"], codes, bias)
    assert_equal(y, golden[f"y{bits}"])
    assert_equal(y, golden[f"exact{bits}"])
