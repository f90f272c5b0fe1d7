"""Several agents in one place: compiled steps that update their state where it lies.

A step is a pure function of one seed; here it gets its seeds and its memory. On a CPU each seed is a *lane* of its own,
a view into the stacked state, so that a seed's bits cannot depend on its neighbours (one seed fills a CPU already); on
a GPU all seeds are one lane, under `vmap`. The outermost function copies the new state into the old one's memory, which
the compiler turns into in-place kernels: fresh outputs would cost page faults.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from steadyq.algorithm.agent import ACTOR_METRICS, CRITIC_METRICS, Agent
from steadyq.algorithm.compiled import Compiled, Products
from steadyq.algorithm.tree import leaves, stack, tree_map
from steadyq.algorithm.types import Metrics, State, Transition


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
        totals = Totals(torch.zeros(n, len(CRITIC_METRICS)), torch.zeros(n, len(ACTOR_METRICS)))
        self.device = device
        self.all: Lane = tree_map(lambda leaf: leaf.to(device), Lane(stack(list(states)), totals))
        self.critic_updates = 0  # in this log window
        self.actor_updates = 0
        self.batched = device.type != "cpu"
        self.lanes = [self.all] if self.batched else [self.seed(i) for i in range(n)]
        critic_step = in_place(agent.critic_step, CRITIC_METRICS, batched=self.batched)
        actor_step = in_place(agent.actor_step, ACTOR_METRICS, batched=self.batched)
        self._critic_step = Compiled(critic_step, products=products) if compiled else critic_step
        self._actor_step = Compiled(actor_step, products=products) if compiled else actor_step
        self._ahead: threading.Thread | None = None
        self._act = vmap(agent.act) if self.batched else agent.act

    def seed(self, i: int) -> Lane:
        """One seed's state and sums, as views: writing to them writes to the learner."""
        return tree_map(lambda leaf: leaf[i], self.all)

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

        batch = Transition(like(obs_dim), like(action_dim), like(), like(), like(obs_dim))
        critic, actor, state = self._critic_step, self._actor_step, self.lanes[0].state

        def compile_both() -> None:
            critic.prepare(state, batch, like(action_dim))
            actor.prepare(state, batch.obs, like(action_dim))

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
    def update(
        self,
        batches: Sequence[Transition],
        next_noise: Sequence[Float[Tensor, "U B A"]],
        actor_noise: Sequence[Float[Tensor, "V B A"]],
        actor_due: Sequence[bool],
    ) -> None:
        """U critic updates, each followed by one of the actor where it is due.

        Args:
            batches: per seed, transitions `[U, B]`.
            next_noise: per seed, for the target's next action.
            actor_noise: per seed, for the V actor updates among the U.
            actor_due: for each of the U updates, whether actor and temperature are updated after it.
        """
        if self._ahead is not None:
            self._ahead.join()
            self._ahead = None
        data = [*zip(batches, next_noise, actor_noise, strict=True)]
        if self.batched:  # [U, S, B, ..]: the update stays the first axis
            together = tree_map(lambda *leaf: torch.stack(leaf, 1).to(self.device, non_blocking=True), *data)
            data = [together]
        for (state, totals), (batch, for_next, for_actor) in zip(self.lanes, data, strict=True):
            done = 0
            for u, due in enumerate(actor_due):
                now = tree_map(lambda leaf: leaf[u], batch)  # noqa: B023, used before u moves on
                totals.critic.add_(self._critic_step(state, now, for_next[u]))
                if due:
                    totals.actor.add_(self._actor_step(state, now.obs, for_actor[done]))
                    done += 1
        self.critic_updates += len(actor_due)
        self.actor_updates += sum(actor_due)

    def means(self) -> list[dict[str, float]]:
        """Per seed, each metric's mean over the window; empty before the first update."""
        critic = _named(CRITIC_METRICS, self.all.totals.critic, self.critic_updates)
        actor = _named(ACTOR_METRICS, self.all.totals.actor, self.actor_updates)
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
        for old, value in zip(leaves(state), leaves(new), strict=True):
            if value is not old:  # what the step passed through needs no copy
                old.copy_(value)
        return metrics

    return run
