"""A small agent and fixed numbers for the tests of the algorithm room."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from steadyq.algorithm.actor_critic import State, make_agent
from steadyq.algorithm.agent import Agent, Recipe
from steadyq.algorithm.options import make_recipe, options
from steadyq.algorithm.tree import named_leaves, tree_map
from steadyq.algorithm.types import ActorNoise, CriticNoise, Transition

OBS, ACTION, BATCH = 5, 2, 8


class Small(NamedTuple):
    """A recipe, its agent and the agent's first state."""

    recipe: Recipe
    agent: Agent
    state: State


def small(name: str, **chosen: Any) -> Small:
    """An agent of a recipe, 16 units wide unless chosen otherwise."""
    widths = {key: 16 for key in ("width", "actor_width") if key in options(name)}
    return start(make_recipe(name, {**widths, **chosen}))


def start(recipe: Recipe) -> Small:
    """The agent of a recipe, with the weights of one fixed seed."""
    agent = make_agent(recipe, obs_dim=OBS, action_dim=ACTION)
    return Small(recipe, agent, agent.init(np.random.default_rng(0)))


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def for_critic(agent: Agent, next_action: Tensor) -> CriticNoise:
    """What an update of the critic draws, with this noise of a', [.., B, A]; the rest depends on the shape alone."""
    return _shaped(agent.step("critic").noise, next_action)._replace(next_action=next_action)


def for_actor(agent: Agent, action: Tensor) -> ActorNoise:
    """What an update of the actor draws, with this noise of its action, [.., B, A]."""
    return _shaped(agent.step("actor").noise, action)._replace(action=action)


def _shaped(noise: Callable[..., Any], like: Tensor) -> Any:
    updates = 1 if like.dim() == 2 else len(like)
    drawn = noise(lambda purpose: np.random.default_rng(purpose), updates, like.shape[-2])
    return drawn if like.dim() == 3 else tree_map(lambda leaf: leaf[0], drawn)


def transitions(seed: int, *shape: int) -> Transition:
    """Random transitions with leading axes `shape`, a quarter of them terminated."""
    rng = np.random.default_rng(seed)
    numbers = (
        2 * rng.standard_normal((*shape, OBS)) + 1,
        rng.uniform(-1, 1, (*shape, ACTION)),
        rng.standard_normal(shape),
        np.where(rng.uniform(size=shape) < 0.25, 0.0, 0.99),
        2 * rng.standard_normal((*shape, OBS)) + 1,
    )
    return Transition(*[torch.from_numpy(np.asarray(x, np.float32)) for x in numbers])


def double(tree: Any) -> Any:
    """The same tree in float64; counters stay whole numbers."""
    return tree_map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, tree)


def noisy(params: Any, seed: int = 1) -> Any:
    """Every number moved, so that no scale is 1 and no bias 0."""
    rng = np.random.default_rng(seed)
    return tree_map(lambda leaf: leaf + torch.from_numpy(0.3 * rng.standard_normal(leaf.shape)).to(leaf), params)


def same_bits(a: Any, b: Any) -> bool:
    """Whether two trees have the same leaves with the same bits."""
    first, second = dict(named_leaves(a)), dict(named_leaves(b))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def assert_close(got: Any, wanted: Any, *, rtol: float, atol: float) -> None:
    """Two trees agree, leaf by leaf."""
    first, second = dict(named_leaves(got)), dict(named_leaves(wanted))
    assert first.keys() == second.keys()
    for name, leaf in first.items():
        torch.testing.assert_close(leaf, second[name], rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}")
