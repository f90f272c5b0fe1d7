"""An agent of three steps, one of them nobody's in `src`: trained, logged, killed and resumed as any other."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import passive
from runs import digest
from small import ACTION, BATCH, OBS, normal, same_bits, start, transitions
from steadyq.algorithm.actor_critic import make_agent
from steadyq.algorithm.agent import Agent
from steadyq.algorithm.options import make_recipe
from steadyq.algorithm.recipes import RECIPES
from steadyq.engine import compiler
from steadyq.store import metrics_csv

OPTIONS = [
    *("--frames", "100", "--learning-starts", "40", "--batch-size", "8", "--utd", "2", "--threads", "1"),
    *("--eval-every", "40", "--eval-episodes", "1", "--log-every", "20", "--save-every", "20"),
]


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    """The agent of the recipe with a third step."""
    monkeypatch.setitem(RECIPES, "with_passive_critic", passive.with_passive_critic)
    return start(make_recipe("with_passive_critic")).agent


def test_a_third_step_sees_a_batch_of_its_own_and_leaves_the_others_alone(agent: Agent) -> None:
    assert [step.name for step in agent.steps] == ["critic", "actor", "passive"]
    assert [agent.samples[step.sample] for step in agent.steps] == [3, 3, passive.HELD_OUT]
    state, step = agent.init(np.random.default_rng(0)), agent.step("passive")
    after, metrics = step.update(state, transitions(0, BATCH), normal(1, BATCH, ACTION))
    assert tuple(metrics) == step.metrics
    assert same_bits(after._replace(auxiliaries=()), state._replace(auxiliaries=()))
    assert not same_bits(after.auxiliaries, state.auxiliaries)
    bad = transitions(0, BATCH)._replace(reward=normal(2, BATCH).log())  # half of them NaN
    assert same_bits(step.update(state, bad, normal(1, BATCH, ACTION))[0], state)
    assert list(agent.networks(state)) == ["critic", "actor", "passive"]


def test_a_third_step_changes_nothing_of_what_the_others_start_with(agent: Agent) -> None:
    """Its weights are drawn after theirs."""
    alone = make_agent(make_recipe("sac", {"width": 16, "actor_width": 16}), obs_dim=OBS, action_dim=ACTION)
    state = agent.init(np.random.default_rng(0))
    assert same_bits(state._replace(auxiliaries=()), alone.init(np.random.default_rng(0)))


def test_a_run_with_three_steps_is_compiled_logged_killed_and_resumed_bit_exactly(tmp_path: Path) -> None:
    if not (found := compiler.works()).ok:
        pytest.skip(f"nothing to compile with: {found.reason}")

    def command(name: str) -> list[str]:
        out = ("--env", "toy:Point-v0", "--out", str(tmp_path / name), "--compile", "on")
        return ["train", "with_passive_critic", *OPTIONS, *out]

    def run(*words: str, **environment: str) -> int:
        here = {"PYTHONPATH": os.pathsep.join(sys.path), **os.environ, **environment}
        done = subprocess.run([sys.executable, passive.__file__, *words], env=here, capture_output=True, check=False)
        return done.returncode

    assert run(*command("killed"), KILL_AT="70") == -9
    assert not (tmp_path / "killed" / "learning_curve.png").exists()
    assert run(*command("killed"), "--resume", "then", *command("whole")) == 0  # both load the compiler once
    assert digest(tmp_path / "whole", 0) == digest(tmp_path / "killed", 0)
    rows, others = (
        [row for row in metrics_csv.read(tmp_path / name / metrics_csv.FILE) if not row.metric.startswith("time/")]
        for name in ("whole", "killed")
    )
    assert rows == others
    logged = {row.metric for row in rows}
    assert logged >= {"train/passive_loss", "train/passive_grad_norm", "train/passive_weight_norm", "train/critic_loss"}
