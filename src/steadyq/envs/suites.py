"""Environments by name. A suite is a file and a line of `SUITES`; none is imported before a name may be one of its own.

A suite's module has `names() -> list[str]`; `knows(name) -> bool`, which imports nothing that a name asks for;
`make(name, *, action_repeat, endless) -> Env`; and `REPEAT`, the frames for which an action is held unless somebody
chooses: 2 where recipes repeat actions, 1 elsewhere.
"""

from importlib import import_module
from types import ModuleType

from steadyq.envs.env import Env
from steadyq.errors import InputError, unknown

SUITES = {
    "dmc": "steadyq.envs.dm_control",
    "gymnasium": "steadyq.envs.gymnasium",
}
"""The module of each suite, in the order in which they are asked for a name."""


def make(name: str, *, action_repeat: int | None = None, endless: bool = False) -> Env:
    """Make an environment.

    Args:
        name: a dm_control task as `domain-task`, or a Gymnasium id, also as `module:Name-v0`.
        action_repeat: frames for which each action is held; None for 2 on dm_control and 1 elsewhere.
        endless: without the suite's time limit, so that episodes end by themselves only. A limit of the environment's
            own stays.

    Raises:
        InputError: nobody knows the name, something it needs is not installed, or its observations or actions are not
            vectors of real numbers with finite action bounds.
    """
    module = _module(suite_of(name))
    repeat: int = module.REPEAT if action_repeat is None else action_repeat
    if repeat < 1:
        raise InputError(f"action repeat is {repeat}; it must be at least 1")
    try:
        made: Env = module.make(name, action_repeat=repeat, endless=endless)
    except LookupError:  # of a module that does not register it
        raise _unknown(name) from None
    return made


def suite_of(name: str) -> str:
    """The suite an environment's name belongs to; the module of `module:Name-v0` is not imported for that.

    Raises:
        InputError: nobody knows the name.
    """
    for suite in SUITES:
        if _module(suite).knows(name):
            return suite
    raise _unknown(name)


def repeats_actions(name: str) -> bool:
    """Whether recipes repeat actions in the suite of this environment; errors as of `suite_of`."""
    return bool(_module(suite_of(name)).REPEAT > 1)


def names() -> dict[str, list[str]]:
    """Every name `make` knows, per suite; Gymnasium's include those whose observations or actions it will refuse."""
    return {suite: _module(suite).names() for suite in SUITES}


def _module(suite: str) -> ModuleType:
    return import_module(SUITES[suite])


def _unknown(name: str) -> InputError:
    known = (known for suite in names().values() for known in suite)
    return unknown("environment", name, known, see="steadyq list envs")
