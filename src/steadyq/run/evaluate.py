"""Whole episodes with a fixed policy: returns that are comparable between seeds, runs and papers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from steadyq.errors import InputError
from steadyq.run.env import Env

LONGEST = 1_000_000
"""Frames after which an episode of an environment without a time limit is taken to have no end."""

Act = Callable[[np.ndarray], np.ndarray]
"""`obs[O] -> action[A]`."""


class Episode(NamedTuple):
    """One episode from start to end."""

    ret: float  # undiscounted sum of rewards
    length: int  # agent steps


class Interrupted(Exception):  # noqa: N818, it is no error
    """The evaluation was asked to stop; nothing of it counts."""


def play(env: Env, act: Act, *, seed: int, interrupted: Callable[[], bool] = lambda: False) -> Episode:
    """One episode from the start that `seed` names."""
    obs, ret, length = env.reset(seed), 0.0, 0
    while True:
        if interrupted():
            raise Interrupted
        step = env.step(act(obs))
        obs, ret, length = step.obs, ret + step.reward, length + 1
        if step.terminated or step.truncated:
            return Episode(ret, length)
        if length * env.spec.action_repeat >= LONGEST:
            raise InputError(
                f"an episode of {env.spec.name} has not ended after {LONGEST:,} frames; give it a time limit"
            )


def summarise(episodes: Sequence[Episode]) -> dict[str, float]:
    """The metrics of one evaluation; the spread is over its episodes."""
    rets = np.array([episode.ret for episode in episodes])
    return {
        "eval/mean_reward": float(rets.mean()),
        "eval/std_reward": float(rets.std()),
        "eval/mean_ep_length": float(np.mean([episode.length for episode in episodes])),
    }
