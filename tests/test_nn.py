"""Layers against torch.nn, batch renormalisation against its definition, initial weights against their laws."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.func import vmap

from small import double, normal
from steadyq.algorithm.networks import mlp
from steadyq.algorithm.nn import (
    Dense,
    Layer,
    Moments,
    Norm,
    Readout,
    affine,
    batch_norm,
    batch_renorm,
    dense,
    dropout,
    he_normal,
    layer_norm,
    lecun_normal,
    orthogonal,
    plain,
    readout,
    relu,
    residual,
    round_hidden,
    serial,
    unit_ball,
    xavier_uniform,
)
from steadyq.algorithm.tree import leaves, stack, tree_map

B, I, O = 16, 5, 7  # noqa: E741, the axis letters of the signatures


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rows(seed: int = 1) -> Tensor:
    """Inputs [B, I] in float64 whose columns differ in mean and spread."""
    return normal(seed, B, I).double() * torch.tensor([1.0, 5.0, 0.1, 2.0, 1e-3]) + torch.arange(5.0)


def gradients(f: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Of a fixed random functional of `f`'s output."""
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    y = f(*inputs)
    return torch.autograd.grad((y * normal(99, *y.shape)).sum() + y.square().sum(), inputs)


# Linear layers


@pytest.mark.parametrize(("layer", "kind"), [(dense, Dense), (readout, Readout)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_against_torch(layer: Callable[..., Layer], kind: type, bias: bool) -> None:
    ours = layer(O, bias=bias)
    params, stats, width = ours.init(rng(), I)
    assert type(params) is kind
    assert (params.w.shape, stats, width) == ((I, O), (), O)
    assert params.w.dtype == torch.float32
    params = double(params)
    if bias:
        assert not params.b.any()
        params = params._replace(b=normal(3, O).double())
    theirs = nn.Linear(I, O, bias=bias).double()
    with torch.no_grad():
        theirs.weight.copy_(params.w.T)
        if bias:
            theirs.bias.copy_(params.b)

    x = rows()
    for train in (True, False):
        torch.testing.assert_close(ours.apply(params, (), x, train), (theirs(x), ()))
    got = gradients(
        lambda x, *leaf: ours.apply(kind(*leaf) if bias else kind(*leaf, ()), (), x, True)[0], x, *leaves(params)
    )
    wanted = gradients(lambda x, w, *b: nn.functional.linear(x, w.T, *b), x, *leaves(params))
    torch.testing.assert_close(got, wanted)


def test_relu_against_torch() -> None:
    layer = relu()
    assert layer.init(rng(), I) == ((), (), I)
    x = rows()
    torch.testing.assert_close(layer.apply((), (), x, True), (torch.relu(x), ()))


# The unit ball


def test_unit_ball_gives_rows_of_length_one() -> None:
    layer, x = unit_ball(), rows()
    assert layer.init(rng(), I) == ((), (), I)
    y, _ = layer.apply((), (), x, True)
    for i in range(B):
        length = sum(float(v) ** 2 for v in x[i]) ** 0.5
        assert y[i].tolist() == pytest.approx([float(v) / length for v in x[i]], rel=1e-7)
    torch.testing.assert_close(layer.apply((), (), 1e3 * x, True)[0], y, rtol=1e-7, atol=0)
    got = gradients(lambda x: layer.apply((), (), x, True)[0], x)
    torch.testing.assert_close(got, gradients(lambda x: nn.functional.normalize(x, dim=-1), x), rtol=1e-6, atol=1e-8)


def test_a_row_of_dead_units_stays_zero_and_has_no_gradient() -> None:
    x = -rows()[:3].abs()
    x[1] = rows()[1].abs()
    layer = serial(relu(), unit_ball())
    y, _ = layer.apply(((), ()), ((), ()), x, True)
    assert not y[::2].any()
    assert y[1].norm() == pytest.approx(1)
    (gradient,) = gradients(lambda x: layer.apply(((), ()), ((), ()), x, True)[0], x)
    assert not gradient[::2].any()
    assert gradient[1].abs().min() > 0


# Dropout


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.4])
def test_dropout_against_a_loop_over_its_noise(rate: float) -> None:
    layer = dropout(rate, width=I)
    assert layer.init(rng(), I) == ((), (), I)
    noise = layer.noise(rng(), (2, B))
    assert (noise.shape, noise.dtype) == ((2, B, I), torch.float32)
    assert noise.min() >= 0
    assert noise.max() < 1
    x = rows()
    for train in (True, False):  # the noise says whether, as DroQ drops in its target's pass too
        y, _ = layer.apply((), (), x, train, noise[1])
        for i in range(B):
            for k in range(I):
                kept = float(noise[1, i, k]) >= rate
                assert y[i, k].item() == pytest.approx(x[i, k].item() / (1 - rate) if kept else 0.0)
    assert (y == x).all() == (rate == 0)


