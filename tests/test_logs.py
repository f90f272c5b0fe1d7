"""The record of a run and what a person sees of it."""

import csv
import io
import math
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from steadyq.errors import InputError
from steadyq.run import views
from steadyq.store import disk, metrics_csv
from steadyq.store.metrics_csv import Logger, Mark, Row

HEADER = b"exp_name,env_name,seed,metric,env_step,value\n"


def logger(folder: Path, *, resume_at: Mark | None = None, tensorboard: bool = False) -> Logger:
    return Logger(
        folder,
        exp_name="crossq_wn-utd2",
        env_name="walker-run",
        seeds=(0, 7),
        resume_at=resume_at,
        tensorboard=tensorboard,
    )


def stretch(log: Logger, frames: range, *, speed: float = 100.0) -> None:
    """Two seeds' measurements, which depend on the frame alone, and one that depends on a clock."""
    for frame in frames:
        for seed in (0, 7):
            log.write(seed=seed, frame=frame, metrics={"train/q_mean": math.sin(frame + seed), "time/fps": speed})
            if frame % 2 == 0:
                log.write(seed=seed, frame=frame, metrics={"eval/mean_reward": frame / 7})


# ---- metrics.csv


def test_rows_byte_for_byte(tmp_path: Path) -> None:
    log = logger(tmp_path)
    log.write(seed=7, frame=25_000, metrics={"train/n_updates": 5000, "eval/mean_reward": 0.1, "train/ent_coef": 3.0})
    log.write(seed=0, frame=25_000, metrics={"train/q_mean": np.float32(0.1), "train/entropy": np.int64(-2)})
    log.close()
    assert (tmp_path / "metrics.csv").read_bytes() == HEADER + (
        b"crossq_wn-utd2,walker-run,7,eval/mean_reward,25000,0.1\n"
        b"crossq_wn-utd2,walker-run,7,train/ent_coef,25000,3\n"
        b"crossq_wn-utd2,walker-run,7,train/n_updates,25000,5000\n"
        b"crossq_wn-utd2,walker-run,0,train/entropy,25000,-2\n"
        b"crossq_wn-utd2,walker-run,0,train/q_mean,25000,0.10000000149011612\n"
    )


def test_any_float64_reads_back_as_itself(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2**64, size=2000, dtype=np.uint64)
    values = [value for value in bits.view(np.float64).tolist() if math.isfinite(value)]
    values += [0.0, -0.0, 5e-324, -1.7976931348623157e308, 2.0**53, 1e16, 1e22, 1 / 3, 100.0]
    log = logger(tmp_path)
    for frame, value in enumerate(values):
        log.write(seed=0, frame=frame, metrics={"train/q_mean": value})
    log.close()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        back = [float(row["value"]) for row in csv.DictReader(file)]
    assert [struct.pack("d", value) for value in back] == [struct.pack("d", value) for value in values]


