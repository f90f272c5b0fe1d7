"""The settings of a run as keyword arguments of a Python function, for `help` and editors.

A function takes them as `**choices`, since they are written down once: as fields of `Settings`, and as arguments of
recipes.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_type_hints

from steadyq.algorithm.options import Option, options
from steadyq.algorithm.recipes import RECIPES
from steadyq.settings import SETTINGS, Settings

F = TypeVar("F", bound=Callable[..., Any])


def listed(names: Iterable[str], *, kept: bool = False, recipes: bool = False) -> Callable[[F], F]:
    """Show these settings in a function's signature and docstring, with type, default and words.

    Args:
        names: of the settings.
        kept: the default of each is None, for what it was before.
        recipes: list the options of every recipe, too.
    """
    types = get_type_hints(Settings)

    def show(function: F) -> F:
        signature = inspect.signature(function)
        shown = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if kept else SETTINGS[name].default,
                annotation=types[name] | None if kept else types[name],
            )
            for name in names
        ]
        *own, rest = signature.parameters.values()  # the last is **choices
        lines = [inspect.getdoc(function) or "", "", "Settings:"]
        for one in shown:
            lines += [f"    {one}", f"        {SETTINGS[one.name].help}"]
        if recipes:
            lines += ["", "Options of each recipe (`steadyq train RECIPE --help` has words for them):"]
            lines += [f"    {name}: {', '.join(map(written, options(name).values()))}" for name in RECIPES]
        function.__doc__ = "\n".join(lines)
        vars(function)["__signature__"] = signature.replace(parameters=[*own, *shown, rest])
        return function

    return show


def written(option: Option) -> str:
    """An option with its type and default."""
    kind = " | ".join(map(repr, option.choices)) or option.kind.__name__
    return f"{option.name}: {kind} = {option.default!r}"
