"""FQ-ViT's and P2-ViT's published code, replayed: log-int-softmax, PTF, scale search, smoothing."""

import numpy as np
import pytest
from golden_vectors import I8, U8, Golden, assert_equal

from vit_opt.dialects.vit.semantics.layernorm import layernorm_ptf
from vit_opt.dialects.vit.semantics.softmax import log_int_softmax
from vit_opt.passes.algorithms.exponents import (
    search_tensor,
    search_tensor_asymmetric,
    search_weight,
    symmetric_scale,
)
from vit_opt.passes.algorithms.logarithmic import log2_codes
from vit_opt.passes.algorithms.ptf import ptf_base, ptf_exponents
from vit_opt.passes.algorithms.rounding import SecondMoments
from vit_opt.passes.algorithms.smoothing import (
    round_pot_linear,
    smoothing_exponents,
    smoothing_ratio,
)
from vit_opt.passes.algorithms.windows import unfold

SOFTMAX = [f"{repo}_logintsoftmax_L{length}" for repo in ("fq", "p2") for length in (5, 49, 197)]
FILES = {
    *SOFTMAX,
    "fq_layernorm_ptf",
    "p2_layernorm_ptf",
    "fq_ptf_scale",
    "p2_ptf_scale",
    "fq_log2quantizer",
    "p2_pot_scale",
    "p2_smooth",
}
I4 = (-8, 7)
U4 = (0, 15)
U3 = (0, 7)
LIMITS = {"int8": I8, "int4": I4, "uint8": U8, "uint4": U4, "uint3": U3}


@pytest.mark.parametrize("name", SOFTMAX)
def test_log_int_softmax(name: str) -> None:
    golden = Golden(name)
    for i, scale in enumerate(golden["scales"]):
        codes, zero = log_int_softmax(golden[f"x_{i}"], float(scale), golden.number("n"))
        for prefix in ("", "exact_"):
            assert_equal(codes, golden[f"{prefix}code_{i}"])
            assert_equal(zero.astype(bool), golden[f"{prefix}zero_{i}"])


@pytest.mark.parametrize("repo", ["fq", "p2"])
def test_layernorm_ptf(repo: str) -> None:
    golden = Golden(f"{repo}_layernorm_ptf")
    for case in golden.cases():
        scale_out = golden[f"{case}/out_scale"].astype(np.float64)
        if f"{case}/chan_scale" in golden:
            scale_out = scale_out * golden[f"{case}/chan_scale"]
        y = layernorm_ptf(
            golden[f"{case}/xq"],
            np.log2(golden[f"{case}/mask"]).astype(np.int64),
            golden.real(f"{case}/base"),
            golden[f"{case}/gamma"],
            golden[f"{case}/beta"],
            scale_out,
        )
        assert_equal(y, golden[f"{case}/y_f64"])
        assert np.abs(y - golden[f"{case}/y"]).max() <= 1


@pytest.mark.parametrize("repo", ["fq", "p2"])
def test_ptf_scales(repo: str) -> None:
    golden = Golden(f"{repo}_ptf_scale")
    for case in golden.cases():
        low, high = LIMITS[case.split("_")[0]]
        x = golden[f"{case}/x"]
        base, zero_point = ptf_base(x, low, high, repo)
        np.testing.assert_allclose(base, golden.real(f"{case}/base"), rtol=1e-6)
        assert zero_point == golden.number(f"{case}/zero_point")
        exponents = ptf_exponents(x, base, low, high, zero_point)
        assert_equal(exponents, golden[f"{case}/mask_exp"])
        np.testing.assert_allclose(base * 2.0**exponents, golden[f"{case}/scale"], rtol=1e-6)


def test_log2_quantiser() -> None:
    golden = Golden("fq_log2quantizer")
    codes, zero = log2_codes(golden["p"])
    assert_equal(codes, golden["code"])
    assert_equal(zero, golden["zero"])


def test_activation_exponents() -> None:
    golden = Golden("p2_pot_scale")
    for i in range(6):
        x = golden[f"act{i}/x"]
        for bits in ("int8", "int4"):
            case = f"act{i}_{bits}"
            scale = symmetric_scale(x, *LIMITS[bits])
            np.testing.assert_allclose(scale, golden.real(f"{case}/raw_scale"), rtol=1e-6)
            assert search_tensor(x, *LIMITS[bits]) == -golden.number(f"{case}/exp")
        frac, zero_point = search_tensor_asymmetric(golden[f"actasym{i}/x"], *U8)
        assert (-frac, zero_point) == (
            golden.number(f"actasym{i}/exp"),
            golden.number(f"actasym{i}/zp"),
        )


@pytest.mark.parametrize("layer", ["lin0", "lin1", "lin2", "conv"])
def test_weight_exponents(layer: str) -> None:
    golden = Golden("p2_pot_scale")
    weight, x = golden[f"{layer}/W"], golden[f"{layer}/x"]
    if layer == "conv":
        stride = tuple(golden["conv/stride"].tolist())
        x = unfold(x.transpose(0, 2, 3, 1), weight.shape[2:], stride)
        weight = weight.transpose(0, 2, 3, 1).reshape(weight.shape[0], -1)
    moments = SecondMoments(weight.shape[1])
    moments.update(x)
    replayed = 0
    for bits in ("int8", "int4"):
        for granularity in ("layer_wise", "channel_wise"):
            key = f"{layer}_{bits}_{granularity}/exp"
            if key in golden:
                per_channel = granularity == "channel_wise"
                fracs = search_weight(weight, moments.matrix(), *LIMITS[bits], per_channel)
                assert_equal(-fracs, golden[key])
                replayed += 1
    assert replayed >= 3


@pytest.mark.parametrize("case", ["attn", "mlp"])
def test_smoothing(case: str) -> None:
    golden = Golden("p2_smooth")
    x, weight = golden["x"], golden[f"{case}/W"]
    alpha = golden.real("alpha" if case == "attn" else "alpha_mlp")
    x_max, w_max = np.abs(x).max(axis=(0, 1)), np.abs(weight).max(axis=0)
    ratio = smoothing_ratio(x_max, w_max, alpha)
    np.testing.assert_allclose(ratio, golden[f"{case}/raw_scale"], rtol=1e-5)
    exponents = smoothing_exponents(x_max, w_max, alpha)
    assert_equal(exponents, golden[f"{case}/chan_exp"])
    assert_equal(round_pot_linear(golden[f"{case}/raw_scale"]), golden[f"{case}/chan_exp"])

    smooth_x, smooth_w = np.ldexp(x, -exponents), np.ldexp(weight, exponents)
    assert search_tensor(smooth_x, *I8) == -golden.number(f"{case}/act_exp")
    moments = SecondMoments(weight.shape[1])
    moments.update(smooth_x)
    for bits in ("int8", "int4"):
        per_channel = bits == "int4"
        fracs = search_weight(smooth_w, moments.matrix(), *LIMITS[bits], per_channel)
        assert_equal(-fracs, golden[f"{case}/wexp_{bits}"])
