"""Five decision problems so small that their soft values are known, to see whether a recipe learns what it should.

Each isolates one link: the loss, the observation, the bootstrap, the action and the policy, the entropy and the end of
an episode. Transitions are drawn at random and handed to the agent; there is no environment and no replay. One
problem takes the place of one seed, so that all five train at once under `vmap`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch.func import vmap

from steadyq.algorithm.actor_critic import State, make_agent
from steadyq.algorithm.agent import Agent, Recipe
from steadyq.algorithm.nn import serial
from steadyq.algorithm.options import make_recipe, options
from steadyq.algorithm.temperature import fixed
from steadyq.algorithm.tree import stack, tree_map
from steadyq.algorithm.types import Transition

OBS, ACTION = 2, 1


class Probe(NamedTuple):
    """A problem and what is known about it.

    alpha: the temperature, held fixed.
    reward: `(state[B], action[B]) -> [B]`; a state is -1 or 1, the first entry of an observation.
    next_state: `state -> state`.
    discount: `state[B] -> [B]`, 0 where the episode terminates.
    q: `(state[B], action[B]) -> [B]`, the soft value under the best policy.
    """

    alpha: float
    reward: Callable[[np.ndarray, np.ndarray], np.ndarray]
    next_state: Callable[[np.ndarray], np.ndarray]
    discount: Callable[[np.ndarray], np.ndarray]
    q: Callable[[np.ndarray, np.ndarray], np.ndarray]


def entropy(std: float) -> float:
    """Of tanh(std * normal), by the trapezoid rule."""
    noise = np.linspace(-12, 12, 20_001)
    u = std * noise
    density = np.exp(-0.5 * noise**2) / np.sqrt(2 * np.pi)
    log_density = np.log(density) - np.log(std) + 2 * np.logaddexp(u, -u) - 2 * np.log(2)  # 1 - tanh^2 = cosh^-2
    return float(-np.trapezoid(density * log_density, noise))


MAX_ENTROPY = max(entropy(std) for std in np.linspace(0.5, 1.5, 101))
"""A tanh-Gaussian comes close to the uniform density's log 2, and closest with mean 0."""


def same(state: np.ndarray) -> np.ndarray:
    return state


CHAIN_GAMMA = 0.5
LOOP_GAMMA = 0.75

TOLERANCE = 0.25
"""Of each value and of the best action: half of what the nearest fault would change in any of the problems."""

PROBES = {
    # Worth 1 everywhere: the loss and its sign. Nothing learned is 0.
    "constant": Probe(
        alpha=1e-4,
        reward=lambda s, a: np.ones_like(s),
        next_state=same,
        discount=np.zeros_like,
        q=lambda s, a: np.ones_like(s),
    ),
    # Worth -1 and 1: the critic reads its observation. Otherwise it says 0.
    "observation": Probe(
        alpha=1e-4,
        reward=lambda s, a: s,
        next_state=same,
        discount=np.zeros_like,
        q=lambda s, a: s,
    ),
    # From -1 to 1, where the reward is 1 and the episode terminates: worth 0.5 and 1. Without a bootstrap the first
    # is worth 0, without discount 1, and with a bootstrap through the end the second is worth more.
    "chain": Probe(
        alpha=1e-4,
        reward=lambda s, a: np.where(s > 0, 1.0, 0.0),
        next_state=lambda s: -s,
        discount=lambda s: np.where(s > 0, 0.0, CHAIN_GAMMA),
        q=lambda s, a: np.where(s > 0, 1.0, CHAIN_GAMMA),
    ),
    # The best action is half the state: critic and policy read both. A policy that does not says 0 or goes to +-1.
    "action": Probe(
        alpha=0.02,
        reward=lambda s, a: 1 - (a - 0.5 * s) ** 2,
        next_state=same,
        discount=np.zeros_like,
        q=lambda s, a: 1 - (a - 0.5 * s) ** 2,
    ),
    # No reward but entropy. State 1 is truncated again and again and goes on for ever, worth about 1; state -1
    # terminates, worth 0. With a bootstrap through the end both are alike; without entropy all is 0.
    "entropy": Probe(
        alpha=0.5,
        reward=lambda s, a: np.zeros_like(s),
        next_state=same,
        discount=lambda s: np.where(s > 0, LOOP_GAMMA, 0.0),
        q=lambda s, a: np.where(s > 0, LOOP_GAMMA * 0.5 * MAX_ENTROPY / (1 - LOOP_GAMMA), 0.0),
    ),
}


