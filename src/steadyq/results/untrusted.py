"""Reading what anyone may have written: whatever is wrong with one thing is a sentence, and the rest is read."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from steadyq.errors import InputError

HEAD, TAIL = 700, 200  # characters of a complaint: a file may hold a word of a megabyte
Found = TypeVar("Found")


def attempt(read: Callable[[], Found], complaints: list[str], *, failing: str) -> Found | None:
    """What `read` gives, or None and one more complaint.

    The only place that turns every error into a sentence: whoever reads many folders calls it once for each, so that
    a bad one, and a mistake of ours in reading it, hides none of the others.

    Args:
        read: what may fail.
        complaints: gets the sentence.
        failing: its beginning where the error is not one that says all by itself.
    """
    try:
        return read()
    except InputError as error:
        sentence = str(error)
    except Exception as error:
        sentence = f"{failing} ({type(error).__name__}: {error})"
    if len(sentence) > HEAD + TAIL:
        sentence = f"{sentence[:HEAD]} ... {sentence[-TAIL:]}"
    complaints.append(printable(sentence))
    return None


def printable(text: str) -> str:
    """The same with escapes for what UTF-8 cannot hold: names of files need not be text, nor what JSON escapes."""
    return text.encode(errors="backslashreplace").decode()


def check_file(path: Path, *, most: int) -> None:
    """Refuse what cannot be read whole: reading a pipe or a device would never end.

    Raises:
        InputError: it is not there, not a file, or larger than so many bytes.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); give a CSV file or the folder of a run") from None
    if not os.path.isfile(path):
        raise InputError(f"cannot read {path}: it is not a file; give a CSV file or the folder of a run")
    if size > most:
        raise InputError(f"{path} has {size:,} bytes, more than the {most:,} that are read; split or remove it")
