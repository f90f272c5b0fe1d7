"""Whose code failed: the user's own lines of a traceback, without ours and those of libraries."""

import inspect
import os
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

import steadyq

OURS = str(Path(steadyq.__file__).parent)
INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
"""Where Python and its packages lie."""


def sentence(error: BaseException) -> str:
    """Type and text of an exception in one line, and where in the user's own code it was raised."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({_short(error.filename)}, line {error.lineno})"
    lines = own_lines(error)
    return words(error) + (f" ({_at(lines[-1])})" if lines else "")


def words(error: BaseException) -> str:
    """Type and text of an exception in one line."""
    text = shorten(str(error), 300, placeholder="...")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def own_frames(error: BaseException) -> list[str]:
    """The user's own lines that led to an exception, the innermost last: where, and what stands there."""
    return [f"  {_at(line)}: {line.line}" for line in own_lines(error)]


def own_lines(error: BaseException) -> list[traceback.FrameSummary]:
    """Those of a traceback that lie in nobody's package; in none of Gymnasium's and ours, if there are no such."""
    lines = [
        line
        for line in traceback.extract_tb(error.__traceback__)
        if not line.filename.startswith((OURS, "<frozen")) and "/gymnasium/" not in line.filename
    ]
    return [line for line in lines if not line.filename.startswith(INSTALLED)] or lines


def defined_at(function: Callable[..., Any]) -> str:
    """Where a function or class is written: ` (file, line N)`, or nothing where that cannot be told."""
    try:
        return f" ({_short(inspect.getsourcefile(function) or '')}, line {inspect.getsourcelines(function)[1]})"
    except (OSError, TypeError):
        return ""


def _at(line: traceback.FrameSummary) -> str:
    inside = "" if line.name == "<module>" else f", in {line.name}"
    return f"{_short(line.filename)}, line {line.lineno}{inside}"


def _short(filename: str) -> str:
    """A file's path, from here if it lies below."""
    here = os.getcwd() + os.sep
    return filename.removeprefix(here)
