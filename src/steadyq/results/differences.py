"""What is not equal between runs that are compared, in sentences: seeds, lengths, evaluation frames, setups."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from steadyq.results.runs import Run, Setup

# What to call the fields of a `Setup`, and why it matters where they differ.
SETUP = (
    ("action repeat", "at equal frames a larger one makes fewer decisions"),
    ("updates per frame", "at equal frames more have learned more"),
    ("episodes per evaluation", "fewer make single values noisier"),
)
NAMED = 6  # so many runs are named, of more only their number


def in_sentences(runs: Sequence[Run], frames: Sequence[int], published: Mapping[str, Setup]) -> list[str]:
    """Everything about these runs that keeps a comparison at these frames from being one of like with like.

    `published` are the setups of published methods that are shown without their runs.
    """
    return [
        *missing_values(runs, frames),
        *missing_seeds(runs),
        *unequal_seeds([run for run in runs if not run.source]),
        *unequal_grids(runs, frames),
        *unequal_setups([*((run.method, run.setup) for run in runs), *published.items()]),
    ]


def missing_values(runs: Sequence[Run], frames: Sequence[int]) -> list[str]:
    """Runs that have no value at a frame."""
    lacking: dict[tuple[int, str, str], list[Run]] = {}
    for frame in frames:
        for run in runs:
            if not run.covers(frame):
                ends = run.env_step[-1] < frame
                why = f"ends at {run.env_step[-1]:,}" if ends else f"begins at {run.env_step[0]:,}"
                lacking.setdefault((frame, run.method, why), []).append(run)
    found = []
    for (frame, method, why), which in lacking.items():
        names = [f"seed {run.seed} on {run.task}" for run in which]
        tasks = sorted({run.task for run in which})
        words = _list(names) if len(which) <= NAMED else f"{len(which)} runs on {_list(tasks)}"
        found.append(f"no value of {method} at frame {frame:,} from {words} ({why})")
    return found


def missing_seeds(runs: Sequence[Run]) -> list[str]:
    """Methods whose tasks do not have the same number of runs."""
    found = []
    for method, seeds in _seeds(runs).items():
        counts = {len(have) for have in seeds.values()}
        everything = set().union(*seeds.values())
        gaps = [
            f"no {' '.join(_sorted(everything - have))} on {task}" for task, have in seeds.items() if everything - have
        ]
        if len(counts) > 1:
            words = f"{method} has {min(counts)} to {max(counts)} runs per task"
            found.append(f"{words} (of its seeds {_list(gaps)}); tasks with more weigh more in its IQM")
    return found


def unequal_seeds(runs: Sequence[Run]) -> list[str]:
    """Tasks on which the methods do not have the same seeds."""
    found, by_method = [], _seeds(runs)
    for task in sorted({run.task for run in runs}):
        here = {method: " ".join(_sorted(seeds[task])) for method, seeds in by_method.items() if task in seeds}
        if len(set(here.values())) > 1:
            found.append(f"seeds differ on {task}: " + _list([f"{method} {seeds}" for method, seeds in here.items()]))
    return found


def unequal_grids(runs: Sequence[Run], frames: Sequence[int]) -> list[str]:
    """Methods that were evaluated at other frames than the rest, and values between two evaluations."""
    several = [run for run in runs if len(run.env_step) > 1]
    spacing = _grouped((run.method, f"{np.median(np.diff(run.env_step)):,.0f} frames") for run in several)
    starts = _grouped((run.method, f"{run.env_step[0]:,}") for run in runs)
    found = []
    if len(spacing) > 1:
        found.append(f"evaluations are apart by {_by_value(spacing)}")
    if len(starts) > 1:
        found.append(f"the first evaluation is at frame {_by_value(starts)}")
    for frame in frames:
        between = dict.fromkeys(run.method for run in runs if run.covers(frame) and frame not in run.env_step)
        if between:
            found.append(f"frame {frame:,} is between two evaluations of {_list([*between])}: values are interpolated")
    return found


def unequal_setups(setups: Sequence[tuple[str, Setup]]) -> list[str]:
    """Action repeat, updates per frame and evaluation episodes of methods, where they differ or are not known."""
    unknown: dict[str, list[str]] = {method: [] for method, _ in setups}
    found = []
    for index, (name, why) in enumerate(SETUP):
        values = [(method, setup[index]) for method, setup in setups]
        known = _grouped((method, str(value)) for method, value in values if value is not None)
        if len(known) > 1:
            found.append(f"{name} differs: {_by_value(known)}; {why}")
        for method in dict.fromkeys(method for method, value in values if value is None):
            unknown[method].append(name)
    if len(unknown) > 1:
        groups = _grouped((method, _list(names)) for method, names in unknown.items() if names)
        found += [f"not known, and so not compared: {names} of {_list(which)}" for names, which in groups.items()]
    return found


def _seeds(runs: Sequence[Run]) -> Mapping[str, Mapping[str, set[str]]]:
    """Seeds by method and task."""
    found: dict[str, dict[str, set[str]]] = {}
    for run in runs:
        found.setdefault(run.method, {}).setdefault(run.task, set()).add(run.seed)
    return found


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The methods that have each value; a method whose runs differ is there more than once."""
    found: dict[str, list[str]] = {}
    for method, value in dict.fromkeys(pairs):
        found.setdefault(value, []).append(method)
    return found


def _by_value(groups: Mapping[str, Sequence[str]]) -> str:
    return _list([f"{value} ({_list(methods)})" for value, methods in groups.items()])


def _list(words: Sequence[str]) -> str:
    return ", ".join(words)


def _sorted(seeds: Iterable[str]) -> list[str]:
    """Whole numbers in their order, then other labels."""
    return sorted(seeds, key=lambda seed: (not seed.isdecimal(), int(seed) if seed.isdecimal() else 0, seed))
