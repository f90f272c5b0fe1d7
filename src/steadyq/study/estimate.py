"""How long the runs of a plan will take, from what runs of the same kind took so far, or from a calibration."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from steadyq.engine import machine
from steadyq.errors import InputError
from steadyq.output import plural
from steadyq.run.choices import settings_of
from steadyq.store import disk, metrics_csv
from steadyq.store.names import UTD, WALL_TIME
from steadyq.store.typed import from_json
from steadyq.study import state, worker
from steadyq.study.plan import Planned
from steadyq.study.status import duration

FREE = ("name", "frames", "save_every", "keep", "env_timeout", "on_bad_step", "track")
"""Options that hardly change how long a frame takes."""

CALIBRATION = "calibration.json"
"""In a study's folder: what was measured for the plan alone."""

STARTS_WITHIN = 5.0  # minutes from the start of a process until it learns, compiling included
LOG_EVERY = 100  # frames


class Kind(NamedTuple):
    """Runs of one kind take as long a frame, on one environment."""

    recipe: str
    seeds: int
    choices: tuple[tuple[str, str], ...]


class Measured(NamedTuple):
    """How long a frame of runs of one kind took on one environment."""

    kind: Kind
    env: str
    seconds: float


class Forecast(NamedTuple):
    """What is left of one run, and what it needs."""

    run: Planned
    state: state.State
    seconds: float | None  # of all of it; None: no run of its kind has been measured
    exact: bool  # measured on its own environment

    @property
    def left(self) -> float | None:
        """Seconds to come."""
        if self.state.name in ("done", "failed"):
            return 0.0
        return None if self.seconds is None else self.seconds * max(0.0, 1 - self.state.frame / self.run.frames)


def forecast(study: Path, runs: Sequence[Planned]) -> list[Forecast]:
    """Each run of a plan with its state and the time it will take; a kind's time is read off one record."""
    states = [state.look(study, run) for run in runs]
    exact = dict[tuple[Kind, str], float]()  # seconds per frame
    furthest = sorted(range(len(runs)), key=lambda i: -states[i].frame)
    for run in (runs[i] for i in furthest if states[i].frame > 0):
        kind = _kind(run)
        if (kind, run.env) not in exact and (measured := seconds_per_frame(study / run.folder)) is not None:
            exact[kind, run.env] = measured
    exact = {(one.kind, one.env): one.seconds for one in calibrated(study)} | exact
    similar = dict[Kind, float]()
    for (kind, _), seconds in exact.items():
        similar[kind] = max(seconds, similar.get(kind, 0.0))
    forecasts = []
    for run, found in zip(runs, states, strict=True):
        kind = _kind(run)
        speed = exact.get((kind, run.env), similar.get(kind))
        whole = None if speed is None else speed * run.frames
        forecasts.append(Forecast(run, found, whole, (kind, run.env) in exact))
    return forecasts


def _kind(run: Planned) -> Kind:
    chosen = tuple(sorted((key, str(value)) for key, value in run.choices.items() if key not in FREE))
    return Kind(run.recipe, len(run.seeds), chosen)


def calibrated(study: Path) -> list[Measured]:
    """What was measured in a study's folder for the plan alone; what cannot be read is nothing."""
    try:
        return from_json(list[Measured], json.loads(disk.read(study / CALIBRATION)), "calibration")
    except (InputError, OSError, ValueError, RecursionError):
        return []


