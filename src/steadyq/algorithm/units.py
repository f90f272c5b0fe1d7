"""What a network's units do on a batch of states: how many are dead or dormant, and the rank of its last features."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from steadyq.algorithm.nn import Layer
from steadyq.algorithm.tree import at, leaves
from steadyq.algorithm.types import Params

DORMANT = 0.1
"""A unit is dormant if its mean activation is at most this share of its layer's."""

LOST = 0.01
"""Of the sum of singular values, what the effective rank may leave out."""


class ReLUs(TorchFunctionMode):
    """While entered, keeps what every `torch.relu` returns: so a network of any shape shows its activations."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.relu:
            self.outputs.append(result)
        return result


def activity(torso: Layer, params: Params, stats: Params, rows: Float[Tensor, "B I"]) -> dict[str, float]:
    """Dead and dormant units after each ReLU, and ranks of the torso's output, in eval mode and without noise.

    Of one network, or with a leading axis on every leaf of `params` and `stats` of several: then the mean over them.
    """
    members = len(leaves(params)[0])
    each = [_one(torso, at(params, i), at(stats, i), rows) for i in range(members)]
    return {name: sum(one[name] for one in each) / members for name in each[0]}


def _one(torso: Layer, params: Params, stats: Params, rows: Tensor) -> dict[str, float]:
    with ReLUs() as relus:
        features, _ = torso.apply(params, stats, rows, False)
    found = {}
    means = [output.mean(0) for output in relus.outputs]  # [units], each at least 0
    for name, least in (("dead_units", 0.0), ("dormant_units", DORMANT)):
        shares = [(mean <= least * mean.mean()).double() for mean in means]
        found[name] = float(torch.cat(shares).mean())
        found |= {f"{name}/relu_{i}": float(share.mean()) for i, share in enumerate(shares)}
    singular = torch.linalg.svdvals(features.double())  # descending
    return found | {
        "feature_rank": float(effective_rank(singular)),
        "feature_stable_rank": float(singular.square().sum() / singular[0].square().clamp(min=1e-300)),
    }


def effective_rank(singular: Float[Tensor, "R"], *, lost: float = LOST) -> int:
    """How many of the singular values, the largest first, make up all but the share `lost` of their sum.

    `srank` of Kumar et al. 2021; 0 for a matrix of zeros.
    """
    total = singular.sum()
    return int((singular.cumsum(0) < (1 - lost) * total).sum()) + int(total > 0)
