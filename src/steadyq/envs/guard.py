"""An environment that is watched over: what it breaks does not reach the run, and one that hangs is left behind."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import isfinite
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import numpy as np

from steadyq.envs import suites
from steadyq.envs.env import BadStepError, Env, EnvError, NoAnswerError, Step
from steadyq.envs.own_code import own_frames, sentence, words
from steadyq.envs.source import Source
from steadyq.errors import InputError, Stopped
from steadyq.settings import Settings

PHYSICS_ERROR = "dm_control.rl.control.PhysicsError"
"""What dm_control raises when a simulation has diverged; named, as importing it takes seconds."""

LARGEST = 1e16
"""Numbers beyond are refused: running statistics sum squares, and float32 has room for the square of 1e19."""

LOOKS = 10
"""Looks at whether an environment has answered, within its timeout. While the process is suspended (SIGSTOP, a closed
lid) the clock may go on but no environment can: of its time that takes one look's."""

MAKING = 60.0
"""Seconds that an environment may take to be made, however short the timeout of its steps: it loads models and code."""


class Guarded:
    """An environment that can be replaced by a fresh one, and gives numbers that can be learned from or raises.

    Args:
        make: makes one.
        timeout: seconds after which a call that has not returned is given up, with its environment. It then lives in a
            thread of its own, which does not keep the process alive. None for never. The attribute of this name may be
            changed for the calls to come.

    Raises:
        BadStepError: from `reset` and `step`: a number that is not finite or beyond `LARGEST`, or a diverged
            simulation. A `reset` may mend it.
        EnvError: from `reset` and `step`: any other exception, no answer in time, or no observation of the right shape.
            Call `restart` before the next. Also from here, if making it took longer than the timeout and `MAKING`, or
            would end the process; what else `make` raises passes.
    """

    def __init__(self, make: Callable[[], Env], *, timeout: float | None = None) -> None:
        self._make, self.timeout = make, timeout
        self._env: Env | None = None
        self._worker: _Worker | None = None
        self._name = "the environment"
        try:
            self._begin(self._call)
            self.spec = self._alive().spec
        except BaseException:
            self.close()
            raise
        self._name = self.spec.name

    def reset(self, seed: int) -> np.ndarray:
        """Start the episode that `seed` names; float32 [O]."""
        obs: np.ndarray = self._answer("reset", self._alive().reset, seed)
        self._check(obs)
        return obs

    def step(self, action: np.ndarray) -> Step:
        """Hold `action` [A] for one agent step."""
        step: Step = self._answer("step", self._alive().step, action)
        if not abs(step.reward) <= LARGEST:
            raise BadStepError(f"{self._name} gave a reward that is {_excess(step.reward)}, {step.reward:g}")
        self._check(step.obs)
        return step

    def restart(self) -> None:
        """Put a fresh environment in the place of this one.

        Raises:
            EnvError: it could not be made; it may be tried again.
        """
        self.close()
        self._begin(self._answer)

    def render(self, *, height: int, width: int) -> np.ndarray:
        """A picture of the present state: uint8 [H, W, 3]."""
        env = self._alive()
        try:
            picture: np.ndarray = self._call("render", lambda: env.render(height=height, width=width))
        except (InputError, EnvError, KeyboardInterrupt, Stopped):
            raise
        except BaseException as error:
            raise self._failure("render", error) from error
        return picture

    def close(self) -> None:
        """Let it go; an environment that fails at that is none of our business any more."""
        env, self._env = self._env, None
        if env is not None:
            with suppress(Exception):
                self._call("close", env.close)
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _begin(self, call: Callable[..., Env]) -> None:
        if self.timeout is not None:
            self._worker = _Worker()
        self._env = call("make", self._make)

    def _alive(self) -> Env:
        if self._env is None:
            raise EnvError(f"{self._name} was given up or closed; it must be restarted first")
        return self._env

    def _answer(self, what: str, function: Callable[..., Any], *args: object) -> Any:
        """What a call of the environment gives, its exceptions turned into ours."""
        try:
            return self._call(what, function, *args)
        except (BadStepError, EnvError, KeyboardInterrupt, Stopped):
            raise
        except BaseException as error:  # a panic of an environment written in Rust is not an Exception
            name = f"{type(error).__module__}.{type(error).__qualname__}"
            if name == PHYSICS_ERROR and self._env is not None:  # while it is made, there is nothing to reset
                raise BadStepError(f"the simulation of {self._name} has diverged: {words(error)}") from error
            raise self._failure(what, error) from error

    def _call(self, what: str, function: Callable[..., Any], *args: object) -> Any:
        """What a call gives, made where the environment lives. `sys.exit` is a failure: it would end the run."""
        seconds = self.timeout and (max(self.timeout, MAKING) if function is self._make else self.timeout)
        try:
            if self._worker is None or seconds is None:
                return function(*args)
            return self._worker.answer(function, *args, timeout=seconds)
        except SystemExit as error:
            raise self._failure(what, error) from error
        except _NoAnswer:
            assert self._worker is not None
            if self._env is not None:
                self._worker.post(self._env.close)  # should it ever come back
            self._worker.end()
            self._env = self._worker = None
            raise NoAnswerError(
                f"{self._name} has not answered a {what} within {seconds:g} s, and was given up"
            ) from None

    def _failure(self, what: str, error: BaseException) -> EnvError:
        return EnvError(f"{self._name} failed in its {what}: {sentence(error)}", own_frames(error))

    def _check(self, obs: np.ndarray) -> None:
        if obs.shape != (self.spec.obs_dim,):
            raise EnvError(
                f"{self._name} gave an observation of shape {obs.shape}, but had announced {self.spec.obs_dim} numbers"
            )
        fine = np.abs(obs) <= LARGEST
        if not fine.all():
            index = int(np.flatnonzero(~fine)[0])
            what = _excess(float(obs[index]))
            raise BadStepError(f"{self._name} gave an observation that is {what}, {obs[index]:g} at index {index}")


