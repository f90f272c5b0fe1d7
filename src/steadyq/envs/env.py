"""What an environment is here, whatever suite it comes from, and the conversions both suites need.

Everything outside speaks float32 observations [O], actions in [-1, 1] of shape [A] and Python float rewards.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from steadyq.errors import InputError, RunError

UNBOUNDED = 1e10
"""Action bounds from here on count as infinite: MuJoCo writes 1e10 for "no limit", others the largest float32."""


class BadStepError(RunError):
    """The environment gave numbers that no agent can learn from: one sentence with its name and what it gave."""


class EnvError(RunError):
    """The environment raised something, gave something odd or did not answer: one sentence with its name and what
    happened; and `frames`, the lines of the user's own code that led to it."""

    def __init__(self, words: str, frames: Sequence[str] = ()) -> None:
        super().__init__(words)
        self.frames = tuple(frames)


class NoAnswerError(EnvError):
    """The environment has not answered within its timeout, and was given up."""


class Spec(NamedTuple):
    """What is fixed about an environment."""

    name: str
    suite: str  # of `suites.SUITES`
    obs_dim: int
    action_dim: int
    action_repeat: int  # environment frames per agent step
    episode_frames: int | None  # time limit in environment frames
    observations: tuple[tuple[str, int], ...]  # (key, size) in the order in which they are flattened
    frame_seconds: float | None  # real time one environment frame stands for, where the environment says so
    action_low: tuple[float, ...]  # [A], its own bounds, onto which actions in [-1, 1] are mapped
    action_high: tuple[float, ...]

    @property
    def spaces(self) -> dict[str, tuple[Any, ...]]:
        """What it takes and gives, as a run records it."""
        return {name: getattr(self, name) for name in ("observations", "action_low", "action_high")}


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
            f"scale its actions to; give its action space bounds, or choose another environment"
        )
    centre, half = (floor + ceiling) / 2, (ceiling - floor) / 2

    def rescale(action: np.ndarray) -> np.ndarray:
        return np.clip(centre + half * action, floor, ceiling).astype(dtype).reshape(shape)

    return rescale


def flat(parts: Iterable[object]) -> np.ndarray:
    """Observations of any shape and type as one new float32 vector [O]."""
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is for the training loop to refuse
        return np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)  # type: ignore[call-overload]
