"""Start a run: settings from names and values, checked and completed before anything is written."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from steadyq.envs import guard
from steadyq.envs.env import EnvError, Spec
from steadyq.envs.guard import Guarded, repeats
from steadyq.envs.source import Source
from steadyq.errors import InputError
from steadyq.output import say
from steadyq.run import track
from steadyq.run.choices import settings_of
from steadyq.run.conditions import choose_machine, stretch
from steadyq.run.go import Result, check_memory, go
from steadyq.run.keywords import listed
from steadyq.run.resume import go_on_with
from steadyq.run.stop import Stop
from steadyq.run.training import Callback, Callbacks
from steadyq.settings import SETTINGS, Settings, discounted
from steadyq.store import disk, lock
from steadyq.store.disk import TEMPORARY
from steadyq.store.folder import is_run
from steadyq.store.record import Record
from steadyq.store.start import find


@listed(SETTINGS, recipes=True)
def train(
    recipe: str,
    *,
    env: Source,
    overwrite: bool = False,
    resume: bool = False,
    inexact: bool = False,
    max_minutes: float | None = None,
    on_log: Callback | None = None,
    on_evaluation: Callback | None = None,
    **choices: Any,
) -> Result:
    """Train a recipe on an environment; the same as `steadyq train`.

    Args:
        recipe: its name, e.g. `"crossq_wn"`.
        env: a DeepMind Control task or a Gymnasium id; `module:Name-v0`, `module:Class` or `path.py:Class`; a class or
            function without arguments, called for each environment that is needed; or an environment of Gymnasium's,
            which is then the only one (`single_env`) and is left open.
        overwrite: delete the run that is already in the folder, if there is one.
        resume: resume that run instead, if it is the same one.
        inexact: resume although bits may differ from here on, see `steadyq.resume`.
        max_minutes: stop and save after so long.
        on_log: called with the rows of each log record, as they are in `metrics.csv`, of all seeds.
        on_evaluation: the same for each evaluation, those after a reset and at the end included.
        **choices: settings of the run (`frames`, `utd`, `seeds`, ...) and options of the recipe (`lr`, `width`, ...),
            as listed below. Numbers may be of any type, or text as on the command line, such as "200k".

    Returns:
        Where the run is, and how far it came.

    Raises:
        InputError: a choice that cannot work, or a folder that already holds a run; nothing was started.
        RunError: the run could not continue, gave a seed up, or could not save.
        Exception: whatever `on_log` or `on_evaluation` has raised, once the run is saved.
    """
    callbacks = Callbacks(on_log, on_evaluation)
    settings = settings_of(recipe, env=env, choices=choices)
    track.check(settings)
    run_folder, unwanted = settings.folder, not (overwrite or resume)
    source = None if isinstance(env, str) else env
    if holds_run(run_folder, unwanted=unwanted) and resume:
        return go_on_with(settings, source, inexact=inexact, max_minutes=max_minutes, callbacks=callbacks)
    with Stop(max_minutes=max_minutes) as stop, closing(guard.of_run(settings, source)) as made:
        record = record_of(discounted(settings, made.spec.episode_frames), made.spec)
        start = find(record)
        record = record._replace(sources=start.sources)
        check_memory(record)
        how = choose_machine(settings)
        try:
            run_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make {run_folder} ({error.strerror}); give another --out") from None
        with lock.hold(run_folder) as held:
            # Another process may have had the folder since we looked, and nobody can from now on.
            if not (holds_run(run_folder, unwanted=unwanted) and resume):
                how["reproducible"] = not settings.single_env and repeats_itself(settings, source, made)
                record = record._replace(stretches=[stretch(0, how)])
                return go(held, record, made, stop, start=start, source=source, callbacks=callbacks)
    return go_on_with(settings, source, inexact=inexact, max_minutes=max_minutes, callbacks=callbacks)


def repeats_itself(settings: Settings, source: Source | None, made: Guarded) -> bool:
    """Whether the environment of a run repeats itself; another one is made to find out.

    Raises:
        InputError: its very first reset or step failed, as each one would.
    """
    with closing(guard.of_run(settings, source)) as spare:
        try:
            return repeats(made, spare)
        except EnvError as error:
            for line in error.frames:
                say(line, stream=sys.stderr)
            raise InputError(f"{error}; fix the environment") from error


def record_of(settings: Settings, spec: Spec) -> Record:
    """The record of a run that has not begun."""
    observations, bounds = [list(part) for part in spec.observations], ([*spec.action_low], [*spec.action_high])
    seconds = spec.frame_seconds and spec.frame_seconds * spec.action_repeat
    return Record(settings, spec.obs_dim, spec.action_dim, observations, *bounds, seconds, [], {})


def holds_run(run_folder: Path, *, unwanted: bool) -> bool:
    """Whether there is a run, one without its run.json included, where one is to be.

    What a run leaves that was killed before it had written anything is none.

    Raises:
        InputError: there is something else; or there is a run and it is `unwanted`.
    """
    leftovers = (lock.LOCK, lock.OWNER)
    if disk.is_there(run_folder) and run_folder.is_dir():
        if all(name in leftovers or name.startswith(TEMPORARY) for name in disk.names(run_folder)):
            return False
    elif not disk.is_there(run_folder):
        return False
    if not is_run(run_folder):
        raise InputError(f"{run_folder} exists and is not a run folder; give another --out")
    if unwanted:
        raise InputError(
            f"{run_folder} already holds a run; add --overwrite to delete it, or --resume to resume it", add="--resume"
        )
    disk.refuse_links(run_folder)
    return True
