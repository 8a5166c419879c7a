"""`vit-opt`: weights beside the text, errors in one line, nothing half-written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from vit_opt.tools.command import run_command
from vit_opt.tools.opt import VitOptMain

DIGITS = Path(__file__).parent.parent / "examples" / "digits" / "model.onnx"

REQUANT = """\
func.func @main(%x: tensor<4x!vit.fixed<i32, 7>>) -> tensor<4x!vit.fixed<i8, 5>> {
  %y = vit.pot_requant %x : (tensor<4x!vit.fixed<i32, 7>>) -> tensor<4x!vit.fixed<i8, 5>>
  return %y : tensor<4x!vit.fixed<i8, 5>>
}
"""


def vit_opt(*arguments: str | Path) -> int:
    """Exit code of vit-opt, run in this process."""
    return run_command("vit-opt", lambda: VitOptMain([str(each) for each in arguments]).run())


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A small module without weights."""
    path = tmp_path / "in.mlir"
    path.write_text(REQUANT)
    return path


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model as text with a weight file."""
    path = tmp_path_factory.mktemp("imported") / "model.mlir"
    assert vit_opt(DIGITS, "--import-only", "-o", path) == 0
    return path


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on stderr; stdout stays empty."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("vit-opt: error: ")
    return err


def test_weights_lie_beside_the_text(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imported.with_suffix(".weights.npz").exists()
    assert "dense_resource" not in imported.read_text()
    assert len(imported.read_text()) < 200_000
    assert vit_opt(imported, "-p", "fold-constants") == 0
    assert 'vit.stage = "float"' in capsys.readouterr().out


def test_text_without_its_weights(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone.mlir"
    alone.write_text(imported.read_text())
    assert vit_opt(alone, "-p", "fold-constants") == 1
    assert "--weights-in" in one_line(capsys)
    weights = imported.with_suffix(".weights.npz")
    assert vit_opt(alone, "-p", "fold-constants", "--weights-in", weights) == 0


def test_weights_that_do_not_match(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = imported.with_name("wrong.npz")
    with np.load(imported.with_suffix(".weights.npz")) as archive:
        arrays = {name: archive[name] + 1 for name in archive.files}
    np.savez(weights, allow_pickle=False, **arrays)
    assert vit_opt(imported, "-p", "fold-constants", "--weights-in", weights) == 1
    assert "does not match its digest" in one_line(capsys)


def _truncated(path: Path, folder: Path) -> Path:
    part = folder / f"part{path.suffix}"
    part.write_bytes(path.read_bytes()[:5000])
    return part


def test_damaged_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = tmp_path / "binary.mlir"
    binary.write_bytes(bytes(range(128, 256)))
    unknown = tmp_path / "model.pb"
    unknown.write_text("")
    for path in (_truncated(DIGITS, tmp_path), binary, unknown, tmp_path / "none.mlir", tmp_path):
        assert vit_opt(path) == 1
        assert str(path) in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "pot-flod"], "did you mean 'pot-fold'"),
        (["-p", "smooth{beta=1}"], "beta"),
        (["-p", "smooth{"], "Expected argument name"),
        (["-p", "smooth", "--import-only"], "leave -p out"),
    ],
)
def test_wrong_usage(
    text: Path, arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vit_opt(text, *arguments) == 2
    assert message in one_line(capsys)


def test_parse_and_verify_errors_name_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.mlir"
    path.write_text(REQUANT.replace("return %y", "return %z"))
    assert vit_opt(path) == 1
    assert f"{path}:" in one_line(capsys)
    path.write_text(REQUANT.replace("fixed<i32, 7>>)", "fixed<i32, 7, zp = 3>>)"))
    assert vit_opt(path) == 1
    assert "bad.mlir" in one_line(capsys)
    path.write_text(REQUANT.replace("tensor<4x!vit.fixed<i8, 5>>", "tensor<5x!vit.fixed<i8, 5>>"))
    assert vit_opt(path) == 1
    assert "vit.pot_requant" in one_line(capsys)


def test_output_appears_whole_or_not_at_all(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mlir"
    out.write_text("before")
    bad = tmp_path / "bad.mlir"
    bad.write_text("nonsense")
    assert vit_opt(bad, "-o", out) == 1
    assert out.read_text() == "before"
    assert vit_opt(text, "-o", out) == 0
    assert "vit.pot_requant" in out.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"in.mlir", "bad.mlir", "out.mlir"}
    capsys.readouterr()
    assert vit_opt(text, "-o", tmp_path / "none" / "out.mlir") == 1
    assert "folder" in one_line(capsys)
