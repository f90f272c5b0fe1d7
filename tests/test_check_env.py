"""`steadyq check-env`: each flaw is found, nothing else is said, and it refuses what `train` refuses."""

import threading
import time
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

import steadyq
from runs import SMALL
from steadyq.cli.main import main
from steadyq.engine import machine
from steadyq.envs import check, guard
from steadyq.envs.gymnasium import OPEN
from steadyq.run import check_env as module
from steadyq.store.replay import Replay

EXAMPLE = Path(__file__).parents[1] / "examples/own_environment.py"
LIMIT = 12
HISTORY = count()


class Flawed(gymnasium.Env):
    """A point that drifts, without a flaw but the one that is asked for."""

    metadata = {"render_modes": []}  # noqa: RUF012, Gymnasium's way

    def __init__(self, flaw: str = "", **spaces: Any) -> None:
        self.flaw = flaw
        if flaw == "no making":
            raise ValueError("the port is closed")
        self.observation_space = spaces.get("obs", Dict(place=Box(-100, 100, (2,)), speed=Box(-1, 1, (1,))))
        self.action_space = spaces.get("actions", Box(-2, 2, (1,)))
        self.place = np.zeros(2, np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        if self.flaw == "no reset":
            raise ValueError("the cable is loose")
        super().reset(seed=None if self.flaw == "unseeded" else seed)
        self.t = 0
        start = 0 if self.flaw == "same start" else self.np_random.uniform(-1, 1)
        self.place, self.falls = np.full(2, start, np.float32), start > 0
        return self.look(0), {}

    def step(self, action: np.ndarray) -> tuple[Any, Any, Any, bool, dict]:
        self.t += 1
        self.place += action
        if self.flaw == "history":
            self.place += next(HISTORY) % 7 / 100
        if (self.flaw, self.t) in (("raises", 5), ("no step", 1)):
            raise ValueError("the motor is hot")
        reward: Any = 1.0 if self.flaw == "constant reward" else float(self.place[0])
        if (self.flaw, self.t) in (("nan", 5), ("nan at once", 1)):
            reward = float("nan")
        if self.flaw == "flags":
            return self.look(action[0]), np.array(reward), 0, False, {}
        short = self.flaw == "own limit" and self.t == LIMIT - 2
        short |= self.flaw in ("falls or ends", "falls") and self.t == (5 if self.falls else LIMIT)
        return self.look(action[0]), reward, short or (self.flaw == "ends" and self.t == LIMIT), False, {}

    def look(self, speed: float) -> Any:
        place = self.place if self.flaw == "alias" else self.place.copy()
        if self.flaw == "float64":
            place = place.astype(np.float64)
        scale = 1 if self.flaw == "outside" else 0.5
        return {"place": place, "speed": np.array([scale * speed], np.float32)}


FLAWS = {
    "float64": ("types", "place is float64 (2,), announced as float32 (2,): converted"),
    "flags": ("types", "reward is ndarray, not float; terminated is int, not bool: converted"),
    "outside": ("bounds", r"beyond [-1, 1]"),
    "alias": ("aliasing", "an observation changed after it was returned"),
    "constant reward": ("rewards", "always 1 in 48 steps"),
    "nan": ("numbers", "after 4 steps: Flawed-nan-v0 gave a reward that is not finite, nan"),
    "raises": ("numbers", "ValueError: the motor is hot"),
    "ends": ("episodes", "time limit 12 frames; 4 episodes of 12 frames, terminated at the limit"),
    "falls or ends": ("episodes", "time limit 12 frames; 4 episodes of 5 to 12 frames, terminated at the limit"),
    "own limit": ("episodes", "time limit 12 frames; 4 episodes of 10 frames, all of them terminated"),
    "unseeded": ("seeds", "one seed starts different episodes"),
    "same start": ("seeds", "every seed starts the same episode"),
    "history": ("repetition", "same seed and actions, other numbers"),
}
for flaw in ("", *FLAWS, "no reset", "no step", "nan at once"):
    gymnasium.register(f"Flawed-{flaw.replace(' ', '_')}-v0", Flawed, max_episode_steps=LIMIT, kwargs={"flaw": flaw})
gymnasium.register("FlawedEndless-v0", Flawed)
gymnasium.register("FlawedActions-v0", Flawed, kwargs={"actions": Discrete(3)})
gymnasium.register("FlawedEmpty-v0", Flawed, kwargs={"obs": Dict(place=Box(-1, 1, (2,)), touch=Box(0, 1, (0,)))})
gymnasium.register("FlawedImage-v0", Flawed, kwargs={"obs": Box(0, 255, (8, 8), np.uint8)})


def ticks(seconds: float) -> Any:
    """A clock that goes on by so much with each look."""
    return (look * seconds for look in count()).__next__


def test_nothing_is_said_of_an_environment_without_flaws(capsys: pytest.CaptureFixture[str]) -> None:
    found = steadyq.check_env("Flawed--v0", clock=ticks(0.001))
    assert [(one.state, one.advice) for one in found] == [("ok", "")] * 11
    words = {one.subject: one.found for one in found}
    assert words["spaces"] == "3 numbers observed, 1 action in [-2, 2]; 1 frame per agent step"
    assert (
        words["memory"]
        == f"{Replay.bytes_needed(10**6, 3, 1) / 1e9:.2f} GB for the replay of a run of 1,000,000 frames"
    )
    assert words["episodes"] == "time limit 12 frames; 4 episodes of 12 frames"
    assert words["speed"] == "1 ms a frame (a step at most 1 ms), 1 ms a reset: 1,000 frames/s before any updates"
    played, *lines = capsys.readouterr().out.splitlines()
    assert played == "Flawed--v0 is played with random actions, for 20 s at most"
    assert [line.split()[:2] for line in lines[:11]] == [[one.subject, "ok"] for one in found]
    assert lines[-1] == "`steadyq train` takes this environment."


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_found_and_nothing_else(flaw: str) -> None:
    found = steadyq.check_env(f"Flawed-{flaw.replace(' ', '_')}-v0", clock=ticks(0.001))
    subject, words = FLAWS[flaw]
    noted = {one.subject: one for one in found if one.state != "ok"}
    if flaw == "unseeded":  # which cannot repeat itself, either
        assert noted.pop("repetition").state == "note"
    assert [*noted] == [subject]
    assert noted[subject].state == "note"
    assert words in noted[subject].found
    assert noted[subject].advice


def test_a_slow_environment_and_one_without_time_limit() -> None:
    found = {one.subject: one for one in steadyq.check_env("FlawedEndless-v0", clock=ticks(0.1))}
    assert found["episodes"].found == "no time limit is announced; none ended within 66 steps"
    assert "--max-episode-steps" in found["episodes"].advice
    assert found["speed"].found.startswith("100 ms a frame")
    assert found["speed"].advice.startswith("1,000,000 frames take 28 hours")
    assert {one.subject for one in found.values() if one.state != "ok"} == {"episodes", "speed"}


def test_ends_that_a_policy_may_avoid_are_no_time_limit() -> None:
    found = {one.subject: one for one in steadyq.check_env(lambda: Flawed("falls"), clock=ticks(0.001))}
    assert [one.subject for one in found.values() if one.state != "ok"] == ["episodes"]
    assert found["episodes"].found == "no time limit is announced; 4 episodes of 5 to 12 frames, all of them terminated"
    assert "give --max-episode-steps" in found["episodes"].advice


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("FlawedActions-v0", "are Discrete(3), but steadyq controls with real numbers"),
        ("FlawedImage-v0", "is an image of shape (8, 8)"),
        ("FlawedEmpty-v0", "the observation 'touch' of FlawedEmpty-v0 has no numbers: its shape is (0,)"),
        ("FlawedX-v0", "unknown environment 'FlawedX-v0'"),
        ("lqr-lqr_2_1", "finite bounds"),
    ],
)
def test_what_train_refuses_is_refused_in_the_same_words(
    env: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "crossq_wn", "--env", env, "--out", str(tmp_path / "run")]) == 2
    assert words in (said := capsys.readouterr().err.removeprefix("steadyq: ").strip())
    found = module.check_env(env)
    assert [(one.state, one.found) for one in found] == [("refused", said)]
    assert main(["check-env", env]) == 2
    assert "`steadyq train` cannot use this environment." in capsys.readouterr().out


