"""What `vit-compile` writes for a target, of a module that is ready for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdsl.dialects.builtin import ModuleOp

from vit_opt.dialects.assets import VitContext
from vit_opt.tools.artefact import ARCH, ASSEMBLY, EXPLANATION, IMAGE, ORIGINS
from vit_opt.tools.command import write_text

if TYPE_CHECKING:
    from vit_opt.passes.windows import Choice


def build_c(
    module: ModuleOp, context: VitContext, folder: Path, cpu: str = "host", threads: int = 1
) -> dict[str, Any]:
    """Write the C project of a module into a folder; returns what the report says of it."""
    from vit_opt.backends.c.emit import EmitOptions, emit_c

    project = emit_c(module, context.assets, folder, EmitOptions(cpu=cpu, threads=threads))
    return {
        "cpu": project.cpu,
        "weight_bytes": project.weight_bytes,
        "arena_bytes": project.arena_bytes,
        "kernel_calls": project.calls,
    }


def build_accel(
    module: ModuleOp, context: VitContext, folder: Path, arch: str = "p2vit"
) -> dict[str, Any]:
    """Write image, assembly and architecture of a module into a folder; returns the facts."""
    from vit_opt.backends.accel.explain import explain_lines
    from vit_opt.backends.accel.lowering import lower_accel
    from vit_opt.backends.accel.metrics import metrics
    from vit_opt.backends.accel.profile import Profile
    from vit_opt.backends.accel.run import time_accel
    from vit_opt.tools.architectures import arch_json, read_arch
    from vit_opt.tools.assemble import describe_image, save_assembly

    target = read_arch(arch)
    choices: list[Choice] = []
    image = lower_accel(module, context.assets, target, choices=choices)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / EXPLANATION, "\n".join(explain_lines(choices, target)) + "\n")
    image.save(folder / IMAGE)
    save_assembly(image, folder / ASSEMBLY)
    write_text(folder / ARCH, arch_json(target))
    write_text(folder / ORIGINS, image.origins.to_json())
    facts = describe_image(image)
    if image.packing_saves:
        facts["int8_data_bytes"] = facts["data_bytes"] + image.packing_saves
    profile = Profile(image, target)
    return facts | {
        "image_bytes": (folder / IMAGE).stat().st_size,
        "metrics": metrics(time_accel(image, target, profile), target, image),
        "work": [work.facts(target) for work in profile.work()],
        "layers": [layer.facts(target) for layer in profile.layers()],
    }
