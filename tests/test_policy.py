"""The tanh-Gaussian policy against torch.distributions, at extremes, as a density; the deterministic one by hand."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from small import normal
from steadyq.algorithm.nn import Dense, Init, Layer, Readout, dense, readout, relu, serial
from steadyq.algorithm.policy import Heads, deterministic, tanh_gaussian, tanh_log_slope

B, D, A = 64, 6, 3


def heads(*, scale: float = 0.3) -> Heads:
    """Random readouts in float64."""
    w_mean, b_mean, w_std, b_std = (scale * normal(i, *shape).double() for i, shape in enumerate([(D, A), (A,)] * 2))
    return Heads(Readout(w_mean, b_mean), Readout(w_std, b_std))


def constant(mean: float, log_std: float) -> Heads:
    """The same Gaussian everywhere, one action dimension."""
    zeros = torch.zeros(D, 1, dtype=torch.float64)
    return Heads(*[Readout(zeros, torch.tensor([value], dtype=torch.float64)) for value in (mean, log_std)])


def reference(params: Heads, features: Tensor, log_std: Tensor) -> TransformedDistribution:
    mean = torch.nn.functional.linear(features, params.mean.w.T, params.mean.b)
    return TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])


def raw_log_std(params: Heads, features: Tensor) -> Tensor:
    return torch.nn.functional.linear(features, params.log_std.w.T, params.log_std.b)


def test_log_prob_against_torch() -> None:
    params, features, noise = heads(), normal(8, B, D).double(), normal(9, B, A).double()
    action, log_prob = tanh_gaussian().sample(params, features, noise)
    theirs = reference(params, features, raw_log_std(params, features))
    torch.testing.assert_close(log_prob, theirs.log_prob(action).sum(-1), rtol=1e-9, atol=1e-9)
    assert action.shape == (B, A)
    assert log_prob.shape == (B,)


def test_the_action_is_tanh_of_mean_plus_std_times_noise() -> None:
    params, features, noise = heads(), normal(8, B, D).double(), normal(9, B, A).double()
    mean = features @ params.mean.w + params.mean.b
    std = (features @ params.log_std.w + params.log_std.b).exp()
    action, _ = tanh_gaussian().sample(params, features, noise)
    torch.testing.assert_close(action, torch.tanh(mean + std * noise))
    torch.testing.assert_close(tanh_gaussian().gaussian(params, features)[0], mean)


def test_gradients_against_torch() -> None:
    """Through the action and through its log-probability, by the reparametrisation."""
    params, features, noise = heads(), normal(8, B, D).double(), normal(9, B, A).double()

    def total(action: Tensor, log_prob: Tensor) -> Tensor:
        return (action.square().sum(-1) + 0.7 * log_prob).mean()

    leaves = [leaf.requires_grad_() for head in params for leaf in head]
    ours = torch.autograd.grad(total(*tanh_gaussian().sample(params, features, noise)), leaves)
    mean = features @ params.mean.w + params.mean.b
    std = raw_log_std(params, features).exp()
    u = mean + std * noise
    log_prob = (Normal(mean, std).log_prob(u) - torch.log(1 - u.tanh().square())).sum(-1)
    theirs = torch.autograd.grad(total(u.tanh(), log_prob), leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("u", [0.0, 1.0, -8.0, 9.0, 20.0, -50.0, 300.0, -1e4])
def test_log_slope_far_out(u: float) -> None:
    """log(1 - tanh(u)^2) = log 4 - 2|u| - 2 log(1 + exp(-2|u|)); the plain form is -inf from |u| = 9 in float32."""
    wanted = np.log(4) - 2 * abs(u) - 2 * np.log1p(np.exp(-2 * abs(u)))
    x = torch.tensor(u, requires_grad=True)
    got = tanh_log_slope(x)
    assert got.item() == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    (slope,) = torch.autograd.grad(got, x)
    assert slope.item() == pytest.approx(-2 * np.tanh(u), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -0.5), (0.7, -1.5), (-1.0, 0.3), (2.0, -3.0)])
def test_density_integrates_to_one(mean: float, log_std: float) -> None:
    noise = torch.linspace(-9, 9, 20_001, dtype=torch.float64).unsqueeze(-1)
    features = torch.zeros(len(noise), D, dtype=torch.float64)
    action, log_prob = tanh_gaussian().sample(constant(mean, log_std), features, noise)
    assert torch.trapezoid(log_prob.exp(), action[:, 0]).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("bound", ["clip", "tanh"])
def test_bounds_of_the_log_std(bound: str) -> None:
    policy = tanh_gaussian(log_std_min=-3.0, log_std_max=1.0, bound=bound)
    noise = torch.ones(1, 1, dtype=torch.float64)
    features = torch.zeros(1, D, dtype=torch.float64)
    for raw, clipped in [(-50.0, -3.0), (50.0, 1.0), (-0.4, -0.4)]:
        wanted = clipped if bound == "clip" else -3.0 + 2.0 * (1 + np.tanh(raw))
        params = constant(0.0, raw)
        params.log_std.b.requires_grad_()
        action, log_prob = policy.sample(params, features, noise)
        assert action.item() == pytest.approx(np.tanh(np.exp(wanted)), rel=1e-9)
        (slope,) = torch.autograd.grad(log_prob.sum(), params.log_std.b)
        assert (slope.item() == pytest.approx(0.0, abs=1e-12)) == (abs(raw) > 10)  # beyond the bound nothing is learned


def test_standard_bounds() -> None:
    """As in jaxrl: [-10, 2]."""
    for raw, bound in [(-99.0, -10.0), (99.0, 2.0)]:
        features, zero = torch.zeros(1, D, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        _, log_prob = tanh_gaussian().sample(constant(0.0, raw), features, zero)
        assert log_prob.item() == pytest.approx(-bound - 0.5 * np.log(2 * np.pi))


def test_extreme_heads_stay_finite_in_float32() -> None:
    params = Heads(*[Readout(torch.full((D, A), 1e4), torch.zeros(A)) for _ in range(2)])
    action, log_prob = tanh_gaussian().sample(params, normal(0, B, D), normal(1, B, A))
    assert action.abs().max() <= 1
    assert bool(torch.isfinite(log_prob).all())


def test_initial_heads_are_orthogonal() -> None:
    """Gain sqrt 2 for the mean, 1 for the log standard deviation, biases zero."""
    params = tanh_gaussian().init(np.random.default_rng(0), 32, A)
    torch.testing.assert_close(params.mean.w.T @ params.mean.w, 2 * torch.eye(A))
    torch.testing.assert_close(params.log_std.w.T @ params.log_std.w, torch.eye(A))
    assert not params.mean.b.any()
    assert not params.log_std.b.any()


def test_initial_heads_as_asked_for() -> None:
    policy = tanh_gaussian(
        mean_init=lambda rng, d_in, d_out: torch.full((d_in, d_out), 3.0),
        log_std_init=lambda rng, d_in, d_out: torch.full((d_in, d_out), 4.0),
    )
    params = policy.init(np.random.default_rng(0), D, A)
    assert params.mean.w.unique().tolist() == [3.0]
    assert params.log_std.w.unique().tolist() == [4.0]


@pytest.mark.parametrize("bound", ["clip", "tanh"])
def test_gaussian_is_what_is_sampled(bound: Literal["clip", "tanh"]) -> None:
    """Mean and log standard deviation before the tanh, the latter within its bounds."""
    policy = tanh_gaussian(bound=bound, log_std_min=-1.0, log_std_max=0.5)
    params, features, noise = heads(scale=1.0), normal(8, B, D).double(), normal(9, B, A).double()
    mean, log_std = policy.gaussian(params, features)
    raw = raw_log_std(params, features).numpy()
    wanted = np.clip(raw, -1, 0.5) if bound == "clip" else -1 + 0.75 * (1 + np.tanh(raw))
    np.testing.assert_allclose(log_std.numpy(), wanted, rtol=1e-12)
    torch.testing.assert_close(mean, features @ params.mean.w + params.mean.b)
    assert raw.min() < -1
    assert raw.max() > 0.5
    for draw in (policy.sample, policy.backup):  # the critic's target takes a sample like any other
        action, log_prob = draw(params, features, noise)
        theirs = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])
        torch.testing.assert_close(action, torch.tanh(mean + log_std.exp() * noise))
        torch.testing.assert_close(log_prob, theirs.log_prob(action).sum(-1), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(policy.gaussian(params, features)[0], mean)


def two_layers(width: int, init: Init) -> Layer:
    """A head with a hidden layer of its own and a last one without bias."""
    return serial(dense(4), relu(), readout(width, init=init, bias=False))


def test_another_head() -> None:
    """Both of the Gaussian's maps are layers as asked for, each with its own init."""
    policy = tanh_gaussian(
        head=two_layers,
        mean_init=lambda rng, d_in, d_out: torch.full((d_in, d_out), 0.3),
        log_std_init=lambda rng, d_in, d_out: torch.full((d_in, d_out), -0.2),
    )
    params = policy.init(np.random.default_rng(0), D, A)
    features, noise = normal(8, B, D), normal(9, B, A)
    wanted = []
    for head, value in zip(params, (0.3, -0.2), strict=True):
        hidden, _, last = head
        assert isinstance(hidden, Dense)
        assert isinstance(last, Readout)
        assert (last.w.shape, last.b, last.w.unique().item()) == ((4, A), (), pytest.approx(value))
        wanted.append((features @ hidden.w + hidden.b).clamp(min=0) @ last.w)
    assert not torch.equal(params.mean[0].w, params.log_std[0].w)
    mean, log_std = policy.gaussian(params, features)
    torch.testing.assert_close(mean, wanted[0])
    torch.testing.assert_close(log_std, wanted[1])
    torch.testing.assert_close(policy.sample(params, features, noise)[0], torch.tanh(mean + log_std.exp() * noise))


