"""Environments of one's own: as objects of Python, in modules and in files; what is wrong with them in one sentence."""

import runpy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import steadyq
from runs import SMALL, digest, records, run_at, stopped_at
from steadyq.cli.main import main
from steadyq.envs import suites
from steadyq.errors import InputError, RunError
from steadyq.examine.evaluate import evaluate
from steadyq.run.resume import resume
from steadyq.store import metrics_csv
from steadyq.store.record import read_record
from toy import Point

TINY = {**SMALL, "width": 4, "actor_width": 4}

REACH = """
import gymnasium
import numpy as np


class Reach(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-10, 10, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, gain=1.0):
        self.gain = gain

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1)
        return self.look(), {}

    def step(self, action):
        self.x = np.clip(self.x + self.gain * float(action[0]), -9, 9)
        return self.look(), -abs(self.x), False, False, {}

    def look(self):
        return np.array([self.x, self.gain], np.float32)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of one's own to work in, whose modules are forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(gymnasium.envs.registration, "registry", {**gymnasium.registry})
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def command(*arguments: str) -> list[str]:
    """`steadyq train` at toy size."""
    options = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()]
    return ["train", "crossq_wn", *options, *arguments]


def a_point() -> Point:
    return Point()


# What Python takes


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (Point, "the class toy.Point"),
        (a_point, f"the function {__name__}.a_point"),
        (partial(Point, limit=10), "the class toy.Point"),
        (lambda: Point(), f"the function {__name__}.<lambda>"),
    ],
)
def test_a_class_or_a_function_is_an_environment(env: object, words: str, tmp_path: Path) -> None:
    """It is the run that its registered name makes, and the record tells what it was."""
    named = run_at(tmp_path / "named", **TINY)
    run = run_at(tmp_path / "run", env=env, **TINY)
    assert digest(run.folder, 0) == digest(named.folder, 0)
    settings = read_record(run.folder).settings
    assert settings.env_object == words
    assert settings.env in ("Point", "a_point", "lambda")


@dataclass
class Data(Point):
    """An environment that is not hashable, and whose rate is a number of NumPy's."""

    metadata = {"render_fps": np.float32(20)}  # noqa: RUF012, as in Gymnasium

    def __init__(self) -> None:
        super().__init__()


def test_an_environment_may_be_a_dataclass(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        hash(Data())
    run = run_at(tmp_path / "run", env=Data, **TINY).folder
    assert read_record(run).step_seconds == pytest.approx(1 / 20)


def test_an_environment_with_other_bounds_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(Point):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = gymnasium.spaces.Box(-self.force, self.force, (1,), np.float32)

    Wide.force = 1.0
    run = run_at(tmp_path / "run", env=Wide, **TINY).folder
    Wide.force = 2.0
    for again in (steadyq.resume, steadyq.evaluate, steadyq.diagnose):
        with pytest.raises(InputError, match=r"Wide has action_low \[-2.0\], and the run was made with \[-1.0\]; give"):
            again(run, env=Wide)


def test_a_run_with_an_object_wants_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed = run_at(tmp_path / "undisturbed", env=Point, **TINY).folder
    with monkeypatch.context() as patch:
        stopped_at(50, patch)
        run = run_at(tmp_path / "run", env=Point, **TINY).folder
    before = (run / "run.json").read_bytes()
    for words in (["resume", str(run)], ["evaluate", str(run), "--trust"], ["diagnose", str(run)]):
        assert main(words) == 2
        assert "the class toy.Point" in (said := capsys.readouterr().err)
        assert "`steadyq.resume(folder, env=...)`" in said
        assert said.count("\n") == 1
    with pytest.raises(InputError, match="give the same again"):
        resume(run, env=a_point)
    with pytest.raises(InputError, match="give the same again"):
        resume(run, env="toy:Point-v0")
    assert (run / "run.json").read_bytes() == before
    assert len(steadyq.evaluate(str(run), episodes=2.0, checkpoint="last", env=Point)) == 2
    assert list(steadyq.diagnose(str(run), frames=[0], episodes=1, env=Point)) == [0]
    for examine in (steadyq.evaluate, steadyq.diagnose):
        with pytest.raises(InputError, match="episodes is 0; give a whole number of at least 1"):
            examine(run, episodes=0, env=Point)
    assert resume(run, env=Point).finished
    assert (digest(run, 0), records(run)) == (digest(undisturbed, 0), records(undisturbed))
    assert run_at(run, env=Point, resume=True, **TINY).finished
    named = run_at(tmp_path / "named", **TINY).folder
    with pytest.raises(InputError, match="made by its name, toy:Point-v0; leave env out"):
        resume(named, env=Point)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (7, "the environment 7 is not of the form"),
        (None, "the environment None is not of the form"),
        (lambda: 7, "lambda gives an object of type int, not a Gymnasium environment"),
        (lambda: 1 / 0, "lambda cannot be made: ZeroDivisionError: division by zero (tests/test_own_envs.py, line "),
    ],
)
def test_what_is_no_environment_is_a_sentence(env: object, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)
    with pytest.raises(InputError) as refused:
        run_at(Path("never"), env=env)
    assert words in str(refused.value)
    with pytest.raises(InputError, match="give a function that makes one"):
        run_at(Path("never"), env=Point, env_kwargs={"limit": 3})


