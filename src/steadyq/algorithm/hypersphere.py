"""SimbaV2's layers: features and weights on the unit sphere, with learned scales in between (Lee et al. 2025).

After the official code. The linear layers have no bias; their columns are put on the sphere at the start and after each
update by the recipe's projection.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steadyq.algorithm.nn import Layer, Readout, affine, dense, orthogonal, plain, readout, relu, serial
from steadyq.algorithm.types import Params

EPS = 1e-8


class Scale(NamedTuple):
    """A learned factor per feature, [I]."""

    value: Tensor


class Free(NamedTuple):
    """A last linear layer on the sphere, and the bias [O] that is added to it."""

    readout: Readout
    bias: Tensor


def on_sphere() -> Layer:
    """Rows of length 1."""
    return plain(lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=EPS))


def append(constant: float) -> Layer:
    """One feature more, always the same, which keeps the length of the row when the rest is put on the sphere."""

    def apply(params: Params, stats: Params, x: Tensor, train: bool, noise: Params = ()) -> tuple[Tensor, Params]:
        return torch.cat([x, torch.full_like(x[..., :1], constant)], -1), stats

    return Layer(lambda rng, d_in: ((), (), d_in + 1), apply)


def scaler(start: float = 1.0, *, scale: float = 1.0) -> Layer:
    """Each feature times a learned factor.

    Args:
        start: the factor before the first update.
        scale: what its parameter starts at; the step size relative to it is that of the factor.
    """
    factor = start / scale

    def init(rng: np.random.Generator, d_in: int) -> tuple[Scale, Params, int]:
        return Scale(torch.full((d_in,), scale)), (), d_in

    def apply(params: Scale, stats: Params, x: Tensor, train: bool, noise: Params = ()) -> tuple[Tensor, Params]:
        return params.value * factor * x, stats

    return Layer(init, apply)


def linear(width: int) -> Layer:
    """A linear layer without bias, for the sphere."""
    return dense(width, init=orthogonal(1.0), bias=False)


def block(width: int, *, weight: float) -> Layer:
    """`x + weight (f(x) - x)` per feature, back on the sphere; f four times as wide inside.

    Args:
        width: of the rows.
        weight: the learned weight before the first update.
    """
    inner = (2 / width) ** 0.5 / 2
    f = serial(
        linear(4 * width), scaler(inner, scale=inner), relu(), plain(lambda x: x + EPS), linear(width), on_sphere()
    )
    step, sphere = scaler(weight, scale=width**-0.5), on_sphere()

    def init(rng: np.random.Generator, d_in: int) -> tuple[Params, Params, int]:
        return (f.init(rng, d_in)[0], step.init(rng, width)[0]), (), width

    def apply(params: Params, stats: Params, x: Tensor, train: bool, noise: Params = ()) -> tuple[Tensor, Params]:
        y, _ = f.apply(params[0], (), x, train)
        move, _ = step.apply(params[1], (), y - x, train)
        return sphere.apply((), (), x + move, train)[0], stats

    return Layer(init, apply)


def simba_v2_net(width: int, *, blocks: int, shift: float = 3.0) -> Layer:
    """SimbaV2's torso: a shifted and normalised input, a linear layer, interpolating blocks."""
    start = (2 / width) ** 0.5
    embed = (append(shift), on_sphere(), linear(width), scaler(start, scale=start), on_sphere())
    return serial(*embed, *(block(width, weight=1 / (blocks + 1)) for _ in range(blocks)))


def head(size: int, *, width: int) -> Layer:
    """What SimbaV2 puts on a torso: a linear layer `width` wide, a scaler, the last linear layer and its bias."""
    last = readout(size, init=orthogonal(1.0), bias=False)

    def init_last(rng: np.random.Generator, d_in: int) -> tuple[Free, Params, int]:
        return Free(last.init(rng, d_in)[0], torch.zeros(size)), (), size

    def apply_last(params: Free, stats: Params, x: Tensor, train: bool, noise: Params = ()) -> tuple[Tensor, Params]:
        return affine(params.readout, x) + params.bias, stats

    return serial(linear(width), scaler(), Layer(init_last, apply_last))
