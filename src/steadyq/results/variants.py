"""What a method's name says: recipe, updates per step, and the options that are not the recipe's defaults.

`steadyq train` makes names such as `crossq_wn-utd2-decay=0.0-width=256`, and published methods are called
`BRO-utd10@naumix`. A name that was chosen by hand says nothing, and has no variant.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from steadyq.errors import InputError
from steadyq.settings import name_of

NAME = re.compile(r"(?P<recipe>[A-Za-z][\w.-]*?)-(?:utd|rr)(?P<utd>[1-9]\d*over[1-9]\d*|\d+(?:\.\d+)?)(?P<rest>.*)")
OPTION = re.compile(r"-([a-z][\w.]*)=(.*?)(?=-[a-z][\w.]*=|$)")  # an argument of the environment has a dot: env.gain


class Variant(NamedTuple):
    """A recipe as it was run."""

    recipe: str  # of published methods with their owner: BRO@naumix
    utd: Fraction
    options: tuple[tuple[str, str], ...]  # those that are not the recipe's defaults

    @property
    def name(self) -> str:
        """The name that `steadyq train` gives it."""
        return name_of(self.recipe, self.utd, self.options)

    @property
    def words(self) -> str:
        """The variant as a label."""
        return ", ".join([self.recipe, f"UTD {self.utd}", *self.changes])

    @property
    def changes(self) -> list[str]:
        """Each option that is not the recipe's default."""
        return [f"{key} {value}" for key, value in self.options]

    def without(self, option: str) -> "Variant":
        """The same with the recipe's default of one option."""
        return self._replace(options=tuple(pair for pair in self.options if pair[0] != option))

    def value(self, option: str) -> float | None:
        """An option's number, the recipe's default where it was not changed; None where neither is known."""
        text = dict(self.options).get(option)
        if text is None:
            from steadyq.algorithm.options import options  # imports PyTorch, which few figures need

            try:
                known = options(self.recipe)
            except InputError:
                return None
            text = str(known[option].default) if option in known else ""
        try:
            return float(text)
        except ValueError:
            return None


def parse(method: str) -> Variant | None:
    """The variant that a method's name tells, if it was made by `steadyq train` or published with its update ratio."""
    name, at, owner = method.partition("@")
    found = NAME.fullmatch(name)
    if found is None:
        return None
    options = tuple(OPTION.findall(found["rest"]))
    if "".join(f"-{key}={value}" for key, value in options) != found["rest"]:
        return None
    return Variant(found["recipe"] + at + owner, Fraction(found["utd"].replace("over", "/")), options)


def label(method: str) -> str:
    """A method's name for a reader: its variant in words, if `steadyq train` made the name, or the name as it is.

    So two methods have two labels: `sac-utd2` is "sac, UTD 2", and `sac-rr2` or `sac-utd2.0` remain what they are.
    """
    variant = parse(method)
    return variant.words if variant and variant.name == method else method
