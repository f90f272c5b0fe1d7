"""Several agents in one place: compiled steps that update their state where it lies.

A step is a pure function of one seed; here it gets its seeds and its memory. On a CPU each seed is a *lane* of its own,
a view into the stacked state, so that a seed's bits cannot depend on its neighbours (one seed fills a CPU already); on
a GPU all seeds are one lane, under `vmap`. The outermost function copies the new state into the old one's memory, which
the compiler turns into in-place kernels: fresh outputs would cost page faults.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from steadyq.algorithm.agent import CRITIC_METRICS, Agent
from steadyq.algorithm.random import Purpose
from steadyq.algorithm.tree import at, leaves, stack, tree_map
from steadyq.algorithm.types import ActorNoise, CriticNoise, Metrics, State, Transition
from steadyq.engine.compiled import Compiled, Products

PATIENCE = 3
"""Updates in a row that may fail before a seed is given up."""


class Totals(NamedTuple):
    """Sums of each metric over the updates since the last log record, failed ones left out."""

    critic: Float[Tensor, "S M"]
    actor: Float[Tensor, "S N"]


class Lane(NamedTuple):
    """What a step works on: one seed's views on a CPU, all seeds on a GPU."""

    state: State
    totals: Totals


@dataclass
class Tally:
    """What is counted of one seed. An update has failed if a loss, a gradient norm or another metric is not finite."""

    critic_updates: int = 0  # in this log window, failed ones left out
    actor_updates: int = 0
    failed: int = 0  # in this log window
    failed_in_a_row: int = 0
    failure: str = ""  # the metric that was not finite last

    @property
    def given_up(self) -> bool:
        """Whether too many updates in a row have failed: this seed is updated no more."""
        return self.failed_in_a_row >= PATIENCE


