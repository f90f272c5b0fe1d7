"""What stands on the actor's torso: how actions are drawn, how likely they were, and the mean action."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from steadyq.algorithm.nn import Init, Layer, orthogonal, readout
from steadyq.algorithm.types import Params


class Policy(NamedTuple):
    """A distribution of actions, or a single one.

    init: `(rng, d_in, action_dim) -> params`.
    sample: `(params, features[B, d_in], noise[B, A]) -> (action[B, A], log_prob[B])`, noise standard normal.
    backup: the same for the next action in the critic's target.
    gaussian: `(params, features[B, d_in]) -> (mean[B, A], log_std[B, A])`, before the tanh.
    """

    init: Callable[[np.random.Generator, int, int], Params]
    sample: Callable[[Params, Tensor, Tensor], tuple[Tensor, Tensor]]
    backup: Callable[[Params, Tensor, Tensor], tuple[Tensor, Tensor]]
    gaussian: Callable[[Params, Tensor], tuple[Tensor, Tensor]]


class Heads(NamedTuple):
    """Parameters of two maps of the same features."""

    mean: Params
    log_std: Params


def tanh_gaussian(
    *,
    log_std_min: float = -10.0,
    log_std_max: float = 2.0,
    bound: Literal["clip", "tanh"] = "clip",
    mean_init: Init | None = None,
    log_std_init: Init | None = None,
    head: Callable[[int, Init], Layer] | None = None,
) -> Policy:
    """`a = tanh(u)`, `u ~ N(mean(s), diag std(s)^2)` (Haarnoja et al. 2018, appendix C).

    Args:
        log_std_min: lower bound of the log standard deviation.
        log_std_max: upper bound of it.
        bound: `clip` cuts it off there (no gradient beyond), `tanh` squashes it smoothly into the interval.
        mean_init: of the mean's readout, orthogonal(sqrt 2) by default.
        log_std_init: of the other, orthogonal(1) by default.
        head: `(action_dim, init) -> layer` that each of the two is, a readout by default; without statistics.
    """
    draw_mean, draw_log_std = mean_init or orthogonal(), log_std_init or orthogonal(1.0)
    layer = head or (lambda width, init: readout(width, init=init))
    apply = layer(1, draw_mean).apply  # its parameters know the width

    def init(rng: np.random.Generator, d_in: int, action_dim: int) -> Heads:
        mean, _, _ = layer(action_dim, draw_mean).init(rng, d_in)
        log_std, _, _ = layer(action_dim, draw_log_std).init(rng, d_in)
        return Heads(mean, log_std)

    def gaussian(params: Heads, features: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B A"]]:
        x, _ = apply(params.log_std, (), features, False)
        if bound == "clip":
            log_std = x.clamp(log_std_min, log_std_max)
        else:
            log_std = log_std_min + 0.5 * (log_std_max - log_std_min) * (1 + x.tanh())
        return apply(params.mean, (), features, False)[0], log_std

    def sample(
        params: Heads, features: Float[Tensor, "B D"], noise: Float[Tensor, "B A"]
    ) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B"]]:
        mean, log_std = gaussian(params, features)
        u = mean + log_std.exp() * noise
        log_density = -0.5 * noise.square() - log_std - 0.5 * float(np.log(2 * np.pi))  # of u, elementwise
        return u.tanh(), (log_density - tanh_log_slope(u)).sum(-1)

    return Policy(init, sample, sample, gaussian)


def deterministic(*, smoothing: float = 0.2, clip: float = 0.5) -> Policy:
    """`a = tanh(mean(s))`, without entropy, as in TD3 (Fujimoto et al. 2018).

    Args:
        smoothing: standard deviation of the noise on the next action in the critic's target.
        clip: bound of that noise.
    """
    head = readout(1)

    def init(rng: np.random.Generator, d_in: int, action_dim: int) -> Params:
        return readout(action_dim).init(rng, d_in)[0]

    def gaussian(params: Params, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, _ = head.apply(params, (), features, False)
        return mean, torch.full_like(mean, -torch.inf)

    def sample(params: Params, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return gaussian(params, features)[0].tanh(), torch.zeros_like(noise[..., 0])

    def backup(params: Params, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        action, log_prob = sample(params, features, noise)
        return (action + (smoothing * noise).clamp(-clip, clip)).clamp(-1, 1), log_prob

    return Policy(init, sample, backup, gaussian)


def tanh_log_slope(u: Tensor) -> Tensor:
    """`log(1 - tanh(u)^2)`, in the form that does not overflow."""
    return 2 * (float(np.log(2)) - u - softplus(-2 * u))
