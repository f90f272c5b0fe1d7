"""One process per run folder: the second is refused, and a dead one's place is free."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from steadyq.errors import InputError
from steadyq.store import disk

LOCK, OWNER = ".lock", ".owner.json"
IN_USE = "is in use by"
"""What the refusal of a second process says, by which a study knows it from others."""
GRACE = 0.5
"""Seconds to wait for a lock: whoever asks with `is_held` has it for a moment."""


class Held:
    """A run folder that is kept to this process, by what it is and not by its name: somebody may move or delete it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY) if os.name == "posix" else None

    def find(self) -> Path | None:
        """Where the folder is now; None if it was deleted, or moved to where the system does not say."""
        if self._descriptor is None:  # a system that does not let go of a folder in use
            return self.path
        places = [self.path]
        with suppress(OSError):  # Linux
            places.append(Path(os.readlink(f"/proc/self/fd/{self._descriptor}")))
        for place in places:
            try:
                if os.path.samestat(disk.do(os.stat, place), os.fstat(self._descriptor)):
                    self.path = place
                    return place
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:  # who knows
                return self.path
        return None

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def hold(run: Path) -> Iterator[Held]:
    """Keep a run folder to this process. The system lets go of the lock when the process ends, however it ends.

    Raises:
        InputError: another process has it, which is named; or nothing can be written there.
    """
    lock = FileLock(run / LOCK, timeout=GRACE)
    about = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    try:
        lock.acquire()
        disk.write(run / OWNER, json.dumps(about).encode() + b"\n")
        held = Held(run)
    except Timeout:
        raise InputError(f"{run} {IN_USE} {owner(run)}; wait for it, or stop it first") from None
    except OSError as error:
        lock.release()
        raise InputError(f"nothing can be written in {run} ({error.strerror}); make room, or see to it") from None
    try:
        yield held
    finally:
        held.close()
        lock.release()


def is_held(run: Path) -> bool:
    """Whether a living process has the run folder; for a moment, asking takes the lock."""
    if not (run / OWNER).exists():  # written by whoever had it: nobody ever did
        return False
    held = FileLock(run / LOCK, blocking=False)
    try:
        held.acquire()
    except Timeout:
        return True
    except OSError:  # we may not look
        return False
    held.release()
    return False


def owner(run: Path) -> str:
    """Who has the run folder, as far as it says."""
    try:
        about = json.loads(disk.read(run / OWNER))
        return f"process {about['pid']} on {about['host']}, since {about['since']}"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "another process"
