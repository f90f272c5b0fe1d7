"""Kill runs at random moments, resume them, and compare what comes out with the undisturbed run.

    python -m tools.kill --out FOLDER [--kills 10] [--cases NAME ...]

For each case: one run from beginning to end; then the same command again, which is killed (SIGKILL) at moments drawn
at random and resumed after each, until it has had its kills, and is then left to finish. One kill in five falls between
the start of a process and its opening line, the others within a quarter of the undisturbed run's time after that line;
where a kill found no newer checkpoint than the one before, that time doubles. What the main thread was doing is asked a
millisecond before. FOLDER/CASE.json is written when a case is done, which is then skipped; FOLDER/results.csv has a row
per kill. Exit code 1 if any case differs.
"""

import argparse
import csv
import json
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from steadyq.engine import machine
from steadyq.store import checkpoint, metrics_csv
from tools.process import OPENING, Process, run_to_end
from tools.same_state import differences

STARTING_UP = 0.2  # share of the kills before the opening line
COMMON = {
    "--frames": "1200",
    "--threads": "1",
    "--width": "32",
    "--actor-width": "32",
    "--batch-size": "32",
    "--learning-starts": "100",
    "--eval-episodes": "1",
    # Prime, so that each falls on every side of the others.
    "--eval-every": "401",
    "--log-every": "67",
    "--save-every": "101",
    "--compile": "off",
}


class Case(NamedTuple):
    """One command; its options are those of `COMMON` but for these."""

    recipe: str
    env: str
    utd: int
    seeds: str
    more: dict[str, str] = {}  # noqa: RUF012, never changed
    cold: bool = False  # the run that is killed has a compiler's cache of its own, empty at first

    @property
    def compiled(self) -> bool:
        """Whether the updates are compiled."""
        return "--compile" in self.more

    def train(self, out: Path, **changed: str) -> list[str]:
        """What follows `steadyq`."""
        options = COMMON | self.more | {f"--{name}": value for name, value in changed.items()}
        words = [word for pair in options.items() for word in pair]
        seeds = ["--seeds", *self.seeds.split()]
        return ["train", self.recipe, "--env", self.env, "--utd", str(self.utd), *seeds, *words, "--out", str(out)]


COMPILED = {"--compile": "on"}
CASES = {
    "dog": Case("crossq_wn", "dog-run", 1, "0", COMPILED),
    "dog-utd10": Case("crossq_wn", "dog-run", 10, "0", {"--frames": "800"}),
    "dog-3-seeds": Case("crossq_wn", "dog-run", 1, "0 1 2", {"--eval-every": "601"}),
    "humanoid-utd10": Case("crossq_wn", "humanoid-run", 10, "0", COMPILED),
    "humanoid-3-seeds": Case("sac", "humanoid-run", 1, "0 1 2"),
    "hopper-resets": Case(
        "crossq_wn", "hopper-hop", 10, "0 1 2", COMPILED | {"--reset-updates": "700", "--frames": "600"}
    ),
    "hopper-sac-resets": Case("sac_resets", "hopper-hop", 1, "0", COMPILED | {"--reset-updates": "130"}),
    "hopper-diagnosed": Case("crossq", "hopper-hop", 1, "0", {"--diagnose-every": "499"}),
    "pendulum-ring": Case("crossq_wn", "pendulum-swingup", 1, "0 1 2", COMPILED | {"--buffer-size": "211"}),
    "pendulum-moments": Case("xqc", "pendulum-swingup", 2, "0", {"--frames": "800"}),
    "cheetah-cold": Case("crossq_wn", "HalfCheetah-v5", 1, "0", COMPILED, cold=True),
    "cheetah-utd10": Case("crossq_wn", "HalfCheetah-v5", 10, "0 1 2", COMPILED | {"--frames": "800"}),
}


def examine(case: Case, folder: Path, *, kills: int, rng: random.Random) -> dict[str, Any]:
    """Both runs of a case, and how they differ."""
    undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
    if case.compiled:  # fills the compiler's cache, so that the next run's time is that of training
        run_to_end(case.train(folder / "compiling", frames="220"), log=folder / "compiling.log")
    process = Process(case.train(undisturbed), log=folder / "undisturbed.log")
    process.wait_for(OPENING)
    opened = process.seconds
    if code := process.popen.wait():
        raise RuntimeError(f"exit code {code}; see {process.log}")
    found = disturb(case, disturbed, kills=kills, rng=rng, starting_up=opened, span=(process.seconds - opened) / 4)
    return {"kills": found, "differences": differences(undisturbed, disturbed)}


