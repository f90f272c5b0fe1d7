"""Diagnoses of every recipe, while training and afterwards, and that training does not notice them."""

import csv
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout

from runs import SMALL, digest, records, stopped_at
from runs import run_at as at_full_length
from steadyq.algorithm import plasticity
from steadyq.algorithm.actor_critic import State
from steadyq.algorithm.options import make_recipe, options
from steadyq.algorithm.random import Purpose, generator
from steadyq.algorithm.recipes import RECIPES
from steadyq.algorithm.tree import leaves, tree_map
from steadyq.cli.main import main
from steadyq.envs import guard
from steadyq.errors import InputError
from steadyq.examine import q_bias, snapshots
from steadyq.examine.diagnosis import Examiner, examine, examiner
from steadyq.examine.evaluate import evaluate
from steadyq.run.choices import settings_of
from steadyq.run.resume import resume
from steadyq.settings import discounted
from steadyq.store import checkpoint, disk, metrics_csv, snapshot
from steadyq.store.disk import FileError
from steadyq.store.record import read_record
from steadyq.store.replay import Replay
from steadyq.store.snapshot import without_optimisers

run_at = partial(at_full_length, utd="1/2")

ALWAYS = {
    "diag/alpha",
    "diag/reward_scale",
    "diag/q_bias/aggregate_mean",
    "diag/q_bias/aggregate_std",
    "diag/q_bias/per_state_mean",
    "diag/q_bias/per_state_std",
    "diag/critic/weight_norm",
    "diag/critic/unit_norm_std/hidden_0",
    "diag/actor/weight_norm",
}
OF_A_BATCH = {
    "diag/critic/elr",
    "diag/critic/elr/readout",
    "diag/critic/gradient_norm",
    "diag/critic/rotation",
    "diag/actor/rotation",
    "diag/critic/dead_units",
    "diag/critic/dormant_units",
    "diag/critic/feature_rank",
    "diag/critic/feature_stable_rank",
    "diag/actor/dead_units",
    "diag/critic/q_mean",
    "diag/critic/target_max",
    "diag/plasticity/loss",
    "diag/plasticity/fresh_loss",
}


def examined(name: str) -> tuple[Examiner, State]:
    """The examiner of a small run of a recipe, and a state as it is at the start."""
    chosen = ["learning_starts", "batch_size", *({"width", "actor_width"} & options(name).keys())]
    sizes = {key: SMALL[key] for key in chosen}
    settings = settings_of(name, env="toy:Point-v0", choices=sizes)
    settings = discounted(settings, None)
    found = examiner(settings, make_recipe(name, settings.options), guard.of_run(settings, endless=True))
    return found, found.agent.init(generator(0, Purpose.INIT))


def experience(steps: int) -> Replay:
    """Random transitions; an episode ends each ten."""
    rng, replay = np.random.default_rng(0), Replay(capacity=100, obs_dim=2, action_dim=1)
    for step in range(steps):
        if step % 10 == 0:
            replay.start(rng.standard_normal(2).astype(np.float32))
        action, obs = rng.uniform(-1, 1, 1).astype(np.float32), rng.standard_normal(2).astype(np.float32)
        replay.add(action, float(rng.standard_normal()), 0.99, obs, last=step % 10 == 9)
    return replay


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_examined(name: str) -> None:
    chosen, state = examined(name)
    before = [leaf.clone() for leaf in leaves(state)]
    found = examine(chosen, state, seed=0, frame=60, replay=experience(60), episodes=2)
    assert found.keys() >= ALWAYS | OF_A_BATCH
    assert all(math.isfinite(value) for value in found.values())
    assert 0 < found["diag/critic/rotation"] < 0.2
    assert found["diag/states"] == 60
    assert all(torch.equal(*pair) for pair in zip(before, leaves(state), strict=True))
    bare = examine(chosen, without_optimisers(state), seed=0, frame=60, replay=experience(90), episodes=2)
    left_out = {name for name in found if "/rotation" in name}
    assert bare.keys() == found.keys() - left_out
    assert all(
        bare[name] == found[name] for name in bare if not name.startswith("time/")
    )  # later transitions do not count


