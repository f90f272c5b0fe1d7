"""What a run may start from: weights and transitions of an earlier one, or a file; resumed without; refused in time."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from runs import SMALL, digest, records, stopped_at, transitions
from runs import run_at as at_full_length
from steadyq.algorithm.random import Purpose, generator
from steadyq.cli.main import main
from steadyq.deploy.export import states
from steadyq.deploy.load import load
from steadyq.engine.learner import Draws, Learners
from steadyq.errors import InputError
from steadyq.run import go, loop
from steadyq.run.choices import settings_of
from steadyq.run.resume import resume
from steadyq.run.training import Training
from steadyq.store import checkpoint
from steadyq.store.folder import PRIOR, REPLAY, seed_folder
from steadyq.store.record import Record, Source, read_record, write_record
from steadyq.store.replay import Replay
from steadyq.store.start import segment_of

run_at = partial(at_full_length, utd="1/2", gamma=0.99, eval_every=0)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 50 steps with a few updates, seed 3."""
    return run_at(tmp_path_factory.mktemp("earlier") / "run", seeds=[3], frames=50).folder


def experience(count: int = 30, *, low: float = -1.0, high: float = 1.0) -> dict[str, np.ndarray]:
    """A file's content: episodes of seven steps, every second of which ends without a future."""
    rng = np.random.default_rng(0)
    obs, next_obs = (rng.normal(size=(count, 2)).astype(np.float32) for _ in range(2))
    ends = np.arange(count) % 7 == 6
    next_obs[:-1][~ends[:-1]] = obs[1:][~ends[:-1]]
    return {
        "obs": obs,
        "action": rng.uniform(low, high, (count, 1)).astype(np.float32),
        "reward": rng.normal(size=count),  # float64 will do
        "next_obs": next_obs,
        "terminated": ends & (np.arange(count) % 2 == 0),
        "action_low": np.array([low], np.float32),
        "action_high": np.array([high], np.float32),
        "action_repeat": np.array(1),
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    safetensors.numpy.save_file(experience(), tmp_path / "robot.safetensors")
    return tmp_path / "robot.safetensors"


def tensors(run: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    return checkpoint.load(seed_folder(run, seed)).tensors


# Weights


@pytest.mark.parametrize("recipe", ["nap", "simba"])  # one remembers its first norms, the other has a normaliser
def test_weights_statistics_and_normalisers_are_taken_and_optimisers_are_fresh(tmp_path: Path, recipe: str) -> None:
    run_at(tmp_path / "old", recipe, seeds=[3], frames=50)
    run_at(tmp_path / "new", recipe, seeds=[7], frames=2, init_from=tmp_path / "old")
    old, new = tensors(tmp_path / "old", 3), tensors(tmp_path / "new", 7)
    state = [name for name in old if name.startswith("state.")]
    optimisers = [name for name in state if ".opt." in name]
    normalisers = [name for name in state if name.startswith("state.normalise.")]
    assert len(optimisers) > 10
    assert any(old[name].any() for name in optimisers)
    assert not any(new[name].any() for name in optimisers)
    assert all(new[name].equal(old[name]) for name in state if name not in optimisers + normalisers)
    if recipe == "simba":
        assert float(new["state.normalise.seen"]) == float(old["state.normalise.seen"]) + 2
    assert read_record(tmp_path / "new").sources == {
        "init_from": [Source(3, 50, 0, checkpoint.load(seed_folder(tmp_path / "old", 3)).sha256)]
    }


def test_a_trained_policy_acts_from_the_first_step_on(earlier: Path, tmp_path: Path) -> None:
    run_at(tmp_path / "run", frames=10, init_from=earlier)
    run_at(tmp_path / "fresh", frames=10)
    ours, random = (transitions(tmp_path / name).segment(0, 10)["action"] for name in ("run", "fresh"))
    assert np.array_equal(random[4], generator(0, Purpose.WARM_UP, 4).uniform(-1, 1, 1).astype(np.float32))
    assert not np.isclose(ours, random).any()


def test_each_seed_starts_from_its_own(tmp_path: Path) -> None:
    run_at(tmp_path / "old", seeds=[3, 4], frames=45)
    run_at(tmp_path / "new", seeds=[4, 3], frames=2, init_from=tmp_path / "old")
    for seed in (3, 4):
        old, new = tensors(tmp_path / "old", seed), tensors(tmp_path / "new", seed)
        weights = [name for name in old if name.startswith("state.actor.params.")]
        assert weights
        assert all(new[name].equal(old[name]) for name in weights)
    with pytest.raises(InputError, match="has seeds 3 4 and not 5; give --seeds that it has"):
        run_at(tmp_path / "refused", seeds=[5], init_from=tmp_path / "old")


# Transitions


def test_transitions_of_an_earlier_run_are_the_first_of_the_replay(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("q_bias", "probe"):  # the slow ones of a diagnosis
        monkeypatch.setattr(f"steadyq.examine.diagnosis.{part}", lambda *_, **__: {})
    run = run_at(tmp_path / "run", frames=20, learning_starts=1, load_replay=earlier, diagnose_every=20).folder
    ours, theirs = transitions(run), transitions(earlier, 3)
    assert ours.added == 50 + 20
    for field in ("obs", "action", "reward", "discount"):
        assert ours.segment(0, 50)[field].tobytes() == theirs.segment(0, 50)[field].tobytes()
    assert ours.sample(np.arange(50)).next_obs.equal(theirs.sample(np.arange(50)).next_obs)
    assert any("diag/critic" in line for line in records(run))  # of a batch, 20 steps into the run


def test_a_small_buffer_keeps_the_newest_of_them(earlier: Path, tmp_path: Path) -> None:
    run = run_at(tmp_path / "run", frames=10, buffer_size=30, load_replay=earlier).folder
    replay = Replay(capacity=30, obs_dim=2, action_dim=1)
    checkpoint.fill(seed_folder(run, 0), checkpoint.load(seed_folder(run, 0)), {REPLAY: replay})
    assert (replay.added, replay.size) == (60, 30)
    wanted = transitions(earlier, 3).sample(np.arange(30, 50))
    assert replay.sample(np.arange(20)).obs.equal(wanted.obs)


def test_each_batch_is_partly_of_those_kept_apart(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of it, drawn from all of them, by the same stream as the rest."""
    seen, real = list[Draws](), Learners.update

    def update(learner: Learners, draws: list[Draws], due: Any) -> None:
        seen.extend(draws)
        real(learner, draws, due)

    monkeypatch.setattr(Learners, "update", update)
    run = run_at(tmp_path / "run", frames=60, utd=1, load_replay=file, prior_share=0.25).folder
    content, new = experience(), transitions(run)
    assert new.added == 60
    for step, drawn in zip(range(40, 60), seen, strict=True):
        rng = generator(0, Purpose.SAMPLE, step)
        own, prior = rng.integers(step + 1, size=(1, 6)), rng.integers(30, size=(1, 2))
        batch = drawn.batches[0]
        assert batch.obs[:, :6].equal(new.sample(own).obs)
        assert np.array_equal(batch.obs[:, 6:].numpy(), content["obs"][prior])
        assert np.array_equal(batch.next_obs[:, 6:].numpy(), content["next_obs"][prior])
        assert np.array_equal(batch.discount[:, 6:].numpy() == 0, content["terminated"][prior])


def record() -> Record:
    """Of a robot whose actions lie between -0.5 and 2."""
    settings = settings_of("crossq_wn", env="toy:Point-v0", choices={"gamma": 0.9})
    return Record(settings, 2, 1, [["all", 2]], [-0.5], [2.0], None, [], {})


def test_a_file_means_what_its_page_says() -> None:
    content = experience(low=-0.5, high=2.0)
    replay = Replay(capacity=30, obs_dim=2, action_dim=1)
    replay.extend(segment_of(record(), content, "file"))
    got = replay.sample(np.arange(30))
    assert np.array_equal(got.obs.numpy(), content["obs"])
    assert np.array_equal(got.next_obs.numpy(), content["next_obs"])
    np.testing.assert_allclose(-0.5 + (got.action.numpy() + 1) / 2 * 2.5, content["action"], atol=1e-6)
    np.testing.assert_allclose(got.reward.numpy(), content["reward"], rtol=1e-6)
    wanted = [0.0 if terminated else 0.9 for terminated in content["terminated"]]
    np.testing.assert_allclose(got.discount.numpy(), wanted, rtol=1e-6)
    order = np.random.default_rng(1).permutation(30)  # as a set that somebody has shuffled
    shuffled = {
        name: value[order] if len(np.shape(value)) and len(value) == 30 else value for name, value in content.items()
    }
    replay = Replay(capacity=30, obs_dim=2, action_dim=1)
    replay.extend(segment_of(record(), shuffled, "file"))
    assert np.array_equal(replay.sample(np.arange(30)).next_obs.numpy(), content["next_obs"][order])


def test_a_replay_becomes_a_file_as_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    low, high, replay = np.float32([-0.5]), np.float32([2]), Replay(capacity=30, obs_dim=2, action_dim=1)
    replay.extend(segment_of(record(), experience(low=-0.5, high=2.0), "file"))
    page = (Path(__file__).parents[1] / "docs/start-from.md").read_text()
    code = page.split("```python\n")[-1].partition("```")[0]
    exec(code, {"np": np, "save_file": safetensors.numpy.save_file, "replay": replay, "low": low, "high": high})
    again = segment_of(record(), safetensors.numpy.load_file("mine.safetensors"), "file")
    for name, values in replay.segment(0, 30).items():
        np.testing.assert_allclose(again[name], values, atol=1e-6, err_msg=name)


BAD_FILES: dict[str, tuple[Callable[[dict], object], str]] = {
    "a field is missing": (lambda c: c.pop("terminated"), r"`terminated` must be booleans \(30,\), and is missing"),
    "another robot": (
        lambda c: c.update(obs=c["obs"][:, :1]),
        r"`obs` must be floats \(30, 2\), and is float32 \(30, 1\)",
    ),
    "another length": (lambda c: c.update(reward=c["reward"][:-1]), r"`reward` must be floats \(30,\)"),
    "nothing": (lambda c: c.update(obs=c["obs"][:0]), "`obs` must be floats of at least one row"),
    "whole numbers": (lambda c: c.update(action=c["action"].astype(int)), "`action` must be floats"),
    "not finite": (lambda c: c["reward"].put(3, np.nan), "`reward` has a number that is not finite"),
    "too large": (lambda c: c["reward"].put(3, 1e300), "`reward` has a number that is not finite"),
    "other bounds": (
        lambda c: c.update(action_low=-c["action_high"]),
        r"action_low is \[-2.0\] there and \[-0.5\] here",
    ),
    "outside": (lambda c: c["action"].put(3, 2.1), "`action` lies outside of its bounds, most of all in row 3"),
    "another repeat": (lambda c: c.update(action_repeat=np.array(2)), "the action repeat is 2 there and 1 here"),
}


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_file_is_refused(what: str) -> None:
    content = experience(low=-0.5, high=2.0)
    change, words = BAD_FILES[what]
    change(content)
    with pytest.raises(InputError, match=f"file.*{words}"):
        segment_of(record(), content, "file")


# Refused before anything is written


def altered(run: Path, tmp_path: Path, **changes: Any) -> Path:
    """A copy of a run whose record says something else."""
    copy = shutil.copytree(run, tmp_path / "altered")
    there = read_record(copy)
    known = {key: value for key, value in changes.items() if key in Record._fields}
    more = {key: value for key, value in changes.items() if key not in known}
    write_record(copy, there._replace(settings=replace(there.settings, **more), **known))
    return copy


UNFIT: list[tuple[dict, list[str], str]] = [
    ({"action_low": [-2.0]}, ["--init-from"], "the lower bound of actions is [-2.0] there and [-1.0] here"),
    ({"action_high": [0.5]}, ["--load-replay"], "the upper bound of actions is [0.5] there and [1.0] here"),
    ({"observations": [["angle", 2]]}, ["--load-replay"], "the observations is [['angle', 2]] there"),
    ({"gamma": 0.5}, ["--load-replay"], "gamma is 0.5 there and 0.99 here; make them the same"),
    ({"gamma": 0.5}, ["--init-from"], "gamma is 0.5 there and 0.99 here"),
    ({"action_repeat": 2}, ["--load-replay"], "the action repeat is 2 there and 1 here"),
    ({}, ["--width", "8", "--lr", "0.1", "--init-from"], "that differ: width (16 there, 8 here), lr (0.0003 there"),
    ({}, ["--prior-share", "0.01", "--load-replay"], "one that leaves some of a batch of 8 to both"),
    ({}, ["--prior-share", "0.5", "--init-from"], "--prior-share is 0.5, of nothing; give --load-replay as well"),
    ({}, ["--batch-size", "60", "--learning-starts", "2", "--load-replay"], "there are 52 transitions at the first"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words", "message"), UNFIT)
def test_what_does_not_fit_is_refused_in_one_sentence_before_anything_is_written(
    earlier: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict,
    words: list[str],
    message: str,
) -> None:
    there = altered(earlier, tmp_path, **changes)
    assert command(tmp_path / "new", *words, str(there)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def command(out: Path, *words: str, recipe: str = "crossq_wn") -> int:
    options = {**SMALL, "gamma": 0.99, "eval_every": 0, "utd": "1/2", "out": out}
    given = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    return main(["train", recipe, "--env", "toy:Point-v0", *given, *words])


def test_another_recipe_nothing_there_and_ones_own_folder_are_refused(
    earlier: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-9])
    own = shutil.copytree(earlier, tmp_path / "own")
    for words, message, out in (
        (("--init-from", str(earlier)), "the recipe is crossq_wn there and crossq here", "new"),
        (("--init-from", str(file)), "is not a run folder", "new"),
        (("--load-replay", str(tmp_path / "empty")), "neither a run folder nor a file", "new"),
        (("--load-replay", str(tmp_path / "cut.safetensors")), "is cut, damaged or no safetensors file", "new"),
        (
            ("--load-replay", str(own), "--overwrite"),
            "which lies in the folder of the new run; give another --out",
            "own",
        ),
    ):
        assert command(tmp_path / out, *words, recipe="crossq") == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "new").exists()
    assert digest(own, 3) == digest(earlier, 3)


def test_a_damaged_source_is_refused(earlier: Path, tmp_path: Path) -> None:
    for name, option in (("checkpoints/replay/*", "load_replay"), ("checkpoints/*.safetensors", "init_from")):
        copy = shutil.copytree(earlier, tmp_path / option)
        path = max(seed_folder(copy, 3).glob(name))
        data = bytearray(path.read_bytes())
        data[-5] ^= 4
        path.write_bytes(data)
        with pytest.raises(InputError, match="is damaged: its SHA-256 is not the one it was sealed with"):
            run_at(tmp_path / "new", **{option: copy})
    assert not (tmp_path / "new").exists()


# Resumed


@pytest.mark.parametrize("share", [0.5, pytest.param(0.0, marks=pytest.mark.slow)])
def test_killed_and_resumed_without_what_it_started_from(
    earlier: Path, file: Path, tmp_path: Path, share: float
) -> None:
    """Bit for bit, with SIGKILL after 46 steps; what is kept apart is written once."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    source, weights = shutil.copy(file, tmp_path / "robot"), shutil.copytree(earlier, tmp_path / "weights")
    words = ["--init-from", str(weights), "--load-replay", str(source), "--prior-share", str(share)]
    assert command(whole, *words) == 0
    killed = subprocess.run([sys.executable, __file__, str(run), *words], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert checkpoint.frames(seed_folder(run, 0)) == [0, 30]
    prior = {path: path.stat().st_mtime_ns for path in (seed_folder(run, 0) / "checkpoints" / PRIOR).glob("*")}
    assert len(prior) == (share > 0)
    source.unlink()
    shutil.rmtree(weights)
    assert main(["resume", str(run), "--trust"]) == 0
    assert digest(run, 0) == digest(whole, 0)
    assert records(run) == records(whole)
    assert {path: path.stat().st_mtime_ns for path in prior} == prior
    assert len(states(run, load(run, seed=0, checkpoint="last"))) == (90 if share else 120)


def test_a_start_that_was_cut_off_begins_again_from_the_same_or_not_at_all(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = tmp_path / "run", run_at(tmp_path / "whole", load_replay=file, frames=50).folder

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(go, "save", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run_at(run, load_replay=file, frames=50)
    assert checkpoint.frames(seed_folder(run, 0)) == []
    with pytest.raises(InputError, match=r"begins again from .*robot.safetensors; if you trust it, add --trust"):
        resume(run)
    data = file.read_bytes()
    content = experience()
    content["reward"][5] += 1
    safetensors.numpy.save_file(content, file)
    with pytest.raises(InputError, match=r"robot.safetensors has changed since the run began from it"):
        resume(run, trust=True)
    file.write_bytes(data)
    assert run_at(run, load_replay=file, frames=50, resume=True).finished
    assert digest(run, 0) == digest(whole, 0)


def test_stopped_and_extended(earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room of the replay grows with the run, and what was loaded stays where it was."""
    run_at(tmp_path / "whole", seeds=[3, 5], frames=60, load_replay=earlier)
    with monkeypatch.context() as patch:
        stopped_at(35, patch)
        run_at(tmp_path / "run", seeds=[3, 5], frames=50, load_replay=earlier)
    assert resume(tmp_path / "run", frames=60, trust=True).finished
    for seed in (3, 5):
        assert digest(tmp_path / "run", seed) == digest(tmp_path / "whole", seed)


if __name__ == "__main__":
    real = loop.act_and_store

    def until(run: Training) -> None:
        if run.step == 46:
            os.kill(os.getpid(), signal.SIGKILL)
        real(run)

    loop.act_and_store = until
    command(Path(sys.argv[1]), *sys.argv[2:])
