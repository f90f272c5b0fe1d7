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
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from steadyq.errors import InputError
from steadyq.store import disk
from steadyq.store.disk import FileError, Unreadable
from steadyq.store.names import WALL_TIME

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
    sha256: str  # of so many bytes


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
        self._path = folder / FILE
        rows: list[Row] = []
        if resume_at is None:
            if disk.is_there(self._path):
                raise InputError(
                    f"{self._path} is there already, the record of another run; resume that run or remove it"
                )
            kept = HEADER.encode()
        else:
            kept = check_prefix(self._path, resume_at)
            rows = list(_rows(kept, self._path))
            self._last = {(row.seed, row.metric): row.env_step for row in rows}
        disk.write(self._path, kept)  # not cut where it is: a copy of the run may be made of hard links
        self._sha256 = hashlib.sha256(kept)
        self._file = disk.Appender(self._path, size=len(kept))
        self._events = _event_writers(folder / "tensorboard", seeds, rows, say) if tensorboard else {}

    def has(self, metric: str, *, seed: int, frame: int) -> bool:
        """Whether the newest row of a metric is that of this frame."""
        return self._last.get((seed, metric)) == frame

    def write(self, *, seed: int, frame: int, metrics: Mapping[str, float]) -> list[Row]:
        """Append one row per metric, sorted by name, and return them. A value that is not finite is left out.

        Raises:
            ValueError: the frame is not later than the metric's last one, so that a row would be there twice or out of
                order. That is a mistake in the program; nothing is written.
        """
        rows = []
        for name, value in sorted(metrics.items()):
            last = self._last.get((seed, name), -1)
            if frame <= last:
                raise ValueError(f"{name} of seed {seed} at frame {frame} cannot follow the one at frame {last}")
            if math.isfinite(value):
                rows.append(Row(self._exp_name, self._env_name, seed, name, frame, float(value)))
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows((*row[:-1], _text(row.value)) for row in rows)
        self._last |= {(seed, row.metric): frame for row in rows}
        data = text.getvalue().encode()
        self._sha256.update(data)
        with contextlib.suppress(OSError), self._noting_trouble():
            self._file.append(data)  # at once, for whoever reads along
        self._copy(seed, frame, {row.metric: row.value for row in rows})
        return rows

    def offset(self) -> Mark:
        """Put everything on the disk and return where `metrics.csv` ends, for a checkpoint to record.

        Raises:
            OSError: rows are waiting that the disk does not take, or what it took is not safe there.
        """
        with self._noting_trouble():
            self._file.sync()
        return Mark(self._file.size, self._sha256.hexdigest())

    def close(self) -> None:
        """Put on the disk what it takes and close the files; closing twice is fine."""
        with contextlib.suppress(OSError, ValueError):  # the last save has reported it; a closed file is a ValueError
            self.offset()
        self._file.close()
        self._close_events()

    @contextlib.contextmanager
    def _noting_trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.trouble = f"rows of {self._path} wait in memory: {error.strerror or error}"
            raise
        self.trouble = None

    def _copy(self, seed: int, frame: int, metrics: Mapping[str, float]) -> None:
        if seed not in self._events:
            return
        try:
            for name, value in metrics.items():
                self._events[seed].add(name, value, frame, time.time())
        except Exception as error:  # a copy of the record is not worth a training run: continue without it
            self._close_events()
            self._say(f"TensorBoard events stop here ({error}); {FILE} has everything")

    def _close_events(self) -> None:
        for events in self._events.values():
            events.close()
        self._events = {}


class Events:
    """The TensorBoard events of one seed, in a new folder.

    Not by TensorBoard's own writer: that has a thread which answers a full disk with a traceback on the screen, and it
    takes a second to import.
    """

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():  # they are not about this run
            warnings.simplefilter("ignore")
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True)
        self._file = (folder / f"events.out.tfevents.{time.time():.0f}.steadyq").open("wb", buffering=0)
        self._records = RecordWriter(self._file)
        self._records.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def add(self, metric: str, value: float, frame: int, wall_time: float) -> None:
        """One measurement, made so many seconds after 1970 began."""
        summary = self._summary(value=[self._summary.Value(tag=metric, simple_value=value)])
        self._records.write(self._event(wall_time=wall_time, step=frame, summary=summary).SerializeToString())

    def close(self) -> None:
        """Close the file, whatever the disk says."""
        with contextlib.suppress(OSError):
            self._file.close()


