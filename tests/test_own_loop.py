"""A loop of one's own: bit for bit `steadyq train` where it takes the same steps; saved and restored; the example."""

import doctest
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import steadyq
from runs import SMALL, run_at
from steadyq import own_loop
from steadyq.algorithm import actor_critic
from steadyq.algorithm.tree import named_leaves
from steadyq.deploy import Policy
from steadyq.engine.learner import Learners, put, warm_up_action
from steadyq.envs import suites
from steadyq.envs.episodes import EpisodeStream
from steadyq.envs.guard import Guarded
from steadyq.errors import InputError, RunError
from steadyq.store import checkpoint, replay
from steadyq.store.folder import seed_folder

SIZES = {"obs_dim": 2, "action_dim": 1}


def learner(recipe: str = "crossq_wn", *, seed: int = 0, **options: object) -> steadyq.Learner:
    agent = steadyq.make_agent(recipe, **SIZES, width=16, actor_width=16, **options)
    return steadyq.Learner(agent, seed=seed, utd="1/2", learning_starts=40, batch_size=8, gamma=0.99, compile="off")


def empty() -> steadyq.Replay:
    return steadyq.Replay(capacity=1_000, **SIZES)


def stream(seed: int = 0) -> EpisodeStream:
    return EpisodeStream(Guarded(lambda: suites.make("toy:Point-v0")), seed=seed)


def go(
    learner: steadyq.Learner, replay: steadyq.Replay, episodes: EpisodeStream, steps: int, *, every: int = 1
) -> None:
    """A loop as in the documentation, learning at every so many steps."""
    for _ in range(steps):
        if episodes.ended:
            replay.start(episodes.next_episode())
        action = learner.act(episodes.obs)
        step = episodes.step(action)
        ended = step.terminated or step.truncated
        replay.add(action, step.reward, 0.0 if step.terminated else learner.gamma, step.obs, last=ended)
        if ended:
            replay.start(episodes.next_episode())
        if learner.steps % every == 0:
            learner.update(replay)


def state(learner: steadyq.Learner) -> dict[str, bytes]:
    return {name: leaf.numpy().tobytes() for name, leaf in named_leaves(learner._learners.seed(0).state)}


@pytest.mark.parametrize(
    ("recipe", "options"),
    [("crossq_wn", {"reset_updates": 15}), ("simba", {}), ("xqc", {"depth": 2, "schedule_updates": 1_000})],
)
def test_a_loop_of_ones_own_learns_what_train_learns(tmp_path: Path, recipe: str, options: dict) -> None:
    """Bit for bit: weights, statistics, optimisers, running moments; through resets too."""
    run_at(tmp_path / "run", recipe, seeds=[5], gamma=0.99, eval_every=0, utd="1/2", **options)
    saved = checkpoint.load(seed_folder(tmp_path / "run", 5))
    wanted = {name.removeprefix("state."): leaf for name, leaf in saved.tensors.items() if name.startswith("state.")}
    ours = learner(recipe, seed=5, **options)
    go(ours, empty(), stream(5), SMALL["frames"])
    assert state(ours) == {name: leaf.numpy().tobytes() for name, leaf in wanted.items()}


def test_updates_may_wait_for_the_end_of_an_episode() -> None:
    at_once, later = learner(), learner()
    go(at_once, empty(), stream(), 90)
    go(later, empty(), stream(), 90, every=30)
    assert at_once.updates == later.updates == 50 // 2
    assert state(at_once) != state(later)
    assert later.metrics().keys() == at_once.metrics().keys() >= {"train/critic_loss", "train/actor_loss"}
    assert later.metrics() == {}


def test_saved_and_restored_it_resumes_bit_exactly(tmp_path: Path) -> None:
    whole, transitions, episodes = learner(reset_updates=15), empty(), stream()
    go(whole, transitions, episodes, 70)
    whole.save(tmp_path, transitions)
    there = episodes.snapshot()
    go(whole, transitions, episodes, 20)
    again, restored, resumed = learner(reset_updates=15), empty(), stream()
    assert again.restore(tmp_path, restored)
    assert resumed.restore(there)
    go(again, restored, resumed, 20)
    assert state(again) == state(whole)
    again.save(tmp_path, restored)
    assert checkpoint.frames(tmp_path) == [90]
    assert not learner().restore(tmp_path / "elsewhere", empty())


