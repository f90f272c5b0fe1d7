"""What a method's name says: recipe, updates per step, and the options that are not the recipe's defaults.

`steadyq train` makes names such as `crossq_wn-utd2-decay=0.0-width=256`, and published methods are called
`BRO-utd10@naumix`. A name that was chosen by hand says nothing, and has no variant.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

NAME = re.compile(r"(?P<recipe>[A-Za-z][\w.-]*?)-(?:utd|rr)(?P<utd>\d+over\d+|\d+(?:\.\d+)?)(?P<rest>.*)")
OPTION = re.compile(r"-([a-z]\w*)=(.*?)(?=-[a-z]\w*=|$)")


class Variant(NamedTuple):
    """A recipe as it was run."""

    recipe: str  # of published methods with their owner: BRO@naumix
    utd: Fraction
    options: Mapping[str, str]  # those that are not the recipe's defaults

    @property
    def words(self) -> str:
        """The variant as a label."""
        said = [self.recipe, f"UTD {self.utd}", *(f"{key} {value}" for key, value in self.options.items())]
        return ", ".join(said)

    def without(self, option: str) -> "Variant":
        """The same with the recipe's default of one option."""
        return self._replace(options={key: value for key, value in self.options.items() if key != option})


def parse(method: str) -> Variant | None:
    """The variant that a method's name tells, if it was made by `steadyq train` or published with its update ratio."""
    name, at, owner = method.partition("@")
    found = NAME.fullmatch(name)
    if found is None:
        return None
    options = dict(OPTION.findall(found["rest"]))
    if "".join(f"-{key}={value}" for key, value in options.items()) != found["rest"]:
        return None
    return Variant(found["recipe"] + at + owner, Fraction(found["utd"].replace("over", "/")), options)


def label(method: str) -> str:
    """A method's name for a reader: its variant in words, or the name as it is."""
    variant = parse(method)
    return method if variant is None or "@" in method else variant.words
