"""`vit-as`: assembles, disassembles, inspects and runs accelerator programs.

    vit-as disassemble model.img -o model.asm     writes model.asm and model.data.npz
    vit-as assemble model.asm -o model.img        reads model.data.npz beside it
    vit-as inspect model.img [--json]
    vit-as run product.asm --input in.npz         results, cycles and energy of a program by itself

Weights are not spelled out in assembly: the text names them by digest, and they lie in the file
`X.data.npz` beside `X.asm`. Disassembling and assembling again gives the same bytes. Comments name
the operations of the model if `origins.json` is beside the image; `--unroll` writes loops out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.npz import read_npz
from vit_opt.tools.artefact import ARCH, ORIGINS, read_origins
from vit_opt.tools.command import (
    UsageError,
    command_line,
    replacing,
    require_folder,
    require_writable,
    run_command,
    write_text,
)

if TYPE_CHECKING:
    from vit_opt.backends.accel.image import Image
    from vit_opt.dialects.vit.targets import AccelTarget

DESCRIPTION = "Assemble, disassemble, inspect and run accelerator programs."


def data_file_of(path: Path) -> Path:
    """The file with the data that an assembly text names."""
    return path.with_suffix(".data.npz")


def save_data(path: Path, blobs: dict[str, bytes]) -> None:
    """Write blobs, named `sha256:...`, to an .npz file."""
    import numpy as np

    arrays = {name.removeprefix("sha256:"): np.frombuffer(b, np.uint8) for name, b in blobs.items()}
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def load_data(path: Path) -> dict[str, bytes]:
    """Read blobs; raises VitError if the file cannot be read or a blob is not what it is named."""
    from vit_opt.backends.accel.assembler import digest

    blobs: dict[str, bytes] = {}
    for name, array in read_npz(path).items():
        data = array.tobytes()
        if digest(data) != f"sha256:{name}":
            raise VitError(f"{path}: data {name[:16]} does not match its digest")
        blobs[f"sha256:{name}"] = data
    return blobs


def save_assembly(image: Image, path: Path) -> None:
    """Write the assembly of an image, and the data it names beside it."""
    from vit_opt.backends.accel.assembler import blobs_of, disassemble

    blobs = blobs_of(image)
    if blobs:
        save_data(data_file_of(path), blobs)
    write_text(path, disassemble(image))


def read_assembly(source: Path, data: Path | None = None, arch: AccelTarget | None = None) -> Image:
    """The image that a text describes, its data from the file `data`, else from beside the text.

    `arch` is the machine of a text that names one of its own. Raises VitError that names the line.
    """
    from vit_opt.backends.accel.assembler import AssemblyError, assemble

    place = data or data_file_of(source)
    blobs = load_data(place) if data or place.exists() else {}
    try:
        return assemble(source.read_text(encoding="utf-8"), blobs, arch)
    except (AssemblyError, UnicodeDecodeError) as error:
        raise VitError(f"{source}: {error}") from error


def _assemble(args: argparse.Namespace) -> None:
    from vit_opt.tools.architectures import read_arch

    target = Path(args.output)
    require_folder(target)
    arch = None if args.arch is None else read_arch(args.arch)
    image = read_assembly(Path(args.input), None if args.data is None else Path(args.data), arch)
    with replacing(target) as temporary:
        image.save(temporary)


def _execute(args: argparse.Namespace) -> None:
    from vit_opt.backends.accel.image import Image
    from vit_opt.backends.accel.metrics import metrics, metrics_lines, work_lines
    from vit_opt.backends.accel.profile import Profile
    from vit_opt.backends.accel.run import run_accel, time_accel
    from vit_opt.tools.architectures import read_arch
    from vit_opt.tools.run import write_outputs

    if args.timing_only and (args.input or args.output):
        raise UsageError("--timing-only computes no data: neither --input nor --output")
    source = Path(args.program)
    beside = source.with_name(ARCH)
    name = args.arch or (str(beside) if beside.exists() else None)
    arch = None if name is None else read_arch(name)
    image = Image.load(source) if source.suffix == ".img" else read_assembly(source, arch=arch)
    arch = arch or read_arch(image.arch)
    for path in (args.output, args.trace):
        if path is not None:
            require_writable(Path(path))
    profile = Profile(image, arch)
    if args.timing_only:
        stats = time_accel(image, arch, profile)
    else:
        inputs = {} if args.input is None else read_npz(Path(args.input))
        result = run_accel(image, inputs, arch, profile)
        stats = result.stats
        for name, codes in result.codes.items():
            print(f"{name}: {codes.dtype}{list(codes.shape)}")
        if args.output is not None:
            write_outputs(Path(args.output), result.reals, result.codes)
    if args.trace is not None:
        write_text(Path(args.trace), json.dumps(profile.trace()))
    work = [each.facts(arch) for each in profile.work()]
    print("\n".join([*metrics_lines(metrics(stats, arch, image)), *work_lines(work)]))


def _disassemble(args: argparse.Namespace) -> None:
    from vit_opt.backends.accel.assembler import disassemble
    from vit_opt.backends.accel.image import Image
    from vit_opt.backends.accel.unrolling import unroll

    image = Image.load(Path(args.input))
    origins = Path(args.input).with_name(ORIGINS)
    if origins.exists():
        image = replace(image, origins=read_origins(origins, len(image.code)))
    if args.unroll:
        code, names = unroll(image.code, image.origins)
        image = replace(image, code=code, origins=names)
    if args.output is None:
        sys.stdout.write(disassemble(image))
        return
    require_folder(Path(args.output))
    save_assembly(image, Path(args.output))


def describe_image(image: Image) -> dict[str, Any]:
    """What an image holds, as plain data."""
    from vit_opt.dialects.vit_accel.encoding import encode_stream

    counts = Counter(type(inst).mnemonic for inst in image.code)
    code, data = len(encode_stream(image.code)), sum(len(each.data) for each in image.segments)
    return {
        "architecture": image.arch,
        "instructions": len(image.code),
        "instruction_counts": dict(counts.most_common()),
        "code_bytes": code,
        "data_bytes": data,
        "code_share": f"{code / data:.1%} of the data" if data else "there is no data",
        "dram_size_bytes": image.dram_size,
        "macs": image.macs,
        "inputs": {p.name: f"{p.dtype.name.lower()}{list(p.shape)}" for p in image.inputs},
        "outputs": {p.name: f"{p.dtype.name.lower()}{list(p.shape)}" for p in image.outputs},
    }


def _inspect(args: argparse.Namespace) -> None:
    from vit_opt.backends.accel.image import Image

    facts = describe_image(Image.load(Path(args.input)))
    if args.json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, entry in cast("dict[str, Any]", value).items():
                print(f"  {key:<20} {entry}")
        else:
            print(f"{name + ':':<22} {value}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = command_line("vit-as", DESCRIPTION)
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("assemble", help="assembly text to a binary image")
    command.add_argument("input", metavar="IN.asm")
    command.add_argument("-o", dest="output", metavar="OUT.img", required=True)
    command.add_argument("--data", metavar="FILE", help="data file (default: IN.data.npz)")
    command.add_argument("--arch", metavar="FILE", help="of a text without the digest of its own")
    command.set_defaults(run=_assemble)
    command = commands.add_parser("disassemble", help="a binary image to assembly text")
    command.add_argument("input", metavar="IN.img")
    command.add_argument("-o", dest="output", metavar="OUT.asm", help="default: standard output")
    command.add_argument("--unroll", action="store_true", help="write what loops stand for")
    command.set_defaults(run=_disassemble)
    command = commands.add_parser("inspect", help="what an image holds")
    command.add_argument("input", metavar="IN.img")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")
    command.set_defaults(run=_inspect)
    command = commands.add_parser("run", help="what a program computes, and what it costs")
    command.add_argument("program", metavar="IN.asm|IN.img")
    command.add_argument(
        "--arch", metavar="NAME|FILE", help="default: arch.json beside the program, else its preset"
    )
    command.add_argument("--input", metavar="IN.npz", help="arrays by input name")
    command.add_argument(
        "--output", metavar="OUT.npz", help="real outputs by name, integers under NAME.int"
    )
    command.add_argument("--timing-only", action="store_true", help="no data: cycles and energy")
    command.add_argument("--trace", metavar="FILE.json", help="trace for Perfetto")
    command.set_defaults(run=_execute)
    return result


def run(arguments: Sequence[str] | None = None) -> int:
    """`vit-as` with these arguments; returns the exit code."""
    args = parser().parse_args(arguments)
    return run_command("vit-as", lambda: args.run(args))


def main() -> None:
    """Entry point of `vit-as`."""
    sys.exit(run())


if __name__ == "__main__":
    main()