def read(path: Path) -> list[Row]:
    """The rows of a `metrics.csv`, in the file's order. A last line without its end, still being written, is left out.

    Raises:
        InputError: there is no such file, it cannot be read, or it is not what `Logger` writes.
    """
    try:
        data = disk.read(path)
    except FileError as error:
        raise InputError(f"{error}; give the folder of a run, which holds {FILE}") from None
    except Unreadable as error:
        raise InputError(str(error)) from None
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
        Unreadable: it cannot be read now.
    """
    data = disk.read(path)
    if len(data) < mark.size:
        raise FileError(f"{path} has {len(data)} bytes but had {mark.size} at the checkpoint")
    kept = data[: mark.size]
    if not kept.endswith(b"\n"):
        raise FileError(f"{path}: byte {mark.size}, where the checkpoint left off, is inside a line")
    if hashlib.sha256(kept).hexdigest() != mark.sha256:
        raise FileError(f"{path} is damaged or was edited: its beginning is another one than at the checkpoint")
    return kept


def mark(path: Path) -> Mark:
    """The end of a record; a last line without its end does not count."""
    data = disk.read(path)
    whole = data[: data.rfind(b"\n") + 1]
    return Mark(len(whole), hashlib.sha256(whole).hexdigest())


def mend(path: Path, frame: int, *, missing: tuple[str, ...] = ()) -> str:
    """Make a damaged record one that a run can be resumed with: the rows that can be read, up to a frame.

    The damaged file stays under another name.

    Args:
        path: the record.
        frame: at which the run resumes.
        missing: prefixes of metrics that are still to be measured at this very frame.

    Returns:
        One sentence that reports it.
    """
    data = disk.read(path) if disk.is_there(path) else b""
    rows: list[Row] = []
    last: dict[tuple[int, str], int] = {}
    for line in data.splitlines(keepends=True):
        try:
            (row,) = _rows(HEADER.encode() + line, path)
        except (InputError, ValueError):  # not a row: the header, and what is damaged
            continue
        known = frame - 1 if row.metric.startswith(missing) else frame
        if last.get((row.seed, row.metric), -1) < row.env_step <= known:
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
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} has a byte at {error.start} that is not text; restore the file") from None
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        next(lines)
        for exp_name, env_name, seed, metric, env_step, value in lines:
            row = Row(exp_name, env_name, int(seed), metric, int(env_step), float(value))
            if not math.isfinite(row.value):
                raise ValueError("a value that is not finite")
            yield row
    except (ValueError, csv.Error) as error:
        line = f"line {lines.line_num} of {path}"
        raise InputError(f"{line} is not a row of {HEADER.strip()} ({error}); fix or remove that line") from None


def _text(value: float) -> str:
    """The shortest decimal that reads back as the same float64; whole numbers without a point, whatever their type."""
    return repr(value).removesuffix(".0")


def _event_writers(
    folder: Path, seeds: Sequence[int], rows: Sequence[Row], say: Callable[[str], None]
) -> dict[int, Events]:
    """For each seed its TensorBoard events, in a new folder that begins with the rows there are.

    Events have a time of day: that of an earlier row is as long ago as its run's clock says.
    """
    writers: dict[int, Events] = {}
    try:
        disk.remove_tree(folder)
        for seed in seeds:
            writers[seed] = Events(folder / f"seed-{seed}")
        clock = {(row.seed, row.env_step): row.value for row in rows if row.metric == WALL_TIME}
        began, elapsed = time.time() - max(clock.values(), default=0.0), dict.fromkeys(seeds, 0.0)
        for row in rows:
            if row.seed in writers:
                elapsed[row.seed] = clock.get((row.seed, row.env_step), elapsed[row.seed])
                writers[row.seed].add(row.metric, row.value, row.env_step, began + elapsed[row.seed])
        return writers
    except Exception as error:
        for events in writers.values():
            events.close()
        say(f"no TensorBoard events ({error}); {FILE} has everything")
        return {}
