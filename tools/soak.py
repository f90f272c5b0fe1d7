"""Train for an hour and watch the memory: how fast it still grows after the warm-up, and what the run estimated.

    python -m tools.soak --out FOLDER [--minutes 60] [-- train ARGUMENTS ...]

By default `crossq_wn` on dog-run with a replay of 20,000 transitions, full within the first minutes, with everything
that a run does now and then in short turns. Every ten seconds FOLDER/samples.csv gets the resident memory of the
process and of its children (the compiler's workers). After the warm-up (10 minutes, or a third of a shorter time, and
not before the replay is full) a slope is fitted by Theil and Sen: the median over all pairs. The estimate is the one in
the opening lines, `memory: about 1.23 GB at the end`, and held against the median of the last ten samples. Exit code 1
if the slope is above 1 MB/h, or the estimate missing or off by more than 10%.
"""

import argparse
import csv
import json
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy.stats import theilslopes

from steadyq.engine import machine
from steadyq.store.record import read_record
from tools.process import Process

SAMPLE = 10.0
SLOPE, OFF = 1.0, 0.1  # MB/h, share
FULL = 20_000
DEFAULT = [
    *("train", "crossq_wn", "--env", "dog-run", "--utd", "1", "--learning-starts", "5000", "--threads", "1"),
    *("--buffer-size", str(FULL), "--eval-every", "10000", "--eval-episodes", "1", "--log-every", "1000"),
    *("--save-every", "5000", "--frames", "10000000"),
]


def sample(process: Process) -> dict[str, float]:
    """Seconds, frames and megabytes at this moment."""
    one = psutil.Process(process.popen.pid)
    children = 0
    for child in one.children(recursive=True):
        try:
            children += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    frames = re.findall(r"^frame ([\d,]+)/", process.text, re.MULTILINE)
    return {
        "seconds": round(process.seconds, 1),
        "frame": int(frames[-1].replace(",", "")) if frames else 0,
        "rss_mb": one.memory_info().rss / 1e6,
        "children_mb": children / 1e6,
    }


def watch(command: list[str], out: Path, *, minutes: float) -> list[dict[str, float]]:
    """Run the command for so long, sampling; then ask it to stop.

    Raises:
        RuntimeError: it ended by itself.
    """
    samples = []
    process = Process([*command, "--out", str(out / "run"), "--overwrite"], log=out / "run.log")
    with (out / "samples.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, ["seconds", "frame", "rss_mb", "children_mb"], lineterminator="\n")
        rows.writeheader()
        while process.seconds < 60 * minutes:
            if not process.runs_for(SAMPLE - process.seconds % SAMPLE):
                after = f"{process.popen.returncode} after {process.seconds:.0f} s"
                raise RuntimeError(f"exit code {after}; see {process.log}")
            samples.append(sample(process))
            rows.writerow(samples[-1])
            file.flush()
    process.end(signal.SIGTERM)
    return samples


def summarise(samples: list[dict[str, float]], text: str, *, full_at: int) -> dict[str, Any]:
    """Slope after the warm-up, level at the end, and the estimate in what the run printed.

    Args:
        samples: of the whole run.
        text: its output.
        full_at: the frame from which on the replay is full.
    """
    last = samples[-1]["seconds"]
    warm = [s for s in samples if s["seconds"] > min(600.0, last / 3) and s["frame"] >= full_at]
    if len(warm) < 10:
        raise RuntimeError(f"{len(warm)} samples after the replay was full at frame {full_at:,}; give more --minutes")
    hours, rss = np.array([s["seconds"] for s in warm]) / 3600, np.array([s["rss_mb"] for s in warm])
    slope, _, low, high = theilslopes(rss, hours)
    said = re.search(r"memory: about ([\d.]+) GB", text)
    estimate = 1e3 * float(said[1]) if said else None
    return {
        "hours_after_warm_up": round(hours[-1] - hours[0], 3),
        "slope_mb_per_hour": round(float(slope), 3),
        "slope_95": [round(float(low), 3), round(float(high), 3)],
        "rss_mb": round(float(np.median(rss[-10:])), 1),
        "children_mb": round(warm[-1]["children_mb"], 1),
        "estimate_mb": estimate,
        "estimate_off": None if estimate is None else round(estimate / float(np.median(rss[-10:])) - 1, 4),
        "frames": warm[-1]["frame"],
    }


def main() -> int:
    """Soak, then report how it was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60, help="[60]")
    parser.add_argument("command", nargs="*", default=DEFAULT, help="what follows `steadyq`, without --out")
    values = parser.parse_args()
    values.out.mkdir(parents=True, exist_ok=True)
    samples = watch(values.command, values.out, minutes=values.minutes)
    settings = read_record(values.out / "run").settings
    full_at = settings.resolved("buffer_size") * settings.resolved("action_repeat")
    result = summarise(samples, (values.out / "run.log").read_text(), full_at=full_at)
    result |= {"command": " ".join(values.command), "commit": machine.commit(), "when": time.strftime("%Y-%m-%d")}
    (values.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    off = result["estimate_off"]
    return 0 if result["slope_mb_per_hour"] <= SLOPE and off is not None and abs(off) <= OFF else 1


if __name__ == "__main__":
    sys.exit(main())
