"""A `steadyq` command in a process of its own: what it prints, where in the program it is, and how it ends."""

import atexit
import faulthandler
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from steadyq.cli.main import process

# SIGUSR2 writes the main thread's stack from within the signal's handler, whatever Python is busy with.
PROGRAM = """
import faulthandler, runpy, signal, sys
faulthandler.register(signal.SIGUSR2, file=open(sys.argv.pop(1), "a"), all_threads=False)
runpy.run_module("steadyq", run_name="__main__", alter_sys=True)
"""
BOTTOM = r"(in <module>|in _run_module_as_main|\.\.\.)\n+$"  # of the stack: `PROGRAM`, a tool, or the 100th call
OPENING = r"frames [\d,]+ to [\d,]+"
"""In the line that a run prints when it is about to train."""

WORDS = {
    "loop": "stepping",
    "act_and_store": "stepping",
    "learn": "learning",
    "log": "logging",
    "evaluate": "evaluating",
    "diagnose": "diagnosing",
    "reset": "resetting",
    "save": "saving",
}
"""What the functions do that the training loop calls."""


class Fork(multiprocessing.context.ForkProcess):
    """A fork of this process that runs a `steadyq` command, as a `Popen`: what is imported here is there at once."""

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self.returncode

    @property
    def returncode(self) -> int | None:
        """The name that a `Popen` has for it."""
        return self.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code; `TimeoutExpired` after so many seconds."""
        self.join(timeout)
        if self.exitcode is None:
            raise subprocess.TimeoutExpired(self.name, timeout or 0)
        return self.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.pid is not None and self.exitcode is None:
            os.kill(self.pid, number)


def forked(arguments: Sequence[str], log: Path, stacks: Path) -> None:
    """What a fork does."""
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    faulthandler.register(signal.SIGUSR2, file=stacks.open("a"), all_threads=False)
    sys.argv = ["steadyq", *arguments]
    process()


class Process:
    """One `steadyq` command under way.

    Args:
        arguments: what follows `steadyq`.
        log: a new file for all it prints; its stacks go next to it.
        environment: more variables.
        fork: whether it is a fork of this process, which must have no threads: a second or three earlier at work.
    """

    def __init__(
        self, arguments: Sequence[str], *, log: Path, environment: dict[str, str] | None = None, fork: bool = False
    ):
        self.log, self.stacks = log, log.with_suffix(".stacks")
        with log.open("w") as out:
            if fork:
                self.popen: Fork | subprocess.Popen[bytes] = Fork(target=forked, args=(arguments, log, self.stacks))
                self.popen.start()
            else:
                self.popen = subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, str(self.stacks), *arguments],
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **(environment or {})},
                )
        self.started = time.monotonic()
        atexit.register(self.popen.kill)  # does nothing to a process that has ended

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.started

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str, *, timeout: float = 900) -> bool:
        """Wait for output that a regular expression finds; False if the process ended without it.

        Raises:
            TimeoutError: neither happened.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            gone = self.popen.poll() is not None  # asked first: what it printed last counts
            if re.search(pattern, self.text):
                return True
            if gone:
                return False
            time.sleep(0.005)
        raise TimeoutError(f"{self.log} has no {pattern!r} after {timeout:.0f} s")

    def runs_for(self, seconds: float) -> bool:
        """Wait so long; False if the process ended in the meantime."""
        try:
            self.popen.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            return True
        return False

    def doing(self) -> str:
        """What its main thread is at, in a word; "unknown" if it does not tell. Only after its opening line."""
        self.stacks.write_text("")
        self.popen.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            if re.search(BOTTOM, stack := self.stacks.read_text()):
                return phase(stack)
            time.sleep(0.001)
        return "unknown"

    def wait_until(self, doing: str, *, timeout: float = 900) -> bool:
        """Wait until its main thread is at something; False if the process ended before.

        Raises:
            TimeoutError: neither happened.
        """
        deadline = time.monotonic() + timeout
        if not self.wait_for(OPENING, timeout=timeout):
            return False
        while self.doing() != doing:
            if not self.runs_for(0.05):
                return False
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.log}: not {doing} after {timeout:.0f} s")
        return True

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal and wait until the process is gone; its exit code."""
        self.popen.send_signal(number)
        return self.popen.wait()


def phase(stack: str) -> str:
    """What is done according to `faulthandler`'s text of a stack, where the innermost call comes first."""
    calls = re.findall(r'File "([^"]*)", line \d+ in (.*)', stack)
    if any(name == "join" and file.endswith("threading.py") for file, name in calls):
        return "waiting for the compiler"
    for (_, called), (file, name) in pairwise([("", "loop"), *calls]):
        if name == "loop" and file.endswith("run/loop.py"):
            return WORDS.get(called, called)
    names = {name for _, name in calls}
    if names & {"close", "conclude", "shutdown"}:
        return "finishing"
    # PyTorch imports more at the first update, more than the 100 calls deep that `faulthandler` shows.
    return "importing" if "_find_and_load" in names else "starting"


def run_to_end(arguments: Sequence[str], *, log: Path, fork: bool = False) -> Process:
    """A command that must succeed.

    Raises:
        RuntimeError: it did not.
    """
    process = Process(arguments, log=log, fork=fork)
    if code := process.popen.wait():
        raise RuntimeError(f"exit code {code} of `steadyq {' '.join(arguments)}`; see {log}")
    return process
