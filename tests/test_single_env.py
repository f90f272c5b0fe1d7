"""A robot: an environment that counts how often it is made, reset and stepped, with `--single-env` and without."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from runs import SMALL, digest, records, run_at, stopped_at
from steadyq.cli.main import main
from steadyq.errors import InputError, RunError
from steadyq.examine.snapshots import diagnose
from steadyq.run.resume import resume
from steadyq.store.folder import returns
from steadyq.store.record import read_record
from toy import Point

TINY = {**SMALL, "width": 4, "actor_width": 4}


class Robot(Point):
    """A point that takes notes of all that is done to it, over all of its kind. Its episodes take seven steps."""

    done: list[str] = []  # noqa: RUF012, shared on purpose
    fails_at = 0

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(limit=7)
        assert render_mode is None, "asked for pictures"
        self.ended = True
        self.done.append("make")

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.done.append("reset" if self.ended else "reset in an episode")
        self.ended = False
        return super().reset(seed=seed)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.done.append("step")
        if self.done.count("step") == self.fails_at:
            raise ConnectionError("no answer from the arm")
        obs, reward, terminated, truncated, info = super().step(action)
        self.ended = terminated or truncated
        return obs, reward, terminated, truncated, info

    def close(self) -> None:
        self.done.append("close")


gymnasium.register("Robot-v0", Robot)


@pytest.fixture(autouse=True)
def done(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is done to robots in this test."""
    monkeypatch.setattr(Robot, "done", [])
    return Robot.done


