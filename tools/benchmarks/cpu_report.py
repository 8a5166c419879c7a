"""Results of `vit-bench cpu`: tables, and files that hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_opt.dialects.errors import VitError
from vit_opt.tools.benchmarks import peers


def threads_text(count: int) -> str:
    """A number of threads in words."""
    return f"{count} thread{'s' if count > 1 else ''}"


# ---- files ---------------------------------------------------------------------------------------


def read_results(path: Path) -> dict[str, Any]:
    """Results that an earlier run wrote; raises VitError for anything else."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        complete = {"machine", "peak_macs_per_second", "models"} <= set(facts)
    except (OSError, ValueError, TypeError) as error:
        raise VitError(f"{path}: no results of vit-bench cpu: {error}") from error
    if not complete:
        raise VitError(f"{path}: no results of vit-bench cpu")
    return facts


def merged(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Two runs' results in one; of what both have measured, the later.

    Raises VitError if they come from different processors.
    """
    processors = [facts["machine"]["processor"] for facts in (before, now)]
    if processors[0] != processors[1]:
        raise VitError(f"results of {processors[0]} cannot hold those of {processors[1]}")
    peaks = [facts["peak_macs_per_second"] for facts in (before, now)]
    models = {model["name"]: model for model in before["models"]}
    for model in now["models"]:
        results = [*models.get(model["name"], {"results": []})["results"], *model["results"]]
        last = {(entry["batch"], entry["threads"]): entry for entry in results}
        entries = [last[setting] for setting in sorted(last)]
        models[model["name"]] = {**model, "results": entries}
    return {
        "machine": now["machine"],
        "peak_macs_per_second": None if None in peaks else max(peaks),
        "models": list(models.values()),
    }


# ---- tables --------------------------------------------------------------------------------------

HEADER = (
    "one inference",
    *("ms", "best ms", "CPU ms"),
    *("ratio", "best ratio", "CPU ratio"),
    *("GMAC/s", "of peak"),
)


START_HEADER = ("", "ONNX to first inference", "compiling the C project", "opening the model")


def start_row(model: Mapping[str, Any]) -> list[str]:
    """A model's row below `START_HEADER`."""
    start = model["start"]
    return [
        model["name"],
        f"{start['first_inference']:.1f} s",
        f"{start['compile_c']:.1f} s",
        f"{start['load'] * 1e3:.1f} ms",
    ]


LEGEND = """\
ms, CPU ms: medians over the rounds; best ms: the fastest inference; CPU: processor time of all
threads, which other work on the machine disturbs least. Ratios are to ORT f32, ratio and CPU ratio
medians of those within a round. GMAC/s: MACs of the float model, by the fastest inference or, with
one thread, the processor time if that is less."""


def table_rows(entry: Mapping[str, Any]) -> list[list[str]]:
    """A comparison as rows below `HEADER`."""
    rows: list[list[str]] = []
    for row in entry["rows"]:
        peak = row["peak_fraction"]
        rows.append(
            [
                row["name"],
                f"{row['ms']:.2f}",
                f"{row['best_ms']:.2f}",
                f"{row['cpu_ms']:.2f}",
                f"{row['ratio']:.2f}",
                f"{row['best_ratio']:.2f}",
                f"{row['cpu_ratio']:.2f}",
                f"{row['macs_per_second'] / 1e9:.0f}",
                "" if peak is None else f"{100 * peak:.0f} %",
            ]
        )
    return rows


def machine_lines(facts: Mapping[str, Any]) -> list[str]:
    """The machine in words."""
    about = facts["machine"]
    peak = facts["peak_macs_per_second"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return [
        f"{about['processor']} (family {about['family']}), {about['processors']} processors, "
        f"{' '.join(about['features'])}",
        f"{about['system']}; {about['compiler']}; Python {about['python']}; {versions}",
        "int8 dot product peak: "
        + ("none" if peak is None else f"{peak / 1e9:.0f} GMAC/s a processor, measured"),
    ]


def bound(facts: Mapping[str, Any], model: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """What ratio the peak alone would allow."""
    peak = facts["peak_macs_per_second"]
    if peak is None:
        return ""
    [base] = [row["least_ms"] for row in entry["rows"] if row["name"] == peers.ORT_F32]
    return f"; all MACs at peak: {model['macs'] / (peak * entry['threads']) / base * 1e3:.2f}"


def print_report(facts: Mapping[str, Any], markdown: bool) -> None:
    """All tables, for the terminal or in Markdown."""
    from vit_opt.tools.tables import markdown_table, print_table

    def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if markdown:
            print(markdown_table(header, rows), end="")
        else:
            print_table(header, rows)

    print("\n".join(machine_lines(facts)))
    for model in facts["models"]:
        decibels = ", ".join(f"{each['sqnr_db']:.1f} dB" for each in model["quality"].values())
        print(
            f"\n{model['name']}: {model['macs'] / 1e9:.3f} GMAC, {model['weight_bytes']:,} bytes of "
            f"weights, {model['arena_bytes']:,} bytes of arena, "
            f"{decibels} against float, compiled in {model['compile_seconds']:.1f} s"
        )
        for entry in model["results"]:
            print(
                f"\nbatch {entry['batch']}, {threads_text(entry['threads'])}, "
                f"{entry['rows'][0]['rounds']} rounds, load {entry['load']:.1f} at the start"
                f"{bound(facts, model, entry)}\n"
            )
            show(HEADER, table_rows(entry))
            for name, reason in entry["failed"].items():
                print(f"{name}: {reason}")
        parts = [f"{kind} {100 * share:.0f} %" for kind, share in model["shares"].items()]
        print(f"\ntime of ours: {', '.join(parts)}")
    print(f"\n{LEGEND}")
    print("\nfrom nothing to a running model\n")
    show(START_HEADER, [start_row(model) for model in facts["models"]])
