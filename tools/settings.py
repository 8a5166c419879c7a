"""Files of settings: JSON or YAML, in which no key may come twice."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from vit_opt.dialects.errors import VitError


def load_settings(path: Path) -> Any:
    """What a file holds: JSON if its name ends in `.json`, else YAML.

    Raises VitError naming the file and what is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise VitError(f"{path}: cannot be read: {reason}") from error
    is_json = path.suffix == ".json"
    try:
        return json.loads(text, object_pairs_hook=_unique) if is_json else _yaml(text)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).replace(' in "<unicode string>",', " at").split())
        raise VitError(f"{path}: not {'JSON' if is_json else 'YAML'}: {reason}") from error


def _unique(pairs: list[tuple[Hashable, Any]]) -> dict[Hashable, Any]:
    """A dictionary; ValueError if a key comes twice."""
    found: dict[Hashable, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key '{key}' comes twice")
        found[key] = value
    return found


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader that refuses a key that comes twice."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            _unique([(str(key.value), None) for key, _ in node.value])
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except (AttributeError, LookupError, TypeError) as error:  # so PyYAML fails on `!!bool x`
        raise ValueError("a value is not of the type that its tag says") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
