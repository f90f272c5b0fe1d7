"""Whole runs at toy size: a stopped run continues to the same bits, and nothing beside a run changes it."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from small import same_bits
from steadyq.algorithm.learner import Learner
from steadyq.algorithm.options import options
from steadyq.algorithm.tree import leaves
from steadyq.errors import InputError, RunError
from steadyq.run import checkpoint, logs, loop, train
from steadyq.run.folder import seed_folder
from steadyq.run.train import Result, resume

SMALL = {
    "width": 16,
    "actor_width": 16,
    "frames": 90,
    "learning_starts": 40,
    "batch_size": 8,
    "eval_every": 40,
    "eval_episodes": 2,
    "log_every": 30,
    "save_every": 30,
    "compile": "off",
    "threads": 1,
}


def go(out: Path, recipe: str = "crossq_wn", env: str = "toy:Point-v0", **changes: object) -> Result:
    return train.train(recipe, env=env, **{**SMALL, "out": str(out), **changes})


def records(run: Path, *, seed: int | None = None, leave_out: str = "time/") -> list[str]:
    """The lines of metrics.csv that two runs of one command share."""
    lines = (run / "metrics.csv").read_text().splitlines()[1:]
    kept = [line for line in lines if leave_out not in line]
    return kept if seed is None else [line for line in kept if line.split(",")[2] == str(seed)]


def digest(run: Path, seed: int, *, weights_only: bool = False) -> str:
    """SHA-256 over the newest checkpoint: everything that a seed is."""
    replay = None if weights_only else _empty_replay(run)
    saved = checkpoint.load(seed_folder(run, seed), replay=replay)
    whole = hashlib.sha256()
    for name in sorted(saved.tensors):
        if not (weights_only and name.startswith("stream.")):
            whole.update(name.encode() + saved.tensors[name].numpy().tobytes())
    if replay is not None:
        for key, value in sorted(replay.segment(replay.added - replay.size, replay.added).items()):
            whole.update(key.encode() + value.tobytes())
    meta = {k: v for k, v in saved.meta.items() if k not in ("elapsed", "metrics_offset")}
    whole.update(json.dumps(meta, sort_keys=True).encode())
    return whole.hexdigest()


def _empty_replay(run: Path) -> loop.Replay:
    return loop.Replay(capacity=1_000, obs_dim=2, action_dim=1)


class StopAt:
    """Asks to stop once the run has reached a step, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step, self.run = step, None

    @property
    def asked(self) -> bool:
        return self.run is not None and self.run.step >= self.step

    def __enter__(self) -> "StopAt":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def stopped_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next run stop after so many agent steps."""
    stop, real = StopAt(step), loop.loop

    def watched(run: loop.Run, given: object) -> bool:
        stop.run = run
        return real(run, stop)

    monkeypatch.setattr(train, "loop", watched)


def test_a_run_leaves_what_it_promises(tmp_path: Path) -> None:
    result = go(tmp_path / "run")
    assert result.finished
    assert result.frame == 90
    assert sorted(result.returns(0)) == [0, 40, 80]
    rows = {(row.metric, row.env_step): row.value for row in logs.read(tmp_path / "run" / "metrics.csv")}
    assert rows["train/n_updates", 90] == 100
    assert rows["train/utd", 90] == 2
    assert {"train/critic_loss", "train/critic_grad_norm", "train/actor_weight_norm"} <= {m for m, f in rows if f == 60}
    assert ("train/critic_loss", 30) not in rows
    assert {path.name for path in (tmp_path / "run" / "seed-0" / "snapshots").iterdir()} == {
        f"{frame:012d}.safetensors" for frame in (0, 40, 80)
    }
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["utd"] == "2"
    assert record["stretches"][0]["precision"] == "float32"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds that nothing happened to."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    go(run, seeds=[0, 1])
    return run


@pytest.mark.parametrize("step", [0, 7, 40, 41, 63, 89])
def test_a_resumed_run_is_the_undisturbed_run(
    step: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopped_at(step, patch)
        assert not go(tmp_path / "cut", seeds=[0, 1]).finished
    assert resume(tmp_path / "cut").finished
    assert records(tmp_path / "cut") == records(undisturbed)
    for seed in (0, 1):
        assert digest(tmp_path / "cut", seed) == digest(undisturbed, seed)


@pytest.mark.parametrize("recipe", ["crossq", "redq", "droq", "nap", "bro", "simba_v2"])
def test_the_other_recipes_resume_too(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has something of its own to remember: moments, noise, initial norms, optimism, normalisation, a schedule."""
    smaller = {key: 11 for key in ("quantiles", "bins") if key in options(recipe)}
    go(tmp_path / "whole", recipe, utd="2/3", **smaller)
    with monkeypatch.context() as patch:
        stopped_at(50, patch)
        go(tmp_path / "cut", recipe, utd="2/3", **smaller)
    resume(tmp_path / "cut")
    assert digest(tmp_path / "cut", 0) == digest(tmp_path / "whole", 0)


