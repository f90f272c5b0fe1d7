"""Work through a list of runs: skip what is done, resume what was cut off, start the rest.

    nice -n 19 python experiments/run_list.py experiments/learning.txt --out ~/runs --at-once 2

Each line of the list is what follows `steadyq train`; `#` starts a comment. A run's folder is OUT/<the line as a name>.
Run it again after an interruption: it resumes where it was.
"""

import argparse
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from steadyq.run.save import kept
from steadyq.store import checkpoint


def folder(line: str, out: Path) -> Path:
    """Where the run of a line is kept."""
    return out / re.sub(r"[^\w.=]+", "-", line).strip("-")


def command(line: str, run: Path) -> list[str] | None:
    """What is to be done for a line; None if nothing is."""
    steadyq = [sys.executable, "-m", "steadyq.cli"]
    if not (run / "run.json").exists():
        return [*steadyq, "train", *line.split(), "--out", str(run)]
    settings = json.loads((run / "run.json").read_text())["settings"]
    done = all(is_done(run / f"seed-{seed}", settings) for seed in settings["seeds"])
    return None if done else [*steadyq, "resume", str(run)]


def is_done(seed_dir: Path, settings: dict[str, Any]) -> bool:
    """Whether a seed has come to the run's end, its last evaluation included."""
    frames, every = settings["frames"], settings["eval_every"]
    if frames not in checkpoint.frames(seed_dir):
        return False
    return not every or kept(checkpoint.load(seed_dir, frames)).run.evaluated >= frames // every * every


def work(line: str, out: Path) -> None:
    """Bring one line's run to its end."""
    run = folder(line, out)
    todo = command(line, run)
    if todo is None:
        print(f"done already: {line}", flush=True)
        return
    print(" ".join(todo), flush=True)
    with (out / f"{run.name}.log").open("a") as log:
        code = subprocess.run(todo, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    print(f"exit {code}: {line}", flush=True)


def main() -> None:
    """Read the list and work through it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--at-once", type=int, default=1)
    values = parser.parse_args()
    values.out.mkdir(parents=True, exist_ok=True)
    lines = [line.partition("#")[0].strip() for line in values.list.read_text().splitlines()]
    with ThreadPoolExecutor(values.at_once) as pool:
        list(pool.map(lambda line: work(line, values.out), filter(None, lines)))


if __name__ == "__main__":
    main()