def test_dropout_without_noise_passes_everything() -> None:
    x = rows()
    for train in (True, False):
        assert torch.equal(dropout(0.4, width=I).apply((), (), x, train)[0], x)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_the_mean_and_drops_at_its_rate(rate: float) -> None:
    n, layer = 4_000, dropout(rate, width=I)
    y, _ = layer.apply((), (), torch.ones(n, I), True, layer.noise(rng(), (n,)))
    std = (rate / (1 - rate) / n) ** 0.5  # of the mean of n numbers that are 1 / (1 - rate) or 0
    assert (y.mean(0) - 1).abs().max() < 5 * std
    assert abs(float((y == 0).float().mean()) - rate) < 5 * (rate * (1 - rate) / (n * I)) ** 0.5
    together = ((y[:, 0] == 0) & (y[:, 1] == 0)).float().mean()  # each unit on its own
    assert abs(float(together) - rate**2) < 5 * (rate**2 * (1 - rate**2) / n) ** 0.5


def test_serial_hands_each_layer_its_own_noise() -> None:
    network = serial(dropout(0.5, width=I), dense(6), residual(dropout(0.3, width=6), relu()))
    params, stats, _ = network.init(rng(), I)
    first, nothing, second = network.noise(rng(1), (B,))
    assert nothing == ()
    noise, x = (first, nothing, second), rows().float()
    y, _ = network.apply(params, stats, x, True, noise)
    hidden = (x * (first >= 0.5) / 0.5) @ params[1].w
    wanted = hidden + torch.relu(hidden * (second[0] >= 0.3) / 0.7)
    torch.testing.assert_close(y, wanted)
    noiseless = x @ params[1].w
    torch.testing.assert_close(network.apply(params, stats, x, True)[0], noiseless + torch.relu(noiseless))


def test_each_critic_drops_units_of_its_own() -> None:
    network = serial(dense(6), dropout(0.5, width=6), readout(1))
    params, stats = (stack([network.init(rng(), I)[i]] * 3) for i in range(2))
    noise = network.noise(rng(), (3, B))
    out = vmap(lambda p, s, noise: network.apply(p, s, rows().float(), True, noise)[0])(params, stats, noise)
    for e in range(3):
        member = tree_map(lambda leaf, e=e: leaf[e], (params, noise))
        alone, _ = network.apply(member[0], stats, rows().float(), True, member[1])
        torch.testing.assert_close(out[e], alone)
    assert not torch.isclose(out[0], out[1]).all()


# Initial weights


@pytest.mark.parametrize(("d_in", "d_out"), [(12, 5), (5, 12), (8, 8), (1, 6), (6, 1)])
@pytest.mark.parametrize("gain", [1.0, 2**0.5])
def test_orthogonal_matrices_are_orthonormal(d_in: int, d_out: int, gain: float) -> None:
    w = orthogonal(gain)(rng(), d_in, d_out)
    assert w.shape == (d_in, d_out)
    assert w.dtype == torch.float32
    products = w.T @ w if d_in >= d_out else w @ w.T
    torch.testing.assert_close(products, gain**2 * torch.eye(min(d_in, d_out)), rtol=1e-5, atol=1e-6)


def test_orthogonal_matrices_are_uniform() -> None:
    """Each entry of a uniform orthogonal 3 x 3 matrix has mean 0 and square 1/3; LAPACK's own signs would not do."""
    n, draw = 500, rng()
    ws = torch.stack([orthogonal(1.0)(draw, 3, 3) for _ in range(n)])
    assert ws.mean(0).abs().max() < 5 * (1 / 3 / n) ** 0.5
    assert (ws.square().mean(0) - 1 / 3).abs().max() < 5 * (4 / 45 / n) ** 0.5  # a squared entry is Beta(1/2, 1)
    right = float((torch.linalg.det(ws) > 0).float().mean())  # rotations and reflections alike
    assert abs(right - 0.5) < 5 * 0.5 / n**0.5


