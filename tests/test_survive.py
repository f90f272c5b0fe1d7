"""What can go wrong around a run, and that nothing is lost by it."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runs import digest, records, run_at, steps_take, transitions
from steadyq.algorithm.random import Purpose, episode_seed
from steadyq.cli.main import main
from steadyq.engine import machine
from steadyq.engine.learner import PATIENCE
from steadyq.envs.env import BadStepError, EnvError
from steadyq.envs.guard import Guarded
from steadyq.errors import InputError, RunError
from steadyq.examine.evaluate import evaluate
from steadyq.run import measure
from steadyq.run.go import Result
from steadyq.run.loop import act_and_store
from steadyq.run.resume import find_record, newest_whole, resume
from steadyq.run.save import kept
from steadyq.run.stop import Stop
from steadyq.run.training import RESTARTS, Training
from steadyq.store import checkpoint, disk, lock, metrics_csv, snapshot
from steadyq.store.checkpoint import History
from steadyq.store.folder import REPLAY, seed_folder
from steadyq.store.record import read_record, write_record
from steadyq.store.replay import Replay
from toy import Point

SEED = seed_folder(Path(), 0).name


def values(run: Path, metric: str, seed: int = 0) -> dict[int, float]:
    """A metric by frame."""
    return {r.env_step: r.value for r in metrics_csv.read(run / "metrics.csv") if (r.metric, r.seed) == (metric, seed)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    run_at(run)
    return run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("stopped") / "run"
    run_at(run, frames=60, save_every=45)
    return run


@pytest.fixture
def halfway(stopped: Path, tmp_path: Path) -> Path:
    """A run with checkpoints at frames 40 (the best evaluation so far), 45 and 60."""
    run = shutil.copytree(stopped, tmp_path / "run")
    record = read_record(run)
    settings = replace(record.settings, frames=90, save_every=30, out=str(run))
    write_record(run, record._replace(settings=settings))
    return run


# Bad numbers from the environment


def test_a_bad_step_stops_the_run_and_reaches_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match=r"reward.*after frame 24; .*--on-bad-step end-episode"):
        run_at(run, env="toy:BadPoint-v0", save_every=10, eval_every=0)
    assert transitions(run).added == 20
    assert resume(run, on_bad_step="end-episode").finished
    assert sum(values(run, "rollout/bad_steps").values()) == 1  # later: the toy counts from when it was made
    assert transitions(run).added == 89


def test_a_run_may_end_bad_episodes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_at(run, env="toy:BadPoint-v0", on_bad_step="end-episode", eval_every=0).finished
    whole = transitions(run).segment(0, 89)
    assert all(np.isfinite(whole[name]).all() for name in ("obs", "action", "reward", "discount", "next_obs"))
    assert list(np.flatnonzero(whole["ends"]))[:3] == [9, 19, 23]  # cut off before the bad step


def test_the_first_observation_may_be_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Guarded.reset

    def reset(env: Guarded, seed: int) -> np.ndarray:
        if seed == episode_seed(0, Purpose.EPISODE, 0):
            raise BadStepError("NaN at the start")
        return real(env, seed)

    monkeypatch.setattr(Guarded, "reset", reset)
    with pytest.raises(RunError, match=r"NaN at the start.*--on-bad-step end-episode"):
        run_at(tmp_path / "run")
    assert run_at(tmp_path / "run", overwrite=True, on_bad_step="end-episode").finished
    assert sum(values(tmp_path / "run", "rollout/bad_steps").values()) == 1


def test_nothing_to_learn_from_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Point.step
    monkeypatch.setattr(Point, "step", lambda env, action: (real(env, action)[0], 1e20, False, False, {}))
    with pytest.raises(RunError, match="has not come through one step by frame 41"):
        run_at(tmp_path / "run", on_bad_step="end-episode", eval_every=0, utd="1/2")


# Updates that fail


def poison(monkeypatch: pytest.MonkeyPatch, when: Callable[[Replay], bool]) -> None:
    real = Replay.sample

    def poisoned(replay: Replay, indices: object) -> object:
        batch = real(replay, indices)
        return batch._replace(reward=batch.reward * torch.nan) if when(replay) else batch

    monkeypatch.setattr(Replay, "sample", poisoned)


def test_a_failed_update_is_not_applied_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, lambda replay: replay.added == 50)
    assert run_at(tmp_path / "run", utd=2, frames=60).finished
    assert values(tmp_path / "run", "train/failed_updates") == {60: 2}


def test_a_seed_whose_updates_fail_again_and_again_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone"
    run_at(alone, seeds=[0], frames=60, utd=2)
    run_at(tmp_path / "until", seeds=[1], frames=50, utd=2)
    victim: list[Replay] = []
    real = checkpoint.save

    def first_two(history: History, **parts: Any) -> History:  # seed 1's replay, known from the checkpoint at frame 30
        if history.seed_dir.name == "seed-1" and not victim:
            victim.append(parts["replays"][REPLAY])
        return real(history, **parts)

    monkeypatch.setattr(checkpoint, "save", first_two)
    poison(monkeypatch, lambda replay: replay in victim and replay.added > 50)
    with pytest.raises(RunError, match=rf"seed 1 was given up at frame 51: .* in {PATIENCE} updates in a row"):
        run_at(run, seeds=[0, 1], frames=60, utd=2)
    monkeypatch.undo()
    assert digest(run, 0) == digest(alone, 0)
    assert records(run, seed=0) == records(alone)
    assert digest(run, 1, weights_only=True)
    ours, theirs = (checkpoint.load(seed_folder(folder, 1)).tensors for folder in (run, tmp_path / "until"))
    critic = [name for name in ours if name.startswith("state.critic.")]
    assert len(critic) > 10
    assert all(ours[name].equal(theirs[name]) for name in critic)
    assert max(values(run, "eval/mean_reward", 1)) == 40
    with pytest.raises(RunError, match="seed 1 was given up"):
        resume(run)


# Environments that fail


def failing(monkeypatch: pytest.MonkeyPatch, when: Callable[[int], bool], error: type[BaseException] = OSError) -> None:
    """Environments that raise at some of all steps that are ever made."""
    real, count = Point.step, [0]

    def step(env: Point, action: np.ndarray) -> tuple:
        count[0] += 1
        if when(count[0]):
            raise error("the simulator is gone")
        return real(env, action)

    monkeypatch.setattr(Point, "step", step)


def test_an_environment_that_raises_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, lambda step: step % 60 == 0)
    run = tmp_path / "run"
    assert run_at(run, eval_every=0).finished
    restarts = values(run, "rollout/env_restarts")
    assert sum(restarts.values()) >= 1
    assert transitions(run).added == 90 - sum(restarts.values())


def test_an_evaluation_is_played_again_after_a_failure(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, lambda step: step == 65)  # after 60 that tell whether it repeats itself
    run_at(tmp_path / "run")
    assert records(tmp_path / "run") == records(undisturbed)


@pytest.mark.parametrize("where", ["reset", "step"])
def test_an_evaluation_episode_that_always_fails_ends_the_run_or_is_recorded(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    run, tried, playing = tmp_path / "run", [0], dict[Guarded, int]()
    real = {"reset": Guarded.reset, "step": Guarded.step}
    bad = {episode_seed(0, Purpose.EVALUATE, number) for number in (3, 4, 5)}  # one at frame 40, both at frame 80

    def call(here: str, env: Guarded, given: Any) -> Any:
        if here == "reset":
            playing[env] = given
        if here == where and playing[env] in bad:
            tried[0] += 1
            raise EnvError("no such start")
        return real[here](env, given)

    monkeypatch.setattr(Guarded, "reset", lambda env, seed: call("reset", env, seed))
    monkeypatch.setattr(Guarded, "step", lambda env, action: call("step", env, action))
    with pytest.raises(RunError, match=r"no such start, again in a fresh one.*--on-bad-step end-episode"):
        run_at(run)
    assert tried == [2]
    with pytest.raises(RunError, match="no such start"):
        resume(run)
    assert resume(run, on_bad_step="end-episode").finished
    assert values(run, "eval/failed_episodes") == {40: 1, 80: 2}
    assert values(run, "eval/mean_reward")[80] == 0
    ours, theirs = ([line for line in records(folder) if ",eval" not in line] for folder in (run, undisturbed))
    assert ours == theirs


def test_evaluations_that_never_work_do_not_use_up_what_training_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(*_: object, **__: object) -> None:
        raise EnvError("no such start")

    monkeypatch.setattr(measure, "play", play)
    assert run_at(tmp_path / "run", eval_episodes=RESTARTS, on_bad_step="end-episode").finished
    assert values(tmp_path / "run", "eval/failed_episodes") == {0: RESTARTS, 40: RESTARTS, 80: RESTARTS}


def test_an_environment_that_would_end_the_process_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, lambda step: step == 80, SystemExit)
    assert run_at(tmp_path / "run", eval_every=0).finished
    assert sum(values(tmp_path / "run", "rollout/env_restarts").values()) == 1


def test_a_saved_episode_that_cannot_be_started_again_is_left_out(
    halfway: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def episode() -> int:
        return int(checkpoint.load(seed_folder(halfway, 0)).tensors["stream.episode"])

    saved, resets, real = episode(), [0], Point.reset

    def reset(env: Point, *, seed: int | None = None, options: dict | None = None) -> tuple:
        resets[0] += 1
        if resets[0] in (1, 2):  # the saved one, and the one after it
            raise OSError("busy")
        return real(env, seed=seed)

    monkeypatch.setattr(Point, "reset", reset)
    assert resume(halfway).finished
    assert episode() == saved + 2 + 3  # 30 steps of ten
    assert transitions(halfway).added == 90


def test_the_evaluations_environment_may_fail_when_it_is_replaced_too(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarts, real = [0], Guarded.restart

    def restart(env: Guarded) -> None:
        restarts[0] += 1
        if restarts[0] == 1:
            raise EnvError("the simulator is not up yet")
        real(env)

    monkeypatch.setattr(Guarded, "restart", restart)
    failing(monkeypatch, lambda step: step == 65)
    assert run_at(tmp_path / "run").finished
    assert restarts == [2]
    assert records(tmp_path / "run") == records(undisturbed)


def test_a_diagnosis_whose_environment_cannot_be_replaced_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise EnvError("the simulator is gone")

    monkeypatch.setattr("steadyq.run.measure.examine", gone)
    monkeypatch.setattr(Guarded, "restart", gone)
    assert run_at(tmp_path / "run", diagnose_every=40).finished
    assert "no diagnosis of seed 0 at frame 80: the simulator is gone" in capsys.readouterr().out


def test_a_run_that_is_over_in_an_evaluation_resets_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the evaluation at frame 80 could be played, which comes before the reset."""
    run_at(tmp_path / "whole", utd="1/2", reset_updates=10)
    count, real = [0], measure.play

    def play(*parts: object, **named: object) -> object:
        count[0] += 1
        if count[0] > 6:  # of two episodes: at frames 0, 40, and 60 after a reset
            raise EnvError("the simulator is gone")
        return real(*parts, **named)

    with monkeypatch.context() as patch:
        patch.setattr(measure, "play", play)
        with pytest.raises(RunError, match="the simulator is gone"):
            run_at(tmp_path / "run", utd="1/2", reset_updates=10)
    assert resume(tmp_path / "run").finished
    assert records(tmp_path / "run") == records(tmp_path / "whole")


