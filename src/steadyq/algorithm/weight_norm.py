"""The paper's contribution: hidden weights are projected onto the unit sphere after every update.

Why it works. A normalisation follows each hidden layer, so scaling a unit's incoming weights and bias by c > 0
changes no output, and its gradient is orthogonal to them and shrinks as 1/c. Adam's steps, of a size that does not
depend on the gradient's, therefore make the weights grow and turn less and less: a rotation of about lr / ||w|| per
update. The effective learning rate decays the faster the more updates are made per environment step. With ||w|| = 1
after each update it stays what the optimiser was told, and the function is left unchanged.

Source: Palenicek, Vogt, Peters 2025, "Scaling CrossQ with Weight Normalization", section 3. Only the projection of each
unit's weights and bias together leaves the function as it is: BN(ReLU(c z)) = BN(ReLU(z)) holds unit by unit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steadyq.algorithm.nn import Dense, Norm, Readout
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


def unit_norm(params: Params, *, types: tuple[type, ...] = (Dense,), with_bias: bool = True) -> Params:
    """Put each unit's incoming weights, bias included, on the unit sphere.

    Args:
        params: any tree; layers may have leading axes, `w[.., I, O]` and `b[.., O]`.
        types: the layers that are projected. The readout is not one of them: its scale is the scale of the values.
        with_bias: scale the bias with the weights, which keeps the function; without, the weights alone are normalised
            and the bias is left as it is, which does not.
    """

    def unit(layer: Any) -> Any:
        squares = layer.w.square().sum(-2)  # [.., O]
        if not (with_bias and isinstance(layer.b, Tensor)):
            return layer._replace(w=layer.w * torch.rsqrt(squares).unsqueeze(-2))
        scale = torch.rsqrt(squares + layer.b.square())
        return layer._replace(w=layer.w * scale.unsqueeze(-2), b=layer.b * scale)

    return tree_map(
        lambda node: unit(node) if isinstance(node, types) else node,
        params,
        stop=lambda node: isinstance(node, types),
    )


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

        chosen = (Dense, Norm)
        projected = tree_map(
            lambda node: back(node) if isinstance(node, chosen) else node,
            params,
            stop=lambda node: isinstance(node, chosen),
        )
        return Initial(state.norms, state.updates + 1), projected

    return Project(init, apply)


def frobenius_norms(params: Params) -> Tensor:
    """The paper's measure of a critic's weights: the sum of its dense layers' Frobenius norms, biases left out.

    Hidden layers and readouts both count. Leading axes (critics) are kept: [..].
    """
    return torch.stack([torch.linalg.matrix_norm(layer.w) for layer in nodes(params, (Dense, Readout))]).sum(0)
