"""Options of passes as a user writes them: checked, and named where they are wrong.

xDSL's parser takes `headroom=1` for an integer where a number is wanted, and tells of a wrong value
without the pass or the option. Here whole numbers become real ones where these are meant, and a
mistake says where it is and what is expected.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from xdsl.passes import ModulePass
from xdsl.utils.arg_spec import ArgSpec, PipelineLexer, SpecTokenKind, parse_pipeline

from vit_opt.tools.command import UsageError, check_pass_names

KINDS: Mapping[Any, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("a word", (str,)),
    tuple[str, ...]: ("words with commas between", (str,)),
}
"""Types of options: what they are called, and what xDSL's parser may have made of the text."""


def checked_pipeline(
    option: str,
    text: str,
    known: Mapping[str, Callable[[], type[ModulePass]]],
    advice: str = "",
) -> str:
    """A pipeline that xDSL's parser understands as it was meant.

    Raises UsageError, after the name of the command's `option`, for passes and options that do not
    exist and for values of another type. `advice` says what to do about an unknown pass.
    """
    check_pass_names(option, text, known, advice)
    _check_once(option, text)
    specs = list(parse_pipeline(text))
    meant = ",".join(str(_checked(option, spec, known[spec.name]())) for spec in specs)
    return text if meant == ",".join(map(str, specs)) else meant


def _check_once(option: str, text: str) -> None:
    """UsageError where a pass is given an option twice, of which xDSL's parser takes the last."""
    lexer = PipelineLexer(text)
    seen: set[str] = set()
    before: SpecTokenKind | None = None
    inside = False
    while (token := lexer.lex()).kind is not SpecTokenKind.EOF:
        key = token.text.replace("-", "_")
        if token.kind in (SpecTokenKind.L_BRACE, SpecTokenKind.R_BRACE):
            inside = token.kind is SpecTokenKind.L_BRACE
            seen.clear()
        elif inside and before in (SpecTokenKind.L_BRACE, SpecTokenKind.SPACE):
            if key in seen:
                column = token.span.start + 1
                raise UsageError(
                    f"{option}: option '{key}' is given twice, again in column {column}"
                )
            seen.add(key)
        before = token.kind


def _checked(option: str, spec: ArgSpec, kind: type[ModulePass]) -> ArgSpec:
    """One pass with its options; see `checked_pipeline`."""
    types = get_type_hints(kind)
    names = [each.name for each in fields(kind) if each.name != "name" and each.init]
    given: dict[str, Any] = {}
    for key, values in spec.normalize_parameter_names().parameters.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(names) or 'none'}"
            raise UsageError(f"{option}: {spec.name} has no option '{key}'; {hint}")
        wanted, taken = KINDS.get(types[key], ("", (bool, object)))
        several = types[key] not in KINDS or types[key] == tuple[str, ...]
        count_fits = several or len(values) == 1
        if not count_fits or not all(_fits(value, taken) for value in values):
            said = ",".join(map(str, values))
            raise UsageError(f"{option}: {spec.name}: {key} is {wanted}, not '{said}'")
        given[key] = [float(value) for value in values] if types[key] is float else values
    return ArgSpec(spec.name, {key: tuple(values) for key, values in given.items()})


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    """Whether a value has one of the types; true and false are no numbers."""
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


__all__ = ["checked_pipeline"]