def test_environments_are_closed_when_a_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, closed, real = [], [], Point.__init__

    def init(env: Point, **given: object) -> None:
        made.append(env)
        real(env, **given)

    monkeypatch.setattr(Point, "__init__", init)
    monkeypatch.setattr(Point, "close", lambda env: closed.append(env))
    with pytest.raises(RunError, match="reward"):
        run_at(tmp_path / "run", env="toy:BadPoint-v0", eval_every=0, diagnose_every=1_000)
    assert len(made) >= 4
    assert {id(env) for env in made} == {id(env) for env in closed}


def test_an_evaluation_by_hand_says_what_failed(halfway: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, lambda step: True)
    with pytest.raises(RunError, match="failed in its step: OSError: the simulator is gone"):
        evaluate(halfway, trust=True)


def test_an_environment_that_fails_for_ever_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        failing(patch, lambda step: step > 100)
        with pytest.raises(RunError, match=f"the simulator is gone.*more than the {RESTARTS}th time"):
            run_at(run, eval_every=0)
    assert resume(run).finished


def test_what_follows_the_last_checkpoint_may_be_torn(undisturbed: Path, tmp_path: Path) -> None:
    """It is measured again, also where the run is at its end."""
    run = shutil.copytree(undisturbed, tmp_path / "run")
    with (run / "metrics.csv").open("a") as file:
        file.write("garbage,,\n")
    assert resume(run).finished
    assert records(run) == records(undisturbed)


