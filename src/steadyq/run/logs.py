"""The record of a run: one row of `metrics.csv` per measurement, and a copy of it as TensorBoard events.

`metrics.csv` is the truth, from which every figure is drawn; TensorBoard is a view of it. The file is a function of the
command alone: names under `time/` carry everything that depends on a clock, and two runs of one command without those
rows are the same bytes. A resumed run cuts the file back to where its checkpoint was and writes the same bytes again.
"""

import contextlib
import csv
import hashlib
import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from steadyq.errors import InputError
from steadyq.run import disk
from steadyq.run.disk import FileError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE = "metrics.csv"
HEADER = "exp_name,env_name,seed,metric,env_step,value\n"


class Row(NamedTuple):
    """One measurement: the value of one metric of one seed at one environment frame."""

    exp_name: str
    env_name: str
    seed: int
    metric: str
    env_step: int
    value: float


class Mark(NamedTuple):
    """How far a record went."""

    size: int  # bytes
    sha256: str  # of so many bytes; "" where an older version kept none


class Logger:
    """Writes down what one run measures, for all of its seeds.

    Rows that the disk does not take wait in memory and are tried again with the next ones.

    Args:
        folder: the run folder; holds `metrics.csv` and `tensorboard/seed-N`.
        exp_name: the run's NAME.
        env_name: the environment's name.
        seeds: every seed that will be written.
        resume_at: where to cut `metrics.csv` back to (see `offset`); None starts a new file.
        tensorboard: whether to write event files as well; those of a resumed run are made anew.
        say: takes one line for the person watching, should TensorBoard not work.

    Attributes:
        trouble: why rows are waiting, in a sentence; None if none are.

    Raises:
        InputError: a new run where `metrics.csv` exists, or a resumed one whose file does not go with the mark.
        OSError: the file cannot be written at all.
    """

    trouble: str | None = None

    def __init__(
        self,
        folder: Path,
        *,
        exp_name: str,
        env_name: str,
        seeds: Sequence[int],
        resume_at: Mark | None = None,
        tensorboard: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        self._exp_name, self._env_name, self._say = exp_name, env_name, say
        self._last: dict[tuple[int, str], int] = {}  # the newest frame of every (seed, metric)
        self._path, self._waiting = folder / FILE, b""
        rows: list[Row] = []
        if resume_at is None:
            if self._path.exists():
                raise InputError(
                    f"{self._path} is there already, the record of another run; resume that run or remove it"
                )
            kept = HEADER.encode()
            disk.write(self._path, kept)
        else:
            kept = check_prefix(self._path, resume_at)
            rows = list(_rows(kept, self._path))
            self._last = {(row.seed, row.metric): row.env_step for row in rows}
        self._sha256 = hashlib.sha256(kept)
        self._file = disk.Appender(self._path, size=len(kept))
        self._events = _event_writers(folder / "tensorboard", seeds, say) if tensorboard else {}
        for row in rows:
            self._copy(row.seed, row.env_step, {row.metric: row.value})

    def write(self, *, seed: int, frame: int, metrics: Mapping[str, float]) -> None:
        """Append one row per metric, sorted by name. A value that is not finite is left out.

        Raises:
            ValueError: the frame is not later than the metric's last one, so that a row would be there twice or out of
                order. That is a mistake in the program; nothing is written.
        """
        finite = {}
        for name, value in sorted(metrics.items()):
            last = self._last.get((seed, name), -1)
            if frame <= last:
                raise ValueError(f"{name} of seed {seed} at frame {frame} cannot follow the one at frame {last}")
            if math.isfinite(value):
                finite[name] = float(value)
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        for name, value in finite.items():
            rows.writerow([self._exp_name, self._env_name, seed, name, frame, _text(value)])
            self._last[seed, name] = frame
        self._waiting += text.getvalue().encode()
        with contextlib.suppress(OSError):  # said by `trouble`
            self._append()
        self._copy(seed, frame, finite)

    def offset(self) -> Mark:
        """Put everything on the disk and return where `metrics.csv` ends, for a checkpoint to record.

        Raises:
            OSError: rows are waiting that the disk does not take, or what it took is not safe there.
        """
        self._append()
        self._file.sync()
        try:
            for writer in self._events.values():
                writer.flush()
        except Exception as error:
            self._without_events(error)
        return Mark(self._file.size, self._sha256.hexdigest())

    def close(self) -> None:
        """Put on the disk what it takes and close the files; closing twice is fine."""
        with contextlib.suppress(OSError, ValueError):  # the last save has said so; a closed file is a ValueError
            self.offset()
        self._file.close()
        for writer in self._events.values():
            writer.close()
        self._events = {}

    def _append(self) -> None:
        """Write down what is waiting."""
        try:
            if self._waiting:
                self._file.append(self._waiting)
        except OSError as error:
            self.trouble = f"rows of {self._path} wait in memory: {error.strerror or error}"
            raise
        self._sha256.update(self._waiting)
        self._waiting, self.trouble = b"", None

    def _copy(self, seed: int, frame: int, metrics: Mapping[str, float]) -> None:
        if seed not in self._events:
            return
        try:
            for name, value in metrics.items():
                self._events[seed].add_scalar(name, value, frame)
        except Exception as error:
            self._without_events(error)

    def _without_events(self, error: Exception) -> None:
        """A copy of the record is not worth a training run: go on without it."""
        self._events = {}
        self._say(f"TensorBoard events stop here ({error}); {FILE} has everything")


def read(path: Path) -> list[Row]:
    """The rows of a `metrics.csv`, in the file's order. A last line without its end, still being written, is left out.

    Raises:
        InputError: there is no such file, or it is not what `Logger` writes.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {path} ({error.strerror}); give the folder of a run, which holds {FILE}"
        ) from None
    return list(_rows(data[: data.rfind(b"\n") + 1], path))


def replace(path: Path, rows: Iterable[Row]) -> None:
    """Write a file of such rows, whole or not at all, in the place of the one that may be there."""
    text = io.StringIO(newline="")
    text.write(HEADER)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows((*row[:-1], _text(row.value)) for row in rows)
    disk.write(path, text.getvalue().encode())


def check_prefix(path: Path, mark: Mark) -> bytes:
    """The beginning of a record up to a mark.

    Raises:
        FileError: there is no file, it is shorter than the mark, or its beginning is another one than at the time.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror})") from None
    if len(data) < mark.size:
        raise FileError(f"{path} has {len(data)} bytes but had {mark.size} at the checkpoint")
    kept = data[: mark.size]
    if not kept.endswith(b"\n"):
        raise FileError(f"{path}: byte {mark.size}, where the checkpoint left off, is inside a line")
    if mark.sha256 and hashlib.sha256(kept).hexdigest() != mark.sha256:
        raise FileError(f"{path} is damaged or was edited: its beginning is another one than at the checkpoint")
    return kept


