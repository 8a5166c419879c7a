"""`vit-opt IN [-p PIPELINE] [-t TARGET] [-o OUT]`: the driver of dialects, passes and targets.

It is `xdsl-opt` with ONNX as an input, weights beside the text, and calibration data. All options
of `xdsl-opt` work. For an ONNX input it first runs the passes of the standard road that the first
pass named in `-p` still needs (`-p pot-fold` brings a float model to the stage `quantized` by
itself); what comes after is up to `-p`. A target such as `vit-c` is treated alike: the road is run
to its end where `-p` has not done so.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass, PassPipeline
from xdsl.utils.arg_spec import parse_spec
from xdsl.utils.exceptions import VerifyException
from xdsl.xdsl_opt_main import xDSLOptMain

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.passes import get_all_passes
from vit_opt.tools.command import (
    UsageError,
    complain,
    describe,
    parsing,
    require_writable,
    run_command,
    write_text,
)
from vit_opt.tools.pass_options import checked_pipeline
from vit_opt.tools.progress import progress
from vit_opt.tools.recipe import IMAGES, Calibration, Recipe, read_recipe, write_recipe

if TYPE_CHECKING:
    import onnx
    from xdsl.ir import Dialect

USAGE = "vit-opt IN [-p PIPELINE] [-t TARGET] [-o OUT] [options]"

DESCRIPTION = "Optimise Vision Transformers, from ONNX or MLIR, for integer-only targets."


class _Kept(StringIO):
    """An output that survives `close`, to be written when all went well."""

    text = ""

    def close(self) -> None:
        if not self.closed:
            self.text = self.getvalue()
        super().close()


class VitOptMain(xDSLOptMain):
    """The driver; `args` as on the command line."""

    version_format = "vit-opt on xDSL {xdsl_version}"

    def __init__(self, args: Sequence[str] | None = None) -> None:
        self._assets_used: set[str] = set()
        self._output: _Kept | None = None
        self._applied: list[ModulePass] = []
        self._qdq: onnx.ModelProto | None = None
        self._recipe = Recipe()
        super().__init__(DESCRIPTION, args)
        if self.args.import_only and self.args.passes:
            raise UsageError("--import-only stops after the import; leave -p out")
        if self.args.import_only and self.args.export_qdq is not None:
            raise UsageError("--import-only quantises nothing that --export-qdq could write")

    @property
    def context(self) -> VitContext:
        """The context with the asset store."""
        return cast("VitContext", self.ctx)

    def register_all_dialects(self) -> None:
        """The dialects of the universe, and our private `onnx`."""
        self.ctx = VitContext()
        super().register_all_dialects()
        self.ctx.register_dialect("onnx", _onnx_dialect)

    def register_all_frontends(self) -> None:
        """MLIR text, and ONNX."""
        super().register_all_frontends()
        parse_text = self.available_frontends["mlir"]

        def parse_mlir(stream: IO[bytes]) -> ModuleOp:
            with parsing(self.get_input_name()):
                return parse_text(stream)

        self.available_frontends["mlir"] = parse_mlir
        self.available_frontends["onnx"] = self._parse_onnx

    def register_all_passes(self) -> None:
        """The passes of the universe, and ours once more by their short names."""
        super().register_all_passes()
        for name, factory in get_all_passes().items():
            self.register_pass(name, factory)

    def register_all_arguments(self, arg_parser: argparse.ArgumentParser) -> None:
        """Options of `xdsl-opt` and ours."""
        from vit_opt.tools.weight_options import add_weight_arguments

        super().register_all_arguments(arg_parser)
        arg_parser.prog, arg_parser.usage = "vit-opt", USAGE
        arg_parser.error = functools.partial(complain, arg_parser)
        group = arg_parser.add_argument_group("models and weights")
        add_model_arguments(group)
        add_weight_arguments(group)
        group.add_argument("--import-only", action="store_true", help="stop after the import")
        group.add_argument(
            "--weights-in",
            action="append",
            default=[],
            metavar="FILE",
            help="weight file of an .mlir input (default: IN.weights.npz beside it)",
        )
        group.add_argument(
            "--weights-out",
            metavar="FILE",
            help="where weights go (default: OUT.weights.npz beside an .mlir output)",
        )

    def setup_pipeline(self) -> None:
        """The passes of `-p` or of the recipe; raises UsageError for unknown names and options."""
        if self.args.recipe is not None:
            self._read_recipe()
        self.args.passes = checked_pipeline(
            "-p", self.args.passes, self.available_passes, "; --help lists all passes"
        )
        try:
            super().setup_pipeline()
        except ValueError as error:
            raise UsageError(f"-p: {error}") from error

    def _read_recipe(self) -> None:
        """Take calibration, shapes and passes from a recipe, where the command line has none."""
        if self.args.passes:
            raise UsageError("--recipe names the passes; leave -p out")
        self._recipe = read_recipe(Path(self.args.recipe))
        for note in self._recipe.notes():
            print(f"vit-opt: warning: {note}", file=sys.stderr)
        given = self._recipe.arguments()
        self.args.shape = [*given["shape"], *self.args.shape]
        for name in ("calib", "preprocess", "calib_images", "seed"):
            if getattr(self.args, name) is None:
                setattr(self.args, name, given[name])
        self.args.passes = self._recipe.spec()

    def prepare_input(self) -> tuple[list[tuple[IO[bytes], int]], str]:
        """Open the input, and load the weights that belong to a text."""
        try:
            chunks, extension = super().prepare_input()
        except ValueError as error:
            raise VitError(
                f"{self.get_input_name()}: unknown extension; vit-opt reads .mlir and .onnx "
                "(-f says which one it is)"
            ) from error
        if extension == "mlir":
            self._load_weights()
        return chunks, extension

    def _load_weights(self) -> None:
        from vit_opt.tools.weights import sidecar_of

        paths = [Path(path) for path in self.args.weights_in]
        if not paths and self.args.input_file is not None:
            sidecar = sidecar_of(Path(self.args.input_file))
            paths = [sidecar] if sidecar.exists() else []
        for path in paths:
            self.context.assets.load(path)

    def _parse_onnx(self, stream: IO[bytes]) -> ModuleOp:
        from vit_opt.tools.steps import import_onnx, parse_shapes

        source = self.args.input_file or stream.read()
        return import_onnx(source, shapes=parse_shapes(self.args.shape), context=self.context)

    def apply_passes(self, prog: ModuleOp) -> None:
        """What the input still needs for `-p`, the passes of `-p`, what the target still needs."""
        from vit_opt.passes.pipelines import passes_of, remaining
        from vit_opt.tools.weight_options import weight_overrides

        named = self.pipeline.passes
        if not self._from_onnx() or self.args.import_only:
            self._apply(prog, named)
            return
        own = weight_overrides(self.args)
        before = passes_of(remaining(prog, _short(named[0])), own) if named else ()
        self._apply(prog, (*before, *named))
        if self.args.target.partition("{")[0] in ("vit-c", "vit-asm"):
            self._apply(prog, passes_of(remaining(prog), own))
        elif self.args.export_qdq is not None:
            self._apply(prog, passes_of(remaining(prog, "verify-integer"), own))

    def _from_onnx(self) -> bool:
        name = str(self.args.input_file or "")
        return (self.args.frontend or name.rpartition(".")[2]) == "onnx"

    def _apply(self, prog: ModuleOp, passes: tuple[ModulePass, ...]) -> None:
        from vit_opt.tools.steps import releaser

        if any(_short(each) == "calibrate" for each in passes):
            from vit_opt.tools.steps import provide_batches

            args = self.args
            images, seed = args.calib_images or IMAGES, args.seed or 0
            note = provide_batches(prog, self.context, args.calib, args.preprocess, images, seed)
            if note is not None:
                print(f"vit-opt: warning: {note}", file=sys.stderr)
        self._applied += passes
        inner = self.pipeline.callback
        forget = None if self.args.split_input_file else releaser(self.context)
        with progress("vit-opt") as say:

            def callback(
                previous: ModulePass | None, module: ModuleOp, following: ModulePass | None
            ) -> None:
                if inner is not None:
                    inner(previous, module, following)
                if forget is not None:
                    forget(module)
                if following is not None:
                    say(following.name)
                    if _short(following) in ("fuse", "tile"):
                        self._keep_qdq(module)

            PassPipeline(passes, callback).apply(self.ctx, prog)

    def _keep_qdq(self, prog: ModuleOp) -> None:
        """Export the module if that is wanted and was not done: passes for backends come later."""
        if self.args.export_qdq is not None and self._qdq is None:
            from vit_opt.backends.onnx_qdq import qdq_model

            self._qdq = qdq_model(prog, self.context.assets)

    def output_resulting_program(self, prog: ModuleOp) -> str:
        """The text of the target; notes which weights the text refers to."""
        if self.args.export_qdq is not None:
            self._keep_qdq(prog)
            if self.args.output_file is None:
                return ""
        if parse_spec(self.args.target).name == "mlir":
            from vit_opt.tools.weights import referenced_digests

            self._assets_used |= referenced_digests(prog, self.context.assets)
        return super().output_resulting_program(prog)

    def prepare_output(self) -> IO[str]:
        """Standard output, or a buffer that becomes the output file at the end."""
        for path in (self.args.export_qdq, self.args.save_recipe):
            if path is not None:
                require_writable(Path(path))
        if self.args.output_file is None:
            return super().prepare_output()
        require_writable(Path(self.args.output_file))
        self._output = _Kept()
        return self._output

    def run(self) -> None:
        """Do it all; files are written when everything has succeeded."""
        try:
            super().run()
        except VerifyException as error:
            raise VitError(f"{self.get_input_name()}: {describe(error)}") from error
        self._save_weights()
        if self._output is not None:
            write_text(Path(self.args.output_file), self._output.text)
        if self._qdq is not None:
            from vit_opt.backends.onnx_qdq import write_model

            write_model(self._qdq, Path(self.args.export_qdq))
        if self.args.save_recipe is not None:
            write_recipe(Path(self.args.save_recipe), self._settings())

    def _settings(self) -> Recipe:
        """What was done, as a recipe."""
        from vit_opt.tools.steps import parse_shapes

        args = self.args
        data = None if args.calib is None else Path(args.calib)
        return replace(
            self._recipe,
            version="",
            model=Path(args.input_file or "").name,
            shapes=parse_shapes(args.shape),
            calibration=Calibration(data, None, args.preprocess, args.calib_images or IMAGES),
            seed=args.seed or 0,
            passes=tuple(self._applied),
        )

    def _save_weights(self) -> None:
        from vit_opt.tools.weights import sidecar_of

        target = self.args.weights_out
        if target is None and self._assets_used and self.args.output_file is not None:
            target = sidecar_of(Path(self.args.output_file))
        if target is not None:
            self.context.assets.save(Path(target), self._assets_used)


def _onnx_dialect() -> Dialect:
    from vit_opt.dialects.onnx import Onnx

    return Onnx


def _short(each: ModulePass) -> str:
    """The short name of a pass, which may be here under its published one."""
    return each.name.removeprefix("vit-")


def add_model_arguments(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:  # pyright: ignore[reportPrivateUsage]
    """The options that say how a model is read and on what it is calibrated."""
    group.add_argument(
        "--calib",
        metavar="DATA",
        help="calibration inputs: .npz by input name, folder of .npy, or folder of images",
    )
    group.add_argument(
        "--preprocess",
        metavar="SPEC",
        help="how images become inputs",
    )
    group.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=1x3x224x224",
        help="shape of an input that the model leaves open",
    )
    group.add_argument(
        "--calib-images",
        type=positive,
        metavar="N",
        help=f"most calibration inputs to take (default: {IMAGES})",
    )
    group.add_argument("--seed", type=natural, metavar="N", help="of synthetic images (default: 0)")
    group.add_argument(
        "--recipe",
        metavar="FILE",
        help="run with the settings of a recipe; other options on the command line win",
    )
    group.add_argument(
        "--save-recipe", metavar="FILE", help="write all settings, as YAML (or .json)"
    )
    group.add_argument(
        "--export-qdq",
        metavar="OUT.onnx",
        help="write the quantised model as ONNX with QuantizeLinear/DequantizeLinear pairs "
        "(vit-opt then writes text only with -o)",
    )


def positive(text: str) -> int:
    """A positive number on the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a positive number")
    return int(text)


def natural(text: str) -> int:
    """Zero or a positive number on the command line."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: expected 0 or a positive number")
    return int(text)


def main() -> None:
    """Entry point of `vit-opt`."""
    sys.exit(run_command("vit-opt", lambda: VitOptMain().run()))


if __name__ == "__main__":
    main()