def test_names_with_commas_and_quotes_survive(tmp_path: Path) -> None:
    log = Logger(tmp_path, exp_name='a,"b" ü', env_name="my.envs:Arm-v0", seeds=[3], tensorboard=False)
    log.write(seed=3, frame=1, metrics={"train/q_mean": 2.5})
    log.close()
    assert metrics_csv.read(tmp_path / "metrics.csv") == [Row('a,"b" ü', "my.envs:Arm-v0", 3, "train/q_mean", 1, 2.5)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_is_not_finite_is_left_out(tmp_path: Path, value: float) -> None:
    log = logger(tmp_path)
    log.write(seed=0, frame=1, metrics={"train/q_mean": value, "train/entropy": 1.5})
    log.close()
    assert [(row.metric, row.value) for row in metrics_csv.read(tmp_path / "metrics.csv")] == [("train/entropy", 1.5)]


def test_a_second_row_for_one_measurement_is_refused_and_nothing_of_it_written(tmp_path: Path) -> None:
    log = logger(tmp_path)
    log.write(seed=0, frame=10, metrics={"train/q_mean": 1.0})
    log.write(seed=7, frame=10, metrics={"train/q_mean": 1.0})  # another seed
    log.write(seed=0, frame=10, metrics={"train/entropy": 1.0})  # another metric
    before = log.offset()
    for frame in (10, 9):
        with pytest.raises(ValueError, match="train/q_mean of seed 0"):
            log.write(seed=0, frame=frame, metrics={"train/alpha": 1.0, "train/q_mean": 2.0})
    assert log.offset() == before
    log.close()
    log = logger(tmp_path, resume_at=before)  # remembered through a resume
    with pytest.raises(ValueError, match="train/q_mean of seed 0"):
        log.write(seed=0, frame=10, metrics={"train/q_mean": 1.0})
    log.write(seed=0, frame=11, metrics={"train/q_mean": 1.0})
    log.close()


def test_two_runs_differ_in_nothing_but_time(tmp_path: Path) -> None:
    records = []
    for speed in (100.0, 123.4):
        folder = tmp_path / str(speed)
        folder.mkdir()
        log = logger(folder)
        stretch(log, range(10), speed=speed)
        log.close()
        records.append((folder / "metrics.csv").read_bytes())
    assert records[0] != records[1]
    timeless = [[line for line in record.splitlines(True) if b",time/" not in line] for record in records]
    assert timeless[0] == timeless[1]
    assert len(timeless[0]) == 1 + 2 * (10 + 5)


def test_the_order_of_a_mapping_does_not_matter(tmp_path: Path) -> None:
    for name, metrics in (("a", {"x": 1.0, "y": 2.0}), ("b", {"y": 2.0, "x": 1.0})):
        (tmp_path / name).mkdir()
        log = logger(tmp_path / name)
        log.write(seed=0, frame=1, metrics=metrics)
        log.close()
    assert (tmp_path / "a/metrics.csv").read_bytes() == (tmp_path / "b/metrics.csv").read_bytes()


def test_rows_are_whole_for_whoever_reads_along(tmp_path: Path) -> None:
    log = logger(tmp_path)
    stretch(log, range(3))
    assert len(metrics_csv.read(tmp_path / "metrics.csv")) == 2 * (2 * 3 + 2)
    log.close()
    log.close()  # twice is fine


# ---- resuming


def test_a_resumed_record_equals_the_undisturbed_one(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = logger(tmp_path / "whole")
    stretch(whole, range(20))
    whole.close()

    killed = logger(tmp_path / "killed")
    stretch(killed, range(8))
    offset = killed.offset()
    assert offset == metrics_csv.mark(tmp_path / "killed/metrics.csv")
    stretch(killed, range(8, 13), speed=1.0)
    killed.close()
    with (tmp_path / "killed/metrics.csv").open("ab") as file:
        file.write(b"crossq_wn-utd2,walker-run,0,tra")  # died within a line
    resumed = logger(tmp_path / "killed", resume_at=offset)
    assert resumed.offset() == offset
    stretch(resumed, range(8, 20))
    resumed.close()
    assert (tmp_path / "killed/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()


def test_a_record_that_does_not_go_with_its_checkpoint_is_refused_and_left_alone(tmp_path: Path) -> None:
    log = logger(tmp_path)
    stretch(log, range(3))
    offset = log.offset()
    log.close()
    path = tmp_path / "metrics.csv"
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"metrics\.csv has {offset.size} bytes but had {offset.size + 1}"):
        logger(tmp_path, resume_at=Mark(offset.size + 1, ""))
    with pytest.raises(InputError, match=r"metrics\.csv.*inside a line"):
        logger(tmp_path, resume_at=Mark(offset.size - 1, ""))
    with pytest.raises(InputError, match=r"metrics\.csv is damaged or was edited"):
        logger(tmp_path, resume_at=Mark(offset.size, "0" * 64))
    with pytest.raises(InputError, match=r"metrics\.csv.*resume that run"):
        logger(tmp_path)
    assert path.read_bytes() == before
    path.unlink()
    with pytest.raises(InputError, match=r"there is no .*metrics\.csv"):
        logger(tmp_path, resume_at=offset)


def test_rows_wait_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    whole = logger(tmp_path / "whole")
    stretch(whole, range(9))
    whole.close()
    log = logger(tmp_path)
    stretch(log, range(3))
    before = log.offset()
    with monkeypatch.context() as patch:

        def do(operation: Callable[..., Any], *arguments: Any) -> Any:
            if operation.__name__ == "write":
                operation(arguments[0][:7])
                raise OSError(28, "No space left on device")
            return operation(*arguments)

        patch.setattr(disk, "do", do)
        stretch(log, range(3, 6))
        assert log.trouble
        assert "metrics.csv wait in memory: No space left on device" in log.trouble
        with pytest.raises(OSError, match="No space"):
            log.offset()
        assert metrics_csv.mark(tmp_path / "metrics.csv") == before
    stretch(log, range(6, 9))
    assert log.trouble is None
    assert log.offset() == metrics_csv.mark(tmp_path / "metrics.csv")
    log.close()
    assert (tmp_path / "metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()


@pytest.mark.parametrize("failure", range(1, 5))
def test_rows_that_a_failed_sync_may_have_lost_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: int
) -> None:
    """The system forgets what it could not put on the disk: here it becomes zeros, as after a power cut."""
    path, syncs, safe = tmp_path / "metrics.csv", [0], [len(HEADER)]
    log = logger(tmp_path)

    def do(operation: Callable[..., Any], *arguments: Any) -> Any:
        if operation is os.fsync:
            syncs[0] += 1
            content = path.read_bytes()
            if syncs[0] == failure:
                path.write_bytes(content[: safe[0]] + bytes(len(content) - safe[0]))
                raise OSError(5, "Input/output error")
            safe[0] = len(content)
        return operation(*arguments)

    monkeypatch.setattr(disk, "do", do)
    for first in range(0, 12, 3):
        stretch(log, range(first, first + 3))
        try:
            log.offset()
        except OSError:
            assert log.trouble
            assert "wait in memory: Input/output error" in log.trouble
    assert syncs[0] == 4
    log.close()
    (tmp_path / "whole").mkdir()
    whole = logger(tmp_path / "whole")
    stretch(whole, range(12))
    whole.close()
    assert path.read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()


def test_a_damaged_record_is_mended_row_by_row(tmp_path: Path) -> None:
    log = logger(tmp_path)
    stretch(log, range(6))
    log.close()
    path = tmp_path / "metrics.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = [lines[0][:9] + b"\n", *lines[1:4], b"\xff" + lines[4][5:], lines[5], lines[5], *lines[6:], b"crossq"]
    path.write_bytes(b"".join(damaged))
    assert "of its rows are kept" in metrics_csv.mend(path, 4)
    kept = path.read_bytes().splitlines(keepends=True)
    up_to_4 = [line for line in lines[1:] if int(line.split(b",")[4]) <= 4]
    assert kept[0] == lines[0]
    assert set(up_to_4) - set(kept) <= {lines[4]}
    assert [line for line in kept[1:] if line in lines] == [line for line in up_to_4 if line in kept]
    assert (tmp_path / "metrics.damaged.csv").read_bytes() == b"".join(damaged)
    log = logger(tmp_path, resume_at=metrics_csv.mark(path))
    stretch(log, range(5, 6))
    log.close()


def test_a_mended_record_leaves_room_for_what_is_still_to_be_measured(tmp_path: Path) -> None:
    log = logger(tmp_path)
    stretch(log, range(5))
    log.close()
    metrics_csv.mend(tmp_path / "metrics.csv", 4, missing=("eval/",))
    at_4 = {row.metric for row in metrics_csv.read(tmp_path / "metrics.csv") if row.env_step == 4}
    assert at_4 == {"train/q_mean", "time/fps"}
    assert any(row.metric == "eval/mean_reward" for row in metrics_csv.read(tmp_path / "metrics.csv"))


# ---- TensorBoard


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def record(folder: Path, seed: int) -> dict[str, list[tuple[int, float]]]:
    """The same from `metrics.csv`, in the float32 that events have."""
    tags: dict[str, list[tuple[int, float]]] = {}
    for row in metrics_csv.read(folder / "metrics.csv"):
        if row.seed == seed:
            tags.setdefault(row.metric, []).append((row.env_step, float(np.float32(row.value))))
    return tags


def test_tensorboard_has_the_same_numbers_also_after_a_resume(tmp_path: Path) -> None:
    log = logger(tmp_path, tensorboard=True)
    stretch(log, range(6))
    offset = log.offset()
    assert events(tmp_path / "tensorboard/seed-7") == record(tmp_path, 7)
    stretch(log, range(6, 9), speed=1.0)
    log.close()
    assert len(events(tmp_path / "tensorboard/seed-0")["train/q_mean"]) == 9
    log = logger(tmp_path, resume_at=offset, tensorboard=True)
    stretch(log, range(6, 8))
    log.close()
    for seed in (0, 7):
        seen = events(tmp_path / f"tensorboard/seed-{seed}")
        assert seen == record(tmp_path, seed)
        assert set(seen) == {"train/q_mean", "time/fps", "eval/mean_reward"}
        assert [step for step, _ in seen["eval/mean_reward"]] == [0, 2, 4, 6]


def test_events_written_anew_are_as_old_as_the_run_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_csv, "time", SimpleNamespace(time=lambda: 10_000.0))
    log = logger(tmp_path)
    for frame, seconds in ((0, 0.0), (10, 100.0), (20, 250.0)):
        log.write(seed=7, frame=frame, metrics={"eval/mean_reward": 1.0, "time/time_elapsed": seconds})
    log.write(seed=7, frame=25, metrics={"eval/mean_reward": 1.0})
    log.close()
    logger(tmp_path, resume_at=metrics_csv.mark(tmp_path / "metrics.csv"), tensorboard=True).close()
    accumulator = EventAccumulator(str(tmp_path / "tensorboard/seed-7"))
    accumulator.Reload()
    times = [event.wall_time for event in accumulator.Scalars("eval/mean_reward")]
    assert times == [9_750, 9_850, 10_000, 10_000]


def test_without_tensorboard_training_goes_on_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    said: list[str] = []
    log = Logger(tmp_path, exp_name="a", env_name="b", seeds=[0, 1], say=said.append)
    log.write(seed=0, frame=1, metrics={"train/q_mean": 1.0})
    log.close()
    assert len(said) == 1
    assert said[0].startswith("no TensorBoard events (")
    assert len(metrics_csv.read(tmp_path / "metrics.csv")) == 1


def test_tensorboard_failing_midway_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    log = Logger(tmp_path, exp_name="a", env_name="b", seeds=[0], say=said.append)

    def fail(*_: object) -> None:
        raise OSError("no space left")

    log._events[0].add = fail  # type: ignore[method-assign]
    log.write(seed=0, frame=1, metrics={"train/q_mean": 1.0})
    log.write(seed=0, frame=2, metrics={"train/q_mean": 1.0})
    log.close()
    assert said == ["TensorBoard events stop here (no space left); metrics.csv has everything"]
    assert len(metrics_csv.read(tmp_path / "metrics.csv")) == 2


def test_importing_the_logger_does_not_import_tensorboard() -> None:
    code = (
        "import sys, steadyq.store.metrics_csv, steadyq.run.views; print({'torch', 'tensorboard'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# ---- what a person sees


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def board(clock: Clock, **changes: Any) -> views.Board:
    about = {"exp_name": "crossq_wn-utd2", "env_name": "walker-run", "seeds": (0, 1), "frames": 100_000}
    return views.Board(clock=clock, **{**about, **changes})


def reach(seen: views.Board, clock: Clock, *, frames: int, seconds: float) -> None:
    """Train for so many frames, at so many seconds each."""
    for _ in range(frames):
        clock.now += seconds
        seen.reach(seen.frame + 1)


MEASURED = {
    "eval/mean_reward": 312.44,
    "eval/std_reward": 20.1,
    "rollout/ep_rew_mean": 280.0,
    "train/q_mean": 31.2,
    "train/ent_coef": 0.0314,
    "train/entropy": -2.1,
    "train/critic_loss": 0.5,
}


def test_plain_lines() -> None:
    clock, stream = Clock(), io.StringIO()
    view = views.PlainView(board(clock), stream)
    view.message("precision float32")
    view.update(seed=0, frame=0, metrics={"eval/mean_reward": 10.0})
    for frame in range(0, 25_001, 1000):
        view.progress(frame)
        clock.now += 1.0
    view.update(seed=1, frame=25_000, metrics=MEASURED)
    view.update(seed=1, frame=25_000, metrics={"train/critic_loss": 0.5})  # nothing to show
    view.close()
    assert stream.getvalue().splitlines() == [
        "precision float32",
        "frame 0/100,000 (0%)  seed 0  eval 10.0",
        "frame 25,000/100,000 (25%)  seed 1  eval 312.4 +- 20.1  train 280.0  q 31.2  alpha 0.0314  entropy -2.10  "
        "1,000 frames/s  ETA 0:01:15",  # 75,000 to go
    ]


@pytest.mark.parametrize(("seconds", "shown"), [(0.25, "4"), (0.8, "1.2"), (2.5, "0.4"), (1 / 2500, "2,500")])
def test_a_slow_runs_speed_is_not_rounded_to_whole_frames(seconds: float, shown: str) -> None:
    clock, stream = Clock(), io.StringIO()
    view = views.PlainView(board(clock), stream)
    view.progress(1)
    clock.now += 1000 * seconds
    view.progress(1001)
    view.update(seed=0, frame=1001, metrics={"eval/mean_reward": 10.0})
    assert f"  {shown} frames/s  ETA" in stream.getvalue()


def test_a_slow_run_says_every_ten_minutes_how_far_it_is() -> None:
    clock, stream = Clock(), io.StringIO()
    view = views.PlainView(board(clock), stream)
    for frame in range(1, 1001):
        clock.now += 2.0
        view.progress(frame)
        if frame == 500:  # a line of its own: the next is due ten minutes later
            view.message("saved")
    assert [line.split("  ")[0] for line in stream.getvalue().splitlines()] == [
        "frame 300/100,000 (0%)",
        "saved",
        "frame 800/100,000 (0%)",
    ]


def test_the_speed_is_that_of_training_with_updates() -> None:
    """Neither of the warm-up, which makes none, nor of what is done instead of training; and so is the time to come."""
    clock = Clock()
    seen = board(clock, warm_up=1_000, frames=3_000, pauses={"time/evaluation_seconds": 1_000})
    assert seen.pace() == []
    clock.now += 500  # until everything is made
    reach(seen, clock, frames=1_000, seconds=0.5)
    assert seen.speed() == pytest.approx(2.0)
    assert seen.pace() == ["2 frames/s (warm-up to frame 1,000)"]
    seen.pause("compiling the updates")
    clock.now += 96
    assert seen.pace() == ["2 frames/s (warm-up to frame 1,000)"]
    reach(seen, clock, frames=1, seconds=30.0)  # the first update
    assert seen.pace() == []
    reach(seen, clock, frames=499, seconds=2.0)
    assert seen.pace() == ["0.5 frames/s", "ETA 0:50:00"]  # 1,500 to go
    seen.pause("evaluating")
    clock.now += 100
    for seed in (0, 1):
        seen.note(seed, {"time/evaluation_seconds": 50.0})
    reach(seen, clock, frames=1, seconds=2.0)
    assert seen.left() == pytest.approx(1_499 * 2 + 2 * 100)  # at frames 2,000 and 3,000


def live(clock: Clock, **options: Any) -> tuple[views.LiveView, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system=None, width=100, height=30, highlight=False)
    return views.LiveView(board(clock, **options), console), stream


def test_the_live_table_shows_each_seed() -> None:
    clock = Clock()
    view, stream = live(clock, updates_per_frame=0.5)
    try:
        view.message("saved [bold]as it is[/bold]")
        for frame, value in ((1, 10.0), (25_001, 400.0), (50_001, 300.0)):
            clock.now += 60
            view.progress(frame)
            view.update(seed=0, frame=frame, metrics=MEASURED | {"eval/mean_reward": value})
    finally:
        view.close()
    view.close()
    shown = stream.getvalue()
    assert "saved [bold]as it is[/bold]" in shown
    last = shown[shown.rindex("walker-run") :].splitlines()
    assert "50,001 / 100,000 frames" in last[1]
    assert "50%" in last[1]
    assert last[2].split() == ["elapsed", "0:03:00", "ETA", "0:02:00", "417", "frames/s", "208", "updates/s"]
    assert last[4].split() == ["0", "300.0", "400.0", "280.0", "31.2", "0.0314", "-2.10", "▁█▆"]
    assert last[5].split() == ["1", "-", "-", "-", "-", "-", "-"]


def test_the_live_table_is_drawn_four_times_a_second_at_most() -> None:
    clock = Clock()
    view, stream = live(clock)
    try:
        before = stream.getvalue().count("frames")
        for frame in range(10_000):
            clock.now += 0.001
            view.progress(frame)
        assert stream.getvalue().count("100,000 frames") - before in range(35, 42)
    finally:
        view.close()


def test_the_live_view_shows_that_time_passes_whatever_is_done() -> None:
    clock = Clock()
    view, stream = live(clock)
    view.pause("compiling the updates")
    for _ in range(960):  # as the loop waits
        clock.now += 0.1
        view.tick()
    shown = re.findall(r"elapsed (\S+) .*compiling the updates", stream.getvalue())
    assert list(dict.fromkeys(shown)) == [f"0:{second // 60:02}:{second % 60:02}" for second in range(97)]
    view.progress(1)
    view.close()
    assert "compiling" not in stream.getvalue().splitlines()[-6:]


def test_the_live_view_asks_for_the_window_in_progress_once_a_second() -> None:
    clock = Clock()
    view, stream = live(clock)
    asked = []

    def look() -> dict[int, dict[str, float]]:
        asked.append(clock.now)
        return {1: {"train/q_mean": 10.0 * len(asked), "train/ent_coef": 0.0314, "rollout/ep_rew_mean": 12.5}}

    for frame in range(1, 193):
        clock.now += 1 / 64
        view.progress(frame, look)
    view.close()
    assert [now - asked[0] for now in asked] == [0, 1, 2]  # the first at the first step
    newest = re.findall(r"^ +1 .*$", stream.getvalue(), re.MULTILINE)[-1]
    assert newest.split() == ["1", "-", "-", "12.5", "30.0", "0.0314", "-"]


def test_a_resumed_view_knows_what_was_before() -> None:
    earlier = [
        Row("a", "b", 4, metric, frame, value)
        for frame, metric, value in (
            (0, "eval/mean_reward", 1.0),
            (10, "eval/mean_reward", 9.0),
            (20, "eval_end/mean_reward", 5.0),
        )
    ]
    stream = io.StringIO()
    view = views.choose_view(board(Clock(), seeds=[4], start=20), stream)
    for row in [*earlier, earlier[0]._replace(seed=5)]:
        view.board.recall(row)
    assert isinstance(view, views.PlainView)  # not a terminal
    assert view.board.evaluations == {4: [1.0, 9.0, 5.0]}
    assert view.board.frame == 20
    assert stream.getvalue() == ""


def test_a_terminal_gets_the_live_view_unless_it_is_dumb(monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = os.openpty()
    try:
        with open(terminal, "w", closefd=False) as stream:
            for name, kind in (("xterm-256color", views.LiveView), ("dumb", views.PlainView)):
                monkeypatch.setenv("TERM", name)
                view = views.choose_view(board(Clock()), stream)
                view.close()
                assert isinstance(view, kind)
    finally:
        os.close(main)
        os.close(terminal)


def test_a_view_that_fails_falls_silent(capsys: pytest.CaptureFixture[str]) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("no space left")

    plain = views.PlainView(board(Clock()), Full())
    clock = Clock()
    table, _ = live(clock)
    table.board.frames = 0  # a percentage of nothing: ZeroDivisionError in the drawing
    for view in (plain, table):
        for frame in (1, 2):
            clock.now += 1
            view.update(seed=0, frame=frame, metrics=MEASURED)
            view.progress(frame)
            view.message("still here")
        view.close()
        assert view.silent
    assert capsys.readouterr().err.splitlines() == [
        "the view of the run failed (no space left); training continues",
        "the view of the run failed (integer division or modulo by zero); training continues",
    ]


def test_a_reader_who_leaves_does_not_end_the_program() -> None:
    code = """
from steadyq.run.views import Board, choose_view
shown = choose_view(Board(exp_name="a", env_name="b", seeds=[0], frames=100_000))
for frame in range(100_000):
    shown.update(seed=0, frame=frame, metrics={"eval/mean_reward": 1.0})
assert shown.silent
print("this goes nowhere")
"""
    program = [sys.executable, "-c", code]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().startswith("frame 0/100,000 (0%)  seed 0  eval 1.0")
        child.stdout.close()
        assert child.stderr.read() == ""
    assert child.returncode == 0
