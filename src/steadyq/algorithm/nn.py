"""Networks as values: a layer is a pair of pure functions, a network is a layer too.

Written for one batch of one critic; `torch.func.vmap` adds the ensemble. `Dense`, `Readout` and `Norm` are types of
their own, so that projection, weight decay, precision and diagnostics choose by `isinstance`, never by name or rank.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steadyq.algorithm.tree import tree_map
from steadyq.algorithm.types import Params

Init = Callable[[np.random.Generator, int, int], Tensor]
"""`(rng, d_in, d_out) -> w[d_in, d_out]`."""


class Scaled(NamedTuple):
    """`value * gain + offset`, left for the linear layer that follows to take into its weights."""

    value: Tensor  # [B, I]
    gain: Tensor  # [I]
    offset: Tensor  # [I]


class Layer(NamedTuple):
    """A map of rows with its own parameters and statistics.

    init: `(rng, d_in) -> (params, stats, d_out)`.
    apply: `(params, stats, x[B, d_in], train, noise=()) -> (y[B, d_out], stats)`; statistics change in train mode only.
    scaled: of a normalisation: `apply` with its last step left to the next layer, which must be linear.
    noise: `(rng, shape) -> tree`: what one pass over rows of the leading axes `shape` draws at random, () for most.
        A pass that is given () instead is the layer's noiseless one.
    """

    init: Callable[[np.random.Generator, int], tuple[Params, Params, int]]
    apply: Callable[..., tuple[Any, Params]]
    scaled: Callable[..., tuple[Scaled, Params]] | None = None
    noise: Callable[[np.random.Generator, tuple[int, ...]], Params] = lambda rng, shape: ()


class Dense(NamedTuple):
    """A hidden linear map. Before a normalisation its scale means nothing, which is why it may be projected."""

    w: Tensor  # [I, O]
    b: Tensor | tuple[()]  # [O], or () for none


class Readout(NamedTuple):
    """A network's last linear map: its scale is the scale of the values, so it is left free."""

    w: Tensor
    b: Tensor | tuple[()]


class Norm(NamedTuple):
    """Learned scale and shift after a normalisation, each [I]."""

    scale: Tensor
    shift: Tensor


class Moments(NamedTuple):
    """Running mean and biased variance of a batch normalisation, each [I], and its train-mode calls so far, []."""

    mean: Tensor
    var: Tensor
    calls: Tensor  # float32 would stop counting at 2**24: int64


SHAPES = np.random.Generator(np.random.Philox(0))
"""In the place of a generator where shapes alone are wanted: weights are then not drawn, and their numbers are any."""


def orthogonal(gain: float = 2**0.5) -> Init:
    """Rows or columns orthonormal, times `gain` (Saxe et al. 2014), uniform over such matrices."""

    def init(rng: np.random.Generator, d_in: int, d_out: int) -> Tensor:
        tall = rng.standard_normal((max(d_in, d_out), min(d_in, d_out)))
        q, r = np.linalg.qr(tall)
        q *= np.sign(np.diag(r))  # makes the factorisation unique, hence the draw uniform
        w = q if d_in >= d_out else q.T
        return torch.from_numpy(np.ascontiguousarray(gain * w, dtype=np.float32))

    return init


def lecun_normal() -> Init:
    """A normal of variance 1 / d_in, cut at two standard deviations: Flax's default, which CrossQ's code uses."""

    def init(rng: np.random.Generator, d_in: int, d_out: int) -> Tensor:
        low, high = 0.5 * (1 + torch.special.erf(torch.tensor([-2.0, 2.0], dtype=torch.float64) / 2**0.5)).numpy()
        uniform = torch.from_numpy(rng.uniform(low, high, (d_in, d_out)))
        cut_std = 0.87962566103423978  # of a standard normal cut at +-2
        return (torch.special.ndtri(uniform) / (cut_std * d_in**0.5)).float()

    return init


def he_normal() -> Init:
    """As `lecun_normal` with twice the variance, for layers before a ReLU (He et al. 2015)."""
    lecun = lecun_normal()
    return lambda rng, d_in, d_out: 2**0.5 * lecun(rng, d_in, d_out)


def xavier_uniform() -> Init:
    """Uniform in +-sqrt(6 / (d_in + d_out)) (Glorot and Bengio 2010)."""

    def init(rng: np.random.Generator, d_in: int, d_out: int) -> Tensor:
        bound = (6 / (d_in + d_out)) ** 0.5
        return torch.from_numpy(rng.uniform(-bound, bound, (d_in, d_out)).astype(np.float32))

    return init


