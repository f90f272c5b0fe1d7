"""The paper's contribution: hidden weights are projected onto the unit sphere after every update.

Why it works. A normalisation follows each hidden layer, so scaling a unit's incoming weights and bias by c > 0
changes no output, and its gradient is orthogonal to them and shrinks as 1/c. Adam's steps, of a size that does not
depend on the gradient's, therefore make the weights grow and turn less and less: a rotation of about lr / ||w|| per
update. The effective learning rate decays the faster the more updates are made per environment step. With ||w|| = 1
after each update it stays what the optimiser was told, and the function is left unchanged.

Source: Palenicek, Vogt, Peters 2025, "Scaling CrossQ with Weight Normalization", section 3. Only the projection of each
unit's weights and bias together leaves the function as it is: BN(ReLU(c z)) = BN(ReLU(z)) holds unit by unit.
"""

from typing import Any

import torch
from torch import Tensor

from steadyq.algorithm.nn import Dense
from steadyq.algorithm.tree import tree_map
from steadyq.algorithm.types import Params


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

    return tree_map(unit, params, stop=lambda node: isinstance(node, types))
