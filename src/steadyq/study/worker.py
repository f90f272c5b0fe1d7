"""One worker: the ordinary `steadyq train ... --resume` as a process of its own, and what came of it.

Whoever has a place for a process calls `begin`, waits, and calls `conclude`, on the same machine.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from steadyq.errors import InputError
from steadyq.store import lock
from steadyq.store.record import Record, read_record
from steadyq.store.state import TAIL
from steadyq.study import state, tries
from steadyq.study.plan import Planned, command

DONE, REFUSED, MORE = 0, 2, 75
"""Exit codes of `steadyq train`; others are failures."""

LOG = "log.txt"

LEAST_DISK = 100_000_000  # bytes: with less, a failure is the disk's and not the run's

Outcome = Literal["done", "more", "held", "failed", "set aside", "full disk"]


def begin(
    study: Path,
    run: Planned,
    *,
    threads: int,
    minutes: float | None,
    before_start: Callable[[], None] | None = None,
    **environment: str,
) -> "subprocess.Popen[bytes]":
    """Start a worker on a run; what it says goes to the run's log.

    Args:
        study: the study's folder.
        run: the run.
        threads: of a run that was not begun yet, unless the study file says how many.
        minutes: after which it is to save and stop; None for never.
        before_start: called in the new process.
        **environment: variables that it is to have besides ours.
    """
    place = tries.place(study, run)
    place.mkdir(parents=True, exist_ok=True)
    more = {} if minutes is None else {"max_minutes": minutes}
    record = begun(study, run)
    if "threads" not in run.choices and (number := record.settings.threads if record else threads):
        more["threads"] = number
    threads = threads_of(run, record, threads)
    words = [sys.executable, "-m", "steadyq", *command(run, study, **more)]
    with (place / LOG).open("ab") as log:
        log.write(f"$ {' '.join(words)}\n".encode())
        log.flush()
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # A session of its own: Ctrl-C reaches the driver alone, which passes it on.
            start_new_session=True,
            preexec_fn=before_start,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **environment},
        )


def begun(study: Path, run: Planned) -> Record | None:
    """The record of a run that was begun, if it can be read."""
    try:
        return read_record(study / run.folder)
    except (InputError, OSError):
        return None


def threads_of(run: Planned, record: Record | None, threads: int) -> int:
    """How many threads a run has: what the study file says, or what it was begun with, or else so many."""
    number = run.choices.get("threads") or (record.stretches[-1]["threads"] if record else threads)
    return int(number)


def conclude(study: Path, run: Planned, code: int, *, stopped: bool = False) -> tuple[Outcome, str]:
    """What came of a worker that ended with this exit code, and in a sentence why. Failures are written down.

    One that was `stopped` has more to do whatever way it ended: we wanted that.
    """
    if code == MORE:
        return "more", ""
    if code != DONE and (words := full_disk(study)):
        return "full disk", words
    if stopped and code not in (DONE, REFUSED):
        return "more", ""
    said = last_words(study, run)
    if code == REFUSED and lock.IN_USE in said:
        return "held", said
    found = state.look(study, run)
    if code == DONE and found.name == "done":
        return "done", ""
    known = tries.read(study, run)
    if code < 0:
        frame = found.frame
        known.kills = known.kills + 1 if frame == known.kill_frame else 1
        known.kill_frame = frame
        words = f"killed by signal {-code} after the checkpoint of frame {frame:,}"
        if known.kills >= tries.KILLS:
            known.failures.append(f"{words}, {known.kills} times")
    else:
        words = said or f"exit code {code}"
        if code == DONE:
            words = "it ended as if it were done, and its folder has no finished run"
        known.failures.append(words)
        known.refused = code == REFUSED
    try:
        tries.write(study, run, known)
    except OSError as error:  # a quota, say
        return "full disk", f"{error}; see to it, and run the same command again"
    return ("set aside" if known.reason else "failed"), words


def full_disk(study: Path) -> str:
    """A sentence if there is hardly any room left on the study's disk."""
    free = shutil.disk_usage(study).free
    if free >= LEAST_DISK:
        return ""
    return f"the disk of {study} is full ({free / 1e6:.0f} MB left); make room, and run the same command again"


def last_words(study: Path, run: Planned) -> str:
    """The sentence with which the newest worker of a run ended, or else the last line of what it said."""
    path = tries.place(study, run) / LOG
    if not path.exists():  # nobody came so far
        return ""
    with path.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
        lines = log.read().decode(errors="replace").split("\n$ ")[-1].splitlines()[1:]
    sentences = [line.removeprefix("steadyq: ") for line in lines if line.startswith("steadyq: ")]
    others = [line.strip() for line in lines if line.strip()]
    return (sentences or others or [""])[-1]
