"""Environments that give bad numbers, raise or hang: none of it gets past the guard."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from steadyq.run import envs
from steadyq.run.env import BadStepError, Env, EnvError, Spec, Step
from steadyq.run.episodes import EpisodeStream
from steadyq.run.guard import Guarded, repeats

BAD = [np.nan, np.inf, -np.inf, 1e39]  # the last is too large for float32
SPEC = Spec("Line-v0", "gymnasium", 2, 1, 1, 100, (("obs", 2),), None)


class Line:
    """Counts its steps; `faults` are called with the step's number and may change what it gives."""

    spec = SPEC

    def __init__(self, fault: Callable[[str, int], float | None] = lambda call, step: None) -> None:
        self.fault, self.steps, self.closed = fault, 0, False

    def reset(self, seed: int) -> np.ndarray:
        bad = self.fault("reset", self.steps)
        return np.array([seed % 7, self.steps if bad is None else bad]).astype(np.float32)

    def step(self, action: np.ndarray) -> Step:
        self.steps += 1
        reward, obs = self.fault("reward", self.steps), self.fault("obs", self.steps)
        with np.errstate(over="ignore"):
            seen = np.array([1.0 if obs is None else obs, self.steps]).astype(np.float32)
        return Step(seen, 1.0 if reward is None else reward, False, self.steps % 10 == 0)

    def render(self, *, height: int, width: int) -> np.ndarray:
        return np.zeros((height, width, 3), np.uint8)

    def close(self) -> None:
        self.closed = True


def test_no_bad_number_comes_out_of_a_thousand() -> None:
    rng = np.random.default_rng(0)
    faults = {int(step): rng.choice(BAD) for step in rng.choice(5_000, 1_000, replace=False)}
    where = {step: ("reward", "obs")[rng.integers(2)] for step in faults}
    env = Guarded(lambda: Line(lambda call, step: faults.get(step) if where.get(step) == call else None))
    caught = 0
    for number in range(1, 5_000):
        if number in faults:
            with pytest.raises(BadStepError, match=r"Line-v0 gave .* not finite"):
                env.step(np.zeros(1, np.float32))
            caught += 1
        else:
            step = env.step(np.zeros(1, np.float32))
            assert np.isfinite(step.obs).all()
            assert np.isfinite(np.float32(step.reward))
    assert caught == sum(0 < step < 5_000 for step in faults)


def test_a_bad_beginning() -> None:
    env = Guarded(lambda: Line(lambda call, step: np.nan if call == "reset" else None))
    with pytest.raises(BadStepError, match="began an episode"):
        env.reset(0)


def test_a_simulation_that_diverges_is_a_bad_step() -> None:
    """dm_control's own error, from its own check."""
    env = Guarded(lambda: envs.make("cartpole-balance"))
    env.reset(0)
    env._env._env.physics.data.qpos[:] = np.nan
    with pytest.raises(BadStepError, match="the simulation of cartpole-balance has diverged: PhysicsError"):
        env.step(np.zeros(1, np.float32))
    assert np.isfinite(env.reset(1)).all()


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_what_an_environment_raises_becomes_one_sentence(timeout: float | None) -> None:
    def fault(call: str, step: int) -> float | None:
        if step == 2:
            raise OSError("no such\nrobot")
        return None

    made: list[Line] = []
    env = Guarded(lambda: made.append(Line(fault)) or made[-1], timeout=timeout)
    env.step(np.zeros(1, np.float32))
    with pytest.raises(EnvError, match=r"^Line-v0 failed in a step: OSError: no such robot$"):
        env.step(np.zeros(1, np.float32))
    env.restart()
    assert len(made) == 2
    assert env.step(np.zeros(1, np.float32)).reward == 1
    assert made[0].closed is (timeout is None)


@pytest.mark.parametrize("call", ["reset", "reward"])
def test_an_environment_that_hangs_is_left_behind(call: str) -> None:
    release = threading.Event()
    hangs = [True]

    def fault(name: str, step: int) -> float | None:
        if name == call and hangs:
            release.wait()
        return None

    env = Guarded(lambda: Line(fault), timeout=0.05)
    started = time.monotonic()
    with pytest.raises(EnvError, match=r"has not answered a (reset|step) within 0\.05 s"):
        env.reset(0) if call == "reset" else env.step(np.zeros(1, np.float32))
    assert time.monotonic() - started < 5
    hangs.clear()
    env.restart()
    assert env.reset(8).tolist() == [1, 0]
    release.set()


HANGING = """
import sys, time
sys.path.insert(0, {tests!r})
from test_guard import Line
from steadyq.run.env import EnvError
from steadyq.run.guard import Guarded
env = Guarded(lambda: Line(lambda call, step: time.sleep(600)), timeout=0.05)
try:
    env.reset(0)
except EnvError:
    print("left behind")
"""


def test_a_hanging_environment_does_not_keep_the_process() -> None:
    from pathlib import Path

    code = HANGING.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "left behind\n"


def test_an_environment_that_cannot_be_made_again() -> None:
    made: list[Line] = []

    def make() -> Env:
        if made:
            raise OSError("no licence")
        made.append(Line())
        return made[0]

    env = Guarded(make)
    with pytest.raises(EnvError, match="could not be made again: OSError: no licence"):
        env.restart()


def test_a_stream_goes_past_failures() -> None:
    fails = {3, 4}

    def fault(call: str, step: int) -> float | None:
        if call == "reset" and len(resets) in fails:
            resets.append(step)
            raise OSError("busy")
        if call == "reset":
            resets.append(step)
        return None

    resets: list[int] = [0]
    stream = EpisodeStream(Guarded(lambda: Line(fault)), seed=0)
    stream.step(np.zeros(1, np.float32))
    stream.next_episode()
    for _ in range(2):
        with pytest.raises(EnvError):
            stream.next_episode(fresh=True)
        with pytest.raises(RuntimeError, match="has ended"):
            stream.step(np.zeros(1, np.float32))
    stream.next_episode(fresh=True)
    assert (stream.episode, stream.length, stream.ended) == (4, 0, False)


def test_a_stream_that_fails_while_it_is_restored_starts_the_next_episode() -> None:
    broken: list[bool] = []

    def fault(call: str, step: int) -> float | None:
        if broken and step == 2:
            raise OSError("busy")
        return None

    stream = EpisodeStream(Guarded(lambda: Line(fault)), seed=0)
    for _ in range(3):
        stream.step(np.zeros(1, np.float32))
    saved = stream.snapshot()
    other = EpisodeStream(Guarded(lambda: Line(fault)), seed=0)
    assert other.restore(saved)
    third = EpisodeStream(Guarded(lambda: Line(fault)), seed=0)
    broken.append(True)
    assert not third.restore(saved)
    assert (third.episode, third.length, third.ended) == (1, 0, False)


@pytest.mark.parametrize("name", ["hopper-hop", "dog-run", "HalfCheetah-v5"])
def test_simulations_repeat_themselves(name: str) -> None:
    assert repeats(envs.make(name), envs.make(name))


def test_an_environment_with_a_history_does_not_repeat_itself() -> None:
    assert not repeats(Line(), Line())  # its observation counts the steps of all episodes


def test_an_environment_that_fails_the_same_way_repeats_itself() -> None:
    def fault(call: str, step: int) -> float | None:
        raise OSError("always")

    assert repeats(Guarded(lambda: Line(fault)), Guarded(lambda: Line(fault)))
