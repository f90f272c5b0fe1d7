"""Runs of several methods on several tasks, read from run folders and tidy CSV files, and their scores at equal frames.

    study = scores.read([Path("runs"), Path("learning.csv")])
    found = scores.at(study.runs, [50_000])       # method -> Scores, by task, frame and seed
    statistics.estimate(statistics.iqm, found["crossq_wn-utd2"]).at(0)

What cannot be read is a complaint, one sentence each, and the rest is read all the same.
"""

import functools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from steadyq.errors import InputError
from steadyq.results import curves, statistics, tidy
from steadyq.results.statistics import Scores
from steadyq.store import metrics_csv
from steadyq.store.names import EVALUATION

COLUMNS: dict[str, Callable[[str], Any]] = {
    "exp_name": str,
    "env_name": str,
    "seed": str,
    "metric": str,
    "env_step": int,
    "value": tidy.finite,
}
DMC_RETURN = 1000.0
"""The highest return of a DeepMind Control task: 1,000 frames of a reward of at most 1."""


class Protocol(NamedTuple):
    """How runs were made, as far as two of them must agree to be compared. None: not known."""

    action_repeat: int | None = None
    updates_per_frame: Fraction | None = None
    eval_episodes: int | None = None


UNKNOWN = Protocol()


class Run(NamedTuple):
    """One metric of one method, task and seed over training."""

    method: str
    task: str
    seed: str  # text: published results do not always have numbers
    env_step: Int64[np.ndarray, " points"]  # environment frames, strictly increasing
    value: Float64[np.ndarray, " points"]  # finite
    origin: str  # the file or folder that it was read from
    protocol: Protocol = UNKNOWN
    source: str = ""  # the repository of published results; empty for one's own

    @property
    def name(self) -> str:
        """The run in a sentence."""
        return f"seed {self.seed} of {self.method} on {self.task}"

    def covers(self, frame: float) -> bool:
        """Whether the run has a value at this frame: at an evaluation, or between two."""
        return bool(self.env_step[0] <= frame <= self.env_step[-1])


class Study(NamedTuple):
    """Runs, and a sentence for each thing that could not be read, or is not whole."""

    runs: list[Run]
    complaints: list[str]
    more: Mapping[str, list[Run]] = MappingProxyType({})  # further metrics that were asked for, by name


def nothing(_: str) -> bool:
    """Asks for no further metric."""
    return False


# ---- reading


def read(
    places: Iterable[Path],
    *,
    metric: str = EVALUATION,
    also: Callable[[str], bool] = nothing,
    note: Callable[[Path], None] = lambda path: None,
) -> Study:
    """The runs in these places: run folders, folders with run folders anywhere below, and tidy CSV files.

    A tidy file has the columns `exp_name,env_name,seed,metric,env_step,value`, in any order and among others, and may
    be compressed with gzip. Experiments of one name are one method. Of a run still being written, what is there counts.

    Args:
        places: what to read.
        metric: the one that every run must have.
        also: whether a further metric is wanted, where it is there: those are `Study.more`.
        note: is told each file or folder before it is read, to show progress.
    """
    found: dict[str, list[Run]] = {metric: []}
    complaints: list[str] = []
    for place in places:
        for reader, path in _inputs(place, complaints):
            note(path)
            try:
                for name, runs in reader(path, metric, also, complaints).items():
                    found.setdefault(name, []).extend(runs)
            except InputError as error:
                complaints.append(str(error))
    runs = _once(found.pop(metric), complaints)
    return Study(runs, complaints, {name: _once(more, []) for name, more in found.items()})  # said once is enough


def group(
    rows: Iterable[tuple[str, str, str, int, float]], *, origin: str, protocol: Protocol = UNKNOWN, source: str = ""
) -> list[Run]:
    """Runs from rows of method, task, seed, frame and value; the frames of a run may come in any order.

    Raises:
        InputError: a run has one frame twice.
    """
    points: dict[tuple[str, str, str], list[tuple[int, float]]] = defaultdict(list)
    for method, task, seed, frame, value in rows:
        points[method, task, seed].append((frame, value))
    found = []
    for key, pairs in points.items():
        pairs.sort()
        frames, values = np.array([f for f, _ in pairs], np.int64), np.array([v for _, v in pairs], np.float64)
        run = Run(*key, frames, values, origin, protocol, source)
        twice = np.flatnonzero(np.diff(frames) == 0)
        if twice.size:
            raise InputError(f"{origin} has {run.name} at frame {frames[twice[0]]:,} twice; leave one of them out")
        found.append(run)
    return found


Wanted = Callable[[str], bool]
Reader = Callable[[Path, str, Wanted, list[str]], dict[str, list[Run]]]


def _inputs(place: Path, complaints: list[str]) -> Iterator[tuple[Reader, Path]]:
    """What there is to read in a place, in a fixed order."""
    if not place.exists():
        complaints.append(f"there is no {place}; give run folders or tidy CSV files")
    elif place.is_file():
        of_run = place.name == metrics_csv.FILE and (place.parent / "run.json").is_file()
        yield (_read_folder, place.parent) if of_run else (_read_file, place)
    else:
        names = ("run.json", metrics_csv.FILE)
        folders = {path.parent for name in names for path in place.rglob(name)}
        if any((place / name).is_file() for name in names):
            folders = {place}
        if not folders:
            complaints.append(f"{place} is no run folder and holds none (no {metrics_csv.FILE} in or below it)")
        for folder in sorted(folders):
            yield _read_folder, folder


