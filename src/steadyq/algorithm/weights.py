"""What a network's weights are like, by layer: norms, gradients against them, and how far an update turns them.

Parameters may carry a leading axis of critics; every number is then the mean over critics of each critic's own. Layers
are named in order, from the input on: `hidden_0`, `hidden_1`, ..., `readout` (`readout_0`, ... if there are several).
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from steadyq.algorithm.nn import Dense, Norm, Readout
from steadyq.algorithm.tree import leaves, nodes
from steadyq.algorithm.types import Params

Measured = dict[str, float]
"""Numbers by name; the name of one layer's follows a slash."""


def layers(params: Params) -> dict[str, Dense | Readout]:
    """The linear layers by name."""
    found = nodes(params, (Dense, Readout))
    hidden = [layer for layer in found if isinstance(layer, Dense)]
    last = [layer for layer in found if isinstance(layer, Readout)]
    names = ["readout"] if len(last) == 1 else [f"readout_{i}" for i in range(len(last))]
    return {f"hidden_{i}": layer for i, layer in enumerate(hidden)} | dict(zip(names, last, strict=True))


def frobenius_norms(params: Params) -> Tensor:
    """The paper's measure of a critic's weights: the sum of its dense layers' Frobenius norms, biases left out.

    Hidden layers and readouts both count. Leading axes (critics) are kept: [..].
    """
    return torch.stack([torch.linalg.matrix_norm(layer.w) for layer in nodes(params, (Dense, Readout))]).sum(0)


def units(layer: Dense | Readout) -> Tensor:
    """What each unit adds up with, its weights and its bias if it has one: [.., I (+ 1), O], float64."""
    w = layer.w.double()
    return torch.cat([w, layer.b.double().unsqueeze(-2)], -2) if isinstance(layer.b, Tensor) else w


def norms(params: Params) -> Measured:
    """Frobenius norms of the weight matrices, their sum (the paper's measure), and the norms of single units."""
    found = {"weight_norm": float(frobenius_norms(params).mean())}
    for name, layer in layers(params).items():
        of_units = units(layer).norm(dim=-2)  # [.., O]
        found[f"weight_norm/{name}"] = float(torch.linalg.matrix_norm(layer.w).mean())
        found[f"unit_norm_mean/{name}"] = float(of_units.mean())
        found[f"unit_norm_std/{name}"] = float(of_units.std(-1, correction=0).mean())
    return found


def gradients(params: Params, grads: Params) -> Measured:
    """Norms of an ensemble's gradient, and each weight matrix's over that of the matrix itself.

    `elr = sum_l n_l ||g_l|| / ||w_l|| / sum_l n_l` over the weight matrices with n_l numbers, as in the logger of
    XQC's and SimbaV2's code. The step size is not part of it.
    """
    squares = torch.stack([leaf.flatten(1).square().sum(-1) for leaf in leaves(grads)])  # [leaf, E]
    found = {"gradient_norm": float(squares.sum(0).sqrt().mean())}
    ratios, sizes, of_grads = [], [], layers(grads)
    for name, layer in layers(params).items():
        slope = torch.linalg.matrix_norm(of_grads[name].w)
        ratio = slope / torch.linalg.matrix_norm(layer.w)  # [E]
        found[f"gradient_norm/{name}"] = float(slope.mean())
        found[f"elr/{name}"] = float(ratio.mean())
        ratios.append(found[f"elr/{name}"])
        sizes.append(layer.w[0].numel())
    found["elr"] = sum(r * n for r, n in zip(ratios, sizes, strict=True)) / sum(sizes)
    return found


def rotation(before: Params, after: Params) -> Measured:
    """The angle in radians between a unit's incoming weights before and after: mean over units, by layer and overall.

    By Kahan's formula `2 atan2(|u - v|, |u + v|)` of the unit vectors: angles of one update are about a step size,
    where the arc cosine has no digits left.
    """
    found, everything, new = {}, [], layers(after)
    for name, layer in layers(before).items():
        u, v = (torch.nn.functional.normalize(units(one), dim=-2) for one in (layer, new[name]))
        angle = 2 * torch.atan2((u - v).norm(dim=-2), (u + v).norm(dim=-2))  # [.., O]
        found[f"rotation/{name}"] = float(angle.mean())
        everything.append(angle.flatten())
    return {"rotation": float(torch.cat(everything).mean()), **found}


def scales(params: Params) -> Measured:
    """Mean and spread over units of what normalisation layers multiply by and add; nothing where there are none."""
    found = nodes(params, (Norm,))
    if not found:
        return {}
    return _moments("norm_scale", [norm.scale for norm in found]) | _moments("norm_shift", [n.shift for n in found])


def _moments(name: str, vectors: Iterable[Tensor]) -> Measured:
    by_layer = {f"/norm_{i}": vector for i, vector in enumerate(vectors)}
    statistics: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
        ("mean", lambda x: x.mean()),
        ("std", lambda x: x.std(-1, correction=0).mean()),
    )
    whole = {"": torch.cat([*by_layer.values()], -1)}
    return {f"{name}_{what}{at}": float(f(x)) for what, f in statistics for at, x in (whole | by_layer).items()}
