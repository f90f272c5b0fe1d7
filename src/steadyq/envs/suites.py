"""Environments by name. A suite is a file and a line of `SUITES`; none is imported before a name may be one of its own.

A suite's module has `names() -> list[str]`; `knows(name) -> bool`, which imports nothing that a name asks for; `make`,
with the arguments of `suites.make`, all of them; and `REPEAT`, the frames for which an action is held unless somebody
chooses: 2 where recipes repeat actions, 1 elsewhere.
"""

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from steadyq.envs.env import Env
from steadyq.envs.source import Source, origin
from steadyq.errors import InputError, unknown

SUITES = {
    "dmc": "steadyq.envs.dm_control",
    "gymnasium": "steadyq.envs.gymnasium",
}
"""The module of each suite, in the order in which they are asked for a name."""

OBJECTS = "gymnasium"
"""The suite of environments that are given as objects of Python."""


def make(
    source: Source,
    *,
    action_repeat: int | None = None,
    endless: bool = False,
    max_episode_steps: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
    pictures: bool = False,
) -> Env:
    """Make an environment.

    Args:
        source: a dm_control task as `domain-task`; a Gymnasium id, also as `module:Name-v0`; a class or function of
            one's own as `module:Class` or `path.py:Class`; or such a class or function itself; or an environment of
            Gymnasium's, which is then used as it is and left open.
        action_repeat: frames for which each action is held; None for 2 on dm_control and 1 elsewhere.
        endless: without the suite's time limit, so that episodes end by themselves only. A limit of the environment's
            own stays.
        max_episode_steps: frames after which an episode is cut off; None for the suite's time limit.
        kwargs: arguments of its constructor.
        pictures: it is to be drawn; an environment that draws itself is made for that.

    Raises:
        InputError: nobody knows the name, something it needs is not installed, its own code fails, or its observations
            or actions are not vectors of real numbers with finite action bounds.
    """
    name, _, is_env = origin(source)
    module = _module(suite_of(name) if isinstance(source, str) else OBJECTS)
    repeat: int = module.REPEAT if action_repeat is None else action_repeat
    if repeat < 1:
        raise InputError(f"action repeat is {repeat}; it must be at least 1")
    if is_env and kwargs:
        raise InputError(f"{name} is made already: it takes no arguments; leave --env-kwargs out")
    made: Env = module.make(
        source,
        action_repeat=repeat,
        endless=endless,
        max_episode_steps=max_episode_steps,
        kwargs=kwargs or {},
        pictures=pictures,
    )
    return made


def suite_of(name: str) -> str:
    """The suite an environment's name belongs to; code that the name asks for is not run for that.

    Raises:
        InputError: nobody knows the name.
    """
    for suite in SUITES:
        if _module(suite).knows(name):
            return suite
    raise _unknown(name)


def repeats_actions(source: Source) -> bool:
    """Whether recipes repeat actions in the suite of this environment; errors as of `suite_of`."""
    suite = suite_of(source) if isinstance(source, str) else OBJECTS
    return bool(_module(suite).REPEAT > 1)


def names() -> dict[str, list[str]]:
    """Every name `make` knows, per suite; Gymnasium's include those whose observations or actions it will refuse."""
    return {suite: _module(suite).names() for suite in SUITES}


def _module(suite: str) -> ModuleType:
    return import_module(SUITES[suite])


def _unknown(name: str) -> InputError:
    known = (known for suite in names().values() for known in suite)
    found = unknown("environment", name, known, see="steadyq list envs")
    return InputError(f"{found}; one of your own is module:Name-v0, module:Class or path.py:Class")
