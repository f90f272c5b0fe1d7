"""Whole episodes with a fixed policy: returns that are comparable between seeds, runs and papers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from steadyq.algorithm.agent import Agent
from steadyq.algorithm.types import State
from steadyq.envs.env import BadStepError, Env
from steadyq.store.names import EVALUATION, EVALUATION_STD

LONGEST = 1_000_000
"""Frames after which an episode of an environment without a time limit is cut off: it may have no end."""

Act = Callable[[np.ndarray], np.ndarray]
"""`obs[O] -> action[A]`."""


class Episode(NamedTuple):
    """One episode from start to end."""

    ret: float  # undiscounted sum of rewards
    length: int  # agent steps
    bad: bool = False  # ended by numbers that are not finite, which do not count
    failed: bool = False  # the environment cannot play it: it counts as one of return 0


class Interrupted(Exception):  # noqa: N818, it is not an error
    """The evaluation was asked to stop; nothing of it counts."""


def play(
    env: Env,
    act: Act,
    *,
    seed: int,
    bad_step_ends: bool = False,
    interrupted: Callable[[], bool] = lambda: False,
    patience: int | None = None,
    impatient: Callable[[], None] = lambda: None,
) -> Episode:
    """One episode from the start that `seed` names.

    Args:
        env: where; it may raise `BadStepError`.
        act: the policy.
        seed: of the episode.
        bad_step_ends: a bad step ends the episode, without counting, instead of being raised.
        interrupted: asked at every step; `Interrupted` is raised when it says yes.
        patience: agent steps after which the episode is a long one.
        impatient: called then, once.
    """
    obs, ret, length = env.reset(seed), 0.0, 0
    while True:
        if interrupted():
            raise Interrupted
        try:
            step = env.step(act(obs))
        except BadStepError:
            if not bad_step_ends:
                raise
            return Episode(ret, length, bad=True)
        obs, ret, length = step.obs, ret + step.reward, length + 1
        if step.terminated or step.truncated:
            return Episode(ret, length)
        if length == patience:
            impatient()
        if length * env.spec.action_repeat >= LONGEST:
            return Episode(ret, length)


def endless(episode: Episode, env: Env) -> bool:
    """Whether an episode was cut off because it may have no end."""
    return episode.length * env.spec.action_repeat >= LONGEST


def summarise(episodes: Sequence[Episode]) -> dict[str, float]:
    """The metrics of one evaluation; the spread is over its episodes."""
    rets = np.array([episode.ret for episode in episodes])
    troubles = {
        "eval/bad_steps": sum(episode.bad for episode in episodes),
        "eval/failed_episodes": sum(episode.failed for episode in episodes),
    }
    return {
        EVALUATION: float(rets.mean()),
        EVALUATION_STD: float(rets.std()),
        "eval/mean_ep_length": float(np.mean([episode.length for episode in episodes])),
    } | {name: float(count) for name, count in troubles.items() if count}


def mean_action(agent: Agent, state: State) -> Act:
    """The policy that is evaluated and exported: the mean action, on the CPU."""

    def act(obs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return agent.mode(state, torch.from_numpy(obs)).numpy()

    return act
