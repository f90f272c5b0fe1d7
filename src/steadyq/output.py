"""What a command gives: tables on the screen, and files, which are refused before anything long begins."""

import functools
import os
import re
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from steadyq.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 140  # characters, where the output is not a terminal


def check(path: Path) -> None:
    """Refuse a file that cannot be written; nothing is made. Folders on its way need not be there yet.

    Raises:
        InputError: it is a folder, a file stands where a folder should, or permission is missing.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, no error where one may not look
        raise InputError(f"{path} is a folder; give the name of a file to write")
    ground = next(place for place in (path, *path.parents) if os.path.exists(place))
    if ground != path and not ground.is_dir():
        raise InputError(f"cannot write {path}: {ground} is not a folder; give another place")
    if not os.access(ground, os.W_OK):
        raise InputError(f"cannot write {path}: {ground} may not be changed; give another place")


def console() -> "Console":
    """Where tables are printed. Names come from users: what rich reads as markup or emoji is text here."""
    from rich.console import Console  # takes a tenth of a second, which not every command needs

    return Console(highlight=False, markup=False, emoji=False, width=None if Console().is_terminal else WIDTH)


def safe(text: object) -> str:
    """Text for a terminal, which obeys what a name may hide: control characters, of C1 too, and marks that turn or hide
    what is read are shown as escapes. So are line breaks: a name must not look like a line of ours."""
    words = str(text)
    if words.isprintable():  # at once; what follows takes ten times as long
        return words
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


def say(text: object, *, stream: IO[str] | None = None) -> None:
    """Print one line, whatever names are in it."""
    print(safe(text), file=stream, flush=True)


def drain(stream: IO[str]) -> None:
    """Nobody reads any more: send the rest nowhere, or Python would complain about it when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def open_streams() -> None:
    """Let what goes to a stream that was closed before Python began (`>&-`) go nowhere.

    Python has None in its place, which libraries do not expect, and the next file that is opened would get its number,
    and with it whatever C code prints.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their numbers
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, as long as the process lives


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    """Print a warning of any package as one plain line, and each but once; for `warnings.showwarning`."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", str(message))  # Gymnasium's are yellow
    package = re.search(r".*site-packages[/\\](\w+)", filename)
    _warn_once(
        f"{' '.join(plain.split()).removeprefix('WARN: ')} ({package[1] if package else f'{filename}:{lineno}'})"
    )


@functools.cache
def _warn_once(text: str) -> None:
    say(f"warning: {text}", stream=sys.stderr)


def plural(number: int, noun: str) -> str:
    """So many things in words: `1 episode`, `1,000 episodes`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