def test_a_robot_is_made_once_and_moved_for_episodes_only(tmp_path: Path, done: list[str]) -> None:
    single = run_at(tmp_path / "single", env=Robot, single_env=True, **TINY).folder
    evaluations = records(single, leave_out="train/")
    lengths = [float(line.rpartition(",")[2]) for line in evaluations if "eval/mean_ep_length" in line]
    assert [frame // 40 for frame in returns(single, 0)] == [0, 1, 2]  # each after the episode it was due in
    assert (done.count("make"), done[0], done.count("close"), done[-1]) == (1, "make", 1, "close")
    assert done.count("step") == 90 + 2 * sum(lengths)
    assert done.count("reset in an episode") == 0
    ordinary = run_at(tmp_path / "ordinary", env=Robot, **TINY).folder
    trained = [[line for line in records(run) if "eval" not in line] for run in (single, ordinary)]
    assert trained[0] == trained[1]
    assert any("critic_loss" in line for line in trained[0])


def test_the_end_of_a_run_is_the_end_of_its_last_episode(tmp_path: Path, done: list[str]) -> None:
    run = run_at(tmp_path / "run", env=Robot, single_env=True, **{**TINY, "frames": 80}).folder
    assert [*returns(run, 0)][-1] == 80
    assert done.count("reset in an episode") <= 1


def test_nothing_is_evaluated_if_nothing_is_asked_for(tmp_path: Path, done: list[str]) -> None:
    run_at(tmp_path / "run", env=Robot, single_env=True, **{**TINY, "eval_every": 0})
    assert done.count("step") == 90
    assert done.count("reset in an episode") == 0


def test_the_opening_lines_count_what_is_made(
    tmp_path: Path, done: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    short = {**TINY, "frames": 40}
    for seeds, choices in ((0,), {}), ((0, 1), {"diagnose_every": 40}):
        done.clear()
        run_at(tmp_path / str(len(seeds)), env=Robot, seeds=seeds, **{**short, **choices})
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("environments: ")]
        assert sum(map(int, re.findall(r"\b(\d) ", line))) == done.count("make")
        assert "--single-env makes one" in line
    run_at(tmp_path / "single", env=Robot, single_env=True, **short)
    assert "environments: a single one, made once" in capsys.readouterr().out


@pytest.mark.parametrize("step", [31, 0])
def test_a_robot_is_not_moved_to_where_it_was(
    step: int, tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resumed run begins with a new episode, also if it was stopped before its first."""
    with monkeypatch.context() as patch:
        stopped_at(step, patch)
        run = run_at(tmp_path / "run", env=Robot, single_env=True, **TINY).folder
    assert done.count("step") == step + (14 if step else 0)
    done.clear()
    capsys.readouterr()
    assert resume(run, env=Robot).finished
    inexact = "whose episode is not repeated: seeds 0 resume at the episode boundary, not bit-exactly"
    assert (inexact in capsys.readouterr().out) == (step > 0)
    assert done[:2] == ["make", "reset"]
    assert done.count("step") == 90 - step + (28 if step else 42)


def test_a_robots_run_that_never_saved_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its evaluations wait for the end of an episode, so it may have come past one that is due."""
    with monkeypatch.context() as patch:
        stopped_at(49, patch)
        run = run_at(tmp_path / "run", env=Robot, single_env=True, **{**TINY, "eval_every": 10, "save_every": "30min"})
    for saved in (run.folder / "seed-0" / "checkpoints").glob("*.safetensors"):
        saved.unlink()  # as if it had been killed
    assert resume(run.folder, env=Robot).finished


def test_a_run_that_was_stopped_between_episodes_is_the_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run_at(tmp_path / "undisturbed", env=Robot, single_env=True, **TINY).folder
    with monkeypatch.context() as patch:
        stopped_at(49, patch)
        run = run_at(tmp_path / "run", env=Robot, single_env=True, **TINY).folder
    resume(run, env=Robot)
    assert (digest(run, 0), records(run)) == (digest(undisturbed, 0), records(undisturbed))


@pytest.mark.parametrize("tolerance", ["raise", "end-episode"])
@pytest.mark.parametrize("at", [5, 40])
def test_a_robot_that_fails_is_not_opened_again(
    at: int, tolerance: str, tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an evaluation or while it trains; the run is saved, and is resumed once it answers."""
    monkeypatch.setattr(Robot, "fails_at", at)
    with pytest.raises(RunError, match=r"ConnectionError: no answer from the arm.*fix it, then resume the run"):
        run_at(tmp_path / "run", env=Robot, single_env=True, on_bad_step=tolerance, **TINY)
    assert (done.count("make"), done.count("step")) == (1, at)
    monkeypatch.setattr(Robot, "fails_at", 0)
    assert resume(tmp_path / "run", env=Robot).finished


def test_an_environment_that_is_given_is_the_only_one_and_stays_open(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = Robot()
    with monkeypatch.context() as patch:
        stopped_at(49, patch)
        run = run_at(tmp_path / "run", env=robot, **TINY).folder
    resume(run, env=robot)
    assert done.count("make") == 1
    assert "close" not in done
    settings = read_record(run).settings
    assert (settings.env, settings.env_object) == ("Robot", f"an instance of {__name__}.Robot")
    assert settings.single_env
    several = run_at(tmp_path / "several", env=Robot, **TINY).folder
    with pytest.raises(InputError, match=r"was the class .*Robot, and env is an instance of .*Robot; give the same"):
        resume(several, env=robot)
    made = gymnasium.make("Robot-v0")
    run = run_at(tmp_path / "made", env=made, **TINY).folder
    assert read_record(run).settings.env == "Robot-v0"


def test_the_command_line_has_the_option(tmp_path: Path, done: list[str]) -> None:
    options = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()]
    arguments = ["train", "crossq_wn", f"--env={__name__}:Robot", f"--out={tmp_path / 'run'}", "--single-env", *options]
    assert main(arguments) == 0
    assert done.count("make") == 1
    done.clear()
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "1", "--trust"]) == 0
    assert (done.count("make"), done.count("reset"), done.count("step")) == (1, 1, 7)


@pytest.mark.parametrize(("single", "longest"), [(True, 5), (False, 7)])
def test_a_diagnosis_does_not_move_a_robot_beyond_its_time_limit(
    single: bool, longest: int, tmp_path: Path, done: list[str]
) -> None:
    """Others are played on for their returns, here until the two more steps after which an episode ends by itself."""
    choices = {**TINY, "frames": 45, "eval_every": 45, "max_episode_steps": 5}
    run = run_at(tmp_path / "run", env=Robot, single_env=single, **choices).folder
    done.clear()
    diagnose(run, env=Robot, frames=[0], episodes=2)
    assert (done.count("make"), done.count("step")) == (1, 2 * longest)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"seeds": (0, 1)}, "--seeds are 0 1, and there is a single environment; give one seed"),
        ({"diagnose_every": 40}, "--diagnose-every is 40, and a diagnosis takes another environment"),
        ({"single_env": "yes"}, "--single-env is yes; give True or False"),
    ],
)
def test_what_takes_another_environment_is_refused(choices: dict, words: str, tmp_path: Path, done: list[str]) -> None:
    with pytest.raises(InputError, match=words):
        run_at(tmp_path / "run", env=partial(Robot), **{**TINY, "single_env": True, **choices})
    assert not done
