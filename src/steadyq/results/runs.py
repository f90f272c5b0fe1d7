"""What results are made of: runs of methods on tasks, how they were made, and what could not be read of them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from fnmatch import fnmatchcase
from fractions import Fraction
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from steadyq.errors import InputError
from steadyq.settings import LONGEST_NAME


class Setup(NamedTuple):
    """How runs were made, as far as two of them must agree to be compared. None: not known."""

    action_repeat: int | None = None
    updates_per_frame: Fraction | None = None
    eval_episodes: int | None = None


UNKNOWN = Setup()
LAST_FRAME, LARGEST = 2**53, 1e100  # beyond them frames are not exact as float64, and squares of values overflow


class Run(NamedTuple):
    """One metric of one method, task and seed over training."""

    method: str
    task: str
    seed: str  # text: published results do not always have numbers
    env_step: Int64[np.ndarray, " points"]  # environment frames, strictly increasing
    value: Float64[np.ndarray, " points"]  # finite
    origin: str  # the file or folder that it was read from
    setup: Setup = UNKNOWN
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
    more: Mapping[str, list[Run]] = MappingProxyType({})  # further metrics, by name: what `measures.wanted` names


def group(
    rows: Iterable[tuple[str, str, str, int, float]], *, origin: str, setup: Setup = UNKNOWN, source: str = ""
) -> list[Run]:
    """Runs from rows of method, task, seed, frame and value; the frames of a run may come in any order.

    Raises:
        InputError: a run has one frame twice, or names, frames or values that nothing here can be computed with.
    """
    points: dict[tuple[str, str, str], list[tuple[int, float]]] = defaultdict(list)
    for method, task, seed, frame, value in rows:
        points[method, task, seed].append((frame, value))
    found = []
    for key, pairs in points.items():
        if max(map(len, key)) > LONGEST_NAME:
            raise InputError(f"{origin} has a name of more than {LONGEST_NAME} characters; shorten it")
        pairs.sort()
        odd = [pair for pair in pairs if not (0 <= pair[0] <= LAST_FRAME and abs(pair[1]) <= LARGEST)]
        if odd:
            raise InputError(
                f"{origin} has the value {odd[0][1]:g} at frame {odd[0][0]} of seed {key[2]}; "
                f"wanted frames from 0 to 2**53 and finite values of at most {LARGEST:g}"
            )
        frames, values = np.array([f for f, _ in pairs], np.int64), np.array([v for _, v in pairs], np.float64)
        run = Run(*key, frames, values, origin, setup, source)
        twice = np.flatnonzero(np.diff(frames) == 0)
        if twice.size:
            raise InputError(f"{origin} has {run.name} at frame {frames[twice[0]]:,} twice; leave one of them out")
        found.append(run)
    return found


def by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each method, in the order in which the methods come."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.method, []).append(run)
    return found


def tasks_of(runs: Iterable[Run]) -> dict[str, set[str]]:
    """The tasks on which each method has runs, in the order in which the methods come."""
    return {method: {run.task for run in found} for method, found in by_method(runs).items()}


def largest_common(tasks: Mapping[str, Set[str]], *, fewest: int = 1) -> tuple[list[str], tuple[str, ...]]:
    """The methods and tasks that make the largest whole table, so that one stray run does not empty a comparison.

    Each of these methods has runs on each of these tasks. Largest: with the most cells next to those of one method,
    which are there to be compared, and of several the one with the most cells. It is looked for among the tasks of
    each method, what two of them have in common, and what all have.

    Args:
        tasks: by method those on which it has runs.
        fewest: the table has at least so many tasks, or is empty.
    """
    sets = [frozenset(found) for found in dict.fromkeys(map(frozenset, tasks.values()))]
    candidates = dict.fromkeys([a & b for a in sets for b in sets] + ([frozenset.intersection(*sets)] if sets else []))
    best: tuple[tuple[int, int], list[str], tuple[str, ...]] = ((-1, -1), [], ())
    for common in candidates:
        methods = [method for method, found in tasks.items() if common <= found]
        size = ((len(methods) - 1) * len(common), len(methods) * len(common))
        if len(common) >= fewest and size > best[0]:
            best = size, methods, tuple(sorted(common))
    return best[1:]


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of the patterns, in which * stands for anything; capitals do not matter."""
    return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)
