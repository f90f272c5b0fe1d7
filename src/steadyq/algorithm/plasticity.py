"""The plasticity probe: how well a network, as it is now, can still be trained on something new.

After Lyle et al. 2023, "Understanding plasticity in neural networks": random targets, a fixed number of optimiser steps
from the present weights, the loss that is left. Theirs are a network's outputs made noise by a sine of high frequency;
here they are independent normal numbers, so that nothing can be learned but each state by heart.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap

from steadyq.algorithm.nn import Layer, readout
from steadyq.algorithm.optim import adamw
from steadyq.algorithm.tree import leaves, stack
from steadyq.algorithm.types import Params

STEPS, LR = 50, 3e-4


def probe(
    torso: Layer, params: Params, stats: Params, rows: Float[Tensor, "B I"], rng: np.random.Generator
) -> dict[str, float]:
    """The loss left by an ensemble's torsos, its mean over them, and by one freshly drawn torso on the same data.

    Each gets a fresh readout of one output (orthogonal, gain sqrt 2, no bias at first). Torso and readout are trained
    together: `STEPS` full-batch steps of Adam (step size `LR`) on the mean squared error, in train mode, without
    dropout, decay or projection, whatever the recipe, so that only the networks differ. Targets have mean 0 and
    variance 1 on the batch: 1 is the loss of a constant, 0 of everything learned by heart.
    """
    targets = torch.from_numpy(rng.standard_normal(len(rows)).astype(np.float32))
    targets = (targets - targets.mean()) / targets.std(correction=0)
    fresh_params, fresh_stats, width = torso.init(rng, rows.shape[-1])
    members = len(leaves(params)[0])
    heads = [readout(1).init(rng, width)[0] for _ in range(members)]
    return {
        "loss": fit(torso, (params, stack(heads)), stats, rows, targets),
        "fresh_loss": fit(torso, stack([(fresh_params, heads[0])]), stack([fresh_stats]), rows, targets),
    }


def fit(torso: Layer, params: Params, stats: Params, rows: Float[Tensor, "B I"], targets: Float[Tensor, "B"]) -> float:
    """Train torsos and readouts, each leaf with a leading axis, and return the mean of their losses at the end."""

    def errors(params: Params, stats: Params) -> tuple[Tensor, tuple[Params, Tensor]]:
        def one(params: Params, stats: Params) -> tuple[Tensor, Params]:
            features, new = torso.apply(params[0], stats, rows, True)
            out, _ = readout(1).apply(params[1], (), features, True)
            return (out.squeeze(-1) - targets).square().mean(), new

        losses, new = vmap(one)(params, stats)
        return losses.sum(), (new, losses)

    optimiser = adamw(LR)
    memory = optimiser.init(params)
    for _ in range(STEPS):
        slopes, (stats, _) = grad(errors, has_aux=True)(params, stats)
        params, memory = optimiser.update(slopes, memory, params)
    return float(errors(params, stats)[1][1].mean())
