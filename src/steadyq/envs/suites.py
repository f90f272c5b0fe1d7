"""Environments of dm_control and Gymnasium by name; neither suite is imported before one of its own is asked for."""

import re

from steadyq.envs.env import Env, Suite
from steadyq.errors import InputError, unknown
from steadyq.settings import parse_env


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
    suite = suite_of(name)
    if action_repeat is None:
        action_repeat = 2 if suite == "dmc" else 1
    if action_repeat < 1:
        raise InputError(f"action repeat is {action_repeat}; it must be at least 1")
    if suite == "dmc":
        from steadyq.envs.dm_control import DmControl, load

        return DmControl(load(name, endless=endless), name=name, action_repeat=action_repeat)
    from steadyq.envs.gymnasium import GymnasiumEnv, load_gymnasium

    try:
        return GymnasiumEnv(load_gymnasium(name, endless=endless), name=name, action_repeat=action_repeat)
    except LookupError:
        raise _unknown(name) from None


def suite_of(name: str) -> Suite:
    """The suite an environment's name belongs to; the module of `module:Name-v0` is not imported for that.

    Raises:
        InputError: nobody knows the name.
    """
    if not isinstance(name, str) or ":" in name:
        parse_env(name)
        return "gymnasium"
    if re.search(r"-v\d+$", name) is None:  # Gymnasium ids mostly end like this: no need to import dm_control for them
        from steadyq.envs.dm_control import tasks

        if name in tasks():
            return "dmc"
    from steadyq.envs.gymnasium import is_registered

    if is_registered(name):
        return "gymnasium"
    raise _unknown(name)


def names() -> dict[str, list[str]]:
    """Every name `make` knows, per suite; Gymnasium's include those whose observations or actions it will refuse."""
    from steadyq.envs.dm_control import tasks
    from steadyq.envs.gymnasium import ids

    return {"dmc": list(tasks()), "gymnasium": ids()}


def _unknown(name: str) -> InputError:
    return unknown("environment", name, (known for suite in names().values() for known in suite))
