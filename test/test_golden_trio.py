"""Trio-ViT's published code, replayed: quantiser, logarithms, migration, linear attention."""

import numpy as np
import pytest
from golden_vectors import Golden, assert_equal

from vit_opt.dialects.vit.semantics.convolution import conv2d
from vit_opt.dialects.vit.semantics.linear import matmul
from vit_opt.dialects.vit.semantics.linear_attention import rounded_log2
from vit_opt.passes.algorithms.affine import Affine, affine_range
from vit_opt.passes.algorithms.logarithmic import log2_ceil, log2_round
from vit_opt.passes.algorithms.migration import (
    channel_midpoints,
    migration_ratio,
    migration_reference,
    shifted_bias,
)

FILES = {
    "trio_uaq",
    "trio_logquant",
    "trio_migration",
    "trio_litemsa_dim16",
    "trio_litemsa_dim32",
    "trio_qmsa_block",
}


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("method", ["max", "max_scale", "mse"])
def test_affine_quantiser(index: int, bits: int, method: str) -> None:
    golden = Golden("trio_uaq")
    x, key = golden[f"{index}/x"], f"{index}_{method}_b{bits}"
    scales, zeros = golden[f"{key}/delta"], golden[f"{key}/zp"]
    if golden.number(f"{index}/channel_wise"):
        axis = next(i for i, size in enumerate(scales.shape) if size > 1)
        parts = list(np.moveaxis(x, axis, 0))
        expected_codes = list(np.moveaxis(golden[f"{key}/q"], axis, 0))
    else:
        parts, expected_codes = [x], [golden[f"{key}/q"]]
    for part, codes, scale, zero in zip(
        parts, expected_codes, scales.ravel(), zeros.ravel(), strict=True
    ):
        found = affine_range(part, bits, method)
        assert found.zero_point == zero
        np.testing.assert_allclose(found.scale, scale, rtol=1e-6)
        assert_equal(Affine(float(scale), int(zero)).codes(part, 0, 2**bits - 1), codes)


def test_logarithmic_quantisers() -> None:
    golden = Golden("trio_logquant")
    assert_equal(log2_round(golden["x"]), golden["block_logquant_exp"])
    assert_equal(log2_ceil(golden["x"]), golden["layer_logquantizer_exp"])
    exact = np.clip(rounded_log2(golden["xi"]) - 8, -6, 9)
    assert_equal(exact, golden["xi_exact_exp_s2e-8"])
    assert_equal(exact, golden["xi_block_exp_s2e-8"])
    x = golden["round_pow2_x"]
    power = np.sign(x) * np.exp2(log2_round(x, -126, 127))
    logarithm = np.log2(np.abs(x.astype(np.float64)))
    tie = np.abs(logarithm - np.floor(logarithm) - 0.5) < 1e-6  # within the float32 logarithm
    assert tie.sum() < 50
    np.testing.assert_array_equal(power[~tie], golden["round_pow2"][~tie])


