"""Exploration: BRO's optimistic actor against its formulas in NumPy, and TD3's noise.

The oracle is written from the paper and the authors' released code: base policy N(mu, sigma), optimistic policy
N(mu + shift, (m sigma)^2), two critics with quantiles. Slopes are central differences in float64.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.func import vmap

from small import assert_close, double, normal, same_bits
from steadyq.algorithm.explore import OPTIMISM_METRICS, Base, Explore, Optimism, gaussian, optimistic, sample
from steadyq.algorithm.networks import bro_net
from steadyq.algorithm.nn import dense, plain, serial
from steadyq.algorithm.optim import Optimiser, adamw
from steadyq.algorithm.tree import leaves, stack, tree_map

B, O, A, E, K, WIDTH = 7, 3, 2, 2, 5, 6  # noqa: E741

OBS, NOISE = normal(0, B, O).double(), normal(1, B, A).double()
TO_MEAN, TO_LOG_STD = normal(2, O, A).double(), normal(3, O, A).double()
TO_Q = 1.5 * normal(4, E, A, K).double()

TORSO = serial(dense(WIDTH), plain(torch.tanh))  # smooth, for finite differences

RETURN_GRADIENTS = Optimiser(lambda params: (), lambda grads, state, params: (grads, state))
"""Puts the gradient where the new parameters would be."""


def policy(obs: Tensor) -> tuple[Tensor, Tensor]:
    return obs @ TO_MEAN, torch.sin(obs @ TO_LOG_STD) - 1


def never_sampled(obs: Tensor, noise: Tensor) -> Tensor:
    raise AssertionError("the optimistic actor draws its own actions")


BASE = Base(never_sampled, policy)


def critics(action: Tensor) -> Tensor:
    """Two that disagree in sign and size, [E, B, K]."""
    return torch.sin(torch.einsum("ba,eak->ebk", action, TO_Q))


def numpy_policy() -> tuple[np.ndarray, np.ndarray]:
    obs = OBS.numpy()
    return obs @ TO_MEAN.numpy(), np.exp(np.sin(obs @ TO_LOG_STD.numpy()) - 1)


def oracle_gaussian(weights: list[np.ndarray], multiplier: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the optimistic policy before the tanh."""
    w, b, head = weights
    mean, std = numpy_policy()
    hidden = np.tanh(np.concatenate([OBS.numpy(), mean], -1) @ w + b)
    return mean + hidden @ head, multiplier * std


def oracle_loss(
    weights: list[np.ndarray], *, optimism: float, regulariser: float, multiplier: float
) -> tuple[float, float]:
    """The optimistic actor's loss and its divergence, logarithms of variances and all."""
    mean, std = numpy_policy()
    new_mean, new_std = oracle_gaussian(weights, multiplier)
    action = np.tanh(new_mean + new_std * NOISE.numpy())
    q1, q2 = (np.sin(action @ w) for w in TO_Q.numpy())
    compared = new_std / multiplier
    kl = np.log(std / compared) + (compared**2 + (new_mean - mean) ** 2) / (2 * std**2) - 0.5
    kl = kl.sum(-1).mean()
    upper = (q1 + q2) / 2 + optimism * np.abs(q1 - q2) / 2
    return -upper.mean() + regulariser * kl, kl


def central_difference(f: Callable[[np.ndarray], float], x: np.ndarray, h: float = 1e-6) -> np.ndarray:
    slopes = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        slopes[i] = (f(x + step) - f(x - step)) / (2 * h)
    return slopes


def squashed(params: float) -> float:
    """The weight that a squashed logarithm in [-10, 7.5] stands for."""
    return float(np.exp(-10 + 17.5 * 0.5 * (1 + np.tanh(params))))


def begin(explore: Explore, *, head_scale: float = 30.0, seed: int = 0) -> Optimism:
    """A first state in float64, its last layer enlarged so that the shift is worth measuring."""
    state = double(explore.init(np.random.default_rng(seed), O, A))
    torso, head = state.actor.params
    params = (torso, head._replace(w=head.w * head_scale))
    return state._replace(actor=state.actor._replace(params=params))


