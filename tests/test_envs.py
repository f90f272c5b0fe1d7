"""Environments: same seed and actions, same bits; every refusal; the stream of episodes that can be restored."""

import os
import subprocess
import sys
from contextlib import closing

import gymnasium
import numpy as np
import pytest
from dm_control import mujoco
from dm_control.rl import control
from gymnasium.spaces import Box, Dict, Discrete

from runs import SMALL
from steadyq.algorithm.random import Purpose, episode_seed
from steadyq.envs import suites
from steadyq.envs.dm_control import DmControl
from steadyq.envs.env import BadStepError, rescaler
from steadyq.envs.episodes import EpisodeStream
from steadyq.envs.guard import Guarded
from steadyq.errors import InputError
from steadyq.run.train import train
from steadyq.settings import parse_env
from steadyq.store.record import read_record

LOW, HIGH = np.array([[-0.3, 2.0]]), np.array([[0.1, 2.5]])  # float64, asymmetric, of rank 2


class Counter(gymnasium.Env):
    """Sums up what it is told; its first observation is drawn; the reward of step t is t."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012, Gymnasium's way

    def __init__(self, *, end: int | None = None, forgetful: bool = True, render_mode: str | None = None):
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = Box(LOW, HIGH, dtype=np.float64)
        self.end, self.forgetful, self.render_mode, self.resets = end, forgetful, render_mode, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets += 1
        self.steps, self.sum = 0, self.np_random.uniform(size=2)
        if not self.forgetful:
            self.sum += self.resets
        return self.sum, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        self.action, self.sum = action, self.sum + action[0]
        return self.sum, float(self.steps), self.steps == self.end, False, {}

    def render(self):
        return np.full((40, 40, 3), 200, np.uint8)


class Odd(gymnasium.Env):
    """Spaces as given."""

    def __init__(self, *, obs, actions):
        self.observation_space, self.action_space = obs, actions

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


UNIT = Box(-1, 1, (2,))
gymnasium.register("Counter-v0", Counter, max_episode_steps=7)
gymnasium.register("EndingCounter-v0", Counter, max_episode_steps=7, kwargs={"end": 5})
gymnasium.register("BothCounter-v0", Counter, max_episode_steps=5, kwargs={"end": 5})
gymnasium.register("HistoryCounter-v0", Counter, max_episode_steps=7, kwargs={"forgetful": False})
gymnasium.register("team/Endless-v0", Counter)
ODD = {
    "Discrete": {"obs": UNIT, "actions": Discrete(3)},
    "Integers": {"obs": UNIT, "actions": Box(-1, 1, (2,), np.int64)},
    "Infinite": {"obs": UNIT, "actions": Box(-np.inf, np.inf, (2,))},
    "Enormous": {"obs": UNIT, "actions": Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (2,))},
    "DiscreteObs": {"obs": Dict(a=UNIT, b=Dict(c=Discrete(3))), "actions": UNIT},
    "Image": {"obs": Box(0, 255, (8, 8), np.uint8), "actions": UNIT},
    "Volume": {"obs": Box(-1, 1, (3, 8, 8)), "actions": UNIT},
    "Dicts": {
        "obs": Dict(
            {"z": Box(-1, 1, ()), "a": Dict({"y": Box(-1, 1, (2, 2), np.float64), "b": Box(0, 9, (3,), np.int64)})}
        ),
        "actions": Box(np.float32(0), np.float32(2), ()),
    },
    "Overflow": {"obs": Box(1e300, 2e300, (2,), np.float64), "actions": UNIT},
}
for odd, spaces in ODD.items():
    gymnasium.register(f"{odd}-v0", Odd, kwargs=spaces, disable_env_checker=True)


def actions(env, n, *, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, env.spec.action_dim)).astype(np.float32)


def trace(env, seed, sequence):
    """Everything an episode shows, as bytes."""
    seen = [env.reset(seed).tobytes()]
    for action in sequence:
        step = env.step(action)
        seen.append((step.obs.tobytes(), step.reward, step.terminated, step.truncated))
    return seen


@pytest.mark.parametrize(
    "name", ["cartpole-swingup", "walker-run", "finger-turn_hard", "quadruped-escape", "Counter-v0", "Pendulum-v1"]
)
def test_an_episode_depends_on_its_seed_and_actions_only(name):
    fresh, used = suites.make(name), suites.make(name)
    trace(used, 5, actions(used, 3, seed=1))  # left in the middle of an episode
    same = actions(fresh, 3)
    assert trace(fresh, 2**31 - 1, same) == trace(used, 2**31 - 1, same)
    assert trace(fresh, 3, same) != trace(used, 4, same)


def test_dm_control_tasks_have_the_sizes_of_the_papers():
    sizes = {"dog-run": (223, 38), "humanoid-stand": (67, 21), "finger-turn_hard": (12, 2), "quadruped-run": (78, 12)}
    for name, size in sizes.items():
        spec = suites.make(name).spec
        assert (spec.obs_dim, spec.action_dim) == size
        assert (spec.suite, spec.action_repeat, spec.episode_frames) == ("dmc", 2, 1000)
    assert suites.make("ball_in_cup-catch", action_repeat=1).spec.observations == (("position", 4), ("velocity", 4))


def test_dm_control_observations_are_the_flattened_dict():
    from dm_control import suite

    env, theirs = suites.make("walker-run", action_repeat=1), suite.load("walker", "run", task_kwargs={"random": 7})
    action = actions(env, 1)[0]
    first, then = theirs.reset().observation, theirs.step(action)
    expected = np.concatenate([np.ravel(then.observation[key]) for key in ("orientations", "height", "velocity")])
    assert [key for key, _ in env.spec.observations] == list(first)
    env.reset(7)
    step = env.step(action)
    np.testing.assert_array_equal(step.obs, expected.astype(np.float32))
    assert step.obs.dtype == np.float32
    assert type(step.reward) is float
    assert step.reward == then.reward


@pytest.mark.parametrize(("name", "limit"), [("cartpole-swingup", 1000), ("Pendulum-v1", 200)])
def test_a_time_limit_truncates(name, limit):
    env = suites.make(name, action_repeat=limit // 5)
    env.reset(0)
    ends = [env.step(np.zeros(1, np.float32))[2:] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]


class Falling(control.Task):
    """Ends with the given discount at the third frame."""

    def __init__(self, discount):
        self._discount, self._random, self.frames = discount, None, 0

    def initialize_episode(self, physics):
        self.frames = 0

    def action_spec(self, physics):
        return mujoco.action_spec(physics)

    def before_step(self, action, physics):
        physics.set_control(action)

    def after_step(self, physics):
        self.frames += 1

    def get_observation(self, physics):
        return {"height": physics.data.qpos[0], "control": physics.control()}

    def get_reward(self, physics):
        return 1.0

    def get_termination(self, physics):
        return self._discount if self.frames == 3 else None


@pytest.mark.parametrize(("discount", "ends"), [(0.0, (True, False)), (1.0, (False, True))])
def test_dm_control_discount_zero_terminates_and_one_truncates(discount, ends):
    model = """<mujoco><worldbody><body><joint name="j" type="slide" axis="0 0 1"/><geom size=".1"/></body></worldbody>
    <actuator><motor joint="j" ctrlrange="-1 5"/></actuator></mujoco>"""
    task = control.Environment(mujoco.Physics.from_xml_string(model), Falling(discount))
    env = DmControl(task, name="falling", action_repeat=2)
    assert env.spec.episode_frames is None
    env.reset(0)
    assert env.step(np.ones(1, np.float32))[1:] == (2.0, False, False)
    last = env.step(np.ones(1, np.float32))
    assert last[1:] == (1.0, *ends)  # the action repeat stopped at the end
    assert last.obs[1] == 5.0  # the upper end of the control range


def test_action_repeat_sums_rewards_and_stops_at_the_end():
    env = suites.make("EndingCounter-v0", action_repeat=3)
    env.reset(0)
    assert env.step(np.zeros(2, np.float32))[1:] == (1.0 + 2.0 + 3.0, False, False)
    assert env.step(np.zeros(2, np.float32))[1:] == (4.0 + 5.0, True, False)
    limited = suites.make("Counter-v0", action_repeat=4)
    limited.reset(0)
    limited.step(np.zeros(2, np.float32))
    assert limited.step(np.zeros(2, np.float32))[1:] == (5.0 + 6.0 + 7.0, False, True)


def test_termination_at_the_time_limit_is_a_termination():
    env = suites.make("BothCounter-v0", action_repeat=5)
    env.reset(0)
    assert env.step(np.zeros(2, np.float32))[2:] == (True, False)


def test_actions_fill_an_asymmetric_float64_box_and_never_leave_it():
    env = suites.make("Counter-v0")
    assert env.spec.action_dim == 2
    bare = env._env.unwrapped
    for action, wanted in [((-1, -1), LOW), ((1, 1), HIGH), ((0, 0), (LOW + HIGH) / 2), ((1, -1), [[0.1, 2.0]])]:
        env.reset(0)
        env.step(np.array(action, np.float32))
        np.testing.assert_allclose(bare.action, wanted, rtol=1e-15)
        assert bare.action.dtype == np.float64
        assert bare.action_space.contains(bare.action)


def test_a_box_from_minus_one_to_one_gets_the_action_bit_for_bit():
    rescale = rescaler(-np.ones(1000, np.float32), np.ones(1000, np.float32), name="it")
    action = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32) ** 9
    assert rescale(action).tobytes() == action.tobytes()


def test_dicts_are_flattened_in_the_recorded_order():
    env = suites.make("Dicts-v0")
    assert env.spec.observations == (("a/b", 3), ("a/y", 4), ("z", 1))
    assert (env.spec.obs_dim, env.spec.action_dim) == (8, 1)
    space = ODD["Dicts"]["obs"]
    space.seed(3)
    raw = space.sample()
    expected = np.concatenate([raw["a"]["b"], raw["a"]["y"].ravel(), [raw["z"]]]).astype(np.float32)
    np.testing.assert_array_equal(env.reset(3), expected)
    assert env.step(np.zeros(1, np.float32)).obs.shape == (8,)


def test_what_is_too_large_for_float32_becomes_infinite_for_the_loop_to_refuse():
    assert np.isinf(suites.make("Overflow-v0").reset(0)).all()


@pytest.mark.parametrize("action_repeat", [1, 3])
def test_mujoco_that_diverged_and_went_on_with_finite_numbers_is_a_bad_step(action_repeat):
    bare = gymnasium.make("HalfCheetah-v5").unwrapped
    env = suites.make("HalfCheetah-v5", action_repeat=action_repeat)
    theirs, data = bare.data, env._env.unwrapped.data
    bare.reset(seed=0)
    theirs.qvel[2] = np.nan
    obs, reward, *_ = bare.step(np.zeros(6))
    assert np.isfinite([*obs, reward]).all()  # so nothing but MuJoCo's counts tells
    env.reset(0)
    data.qvel[2] = np.nan
    with pytest.raises(BadStepError, match="HalfCheetah-v5 has diverged"):
        env.step(np.zeros(6, np.float32))
    env.reset(0)
    env.step(np.zeros(6, np.float32))


HOSTILE_NAMES = [
    "os:evil:Hopper-v5",
    "..x:Y-v0",
    ".x:Y-v0",
    "x.:Y-v0",
    "x..y:Y-v0",
    ":Y-v0",
    "x:",
    "a/b:Y-v0",
    "a b:Y-v0",
    "1a:Y-v0",
    "a-b:Y-v0",
    "x:../../Y-v0",
    "x:Y-v0\n",
    "x:\x1b[2JY-v0",
    "../../etc/passwd",
    "x" * 300 + ":Y-v0",
]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Discrete-v0", "Discrete(3)"),
        ("Integers-v0", "int64"),
        ("Infinite-v0", "finite bounds"),
        ("Enormous-v0", "finite bounds"),
        ("lqr-lqr_2_1", "finite bounds"),
        ("DiscreteObs-v0", "'b/c'"),
        ("Image-v0", "image of shape (8, 8)"),
        ("Volume-v0", "image of shape (3, 8, 8)"),
        ("dog-rum", "did you mean 'dog-run'"),
        ("Pendulum", "did you mean 'Pendulum-v1'"),
        ("HalfCheetah-v9", "did you mean 'HalfCheetah-v5'"),
        ("json:HalfCheetah-v9", "json registers no environment and defines none"),
        ("no_such_module:Arm-v0", "PYTHONPATH"),
        ("", "unknown environment ''"),
    ],
)
def test_refusals_name_the_reason(name, words):
    with pytest.raises(InputError) as refused:
        suites.make(name)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_action_repeat_must_be_positive():
    with pytest.raises(InputError, match="at least 1"):
        suites.make("Pendulum-v1", action_repeat=0)


def test_a_module_is_imported_for_its_environments(tmp_path, monkeypatch):
    (tmp_path / "my_robots.py").write_text(
        "import gymnasium\ngymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:PendulumEnv')"
    )
    (tmp_path / "my_broken_robots.py").write_text("import not_installed_anywhere")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    assert suites.make("my_robots:Mine-v0").spec.name == "my_robots:Mine-v0"
    assert sys.path[-1] == str(tmp_path), "the current folder must hide nothing"
    with pytest.raises(InputError, match=r"not_installed_anywhere.*my_broken_robots.py, line 1"):
        suites.make("my_broken_robots:Mine-v0")


@pytest.mark.parametrize("name", [*HOSTILE_NAMES, 7, None, ["Hopper-v5"]])
def test_a_name_that_is_none_is_a_sentence(name):
    with pytest.raises(InputError) as refused:
        suites.make(name)
    assert str(refused.value).isprintable()


def test_every_name_of_a_suite_is_a_name():
    known = {name for suite in suites.names().values() for name in suite}
    assert {name for name in known if parse_env(name) != ("", name)} == set()
    assert parse_env("a.b_2:team/Reach-v0") == ("a.b_2", "team/Reach-v0")


def test_a_module_that_is_there_opens_no_door_to_the_current_folder(tmp_path, monkeypatch):
    """Needs no trust, so nothing else that an environment imports may be found where a stranger's files lie."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    assert suites.make("os:Pendulum-v1").spec.name == "os:Pendulum-v1"
    assert str(tmp_path) not in sys.path


