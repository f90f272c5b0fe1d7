"""The record of a run: one row of `metrics.csv` per measurement, and a copy of it as TensorBoard events.

`metrics.csv` is the truth, from which every figure is drawn; TensorBoard is a view of it. The file is a function of the
command alone: names under `time/` carry everything that depends on a clock, and two runs of one command without those
rows are the same bytes. A resumed run cuts the file back to where its checkpoint was and writes the same bytes again.
"""

import csv
import io
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from steadyq.errors import InputError

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


class Logger:
    """Writes down what one run measures, for all of its seeds.

    Args:
        folder: the run folder; holds `metrics.csv` and `tensorboard/seed-N`.
        exp_name: the run's NAME.
        env_name: the environment's name.
        seeds: every seed that will be written.
        resume_at: the byte offset to cut `metrics.csv` back to (see `offset`); None starts a new file.
        tensorboard: whether to write event files as well.
        say: takes one line for the person watching, should TensorBoard not work.

    Raises:
        InputError: a new run where `metrics.csv` exists, or a resumed one whose file does not go with the offset.
    """

    def __init__(
        self,
        folder: Path,
        *,
        exp_name: str,
        env_name: str,
        seeds: Sequence[int],
        resume_at: int | None = None,
        tensorboard: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        self._exp_name, self._env_name, self._say = exp_name, env_name, say
        self._last: dict[tuple[int, str], int] = {}  # the newest frame of every (seed, metric)
        path = folder / FILE
        if resume_at is None:
            self._file = _create(path)
        else:
            for row in _cut(path, resume_at):
                self._last[row.seed, row.metric] = row.env_step
            self._file = path.open("a", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file, lineterminator="\n")
        # What TensorBoard saw of later frames, before the run was cut back, must vanish: it drops events from here on.
        first = {seed: 1 + max((f for (s, _), f in self._last.items() if s == seed), default=-1) for seed in seeds}
        self._events = _event_writers(folder / "tensorboard", first, say) if tensorboard else {}

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
        for name, value in finite.items():
            self._rows.writerow([self._exp_name, self._env_name, seed, name, frame, _text(value)])
            self._last[seed, name] = frame
        self._file.flush()  # whole rows for whoever reads along
        if seed in self._events:
            self._copy(self._events[seed], frame, finite)

    def offset(self) -> int:
        """Put everything on the disk and return the length of `metrics.csv` in bytes, for a checkpoint to record."""
        self._file.flush()
        os.fsync(self._file.fileno())
        try:
            for writer in self._events.values():
                writer.flush()
        except Exception as error:
            self._without_events(error)
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Put everything on the disk and close the files; closing twice is fine."""
        if self._file.closed:
            return
        self.offset()
        self._file.close()
        for writer in self._events.values():
            writer.close()

    def _copy(self, writer: "SummaryWriter", frame: int, metrics: Mapping[str, float]) -> None:
        try:
            for name, value in metrics.items():
                writer.add_scalar(name, value, frame)
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
    from steadyq.run import sealed  # here, because it imports torch, without which a record can be read and written

    text = io.StringIO(newline="")
    text.write(HEADER)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows((*row[:-1], _text(row.value)) for row in rows)
    sealed.write_file(path, text.getvalue().encode())


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


def _create(path: Path) -> io.TextIOWrapper:
    try:
        file = path.open("x", encoding="utf-8", newline="")
    except FileExistsError:
        raise InputError(f"{path} is there already, the record of another run; resume that run or remove it") from None
    file.write(HEADER)
    file.flush()
    return file


def _cut(path: Path, offset: int) -> list[Row]:
    """Shorten the file to `offset` bytes and return the rows that stay. A file that does not fit is left as it is."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot resume without {path} ({error.strerror}); restore the file or start anew") from None
    if len(data) < offset:
        raise InputError(
            f"{path} has {len(data)} bytes but had {offset} at the checkpoint; restore the file or start anew"
        )
    kept = data[:offset]
    if not kept.endswith(b"\n"):
        raise InputError(
            f"byte {offset} of {path}, where the checkpoint left off, is inside a line; restore the file or start anew"
        )
    rows = list(_rows(kept, path))
    os.truncate(path, offset)
    return rows


def _text(value: float) -> str:
    """The shortest decimal that reads back as the same float64; whole numbers without a point, whatever their type."""
    return repr(value).removesuffix(".0")


def _event_writers(folder: Path, first: Mapping[int, int], say: Callable[[str], None]) -> dict[int, "SummaryWriter"]:
    """For each seed the writer of its TensorBoard events, which drops older events from frame `first[seed]` on.

    Imported here because it takes a second that only training should pay; its warnings are not about this run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter
        return {
            seed: SummaryWriter(str(folder / f"seed-{seed}"), purge_step=frame, flush_secs=30)
            for seed, frame in first.items()
        }
    except Exception as error:
        say(f"no TensorBoard events ({error}); {FILE} has everything")
        return {}