def weights_of(state: Optimism) -> list[np.ndarray]:
    w, b, head = (leaf.numpy() for leaf in leaves(state.actor.params))
    assert (w.shape, b.shape, head.shape) == ((O + A, WIDTH), (WIDTH,), (WIDTH, A))
    return [w, b, head]


def learn(explore: Explore, state: Optimism, obs: Tensor = OBS, noise: Tensor = NOISE) -> tuple[Optimism, dict]:
    assert explore.learn is not None
    return explore.learn(state, BASE, critics, obs, noise)


@pytest.mark.parametrize("multiplier", [0.75, 1.3])
def test_the_optimistic_policy(multiplier: float) -> None:
    """tanh of a draw from N(mu + shift, (m sigma)^2)."""
    explore = optimistic(TORSO, optimiser=adamw(1e-3), std_multiplier=multiplier)
    state = begin(explore)
    mean, std = oracle_gaussian(weights_of(state), multiplier)
    action = explore.act(state, BASE, OBS, NOISE)
    np.testing.assert_allclose(action.numpy(), np.tanh(mean + std * NOISE.numpy()), rtol=1e-12)
    middle = explore.act(state, BASE, OBS, torch.zeros_like(NOISE))
    np.testing.assert_allclose(middle.numpy(), np.tanh(mean), rtol=1e-12)
    assert np.abs(mean - numpy_policy()[0]).max() > 0.05


def test_the_multiplier_is_three_quarters() -> None:
    explore = optimistic(TORSO, optimiser=adamw(1e-3))
    state = begin(explore)
    away = explore.act(state, BASE, OBS, NOISE).atanh() - explore.act(state, BASE, OBS, 0 * NOISE).atanh()
    np.testing.assert_allclose(away.numpy(), 0.75 * numpy_policy()[1] * NOISE.numpy(), rtol=1e-9)


@pytest.mark.parametrize(("optimism", "regulariser"), [(1.0, 0.25), (1e-4, 3.0), (2.5, 0.01)])
def test_loss_and_divergence(optimism: float, regulariser: float) -> None:
    """Against the formula, and the divergence against torch's of the two Gaussians with the multiplier left out."""
    weight = {"optimism": optimism, "regulariser": regulariser}
    explore = optimistic(TORSO, optimiser=adamw(1e-3), **weight)
    state = begin(explore)
    _, metrics = learn(explore, state)
    assert tuple(metrics) == explore.metrics == OPTIMISM_METRICS
    loss, kl = oracle_loss(weights_of(state), **weight, multiplier=0.75)
    assert metrics["train/optimism"].item() == pytest.approx(optimism, rel=1e-5)
    assert metrics["train/kl_weight"].item() == pytest.approx(regulariser, rel=1e-5)
    assert metrics["train/optimistic_loss"].item() == pytest.approx(loss, rel=1e-5)
    assert metrics["train/kl"].item() == pytest.approx(kl, rel=1e-10)

    mean, std = (torch.from_numpy(x) for x in numpy_policy())
    moved = torch.from_numpy(oracle_gaussian(weights_of(state), 0.75)[0])
    theirs = kl_divergence(Normal(moved, std), Normal(mean, std)).sum(-1).mean()
    torch.testing.assert_close(metrics["train/kl"], theirs, rtol=1e-10, atol=0)
    assert theirs > 0.01


@pytest.mark.parametrize(("optimism", "regulariser"), [(1.0, 0.25), (3.0, 5.0)])
def test_gradient_of_the_loss(optimism: float, regulariser: float) -> None:
    explore = optimistic(TORSO, optimiser=RETURN_GRADIENTS, optimism=optimism, regulariser=regulariser)
    state = begin(explore)
    weights = weights_of(state)
    new, _ = learn(explore, state)
    exact = {
        "optimism": squashed(state.optimism.params.item()),
        "regulariser": squashed(state.regulariser.params.item()),
    }
    for i, got in enumerate(leaves(new.actor.params)):

        def loss(x: np.ndarray, i: int = i) -> float:
            return oracle_loss([*weights[:i], x, *weights[i + 1 :]], **exact, multiplier=0.75)[0]

        wanted = central_difference(loss, weights[i])
        assert np.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-6, atol=1e-8)


