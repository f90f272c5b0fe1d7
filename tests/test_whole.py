"""The command line as a user meets it: train, interrupt, resume, evaluate and film, in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

OPTIONS = {
    "width": 16,
    "actor-width": 16,
    "frames": 400,
    "learning-starts": 100,
    "utd": "1/2",
    "batch-size": 16,
    "eval-every": 200,
    "eval-episodes": 1,
    "log-every": 100,
    "save-every": 100,
    "compile": "off",
    "threads": 1,
}
SMALL = [part for name, value in OPTIONS.items() for part in (f"--{name}", str(value))]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "steadyq.cli", *arguments]


def steadyq(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


def picture_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


@pytest.mark.parametrize("env", ["cartpole-swingup", "Pendulum-v1"])
def test_train_interrupt_resume_evaluate(env: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = ["train", "crossq_wn", "--env", env, *SMALL, "--out", str(run)]
    going = subprocess.Popen(command(*train), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (run / "seed-0").exists() and going.poll() is None:  # made by the first evaluation
        time.sleep(0.02)
    time.sleep(0.2)
    going.send_signal(signal.SIGINT)
    out, err = going.communicate(timeout=120)
    assert going.returncode == 75, err
    assert "resume with: steadyq resume" in out

    refused = steadyq(*train)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "already holds a run" in refused.stderr

    resumed = steadyq("resume", str(run))
    assert resumed.returncode == 0, resumed.stderr
    assert "Traceback" not in resumed.stderr
    assert f"run            {run}" in resumed.stdout
    assert picture_size(run / "learning_curve.png") == (1200, 750)

    strip = tmp_path / "strip.png"
    pictures = ["--film-strip", str(strip)] if env == "cartpole-swingup" else []
    shown = steadyq("evaluate", str(run), "--episodes", "1", "--checkpoint", "best", *pictures)
    assert shown.returncode == 0, shown.stderr
    assert f"on {env}, seed 0" in shown.stdout
    assert not pictures or picture_size(strip)[0] > 600


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
