"""The text target `vit-c`: model.c of a module, to look at or to test.

The other files of a project are written by `emit_c` (the command vit-compile).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.target import Target

from vit_opt.dialects.assets import assets_of


@dataclass(frozen=True)
class CTarget(Target):
    """Prints model.c; raises VitError for what has no kernel."""

    name: ClassVar[str] = "vit-c"

    prefix: str = "model"
    """Prefix of the C functions and constants."""

    def emit(self, ctx: Context, module: ModuleOp, output: IO[str]) -> None:
        """Write model.c of the module to `output`."""
        from vit_opt.backends.c.emit import EmitOptions, source_text
        from vit_opt.backends.c.graph import main_function
        from vit_opt.backends.c.lowering import lower

        lowered = lower(main_function(module), assets_of(ctx))
        output.write(source_text(lowered, EmitOptions(self.prefix)))