@pytest.mark.parametrize(("flaw", "words"), [("no_reset", "the cable is loose"), ("no_step", "the motor is hot")])
def test_what_fails_at_once_is_refused(
    flaw: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "sac", "--env", f"Flawed-{flaw}-v0", "--out", str(tmp_path / "run")]) == 2
    assert words in capsys.readouterr().err
    assert main(["check-env", f"Flawed-{flaw}-v0"]) == 2
    out = capsys.readouterr().out
    assert "\nfirst step  refused" in out
    assert words in out


def test_what_was_checked_is_let_go_again() -> None:
    robot = Flawed()
    for _ in range(2):
        assert {one.state for one in steadyq.check_env(lambda: robot, single_env=True)} <= {"ok", "note"}
    assert robot not in OPEN


def test_an_environment_that_cannot_be_made_leaves_no_thread() -> None:
    before = threading.active_count()
    for _ in range(3):
        (found,) = steadyq.check_env(partial(Flawed, flaw="no making"))
        assert found.state == "refused"
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_a_bad_first_number_is_a_note_since_a_run_begins() -> None:
    *_, last = steadyq.check_env("Flawed-nan_at_once-v0")
    assert (last.subject, last.state) == ("numbers", "note")
    assert last.found.startswith("after 0 steps: Flawed-nan_at_once-v0 gave a reward that is not finite")