def affine(params: Dense | Readout, x: Float[Tensor, "B I"] | Scaled) -> Float[Tensor, "B O"]:
    """`x w + b`; the product, its result too, in the precision of `w`, the sum in that of `x`."""
    if isinstance(x, Scaled):  # (value gain + offset) w = value (gain w) + offset w
        shift = x.offset @ params.w.to(x.offset.dtype)
        w = (x.gain.unsqueeze(-1) * params.w).to(params.w.dtype)
        return affine(params._replace(w=w, b=shift + params.b if isinstance(params.b, Tensor) else shift), x.value)
    y = (x.to(params.w.dtype) @ params.w).to(x.dtype)
    return y + params.b if isinstance(params.b, Tensor) else y


def dense(width: int, *, init: Init | None = None, bias: bool = True) -> Layer:
    """A hidden linear layer; orthogonal(sqrt 2) unless `init` says otherwise, zero bias."""
    return _linear(Dense, width, init or orthogonal(), bias=bias)


def readout(width: int, *, init: Init | None = None, bias: bool = True) -> Layer:
    """A last linear layer: always in float32, never projected unless asked for by type."""
    return _linear(Readout, width, init or orthogonal(), bias=bias)


def _linear(kind: type[Dense] | type[Readout], width: int, init: Init, *, bias: bool) -> Layer:
    def start(rng: np.random.Generator, d_in: int) -> tuple[Params, Params, int]:
        w = torch.empty(d_in, width) if rng is SHAPES else init(rng, d_in, width)
        return kind(w, torch.zeros(width) if bias else ()), (), width

    return Layer(start, lambda params, stats, x, train, noise=(): (affine(params, x), stats))


def plain(f: Callable[[Tensor], Tensor]) -> Layer:
    """A function of the rows, without parameters, that keeps their width."""
    return Layer(lambda rng, d_in: ((), (), d_in), lambda params, stats, x, train, noise=(): (f(x), stats))


def relu() -> Layer:
    """max(x, 0)."""
    return plain(torch.relu)


def unit_ball() -> Layer:
    """Each row divided by its length: only the layer behind it sets a scale (Hussing et al. 2024)."""
    return plain(lambda x: x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-8))  # a row of zeros stays one


def dropout(rate: float, *, width: int) -> Layer:
    """Each number set to 0 with probability `rate`, the others scaled up to keep the mean (Srivastava et al. 2014).

    Args:
        rate: probability, in [0, 1).
        width: of the rows: the noise is drawn before they are known.
    """

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(rng.random((*shape, width), dtype=np.float32))

    def apply(params: Params, stats: Params, x: Tensor, train: bool, noise: Params = ()) -> tuple[Tensor, Params]:
        kept = x * (noise >= rate) / (1 - rate) if isinstance(noise, Tensor) else x
        return kept, stats

    return Layer(lambda rng, d_in: ((), (), d_in), apply, noise=draw)


def layer_norm(*, eps: float = 1e-6) -> Layer:
    """Layer normalisation with learned scale and shift (Ba et al. 2016).

    Args:
        eps: added to the variance: 1e-6 in Flax, 1e-5 in PyTorch.
    """

    def init(rng: np.random.Generator, d_in: int) -> tuple[Norm, Params, int]:
        return Norm(torch.ones(d_in), torch.zeros(d_in)), (), d_in

    def apply(params: Norm, stats: Params, x: Tensor, train: bool, noise: Params = ()) -> tuple[Tensor, Params]:
        centred = x - x.mean(-1, keepdim=True)
        y = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
        return y * params.scale + params.shift, stats

    return Layer(init, apply)


def batch_norm(*, eps: float = 1e-3, momentum: float = 0.99) -> Layer:
    """Batch normalisation with learned scale and shift (Ioffe and Szegedy 2015), after Flax's conventions.

    Args:
        eps: added to the variance; 1e-3 bounds the gain of a constant input at about 32.
        momentum: of the running moments, `running <- momentum running + (1 - momentum) batch`; PyTorch's is 1 minus
            this, and PyTorch keeps the unbiased variance where Flax and we keep the biased one.
    """

    def scaled(params: Norm, stats: Moments, x: Tensor, train: bool, noise: Params = ()) -> tuple[Scaled, Moments]:
        mean, var = _moments(x) if train else (stats.mean, stats.var)
        after = _advance(stats, mean, var, momentum) if train else stats
        return Scaled((x - mean) * torch.rsqrt(var + eps), params.scale, params.shift), after

    return _normalisation(scaled)


