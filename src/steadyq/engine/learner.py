"""Several agents in one place: compiled steps that update their state where it lies.

A step is a pure function of one seed; here it gets its seeds and its memory. On a CPU each seed is a *lane* of its own,
a view into the stacked state, so that a seed's bits cannot depend on its neighbours (one seed fills a CPU already); on
a GPU all seeds are one lane, under `vmap`. The outermost function copies the new state into the old one's memory, which
the compiler turns into in-place kernels: fresh outputs would cost page faults.

What updates measure is added up where they are made, and so is whether they fail: the host looks once per agent step.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vmap

from steadyq.algorithm.actor_critic import normal
from steadyq.algorithm.agent import Agent, Noise
from steadyq.algorithm.random import Purpose, generator
from steadyq.algorithm.tree import at, leaves, select, stack, tree_map
from steadyq.algorithm.types import State, Transition
from steadyq.engine.compiled import Compiled, Products
from steadyq.engine.packed import Packed, stacked

PATIENCE = 3
"""Updates of one step in a row that may fail before a seed is given up."""


class Window(NamedTuple):
    """What the updates by one step came to since the last log record; with several seeds with a leading axis S."""

    sums: Float[Tensor, "M"]  # of each metric, failed updates left out
    counts: Int[Tensor, "4"]  # updates that did not fail; that failed; in a row, up to now; what failed last, see below


UPDATES, FAILED, IN_A_ROW, FAILURE = range(4)
"""Places in `Window.counts`. The failure is the place of the first metric that was not finite, the last time."""


class Lane(NamedTuple):
    """What steps work on: one seed's views on a CPU, all seeds on a GPU."""

    state: State
    windows: tuple[Window, ...]  # per step


class Draws(NamedTuple):
    """What one seed draws for the U updates of one agent step."""

    batches: tuple[Transition, ...]  # [U, B, ..] for each of the agent's `samples`
    noise: tuple[Noise, ...]  # per step, [V, ..] for the V of the updates with which it is due


Sample = Callable[[np.random.Generator, tuple[int, int]], Transition]
"""Transitions [U, B, ..] drawn at random from where a seed has them."""


def draw(agent: Agent, sample: Sample, *, seed: int, step: int, due: Sequence[Sequence[bool]], size: int) -> Draws:
    """What a seed draws for the updates of an agent step, with batches of this size; `due` as of `Learners.update`."""
    of = partial(generator, seed, step=step)
    batches = tuple(sample(of(purpose), (len(due[0]), size)) for purpose in agent.samples)
    noise = tuple(one.noise(of, sum(when), size) for one, when in zip(agent.steps, due, strict=True))
    return Draws(batches, noise)


def warm_up_action(seed: int, step: int, action_dim: int) -> np.ndarray:
    """A seed's uniform action [A] at an agent step of its warm-up, float32."""
    return generator(seed, Purpose.WARM_UP, step).uniform(-1, 1, action_dim).astype(np.float32)


def acting_noise(seed: int, step: int, action_dim: int) -> Tensor:
    """The noise [A] of a seed's exploring action at an agent step."""
    return normal(generator(seed, Purpose.ACT, step), action_dim)


class Tally(NamedTuple):
    """What is counted of one seed. An update has failed if a loss, a gradient norm or another metric is not finite."""

    updates: dict[str, int]  # by step, in this log window, failed ones left out
    failed: int  # in this log window
    failed_in_a_row: int  # of the step that has failed most often in a row
    failure: str  # the metric of that step that was not finite last

    @property
    def given_up(self) -> bool:
        """Whether too many updates in a row have failed: this seed is updated no more."""
        return self.failed_in_a_row >= PATIENCE