def mark(path: Path) -> Mark:
    """The end of a record."""
    data = path.read_bytes()
    return Mark(len(data), hashlib.sha256(data).hexdigest())


def mend(path: Path, frame: int) -> str:
    """Make a damaged record one that can be gone on with: the rows that can be read, up to a frame.

    The damaged file stays under another name.

    Returns:
        One sentence that says so.
    """
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    rows: list[Row] = []
    last: dict[tuple[int, str], int] = {}
    for line in data.splitlines(keepends=True):
        try:
            (row,) = _rows(HEADER.encode() + line, path)
        except (InputError, ValueError):  # no row at all: the header, and what is damaged
            continue
        if last.get((row.seed, row.metric), -1) < row.env_step <= frame:
            last[row.seed, row.metric] = row.env_step
            rows.append(row)
    damaged = path.with_name("metrics.damaged.csv")
    disk.write(damaged, data)
    replace(path, rows)
    return f"{path.name} was damaged: {len(rows):,} of its rows are kept, and all of it is in {damaged.name}"


def _rows(data: bytes, path: Path) -> Iterator[Row]:
    """Whole lines as rows; `path` is for the error's sentence."""
    if not data.startswith(HEADER.encode()):
        got = data.partition(b"\n")[0].decode(errors="replace")[:80]
        raise InputError(f"{path} begins with {got!r} instead of {HEADER.strip()!r}; it is not the record of a run")
    lines = csv.reader(io.StringIO(data.decode(errors="replace"), newline=""), strict=True)
    try:
        next(lines)
        for exp_name, env_name, seed, metric, env_step, value in lines:
            row = Row(exp_name, env_name, int(seed), metric, int(env_step), float(value))
            if not math.isfinite(row.value):
                raise ValueError("a value that is not finite")
            yield row
    except (ValueError, csv.Error) as error:
        line = f"line {lines.line_num} of {path}"
        raise InputError(f"{line} is not a row of {HEADER.strip()} ({error}); mend or remove that line") from None


def _text(value: float) -> str:
    """The shortest decimal that reads back as the same float64; whole numbers without a point, whatever their type."""
    return repr(value).removesuffix(".0")


def _event_writers(folder: Path, seeds: Iterable[int], say: Callable[[str], None]) -> dict[int, "SummaryWriter"]:
    """For each seed the writer of its TensorBoard events, in a folder that is empty at first.

    Imported here because it takes a second that only training should pay; its warnings are not about this run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter
        if folder.exists():
            disk.remove_tree(folder)
        return {seed: SummaryWriter(str(folder / f"seed-{seed}"), flush_secs=30) for seed in seeds}
    except Exception as error:
        say(f"no TensorBoard events ({error}); {FILE} has everything")
        return {}
