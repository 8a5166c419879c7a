"""`vit-bench ablation`: what each feature of the quantiser is worth on a model.

Every feature of the default road is switched off alone, and switched on alone over a plain
quantiser (all of them off: nearest rounding, ranges as seen, an 8-bit residual stream). Features
that are not on by default are added to both. A new feature is one line in `FEATURES`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vit_opt.dialects.errors import VitError
from vit_opt.tools.benchmarks.variants import Options, Variants, merged, turned
from vit_opt.tools.progress import progress
from vit_opt.tools.tables import markdown_table, print_table


@dataclass(frozen=True, eq=False)
class Feature:
    """Something the quantiser can do. One of `off` and `on` is empty: that is the default."""

    name: str
    off: Options = field(default_factory=dict[str, "Mapping[str, Any] | None"])
    """Options that switch it off, for features of the default road."""

    on: Options = field(default_factory=dict[str, "Mapping[str, Any] | None"])
    """Options that switch it on, for others."""

    @property
    def default(self) -> bool:
        """Whether it is part of the default road."""
        return not self.on


FEATURES = (
    Feature("enlarged corners of few images", off={"calibrate": {"augment": "none"}}),
    Feature("LayerNorm channels centred", off={"migrate": {"shift": False}}),
    Feature("channels centred between convolutions", off={"migrate": {"centre": False}}),
    Feature("channels scaled between convolutions", off={"migrate": {"equalize": False}}),
    Feature("depthwise inputs by channel", off={"migrate": {"channels": False}}),
    Feature("smoothing of LayerNorm outputs", off={"smooth": None}),
    Feature("alpha of smoothing searched", off={"smooth": {"search": False}}),
    Feature("ranges that fill their grids", off={"fill-grids": None}),
    Feature("operands of tables that fill theirs", off={"fill-grids": {"operands": False}}),
    Feature("factors around attention, softmax or linear", off={"fold-scales": None}),
    Feature("hidden layers split by loudness", off={"split-channels": None}),
    Feature("error-compensated weights", off={"pot-fold": {"weights": "nearest"}}),
    Feature("weights matched to integer inputs", off={"pot-fold": {"inputs": "float"}}),
    Feature("biases corrected", off={"pot-fold": {"bias": "plain"}}),
    Feature("16-bit residual stream", off={"quantize": {"residual": "int8"}}),
    Feature("exact GELU table", off={"quantize": {"gelu": "shift"}}),
    Feature("deferred softmax", off={"quantize": {"softmax": "int8"}}),
    Feature("reciprocal divisor", off={"quantize": {"divisor": "pot"}}),
    Feature("8-bit residual, exponents by channel", on={"quantize": {"residual": "int8-ptf"}}),
    Feature("softmax chosen by error", on={"quantize": {"softmax": "auto"}}),
    Feature("softmax of 16 bits", on={"quantize": {"softmax": "int16"}}),
    Feature("softmax of 4 bits, base 2", on={"quantize": {"softmax": "log2"}}),
    Feature("attention and GELU in 16 bits", on={"quantize": {"wide": ("attention", "gelu")}}),
    Feature("weight exponents by output error", on={"pot-fold": {"exponents": "search"}}),
    Feature("formats refined by blocks", on={"refine": {}}),
    Feature("ranges by output error", on={"fit-ranges": {}}),
    Feature("ranges by output error, formats refined", on={"fit-ranges": {}, "refine": {}}),
    Feature("ranges by squared error", on={"calibrate": {"observer": "mse"}}),
    Feature("ranges by percentile", on={"calibrate": {"observer": "percentile"}}),
    Feature("ranges by entropy", on={"calibrate": {"observer": "entropy"}}),
    Feature("calibration on flipped copies", on={"calibrate": {"augment": "flip"}}),
)
"""All features, in the order of the table."""

BASES = ("default", "plain")


@dataclass(frozen=True)
class Variant:
    """One row in the making: a feature over a base."""

    base: str
    """default or plain."""

    feature: Feature | None
    """The feature that is switched; None: the base itself."""

    options: Options


def variants(features: Sequence[Feature]) -> list[Variant]:
    """All variants, those with the same calibration together."""
    everything = merged(*(each.off for each in FEATURES))
    found: list[Variant] = [Variant("default", None, {}), Variant("plain", None, everything)]
    for feature in features:
        if feature.default:
            rest = merged(*(each.off for each in FEATURES if each is not feature))
            found.append(Variant("default", feature, feature.off))
            found.append(Variant("plain", feature, rest))
        else:
            found.append(Variant("default", feature, feature.on))
            found.append(Variant("plain", feature, merged(everything, feature.on)))
    return sorted(found, key=lambda each: str(each.options.get("calibrate", "")))


def chosen(names: str | None) -> list[Feature]:
    """Features whose names contain one of the words in `names`; all of them for None.

    Raises VitError for a word that fits nothing.
    """
    if names is None:
        return list(FEATURES)
    found: list[Feature] = []
    for word in names.split(","):
        fitting = [each for each in FEATURES if word.strip().lower() in each.name.lower()]
        if not fitting:
            known = "; ".join(each.name for each in FEATURES)
            raise VitError(f"--features: nothing with '{word}'; there are: {known}")
        found += [each for each in fitting if each not in found]
    return found


def ablate(
    model: Variants,
    features: Sequence[Feature],
    bases: Sequence[str] = BASES,
    say: Callable[[str], None] = lambda _: None,
    given: Options | None = None,
) -> list[dict[str, Any]]:
    """Measure all variants: rows with base, feature (None: the base), on, and the measures.

    All of them have the options ``given`` as well, where they do not switch them themselves.

    A variant that the model cannot take has `error` instead of measures.
    """
    rows: list[dict[str, Any]] = []
    for each in variants(features):
        if each.base not in bases:
            continue
        name = None if each.feature is None else each.feature.name
        say(f"{each.base}: {name or 'itself'}")
        row: dict[str, Any] = {"base": each.base, "feature": name}
        try:
            options = merged(given or {}, each.options)
            row |= model.measure(options, say=lambda step, name=name: say(f"{name}: {step}"))
        except VitError as error:
            row["error"] = str(error)
        rows.append(row)
    return rows


MEASURES = (
    ("mean dB", "sqnr_mean_db"),
    ("worst dB", "sqnr_worst_db"),
    ("top-1", "top1"),
    ("IoU", "iou"),
    ("s", "seconds"),
)


TITLES = {
    "default": "each feature switched, over the default options",
    "plain": "each feature alone, over a plain quantiser",
}


def table(
    rows: Sequence[Mapping[str, Any]], features: Sequence[Feature], base: str
) -> tuple[list[str], list[list[str]]]:
    """Header and lines of one base: measures, decibels with their change against the base itself."""
    found = {row["feature"]: row for row in rows if row["base"] == base}
    keys = [(title, key) for title, key in MEASURES if any(key in row for row in found.values())]
    lines = [[base, *_cells(found, None, keys)]]
    for feature in features:
        sign = "without" if feature.default and base == "default" else "with"
        lines.append([f"{sign} {feature.name}", *_cells(found, feature.name, keys)])
    return [TITLES[base], *(title for title, _ in keys)], lines


def _cells(
    found: Mapping[str | None, Mapping[str, Any]],
    feature: str | None,
    keys: Sequence[tuple[str, str]],
) -> Iterator[str]:
    """The measures of one feature; `same` where it has nothing to do with the model."""
    row, start = found[feature], found[None]
    same = feature is not None and all(
        row.get(key) == start.get(key) for _, key in keys if key != "seconds"
    )
    for _, key in keys:
        if same and key != "seconds":
            yield "same"
        elif key not in row:
            yield "fails" if "error" in row else ""
        elif key.endswith("_db") and feature is not None and key in start:
            chance = f" ± {uncertainty(row, start):.1f}" if key == "sqnr_mean_db" else ""
            yield f"{row[key]:.1f} ({row[key] - start[key]:+.1f}{chance})"
        else:
            yield _text(key, row[key])


def uncertainty(row: Mapping[str, Any], start: Mapping[str, Any]) -> float:
    """Standard error of the difference of two means of decibels, from their inputs in pairs."""
    pairs = zip(row["each_db"], start["each_db"], strict=True)
    differences = [a - b for a, b in pairs]
    if len(differences) < 2:
        return math.nan
    return statistics.stdev(differences) / math.sqrt(len(differences))


def _text(key: str, value: float) -> str:
    if key == "top1":
        return f"{value:.1%}"
    return f"{value:.3f}" if key == "iou" else f"{value:.1f}"


def _run(args: argparse.Namespace) -> None:
    features = chosen(args.features)
    model = open_variants(args)
    bases = BASES if args.base == "both" else (args.base,)
    given = options_of(args.passes)
    with progress("vit-bench ablation") as say:
        rows = ablate(model, features, bases, say, given)
    failed = [row["error"] for row in rows if row["feature"] is None and "error" in row]
    if len(failed) == len(bases):
        raise VitError(failed[0])
    if args.json:
        print(json.dumps(rows))
        return
    for base in bases:
        header, lines = table(rows, features, base)
        if args.markdown:
            print(markdown_table(header, lines))
        else:
            print_table(header, lines)
            print()
    for row in rows:
        if "error" in row:
            print(f"{row['base']}, {row['feature'] or 'as it is'}: {row['error']}")


def options_of(spec: str) -> Options:
    """Passes with options, as in `vit-compile --passes`, as options of variants.

    Raises UsageError for a pass or an option that does not exist.
    """
    from xdsl.passes import PassPipeline

    from vit_opt.passes import get_all_passes
    from vit_opt.tools.pass_options import checked_pipeline

    checked = checked_pipeline("--passes", spec, get_all_passes(), "")
    passes = PassPipeline.parse_spec(get_all_passes(), checked).passes
    return {each.name: dict(vars(each)) for each in passes}


def open_variants(args: argparse.Namespace, model: Path | None = None) -> Variants:
    """The model and data of a command line; raises VitError for missing files."""
    from vit_opt.dialects.evaluation import input_names, main_function
    from vit_opt.tools.report.evaluation import read_data
    from vit_opt.tools.steps import import_onnx, new_context

    path = model or Path(args.model)
    names = input_names(main_function(import_onnx(path, context=new_context())))
    inputs, labels = read_data(Path(args.eval), dict.fromkeys(names))
    count = args.count
    cut = {name: array[:count] for name, array in inputs.items()}
    return Variants(
        path,
        None if args.calib is None else Path(args.calib),
        turned(cut) if args.turned else cut,
        None if labels is None or args.turned else labels[:count],
        args.on,
        args.preprocess,
    )


def add_data_arguments(command: argparse.ArgumentParser) -> None:
    """Options that say what to calibrate and measure on, and how to print."""
    command.add_argument("--calib", metavar="DATA", help="calibration data (default: synthetic)")
    command.add_argument("--preprocess", metavar="STEPS", help="how image files become inputs")
    command.add_argument(
        "--eval", required=True, metavar="DATA.npz", help="inputs to measure on, 'label' if known"
    )
    command.add_argument("--count", type=int, metavar="N", help="only the first N inputs")
    command.add_argument(
        "--turned",
        action="store_true",
        help="measure each image in eight positions, mirrored and turned; labels are left out",
    )
    command.add_argument("--on", choices=("c", "reference"), default="c", help="default: c")
    command.add_argument("--json", action="store_true", help="plain data on standard output")
    command.add_argument("--markdown", action="store_true", help="the table in Markdown")


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add `ablation` to the commands of `vit-bench`."""
    command = commands.add_parser("ablation", help="what each feature of the quantiser is worth")
    command.add_argument("model", metavar="MODEL.onnx")
    add_data_arguments(command)
    command.add_argument(
        "--features", metavar="WORDS", help="only features with one of these words, by comma"
    )
    command.add_argument(
        "--passes",
        default="",
        metavar="PASSES",
        help="options that all variants have, for example 'assign-bits{bits=4}'",
    )
    command.add_argument("--base", choices=(*BASES, "both"), default="both", help="default: both")
    command.set_defaults(run=_run)


__all__ = ["FEATURES", "Feature", "ablate", "add_command", "add_data_arguments", "open_variants"]
