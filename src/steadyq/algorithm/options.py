"""A recipe's hyperparameters as typed, checked, documented options, read off its signature and docstring."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

from docstring_parser import parse

from steadyq.algorithm.agent import Recipe
from steadyq.algorithm.recipes import RECIPES
from steadyq.errors import InputError, unknown


class Option(NamedTuple):
    """One keyword argument of a recipe."""

    name: str
    kind: type  # int, float, bool or str
    default: Any
    choices: tuple[str, ...]  # of a str; () for any
    help: str


class Range(NamedTuple):
    """Which numbers make sense, in words and as a test."""

    words: str
    holds: Callable[[float], bool]


POSITIVE = Range("a number above 0", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = Range("a number of at least 0", lambda x: 0 <= x < math.inf)
COUNT = Range("a whole number of at least 1", lambda x: x >= 1)
AT_LEAST_0 = Range("a whole number of at least 0", lambda x: x >= 0)
RANGES: dict[str, Range] = {
    "width": COUNT,
    "actor_width": COUNT,
    "n_critics": COUNT,
    "actor_every": COUNT,
    "subset": COUNT,
    "depth": COUNT,
    "quantiles": COUNT,
    "bins": Range("a whole number of at least 2", lambda x: x >= 2),
    "bound": POSITIVE,
    "project_every": COUNT,
    "reset_updates": AT_LEAST_0,
    "reset_frames": AT_LEAST_0,
    "schedule_updates": AT_LEAST_0,
    "lr": POSITIVE,
    "lr_end": POSITIVE,
    "temperature_lr": POSITIVE,
    "alpha": POSITIVE,
    "b1": Range("a number in [0, 1)", lambda x: 0 <= x < 1),
    "tau": Range("a number in (0, 1]", lambda x: 0 < x <= 1),
    "decay": NOT_NEGATIVE,
    "target_entropy": Range(
        "a number below 0.693 (log 2, the most that actions in [-1, 1] have)", lambda x: -math.inf < x < math.log(2)
    ),
    "norm_warm_up": AT_LEAST_0,
    "rate": Range("a number in [0, 1)", lambda x: 0 <= x < 1),
    "kl_target": POSITIVE,
    "exploration": NOT_NEGATIVE,
    "smoothing": NOT_NEGATIVE,
}
"""What an option of this name may be, in every recipe: one word means one thing."""


def recipe_function(name: str) -> Callable[..., Recipe]:
    """The function of a recipe's name; InputError with the nearest names otherwise."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def summary(name: str) -> str:
    """The first sentence of a recipe's docstring."""
    return parse(inspect.getdoc(recipe_function(name)) or "").short_description or ""


def options(name: str) -> dict[str, Option]:
    """Every option of a recipe, in the order of its signature."""
    function = recipe_function(name)
    words = {p.arg_name: p.description or "" for p in parse(inspect.getdoc(function) or "").params}
    found = {}
    for parameter in inspect.signature(function).parameters.values():
        kind, choices = parameter.annotation, ()
        if get_origin(kind) is Literal:
            kind, choices = str, get_args(kind)
        text = " ".join(words[parameter.name].split())
        found[parameter.name] = Option(parameter.name, kind, parameter.default, choices, text)
    return found


def make_recipe(name: str, chosen: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a name with some of its options set.

    Raises:
        InputError: no such recipe, no such option of it, or a value of the wrong type or out of range.
    """
    known = options(name)
    values = {key: check(name, known, key, value) for key, value in (chosen or {}).items()}
    return recipe_function(name)(**values)


def check(recipe: str, known: Mapping[str, Option], key: str, value: Any) -> Any:
    """The value of an option in its own type, if it can work; a whole number will do for a float."""
    if key not in known:
        raise unknown(f"option of recipe {recipe}", key, known)
    option = known[key]
    if option.kind is float and type(value) is int:
        value = float(value)
    kind: type = type(value)  # exactly: True is no whole number
    if kind is not option.kind:
        raise InputError(f"{key} is {value!r}, of type {kind.__name__}; give one of type {option.kind.__name__}")
    if option.choices and value not in option.choices:
        raise unknown(f"value of {key}", str(value), option.choices)
    if key in RANGES and not RANGES[key].holds(value):
        raise InputError(f"{key} is {value}; give {RANGES[key].words}")
    return value
