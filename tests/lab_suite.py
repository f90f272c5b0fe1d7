"""A suite of environments of one's own, as `suites.SUITES` would name it: for a test."""

import toy  # noqa: F401, registers the environment behind it
from steadyq.envs.env import Env
from steadyq.envs.gymnasium import GymnasiumEnv, load_gymnasium

REPEAT = 3


def names() -> list[str]:
    """Its only environment."""
    return ["lab-point"]


def knows(name: str) -> bool:
    """Whether it is that."""
    return name == "lab-point"


def make(name: str, *, action_repeat: int, endless: bool) -> Env:
    """The point of `toy.py` under this suite's name."""
    env = GymnasiumEnv(load_gymnasium("Point-v0", endless=endless), name=name, action_repeat=action_repeat)
    env.spec = env.spec._replace(suite="lab")
    return env
