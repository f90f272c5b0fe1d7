"""An environment that is watched over: what it breaks does not reach the run, and one that hangs is left behind."""

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from steadyq.errors import InputError
from steadyq.run.env import BadStepError, Env, EnvError, Spec, Step

PHYSICS_ERROR = "dm_control.rl.control.PhysicsError"
"""What dm_control raises when a simulation has diverged; named, as importing it takes seconds."""

FLOAT_MAX = float(np.finfo(np.float32).max)


class Guarded:
    """An environment that can be replaced by a fresh one, and gives finite numbers or raises.

    Args:
        make: makes one.
        timeout: seconds after which a call that has not returned is given up, with its environment; None for never.

    Raises:
        BadStepError: from `reset` and `step`: a number that is not finite, also as float32, or a diverged simulation.
        EnvError: from `reset` and `step`: any other exception, or no answer in time. Call `restart` before the next.
    """

    def __init__(self, make: Callable[[], Env], *, timeout: float | None = None) -> None:
        self._make, self._timeout = make, timeout
        self._worker = _Worker() if timeout else None
        self._env = make()

    @property
    def spec(self) -> Spec:
        """What is fixed about it."""
        return self._env.spec

    def reset(self, seed: int) -> np.ndarray:
        """Start the episode that `seed` names; float32 [O]."""
        obs: np.ndarray = self._call("reset", seed)
        if not np.isfinite(obs).all():
            raise BadStepError(f"{self.spec.name} began an episode with an observation that is not finite")
        return obs

    def step(self, action: np.ndarray) -> Step:
        """Hold `action` [A] for one agent step."""
        step: Step = self._call("step", action)
        if not abs(step.reward) <= FLOAT_MAX:
            raise BadStepError(f"{self.spec.name} gave a reward that is not finite, {step.reward}")
        if not np.isfinite(step.obs).all():
            raise BadStepError(f"{self.spec.name} gave an observation that is not finite")
        return step

    def restart(self) -> None:
        """Put a fresh environment in the place of this one.

        Raises:
            EnvError: it could not be made.
        """
        if self._worker is None:
            with contextlib.suppress(Exception):  # it may be broken in any way
                self._env.close()
        else:
            self._worker = _Worker()  # the old one ends after what it is at, if ever
        try:
            self._env = self._make()
        except Exception as error:
            raise EnvError(f"{self.spec.name} could not be made again: {_words(error)}") from error

    def render(self, *, height: int, width: int) -> np.ndarray:
        """A picture of the present state: uint8 [H, W, 3]."""
        return self._env.render(height=height, width=width)

    def close(self) -> None:
        """Let it go; an environment that fails at that is none of our business any more."""
        with contextlib.suppress(Exception):
            self._env.close()

    def _call(self, name: str, argument: Any) -> Any:
        try:
            call = getattr(self._env, name)
            if self._worker is None:
                return call(argument)
            return self._worker.answer(call, argument, self._timeout)
        except queue.Empty:
            raise EnvError(f"{self.spec.name} has not answered a {name} within {self._timeout:g} s") from None
        except InputError:
            raise
        except Exception as error:
            if f"{type(error).__module__}.{type(error).__qualname__}" == PHYSICS_ERROR:
                raise BadStepError(f"the simulation of {self.spec.name} has diverged: {_words(error)}") from error
            raise EnvError(f"{self.spec.name} failed in a {name}: {_words(error)}") from error


class _Answer(NamedTuple):
    value: Any
    error: BaseException | None


class _Worker:
    """A thread that makes calls, so that whoever waits for one can stop waiting. It does not keep the process alive."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[Any], Any], Any]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        threading.Thread(target=_work, args=(self._calls, self._answers), name="environment", daemon=True).start()

    def answer(self, call: Callable[[Any], Any], argument: Any, timeout: float | None) -> Any:
        """What the call returns, or raises; `queue.Empty` if there is neither in time."""
        self._calls.put((call, argument))
        value, error = self._answers.get(timeout=timeout)
        if error is not None:
            raise error
        return value


def _work(calls: queue.SimpleQueue, answers: queue.SimpleQueue) -> None:
    while True:
        call, argument = calls.get()
        try:
            answers.put(_Answer(call(argument), None))
        except BaseException as error:
            answers.put(_Answer(None, error))


def _words(error: BaseException) -> str:
    """Type and text of an exception in one line."""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def repeats(first: Env, second: Env, *, steps: int = 20) -> bool:
    """Whether an environment repeats itself to the bit, which is what a run needs to be resumed exactly.

    Two of the same kind play the same actions from the same seed, the second after another episode.
    """
    spec, rng = first.spec, np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (steps, spec.action_dim)).astype(np.float32)
    _play(second, seed=1, actions=actions[::-1])
    return _play(first, seed=0, actions=actions) == _play(second, seed=0, actions=actions)


def _play(env: Env, *, seed: int, actions: np.ndarray) -> list[bytes]:
    """The bits of an episode's beginning; an environment that fails ends it."""
    seen: list[bytes] = []
    try:
        seen.append(env.reset(seed).tobytes())
        for action in actions:
            step = env.step(action)
            seen += [step.obs.tobytes(), np.float64(step.reward).tobytes()]
            if step.terminated or step.truncated:
                break
    except (BadStepError, EnvError) as error:
        seen.append(str(error).encode())
    return seen
