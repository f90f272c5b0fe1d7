"""The recipes' torsos against plain torch.nn builds with the same weights: what comes out, and every gradient."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from small import double, noisy, normal
from steadyq.algorithm.networks import bro_net, dropout_mlp, mlp, pre_norm_mlp, simba_net
from steadyq.algorithm.nn import (
    Dense,
    Layer,
    Moments,
    Norm,
    batch_norm,
    batch_renorm,
    layer_norm,
    orthogonal,
    xavier_uniform,
)
from steadyq.algorithm.recipes import xqc
from steadyq.algorithm.tree import leaves, nodes, tree_map
from steadyq.algorithm.types import Params

B, I, W = 16, 5, 6  # noqa: E741, the axis letters of the signatures

LINEAR_OR_NORM = (nn.Linear, nn.LayerNorm, nn.BatchNorm1d)


class Add(nn.Sequential):
    """`x + f(x)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Drop(nn.Module):
    """Dropout that is told what to drop."""

    def __init__(self, noise: Tensor, rate: float) -> None:
        super().__init__()
        self.kept = (noise >= rate).double() / (1 - rate)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.kept


def bn(width: int) -> nn.Module:
    return nn.BatchNorm1d(width, eps=1e-3, momentum=0.01)


def ln(width: int) -> nn.Module:
    """With Flax's eps, which BRO's and SimBa's code leave as it is."""
    return nn.LayerNorm(width, eps=1e-6)


def rows(seed: int = 1) -> Tensor:
    """Inputs [B, I] in float64 whose columns differ in mean and spread."""
    return normal(seed, B, I).double() * torch.tensor([1.0, 5.0, 0.1, 2.0, 1e-3]) + torch.arange(5.0)


class Pair(NamedTuple):
    """A network of ours and torch's with the same numbers, none of them 0 or 1, in float64."""

    ours: Layer
    params: Params
    stats: Params
    theirs: nn.Module


def pair(ours: Layer, theirs: nn.Module) -> Pair:
    """Both in the order in which the rows meet their layers."""
    params, stats, width = ours.init(np.random.default_rng(0), I)
    assert width == W
    params, stats, theirs = noisy(double(params)), double(stats), theirs.double()
    modules = [module for module in theirs.modules() if isinstance(module, LINEAR_OR_NORM)]
    with torch.no_grad():
        for layer, module in zip(nodes(params, (Dense, Norm)), modules, strict=True):
            for leaf, parameter in zip(leaves(layer), module.parameters(), strict=True):
                parameter.copy_(leaf.T if leaf.ndim == 2 else leaf)
    assert sum(leaf.numel() for leaf in leaves(params)) == sum(p.numel() for p in theirs.parameters())
    return Pair(ours, params, stats, theirs)


def check(pair: Pair, *, noise: Params = (), train: bool = True) -> Params:
    """Outputs and the gradients by rows and by parameters agree; returns the statistics afterwards."""
    functional = normal(9, B, W).double()
    x, params = rows().requires_grad_(), tree_map(lambda leaf: leaf.clone().requires_grad_(), pair.params)
    y, after = pair.ours.apply(params, pair.stats, x, train, noise)
    wanted = pair.theirs.train(train)(x)
    torch.testing.assert_close(y, wanted, rtol=1e-9, atol=1e-9)
    assert wanted.std() > 0.1  # there is something to compare

    got = torch.autograd.grad((y * functional).sum(), [x, *leaves(params)])
    slopes = torch.autograd.grad((wanted * functional).sum(), [x, *pair.theirs.parameters()])
    assert all(slope.abs().max() > 0 for slope in slopes)
    for ours, theirs in zip(got, slopes, strict=True):
        transposed = ours is not got[0] and ours.ndim == 2
        torch.testing.assert_close(ours.T if transposed else ours, theirs, rtol=1e-8, atol=1e-8)
    return after


def check_moments(pair: Pair) -> None:
    """After one training pass: the running moments, torch's variances unbiased; then a pass that uses ours."""
    after = check(pair)
    modules = [module for module in pair.theirs.modules() if isinstance(module, nn.BatchNorm1d)]
    for module, moments in zip(modules, nodes(after, (Moments,)), strict=True):
        assert moments.calls == 1
        torch.testing.assert_close(moments.mean, module.running_mean)
        unbiased = (moments.var - 0.99) * B / (B - 1) + 0.99
        torch.testing.assert_close(unbiased, module.running_var)
        module.running_var.copy_(moments.var)
    kept = check(pair._replace(stats=after), train=False)
    assert all(a is b for a, b in zip(leaves(kept), leaves(after), strict=True))


def test_mlp() -> None:
    """SAC's."""
    check(pair(mlp(7, W), nn.Sequential(nn.Linear(I, 7), nn.ReLU(), nn.Linear(7, W), nn.ReLU())))


def test_mlp_with_batch_norms() -> None:
    """CrossQ's: at the input and after each activation."""
    theirs = [bn(I), nn.Linear(I, 7), nn.ReLU(), bn(7), nn.Linear(7, W), nn.ReLU(), bn(W)]
    check_moments(pair(mlp(7, W, norm=batch_norm), nn.Sequential(*theirs)))


def test_mlp_with_layer_norms() -> None:
    """A normalisation that hands nothing on to the next layer works at the input too."""
    theirs = [ln(I), nn.Linear(I, W), nn.ReLU(), ln(W)]
    check(pair(mlp(W, norm=layer_norm), nn.Sequential(*theirs)))


def test_mlp_with_warm_batch_renormalisation_is_its_layers_one_by_one() -> None:
    """The corrections at the input travel into the first weights; nothing else may change, gradients included."""

    def norm() -> Layer:
        return batch_renorm(warm_up=0)

    network = mlp(W, norm=norm)
    params, stats, _ = network.init(np.random.default_rng(0), I)
    params, stats = noisy(double(params)), double(stats)
    stats = tree_map(lambda leaf: leaf + 0.5 if leaf.is_floating_point() else leaf, stats)

    def one_by_one(params: Params, x: Tensor) -> Tensor:
        (first, layer, _, last), (first_stats, _, _, last_stats) = params, stats
        h, _ = norm().apply(first, first_stats, x, True)
        return norm().apply(last, last_stats, torch.relu(h @ layer.w + layer.b), True)[0]

    def whole(params: Params, x: Tensor) -> Tensor:
        return network.apply(params, stats, x, True)[0]

    results = []
    for f in (whole, one_by_one):
        x, copy = rows().requires_grad_(), tree_map(lambda leaf: leaf.clone().requires_grad_(), params)
        y = f(copy, x)
        results.append((y, *torch.autograd.grad((y * normal(9, B, W)).sum(), [x, *leaves(copy)])))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_pre_norm_mlp_with_layer_norms() -> None:
    """NaP's: no biases, a normalisation before each activation, none at the input."""
    theirs = []
    for d_in, d_out in ((I, 7), (7, W)):
        theirs += [nn.Linear(d_in, d_out, bias=False), ln(d_out), nn.ReLU()]
    check(pair(pre_norm_mlp(7, W, norm=layer_norm), nn.Sequential(*theirs)))


@pytest.mark.parametrize("part", ["critic", "actor"])
def test_xqcs_torso(part: str) -> None:
    """A normalisation at the input, then four layers without bias, normalised before the activation."""
    theirs, d_in = [bn(I)], I
    for _ in range(4):
        theirs += [nn.Linear(d_in, W, bias=False), bn(W), nn.ReLU()]
        d_in = W
    check_moments(pair(getattr(xqc(width=W, actor_width=W), part), nn.Sequential(*theirs)))


def droq(first: nn.Module, second: nn.Module) -> nn.Module:
    """Linear, dropout, normalisation with torch's eps, activation; twice."""
    blocks = [nn.Linear(I, 7), first, nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, W), second, nn.LayerNorm(W), nn.ReLU()]
    return nn.Sequential(*blocks)


@pytest.mark.parametrize("train", [True, False])
def test_dropout_mlp(train: bool) -> None:
    ours = dropout_mlp(7, W, rate=0.3, init=xavier_uniform())
    noise = ours.noise(np.random.default_rng(2), (B,))
    drawn = [leaf for leaf in leaves(noise) if isinstance(leaf, Tensor)]
    assert [leaf.shape for leaf in drawn] == [(B, 7), (B, W)]
    check(pair(ours, droq(*(Drop(leaf, 0.3) for leaf in drawn))), noise=noise, train=train)


def test_dropout_mlp_without_noise() -> None:
    check(pair(dropout_mlp(7, W, rate=0.3, init=xavier_uniform()), droq(nn.Dropout(0.0), nn.Dropout(0.0))))


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_bro_net(blocks: int) -> None:
    def block() -> nn.Module:
        return Add(nn.Linear(W, W), ln(W), nn.ReLU(), nn.Linear(W, W), ln(W))

    theirs = nn.Sequential(nn.Linear(I, W), ln(W), nn.ReLU(), *(block() for _ in range(blocks)))
    check(pair(bro_net(W, blocks=blocks), theirs))


@pytest.mark.parametrize("blocks", [1, 2])
def test_simba_net(blocks: int) -> None:
    def block() -> nn.Module:
        return Add(ln(W), nn.Linear(W, 4 * W), nn.ReLU(), nn.Linear(4 * W, W))

    theirs = nn.Sequential(nn.Linear(I, W), *(block() for _ in range(blocks)), ln(W))
    check(pair(simba_net(W, blocks=blocks), theirs))


# Where they start


def hidden(network: Layer) -> list[Dense]:
    """The linear layers of a fresh network."""
    return nodes(network.init(np.random.default_rng(0), I)[0], (Dense,))


def products(layer: Dense) -> Tensor:
    """The shorter side's inner products."""
    w = layer.w if layer.w.shape[0] >= layer.w.shape[1] else layer.w.T
    return w.T @ w


@pytest.mark.parametrize(
    "network",
    [mlp(7, 7, norm=batch_norm), pre_norm_mlp(7, 7, norm=layer_norm), bro_net(7, blocks=2)],
    ids=["mlp", "pre_norm_mlp", "bro_net"],
)
def test_orthogonal_with_gain_root_two(network: Layer) -> None:
    for layer in hidden(network):
        torch.testing.assert_close(products(layer), 2 * torch.eye(len(products(layer))), rtol=1e-5, atol=1e-5)
        assert layer.b == () or not layer.b.any()


def test_simba_starts_orthogonal_and_he_normal() -> None:
    first, *rest = hidden(simba_net(64, blocks=2))
    torch.testing.assert_close(products(first), torch.eye(I), rtol=1e-5, atol=1e-5)
    assert [tuple(layer.w.shape) for layer in rest] == [(64, 256), (256, 64)] * 2
    for layer in rest:
        n, wanted = layer.w.numel(), (2 / layer.w.shape[0]) ** 0.5
        assert abs(layer.w.std().item() / wanted - 1) < 5 / (2 * n) ** 0.5
        assert not layer.b.any()


@pytest.mark.parametrize(
    "make",
    [
        lambda init: mlp(7, 7, init=init),
        lambda init: dropout_mlp(7, 7, rate=0.1, init=init),
    ],
    ids=["mlp", "dropout_mlp"],
)
def test_the_initial_law_is_the_one_asked_for(make: Callable[[Callable], Layer]) -> None:
    for layer in hidden(make(orthogonal(3.0))):
        torch.testing.assert_close(products(layer), 9 * torch.eye(len(products(layer))), rtol=1e-5, atol=1e-5)