def test_a_failure_of_one_seed_costs_no_seed_an_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = {"seeds": [0, 1], "eval_every": 0, "utd": 1}
    whole, run = run_at(tmp_path / "whole", **choices).folder, tmp_path / "run"
    real, known, broken = Point.step, list[Point](), list[Point]()

    def step(env: Point, action: np.ndarray) -> tuple:
        """Once an environment has come to its 45th step, that one fails, and so does each that replaces it."""
        if not any(env is other for other in known + broken):
            (broken if broken else known).append(env)
        if env.total == 45 and not broken:  # that of seed 0, which steps first
            broken.append(env)
        if any(env is other for other in broken):
            raise OSError("the simulator is gone")
        return real(env, action)

    with monkeypatch.context() as patch:
        patch.setattr(Point, "step", step)
        with pytest.raises(RunError, match="the simulator is gone"):
            run_at(run, **choices)
    assert resume(run).finished
    assert values(run, "train/n_updates", seed=0)[90] == 50
    for seed in (0, 1):
        saved = [checkpoint.load(seed_folder(place, seed)).tensors for place in (whole, run)]
        assert [int(tensors["state.critic.opt.updates"]) for tensors in saved] == [50, 50]
    assert digest(run, 1, weights_only=True) == digest(whole, 1, weights_only=True)


