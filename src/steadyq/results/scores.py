"""Scores of runs at equal frames, by method, task and seed; and whether returns of a task have a known scale.

study = read_runs([Path("runs"), Path("learning.csv")])
found = scores.at(study.runs, [50_000])  # method -> Scores, by task, frame and seed
statistics.estimate(statistics.iqm, found["crossq_wn-utd2"]).at(0)
"""

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float64, Int64

from steadyq.errors import InputError
from steadyq.results import statistics
from steadyq.results.runs import Run
from steadyq.results.statistics import Scores

DMC_RETURN = 1000.0
"""The highest return of a DeepMind Control task: 1,000 frames of a reward of at most 1."""


def at(runs: Iterable[Run], frames: Sequence[int]) -> dict[str, Scores]:
    """Scores at these frames, by method, of the runs that cover all of them; a method without such a run is left out.

    Between two evaluations the value is interpolated; nothing is extrapolated. Methods are in the order of the runs.
    """
    points = np.array(frames, dtype=np.float64)
    covering = [run for run in runs if all(run.covers(frame) for frame in frames)]
    return tabulate(covering, points, lambda run: np.interp(points, run.env_step, run.value))


def areas(runs: Sequence[Run], *, start: int = 0, stop: float) -> tuple[dict[str, Scores], dict[str, int]]:
    """Area under the curve, up to frame `stop`, of every run that reaches it; and the first frame, by task.

    On each task the areas of all runs start at one frame, the latest at which one of them starts, so that they can be
    compared; but not before `start`. A run whose first evaluation is at `stop` or later has no area.

    Raises:
        InputError: a `start` that is given is not before `stop`.
    """
    if start and start >= stop:
        words = "let them begin earlier (--from), or compare at a later frame (--at)"
        raise InputError(f"areas would go from frame {start:,} to {stop:,.0f}; {words}")
    reaching = [run for run in runs if run.covers(stop) and run.env_step[0] < stop]
    starts: dict[str, int] = {}
    for run in reaching:
        starts[run.task] = max(starts.get(run.task, start), int(run.env_step[0]))

    def area(run: Run) -> Float64[np.ndarray, " points"]:
        frames = run.env_step.astype(np.float64)
        return np.array([statistics.area_under_curve(frames, run.value, start=float(starts[run.task]), stop=stop)])

    return tabulate(reaching, np.array([stop], dtype=np.float64), area), starts


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


def tabulate(
    runs: Iterable[Run], points: Float64[np.ndarray, " points"], value: Callable[[Run], Float64[np.ndarray, " points"]]
) -> dict[str, Scores]:
    """What `value` makes of each run, one number at each of these frames, by method."""
    tables: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for run in runs:
        tables.setdefault(run.method, {}).setdefault(run.task, {})[run.seed] = value(run)
    return {
        method: Scores(
            method=method,
            points=points,
            seeds={task: tuple(by_seed) for task, by_seed in tasks.items()},
            tasks={task: np.stack(list(by_seed.values()), axis=-1) for task, by_seed in tasks.items()},
        )
        for method, tasks in tables.items()
    }
