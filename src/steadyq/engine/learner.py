"""Several agents in one place: compiled steps that update their state where it lies.

A step is a pure function of one seed; here it gets its seeds and its memory. On a CPU each seed is a *lane* of its own,
a view into the stacked state, so that a seed's bits cannot depend on its neighbours (one seed fills a CPU already); on
a GPU all seeds are one lane, under `vmap`. The outermost function copies the new state into the old one's memory, which
the compiler turns into in-place kernels: fresh outputs would cost page faults.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from steadyq.algorithm.agent import Agent, Noise, Step
from steadyq.algorithm.tree import at, leaves, stack, tree_map
from steadyq.algorithm.types import State, Transition
from steadyq.engine.compiled import Compiled, Products

PATIENCE = 3
"""Updates in a row that may fail before a seed is given up."""


class Lane(NamedTuple):
    """What steps work on: one seed's views on a CPU, all seeds on a GPU."""

    state: State
    totals: tuple[Float[Tensor, "S M"], ...]  # per step: its metrics' sums in this log window, without failed updates


class Draws(NamedTuple):
    """What one seed draws for the U updates of one agent step."""

    batches: tuple[Transition, ...]  # [U, B, ..] for each of the agent's `samples`
    noise: tuple[Noise, ...]  # per step, [V, ..] for the V of the updates with which it is due


@dataclass
class Tally:
    """What is counted of one seed. An update has failed if a loss, a gradient norm or another metric is not finite."""

    updates: dict[str, int] = field(default_factory=dict)  # by step, in this log window, failed ones left out
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
        totals = tuple(torch.zeros(n, len(step.metrics)) for step in agent.steps)
        self.agent = agent
        self.device = device
        self.all: Lane = tree_map(lambda leaf: leaf.to(device), Lane(stack(list(states)), totals))
        self.tallies = [Tally() for _ in states]
        self._kept: dict[int, State] = {}  # of given-up seeds, which a batched step would go on to update
        self.batched = device.type != "cpu"
        self.lanes = [self.all] if self.batched else [self.seed(i) for i in range(n)]
        in_places = [in_place(step, batched=self.batched) for step in agent.steps]
        self.compiled = [Compiled(step, products=products, widen=widen) for step in in_places] if compiled else []
        self.steps: Sequence[Callable[..., Tensor]] = self.compiled or in_places
        self._ahead: threading.Thread | None = None
        self._act = vmap(agent.act) if self.batched else agent.act
        self._observe: Callable[..., State] = vmap(agent.observe, (0, 0, 0, 0, None)) if self.batched else agent.observe

    def seed(self, i: int) -> Lane:
        """One seed's state and sums, as views: writing to them writes to the learner."""
        return tree_map(lambda leaf: leaf[i], self.all)

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
        if not self.compiled:
            return
        rows = (len(self.tallies), batch_size) if self.batched else (batch_size,)

        def like(*width: int) -> Tensor:
            return torch.zeros(*rows, *width, device=self.device)

        def one(draws: Noise) -> Noise:  # of one update
            return tree_map(lambda leaf: leaf[0].expand(*rows[:-1], *leaf.shape[1:]).to(self.device), draws)

        batch = Transition(like(obs_dim), like(action_dim), like(), like(), like(obs_dim))
        noise = [one(step.noise(_any_generator, 1, batch_size)) for step in self.agent.steps]

        def compile_all() -> None:
            for step, drawn in zip(self.compiled, noise, strict=True):
                step.prepare(self.lanes[0].state, batch, drawn)

        self._ahead = threading.Thread(target=compile_all, name="compiling", daemon=True)
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
    def update(self, draws: Sequence[Draws], due: Sequence[Sequence[bool]]) -> None:
        """U updates: each makes the agent's steps that are due with it, in the agent's order.

        Args:
            draws: per seed.
            due: per step, with which of the U updates it is due.
        """
        if self._ahead is not None:
            self._ahead.join()
            self._ahead = None
        tallies = [[tally] for tally in self.tallies]  # of the seeds in each lane
        if self.batched:  # [U, S, B, ..]: the update stays the first axis
            together = tree_map(lambda *leaf: torch.stack(leaf, 1).to(self.device, non_blocking=True), *draws)
            draws, tallies = [together], [self.tallies]
        for lane, drawn, seeds in zip(self.lanes, draws, tallies, strict=True):
            made = [0] * len(due)
            for u in range(len(due[0])):
                if all(tally.given_up for tally in seeds):
                    break
                self._keep_given_up()
                batches, state, measured = [at(batch, u) for batch in drawn.batches], lane.state, list[Tensor | None]()
                for i, step in enumerate(self.agent.steps):
                    if not due[i][u]:
                        measured.append(None)
                        continue
                    later = step.before(state) if step.before else state
                    measured.append(self.steps[i](state, batches[step.sample], at(drawn.noise[i], made[i])))
                    state = later
                    made[i] += 1
                self._count(lane.totals, seeds, measured)
                self._put_back()

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

    def _count(
        self, totals: Sequence[Tensor], seeds: Sequence[Tally], measured: Sequence[Float[Tensor, "*s M"] | None]
    ) -> None:
        """Add one update of a lane's seeds, what each step that was due measured, to their sums or to what failed."""
        found = [
            (step, total.reshape(len(seeds), -1), metrics.reshape(len(seeds), -1))
            for step, total, metrics in zip(self.agent.steps, totals, measured, strict=True)
            if metrics is not None
        ]
        for i, tally in enumerate(seeds):
            if tally.given_up:
                continue
            failures = filter(None, (_not_finite(step.metrics, metrics[i]) for step, _, metrics in found))
            if failure := next(failures, ""):
                tally.failed += 1
                tally.failed_in_a_row += 1
                tally.failure = failure
                continue
            tally.failed_in_a_row = 0
            for step, total, metrics in found:
                total[i].add_(metrics[i])
                tally.updates[step.name] = tally.updates.get(step.name, 0) + 1

    def means(self) -> list[dict[str, float]]:
        """Per seed, each metric's mean over the window; empty before the first update."""
        found: list[dict[str, float]] = [{} for _ in self.tallies]
        for step, total in zip(self.agent.steps, self.all.totals, strict=True):
            for means, sums, tally in zip(found, total.double(), self.tallies, strict=True):
                if count := tally.updates.get(step.name, 0):
                    means |= zip(step.metrics, (sums / count).tolist(), strict=True)
        return found

    def open_window(self) -> None:
        """Start the sums anew."""
        for leaf in leaves(self.all.totals):
            leaf.zero_()
        for tally in self.tallies:
            tally.updates, tally.failed = {}, 0


def _not_finite(names: Sequence[str], values: Float[Tensor, " M"]) -> str:
    """The first metric that is not finite; empty if all are."""
    return next((name for name, value in zip(names, values.tolist(), strict=True) if not math.isfinite(value)), "")


def in_place(step: Step, *, batched: bool) -> Callable[..., Tensor]:
    """`(state, *data) -> metrics[M]`: the step, writing its new state over the old one. Batched: a leading S axis."""

    def one(state: State, *data: Any) -> tuple[State, Tensor]:
        new, metrics = step.update(state, *data)
        return new, torch.stack([metrics[name] for name in step.metrics])

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


def _any_generator(purpose: int) -> np.random.Generator:
    """Numbers that nobody looks at."""
    return np.random.default_rng(0)
