"""Processors other than this machine's, emulated: RISC-V with Linux, a Cortex-M7 with nothing."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from c_vit import VitBuilder, VitShape

from vit_opt.backends.c.emit import EmitOptions, emit_c
from vit_opt.backends.c.levels import find_level

RISCV, CORTEX = "riscv64-linux-gnu-gcc", "arm-none-eabi-gcc"
FIRMWARE = Path(__file__).parent / "firmware"
DIGITS = Path(__file__).parents[1] / "examples" / "digits"


def needs(*tools: str) -> pytest.MarkDecorator:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


@needs(RISCV, "qemu-riscv64", "make")
@pytest.mark.parametrize("threads", [1, 2])
def test_vit_on_riscv(tmp_path, threads) -> None:
    builder = VitBuilder(VitShape())
    output = builder.build()
    case = builder.case
    options = EmitOptions(cpu="riscv64", threads=threads)
    folder = emit_c(case.module(output), case.store, tmp_path / "c", options).folder
    make = ["make", "-s", "-j2", f"CC={RISCV}", "CFLAGS=-O2 -static"]
    subprocess.run(make, cwd=folder, check=True)
    (folder / "input.bin").write_bytes(case.inputs[0].tobytes())
    command = ["qemu-riscv64", "./model", "input.bin", "output.bin"]
    subprocess.run(command, cwd=folder, check=True)
    expected = case.arrays[output]
    codes = np.fromfile(folder / "output.bin", expected.dtype).reshape(expected.shape)
    np.testing.assert_array_equal(codes, expected)


@pytest.fixture(scope="module")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model as a C project for Cortex-M, with an image's codes and what they give."""
    from vit_opt.backends.c.run import PortInfo
    from vit_opt.dialects.npz import read_npz
    from vit_opt.tools.compile import compile_model
    from vit_opt.tools.compile_options import CompileOptions
    from vit_opt.tools.run import run_folder

    folder = tmp_path_factory.mktemp("digits")
    options = CompileOptions(calib=DIGITS / "calib.npz", target="c", cpu="cortex-m")
    compile_model(DIGITS / "model.onnx", folder / "out", options)
    image = (read_npz(DIGITS / "test.npz")["image"][:1].astype(np.float32) - 128) / 128
    codes = run_folder(folder / "out", "reference", {"image": image}).codes["logits"]
    interface = json.loads((folder / "out" / "c" / "model.json").read_text())
    (record,) = interface["inputs"]
    (out,) = interface["outputs"]
    project = folder / "out" / "c"
    (project / "input.bin").write_bytes(PortInfo.read(record).codes(image).tobytes())
    (project / "expected.bin").write_bytes(codes.astype(out["dtype"]).tobytes())
    return project


def link(project: Path, target: Path) -> None:
    """Compile model, kernels, weights and firmware, without any library but the compiler's own."""
    sources = [*project.glob("kernels/*.c"), project / "model.c", project / "weights.S"]
    sources += [FIRMWARE / "boot.c", FIRMWARE / "data.S"]
    flags = [*find_level("cortex-m").flags, "-std=c11", "-Wall", "-Wextra", "-Werror", "-O2"]
    flags += ["-fno-tree-loop-distribute-patterns", "-Ikernels", "-I."]
    script = ["-nostdlib", f"-Wl,-T,{FIRMWARE / 'mps2.ld'},--no-warn-rwx-segments"]
    libraries = ["-lgcc", "-o", str(target)]
    command = [CORTEX, *flags, *script, *map(str, sources), *libraries]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def boot(image: Path) -> int:
    """Exit code of the emulated board."""
    command = ["qemu-system-arm", "-M", "mps2-an500", "-nographic", "-semihosting"]
    return subprocess.run([*command, "-kernel", image], timeout=120, check=False).returncode


@needs(CORTEX, "qemu-system-arm")
def test_digits_on_a_microcontroller(firmware, tmp_path) -> None:
    link(firmware, tmp_path / "model.elf")
    assert boot(tmp_path / "model.elf") == 0
    expected = bytearray((firmware / "expected.bin").read_bytes())
    expected[0] ^= 1
    (firmware / "expected.bin").write_bytes(expected)
    link(firmware, tmp_path / "wrong.elf")
    assert boot(tmp_path / "wrong.elf") == 3
