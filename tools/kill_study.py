"""Make a study whose workers and drivers are killed, on a Ray cluster also its nodes, and compare it with another one.

    python -m tools.kill_study --engine local|ray --out FOLDER [--kills 50] [--drivers 1]

24 tiny runs are made twice: undisturbed; and while SIGKILL meets at moments drawn at random a training process, a
driver (which is started again), or all of them at once. With Ray it is a training process, a Ray worker, a raylet (a
new node then joins) or a driver, on a cluster of three nodes on this machine. Compared are every run's records and
state, and the collected tables byte for byte but for clocks. A run is made twice if a process begins it at frame 0 when
it had a checkpoint. FOLDER/results.json has it all; exit code 1 if anything differs.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

import steadyq
from steadyq.engine import machine
from steadyq.store.record import read_record
from steadyq.study import plan, state
from steadyq.study.collect import collect
from tools.same_state import differences

STUDY = """
[[runs]]
recipe = ["crossq_wn", "sac"]
env = ["Pendulum-v1", "pendulum-swingup"]
utd = ["1/2", 1]
seeds = [0, 1, 2]
frames = 400
width = 16
actor-width = 16
batch-size = 16
learning-starts = 100
eval-every = 200
eval-episodes = 1
log-every = 70
save-every = 30
compile = "off"
threads = 1
"""
VICTIMS = {
    "local": ("training process",) * 4 + ("driver",) * 3 + ("all",) * 3,
    "ray": ("training process",) * 4 + ("Ray worker",) * 2 + ("raylet",) * 2 + ("driver",) * 2,
}
"""In which shares they are killed."""

PAUSE = {"local": (1.0, 8.0), "ray": (5.0, 20.0)}  # seconds between two kills, in which a process or a node starts
SOURCES = [str(Path(steadyq.__file__).parents[1])]
NODE: dict[str, Any] = {"object_store_memory": 80_000_000, "include_dashboard": False, "memory": 6 * 10**9}


class Campaign:
    """A study that is being made while it is disturbed."""

    def __init__(self, out: Path, *, engine: str, drivers: int) -> None:
        self.study, self.file, self.logs = out / engine, out / "study.toml", out
        self.count = drivers
        self.engine = ["--workers", "4"]
        self.cluster: Any = None
        if engine == "ray":
            from ray.cluster_utils import Cluster

            self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
            self.nodes = [self.cluster.add_node(num_cpus=1, wait=False, **NODE) for _ in range(2)]
            self.cluster.wait_for_nodes()
            self.engine = ["--ray", self.cluster.address]
        self.drivers: list[subprocess.Popen[bytes]] = []
        self.codes: list[int] = []

    def go_on(self) -> bool:
        """Start drivers in the place of those that were killed; False once the study is done."""
        for driver in [one for one in self.drivers if one.poll() is not None]:
            self.drivers.remove(driver)
            self.codes.append(driver.returncode)
        if 0 in self.codes:
            return any(driver.poll() is None for driver in self.drivers)
        while len(self.drivers) < self.count:
            words = ["study", "run", str(self.file), "--out", str(self.study), *self.engine]
            with (self.logs / "drivers.txt").open("ab") as log:
                command = [sys.executable, "-m", "steadyq", *words]
                self.drivers.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
        return True

    def kill(self, victim: str, rng: random.Random) -> bool:
        """Kill one of these, if a run is being made."""
        trained = [one for one in psutil.process_iter() if is_training(one, self.study)]
        if not trained:
            return False
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            if victim == "driver":
                rng.choice(self.drivers).kill()
            elif victim == "raylet":
                node = rng.choice(self.nodes)
                raylet = node.all_processes["raylet"][0].process
                raylet.kill()
                raylet.wait()
                self.nodes.remove(node)
                self.cluster.remove_node(node, allow_graceful=False)
                self.nodes.append(self.cluster.add_node(num_cpus=1, wait=False, **NODE))
            elif victim == "all":
                for process in (*self.drivers, *trained):
                    process.kill()
            else:
                process = rng.choice(trained)
                (process if victim == "training process" else process.parent()).kill()
            return True
        return False


def is_training(process: psutil.Process, study: Path) -> bool:
    """Whether this is a worker of the study."""
    try:
        words = process.cmdline()
        return "train" in words and any(str(study) in word for word in words)
    except psutil.Error:
        return False


def starts(study: Path) -> Iterator[list[int]]:
    """For each run, the frames at which its processes began to train."""
    for run in plan.read(study):
        yield [stretch["from_frame"] for stretch in read_record(study / run.folder).stretches]


def rows(study: Path) -> str:
    """The collected table without what depends on a clock."""
    table = study.with_suffix(".csv")
    table.unlink(missing_ok=True)
    collect([study], table)
    with table.open(newline="") as file:
        return "\n".join(map(str, (row for row in csv.reader(file) if not row[3].startswith("time/"))))


def main() -> int:
    """Make both studies, and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=VICTIMS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--drivers", type=int, default=1, help="commands that make the study at once [1]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    values = parser.parse_args()
    out = values.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(SOURCES)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    (out / "study.toml").write_text(STUDY)
    undisturbed = out / "undisturbed"
    subprocess.run(
        [sys.executable, "-m", "steadyq", "study", "run", str(out / "study.toml"), "--out", str(undisturbed)],
        check=True,
    )
    shutil.rmtree(out / values.engine, ignore_errors=True)
    began, rng, kills = time.monotonic(), random.Random(values.seed), Counter[str]()
    campaign = Campaign(out, engine=values.engine, drivers=values.drivers)
    pause, victims = PAUSE[values.engine], VICTIMS[values.engine]
    due, victim = time.monotonic() + rng.uniform(*pause), rng.choice(victims)
    while campaign.go_on():
        if kills.total() < values.kills and time.monotonic() > due and campaign.kill(victim, rng):
            kills[victim] += 1
            print(f"{time.monotonic() - began:6.0f} s  killed a {victim} ({kills.total()})", flush=True)
            due, victim = time.monotonic() + rng.uniform(*pause), rng.choice(victims)
        time.sleep(0.1)
    if campaign.cluster:
        campaign.cluster.shutdown()
    runs = plan.read(undisturbed)
    lives = list(starts(campaign.study))
    found = {
        "runs": len(runs),
        "done": sum(state.look(campaign.study, run).name == "done" for run in runs),
        "kills": kills,
        "processes": sum(map(len, lives)),
        "begun at frame 0": sum(life.count(0) for life in lives),
        "made twice": sum(life != sorted(life) for life in lives),
        "differences": [
            words for run in runs for words in differences(undisturbed / run.folder, campaign.study / run.folder)
        ],
        "same table": rows(undisturbed) == rows(campaign.study),
        "exit codes of drivers": Counter(campaign.codes),
        "seconds": round(time.monotonic() - began),
        "commit": machine.commit(),
        "machine": machine.facts(),
    }
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "machine"}, indent=1))
    good = found["done"] == len(runs) and not found["made twice"] and not found["differences"] and found["same table"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
