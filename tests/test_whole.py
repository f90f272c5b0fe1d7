"""The command line as a user meets it: train, interrupt, resume, evaluate and film, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

OPTIONS = {
    "width": 16,
    "actor-width": 16,
    "frames": 200,
    "learning-starts": 50,
    "utd": "1/2",
    "batch-size": 16,
    "eval-every": 200,
    "eval-episodes": 1,
    "log-every": 50,
    "save-every": 50,
    "compile": "off",
    "threads": 1,
}
SMALL = [part for name, value in OPTIONS.items() for part in (f"--{name}", str(value))]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "steadyq", *arguments]


def steadyq(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


CTRL_C = """
import signal, sys
from steadyq.cli.main import process
from steadyq.run import loop
learn = loop.learn

def interrupted(run):
    learn(run)
    if run.step == 75:
        signal.raise_signal(signal.SIGINT)

loop.learn = interrupted
process()
"""
"""`steadyq`, and somebody who presses Ctrl-C in step 75."""


def picture_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_train_interrupt_resume_evaluate(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = ["train", "crossq_wn", "--env", "cartpole-swingup", *SMALL, "--out", str(run)]
    program = [sys.executable, "-c", CTRL_C, *train]
    trained = subprocess.run(program, capture_output=True, text=True, check=False)
    assert trained.returncode == 75, trained.stderr
    assert "stopped at frame 152" in trained.stdout
    assert "resume with: steadyq resume" in trained.stdout

    resumed = steadyq("resume", str(run))
    assert resumed.returncode == 0, resumed.stderr
    assert "Traceback" not in resumed.stderr
    assert f"run            {run}" in resumed.stdout.splitlines()
    assert picture_size(run / "learning_curve.png") == (1200, 750)

    strip = tmp_path / "strip.png"
    shown = steadyq("evaluate", str(run), "--episodes", "1", "--checkpoint", "best", "--film-strip", str(strip))
    assert shown.returncode == 0, shown.stderr
    assert "on cartpole-swingup, seed 0" in shown.stdout
    assert picture_size(strip)[0] > 600


def test_a_reader_that_has_seen_enough_is_no_mistake() -> None:
    read, write = os.pipe()
    os.close(read)
    listed = subprocess.run(command("list", "envs"), stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (listed.returncode, listed.stderr) == (1, b"")


def test_a_list_of_environments() -> None:
    listed = steadyq("list", "envs")
    assert listed.returncode == 0
    assert "dog-run" in listed.stdout
    assert "Pendulum-v1" in listed.stdout
