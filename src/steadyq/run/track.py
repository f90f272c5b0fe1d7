"""Tracking by Weights & Biases: a process of its own follows metrics.csv, so that no network can hold up the run."""

import importlib.util
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from steadyq.errors import InputError
from steadyq.run import tracker
from steadyq.run.training import Training
from steadyq.settings import Settings
from steadyq.store import disk
from steadyq.store.state import resume_command

WAIT = 30.0
"""Seconds that the tracker has to send the rest once the run is over and saved: schedulers often allow as many."""


def check(settings: Settings) -> None:
    """InputError if the run is to be tracked and cannot be."""
    found = None if settings.track is None else importlib.util.find_spec("wandb")
    if settings.track is not None and (found is None or found.origin is None):  # a mere folder `wandb` has no origin
        raise InputError(
            f"--track is {settings.track} and the package wandb is not installed; `pip install wandb`, or leave "
            f"--track out"
        )


@contextmanager
def tracking(run: Training) -> Iterator[None]:
    """While entered, a process sends what is measured, if it is to be sent. Nothing that happens to it reaches the run.

    On the way out it has a while to send the rest, and a line is shown for each seed.
    """
    process = _start(run) if run.settings.track else None
    if process is None:
        yield
        return
    try:
        yield
    finally:
        try:
            process.communicate(timeout=WAIT)  # closes its input
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for line in closing(run, ended=process.returncode == 0):
            run.view.message(line)


def _start(run: Training) -> "subprocess.Popen[bytes] | None":
    # -P: no code from the current folder. A session of its own: Ctrl-C reaches the run alone.
    words = [sys.executable, "-P", "-m", "steadyq.run.tracker", str(run.folder.resolve())]
    nowhere = subprocess.DEVNULL
    try:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, start_new_session=True)
    except OSError as error:
        run.view.message(f"W&B gets nothing: no process can be started ({error.strerror})")
        return None
    run.view.message(f"W&B gets what is measured ({run.settings.track}), by a process of its own")
    return process


def closing(run: Training, *, ended: bool) -> Iterator[str]:
    """What came of it, in a few lines.

    Args:
        run: the run, which is over.
        ended: whether the tracker came to its own end.
    """
    try:
        seeds = json.loads(disk.read(run.folder / tracker.STATE))
        known = [(one["state"], str(one["folder"]), str(one["trouble"])) for one in seeds.values()]
        urls = [f"W&B seed {seed}: {one['url']}" for seed, one in seeds.items()]
    except (InputError, OSError, ValueError, TypeError, KeyError, AttributeError):  # whatever a stranger's folder has
        known = []
    states = {state for state, _, _ in known}
    why = "".join({f" ({trouble})": None for _, _, trouble in known if trouble})
    if not known or "waiting" in states:
        yield f"W&B has nothing new{why}; send it with: {resume_command(run.folder, vars(run.settings))}"
    elif ended and states == {"sent"}:
        yield from urls
    else:
        folders = [folder for state, folder, _ in known if state != "sent" or not ended]
        yield f"W&B lacks some of this run{why}; send it with: {shlex.join(['wandb', 'sync', *folders])}"