def test_what_there_are_no_transitions_for_is_left_out() -> None:
    chosen, state = examined("crossq_wn")
    nothing = examine(chosen, state, seed=0, frame=0, replay=experience(60), episodes=1).keys()
    assert nothing >= ALWAYS
    assert not nothing & OF_A_BATCH
    early = examine(chosen, state, seed=0, frame=39, replay=experience(60), episodes=1).keys()
    assert OF_A_BATCH - early == {"diag/plasticity/loss", "diag/plasticity/fresh_loss"}
    overflowed = Replay(capacity=30, obs_dim=2, action_dim=1)
    overflowed.extend(experience(60).segment(0, 60))
    assert examine(chosen, state, seed=0, frame=60, replay=overflowed, episodes=1)["diag/states"] == 30
    assert not examine(chosen, state, seed=0, frame=35, replay=overflowed, episodes=1).keys() & OF_A_BATCH


def test_a_snapshot_newer_than_the_checkpoint_takes_what_that_has() -> None:
    chosen, state = examined("crossq_wn")
    assert examine(chosen, state, seed=0, frame=80, replay=experience(60), episodes=1)["diag/states"] == 60


@pytest.mark.parametrize("name", ["xqc", "simba_v2"])
def test_scaled_rewards_are_measured_in_the_environment_s_units(name: str) -> None:
    """A categorical critic sure of its highest atom, 5, where rewards are divided by 8: it promises 40."""
    chosen, state = examined(name)
    eight = torch.tensor(64.0 - 1e-8)
    returns = state.normalise.returns if name == "simba_v2" else state.normalise
    returns = returns._replace(moments=returns.moments._replace(var=eight))
    whole = state.normalise._replace(returns=returns) if name == "simba_v2" else returns
    params, sure = state.critic.params, torch.zeros(101)
    sure[-1] = 1e3

    def certain(leaf: torch.Tensor) -> torch.Tensor:
        return sure.expand_as(leaf).clone() if leaf.shape[-1:] == (101,) and leaf.dim() == 2 else 0 * leaf

    state = state._replace(
        normalise=whole, critic=state.critic._replace(params=(params[0], tree_map(certain, params[1])))
    )
    found = examine(chosen, state, seed=0, frame=0, replay=experience(0), episodes=1)
    assert found["diag/reward_scale"] == pytest.approx(1 / 8)
    assert found["diag/q_bias/q_mean"] == pytest.approx(40)
    assert found["diag/alpha"] == pytest.approx(0.01 * 8)


def test_a_policy_without_entropy_is_measured_by_its_rewards_alone() -> None:
    chosen, state = examined("crossq_wn_td3")
    found = examine(chosen, state, seed=0, frame=0, replay=experience(0), episodes=3)
    assert found["diag/alpha"] == 0
    assert math.isfinite(found["diag/q_bias/return_mean"])


