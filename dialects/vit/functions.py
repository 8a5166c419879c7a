"""How a `vit.lut` names the function that its table holds: one that is known, and factors around it."""

from __future__ import annotations

import re

FORM = re.compile(r"(?P<base>\w+)(\(x\*(?P<inner>[^()]+)\))?(\*(?P<outer>.+))?")
"""How a table's function is written: `gelu`, `gelu*1.7`, `gelu(x*0.6)`, or `gelu(x*0.6)*1.7`."""


def function_name(base: str, inner: float = 1.0, outer: float = 1.0) -> str:
    """The name of x -> outer * base(inner * x)."""
    argument = "" if inner == 1.0 else f"(x*{inner!r})"
    return base + argument + ("" if outer == 1.0 else f"*{outer!r}")


def function_parts(name: str) -> tuple[str, float, float]:
    """Base, inner and outer factor of a function's name; the name itself where it has no such form."""
    found = FORM.fullmatch(name)
    if found is None:
        return name, 1.0, 1.0
    return found["base"], float(found["inner"] or 1), float(found["outer"] or 1)


__all__ = ["function_name", "function_parts"]
