"""The error for bad input, and the sentence for an unknown name."""

from collections.abc import Iterable
from difflib import get_close_matches

FEW = 20
"""So many names are listed in full; of more, only the nearest, if any is near."""


LONG = 80
"""Characters of an unknown name that are shown."""


class InputError(ValueError):
    """Input that cannot work: one sentence with what was got, what was wanted and what to do. Exit code 2."""


class RunError(RuntimeError):
    """A run that cannot continue: one sentence with the seed, the frame and what was wrong. Exit code 1."""


class Stopped(BaseException):
    """A signal came where there is nothing to save: before the loop, which then is not begun."""


def unknown(kind: str, got: str, known: Iterable[str]) -> InputError:
    """The error for a name nobody knows, with the nearest known names, and with all of them where they are few.

    Args:
        kind: what the name stands for, e.g. `"recipe"`.
        got: the name as it was given.
        known: every name that would have been accepted.
    """
    names = sorted(known)
    near = get_close_matches(got, names, n=3, cutoff=0.5)
    parts = [f"unknown {kind} {got!r}" if len(got) < LONG else f"unknown {kind} {got[:LONG]!r}..."]
    if near:
        parts.append(f"did you mean {' or '.join(repr(name) for name in near)}?")
    if len(names) <= FEW or not near:
        parts.append(f"known: {', '.join(names)}")
    return InputError("; ".join(parts))