@pytest.mark.parametrize("case", Golden("trio_migration").cases())
def test_migration(case: str) -> None:
    """The dequantised convolution of the published modules, from integers.

    Codes come from the recorded scales; the integer convolution is `conv2d`, and filter-wise
    shifting returns to the output through the bias.
    """
    golden = Golden("trio_migration")
    x = golden[f"{case}/x"].transpose(0, 2, 3, 1).astype(np.float64)
    weight = golden[f"{case}/W"].transpose(0, 2, 3, 1).astype(np.float64)
    depthwise = "_dw_" in case
    groups, pad = (weight.shape[0], weight.shape[1] // 2) if depthwise else (1, 0)
    offset = np.zeros(x.shape[3])
    scaling = golden[f"{case}/scaling"] if f"{case}/scaling" in golden else np.ones(x.shape[3])
    if case.startswith("shifted"):
        offset = channel_midpoints(x.min(axis=(0, 1, 2)), x.max(axis=(0, 1, 2)))
        np.testing.assert_allclose(offset / scaling, golden[f"{case}/z_after"], rtol=1e-5)
    else:
        largest = x.max(axis=(0, 1, 2))
        reference = migration_reference(largest, float(np.quantile(x, 0.99)))
        ratio = migration_ratio(largest, reference)
        np.testing.assert_allclose(ratio, scaling, rtol=1e-5)
    quantiser_x = Affine(golden.real(f"{case}/in_delta"), golden.number(f"{case}/in_zp"))
    codes = quantiser_x.codes((x - offset) / scaling, 0, 255)
    w_scale = golden[f"{case}/w_delta"].reshape(-1, 1, 1, 1).astype(np.float64)
    w_zero = golden[f"{case}/w_zp"].reshape(-1, 1, 1, 1)
    scaled_weight = weight * (scaling[:, None, None, None] if depthwise else scaling)
    w_codes = np.clip(np.rint(scaled_weight / w_scale) + w_zero, 0, 255).astype(np.int64)
    pads = (pad, pad, pad, pad)
    acc = conv2d(codes, w_codes, None, (1, 1), pads, (1, 1), groups, quantiser_x.zero_point, w_zero)
    y = acc * quantiser_x.scale * w_scale.ravel() + golden[f"{case}/b"]
    if offset.any():
        unit = 2.0**-24
        constant = np.rint(offset / scaling / unit).astype(np.int64)
        if depthwise:
            image = np.broadcast_to(constant, (1, *x.shape[1:]))
            back = conv2d(image, w_codes, None, (1, 1), pads, (1, 1), groups, 0, w_zero)
        else:
            back = shifted_bias(w_codes - w_zero, constant)
        y = y + back * unit * w_scale.ravel()
    difference = np.abs(y - golden[f"{case}/y"].transpose(0, 2, 3, 1))
    assert np.median(difference) < 1e-4
    # A channel's extremes sit on rounding ties after shifting: one code of one tap may differ.
    step = quantiser_x.scale * np.abs((w_codes - w_zero) * w_scale).max()
    assert difference.max() < (1.01 * step if case.startswith("shifted") else 1e-4)


@pytest.mark.parametrize("dim", [16, 32])
def test_lite_attention(dim: int) -> None:
    golden = Golden(f"trio_litemsa_dim{dim}")
    q, k_transposed, v = golden["q_int"], golden["kT_int"], golden["v_int"]
    scale = golden.real("qkv_scale")
    state = matmul(k_transposed, v)
    np.testing.assert_allclose(state * scale**2, golden["kv"][..., :-1], rtol=1e-5, atol=1e-5)
    numerator = matmul(q, state)
    denominator = matmul(q, k_transposed.sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(denominator * scale**2, golden["qkv"][..., -1:], rtol=1e-5)
    exact = np.where(denominator > 0, numerator / np.maximum(denominator, 1), 0.0) * scale
    batch, heads, tokens, _ = q.shape
    image = exact.transpose(0, 1, 3, 2).reshape(batch, heads * dim, *golden["attn_out"].shape[2:])
    assert image.shape[2] * image.shape[3] == tokens
    np.testing.assert_allclose(image, golden["attn_out"], atol=1e-5)


@pytest.mark.parametrize("block", [0, 1])
def test_quantised_attention_block(block: int) -> None:
    golden = Golden("trio_qmsa_block")
    for name in ("kv", "ksum", "num", "out"):
        key = f"{name}{block}"
        quantiser = Affine(golden.real(f"{key}_delta"), golden.number(f"{key}_zp"))
        codes = quantiser.codes(golden[f"{key}_in"], 0, 255)
        tolerance = 1.01 * quantiser.scale
        difference = np.abs(quantiser.reals(codes) - golden[f"{key}_out"])
        assert difference.max() < tolerance and (difference > 1e-5).mean() < 0.01
    exponent = log2_round(golden[f"den{block}"])
    assert_equal(exponent, golden[f"den{block}_exp"])
    quotient = golden[f"num{block}_out"] / (np.exp2(exponent) + 1e-5)
    np.testing.assert_allclose(quotient, golden[f"out{block}_in"], atol=1e-5)
