"""What vit-opt publishes to other xDSL tools, by way of the `xdsl.universe` entry point.

The stock `xdsl-opt` finds the dialects `vit` and `vit_accel` here, and the passes and targets under
names that begin with `vit-` (`vit-pot-fold`, `vit-c`), so that nothing clashes with another
plug-in. Our own driver knows the passes by their short names. Every xDSL tool of the environment
imports this module, so it holds names; dialects, passes and targets are imported when asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import cast

from xdsl.ir import Dialect
from xdsl.passes import ModulePass
from xdsl.universe import Universe
from xdsl.utils.target import Target

from vit_opt.passes import PASSES, pass_class

PREFIX = "vit-"


def _vit() -> Dialect:
    from vit_opt.dialects.vit import Vit

    return Vit


def _vit_accel() -> Dialect:
    from vit_opt.dialects.vit_accel import VitAccel

    return VitAccel


@cache
def prefixed_pass(name: str) -> type[ModulePass]:
    """The pass called `name` as a class of its own with the name `vit-<name>`.

    A pass checks the name it is called by, so one class cannot have two.
    """
    base = pass_class(name)
    members = {"name": PREFIX + name, "__doc__": base.__doc__, "__module__": base.__module__}
    derived = cast("type[ModulePass]", type(base.__name__, (base,), members))
    return dataclass(frozen=True)(derived)


def _target_c() -> type[Target]:
    from vit_opt.backends.c.target import CTarget

    return CTarget


def _target_asm() -> type[Target]:
    from vit_opt.backends.accel.target import AssemblyTarget

    return AssemblyTarget


_DIALECTS: dict[str, Callable[[], Dialect]] = {"vit": _vit, "vit_accel": _vit_accel}
_TARGETS: dict[str, Callable[[], type[Target]]] = {"vit-c": _target_c, "vit-asm": _target_asm}

VIT_UNIVERSE = Universe(
    all_dialects=_DIALECTS,
    all_passes={PREFIX + name: partial(prefixed_pass, name) for name in PASSES},
    all_targets=_TARGETS,
)
