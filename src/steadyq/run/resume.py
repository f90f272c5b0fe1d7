"""Resuming a run: its newest whole checkpoint found, and what differs now reported before anything is changed."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from steadyq.envs import guard
from steadyq.envs.source import Source, origin
from steadyq.errors import InputError, unknown
from steadyq.run import save, track
from steadyq.run.conditions import MACHINE, conditions_again, differences, stretch
from steadyq.run.go import Result, check_memory, go
from steadyq.run.keywords import listed
from steadyq.run.save import earliest, to_come
from steadyq.run.stop import Stop
from steadyq.run.training import Callback, Callbacks
from steadyq.settings import Settings, check, flag, resumable, take
from steadyq.store import checkpoint, disk, lock, metrics_csv
from steadyq.store.disk import FileError
from steadyq.store.folder import is_evaluated_at_the_end, is_run, seed_folder
from steadyq.store.record import Record, check_spaces, check_trust, read_record, record_from_json
from steadyq.store.snapshot import replay_sizes
from steadyq.store.start import NOTHING, find_again

PAST_SCHEDULE = "--past-schedule"

FREE = resumable("freely")
"""Settings that may change when a run is resumed, without a trace in what was done."""


def go_on_with(
    settings: Settings, env: Source | None, *, inexact: bool, max_minutes: float | None, callbacks: Callbacks
) -> Result:
    """Resume the run that these settings would begin."""
    changes = {key: getattr(settings, key) for key in FREE if key != "frames"}
    try:
        return resume(
            settings.folder,
            env=env,
            frames=settings.frames,
            inexact=inexact,
            trust=True,
            max_minutes=max_minutes,
            **callbacks._asdict(),
            like=settings,
            **changes,
        )
    except InputError as error:
        if error.add == PAST_SCHEDULE:  # which is no option of `steadyq train`
            raise InputError(str(error)) from None
        raise


def check_same(settings: Settings, there: Settings, run_folder: Path) -> None:
    """InputError if the run that is there is another one than these settings would begin."""
    ours, theirs = _decisive(settings), _decisive(there)
    if ours.get("schedule_updates") == settings.planned_updates:  # by the length, not chosen
        theirs["schedule_updates"] = ours["schedule_updates"]  # `longer` decides
    if settings.gamma is None:  # by the length of an episode, there as here
        theirs["gamma"] = None
    compared = ours if ours["recipe"] == theirs["recipe"] else ("recipe",)
    if odd := [key for key in compared if ours[key] != theirs.get(key)]:
        what = ", ".join(f"{key} is {theirs.get(key)} there and {ours[key]} here" for key in odd)
        raise InputError(
            f"{run_folder} holds another run: {what}; give another --out, or --overwrite it (`steadyq resume` can "
            f"change {', '.join(flag(key) for key in MACHINE)})"
        )


def _decisive(settings: Settings) -> dict[str, Any]:
    """What makes a run another one: all of its settings and its recipe's options but those that are free."""
    flat = settings.to_json()
    options = flat.pop("options")
    return {key: value for key, value in {**flat, **options}.items() if key not in FREE}