# Resets: every 20 updates at UTD 2, first after 10 of the 50 learning steps


def test_resets_start_from_fresh_weights_and_show_their_dip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = [], Learner.reset

    def watched(learner: Learner, states: list) -> None:
        before = learner.seed(0).state.normalise
        real(learner, states)
        state = learner.seed(0).state
        assert same_bits(state.critic.params, states[0].critic.params)
        assert not any(leaf.any() for leaf in leaves(state.critic.opt))
        assert same_bits(state.normalise, before)
        seen.append(state.critic.params[1].w.clone())

    monkeypatch.setattr(Learner, "reset", watched)
    go(tmp_path / "run", seeds=[0, 1], reset_updates=20)
    assert len({tuple(w.flatten().tolist()) for w in seen}) == len(seen) == 5  # other weights each time
    rows = {(r.metric, r.env_step): r.value for r in logs.read(tmp_path / "run" / "metrics.csv") if r.seed == 0}
    dips = sorted(frame for metric, frame in rows if metric == "eval_after_reset/mean_reward")
    assert dips == [50, 60, 70, 80, 90]
    assert rows["eval/mean_reward", 80] != rows["eval_after_reset/mean_reward", 80]  # before, and after
    assert rows["train/n_updates", 90] == 100  # counted on


def test_resets_leave_the_replay_and_the_warm_up_alone(tmp_path: Path) -> None:
    """Until the first reset nothing differs; transitions from before it are kept, in their place."""
    replays = []
    for name, updates in (("never", 0), ("late", 60)):
        go(tmp_path / name, reset_updates=updates)
        replay = _empty_replay(tmp_path)
        checkpoint.load(seed_folder(tmp_path / name, 0), replay=replay)
        replays.append(replay.segment(0, 90)["action"])
    same = [a.tobytes() == b.tobytes() for a, b in zip(*replays, strict=True)]
    assert all(same[:70])
    assert not any(same[70:])