class Learner:
    """The state of S agents, and what the loop asks of it.

    Args:
        agent: the pure functions.
        states: one state per seed.
        device: where state and updates live.
        compiled: compile the steps (a C++ compiler is needed on a CPU), or run the same functions eagerly.
        products: which library multiplies float32 matrices in a compiled step on a CPU.
        widen: whether a compiled step multiplies bfloat16 matrices as float32 ones: for a CPU that cannot do better.
    """

    def __init__(
        self,
        agent: Agent,
        states: Sequence[State],
        *,
        device: torch.device,
        compiled: bool,
        products: Products = "mkl",
        widen: bool = False,
    ) -> None:
        n = len(states)
        totals = Totals(torch.zeros(n, len(CRITIC_METRICS)), torch.zeros(n, len(agent.actor_metrics)))
        self.agent = agent
        self.device = device
        self.all: Lane = tree_map(lambda leaf: leaf.to(device), Lane(stack(list(states)), totals))
        self.tallies = [Tally() for _ in states]
        self._kept: dict[int, State] = {}  # of given-up seeds, which a batched step would go on to update
        self.batched = device.type != "cpu"
        self.lanes = [self.all] if self.batched else [self.seed(i) for i in range(n)]
        critic_step = in_place(agent.critic_step, CRITIC_METRICS, batched=self.batched)
        actor_step = in_place(agent.actor_step, agent.actor_metrics, batched=self.batched)
        self._critic_step = Compiled(critic_step, products=products, widen=widen) if compiled else critic_step
        self._actor_step = Compiled(actor_step, products=products, widen=widen) if compiled else actor_step
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

    def wait(self, seconds: float) -> None:
        """Wait for `compile_ahead`, but no longer than this."""
        if self._ahead is not None:
            self._ahead.join(seconds)

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
            self._keep_given_up()
            put(self.all.state, self._observe(self.all.state, *step, gamma))
            self._put_back()
            return
        for tally, lane, *own in zip(self.tallies, self.lanes, *step, strict=True):
            if not tally.given_up:
                put(lane.state, self._observe(lane.state, *own, gamma))

    @torch.no_grad()
    def reset(self, states: Sequence[State]) -> None:
        """Start again from fresh states, one per seed, keeping what the agent keeps."""
        for i, (fresh, tally) in enumerate(zip(states, self.tallies, strict=True)):
            old = self.seed(i).state
            if not tally.given_up:
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
        tallies = [[tally] for tally in self.tallies]  # of the seeds in each lane
        if self.batched:  # [U, S, B, ..]: the update stays the first axis
            together = tree_map(lambda *leaf: torch.stack(leaf, 1).to(self.device, non_blocking=True), *data)
            data, tallies = [together], [self.tallies]
        for lane, (batch, for_critic, for_actor), seeds in zip(self.lanes, data, tallies, strict=True):
            done = 0
            for u, due in enumerate(actor_due):
                if all(tally.given_up for tally in seeds):
                    break
                self._keep_given_up()
                if due:
                    critic, actor = self._both(lane, at(batch, u), at(for_critic, u), at(for_actor, done))
                    done += 1
                else:
                    critic, actor = self._critic_step(lane.state, at(batch, u), at(for_critic, u)), None
                self._count(lane.totals, seeds, critic, actor)
                self._put_back()

    def _both(self, lane: Lane, batch: Transition, for_critic: CriticNoise, for_actor: ActorNoise) -> Any:
        """The metrics of one update of critic and actor."""
        state = lane.state
        if self.agent.order == "critic_first":
            critic = self._critic_step(state, batch, for_critic)
            return critic, self._actor_step(state, batch.obs, for_actor)
        seen = state  # by the critic's step: the new actor, or the one from before
        if self.agent.order == "together":
            seen = state._replace(
                actor=tree_map(torch.clone, state.actor),
                temperature=tree_map(torch.clone, state.temperature),
                target_actor=tree_map(torch.clone, state.target_actor),
            )
        actor = self._actor_step(state, batch.obs, for_actor)
        return self._critic_step(seen, batch, for_critic), actor

    def _keep_given_up(self) -> None:
        """Before a batched update: remember the seeds that it must not change."""
        if self.batched:
            for i, tally in enumerate(self.tallies):
                if tally.given_up and i not in self._kept:
                    self._kept[i] = tree_map(torch.clone, self.seed(i).state)

    def _put_back(self) -> None:
        """After it: put them back."""
        for i, kept in self._kept.items():
            put(self.seed(i).state, kept)

    def _count(self, totals: Totals, seeds: list[Tally], critic: Tensor, actor: Tensor | None) -> None:
        """Add one update of a lane's seeds to their sums, or to what has failed."""
        rows = zip(
            seeds,
            totals.critic.reshape(len(seeds), -1),
            totals.actor.reshape(len(seeds), -1),
            critic.reshape(len(seeds), -1),
            [None] * len(seeds) if actor is None else actor.reshape(len(seeds), -1),
            strict=True,
        )
        for tally, critic_sum, actor_sum, of_critic, of_actor in rows:
            if tally.given_up:
                continue
            failure = _not_finite(CRITIC_METRICS, of_critic)
            if of_actor is not None and not failure:
                failure = _not_finite(self.agent.actor_metrics, of_actor)
            if failure:
                tally.failed += 1
                tally.failed_in_a_row += 1
                tally.failure = failure
                continue
            tally.failed_in_a_row = 0
            critic_sum.add_(of_critic)
            tally.critic_updates += 1
            if of_actor is not None:
                actor_sum.add_(of_actor)
                tally.actor_updates += 1

    def means(self) -> list[dict[str, float]]:
        """Per seed, each metric's mean over the window; empty before the first update."""
        critic, actor = self.all.totals
        return [
            _means(CRITIC_METRICS, critic[i], tally.critic_updates)
            | _means(self.agent.actor_metrics, actor[i], tally.actor_updates)
            for i, tally in enumerate(self.tallies)
        ]

    def open_window(self) -> None:
        """Start the sums anew."""
        for leaf in leaves(self.all.totals):
            leaf.zero_()
        for tally in self.tallies:
            tally.critic_updates = tally.actor_updates = tally.failed = 0


def _means(names: Sequence[str], sums: Float[Tensor, " M"], count: int) -> dict[str, float]:
    return dict(zip(names, (sums.double() / count).tolist(), strict=True)) if count else {}


def _not_finite(names: Sequence[str], values: Float[Tensor, " M"]) -> str:
    """The first metric that is not finite; empty if all are."""
    return next((name for name, value in zip(names, values.tolist(), strict=True) if not math.isfinite(value)), "")


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


def _any_generator(purpose: Purpose) -> np.random.Generator:
    """Numbers that nobody looks at."""
    return np.random.default_rng(0)
