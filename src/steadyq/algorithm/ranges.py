"""Which numbers make sense, in words and as a test: for settings of runs and hyperparameters of recipes alike."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


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
