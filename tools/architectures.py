"""Architectures of accelerators from the command line: a preset's name, or a file.

A file, JSON or YAML, gives the fields of `AccelTarget`; those it leaves out come from the preset
that it names:

    {"name": "wide", "base": "p2vit", "lanes": 128,
     "memories": {"abuf": 131072, "obuf": {"size": 131072, "banks": 16, "width": 64}}}

A memory that is given as a number of bytes, or of KiB as `53K`, keeps its banks.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import AccelTarget, EnergyTable, MemorySpec, accel_target
from vit_opt.tools.artefact import ARCH, Artefact
from vit_opt.tools.settings import load_settings

DEFAULT = "p2vit"
"""The preset where none is named."""

OWN_FIGURES = "own figures of the architecture"
"""Source of energies that a file changes without saying where they come from."""


def read_arch(name: str) -> AccelTarget:
    """The preset called `name`, or the architecture in the file `name`.

    Raises VitError if it is neither, or if the file has unknown or ill-typed fields.
    """
    if not name.endswith((".json", ".yaml", ".yml")):
        return accel_target(name)
    data = load_settings(Path(name))
    if not isinstance(data, dict):
        raise VitError(f"{name}: expected an object with the fields of an architecture")
    try:
        return _from_json(cast("dict[str, Any]", data))
    except VitError as error:
        raise VitError(f"{name}: {error}") from error


def arch_for(model: Path, name: str | None) -> AccelTarget:
    """The architecture called `name`; where none is named, a compiled folder's own, else p2vit."""
    own = Artefact(model).accel / ARCH
    return read_arch(name or (str(own) if own.exists() else DEFAULT))


def _from_json(data: dict[str, Any]) -> AccelTarget:
    if not isinstance(data.get("name"), str):
        raise VitError("an architecture needs a name")
    base = accel_target(str(data.get("base", DEFAULT)))
    return changed(base, {key: value for key, value in data.items() if key != "base"})


def changed(base: AccelTarget, data: dict[str, Any]) -> AccelTarget:
    """An architecture with other values for some fields, as in a file.

    Raises VitError for unknown or ill-typed fields.
    """
    known = {field.name: getattr(base, field.name) for field in fields(AccelTarget)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in known:
            raise VitError(f"unknown field '{key}'; {_hint(key, ('base', *known))}")
        values[key] = _field(key, value, known[key])
    return replace(base, **values)


def _field(key: str, value: Any, default: Any) -> Any:
    """A field's value, of the type that the preset has there."""
    if isinstance(default, EnergyTable):
        known = asdict(default)
        entries = _numbers(key, value, known)
        own = any(entries[name] != known[name] for name in entries)
        return replace(default, **({"source": OWN_FIGURES} if own else {}) | entries)
    if isinstance(default, tuple):
        return _memories(cast("tuple[MemorySpec, ...]", default), value)
    _check_kind(f"field '{key}'", value, default)
    return value


def _memories(base: tuple[MemorySpec, ...], value: Any) -> tuple[MemorySpec, ...]:
    """Memories of which some have another size, or other figures."""
    found = {memory.name: memory for memory in base}
    for name, entry in _object("memories", value, found).items():
        figures = asdict(found[name])
        del figures["name"]
        given: Any = dict(cast("Any", entry)) if isinstance(entry, dict) else {"size": entry}
        size = given.get("size")
        if isinstance(size, str) and re.fullmatch(r"\d+K", size):
            given["size"] = 1024 * int(size.removesuffix("K"))
        found[name] = replace(found[name], **_numbers(f"memories.{name}", given, figures))
    return tuple(found.values())


def _object(key: str, value: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """An object with some of the entries that the preset has."""
    if not isinstance(value, dict):
        raise VitError(f"field '{key}' is {value!r}, expected an object")
    entries = cast("dict[str, Any]", value)
    for name in entries:
        if name not in known:
            raise VitError(f"unknown entry '{name}' of '{key}'; known: {', '.join(known)}")
    return entries


def _hint(name: str, known: Iterable[str]) -> str:
    """The name that is close to a wrong one, or all there are."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"


def _numbers(key: str, value: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Entries of the same kind as those of the preset."""
    entries = _object(key, value, known)
    for name, number in entries.items():
        _check_kind(f"entry '{name}' of '{key}'", number, known[name])
    return entries


def _check_kind(what: str, value: Any, default: Any) -> None:
    """VitError unless a value is of the same kind as the preset's."""
    kinds: dict[type, tuple[tuple[type, ...], str]] = {
        int: ((int,), "a whole number"),
        float: ((int, float), "a number"),
        str: ((str,), "text"),
    }
    types, name = kinds[type(default)]
    if not isinstance(value, types) or isinstance(value, bool):
        raise VitError(f"{what} is {value!r}, expected {name}")


def arch_json(arch: AccelTarget) -> str:
    """An architecture as a file that `read_arch` reads."""
    data = asdict(arch)
    data["memories"] = {memory.pop("name"): memory for memory in data["memories"]}
    return json.dumps(data, indent=2) + "\n"
