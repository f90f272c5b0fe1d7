"""A recipe's hyperparameters as typed, checked, documented options, read off its signature."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from steadyq.algorithm.agent import Recipe
from steadyq.algorithm.ranges import Range, read
from steadyq.algorithm.recipes import RECIPES
from steadyq.errors import InputError, unknown


class Option(NamedTuple):
    """One keyword argument of a recipe."""

    name: str
    kind: type  # int, float, bool or str
    default: Any
    choices: tuple[str, ...]  # of a str; () for any
    range: Range | None  # of a number
    help: str


def recipe_function(name: str) -> Callable[..., Recipe]:
    """The function of a recipe's name; InputError with the nearest names otherwise."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def summary(name: str) -> str:
    """The first line of a recipe's docstring."""
    return (inspect.getdoc(recipe_function(name)) or "").partition("\n")[0]


def options(name: str) -> dict[str, Option]:
    """Every option of a recipe, in the order of its signature."""
    parameters = inspect.signature(recipe_function(name)).parameters.values()
    return {parameter.name: option(parameter) for parameter in parameters}


def stranger(recipe: str, got: str, known: Iterable[str]) -> InputError:
    """The error for a setting that does not go with a recipe: which recipes have such an option, or the nearest names.

    Args:
        recipe: its name.
        got: the setting, spelled as in Python or as on the command line.
        known: every setting that would have been accepted, spelled alike.
    """
    key = got.removeprefix("--").replace("-", "_")
    if whose := [name for name in RECIPES if {key, key.removeprefix("no_")} & options(name).keys()]:
        return InputError(f"unknown option {got!r} of {recipe}; recipes that have it: {', '.join(whose)}")
    return unknown("option", got, known, see=f"steadyq train {recipe} --help")


def option(parameter: inspect.Parameter) -> Option:
    """What `Annotated[type, range, words]` says of a keyword argument; of several ranges or words, the last."""
    annotated = get_origin(parameter.annotation) is Annotated
    kind, *notes = get_args(parameter.annotation) if annotated else (parameter.annotation,)
    choices = ()
    if get_origin(kind) is Literal:
        kind, choices = str, get_args(kind)
    ranges: list[Range | None] = [note for note in notes if isinstance(note, Range)]
    words = [note for note in notes if isinstance(note, str)]
    return Option(parameter.name, kind, parameter.default, choices, [None, *ranges][-1], ["", *words][-1])


def make_recipe(name: str, chosen: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a name with some of its options set.

    Raises:
        InputError: no such recipe, no such option of it, or a value of the wrong type or out of range.
    """
    known = options(name)
    values = {key: check(name, known, key, value) for key, value in (chosen or {}).items()}
    return recipe_function(name)(**values)


def taken(name: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a recipe takes them, from what a user gives: numbers as of `read`; what is no option stays as it is."""
    known = options(name)
    return {key: read(value, known[key].kind) if key in known else value for key, value in chosen.items()}


def recipe_without_run(name: str, chosen: Mapping[str, Any]) -> Recipe:
    """The recipe of a name and of what a user gives, for a loop of unknown length; errors as of `make_recipe`."""
    chosen = taken(name, chosen)
    values = {key: option.default for key, option in options(name).items()} | chosen
    if values.get("schedule_updates") == 0:
        raise InputError(
            f"the learning rate of {name} falls over the critic updates of a run; give their number as schedule_updates"
        )
    return make_recipe(name, chosen)


def check(recipe: str, known: Mapping[str, Option], key: str, value: Any) -> Any:
    """The value of an option in its own type, if it can work; a whole number will do for a float."""
    if key not in known:
        raise stranger(recipe, key, known)
    option = known[key]
    if option.kind is float and type(value) is int:
        value = float(value)
    kind: type = type(value)  # exactly: True is not a whole number
    if kind is not option.kind:
        raise InputError(f"{key} is {value!r}, of type {kind.__name__}; give one of type {option.kind.__name__}")
    if option.choices and value not in option.choices:
        raise unknown(f"value of {key}", str(value), option.choices)
    if option.range and not option.range.holds(value):
        raise InputError(f"{key} is {value}; give {option.range.words}")
    return value