def test_the_example_is_whole_and_the_page_shows_it(here: Path) -> None:
    root = Path(__file__).parent.parent
    file = root / "examples/own_environment.py"
    assert f"```python\n{file.read_text()}```" in (root / "docs/environments.md").read_text()
    example = runpy.run_path(str(file))
    run = run_at(here / "run", env=f"{file}:Reach", **TINY, env_kwargs={"steps": 30}).folder
    by_class = run_at(here / "class", env=partial(example["Reach"], steps=30), **TINY).folder
    assert digest(run, 0, weights_only=True) == digest(by_class, 0, weights_only=True)


def test_a_function_that_gives_the_same_environment_again_is_refused(tmp_path: Path) -> None:
    """Training and evaluations in one would disturb each other, and nothing would show."""
    point = Point()
    with pytest.raises(InputError, match="lambda gives the same environment again"):
        run_at(tmp_path / "run", env=lambda: point, **TINY)
    run = run_at(tmp_path / "run", env=lambda: point, single_env=True, **{**TINY, "frames": 60}).folder
    assert resume(run, env=lambda: point, frames=90).finished


# What the command line takes


@pytest.mark.parametrize("name", ["reach:Reach", "reach.py:Reach", "robots/reach.py:Reach", "robots/reach.py:Reach-v0"])
def test_a_class_in_a_module_or_a_file_with_arguments(name: str, here: Path) -> None:
    place = here / name.partition(":")[0].removesuffix(".py")
    place.parent.mkdir(exist_ok=True)
    place.with_suffix(".py").write_text(REACH + "gymnasium.register('Reach-v0', Reach)\n")
    assert main(command("--env", name, "--env-kwargs", '{"gain": 2}', "--max-episode-steps", "10")) == 0
    (run,) = here.glob("runs/*/*/*")
    assert run.parent.name == "crossq_wn-utd1over4-actor_width=4-batch_size=8-env.gain=2-learning_starts=40-" + (
        "max_episode_steps=10-width=4"
    )
    assert {line.rpartition(",")[2] for line in records(run) if "ep_len_mean" in line} == {"10"}
    assert main(["evaluate", str(run), "--episodes", "1"]) == 2
    assert main(["evaluate", str(run), "--episodes", "1", "--trust"]) == 0


def test_arguments_and_a_time_limit_for_an_id() -> None:
    make = partial(suites.make, "Pendulum-v1", kwargs={"g": 0.0})
    assert make()._env.unwrapped.g == 0.0
    assert make().spec.episode_frames == 200
    limited = make(max_episode_steps=3, action_repeat=2)
    assert limited.spec.episode_frames == 3
    limited.reset(0)
    action = limited._env.action_space.sample()
    assert [limited.step(action).truncated for _ in range(2)] == [False, True]
    assert suites.make("cartpole-balance", max_episode_steps=30).spec.episode_frames == 30


BROKEN = {
    "twice.py": (
        "import gymnasium\n" + REACH.replace("    def step", "  def step"),
        "IndentationError: ",
        "twice.py, line 19",
    ),
    "name.py": ("import os\n\nnowhere.open()\n", "NameError: name 'nowhere' is not defined", "name.py, line 3"),
    "lacks.py": ("import not_installed_anywhere\n", "ModuleNotFoundError: No module named", "lacks.py, line 1"),
    "leaves.py": ("import sys\nsys.exit(0)\n", "SystemExit: 0", "leaves.py, line 2"),
    "wants.py": (
        REACH.replace("gain=1.0", "port"),
        "missing 1 required positional argument: 'port'",
        "wants.py, line 6",
    ),
    "closed.py": (
        REACH.replace("self.gain = gain", "open('/dev/nowhere')"),
        "FileNotFoundError: ",
        "closed.py, line 11, in __init__",
    ),
    "empty.py": ("import gymnasium\n", "registers no environment and defines none", "'Reach'"),
    "other.py": (REACH.replace("class Reach", "class Reacher"), "did you mean ", "other.py:Reacher'"),
    "made.py": (
        REACH.replace("class Reach", "class Reacher") + "Reach = Reacher()\n",
        "is an environment, not what makes one",
    ),
    "id.py": (
        REACH.replace("Reach", "Arm") + "gymnasium.register('Arm-v0', Arm)",
        "known: ",
        "id.py:Arm, id.py:Arm-v0",
    ),
}