def test_names_and_suites():
    names = suites.names()
    assert {"dog-run", "ball_in_cup-catch", "humanoid_CMU-walk"} <= set(names["dmc"])
    assert "Pendulum-v1" in names["gymnasium"]
    assert suites.suite_of("finger-turn_hard") == "dmc"
    assert {suites.suite_of(name) for name in ("Pendulum-v1", "team/Endless-v0", "a.b:C-v0")} == {"gymnasium"}
    with pytest.raises(InputError, match="walker-run"):
        suites.suite_of("walker-rum")


def test_an_environment_without_time_limit_says_so():
    assert suites.make("team/Endless-v0").spec.episode_frames is None
    assert suites.make("Counter-v0", action_repeat=2).spec.episode_frames == 7
    assert suites.make("Counter-v0").spec.frame_seconds == 0.1


def guarded(name):
    return Guarded(lambda: suites.make(name))


def play(stream, n, *, seed):
    """`n` agent steps of a stream, across episodes."""
    seen = []
    for action in np.random.default_rng(seed).uniform(-1, 1, (n, stream.snapshot()["actions"].shape[1])):
        step = stream.step(action.astype(np.float32))
        seen.append((step.obs.tobytes(), step.reward, step.terminated, step.truncated))
        if step.terminated or step.truncated:
            seen.append(stream.next_episode().tobytes())
    return seen