@listed((name for name in (*FREE, *MACHINE) if name != "frames"), kept=True)
def resume(
    run_folder: Path | str,
    *,
    env: Source | None = None,
    frames: int | None = None,
    past_schedule: bool = False,
    inexact: bool = False,
    trust: bool = False,
    max_minutes: float | None = None,
    on_log: Callback | None = None,
    on_evaluation: Callback | None = None,
    like: Settings | None = None,
    **changes: Any,
) -> Result:
    """Resume a run from its newest whole checkpoint, bit-exactly; the same as `steadyq resume`.

    Args:
        run_folder: where the run is.
        env: the environment again, if the run was given it as an object of Python.
        frames: a new total length; longer than what is done.
        past_schedule: go beyond the end of the recipe's learning-rate schedule, at its last rate.
        inexact: resume although the machine or a version is another one, so that bits may differ from here on, or
            although the record of measurements is damaged.
        trust: run the code that the run's environment names.
        max_minutes: stop and save after so long.
        on_log: called with the rows of each log record, see `steadyq.train`.
        on_evaluation: called with the rows of each evaluation.
        like: refuse another run than the one that these settings would begin.
        **changes: other values of settings that are `resumable`, see `steadyq resume --help`. None changes nothing.

    Raises:
        InputError: no run folder, a length that lies behind what is done, no checkpoint that is whole, or a difference
            that nobody asked for; nothing was changed.
        RunError: the run could not continue, gave a seed up, or could not save.
        Unreadable: something in the folder cannot be read now; nothing was changed.
        Exception: whatever `on_log` or `on_evaluation` has raised, once the run is saved.
    """
    run_folder = Path(run_folder)
    if not is_run(run_folder):
        raise InputError(f"{run_folder} is not a run folder; give the one that `steadyq train` printed")
    changes = {key: value for key, value in changes.items() if value is not None}
    for key in changes:
        if key not in (*FREE, *MACHINE):
            raise unknown("setting", key, (*FREE, *MACHINE))
    changes = {key: take(key, value) for key, value in changes.items()}
    frames = None if frames is None else take("frames", frames)
    disk.refuse_links(run_folder)
    with Stop(max_minutes=max_minutes) as stop, lock.hold(run_folder) as held:
        record, notes = find_record(run_folder)
        if like is not None:
            check_same(like, record.settings, run_folder)
        check_trust(record, trust=trust)
        check_source(record, env)
        settings = replace(record.settings, **{"track": None, **changes})  # nothing is sent on a folder's word alone
        check(settings)
        track.check(settings)
        if record.settings.track and settings.track is None:
            notes.append(f"W&B gets nothing from here on; add --track {record.settings.track} to send it, later too")
        found = newest_whole(run_folder, record, despite_log=inexact)
        done = found.saved[0].frame if found.saved else 0
        if frames is not None:
            settings = longer(settings, frames, done, past_schedule=past_schedule)
        with closing(guard.of_run(settings, env)) as made:
            check_memory(record._replace(settings=settings))
            check_spaces(record, made.spec.spaces)
            before = record.stretches[-1]
            now = stretch(done, conditions_again(settings, before, changes))
            different, unasked = differences(before, now, asked=changes)
            if unasked and not inexact:
                raise InputError(
                    f"{run_folder} was run otherwise: {unasked}; what follows may not be bit-exact, add --inexact to "
                    f"resume",
                    add="--inexact",
                )
            if different:
                notes.append(f"from here on perhaps not bit-exact: {different}")
            disk.sweep(run_folder)
            mark, log = earliest(found.saved).metrics if found.saved else None, run_folder / metrics_csv.FILE
            if found.log_is_damaged:
                notes.append(metrics_csv.mend(log, done, missing=to_come(found.saved)))
                mark = metrics_csv.mark(log)
            elif settings.frames == done and ended(log, settings):
                mark = metrics_csv.mark(log)  # what was measured at the end stays, unless that is another one now
            record = record._replace(settings=settings, stretches=[*record.stretches, now])
            notes += found.complaints
            return go(
                held,
                record,
                made,
                stop,
                start=NOTHING if found.saved else find_again(record, trust=trust),
                saved=found.saved,
                mark=mark,
                notes=notes,
                source=env,
                callbacks=Callbacks(on_log, on_evaluation),
            )


def ended(log: Path, settings: Settings) -> bool:
    """Whether a record has the evaluation at the end; not if what follows its last checkpoint cannot be read."""
    try:
        return is_evaluated_at_the_end(metrics_csv.read(log), settings.frames, settings.seeds)
    except InputError:
        return False


def check_source(record: Record, env: Source | None) -> None:
    """InputError if an environment is given for a run that was made with another, as far as one can see."""
    if env is None:
        return
    settings, (name, words, is_env) = record.settings, origin(env)
    if settings.env_object is None:
        raise InputError(f"the run's environment is made by its name, {settings.env}; leave env out")
    if words is None or name != settings.env or (is_env and not settings.single_env):
        raise InputError(
            f"the run's environment {settings.env} was {settings.env_object}, and env is {words or repr(name)}; give "
            f"the same again"
        )


