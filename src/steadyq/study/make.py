"""Make the runs of a study, whoever starts their workers: the next open run is claimed, started and waited for.

An engine decides where a worker has room and starts it there: `local.py` on this machine, `ray_cluster.py` on many.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Protocol

from filelock import FileLock, Timeout

from steadyq.store import disk
from steadyq.study import state, tries, worker
from steadyq.study.plan import Planned
from steadyq.study.worker import Outcome

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
POLL = 1.0  # seconds between two looks at runs that others have, and at memory
TICK = 0.1  # seconds after which a signal is seen
GRACE = 60.0  # seconds that workers have to save; the last checkpoint of one that takes longer counts

WORDS: dict[Outcome, str] = {
    "done": "done",
    "more": "stopped",
    "held": "elsewhere",
    "failed": "failed",
    "set aside": "set aside",
}
"""How a line about a worker's end begins."""


class Engine(Protocol):
    """Who starts workers. One run has one worker at most."""

    def look(self) -> bool:
        """Look at the machines anew; whether there may be room for one more worker."""

    def elsewhere(self, run: Planned) -> bool:
        """Whether another driver's worker may be at work on it, though its folder's lock does not tell."""

    def obstacle(self, run: Planned) -> str:
        """Why this run cannot be started now, in a sentence; nothing if it can. As of the last `look`."""

    def start(self, run: Planned, minutes: float | None) -> str:
        """Start a worker, which is to save and stop after so many minutes; where it is, if there are several places."""

    def ended(self, seconds: float) -> list[tuple[Planned, Outcome, str]]:
        """Wait at most so long for a worker to end; what came of those that did, and why in a sentence."""

    def stop(self, *, at_once: bool) -> None:
        """Ask all workers to save and stop, or end them at once."""


class Count(NamedTuple):
    """What came of a study."""

    done: int
    set_aside: int
    more: int
    stopped: bool  # before there was nothing left to start


@dataclass
class Driver:
    """One command that makes a study, and what it knows."""

    study: Path
    runs: Sequence[Planned]
    engine: Engine
    deadline: float | None  # on the monotonic clock
    wait: bool  # for runs that others make
    say: Callable[[str], None]
    asked: int = 0  # how often we were asked to stop
    trouble: str = ""  # why nothing more can be started
    settled: dict[str, state.Name] = field(default_factory=dict)  # by run folder: nothing is left to do
    claims: dict[str, FileLock] = field(default_factory=dict)  # by run folder: our own workers are at work there

    def stopping(self) -> bool:
        """Whether no worker is to be started any more."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return self.asked > 0 or self.trouble != "" or late


def make(
    study: Path,
    runs: Sequence[Planned],
    engine: Engine,
    *,
    minutes: float | None = None,
    wait: bool = True,
    say: Callable[[str], None] = print,
) -> Count:
    """Make the runs of a study that are not done, in their order.

    Signals stop it: workers save and end; a second one ends them at once. What they did is never lost.

    Args:
        study: the study's folder.
        runs: in the order in which they are to be made.
        engine: who starts the workers.
        minutes: after which everything is saved and stopped; None for never.
        wait: also for runs that others make, which are then resumed if those others die.
        say: takes a line about each start and end.
    """
    disk.refuse_links(study, only=tries.WORKERS)  # what workers say is written there
    deadline = None if minutes is None else time.monotonic() + 60 * minutes

    def heard(words: str) -> None:
        with contextlib.suppress(OSError):  # the terminal, or who read it, may be gone; the study is not
            say(words)

    driver = Driver(study, runs, engine, deadline, wait, heard)
    told, since, later, look_again = 0, 0.0, True, 0.0
    with signals(driver), alone_at_fault(engine):
        while driver.claims or (later and not driver.stopping()):
            if told < min(driver.asked, 2) or (told == 1 and time.monotonic() - since > GRACE):
                told, since = told + 1, time.monotonic()
                stop(driver, at_once=told == 2)
            if time.monotonic() >= look_again:
                later, look_again = fill(driver) and wait, time.monotonic() + POLL
            for run, outcome, words in engine.ended(min(TICK, POLL)):
                conclude(driver, run, outcome, words)
                later, look_again = True, 0.0  # its run may be open again
    names = [driver.settled.get(run.folder) or state.look(study, run).name for run in runs]
    done, failed = names.count("done"), names.count("failed")
    return Count(done, failed, len(runs) - done - failed, driver.stopping())


@contextlib.contextmanager
def alone_at_fault(engine: Engine) -> Iterator[None]:
    """While inside, an error of the driver's own asks the workers to save and stop: nobody would see to them."""
    try:
        yield
    except BaseException:
        engine.stop(at_once=False)
        raise


