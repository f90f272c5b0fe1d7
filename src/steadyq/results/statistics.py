"""Statistics of scores over tasks and runs, with stratified bootstrap intervals; equations: `docs/statistics.md`.

Every axis has a name. `Scores` holds one method: tasks by name, in each the runs by seed, and the points (frames) by
value. A statistic turns the runs of some tasks into one number for each index before the axis of the runs, so the same
function gives the estimate and all of its resamples. Tasks may have different numbers of runs.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from steadyq.errors import InputError

RESAMPLES = 20_000
ELEMENTS = 2_000_000  # of one block of resamples: 16 MB, so that memory does not grow with their number

# The real coverage of nominal 95% intervals, in percent, by runs per task: on one task, and over 15 tasks. Measured by
# experiments/coverage.py, see docs/statistics.md. From 10 runs on nominal is near enough.
IQM_COVERAGE: dict[int, tuple[float, float]] = {
    2: (50, 75),
    3: (76, 85),
    4: (88, 90),
    5: (90, 90),
    6: (90, 92),
    7: (92, 92),
    8: (93, 92),
    9: (93, 93),
}
PROBABILITY_COVERAGE: dict[int, tuple[float, float]] = {
    2: (68, 90),
    3: (81, 92),
    4: (94, 93),
    5: (91, 94),
    6: (93, 94),
    7: (93, 93),
    8: (93, 95),
    9: (93, 95),
}

Tasks = Mapping[str, Float64[np.ndarray, "*batch runs"]]
Statistic = Callable[[Tasks], Float64[np.ndarray, "*batch"]]


@dataclass(frozen=True)
class Scores:
    """One method's scores, by task, point and run.

    Raises:
        InputError: no task, a table whose axes do not have the lengths of their names, or a score that is not a number.
    """

    method: str
    points: Float64[np.ndarray, " points"]  # frames
    seeds: Mapping[str, tuple[str, ...]]  # of each task, in the order of the table's runs
    tasks: Mapping[str, Float64[np.ndarray, "points runs"]]

    def __post_init__(self) -> None:
        if not self.tasks or self.tasks.keys() != self.seeds.keys():
            raise InputError(f"scores of {self.method} need tasks, each with its seeds; got {sorted(self.tasks)}")
        for task, table in self.tasks.items():
            wanted = (len(self.points), len(self.seeds[task]))
            if table.shape != wanted or not table.size:
                raise InputError(
                    f"scores of {self.method} on {task} have the shape {table.shape}; "
                    f"{wanted[0]} points and {wanted[1]} seeds are named"
                )
            if not np.isfinite(table).all():
                raise InputError(f"scores of {self.method} on {task} are not all finite; leave those runs out")

    @property
    def runs(self) -> int:
        """The smallest number of runs that a task has."""
        return min(len(seeds) for seeds in self.seeds.values())

    def on(self, tasks: Sequence[str]) -> "Scores":
        """The same on some of the tasks only."""
        seeds, tables = {task: self.seeds[task] for task in tasks}, {task: self.tasks[task] for task in tasks}
        return Scores(self.method, self.points, seeds, tables)


class Interval(NamedTuple):
    """A statistic with its bootstrap interval. Without two runs on every task there is none: both ends are NaN."""

    estimate: float
    low: float
    high: float
    level: float
    runs: int  # the smallest number of runs of a task
    tasks: int
    coverage: str  # its real coverage, where that was measured and is not near nominal: "76%"


class Band(NamedTuple):
    """A statistic with its bootstrap interval at every point."""

    points: Float64[np.ndarray, " points"]
    estimate: Float64[np.ndarray, " points"]
    low: Float64[np.ndarray, " points"]
    high: Float64[np.ndarray, " points"]
    level: float
    runs: int
    tasks: int
    coverage: str

    def at(self, index: int) -> Interval:
        """The interval at one point."""
        values = float(self.estimate[index]), float(self.low[index]), float(self.high[index])
        return Interval(*values, self.level, self.runs, self.tasks, self.coverage)


class Spread(NamedTuple):
    """The 5th to 95th percentile of runs: how far they lie apart, not how well a statistic is known."""

    low: Float64[np.ndarray, " points"]
    high: Float64[np.ndarray, " points"]


# ---- statistics: the last axis is the runs'


def iqm(tasks: Tasks) -> Float64[np.ndarray, "*batch"]:
    """Interquartile mean: the mean of the middle half of all runs of all tasks (Agarwal et al. 2021).

    floor(n / 4) runs go at each end, as in `scipy.stats.trim_mean`. Runs are pooled: a task with more of them weighs
    more.
    """
    pooled = np.sort(np.concatenate(list(tasks.values()), axis=-1), axis=-1)
    cut = pooled.shape[-1] // 4
    return pooled[..., cut : pooled.shape[-1] - cut].mean(-1)


def mean(tasks: Tasks) -> Float64[np.ndarray, "*batch"]:
    """Mean over tasks of the means over their runs."""
    return np.mean([table.mean(-1) for table in tasks.values()], axis=0)


def median(tasks: Tasks) -> Float64[np.ndarray, "*batch"]:
    """Median over tasks of the means over their runs."""
    return np.median([table.mean(-1) for table in tasks.values()], axis=0)


def optimality_gap(*, target: float) -> Statistic:
    """How far runs stay below a target, as a share of it: 1 - mean(min(score, target)) / target, over tasks."""

    def gap(tasks: Tasks) -> Float64[np.ndarray, "*batch"]:
        return 1 - mean({task: np.minimum(table, target) for task, table in tasks.items()}) / target

    return gap


# ---- intervals


def estimate(
    statistic: Statistic, scores: Scores, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Band:
    """A statistic at every point, with its stratified bootstrap interval by the percentile method.

    Each resample draws, on every task by itself, as many of the task's runs as there are, with replacement, and takes
    whole runs: the same ones at every point. Tasks are not resampled: the interval is about other seeds of these tasks.

    Args:
        statistic: of `iqm`, `mean`, `median`, `optimality_gap(target=...)`, or your own.
        scores: one method's.
        level: nominal coverage; `Band.coverage` has the real one of few runs.
        resamples: more make the ends steadier, not truer.
        seed: equal seeds give equal intervals.

    Raises:
        InputError: as `check_bootstrap`.
    """
    check_bootstrap(level=level, resamples=resamples, seed=seed)
    centre = statistic(scores.tasks)
    covers = IQM_COVERAGE if statistic is iqm else {}
    if scores.runs < 2:
        return band(scores, centre, None, level, scores.runs, covers)
    random = np.random.default_rng(seed)
    block = max(1, ELEMENTS // (len(scores.points) * sum(map(len, scores.seeds.values()))))
    found = np.empty((len(scores.points), resamples))
    for start in range(0, resamples, block):
        stop, drawn = min(start + block, resamples), {}
        for task in sorted(scores.tasks):  # in an order that does not depend on how the scores were put together
            table = scores.tasks[task]
            runs = table.shape[-1]
            drawn[task] = table[:, random.integers(runs, size=(stop - start, runs))]
        found[:, start:stop] = statistic(drawn)
    return band(scores, centre, found, level, scores.runs, covers)


def probability_of_improvement(
    a: Scores, b: Scores, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Band:
    """The probability that a run of `a` beats a run of `b` on a task, as the mean over tasks; a tie counts as half.

    On each task it is the Mann-Whitney statistic of its runs divided by the number of pairs. The runs of both are
    resampled, independently.

    Raises:
        InputError: they do not have the same points and tasks (see `Scores.on`), or as `estimate`.
    """
    check_bootstrap(level=level, resamples=resamples, seed=seed)
    if a.tasks.keys() != b.tasks.keys() or not np.array_equal(a.points, b.points):
        raise InputError(f"{a.method} and {b.method} have other tasks or points; compare them where both have runs")
    fewest = min(a.runs, b.runs)
    centre = np.zeros(len(a.points))
    found = np.zeros((len(a.points), resamples))
    tasks = sorted(a.tasks)
    sizes = tuple((len(a.seeds[task]), len(b.seeds[task])) for task in tasks)
    for task, drawn_runs in zip(tasks, _counts(sizes, resamples, seed), strict=True):
        ours, theirs = a.tasks[task][:, :, None], b.tasks[task][:, None, :]
        wins = (ours > theirs) + 0.5 * (ours == theirs)  # [points, runs of a, runs of b]
        centre += wins.mean((1, 2))
        # How often each run was drawn is all that matters: [resamples, runs]. Two products instead of all pairs.
        drawn_a, drawn_b = (counts / counts.shape[1] for counts in drawn_runs)
        for point, table in enumerate(wins):
            found[point] += ((drawn_a @ table) * drawn_b).sum(-1)
    count = len(a.tasks)
    drawn = found / count if fewest > 1 else None
    return band(a, centre / count, drawn, level, fewest, PROBABILITY_COVERAGE)


@functools.lru_cache(maxsize=1)
def _counts(sizes: tuple[tuple[int, int], ...], resamples: int, seed: int) -> list[list[np.ndarray]]:
    """How often each run is drawn, by task, of two methods with so many runs there.

    Kept for the next pair, which mostly has as many: of sixty methods each with each, drawing was nine tenths of it.
    """
    random = np.random.default_rng(seed)
    return [
        [random.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.min_scalar_type(n)) for n in pair]
        for pair in sizes
    ]


def spread(scores: Scores) -> Spread:
    """The range that holds the middle nine tenths of the runs of all tasks, by linear interpolation of their order."""
    return Spread(*np.quantile(np.concatenate(list(scores.tasks.values()), axis=-1), tails(0.9), axis=-1))


# ---- one run's curve in one number


def area_under_curve(
    frames: Float64[np.ndarray, " n"], values: Float64[np.ndarray, " n"], *, start: float, stop: float
) -> float:
    """Mean value between two frames: the trapezoids' area divided by the length. Linear between evaluations.

    Raises:
        InputError: the curve does not reach from `start` to `stop`, or these are not in order.
    """
    if not frames[0] <= start < stop <= frames[-1]:
        raise InputError(
            f"the area from frame {start:,.0f} to {stop:,.0f} needs a curve that covers them; "
            f"this one has {frames[0]:,.0f} to {frames[-1]:,.0f}"
        )
    inside = frames[(frames > start) & (frames < stop)]
    at = np.concatenate([[start], inside, [stop]])
    return float(np.trapezoid(np.interp(at, frames, values), at) / (stop - start))


def frames_to_reach(
    frames: Float64[np.ndarray, " n"], values: Float64[np.ndarray, " n"], *, score: float, stop: float = np.inf
) -> float:
    """The frame of the first evaluation at or above a score, up to frame `stop`; infinity if there is none."""
    reached = np.flatnonzero((values >= score) & (frames <= stop))
    return float(frames[reached[0]]) if reached.size else np.inf


# ---- what an interval is worth


def coverage(table: Mapping[int, tuple[float, float]], *, runs: int, tasks: int) -> str:
    """The real coverage of a 95% interval of so few runs, in words; both of 2 to 14 tasks; empty if not known."""
    if runs not in table:
        return ""
    one, many = sorted(table[runs]) if 1 < tasks < 15 else [table[runs][tasks > 1]] * 2
    return f"{one:.0f}%" if f"{one:.0f}" == f"{many:.0f}" else f"{one:.0f} to {many:.0f}%"


def check_bootstrap(*, level: float, resamples: int, seed: int) -> None:
    """InputError unless the level is in (0, 1), there are resamples, and the seed is one."""
    if not 0 < level < 1:
        raise InputError(f"the level is {level:g}; give a number between 0 and 1, such as 0.95")
    if resamples < 1:
        raise InputError(f"the number of resamples is {resamples}; give a whole number >= 1")
    if seed < 0:
        raise InputError(f"the seed is {seed}; give a whole number >= 0")


def tails(level: float) -> tuple[float, float]:
    """The quantiles between which an interval of this level lies."""
    return (1 - level) / 2, (1 + level) / 2


def band(
    scores: Scores,
    centre: Float64[np.ndarray, " points"],
    found: Float64[np.ndarray, "points resamples"] | None,
    level: float,
    runs: int,
    covers: Mapping[int, tuple[float, float]],
) -> Band:
    """A statistic with the interval between the quantiles of its resamples; None for no interval."""
    if found is None:
        low = high = np.full(len(centre), np.nan)
    else:
        low, high = np.quantile(found, tails(level), axis=-1)
    tasks = len(scores.tasks)
    real = coverage(covers, runs=runs, tasks=tasks) if level == 0.95 and found is not None else ""
    return Band(scores.points, centre, low, high, level, runs, tasks, real)
