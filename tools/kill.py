"""Kill commands at random moments, give them again, and compare what comes out with what the undisturbed ones give.

    python -m tools.kill --out FOLDER [--kills 10] [--cases NAME ...]

A case that trains: one run from beginning to end; then the same command again, which is killed (SIGKILL) at moments
drawn at random and resumed after each, until it has had its kills, and is then left to finish. One kill in five falls
between the start of a process and its opening line, the others in a stretch after it: the undisturbed run's time by the
number of kills, and half of it more. Where a kill found no newer checkpoint than the one before, the stretch doubles. A
case may begin with a run that is there, and kill what makes it longer. A case that reads (`evaluate`, `report`, ...)
kills that command on a run: its files must stay as they are, and what is written be whole or not there. A case that is
a study kills the driver, its workers, or both. What the main thread was doing is asked a millisecond before.

FOLDER/CASE.json is written when a case is done, which is then skipped; FOLDER/results.csv has a row per kill. Exit code
1 if any case differs. Cases that are not compiled run in forks of this process, which start at once.
"""

import argparse
import contextlib
import csv
import io
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from steadyq.algorithm.options import options
from steadyq.algorithm.recipes import RECIPES
from steadyq.cli.main import main as steadyq
from steadyq.engine import machine
from steadyq.store import checkpoint, disk, metrics_csv
from steadyq.store.record import read_record
from steadyq.study import plan
from tools.process import OPENING, Process, run_to_end
from tools.same_state import differences, without_clocks

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
    utd: int | str
    seeds: str
    more: dict[str, str] = {}  # noqa: RUF012, never changed
    cold: bool = False  # the run that is killed has a compiler's cache of its own, empty at first
    base: str = ""  # frames of a run that is there already, and is made longer
    by: str = "resume"  # by which command
    reads: str = ""  # the command that is killed, if it is not one that trains; {run} and {out} are folders

    @property
    def compiled(self) -> bool:
        """Whether the updates are compiled."""
        return "--compile" in self.more

    def train(self, out: Path, **changed: str) -> list[str]:
        """What follows `steadyq`."""
        words = ["train", self.recipe, "--env", self.env, "--utd", str(self.utd), "--seeds", *self.seeds.split()]
        for name, value in (
            COMMON | self.more | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
        ).items():
            if name not in ("--width", "--actor-width") or name.strip("-").replace("-", "_") in options(self.recipe):
                words += [name, value]
        return [*words, "--out", str(out)]

    def go_on(self, run: Path) -> list[str]:
        """What takes a run to its end, whatever is there of it."""
        if self.base:
            frames = (COMMON | self.more)["--frames"]
            return [*self.train(run), "--resume"] if self.by == "train" else ["resume", str(run), "--frames", frames]
        return ["resume", str(run)] if (run / "run.json").exists() else [*self.train(run), "--overwrite"]


COMPILED = {"--compile": "on"}
SHORT = {"--frames": "500", "--learning-starts": "60", "--eval-every": "199", "--save-every": "41", "--log-every": "37"}
LONG = {"--learning-starts": "14000", "--eval-every": "4999", "--save-every": "997", "--log-every": "997"}
READS = [
    ("evaluate", "evaluate {run} --episodes 20"),
    ("diagnose", "diagnose {run}"),
    ("export", "export {run} {out}/policy.onnx --numpy {out}/policy.npz"),
    ("report", "report {run} --out {out}/report.html"),
    ("compare", "compare {run} --json {out}/found.json --csv {out}/found.csv"),
    ("figures", "figures 1 {run} --out {out}"),
    ("collect", "study collect {run} {out}/table.csv"),
]
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
    **{recipe: Case(recipe, "pendulum-swingup", 1, "0", SHORT) for recipe in RECIPES},
    "bro-reset": Case("bro", "pendulum-swingup", 1, "0", LONG | {"--learning-starts": "14900", "--frames": "15150"}),
    "bro-two-resets": Case("bro", "pendulum-swingup", "1/50", "0", LONG | {"--frames": "50400"}),
    "primacy-resets": Case("sac_primacy", "hopper-hop", 1, "0 1", SHORT | {"--reset-frames": "150"}),
    "longer": Case("crossq_wn", "pendulum-swingup", 1, "0 1", SHORT, base="200"),
    "longer-bro": Case("bro_fast", "cartpole-swingup", 2, "0", SHORT | {"--frames": "300"}, base="150"),
    "longer-train": Case("simba", "hopper-hop", 1, "0", SHORT, base="250", by="train"),
    "longer-diagnosed": Case(
        "crossq_wn", "Pendulum-v1", 1, "0", SHORT | {"--frames": "300", "--diagnose-every": "97"}, base="150"
    ),
    **{
        f"reads-{name}": Case("crossq_wn", "Pendulum-v1", 1, "0 1", more=SHORT, base="200", reads=words)
        for name, words in READS
    },
    "study": Case("crossq_wn", "pendulum-swingup", 1, "0 1", SHORT, reads="study run {out}.toml"),
}