@contextlib.contextmanager
def signals(driver: Driver) -> Iterator[None]:
    """While inside, signals ask the driver to stop."""

    def ask(number: int, frame: FrameType | None) -> None:
        driver.asked += 1

    before = {number: signal.signal(number, ask) for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(driver: Driver, *, at_once: bool) -> None:
    """Stop all workers."""
    if driver.claims:
        driver.engine.stop(at_once=at_once)
        words = "workers end; their last checkpoints count" if at_once else "workers save and stop"
        driver.say(f"{words} ({len(driver.claims)})")


def fill(driver: Driver) -> bool:
    """Start workers wherever there is room; whether there may be more to start later."""
    try:
        while not driver.stopping():
            if words := worker.full_disk(driver.study):
                give_up(driver, words)
                return False
            if not driver.engine.look():
                return True
            found = take(driver)
            if not isinstance(found, Planned):
                return found
            begin(driver, found)
    except OSError as error:
        give_up(driver, f"{error}; see to it, and run the same command again")
    return False


def take(driver: Driver) -> Planned | bool:
    """The next open run that can be started now, claimed; or else whether there may be one later."""
    later, short = False, ""
    for run in driver.runs:
        if run.folder in driver.settled or run.folder in driver.claims:
            continue
        name = state.look(driver.study, run).name
        if name in ("done", "failed"):
            driver.settled[run.folder] = name
        elif name == "running" or driver.engine.elsewhere(run):
            later = True
        elif words := driver.engine.obstacle(run):
            short = short or words
        elif claim(driver, run):
            return run
        else:
            later = True
    if short and not driver.claims and not (later and driver.wait):
        give_up(driver, f"{short}, and run the same command again")
    return later or bool(short)


def claim(driver: Driver, run: Planned) -> bool:
    """Keep a run to this driver; whether it is still open.

    This keeps two drivers from starting a worker each, of which one would be refused. It is a courtesy: what makes a
    run once is the lock of its folder.
    """
    place = tries.place(driver.study, run)
    place.mkdir(parents=True, exist_ok=True)
    mine = FileLock(place / ".lock", blocking=False)
    try:
        mine.acquire()
    except Timeout:
        return False
    if state.look(driver.study, run).name != "waiting":  # another driver was quicker
        mine.release()
        return False
    driver.claims[run.folder] = mine
    return True


def begin(driver: Driver, run: Planned) -> None:
    """Start a worker on a run that is claimed."""
    left = None if driver.deadline is None else max(1e-3, (driver.deadline - time.monotonic()) / 60)
    try:
        where = driver.engine.start(run, left)
    except OSError:
        driver.claims.pop(run.folder).release()
        raise
    driver.say(f"started    {run.folder}{where and f' on {where}'}")


def conclude(driver: Driver, run: Planned, outcome: Outcome, words: str) -> None:
    """A worker has ended: say what came of it, and let go of its run."""
    driver.claims.pop(run.folder).release()
    if outcome == "full disk":
        give_up(driver, words)
        return
    if outcome in ("done", "set aside"):
        driver.settled[run.folder] = "done" if outcome == "done" else "failed"
    driver.say(f"{WORDS[outcome]:10} {run.folder}{': ' if words else ''}{words}")


def give_up(driver: Driver, trouble: str) -> None:
    """Start nothing more, and say why once; workers that are at work go on to the end of their runs."""
    if not driver.trouble:
        driver.trouble = trouble
        driver.say(f"nothing more is started: {trouble}")