@pytest.mark.parametrize("step", [49, 50, 80])
def test_a_run_with_resets_resumes_too(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped right before a reset, after one, and in the evaluation before one."""
    resets = {"seeds": [0, 1], "reset_updates": 20, "utd": 2}
    go(tmp_path / "whole", "sac_resets", **resets)
    with monkeypatch.context() as patch:
        stopped_at(step, patch)
        go(tmp_path / "cut", "sac_resets", **resets)
    resume(tmp_path / "cut")
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    for seed in (0, 1):
        assert digest(tmp_path / "cut", seed) == digest(tmp_path / "whole", seed)


# Schedules


def test_a_run_with_a_schedule_is_not_stretched_unasked(tmp_path: Path) -> None:
    go(tmp_path / "run", "xqc", bins=11, depth=1)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["options"]["schedule_updates"] == 100
    with pytest.raises(InputError, match="110 updates; the learning rate of this run falls over 100"):
        resume(tmp_path / "run", frames=95)
    assert resume(tmp_path / "run", frames=95, past_schedule=True).frame == 95
    longer = go(tmp_path / "longer", "xqc", bins=11, depth=1, schedule_updates=1_000)
    assert resume(longer.folder, frames=95).frame == 95


def test_an_extended_run_is_the_longer_run(tmp_path: Path) -> None:
    go(tmp_path / "long")
    go(tmp_path / "short", frames=70)
    resume(tmp_path / "short", frames=90)
    assert records(tmp_path / "short") == records(tmp_path / "long")
    assert digest(tmp_path / "short", 0) == digest(tmp_path / "long", 0)
    with pytest.raises(InputError, match="has done 90 already"):
        resume(tmp_path / "short", frames=80)


def test_a_crash_before_the_first_checkpoint_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save", lambda run: (_ for _ in ()).throw(OSError("pulled the plug")))
        with pytest.raises(OSError, match="plug"):
            go(tmp_path / "crashed")
    resume(tmp_path / "crashed")
    assert records(tmp_path / "crashed") == records(tmp_path / "whole")


def test_a_seed_beside_others_is_the_seed_alone(tmp_path: Path) -> None:
    go(tmp_path / "many", seeds=[4, 2, 7])
    go(tmp_path / "one", seeds=[2])
    assert records(tmp_path / "many", seed=2) == records(tmp_path / "one")
    assert digest(tmp_path / "many", 2) == digest(tmp_path / "one", 2)
    assert digest(tmp_path / "many", 4) != digest(tmp_path / "many", 7)


def test_evaluation_does_not_change_training(tmp_path: Path) -> None:
    go(tmp_path / "on")
    go(tmp_path / "off", eval_every=0)
    kept = [line for line in records(tmp_path / "on") if ",eval/" not in line]
    assert kept == records(tmp_path / "off")
    on = checkpoint.load(tmp_path / "on" / "seed-0", replay=None).tensors
    off = checkpoint.load(tmp_path / "off" / "seed-0", replay=None).tensors
    assert on.keys() == off.keys()
    assert all(torch.equal(on[name], off[name]) for name in on)


def test_a_ring_that_overflows_resumes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(tmp_path / "whole", buffer_size=33)
    with monkeypatch.context() as patch:
        stopped_at(77, patch)
        go(tmp_path / "cut", buffer_size=33)
    resume(tmp_path / "cut")
    assert records(tmp_path / "cut") == records(tmp_path / "whole")


def test_fractional_utd_is_realised_exactly(tmp_path: Path) -> None:
    result = go(tmp_path / "run", utd="1/3")
    rows = {(row.metric, row.env_step): row.value for row in logs.read(result.folder / "metrics.csv")}
    assert rows["train/n_updates", 90] == 16
    assert rows["train/n_updates", 60] == 6


def test_a_reward_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="seed 0: the environment gave a reward that is not finite after frame 24"):
        go(tmp_path / "run", env="toy:BadPoint-v0", save_every=10)
    replay = _empty_replay(tmp_path)
    checkpoint.load(tmp_path / "run" / "seed-0", replay=replay)
    assert replay.added == 20


def test_an_update_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop.Replay.sample

    def poisoned(replay: loop.Replay, indices: object) -> object:
        batch = real(replay, indices)
        return batch._replace(reward=batch.reward * torch.nan) if replay.added == 50 else batch

    monkeypatch.setattr(loop.Replay, "sample", poisoned)
    with pytest.raises(
        RunError, match="seed 0: train/critic_loss is not finite after frame 49; that update was not applied"
    ):
        go(tmp_path / "run")


def test_an_existing_folder_is_not_overwritten_unasked(tmp_path: Path) -> None:
    go(tmp_path / "run")
    before = digest(tmp_path / "run", 0)
    with pytest.raises(InputError, match="already holds a run"):
        go(tmp_path / "run")
    assert digest(tmp_path / "run", 0) == before
    assert go(tmp_path / "run", overwrite=True, utd=1).finished
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("words")
    with pytest.raises(InputError, match="is no run folder"):
        go(tmp_path / "precious", overwrite=True)
    assert (tmp_path / "precious" / "thesis.tex").read_text() == "words"


def test_too_little_memory_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="GB of memory"):
        go(tmp_path / "run", frames=10**12, buffer_size=10**12)
    assert not (tmp_path / "run").exists()
