"""What all commands share: how an error ends, and how files are written.

A mistake of the user ends in one line on stderr and exit code 1 (2 for wrong usage, by argparse).
Any other exception is a bug of ours and keeps its traceback. Files appear whole or not at all.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import NoReturn

from xdsl.utils.arg_spec import parse_pipeline
from xdsl.utils.exceptions import ArgSpecParseError, DiagnosticException, ParseError

from vit_opt.dialects.errors import VitError


class UsageError(VitError):
    """A command that was called in a wrong way: exit code 2."""


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line, too."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        complain(self, message)


def command_line(tool: str, description: str) -> argparse.ArgumentParser:
    """An empty command line, to which options are added."""
    return _Parser(prog=tool, description=description)


def complain(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """End with one line on stderr and exit code 2."""
    parser.exit(2, f"{parser.prog}: error: {_one_line(message)}; --help lists all options\n")


@contextmanager
def parsing(name: str) -> Generator[None]:
    """Around xDSL's parser, which raises more than ParseError for text that is no program."""
    try:
        yield
    except (ValueError, OverflowError, MemoryError, RecursionError) as error:
        reason = _one_line(str(error)) or type(error).__name__
        raise VitError(f"{name}: cannot be parsed: {reason}") from error


def run_command(tool: str, body: Callable[[], None]) -> int:
    """Run a command and return its exit code; a user's mistake is told on stderr."""
    if sys.__stdout__ is None:  # it was closed before we started: nobody wants to read
        sys.stdout = StringIO()
    try:
        body()
        sys.stdout.flush()
    except (VitError, DiagnosticException, ParseError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        print(f"{tool}: error: {describe(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except ArgSpecParseError as error:
        print(f"{tool}: error: {_pipeline_mistake(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{tool}: interrupted", file=sys.stderr)
        return 130
    return 0


def check_pass_names(option: str, pipeline: str, known: Iterable[str], advice: str = "") -> None:
    """Raise UsageError for the first name in a pipeline that is no pass; close ones are suggested.

    `advice` says what to do where no name is close.
    """
    names = list(known)
    for spec in parse_pipeline(pipeline):
        if spec.name not in names:
            near = difflib.get_close_matches(spec.name, names, 1)
            hint = f"; did you mean '{near[0]}'?" if near else advice
            raise UsageError(f"{option}: there is no pass '{spec.name}'{hint}")


def describe(error: Exception) -> str:
    """An error in one line: where, then what."""
    if isinstance(error, ParseError):
        return _one_line(f"{error.span.get_location()}: {error.msg}")
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return _one_line(_failing_operation(error) + str(error))


def _failing_operation(error: Exception) -> str:
    """The operation that a verifier complains about: the line above the carets in xDSL's note."""
    for note in getattr(error, "__notes__", ()):
        found = re.search(r"^(.*)\n\s*\^\^", str(note), re.MULTILINE)
        name = re.search(r'"(\w+\.[\w.]+)"', found[1]) if found else None
        if found and name:
            node = re.search(r'node_name = "([^"]*)"', found[1])
            return f"{name[1]} ({node[1]}): " if node else f"{name[1]}: "
    return ""


def _pipeline_mistake(text: str) -> str:
    """What xDSL's parser of pipelines says, in one line: its place, then what it expects."""
    place = re.search(r"pass-pipeline:\d+:(\d+)$", text, re.MULTILINE)
    if place is None:
        return _one_line(text)
    said = text.strip().splitlines()[-1].strip()
    return f"the pipeline cannot be read from column {place[1]} on: {said}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def require_folder(path: Path) -> None:
    """Raise VitError if a file cannot be written because its folder is missing."""
    if not path.parent.is_dir():
        raise VitError(f"{path}: the folder {path.parent} does not exist")


def require_writable(path: Path) -> None:
    """Raise VitError if a file cannot be written: its folder is missing, or it is one itself."""
    require_folder(path)
    if path.is_dir():
        raise VitError(f"{path}: is a folder; expected the name of a file")


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A temporary path beside `path`, renamed to it at the end and removed after an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
