"""What a person sees of a training run: a live table on a terminal, plain lines when the output is piped.

A view is told the same metrics as the `Logger`, and the live one also asks once a second for those of the window in
progress. It is cheap to call at every step (a draw is due four times a second at most), and nothing that goes wrong
with a screen reaches the training: a view that fails falls silent.
"""

import contextlib
import functools
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from math import ceil
from types import MappingProxyType
from typing import IO, Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from steadyq.output import drain, open_streams, safe, say
from steadyq.store.metrics_csv import Row
from steadyq.store.names import ALPHA, ENTROPY, EPISODES, EVALUATION, EVALUATION_STD, Q, in_a_curve

REFRESH = 0.25  # seconds between two draws
LOOK = 1.0  # seconds between two looks at the window in progress, for which the device is asked
WINDOW = 240  # samples of speed, one per draw: about the last minute
SPARKS = 16  # evaluations in a sparkline
QUIET = 600  # seconds: a log that has been told nothing for so long is told how far the run is

SHOWN = (("train", EPISODES, ".1f"), ("q", Q, ".1f"), ("alpha", ALPHA, ".3g"), ("entropy", ENTROPY, ".2f"))
"""What is shown besides evaluations, with its name and form; other metrics' names say nothing to a reader."""

Look = Callable[[], Mapping[int, Mapping[str, float]]]
"""Gives metrics by seed."""


def choose_view(board: "Board", stream: TextIO | None = None) -> "View":
    """The view that suits the output: a live table on a terminal that can redraw, plain lines otherwise.

    Args:
        board: what is known of the run, which is to be shown.
        stream: where to write; standard output by default.
    """
    open_streams()  # of a daemon they are closed
    stream = stream or sys.stdout
    console = Console(file=stream, highlight=False)
    redraws = stream.isatty() and console.is_terminal and not console.is_dumb_terminal
    return LiveView(board, console) if redraws else PlainView(board, stream)