def begun(name, *, seed):
    """A stream in its first episode."""
    stream = EpisodeStream(guarded(name), seed=seed)
    stream.next_episode()
    return stream


@pytest.mark.parametrize("name", ["cheetah-run", "Counter-v0", "EndingCounter-v0"])
def test_a_restored_stream_goes_on_to_the_bit(name):
    stream = begun(name, seed=3)
    play(stream, 4, seed=0)
    stream.next_episode()
    play(stream, 4, seed=1)
    saved = {key: value.copy() for key, value in stream.snapshot().items()}
    before = (stream.episode, stream.episode_return, stream.length)
    expected = play(stream, 9, seed=2)

    other = begun(name, seed=3)
    play(other, 3, seed=5)
    assert other.restore(saved)
    assert (other.episode, other.episode_return, other.length) == before
    assert other.obs.tobytes() == saved["obs"].tobytes()
    assert play(other, 9, seed=2) == expected
    assert all(value.nbytes < 1000 for value in saved.values())


def test_a_stream_restores_at_the_end_and_at_the_start_of_an_episode():
    stream, other = (begun("EndingCounter-v0", seed=0) for _ in range(2))
    for _ in range(5):
        assert other.restore(stream.snapshot())
        assert (other.length, other.ended) == (stream.length, False)
        stream.step(np.zeros(2, np.float32))
    assert stream.ended
    assert other.restore(stream.snapshot())
    assert other.ended
    assert other.episode_return == 15
    with pytest.raises(RuntimeError, match="next_episode"):
        other.step(np.zeros(2, np.float32))
    assert other.next_episode().tobytes() == stream.next_episode().tobytes()


