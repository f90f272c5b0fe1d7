"""Running moments of observations and returns: what an agent sees of them, while the replay keeps them raw.

They are updated once per agent step and applied when a batch is used, so all transitions are always seen through the
newest moments. In SimBa's and XQC's code these are wrappers around agent and replay; here they are part of the state.
(SimBa's updates see moments one step older: there the newest observation counts from the next action on.)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steadyq.algorithm.types import Params


class Normalise(NamedTuple):
    """What is measured and how it is used.

    init: `obs_dim -> state`.
    observe: `(state, obs[O], reward[], last[], gamma) -> state`: one agent step's reward, whether its episode ended
        there, and the observation that the next action answers to.
    obs: `(state, obs[.., O]) -> [.., O]`.
    reward: `(state, reward[..]) -> [..]`.
    """

    init: Callable[[int], Params]
    observe: Callable[[Any, Tensor, Tensor, Tensor, float | Tensor], Params]
    obs: Callable[[Any, Tensor], Tensor]
    reward: Callable[[Any, Tensor], Tensor]


class Running(NamedTuple):
    """Mean and biased variance of all numbers so far, and how many were seen; float64.

    In float32 the mean of a sensor at 300 would stand still after 65,000 steps, and the count at 2**24.
    """

    mean: Tensor
    var: Tensor
    seen: Tensor


class Returns(NamedTuple):
    """The discounted sum of rewards up to now, its moments over all steps, and its largest absolute value."""

    sum: Float[Tensor, ""]
    moments: Running
    largest: Float[Tensor, ""]


class Both(NamedTuple):
    """Observations and returns."""

    obs: Running
    returns: Returns


def start(shape: tuple[int, ...], seen: float) -> Running:
    """Mean 0 and variance 1, worth so many numbers."""
    return Running(torch.zeros(shape).double(), torch.ones(shape).double(), torch.tensor(seen, dtype=torch.float64))


def advance(running: Running, x: Tensor) -> Running:
    """The moments with one number more (Chan et al. 1979)."""
    total = running.seen + 1
    delta = x.double() - running.mean
    var = (running.var * running.seen + delta.square() * running.seen / total) / total
    return Running(running.mean + delta / total, var, total)


def nothing() -> Normalise:
    """Everything as it is."""
    return Normalise(lambda obs_dim: (), lambda state, *_: state, lambda state, x: x, lambda state, r: r)


def observations() -> Normalise:
    """Observations to mean 0 and variance 1, as in SimBa (Lee et al. 2025)."""
    return Normalise(
        init=lambda obs_dim: start((obs_dim,), 1e-4),
        observe=lambda state, obs, reward, last, gamma: advance(state, obs),
        obs=lambda state, obs: ((obs - state.mean) * torch.rsqrt(state.var + 1e-8)).to(obs.dtype),
        reward=lambda state, reward: reward,
    )


def returns(*, bound: float | None = None) -> Normalise:
    """Rewards divided by the spread of the discounted return so far.

    `G <- gamma (1 - last) G + r` at each step, as in the code of SimbaV2 and XQC (an episode's last reward starts the
    next sum). The divisor is its standard deviation over all steps, `sqrt(var + 1e-8)`.

    Args:
        bound: if given, the divisor is at least `max |G| / bound`, so that no return seen so far leaves +-bound.
    """

    def init(obs_dim: int) -> Returns:
        return Returns(torch.zeros(()), start((), 1e-4 if bound else 0.0), torch.zeros(()))

    def observe(state: Returns, obs: Tensor, reward: Tensor, last: Tensor, gamma: float | Tensor) -> Returns:
        total = gamma * (1 - last) * state.sum + reward
        return Returns(total, advance(state.moments, total), torch.maximum(state.largest, total.abs()))

    def reward(state: Returns, reward: Tensor) -> Tensor:
        spread = torch.sqrt(state.moments.var + 1e-8).to(reward.dtype)
        return reward / (torch.maximum(spread, state.largest / bound) if bound else spread)

    return Normalise(init, observe, lambda state, obs: obs, reward)


def both(obs: Normalise, rewards: Normalise) -> Normalise:
    """One for observations and one for rewards."""
    return Normalise(
        init=lambda obs_dim: Both(obs.init(obs_dim), rewards.init(obs_dim)),
        observe=lambda state, *step: Both(obs.observe(state.obs, *step), rewards.observe(state.returns, *step)),
        obs=lambda state, x: obs.obs(state.obs, x),
        reward=lambda state, r: rewards.reward(state.returns, r),
    )
