"""Whole runs at toy size, and what two runs of one command share."""

import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from steadyq.run import go
from steadyq.run.go import Result
from steadyq.run.loop import loop
from steadyq.run.stop import Stop
from steadyq.run.train import train
from steadyq.run.training import Training
from steadyq.store import checkpoint
from steadyq.store.folder import REPLAY, seed_folder
from steadyq.store.replay import Replay
from toy import Point

SMALL = {
    "width": 16,
    "actor_width": 16,
    "frames": 90,
    "learning_starts": 40,
    "utd": "1/4",  # not compiled, an update takes longer than anything else here
    "batch_size": 8,
    "eval_every": 40,
    "eval_episodes": 2,
    "log_every": 30,
    "save_every": 30,
    "compile": "off",
    "threads": 1,
}

CLOCKS = ("elapsed", "metrics", "record")
"""What of a checkpoint depends on when and where a run was made."""


def run_at(out: Path, recipe: str = "crossq_wn", env: str = "toy:Point-v0", **changes: object) -> Result:
    return train(recipe, env=env, **{**SMALL, "out": str(out), **changes})


def records(run: Path, *, seed: int | None = None, leave_out: str = "time/") -> list[str]:
    """The lines of metrics.csv that two runs of one command share."""
    lines = (run / "metrics.csv").read_text().splitlines()[1:]
    kept = [line for line in lines if leave_out not in line]
    return kept if seed is None else [line for line in kept if line.split(",")[2] == str(seed)]


def digest(run: Path, seed: int, *, weights_only: bool = False) -> str:
    """SHA-256 over the newest checkpoint: everything that a seed is."""
    saved = checkpoint.load(seed_folder(run, seed))
    whole = hashlib.sha256()
    for name in sorted(saved.tensors):
        if not (weights_only and name.startswith("stream.")):
            whole.update(name.encode() + saved.tensors[name].numpy().tobytes())
    if not weights_only:
        replay = transitions(run, seed)
        for key, value in sorted(replay.segment(replay.added - replay.size, replay.added).items()):
            whole.update(key.encode() + value.tobytes())
    meta = {k: v for k, v in saved.meta.items() if k not in CLOCKS}
    whole.update(json.dumps(meta, sort_keys=True).encode())
    return whole.hexdigest()


def transitions(run: Path, seed: int = 0) -> Replay:
    """The replay of the newest checkpoint."""
    replay = Replay(capacity=1_000, obs_dim=2, action_dim=1)
    checkpoint.fill(seed_folder(run, seed), checkpoint.load(seed_folder(run, seed)), {REPLAY: replay})
    return replay


class StopAt:
    """Asks to stop once the run has reached a step, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step, self.run = step, None

    @property
    def asked(self) -> bool:
        return self.run is not None and self.run.step >= self.step

    def __enter__(self) -> "StopAt":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def stopped_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next run stop after so many agent steps."""
    stop = StopAt(step)

    def watched(run: Training, given: object) -> bool:
        stop.run = run
        return loop(run, stop)

    monkeypatch.setattr(go, "loop", watched)


def steps_take(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of the toy takes so long by the clock of the runs to come, and nothing else takes any time."""
    now, real = [0.0], Point.step

    def step(env: Point, action: np.ndarray) -> tuple:
        now[0] += seconds
        return real(env, action)

    monkeypatch.setattr(Point, "step", step)
    for command in ("train", "resume"):
        monkeypatch.setattr(f"steadyq.run.{command}.Stop", partial(Stop, clock=lambda: now[0]))
