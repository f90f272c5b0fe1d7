"""How long a run takes to save and go when it is asked to, with a full replay of a million dog-run transitions.

    python -m tools.stop_in_time --out FOLDER [--repeats 50] [--while WORD ...]

A run folder is made once: a short `crossq_wn` run whose replay is then filled with random transitions. From copies of
it (which share the replay's files) the run is resumed again and again, and asked to stop by SIGTERM, SIGUSR1 and SIGINT
in turn: while it trains, in the middle of an evaluation, while it waits for a compiler whose cache is empty; and by
`--max-minutes` instead of a signal, where the time is taken from the deadline. It must end with exit code 75, and its
newest checkpoint must be at the frame at which it reports that it stopped. FOLDER/results.csv has a row per stop; those
that are there already are not done again. Exit code 1 if any stop was wrong or took more than 5 s.
"""

import argparse
import csv
import os
import random
import re
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steadyq.engine import machine
from steadyq.store import checkpoint
from steadyq.store.folder import REPLAY, seed_folder
from steadyq.store.record import read_record, write_record
from steadyq.store.replay import Replay
from tools.process import Process, run_to_end
from tools.same_state import load

STOPPED = 75
LIMIT = 5.0
CAPACITY, CHUNK = 1_000_000, 10_000
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
WHILE: dict[str, dict[str, Any]] = {
    "learning": {"eval_every": 0, "log_every": 20},
    "evaluating": {"eval_every": 2, "eval_episodes": 100},  # at once, and for longer than anyone waits
    "waiting for the compiler": {"eval_every": 0},
    "max-minutes": {"eval_every": 0},
}
"""What the run is at when it is asked to stop, and the settings for that."""

COLUMNS = ["while", "asked", "seconds", "code", "doing", "stopped_at", "checkpoint", "right", "commit"]


def fill(run: Path) -> None:
    """Make a finished short run one that is a million steps on, with a full replay."""
    record = read_record(run)
    settings = replace(record.settings, frames=10 * CAPACITY)
    folder, sizes = seed_folder(run, 0), {"obs_dim": record.obs_dim, "action_dim": record.action_dim}
    saved, real = load(run, 0, record.settings.frames)
    rng, full = np.random.default_rng(0), Replay(capacity=CAPACITY, **sizes)
    for first in range(0, CAPACITY, CHUNK):
        full.extend(noise(rng, first, **sizes))
    # The episode under way keeps its transitions: they are the newest, and the environment is where they end.
    full.extend(real.segment(0, real.added) | {"first": np.array(full.added)})
    frame = full.added * settings.resolved("action_repeat")
    meta = saved.meta | {"run": saved.meta["run"] | {"step": full.added}}
    shutil.rmtree(folder / "checkpoints")
    history = checkpoint.History(folder)
    checkpoint.save(history, frame=frame, tensors=saved.tensors, meta=meta, replays={REPLAY: full})
    write_record(run, record._replace(settings=settings))


def noise(rng: np.random.Generator, first: int, *, obs_dim: int, action_dim: int) -> dict[str, np.ndarray]:
    """Random transitions in episodes of 500, as a segment."""
    ends = np.arange(1, CHUNK + 1) % 500 == 0
    return {
        "first": np.array(first),
        "obs": rng.standard_normal((CHUNK, obs_dim), np.float32),
        "action": 2 * rng.random((CHUNK, action_dim), np.float32) - 1,
        "reward": rng.random(CHUNK, np.float32),
        "discount": np.full(CHUNK, 0.99, np.float32),
        "ends": ends,
        "next_obs": rng.standard_normal((ends.sum(), obs_dim), np.float32),
    }


def make(out: Path) -> Path:
    """The run folder that all are copies of."""
    run = out / "full"
    if not (out / "full.done").exists():
        shutil.rmtree(run, ignore_errors=True)
        options = ["--frames", "700", "--learning-starts", "300", "--eval-every", "0", "--threads", "1"]
        words = ["train", "crossq_wn", "--env", "dog-run", *options, "--out", str(run)]
        run_to_end(words, log=out / "full.log")
        fill(run)
        (out / "full.done").touch()
    return run


