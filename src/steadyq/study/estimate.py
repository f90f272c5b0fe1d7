"""How long the runs of a plan will take, from what runs of the same kind in the study's folder took so far."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from steadyq.errors import InputError
from steadyq.output import plural
from steadyq.store import metrics_csv
from steadyq.store.names import UTD, WALL_TIME
from steadyq.study import state
from steadyq.study.plan import Planned
from steadyq.study.status import duration

FREE = ("name", "frames", "save_every", "keep", "env_timeout", "on_bad_step")
"""Options that hardly change how long a frame takes."""


class Forecast(NamedTuple):
    """What is left of one run, and what it needs."""

    run: Planned
    state: state.State
    seconds: float | None  # of all of it; None: no run of its kind has been measured
    exact: bool  # measured on its own environment

    @property
    def left(self) -> float | None:
        """Seconds to come."""
        if self.state.name in ("done", "failed") or self.seconds is None:
            return None if self.state.name == "waiting" else 0.0
        return self.seconds * max(0.0, 1 - self.state.frame / self.run.frames)


def forecast(study: Path, runs: Sequence[Planned]) -> list[Forecast]:
    """Each run of a plan with its state and the time it will take; a kind's time is read off one record."""
    states = [state.look(study, run) for run in runs]
    exact, similar = dict[tuple, float](), dict[tuple, float]()  # seconds per frame
    furthest = sorted(range(len(runs)), key=lambda i: -states[i].frame)
    for run in (runs[i] for i in furthest if states[i].frame > 0):
        kind = _kind(run)
        if (kind, run.env) not in exact and (measured := seconds_per_frame(study / run.folder)) is not None:
            exact[kind, run.env] = measured
            similar[kind] = max(measured, similar.get(kind, 0.0))
    forecasts = []
    for run, found in zip(runs, states, strict=True):
        kind = _kind(run)
        speed = exact.get((kind, run.env), similar.get(kind))
        seconds = None if speed is None else speed * run.frames
        forecasts.append(Forecast(run, found, seconds, (kind, run.env) in exact))
    return forecasts


def _kind(run: Planned) -> tuple:
    """Runs of one kind take as long a frame, on environments of one size."""
    chosen = tuple(sorted((key, str(value)) for key, value in run.choices.items() if key not in FREE))
    return run.recipe, len(run.seeds), chosen


def seconds_per_frame(place: Path) -> float | None:
    """What a frame of a run takes once it learns, evaluations included; None if it has not logged that yet."""
    try:
        rows = metrics_csv.read(place / metrics_csv.FILE)
    except InputError:
        return None
    learning = {row.env_step for row in rows if row.metric == UTD and row.value > 0}
    times = sorted({row.env_step: row.value for row in rows if row.metric == WALL_TIME}.items())
    learnt = [(frame, seconds) for frame, seconds in times if frame in learning]
    if len(learnt) < 2:
        return None
    (first, began), (last, ended) = learnt[0], learnt[-1]
    return (ended - began) / (last - first)


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
        yield f"{len(known):,} of them take about {duration(sum(known) / workers)} more, {workers} at once"
    if len(known) < len(open_runs):
        yield "?: no run of that kind has been measured here; make one for a few minutes, and plan again"
    if any(not one.exact for one in found if one.seconds is not None):
        yield "~: measured on another environment, where a frame may take less or more"