class Board:
    """What is known about the run: its newest metrics per seed, its evaluations, its speed.

    The speed is that of training with updates: the warm-up, which makes none, has one of its own, and what is done
    instead of training (compiling, an evaluation) does not count.

    Args:
        exp_name: the run's NAME.
        env_name: the environment's name.
        seeds: the seeds trained together.
        frames: the environment frame at which the run ends.
        start: the frame at which it begins or is resumed.
        warm_up: the frame up to which no update is made.
        updates_per_frame: critic updates per frame after that.
        pauses: frames between two pauses of each kind, by the metric that tells their seconds; 0 for none.
        clock: seconds since any moment.
    """

    def __init__(
        self,
        *,
        exp_name: str,
        env_name: str,
        seeds: Sequence[int],
        frames: int,
        start: int = 0,
        warm_up: int = 0,
        updates_per_frame: float = 0.0,
        pauses: Mapping[str, int] = MappingProxyType({}),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.exp_name, self.env_name, self.frames, self.frame, self.clock = exp_name, env_name, frames, start, clock
        self.warm_up, self.updates_per_frame, self.pauses = warm_up, updates_per_frame, pauses
        self.latest: dict[int, dict[str, float]] = {seed: {} for seed in seeds}
        self.evaluations: dict[int, list[float]] = {seed: [] for seed in seeds}
        self.doing = "starting"  # instead of training; empty while training
        self.began = self._drawn = clock()
        self._sampled: tuple[float, int] | None = None  # when a frame was reached; None before training goes on
        self._samples: deque[tuple[float, int]] = deque(maxlen=WINDOW)  # seconds and frames between two draws

    @property
    def warming_up(self) -> bool:
        """Whether no update is made yet."""
        return self.frame <= self.warm_up

    def draw_due(self) -> bool:
        """Whether it is time to draw, which then is to be done."""
        now = self.clock()
        due = now - self._drawn >= REFRESH
        if due:
            self._drawn = now
        return due

    def pause(self, doing: str) -> None:
        """Take note that something else than training is done from now on."""
        self.doing, self._sampled = doing, None

    def reach(self, frame: int) -> None:
        """Take note that training has reached a frame."""
        if self.warming_up and frame > self.warm_up:
            self._samples.clear()
            self._sampled = None  # the first update brings costs that the others do not have
        self.frame, self.doing = frame, ""
        now = self.clock()
        if self._sampled is None:
            self._sampled = now, frame
        elif now - self._sampled[0] >= REFRESH:
            self._samples.append((now - self._sampled[0], frame - self._sampled[1]))
            self._sampled = now, frame

    def note(self, seed: int, metrics: Mapping[str, float]) -> None:
        """Take note of what was measured."""
        self.latest[seed].update(metrics)
        if math.isfinite(metrics.get(EVALUATION, math.nan)):
            self.evaluations[seed].append(metrics[EVALUATION])

    def recall(self, row: Row) -> None:
        """Take note of what was recorded before a resume, so that the whole run is shown."""
        if row.seed in self.latest:  # others nobody writes who means well
            self.note(row.seed, {in_a_curve(row.metric): row.value})

    def speed(self) -> float | None:
        """Environment frames per second of training over the last minute or so; None until there is one."""
        seconds, frames = (sum(column) for column in zip(*self._samples, strict=True)) if self._samples else (0.0, 0)
        return frames / seconds if frames else None

    def left(self) -> float | None:
        """About how many seconds are left, at this speed and with pauses as long as the last ones; None: not known."""
        speed = self.speed()
        if speed is None or self.warming_up:
            return None
        seconds = (self.frames - self.frame) / speed
        for metric, every in self.pauses.items():
            if every:
                each = sum(latest.get(metric, 0.0) for latest in self.latest.values())
                seconds += each * (ceil(self.frames / every) - self.frame // every)
        return seconds

    def pace(self) -> list[str]:
        """The speed, and the time to the end, in words; empty until there is something to go by."""
        speed, left = self.speed(), self.left()
        if speed is None:
            return []
        of = f" (warm-up to frame {self.warm_up:,})" if self.warming_up else ""
        return [f"{_rate(speed)} frames/s{of}", *([] if left is None else [f"ETA {_duration(left)}"])]


def harmless(method: Callable[..., None]) -> Callable[..., None]:
    """Make a view's method fall silent for good when it fails: a screen must never stop a training run."""

    @functools.wraps(method)
    def guarded(self: "View", *args: Any, **kwargs: Any) -> None:
        if self.silent:
            return
        try:
            method(self, *args, **kwargs)
        except (Exception, SystemExit) as error:  # SystemExit is what rich makes of a closed pipe
            self.silent = True
            with contextlib.suppress(Exception, SystemExit):
                self.give_up()
            with contextlib.suppress(OSError, ValueError):
                if isinstance(error, (BrokenPipeError, SystemExit)):
                    drain(self.stream)
                else:
                    say(f"the view of the run failed ({error}); training continues", stream=sys.stderr)

    return guarded


class PlainView:
    """One line per seed and call of `update` that has something to say: for logs, pipes and simple terminals.

    And one of how far the run is after ten minutes without any, so that a slow run does not look dead.
    """

    def __init__(self, board: Board, stream: IO[str]) -> None:
        self.board, self.stream, self.silent = board, stream, False
        self._printed = board.clock()

    @harmless
    def progress(self, frame: int, look: Look | None = None) -> None:
        """Take note that training has reached an environment frame; call it as often as you like."""
        self.board.reach(frame)
        if self.board.clock() - self._printed >= QUIET:
            self._print("  ".join([self._reached(frame), *self.board.pace()]))

    @harmless
    def pause(self, doing: str) -> None:
        """Take note that something else than training is done, until `progress` tells of training again."""
        self.board.pause(doing)

    def tick(self) -> None:
        """Time passes; nothing to print."""

    @harmless
    def update(self, *, seed: int, frame: int, metrics: Mapping[str, float]) -> None:
        """Print what was measured of one seed at one environment frame."""
        self.board.note(seed, metrics)
        measured = list(_measured(metrics))
        if measured:
            self._print("  ".join([self._reached(frame), f"seed {seed}", *measured, *self.board.pace()]))

    @harmless
    def message(self, text: str) -> None:
        """Print one line."""
        self._print(text)

    def close(self) -> None:
        """Nothing is left open."""

    give_up = close

    def _reached(self, frame: int) -> str:
        return f"frame {frame:,}/{self.board.frames:,} ({100 * frame // self.board.frames}%)"

    def _print(self, text: str) -> None:
        self._printed = self.board.clock()
        say(text, stream=self.stream)


class LiveView:
    """A table that is redrawn in place, with announcements printed above it."""

    def __init__(self, board: Board, console: Console) -> None:
        self.board, self.stream, self.silent = board, console.file, False
        self._console = console
        # Drawn from the training thread: a thread of its own would draw while the numbers change.
        self._live = Live(console=console, auto_refresh=False, redirect_stderr=sys.stderr.isatty())
        self._looked = -math.inf
        self._begin()

    @harmless
    def progress(self, frame: int, look: Look | None = None) -> None:
        """Take note that training has reached an environment frame; call it as often as you like.

        `look` gives what is measured by now of the window in progress, by seed; it is asked once a second at most.
        """
        self.board.reach(frame)
        if look is not None and (now := self.board.clock()) - self._looked >= LOOK:
            self._looked = now
            for seed, metrics in look().items():
                self.board.note(seed, metrics)
        self.tick()

    @harmless
    def pause(self, doing: str) -> None:
        """Show that something else than training is done, until `progress` tells of training again."""
        self.board.pause(doing)
        self._draw()

    @harmless
    def tick(self) -> None:
        """Time passes, and is to be seen; call it as often as you like."""
        if self.board.draw_due():
            self._draw()

    @harmless
    def update(self, *, seed: int, frame: int, metrics: Mapping[str, float]) -> None:
        """Take note of what was measured of one seed at one environment frame."""
        self.board.note(seed, metrics)
        self.tick()

    @harmless
    def message(self, text: str) -> None:
        """Print one line above the table."""
        self._console.print(Text(safe(text)))

    @harmless
    def close(self) -> None:
        """Draw once more and give the terminal back; the last table stays on it. Closing twice is fine."""
        if self._live.is_started:
            self.board.doing = ""
            self._draw()
            self._live.stop()

    def give_up(self) -> None:
        """Give the terminal back."""
        self._live.stop()

    @harmless
    def _begin(self) -> None:
        self._live.start()
        self._draw()

    def _draw(self) -> None:
        unicode = self._console.encoding.lower().startswith("utf")
        self._live.update(table(self.board, levels="▁▂▃▄▅▆▇█" if unicode else "_.-=*#"), refresh=True)


View = LiveView | PlainView
"""What the training loop reports to."""


def table(board: Board, *, levels: str) -> RenderableType:
    """The live view of the run as something rich can draw; `levels` are a sparkline's characters from low to high."""
    title = Text.assemble((safe(board.env_name), "bold"), "  ", (safe(board.exp_name), "dim"))
    bar = Table.grid(padding=(0, 2, 0, 0))
    bar.add_row(
        ProgressBar(total=board.frames, completed=board.frame, width=32),
        Text(f"{board.frame:,} / {board.frames:,} frames"),
        Text(f"{100 * board.frame // board.frames}%", style="bold"),
    )
    pace = [f"elapsed {_duration(board.clock() - board.began)}", *reversed(board.pace())]
    if (speed := board.speed()) is not None and not board.warming_up:
        pace.append(f"{_rate(speed * board.updates_per_frame)} updates/s")
    if board.doing:
        pace.append(board.doing)
    seeds = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("seed", "eval", "best", *(name for name, _, _ in SHOWN)):
        seeds.add_column(column, justify="right", no_wrap=True)
    seeds.add_column("evaluations", no_wrap=True)
    shown = [value for evaluations in board.evaluations.values() for value in evaluations[-SPARKS:]]
    low, high = min(shown, default=0.0), max(shown, default=0.0)  # one scale for all seeds, so that they compare
    for seed, latest in board.latest.items():
        evaluations = board.evaluations[seed]
        seeds.add_row(
            str(seed),
            Text(_number(latest.get(EVALUATION), ".1f"), style="bold"),
            _number(max(evaluations, default=None), ".1f"),
            *(_number(latest.get(metric), form) for _, metric, form in SHOWN),
            Text(sparkline(evaluations[-SPARKS:], low, high, levels), style="cyan"),
        )
    return Group(Text(), title, bar, Text("   ".join(pace)), seeds)


def sparkline(values: Sequence[float], low: float, high: float, levels: str) -> str:
    """One character per value in [low, high], taken from `levels`."""
    step = (high - low) / (len(levels) - 1) or 1.0
    return "".join(levels[round((value - low) / step)] for value in values)


def _measured(metrics: Mapping[str, float]) -> Iterable[str]:
    """The shown ones of these metrics as words and numbers."""
    if EVALUATION in metrics:
        spread = f" +- {metrics[EVALUATION_STD]:.1f}" if EVALUATION_STD in metrics else ""
        yield f"eval {metrics[EVALUATION]:.1f}{spread}"
    yield from (f"{name} {metrics[metric]:{form}}" for name, metric, form in SHOWN if metric in metrics)


def _rate(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
