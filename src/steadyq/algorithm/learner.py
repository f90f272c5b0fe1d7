"""Several agents in one place: compiled steps that update their state where it lies.

A step is a pure function of one seed; here it gets its seeds and its memory. On a CPU each seed is a *lane* of its own,
a view into the stacked state, so that a seed's bits cannot depend on its neighbours (one seed fills a CPU already); on
a GPU all seeds are one lane, under `vmap`. The outermost function copies the new state into the old one's memory, which
the compiler turns into in-place kernels: fresh outputs would cost page faults.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from steadyq.algorithm.agent import CRITIC_METRICS, Agent
from steadyq.algorithm.compiled import Compiled, Products
from steadyq.algorithm.random import Purpose
from steadyq.algorithm.tree import leaves, stack, tree_map
from steadyq.algorithm.types import ActorNoise, CriticNoise, Metrics, State, Transition


class Totals(NamedTuple):
    """Sums of each metric over the updates since the last log record."""

    critic: Float[Tensor, "S M"]
    actor: Float[Tensor, "S N"]


class Lane(NamedTuple):
    """What a step works on: one seed's views on a CPU, all seeds on a GPU."""

    state: State
    totals: Totals


class Learner:
    """The state of S agents, and what the loop asks of it.

    Args:
        agent: the pure functions.
        states: one state per seed.
        device: where state and updates live.
        compiled: compile the steps (a C++ compiler is needed on a CPU), or run the same functions eagerly.
        products: which library multiplies float32 matrices in a compiled step on a CPU.
    """

    def __init__(
        self,
        agent: Agent,
        states: Sequence[State],
        *,
        device: torch.device,
        compiled: bool,
        products: Products = "mkl",
    ) -> None:
        n = len(states)
        totals = Totals(torch.zeros(n, len(CRITIC_METRICS)), torch.zeros(n, len(agent.actor_metrics)))
        self.agent = agent
        self.device = device
        self.all: Lane = tree_map(lambda leaf: leaf.to(device), Lane(stack(list(states)), totals))
        self.critic_updates = 0  # in this log window
        self.actor_updates = 0
        self.batched = device.type != "cpu"
        self.lanes = [self.all] if self.batched else [self.seed(i) for i in range(n)]
        critic_step = in_place(agent.critic_step, CRITIC_METRICS, batched=self.batched)
        actor_step = in_place(agent.actor_step, agent.actor_metrics, batched=self.batched)
        self._critic_step = Compiled(critic_step, products=products) if compiled else critic_step
        self._actor_step = Compiled(actor_step, products=products) if compiled else actor_step
        self._ahead: threading.Thread | None = None
        self._act = vmap(agent.act) if self.batched else agent.act
        self._observe: Callable[..., State] = vmap(agent.observe, (0, 0, 0, 0, None)) if self.batched else agent.observe

    def seed(self, i: int) -> Lane:
        """One seed's state and sums, as views: writing to them writes to the learner."""
        return tree_map(lambda leaf: leaf[i], self.all)

    @property
    def normalises(self) -> bool:
        """Whether there is anything that `observe` would change."""
        return bool(self.all.state.normalise)

    @property
    def compiling(self) -> bool:
        """Whether `compile_ahead` is at work; an update would wait for it."""
        return self._ahead is not None and self._ahead.is_alive()

    def compile_ahead(self, *, batch_size: int, obs_dim: int, action_dim: int) -> None:
        """Begin to compile the steps beside whatever else is done, for updates with batches of this size."""
        if not (isinstance(self._critic_step, Compiled) and isinstance(self._actor_step, Compiled)):
            return
        rows = (len(self.all.totals.critic), batch_size) if self.batched else (batch_size,)

        def like(*width: int) -> Tensor:
            return torch.zeros(*rows, *width, device=self.device)

        def one(draws: tuple) -> Any:  # of one update
            return tree_map(lambda leaf: leaf[0].expand(*rows[:-1], *leaf.shape[1:]).to(self.device), draws)

        batch = Transition(like(obs_dim), like(action_dim), like(), like(), like(obs_dim))
        critic, actor, state = self._critic_step, self._actor_step, self.lanes[0].state
        critic_noise = one(self.agent.critic_noise(_any_generator, 1, batch_size))
        actor_noise = one(self.agent.actor_noise(_any_generator, 1, batch_size))

        def compile_both() -> None:
            critic.prepare(state, batch, critic_noise)
            actor.prepare(state, batch.obs, actor_noise)

        self._ahead = threading.Thread(target=compile_both, name="compiling", daemon=True)
        self._ahead.start()

    @torch.no_grad()
    def act(self, obs: Float[Tensor, "S O"], noise: Float[Tensor, "S A"]) -> Float[Tensor, "S A"]:
        """Exploring actions, on the CPU."""
        obs, noise = obs.to(self.device), noise.to(self.device)
        if self.batched:
            return self._act(self.all.state, obs, noise).cpu()
        return torch.stack([self._act(lane.state, o, n) for lane, o, n in zip(self.lanes, obs, noise, strict=True)])

    @torch.no_grad()
    def observe(
        self, obs: Float[Tensor, "S O"], reward: Float[Tensor, "S"], last: Float[Tensor, "S"], gamma: float
    ) -> None:
        """One agent step of each seed, for the running moments of its observations and returns."""
        step = (obs.to(self.device), reward.to(self.device), last.to(self.device))
        if self.batched:
            put(self.all.state, self._observe(self.all.state, *step, gamma))
            return
        for lane, *own in zip(self.lanes, *step, strict=True):
            put(lane.state, self._observe(lane.state, *own, gamma))

    @torch.no_grad()
    def reset(self, states: Sequence[State]) -> None:
        """Start again from fresh states, one per seed, keeping what the agent keeps."""
        for i, fresh in enumerate(states):
            old = self.seed(i).state
            put(old, self.agent.restart(fresh, old))

    @torch.no_grad()
    def update(
        self,
        batches: Sequence[Transition],
        critic_noise: Sequence[CriticNoise],
        actor_noise: Sequence[ActorNoise],
        actor_due: Sequence[bool],
    ) -> None:
        """U critic updates, and one of the actor with each of them where it is due, in the agent's order.

        Args:
            batches: per seed, transitions `[U, B]`.
            critic_noise: per seed, what the U updates of the critic draw.
            actor_noise: per seed, what the V updates of the actor draw.
            actor_due: for each of the U updates, whether actor and temperature are updated too.
        """
        if self._ahead is not None:
            self._ahead.join()
            self._ahead = None
        data = [*zip(batches, critic_noise, actor_noise, strict=True)]
        if self.batched:  # [U, S, B, ..]: the update stays the first axis
            together = tree_map(lambda *leaf: torch.stack(leaf, 1).to(self.device, non_blocking=True), *data)
            data = [together]
        for lane, (batch, for_critic, for_actor) in zip(self.lanes, data, strict=True):
            done = 0
            for u, due in enumerate(actor_due):
                if due:
                    self._both(lane, at(batch, u), at(for_critic, u), at(for_actor, done))
                    done += 1
                else:
                    lane.totals.critic.add_(self._critic_step(lane.state, at(batch, u), at(for_critic, u)))
        self.critic_updates += len(actor_due)
        self.actor_updates += sum(actor_due)

    def _both(self, lane: Lane, batch: Transition, for_critic: CriticNoise, for_actor: ActorNoise) -> None:
        """One update of critic and actor."""
        state, totals = lane
        if self.agent.order == "critic_first":
            totals.critic.add_(self._critic_step(state, batch, for_critic))
            totals.actor.add_(self._actor_step(state, batch.obs, for_actor))
            return
        seen = state  # by the critic's step: the new actor, or the one from before
        if self.agent.order == "together":
            seen = state._replace(
                actor=tree_map(torch.clone, state.actor),
                temperature=tree_map(torch.clone, state.temperature),
                target_actor=tree_map(torch.clone, state.target_actor),
            )
        totals.actor.add_(self._actor_step(state, batch.obs, for_actor))
        totals.critic.add_(self._critic_step(seen, batch, for_critic))

    def means(self) -> list[dict[str, float]]:
        """Per seed, each metric's mean over the window; empty before the first update."""
        critic = _named(CRITIC_METRICS, self.all.totals.critic, self.critic_updates)
        actor = _named(self.agent.actor_metrics, self.all.totals.actor, self.actor_updates)
        return [c | a for c, a in zip(critic, actor, strict=True)]

    def open_window(self) -> None:
        """Start the sums anew."""
        for leaf in leaves(self.all.totals):
            leaf.zero_()
        self.critic_updates = self.actor_updates = 0

    def first_bad(self) -> tuple[int, str] | None:
        """The index of the first seed with a non-finite metric, and its name; that update was not applied."""
        if all(bool(torch.isfinite(leaf).all()) for leaf in leaves(self.all.totals)):
            return None
        for i, means in enumerate(self.means()):
            for name, value in means.items():
                if not torch.isfinite(torch.tensor(value)):
                    return i, name
        return None


