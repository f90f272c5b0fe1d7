"""What a critic's outputs mean: K numbers per state and action, their mean, their target, their loss.

A scalar critic has K = 1. A distributional one fills the same four fields with other functions.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Value(NamedTuple):
    """The meaning of K outputs.

    size: K.
    mean: `out[.., K] -> q[..]`.
    target: `(next_out[B, K], reward[B], discount[B], bonus[B]) -> y[B, K]`, bonus = -alpha * log_prob(a').
    loss: `(out[B, K], y[B, K]) -> [B]`.
    """

    size: int
    mean: Callable[[Tensor], Tensor]
    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]


Aggregate = Callable[[Tensor, Value], Tensor]
"""`(out[E, B, K], value) -> out[B, K]`: how an ensemble speaks with one voice."""


def scalar(*, weight: float = 1.0) -> Value:
    """One number per state and action: `y = r + discount (q' - alpha log pi')`, loss `weight (q - y)^2`.

    `weight` is 1 in jaxrl's SAC and 1/2 in CrossQ; Adam removes most of the difference.
    """

    def target(
        next_out: Float[Tensor, "B 1"],
        reward: Float[Tensor, "B"],
        discount: Float[Tensor, "B"],
        bonus: Float[Tensor, "B"],
    ) -> Float[Tensor, "B 1"]:
        return (reward + discount * (next_out.squeeze(-1) + bonus)).unsqueeze(-1)

    def loss(out: Float[Tensor, "B 1"], y: Float[Tensor, "B 1"]) -> Float[Tensor, "B"]:
        return weight * (out - y).square().squeeze(-1)

    return Value(size=1, mean=lambda out: out.squeeze(-1), target=target, loss=loss)


def minimum(out: Float[Tensor, "E B K"], value: Value) -> Float[Tensor, "B K"]:
    """The most pessimistic critic, state by state (clipped double Q-learning, Fujimoto et al. 2018)."""
    if value.size > 1:
        raise ValueError(f"the minimum is defined for scalar critics, this one has {value.size} outputs")
    return out.amin(0)


def mean(out: Float[Tensor, "E B K"], value: Value) -> Float[Tensor, "B K"]:
    """The ensemble's average, output by output."""
    return out.mean(0)
