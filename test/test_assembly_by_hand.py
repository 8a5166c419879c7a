"""`vit-as run` on the program of `examples/programs`, and on ones that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vit_opt.tools import assemble

PROGRAM = Path(__file__).parent.parent / "examples" / "programs" / "product.asm"


def test_results_and_cycles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-128, 128, shape, np.int8) for shape in ((128, 64), (8, 64)))
    np.savez(tmp_path / "in.npz", x=x, w=w)
    image, trace = tmp_path / "product.img", tmp_path / "trace.json"
    assert assemble.run(["assemble", str(PROGRAM), "-o", str(image)]) == 0
    arguments = ["run", str(image), "--input", str(tmp_path / "in.npz"), "--trace", str(trace)]
    assert assemble.run([*arguments, "--output", str(tmp_path / "out.npz")]) == 0
    said = capsys.readouterr().out
    assert "y: int8[128, 8]" in said
    # By hand: 4608 of 153.6 bytes a cycle, 50 of latency, two products of 64 * 1 + 16 cycles, the
    # second one's 512 elements through 64 shifters, 512 bytes to DRAM, and the semaphores.
    least = 30 + 50 + 2 * (64 + 16) + 12 + 4 + 50
    cycles = int(said.partition(" cycles at 500 MHz")[0].split()[-1].replace(",", ""))
    assert least <= cycles <= least + 16
    sums = x.astype(int) @ w.astype(int).T
    outputs = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(outputs["y.int"], np.clip((sums + 64) >> 7, -128, 127))
    np.testing.assert_array_equal(outputs["y"], outputs["y.int"] / 16)
    assert json.loads(trace.read_text())["traceEvents"]
    assert assemble.run(["run", str(PROGRAM), "--timing-only"]) == 0
    assert f"{cycles} cycles" in capsys.readouterr().out
    assert assemble.run(["run", str(PROGRAM), "--timing-only", "--input", "x.npz"]) == 2
    assert "computes no data: neither --input nor" in capsys.readouterr().err


def test_a_machine_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = PROGRAM.read_text().replace(".arch p2vit", ".arch own")
    (tmp_path / "own.asm").write_text(text)
    (tmp_path / "own.yaml").write_text("{name: own, lanes: 32}")
    arguments = ["run", str(tmp_path / "own.asm"), "--timing-only"]
    assert assemble.run(arguments) == 1
    assert "unknown architecture 'own'" in capsys.readouterr().err
    assert assemble.run([*arguments, "--arch", str(tmp_path / "own.yaml")]) == 0
    assert "(256 units)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("map=mn wait=ld signal=shift", "map=mn wait=ld", "deadlock: st waits at"),
        ("src=dram[0x2000]", "src=dram[0x3000]", "leaves the 12288 bytes of dram"),
        ("m=64 n=8", "m=64 n=", "product.asm: line 20: mac.matmul: field 'n'"),
    ],
)
def test_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    text = PROGRAM.read_text()
    assert old in text
    (tmp_path / "product.asm").write_text(text.replace(old, new))
    np.savez(tmp_path / "in.npz", x=np.zeros((128, 64), np.int8), w=np.zeros((8, 64), np.int8))
    arguments = ["run", str(tmp_path / "product.asm"), "--input", str(tmp_path / "in.npz")]
    assert assemble.run(arguments) == 1
    assert message in capsys.readouterr().err
