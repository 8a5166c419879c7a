"""The standard road of a model, as names of passes in order.

    float -> calibrated -> quantized -> pot -> scheduled

`ROADS` gives whole roads, `remaining` the part that a module still has to go. A caller who wants
other options makes the passes itself, or overrides them by name in `passes_of`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from vit_opt.passes import PASSES, pass_class
from vit_opt.passes.stage import stage_of

RAISE = (
    "decompose-einsum",
    "fold-constants",
    "simplify-graph",
    "raise-layer-norm",
    "raise-gelu",
    "raise-hard-swish",
    "raise-swish",
    "fold-batch-norm",
    "raise-linear",
    "raise-attention",
    "raise-linear-attention",
    "simplify-graph",
)
"""From operators as exporters write them to what they compute. Numbers change by rounding only."""

STAGE_PASSES: Mapping[str, tuple[str, ...]] = {
    "calibrated": (*RAISE, "calibrate"),
    "quantized": (
        "migrate",
        "smooth",
        "fold-scales",
        "split-channels",
        "fill-grids",
        "assign-bits",
        "quantize",
    ),
    "pot": ("pot-fold",),
    "scheduled": ("verify-integer", "prove-ranges", "fuse", "tile"),
}
"""The passes that bring a module to a stage from the stage before."""

POT_ROAD = tuple(name for names in STAGE_PASSES.values() for name in names)
"""From an imported model to a schedule, with power-of-two scales."""

DYADIC_ROAD = tuple(name for name in POT_ROAD if name != "pot-fold")
"""The same with arbitrary scales, requantised by multiplier and shift (I-ViT)."""

OPTIONAL: Mapping[str, str] = {"fit-ranges": "split-channels", "refine": "pot-fold"}
"""Passes that go onto a road where they are asked for, and the pass that they follow."""

ROADS: Mapping[str, tuple[str, ...]] = {"pot": POT_ROAD, "dyadic": DYADIC_ROAD}
"""Roads by the kind of scales they end with."""

ROAD_OPTIONS: Mapping[str, str] = {
    "pot": "",
    "dyadic": "calibrate{moments=false},verify-integer{pot=false}",
}
"""Passes of a road that need other than their default options, as in `-p`."""


def remaining(
    module: ModuleOp, until: str | None = None, road: Sequence[str] = POT_ROAD
) -> tuple[str, ...]:
    """Passes of a road that a module still needs before the pass `until` (None: all of them).

    The stage recorded in the module says what it has behind it; within a stage nothing is
    recorded, so the passes of the next stage are all still to come. A pass that is not on the
    road needs nothing.
    """
    if until is not None and until not in road:
        return ()
    stage = stage_of(module) or "float"
    done: set[str] = set()
    for name, names in STAGE_PASSES.items():
        if stage == "float":
            break
        done.update(names)
        if name == stage:
            break
    wanted = road if until is None else road[: road.index(until)]
    return tuple(name for name in wanted if name not in done)


def passes_of(
    names: Sequence[str], options: Mapping[str, ModulePass] | None = None
) -> tuple[ModulePass, ...]:
    """Pass instances for names: the one given in `options`, else one with default options.

    `OPTIONAL` passes that are given follow theirs.
    """
    given = options or {}
    assert set(names) <= set(PASSES)
    passes: list[ModulePass] = []
    for name in names:
        passes.append(given[name] if name in given else pass_class(name)())
        passes += [
            given[more] for more, place in OPTIONAL.items() if place == name and more in given
        ]
    return tuple(passes)