def test_a_stream_that_cannot_be_repeated_starts_the_next_episode():
    stream = begun("HistoryCounter-v0", seed=0)
    stream.next_episode()
    stream.step(np.zeros(2, np.float32))
    other = begun("HistoryCounter-v0", seed=0)
    other.next_episode()
    other.next_episode()
    assert not other.restore(stream.snapshot())
    assert (other.episode, other.length, other.episode_return, other.ended) == (2, 0, 0.0, False)


def test_a_stream_whose_reward_differs_or_which_ends_sooner_is_not_the_same():
    stream = begun("EndingCounter-v0", seed=0)
    stream.step(np.zeros(2, np.float32))
    saved = stream.snapshot()
    assert not stream.restore(saved | {"episode_return": np.array(7.0)})
    assert stream.episode == 1
    assert not stream.restore(saved | {"actions": np.zeros((6, 2), np.float32)})


def test_episodes_start_from_named_seeds():
    env = suites.make("Counter-v0")
    stream = begun("Counter-v0", seed=11)
    assert stream.obs.tobytes() == env.reset(episode_seed(11, Purpose.EPISODE, 0)).tobytes()
    assert stream.next_episode().tobytes() == env.reset(episode_seed(11, Purpose.EPISODE, 1)).tobytes()
    assert begun("Counter-v0", seed=12).obs.tobytes() != stream.obs.tobytes()


