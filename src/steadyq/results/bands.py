"""Curves to draw: a statistic of several runs over frames, with its interval and with the spread of the runs."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from steadyq.results import scores, statistics
from steadyq.results.runs import Run
from steadyq.results.statistics import Band, Spread

RESAMPLES = 2_000  # of an interval that is drawn: its ends shake by less than a line's width
POINTS = 100
FEW = 5
"""Fewer runs than this per task are too few to tell methods apart; see `docs/statistics.md`."""


class Line(NamedTuple):
    """One method's curve over some tasks."""

    method: str
    tasks: tuple[str, ...]
    band: Band
    spread: Spread
    until: str  # why the curve ends before its longest run, or empty
    runs: tuple[Run, ...]

    @property
    def last(self) -> float:
        """The frame at which it ends."""
        return float(self.band.points[-1])


def line(runs: Sequence[Run], *, points: int = POINTS, interval: bool = True) -> Line:
    """IQM over these runs of one method, at frames that all of them reach; far cheaper without the interval.

    Only there: where one run ends before another, a mean over the rest would jump. A run that has its evaluation of
    frame 0 only has just begun and does not count, unless all have.

    Raises:
        InputError: the runs have no frame in common.
    """
    begun = [run for run in runs if run.env_step[-1] > 0] or list(runs)
    frames = thin(scores.grid(begun), points)
    (found,) = scores.at(begun, [int(frame) for frame in frames]).values()
    shortest = min(begun, key=lambda run: run.env_step[-1])
    longest = max(int(run.env_step[-1]) for run in begun)
    until = f"drawn to frame {frames[-1]:,}, where {shortest.name} ends"
    if interval:
        band = statistics.estimate(statistics.iqm, found, resamples=RESAMPLES)
    else:
        band = statistics.band(found, statistics.iqm(found.tasks), None, 0.95, found.runs, {})
    return Line(
        found.method,
        tuple(sorted(found.tasks)),
        band,
        statistics.spread(found),
        until if longest > shortest.env_step[-1] else "",
        tuple(begun),
    )


def thin(values: np.ndarray, points: int) -> np.ndarray:
    """At most so many of them, evenly chosen, the first and the last always."""
    if len(values) <= points:
        return values
    return values[np.unique(np.linspace(0, len(values) - 1, points).round().astype(int))]


def cut_published(runs: Sequence[Run]) -> list[Run]:
    """The same, with published runs ending where the longest of one's own on that task does, if there is one."""
    last: dict[str, int] = {}
    for run in runs:
        if not run.source:
            last[run.task] = max(last.get(run.task, 0), int(run.env_step[-1]))
    found = []
    for run in runs:
        inside = run.env_step <= last.get(run.task, run.env_step[-1])
        if not run.source:
            found.append(run)
        elif inside.any():
            found.append(run._replace(env_step=run.env_step[inside], value=run.value[inside]))
    return found


def task_groups(tasks: Sequence[str], common: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What has a panel of its own: each task, then dogs and humanoids together, then all; by the panel's title.

    Together are those tasks only that are `common` to the methods.
    """
    groups: dict[str, tuple[str, ...]] = {task: (task,) for task in tasks}
    everything, every = (tuple(task for task in found if scores.is_dmc(task)) for found in (common, tasks))
    hard = tuple(task for task in everything if task.startswith(("dog-", "humanoid-")))
    if 1 < len(hard) < len(everything):
        groups[f"dog and humanoid: {len(hard)} tasks"] = hard
    if len(everything) > 1:
        groups[f"{'all ' * (everything == every)}{len(everything)} tasks"] = everything
    return groups


def seeds(runs: Sequence[Run]) -> str:
    """How many runs per task these are, in words."""
    counts = Counter(run.task for run in runs).values()
    return seed_count(min(counts), max(counts))


def seed_count(fewest: int, most: int) -> str:
    """So many seeds, in words."""
    return f"{most} seed{'s' * (most > 1)}" if fewest == most else f"{fewest} to {most} seeds"


def fewest(runs: Sequence[Run]) -> int:
    """The smallest number of runs that one of these methods has on one of its tasks."""
    return min(Counter(run[:2] for run in runs).values())


def rounded(values: Float64[np.ndarray, " n"]) -> list[float | None]:
    """Numbers for a page: four significant digits, and None for what is not a number."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values.tolist()]
