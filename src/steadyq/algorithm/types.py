"""The words everything else uses: a transition, a trained network, metrics.

Axis letters, everywhere: S seeds, U updates per agent step, E critics, B batch, O observation, A action, K outputs per
critic (1 for a scalar critic).
"""

from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

Params = Any
"""A tree of tensors in tuples and NamedTuples: a network's parameters, statistics or optimiser state."""

State = Any
"""Everything an agent learns: a tree of tensors, into which only the agent itself looks."""

Metrics = dict[str, Tensor]
"""Scalars of one update, by name."""


class Transition(NamedTuple):
    """One step of experience, with any leading axes: `[B]`, `[U, B]`, `[S, U, B]`.

    `discount` is `gamma * (1 - terminated)`: the only place where the end of an episode enters the mathematics. A
    truncated episode keeps its discount, so its last state is bootstrapped like any other.
    """

    obs: Float[Tensor, "*b O"]
    action: Float[Tensor, "*b A"]
    reward: Float[Tensor, "*b"]
    discount: Float[Tensor, "*b"]
    next_obs: Float[Tensor, "*b O"]


class CriticNoise(NamedTuple):
    """What a critic's update draws at random, with any leading axes."""

    next_action: Float[Tensor, "*u B A"]  # standard normal
    members: Params = ()  # [*u, E] uniform, for a subset of the ensemble
    online: Params = ()  # of the critics' layers, in the pass that is trained
    target: Params = ()  # of the critics' layers, in the pass that makes the target


class ActorNoise(NamedTuple):
    """What an actor's update draws at random, with any leading axes."""

    action: Float[Tensor, "*u B A"]  # standard normal
    members: Params = ()  # [*u, E] uniform
    critic: Params = ()  # of the critics' layers
    explore: Params = ()  # [*u, B, A] standard normal, where exploration learns


class Net(NamedTuple):
    """One trained network. Leaves of an ensemble carry a leading axis E, which its optimiser does not see."""

    params: Params
    stats: Params  # running statistics of its normalisation layers
    opt: Params  # optimiser state
    project: Params  # what a projection remembers, e.g. initial norms; () for most