# Whole runs


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """Four roll-outs of the toy's ten steps are as good as a hundred here, and so are three steps of the probe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(q_bias, "PAIRS", 40)
        patch.setattr(plasticity, "STEPS", 3)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, short: None) -> Path:
    """Two seeds, diagnosed at each of the frames that have a snapshot, 0, 40 and 80, and saved at these too."""
    out = tmp_path_factory.mktemp("diagnosed") / "run"
    run_at(out, seeds=[0, 1], diagnose_every=40, save_every=40)
    return out


def values(path: Path, prefix: str = "diag/") -> dict[tuple[int, int, str], float]:
    return {(r.seed, r.env_step, r.metric): r.value for r in metrics_csv.read(path) if r.metric.startswith(prefix)}


def test_training_with_diagnoses_is_the_same_to_the_bit(run: Path, tmp_path: Path) -> None:
    run_at(tmp_path / "off", seeds=[0, 1], save_every=40)
    kept = [line for line in records(run) if ",diag/" not in line]
    assert kept == records(tmp_path / "off")
    for seed in (0, 1):
        on, off = (checkpoint.load(folder / f"seed-{seed}").tensors for folder in (run, tmp_path / "off"))
        assert on.keys() == off.keys()
        assert all(torch.equal(on[name], off[name]) for name in on)


def test_diagnoses_go_to_tensorboard_too(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard" / "seed-1"))
    events.Reload()
    assert {event.step for event in events.Scalars("diag/q_bias/aggregate_mean")} == {0, 40, 80}


def test_a_resumed_run_is_diagnosed_the_same(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (40, 63):  # at a diagnosis, which is then left for later, and between two
        out = tmp_path / str(step)
        with monkeypatch.context() as patch:
            stopped_at(step, patch)
            assert not run_at(out, seeds=[1], diagnose_every=40, save_every=40).finished
        assert resume(out).finished
        assert records(out) == records(run, seed=1)
        assert digest(out, 1) == digest(run, 1)


def test_an_extended_run_is_not_diagnosed_twice(run: Path, tmp_path: Path) -> None:
    """It ended, and goes on, at a frame that was diagnosed."""
    run_at(tmp_path / "short", seeds=[1], frames=80, diagnose_every=40, save_every=40)
    resume(tmp_path / "short", frames=90)
    assert records(tmp_path / "short") == records(run, seed=1)


def test_afterwards_is_the_same_as_meanwhile(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    assert main(["diagnose", str(copy)]) == 0
    meanwhile, later = values(copy / "metrics.csv"), values(copy / "diagnostics.csv")
    assert {key[:2] for key in later} == {(seed, frame) for seed in (0, 1) for frame in (0, 40, 80, 90)}
    later = {key: value for key, value in later.items() if key[1] < 90}  # the end is no multiple of --diagnose-every
    assert {key for key in meanwhile.keys() - later.keys() if "/rotation" not in key[2]} == set()
    assert (0, 80, "diag/critic/rotation") in later  # a checkpoint has that frame's optimiser
    assert all(later[key] == meanwhile[key] for key in later)
    said = capsys.readouterr().out
    assert "seed 1" in said
    assert "frame 0: the last checkpoint has fewer than 8 transitions from before" in said
    assert "of each return" in said


def test_again_replaces_rows(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    snapshots.diagnose(copy, seed=1, frames=[40, 0])
    first = values(copy / "diagnostics.csv")
    snapshots.diagnose(copy, seed=1, frames=[40])
    snapshots.diagnose(copy, seed=0, frames=[80], episodes=2)
    with (copy / "diagnostics.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == metrics_csv.HEADER.strip().split(",")
    assert len({tuple(row[:5]) for row in rows}) == len(rows)
    second = values(copy / "diagnostics.csv")
    assert {key: value for key, value in second.items() if key[0] == 1} == first
    assert second[0, 80, "diag/q_bias/rollouts"] == 2


def test_a_run_that_was_reset_at_a_snapshot_is_not_given_the_new_networks(tmp_path: Path) -> None:
    """The snapshot is from before the reset, the checkpoint of the same frame from after it."""
    run = tmp_path / "run"
    run_at(run, "sac_primacy", reset_frames=40, save_every=40, frames=80, diagnose_every=40)
    snapshots.diagnose(run)
    meanwhile, later = values(run / "metrics.csv"), values(run / "diagnostics.csv")
    assert (0, 40, "diag/critic/rotation") in meanwhile.keys() - later.keys()
    assert all(later[key] == meanwhile[key] for key in later)


def test_two_processes_do_not_lose_each_others_rows(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes when the first has read the rows, and gets as far as it can before the first has written."""
    copy, record, replace = shutil.copytree(run, tmp_path / "run"), read_record(run), metrics_csv.replace
    pool, second, stuck = ThreadPoolExecutor(), [], threading.Event()

    class Watched(FileLock):
        def acquire(self, **how: object) -> object:
            try:
                return super().acquire(blocking=False)
            except Timeout:
                stuck.set()
                return super().acquire(**how)

    def note(seed: int) -> None:
        snapshots.note(copy, record, seed, 40, {"diag/x": 1.0})

    def write(path: Path, rows: list[metrics_csv.Row]) -> None:
        if not second:
            second.append(pool.submit(note, 1))
            second[0].add_done_callback(lambda _: stuck.set())  # nothing was in its way
            assert stuck.wait(60)
        replace(path, rows)

    monkeypatch.setattr(snapshots, "FileLock", Watched)
    monkeypatch.setattr(metrics_csv, "replace", write)
    with pool:
        note(0)
        second[0].result()
    assert values(copy / "diagnostics.csv") == {(0, 40, "diag/x"): 1, (1, 40, "diag/x"): 1}