def examine(case: Case, folder: Path, *, kills: int, rng: random.Random) -> dict[str, Any]:
    """Both runs of a case, and how they differ."""
    undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
    if case.reads.startswith("study run"):
        return examine_study(case, folder, kills=kills, rng=rng)
    if case.compiled:  # fills the compiler's cache, so that the next run's time is that of training
        run_to_end(case.train(folder / "compiling", frames="220"), log=folder / "compiling.log")
    if case.base:
        run_to_end(case.train(undisturbed, frames=case.base), log=folder / "base.log", fork=not case.compiled)
        shutil.copytree(undisturbed, disturbed)
    if case.reads:
        return examine_reader(case, folder, kills=kills, rng=rng)
    process = Process(case.go_on(undisturbed), log=folder / "undisturbed.log", fork=not case.compiled)
    process.wait_for(OPENING)
    opened = process.seconds
    if code := process.popen.wait():
        raise RuntimeError(f"exit code {code}; see {process.log}")
    found = disturb(
        case, disturbed, kills=kills, rng=rng, starting_up=opened, span=1.5 * (process.seconds - opened) / kills
    )
    return {"kills": found, "differences": differences(undisturbed, disturbed)}


def disturb(
    case: Case, run: Path, *, kills: int, rng: random.Random, starting_up: float, span: float
) -> list[dict[str, Any]]:
    """Kill and resume until there were enough kills or the run is done, then let it finish; what each kill met."""
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(run.with_name("cache"))} if case.cold else {}
    found: list[dict[str, Any]] = []
    newest, longest = 0, span
    while True:
        command = case.go_on(run)
        log = run.with_name(f"life-{len(found):02d}.log")
        process = Process(command, log=log, environment=environment, fork=not case.compiled)
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
        found.append(met(command[0], seconds, doing, newest, run))


def met(command: str, seconds: float, doing: str, newest: int, run: Path) -> dict[str, Any]:
    """What a kill met."""
    leftovers = len([*run.glob("**/.tmp-*")])
    row = newest_row(run)
    return {
        "command": command,
        "seconds": round(seconds, 2),
        "doing": doing,
        "checkpoint": newest,
        "row": row,
        "leftovers": leftovers,
    }