def test_it_starts_from_a_run(tmp_path: Path) -> None:
    """Its networks as they are; the first action is the policy's; a saved learner remembers it."""
    run = run_at(tmp_path / "run", seeds=[5], gamma=0.99, eval_every=0, frames=50).folder
    ours, transitions = learner(), empty()
    ours.init_from(run)
    there = {name.removeprefix("state."): leaf for name, leaf in checkpoint.load(seed_folder(run, 5)).tensors.items()}
    for name, numbers in state(ours).items():
        wanted = bytes(len(numbers)) if ".opt." in name else there[name].numpy().tobytes()
        assert numbers == wanted, name
    go(ours, transitions, stream(), 5)
    random = [warm_up_action(0, step, 1) for step in range(5)]
    assert not np.isclose(transitions.segment(0, 5)["action"], random).any()
    ours.save(tmp_path / "saved", transitions)
    again = learner()
    again.restore(tmp_path / "saved", empty())
    assert again.act(np.zeros(2)) == ours.act(np.zeros(2))


def test_a_run_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run", gamma=0.9, eval_every=0, frames=10).folder
    with pytest.raises(InputError, match=r"\(2, 1, 0.9\); this learner has \(2, 1, 0.99\)"):
        learner().init_from(run)
    with pytest.raises(InputError, match=r"seed is 3; .* has 0"):
        learner().init_from(run, seed=3)
    with pytest.raises(InputError, match=r"does not have the networks of this agent \(actor"):
        steadyq.Learner(steadyq.make_agent("crossq_wn", **SIZES), gamma=0.9, compile="off").init_from(run)


def test_what_another_learner_saved_is_refused(tmp_path: Path) -> None:
    ours, transitions = learner(), empty()
    go(ours, transitions, stream(), 45)
    ours.save(tmp_path, transitions)
    other = learner("sac")
    before = state(other)
    with pytest.raises(InputError, match="was not saved by such a learner: got other tensors than this agent has"):
        other.restore(tmp_path, empty())
    assert state(other) == before
    with pytest.raises(InputError, match="was saved with seed 0; this learner has 1"):
        learner(seed=1).restore(tmp_path, empty())


def test_the_mean_action_counts_as_no_step() -> None:
    ours = learner()
    go(ours, empty(), stream(), 60)
    obs = np.array([0.5, 0.5])
    assert (ours.mean_action(obs) == ours.mean_action(obs)).all()
    assert ours.steps == 60
    assert (ours.act(obs) != ours.act(obs)).all()


@pytest.mark.parametrize("recipe", ["crossq_wn", "simba"])
@pytest.mark.parametrize("steps", [10, 45])
def test_another_replay_is_saved_whole(tmp_path: Path, recipe: str, steps: int) -> None:
    """Whether it has fewer transitions than what is there or more; and to the same folder by another path."""
    ours, first, second, episodes = learner(recipe), empty(), empty(), stream()
    go(ours, first, episodes, 30)
    ours.save(tmp_path / "saved", first)
    second.start(episodes.obs)
    go(ours, second, episodes, steps)
    ours.save(tmp_path / "saved" / ".." / "saved", second)
    restored = empty()
    assert learner(recipe).restore(tmp_path / "saved", restored)
    assert restored.added == second.added == steps
    for name, wanted in second.segment(0, steps).items():
        np.testing.assert_array_equal(restored.segment(0, steps)[name], wanted)
    ours.save(tmp_path / "elsewhere", second)
    ours.save(tmp_path / "saved", second)  # back again


def test_a_learner_that_counts_updates_otherwise_is_refused(tmp_path: Path) -> None:
    """Else the networks would be reset, or taken for untrained."""
    ours, transitions = learner(reset_updates=15), empty()
    go(ours, transitions, stream(), 60)
    ours.save(tmp_path, transitions)
    for changed, words in (
        ({"utd": 3}, "saved with utd 1/2; this learner has 3"),
        ({"learning_starts": 200}, "saved with learning_starts 40; this learner has 200"),
        ({"gamma": 0.9}, "saved with gamma 0.99; this learner has 0.9"),
    ):
        settings = {"utd": "1/2", "learning_starts": 40, "batch_size": 8, "gamma": 0.99, "compile": "off"} | changed
        with pytest.raises(InputError, match=words):
            steadyq.Learner(ours.agent, **settings).restore(tmp_path, empty())


def test_what_float32_cannot_hold_is_refused() -> None:
    transitions = empty()
    with pytest.raises(ValueError, match="obs has a number that is not finite in float32"):
        transitions.start(np.array([0, 1e39]))
    transitions.start(np.zeros(2))
    with pytest.raises(ValueError, match="reward must be finite in float32"):
        transitions.add(np.zeros(1), 1e39, 0.99, np.zeros(2), last=False)
    with pytest.raises(ValueError, match="next_obs has a number that is not finite in float32"):
        transitions.add(np.zeros(1), 1.0, 0.99, np.array([0, -1e39]), last=False)
    assert transitions.size == 0


