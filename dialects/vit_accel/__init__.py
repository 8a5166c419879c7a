"""The accelerator level: the instruction set, and a dialect that mirrors it one to one.

`isa` declares every instruction once; `fields` derives encoding and text from the declaration, `ops`
the operations of the dialect.
"""

from vit_opt.dialects.vit_accel.ops import VitAccel

__all__ = ["VitAccel"]
