"""What a critic's outputs mean: K numbers per state and action, their mean, their target, their loss.

A scalar critic has K = 1. A distributional one fills the same fields with other functions. How an ensemble speaks with
one voice is a function of its own, which asks the meaning where it must.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steadyq.algorithm.types import Params


class Value(NamedTuple):
    """The meaning of K outputs.

    size: K.
    mean: `out[.., K] -> q[..]`.
    average: `out[E, B, K] -> out[B, K]`, the members' mixture.
    target: `(next_out[B, K], reward[B], discount[B], bonus[B]) -> y[B, K]`, bonus = -alpha * log_prob(a').
    loss: `(out[B, K], y[B, K]) -> [B]`.
    """

    size: int
    mean: Callable[[Tensor], Tensor]
    average: Callable[[Tensor], Tensor]
    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]


Aggregate = Callable[[Tensor, Value, Params], Tensor]
"""`(out[E, B, K], value, draw[E]) -> out[B, K]`: one voice for an ensemble; `draw` is uniform in [0, 1)."""


def soft_target(
    next_out: Float[Tensor, "B K"],
    reward: Float[Tensor, "B"],
    discount: Float[Tensor, "B"],
    bonus: Float[Tensor, "B"],
) -> Float[Tensor, "B K"]:
    """Each output's own backup, `r + discount (z' - alpha log pi')`."""
    return reward.unsqueeze(-1) + discount.unsqueeze(-1) * (next_out + bonus.unsqueeze(-1))


def scalar(*, weight: float = 1.0) -> Value:
    """One number per state and action: `y = r + discount (q' - alpha log pi')`, loss `weight (q - y)^2`.

    `weight` is 1 in jaxrl's SAC and 1/2 in CrossQ; Adam removes most of the difference.
    """

    def loss(out: Float[Tensor, "B 1"], y: Float[Tensor, "B 1"]) -> Float[Tensor, "B"]:
        return weight * (out - y).square().squeeze(-1)

    return Value(1, lambda out: out.squeeze(-1), lambda out: out.mean(0), soft_target, loss)


def quantile(size: int = 100, *, kappa: float = 1.0) -> Value:
    """K quantiles at (i - 1/2) / K, trained by quantile regression with a Huber loss (Dabney et al. 2018).

    The loss sums over predicted quantiles and averages over the target's, as in BRO's code; `kappa` is where the Huber
    loss turns linear. Mixing averages quantile by quantile.
    """

    def loss(out: Float[Tensor, "B K"], y: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
        fraction = (torch.arange(size, device=out.device, dtype=out.dtype) + 0.5) / size
        error = y.unsqueeze(-2) - out.unsqueeze(-1)  # [B, predicted, target]
        size_of_it = error.abs()
        huber = torch.where(size_of_it <= kappa, 0.5 * error.square(), kappa * (size_of_it - 0.5 * kappa))
        weight = (fraction.unsqueeze(-1) - (error < 0).to(out.dtype)).abs()
        return (weight * huber / kappa).sum(-2).mean(-1)

    return Value(size, lambda out: out.mean(-1), lambda out: out.mean(0), soft_target, loss)


def categorical(size: int = 101, *, low: float = -5.0, high: float = 5.0) -> Value:
    """Logits of a distribution over K evenly spaced returns, trained by cross-entropy (C51, Bellemare et al. 2017).

    The entropy bonus moves each atom of the target: `r + discount (z - alpha log pi')`, cut off at `low` and `high` and
    shared among its two neighbours. Mixing averages probabilities. Returns must lie in the interval: scale the rewards.
    """

    def atoms(like: Tensor) -> Float[Tensor, "K"]:
        return torch.linspace(low, high, size, device=like.device, dtype=like.dtype)

    def mean(out: Tensor) -> Tensor:
        return (out.softmax(-1) * atoms(out)).sum(-1)

    def average(out: Float[Tensor, "E B K"]) -> Float[Tensor, "B K"]:
        return out.log_softmax(-1).logsumexp(0)  # the logits of the mean probability, up to a constant

    def target(
        next_out: Float[Tensor, "B K"],
        reward: Float[Tensor, "B"],
        discount: Float[Tensor, "B"],
        bonus: Float[Tensor, "B"],
    ) -> Float[Tensor, "B K"]:
        z = atoms(next_out)
        moved = soft_target(z.expand_as(next_out), reward, discount, bonus)
        distance = (moved.clamp(low, high).unsqueeze(-2) - z.unsqueeze(-1)).abs() * ((size - 1) / (high - low))
        share = (1 - distance).clamp(0, 1)  # [B, atom, moved atom]: 1 on it, 0 from the next one on
        return (share * next_out.softmax(-1).unsqueeze(-2)).sum(-1)

    def loss(out: Float[Tensor, "B K"], y: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
        return -(y * out.log_softmax(-1)).sum(-1)

    return Value(size, mean, average, target, loss)


def minimum(out: Float[Tensor, "E B K"], value: Value, draw: Params) -> Float[Tensor, "B K"]:
    """The member with the lowest mean, state by state (clipped double Q-learning, Fujimoto et al. 2018)."""
    if value.size == 1:
        return out.amin(0)
    lowest = value.mean(out).argmin(0)  # [B]
    return torch.take_along_dim(out, lowest[None, :, None], 0).squeeze(0)


def mean(out: Float[Tensor, "E B K"], value: Value, draw: Params) -> Float[Tensor, "B K"]:
    """The ensemble's mixture."""
    return value.average(out)


def first(out: Float[Tensor, "E B K"], value: Value, draw: Params) -> Float[Tensor, "B K"]:
    """The first member alone, as in TD3's loss of the actor."""
    return out[0]


def subset_minimum(m: int) -> Aggregate:
    """The minimum over `m` members, drawn anew for each update (REDQ, Chen et al. 2021)."""

    def of_some(out: Float[Tensor, "E B K"], value: Value, draw: Params) -> Float[Tensor, "B K"]:
        return minimum(out.index_select(0, draw.argsort()[:m]), value, ())

    return of_some
