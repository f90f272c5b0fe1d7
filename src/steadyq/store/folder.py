"""Where things lie in a run folder.

run.json                 format, settings, the environment's sizes, per stretch of frames how it was run, a digest
metrics.csv              every measurement, long form
diagnostics.csv          what `steadyq diagnose` measured on the snapshots, in the same form
tensorboard/seed-0/      metrics.csv as TensorBoard events
learning_curve.png       drawn when a run ends
seed-0/checkpoints/      to resume
seed-0/snapshots/FRAME   weights, statistics and temperature at each evaluation, that at the end included
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from steadyq.errors import InputError
from steadyq.store import metrics_csv, sealed
from steadyq.store.disk import FileError
from steadyq.store.names import EVALUATED_AT_THE_END, EVALUATION, in_a_curve
from steadyq.store.typed import from_json

DIAGNOSTICS = "diagnostics.csv"
"""What was measured of a run after its training, in the form of its own record, which goes first where both have it."""

REPLAY = "replay"
"""The name of the replay that a run learns from; its transitions lie in a folder of this name."""

PRIOR = "prior"
"""The name of the replay of transitions from before the run that are kept apart, where it has some."""


def seed_folder(run: Path, seed: int) -> Path:
    """What belongs to one seed."""
    return run / f"seed-{seed}"


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, be it one whose run.json was lost."""
    return (folder / "run.json").is_file() or any(folder.glob("seed-*/checkpoints/*.safetensors"))


def snapshot_path(run: Path, seed: int, frame: int) -> Path:
    """The weights at one evaluation."""
    return sealed.place(seed_folder(run, seed) / "snapshots", frame)


def newest_mark(run: Path) -> metrics_csv.Mark | None:
    """How far the record went at the newest checkpoint that tells; its header is read, and nothing of it is checked."""
    paths = run.glob("seed-*/checkpoints/*.safetensors")
    for path in sorted((path for path in paths if path.stem.isdecimal()), key=lambda path: path.stem, reverse=True):
        try:
            return from_json(metrics_csv.Mark, sealed.peek(path, "checkpoint")["meta"]["metrics"], "metrics")
        except (FileError, ValueError, TypeError, KeyError):  # resuming names it
            continue
    return None


def best_frame(run: Path, seed: int) -> int:
    """The frame of the evaluation with the highest mean return; the earliest of equals."""
    found = returns(run, seed)
    if not found:
        raise InputError(f"{run} has no evaluation of seed {seed} yet; use --checkpoint last")
    return max(found, key=lambda frame: (found[frame], -frame))


def returns(run: Path, seed: int) -> Mapping[int, float]:
    """Mean evaluation return by frame, that at the end included."""
    rows = metrics_csv.read(run / metrics_csv.FILE)
    return {row.env_step: row.value for row in rows if row.seed == seed and in_a_curve(row.metric) == EVALUATION}


def is_evaluated_at_the_end(rows: Iterable[metrics_csv.Row], frame: int, seeds: Iterable[int]) -> bool:
    """Whether these rows of a record have the evaluation at the end, at this frame, of all of these seeds."""
    return {*seeds} <= {row.seed for row in rows if (row.metric, row.env_step) == (EVALUATED_AT_THE_END, frame)}
