"""Environments of dm_control and Gymnasium behind one interface, and the endless stream of episodes one seed trains on.

Everything outside speaks float32 observations [O], actions in [-1, 1] of shape [A] and Python float rewards. Neither
suite is imported before an environment is asked for.
"""

import re
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, Protocol

import numpy as np

from steadyq.algorithm.random import Purpose, episode_seed
from steadyq.errors import InputError, unknown

Suite = Literal["dmc", "gymnasium"]

UNBOUNDED = 1e10
"""Action bounds from here on count as infinite: MuJoCo writes 1e10 for "no limit", others the largest float32."""


class Spec(NamedTuple):
    """What is fixed about an environment."""

    name: str
    suite: Suite
    obs_dim: int
    action_dim: int
    action_repeat: int  # environment frames per agent step
    episode_frames: int | None  # time limit in environment frames
    observations: tuple[tuple[str, int], ...]  # (key, size) in the order in which they are flattened
    frame_seconds: float | None  # real time one environment frame stands for, where the environment says so


class Step(NamedTuple):
    """What one agent step gives."""

    obs: np.ndarray  # float32 [O]
    reward: float  # summed over the frames of the step
    terminated: bool  # the episode reached an end that has no future: the value there is zero
    truncated: bool  # the episode was cut off, usually by its time limit: the future is only not seen


class Env(Protocol):
    """One environment; of `terminated` and `truncated`, either asks for a `reset` before the next `step`."""

    @property
    def spec(self) -> Spec: ...

    def reset(self, seed: int) -> np.ndarray:
        """Start the episode that `seed` names, whatever came before; float32 [O]."""

    def step(self, action: np.ndarray) -> Step:
        """Hold `action` [A] in [-1, 1] for `action_repeat` frames, or until the episode ends."""

    def render(self, *, height: int, width: int) -> np.ndarray:
        """A picture of the present state: uint8 [H, W, 3]."""

    def close(self) -> None:
        """Free windows, buffers and whatever else it holds."""


def make(name: str, *, action_repeat: int | None = None) -> Env:
    """Make an environment.

    Args:
        name: a dm_control task as `domain-task`, or a Gymnasium id, also as `module:Name-v0`.
        action_repeat: frames for which each action is held; None for 2 on dm_control and 1 elsewhere.

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
        from steadyq.run.env_dmc import DmControl, load

        return DmControl(load(name), name=name, action_repeat=action_repeat)
    from steadyq.run.env_gymnasium import GymnasiumEnv, load_gymnasium

    try:
        return GymnasiumEnv(load_gymnasium(name), name=name, action_repeat=action_repeat)
    except LookupError:
        raise _unknown(name) from None


def suite_of(name: str) -> Suite:
    """The suite an environment's name belongs to; the module of `module:Name-v0` is not imported for that.

    Raises:
        InputError: nobody knows the name.
    """
    if ":" in name:
        return "gymnasium"
    if re.search(r"-v\d+$", name) is None:  # Gymnasium ids mostly end like this: no need to import dm_control for them
        from steadyq.run.env_dmc import tasks

        if name in tasks():
            return "dmc"
    from steadyq.run.env_gymnasium import is_registered

    if is_registered(name):
        return "gymnasium"
    raise _unknown(name)


def names() -> dict[str, list[str]]:
    """Every name `make` knows, per suite; Gymnasium's include those whose observations or actions it will refuse."""
    from steadyq.run.env_dmc import tasks
    from steadyq.run.env_gymnasium import ids

    return {"dmc": tasks(), "gymnasium": ids()}


def _unknown(name: str) -> InputError:
    return unknown("environment", name, (known for suite in names().values() for known in suite))


