"""A suite of environments of one's own, as `suites.SUITES` would name it: for a test."""

from typing import Any

from steadyq.envs import gymnasium
from steadyq.envs.env import Env

REPEAT = 3


def names() -> list[str]:
    """Its only environment."""
    return ["lab-point"]


def knows(name: str) -> bool:
    """Whether it is that."""
    return name == "lab-point"


def make(name: str, *, action_repeat: int, **others: Any) -> Env:
    """The point of `toy.py` under this suite's name."""
    env = gymnasium.make("toy:Point-v0", action_repeat=action_repeat, **others)
    env.spec = env.spec._replace(name=name, suite="lab")
    return env