def _excess(number: float) -> str:
    """What is wrong with a number that cannot be learned from."""
    return f"beyond {LARGEST:g}" if isfinite(number) else "not finite"


class _NoAnswer(Exception):  # noqa: N818, not to be mistaken for an environment's own TimeoutError
    pass


class _Worker:
    """A thread that makes calls, so that whoever waits for one can stop waiting. It does not keep the process alive.

    A `ThreadPoolExecutor` would: at the end of a process it waits for calls that never return.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[..., Any], tuple[object, ...], SimpleQueue] | None] = SimpleQueue()
        Thread(target=_work, args=(self._calls,), name="environment", daemon=True).start()

    def answer(self, function: Callable[..., Any], *args: object, timeout: float) -> Any:
        """What a call returns, or raises; `_NoAnswer` if there is neither in time."""
        answers = self.post(function, *args)
        for look in range(LOOKS + 1):
            try:
                value, error = answers.get(timeout=timeout / LOOKS if look < LOOKS else 0)
                break
            except Empty:
                continue
        else:
            raise _NoAnswer
        if error is not None:
            raise error
        return value

    def post(self, function: Callable[..., Any], *args: object) -> SimpleQueue:
        """Hand over a call, whose `(value, error)` will be in the returned queue.

        One queue for each, so that an answer which nobody waits for any longer is not taken for the next call's.
        """
        answers: SimpleQueue = SimpleQueue()
        self._calls.put((function, args, answers))
        return answers

    def end(self) -> None:
        """Let the thread end after the calls it has, if it ever gets there."""
        self._calls.put(None)


def _work(calls: SimpleQueue) -> None:
    while (call := calls.get()) is not None:
        function, args, answers = call
        try:
            answers.put((function(*args), None))
        except BaseException as error:
            answers.put((None, error))


def repeats(first: Env, second: Env, *, steps: int = 20) -> bool:
    """Whether an environment repeats itself bit-exactly, which is what a run needs to be resumed so.

    Two fresh ones, the second after another episode, are given the same seed and random actions. So a counter, a clock
    or a generator that they share, or that outlives a reset, shows; what only comes later in an episode, or differs
    between processes, does not. Failing in the same way is repeating itself.

    Args:
        first, second: of the same kind.
        steps: agent steps of each play, beyond the end of the episode if that comes first.

    Raises:
        EnvError: the very first reset or step failed.
    """
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (2, steps, first.spec.action_dim)).astype(np.float32)
    _play(second, seed=1, actions=actions[0], may_fail=False)
    return _play(first, seed=0, actions=actions[1]) == _play(second, seed=0, actions=actions[1])


def _play(env: Env, *, seed: int, actions: np.ndarray, may_fail: bool = True) -> list[object]:
    """All that an environment shows, bit-exactly; each episode starts from `seed`, and a failure ends it.

    Unless it `may_fail`, an EnvError of its first reset or step passes.
    """
    seen: list[object] = []
    try:
        seen.append(env.reset(seed).tobytes())
        for action in actions:
            step = env.step(action)
            seen += [step.obs.tobytes(), step.reward.hex(), step.terminated, step.truncated]
            if step.terminated or step.truncated:
                seen.append(env.reset(seed).tobytes())
    except (BadStepError, EnvError) as error:
        if isinstance(error, EnvError) and len(seen) < 2 and not may_fail:
            raise
        seen.append(str(error))
    return seen


def of_run(
    settings: Settings, source: Source | None = None, *, endless: bool = False, pictures: bool = False
) -> Guarded:
    """The environment of a run, guarded.

    Args:
        settings: of the run.
        source: the environment that the run was given as an object of Python; None if its name is enough.
        endless: without its suite's time limit.
        pictures: it is to be drawn.

    Raises:
        InputError: a name is not enough; or it cannot be made.
    """
    if source is None and settings.env_object is not None:
        raise InputError(
            f"the environment {settings.env} of this run was {settings.env_object}, given from Python, so give it from "
            f"there again: `steadyq.resume(folder, env=...)` resumes the run"
        )
    make = partial(
        suites.make,
        settings.env if source is None else source,
        action_repeat=settings.resolved("action_repeat"),
        endless=endless,
        max_episode_steps=settings.max_episode_steps,
        kwargs=settings.env_kwargs,
        pictures=pictures,
    )
    return Guarded(make, timeout=settings.env_timeout or None)