class Learners:
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
        windows = tuple(
            Window(torch.zeros(n, len(step.metrics)), torch.zeros(n, 4, dtype=torch.int64)) for step in agent.steps
        )
        self.agent = agent
        self.device = device
        self.all: Lane = tree_map(lambda leaf: leaf.to(device), Lane(stack(list(states)), windows))
        self.batched = device.type != "cpu"
        self.lanes = [self.all] if self.batched else [self.seed(i) for i in range(n)]

        def ready(function: Callable[..., Any]) -> Callable[..., Any]:
            return Compiled(function, products=products, widen=widen) if compiled else function

        self.steps = [ready(in_place(agent, place, batched=self.batched)) for place in range(len(agent.steps))]
        # Not compiled on a CPU: of `act` that saves 0.1 ms per agent step, and takes 12 s (`crossq_wn`, dog-run).
        self._act: Callable[..., Any] = ready(vmap(agent.act)) if self.batched else agent.act
        self._observe: Callable[..., Any] = ready(in_place_observe(agent)) if self.batched else agent.observe
        self._packed: dict[Any, Packed] = {}
        self._ahead: threading.Thread | None = None

    def seed(self, i: int) -> Lane:
        """One seed's state and sums, as views: writing to them writes to the learner."""
        return tree_map(lambda leaf: leaf[i], self.all)

    @property
    def tallies(self) -> list[Tally]:
        """What is counted of each seed by now; asks the device."""
        counts = torch.stack([window.counts for window in self.all.windows], 1).tolist()
        found = []
        for of_seed in counts:
            worst = max(range(len(of_seed)), key=lambda place: of_seed[place][IN_A_ROW])
            failed = sum(of_step[FAILED] for of_step in of_seed)
            in_a_row, failure = of_seed[worst][IN_A_ROW], self.agent.steps[worst].metrics[of_seed[worst][FAILURE]]
            pairs = zip(self.agent.steps, of_seed, strict=True)
            updates = {step.name: one[UPDATES] for step, one in pairs if one[UPDATES]}
            found.append(Tally(updates, failed, in_a_row, failure if in_a_row else ""))
        return found

    @property
    def compiling(self) -> bool:
        """Whether `compile_ahead` is at work; an update would wait for it."""
        return self._ahead is not None and self._ahead.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait for `compile_ahead`, but no longer than this."""
        if self._ahead is not None:
            self._ahead.join(seconds)

    def compile_ahead(self, *, batch_size: int, obs_dim: int, action_dim: int) -> None:
        """Begin to compile the steps next to whatever else is done, for updates with batches of this size."""
        steps = [step for step in self.steps if isinstance(step, Compiled)]
        if not steps:
            return
        rows = (len(self.all.windows[0].counts), batch_size) if self.batched else (batch_size,)

        def like(*width: int) -> Tensor:
            return torch.zeros(*rows, *width, device=self.device)

        def one(draws: Noise) -> Noise:  # of one update
            return tree_map(lambda leaf: leaf[0].expand(*rows[:-1], *leaf.shape[1:]).to(self.device), draws)

        batch = Transition(like(obs_dim), like(action_dim), like(), like(), like(obs_dim))
        numbers = np.random.default_rng(0)  # nobody looks at them
        noise = [one(step.noise(lambda purpose: numbers, 1, batch_size)) for step in self.agent.steps]

        def compile_all() -> None:
            for step, drawn in zip(steps, noise, strict=True):
                step.prepare(self.lanes[0], batch, drawn)

        self._ahead = threading.Thread(target=compile_all, name="compiling", daemon=True)
        self._ahead.start()

    @torch.no_grad()
    def act(self, obs: Float[Tensor, "S O"], noise: Float[Tensor, "S A"]) -> Float[Tensor, "S A"]:
        """Exploring actions, on the CPU."""
        if not self.batched:
            seeds = zip(self.lanes, obs, noise, strict=True)
            return torch.stack([self._act(lane.state, one, drawn) for lane, one, drawn in seeds])
        there = self._bring("act", [(obs, noise)], axis=0)
        return self._act(self.all.state, *at(there, 0)).cpu()

    @torch.no_grad()
    def observe(
        self, obs: Float[Tensor, "S O"], reward: Float[Tensor, "S"], last: Float[Tensor, "S"], gamma: float
    ) -> None:
        """One agent step of each seed, for the running moments of its observations and returns."""
        if self.batched:
            there = self._bring("observe", [(obs, reward, last, torch.tensor(gamma))], axis=0)
            self._observe(self.all, *at(there, 0))
            return
        for tally, lane, *own in zip(self.tallies, self.lanes, obs, reward, last, strict=True):
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
        if self.batched:  # [U, S, B, ..]: the update stays the first axis
            self._updates(self.all, self._bring((len(due[0]), *map(sum, due)), draws, axis=1), due)
            return
        for lane, drawn, tally in zip(self.lanes, draws, self.tallies, strict=True):
            if not tally.given_up:
                self._updates(lane, drawn, due)

    def _updates(self, lane: Lane, drawn: Draws, due: Sequence[Sequence[bool]]) -> None:
        """The updates of a lane."""
        made = [0] * len(due)
        for u in range(len(due[0])):
            batches, seen = [at(batch, u) for batch in drawn.batches], lane
            for i, step in enumerate(self.agent.steps):
                if due[i][u]:
                    later = seen._replace(state=step.before(seen.state)) if step.before else seen
                    self.steps[i](seen, batches[step.sample], at(drawn.noise[i], made[i]))
                    seen = later
                    made[i] += 1

    def _bring(self, key: Any, trees: Sequence[Any], *, axis: int) -> Any:
        """Trees from the host, stacked, at their place on the device, which is the same for each call of this kind."""
        if key not in self._packed:
            self._packed[key] = Packed(stacked(trees, axis=axis), self.device)
        return self._packed[key].fill(trees, axis=axis)

    def means(self) -> list[dict[str, float]]:
        """Per seed, each metric's mean over the window; empty before the first update."""
        found: list[dict[str, float]] = [{} for _ in range(len(self.all.windows[0].counts))]
        for step, window in zip(self.agent.steps, self.all.windows, strict=True):
            sums, counts = window.sums.double().cpu(), window.counts[:, UPDATES].tolist()
            for means, of_seed, count in zip(found, sums, counts, strict=True):
                if count:
                    means |= zip(step.metrics, (of_seed / count).tolist(), strict=True)
        return found

    def open_window(self) -> None:
        """Start the sums anew."""
        for window in self.all.windows:
            window.sums.zero_()
            window.counts[:, [UPDATES, FAILED]] = 0


