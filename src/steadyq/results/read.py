"""Runs read from run folders, tidy CSV files and files of published results: what figures and statistics start from.

What cannot be read is a complaint, one sentence each, and the rest is read all the same.
"""

import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from steadyq.errors import InputError
from steadyq.results import measures, published
from steadyq.results.csv_columns import finite, read_columns
from steadyq.results.runs import UNKNOWN, Run, Setup, Study, group, matches
from steadyq.store import metrics_csv
from steadyq.store.folder import DIAGNOSTICS
from steadyq.store.metrics_csv import Row
from steadyq.store.names import EVALUATION

COLUMNS: dict[str, Callable[[str], Any]] = {
    "exp_name": str,
    "env_name": str,
    "seed": str,
    "metric": str,
    "env_step": int,
    "value": finite,
}
Reader = Callable[[Path, str, list[str]], dict[str, list[Run]]]


def read_study(
    places: Sequence[Path],
    *,
    published_file: Path | None = None,
    against: Sequence[str] | None = None,
    tasks: Sequence[str] = ("*",),
    metric: str = EVALUATION,
    say: Callable[[str], None] = lambda text: None,
) -> Study:
    """One's own runs in these places, and the published runs of a file: on the same tasks, or on all if there are none.

    Args:
        places: as `read_runs`.
        published_file: as `published.read_published`.
        against: patterns of the published methods to keep, such as `BRO*`; None for the usual ones.
        tasks: patterns of the tasks to keep.
        metric: the one to compare.
        say: as `read_runs`.

    Raises:
        InputError: nothing could be read; all complaints are in the sentence.
    """
    own = read_runs(places, metric=metric, say=say)
    runs = [run for run in own.runs if matches(run.task, tasks)]
    more = {name: [run for run in found if matches(run.task, tasks)] for name, found in own.more.items()}
    complaints = list(own.complaints)
    if own.runs and not runs:
        complaints.append(f"no run is on a task like {' or '.join(tasks)}")
    if published_file is not None:
        ours = {run.task for run in runs}

        def keep(method: str, task: str) -> bool:
            return (
                matches(method, published.USUAL if against is None else against)
                and matches(task, tasks)
                and (not ours or task in ours)
            )

        try:
            if metric != EVALUATION:
                raise InputError(f"published results have returns only ({EVALUATION}), not {metric}; leave them out")
            runs += published.read_published(published_file, keep=keep)
        except InputError as error:
            complaints.append(str(error))
    if not runs:
        raise InputError("nothing to compare: " + ("; ".join(complaints) or "name run folders or tidy CSV files"))
    return Study(runs, complaints, more)


def read_runs(
    places: Iterable[Path],
    *,
    metric: str = EVALUATION,
    say: Callable[[str], None] = lambda text: None,
) -> Study:
    """The runs in these places: run folders, folders with run folders anywhere below, and tidy CSV files.

    A tidy file has the columns `exp_name,env_name,seed,metric,env_step,value`, in any order and among others, and may
    be compressed with gzip. Experiments of one name are one method. Of a run still being written, what is there counts.
    What figures and the report draw next to the metric (`measures.wanted`) is in `Study.more`, where it was measured.

    Args:
        places: what to read.
        metric: the one that every run must have.
        say: takes one line about each file or folder before it is read.
    """
    found: dict[str, list[Run]] = {metric: []}
    complaints: list[str] = []
    inputs = chain.from_iterable(_inputs(place, complaints) for place in places)
    for number, (reader, path) in enumerate(inputs, start=1):
        say(f"reading {number}: {path}")
        try:
            for name, runs in reader(path, metric, complaints).items():
                found.setdefault(name, []).extend(runs)
        except InputError as error:
            complaints.append(str(error))
    runs = _once(found.pop(metric), complaints)
    return Study(runs, complaints, {name: _once(more, []) for name, more in found.items()})  # reported once is enough


def read_folder(folder: Path) -> dict[str, list[Run]]:
    """Every metric of a run folder, by its name: one run per seed. How they were made is not looked up.

    Raises:
        InputError: it is not the folder of a run, or its record is malformed or empty.
    """
    rows = defaultdict(list)
    for row in read_rows(folder):
        rows[row.metric].append((row.exp_name, row.env_name, str(row.seed), row.env_step, row.value))
    if not rows:
        raise InputError(f"{folder / metrics_csv.FILE} holds no measurement yet; wait for the run's first evaluation")
    return {metric: group(found, origin=str(folder)) for metric, found in rows.items()}