def copy(full: Path, run: Path, changed: dict[str, Any]) -> None:
    """A run folder with other settings that shares the replay's files, which are never written to again."""

    def link_or_copy(source: str, target: str) -> None:
        if Path(source).parent.name == REPLAY:
            os.link(source, target)
        else:
            shutil.copy2(source, target)

    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(full, run, copy_function=link_or_copy)
    record = read_record(run)
    write_record(run, record._replace(settings=replace(record.settings, **changed)))


def stop(run: Path, what: str, number: int, *, rng: random.Random, minutes: float) -> dict[str, Any]:
    """Resume, ask to stop, and report how it went."""
    log, asked = run.with_suffix(f".{number:02d}.log"), SIGNALS[number % len(SIGNALS)]
    cache = run.with_suffix(".cache")
    environment = {}
    if what == "waiting for the compiler":
        shutil.rmtree(cache, ignore_errors=True)
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    limit = ["--max-minutes", f"{minutes:g}"] if what == "max-minutes" else []
    process = Process(["resume", str(run), *limit], log=log, environment=environment)
    if limit:
        code, doing, since = process.popen.wait(), "", process.started + 60 * minutes
    else:
        if what == "learning":
            process.wait_for(r"\nframe ")  # the updates are compiled by then
        if not process.wait_until(what) or not process.runs_for(rng.uniform(0.2, 1.2)):
            raise RuntimeError(f"exit code {process.popen.returncode} before it was asked to stop; see {log}")
        doing, since = process.doing(), time.monotonic()
        code = process.end(asked)
    seconds = time.monotonic() - since
    newest = checkpoint.frames(seed_folder(run, 0))[-1]
    said = re.search(r"stopped at frame ([\d,]+)", process.text)
    at = int(said[1].replace(",", "")) if said else None
    return {
        "while": what,
        "asked": "--max-minutes" if limit else asked.name,
        "seconds": round(seconds, 3),
        "code": code,
        "doing": doing,
        "stopped_at": at,
        "checkpoint": newest,
        "right": code == STOPPED and at == newest,
        "commit": machine.commit(),
    }


def main() -> int:
    """Make the run folder, stop runs, print how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=50, help="of each [50]")
    parser.add_argument("--while", nargs="+", choices=WHILE, default=list(WHILE), dest="whiles", help="[all]")
    parser.add_argument("--minutes", type=float, default=0.5, help="given to --max-minutes [0.5]")
    values = parser.parse_args()
    values.out.mkdir(parents=True, exist_ok=True)
    table, rng = values.out / "results.csv", random.Random(0)
    full = make(values.out)
    if not table.exists():
        table.write_text(",".join(COLUMNS) + "\n")
    for what in values.whiles:
        with table.open(newline="") as file:
            done = sum(row["while"] == what for row in csv.DictReader(file))
        copy(full, run := values.out / what.split()[0], WHILE[what])
        for number in range(done, values.repeats):
            row = stop(run, what, number, rng=rng, minutes=values.minutes)
            with table.open("a", newline="") as file:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return summary(table)


def summary(table: Path) -> int:
    """Print the quantiles of each kind of stop."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    fine = True
    for what in dict.fromkeys(row["while"] for row in rows):
        those = [row for row in rows if row["while"] == what]
        seconds = np.array([float(row["seconds"]) for row in those])
        wrong = sum(row["right"] != "True" for row in those)
        middle, high = np.quantile(seconds, [0.5, 0.99])
        times = f"p50 {middle:.2f} s, p99 {high:.2f} s, max {seconds.max():.2f} s"
        print(f"{what}: {len(those)} stops, {times}, {wrong} wrong")
        fine &= wrong == 0 and seconds.max() <= LIMIT
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
