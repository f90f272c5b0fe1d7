"""Where a run stands, as `compare`, `report` and `watch` read it, and the printed commands, pasted."""

import re
import shlex
import sys
from html import unescape
from pathlib import Path

import gymnasium
import pytest

from runs import run_at, stopped_at
from steadyq.cli.main import main
from steadyq.errors import RunError
from steadyq.report import page, serve
from steadyq.results.read import read_runs, read_study, stands
from steadyq.store import lock
from steadyq.store.state import FAILED, resume_command
from toy import Point

gymnasium.register("LatePoint-v0", entry_point=Point, kwargs={"bad_step": 45})


def pasted(command: str) -> int:
    """What comes of a command that was printed."""
    program, *words = shlex.split(command)
    assert program == "steadyq"
    return main(words)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has to be quoted."""
    return tmp_path_factory.mktemp("it's here")


def test_a_stopped_run_is_resumed_by_what_is_printed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = place / "stopped"
    settings = {"--frames": 90, "--learning-starts": 40, "--batch-size": 8, "--eval-every": 40, "--eval-episodes": 1}
    settings |= {"--compile": "off", "--threads": 1, "--width": 16, "--actor-width": 16, "--log-every": 30}
    words = ["train", "sac", "--env", "toy:Point-v0", "--out", str(run), *(f"{k}={v}" for k, v in settings.items())]
    with monkeypatch.context() as patch:
        stopped_at(57, patch)
        assert main(words) == 75
    (printed,) = re.findall("resume with: (.*)", capsys.readouterr().out)
    assert read_runs([run]).complaints == [f"{run} stopped at frame 57 of 90; resume it with: {printed}"]
    assert main(words) == 2
    (again,) = re.findall("--resume to resume it: (.*)", capsys.readouterr().err)
    assert main(["evaluate", str(run), "--episodes", "1"]) == 0  # the module is imported already
    with monkeypatch.context() as patch:
        stopped_at(70, patch)
        assert pasted(again) == 75
    assert pasted(printed) == 0
    assert read_runs([run]).complaints == []
    assert stands(run).words == "done at frame 90"
    assert "seed 0: done at frame 90" in unescape(page.render(read_study([run])))


def test_a_failed_run_says_why_until_it_is_resumed(place: Path, capsys: pytest.CaptureFixture) -> None:
    run = place / "failed"
    with pytest.raises(RunError, match="reward that is not finite") as caught:
        run_at(run, env="toy:LatePoint-v0")
    sentence = f"{run} failed, saved at frame 30 of 90: {caught.value}"
    assert read_runs([run]).complaints == [sentence]
    assert main(["compare", str(run), "--reps", "10"]) == 0
    assert f"- {sentence}" in capsys.readouterr().out
    (printed,) = re.findall("`(steadyq resume .*)`", str(caught.value))
    assert pasted(printed) == 0
    assert read_runs([run]).complaints == []
    assert not (run / FAILED).exists()


def test_a_running_run_says_who_has_it_and_watch_sees_when_that_ends(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = place / "running"
    stopped_at(57, monkeypatch)
    run_at(run)
    before = serve.fingerprint([place])
    with lock.hold(run):
        (said,) = read_runs([run]).complaints
        assert said == f"{run} is running at frame 57 of 90, held by {lock.owner(run)}"
        assert "process" in said
        during = serve.fingerprint([place])
    assert len({before, during, serve.fingerprint([place])}) == 2
    assert stands(run).words == "stopped at frame 57 of 90"


def test_asking_does_not_keep_anybody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks has the lock for a moment, in which a run may want to begin."""
    with lock.hold(tmp_path):
        pass
    asker = lock.FileLock(tmp_path / lock.LOCK)
    asker.acquire()
    monkeypatch.setattr("time.sleep", lambda seconds: asker.release())  # of the one who waits
    with lock.hold(tmp_path):
        assert not asker.is_locked


def test_the_option_that_a_refusal_is_about_is_in_the_command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = place / "module"
    stopped_at(41, monkeypatch)
    run_at(run)
    monkeypatch.delitem(sys.modules, "toy")
    for words in (["evaluate", str(run), "--episodes", "1"], ["diagnose", str(run)], ["resume", str(run)]):
        assert main(words) == 2
        sentence, _, command = capsys.readouterr().err.strip().rpartition(": ")
        assert sentence.endswith("if you trust it, add --trust")
        assert shlex.split(command) == ["steadyq", *words, "--trust"]


def test_what_resumes_a_run_fits_how_its_environment_was_given() -> None:
    options = {"on_bad_step": "end-episode"}
    quoted = "steadyq resume 'my run'"
    assert resume_command("my run", {}) == quoted
    assert resume_command("my run", {"env": "dog-run", "env_kwargs": None, "env_object": None}) == quoted
    for settings in ({"env": "robot:Arm-v0"}, {"env": "robot.py:Arm"}, {"env": "Arm-v0", "env_kwargs": {"gain": 2}}):
        command = resume_command("my run", settings, **options)
        assert command == f"{quoted} --trust --on-bad-step end-episode"
    from_python = {"env": "Arm", "env_object": "the class Arm"}
    assert resume_command("my run", from_python, **options) == (
        "steadyq.resume('my run', env=..., on_bad_step='end-episode')"
    )
