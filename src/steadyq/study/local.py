"""The engine of this machine: so many workers at once, as memory allows."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from steadyq.engine import machine
from steadyq.run.conditions import differences
from steadyq.study import worker
from steadyq.study.plan import Planned
from steadyq.study.worker import Outcome

NICE = 10  # workers leave the machine to whoever works on it


def share_out(runs: Sequence[Planned], *, threads: int | None = None, workers: int | None = None) -> tuple[int, int]:
    """Threads of each run that the file gives none, and runs at once, so that no core has two threads.

    By the runs and not by the workers the cores are shared out, since the bits of a run depend on its threads.
    """
    cores = machine.usable_cores()
    threads = threads or max(1, cores // len(runs))
    most = max(int(run.choices.get("threads", threads)) for run in runs)
    return threads, workers or max(1, cores // most)


class Local:
    """Starts workers on this machine.

    Args:
        study: the study's folder.
        runs: all of them.
        workers: at once; None for as many as the cores have room for.
        threads: of each run that the file gives none; None to share out the cores.
    """

    def __init__(
        self, study: Path, runs: Sequence[Planned], *, workers: int | None = None, threads: int | None = None
    ) -> None:
        self.study = study
        self.threads, self.workers = share_out(runs, threads=threads, workers=workers)
        self.here: dict[str, Any] = {}  # what this machine is, once somebody asks
        self.processes: dict[str, tuple[Planned, subprocess.Popen[bytes]]] = {}  # by run folder
        self.free = 0  # bytes
        self.stopping = False

    def look(self) -> bool:
        """See how much memory is available that none of our workers will still take."""
        if len(self.processes) >= self.workers:
            return False
        coming = 0
        for run, process in self.processes.values():
            with contextlib.suppress(psutil.Error):
                coming += max(0, run.memory - psutil.Process(process.pid).memory_info().rss)
        self.free = machine.memory().available - coming
        return True

    def elsewhere(self, run: Planned) -> bool:
        """On one machine locks tell."""
        return False

    def obstacle(self, run: Planned) -> str:
        """Whether there is memory for it, and it goes on here as it was begun."""
        if run.memory > self.free:
            return (
                f"{run.folder} needs about {run.memory / 1e9:.1f} GB of memory and {max(0, self.free) / 1e9:.1f} GB "
                f"are available; free some, or give a smaller buffer-size"
            )
        if record := worker.begun(self.study, run):
            before = record.stretches[-1]
            self.here = self.here or {"machine": machine.facts(), "versions": machine.versions()}
            if words := differences(before, {**before, **self.here}, asked=())[0]:
                return (
                    f"{run.folder} was begun on another machine ({words}); see to it there, or with `steadyq resume "
                    f"{self.study / run.folder} --inexact`"
                )
        return ""

    def start(self, run: Planned, minutes: float | None) -> str:
        """Start a process, at low priority."""
        process = worker.begin(self.study, run, threads=self.threads, minutes=minutes)
        self.processes[run.folder] = (run, process)
        with contextlib.suppress(psutil.Error):
            psutil.Process(process.pid).nice(max(NICE, psutil.Process().nice()))
        return ""

    def ended(self, seconds: float) -> list[tuple[Planned, Outcome, str]]:
        """What came of the processes that have ended."""
        found = [(run, code) for run, process in self.processes.values() if (code := process.poll()) is not None]
        if not found:
            time.sleep(seconds)
        for run, _ in found:
            del self.processes[run.folder]
        return [(run, *worker.conclude(self.study, run, code, stopped=self.stopping)) for run, code in found]

    def stop(self, *, at_once: bool) -> None:
        """Send all processes a signal. The first is SIGTERM, which also ends one that is still starting."""
        self.stopping = True
        for _, process in self.processes.values():
            process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)