def test_a_snapshot_keeps_its_actions_whatever_becomes_of_the_callers():
    stream = begun("Counter-v0", seed=0)
    action = np.ones(2, np.float32)
    stream.step(action)
    action[:] = 0
    assert stream.snapshot()["actions"].tolist() == [[1.0, 1.0]]


FRESH = """
import sys, warnings
warnings.simplefilter("error")
from steadyq.envs import suites
assert not {"dm_control", "gymnasium", "mujoco"} & set(sys.modules), "imported before it is needed"
for name in ("HalfCheetah-v5", "cheetah-run"):
    suites.make(name)
assert not [name for name in sys.modules if name.startswith("OpenGL")]
"""


def fresh(code, *, cwd, **environment):
    """Run code in a new process without a display."""
    kept = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, cwd=cwd, capture_output=True, text=True, check=False
    )


def test_environments_are_made_in_silence_without_a_display(tmp_path):
    done = fresh(FRESH, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())  # MuJoCo's own log file among them


def test_a_mujoco_gl_that_does_not_work_is_refused(tmp_path):
    done = fresh("from steadyq.envs import suites; suites.make('walker-run')", cwd=tmp_path, MUJOCO_GL="vulkan")
    assert "InputError: MuJoCo does not start with MUJOCO_GL=vulkan" in done.stderr


def test_a_suite_is_a_file_and_a_line(tmp_path, monkeypatch):
    """One of a single environment, whose actions recipes repeat: found by its name, listed and trained."""
    monkeypatch.setattr(suites, "SUITES", {"lab": "lab_suite", **suites.SUITES})
    assert suites.names()["lab"] == ["lab-point"]
    assert suites.suite_of("lab-point") == "lab"
    with closing(suites.make("lab-point")) as env:
        assert (env.spec.suite, env.spec.action_repeat) == ("lab", 3)
    result = train("sac", env="lab-point", out=str(tmp_path / "run"), **SMALL)
    assert result.finished
    assert read_record(result.folder).settings.action_repeat == 2  # the recipe's, as on DeepMind Control
