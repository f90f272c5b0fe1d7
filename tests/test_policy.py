"""The tanh-Gaussian policy against torch.distributions, at extremes, and as a density."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from small import normal
from steadyq.algorithm.nn import Readout
from steadyq.algorithm.policy import Heads, tanh_gaussian, tanh_log_slope

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
    torch.testing.assert_close(tanh_gaussian().mode(params, features), torch.tanh(mean))


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
