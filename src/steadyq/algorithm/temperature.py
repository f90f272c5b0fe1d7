"""The entropy's weight alpha: tuned towards a target entropy, or fixed."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steadyq.algorithm.optim import Optimiser, adamw
from steadyq.algorithm.types import Params


class Temperature(NamedTuple):
    """How alpha is kept and learned.

    init: `() -> params`, one number.
    alpha: `params -> alpha[]`.
    loss: `(params, entropy[], action_dim) -> []`; its gradient tunes the parameter.
    """

    init: Callable[[], Params]
    alpha: Callable[[Params], Tensor]
    loss: Callable[[Params, Tensor, int], Tensor]
    optimiser: Optimiser


def tuned(
    start: float = 1.0,
    *,
    target_entropy: float = -0.5,
    optimiser: Optimiser | None = None,
    weight: Literal["alpha", "log_alpha"] = "alpha",
) -> Temperature:
    """`J = alpha (H - target)`, the parameter being log alpha (Haarnoja et al. 2018, section 5).

    Args:
        start: alpha before the first update.
        target_entropy: what the policy's entropy is steered to, per action dimension.
        optimiser: of log alpha, Adam with step size 3e-4 by default.
        weight: `log_alpha` for `J = log alpha (H - target)`, as in much code: the slope does not shrink with alpha.
    """

    def loss(log_alpha: Float[Tensor, ""], entropy: Float[Tensor, ""], action_dim: int) -> Float[Tensor, ""]:
        return (log_alpha.exp() if weight == "alpha" else log_alpha) * (entropy - target_entropy * action_dim)

    return Temperature(lambda: torch.tensor(start).log(), torch.exp, loss, optimiser or adamw(3e-4))


def fixed(alpha: float) -> Temperature:
    """Always the same alpha; 0 for an agent without an entropy bonus."""
    return Temperature(lambda: torch.tensor(float(alpha)), lambda kept: kept, lambda kept, *_: 0 * kept, adamw(0.0))
