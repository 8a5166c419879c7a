"""`vit-report DIR`: the report of a compiled folder, layer by layer.

    vit-report DIR                                     tables on the terminal
    vit-report DIR --eval test.npz                     and top-1, SQNR and cosine on data
    vit-report DIR --html report.html                  one self-contained page with plots

What `--eval` finds is kept in DIR/report.json, and so appears in later tables and pages.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vit_opt.tools.artefact import Artefact
from vit_opt.tools.command import (
    UsageError,
    command_line,
    require_writable,
    run_command,
    write_text,
)

DESCRIPTION = "Show what quantisation did to a compiled model."


def _run(args: argparse.Namespace) -> None:
    from vit_opt.tools.report.page import write_page
    from vit_opt.tools.report.plots import require_plotting
    from vit_opt.tools.report.terminal import print_report
    from vit_opt.tools.report.validity import check_report

    artefact = Artefact(Path(args.folder))
    report = artefact.read_report()
    check_report(report, artefact.report)
    if args.html is not None:
        require_plotting()
        require_writable(Path(args.html))
    if args.eval is not None:
        _evaluate(args, artefact)
        report = artefact.read_report()
    elif args.labels is not None:
        raise UsageError("--labels belong to the inputs of --eval")
    if args.html is not None:
        write_page(report, Path(args.html))
    if args.json:
        print(json.dumps(report))
    else:
        print_report(report, args.worst)


def _evaluate(args: argparse.Namespace, artefact: Artefact) -> None:
    """Measure on data and put the result into report.json, in place of an earlier one."""
    from vit_opt.tools.report.evaluation import evaluate

    report = artefact.read_report()
    backend = args.on or ("c" if artefact.c.is_dir() else "reference")
    model = Path(args.model or report["model"])
    labels = None if args.labels is None else Path(args.labels)
    found = {
        "data": Path(args.eval).name,
        "backend": backend,
        "outputs": evaluate(artefact, model, Path(args.eval), labels, backend),
    }
    key = (found["data"], backend)
    others = [e for e in report.get("evaluations", []) if (e["data"], e["backend"]) != key]
    report["evaluations"] = [*others, found]
    write_text(artefact.report, json.dumps(report, indent=2) + "\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from vit_opt.tools.execution import BACKENDS
    from vit_opt.tools.opt import positive

    result = command_line("vit-report", DESCRIPTION)
    result.add_argument("folder", metavar="DIR", help="output of vit-compile")
    result.add_argument(
        "--eval",
        metavar="DATA.npz",
        help="measure on inputs by name, any batch; bytes are "
        "pixels, (pixel - 128) / 128, where the model takes no bytes",
    )
    result.add_argument(
        "--labels", metavar="FILE.npz", help="right answers (default: 'label' in DATA.npz)"
    )
    result.add_argument("--model", metavar="MODEL.onnx", help="the float model, if it has moved")
    result.add_argument("--on", choices=BACKENDS, help="backend of --eval (default: c)")
    result.add_argument("--html", metavar="FILE", help="write a self-contained page with plots")
    result.add_argument(
        "--worst", type=positive, metavar="N", help="only the N layers that lose most by themselves"
    )
    result.add_argument("--json", action="store_true", help="the whole report as one JSON object")
    return result


def run(arguments: Sequence[str] | None = None) -> int:
    """`vit-report` with these arguments; returns the exit code."""
    args = parser().parse_args(arguments)
    return run_command("vit-report", lambda: _run(args))


def main() -> None:
    """Entry point of `vit-report`."""
    sys.exit(run())


if __name__ == "__main__":
    main()
