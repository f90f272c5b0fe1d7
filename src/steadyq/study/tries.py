"""What went wrong with a run of a study so far, and when it is set aside for that.

It lies beside the runs, in WORKERS of the study's folder, and counts for the command that failed: a run that the study
file now asks for otherwise is tried anew.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from steadyq.store import disk
from steadyq.store.typed import from_json
from steadyq.study.plan import Planned, command

WORKERS = "workers"
"""Of a study's folder: by run what its workers said, and what went wrong."""

FAILURES, KILLS = 3, 10
"""So many failures, or deaths by a signal at one and the same checkpoint, set a run aside."""


FILE = "tries.json"


@dataclass
class Tries:
    """What went wrong with one run."""

    command: list[str]
    failures: list[str] = field(default_factory=list)  # a sentence each
    refused: bool = False  # the same command would be refused again
    kills: int = 0  # by signals, since the frame below
    kill_frame: int = 0

    @property
    def reason(self) -> str:
        """Why the run is set aside; nothing if it is not."""
        over = self.refused or len(self.failures) >= FAILURES or self.kills >= KILLS
        return self.failures[-1] if over and self.failures else ""


def place(study: Path, run: Planned) -> Path:
    """What belongs to a run but does not lie in its folder."""
    return Path(study, WORKERS, run.folder)


def read(study: Path, run: Planned) -> Tries:
    """What is known of a run; what cannot be read, or is of another command, is nothing."""
    asked = command(run, Path())
    try:
        known = from_json(Tries, json.loads(disk.read(place(study, run) / FILE)), "tries")
        if known.command == asked:
            return known
    except (OSError, ValueError, RecursionError):
        pass
    return Tries(asked)


def set_aside(study: Path, run: Planned) -> str:
    """Why a run is set aside; nothing if it is not."""
    return read(study, run).reason if disk.is_there(os.path.join(study, WORKERS, run.folder, FILE)) else ""


def write(study: Path, run: Planned, tries: Tries) -> None:
    """Keep it, whole or not at all."""
    disk.write(place(study, run) / FILE, json.dumps(asdict(tries), indent=2).encode() + b"\n")


def forget(study: Path, run: Planned) -> None:
    """Try this run anew."""
    disk.remove(place(study, run) / FILE)