@pytest.mark.parametrize("d_in", [4, 400])
def test_lecun_normal_is_flaxs_truncated_normal(d_in: int) -> None:
    """Variance 1 / d_in after cutting at two standard deviations of the uncut normal, as jax's variance_scaling."""
    w = lecun_normal()(rng(), d_in, 40_000 // d_in)
    assert w.shape == (d_in, 40_000 // d_in)
    assert w.dtype == torch.float32
    flat = w.flatten().double().numpy() * d_in**0.5
    uncut_std = 1 / scipy.stats.truncnorm(-2, 2).std()
    assert np.abs(flat).max() <= 2 * uncut_std * (1 + 1e-6)
    assert abs(flat.mean()) < 5 / 200
    assert abs(flat.std() - 1) < 5 / 200
    assert scipy.stats.kstest(flat, scipy.stats.truncnorm(-2, 2, scale=uncut_std).cdf).pvalue > 1e-3


@pytest.mark.parametrize("d_in", [4, 400])
def test_he_normal_is_flaxs_truncated_normal_of_twice_the_variance(d_in: int) -> None:
    w = he_normal()(rng(), d_in, 40_000 // d_in)
    assert (w.shape, w.dtype) == ((d_in, 40_000 // d_in), torch.float32)
    flat = w.flatten().double().numpy() * (d_in / 2) ** 0.5
    law = scipy.stats.truncnorm(-2, 2, scale=1 / scipy.stats.truncnorm(-2, 2).std())
    assert np.abs(flat).max() <= law.support()[1] * (1 + 1e-6)
    assert abs(flat.mean()) < 5 / 200
    assert abs(flat.std() - 1) < 5 / 200
    assert scipy.stats.kstest(flat, law.cdf).pvalue > 1e-3


@pytest.mark.parametrize(("d_in", "d_out"), [(4, 10_000), (10_000, 4), (200, 200)])
def test_xavier_uniform_has_variance_two_over_the_sum(d_in: int, d_out: int) -> None:
    w = xavier_uniform()(rng(), d_in, d_out)
    assert (w.shape, w.dtype) == ((d_in, d_out), torch.float32)
    flat = w.flatten().double().numpy() / (2 / (d_in + d_out)) ** 0.5
    assert abs(flat.mean()) < 5 / 200
    assert abs(flat.var() - 1) < 5 * 0.8**0.5 / 200  # a squared uniform of variance 1 has variance 4/5
    assert scipy.stats.kstest(flat, scipy.stats.uniform(-(3**0.5), 2 * 3**0.5).cdf).pvalue > 1e-3


INITS = {"orthogonal": orthogonal(), "lecun": lecun_normal(), "he": he_normal(), "xavier": xavier_uniform()}


@pytest.mark.parametrize("init", INITS.values(), ids=INITS)
def test_seeds_make_the_weights(init: Callable) -> None:
    assert torch.equal(init(rng(0), I, O), init(rng(0), I, O))
    assert not torch.isclose(init(rng(0), I, O), init(rng(1), I, O)).any()
    one = rng(0)
    assert not torch.isclose(init(one, I, O), init(one, I, O)).any()


def test_hidden_layers_and_readouts_start_orthogonal() -> None:
    for layer in (dense(3), readout(3)):
        w = layer.init(rng(), 9)[0].w
        torch.testing.assert_close(w.T @ w, 2 * torch.eye(3), rtol=1e-5, atol=1e-6)


# Layer normalisation


def norm_params() -> Norm:
    return Norm(normal(5, I).double(), normal(6, I).double())


@pytest.mark.parametrize(("options", "eps"), [({}, 1e-6), ({"eps": 1e-5}, 1e-5), ({"eps": 0.1}, 0.1)])
def test_layer_norm_against_torch(options: dict, eps: float) -> None:
    layer, params, x = layer_norm(**options), norm_params(), rows()
    for train in (True, False):
        y, stats = layer.apply(params, (), x, train)
        torch.testing.assert_close(y, nn.functional.layer_norm(x, (I,), *params, eps), rtol=1e-10, atol=1e-10)
        assert stats == ()
    got = gradients(lambda x, a, b: layer.apply(Norm(a, b), (), x, True)[0], x, *params)
    wanted = gradients(lambda x, a, b: nn.functional.layer_norm(x, (I,), a, b, eps), x, *params)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_layer_norm_starts_as_torchs() -> None:
    params, stats, width = layer_norm().init(rng(), I)
    theirs = nn.LayerNorm(I, eps=1e-6)
    torch.testing.assert_close(params, Norm(theirs.weight.detach(), theirs.bias.detach()))
    assert (stats, width) == ((), I)
    x = rows().float() + 3000  # E[x^2] - E[x]^2 would be off by about 1
    torch.testing.assert_close(layer_norm().apply(params, (), x, True)[0], theirs(x).detach(), rtol=1e-3, atol=1e-3)


# Residual layers


def test_residual_adds_its_input() -> None:
    """Batch norms inside keep moments of what they see."""
    block = residual(dense(6), relu(), batch_norm(), dense(I))
    params, stats, width = block.init(rng(), I)
    assert width == I
    params, stats, x = double(params), double(stats), rows()
    f = serial(dense(6), relu(), batch_norm(), dense(I))
    for train in (True, False):
        inner, after = f.apply(params, stats, x, train)
        y, got = block.apply(params, stats, x, train)
        torch.testing.assert_close(y, x + inner)
        torch.testing.assert_close(leaves(got), leaves(after))
        stats = got
    assert leaves(stats)[-1] == 1
    doubled, _ = residual(plain(lambda x: x)).apply(((),), (), x, True)
    torch.testing.assert_close(doubled, 2 * x)
    got, wanted = (
        gradients(g, x)
        for g in (
            lambda x: block.apply(params, stats, x, True)[0],
            lambda x: x + f.apply(params, stats, x, True)[0],
        )
    )
    torch.testing.assert_close(got, wanted)


# Batch normalisation


def fresh_moments(layer: Layer) -> Moments:
    return double(layer.init(rng(), I)[1])


@pytest.mark.parametrize("make", [batch_norm, batch_renorm])
def test_norms_start_as_the_identity(make: Callable[[], Layer]) -> None:
    params, stats, width = make().init(rng(), I)
    assert width == I
    torch.testing.assert_close(params, Norm(torch.ones(I), torch.zeros(I)))
    assert (stats.mean.tolist(), stats.var.tolist(), stats.calls.item()) == ([0.0] * I, [1.0] * I, 0)
    assert stats.calls.dtype == torch.int64


def test_batch_norm_against_torch() -> None:
    """Outputs, gradients and running moments over several calls; torch's running variance is the unbiased one."""
    ours, params = batch_norm(), norm_params()
    stats = fresh_moments(ours)
    theirs = nn.BatchNorm1d(I, eps=1e-3, momentum=0.01).double()
    with torch.no_grad():
        theirs.weight.copy_(params.scale)
        theirs.bias.copy_(params.shift)
    for call in range(1, 6):
        x = rows(call)
        y, stats = ours.apply(params, stats, x, True)
        torch.testing.assert_close(y, theirs(x).detach(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(stats.mean, theirs.running_mean, rtol=1e-10, atol=1e-10)
        start = 0.99**call  # what is left of the initial variance of 1
        unbiased = (stats.var - start) * B / (B - 1) + start
        torch.testing.assert_close(unbiased, theirs.running_var, rtol=1e-10, atol=1e-10)
    assert stats.calls.item() == 5

    got = gradients(lambda x, a, b: ours.apply(Norm(a, b), stats, x, True)[0], rows(), *params)
    wanted = gradients(
        lambda x, a, b: nn.functional.batch_norm(x, None, None, a, b, training=True, eps=1e-3), rows(), *params
    )
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [batch_norm, batch_renorm])
def test_eval_mode_uses_the_running_moments_and_leaves_them(make: Callable[[], Layer]) -> None:
    params = norm_params()
    stats = Moments(normal(7, I).double(), normal(8, I).double().square(), torch.tensor(200_000))
    y, after = make().apply(params, stats, rows(), False)
    wanted = nn.functional.batch_norm(rows(), stats.mean, stats.var, params.scale, params.shift, eps=1e-3)
    torch.testing.assert_close(y, wanted, rtol=1e-10, atol=1e-10)
    assert after is stats


def test_the_variance_survives_a_large_mean_in_float32() -> None:
    """E[x^2] - E[x]^2 is off by about 1 here, where the smallest variance is 1e-6."""
    x = rows().float() + 3000
    params, stats, _ = batch_norm().init(rng(), I)
    y, _ = batch_norm().apply(params, stats, x, True)
    wanted, _ = batch_norm().apply(double(params), fresh_moments(batch_norm()), x.double(), True)
    torch.testing.assert_close(y.double(), wanted, rtol=0, atol=0.01)  # the mean itself is good to 1e-4


def test_running_moments_carry_no_gradient() -> None:
    x = rows().requires_grad_()
    for layer in (batch_norm(), batch_renorm()):
        _, stats = layer.apply(norm_params(), fresh_moments(layer), x, True)
        assert not any(leaf.requires_grad for leaf in stats)


# Batch renormalisation


def renorm_in_numpy(
    x: np.ndarray, scale: np.ndarray, shift: np.ndarray, mean: np.ndarray, var: np.ndarray, *, plain: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By substituted moments, with eps 1e-3, r_max 3, d_max 5 and momentum 0.99: `(y, new mean, new var)`."""
    y = np.empty_like(x)
    new_mean, new_var = np.empty_like(mean), np.empty_like(var)
    for i in range(x.shape[1]):
        batch_mean = sum(x[:, i]) / len(x)
        batch_var = sum((value - batch_mean) ** 2 for value in x[:, i]) / len(x)
        batch_std, running_std = (batch_var + 1e-3) ** 0.5, (var[i] + 1e-3) ** 0.5
        r = 1.0 if plain else min(max(batch_std / running_std, 1 / 3), 3)
        d = 0.0 if plain else min(max((batch_mean - mean[i]) / running_std, -5), 5)
        used_mean, used_var = batch_mean - d * batch_var**0.5 / r, batch_var / r**2
        y[:, i] = scale[i] * (x[:, i] - used_mean) / (used_var + 1e-3) ** 0.5 + shift[i]
        new_mean[i] = 0.99 * mean[i] + 0.01 * batch_mean
        new_var[i] = 0.99 * var[i] + 0.01 * batch_var
    return y, new_mean, new_var


def test_batch_renorm_against_its_definition() -> None:
    """Plain for two calls, then corrected, with columns beyond r_max, below 1 / r_max, beyond +-d_max and inside."""
    layer, params = batch_renorm(warm_up=2), norm_params()
    stats = fresh_moments(layer)._replace(
        mean=torch.tensor([0.0, 1.5, 60.0, -90.0, 4.0]), var=torch.tensor([1.0, 0.1, 9.0, 4.0, 0.01])
    )
    stats = double(stats)
    for call in range(5):
        x = rows(call)
        y, after = layer.apply(params, stats, x, True)
        arrays = [leaf.numpy() for leaf in (x, *params, stats.mean, stats.var)]
        wanted = renorm_in_numpy(*arrays, plain=call < 2)
        for got, want in zip((y, after.mean, after.var), wanted, strict=True):
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-9, atol=1e-9)
        stats = after
    assert stats.calls.item() == 5


def test_batch_renorm_passes_no_gradient_through_its_corrections() -> None:
    """The gradient is that of the formula with r and d as given numbers, not that of the whole formula."""
    layer, params = batch_renorm(warm_up=0), norm_params()
    stats = double(Moments(torch.full((I,), 0.5), torch.full((I,), 2.0), torch.tensor(0)))

    def formula(x: Tensor, scale: Tensor, shift: Tensor, *, constant: bool) -> Tensor:
        var, mean = x.var(0, correction=0), x.mean(0)
        r = ((var + 1e-3) / (stats.var + 1e-3)).sqrt().clamp(1 / 3, 3)
        d = ((mean - stats.mean) / (stats.var + 1e-3).sqrt()).clamp(-5, 5)
        r, d = (r.detach(), d.detach()) if constant else (r, d)
        return (x - mean + d * var.sqrt() / r) / (var / r**2 + 1e-3).sqrt() * scale + shift

    got = gradients(lambda x, a, b: layer.apply(Norm(a, b), stats, x, True)[0], rows(), *params)
    wanted = gradients(lambda *inputs: formula(*inputs, constant=True), rows(), *params)
    whole = gradients(lambda *inputs: formula(*inputs, constant=False), rows(), *params)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(whole[0], wanted[0], rtol=0.1)


def test_batch_renorm_is_the_papers_where_eps_is_small() -> None:
    """Ioffe 2017, algorithm 1."""
    stats = double(Moments(torch.full((I,), 0.5), torch.full((I,), 2.0), torch.tensor(0)))
    x = 100 * rows()[:, :4]  # the fifth column's variance is below eps
    stats, params = tree_map(lambda leaf: leaf[:4] if leaf.dim() else leaf, (stats, norm_params()))
    y, _ = batch_renorm(warm_up=0).apply(params, stats, x, True)
    std, running_std = x.std(0, correction=0), stats.var.sqrt()
    r, d = (std / running_std).clamp(1 / 3, 3), ((x.mean(0) - stats.mean) / running_std).clamp(-5, 5)
    wanted = ((x - x.mean(0)) / std * r + d) * params.scale + params.shift
    torch.testing.assert_close(y, wanted, rtol=1e-3, atol=1e-3)


def test_batch_renorm_of_a_constant_input_has_finite_gradients() -> None:
    """Batch standard deviation 0, where a root has no slope."""
    stats = double(Moments(torch.full((I,), 0.5), torch.full((I,), 2.0), torch.tensor(0)))
    for layer in (batch_renorm(warm_up=0), batch_renorm()):
        found = gradients(lambda x, layer=layer: layer.apply(norm_params(), stats, x, True)[0], torch.ones_like(rows()))
        assert found[0].isfinite().all()


def test_batch_renorm_is_batch_norm_until_it_is_warm() -> None:
    stats = double(Moments(torch.full((I,), 0.5), torch.full((I,), 2.0), torch.tensor(99_999)))
    plain, _ = batch_norm().apply(norm_params(), stats, rows(), True)
    y, stats = batch_renorm().apply(norm_params(), stats, rows(), True)
    torch.testing.assert_close(y, plain)
    assert stats.calls.item() == 100_000
    y, _ = batch_renorm().apply(norm_params(), stats, rows(), True)
    assert not torch.allclose(y, plain, rtol=0.1)


# Ensembles


def test_an_ensemble_is_its_members() -> None:
    """`vmap` over critics: outputs, gradients by way of outputs, and statistics, each critic's own."""
    network = serial(mlp(6, 4, norm=batch_norm), readout(1))
    members = [tuple(map(double, network.init(rng(seed), I)[:2])) for seed in range(3)]
    params, stats = stack([m[0] for m in members]), stack([m[1] for m in members])
    out, after = vmap(lambda p, s: network.apply(p, s, rows(), True))(params, stats)
    for e, member in enumerate(members):
        alone, alone_after = network.apply(*member, rows(), True)
        torch.testing.assert_close(out[e], alone)
        torch.testing.assert_close(tree_map(lambda leaf, e=e: leaf[e], after), alone_after)


# Precision


def test_only_hidden_weights_are_rounded() -> None:
    network = serial(mlp(6, norm=batch_norm), readout(2))
    params, _, _ = network.init(rng(), I)
    assert round_hidden(params, torch.float32) is params
    rounded = round_hidden(params, torch.bfloat16)
    types = {type(node).__name__: {leaf.dtype for leaf in node} for node in (*rounded[0], rounded[1]) if node}
    assert types == {
        "Norm": {torch.float32},
        "Dense": {torch.bfloat16, torch.float32},
        "Readout": {torch.float32},
    }
    assert rounded[0][1].b.dtype == torch.float32


def test_a_rounded_product_is_the_product_of_rounded_numbers() -> None:
    """Operands and result have bfloat16's eight significant bits; the bias is added in float32."""
    x, w, b = normal(0, B, 256), normal(1, 256, O), normal(2, O)
    y = affine(Dense(w.bfloat16(), b), x)
    assert y.dtype == torch.float32
    exact = x.bfloat16().double() @ w.bfloat16().double()
    torch.testing.assert_close((y - b).double(), exact, rtol=2**-8, atol=2**-8)
    assert not torch.allclose(y, x @ w + b, rtol=1e-4, atol=1e-4)