def rescaler(low: np.ndarray, high: np.ndarray, *, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The map of actions [A] in [-1, 1] onto the box from `low` to `high`, in their shape and type.

    Bit for bit the identity on a box from -1 to 1, and never outside the box by a rounding error, which some
    environments assert.

    Raises:
        InputError: a bound is infinite, or so large that it stands for that.
    """
    shape, dtype = low.shape, low.dtype
    floor, ceiling = np.float64(low).ravel(), np.float64(high).ravel()
    if not (np.abs([floor, ceiling]) < UNBOUNDED).all():
        raise InputError(
            f"the actions of {name} range from {low.min():g} to {high.max():g}, but steadyq needs finite bounds to "
            f"scale its actions to; choose another environment, or register one with a finite action space"
        )
    centre, half = (floor + ceiling) / 2, (ceiling - floor) / 2

    def rescale(action: np.ndarray) -> np.ndarray:
        return np.clip(centre + half * action, floor, ceiling).astype(dtype).reshape(shape)

    return rescale


def flat(parts: Iterable[object]) -> np.ndarray:
    """Observations of any shape and type as one new float32 vector [O]."""
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is for the training loop to refuse
        return np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)  # type: ignore[call-overload]


class EpisodeStream:
    """The endless stream of training episodes of one seed, restorable to the bit.

    Episode n starts from a seed that only (seed, purpose, n) decides. So the present state of any environment that is
    reproducible at all is the episode's number and the actions so far, whatever simulator is behind it.

    Args:
        env: the environment, owned by the stream from now on.
        seed: the run's seed.
        purpose: which of its random streams names the episodes.
    """

    obs: np.ndarray  # float32 [O], what the next action answers to
    episode: int  # number of the present episode, from 0
    episode_return: float  # sum of its rewards so far
    ended: bool  # it has terminated or was truncated: `next_episode` is due

    def __init__(self, env: Env, *, seed: int, purpose: Purpose = Purpose.EPISODE):
        self._env, self._seed, self._purpose = env, seed, purpose
        self._start(0)

    @property
    def length(self) -> int:
        """Agent steps so far in the present episode."""
        return len(self._actions)

    def step(self, action: np.ndarray) -> Step:
        """One agent step with `action` float32 [A] in [-1, 1]."""
        if self.ended:
            raise RuntimeError("the episode has ended: call next_episode() before the next step")
        action = np.array(action, np.float32)
        step = self._env.step(action)
        self._actions.append(action)
        self.obs, self.ended = step.obs, step.terminated or step.truncated
        self.episode_return += step.reward
        return step

    def next_episode(self) -> np.ndarray:
        """Start the next episode, wherever the present one is; its first observation [O]."""
        self._start(self.episode + 1)
        return self.obs

    def snapshot(self) -> dict[str, np.ndarray]:
        """Where the stream is, as small arrays (the largest: the actions of one episode)."""
        return {
            "episode": np.array(self.episode, np.int64),
            "actions": np.array(self._actions, np.float32).reshape(self.length, self._env.spec.action_dim),
            "obs": self.obs,
            "episode_return": np.array(self.episode_return, np.float64),
        }

    def restore(self, snapshot: dict[str, np.ndarray]) -> bool:
        """Go to where `snapshot` was taken, by replaying its episode's actions.

        Returns:
            True if the observation and the return are the same bits as then. Otherwise the environment does not repeat
            itself, and the stream stands at the start of the next episode instead.
        """
        self._start(int(snapshot["episode"]))
        for action in snapshot["actions"]:
            if self.ended:  # sooner than it did
                break
            self.step(action)
        then = (len(snapshot["actions"]), snapshot["obs"].tobytes(), snapshot["episode_return"].tobytes())
        now = (self.length, self.obs.tobytes(), np.float64(self.episode_return).tobytes())
        if now == then:
            return True
        self.next_episode()
        return False

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _start(self, episode: int) -> None:
        self.episode, self.episode_return, self.ended = episode, 0.0, False
        self._actions: list[np.ndarray] = []
        self.obs = self._env.reset(episode_seed(self._seed, self._purpose, episode))
