"""The report as one self-contained HTML page: no file beside it, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vit_opt.tools.command import require_writable, write_text
from vit_opt.tools.report import plots
from vit_opt.tools.report.terminal import (
    FAIR,
    GOOD,
    TITLES,
    bits_text,
    frac_text,
    summaries,
    value_text,
)

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --dim: #808890;
  --good: #059669; --fair: #b7791f; --bad: #dc2626; --accent: #3b82f6; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 0 auto; padding: 2rem 1.5rem;
  background: Canvas; color: CanvasText; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .3rem; }
p { margin: .2rem 0 .8rem; color: var(--dim); max-width: 75ch; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.card { border: 1px solid var(--line); border-radius: 10px; padding: .7rem 1rem; min-width: 9rem; }
.card b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; }
.card span { color: var(--dim); font-size: .82rem; }
figure { margin: .6rem 0; } figure svg { width: 100%; height: auto; display: block; }
figure.wide { overflow-x: auto; } figure.wide svg { min-width: 720px; }
figure.many { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .6rem; }
.scroll { overflow: auto; max-height: 80vh; border: 1px solid var(--line); border-radius: 10px; }
@media (min-width: 1240px) {
  .scroll { margin-inline: calc((100% - max(100%, min(94vw, 1700px))) / 2); }
}
table { border-collapse: collapse; width: 100%; font-size: .82rem;
  font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: Canvas; cursor: pointer; text-align: right;
  padding: .5rem .42rem; border-bottom: 1px solid var(--line); white-space: nowrap;
  user-select: none; z-index: 1; }
th:first-child, td:first-child { text-align: left; }
th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
td { padding: .22rem .42rem; text-align: right; border-bottom: 1px solid var(--soft);
  white-space: nowrap; }
td:first-child { max-width: 18rem; overflow: hidden; text-overflow: ellipsis; direction: rtl; }
tr:hover td { background: var(--soft); }
.good { color: var(--good); } .fair { color: var(--fair); } .bad { color: var(--bad); }
.dim { color: var(--dim); }
.spark { width: 72px; height: 16px; vertical-align: middle; }
.spark path { stroke: var(--accent); stroke-width: 1; fill: none; }
input { font: inherit; padding: .35rem .7rem; border: 1px solid var(--line); border-radius: 8px;
  margin: .3rem 0 .6rem; width: 18rem; max-width: 100%; background: transparent; color: inherit; }
@media (max-width: 700px) { body { padding: 1rem .8rem; }
  figure.many { grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); }
  td:first-child { max-width: 9rem; } .card { padding: .5rem .7rem; min-width: 7rem; }
  .card b { font-size: 1.15rem; } }
"""

SCRIPT = """
const table = document.querySelector('table'), body = table.tBodies[0];
const value = (row, i) => { const v = row.cells[i].dataset.v; return v === undefined
  ? row.cells[i].textContent : v === '' ? Infinity : Number(v); };
table.tHead.addEventListener('click', event => {
  const head = event.target.closest('th'); if (!head) return;
  const up = head.ariaSort !== 'ascending', i = head.cellIndex;
  for (const each of table.tHead.rows[0].cells) each.removeAttribute('aria-sort');
  head.ariaSort = up ? 'ascending' : 'descending';
  const order = (a, b) => { const x = value(a, i), y = value(b, i);
    return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1); };
  body.append(...[...body.rows].sort(order));
});
document.querySelector('input').addEventListener('input', event => {
  for (const row of body.rows)
    row.hidden = !row.cells[0].textContent.toLowerCase().includes(event.target.value.toLowerCase());
});
"""

SENSITIVITY = {
    True: "Each dot is a layer, as large as its weights: how much 4-bit weights in this layer alone "
    "would disturb what reads it, and the bits it was given.",
    False: "Signal to noise of the weights' rounding, layer by layer. With --weight-budget the bits "
    "chosen stand here against the sensitivities they were chosen by.",
}
"""What the figure of bits shows, with and without measured sensitivities."""

COLUMNS = (
    ("layer", "Node of the imported model"),
    ("order", "Place in the order of execution"),
    ("bits", "Bits of the result"),
    ("frac", "Fractional bits: one step is 2^-frac"),
    ("low", "Smallest float value"),
    ("high", "Largest float value"),
    ("clipped", "Share of float values that the format cuts off, and not where they are read flat"),
    ("through", "The function that alone reads the value: errors are those of its result"),
    ("values", "Distribution of the float value"),
    ("w bits", "Bits of the weights"),
    ("w frac", "Fractional bits of the weights, over the channels"),
    ("weights", "SQNR of the weights' rounding, dB"),
    ("format", "SQNR of the result's format alone, dB"),
    ("alone", "SQNR of this layer from operands without error, dB"),
    ("so far", "SQNR of everything up to here, dB"),
)


def write_page(report: Mapping[str, Any], path: Path) -> None:
    """Write the page; raises VitError without matplotlib or for a missing folder."""
    plots.require_plotting()
    require_writable(path)
    write_text(path, page(report))