def test_a_checkpoint_may_be_gone_where_a_run_goes_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, record = shutil.copytree(run, tmp_path / "run"), read_record(run)
    frames, earlier = checkpoint.frames, [[50]]
    monkeypatch.setattr(checkpoint, "frames", lambda seed_dir: earlier.pop() if earlier else frames(seed_dir))
    one = snapshots.patient(copy, record, 0, None)  # listed at 50, and read when there were newer ones only
    assert (one.saved, one.replay.added) == (frames(copy / "seed-0"), 90)
    blank = snapshot.agent_of(record).init(generator(0, Purpose.INIT))
    assert snapshots.load(copy, one, 80, blank).critic.opt != ()
    (copy / "seed-0" / "checkpoints" / f"{80:012d}.safetensors").unlink()
    assert snapshots.load(copy, one, 80, blank).critic.opt == ()
    (copy / "seed-0" / "checkpoints" / f"{90:012d}.safetensors").write_bytes(b"damaged")
    with pytest.raises(FileError, match="damaged or no safetensors file"):
        snapshots.patient(copy, record, 0, None)


def test_a_snapshot_that_is_being_written_is_none(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "seed-0" / "snapshots" / ".tmp-000000000120.safetensors").write_bytes(b"half")
    assert sorted(snapshots.diagnose(copy, seed=0, episodes=1)[0]) == [0, 40, 80, 90]
    with pytest.raises(InputError, match="no snapshot at frame 50; evaluations with one: 0 to 90, 4 in all"):
        evaluate(copy, checkpoint="50", trust=True)


def test_diagnoses_that_cannot_be_read_now_are_not_replaced(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, record = shutil.copytree(run, tmp_path / "run"), read_record(run)
    snapshots.note(copy, record, 0, 40, {"diag/x": 1.0})
    real = disk.do

    def do(operation: Callable[..., object], *arguments: object) -> object:
        if operation in (os.open, os.lstat) and arguments[0] == copy / "diagnostics.csv":
            raise OSError(5, "Input/output error")
        return real(operation, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "do", do)
        with pytest.raises((InputError, OSError), match="Input/output error"):
            snapshots.note(copy, record, 1, 40, {"diag/x": 1.0})
    assert values(copy / "diagnostics.csv") == {(0, 40, "diag/x"): 1}


def test_names_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_at(tmp_path / "[red]", name="a[bold]:smile:", frames=10)
    capsys.readouterr()
    snapshots.diagnose(tmp_path / "[red]", frames=[0], episodes=1)
    said = capsys.readouterr().out
    assert "a[bold]:smile: on toy:Point-v0, seed 0" in said
    assert "[red]" in said


def test_what_cannot_be_diagnosed_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run folder"):
        snapshots.diagnose(tmp_path)
    with pytest.raises(InputError, match="--seed is 5; this run has 0 1"):
        snapshots.diagnose(run, seed=5)
    with pytest.raises(InputError, match="no snapshot of seed 0 at frame 50; known: 0, 40, 80"):
        snapshots.diagnose(run, frames=[40, 50])
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / "seed-0" / "snapshots")
    with pytest.raises(InputError, match="no snapshot of seed 0 yet"):
        snapshots.diagnose(copy)
    (copy / snapshots.LOCK).symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match="is a symbolic link"):
        snapshots.diagnose(copy)
    assert main(["diagnose", str(run), "--episodes", "0"]) == 2
    assert not (run / "diagnostics.csv").exists()


def test_the_names_are_the_documented_ones(run: Path) -> None:
    """Every measured name, without its layer, is in docs/diagnostics.md."""
    text = (Path(__file__).parent.parent / "docs" / "diagnostics.md").read_text()
    for _, _, name in values(run / "metrics.csv"):
        short = name.removeprefix("diag/").removeprefix("critic/").removeprefix("actor/").split("/")
        assert f"`{short[0]}" in text or f"/{short[0]}" in text, name
        assert short[0] != "q_bias" or f"`{short[1]}" in text or f"q_bias/{short[1]}" in text, name
