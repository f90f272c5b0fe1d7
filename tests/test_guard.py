"""Environments that give bad numbers, raise or hang: none of it gets past the guard; and which repeat themselves."""

import itertools
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue

import numpy as np
import pytest
from dm_control.rl.control import PhysicsError

from steadyq.envs import guard, suites
from steadyq.envs.env import BadStepError, Env, EnvError, Spec, Step
from steadyq.envs.episodes import EpisodeStream
from steadyq.envs.guard import LARGEST, Guarded, repeats
from steadyq.envs.gymnasium import GymnasiumEnv
from steadyq.errors import Stopped
from toy import Point

ACTION = np.zeros(1, np.float32)
AMPLE, SHORT = 60.0, 0.01
"""Seconds to wait for a call that answers, and for one that never does: how fast the machine is makes no difference."""

BAD = [np.nan, np.inf, -np.inf, 1.1e16, -1e300]  # the last one is infinite in float32 only


class Faulty(Point):
    """Does as planned: when `wait` calls of `where` have gone well, the next one gives `bad`, or raises it."""

    wait, where, bad = 0, "never", 0.0

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = type(self.observation_space)(-np.inf, np.inf, (2,), np.float64)

    def plan(self, wait: int, where: str, bad: float | Exception) -> None:
        self.wait, self.where, self.bad = wait, where, bad

    def due(self, *places: str) -> bool:
        if self.where not in places:
            return False
        self.wait -= 1
        if self.wait >= 0:
            return False
        self.where = "never"
        if isinstance(self.bad, Exception):
            raise self.bad
        return True

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        if self.due("reset"):
            obs = np.array([obs[0], self.bad])
        return obs, info

    def step(self, action):
        place = self.where
        obs, reward, *rest = super().step(action)
        if self.due("reward", "obs"):
            if place == "reward":
                reward = self.bad
            else:
                obs = np.array([self.bad, obs[1]])
        return obs, reward, *rest


def play_on(stream: EpisodeStream, rng: np.random.Generator, calls: dict[str, int]) -> None:
    """Random actions for three episodes and more, counted; all that comes out is finite."""
    for _ in range(40):
        if stream.ended:
            calls["reset"] += 1
            assert np.isfinite(stream.next_episode()).all()
        calls["step"] += 1
        step = stream.step(rng.uniform(-1, 1, 1).astype(np.float32))
        assert np.isfinite(step.obs).all()
        assert np.isfinite(np.float32(step.reward))


@pytest.mark.parametrize("timeout", [None, AMPLE])
def test_none_of_a_thousand_bad_steps_comes_out_as_a_number(timeout: float | None) -> None:
    rng = np.random.default_rng(0)
    bare = Faulty()
    stream = EpisodeStream(Guarded(lambda: GymnasiumEnv(bare, name="faulty", action_repeat=1), timeout=timeout), seed=0)
    for _ in range(1_000):
        where = str(rng.choice(["reward", "obs", "reset"]))
        wait = int(rng.integers(3 if where == "reset" else 12))
        bare.plan(wait, where, [*BAD, PhysicsError("invalid")][rng.integers(6)])
        calls = {"step": 0, "reset": 0}
        with pytest.raises(BadStepError, match="faulty"):
            play_on(stream, rng, calls)
        assert calls["reset" if where == "reset" else "step"] == wait + 1  # at the very call that was planned
        assert stream.ended
        assert np.isfinite(stream.obs).all()
        assert np.isfinite(stream.episode_return)


def test_the_largest_number_passes() -> None:
    bare = Faulty()
    env = Guarded(lambda: GymnasiumEnv(bare, name="faulty", action_repeat=1))
    env.reset(0)
    bare.plan(0, "reward", LARGEST)
    assert env.step(ACTION).reward == LARGEST
    bare.plan(0, "obs", -LARGEST)
    assert env.step(ACTION).obs[0] == np.float32(-LARGEST)
    bare.plan(0, "reward", float(np.nextafter(LARGEST, np.inf)))
    with pytest.raises(BadStepError):
        env.step(ACTION)


