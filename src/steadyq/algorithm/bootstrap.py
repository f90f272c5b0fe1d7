"""Where a critic's own next value comes from: which pass gives it, and with which parameters."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from steadyq.algorithm.tree import tree_map
from steadyq.algorithm.types import CriticNoise, Params

Ensemble = Callable[[Params, Params, Tensor, bool, Params], tuple[Tensor, Params]]
"""`(params, stats, obs_action[B, O + A], train, noise) -> (out[E, B, K], stats)`: all critics on the same rows."""


class Forward(NamedTuple):
    """How a critic sees a transition and what follows it.

    apply: `(critics, params, stats, target_params, now[B, O + A], then[B, O + A], noise) -> (out[E, B, K],
        next_out[E, B, K], stats)` on the rows (s, a) and (s', a'); `target_params` is `()` without a target network. No
        gradient may flow through `next_out`'s values.
    rows: `B -> rows of one pass`.
    """

    apply: Callable[[Ensemble, Params, Params, Params, Tensor, Tensor, CriticNoise], tuple[Tensor, Tensor, Params]]
    rows: Callable[[int], int]


class Target(NamedTuple):
    """A slow copy of the critic's parameters, or none.

    init: `params -> target`; update: `(target, params) -> target`, after the projection.
    """

    init: Callable[[Params], Params]
    update: Callable[[Params, Params], Params]


def none() -> Target:
    """No target network: the critic bootstraps from itself."""
    return Target(lambda params: (), lambda target, params: ())


def polyak(tau: float) -> Target:
    """`target <- (1 - tau) target + tau params` after every update."""
    return Target(
        lambda params: tree_map(torch.clone, params),
        lambda target, params: tree_map(lambda slow, new: torch.lerp(slow, new, tau), target, params),
    )


def separate() -> Forward:
    """Two passes, as in SAC: the target on (s', a') in eval mode, the critic on (s, a) in train mode."""

    def apply(
        critics: Ensemble, params: Params, stats: Params, target: Params, now: Tensor, then: Tensor, noise: CriticNoise
    ) -> tuple[Tensor, Tensor, Params]:
        slow = target if target else tree_map(torch.detach, params)
        next_out, _ = critics(slow, stats, then, False, noise.target)
        out, stats = critics(params, stats, now, True, noise.online)
        return out, next_out.detach(), stats

    return Forward(apply, lambda batch_size: batch_size)


def joint() -> Forward:
    """One train-mode pass over (s, a) and (s', a') together, as in CrossQ, so that both meet the same moments.

    The values of the second half are detached, the moments it contributes to are not. A target network makes the same
    pass with its own parameters; its moments are used and forgotten.
    """

    def apply(
        critics: Ensemble, params: Params, stats: Params, target: Params, now: Tensor, then: Tensor, noise: CriticNoise
    ) -> tuple[Tensor, Tensor, Params]:
        rows = torch.cat([now, then], 0)  # [2B, O + A]
        split = now.shape[0]
        out, new_stats = critics(params, stats, rows, True, noise.online)
        next_out = critics(target, stats, rows, True, noise.target)[0] if target else out
        return out[:, :split], next_out[:, split:].detach(), new_stats

    return Forward(apply, lambda batch_size: 2 * batch_size)
