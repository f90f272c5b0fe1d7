"""What a study costs besides its runs, and what two workers gain.

    python -m tools.study_cost --out FOLDER [--only NAME ...]

- `plan`: seconds, CPU seconds and peak memory of `study plan` and `study status` with 10,000 planned runs. No peak is
  less than this tool's own, 230 MB: Linux counts a process from before it became the command.
- `pair`: four equal runs of about a minute, made by one worker and then by two, which takes six to nine minutes;
  meanwhile the CPU seconds of the command itself, and what share of a single run of five minutes they are.
- `stop`: Ctrl-C while two compiled runs of full size (`crossq_wn` on dog-run) learn: seconds until all are gone.

FOLDER/NAME.json has the figures. Measure on a machine that does nothing else.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from steadyq.engine import machine
from steadyq.study import plan, state, tries, worker
from steadyq.study.plan import Planned

MANY = """
[[runs]]
recipe = ["crossq_wn", "sac"]
env = ["walker-run", "cheetah-run", "dog-run", "hopper-hop", "pendulum-swingup"]
utd = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
seeds = [{}]
"""
EQUAL = """
[[runs]]
recipe = "sac"
env = "pendulum-swingup"
seeds = [0, 1, 2, 3]
frames = 12_000
learning-starts = 300
width = 64
actor-width = 64
eval-every = 0
compile = "off"
threads = 1
"""
FULL = """
[[runs]]
recipe = "crossq_wn"
env = "dog-run"
seeds = [0, 1]
learning-starts = 300
log-every = 20
eval-every = 0
compile = "on"
threads = 1
"""
STOPS = 3


def start(out: Path, *words: str) -> "subprocess.Popen[bytes]":
    """`steadyq study ...` as a process."""
    with (out / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "steadyq", "study", *words], stdout=log, stderr=subprocess.STDOUT
        )


def planned(out: Path) -> dict[str, Any]:
    """`plan` and `status` of 10,000 runs."""
    file, study = out / "many.toml", out / "many"
    file.write_text(MANY.format(", ".join(map(str, range(100)))))
    found = {}
    for name, words in (
        ("plan", ("plan", str(file), "--out", str(study))),
        ("stopped at once", ("run", str(file), "--out", str(study), "--max-minutes", "0.001")),  # writes the plan
        ("status", ("status", str(study))),
    ):
        began = time.monotonic()
        process = start(out, *words)
        _, _, usage = os.wait4(process.pid, 0)
        found[name] = {
            "seconds": time.monotonic() - began,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_mb": usage.ru_maxrss / 1e3,
        }
    return found


def paired(out: Path) -> dict[str, Any]:
    """Equal runs by one worker and by two."""
    (out / "equal.toml").write_text(EQUAL)
    found: dict[str, Any] = {}
    for workers in (1, 2):
        study = out / f"equal-{workers}"
        shutil.rmtree(study, ignore_errors=True)
        began, own = time.monotonic(), list[tuple[float, float]]()
        process = start(out, "run", str(out / "equal.toml"), "--out", str(study), "--workers", str(workers))
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            if driver.children():
                own.append((time.monotonic(), sum(driver.cpu_times()[:2])))
            time.sleep(0.5)
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode}; see {out / 'log.txt'}")
        (first, before), (last, after) = own[0], own[-1]
        per_minute = 60 * (after - before) / (last - first)  # with the starts and ends of runs, here more often
        found[f"{workers} at once"] = {
            "seconds": time.monotonic() - began,
            "seconds_at_work": last - first,
            "driver_cpu_until_the_first_worker": before,
            "driver_cpu_per_minute": per_minute,
            "overhead_of_one_run_of_5_minutes": (before + 5 * per_minute) / (5 * 60),
        }
    one, two = found["1 at once"], found["2 at once"]
    return found | {"gain": one["seconds_at_work"] / two["seconds_at_work"]}


def stopped(out: Path) -> dict[str, Any]:
    """Ctrl-C in the middle of learning."""
    file, study, rng, seconds = out / "full.toml", out / "full", random.Random(0), list[float]()
    file.write_text(FULL)
    shutil.rmtree(study, ignore_errors=True)
    for number in range(STOPS):
        process = start(out, "run", str(file), "--out", str(study), "--workers", "2")
        while not (study / plan.FILE).exists() or not all(learns(study, run, number) for run in plan.read(study)):
            if process.poll() is not None:
                raise RuntimeError(f"exit code {process.returncode} before it was asked to stop; see {out / 'log.txt'}")
            time.sleep(0.2)
        time.sleep(rng.uniform(0, 3))
        workers = psutil.Process(process.pid).children()
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        code = process.wait()
        seconds.append(time.monotonic() - began)
        frames = [state.look(study, run).frame for run in plan.read(study)]
        if code != worker.MORE or any(one.is_running() for one in workers) or not all(frames):
            raise RuntimeError(f"exit code {code}, frames {frames}")
    return {"seconds": seconds}


def learns(study: Path, run: Planned, times: int) -> bool:
    """Whether a run's process has logged a frame, after so many before it that stopped."""
    path = tries.place(study, run) / worker.LOG
    lives = path.read_text(errors="replace").split("\n$ ") if path.exists() else []
    return len(lives) > times and re.search(r"\nframe ", lives[-1]) is not None


MEASURES = {"plan": planned, "pair": paired, "stop": stopped}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    values = parser.parse_args(arguments)
    out = values.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name in values.only:
        found = MEASURES[name](out)
        print(json.dumps({name: found}, indent=1), flush=True)
        about = {"commit": machine.commit(), "machine": machine.facts()}
        (out / f"{name}.json").write_text(json.dumps(found | about, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