def test_bad_steps_say_what_and_where() -> None:
    bare = Faulty()
    env = Guarded(lambda: GymnasiumEnv(bare, name="faulty", action_repeat=1))
    env.reset(0)
    for where, bad, words in [
        ("reward", np.nan, "faulty gave a reward that is not finite, nan"),
        ("obs", -np.inf, "faulty gave an observation that is not finite, -inf at index 0"),
        ("reward", -1e20, "faulty gave a reward that is beyond 1e+16, -1e+20"),
        ("obs", 1e20, "faulty gave an observation that is beyond 1e+16, 1e+20 at index 0"),
        (
            "obs",
            PhysicsError("Warning(s) raised:\n mjWARN_BADQACC"),
            "the simulation of faulty has diverged: PhysicsError: Warning(s) raised: mjWARN_BAD",
        ),
    ]:
        bare.plan(0, where, bad)
        with pytest.raises(BadStepError) as raised:
            env.step(ACTION)
        assert words in str(raised.value)
        assert "\n" not in str(raised.value)


def trace(env: Env, seed: int, *, steps: int = 6) -> list[object]:
    seen: list[object] = [env.reset(seed).tobytes()]
    for action in np.random.default_rng(0).uniform(-1, 1, (steps, env.spec.action_dim)).astype(np.float32):
        step = env.step(action)
        seen.append((step.obs.tobytes(), step.reward, step.terminated, step.truncated))
    return seen


@pytest.mark.parametrize("timeout", [None, AMPLE])
@pytest.mark.parametrize("name", ["hopper-hop", "HalfCheetah-v5"])
def test_a_guarded_environment_is_the_same_to_the_bit_also_after_divergence(name: str, timeout: float | None) -> None:
    made: list[Env] = []
    env = Guarded(lambda: made.append(suites.make(name)) or made[-1], timeout=timeout)
    expected = trace(suites.make(name), 3)
    assert trace(env, 3) == expected
    physics = made[0]._env.physics.data if name == "hopper-hop" else made[0]._env.unwrapped.data
    for value, place in itertools.product([np.nan, np.inf, 1e12], ["qpos", "qvel"]):
        getattr(physics, place)[2] = value
        with pytest.raises(BadStepError, match=f"simulation of {name} has diverged"):
            env.step(np.zeros(env.spec.action_dim, np.float32))
        assert trace(env, 3) == expected
    env.close()


