"""`vit-bench layers`: products and convolutions by their sizes, from the command line or a topology."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from accel_net import random_codes, reference

from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.run import run_accel
from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.targets import EDGE, P2VIT
from vit_opt.passes.tile import tile
from vit_opt.tools import bench
from vit_opt.tools.benchmarks import layers
from vit_opt.tools.benchmarks.layers import Convolution, Layer
from vit_opt.tools.benchmarks.scalesim import Gemm

CONVOLUTION = Convolution("c", (9, 8), (3, 2), 5, 7, (2, 1))


@pytest.mark.parametrize("layer", [Gemm("g", 30, 20, 70), CONVOLUTION])
def test_a_layer_is_what_it_says(layer: Layer) -> None:
    store = AssetStore()
    module = layers.module_of(layer, store)
    shape = (30, 70) if isinstance(layer, Gemm) else (1, 9, 8, 5)
    codes = random_codes(np.random.default_rng(1), shape, FixedType("i8", 4))
    (expected,) = reference(module, store, [codes])
    assert expected.shape == ((30, 20) if isinstance(layer, Gemm) else (1, 4, 7, 7))
    tile(module, EDGE)
    result = run_accel(lower_accel(module, store, EDGE), {"arg0": codes}, EDGE)
    np.testing.assert_array_equal(result.codes["result0"], expected)


def test_figures_by_hand() -> None:
    found = layers.measure(Gemm("g", 64, 8, 100), P2VIT)
    assert (found["name"], found["size"], found["macs"]) == ("g", "64 x 8 x 100", 64 * 8 * 100)
    operands = 64 * 100 + 8 * 100 + 64 * 8
    assert operands <= found["compulsory_bytes"] <= operands + 64
    assert found["dram_bytes"] <= found["compulsory_bytes"] + 64
    assert 100 < found["cycles"] < 100 + 400
    everything = layers.total([found, found], P2VIT)
    assert everything["cycles"] == 2 * found["cycles"]
    assert everything["utilisation"] == pytest.approx(found["utilisation"])
    assert everything["gops_per_w"] == pytest.approx(found["gops_per_w"])
    window = layers.measure(CONVOLUTION, P2VIT)
    assert window["macs"] == 4 * 7 * 7 * (3 * 2 * 5)


def test_topologies(tmp_path: Path) -> None:
    path = tmp_path / "net.csv"
    path.write_text(
        "Layer, M, N, K, Sparsity,\n fc, 4, 5, 6, 1:1,\n\n"
        "conv, 9, 8, 3, 2, 5, 7, 2, 1,\nsquare, 9, 9, 3, 3, 5, 7, 2\n"
    )
    square = Convolution("square", (9, 9), (3, 3), 5, 7, (2, 2))
    expected = [Gemm("fc", 4, 5, 6), Convolution("conv", (9, 8), (3, 2), 5, 7, (2, 1)), square]
    assert layers.read_topology(path) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no layers below the header"),
        ("h\na, 1, 2,", ":2: expected a name and 3 sizes"),
        ("h\na, 1, 2, 3\nb, 1, 0, 3", ":3: expected a name and 3 sizes"),
        (f"h\na, 1, 2, {'9' * 5000}", ":2: expected a name and 3 sizes"),
        ("h\na, 1, 2, 3, 2:4", ":2: a is sparse (2:4)"),
        ("h\na, 2, 2, 3, 3, 1, 1, 1", "the filter of a is larger than its IFMAP"),
        ("h\na, 1, 100000, 100000", ":2: 10,000,000,000 numbers in one operand or result"),
        ("h\na, 70000, 70000, 1, 1, 1, 1, 9", ":2: 4,900,000,000 numbers in one operand"),
    ],
)
def test_topologies_are_checked(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "net.csv").write_text(text)
    with pytest.raises(VitError) as caught:
        layers.read_topology(tmp_path / "net.csv")
    assert message in str(caught.value)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.csv").write_text("Layer, M, N, K,\nfc, 16, 16, 16,\n")
    arguments = ["layers", "8x16x4", str(tmp_path / "net.csv"), "--arch", "edge"]
    assert bench.run([*arguments, "--explain"]) == 0
    said = capsys.readouterr().out
    assert "8 x 16 x 4" in said and "on edge, 100 MHz" in said and "cost = max(array" in said
    assert bench.run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found["layers"]] == ["8x16x4", "fc"]
    assert found["total"]["macs"] == 8 * 16 * 4 + 16**3
    for text in ("8x16", "00x5x5", f"{'9' * 5000}x1x1", f"1x1x{'0' * 5000}1"):
        assert bench.run(["layers", text]) == 1
        assert f"{text}: neither a .csv file nor a product MxNxK" in capsys.readouterr().err
    assert bench.run(["layers", "1x99999999999x1"]) == 1
    assert "1x99999999999x1: 99,999,999,999 numbers" in capsys.readouterr().err