def _named(names: Sequence[str], sums: Float[Tensor, "S M"], count: int) -> list[dict[str, float]]:
    if count == 0:
        return [{} for _ in sums]
    return [dict(zip(names, row, strict=True)) for row in (sums.double() / count).tolist()]


def in_place(
    step: Callable[..., tuple[State, Metrics]], names: Sequence[str], *, batched: bool
) -> Callable[..., Tensor]:
    """`(state, *data) -> metrics[M]`: the step, writing its new state over the old one. Batched: a leading S axis."""

    def one(state: State, *data: Any) -> tuple[State, Tensor]:
        new, metrics = step(state, *data)
        return new, torch.stack([metrics[name] for name in names])

    many = vmap(one) if batched else one

    def run(state: State, *data: Any) -> Tensor:
        new, metrics = many(state, *data)
        put(state, new)
        return metrics

    return run


def put(old: State, new: State) -> None:
    """Write a state over another."""
    for there, value in zip(leaves(old), leaves(new), strict=True):
        if value is not there:  # what a step passed through needs no copy
            there.copy_(value)


def at(tree: Any, update: int) -> Any:
    """One update's part of what was drawn for several."""
    return tree_map(lambda leaf: leaf[update], tree)


def _any_generator(purpose: Purpose) -> np.random.Generator:
    """Numbers that nobody looks at."""
    return np.random.default_rng(0)