def in_place(agent: Agent, place: int, *, batched: bool) -> Callable[..., Tensor]:
    """`(lane, batch, noise) -> metrics[M]`: one of the agent's steps, writing what is new over the old.

    A seed that is given up stays as it is. Batched: a leading S axis everywhere.
    """
    step = agent.steps[place]

    def one(lane: Lane, batch: Transition, noise: Noise) -> tuple[Lane, Tensor]:
        state, metrics = step.update(lane.state, batch, noise)
        values, alive = torch.stack([metrics[name] for name in step.metrics]), is_alive(lane)
        windows = list(lane.windows)
        windows[place] = select(alive, counted(windows[place], values), windows[place])
        return Lane(select(alive, state, lane.state), tuple(windows)), values

    many = vmap(one) if batched else one

    def run(lane: Lane, batch: Transition, noise: Noise) -> Tensor:
        new, metrics = many(lane, batch, noise)
        put(lane, new)
        return metrics

    return run


def in_place_observe(agent: Agent) -> Callable[..., None]:
    """`(lane, obs[S, O], reward[S], last[S], gamma[])`: what `Agent.observe` changes, written over the old."""

    def one(lane: Lane, obs: Tensor, reward: Tensor, last: Tensor, gamma: Tensor) -> State:
        return select(is_alive(lane), agent.observe(lane.state, obs, reward, last, gamma), lane.state)

    many = vmap(one, (0, 0, 0, 0, None))

    def run(lane: Lane, *step: Tensor) -> None:
        put(lane.state, many(lane, *step))

    return run


def is_alive(lane: Lane) -> Tensor:
    """Whether a seed is still updated: none of its steps has failed too often in a row."""
    return torch.stack([window.counts[IN_A_ROW] for window in lane.windows]).max() < PATIENCE


def counted(window: Window, values: Float[Tensor, "M"]) -> Window:
    """The window with one update more."""
    bad = ~values.isfinite()
    failed = bad.any()
    updates, failures, in_a_row, failure = window.counts
    counts = (
        updates + ~failed,
        failures + failed,
        torch.where(failed, in_a_row + 1, 0),
        torch.where(failed, bad.int().argmax(), failure),
    )
    return Window(torch.where(failed, window.sums, window.sums + values), torch.stack(counts))


def put(old: State, new: State) -> None:
    """Write a state over another."""
    for there, value in zip(leaves(old), leaves(new), strict=True):
        if value is not there:  # what a step passed through needs no copy
            there.copy_(value)