@pytest.mark.parametrize("kind", ["module", "file"])
@pytest.mark.parametrize("file", BROKEN)
def test_what_is_wrong_with_own_code_is_a_sentence_with_its_line(
    kind: str, file: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(gymnasium.registry, "Arm-v0", raising=False)  # another test's
    text, *words = BROKEN[file]
    (here / file).write_text(text)
    code = file.removesuffix(".py") if kind == "module" else file
    assert main(command("--env", f"{code}:Reach")) == 2
    said = capsys.readouterr().err
    for part in words:
        assert (part if kind == "file" else part.replace(f"{file}:", f"{code}:")) in said
    assert said.count("\n") == 1
    assert len(said) < 500
    assert "/steadyq/" not in said
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--env", "Zzzz"], "`steadyq list envs` shows all; one of your own is module:Name-v0"),
        (["--env", "nowhere.py:Reach"], "there is no file nowhere.py in "),
        (
            ["--env", "Pendulum-v1", "--env-kwargs", "{g: 2}"],
            '--env-kwargs is {g: 2}; give a JSON object such as {"gain"',
        ),
        (["--env", "Pendulum-v1", "--env-kwargs", "[2]"], "--env-kwargs is [2]; give"),
        (["--env", "Pendulum-v1", "--env-kwargs", '{"gg": 2}'], "unexpected keyword argument 'gg'"),
        (["--env", "Pendulum-v1", "--env-kwargs", '{"max_episode_steps": 2}'], "give it as an option"),
        (["--env", "Pendulum-v1", "--max-episode-steps", "0"], "--max-episode-steps is 0; give"),
        (["--env", "walker-run", "--env-kwargs", '{"g": 2}'], "takes no arguments; leave --env-kwargs out"),
    ],
)
def test_options_of_environments_are_refused_in_a_sentence(
    arguments: list[str], words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(*arguments)) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert len(said) < 700


def test_parts_of_an_observation_may_have_numbers_for_names(tmp_path: Path) -> None:
    spaces = {0: Point().observation_space, 1: Point().observation_space}

    def twice() -> gymnasium.Env:
        return gymnasium.wrappers.TransformObservation(
            Point(), lambda obs: {0: obs, 1: obs}, gymnasium.spaces.Dict(spaces)
        )

    run = run_at(tmp_path / "run", env=twice, **TINY).folder
    assert [name for name, _ in read_record(run).observations] == ["0", "1"]


# No time limit


class Lengthening(Point):
    """Its episodes take four steps for a while, and fifty from then on."""

    resets = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        type(self).resets += 1
        self.limit = 4 if self.resets < 13 else 50  # two episodes of an evaluation, ten of training
        return super().reset(seed=seed)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, False, truncated, info