def test_failures_of_more_than_an_hour_ago_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, lambda step: step > 60)  # at every step of training
    steps_take(3600 / RESTARTS + 1, monkeypatch)
    with pytest.raises(RunError, match="has not come through one step by frame 41"):
        run_at(tmp_path / "run", eval_every=0, utd="1/2")


# Disks


def full_disk(monkeypatch: pytest.MonkeyPatch, ending: str, when: Callable[[], bool] = lambda: True) -> None:
    real = disk.write

    def write(path: Path, data: bytes) -> None:
        if path.name.endswith(ending) and when():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)

    monkeypatch.setattr(disk, "write", write)


def test_a_save_that_fails_is_said_and_tried_again(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full_disk(monkeypatch, "000030.safetensors")
    assert run_at(tmp_path / "run").finished
    assert capsys.readouterr().out.count("could not save at frame 30: No space left on device") == 1
    assert digest(tmp_path / "run", 0) == digest(undisturbed, 0)


def test_a_last_save_that_fails_is_an_error_and_loses_nothing_before(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        full_disk(patch, "000090.safetensors")
        with pytest.raises(RunError, match=r"could not save at frame 90: .*; the checkpoint of frame 60 is whole"):
            run_at(run, seeds=[0, 1])
    assert checkpoint.common_frames([seed_folder(run, seed) for seed in (0, 1)])[-1] == 60
    assert resume(run).finished
    assert digest(run, 0) == digest(undisturbed, 0)


def test_seeds_keep_a_common_frame_when_the_disk_fills_up_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = tmp_path / "run", []
    real = checkpoint.save

    def second_seed_fails(history: History, **parts: Any) -> History:
        if history.seed_dir.name == "seed-1" and parts["frame"] >= 60:
            seen.append(parts["frame"])
            raise OSError(errno.ENOSPC, "full")
        return real(history, **parts)

    monkeypatch.setattr(checkpoint, "save", second_seed_fails)
    with pytest.raises(RunError, match="could not save"):
        run_at(run, seeds=[0, 1], save_every=10, keep=1)
    assert len(seen) >= 4
    assert checkpoint.common_frames([seed_folder(run, seed) for seed in (0, 1)])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("only the superuser may mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_a_full_file_system(
    undisturbed: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, ballast = small_disk / "run", small_disk / "ballast"

    def fill_at_70(going: Training) -> None:
        if going.frame == 70:
            with contextlib.suppress(OSError), ballast.open("ab", 0) as file:
                while True:
                    file.write(bytes(4096))
        act_and_store(going)

    with monkeypatch.context() as patch:
        patch.setattr("steadyq.run.loop.act_and_store", fill_at_70)
        with pytest.raises(
            RunError, match=r"could not save at frame 90: No space left on device; .* frame 60 is whole"
        ):
            run_at(run)
        assert "no snapshot at frame 80: No space left on device" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"nothing can be written in .* \(No space left on device\)"):
        resume(run)
    ballast.unlink()
    assert resume(run).finished
    assert digest(run, 0) == digest(undisturbed, 0)
    assert records(run) == records(undisturbed)


def test_a_snapshot_that_could_not_be_written_is_tried_again_with_the_weights_of_its_frame(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried, real = list[Path](), snapshot.write_snapshot

    def write(path: Path, *parts: Any) -> None:
        tried.append(path)
        if tried.count(path) == 1 and path.stem != "000000000090":  # which no save tries again
            raise OSError(errno.ENOSPC, "full")
        real(path, *parts)

    monkeypatch.setattr(snapshot, "write_snapshot", write)
    assert run_at(tmp_path / "run", save_every=45).finished
    assert len(tried) == 7  # at frames 0, 40 and 80 twice each
    assert capsys.readouterr().out.count("no snapshot at frame 40: full; it is tried again") == 1
    for path in tried:
        name = path.relative_to(tmp_path / "run")
        assert path.read_bytes() == (undisturbed / name).read_bytes()


def test_a_snapshot_that_is_missing_in_the_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(snapshot, "write_snapshot", write)
    with pytest.raises(RunError, match="no snapshot at frame 0: full; no snapshot at frame 40: full"):
        run_at(tmp_path / "run", frames=60)


def reads_fail(monkeypatch: pytest.MonkeyPatch, kind: str, *, first: int = 1_000_000, lasts: bool = False) -> list[int]:
    """Of all that is asked of the disk without changing it, let one or all from there on fail; how many were asked."""
    asked, (fault, *operations) = [0], FAULTS[kind]

    def do(operation: Callable[..., Any], *arguments: Any) -> Any:
        if operation in operations:
            asked[0] += 1
            if asked[0] == first or (lasts and asked[0] > first):
                return fault(operation, *arguments)
        return operation(*arguments)

    monkeypatch.setattr(disk, "do", do)
    return asked


def fails(number: int) -> Callable[..., object]:
    """Something that cannot be read, for this reason."""

    def fault(operation: Callable[..., Any], *arguments: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fault


def short(operation: Callable[..., Any], *arguments: Any) -> Any:
    """Part of what was asked for, as the system may give it."""
    return operation(arguments[0], 1 + arguments[1] // 2)


READS = (os.open, os.read, os.fstat, os.lstat, os.stat, os.listdir)
FAULTS = {
    "EIO": (fails(errno.EIO), *READS),
    "ESTALE": (fails(errno.ESTALE), *READS),
    "short": (short, os.read),
    "ends": (lambda *_: b"", os.read),  # before its size
}


@pytest.mark.parametrize("faults", [3, pytest.param(1_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("lasts", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("kind", FAULTS)
def test_nothing_is_lost_by_what_cannot_be_read(
    halfway: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    lasts: bool,
    faults: int,
) -> None:
    """Even with --inexact, which goes on without what is damaged."""
    with monkeypatch.context() as patch:
        asked = reads_fail(patch, kind)
        resume(shutil.copytree(halfway, tmp_path / "whole"), inexact=True)
    assert asked[0] > 10
    refused = 0
    for n in range(1, asked[0] + 1, max(1, asked[0] // faults)):
        copy = shutil.copytree(halfway, tmp_path / str(n))
        with monkeypatch.context() as patch:
            reads_fail(patch, kind, first=n, lasts=lasts)
            try:
                assert resume(copy, inexact=True).finished
            except (InputError, RunError, OSError):
                refused += 1
        record, notes = find_record(copy)
        found = newest_whole(copy, record, despite_log=False)
        assert (notes, found.complaints, found.log_is_damaged) == ([], [], False)
        assert found.saved[0].frame >= 60
        assert all(stretch["from_frame"] >= 60 for stretch in record.stretches[1:])  # not from an older one
        for frame in checkpoint.frames(copy / SEED):
            checkpoint.verify(copy / SEED, checkpoint.load(copy / SEED, frame), sizes={REPLAY: (2, 1)})
        assert resume(copy).finished
        assert digest(copy, 0) == digest(undisturbed, 0)
        assert records(copy) == records(undisturbed)
        shutil.rmtree(copy)
    assert (refused == 0) == (kind == "short")


def links(folder: Path, copy: Path) -> Path:
    """A copy as `cp -al` makes it, of hard links."""
    return shutil.copytree(folder, copy, copy_function=os.link)


def test_a_resumed_copy_of_hard_links_leaves_the_original_alone(halfway: Path, tmp_path: Path) -> None:
    with (halfway / "metrics.csv").open("a") as file:
        file.write("written after the checkpoint, as before a kill")
    (halfway / "learning_curve.png").write_bytes(b"a picture")
    before = {path: path.read_bytes() for path in halfway.rglob("*") if path.is_file()}
    copy = links(halfway, tmp_path / "copy")
    assert main(["resume", str(copy), "--trust"]) == 0
    assert {path: path.read_bytes() for path in halfway.rglob("*") if path.is_file()} == before
    assert (copy / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_damaged_after_training_does_not_make_it_fail(
    halfway: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (halfway / "learning_curve.png").mkdir()
    assert main(["resume", str(halfway), "--trust"]) == 0
    assert "learning curve could not be drawn: " in capsys.readouterr().out


def at_frame(frame: int, do: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something to the folder of the runs to come while they go on."""

    def act(going: Training) -> None:
        if going.frame == frame:
            do(going.folder)
        act_and_store(going)

    monkeypatch.setattr("steadyq.run.loop.act_and_store", act)


def test_a_run_follows_its_folder(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, moved = tmp_path / "run", tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    at_frame(35, lambda folder: folder.rename(moved), monkeypatch)
    result = run_at(run)
    assert (result.folder, result.finished) == (moved, True)
    assert not run.exists()
    assert capsys.readouterr().out.count(f"{run} was moved; the run continues in {moved}") == 1
    assert digest(moved, 0) == digest(undisturbed, 0)
    assert records(moved) == records(undisturbed)
    assert sorted((moved / SEED / "snapshots").iterdir())[-1].name == "000000000090.safetensors"


def test_a_run_whose_folder_is_deleted_ends_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_frame(35, shutil.rmtree, monkeypatch)
    with pytest.raises(RunError, match="run was deleted, or moved out of sight, while the run went on"):
        run_at(tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Damaged files


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def test_the_newest_whole_checkpoint_is_taken(
    halfway: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint.frames(halfway / SEED) == [40, 45, 60]
    flip(halfway / SEED / "checkpoints" / "000000000060.safetensors", 0.9)
    capsys.readouterr()
    assert resume(halfway).finished
    assert "the checkpoint of frame 60 cannot be used: " in capsys.readouterr().out
    assert digest(halfway, 0) == digest(undisturbed, 0)
    assert records(halfway) == records(undisturbed)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_run_json_is_restored_from_a_checkpoint(halfway: Path, undisturbed: Path, damage: str) -> None:
    path = halfway / "run.json"
    resume(halfway)
    if damage == "flip":
        flip(path, 0.3)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.unlink()
    assert resume(halfway).finished
    assert read_record(halfway).settings == replace(read_record(undisturbed).settings, out=str(halfway))
    assert digest(halfway, 0) == digest(undisturbed, 0)


def test_a_damaged_record_of_measurements_is_not_gone_on_with_unasked(
    halfway: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digest(halfway, 0)
    flip(halfway / "metrics.csv", 0.02)
    with pytest.raises(InputError, match=r"metrics.csv.*nothing was changed, add --inexact"):
        resume(halfway)
    assert digest(halfway, 0) == before
    assert resume(halfway, inexact=True).finished
    assert max(values(halfway, "eval/mean_reward")) == 80


def test_what_was_damaged_is_named_and_not_what_is_used(halfway: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(halfway / SEED / "checkpoints" / "000000000060.safetensors", 0.9)
    flip(halfway / "metrics.csv", 0.02)
    capsys.readouterr()
    assert resume(halfway, inexact=True).finished
    out = capsys.readouterr().out
    assert "the checkpoint of frame 60 cannot be used" in out
    assert "the checkpoint of frame 45" not in out


def test_a_run_that_lost_its_checkpoints_is_not_begun_again_unasked(halfway: Path) -> None:
    shutil.rmtree(halfway / SEED / "checkpoints")
    before = {path: path.read_bytes() for path in halfway.rglob("*") if path.is_file() and path.name != lock.OWNER}
    with pytest.raises(InputError, match=r"come to frame 60, and there is no frame at which all seeds"):
        resume(halfway)
    assert {path: path.read_bytes() for path in before} == before


def test_weights_of_other_networks_are_refused(halfway: Path, tmp_path: Path) -> None:
    run_at(tmp_path / "other", width=8, frames=40)
    name = "000000000040.safetensors"
    for folder in ("snapshots", "checkpoints"):
        shutil.copy(tmp_path / "other" / SEED / folder / name, halfway / SEED / folder / name)
    with pytest.raises(InputError, match=f"{name} does not fit this run"):
        evaluate(halfway, checkpoint="40", trust=True)
    for frame in (45, 60):
        (halfway / SEED / "checkpoints" / f"{frame:012d}.safetensors").unlink()
    with pytest.raises(InputError, match="does not fit this run"):
        evaluate(halfway, trust=True)


def test_nothing_whole_is_said(halfway: Path) -> None:
    for path in (halfway / SEED / "checkpoints").glob("*.safetensors"):
        flip(path, 0.9)
    with pytest.raises(InputError, match=r"cannot be resumed: the checkpoint of frame 60 .* nothing was changed"):
        resume(halfway)


@pytest.mark.parametrize("offsets", [5, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["flip", "cut"])
def test_damage_anywhere_is_found_and_named(halfway: Path, how: str, offsets: int) -> None:
    whole, rng = read_record(halfway), np.random.default_rng(0)
    files = {path for path in halfway.rglob("*") if path.suffix in (".json", ".csv", ".safetensors")}
    files.discard(halfway / lock.OWNER)
    assert len(files) >= 9  # run.json, metrics.csv, three checkpoints, three files of the replay, snapshots
    for path in sorted(files):
        data = path.read_bytes()
        for offset in rng.integers(len(data), size=offsets):
            damaged = bytearray(data)
            damaged[offset] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged if how == "flip" else data[:offset])
            if path.parent.name == "snapshots":
                with pytest.raises(InputError, match=path.name):
                    snapshot.read_snapshot(path)
                continue
            try:
                record, notes = find_record(halfway)
                found = newest_whole(halfway, record, despite_log=False)
            except InputError as error:
                said, frame = str(error), 0
            else:
                assert record.stretches == whole.stretches
                said, frame = " ".join([*notes, *found.complaints]), found.saved[0].frame
            if path.name == "metrics.csv":
                assert frame == 0 or offset >= kept(found.saved[0]).metrics.size
            elif path.name not in ("000000000040.safetensors", "000000000045.safetensors"):  # not needed here
                assert path.name in said
                assert frame < 60 or path.name == "run.json"
        path.write_bytes(data)


# Other machines, other processes


@pytest.mark.parametrize("go_on", [resume, partial(run_at, resume=True)], ids=["resume", "train --resume"])
def test_another_machine_is_asked_about(
    halfway: Path, go_on: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_record(halfway)
    elsewhere = {**record.stretches[-1], "versions": {**record.stretches[-1]["versions"], "torch": "1.0"}}
    write_record(halfway, record._replace(stretches=[elsewhere]))
    with pytest.raises(InputError, match=r"torch was 1\.0 and is .*--inexact"):
        go_on(halfway)
    capsys.readouterr()
    assert go_on(halfway, inexact=True).finished
    assert "not bit-exact: torch was 1.0" in capsys.readouterr().out


def test_threads_and_precision_change_when_asked(
    halfway: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    with pytest.raises(InputError, match="--threads is 3 and 2 cores may be used here; give at most that"):
        resume(halfway, threads=3)
    assert resume(halfway, threads=2, precision="bfloat16").finished
    out = capsys.readouterr().out
    assert "precision was float32 and is bfloat16" in out
    assert "threads was 1 and is 2" in out
    assert read_record(halfway).stretches[-1]["precision"] == "bfloat16"


def test_an_environment_that_does_not_repeat_itself_is_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, count = Point.look, [0]

    def look(env: Point) -> np.ndarray:
        count[0] += 1
        return real(env) + count[0]

    monkeypatch.setattr(Point, "look", look)
    run_at(tmp_path / "run", frames=50, save_every=20)
    assert read_record(tmp_path / "run").stretches[0]["reproducible"] is False
    assert "does not repeat itself: this run will resume with another episode" in capsys.readouterr().out
    assert resume(tmp_path / "run", frames=90).finished
    assert read_record(tmp_path / "run").stretches[1]["reproducible"] is False
    assert "resume at the episode boundary, not bit-exactly" in capsys.readouterr().out


def test_a_folder_in_use_is_refused_and_a_dead_owner_makes_room(halfway: Path) -> None:
    words = f"import pathlib; from steadyq.store import lock\nwith lock.hold(pathlib.Path({str(halfway)!r})):\n"
    words += " print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(InputError, match=f"in use by process {other.pid} on .*, since 20"):
                resume(halfway)
            with pytest.raises(InputError, match="in use"):
                run_at(halfway, overwrite=True)
        finally:
            other.kill()
    assert resume(halfway).finished


def test_a_foreign_module_is_not_imported_unasked(
    halfway: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('the trap was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    record = read_record(halfway)
    write_record(halfway, record._replace(settings=replace(record.settings, env="trap:Point-v0")))
    with pytest.raises(InputError, match=r"runs the Python code of 'trap'.*--trust"):
        resume(halfway)


# The same command again


def before_the_lock(do: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another process do something to the folder after the next run has looked at it, before that has the lock."""
    real, first = lock.hold, [True]

    def hold(run: Path) -> Any:
        if first:
            first.clear()
            do()
        return real(run)

    monkeypatch.setattr(lock, "hold", hold)


def test_a_run_that_has_just_ended_is_not_begun_again(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    before_the_lock(partial(run_at, run), monkeypatch)
    assert run_at(run, resume=True).finished
    assert [stretch["from_frame"] for stretch in read_record(run).stretches] == [0, 90]
    assert digest(run, 0) == digest(undisturbed, 0)


def test_a_run_that_appears_is_not_overwritten_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    before_the_lock(partial(run_at, run, frames=60), monkeypatch)
    with pytest.raises(InputError, match="already holds a run"):
        run_at(run)
    assert read_record(run).settings.frames == 60
    assert checkpoint.frames(run / SEED)[-1] == 60


def test_another_run_that_appears_is_not_resumed(halfway: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = read_record(halfway).settings.name
    before_the_lock(partial(run_at, halfway, overwrite=True, batch_size=7, name=name), monkeypatch)
    with pytest.raises(InputError, match="another run: batch_size is 7 there and 8 here"):
        run_at(halfway, resume=True)
    assert len(read_record(halfway).stretches) == 1


def test_the_same_command_goes_on(halfway: Path, undisturbed: Path) -> None:
    with pytest.raises(InputError, match="add --overwrite to delete it, or --resume"):
        run_at(halfway)
    assert run_at(halfway, resume=True).finished
    assert digest(halfway, 0) == digest(undisturbed, 0)


def test_the_same_command_goes_on_without_its_record(halfway: Path, undisturbed: Path) -> None:
    (halfway / "run.json").unlink()
    assert run_at(halfway, resume=True).finished
    assert digest(halfway, 0) == digest(undisturbed, 0)


def test_a_run_that_cannot_be_made_overwrites_nothing(halfway: Path) -> None:
    before, record = digest(halfway, 0), read_record(halfway)
    with pytest.raises(InputError, match="the networks need more memory than can be counted"):
        run_at(halfway, overwrite=True, width=10**12)
    assert digest(halfway, 0) == before
    assert read_record(halfway) == record


def test_another_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(InputError, match="is not a run folder"):
        resume(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_another_command_does_not(halfway: Path) -> None:
    name = read_record(halfway).settings.name
    with pytest.raises(InputError, match=r"run: batch_size is 8 there and 7 here, lr is 0\.0003 there and 0\.1 here;"):
        run_at(halfway, resume=True, batch_size=7, lr=0.1, name=name)
    with pytest.raises(InputError, match="another run: recipe is crossq_wn there and sac here;"):
        run_at(halfway, "sac", resume=True)


def test_the_same_command_starts_where_there_is_nothing(tmp_path: Path) -> None:
    assert run_at(tmp_path / "run", resume=True).finished


# Checkpoints


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    run_at(tmp_path / "run", save_every=10, keep=2)
    returns = values(tmp_path / "run", "eval/mean_reward")
    best = max((40, 80), key=lambda frame: returns[frame])
    assert checkpoint.frames(tmp_path / "run" / SEED) == sorted({best, 80, 90})


def test_saves_by_the_clock(tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps_take(1, monkeypatch)
    run_at(tmp_path / "run", save_every="0.1min", keep=1000)
    # Each six seconds, and after each evaluation: its two episodes take at least three seconds each.
    wanted = [1, 7, 13, 19, 25, 31, 37, 40, 46, 52, 58, 64, 70, 76, 80, 86, 90]
    assert checkpoint.frames(tmp_path / "run" / SEED) == wanted
    assert records(tmp_path / "run") == records(undisturbed)


def test_a_run_stops_by_the_clock(tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an evaluation, which is then played from its beginning, and between two steps."""
    steps_take(1, monkeypatch)
    run = tmp_path / "run"
    frames, finished = [run_at(run, max_minutes=1e-6).frame], False
    while not finished and len(frames) < 20:
        _, finished, frame = resume(run, max_minutes=0.5)  # to bring an episode back takes 9 s, an evaluation 20 s
        frames.append(frame)
    assert frames[0] == 0
    assert frames[-1] == 90
    assert len(frames) > 3
    assert all(after - before <= 30 for before, after in pairwise(frames))
    assert records(run) == records(undisturbed)
    assert digest(run, 0) == digest(undisturbed, 0)


@pytest.mark.parametrize(
    ("before", "asked"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)], ids=["closes", "nohup"]
)
def test_a_closing_terminal_stops_a_run_unless_it_shall_not(before: signal.Handlers, asked: bool) -> None:
    outside = signal.signal(signal.SIGHUP, before)
    try:
        with Stop() as stop:
            stop.loop_begins = True
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.asked == asked
        assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, outside)


def test_leftovers_of_a_killed_writer_are_removed(halfway: Path) -> None:
    for folder in (halfway, halfway / SEED / "checkpoints", halfway / SEED / "snapshots"):
        (folder / ".tmp-left").write_bytes(b"half")
    resume(halfway)
    assert not [*halfway.rglob(".tmp-*")]


def test_run_json_knows_when_it_was_edited(halfway: Path) -> None:
    path = halfway / "run.json"
    content = json.loads(path.read_text())
    content["settings"]["batch_size"] = 9
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="damaged or was edited"):
        read_record(halfway)
    assert resume(halfway).finished  # with the checkpoint's
    assert read_record(halfway).settings.batch_size == 8


def test_the_lock_says_who_holds_it(tmp_path: Path) -> None:
    with lock.hold(tmp_path):
        assert lock.owner(tmp_path).startswith(f"process {os.getpid()} on ")
    (tmp_path / lock.OWNER).write_text("[")
    assert lock.owner(tmp_path) == "another process"