def _read_file(path: Path, metric: str, also: Wanted, _: list[str]) -> dict[str, list[Run]]:
    rows: dict[str, list[tuple[str, str, str, int, float]]] = {}
    wanted = functools.cache(lambda measured: measured == metric or also(measured))
    for name, env, seed, measured, frame, value in tidy.read(path, COLUMNS):
        if wanted(measured):
            rows.setdefault(measured, []).append((name, env, seed, frame, value))
    if metric not in rows:
        raise InputError(f"{path} has no row of the metric {metric}; name one that it has with --metric")
    return {measured: group(found, origin=str(path)) for measured, found in rows.items()}


def _read_folder(folder: Path, metric: str, also: Wanted, complaints: list[str]) -> dict[str, list[Run]]:
    everything = curves.read([folder])
    chosen = [curve for curve in everything if curve.metric == metric]
    if not chosen:
        raise InputError(f"{folder} has no {metric} yet; wait for the run's first evaluation")
    protocol = UNKNOWN
    try:
        settings = json.loads((folder / "run.json").read_text())["settings"]
        protocol = Protocol(
            settings["action_repeat"],
            Fraction(settings["utd"]) / settings["action_repeat"],
            settings["eval_episodes"],
        )
        total, seeds = int(settings["frames"]), {int(seed) for seed in settings["seeds"]}
        due = min(settings[key] for key in ("log_every", "eval_every") if settings[key])
    except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        complaints.append(f"{folder / 'run.json'} cannot be read ({error!r}): how that run was made is not known")
    else:
        done = min(max(c.env_step[-1] for c in everything if c.seed == seed) for seed in {c.seed for c in everything})
        if done + due <= total:
            complaints.append(f"{folder} is at frame {done:,} of {total:,}: still running, or stopped")
        missing = sorted(seeds - {curve.seed for curve in chosen})
        complaints += [f"{folder} has no {metric} of seed {seed}, which it was to train" for seed in missing]
    found: dict[str, list[Run]] = {}
    for c in everything:
        if c.metric == metric or also(c.metric):
            run = Run(c.exp_name, c.env_name, str(c.seed), c.env_step, c.value, str(folder), protocol)
            found.setdefault(c.metric, []).append(run)
    return found


def _once(runs: list[Run], complaints: list[str]) -> list[Run]:
    """The first of the runs with one method, task and seed."""
    first: dict[tuple[str, str, str], Run] = {}
    for run in runs:
        kept = first.setdefault(run[:3], run)
        if kept is not run:
            complaints.append(f"{run.name} is in {kept.origin} and in {run.origin}; only the first counts")
    return list(first.values())


# ---- scores


def at(runs: Iterable[Run], frames: Sequence[int]) -> dict[str, Scores]:
    """Scores at these frames, by method, of the runs that cover all of them; a method without such a run is left out.

    Between two evaluations the value is interpolated; nothing is extrapolated. Methods are in the order of the runs.
    """
    points = np.array(frames, dtype=np.float64)
    covering = [run for run in runs if all(run.covers(frame) for frame in frames)]
    return _scores(covering, "frame", points, lambda run: np.interp(points, run.env_step, run.value))


def areas(runs: Sequence[Run], *, stop: float) -> tuple[dict[str, Scores], dict[str, int]]:
    """Area under the curve, up to frame `stop`, of every run that reaches it; and the first frame, by task.

    On each task the areas of all runs start at one frame, the latest at which one of them starts, so that they can be
    compared. A run whose first evaluation is at `stop` or later has no area.
    """
    reaching = [run for run in runs if run.covers(stop) and run.env_step[0] < stop]
    starts: dict[str, int] = {}
    for run in reaching:
        starts[run.task] = max(starts.get(run.task, 0), int(run.env_step[0]))

    def area(run: Run) -> Float64[np.ndarray, " points"]:
        frames = run.env_step.astype(np.float64)
        return np.array([statistics.area_under_curve(frames, run.value, start=float(starts[run.task]), stop=stop)])

    return _scores(reaching, "frame", np.array([stop], dtype=np.float64), area), starts


def grid(runs: Sequence[Run]) -> Int64[np.ndarray, " points"]:
    """Frames at which curves of these runs can be drawn together, where all of them have a value.

    Those of the coarsest run, and both ends: there it has values too, if only between two of its evaluations.

    Raises:
        InputError: they have no frame in common.
    """
    start, stop = max(run.env_step[0] for run in runs), min(run.env_step[-1] for run in runs)
    if start > stop:
        raise InputError(f"{runs[0].method} on {runs[0].task} and the others share no frame; compare fewer runs")
    inside = [run.env_step[(run.env_step >= start) & (run.env_step <= stop)] for run in runs]
    return np.union1d(min(inside, key=len), [start, stop])


def is_dmc(task: str) -> bool:
    """Whether returns are on DeepMind Control's scale of 0 to 1000, by the form of the name: `domain-task`, lower case.

    By its form alone, so that a file can be read without the simulator: Gymnasium's names have capitals or a version.
    """
    return re.fullmatch(r"[a-z][a-z0-9_]*-[a-z][a-z0-9_]*", task) is not None and not re.search(r"-v\d+$", task)


def _scores(
    runs: Iterable[Run],
    axis: str,
    points: Float64[np.ndarray, " points"],
    value: Callable[[Run], Float64[np.ndarray, " points"]],
) -> dict[str, Scores]:
    tables: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for run in runs:
        tables.setdefault(run.method, {}).setdefault(run.task, {})[run.seed] = value(run)
    return {
        method: Scores(
            method=method,
            axis=axis,
            points=points,
            seeds={task: tuple(by_seed) for task, by_seed in tasks.items()},
            tasks={task: np.stack(list(by_seed.values()), axis=-1) for task, by_seed in tasks.items()},
        )
        for method, tasks in tables.items()
    }