@pytest.mark.parametrize("recipe", ["crossq_wn", "simba"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_its_policy_goes_to_the_robot(tmp_path: Path, recipe: str, precision: str) -> None:
    ours, transitions = learner(recipe, precision=precision), empty()
    go(ours, transitions, stream(), 60)
    rows = transitions.segment(0, 60)["obs"]
    exact = learner(recipe)  # the same weights, hidden products in float32
    put(exact._learners.seed(0), ours._learners.seed(0))
    wanted = -2 + 5 * (np.stack([exact.mean_action(row) for row in rows]) + 1) / 2
    before = state(ours)
    for name in ("policy.npz", "policy.onnx"):
        returned = ours.export(tmp_path / name, transitions, action_low=-2, action_high=[3.0], step_seconds=0.05)
        policy = Policy.load(tmp_path / name)
        for found in (policy, returned):
            np.testing.assert_allclose(found(rows), wanted, atol=1e-5)
        assert policy({"observation": rows[0]}) == pytest.approx(wanted[0], abs=1e-5)
        assert (policy.spec.action_low, policy.spec.action_high, policy.spec.step_seconds) == ([-2], [3], 0.05)
        trained = policy.spec.trained
        assert (trained["seed"], trained["frame"], trained["parity_states"]) == (0, 60, 60)
        assert trained["parity"] < 1e-5
    assert state(ours) == before
    assert ours.steps == 60


def test_an_exported_observation_may_have_parts(tmp_path: Path) -> None:
    ours, transitions = learner(), empty()
    go(ours, transitions, stream(), 5)
    policy = ours.export(tmp_path / "policy.npz", transitions, observations={"angle": 1, "speed": 1})
    assert policy({"speed": 0.5, "angle": -0.25}) == policy(np.array([-0.25, 0.5]))
    assert policy(np.array([-0.25, 0.5])) == pytest.approx(ours.mean_action(np.array([-0.25, 0.5])), abs=1e-5)


@pytest.mark.parametrize(
    ("file", "settings", "words"),
    [
        ("policy.pt", {}, "policy.pt cannot be written; give a file ending in .onnx or .npz"),
        ("policy.npz", {"action_low": 1}, r"would go from \[1.0\] to \[1.0\]; give lower bounds below upper ones"),
        ("policy.npz", {"action_high": [1, 2]}, r"action_high is \[1, 2\]; give a finite number, or 1 of them"),
        ("policy.npz", {"action_low": np.nan}, "action_low is nan; give a finite number"),
        ("policy.npz", {"observations": {"angle": 1}}, "an observation have 1 numbers in all; give 2"),
        ("policy.npz", {"observations": {"angle": 2, "speed": 0}}, "size of 'speed' is 0; give a whole number"),
        ("policy.npz", {"step_seconds": 0}, "step_seconds is 0; give a number above 0"),
    ],
)
def test_an_export_that_cannot_be_is_refused(tmp_path: Path, file: str, settings: dict, words: str) -> None:
    ours, transitions = learner(), empty()
    with pytest.raises(InputError, match="the replay is empty; give one with observations"):
        ours.export(tmp_path / "policy.npz", transitions)
    go(ours, transitions, stream(), 5)
    with pytest.raises(InputError, match=words):
        ours.export(tmp_path / file, transitions, **settings)
    assert not any(tmp_path.iterdir())


def test_bad_input_is_said() -> None:
    ours = learner()
    with pytest.raises(InputError, match=r"the observation has the shape \(3,\); give one of \(2,\)"):
        ours.act(np.zeros(3))
    with pytest.raises(InputError, match="the observation is not finite at index 1"):
        ours.act(np.array([0.0, np.nan]))
    with pytest.raises(InputError, match=r"the replay has observations and actions of sizes \(3, 1\)"):
        ours.update(steadyq.Replay(capacity=9, obs_dim=3, action_dim=1))
    with pytest.raises(InputError, match="batch_size is 0; give a whole number of at least 1"):
        steadyq.Learner(ours.agent, batch_size=0)
    with pytest.raises(InputError, match="takes its gamma from the length of an episode"):
        steadyq.Learner(steadyq.make_agent("simba", **SIZES))
    with pytest.raises(InputError, match="falls over the critic updates of a run; give their number"):
        steadyq.make_agent("xqc", **SIZES)
    with pytest.raises(InputError, match="unknown option 'widht'; did you mean 'width'"):
        steadyq.make_agent("sac", **SIZES, widht=1)
    with pytest.raises(InputError, match=r"options \(lr\) go with a recipe's name"):
        steadyq.make_agent(ours.agent.recipe, **SIZES, lr=1e-3)
    with pytest.raises(InputError, match="unknown precision 'bf16'"):
        steadyq.make_agent("sac", **SIZES, precision="bf16")
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        steadyq.Learner(ours.agent, device="gpu")
    with pytest.raises(InputError, match="unknown value of compile 'False'"):
        steadyq.Learner(ours.agent, compile=False)
    with pytest.raises(InputError, match=r"seed is 1.5; give a whole number"):
        steadyq.Learner(ours.agent, seed=1.5)
    with pytest.raises(InputError, match="gamma is 'much'; give a number in"):
        steadyq.Learner(ours.agent, gamma="much")
    with pytest.raises(InputError, match=r"the replay's capacity is 0.5; give a whole number of at least 1"):
        steadyq.Replay(capacity=0.5, obs_dim=3, action_dim=1)
    with pytest.raises(InputError, match=r"lr is 'fast', of type str; give one of type float"):
        steadyq.make_agent("sac", **SIZES, lr="fast")
    for _ in range(42):
        ours.act(np.zeros(2))
    with pytest.raises(InputError, match="the replay is empty"):
        ours.update(empty())


def test_numbers_may_be_of_any_type_as_in_train(tmp_path: Path) -> None:
    odd = {"lr": "1e-3", "width": np.int64(8), "actor_width": 8.0}
    agent = steadyq.make_agent("sac", obs_dim=np.int64(2), action_dim=1, **odd)
    ours = steadyq.Learner(agent, seed=np.int64(3), batch_size=4.0, learning_starts="2", gamma="0.9", compile="off")
    replay = steadyq.Replay(capacity=1e3, obs_dim=2.0, action_dim=1)
    go(ours, replay, stream(), 6)
    ours.save(tmp_path, replay)
    assert (ours.gamma, ours.updates) == (0.9, 4)


def test_what_was_saved_is_not_replaced_unseen(tmp_path: Path) -> None:
    ours, replay = learner(), empty()
    go(ours, replay, stream(), 20)
    ours.save(tmp_path, replay)
    with pytest.raises(InputError, match="holds what another learner saved at step 20; `restore` it first"):
        learner().save(tmp_path, replay)
    go(ours, replay, stream(), 5)
    ours.save(tmp_path, replay)
    again, rest = learner(), empty()
    assert again.restore(tmp_path, rest)
    assert again.steps == 25
    again.save(tmp_path, rest)


@pytest.mark.parametrize("every", [1, 20])
def test_resets_come_after_the_updates_that_they_wait_for(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    done, reset, update = list[str](), Learners.reset, Learners.update
    monkeypatch.setattr(Learners, "reset", lambda self, new: done.append("reset") or reset(self, new))
    monkeypatch.setattr(Learners, "update", lambda self, *what: done.append("update") or update(self, *what))
    agent = steadyq.make_agent("sac_resets", **SIZES, width=8, actor_width=8, reset_updates=10)
    ours, replay = steadyq.Learner(agent, utd=1, batch_size=4, learning_starts=4, compile="off"), empty()
    replay.start(np.zeros(2))
    for step in range(20):
        replay.add(ours.act(np.zeros(2)), 1.0, 0.99, np.zeros(2), last=False)
        if step % every == every - 1:
            ours.update(replay)
    assert done == [*["update"] * 10, "reset", *["update"] * 6]


def test_updates_that_fail_are_an_error() -> None:
    ours, transitions = learner(), empty()
    transitions.start(np.zeros(2))
    for _ in range(46):
        transitions.add(ours.act(np.zeros(2)), 1e30, ours.gamma, np.zeros(2), last=False)
    with pytest.raises(RunError, match="train/critic_loss was not finite in 3 updates in a row, at step 45"):
        ours.update(transitions)


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "own_loop_example", Path(__file__).parents[1] / "examples/own_loop.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("steadyq.engine.compiler.choose", lambda compile, *, device: False)
    assert len(example().train("Pendulum-v1", 410, 0, str(tmp_path))) == 2
    assert example().train("Pendulum-v1", 510, 0, str(tmp_path), str(tmp_path / "policy.npz")) == []
    assert Policy.load(tmp_path / "policy.npz").spec.bounds() == (-2, 2)
    assert "resumed at step 410" in capsys.readouterr().out
    assert checkpoint.frames(tmp_path) == [510]


@pytest.mark.slow
def test_the_example_learns() -> None:
    returns = example().train("Pendulum-v1", 5_000, 0, None)
    assert np.mean(returns[:3]) < -800
    assert np.mean(returns[-10:]) > -400


@pytest.mark.parametrize("module", [own_loop, actor_critic, replay])
def test_the_documentation_is_true(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert (found.failed, found.attempted > 0) == (0, True)
