"""All passes by name.

A pass has one name in four places: `pot-fold` is the class `PotFoldPass` in `passes/pot_fold.py`,
tested in `test/filecheck/passes/pot-fold.mlir`. So the registry is a list of names, and a pass is
imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import cast

from xdsl.passes import ModulePass

PASSES = (
    "assign-bits",
    "calibrate",
    "decompose-einsum",
    "fill-grids",
    "fit-ranges",
    "fold-batch-norm",
    "fold-constants",
    "fold-scales",
    "fuse",
    "migrate",
    "pot-fold",
    "prove-ranges",
    "quantize",
    "raise-attention",
    "raise-gelu",
    "raise-hard-swish",
    "raise-layer-norm",
    "raise-linear",
    "raise-linear-attention",
    "raise-swish",
    "refine",
    "simplify-graph",
    "smooth",
    "split-channels",
    "tile",
    "verify-integer",
)
"""Names of the passes, in alphabetical order."""


def pass_class(name: str) -> type[ModulePass]:
    """The class of the pass called `name`; imports its module."""
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    class_name = "".join(part.capitalize() for part in name.split("-")) + "Pass"
    return cast("type[ModulePass]", getattr(module, class_name))


def get_all_passes() -> dict[str, Callable[[], type[ModulePass]]]:
    """Factories of all passes by name; none is imported yet."""
    return {name: partial(pass_class, name) for name in PASSES}
