"""Run folders as tidy curves: what every figure and statistic of a study starts from."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from steadyq.errors import InputError
from steadyq.store import metrics_csv
from steadyq.store.folder import DIAGNOSTICS
from steadyq.store.metrics_csv import Row


class Curve(NamedTuple):
    """One metric of one seed over training, in the order of its frames."""

    exp_name: str
    env_name: str
    seed: int
    metric: str
    env_step: Int64[np.ndarray, " points"]  # environment frames, strictly increasing
    value: Float64[np.ndarray, " points"]  # finite


def read(run_dirs: Iterable[Path]) -> list[Curve]:
    """Every curve of these runs, in the order in which the runs and their files begin them.

    A last line that is still being written is left out, so the folder of a run that goes on can be read.

    Raises:
        InputError: a folder that is not a run's, a malformed or empty record, or one curve in two of the folders.
    """
    curves: dict[tuple[str, str, int, str], Curve] = {}
    origin: dict[tuple[str, str, int, str], Path] = {}
    for run_dir in run_dirs:
        for curve in _read_one(run_dir):
            key = curve[:4]
            if key in curves:
                raise InputError(
                    f"seed {curve.seed} of {curve.exp_name} on {curve.env_name} is in {origin[key]} and in {run_dir}; "
                    "leave one of them out"
                )
            curves[key], origin[key] = curve, run_dir
    return list(curves.values())


def mean(curves: Sequence[Curve]) -> tuple[Int64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
    """The frames that all of these curves have in common, and the mean of their values there.

    Only common frames: where one seed has run further than another, a mean over the rest would jump.

    Raises:
        InputError: they have no frame in common.
    """
    common = curves[0].env_step
    for curve in curves[1:]:
        common = np.intersect1d(common, curve.env_step)
    if not common.size:
        names = " and ".join(f"seed {curve.seed} of {curve.exp_name}" for curve in curves)
        raise InputError(f"{curves[0].metric} of {names} share no frame to average at; draw them apart")
    values = [curve.value[np.searchsorted(curve.env_step, common)] for curve in curves]
    return common, np.mean(values, axis=0)


def rows(run_dir: Path) -> list[Row]:
    """What a run's own record says, and then what was measured later, of each metric at the frames it did not have.

    Raises:
        InputError: as `read`, of one folder; a record without a row is fine.
    """
    path, later = run_dir / metrics_csv.FILE, run_dir / DIAGNOSTICS
    if not path.is_file():
        raise InputError(
            f"{run_dir} is not the folder of a run: it holds no {metrics_csv.FILE}; give one `steadyq train` made"
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


def _read_one(run_dir: Path) -> list[Curve]:
    points: dict[tuple[str, str, int, str], list[tuple[int, float]]] = defaultdict(list)
    for row in rows(run_dir):
        points[row[:4]].append((row.env_step, row.value))
    if not points:
        raise InputError(f"{run_dir / metrics_csv.FILE} holds no measurement yet; wait for the run's first evaluation")
    curves = []
    for key, pairs in points.items():
        frames, values = zip(*sorted(pairs), strict=True)  # a later diagnosis may be of frames in between
        curves.append(Curve(*key, np.array(frames, dtype=np.int64), np.array(values, dtype=np.float64)))
    return curves
