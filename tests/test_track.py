"""Tracking: what W&B is told, by a module that stands in for it; and that nothing which happens there reaches a run."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from runs import SMALL, digest, records, run_at, stopped_at
from steadyq.cli.main import main
from steadyq.run import track
from steadyq.run.resume import resume
from steadyq.run.tracker import STATE

STUB = """
import json, os, time

def record(*what):
    with open(os.environ["RECORD"], "a") as file:
        file.write(json.dumps(what) + "\\n")

class Run:
    def __init__(self, id, mode):
        self.id, self.offline, self.url = id, mode == "offline", "https://wandb.test/" + id
        self.dir = os.path.join(os.environ["RECORD"] + ".wandb", "run-" + id, "files")

    def __getattr__(self, name):
        return lambda *given, **more: record(self.id, name, given, more)

class Settings(dict):
    pass

def init(*, id, mode, **how):
    if os.environ["STUB"] == "silent":
        time.sleep(1e6)
    if os.environ["STUB"] == "dead" and mode is None:
        raise ConnectionError("nobody answers")
    record(id, "init", [], how)
    return Run(id, mode)

def teardown():
    record("", "teardown", [], {})
"""


class Told:
    """What the module in W&B's place was told."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def calls(self, name: str) -> list[tuple[str, list[Any], dict[str, Any]]]:
        """Of one function: the id of the W&B run and the arguments."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [(run, given, more) for run, called, given, more in map(json.loads, lines) if called == name]

    def rows(self) -> dict[str, list[tuple[str, int, float]]]:
        """What was logged, by run: metric, frame and value, without clocks."""
        found: dict[str, list[tuple[str, int, float]]] = {}
        for run, (metrics,), _ in self.calls("log"):
            frame = metrics.pop("env_step")
            new = [(name, frame, value) for name, value in metrics.items() if not name.startswith("time/")]
            found.setdefault(run, []).extend(new)
        return found


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "wandb.py").write_text(STUB)
    monkeypatch.syspath_prepend(stub)  # where the run looks whether it is installed
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(stub), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("RECORD", str(tmp_path / "told"))
    monkeypatch.setenv("STUB", "answers")
    return Told(tmp_path / "told")


def rows(run: Path, seed: int) -> list[tuple[str, int, float]]:
    lines = [line.split(",") for line in records(run, seed=seed)]
    return [(metric, int(frame), float(value)) for _, _, _, metric, frame, value in lines]


def ids(run: Path) -> dict[str, str]:
    return {seed: one["id"] for seed, one in json.loads((run / STATE).read_text()).items()}


def test_each_seed_is_a_run_of_one_group(told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_at(tmp_path / "run", seeds=(0, 3), name="mine", track="wandb:us/walks").folder
    (first, _, how), (second, _, other) = told.calls("init")
    assert {"0": first, "3": second} == ids(run)
    assert (how["entity"], how["project"]) == ("us", "walks")
    assert how["group"] == other["group"] == "mine on toy:Point-v0"
    assert [how["name"], other["name"]] == [f"mine on toy:Point-v0, seed {seed}" for seed in (0, 3)]
    record = json.loads((run / "run.json").read_text())
    settings = {key: value for key, value in record["settings"].items() if key not in ("seeds", "track")}
    newest = record["stretches"][-1]
    assert other["config"] == settings | {"seed": 3, "commit": newest["commit"], "versions": newest["versions"]}
    assert Path(how["dir"]) == tmp_path
    assert told.rows() == {first: rows(run, 0), second: rows(run, 3)}
    assert [given for _, given, _ in told.calls("define_metric")] == [["env_step"], ["*"]] * 2
    assert [one for one, _, _ in told.calls("finish")] == [first, second]
    assert f"W&B seed 3: https://wandb.test/{second}" in capsys.readouterr().out


def test_a_resumed_run_is_the_same_one_there_and_nothing_is_sent_twice(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stopped_at(70, patch)
        run = run_at(tmp_path / "run", track="wandb").folder
    before = ids(run)
    capsys.readouterr()
    assert resume(run, trust=True, frames=80).finished  # without a word about tracking
    assert "W&B gets nothing from here on; add --track wandb to send it, later too" in capsys.readouterr().out
    assert len(told.calls("init")) == 1
    assert main(["resume", str(run), "--trust", "--frames", "90", "--track", "wandb"]) == 0
    assert len(told.calls("init")) == 2
    assert ids(run) == before
    assert told.rows() == {before["0"]: rows(run, 0)}
    assert told.calls("init")[1][2]["resume"] == "allow"


def test_a_printed_command_tracks_again(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_at(70, monkeypatch)
    given = {**SMALL, "env": "toy:Point-v0", "out": tmp_path / "run", "track": "wandb:a b"}
    options = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    assert main(["train", "crossq_wn", *options]) == 75
    assert f"resume with: steadyq resume {tmp_path / 'run'} --trust --track 'wandb:a b'" in capsys.readouterr().out
    assert told.calls("init")[0][2]["project"] == "a b"


def test_a_network_that_is_gone_leaves_all_of_it_here(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUB", "dead")
    run = run_at(tmp_path / "run", track="wandb").folder
    name = ids(run)["0"]
    assert told.rows() == {name: rows(run, 0)}
    assert len(told.calls("teardown")) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    folder = f"{tmp_path / 'told.wandb'}/run-{name}"
    assert last == f"W&B lacks some of this run (nobody answers); send it with: wandb sync {folder}"


@pytest.mark.parametrize("where", ["at the start", "in the package", "no process"])
def test_a_tracker_that_never_answers_does_not_reach_the_run(
    where: str, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody waits for it while there is something to do, and the run is bit for bit as it is without it."""
    plain = run_at(tmp_path / "plain", frames=60).folder
    assert not told.calls("init")
    monkeypatch.setattr(track, "WAIT", 0.0)
    monkeypatch.setenv("STUB", "silent")
    if where == "in the package":
        (tmp_path / "stub/wandb.py").write_text("import time\ntime.sleep(1e6)\n")
    if where == "no process":
        monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    result = run_at(tmp_path / "run", frames=60, track="wandb")
    assert result.finished
    assert records(result.folder) == records(plain)
    assert digest(result.folder, 0) == digest(plain, 0)
    printed = capsys.readouterr().out
    assert ("no process can be started" if where == "no process" else "W&B has nothing new; send it with:") in printed


def test_without_the_package_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_at(tmp_path / "run", frames=60).folder
    capsys.readouterr()
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else real(name))
    record = (run / "run.json").read_bytes()
    commands = (
        ["train", "crossq_wn", "--env", "toy:Point-v0", "--out", str(tmp_path / "new"), "--track", "wandb"],
        ["resume", str(run), "--trust", "--track", "wandb:p"],
    )
    for command in commands:
        assert main(command) == 2
        assert "the package wandb is not installed; `pip install wandb`, or leave --track out" in (
            capsys.readouterr().err
        )
    assert not (tmp_path / "new").exists()
    assert (run / "run.json").read_bytes() == record


@pytest.mark.parametrize("text", ["tensorboard", "wandb:", "wandb:a/b/c", "wandb:a\nb", "wandb:a?b", ""])
def test_what_is_no_tracker_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give wandb, wandb:PROJECT or wandb:ENTITY/PROJECT"):
        run_at(tmp_path / "run", track=text)
    assert not (tmp_path / "run").exists()