def disturb(
    case: Case, run: Path, *, kills: int, rng: random.Random, starting_up: float, span: float
) -> list[dict[str, Any]]:
    """Kill and resume until there were enough kills or the run is done, then let it finish; what each kill met."""
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(run.with_name("cache"))} if case.cold else {}
    found: list[dict[str, Any]] = []
    newest, longest = 0, span
    while True:
        command = ["resume", str(run)] if (run / "run.json").exists() else [*case.train(run), "--overwrite"]
        log = run.with_name(f"life-{len(found):02d}.log")
        process = Process(command, log=log, environment=environment)
        if len(found) == kills:
            if code := process.popen.wait():
                raise RuntimeError(f"exit code {code} of the last resume; see {log}")
            return found
        doing = "starting"
        if rng.random() < STARTING_UP:
            alive = process.runs_for(rng.uniform(0, starting_up) - process.seconds)
        else:
            alive = process.wait_for(OPENING) and process.runs_for(rng.uniform(0, longest))
            doing = process.doing() if alive else ""
        seconds, code = process.seconds, process.end()
        if code == 0:
            return found  # done before its time came
        if code != -signal.SIGKILL:
            raise RuntimeError(f"exit code {code}; see {log}")
        before, newest = newest, newest_checkpoint(run, case)
        longest = span if newest > before else 2 * longest
        found.append(
            {
                "command": command[0],
                "seconds": round(seconds, 2),
                "doing": doing,
                "checkpoint": newest,
                "row": newest_row(run),
                "leftovers": len([*run.glob("**/.tmp-*")]),
            }
        )


def newest_checkpoint(run: Path, case: Case) -> int:
    """The newest frame that every seed has a checkpoint of; 0 for none."""
    seeds = (set(checkpoint.frames(run / f"seed-{seed}")) for seed in case.seeds.split())
    return max(set.intersection(*seeds), default=0)


def newest_row(run: Path) -> int:
    """The frame of the newest row in the record; -1 for none."""
    path = run / metrics_csv.FILE
    if not path.is_file():
        return -1
    return max((int(frame) for frame in re.findall(rb",(\d+),[^,\n]*\n", path.read_bytes())), default=-1)


def write_table(out: Path) -> None:
    """results.csv: a row per kill of every case that is done."""
    with (out / "results.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        columns = ["command", "seconds", "doing", "checkpoint", "row", "leftovers"]
        rows.writerow(["case", "recipe", "env", "utd", "seeds", "compiled", "kill", *columns, "same", "commit"])
        for name, case in CASES.items():
            if (path := out / f"{name}.json").is_file():
                done = json.loads(path.read_text())
                same = not done["differences"]
                about = [name, case.recipe, case.env, case.utd, case.seeds, case.compiled]
                for number, kill in enumerate(done["kills"], 1):
                    rows.writerow([*about, number, *(kill[column] for column in columns), same, done["commit"]])


def main() -> int:
    """Work through the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10, help="of each case [10]")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="[all]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    values = parser.parse_args()
    values.out.mkdir(parents=True, exist_ok=True)
    every: Counter[str] = Counter()
    compiled = different = 0
    for name in values.cases:
        path, folder = values.out / f"{name}.json", values.out / name
        if not path.is_file():
            shutil.rmtree(folder, ignore_errors=True)  # of a campaign that was stopped
            folder.mkdir()
            started = time.monotonic()
            done = examine(CASES[name], folder, kills=values.kills, rng=random.Random(f"{values.seed} {name}"))
            done |= {"seconds": round(time.monotonic() - started), "commit": machine.commit()}
            path.write_text(json.dumps(done, indent=1) + "\n")
            if not done["differences"]:
                shutil.rmtree(folder)
        done = json.loads(path.read_text())
        words = Counter(kill["doing"] for kill in done["kills"])
        every += words
        compiled += CASES[name].compiled * len(done["kills"])
        different += bool(done["differences"])
        verdict = "; ".join(done["differences"]) or "the same run"
        print(f"{name}: {len(done['kills'])} kills in {done['seconds']} s ({said(words)}): {verdict}", flush=True)
        write_table(values.out)
    print(f"{every.total()} kills, {compiled} of them compiled ({said(every)}); {different} cases differ")
    return 1 if different else 0


def said(words: Counter[str]) -> str:
    """Counts in words, the most frequent first."""
    return ", ".join(f"{count} {word}" for word, count in words.most_common())


if __name__ == "__main__":
    sys.exit(main())
