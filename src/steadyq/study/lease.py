"""Leases on runs, for file systems whose locks do not hold between machines.

A run's newest file `lease-N` is its lease: its owner writes another number into it every few seconds. Whoever waits for
it to end watches that number by a clock of his own, so that the clocks of machines may differ as they like. The next
owner makes `lease-(N + 1)`, which a file system grants one of two only, also over a network; none is ever removed, so
that no number comes twice.
"""

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from steadyq.store import disk

BEAT = 10.0  # seconds between two numbers
ENDS = 120.0  # seconds without a new one, after which a lease has ended
NAME, FREE = "lease-", b"free"


def newest(place: Path) -> tuple[int, bytes]:
    """Number and content of a run's newest lease; 0 if there never was one."""
    number = max((int(name.removeprefix(NAME)) for name in disk.names(place) if name.startswith(NAME)), default=0)
    return number, disk.read(place / f"{NAME}{number}") if number else FREE


class Watch:
    """Watches leases; one that does not change for long enough has ended.

    Args:
        clock: gives seconds since any moment.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Path, tuple[tuple[int, bytes], float]] = {}

    def next(self, place: Path) -> int | None:
        """The number of the lease that may be taken on a run now; None while somebody has it, as far as we know."""
        lease, now = newest(place), self._clock()
        if lease[1] == FREE:
            return lease[0] + 1
        before, since = self._seen.get(place, (None, now))
        self._seen[place] = lease, since if before == lease else now
        return lease[0] + 1 if before == lease and now - since >= ENDS else None


class Taken(Exception):  # noqa: N818, as in "it is taken"
    """Somebody was quicker."""


@contextlib.contextmanager
def hold(place: Path, number: int, *, clock: Callable[[], float] = time.monotonic) -> Iterator[threading.Event]:
    """Have the lease of this number while inside, as long as what is given is not set.

    Args:
        place: of the run.
        number: from `Watch.next`.
        clock: gives seconds since any moment.

    Raises:
        Taken: somebody has it.
    """
    path, owner = place / f"{NAME}{number}", uuid.uuid4().hex
    place.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise Taken from None
    left, lost, begun = threading.Event(), threading.Event(), clock()

    def keep() -> None:
        beat, kept = 0, begun
        while not left.is_set():
            now = clock()
            if path.with_name(f"{NAME}{number + 1}").exists() or now - kept > ENDS / 2:
                lost.set()
                return
            with contextlib.suppress(OSError):  # until half of the time is over
                disk.write(path, f"{owner} {beat}".encode())
                beat, kept = beat + 1, now
            left.wait(BEAT)

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield lost
    finally:
        left.set()
        keeper.join()
        with contextlib.suppress(OSError):  # then it ends by itself
            disk.write(path, FREE)
