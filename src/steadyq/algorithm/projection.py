"""Projections: what is done to parameters after each optimiser step. The paper's own is in `weight_norm`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steadyq.algorithm.nn import Dense, Norm
from steadyq.algorithm.tree import nodes, tree_map
from steadyq.algorithm.types import Params


class Project(NamedTuple):
    """What is done to a network's parameters at the start and after each optimiser step, before the target average.

    init: `params -> state`, what it must remember (initial norms, counters), () for none.
    apply: `(state, params) -> (state, params)`.
    """

    init: Callable[[Params], Params]
    apply: Callable[[Params, Params], tuple[Params, Params]]


def nothing() -> Project:
    """No projection."""
    return Project(lambda params: (), lambda state, params: (state, params))


def every_update(project: Callable[[Params], Params]) -> Project:
    """A projection that remembers nothing, applied each time."""
    return Project(lambda params: (), lambda state, params: (state, project(params)))


class Initial(NamedTuple):
    """The norms a network started with, in the order of its layers, each [..], and its updates so far, []."""

    norms: tuple[Tensor, ...]
    updates: Tensor


def initial_norm(*, every: int = 1) -> Project:
    """Put each hidden weight matrix, and each normalisation's scale and shift together, back to its norm at the start.

    Lyle et al. 2024, "Normalization and effective learning rates in reinforcement learning": one scalar per matrix.

    Args:
        every: updates between two projections.
    """

    def norm(layer: Any) -> Tensor:
        if isinstance(layer, Norm):
            return torch.sqrt(layer.scale.square().sum(-1) + layer.shift.square().sum(-1))
        return torch.linalg.matrix_norm(layer.w)

    def init(params: Params) -> Initial:
        norms = tuple(norm(layer) for layer in nodes(params, (Dense, Norm)))
        return Initial(norms, torch.zeros((), dtype=torch.int64))

    def apply(state: Initial, params: Params) -> tuple[Initial, Params]:
        due = state.updates % every == 0  # the first call is that at the start
        wanted = iter(state.norms)

        def back(layer: Any) -> Any:
            factor = torch.where(due, next(wanted) / norm(layer), 1.0).unsqueeze(-1)
            if isinstance(layer, Norm):
                return Norm(layer.scale * factor, layer.shift * factor)
            return layer._replace(w=layer.w * factor.unsqueeze(-1))

        projected = tree_map(back, params, stop=lambda node: isinstance(node, (Dense, Norm)))
        return Initial(state.norms, state.updates + 1), projected

    return Project(init, apply)
