"""Whole runs at toy size: a stopped run resumes bit-exactly, and nothing next to a run changes it."""

import io
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import steadyq
from runs import digest, records, stopped_at, transitions
from runs import run_at as at_full_length
from small import same_bits
from steadyq.algorithm.options import options
from steadyq.algorithm.tree import leaves
from steadyq.engine.learner import Learners
from steadyq.errors import InputError, RunError
from steadyq.results.read import read_folder
from steadyq.run import go, views
from steadyq.run.resume import resume
from steadyq.run.stop import Stop
from steadyq.store import checkpoint, folder, metrics_csv
from steadyq.store.metrics_csv import Row
from toy import Point

run_at = partial(at_full_length, utd="2/3")  # an update at some steps and not at others


def test_a_run_leaves_what_it_promises(tmp_path: Path) -> None:
    result = run_at(tmp_path / "run", utd=2)
    assert result.finished
    assert result.frame == 90
    assert sorted(result.returns(0)) == [0, 40, 80, 90]
    with pytest.raises(steadyq.InputError, match="seed is 1; this run has 0"):
        result.returns(1)
    rows = {(row.metric, row.env_step): row.value for row in metrics_csv.read(tmp_path / "run" / "metrics.csv")}
    assert rows["train/n_updates", 90] == 100
    assert rows["train/utd", 90] == 2
    assert {"train/critic_loss", "train/critic_grad_norm", "train/actor_weight_norm"} <= {m for m, f in rows if f == 60}
    assert ("train/critic_loss", 30) not in rows
    assert {path.name for path in (tmp_path / "run" / "seed-0" / "snapshots").iterdir()} == {
        f"{frame:012d}.safetensors" for frame in (0, 40, 80, 90)
    }
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["utd"] == "2"
    assert record["stretches"][0]["precision"] == "float32"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds that nothing happened to."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    run_at(run, seeds=[0, 1])
    return run


def test_a_run_that_ends_before_it_learns_reports_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_at(tmp_path / "run", frames=40, eval_every=0).folder
    words = "nothing will be learned: updates begin after frame 40, and the run has 40 frames; give more --frames"
    assert words in capsys.readouterr().out
    resume(run, frames=42)
    assert "nothing will be learned" not in capsys.readouterr().out