def test_more_critics_than_two() -> None:
    """The spread is the mean distance from the critics' mean, which for two is half their distance."""
    explore = optimistic(TORSO, optimiser=adamw(1e-3), optimism=2.0)
    state = begin(explore)
    assert explore.learn is not None
    levels = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)  # mean 3, distances 2, 1, 3
    _, metrics = explore.learn(state, BASE, lambda action: levels.view(3, 1, 1).expand(3, B, K), OBS, NOISE)
    kl = metrics["train/kl"].item()
    assert metrics["train/optimistic_loss"].item() == pytest.approx(-(3 + 2 * 2) + 0.25 * kl, rel=1e-6)


def test_start_of_the_weights() -> None:
    """1 and 1/4 come out of the squashed logarithms, as they are kept and as the first update reports them."""
    explore = optimistic(TORSO, optimiser=adamw(1e-3))
    state = explore.init(np.random.default_rng(0), O, A)
    assert squashed(state.optimism.params.item()) == pytest.approx(1.0, rel=1e-5)
    assert squashed(state.regulariser.params.item()) == pytest.approx(0.25, rel=1e-5)
    _, metrics = learn(explore, double(state))
    assert metrics["train/optimism"].item() == pytest.approx(1.0, rel=1e-5)
    assert metrics["train/kl_weight"].item() == pytest.approx(0.25, rel=1e-5)


class Dual:
    """A weight in PyTorch's Adam, fed with finite differences of its loss `sign * weight * excess`."""

    def __init__(self, params: Tensor, *, sign: float, lr: float) -> None:
        self.params, self.sign = torch.nn.Parameter(params.clone()), sign
        self.adam = torch.optim.Adam([self.params], lr=lr, betas=(0.5, 0.999))

    def step(self, excess: float) -> None:
        def loss(x: np.ndarray) -> float:
            return self.sign * squashed(float(x)) * excess

        slope = central_difference(loss, np.asarray(self.params.item()), h=1e-5)
        self.params.grad = torch.tensor(float(slope), dtype=torch.float64)
        self.adam.step()


@pytest.mark.parametrize("lr", [0.02, None])
def test_dual_updates(lr: float | None) -> None:
    """beta (KL/|A| - target) and -lambda (KL/|A| - target), each in Adam with b1 0.5, step size 3e-5 by default.

    Over updates in which the divergence goes from below the target to above it; each uses the divergence from before
    its actor's update.
    """
    chosen = {} if lr is None else {"lr": lr}
    explore = optimistic(TORSO, optimiser=adamw(0.01), **chosen)
    state = begin(explore, head_scale=5.0)
    duals = Dual(state.optimism.params, sign=1, lr=lr or 3e-5), Dual(state.regulariser.params, sign=-1, lr=lr or 3e-5)
    excesses = []
    for _ in range(40):
        _, kl = oracle_loss(weights_of(state), optimism=0, regulariser=0, multiplier=0.75)
        excesses.append(kl / A - 0.05)
        for dual in duals:
            dual.step(excesses[-1])
        state, _ = learn(explore, state)
        for net, dual in zip((state.optimism, state.regulariser), duals, strict=True):
            torch.testing.assert_close(net.params, dual.params.detach(), rtol=0, atol=1e-6 * (lr or 3e-5))
    assert min(excesses) < 0 < max(excesses)


@pytest.mark.parametrize(("kl_target", "too_far"), [(0.0, True), (1e3, False)])
def test_weights_move_the_right_way(kl_target: float, too_far: bool) -> None:
    """Too far from the policy: less optimism, a dearer divergence; too near: the other way."""
    explore = optimistic(TORSO, optimiser=adamw(1e-4), kl_target=kl_target, lr=1e-2)
    state = begin(explore)
    seen = []
    for _ in range(5):
        state, metrics = learn(explore, state)
        seen.append((metrics["train/optimism"].item(), metrics["train/kl_weight"].item()))
    optimism, regulariser = (np.diff(column) for column in np.transpose(seen))
    assert (optimism < 0).all() == (regulariser > 0).all() == too_far
    assert (optimism > 0).all() == (regulariser < 0).all() != too_far


