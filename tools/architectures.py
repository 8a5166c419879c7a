"""Architectures of accelerators from the command line: a preset's name, or a JSON file.

A file gives the fields of `AccelTarget`; those it leaves out come from the preset it names:

    {"name": "wide", "base": "p2vit", "lanes": 128, "memories": {"abuf": 131072}}
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import AccelTarget, EnergyTable, MemorySpec, accel_target


def read_arch(name: str) -> AccelTarget:
    """The preset called `name`, or the architecture in the file `name`.

    Raises VitError if it is neither, or if the file has unknown or ill-typed fields.
    """
    if not name.endswith(".json"):
        return accel_target(name)
    try:
        data = json.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise VitError(f"{name}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise VitError(f"{name}: not a JSON file: {error}") from error
    if not isinstance(data, dict):
        raise VitError(f"{name}: expected a JSON object with the fields of an architecture")
    try:
        return _from_json(cast("dict[str, Any]", data))
    except VitError as error:
        raise VitError(f"{name}: {error}") from error


def _from_json(data: dict[str, Any]) -> AccelTarget:
    base = accel_target(str(data.pop("base", "p2vit")))
    if not isinstance(data.get("name"), str):
        raise VitError("an architecture needs a name")
    return changed(base, data)


def changed(base: AccelTarget, data: dict[str, Any]) -> AccelTarget:
    """An architecture with other values for some fields, as in a file.

    Raises VitError for unknown or ill-typed fields.
    """
    known = {field.name: getattr(base, field.name) for field in fields(AccelTarget)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in known:
            raise VitError(f"unknown field '{key}'; known: base, {', '.join(known)}")
        values[key] = _field(key, value, known[key])
    return replace(base, **values)


def _field(key: str, value: Any, default: Any) -> Any:
    """A field's value, of the type that the preset has there."""
    if isinstance(default, EnergyTable):
        return replace(default, **_numbers(key, value, asdict(default)))
    if isinstance(default, tuple):
        sizes = {memory.name: memory.size for memory in cast("tuple[MemorySpec, ...]", default)}
        sizes |= {name: int(size) for name, size in _numbers(key, value, sizes).items()}
        return tuple(MemorySpec(name, size) for name, size in sizes.items())
    wanted = (
        (int, float)
        if isinstance(default, float)
        else (int,)
        if isinstance(default, int)
        else (str,)
    )
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise VitError(f"field '{key}' is {value!r}, expected {type(default).__name__}")
    if isinstance(value, int | float) and value <= 0:
        raise VitError(f"field '{key}' is {value}, expected a positive number")
    return value


def _numbers(key: str, value: Any, known: dict[str, Any]) -> dict[str, float]:
    if not isinstance(value, dict):
        raise VitError(f"field '{key}' is {value!r}, expected an object")
    entries = cast("dict[str, Any]", value)
    for name, number in entries.items():
        if name not in known:
            raise VitError(f"unknown entry '{name}' of '{key}'; known: {', '.join(known)}")
        if not isinstance(number, int | float) or isinstance(number, bool) or number <= 0:
            raise VitError(f"entry '{name}' of '{key}' is {number!r}, expected a positive number")
    return entries


def arch_json(arch: AccelTarget) -> str:
    """An architecture as a file that `read_arch` reads."""
    data = asdict(arch)
    data["memories"] = {memory.name: memory.size for memory in arch.memories}
    return json.dumps(data, indent=2) + "\n"