def page(report: Mapping[str, Any]) -> str:
    """The page of a report."""
    name = escape(Path(report["model"]).name)
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{name} · vit-opt</title><style>{STYLE}</style>",
        f"<h1>{name}</h1><p>{_subtitle(report)}</p>",
        *(_cards(title, outputs) for title, outputs in summaries(report)),
        _sizes(report),
    ]
    rows = report["layers"]
    if rows:
        parts += [*_figures(report), _table(rows), f"<script>{SCRIPT}</script>"]
    return "\n".join(parts) + "</html>\n"


def _subtitle(report: Mapping[str, Any]) -> str:
    ports = [
        f"{escape(name)} {'&times;'.join(map(str, port['shape']))}"
        for kind in ("inputs", "outputs")
        for name, port in report[kind].items()
    ]
    kind = {"pot": "power-of-two scales, integers only"}.get(report["scales"], "dyadic scales")
    return f"{kind} · {' → '.join(ports)}"


def _cards(title: str, outputs: Mapping[str, Mapping[str, float]]) -> str:
    cards: list[str] = []
    for name, facts in outputs.items():
        several = f" of {escape(name)}" if len(outputs) > 1 else ""
        cards += [
            f"<div class='card'><b>{value_text(key, value)}</b>"
            f"<span>{escape(TITLES.get(key, key))}{several}</span></div>"
            for key, value in facts.items()
        ]
    return f"<h2>{escape(title)}</h2><div class='cards'>{''.join(cards)}</div>"


def _sizes(report: Mapping[str, Any]) -> str:
    cards: list[str] = []
    for target, title in (("c", "C project"), ("accel", "accelerator")):
        for key, value in report.get(target, {}).items():
            if isinstance(value, int) and key.endswith("bytes"):
                what = key.removesuffix("_bytes").replace("_", " ").replace("weight", "weights")
                cards.append(
                    f"<div class='card'><b>{value / 1e6:.2f} MB</b><span>{title}: {what}</span></div>"
                )
    return f"<h2>Sizes</h2><div class='cards'>{''.join(cards)}</div>" if cards else ""


def _figures(report: Mapping[str, Any]) -> list[str]:
    rows: Sequence[Mapping[str, Any]] = report["layers"]
    library = plots.start()
    parts = [
        "<h2>Error along the depth</h2><p>Signal to quantisation noise of every layer's result on "
        "one calibration input: of its number format alone, of the layer by itself from operands "
        "without error, and of everything up to there.</p>",
        f"<figure class='wide'>{plots.depth(library, rows)}</figure>",
    ]
    if plots.losing(rows):
        parts += [
            "<h2>Values and their grids</h2><p>The layers that lose most by themselves. Bars count "
            "float values (logarithmic); the orange line below is what the format's codes cover, "
            "with its ends where they are near. Red bars are clipped; grey ones are, too, where the "
            "function that reads them is flat, which costs nothing.</p>",
            f"<figure class='many'>{''.join(plots.distributions(library, rows))}</figure>",
        ]
    choices = report.get("choices", {}).get("assign-bits", [])
    scatter = plots.sensitivity(library, rows, choices)
    if scatter is not None:
        parts += [
            f"<h2>Bits and sensitivity of weights</h2><p>{SENSITIVITY[bool(choices)]}</p>",
            f"<figure class='wide'>{scatter}</figure>",
        ]
    return parts


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th title='{escape(tip)}'>{name}</th>" for name, tip in COLUMNS)
    body = "".join(_line(place, row) for place, row in enumerate(rows, 1))
    return (
        "<h2>Layers</h2><p>A click on a column sorts by it.</p>"
        "<input type='search' placeholder='Find a layer' aria-label='Find a layer'>"
        f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _line(place: int, row: Mapping[str, Any]) -> str:
    name = escape(row["layer"])
    cells = [
        f"<td title='{name}'><bdi>{name}</bdi></td>",
        _cell(place, str(place), "dim"),
        _cell(row["bits"], str(row["bits"])),
        _fracs(row["fracs"]),
        _cell(row["low"], f"{row['low']:.4g}"),
        _cell(row["high"], f"{row['high']:.4g}"),
        _cell(row["clipped"], f"{row['clipped']:.2%}" if row["clipped"] else ""),
        f"<td>{escape(row.get('through') or '')}</td>",
        _cell(row["high"] - row["low"], plots.spark(row)),
        _cell(row.get("weight_bits"), bits_text(row.get("weight_bits"))),
        _fracs(row.get("weight_fracs")),
        _ratio(row["weight_db"]) if "weight_db" in row else _cell(None, ""),
        *(_ratio(row[key]) for key in ("grid_db", "alone_db", "sqnr_db")),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: float | None, text: str, kind: str = "") -> str:
    style = f" class='{kind}'" if kind else ""
    return f"<td data-v='{'' if value is None else value}'{style}>{text}</td>"


def _fracs(fracs: Sequence[int] | None) -> str:
    return _cell(None if fracs is None else fracs[0], frac_text(fracs))


def _ratio(value: float | None) -> str:
    if value is None:
        return _cell(None, "exact", "dim")
    kind = "good" if value >= GOOD else "bad" if value < FAIR else "fair"
    return _cell(value, f"{value:.1f}", kind)


__all__ = ["page", "write_page"]