def batch_renorm(
    *, eps: float = 1e-3, momentum: float = 0.99, r_max: float = 3.0, d_max: float = 5.0, warm_up: int = 100_000
) -> Layer:
    """Batch renormalisation (Ioffe 2017) as CrossQ's code has it, with its hard warm-up.

    It normalises by substituted moments, mean `mean_B - d sqrt(var_B) / r` and variance `var_B / r^2`, with
    `r = clip(std_B / std_run)` into [1/r_max, r_max], `d = clip((mean_B - mean_run) / std_run)` into [-d_max, d_max],
    both without gradient, and `std = sqrt(var + eps)`. The first `warm_up` train-mode calls are plain batch
    normalisation. (The paper's `(x - mean_B) / std_B * r + d` differs in where eps enters: it is the same where the
    batch's variance is far above eps, but for a constant input the code loses its d.)
    """

    def scaled(params: Norm, stats: Moments, x: Tensor, train: bool, noise: Params = ()) -> tuple[Scaled, Moments]:
        if not train:
            return Scaled((x - stats.mean) * torch.rsqrt(stats.var + eps), params.scale, params.shift), stats
        mean, var = _moments(x)
        running_std = torch.sqrt(stats.var + eps)
        warm = stats.calls >= warm_up
        r = torch.where(warm, (torch.sqrt(var + eps) / running_std).clamp(1 / r_max, r_max), 1.0).detach()
        d = torch.where(warm, ((mean - stats.mean) / running_std).clamp(-d_max, d_max), 0.0).detach()
        scale = torch.rsqrt(var + r.square() * eps)  # times r, 1 / sqrt of the substituted variance plus eps
        shift = d * torch.sqrt(var.clamp_min(torch.finfo(var.dtype).tiny)) * scale  # the root's slope at 0 is infinite
        gain, offset = r * params.scale, shift * params.scale + params.shift
        return Scaled((x - mean) * scale, gain, offset), _advance(stats, mean, var, momentum)

    return _normalisation(scaled)


def _normalisation(scaled: Callable[..., tuple[Scaled, Moments]]) -> Layer:
    def apply(params: Norm, stats: Moments, x: Tensor, train: bool, noise: Params = ()) -> tuple[Tensor, Moments]:
        (value, gain, offset), stats = scaled(params, stats, x, train)
        return value * gain + offset, stats

    return Layer(_norm_init, apply, scaled)


def _norm_init(rng: np.random.Generator, d_in: int) -> tuple[Norm, Moments, int]:
    zeros, ones = torch.zeros(d_in), torch.ones(d_in)
    return Norm(ones, zeros), Moments(zeros.clone(), ones.clone(), torch.zeros((), dtype=torch.int64)), d_in


def _moments(x: Float[Tensor, "B I"]) -> tuple[Float[Tensor, "I"], Float[Tensor, "I"]]:
    mean = x.mean(0)
    # Two passes: E[x^2] - E[x]^2 cancels in float32. The variance's slope in the mean is 0 and need not be summed.
    return mean, (x - mean.detach()).square().mean(0)


def _advance(stats: Moments, mean: Tensor, var: Tensor, momentum: float) -> Moments:
    mean, var = mean.detach(), var.detach()
    keep = 1 - momentum
    return Moments(torch.lerp(stats.mean, mean, keep), torch.lerp(stats.var, var, keep), stats.calls + 1)


def serial(*layers: Layer) -> Layer:
    """Layers one after another; parameters, statistics and noise are tuples in the same order.

    Statistics or noise of () mean that no layer has any.
    """
    nothing = ((),) * len(layers)

    def init(rng: np.random.Generator, d_in: int) -> tuple[Params, Params, int]:
        params, stats, width = [], [], d_in
        for layer in layers:
            layer_params, layer_stats, width = layer.init(rng, width)
            params.append(layer_params)
            stats.append(layer_stats)
        return tuple(params), tuple(stats), width

    def apply(
        params: Params, stats: Params, x: Tensor | Scaled, train: bool, noise: Params = ()
    ) -> tuple[Tensor | Scaled, Params]:
        new_stats = []
        for layer, *own in zip(layers, params, stats or nothing, noise or nothing, strict=True):
            layer_params, layer_stats, layer_noise = own
            x, layer_stats = layer.apply(layer_params, layer_stats, x, train, layer_noise)
            new_stats.append(layer_stats)
        return x, tuple(new_stats)

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Params:
        return tuple(layer.noise(rng, shape) for layer in layers)

    return Layer(init, apply, noise=draw)


def residual(*layers: Layer) -> Layer:
    """`x + f(x)`, f the layers one after another, whose last gives rows as wide as the first took."""
    f = serial(*layers)

    def apply(params: Params, stats: Params, x: Tensor, train: bool, noise: Params = ()) -> tuple[Tensor, Params]:
        y, stats = f.apply(params, stats, x, train, noise)
        return x + y, stats

    return Layer(f.init, apply, noise=f.noise)


def round_hidden(params: Params, dtype: torch.dtype) -> Params:
    """The parameters with the hidden layers' weights in `dtype`, so that only their matrix products are rounded."""
    if dtype == torch.float32:
        return params
    return tree_map(
        lambda layer: layer._replace(w=layer.w.to(dtype)), params, stop=lambda node: isinstance(node, Dense)
    )