def test_a_dear_divergence_draws_the_actor_back() -> None:
    explore = optimistic(TORSO, optimiser=adamw(0.01), regulariser=1e3)
    state = begin(explore)
    _, before = learn(explore, state)
    for _ in range(30):
        state, after = learn(explore, state)
    assert after["train/kl"] < 0.1 * before["train/kl"]


def test_the_shift_is_small_at_first() -> None:
    """Its last layer has no bias and only singular values of 0.01."""
    explore = optimistic(bro_net(64, blocks=1), optimiser=adamw(3e-4))
    state = explore.init(np.random.default_rng(0), O, A)
    torso, head = state.actor.params
    assert head.b == ()
    np.testing.assert_allclose(np.linalg.svd(head.w.numpy(), compute_uv=False), 0.01, rtol=1e-4)
    obs = OBS.float()
    mean = obs @ TO_MEAN.float()
    base = Base(never_sampled, lambda obs: (mean, torch.zeros_like(mean)))
    hidden, _ = bro_net(64, blocks=1).apply(torso, state.actor.stats[0], torch.cat([obs, mean], -1), False)
    shift = explore.act(state, base, obs, torch.zeros(B, A)).atanh() - mean
    longest = 0.01 * hidden.norm(dim=-1) + 1e-3  # and what atanh loses in float32
    assert bool((shift.norm(dim=-1) <= longest).all())
    assert shift.abs().max() > 0.01


def test_actors_of_different_seeds_start_differently() -> None:
    explore = optimistic(TORSO, optimiser=adamw(3e-4))
    one, same, other = (explore.init(np.random.default_rng(seed), O, A) for seed in (0, 0, 1))
    assert same_bits(one, same)
    assert not torch.equal(one.actor.params[1].w, other.actor.params[1].w)
    assert torch.equal(one.optimism.params, other.optimism.params)


def test_several_seeds_equal_single_ones() -> None:
    explore = optimistic(TORSO, optimiser=adamw(0.01), lr=0.01)
    states = [begin(explore, seed=seed) for seed in range(3)]
    obs, noise = normal(5, 3, B, O).double(), normal(6, 3, B, A).double()
    many: Any = stack(states)
    for _ in range(3):
        many, metrics = vmap(lambda s, o, n: learn(explore, s, o, n))(many, obs, noise)
    for i, single in enumerate(states):
        state = single
        for _ in range(3):
            state, alone = learn(explore, state, obs[i], noise[i])
        assert_close(tree_map(lambda leaf, i=i: leaf[i], many), state, rtol=1e-10, atol=1e-12)
        for name in OPTIMISM_METRICS:
            torch.testing.assert_close(metrics[name][i], alone[name], rtol=1e-10, atol=1e-12)


def test_gaussian_noise_is_cut_off_at_the_bounds() -> None:
    """TD3's exploration, number by number."""
    explore = gaussian(0.3)
    action = explore.act(explore.init(np.random.default_rng(0), O, A), BASE, OBS, NOISE)
    mean, noise = np.tanh(OBS.numpy() @ TO_MEAN.numpy()), NOISE.numpy()
    cut = 0
    for i in np.ndindex(B, A):
        wanted = mean[i] + 0.3 * noise[i]
        cut += abs(wanted) > 1
        assert action[i].item() == pytest.approx(max(-1.0, min(1.0, wanted)), rel=1e-12)
    assert 0 < cut < B * A
    assert explore.learn is None


def test_sample_is_the_policy() -> None:
    explore = sample()
    base = Base(lambda obs, noise: obs[:, :A] + noise, policy)
    assert torch.equal(explore.act(explore.init(np.random.default_rng(0), O, A), base, OBS, NOISE), OBS[:, :A] + NOISE)
    assert explore.learn is None
    assert explore.metrics == ()
