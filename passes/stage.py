"""The stage of a module on its road from float to schedule, kept in the attribute `vit.stage`."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp, StringAttr

from vit_opt.dialects.errors import VitError

STAGES = ("float", "calibrated", "quantized", "pot", "scheduled")
"""In order. Each is reached by one pass: import, calibrate, quantize, pot-fold, tile."""

ATTRIBUTE = "vit.stage"


def stage_of(module: ModuleOp) -> str | None:
    """The recorded stage, None for a module that says nothing (hand-written IR, say)."""
    stage = module.attributes.get(ATTRIBUTE)
    return stage.data if isinstance(stage, StringAttr) else None


def set_stage(module: ModuleOp, stage: str) -> None:
    """Record that a module has reached a stage."""
    assert stage in STAGES
    module.attributes[ATTRIBUTE] = StringAttr(stage)


def require_stage(module: ModuleOp, pass_name: str, *allowed: str) -> None:
    """Raise VitError if a module is at a stage that a pass cannot work on.

    A module without a recorded stage is taken as it is.
    """
    stage = stage_of(module)
    if stage is not None and stage not in allowed:
        raise VitError(
            f"{pass_name} works on a module at stage {' or '.join(allowed)}, this one is at "
            f"stage {stage}"
        )