def calibrate(
    study: Path,
    runs: Sequence[Planned],
    *,
    threads: int,
    workers: int,
    minutes: float,
    say: Callable[[str], None] = print,
) -> None:
    """Measure each kind of run that was not measured yet: begin one that learns at once and is thrown away.

    As many are at work as later will be, since they share the machine. First comes each kind on one environment.

    Args:
        study: the study's folder, which keeps what was measured.
        runs: of the plan.
        threads: of each run that the file gives none.
        workers: at once, as far as there is memory.
        minutes: that each learns.
        say: takes a line about each.
    """
    by_kind = dict[Kind, list[Planned]]()
    known = {(_kind(one.run), one.run.env) for one in forecast(study, runs) if one.exact}
    for run in runs:
        if (key := (_kind(run), run.env)) not in known:
            known.add(key)
            by_kind.setdefault(_kind(run), []).append(run)
    unknown = [run for several in zip_longest(*by_kind.values()) for run in several if run]
    if not unknown:
        return
    workers = max(1, min(workers, machine.memory().available // max(run.memory for run in unknown)))
    say(
        f"measuring {plural(len(unknown), 'kind')} of runs, {workers} at once, for {minutes:g} min each after its start"
    )
    for first in range(0, len(unknown), workers):
        group = unknown[first : first + workers]
        with tempfile.TemporaryDirectory(prefix="steadyq-") as place:
            found = _measure(Path(place), [_learning_at_once(run) for run in group], threads=threads, minutes=minutes)
        for run, (seconds, words) in zip(group, found, strict=True):
            say(f"{run.folder}: {words if seconds is None else f'{1 / seconds:.1f} frames/s'}")
            if seconds is not None:
                all_of_them = [*calibrated(study), Measured(_kind(run), run.env, seconds)]
                disk.write(study / CALIBRATION, json.dumps(all_of_them).encode() + b"\n", shared=True)


def _learning_at_once(run: Planned) -> Planned:
    """A run that differs in nothing that its frames' time depends on, once it learns; without evaluations."""
    batch = settings_of(run.recipe, env=run.env, choices={**run.choices, "seeds": run.seeds}).resolved("batch_size")
    changed = {"learning_starts": batch, "log_every": LOG_EVERY, "eval_every": 0, "diagnose_every": 0}
    return run._replace(choices={**run.choices, **changed, "save_every": run.frames})


def _measure(place: Path, runs: Sequence[Planned], *, threads: int, minutes: float) -> list[tuple[float | None, str]]:
    """Seconds per frame of some runs that are at work side by side, and why there are none."""
    deadline = time.monotonic() + 60 * (STARTS_WITHIN + minutes)
    processes = [worker.begin(place, run, threads=threads, minutes=None) for run in runs]
    try:
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(1)
            if all(_learnt_for(place / run.folder) >= 60 * minutes for run in runs):
                break
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    found = list[tuple[float | None, str]]()
    for run, process in zip(runs, processes, strict=True):
        failed = process.returncode not in (worker.DONE, worker.MORE)
        words = worker.last_words(place, run) if failed else "it learnt too little; give --calibrate more minutes"
        found.append((seconds_per_frame(place / run.folder), words))
    return found


def _learnt_for(place: Path) -> float:
    """Seconds for which a run has learnt."""
    learnt = _learnt(place)
    return learnt[-1][1] - learnt[0][1] if learnt else 0.0


def seconds_per_frame(place: Path) -> float | None:
    """What a frame of a run takes once it learns, evaluations included; None if it has not logged that yet."""
    learnt = _learnt(place)
    if len(learnt) < 2:
        return None
    (first, began), (last, ended) = learnt[0], learnt[-1]
    return (ended - began) / (last - first)


def _learnt(place: Path) -> list[tuple[int, float]]:
    """The frames at which a run logged that it learns, and its seconds until then."""
    try:
        rows = metrics_csv.read(place / metrics_csv.FILE)
    except InputError:
        return []
    learning = {row.env_step for row in rows if row.metric == UTD and row.value > 0}
    times = sorted({row.env_step: row.value for row in rows if row.metric == WALL_TIME}.items())
    return [(frame, seconds) for frame, seconds in times if frame in learning]


def lines(found: Sequence[Forecast], *, workers: int) -> Iterator[str]:
    """The plan as plain lines, in the order in which the runs are made, and what all of it comes to."""
    width = max(len(one.run.folder) for one in found)
    yield f"{'':>6}  {'run':{width}}  {'frames':>11}  {'time':>8}  {'memory':>8}  {'disk':>8}"
    for number, one in enumerate(found, start=1):
        time = "?" if one.seconds is None else ("" if one.exact else "~") + duration(one.seconds)
        yield (
            f"{number:6,}  {one.run.folder:{width}}  {one.run.frames:11,}  {time:>8}  "
            f"{one.run.memory / 1e9:5.1f} GB  {one.run.disk / 1e9:5.1f} GB  {one.state.name}"
        )
    open_runs = [one for one in found if one.state.name in ("waiting", "running")]
    known = [one.left for one in open_runs if one.left is not None]
    largest = sum(sorted((one.run.memory for one in open_runs), reverse=True)[:workers])
    yield (
        f"{plural(len(found), 'run')}, {len(open_runs):,} to do; "
        f"{sum(one.run.disk for one in found) / 1e9:.1f} GB of disk; "
        f"{workers} at once need up to {largest / 1e9:.1f} GB of memory"
    )
    if known:
        longest = max(sum(known) / workers, *known)
        yield f"{len(known):,} of them take about {duration(longest)} more, {workers} at once"
    if len(known) < len(open_runs):
        yield "?: no run of that kind has been measured here; add --calibrate"
    if any(not one.exact for one in found if one.seconds is not None):
        yield "~: measured on another environment, where a frame may take less or more"
