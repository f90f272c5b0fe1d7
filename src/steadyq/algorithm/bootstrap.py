"""Where a critic's own next value comes from: which pass gives it, and with which parameters."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from steadyq.algorithm.tree import tree_map
from steadyq.algorithm.types import Params, Transition

Ensemble = Callable[[Params, Params, Tensor, bool], tuple[Tensor, Params]]
"""`(params, stats, obs_action[B, O + A], train) -> (out[E, B, K], stats)`: all critics on the same rows."""

Forward = Callable[[Ensemble, Params, Params, Params, Transition, Tensor], tuple[Tensor, Tensor, Params]]
"""`(critics, params, stats, target_params, batch, next_action[B, A]) -> (out[E, B, K], next_out[E, B, K], stats)`.

`target_params` is `()` without a target network. No gradient may flow through `next_out`'s values.
"""


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


def separate(
    critics: Ensemble, params: Params, stats: Params, target: Params, batch: Transition, next_action: Tensor
) -> tuple[Tensor, Tensor, Params]:
    """Two passes, as in SAC: the target on (s', a') in eval mode, the critic on (s, a) in train mode."""
    slow = target if target else tree_map(torch.detach, params)
    next_out, _ = critics(slow, stats, torch.cat([batch.next_obs, next_action], -1), False)
    out, stats = critics(params, stats, torch.cat([batch.obs, batch.action], -1), True)
    return out, next_out.detach(), stats


def joint(
    critics: Ensemble, params: Params, stats: Params, target: Params, batch: Transition, next_action: Tensor
) -> tuple[Tensor, Tensor, Params]:
    """One train-mode pass over (s, a) and (s', a') together, as in CrossQ, so that both meet the same moments.

    The values of the second half are detached, the moments it contributes to are not. A target network makes the same
    pass with its own parameters; its moments are used and forgotten.
    """
    now = torch.cat([batch.obs, batch.action], -1)
    then = torch.cat([batch.next_obs, next_action], -1)
    rows = torch.cat([now, then], 0)  # [2B, O + A]
    split = now.shape[0]
    out, new_stats = critics(params, stats, rows, True)
    next_out = critics(target, stats, rows, True)[0] if target else out
    return out[:, :split], next_out[:, split:].detach(), new_stats