@pytest.mark.parametrize("bad", BAD)
def test_bad_rewards_and_observations_of_a_dm_control_task(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = suites.make("hopper-hop")
    env, task, action = Guarded(lambda: bare), bare._env.task, np.zeros(4, np.float32)
    env.reset(0)
    with monkeypatch.context() as patch:
        patch.setattr(task, "get_reward", lambda physics: bad)
        with pytest.raises(BadStepError, match="reward"):
            env.step(action)
    env.reset(0)
    with monkeypatch.context() as patch:
        patch.setattr(task, "get_observation", lambda physics: {"position": np.r_[np.zeros(14), bad]})
        with pytest.raises(BadStepError, match="at index 14"):
            env.step(action)
        with pytest.raises(BadStepError, match="at index 14"):
            env.reset(0)
    assert np.isfinite(env.reset(0)).all()


class Bare:
    """An `Env` that counts; `act` may be replaced, and is called in each of its methods with the method's name."""

    def __init__(self) -> None:
        self.spec = Spec("bare", "gymnasium", 2, 1, 1, None, (("observation", 2),), None, (-1.0,), (1.0,))
        self.act: Callable[[str], None] = lambda where: None
        self.threads: dict[str, int] = {}
        self.count, self.closed = 0, threading.Event()

    def reset(self, seed: int) -> np.ndarray:
        self._called("reset")
        self.count = 0
        return np.array([seed, 0], np.float32)

    def step(self, action: np.ndarray) -> Step:
        self._called("step")
        self.count += 1
        return Step(np.full(2, self.count, np.float32), float(self.count), False, self.count == 9)

    def render(self, *, height: int, width: int) -> np.ndarray:
        self._called("render")
        return np.zeros((height, width, 3), np.uint8)

    def close(self) -> None:
        self._called("close")
        self.closed.set()

    def _called(self, where: str) -> None:
        self.threads[where] = threading.get_ident()
        self.act(where)


class Maker:
    """Makes `Bare` environments and keeps them."""

    def __init__(self) -> None:
        self.made: list[Bare] = []

    def __call__(self) -> Bare:
        self.made.append(Bare())
        return self.made[-1]


def once(where: str, do: Callable[[], object]) -> Callable[[str], None]:
    """An act for one method only."""
    return lambda here: do() if here == where else None


def throw(error: BaseException) -> None:
    raise error


class Panic(BaseException):
    """As those of environments written in Rust."""


@pytest.mark.parametrize("timeout", [None, AMPLE])
@pytest.mark.parametrize("error", [ValueError("two\n  lines"), KeyError("key"), Empty(), TimeoutError("own"), Panic()])
def test_what_an_environment_raises_is_a_failure_with_its_type_and_text(
    error: BaseException, timeout: float | None
) -> None:
    maker = Maker()
    env = Guarded(maker, timeout=timeout)
    env.reset(0)
    for where, call in [("step", lambda: env.step(ACTION)), ("reset", lambda: env.reset(1))]:
        maker.made[0].act = once(where, partial(throw, error))
        with pytest.raises(EnvError) as raised:
            call()
        text = " ".join(str(error).split())
        words = f"{type(error).__name__}: {text}" if text else type(error).__name__
        place = r" \((tests/)?test_guard.py, line \d+, in throw\)"
        assert re.fullmatch(re.escape(f"bare failed in its {where}: {words}") + place, str(raised.value))
        assert raised.value.__cause__ is error


@pytest.mark.parametrize("timeout", [None, AMPLE])
@pytest.mark.parametrize("error", [KeyboardInterrupt, Stopped])
def test_who_wants_to_leave_may(error: type[BaseException], timeout: float | None) -> None:
    maker = Maker()
    env = Guarded(maker, timeout=timeout)
    maker.made[0].act = once("reset", partial(throw, error()))
    with pytest.raises(error):
        env.reset(0)


def test_an_observation_of_another_shape_is_a_failure() -> None:
    maker = Maker()
    env = Guarded(maker)
    maker.made[0].reset = lambda seed: np.zeros(1, np.float32)  # would be spread over a row of the replay
    with pytest.raises(EnvError, match=r"shape \(1,\)"):
        env.reset(0)


@pytest.mark.parametrize("where", ["step", "reset"])
def test_what_hangs_is_left_behind_and_made_anew(where: str) -> None:
    maker, let_go = Maker(), threading.Event()
    env = Guarded(maker, timeout=AMPLE)
    env.reset(0)
    env.step(ACTION)
    first = maker.made[0]
    first.act = once(where, let_go.wait)
    call = {"step": lambda: env.step(ACTION), "reset": lambda: env.reset(5)}[where]
    env.timeout = SHORT
    with pytest.raises(EnvError, match=f"bare has not answered a {where} within {SHORT} s, and was given up"):
        call()
    env.timeout = AMPLE
    with pytest.raises(EnvError, match="restarted first"):
        call()
    env.restart()
    assert env.reset(7).tolist() == [7, 0]
    let_go.set()  # the old one answers at last: nobody takes that for an answer of the new one, and it is closed
    assert first.closed.wait(AMPLE)
    assert env.step(ACTION).reward == 1
    assert len(maker.made) == 2


def test_an_environment_that_is_slow_but_in_time_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does nothing until somebody waits for it."""
    maker, awaited, seconds = Maker(), threading.Event(), []

    class Watched(SimpleQueue):
        def get(self, timeout: float | None = None) -> object:
            if timeout is not None:
                seconds.append(timeout)
                awaited.set()
            return super().get(timeout=timeout)

    def slow(where: str) -> None:
        assert awaited.wait(AMPLE)
        awaited.clear()

    env = Guarded(maker, timeout=AMPLE)
    monkeypatch.setattr(guard, "SimpleQueue", Watched)
    maker.made[0].act = slow
    env.reset(0)
    assert [env.step(ACTION).reward for _ in range(3)] == [1, 2, 3]
    assert seconds == [AMPLE / guard.LOOKS] * 4


def test_an_environment_is_not_given_up_for_the_time_in_which_the_process_was_suspended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock has gone on meanwhile, the environment has not."""
    maker, running, looks = Maker(), threading.Event(), []

    class Suspended(SimpleQueue):
        def get(self, timeout: float | None = None) -> object:
            if timeout is None:
                return super().get()
            looks.append(timeout)
            if len(looks) == 1:
                raise Empty
            running.set()
            return super().get(timeout=AMPLE)

    env = Guarded(maker, timeout=AMPLE)
    monkeypatch.setattr(guard, "SimpleQueue", Suspended)
    maker.made[0].act = lambda where: running.wait()
    assert env.reset(7).tolist() == [7, 0]
    assert looks == [AMPLE / guard.LOOKS] * 2


def test_an_answer_that_has_come_by_the_last_look_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    maker, looks = Maker(), []

    class Late(SimpleQueue):
        def get(self, timeout: float | None = None) -> object:
            if timeout is None:
                return super().get()
            looks.append(timeout)
            if timeout:
                raise Empty
            return super().get(timeout=AMPLE)

    env = Guarded(maker, timeout=AMPLE)
    monkeypatch.setattr(guard, "SimpleQueue", Late)
    assert env.reset(7).tolist() == [7, 0]
    assert sum(looks) == pytest.approx(AMPLE)


@pytest.mark.parametrize("timeout", [None, AMPLE])
@pytest.mark.parametrize("where", ["reset", "step", "render", "close", "make"])
def test_an_environment_does_not_end_the_process(where: str, timeout: float | None) -> None:
    """`sys.exit(0)` would end a run with status 0, and all since its last checkpoint were lost."""
    maker, leave = Maker(), partial(throw, SystemExit(0))
    env = Guarded(maker, timeout=timeout)
    env.reset(0)
    maker.made[0].act = once(where, leave)
    calls: dict[str, Callable[[], object]] = {
        "reset": lambda: env.reset(1),
        "step": lambda: env.step(ACTION),
        "render": lambda: env.render(height=3, width=4),
        "make": lambda: Guarded(leave, timeout=timeout),
    }
    if where in calls:
        with pytest.raises(EnvError, match=f"failed in its {where}: SystemExit: 0"):
            calls[where]()
    env.close()


def test_restart_closes_what_it_can() -> None:
    maker = Maker()
    env = Guarded(maker, timeout=AMPLE)
    hang = threading.Event()
    maker.made[0].act = once("close", hang.wait)
    env.timeout = SHORT  # for closing; what is made has time
    env.restart()
    env.timeout = AMPLE
    maker.made[1].act = once("close", partial(throw, ValueError("cannot")))
    env.restart()
    env.restart()
    assert maker.made[2].closed.is_set()
    assert len(maker.made) == 4
    assert env.reset(2).tolist() == [2, 0]
    hang.set()


@pytest.mark.parametrize("timeout", [None, AMPLE])
def test_a_restart_that_fails_is_a_failure_and_may_be_tried_again(
    timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, let_go = Maker(), threading.Event()
    troubles: list[Callable[[], object]] = []

    def make() -> Bare:
        if troubles:
            troubles.pop()()
        return maker()

    env = Guarded(make, timeout=timeout)
    troubles.append(partial(throw, OSError("no such robot")))
    with pytest.raises(EnvError, match="bare failed in its make: OSError: no such robot"):
        env.restart()
    with pytest.raises(EnvError, match="restarted first"):
        env.reset(0)
    troubles.append(partial(throw, PhysicsError("at once")))
    with pytest.raises(EnvError, match="bare failed in its make: PhysicsError: at once"):
        env.restart()
    if timeout is not None:
        troubles.append(let_go.wait)
        with monkeypatch.context() as patch:
            patch.setattr(guard, "MAKING", 2 * SHORT)
            env.timeout = SHORT
            with pytest.raises(EnvError, match=f"has not answered a make within {2 * SHORT} s"):
                env.restart()
        env.timeout = timeout
    env.restart()
    assert env.reset(4).tolist() == [4, 0]
    let_go.set()


def test_the_first_make_raises_what_it_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        Guarded(lambda: 1 / 0, timeout=AMPLE)


@pytest.mark.parametrize("timeout", [None, AMPLE])
def test_one_thread_has_all_calls_of_one_environment(timeout: float | None) -> None:
    """OpenGL contexts and many simulators belong to the thread that made them."""
    maker, makers = Maker(), []
    env = Guarded(lambda: makers.append(threading.get_ident()) or maker(), timeout=timeout)
    env.reset(0)
    env.step(ACTION)
    assert env.render(height=3, width=4).shape == (3, 4, 3)
    env.close()
    env.close()  # a second time is nothing
    threads = maker.made[0].threads
    assert set(threads) == {"reset", "step", "render", "close"}
    assert set(threads.values()) == set(makers)
    assert (makers[0] == threading.get_ident()) == (timeout is None)


def test_environments_that_are_replaced_leave_no_thread_behind() -> None:
    before = set(threading.enumerate())
    env, begun = Guarded(Bare, timeout=AMPLE), set()
    for _ in range(10):
        begun |= set(threading.enumerate()) - before
        env.restart()
    env.close()
    assert {thread.name for thread in begun} == {"environment"}
    for thread in begun:
        thread.join(AMPLE)
        assert not thread.is_alive()


HANGING = """
import threading, time
import numpy as np
from steadyq.envs import suites
from steadyq.envs.env import EnvError
from steadyq.envs.guard import Guarded

def busy():
    while True:
        pass

def make():
    env = suites.make("Pendulum-v1")
    env.step = lambda action: {hang}
    return env

env = Guarded(make, timeout=60)
env.reset(0)
env.timeout = 0.01
try:
    env.step(np.zeros(1, np.float32))
except EnvError as error:
    print(error)
env.restart()
"""


@pytest.mark.parametrize("hang", ["threading.Event().wait()", "busy()"])
def test_a_process_ends_though_an_environment_hangs(hang: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING.format(hang=hang)], capture_output=True, text=True, timeout=600, check=False
    )
    wanted = "Pendulum-v1 has not answered a step within 0.01 s, and was given up\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, wanted, "")


# The stream of episodes


def begun(make: Callable[[], Env]) -> EpisodeStream:
    """A stream in its first episode."""
    stream = EpisodeStream(Guarded(make), seed=0)
    stream.next_episode()
    return stream


def test_a_failed_step_ends_the_episode_and_leaves_nothing_of_itself() -> None:
    maker = Maker()
    stream = begun(maker)
    for _ in range(3):
        stream.step(ACTION)
    maker.made[0].act = once("step", partial(throw, ValueError()))
    with pytest.raises(EnvError):
        stream.step(ACTION)
    assert (stream.episode, stream.length, stream.episode_return, stream.ended) == (0, 3, 6.0, True)
    with pytest.raises(RuntimeError, match="next_episode"):
        stream.step(ACTION)
    other = begun(Maker())
    assert other.restore(stream.snapshot())  # to before the step that failed
    assert (other.length, other.ended) == (3, False)
    stream.next_episode(fresh=True)
    assert (stream.episode, stream.length, stream.episode_return, stream.ended) == (1, 0, 0.0, False)
    assert len(maker.made) == 2
    stream.step(ACTION)
    stream.next_episode()
    assert (stream.episode, len(maker.made)) == (2, 2)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_reset_that_fails_passes_and_the_next_call_goes_one_episode_further(fresh: bool) -> None:
    maker, failures = Maker(), list[Exception]()

    def make() -> Bare:
        env = maker()
        env.act = once("reset", lambda: failures and throw(failures.pop()))
        return env

    stream = begun(make)
    failures += [ValueError(), ValueError()]
    for episode in (1, 2):
        with pytest.raises(EnvError):
            stream.next_episode(fresh=fresh)
        assert (stream.episode, stream.ended, stream.length) == (episode, True, 0)
    expected = begun(Bare)
    for _ in range(3):
        expected.next_episode()
    assert stream.next_episode(fresh=fresh).tobytes() == expected.obs.tobytes()
    assert (stream.episode, stream.ended) == (3, False)
    assert len(maker.made) == (4 if fresh else 1)


@pytest.mark.parametrize("trouble", ["reset", "step", "nan"])
def test_an_environment_that_fails_while_it_is_restored_did_not_repeat(trouble: str) -> None:
    stream = begun(Bare)
    stream.next_episode()
    stream.step(ACTION)
    saved = stream.snapshot()
    maker = Maker()
    other = begun(maker)
    if trouble == "nan":
        maker.made[0].step = lambda action: Step(np.zeros(2, np.float32), np.nan, False, False)
    else:
        maker.made[0].act = once(trouble, partial(throw, ValueError()))
    assert not other.restore(saved)
    assert (other.episode, other.ended) == (1, True)
    other.next_episode(fresh=True)
    assert (other.episode, other.length, other.ended) == (2, 0, False)
    assert len(maker.made) == 2
    assert maker.made[0].closed.is_set()
    stream.next_episode()
    assert other.obs.tobytes() == stream.obs.tobytes()


# Reproducible or not


def two(make: Callable[[], Env], *, steps: int = 20) -> bool:
    first, second = make(), make()
    try:
        return repeats(first, second, steps=steps)
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("name", ["cheetah-run", "pendulum-swingup", "HalfCheetah-v5", "Pendulum-v1"])
def test_known_environments_repeat_themselves(name: str) -> None:
    assert two(partial(suites.make, name))
    assert two(lambda: Guarded(partial(suites.make, name), timeout=AMPLE), steps=3)


def shared(number: Callable[[], float], where: str) -> Callable[[], Bare]:
    """Environments whose reward or first observation has something in it that does not come from the seed."""

    class Sharing(Bare):
        def reset(self, seed: int) -> np.ndarray:
            return super().reset(seed) + np.float32(number() if where == "reset" else 0)

        def step(self, action: np.ndarray) -> Step:
            step = super().step(action)
            return step._replace(reward=step.reward + (number() if where == "step" else 0))

    return Sharing


@pytest.mark.parametrize("where", ["reset", "step"])
@pytest.mark.parametrize("source", ["counter", "generator"])  # a clock is one that counts
def test_what_environments_share_is_found(source: str, where: str) -> None:
    counter = itertools.count()
    number = {"counter": lambda: float(next(counter)), "generator": np.random.default_rng(0).random}[source]
    assert not two(shared(number, where))
    assert two(shared(lambda: 1.0, where))


def test_what_outlives_a_reset_is_found() -> None:
    class Remembering(Bare):
        total = 0

        def step(self, action: np.ndarray) -> Step:
            step = super().step(action)
            self.total += 1
            return step._replace(obs=np.full(2, self.total, np.float32))

    assert not two(Remembering)


def test_a_difference_in_a_later_episode_of_the_twenty_steps_is_found() -> None:
    class Wearing(Bare):
        """As fresh for one episode of nine steps; after two in all, its rewards are others."""

        resets = 0

        def reset(self, seed: int) -> np.ndarray:
            self.resets += 1
            return super().reset(seed)

        def step(self, action: np.ndarray) -> Step:
            step = super().step(action)
            return step._replace(reward=float(self.resets > 5))

    assert not two(Wearing)
    assert two(Wearing, steps=8)


def test_failing_in_the_same_way_is_repeating_itself() -> None:
    class Diverging(Bare):
        def step(self, action: np.ndarray) -> Step:
            step = super().step(action)
            return step._replace(reward=np.inf) if self.count == 4 else step

    assert two(lambda: Guarded(Diverging))
    later = itertools.count()
    assert not two(lambda: Guarded(shared(lambda: np.nan if next(later) == 45 else 0.0, "step")))
