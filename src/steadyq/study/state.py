"""How far a run of a study has come, read off its folder: nobody's bookkeeping is believed."""

import contextlib
import csv
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

from steadyq.errors import InputError
from steadyq.store import checkpoint, disk, lock, metrics_csv, sealed
from steadyq.store.folder import seed_folder
from steadyq.study import tries
from steadyq.study.plan import Planned

TAIL = 65_536  # bytes at the end of a record, which hold its newest rows

Name = Literal["done", "running", "waiting", "failed"]


class State(NamedTuple):
    """Where a run stands."""

    name: Name
    frame: int = 0  # of its newest checkpoint; of a running one, of its newest measurement
    reason: str = ""  # why it was set aside
    frames_per_second: float | None = None  # of a running one, of all its seeds


def look(study: Path, run: Planned) -> State:
    """Where a run stands now. One that was not begun costs two questions to the file system."""
    place = study / run.folder
    if not place.is_dir():
        reason = tries.set_aside(study, run)
        return State("failed", 0, reason) if reason else State("waiting")
    frame = max(checkpoint.common_frames([seed_folder(place, seed) for seed in run.seeds]), default=0)
    if frame >= run.frames and is_done(place, run, frame):
        return State("done", frame)
    if lock.is_held(place):
        return newest(place, frame)
    if reason := tries.set_aside(study, run):
        return State("failed", frame, reason)
    return State("waiting", frame)


def is_done(place: Path, run: Planned, frame: int) -> bool:
    """Whether the checkpoints of a frame at or behind the end are those that a finished run leaves."""
    return all(_is_last(place, seed, run, frame) for seed in run.seeds)


def _is_last(place: Path, seed: int, run: Planned, frame: int) -> bool:
    path = seed_folder(place, seed) / "checkpoints" / f"{frame:012d}.safetensors"
    try:
        meta: Any = sealed.peek(path, "checkpoint")["meta"]
        counters, repeat = meta["run"], meta["record"]["settings"]["action_repeat"]
        given_up = meta["seed"]["given_up_at"] is not None
        due = [
            name
            for name, every in (("evaluated", run.eval_every), ("diagnosed", run.diagnose_every))
            if every and frame // every > (frame - repeat) // every and counters[name] != frame
        ]
        to_come = bool(run.eval_every) and counters["resets_evaluated"] < counters["resets"]
    except (InputError, KeyError, TypeError):  # damaged: the worker sees to it
        return False
    return frame > run.frames or not (given_up or due or to_come)


def newest(place: Path, frame: int) -> State:
    """A running run by the last rows of its record, which are further than its newest checkpoint."""
    speeds: dict[str, float] = {}
    try:
        with disk.open_to_read(place / metrics_csv.FILE) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().decode(errors="replace").split("\n")[1:-1]  # whole ones, without the header
    except (InputError, OSError):  # not begun, or being resumed
        lines = []
    for line in lines:
        with contextlib.suppress(ValueError, csv.Error):  # of a line that no run writes
            (row,) = csv.reader([line])
            if len(row) == 6:
                frame = max(frame, int(row[4]))
                if row[3] == "time/fps":
                    speeds[row[2]] = float(row[5])
    return State("running", frame, frames_per_second=min(speeds.values(), default=None))
