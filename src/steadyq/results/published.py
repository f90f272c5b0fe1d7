"""Other people's results: the summary that ships with the package, and files of single runs that a user may have.

A published method is named `ALGORITHM@OWNER`, after the owner of the repository that published it, because codebases
differ: `SAC@SonyResearch` is not `SAC@nicklashansen`. Sources, licences and caveats: `data/README.md`.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from steadyq.errors import InputError
from steadyq.results.csv_columns import finite, read_columns
from steadyq.results.runs import UNKNOWN, Run, Setup, group, matches

COLUMNS: dict[str, Callable[[str], Any]] = {
    "source": str,
    "algorithm": str,
    "suite": str,
    "task": str,
    "seed": str,
    "env_step": int,
    "episode_return": finite,
}
USUAL = ("BRO-utd2@naumix", "BRO-utd10@naumix", "SimbaV2-utd2@*", "XQC-utd2@*", "DR.Q-utd1@*", "SAC@SonyResearch")
"""Patterns of the methods to compare with unless others are asked for: the strongest, and a plain SAC."""


class Reference(NamedTuple):
    """Statistics of a published method's runs on one task, over frames. The percentiles are spreads of runs."""

    method: str
    source: str
    task: str
    setup: Setup
    env_step: Int64[np.ndarray, " points"]
    seeds: Int64[np.ndarray, " points"]
    iqm: Float64[np.ndarray, " points"]
    mean: Float64[np.ndarray, " points"]
    p05: Float64[np.ndarray, " points"]
    p25: Float64[np.ndarray, " points"]
    p75: Float64[np.ndarray, " points"]
    p95: Float64[np.ndarray, " points"]

    def covers(self, frame: float) -> bool:
        """Whether there is a value at this frame: at an evaluation, or between two."""
        return bool(self.env_step[0] <= frame <= self.env_step[-1])


@functools.cache
def summary() -> tuple[Reference, ...]:
    """The published summary that ships with the package, a row per method and task."""
    numbers = ("iqm", "mean", "p05", "p25", "p75", "p95")
    columns: dict[str, Callable[[str], Any]] = {"algorithm": str, "source": str, "task": str}
    columns |= {"env_step": int, "seeds": int} | dict.fromkeys(numbers, float)
    rows = defaultdict(list)
    with resources.as_file(_data("published_summary.csv.gz")) as path:
        for algorithm, source, task, *row in read_columns(path, columns):
            rows[algorithm, source, task].append(row)
    found = []
    for (algorithm, source, task), points in rows.items():
        frames, seeds, *values = zip(*sorted(points), strict=True)
        whole = (np.array(column, np.int64) for column in (frames, seeds))
        real = (np.array(column, np.float64) for column in values)
        name, setup = method_name(algorithm, source), setup_of(source, algorithm)
        found.append(Reference(name, source, task, setup, *whole, *real))
    return tuple(found)


def references(
    tasks: Collection[str], *, against: Sequence[str] | None, present: Collection[str] = ()
) -> list[Reference]:
    """Curves of the summary on these tasks, of methods that match `against` (None: the usual) and are not present."""
    wanted = USUAL if against is None else against
    return [row for row in summary() if row.task in tasks and row.method not in present and matches(row.method, wanted)]


def read_published(path: Path, *, keep: Callable[[str, str], bool] = lambda method, task: True) -> list[Run]:
    """The runs of a file of published results, one row per run and frame.

    Args:
        path: a CSV file, also compressed with gzip, with the columns
            `source,algorithm,suite,task,seed,env_step,episode_return`; frames are environment frames.
        keep: whether a method's runs on a task are wanted.

    Raises:
        InputError: the file cannot be read, is malformed, or holds nothing that is wanted.
    """
    wanted = functools.cache(lambda algorithm, source, task: keep(method_name(algorithm, source), task))
    rows: dict[tuple[str, str, str], list[tuple[str, str, str, int, float]]] = defaultdict(list)
    for source, algorithm, suite, task, seed, frame, value in read_columns(path, COLUMNS):
        if wanted(algorithm, source, task):
            rows[source, algorithm, suite].append((method_name(algorithm, source), task, seed, frame, value))
    if not rows:
        raise InputError(f"{path} has no run of the methods and tasks asked for; see --against and --tasks")
    found, sources = [], dict[str, str]()
    for (source, algorithm, suite), points in rows.items():
        name = method_name(algorithm, source)
        if sources.setdefault(name, source) != source:
            raise InputError(f"{path} has {name} of {sources[name]} and of {source}; leave one of them out")
        how = setup_of(source, algorithm) if suite == "dmc" else UNKNOWN
        found += group(points, origin=str(path), setup=how, source=source)
    return found


def method_name(algorithm: str, source: str) -> str:
    """How a published method is called here."""
    return f"{algorithm}@{source.partition('/')[0]}"


def setup_of(source: str, algorithm: str) -> Setup:
    """How a published method was run on DeepMind Control, as far as it is known."""
    return _setups().get((source, algorithm), Setup())


@functools.cache
def _setups() -> dict[tuple[str, str], Setup]:
    columns: dict[str, Callable[[str], Any]] = {"source": str, "algorithm": str}
    columns |= {"action_repeat": _known(int), "updates_per_frame": _known(Fraction), "eval_episodes": _known(int)}
    with resources.as_file(_data("published_protocols.csv")) as path:
        return {(source, algorithm): Setup(*rest) for source, algorithm, *rest in read_columns(path, columns)}


def _known(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: kind(text) if text else None


def _data(name: str) -> Traversable:
    return resources.files("steadyq.results").joinpath("data", name)