def test_a_run_that_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(10**9, 20 * 10**6))
    assert main(["check-env", "Flawed--v0"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("memory")] == ["refused"]
    assert "give a smaller --buffer-size" in " ".join(" ".join(lines).split())


def test_what_is_taken_is_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-env", "Flawed--v0", "--action-repeat", "3"]) == 0
    short = {**SMALL, "frames": 10, "eval_every": 0}  # without an update
    assert "3 frames per agent step" in capsys.readouterr().out
    assert steadyq.train("sac", env="Flawed--v0", out=str(tmp_path / "run"), **short).finished


@pytest.mark.parametrize("env", [Flawed, Flawed(), "toy:Point", f"{EXAMPLE}:Reach"])
def test_it_takes_what_train_takes(env: Any) -> None:
    found = steadyq.check_env(env, max_episode_steps=9, env_kwargs={} if env is Flawed else None, clock=ticks(0.001))
    assert {one.state for one in found} == {"ok"}
    assert "4 episodes of 9 frames" in {one.subject: one.found for one in found}["episodes"]


def test_a_robot_is_opened_once_and_an_instance_stays_open() -> None:
    opened, closed = list[gymnasium.Env](), list[gymnasium.Env]()

    class Robot(Flawed):
        def __init__(self) -> None:
            super().__init__()
            opened.append(self)

        def close(self) -> None:
            closed.append(self)

    steadyq.check_env(Robot, max_episode_steps=9, clock=ticks(0.001))
    assert len(opened) == len(closed) == 2
    found = steadyq.check_env(Robot, max_episode_steps=9, single_env=True, clock=ticks(0.001))
    assert len(opened) == len(closed) == 3
    assert {one.state for one in found} == {"ok"}
    steadyq.check_env(Robot(), clock=ticks(0.001))
    assert (len(opened), len(closed)) == (4, 3)


def test_arguments_reach_the_constructor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-env", f"{EXAMPLE}:Reach", "--env-kwargs", '{"steps": 7}']) == 0
    assert "4 episodes of 7 frames" in capsys.readouterr().out
    assert main(["check-env", f"{EXAMPLE}:Reach", "--env-kwargs", '{"stips": 7}']) == 2
    assert "refused" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["reset", "step"])
def test_what_does_not_answer_is_named(
    where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The minute is over as soon as it hangs."""
    hangs, let_go = threading.Event(), threading.Event()

    class Impatient(SimpleQueue):
        def get(self, timeout: float | None = None) -> object:
            while timeout is not None and not hangs.is_set():
                with suppress(Empty):
                    return super().get(timeout=0.01)
            return super().get(timeout=timeout and 0.01)

    def hang(self: Flawed, *_: Any, **__: Any) -> None:
        hangs.set()
        let_go.wait()

    monkeypatch.setattr(guard, "SimpleQueue", Impatient)
    monkeypatch.setattr(Flawed, where, hang)
    assert main(["check-env", "Flawed--v0"]) == 2
    sentence = f"Flawed--v0 has not answered a {where} within 60 s, and was given up"
    out = " ".join(capsys.readouterr().out.split())
    assert f"answers refused {sentence} -> fix it, or give it longer with --env-timeout" in out
    assert out.endswith("`steadyq train` cannot use this environment.")
    let_go.set()


def test_it_stops_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SECONDS", 0.01)
    for seconds, steps in ((0.001, "3 steps"), (1.0, "1 step")):
        found = {one.subject: one for one in steadyq.check_env("Flawed--v0", clock=ticks(seconds))}
        assert found["episodes"].found == f"time limit 12 frames; none ended within {steps}"