def read_rows(folder: Path) -> list[Row]:
    """What a run's own record has, and then what was measured later, of each metric at the frames it did not have.

    A last line that is still being written is left out, so the folder of a run in progress can be read.

    Raises:
        InputError: as `read_folder`; a record without a row is fine.
    """
    path, later = folder / metrics_csv.FILE, folder / DIAGNOSTICS
    if not path.is_file():
        raise InputError(
            f"{folder} is not the folder of a run: it holds no {metrics_csv.FILE}; give one `steadyq train` made"
        )
    found = _in_order(path)
    if later.is_file():
        measured = {row[:5] for row in found}
        found += [row for row in _in_order(later) if row[:5] not in measured]
    return found


def _in_order(path: Path) -> list[Row]:
    """The rows of a file that has each curve's frames in their order."""
    found, last = metrics_csv.read(path), dict[tuple, int]()
    for row in found:
        if row.env_step <= last.get(row[:4], -1):
            raise InputError(
                f"{path} has {row.metric} of seed {row.seed} at frame {row.env_step} twice or out of order; "
                "a run writes each row once, in order: restore the file"
            )
        last[row[:4]] = row.env_step
    return found


def _inputs(place: Path, complaints: list[str]) -> Iterator[tuple[Reader, Path]]:
    """What there is to read in a place, in a fixed order."""
    if not place.exists():
        complaints.append(f"there is no {place}; give run folders or tidy CSV files")
    elif place.is_file():
        of_run = place.name == metrics_csv.FILE and (place.parent / "run.json").is_file()
        yield (_from_folder, place.parent) if of_run else (_from_table, place)
    else:
        names = ("run.json", metrics_csv.FILE)
        folders = {path.parent for name in names for path in place.rglob(name)}
        if any((place / name).is_file() for name in names):
            folders = {place}
        if not folders:
            complaints.append(f"{place} is not a run folder and holds none (no {metrics_csv.FILE} in or below it)")
        for folder in sorted(folders):
            yield _from_folder, folder


def _from_table(path: Path, metric: str, _: list[str]) -> dict[str, list[Run]]:
    rows: dict[str, list[tuple[str, str, str, int, float]]] = {}
    wanted = functools.cache(lambda measured: measured == metric or measures.wanted(measured))
    for name, env, seed, measured, frame, value in read_columns(path, COLUMNS):
        if wanted(measured):
            rows.setdefault(measured, []).append((name, env, seed, frame, value))
    if metric not in rows:
        raise InputError(f"{path} has no row of the metric {metric}; name one that it has with --metric")
    return {measured: group(found, origin=str(path)) for measured, found in rows.items()}


def _from_folder(folder: Path, metric: str, complaints: list[str]) -> dict[str, list[Run]]:
    everything = read_folder(folder)
    if metric not in everything:
        raise InputError(f"{folder} has no {metric} yet; wait for the run's first evaluation")
    setup = UNKNOWN
    try:
        settings = json.loads((folder / "run.json").read_text())["settings"]
        repeat = settings["action_repeat"]
        setup = Setup(repeat, Fraction(settings["utd"]) / repeat, settings["eval_episodes"])
        total, seeds = int(settings["frames"]), {int(seed) for seed in settings["seeds"]}
        due = min(settings[key] for key in ("log_every", "eval_every") if settings[key])
    except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        complaints.append(f"{folder / 'run.json'} cannot be read ({error!r}): how that run was made is not known")
    else:
        last: dict[str, int] = {}
        for run in chain.from_iterable(everything.values()):
            last[run.seed] = max(last.get(run.seed, 0), int(run.env_step[-1]))
        done = min(last.values())
        if done + due <= total:
            complaints.append(f"{folder} is at frame {done:,} of {total:,}: still running, or stopped")
        missing = sorted(seeds - {int(run.seed) for run in everything[metric]})
        complaints += [f"{folder} has no {metric} of seed {seed}, which it was to train" for seed in missing]
    return {
        name: [run._replace(setup=setup) for run in runs]
        for name, runs in everything.items()
        if name == metric or measures.wanted(name)
    }


def _once(runs: list[Run], complaints: list[str]) -> list[Run]:
    """The first of the runs with one method, task and seed."""
    first: dict[tuple[str, str, str], Run] = {}
    for run in runs:
        kept = first.setdefault(run[:3], run)
        if kept is not run:
            complaints.append(f"{run.name} is in {kept.origin} and in {run.origin}; only the first counts")
    return list(first.values())
