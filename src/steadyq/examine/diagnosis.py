"""One diagnosis: everything that `docs/diagnostics.md` defines, of one agent's state at one frame.

Used during a run and on its snapshots afterwards. It draws from random streams of its own, plays in an
environment of its own and changes nothing of what it is given, so training is the same bits with and without it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steadyq.algorithm import plasticity, units, weights
from steadyq.algorithm.actor_critic import make_agent
from steadyq.algorithm.agent import Agent, Recipe
from steadyq.algorithm.random import Purpose, generator
from steadyq.algorithm.tree import at
from steadyq.algorithm.types import State
from steadyq.envs.guard import Guarded
from steadyq.examine.q_bias import Subject, q_bias
from steadyq.settings import Settings
from steadyq.store.replay import Replay

STATES, PROBED = 1_024, 256
"""Transitions behind units and ranks, and those that the plasticity probe learns; as many for every recipe."""


@dataclass(frozen=True, kw_only=True)
class Examiner:
    """What all diagnoses of a run share."""

    agent: Agent  # in float32
    env: Guarded  # without its time limit
    gamma: float
    batch_size: int
    warm_up: int  # agent steps of random actions
    limit: int | None  # agent steps after which training cuts an episode


def examiner(settings: Settings, recipe: Recipe, env: Guarded) -> Examiner:
    """The examiner of a run, with an environment of it that is `endless`."""
    repeat, frames = settings.resolved("action_repeat"), env.spec.episode_frames
    return Examiner(
        agent=make_agent(recipe, obs_dim=env.spec.obs_dim, action_dim=env.spec.action_dim),
        env=env,
        gamma=settings.resolved("gamma"),
        batch_size=settings.resolved("batch_size"),
        warm_up=settings.resolved("learning_starts"),
        limit=None if frames is None else -(-frames // repeat),
    )


def examine(
    examiner: Examiner,
    state: State,
    *,
    seed: int,
    frame: int,
    replay: Replay,
    earlier: int = 0,
    episodes: int | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """All that can be measured of a state, by the names of `docs/diagnostics.md`.

    Args:
        examiner: of the run.
        state: on the CPU; without optimiser state, how far updates turn weights is left out.
        seed: of the run; names the draws, with the frame.
        frame: of the state.
        replay: of which the transitions from before this frame are used. Without a batch of them, gradients, updates,
            units and ranks are left out; without those of the whole warm-up, the plasticity probe is.
        earlier: how many of its transitions are from before the run.
        episodes: roll-outs for Q-bias; None for as many as REDQ's protocol takes.
        interrupted: asked now and then; `Interrupted` is raised when it says yes.
    """
    started = time.monotonic()
    agent = examiner.agent
    scale = float(agent.reward_scale(state))
    alpha = float(agent.alpha(state)) / scale
    subject = Subject(
        sample=lambda obs, noise: agent.sample(state, obs, noise),
        q=lambda obs, action: agent.q(state, obs, action) / scale,
        alpha=alpha,
        gamma=examiner.gamma,
    )
    bias = q_bias(
        examiner.env,
        subject,
        seed=seed,
        frame=frame,
        limit=examiner.limit,
        episodes=episodes,
        interrupted=interrupted,
    )
    found = {"alpha": alpha, "reward_scale": scale} | under("q_bias", bias)
    for name, net in agent.networks(state).items():
        found |= under(name, weights.norms(net.params)) | under(name, weights.scales(net.params))
    forgotten, done = replay.added - replay.size, frame // examiner.env.spec.action_repeat
    steps = min(replay.added, earlier + done)
    existing = steps - forgotten
    if existing >= examiner.batch_size:
        with torch.no_grad():
            found |= one_update(
                examiner, state, replay, existing, generator(seed, Purpose.DIAGNOSE_UPDATE, frame), scale
            )
            found |= on_states(examiner, state, replay, existing, generator(seed, Purpose.DIAGNOSE_STATES, frame))
    if steps >= examiner.warm_up and not forgotten:
        found |= under("plasticity", probe(examiner, state, replay, generator(seed, Purpose.PLASTICITY)))
    return under("diag", found) | {"time/diagnosis_seconds": time.monotonic() - started}


def under(prefix: str, found: dict[str, float]) -> dict[str, float]:
    """The same numbers under longer names."""
    return {f"{prefix}/{name}": float(value) for name, value in found.items()}


def one_update(
    examiner: Examiner, state: State, replay: Replay, existing: int, rng: np.random.Generator, scale: float
) -> dict[str, float]:
    """Values, targets and gradient of one batch, and how far a real update of each network turns its units."""
    agent = examiner.agent
    batch, networks = replay.sample(rng.integers(existing, size=examiner.batch_size)), agent.networks(state)
    steps = sorted(agent.steps, key=lambda step: step.name != "critic")  # which draws first, whatever the agent's order
    noise = {step.name: at(step.noise(lambda purpose: rng, 1, examiner.batch_size), 0) for step in steps}
    grads, q, target = agent.critic_gradient(state, batch, noise["critic"])
    found = (
        weights.gradients(networks["critic"].params, grads) | spread("q", q / scale) | spread("target", target / scale)
    )
    turned: dict[str, float] = {}
    for step in steps:
        net = networks.get(step.name)
        if net and net.opt:
            new = agent.networks(step.update(state, batch, noise[step.name])[0])[step.name]
            turned |= under(step.name, weights.rotation(net.params, new.params))
    return under("critic", found) | turned


def spread(name: str, x: Tensor) -> dict[str, float]:
    """Mean, standard deviation and range of all numbers."""
    values = {"mean": x.mean(), "std": x.std(correction=0), "min": x.min(), "max": x.max()}
    return {f"{name}_{what}": float(value) for what, value in values.items()}


def on_states(
    examiner: Examiner, state: State, replay: Replay, existing: int, rng: np.random.Generator
) -> dict[str, float]:
    """Units and ranks of both networks."""
    batch = replay.sample(rng.choice(existing, min(STATES, existing), replace=False))
    found: dict[str, float] = {"states": len(batch.reward)}
    for name, torso in examiner.agent.torsos(state, batch).items():
        found |= under(name, units.activity(*torso))
    return found


def probe(examiner: Examiner, state: State, replay: Replay, rng: np.random.Generator) -> dict[str, float]:
    """The plasticity probe of the critics, on random states, actions and targets of the warm-up: always the same ones.

    With other states at each frame, how well these can be told apart would decide.
    """
    batch = replay.sample(rng.choice(examiner.warm_up, min(PROBED, examiner.warm_up), replace=False))
    return plasticity.probe(*examiner.agent.torsos(state, batch)["critic"], rng)