class Endless(Point):
    """Its episodes do not end."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        obs, reward, *_ = super().step(action)
        return obs, reward, False, False, {}


def test_an_environment_that_names_no_time_limit_and_an_episode_that_does_not_end_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Lengthening, "resets", 0)
    run_at(tmp_path / "run", env=Lengthening, single_env=True, **TINY)
    said = capsys.readouterr().out
    assert "Lengthening names no time limit" in said
    assert said.index("--max-episode-steps") < said.index("eval ")
    long = "has taken 40 agent steps so far, and the longest before it 4; if it never ends, stop the run and give"
    assert said.count(long) == 1
    limited = {**TINY, "max_episode_steps": 40, "single_env": True}
    monkeypatch.setattr(Lengthening, "resets", 0)
    run_at(tmp_path / "limited", env=Lengthening, **limited)
    assert "time limit" not in capsys.readouterr().out


def test_the_first_episode_of_an_environment_that_never_ends_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("steadyq.run.measure.FIRST", 3)
    monkeypatch.setattr("steadyq.examine.play.LONGEST", 100)
    with pytest.raises(InputError, match="has not ended after 100 frames; give --max-episode-steps"):
        run_at(tmp_path / "run", env=Endless, **TINY)
    assert "has taken 30 agent steps so far" in capsys.readouterr().out


def test_an_episode_that_no_longer_ends_is_cut_off_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Lengthening, "resets", 0)
    monkeypatch.setattr("steadyq.examine.play.LONGEST", 20)
    result = run_at(tmp_path / "run", env=Lengthening, single_env=True, **TINY)
    assert result.finished
    assert "has not ended after 20 frames: it is cut off there" in capsys.readouterr().out
    rows = metrics_csv.read(result.folder / metrics_csv.FILE)
    assert {row.value for row in rows if row.metric == "eval/mean_ep_length"} == {4, 20}
    evaluate(result.folder, env=Lengthening, episodes=1)
    assert "20 agent steps, cut off there: it may have no end" in capsys.readouterr().out


# Errors of one's own


HURDLES = {
    "no space": ("    action_space =", "    actions =", "has no action_space (reach.py, line 6); give its class one"),
    "raises": ("-abs(self.x), False", "self.gane, False", "AttributeError: ", "(reach.py, line 20, in step)"),
    "nested": ("np.array([self.x", "np.array([self.y", "AttributeError: ", "(reach.py, line 23, in look)"),
    "None": ("return self.look(), -abs(self.x), False, False, {}", "pass", "step() of Reach returned None, not (obs"),
    "old step": ("False, False, {}", "False, {}", "returned 4 values (as before Gymnasium 0.26), not (observation, "),
    "old reset": ("return self.look(), {}", "return self.look()", "reset() of Reach returned an array of shape (2,)"),
    "no seed": ("(self, *, seed=None, options=None)", "(self, seeds=0)", "takes no seed (reach.py, line 13); write it"),
    "reward": ("-abs(self.x), False", "None, False", "step() of Reach returned None, not a number as reward (reach"),
    "rewards": ("-abs(self.x), False", "np.zeros(2), False", "an array of shape (2,), not a number as reward (reach"),
    "shape": ("self.gain], np.float32", "self.gain, 3]", "an array of shape (3,), not an observation of Box("),
    "nothing": ("return np.array", "np.array", "reset() of Reach returned None, not an observation of Box("),
    "words": ("return np.array", "return 'here', np.array", "reset() of Reach returned 2 values, not an observation"),
    "exit": ("self.x = np.clip", "raise SystemExit\n        np.clip", "SystemExit (reach.py, line 19, in step)"),
}


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("hurdle", HURDLES)
def test_what_fails_at_once_stops_at_once_with_the_user_s_own_line(
    hurdle: str, registered: bool, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong, *words = HURDLES[hurdle]
    assert right in REACH
    (here / "reach.py").write_text(
        REACH.replace(right, wrong) + "gymnasium.register('Reach-v0', Reach, max_episode_steps=9)"
    )
    name = "Reach-v0" if registered else "Reach"
    assert main(command("--env", f"reach.py:{name}")) == 2
    said = capsys.readouterr().err
    for part in words:
        assert part.replace("of Reach ", f"of reach.py:{name} ") in said
    assert "reach.py, line " in said
    assert "/steadyq/" not in said
    assert "/gymnasium/" not in said
    assert len(said) < 700
    assert not [*here.glob("runs/*/*/*/run.json")]


def test_an_array_of_one_number_is_a_reward(here: Path) -> None:
    (here / "reach.py").write_text(REACH.replace("-abs(self.x), False", "np.array([[-abs(self.x)]]), False"))
    odd, plain = (suites.make(name, max_episode_steps=5) for name in ("reach.py:Reach", "reach.py:Reach"))
    plain._env.step = lambda action: (np.zeros(2), np.float32(2.5), False, False, {})
    for env in (odd, plain):
        env.reset(0)
    assert odd.step(np.zeros(1, np.float32)).reward == -abs(odd._env.x)
    assert plain.step(np.zeros(1, np.float32)).reward == 2.5


class Stumbling(Point):
    """Fails at some steps, in two ways."""

    steps = 0

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        type(self).steps += 1
        if self.steps > 50 and self.steps % 9 == 0:
            self.stumble()
        return super().step(action)

    def stumble(self) -> None:
        raise ConnectionError("no answer from the arm")


def test_the_user_s_own_frames_are_shown_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Stumbling, "steps", 0)
    monkeypatch.chdir(Path(__file__).parent)
    with pytest.raises(
        RunError, match=r"the 10th time.*|no answer from the arm \(test_own_envs.py, line \d+, in stumble"
    ):
        run_at(tmp_path / "run", env=Stumbling, **{**TINY, "eval_every": 0, "frames": 900, "learning_starts": 800})
    lines = capsys.readouterr().out.splitlines()
    sentences = [line for line in lines if "a fresh environment takes its place" in line]
    assert len(sentences) == 10
    for line in sentences:
        assert "Stumbling failed in its step: ConnectionError: no answer from the arm (test_own_envs.py, line " in line
    assert len([line for line in lines if ", in step: self.stumble()" in line]) == 1
    assert len([line for line in lines if ", in stumble: raise ConnectionError(" in line]) == 1
