"""The engine of this machine: so many workers at once, as memory allows, until every run is done or set aside."""

import contextlib
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import psutil
from filelock import FileLock, Timeout

from steadyq.engine import machine
from steadyq.study import state, tries, worker
from steadyq.study.plan import Planned

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
POLL = 1.0  # seconds between two looks at runs that others have, and at memory
GRACE = 60.0  # seconds that workers have to save; the last checkpoint of one that takes longer counts
NICE = 10  # workers leave the machine to whoever works on it
LEAST_DISK = 100_000_000  # bytes: with less, a failure is the disk's and not the run's


class Count(NamedTuple):
    """What came of a study."""

    done: int
    set_aside: int
    more: int


@dataclass
class Pool:
    """The workers of one driver, and what all of them know."""

    study: Path
    runs: Sequence[Planned]
    threads: int
    deadline: float | None  # on the monotonic clock
    say: Callable[[str], None]
    asked: int = 0  # how often we were asked to stop
    trouble: str = ""  # why nothing more can be started
    guard: threading.Lock = field(default_factory=threading.Lock)
    settled: set[str] = field(default_factory=set)  # run folders with nothing left to do
    taken: set[str] = field(default_factory=set)  # by one of our own threads
    processes: dict[str, tuple[Planned, "subprocess.Popen[bytes]"]] = field(default_factory=dict)

    def stopping(self) -> bool:
        """Whether no worker is to be started any more."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return self.asked > 0 or self.trouble != "" or late


def make(
    study: Path,
    runs: Sequence[Planned],
    *,
    workers: int | None = None,
    minutes: float | None = None,
    say: Callable[[str], None] = print,
) -> Count:
    """Make the runs of a study that are not done, in their order.

    Signals stop it: workers save and end; a second one ends them at once. What they did is never lost.

    Args:
        study: the study's folder.
        runs: in the order in which they are to be made.
        workers: at once; None for one per core.
        minutes: after which everything is saved and stopped; None for never.
        say: takes a line about each start and end.
    """
    cores = machine.usable_cores()
    pool = Pool(
        study=study,
        runs=runs,
        threads=max(1, cores // len(runs)),  # by the study and not by the workers: the bits of a run depend on it
        deadline=None if minutes is None else time.monotonic() + 60 * minutes,
        say=say,
    )
    count = min(workers or cores, len(runs))
    threads = [threading.Thread(target=work, args=(pool,), daemon=True) for _ in range(count)]
    with signals(pool):
        for thread in threads:
            thread.start()
        told, since = 0, 0.0
        while any(thread.is_alive() for thread in threads):
            if told < min(pool.asked, 2) or (told == 1 and time.monotonic() - since > GRACE):
                told, since = told + 1, time.monotonic()
                tell(pool, signal.SIGTERM if told == 1 else signal.SIGKILL)
            time.sleep(0.1)
    names = [state.look(study, run).name for run in runs]
    done, failed = names.count("done"), names.count("failed")
    return Count(done, failed, len(runs) - done - failed)


@contextlib.contextmanager
def signals(pool: Pool) -> Iterator[None]:
    """While inside, signals ask the pool to stop."""

    def ask(number: int, frame: FrameType | None) -> None:
        pool.asked += 1

    before = {number: signal.signal(number, ask) for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tell(pool: Pool, number: int) -> None:
    """Send all workers a signal. The first is SIGTERM, which also ends one that is still starting."""
    with pool.guard:
        if pool.processes:
            words = "workers save and stop" if number == signal.SIGTERM else "workers end; their last checkpoints count"
            pool.say(f"{words} ({len(pool.processes)})")
        for _, process in pool.processes.values():
            process.send_signal(number)


def work(pool: Pool) -> None:
    """What one thread does: take the next open run, wait for its worker, and so on."""
    while not pool.stopping():
        try:
            with contextlib.ExitStack() as claims:
                found = take(pool, claims)
                if found is None:
                    return
                if isinstance(found, Planned):
                    see_through(pool, found)
                    continue
        except OSError as error:
            give_up(pool, f"{error}; see to it, and give the same command again")
        time.sleep(POLL)


def give_up(pool: Pool, trouble: str) -> None:
    """Start nothing more, and say why once; workers that are at work go on to the end of their runs."""
    if not pool.trouble:
        pool.trouble = trouble
        pool.say(f"nothing more is started: {trouble}")


def take(pool: Pool, claims: contextlib.ExitStack) -> Planned | bool | None:
    """The next open run, claimed; True if there may be one later, and None if nothing is left.

    The claim keeps two drivers from starting a worker each, of which one would be refused. It is a courtesy: what
    makes a run once is the lock of its folder.
    """
    with pool.guard:
        later, short, free = False, "", free_memory(pool)
        for run in pool.runs:
            if run.folder in pool.settled or run.folder in pool.taken:
                continue
            name = state.look(pool.study, run).name
            if name in ("done", "failed"):
                pool.settled.add(run.folder)
                continue
            if name == "running":
                later = True
                continue
            if run.memory > free:
                short = short or (
                    f"{run.folder} needs about {run.memory / 1e9:.1f} GB of memory and {max(0, free) / 1e9:.1f} GB are "
                    f"available; free some, or give a smaller buffer-size, and give the same command again"
                )
                continue
            claim = FileLock(tries.place(pool.study, run) / ".lock", blocking=False)
            try:
                tries.place(pool.study, run).mkdir(parents=True, exist_ok=True)
                claim.acquire()
            except Timeout:
                later = True
                continue
            claims.callback(claim.release)
            if state.look(pool.study, run).name != "waiting":  # another driver was quicker
                later = True
                continue
            pool.taken.add(run.folder)
            claims.callback(pool.taken.discard, run.folder)
            return run
        if short and not (later or pool.taken):
            give_up(pool, short)
            return None
        return later or bool(short) or None


def free_memory(pool: Pool) -> int:
    """Bytes that are available and that none of our workers will still take."""
    coming = 0
    for run, process in pool.processes.values():
        with contextlib.suppress(psutil.Error):
            coming += max(0, run.memory - psutil.Process(process.pid).memory_info().rss)
    return machine.memory().available - coming


def see_through(pool: Pool, run: Planned) -> None:
    """Start a worker on a run, wait for it, and say what came of it."""
    if disk := full_disk(pool.study):
        give_up(pool, disk)
        return
    with pool.guard:
        if pool.stopping():
            return
        left = None if pool.deadline is None else max(1e-3, (pool.deadline - time.monotonic()) / 60)
        process = worker.begin(pool.study, run, threads=pool.threads, minutes=left)
        pool.processes[run.folder] = (run, process)
    with contextlib.suppress(psutil.Error):
        psutil.Process(process.pid).nice(max(NICE, psutil.Process().nice()))
    pool.say(f"started    {run.folder}")
    code = process.wait()
    with pool.guard:
        del pool.processes[run.folder]
    if code not in (worker.DONE, worker.MORE) and (disk := full_disk(pool.study)):
        give_up(pool, disk)
        return
    if pool.stopping() and code not in (worker.DONE, worker.REFUSED):
        outcome, words = "more", ""  # whatever way it ended: we wanted that
    else:
        outcome, words = worker.conclude(pool.study, run, code)
    pool.say(f"{WORDS[outcome]:10} {run.folder}{': ' if words else ''}{words}")


WORDS = {"done": "done", "more": "stopped", "held": "elsewhere", "failed": "failed", "set aside": "set aside"}
"""How a line about a worker's end begins."""


def full_disk(study: Path) -> str:
    """A sentence if there is hardly any room left on the study's disk."""
    free = shutil.disk_usage(study).free
    if free >= LEAST_DISK:
        return ""
    return f"the disk of {study} is full ({free / 1e6:.0f} MB left); make room, and give the same command again"
