"""Several threads: the same integers for any number of them, and nothing of threads for one."""

import shutil
import subprocess

import numpy as np
import pytest
from c_kernels import HOST_LEVELS

from vit_opt.backends.c.build import BuildOptions
from vit_opt.backends.c.emit import EmitOptions, emit_c
from vit_opt.backends.c.run import CModel
from vit_opt.dialects.errors import VitError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("cpu", sorted({"portable", HOST_LEVELS[0].name}))
def test_same_integers_for_any_number_of_threads(vit, tmp_path, cpu, threads) -> None:
    case, output, module = vit
    project = emit_c(module, case.store, tmp_path / "c", EmitOptions(cpu=cpu, threads=threads))
    model = CModel(project.folder)
    for _ in range(20):
        codes = model.run({"input0": case.inputs[0]})
        np.testing.assert_array_equal(codes["output0"], case.arrays[output])


def test_fewer_threads_than_emitted(vit, tmp_path) -> None:
    """A project for three threads runs on one, without the system's threads, and not on four."""
    case, output, module = vit
    folder = emit_c(module, case.store, tmp_path / "c", EmitOptions(threads=3)).folder
    for threads in (1, 2):
        model = CModel(folder, BuildOptions(flags=(f"-DVIT_THREADS={threads}",)))
        codes = model.run({"input0": case.inputs[0]})
        np.testing.assert_array_equal(codes["output0"], case.arrays[output])
    with pytest.raises(VitError, match="VIT_THREADS must be 1 to 3"):
        CModel(folder, BuildOptions(flags=("-DVIT_THREADS=4",)))


def test_one_thread_needs_nothing(vit, tmp_path) -> None:
    case, _, module = vit
    folder = emit_c(module, case.store, tmp_path / "c").folder
    words = ("team", "pthread", "THREADS", "part")
    for path in ("model.c", "model.h", "main.c", "Makefile"):
        text = (folder / path).read_text()
        assert not [word for word in words if word in text], path
    assert not (folder / "kernels" / "vit_team.c").exists()
    with pytest.raises(VitError, match="takes 1 to 64"):
        EmitOptions(threads=65)


@pytest.mark.parametrize("cpu", sorted({"portable", HOST_LEVELS[0].name}))
def test_make_with_the_thread_sanitizer(vit, tmp_path, cpu) -> None:
    case, output, module = vit
    folder = emit_c(module, case.store, tmp_path / "c", EmitOptions(cpu=cpu, threads=2)).folder
    flags = "CFLAGS=-O1 -g -fsanitize=thread -fno-sanitize-recover=all"
    probe = subprocess.run(
        ["cc", "-fsanitize=thread", "-x", "c", "-", "-o", tmp_path / "probe"],
        input=b"int main(void) { return 0; }",
        check=False,
        capture_output=True,
    )
    if shutil.which("make") is None or probe.returncode != 0:
        pytest.skip("no thread sanitizer")
    subprocess.run(["make", "-s", "-j2", flags], cwd=folder, check=True)
    (folder / "in.bin").write_bytes(case.inputs[0].tobytes())
    done = subprocess.run(
        ["./model", "in.bin", "out.bin"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[:2000]
    expected = case.arrays[output]
    actual = np.fromfile(folder / "out.bin", expected.dtype).reshape(expected.shape)
    np.testing.assert_array_equal(actual, expected)
