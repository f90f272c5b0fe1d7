"""SimbaV2's layers against its formulas written out, in float64: what comes out, and every gradient."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from small import double, noisy, normal, same_bits
from steadyq.algorithm.hypersphere import Free, Scale, append, block, head, on_sphere, scaler, simba_v2_net
from steadyq.algorithm.nn import Dense, Layer, Readout
from steadyq.algorithm.recipes import simba_v2
from steadyq.algorithm.tree import leaves, nodes, tree_map
from steadyq.algorithm.types import Params
from steadyq.algorithm.weight_norm import unit_norm

B, I, W = 12, 5, 6  # noqa: E741, the axis letters of the signatures


def rows(width: int = I, seed: int = 1) -> Tensor:
    return 3 * normal(seed, B, width).double()


def started(layer: Layer, d_in: int = I) -> tuple[Params, Params, int]:
    params, stats, d_out = layer.init(np.random.default_rng(0), d_in)
    return double(params), double(stats), d_out


def projected(params: Params) -> Params:
    """As the recipe does: each unit's weights, readouts' too, on the sphere."""
    return unit_norm(params, types=(Dense, Readout), with_bias=False)


# The formulas, over the parameters as a flat list in the order of use


def normalised(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def embedding(x: Tensor, w: Tensor, s: Tensor) -> Tensor:
    """The input and a constant on the sphere, a linear map, factors, the sphere."""
    with_constant = torch.cat([x, torch.full((len(x), 1), 3.0).double()], 1)
    return normalised((normalised(with_constant) @ w) * s)


def interpolation(x: Tensor, w1: Tensor, s: Tensor, w2: Tensor, a: Tensor, *, blocks: int) -> Tensor:
    """x + alpha (h - x), alpha = a sqrt(width) / (blocks + 1) because a starts at 1 / sqrt(width)."""
    h = normalised((((x @ w1) * s).clamp(min=0) + 1e-8) @ w2)
    alpha = a * x.shape[1] ** 0.5 / (blocks + 1)
    return normalised(x + alpha * (h - x))


def torso(x: Tensor, *numbers: Tensor, blocks: int) -> Tensor:
    x = embedding(x, *numbers[:2])
    for i in range(blocks):
        x = interpolation(x, *numbers[2 + 4 * i : 6 + 4 * i], blocks=blocks)
    return x


def prediction(x: Tensor, w1: Tensor, s: Tensor, w2: Tensor, b: Tensor) -> Tensor:
    return ((x @ w1) * s) @ w2 + b


def check(layer: Layer, formula: Callable[..., Tensor], params: Params, x: Tensor) -> Tensor:
    """Outputs and gradients agree; returns the outputs."""
    x = x.clone().requires_grad_()
    params = tree_map(lambda leaf: leaf.clone().requires_grad_(), params)
    _, stats, _ = started(layer, x.shape[1])
    results = [layer.apply(params, stats, x, True)[0], formula(x, *leaves(params))]
    functional = normal(9, *results[0].shape).double()
    slopes = [torch.autograd.grad((y * functional).sum(), [x, *leaves(params)]) for y in results]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-9)
    assert all(slope.abs().max() > 0 for slope in slopes[1])
    for train in (True, False):
        torch.testing.assert_close(layer.apply(params, stats, x, train), (results[0], stats))
    return results[0].detach()


@pytest.mark.parametrize("blocks", [1, 2])
def test_torso(blocks: int) -> None:
    layer = simba_v2_net(W, blocks=blocks)
    params, _, width = started(layer)
    assert width == W
    assert [tuple(leaf.shape) for leaf in leaves(params)] == [(I + 1, W), (W,)] + blocks * [
        *((W, 4 * W), (4 * W,)),
        *((4 * W, W), (W,)),
    ]
    for some in (params, projected(params), noisy(params)):
        y = check(layer, lambda *numbers: torso(*numbers, blocks=blocks), some, rows())
        torch.testing.assert_close(torch.linalg.vector_norm(y, dim=1), torch.ones(B).double())


def test_block() -> None:
    layer = block(W, weight=1 / 3)
    params, _, width = started(layer, W)
    assert width == W
    x = normalised(rows(W))
    for some in (params, noisy(params)):
        y = check(layer, lambda *numbers: interpolation(*numbers, blocks=2), some, x)
        torch.testing.assert_close(torch.linalg.vector_norm(y, dim=1), torch.ones(B).double())


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_blocks_weight_goes_from_its_input_to_its_inner_layers(weight: float) -> None:
    layer, x = block(W, weight=weight), normalised(rows(W))
    params, stats, _ = started(layer, W)
    w1, s, w2, _ = leaves(params)
    inner = normalised(((x @ w1) * s).relu() @ w2)
    y, _ = layer.apply(params, stats, x, True)
    torch.testing.assert_close(y, inner if weight else x, rtol=1e-6, atol=1e-6)


def test_head() -> None:
    layer = head(7, width=W)
    params, _, width = started(layer, W)
    assert width == 7
    assert [type(node) for node in params] == [Dense, Scale, Free]
    assert not params[2].bias.any()
    assert params[2].readout.b == ()
    check(layer, prediction, noisy(params), normalised(rows(W)))


# Pieces


def test_rows_on_the_sphere_have_length_one() -> None:
    layer, x = on_sphere(), rows()
    x[0] = 0  # a row without a direction stays without, and its gradient is a number
    y, _ = layer.apply((), (), x.requires_grad_(), True)
    torch.testing.assert_close(y[1:], normalised(x[1:]))
    assert not y[0].any()
    (gradient,) = torch.autograd.grad((y * rows(seed=2)).sum(), x)
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close((gradient * x)[1:].sum(1), torch.zeros(B - 1).double())  # it turns the row, no more


def test_the_appended_constant_keeps_the_length() -> None:
    """Two rows that differ in length only differ on the sphere."""
    layer, x = append(3.0), rows()
    assert layer.init(np.random.default_rng(0), I) == ((), (), I + 1)
    y, _ = layer.apply((), (), x, True)
    assert torch.equal(y[:, :I], x)
    assert torch.equal(y[:, I], torch.full((B,), 3.0).double())
    far, near = (normalised(layer.apply((), (), c * x, True)[0]) for c in (2.0, 1.0))
    assert (far - near).abs().amax(1).min() > 0.01


@pytest.mark.parametrize(("start", "scale"), [(1.0, 1.0), (0.25, 0.1), (3.0, 12.0)])
def test_a_scaler_starts_at_start_and_its_parameter_at_scale(start: float, scale: float) -> None:
    layer, x = scaler(start, scale=scale), rows()
    params, stats, width = layer.init(np.random.default_rng(0), I)
    assert (stats, width) == ((), I)
    assert params.value.dtype == torch.float32
    torch.testing.assert_close(params, Scale(torch.full((I,), scale)))
    params = double(params)
    torch.testing.assert_close(layer.apply(params, (), x, True)[0], start * x, rtol=1e-6, atol=0)
    step = torch.tensor([0.1, -0.1, 0.2, 0.0, 0.01]).double()  # of the parameter, worth more where its scale is small
    moved, _ = layer.apply(Scale(params.value + step), (), x, True)
    torch.testing.assert_close(moved, (start + step * start / scale) * x, rtol=1e-6, atol=1e-6)


# Where it starts, and the projection


@pytest.mark.parametrize(("part", "width", "blocks"), [("critic", 32, 2), ("actor", 16, 1)])
def test_the_recipes_torsos_start_at_the_published_numbers(part: str, width: int, blocks: int) -> None:
    """`configs/agent/simbaV2.yaml`: scalers at sqrt(2 / width), halved inside blocks, weights at 1 / sqrt(width)."""
    params, _, d_out = getattr(simba_v2(width=32, actor_width=16), part).init(np.random.default_rng(0), I)
    assert d_out == width
    wanted = [(2 / width) ** 0.5] + blocks * [(2 / width) ** 0.5 / 2, width**-0.5]
    got = nodes(params, (Scale,))
    assert [scale.value.unique().tolist() for scale in got] == [[pytest.approx(value)] for value in wanted]
    for layer in nodes(params, (Dense,)):
        w = layer.w if layer.w.shape[0] >= layer.w.shape[1] else layer.w.T
        torch.testing.assert_close(w.T @ w, torch.eye(w.shape[1]), rtol=1e-5, atol=1e-5)
        assert layer.b == ()


def test_projected_weights_have_unit_columns_and_nothing_else_moves() -> None:
    recipe = simba_v2(width=W, bins=7)
    for layer, d_in in ((recipe.critic, I), (recipe.readout, W)):
        before = noisy(started(layer, d_in)[0])
        memory, after = recipe.project.apply(recipe.project.init(before), before)
        assert memory == ()
        assert same_bits(after, projected(before))
        for old, new in zip(nodes(before, (Dense, Readout)), nodes(after, (Dense, Readout)), strict=True):
            for o in range(new.w.shape[1]):
                assert sum(float(v) ** 2 for v in new.w[:, o]) == pytest.approx(1, rel=1e-12)
            ratio = old.w / new.w
            torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
        for old, new in zip(nodes(before, (Scale,)), nodes(after, (Scale,)), strict=True):
            assert new.value is old.value
    assert after[2].bias is before[2].bias
    assert after[2].bias.abs().min() > 0
