"""What an agent is: its steps, how it acts, what it tells of itself. And a recipe, from which one is made.

An agent has a tuple of steps, which whoever runs it loops over: nobody else knows which networks there are.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from steadyq.algorithm import explore, normalise, resets
from steadyq.algorithm.bootstrap import Forward, Target, none, polyak, separate
from steadyq.algorithm.explore import Explore
from steadyq.algorithm.nn import Layer, readout
from steadyq.algorithm.normalise import Normalise
from steadyq.algorithm.optim import Optimiser, adamw
from steadyq.algorithm.policy import Policy, tanh_gaussian
from steadyq.algorithm.projection import Project, nothing
from steadyq.algorithm.random import Purpose
from steadyq.algorithm.resets import Resets
from steadyq.algorithm.temperature import Temperature, tuned
from steadyq.algorithm.types import CriticNoise, Metrics, Net, Params, State, Transition
from steadyq.algorithm.values import Aggregate, Value, minimum, scalar

Precision = Literal["float32", "bfloat16"]

Order = Literal["critic_first", "actor_first", "together"]
"""Of an update of both: which comes first and is seen by the other, or both from what was there before."""

Draw = Callable[[int], np.random.Generator]
"""The generator of a purpose, of one seed and agent step."""

Noise = Any
"""A tree of tensors with random numbers, with any leading axes."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How an algorithm's authors run it; each entry is a default that a run may override."""

    utd: float = 1.0  # critic updates per agent step
    actor_every: int | Literal["agent_step"] = 1  # critic updates per actor and temperature update, over the whole run
    batch_size: int = 256
    learning_starts: int = 5_000  # agent steps of uniform random actions before the first update
    buffer_size: int = 1_000_000  # transitions
    gamma: float | None = 0.99  # None: by the length of an episode
    action_repeat: int = 2  # on DeepMind Control; 1 elsewhere
    source: str = ""  # whose code or paper says so

    def actor_due(self, first: int, end: int) -> list[bool]:
        """For each of the run's updates [first, end), those of one agent step, whether the actor's step is due."""
        if self.actor_every == "agent_step":
            return [number == end - 1 for number in range(first, end)]
        return [(number + 1) % self.actor_every == 0 for number in range(first, end)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An algorithm: one value per independent idea. `make_agent` adds the readouts and the ensemble."""

    actor: Layer  # torso
    critic: Layer  # torso
    readout: Layer = field(default_factory=lambda: readout(1))  # the critic's last layer, as wide as `value.size`
    policy: Policy = field(default_factory=tanh_gaussian)
    n_critics: int = 2
    value: Value = field(default_factory=scalar)
    forward: Forward = field(default_factory=separate)
    backup: Aggregate = minimum  # over critics, in the critic's target
    improve: Aggregate = minimum  # over critics, in the actor's loss
    target: Target = field(default_factory=lambda: polyak(0.005))
    target_actor: Target = field(default_factory=none)  # whose next action the critic's target takes; none: the actor's
    actor_optimiser: Optimiser = field(default_factory=lambda: adamw(3e-4))
    critic_optimiser: Optimiser = field(default_factory=lambda: adamw(3e-4))
    temperature: Temperature = field(default_factory=tuned)
    project: Project = field(default_factory=nothing)  # of actor and critic
    order: Order = "critic_first"
    actor_moments: Literal["actor", "critic"] = "actor"  # whose updates the actor's running moments move with
    explore: Explore = field(default_factory=explore.sample)
    normalise: Normalise = field(default_factory=normalise.nothing)
    resets: Resets = field(default_factory=resets.never)
    auxiliaries: tuple[Callable[[int, int], "Auxiliary"], ...] = ()  # `obs_dim, action_dim ->` a further step
    protocol: Protocol = field(default_factory=Protocol)


class Step(NamedTuple):
    """One kind of update that an agent makes: a pure function of its state, of what it sees and of what it draws.

    name: of the network that it trains, e.g. `critic`.
    update: `(state, batch[B], noise) -> (state, metrics)`; if a metric is not finite, the state stays as it was.
    noise: `(draw, updates V, batch size B) -> noise[V, ..]` of so many updates.
    due: `(first, end) -> due[U]`: for each of the run's updates [first, end), those of one agent step.
    metrics: the names of what it measures, in order; all finite in a healthy update.
    sample: which of the agent's batches it sees, as a place in `Agent.samples`.
    before: `state -> state`: the state from before this step as later steps of the same update see it, with copies of
        what this step changes in place; None where they see its result.
    """

    name: str
    update: Callable[[State, Transition, Noise], tuple[State, Metrics]]
    noise: Callable[[Draw, int, int], Noise]
    due: Callable[[int, int], list[bool]]
    metrics: tuple[str, ...]
    sample: int = 0
    before: Callable[[State], State] | None = None


class Auxiliary(NamedTuple):
    """A further step with what it learns for itself, e.g. a model of the dynamics, or a critic that is not asked.

    name: of the step.
    init: `rng -> own`, a tree of tensors; a `Net` is logged and diagnosed as the other networks.
    learn: `(agent, state, own, batch[B], noise) -> (own, metrics)`: the rest of the agent is only looked at.
    noise, due, metrics: as of a `Step`.
    sample: the purpose by whose draws its batch is chosen; that of the critic's unless it wants another batch.
    """

    name: str
    init: Callable[[np.random.Generator], Any]
    learn: Callable[["Agent", State, Any, Transition, Noise], tuple[Any, Metrics]]
    noise: Callable[[Draw, int, int], Noise]
    due: Callable[[int, int], list[bool]]
    metrics: tuple[str, ...]
    sample: int = Purpose.SAMPLE


class Torso(NamedTuple):
    """A network up to its readout, as an ensemble of E members, and what it sees of a batch."""

    layer: Layer
    params: Params  # [E, ..]
    stats: Params  # [E, ..]
    rows: Float[Tensor, "B I"]


class Agent(NamedTuple):
    """What a recipe can do on an environment of given sizes, for one seed. Its state is a tree that only it looks into.

    recipe: what it was made from.
    obs_dim: O.
    action_dim: A.
    init: `rng -> state`.
    steps: what it learns by, in the order of one update.
    samples: the purposes by whose draws the batches of an update are chosen from the replay.
    critic_gradient: `(state, batch, noise) -> (grads, q[E, B], target[B])`: the critic's step up to the optimiser's;
        `target` is the mean of what it is trained towards, before a categorical critic cuts it off at its atoms' ends.
    sample: `(state, obs[B, O], noise[B, A]) -> (action[B, A], log_prob[B])`, from the policy, not exploring.
    q: `(state, obs[B, O], action[B, A]) -> q[E, B]`, each critic's value in eval mode and without noise.
    act: `(state, obs[O], noise[A]) -> action[A]`, exploring.
    mode: `(state, obs[O]) -> action[A]`, for evaluation.
    observe: `(state, obs[O], reward[], last[], gamma) -> state`, after each agent step: see `Normalise`.
    observes: whether `observe` does anything.
    restart: `(fresh, old) -> state`: what a reset leaves of the old state, the rest fresh.
    networks: `state -> {name: net}`, the networks that steps train, by the steps' names.
    torsos: `(state, batch) -> {name: torso}` of critics and actor.
    alpha: `state -> alpha[]`, the temperature.
    reward_scale: `state -> scale[]`, what rewards are multiplied by before the critic sees them.
    """

    recipe: Recipe
    obs_dim: int
    action_dim: int
    init: Callable[[np.random.Generator], State]
    steps: tuple[Step, ...]
    samples: tuple[int, ...]
    critic_gradient: Callable[[State, Transition, CriticNoise], tuple[Params, Tensor, Tensor]]
    sample: Callable[[State, Tensor, Tensor], tuple[Tensor, Tensor]]
    q: Callable[[State, Tensor, Tensor], Tensor]
    act: Callable[[State, Tensor, Tensor], Tensor]
    mode: Callable[[State, Tensor], Tensor]
    observe: Callable[[State, Tensor, Tensor, Tensor, float | Tensor], State]
    observes: bool
    restart: Callable[[State, State], State]
    networks: Callable[[State], dict[str, Net]]
    torsos: Callable[[State, Transition], dict[str, Torso]]
    alpha: Callable[[State], Tensor]
    reward_scale: Callable[[State], Tensor]

    def step(self, name: str) -> Step:
        """The step of this name."""
        return next(step for step in self.steps if step.name == name)
