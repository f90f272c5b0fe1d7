"""Where a run stands, read off its folder: nobody's bookkeeping is believed, and nothing is guessed.

Next to it what a run leaves there for this when it fails, and the command that resumes it.
"""

import contextlib
import csv
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from steadyq.errors import InputError, RunError
from steadyq.settings import TRACK, flag, parse_env
from steadyq.store import disk, lock, metrics_csv, sealed
from steadyq.store.folder import seed_folder
from steadyq.store.lock import Held
from steadyq.store.names import EVALUATED_AT_THE_END

FAILED = ".failed"
"""Why the run ended that nobody has resumed since: one sentence."""
LONGEST = 2_000
"""Bytes of it that are shown: a folder may come from anyone."""
TAIL = 2**18
"""Bytes at the end of a record, which hold its newest rows: of hundreds of seeds, too."""


class State(NamedTuple):
    """Where a run stands."""

    name: Literal["done", "running", "stopped", "failed"]
    frame: int | None  # of its newest checkpoint, None if it has none; of a running one, of its newest measurement
    frames: int  # its length
    reason: str = ""  # why it failed, or who runs it
    frames_per_second: float | None = None  # of a running one, of all its seeds

    @property
    def words(self) -> str:
        """The state in a sentence that begins with the run."""
        if self.name == "done":
            return f"done at frame {self.frames:,}"
        where = "without a checkpoint" if self.frame is None else f"at frame {self.frame:,} of {self.frames:,}"
        if self.name == "running":
            return f"running {where}, held by {self.reason}"
        return (
            f"stopped {where}"
            if self.name == "stopped"
            else f"failed, {'saved ' * (self.frame is not None)}{where}: {self.reason}"
        )


def look(run: Path, *, seeds: Sequence[int], frames: int) -> State:
    """Where a run of these seeds and this length stands now.

    Raises:
        Unreadable: its folders cannot be read now.
    """
    frame = max(sealed.common_frames(seed_folder(run, seed) / "checkpoints" for seed in seeds), default=None)
    if frame is not None and frame >= frames and all(_is_last(run, seed, frame, frames) for seed in seeds):
        return State("done", frame, frames)
    if lock.is_held(run):
        newest, speed = _newest(run)
        return State("running", max(newest, frame or 0), frames, lock.owner(run), speed)
    try:
        reason = " ".join(disk.read(run / FAILED, size=LONGEST).decode(errors="replace").split())
    except (InputError, OSError):
        return State("stopped", frame, frames)
    return State("failed", frame, frames, reason)


def _is_last(run: Path, seed: int, frame: int, frames: int) -> bool:
    """Whether a seed's checkpoint of a frame at or behind the end is one that a finished run leaves.

    With what that run was asked to measure: whoever asks for more now does not undo it.
    """
    path = sealed.place(seed_folder(run, seed) / "checkpoints", frame)
    try:
        meta: Any = sealed.peek(path, "checkpoint")["meta"]
        counters, settings = meta["run"], meta["record"]["settings"]
        eval_every, repeat = settings["eval_every"], settings["action_repeat"]
        given_up = meta["seed"]["given_up_at"] is not None
        due = [
            name
            for name, every in (("evaluated", eval_every), ("diagnosed", settings["diagnose_every"]))
            if every and frame // every > (frame - repeat) // every and counters[name] != frame
        ]
        to_come = bool(eval_every) and counters["resets_evaluated"] < counters["resets"]
        several = not settings["single_env"]  # environments, so that the end can be evaluated
        between = bool(eval_every) and several and counters["evaluated"] != frame  # apart, and is written last
    except (InputError, KeyError, TypeError):  # damaged: resuming sees to it
        return False
    if frame > frames:
        return True
    at_the_end = [str(seed), EVALUATED_AT_THE_END, str(frame)]
    return not (given_up or due or to_come or (between and at_the_end not in [row[2:5] for row in _last_rows(run)]))


def _newest(run: Path) -> tuple[int, float | None]:
    """Frame and frames per second of the last rows of a record, which are further than its newest checkpoint."""
    frame, speeds = 0, dict[str, float]()
    for row in _last_rows(run):
        with contextlib.suppress(ValueError):  # of a line that no run writes
            if len(row) == 6:
                frame = max(frame, int(row[4]))
                if row[3] == "time/fps":
                    speeds[row[2]] = float(row[5])
    return frame, min(speeds.values(), default=None)


def _last_rows(run: Path) -> list[list[str]]:
    """The newest rows of a record; none where it cannot be read now."""
    try:
        with disk.open_to_read(run / metrics_csv.FILE) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().decode(errors="replace").split("\n")[1:-1]  # whole ones, without the header
    except (InputError, OSError):  # not begun, or being resumed
        return []
    rows = list[list[str]]()
    for line in lines:
        with contextlib.suppress(csv.Error):  # of a line that no run writes
            rows += csv.reader([line])
    return rows


@contextlib.contextmanager
def keeping_failures(held: Held) -> Iterator[None]:
    """While a run goes on: why it fails, if it does, is kept in its folder until somebody resumes it."""
    with contextlib.suppress(OSError):
        disk.remove(held.path / FAILED)
    try:
        yield
    except Exception as error:
        words = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):  # a full disk may be the reason
            if (run := held.find()) is not None:
                disk.write(run / FAILED, words.encode(errors="backslashreplace") + b"\n")
        raise


def resume_command(run: Path | str, settings: Mapping[str, Any], **changed: str) -> str:
    """What resumes a run, to be pasted as it is: a command, or Python where the environment was given from there.

    Args:
        run: its folder.
        settings: of the run, those of its environment at least; none where nobody knows them.
        changed: settings to be resumed with.
    """
    if TRACK.holds(settings.get("track")):
        changed = {"track": settings["track"], **changed}
    if settings.get("env_object"):
        more = "".join(f", {key}={value!r}" for key, value in changed.items())
        return f"steadyq.resume({str(run)!r}, env=...{more})"
    runs_code = settings.get("env_kwargs") or ("env" in settings and parse_env(settings["env"])[0])
    options = [word for key, value in changed.items() for word in (flag(key), value)]
    return shlex.join(["steadyq", "resume", str(run), *(["--trust"] if runs_code else []), *options])
