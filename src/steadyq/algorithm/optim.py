"""AdamW as a pair of pure functions, with the decay confined to chosen layer types."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from steadyq.algorithm.tree import is_leaf, leaves, tree_map
from steadyq.algorithm.types import Params


class Optimiser(NamedTuple):
    """init: `params -> state`; update: `(grads, state, params) -> (params, state)`. Leading axes are welcome."""

    init: Callable[[Params], Params]
    update: Callable[[Params, Params, Params], tuple[Params, Params]]


Schedule = Callable[[Tensor], Tensor]
"""`updates so far[] -> step size[]`; the number of updates comes in the type of the parameters."""


def linear(start: float, end: float, *, updates: int) -> Schedule:
    """From `start` to `end` over so many of the optimiser's updates, then `end`; 0 updates: `start` always."""
    return lambda done: start + (end - start) * (done / max(updates, 1)).clamp(max=1.0) * (updates > 0)


class Adam(NamedTuple):
    """First and second moments, trees like the parameters, and the updates so far, []."""

    m: Params
    v: Params
    updates: Tensor  # float32 would stop counting at 2**24, and a schedule with it: int64


def adamw(
    lr: float | Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decays: tuple[type, ...] = (),
) -> Optimiser:
    """`theta <- theta - lr (m_hat / (sqrt(v_hat) + eps) + weight_decay theta)` (Loshchilov and Hutter 2019).

    Args:
        lr: step size, or its schedule; it multiplies the decay too, as in Optax and PyTorch.
        b1: decay rate of the first moment.
        b2: decay rate of the second moment.
        eps: added outside the square root.
        weight_decay: strength of the decay.
        decays: parameter types that decay, e.g. `(Readout,)`; none of the others does.
    """

    def init(params: Params) -> Adam:
        m, v = (tree_map(torch.zeros_like, params) for _ in range(2))
        return Adam(m, v, torch.zeros((), dtype=torch.int64))

    def update(grads: Params, state: Adam, params: Params) -> tuple[Params, Adam]:
        done = state.updates.to(leaves(params)[0].dtype)  # beyond 2**24 the nearest even one: near enough
        m = tree_map(lambda m, g: torch.lerp(m, g, 1 - b1), state.m, grads)
        v = tree_map(lambda v, g: b2 * v + (1 - b2) * g.square(), state.v, grads)
        m_scale, v_scale = 1 / (1 - b1 ** (done + 1)), 1 / (1 - b2 ** (done + 1))

        size = lr(done) if callable(lr) else lr

        def step(theta: Tensor, m: Tensor, v: Tensor, decay: float) -> Tensor:
            return theta - size * (m * m_scale / ((v * v_scale).sqrt() + eps) + decay * theta)

        decay = decay_tree(params, weight_decay, decays)
        return tree_map(step, params, m, v, decay), Adam(m, v, state.updates + 1)

    return Optimiser(init, update)


def decay_tree(params: Params, weight_decay: float, decays: tuple[type, ...]) -> Params:
    """For each parameter its own decay: `weight_decay` inside nodes of the chosen types, 0 elsewhere."""

    def of(node: Params) -> Params:
        return tree_map(lambda _: weight_decay if isinstance(node, decays) else 0.0, node)

    return tree_map(of, params, stop=lambda node: is_leaf(node) or isinstance(node, decays))


def global_norm(tree: Params) -> Tensor:
    """The L2 norm of all numbers in a tree, []."""
    return torch.sqrt(torch.stack([leaf.square().sum() for leaf in leaves(tree)]).sum())
