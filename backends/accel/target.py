"""The text target `vit-asm`: assembly of a module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.target import Target

from vit_opt.dialects.assets import assets_of


@dataclass(frozen=True)
class AssemblyTarget(Target):
    """Prints assembly: of a `vit_accel.program` as it is, of a PoT `vit` module after lowering.

    Raises VitError for modules that the architecture cannot run.
    """

    name: ClassVar[str] = "vit-asm"

    arch: str = "p2vit"
    """Preset of the architecture to lower for."""

    def emit(self, ctx: Context, module: ModuleOp, output: IO[str]) -> None:
        """Write the assembly of the module to `output`."""
        from vit_opt.backends.accel.assembler import disassemble
        from vit_opt.backends.accel.ir import ir_to_image, program_of
        from vit_opt.backends.accel.lowering import lower_accel
        from vit_opt.dialects.vit.targets import accel_target

        store = assets_of(ctx)
        if program_of(module) is not None:
            image = ir_to_image(module, store)
        else:
            image = lower_accel(module, store, accel_target(self.arch))
        output.write(disassemble(image))
