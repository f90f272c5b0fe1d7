"""The shipped update with random data: what the benchmarks time."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from steadyq.algorithm.actor_critic import make_agent
from steadyq.algorithm.agent import Precision
from steadyq.algorithm.options import make_recipe
from steadyq.algorithm.random import Purpose, generator
from steadyq.algorithm.tree import at, leaves
from steadyq.algorithm.types import Transition
from steadyq.engine import machine
from steadyq.engine.compiled import trace
from steadyq.engine.learner import Draws, Learners, in_place

SIZES = {"cheetah-run": (17, 6), "dog-run": (223, 38)}  # observations, actions
BATCH = 256


class Product(NamedTuple):
    """A matrix product `[m, k] @ [k, n]`."""

    m: int
    k: int
    n: int
    dtype: torch.dtype

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.k * self.n


class Steps:
    """U critic updates of S seeds with their share of actor updates, at fixed sizes.

    Args:
        recipe: its name.
        options: of the recipe.
        precision: of the hidden products.
        obs_dim: O.
        action_dim: A.
        batch: B.
        updates: U, the critic updates of one agent step.
        seeds: S.
        device: where.
        compiled: or eager.
    """

    def __init__(
        self,
        recipe: str,
        options: dict | None = None,
        *,
        precision: Precision = "float32",
        obs_dim: int = SIZES["dog-run"][0],
        action_dim: int = SIZES["dog-run"][1],
        batch: int = BATCH,
        updates: int = 10,
        seeds: int = 1,
        device: str = "cpu",
        compiled: bool = True,
    ) -> None:
        made = make_recipe(recipe, options or {})
        agent = make_agent(made, obs_dim=obs_dim, action_dim=action_dim, precision=precision)
        states = [agent.init(generator(seed, Purpose.INIT)) for seed in range(seeds)]
        self.learner = Learners(
            agent,
            states,
            device=torch.device(device),
            compiled=compiled,
            products=machine.products(),
            widen=not machine.bfloat16_is_fast(),
        )
        self.updates, self.seeds, self.done = updates, seeds, 0
        draws = generator(0, Purpose.SAMPLE)

        def normal(*shape: int) -> Tensor:
            return torch.from_numpy(draws.standard_normal(shape, dtype="float32"))

        self.batch = Transition(
            obs=normal(updates, batch, obs_dim),
            action=normal(updates, batch, action_dim).tanh(),
            reward=normal(updates, batch),
            discount=torch.full((updates, batch), 0.99),
            next_obs=normal(updates, batch, obs_dim),
        )
        noise = tuple(step.noise(partial(generator, 0), updates, batch) for step in agent.steps)
        self.draws = Draws((self.batch,) * len(agent.samples), noise)
        self.agent, self.state = agent, states[0]

    def run(self) -> None:
        """The updates of one agent step."""
        due = [step.due(self.done, self.done + self.updates) for step in self.agent.steps]
        self.done += self.updates
        self.learner.update([self.draws] * self.seeds, due)

    def products(self) -> dict[Product, float]:
        """The matrix products of one update, of each step by its share, with how often each is made."""
        counts: dict[Product, float] = {}
        for place, (step, noise) in enumerate(zip(self.agent.steps, self.draws.noise, strict=True)):
            share = sum(step.due(0, 3 * self.updates)) / (3 * self.updates)
            data = (self.learner.lanes[0], at(self.batch, 0), at(noise, 0))
            for product in _products(in_place(self.agent, place, batched=False), data):
                counts[product] = counts.get(product, 0.0) + share
        return counts

    def least_bytes(self) -> int:
        """What a critic update cannot do without: its state read and written, its batch read once."""
        actor = self.agent.networks(self.state)["actor"]  # its share is small
        moved = 2 * (sum(leaf.nbytes for leaf in leaves(self.state)) - sum(leaf.nbytes for leaf in leaves(actor)))
        critic = self.agent.steps.index(self.agent.step("critic"))
        drawn = [*leaves(self.batch), *leaves(self.draws.noise[critic])]
        return moved + sum(leaf[0].nbytes for leaf in drawn)


def _products(step: Callable[..., Tensor], arguments: tuple) -> list[Product]:
    graph, _ = trace(step, arguments)
    aten = torch.ops.aten
    found = []
    for node in graph.graph.nodes:
        if node.target in (aten.mm.default, aten.addmm.default, aten.bmm.default):
            a, b = (operand.meta["val"] for operand in node.args[-2:])
            copies = a.shape[0] if a.dim() == 3 else 1
            found += [Product(a.shape[-2], a.shape[-1], b.shape[-1], a.dtype)] * copies
    return found
