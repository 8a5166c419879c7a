"""The standard integer forms: every operation equals its stored vectors, bit for bit."""

import re

import numpy as np
import pytest
from golden_vectors import I8, I16, U8, Golden, assert_equal

from vit_opt.dialects.vit.semantics.activation import shift_gelu
from vit_opt.dialects.vit.semantics.layernorm import layernorm, normalise
from vit_opt.dialects.vit.semantics.linear import matmul
from vit_opt.dialects.vit.semantics.linear_attention import linear_attention
from vit_opt.dialects.vit.semantics.pooling import mean
from vit_opt.dialects.vit.semantics.requant import add, mul, pot_requant
from vit_opt.dialects.vit.semantics.softmax import (
    EXP_TABLE,
    log2_softmax,
    normalize,
    shiftmax,
    softmax_exp,
)

FILES = {
    "standard_requant",
    "standard_softmax",
    "standard_gelu",
    "standard_layernorm",
    "standard_linear_attn",
    "standard_deferred_softmax",
    "standard_mean_mul",
}
LIMITS = {"i8": I8, "i16": I16, "u8": U8}


def test_pot_requant() -> None:
    golden = Golden("standard_requant")
    replayed = 0
    for key in golden.arrays:
        match = re.fullmatch(r"y_s(-?\d+)_(rhu|rhe)_(i8|i16|u8)", key)
        if match:
            shift, low_high = int(match[1]), LIMITS[match[3]]
            y = pot_requant(golden["acc"], shift, *low_high, rounding=match[2])
            assert_equal(y, golden[key])
            replayed += 1
    assert replayed >= 10
    y = pot_requant(golden["acc_pc"], golden["shift_pc"], *I8)
    assert_equal(y, golden["y_pc_rhu_i8"])


def test_residual_add() -> None:
    golden = Golden("standard_requant")
    for stem in golden.stems("_a"):
        fa, fb, fo = golden[f"{stem}_frac"].tolist()
        y = add(golden[f"{stem}_a"], golden[f"{stem}_b"], fa, fb, fo, *I8)
        assert_equal(y, golden[f"{stem}_y"])


def test_softmaxes() -> None:
    golden = Golden("standard_softmax")
    replayed = 0
    for key in golden.arrays:
        match = re.fullmatch(r"(y|log2)_(L\d+)_e(\d+)(?:_b(\d+)_(rhu|floor))?", key)
        if not match:
            assert key.startswith("x_")
            continue
        x, step = golden[f"x_{match[2]}_e{match[3]}"], 1 << int(match[3])
        if match[1] == "log2":
            y = log2_softmax(x, step)
        else:
            y = shiftmax(x, step, int(match[4]), rounding=match[5])
        assert_equal(y, golden[key])
        replayed += 1
    assert replayed >= 10


def test_deferred_softmax() -> None:
    golden = Golden("standard_deferred_softmax")
    assert_equal(EXP_TABLE, golden["exp_table"])
    for stem in golden.stems("_x"):
        p, total = softmax_exp(golden[f"{stem}_x"], golden.number(f"{stem}_frac"))
        assert_equal(p, golden[f"{stem}_p"])
        assert_equal(total.ravel(), golden[f"{stem}_sum"].ravel())
        acc = matmul(p, golden[f"{stem}_v"])
        assert_equal(acc, golden[f"{stem}_acc"])
        assert_equal(normalize(acc, total, 5 - 6, *I8), golden[f"{stem}_y_i8"])
        assert_equal(normalize(acc, total, 5 - 11, *I16), golden[f"{stem}_y_i16"])


def test_shift_gelu() -> None:
    golden = Golden("standard_gelu")
    for stem in golden.stems("_x"):
        frac = int(stem.split("_e")[1])
        assert golden.number(f"{stem}_frac") == frac + 7
        assert_equal(shift_gelu(golden[f"{stem}_x"], frac), golden[f"{stem}_y"])


@pytest.mark.parametrize("stem", list(Golden("standard_layernorm").stems("_x")))
def test_layernorm(stem: str) -> None:
    golden = Golden("standard_layernorm")
    fractions = [golden.number(f"frac_{name}") for name in ("gamma", "beta", "out")]
    x, gamma, beta = (golden[f"{stem}_{name}"] for name in ("x", "gamma", "beta"))
    assert_equal(normalise(x), golden[f"{stem}_norm"])
    assert_equal(layernorm(x, gamma, beta, *fractions, *I8), golden[f"{stem}_y"])
    fractions[2] = fractions[2] + golden[f"{stem}_channel_frac"]
    assert_equal(layernorm(x, gamma, beta, *fractions, *I8), golden[f"{stem}_y_channel"])


def test_linear_attention() -> None:
    golden = Golden("standard_linear_attn")
    shift = golden.number("frac_v") - golden.number("frac_out")
    for stem in golden.stems("_q"):
        q, k, v = (golden[f"{stem}_{name}"] for name in "qkv")
        s1, s2 = golden[f"{stem}_shifts"].tolist()
        assert (q == 0).all(axis=-1).any(), "a row with divisor 0 belongs to the set"
        for divisor in ("recip", "pot"):
            y = linear_attention(q, k, v, s1, s2, shift, *I8, divisor)
            assert_equal(y, golden[f"{stem}_y_{divisor}"])


def test_mean_and_product() -> None:
    golden = Golden("standard_mean_mul")
    for stem in golden.stems("_x"):
        frac_in, frac_out = golden[f"{stem}_frac"].tolist()
        y = mean(golden[f"{stem}_x"], (0,), frac_in - frac_out, *I8)
        assert_equal(y, golden[f"{stem}_y"])
    for stem in golden.stems("_a"):
        fa, fb, fo = golden[f"{stem}_frac"].tolist()
        y = mul(golden[f"{stem}_a"], golden[f"{stem}_b"], fa + fb - fo, *I8)
        assert_equal(y, golden[f"{stem}_y"])
    assert np.size(golden["mean0_x"]) > 0