def observations(state: np.ndarray) -> np.ndarray:
    """The state, and the same number again with another sign: [B, 2]."""
    return np.stack([state, -state], -1)


def transitions(probe: Probe, rng: np.random.Generator, batch_size: int) -> Transition:
    """Random states and uniform actions, with what follows."""
    state, action = rng.choice([-1.0, 1.0], batch_size), rng.uniform(-1, 1, batch_size)
    numbers = (
        observations(state),
        action[:, None],
        probe.reward(state, action),
        probe.discount(state),
        observations(probe.next_state(state)),
    )
    return Transition(*[torch.from_numpy(x.astype(np.float32)) for x in numbers])


class Trained(NamedTuple):
    """Agents of one recipe, one per probe."""

    recipe: Recipe
    agent: Agent
    states: dict[str, State]

    def q(self, name: str, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """What the critics agree on, in eval mode."""
        rows = torch.from_numpy(np.concatenate([observations(state), action[:, None]], -1).astype(np.float32))
        critic, net, value = (
            serial(self.recipe.critic, self.recipe.readout),
            self.states[name].critic,
            self.recipe.value,
        )
        out = vmap(lambda params, stats: critic.apply(params, stats, rows, False)[0])(net.params, net.stats)
        return value.mean(self.recipe.backup(out, value, torch.linspace(0, 1, len(out)))).numpy()

    def best_action(self, name: str, state: float) -> float:
        """The policy's mean action."""
        obs = torch.from_numpy(observations(np.array(state)).astype(np.float32))
        return float(self.agent.mode(self.states[name], obs))


FAST, SLOW, REST = 1e-2, 3e-4, 1e-9
"""Step sizes of three phases."""


def train(
    name: str,
    *,
    fast: int = 200,
    slow: int = 300,
    rest: int = 0,
    actor_lr: float = FAST,
    batch_size: int = 32,
    seed: int = 0,
) -> Trained:
    """Train a recipe on all probes: small, a quick target, each temperature fixed.

    First `fast` updates with a step size of 1e-2, of the actor at most `actor_lr`. Then `slow` updates with a small
    one: running moments lag about a hundred updates behind the weights, in which these should move by little against 1,
    the norm of a projected unit. In `rest` updates the moments catch up with weights that stand still.
    """

    def small(lr: float) -> Recipe:
        wanted = {
            "width": 32,
            "actor_width": 32,
            "lr": lr,
            "tau": 0.1,
            "norm_warm_up": fast,
            "quantiles": 20,
            "bins": 51,
        }
        return make_recipe(name, {key: value for key, value in wanted.items() if key in options(name)})

    def recipe(lr: float) -> Recipe:
        actor_optimiser = small(min(lr, actor_lr)).actor_optimiser
        return replace(small(lr), actor_optimiser=actor_optimiser, temperature=fixed(0.0))

    rng = np.random.default_rng(seed)
    agent = make_agent(recipe(FAST), obs_dim=OBS, action_dim=ACTION)
    states = stack([agent.init(rng) for _ in PROBES])
    alphas = torch.tensor([probe.alpha for probe in PROBES.values()])
    states = states._replace(temperature=states.temperature._replace(params=alphas))

    def draw(purpose: int) -> np.random.Generator:
        return rng

    for lr, updates in ((FAST, fast), (SLOW, slow), (REST, rest)):
        agent = make_agent(recipe(lr), obs_dim=OBS, action_dim=ACTION)
        critic_step, actor_step = vmap(agent.step("critic").update), vmap(agent.step("actor").update)
        for _ in range(updates):
            batch = stack([transitions(probe, rng, batch_size) for probe in PROBES.values()])
            states, _ = critic_step(states, batch, agent.step("critic").noise(draw, len(PROBES), batch_size))
            states, _ = actor_step(states, batch, agent.step("actor").noise(draw, len(PROBES), batch_size))
    by_name = {probe: tree_map(lambda leaf, i=i: leaf[i], states) for i, probe in enumerate(PROBES)}
    return Trained(recipe(SLOW), agent, by_name)