def tilted() -> tuple[Readout, Tensor, Tensor]:
    """A deterministic head in float64 whose actions are small to extreme, features, and noise with wide tails."""
    params = Readout(0.5 * normal(0, D, A).double(), 0.1 * normal(1, A).double())
    return params, normal(8, B, D).double(), 2 * normal(9, B, A).double()


def test_the_deterministic_action_is_the_tanh_of_the_mean() -> None:
    params, features, noise = tilted()
    policy = deterministic()
    action, log_prob = policy.sample(params, features, noise)
    wanted = torch.tanh(features @ params.w + params.b)
    torch.testing.assert_close(action, wanted)
    torch.testing.assert_close(policy.gaussian(params, features)[0], features @ params.w + params.b)
    assert not policy.gaussian(params, features)[1].exp().any()  # no spread
    assert log_prob.tolist() == [0.0] * B


@pytest.mark.parametrize(("smoothing", "clip"), [(0.2, 0.5), (1.0, 0.1), (0.0, 0.5)])
def test_smoothing_of_the_next_action(smoothing: float, clip: float) -> None:
    """TD3's noise, number by number: cut off itself, and the action once more at the bounds."""
    params, features, noise = tilted()
    action, log_prob = deterministic(smoothing=smoothing, clip=clip).backup(params, features, noise)
    mode = np.tanh(features.numpy() @ params.w.numpy() + params.b.numpy())
    noises_cut = actions_cut = 0
    for i in np.ndindex(B, A):
        raw = smoothing * noise[i].item()
        noises_cut += abs(raw) > clip
        wanted = mode[i] + max(-clip, min(clip, raw))
        actions_cut += abs(wanted) > 1
        assert action[i].item() == pytest.approx(max(-1.0, min(1.0, wanted)), rel=1e-12)
    if smoothing:
        assert 0 < noises_cut < B * A
        assert 0 < actions_cut < B * A
    assert log_prob.tolist() == [0.0] * B


