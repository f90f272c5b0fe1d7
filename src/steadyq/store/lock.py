"""One process per run folder: the second is refused, and a dead one's place is free."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from steadyq.errors import InputError
from steadyq.store import disk

LOCK, OWNER = ".lock", ".owner.json"


@contextmanager
def hold(run: Path) -> Iterator[None]:
    """Keep a run folder to this process. The system lets go of the lock when the process ends, however it ends.

    Raises:
        InputError: another process has it, which is named; or nothing can be written there.
    """
    held = FileLock(run / LOCK, blocking=False)
    about = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    try:
        held.acquire()
        disk.write(run / OWNER, json.dumps(about).encode() + b"\n")
    except Timeout:
        raise InputError(f"{run} is in use by {owner(run)}; wait for it, or stop it first") from None
    except OSError as error:
        held.release()
        raise InputError(f"nothing can be written in {run} ({error.strerror}); make room, or see to it") from None
    try:
        yield
    finally:
        held.release()


def owner(run: Path) -> str:
    """Who has the run folder, as far as it says."""
    try:
        about = json.loads(disk.read(run / OWNER))
        return f"process {about['pid']} on {about['host']}, since {about['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
