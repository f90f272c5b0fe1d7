"""How far a run of a study has come, read off its folder: nobody's bookkeeping is believed."""

import os
from pathlib import Path
from typing import Literal, NamedTuple

from steadyq.store import disk, state
from steadyq.study import tries
from steadyq.study.plan import Planned

Name = Literal["done", "running", "waiting", "failed"]


class State(NamedTuple):
    """Where a run stands."""

    name: Name
    frame: int = 0  # of its newest checkpoint; of a running one, of its newest measurement
    reason: str = ""  # why it was set aside
    frames_per_second: float | None = None  # of a running one, of all its seeds


def look(study: Path, run: Planned) -> State:
    """Where a run stands now. One that was not begun costs two questions to the file system."""
    if not disk.is_folder(os.path.join(study, run.folder)):  # of ten thousand, a Path takes longer than the question
        reason = tries.set_aside(study, run)
        return State("failed", 0, reason) if reason else State("waiting")
    found = state.look(study / run.folder, seeds=run.seeds, frames=run.frames)
    frame = found.frame or 0
    if found.name == "done" or found.name == "running":
        return State(found.name, frame, frames_per_second=found.frames_per_second)
    if reason := tries.set_aside(study, run):  # a failure alone is tried again
        return State("failed", frame, reason)
    return State("waiting", frame)
