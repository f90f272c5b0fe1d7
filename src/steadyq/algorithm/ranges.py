"""Which numbers make sense, in words and as a test: for settings of runs and hyperparameters of recipes alike."""

import math
from collections.abc import Callable
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

from steadyq.errors import InputError


class Range(NamedTuple):
    """A set of values."""

    words: str
    holds: Callable[[Any], bool]


MOST = 10**15
"""No count is larger: exact as a float, and sums and products of a few fit 64 bits or are refused for their memory."""


def from_(least: int, *, most: int = MOST) -> Range:
    """Whole numbers from this one up."""
    return Range(f"a whole number of at least {least}, and at most {most:g}", lambda x: least <= x <= most)


COUNT, AT_LEAST_0 = from_(1), from_(0)
POSITIVE = Range("a number above 0", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = Range("a number of at least 0", lambda x: 0 <= x < math.inf)
BELOW_1 = Range("a number in [0, 1)", lambda x: 0 <= x < 1)
UP_TO_1 = Range("a number in [0, 1]", lambda x: 0 <= x <= 1)
FRACTION = Range("a number in (0, 1]", lambda x: 0 < x <= 1)

THOUSANDS = {"k": 10**3, "K": 10**3, "M": 10**6}


def read(value: Any, kind: Any) -> Any:
    """A whole number or a float from whatever stands for one: a number of any type, or text such as 1000, 1e6 or 200k.

    What does not is returned as it is, for whoever knows what was wanted to refuse it; so is all if `kind` is neither.
    """
    if kind not in (int, float) or isinstance(value, bool) or not isinstance(value, str | Real):
        return value
    number: Any = value
    try:
        if isinstance(value, str):
            scaled = value[-1:] in THOUSANDS
            number = Decimal(value[:-1]) * THOUSANDS[value[-1]] if scaled else Decimal(value)
        if kind is float:
            return float(number)
        return int(number) if abs(number) <= 10 * MOST and number == int(number) else value  # of 1e999999 no digits
    except (ArithmeticError, ValueError):
        return value


def checked(name: str, value: Any, kind: type, allowed: Range) -> Any:
    """What `read` makes of a value, if that is of exactly this kind and in this range.

    Raises:
        InputError: it is not; `name` tells what it was to be.
    """
    found = read(value, kind)
    if type(found) is not kind or not allowed.holds(found):
        raise InputError(f"{name} is {value!r}; give {allowed.words}")
    return found