def test_td3_s_smoothing_is_the_default() -> None:
    """0.2 times the noise, cut off at 0.5."""
    params = Readout(torch.zeros(D, 1), torch.zeros(1))
    noise = torch.tensor([[0.0], [1.0], [-2.0], [2.4], [2.6], [-30.0]])
    action, _ = deterministic().backup(params, torch.zeros(6, D), noise)
    torch.testing.assert_close(action[:, 0], torch.tensor([0.0, 0.2, -0.4, 0.48, 0.5, -0.5]))


def test_the_deterministic_head_at_the_start() -> None:
    params = deterministic().init(np.random.default_rng(0), 32, A)
    assert isinstance(params, Readout)
    torch.testing.assert_close(params.w.T @ params.w, 2 * torch.eye(A))
    assert not params.b.any()


def test_the_deterministic_action_carries_a_gradient() -> None:
    params, features, noise = tilted()
    leaves = [leaf.requires_grad_() for leaf in params]
    action, log_prob = deterministic().sample(params, features, noise)
    ours = torch.autograd.grad((action.square().sum(-1) + log_prob).mean(), leaves)
    slope = 2 * action.detach() * (1 - action.detach().square()) / B  # of the mean, before the tanh
    torch.testing.assert_close(ours[0], features.T @ slope)
    torch.testing.assert_close(ours[1], slope.sum(0))