def test_resuming_a_whole_run_reports_that_it_is_done(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    assert steadyq.resume(tmp_path / "run").frame == 90
    assert "seeds 0 1: all 90 frames are done (`steadyq resume` with --frames" in "".join(capsys.readouterr())


@pytest.mark.parametrize("step", [0, 7, 40, 41, 63, 89, 90])
def test_a_resumed_run_is_the_undisturbed_run(
    step: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopped_at(step, patch)
        assert not run_at(tmp_path / "cut", seeds=[0, 1]).finished
    assert resume(tmp_path / "cut").finished
    assert records(tmp_path / "cut") == records(undisturbed)
    for seed in (0, 1):
        assert digest(tmp_path / "cut", seed) == digest(undisturbed, seed)


@pytest.mark.parametrize("recipe", ["crossq", "redq", "droq", "nap", "bro", "simba_v2"])
def test_the_other_recipes_resume_too(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has something of its own to remember: moments, noise, initial norms, optimism, normalisation, a schedule."""
    smaller = {key: 11 for key in ("quantiles", "bins") if key in options(recipe)}
    run_at(tmp_path / "whole", recipe, **smaller)
    with monkeypatch.context() as patch:
        stopped_at(50, patch)
        run_at(tmp_path / "cut", recipe, **smaller)
    resume(tmp_path / "cut")
    assert digest(tmp_path / "cut", 0) == digest(tmp_path / "whole", 0)


# Resets: every 20 updates at UTD 2, first after 10 of the 50 learning steps


def test_resets_start_from_fresh_weights_and_show_their_dip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = [], Learners.reset

    def watched(learner: Learners, states: list) -> None:
        before = learner.seed(0).state.normalise
        real(learner, states)
        state = learner.seed(0).state
        assert same_bits(state.critic.params, states[0].critic.params)
        assert not any(leaf.any() for leaf in leaves(state.critic.opt))
        assert same_bits(state.normalise, before)
        seen.append(state.critic.params[1].w.clone())

    monkeypatch.setattr(Learners, "reset", watched)
    run_at(tmp_path / "run", seeds=[0, 1], utd=2, reset_updates=20)
    assert len({tuple(w.flatten().tolist()) for w in seen}) == len(seen) == 4  # other weights each time
    rows = {(r.metric, r.env_step): r.value for r in metrics_csv.read(tmp_path / "run" / "metrics.csv") if r.seed == 0}
    dips = sorted(frame for metric, frame in rows if metric == "eval_after_reset/mean_reward")
    assert dips == [50, 60, 70, 80]  # none at the end, where what was trained is kept
    assert rows["eval/mean_reward", 80] != rows["eval_after_reset/mean_reward", 80]  # before, and after
    assert rows["train/n_updates", 90] == 100  # counted on


def test_resets_leave_the_replay_and_the_warm_up_alone(tmp_path: Path) -> None:
    """Until the first reset nothing differs; transitions from before it are kept, in their place."""
    replays = []
    for name, updates in (("never", 0), ("late", 60)):
        run_at(tmp_path / name, utd=2, reset_updates=updates)
        replays.append(transitions(tmp_path / name).segment(0, 90)["action"])
    same = [a.tobytes() == b.tobytes() for a, b in zip(*replays, strict=True)]
    assert all(same[:70])
    assert not any(same[70:])


RESETS = {"recipe": "sac_resets", "reset_updates": 20, "utd": 2}


@pytest.fixture(scope="module")
def undisturbed_with_resets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("resets") / "run"
    run_at(run, **RESETS)
    return run


@pytest.mark.parametrize("step", [49, 50, 80])
def test_a_run_with_resets_resumes_too(
    step: int, undisturbed_with_resets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped right before a reset, after one, and in the evaluation before one."""
    with monkeypatch.context() as patch:
        stopped_at(step, patch)
        run_at(tmp_path / "cut", **RESETS)
    resume(tmp_path / "cut")
    assert records(tmp_path / "cut") == records(undisturbed_with_resets)
    assert digest(tmp_path / "cut", 0) == digest(undisturbed_with_resets, 0)


def test_a_reset_at_the_end_waits_for_the_extension(undisturbed_with_resets: Path, tmp_path: Path) -> None:
    run_at(tmp_path / "run", **RESETS, frames=80)
    saved = checkpoint.load(tmp_path / "run" / "seed-0")
    assert saved.meta["run"]["resets"] == 3
    assert saved.tensors["state.critic.opt.updates"] > 0
    resume(tmp_path / "run", frames=90)
    assert records(tmp_path / "run") == records(undisturbed_with_resets)
    assert digest(tmp_path / "run", 0) == digest(undisturbed_with_resets, 0)


def test_a_stop_in_the_last_evaluation_leaves_it_to_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_at(tmp_path / "whole", frames=80)
    with monkeypatch.context() as patch:
        stopped_at(80, patch)
        assert not run_at(tmp_path / "cut", frames=80).finished
    assert resume(tmp_path / "cut").finished
    assert records(tmp_path / "cut") == records(tmp_path / "whole")


# Schedules


def test_a_run_with_a_schedule_is_not_stretched_unasked(tmp_path: Path) -> None:
    of_xqc = {"utd": 2, "bins": 11, "depth": 1}
    run_at(tmp_path / "run", "xqc", **of_xqc)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["options"]["schedule_updates"] == 100
    refused = "110 updates; the learning rate of this run falls over 100"
    with pytest.raises(InputError, match=refused):
        resume(tmp_path / "run", frames=95)
    with pytest.raises(InputError, match=refused):
        run_at(tmp_path / "run", "xqc", **of_xqc, frames=95, resume=True)
    with pytest.raises(InputError, match="by `steadyq resume` with --past-schedule") as error:
        run_at(tmp_path / "run", "xqc", **of_xqc, frames=95, resume=True)
    assert not error.value.add  # it is no option of `steadyq train`
    assert resume(tmp_path / "run", frames=95, past_schedule=True).frame == 95
    longer = run_at(tmp_path / "longer", "xqc", **of_xqc, schedule_updates=1_000)
    assert resume(longer.folder, frames=95).frame == 95


RUNS = ("short", "long")


def test_an_extended_run_is_the_longer_run(tmp_path: Path) -> None:
    run_at(tmp_path / "long")
    run_at(tmp_path / "short", frames=70)
    assert [line.split(",")[3:5] for line in records(tmp_path / "short")[-3:]] == [
        [f"eval_end/{name}", "70"] for name in ("mean_ep_length", "mean_reward", "std_reward")
    ]
    assert resume(tmp_path / "short").finished  # with nothing to do
    resume(tmp_path / "short", frames=90)
    assert records(tmp_path / "short") == records(tmp_path / "long")
    assert digest(tmp_path / "short", 0) == digest(tmp_path / "long", 0)
    kept = [{path.name: path.read_bytes() for path in (tmp_path / run).glob("seed-0/snapshots/*")} for run in RUNS]
    assert kept[0] == kept[1]
    with pytest.raises(InputError, match="has done 90 already"):
        resume(tmp_path / "short", frames=80)


def test_the_end_of_a_short_run_is_what_it_is_known_by(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run", frames=60, eval_every=1_000, utd=2).folder
    found = folder.returns(run, 0)
    assert [*found] == [0, 60]
    (curve,) = read_folder(run, [])["eval/mean_reward"]
    assert (curve.env_step.tolist(), curve.value.tolist()) == ([0, 60], [*found.values()])
    for which, frame in (("last", 60), (60, 60), ("best", max(found, key=found.__getitem__))):
        trained = steadyq.load_policy(run, checkpoint=which).spec.trained
        assert (trained["frame"], trained["return"]) == (frame, found[frame])
    before = (run / "metrics.csv").read_bytes()
    assert resume(run).finished  # nothing is left to do
    assert (run / "metrics.csv").read_bytes() == before


def test_an_end_whose_snapshot_cannot_be_written_is_evaluated_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device")

    run_at(tmp_path / "whole", frames=30)
    with monkeypatch.context() as patch:
        patch.setattr("steadyq.store.snapshot.write_snapshot", full)
        with pytest.raises(RunError, match="no snapshot at frame 30: No space left"):
            run_at(tmp_path / "run", frames=30)
    assert ",eval_end/" not in (tmp_path / "run" / "metrics.csv").read_text()
    assert resume(tmp_path / "run").finished
    assert records(tmp_path / "run") == records(tmp_path / "whole")


# What a user's program is told


def test_callbacks_are_called_with_the_rows_just_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Row] = []
    evaluated: list[Row] = []
    calls = {"on_log": logged.extend, "on_evaluation": evaluated.extend}
    with monkeypatch.context() as patch:
        stopped_at(50, patch)
        run_at(tmp_path / "run", seeds=[0, 1], **calls)
    assert {row.env_step for row in logged} == {30}
    assert {row.env_step for row in evaluated} == {0, 40}
    resume(tmp_path / "run", **calls)
    rows = metrics_csv.read(tmp_path / "run" / "metrics.csv")
    regular = [row for row in rows if row.metric.startswith("eval") or row.metric == "time/evaluation_seconds"]
    assert evaluated == regular
    assert logged == [row for row in rows if row not in regular]


@pytest.mark.parametrize(("when", "frame"), [("on_log", 60), ("on_evaluation", 40), ("on_evaluation", 90)])
def test_what_a_callback_raises_stops_the_run_saved(when: str, frame: int, undisturbed: Path, tmp_path: Path) -> None:
    def prune(rows: Sequence[Row]) -> None:
        if rows[0].env_step == frame:
            raise LookupError("pruned")

    with pytest.raises(LookupError, match="pruned") as caught:
        run_at(tmp_path / "run", seeds=[0, 1], **{when: prune})
    assert caught.value.__notes__ == [
        f"raised by a callback at frame {frame}; the run in {tmp_path / 'run'} has stopped there"
    ]
    assert checkpoint.load(tmp_path / "run" / "seed-0").frame == frame
    assert run_at(tmp_path / "run", seeds=[0, 1], resume=True).finished
    assert records(tmp_path / "run") == records(undisturbed)
    assert digest(tmp_path / "run", 1) == digest(undisturbed, 1)


# What is seen of a run


def test_the_screen_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock moves while updates are compiled, and numbers are there from the first update on, read now and then."""
    stream, now, waited, looks = io.StringIO(), [0.0], [0], [0]
    console = Console(file=stream, force_terminal=True, color_system=None, width=100, height=30)
    take, means = Point.step, Learners.means

    def step(env: Point, action: np.ndarray) -> tuple:
        now[0] += 0.25
        return take(env, action)

    def wait(learner: Learners, seconds: float) -> None:
        now[0], waited[0] = now[0] + 1, waited[0] + 1

    def look(learner: Learners) -> list[dict[str, float]]:
        looks[0] += 1
        return means(learner)

    monkeypatch.setattr(Point, "step", step)
    monkeypatch.setattr(Learners, "wait", wait)
    monkeypatch.setattr(Learners, "means", look)
    monkeypatch.setattr(Learners, "compiling", property(lambda learner: waited[0] < 96))
    monkeypatch.setattr("steadyq.run.train.Stop", partial(Stop, clock=lambda: now[0]))
    monkeypatch.setattr(go, "choose_view", lambda board: views.LiveView(board, console))
    run_at(tmp_path / "run", utd=1, frames=60, eval_every=0, log_every=1_000)
    drawn = [screen.splitlines() for screen in stream.getvalue().split("toy:Point-v0  ")[1:]]
    compiling = [screen[2].split()[1] for screen in drawn if "compiling the updates" in screen[2]]
    assert len({*compiling}) == 97
    updated = [screen for screen in drawn if int(screen[1].split("/")[0].split()[-1]) > 44]
    assert all("frames/s" in screen[2] and "warm-up" not in screen[2] for screen in updated)
    assert all("-" not in screen[4].split()[3:7] for screen in updated)  # train, q, alpha, entropy
    assert 10 <= looks[0] <= 60 / 4 + 1


def test_a_crash_before_the_first_checkpoint_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_at(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("steadyq.run.loop.save", lambda run: (_ for _ in ()).throw(OSError("pulled the plug")))
        with pytest.raises(OSError, match="plug"):
            run_at(tmp_path / "crashed")
    resume(tmp_path / "crashed")
    assert records(tmp_path / "crashed") == records(tmp_path / "whole")


def test_a_seed_beside_others_is_the_seed_alone(tmp_path: Path) -> None:
    run_at(tmp_path / "many", seeds=[4, 2, 7])
    run_at(tmp_path / "one", seeds=[2])
    assert records(tmp_path / "many", seed=2) == records(tmp_path / "one")
    assert digest(tmp_path / "many", 2) == digest(tmp_path / "one", 2)
    assert digest(tmp_path / "many", 4) != digest(tmp_path / "many", 7)


def test_evaluation_does_not_change_training(tmp_path: Path) -> None:
    run_at(tmp_path / "on")
    run_at(tmp_path / "off", eval_every=0)
    kept = [line for line in records(tmp_path / "on") if ",eval" not in line]
    assert kept == records(tmp_path / "off")
    on = checkpoint.load(tmp_path / "on" / "seed-0").tensors
    off = checkpoint.load(tmp_path / "off" / "seed-0").tensors
    assert on.keys() == off.keys()
    assert all(torch.equal(on[name], off[name]) for name in on)


def test_a_ring_that_overflows_resumes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_at(tmp_path / "whole", buffer_size=33)
    with monkeypatch.context() as patch:
        stopped_at(77, patch)
        run_at(tmp_path / "cut", buffer_size=33)
    resume(tmp_path / "cut")
    assert records(tmp_path / "cut") == records(tmp_path / "whole")


def test_fractional_utd_is_realised_exactly(tmp_path: Path) -> None:
    result = run_at(tmp_path / "run", utd="1/3")
    rows = {(row.metric, row.env_step): row.value for row in metrics_csv.read(result.folder / "metrics.csv")}
    assert rows["train/n_updates", 90] == 16
    assert rows["train/n_updates", 60] == 6


def test_an_existing_folder_is_not_overwritten_unasked(tmp_path: Path) -> None:
    run_at(tmp_path / "run")
    before = digest(tmp_path / "run", 0)
    with pytest.raises(InputError, match="already holds a run"):
        run_at(tmp_path / "run")
    assert digest(tmp_path / "run", 0) == before
    assert run_at(tmp_path / "run", overwrite=True, utd=1).finished
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("words")
    with pytest.raises(InputError, match="is not a run folder"):
        run_at(tmp_path / "precious", overwrite=True)
    assert (tmp_path / "precious" / "thesis.tex").read_text() == "words"


def test_too_little_memory_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="GB of memory"):
        run_at(tmp_path / "run", frames=10**12, buffer_size=10**12)
    assert not (tmp_path / "run").exists()