def find_record(run_folder: Path) -> tuple[Record, list[str]]:
    """What run.json says; if it is lost, what the newest checkpoint that can be read has of it, with a note."""
    try:
        return read_record(run_folder), []
    except InputError as error:
        trouble = error
    for seed_dir in (run_folder / name for name in disk.names(run_folder) if name.startswith("seed-")):
        for frame in reversed(checkpoint.frames(seed_dir)):
            try:
                found = checkpoint.load(seed_dir, frame)
                record = record_from_json(found.meta.get("record"), source=seed_dir / "checkpoints", out=run_folder)
            except InputError:
                continue
            return record, [f"{trouble}; taken from the checkpoint of frame {frame:,}"]
    raise trouble


class Found(NamedTuple):
    """The newest checkpoint of a run that is whole."""

    saved: list[checkpoint.Checkpoint]  # one per seed; none if the run died before its first
    complaints: list[str]  # about those that are not
    log_is_damaged: bool = False


def newest_whole(run_folder: Path, record: Record, *, despite_log: bool) -> Found:
    """The newest frame at which the checkpoints of all seeds are whole and go with the record of measurements.

    Raises:
        InputError: there are checkpoints and none is whole, or the run has come too far to have none; nothing
            was changed. `despite_log`, the record need not go with it.
    """
    folders = [seed_folder(run_folder, seed) for seed in record.settings.seeds]
    complaints, fallback = list[str](), Found([], [])
    for frame in reversed(checkpoint.common_frames(folders)):
        try:
            saved = [checkpoint.load(folder, frame) for folder in folders]
            for folder, one in zip(folders, saved, strict=True):
                checkpoint.verify(folder, one, sizes=replay_sizes(record))
                save.check(one, record)
            if not fallback.saved:
                fallback = Found(saved, [*complaints], log_is_damaged=True)
            metrics_csv.check_prefix(run_folder / metrics_csv.FILE, earliest(saved).metrics)
            return Found(saved, complaints)
        except FileError as error:
            complaints.append(f"the checkpoint of frame {frame:,} cannot be used: {error}")
    if fallback.saved and despite_log:
        return fallback
    if complaints:
        words = f"{run_folder} cannot be resumed: {complaints[0]}; nothing was changed"
        if fallback.saved:
            raise InputError(f"{words}, add --inexact to resume with what can be read of it", add="--inexact")
        raise InputError(words)
    if (reached := _reached(run_folder, folders)) > first_save(record.settings):
        raise InputError(
            f"{run_folder} cannot be resumed: it has come to frame {reached:,}, and there is no frame at which all "
            f"seeds have a checkpoint; put them back, or start again with `steadyq train ... --overwrite`; nothing was "
            f"changed"
        )
    return Found([], [])


def _reached(run_folder: Path, folders: Sequence[Path]) -> int:
    """How far a run has come, by anything that is in its folder."""
    path = run_folder / metrics_csv.FILE
    rows = metrics_csv.read(path) if disk.is_there(path) else []
    checkpoints = [frame for folder in folders for frame in checkpoint.frames(folder)]
    return max([0, *(row.env_step for row in rows), *checkpoints])


def first_save(settings: Settings) -> int:
    """A frame by which a run has saved, if the disk let it; the first evaluation is the best so far, which is saved."""
    evaluations = 0 if settings.single_env else settings.eval_every  # of a single one wait for an episode's end
    by_frames = [every for every in (settings.save_frames, evaluations) if every]
    return min([settings.frames, *by_frames]) + settings.resolved("action_repeat")


def longer(settings: Settings, frames: int, done: int, *, past_schedule: bool) -> Settings:
    """The settings of the same run with another length."""
    settings = replace(settings, frames=frames)
    check(settings)
    if frames < done:
        raise InputError(f"--frames is {frames}; this run has done {done} already, give more")
    planned, wanted = settings.options.get("schedule_updates"), settings.updates(settings.agent_steps)
    if planned is not None and wanted > planned and not past_schedule:
        raise InputError(
            f"--frames is {frames}, {wanted:,} updates; the learning rate of this run falls over {planned:,}, "
            f"which cannot be stretched: start a longer run, or continue at the last rate by `steadyq resume` with "
            f"--past-schedule",
            add=PAST_SCHEDULE,
        )
    return settings
