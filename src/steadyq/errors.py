"""The error for bad input, and the sentence for an unknown name."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

FEW = 20
"""So many names are listed in full; of more, only the nearest."""


LONG = 80
"""Characters of an unknown name that are shown."""

ALIKE = 0.65
"""From this ratio of `difflib` on, a name may be what was meant: at 0.6 `--seeds` is for `--steps`."""


class InputError(ValueError):
    """Input that cannot work: one sentence with what was got, what was wanted and what to do. Exit code 2.

    Args:
        sentence: all of it.
        add: the option that it advises, if it does; the command line shows the whole command with it.
    """

    def __init__(self, sentence: str, *, add: str = "") -> None:
        super().__init__(sentence)
        self.add = add


class RunError(RuntimeError):
    """A run that cannot continue: one sentence with the seed, the frame and what was wrong. Exit code 1."""


class Stopped(BaseException):
    """A signal came where there is nothing to save: before the loop, which then is not begun."""


def unknown(kind: str, got: str, known: Iterable[str], *, see: str = "") -> InputError:
    """The error for a name nobody knows, with the nearest known names, and with all of them where they are few.

    Args:
        kind: what the name stands for, e.g. `"recipe"`.
        got: the name as it was given.
        known: every name that would have been accepted.
        see: the command that shows them all, for names that are many.
    """
    names = sorted(known)
    near = nearest(got, names)
    sentence = f"unknown {kind} {got!r}" if len(got) < LONG else f"unknown {kind} {got[:LONG]!r}..."
    if near:
        sentence += f"; did you mean {' or '.join(repr(name) for name in near)}?"
    advice = f"`{see}` shows all" if see else f"known: {', '.join(names)}" if len(names) <= FEW else ""
    return InputError(sentence + (f"{'' if near else ';'} {advice}" if advice else ""))


def nearest(got: str, known: Iterable[str]) -> list[str]:
    """The three known names at most that are like this one: written much the same, or one the initials of the other.

    Dashes at the beginning do not count: they would make all options alike.
    """
    bare, wanted = {name.lstrip("-"): name for name in known}, got.lstrip("-")
    short = [name for name in bare if min(len(name), len(wanted)) > 1 and _short(name, wanted)]
    alike = get_close_matches(wanted, bare, n=3, cutoff=ALIKE)
    return [bare[name] for name in dict.fromkeys([*short, *alike])][:3]


def _short(one: str, other: str) -> bool:
    """Whether one is the initials of the other: `lr` of `learning-rate`."""
    first, second = ("".join(word[:1] for word in re.split("[-_]", name)) for name in (one, other))
    return first == other or second == one