def examine_reader(case: Case, folder: Path, *, kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill a command that reads a run, and see that the run stays as it is and what is written is whole or not there.

    `diagnose` alone writes into the run: rows of whole frames, and the rest when the command is given again.
    """
    pristine, run, out = folder / "undisturbed", folder / "disturbed", folder / "out"
    command = case.reads.format(run=run, out=out).split()
    before = contents(run)
    out.mkdir()
    seconds = run_to_end(command, log=folder / "undisturbed.log", fork=True).seconds
    wanted = contents(out) | written(run, before)
    shutil.rmtree(out)
    shutil.rmtree(run)
    shutil.copytree(pristine, run)
    out.mkdir()
    found, trouble, longest = list[dict[str, Any]](), list[str](), seconds
    while len(found) < kills:
        log = folder / f"life-{len(found):02d}.log"
        process = Process(command, log=log, fork=True)
        if not process.runs_for(rng.uniform(0, longest)):
            longest *= 0.9  # done before its time came
            continue
        ran = process.seconds
        if (code := process.end()) != -signal.SIGKILL:
            if code:
                raise RuntimeError(f"exit code {code}; see {log}")
            continue
        found.append(met(command[0], ran, "reading", newest_checkpoint(run, case), run))
        trouble += [f"{name} is gone or changed" for name, data in before.items() if contents(run).get(name) != data]
        for name, data in (contents(out) | written(run, before)).items():
            lines = {*wanted.get(name, b"").splitlines()}
            if data != wanted.get(name) and not (name == "diagnostics.csv" and lines.issuperset(data.splitlines())):
                trouble.append(f"{name} is not whole")
    run_to_end(command, log=folder / "again.log", fork=True)
    now = contents(out) | written(run, before)
    trouble += [f"{name} is another one" for name in wanted.keys() | now.keys() if wanted.get(name) != now.get(name)]
    for place in (pristine, run):
        run_to_end(["resume", str(place), "--frames", "300"], log=folder / "longer.log", fork=True)
    return {"kills": found, "differences": [*dict.fromkeys(trouble), *differences(pristine, run)]}


def warm_up(place: Path) -> None:
    """Import here what the commands import, for forks."""
    run = place / "run"
    for recipe, env in (("crossq_wn", "Pendulum-v1"), ("crossq_wn", "pendulum-swingup")):
        steadyq([*Case(recipe, env, 1, "0").train(run, frames="200", diagnose_every="200"), "--overwrite"])
    for _, words in READS:
        steadyq(words.format(run=run, out=place).split())


def contents(place: Path) -> dict[str, bytes]:
    """What is in each file below a folder, but for those that a dead writer left."""
    files = (path for path in place.rglob("*") if path.is_file() and not path.name.startswith(disk.TEMPORARY))
    return {str(path.relative_to(place)): clockless(path) for path in files}


def clockless(path: Path) -> bytes:
    """What is in a file, but for how long it took."""
    return b"".join(without_clocks(path)) if path.name == "diagnostics.csv" else path.read_bytes()


def written(run: Path, before: dict[str, bytes]) -> dict[str, bytes]:
    """What is in a run folder now that was not before."""
    return {name: data for name, data in contents(run).items() if name not in before}


def examine_study(case: Case, folder: Path, *, kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill a study's driver, workers of it or both, give the command again, and compare run by run."""
    undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
    given = (COMMON | case.more).items()
    chosen = [f"{name.strip('-')} = {json.dumps(int(x) if x.isdecimal() else x)}" for name, x in given]
    lists = (
        f'recipe = ["{case.recipe}", "sac"]\nenv = "{case.env}"\nseeds = {json.dumps([*map(int, case.seeds.split())])}'
    )
    file = folder / "study.toml"
    file.write_text("\n".join([*["[defaults]"], *chosen, "[[runs]]", lists, ""]))
    study = ["study", "run", str(file), "--workers", "2", "--out"]
    span = 2 * run_to_end([*study, str(undisturbed)], log=folder / "undisturbed.log").seconds / kills
    runs = [run.folder for run in plan.read(undisturbed)]
    found, newest, longest = list[dict[str, Any]](), -1, span
    process = None
    while len(found) < kills:
        if process is None or process.popen.poll() is not None:
            log = folder / f"life-{len(found):02d}.log"
            process = Process([*study, str(disturbed), "--retry"], log=log)
            if rng.random() >= STARTING_UP:
                while process.popen.poll() is None and not psutil.Process(process.popen.pid).children():
                    process.runs_for(0.05)
        if not process.runs_for(rng.uniform(0, longest)):
            if process.popen.returncode == 0:
                break  # done before its time came
            continue
        workers = psutil.Process(process.popen.pid).children(recursive=True)
        who, ran = rng.choice(["driver", "workers", "both"]), process.seconds
        before, newest = newest, sum(newest_checkpoint(disturbed / run, case._replace(seeds=run[-1])) for run in runs)
        longest = span if newest > before else 1.5 * longest
        if who != "driver":
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
                    found.append(met("train", ran, "at work", newest, disturbed))
        if who != "workers":
            process.end()
            found.append(met("study run", ran, "driving", newest, disturbed))
    if process is not None:
        process.popen.wait()
    run_to_end([*study, str(disturbed), "--retry"], log=folder / "again.log")
    unlike = [f"{run}: {words}" for run in runs for words in differences(undisturbed / run, disturbed / run)]
    for run in runs:
        life = [stretch["from_frame"] for stretch in read_record(disturbed / run).stretches]
        if life != sorted(life):
            unlike.append(f"{run}: made twice, by processes that began at frames {life}")
    if collected(undisturbed) != collected(disturbed):
        unlike.append("the collected tables differ")
    return {"kills": found, "differences": unlike}


def collected(study: Path) -> list[str]:
    """The lines of a study's table that do not depend on a clock."""
    table = study.with_suffix(".csv")
    steadyq(["study", "collect", str(study), str(table)])
    return [line for line in table.read_text().splitlines() if ",time/" not in line]


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
    torch.set_num_threads(1)  # a fork has none of this process's threads, and would wait for them
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        warm_up(Path(place))
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
