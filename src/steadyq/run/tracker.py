"""The process that hands the rows of a run's metrics.csv to Weights & Biases; `run/track.py` starts it.

It ends when its standard input does, which is when the run ends, however it ends. It imports nothing else of steadyq,
and so no PyTorch.
"""

import csv
import json
import os
import secrets
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

STATE = ".wandb.json"
"""In the run folder, by seed: the id of its W&B run, what was sent, and how that stands."""

EVERY = 2.0  # seconds between two looks at metrics.csv
ANSWER = 15  # seconds that W&B has to answer at the start; then rows are kept in its offline form
LIFE = 120.0  # seconds that this process lives on, at most, after its run

Seeds = dict[str, dict[str, Any]]
"""What STATE holds."""


def main(folder: Path) -> None:
    """Follow the run in a folder until it is over."""
    over = threading.Event()
    threading.Thread(target=_wait, args=[over], daemon=True).start()
    if os.name == "posix":
        os.nice(10)  # training comes first
    record = json.loads((folder / "run.json").read_bytes())
    seeds = begin(folder, record["settings"]["seeds"])
    try:
        follow(folder, record, seeds, over)
    except Exception as error:
        for one in seeds.values():
            one["trouble"] = one["trouble"] or f"{type(error).__name__}: {error}"
        write(folder, seeds)
        raise


def begin(folder: Path, wanted: list[int]) -> Seeds:
    """What is known of each seed: the same W&B run as before, if there was one."""
    try:
        before = json.loads((folder / STATE).read_bytes())
        known = {seed: (str(one["id"]), {**one["sent"]}) for seed, one in before.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        known = {}
    seeds: Seeds = {}
    for seed in map(str, wanted):
        name, sent = known.get(seed, (secrets.token_hex(4), {}))
        seeds[seed] = {"id": name, "sent": sent, "state": "waiting", "folder": "", "url": "", "trouble": ""}
    write(folder, seeds)
    return seeds


def follow(folder: Path, record: dict[str, Any], seeds: Seeds, over: threading.Event) -> None:
    """Send rows as they come, and the rest when the run is over."""
    import wandb

    runs: dict[str, Any] = {}
    try:
        open_all(folder, record, seeds, runs, mode=None)
    except Exception as error:
        for one in seeds.values():
            one["trouble"] = " ".join(str(error).split())[:300]
        wandb.teardown()  # which lets go of the ids
        open_all(folder, record, seeds, runs, mode="offline")
    place, ended = 0, False
    with (folder / "metrics.csv").open("rb") as file:  # the run cut it before it started this process
        while not ended:
            ended = over.wait(EVERY)
            place = send(file, place, runs, seeds)
            write(folder, seeds)
    for seed, run in runs.items():
        run.finish()
        if seeds[seed]["state"] == "online":
            seeds[seed]["state"] = "sent"
        write(folder, seeds)


def open_all(folder: Path, record: dict[str, Any], seeds: Seeds, runs: dict[str, Any], *, mode: str | None) -> None:
    """Open the W&B run of each seed: in this mode, or in the one of the environment's variables."""
    import wandb

    for seed, one in seeds.items():
        how = wandb.Settings(console="off", init_timeout=ANSWER)
        run = wandb.init(**arguments(folder, record, seed), id=one["id"], mode=mode, settings=how)
        run.define_metric("env_step")
        run.define_metric("*", step_metric="env_step")
        one |= {"state": "offline" if run.offline else "online", "folder": str(Path(run.dir).parent), "url": run.url}
        runs[seed] = run
    write(folder, seeds)


def arguments(folder: Path, record: dict[str, Any], seed: str) -> dict[str, Any]:
    """How the W&B run of a seed is opened: the seeds of a run, and runs of one name and environment, are a group."""
    settings = record["settings"]
    entity, _, project = settings["track"].partition(":")[2].rpartition("/")
    group = f"{settings['name']} on {settings['env']}"
    newest = record["stretches"][-1]
    config = {key: value for key, value in settings.items() if key not in ("seeds", "track")}
    return {
        "project": project or "steadyq",
        "entity": entity or None,
        "group": group[:128],
        "name": f"{group[:100]}, seed {seed}",
        "config": config | {"seed": int(seed), "commit": newest["commit"], "versions": newest["versions"]},
        "allow_val_change": True,
        "resume": "allow",
        "reinit": "create_new",
        "dir": os.environ.get("WANDB_DIR", str(folder.parent)),  # not in the run folder, which holds no links
    }


def send(file: BinaryIO, place: int, runs: dict[str, Any], seeds: Seeds) -> int:
    """Hand over the whole lines behind a place of metrics.csv, but for what was sent before; where they end."""
    file.seek(place)
    data = file.read()
    data = data[: data.rfind(b"\n") + 1]
    rows: dict[tuple[str, int], dict[str, float]] = {}
    for _, _, seed, metric, frame, value in csv.reader(data.decode().splitlines()):
        if seed in runs and int(frame) > seeds[seed]["sent"].get(metric, -1):
            rows.setdefault((seed, int(frame)), {})[metric] = float(value)
    for (seed, step), metrics in rows.items():
        runs[seed].log({"env_step": step, **metrics})
        seeds[seed]["sent"] |= dict.fromkeys(metrics, step)
    return place + len(data)


def write(folder: Path, seeds: Seeds) -> None:
    """Write STATE, whole; what cannot be written now is written the next time."""
    temporary = folder / f".tmp-{STATE}"
    try:
        temporary.write_text(json.dumps(seeds, indent=2) + "\n")
        temporary.replace(folder / STATE)
    except OSError:
        pass


def _wait(over: threading.Event) -> None:
    sys.stdin.buffer.read()
    over.set()
    time.sleep(LIFE)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
