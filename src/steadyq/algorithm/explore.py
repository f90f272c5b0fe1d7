"""How training actions are chosen, and what is learned for that alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad

from steadyq.algorithm.nn import Layer, orthogonal, readout, serial
from steadyq.algorithm.optim import Optimiser, adamw
from steadyq.algorithm.types import Metrics, Net, Params


class Base(NamedTuple):
    """The actor as exploration sees it.

    sample: `(obs[B, O], noise[B, A]) -> action[B, A]`.
    gaussian: `obs[B, O] -> (mean[B, A], log_std[B, A])`, before the tanh.
    rounded: `params -> params`, hidden weights in the precision of their products, for networks of exploration alone.
    """

    sample: Callable[[Tensor, Tensor], Tensor]
    gaussian: Callable[[Tensor], tuple[Tensor, Tensor]]
    rounded: Callable[[Params], Params] = lambda params: params


class Explore(NamedTuple):
    """A way to explore.

    init: `(rng, obs_dim, action_dim) -> state`.
    act: `(state, base, obs[B, O], noise[B, A]) -> action[B, A]`.
    learn: `(state, base, q, obs[B, O], noise[B, A]) -> (state, metrics)`, after each update of the actor, with `q`:
        `action[B, A] -> out[E, B, K]`, what the critics say of it there; None if there is nothing to learn.
    metrics: the names of what `learn` measures.
    """

    init: Callable[[np.random.Generator, int, int], Any]
    act: Callable[[Any, Base, Tensor, Tensor], Tensor]
    learn: Callable[[Any, Base, Callable[[Tensor], Tensor], Tensor, Tensor], tuple[Any, Metrics]] | None = None
    metrics: tuple[str, ...] = ()


def sample() -> Explore:
    """Draw from the policy."""
    return Explore(lambda rng, obs_dim, action_dim: (), lambda state, base, obs, noise: base.sample(obs, noise))


def gaussian(std: float) -> Explore:
    """The mean action and noise of a fixed standard deviation, cut off at the bounds, as in TD3."""

    def act(state: Params, base: Base, obs: Tensor, noise: Tensor) -> Tensor:
        return (base.gaussian(obs)[0].tanh() + std * noise).clamp(-1, 1)

    return Explore(lambda rng, obs_dim, action_dim: (), act)


class Optimism(NamedTuple):
    """BRO's optimistic actor, and the two weights it is balanced with, each a squashed logarithm."""

    actor: Net
    optimism: Net
    regulariser: Net


LOG_MIN, LOG_MAX = -10.0, 7.5
OPTIMISM_METRICS = ("train/optimistic_loss", "train/optimism", "train/kl_weight", "train/kl")


def optimistic(
    torso: Layer,
    *,
    optimiser: Optimiser,
    std_multiplier: float = 0.75,
    kl_target: float = 0.05,
    optimism: float = 1.0,
    regulariser: float = 0.25,
    lr: float = 3e-5,
) -> Explore:
    """BRO's second actor, which shifts the policy's mean to where the critics promise or disagree (Nauman et al. 2024).

    `u = mean + shift(s, mean) + std_multiplier std noise`; it maximises `mean_e Q_e + optimism * spread` with a penalty
    on its divergence from the policy, and both weights follow the divergence per action dimension towards `kl_target`.
    The divergence leaves the multiplier out: `sum_a shift^2 / (2 std^2)`. After the official code.

    Args:
        torso: on observation and mean.
        optimiser: of the shift.
        std_multiplier: of the policy's standard deviation.
        kl_target: divergence per action dimension.
        optimism: weight of the critics' spread at the start.
        regulariser: weight of the divergence at the start.
        lr: step size of the two weights (Adam, b1 0.5).
    """
    dual = adamw(lr, b1=0.5)

    def shift_layer(action_dim: int) -> Layer:
        return serial(torso, readout(action_dim, init=orthogonal(0.01), bias=False))

    def weight(params: Tensor) -> Tensor:
        return (LOG_MIN + 0.5 * (LOG_MAX - LOG_MIN) * (1 + params.tanh())).exp()

    def weight_net(value: float) -> Net:
        squashed = 2 * (np.log(value) - LOG_MIN) / (LOG_MAX - LOG_MIN) - 1
        params = torch.tensor(np.arctanh(squashed), dtype=torch.float32)
        return Net(params, (), dual.init(params), ())

    def init(rng: np.random.Generator, obs_dim: int, action_dim: int) -> Optimism:
        params, stats, _ = shift_layer(action_dim).init(rng, obs_dim + action_dim)
        return Optimism(Net(params, stats, optimiser.init(params), ()), weight_net(optimism), weight_net(regulariser))

    def shifted(base: Base, params: Params, stats: Params, obs: Tensor, mean: Tensor) -> Tensor:
        shift = shift_layer(mean.shape[-1])
        return mean + shift.apply(base.rounded(params), stats, torch.cat([obs, mean], -1), False)[0]

    def act(state: Optimism, base: Base, obs: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = base.gaussian(obs)
        moved = shifted(base, state.actor.params, state.actor.stats, obs, mean)
        return (moved + std_multiplier * log_std.exp() * noise).tanh()

    def learn(
        state: Optimism,
        base: Base,
        q: Callable[[Tensor], Tensor],
        obs: Float[Tensor, "B O"],
        noise: Float[Tensor, "B A"],
    ) -> tuple[Optimism, Metrics]:
        mean, log_std = base.gaussian(obs)
        std = log_std.exp()
        eager, costly = weight(state.optimism.params), weight(state.regulariser.params)

        def loss(params: Params) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            moved = shifted(base, params, state.actor.stats, obs, mean)
            out = q((moved + std_multiplier * std * noise).tanh())  # [E, B, K]
            spread = (out - out.mean(0)).abs().mean(0)  # of two: half their distance
            kl = ((moved - mean).square() / (2 * std.square())).sum(-1).mean()
            value = -(out.mean(0) + eager * spread).mean() + costly * kl
            return value, (value, kl)

        grads, (value, kl) = grad(loss, has_aux=True)(state.actor.params)
        excess = kl / noise.shape[-1] - kl_target
        params, opt = optimiser.update(grads, state.actor.opt, state.actor.params)
        new = Optimism(
            state.actor._replace(params=params, opt=opt),
            stepped(state.optimism, grad(lambda p: weight(p) * excess)(state.optimism.params)),
            stepped(state.regulariser, grad(lambda p: -weight(p) * excess)(state.regulariser.params)),
        )
        return new, dict(zip(OPTIMISM_METRICS, (value, eager, costly, kl), strict=True))

    def stepped(net: Net, slope: Tensor) -> Net:
        params, opt = dual.update(slope, net.opt, net.params)
        return net._replace(params=params, opt=opt)

    return Explore(init, act, learn, OPTIMISM_METRICS)
