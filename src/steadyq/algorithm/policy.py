"""The tanh-Gaussian policy: what it draws, how likely that was, and its mean action."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from steadyq.algorithm.nn import Init, Readout, affine, orthogonal
from steadyq.algorithm.types import Params


class Policy(NamedTuple):
    """What stands on the actor's torso.

    init: `(rng, d_in, action_dim) -> params`.
    sample: `(params, features[B, d_in], noise[B, A]) -> (action[B, A], log_prob[B])`, noise standard normal.
    mode: `(params, features[B, d_in]) -> action[B, A]`, for evaluation.
    """

    init: Callable[[np.random.Generator, int, int], Params]
    sample: Callable[[Params, Tensor, Tensor], tuple[Tensor, Tensor]]
    mode: Callable[[Params, Tensor], Tensor]


class Heads(NamedTuple):
    """Two readouts of the same features."""

    mean: Readout
    log_std: Readout


def tanh_gaussian(
    *,
    log_std_min: float = -10.0,
    log_std_max: float = 2.0,
    bound: Literal["clip", "tanh"] = "clip",
    mean_init: Init | None = None,
    log_std_init: Init | None = None,
) -> Policy:
    """`a = tanh(u)`, `u ~ N(mean(s), diag std(s)^2)` (Haarnoja et al. 2018, appendix C).

    Args:
        log_std_min: lower bound of the log standard deviation.
        log_std_max: upper bound of it.
        bound: `clip` cuts it off there (no gradient beyond), `tanh` squashes it smoothly into the interval.
        mean_init: of the mean's readout, orthogonal(sqrt 2) by default.
        log_std_init: of the other, orthogonal(1) by default.
    """
    draw_mean, draw_log_std = mean_init or orthogonal(), log_std_init or orthogonal(1.0)

    def init(rng: np.random.Generator, d_in: int, action_dim: int) -> Heads:
        return Heads(
            mean=Readout(draw_mean(rng, d_in, action_dim), torch.zeros(action_dim)),
            log_std=Readout(draw_log_std(rng, d_in, action_dim), torch.zeros(action_dim)),
        )

    def log_std(params: Heads, features: Tensor) -> Tensor:
        x = affine(params.log_std, features)
        if bound == "clip":
            return x.clamp(log_std_min, log_std_max)
        return log_std_min + 0.5 * (log_std_max - log_std_min) * (1 + x.tanh())

    def sample(
        params: Heads, features: Float[Tensor, "B D"], noise: Float[Tensor, "B A"]
    ) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B"]]:
        scale = log_std(params, features)
        u = affine(params.mean, features) + scale.exp() * noise
        return u.tanh(), (gaussian_log_prob(noise, scale) - tanh_log_slope(u)).sum(-1)

    def mode(params: Heads, features: Float[Tensor, "B D"]) -> Float[Tensor, "B A"]:
        return affine(params.mean, features).tanh()

    return Policy(init, sample, mode)


def gaussian_log_prob(noise: Tensor, log_std: Tensor) -> Tensor:
    """Log density of `mean + std * noise`, elementwise."""
    return -0.5 * noise.square() - log_std - 0.5 * float(np.log(2 * np.pi))


def tanh_log_slope(u: Tensor) -> Tensor:
    """`log(1 - tanh(u)^2)`, in the form that does not overflow."""
    return 2 * (float(np.log(2)) - u - softplus(-2 * u))
