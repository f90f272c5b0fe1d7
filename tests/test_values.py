"""What critics' outputs mean, and an ensemble's one voice, against slow loops."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.func import vmap

from small import normal
from steadyq.algorithm.values import Value, categorical, first, mean, minimum, quantile, scalar, subset_minimum

E, B = 3, 6
DRAW = torch.tensor([0.3, 0.1, 0.7])

VALUES = [scalar(), quantile(5), categorical(5, low=-2.0, high=3.0)]
NAMES = ["scalar", "quantile", "categorical"]


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max())
    return e / e.sum()


# Scalar


def test_target_against_a_loop() -> None:
    next_out, reward, bonus = normal(0, B, 1), normal(1, B), normal(2, B)
    discount = torch.tensor([0.0, 0.99, 0.5, 0.0, 0.99, 1.0])
    y = scalar().target(next_out, reward, discount, bonus)
    assert y.shape == (B, 1)
    for i in range(B):
        wanted = float(reward[i]) + float(discount[i]) * (float(next_out[i, 0]) + float(bonus[i]))
        assert y[i, 0].item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_loss_against_a_loop(weight: float) -> None:
    out, y = normal(0, B, 1), normal(1, B, 1)
    losses = scalar(weight=weight).loss(out, y)
    assert losses.shape == (B,)
    for i in range(B):
        assert losses[i].item() == pytest.approx(weight * (float(out[i, 0]) - float(y[i, 0])) ** 2, rel=1e-6)


def test_mean_of_a_scalar_is_the_scalar() -> None:
    out = normal(0, E, B, 1)
    assert torch.equal(scalar().mean(out), out[..., 0])
    assert scalar().size == 1


# Quantiles


def quantile_loss_in_numpy(out: np.ndarray, y: np.ndarray, kappa: float) -> np.ndarray:
    """Dabney et al. 2018, equations 9 and 10: summed over predicted quantiles i, averaged over target ones j."""
    size = out.shape[1]
    losses = np.zeros(len(out))
    for b in range(len(out)):
        for i in range(size):
            tau = (2 * i + 1) / (2 * size)
            for j in range(size):
                u = y[b, j] - out[b, i]
                huber = 0.5 * u * u if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
                losses[b] += abs(tau - (1.0 if u < 0 else 0.0)) * huber / kappa / size
    return losses


@pytest.mark.parametrize("kappa", [1.0, 0.4, 3.0])
def test_quantile_loss_against_a_loop(kappa: float) -> None:
    """Errors on both sides of kappa, of both signs, and exactly 0 and kappa."""
    out, y = normal(0, B, 7).double(), 2 * normal(1, B, 7).double()
    y[0], y[1] = out[0], out[1, 0] + kappa
    got = quantile(7, kappa=kappa).loss(out, y)
    assert got.shape == (B,)
    np.testing.assert_allclose(got.numpy(), quantile_loss_in_numpy(out.numpy(), y.numpy(), kappa), rtol=1e-12)


def test_quantile_loss_is_least_at_the_targets_quantiles() -> None:
    """Of K numbers, the quantile at (i - 1/2) / K is the i-th; with a small kappa nothing else matters."""
    y, value = normal(2, 1, 5).double(), quantile(5, kappa=1e-4)
    best = y.sort(-1).values
    least = value.loss(best, y)
    for i, move in itertools.product(range(5), (-0.3, -0.01, 0.01, 0.3)):
        other = best.clone()
        other[0, i] += move
        assert value.loss(other, y) > least


def test_quantile_target_and_mean_against_a_loop() -> None:
    next_out, reward, bonus = normal(0, B, 5).double(), normal(1, B).double(), normal(2, B).double()
    discount = torch.tensor([0.0, 0.99, 0.5, 0.0, 0.99, 1.0]).double()
    value = quantile(5)
    y, middle = value.target(next_out, reward, discount, bonus), value.mean(next_out)
    assert (y.shape, middle.shape, value.size) == ((B, 5), (B,), 5)
    for b in range(B):
        row = [float(q) for q in next_out[b]]
        assert middle[b].item() == pytest.approx(sum(row) / 5, rel=1e-12)
        for k in range(5):
            wanted = float(reward[b]) + float(discount[b]) * (row[k] + float(bonus[b]))
            assert y[b, k].item() == pytest.approx(wanted, rel=1e-12)


# Categories


def projection_in_numpy(
    logits: np.ndarray, reward: np.ndarray, discount: np.ndarray, bonus: np.ndarray, *, low: float, high: float
) -> np.ndarray:
    """Bellemare et al. 2017, algorithm 1: each moved atom's mass to the neighbours below and above it."""
    size = logits.shape[1]
    gap = (high - low) / (size - 1)
    projected = np.zeros_like(logits)
    for b in range(len(logits)):
        p = softmax(logits[b])
        for j in range(size):
            moved = min(max(reward[b] + discount[b] * (low + j * gap + bonus[b]), low), high)
            at = (moved - low) / gap
            below = min(math.floor(at), size - 1)
            if at == below:
                projected[b, below] += p[j]
            else:
                projected[b, below] += p[j] * (below + 1 - at)
                projected[b, below + 1] += p[j] * (at - below)
    return projected


REWARDS = [0.3, 20.0, -20.0, 3.5, 1.0, 2.0, -0.7, -9.0]
DISCOUNTS = [0.99, 0.99, 0.9, 0.99, 1.0, 0.0, 0.0, 0.0]
BONUSES = [-0.2, 0.5, 0.5, 4.0, 0.0, 7.0, -7.0, 0.0]
"""Inside; beyond either end as a whole; in part; one atom further; terminal: on an atom, between two and beyond."""


@pytest.mark.parametrize(("size", "low", "high"), [(11, -5.0, 5.0), (101, -5.0, 5.0), (7, -1.0, 0.5), (2, 0.0, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_projection_against_a_loop(size: int, low: float, high: float, dtype: torch.dtype) -> None:
    logits = 2 * normal(0, len(REWARDS), size).to(dtype)
    reward, discount, bonus = (torch.tensor(x, dtype=dtype) for x in (REWARDS, DISCOUNTS, BONUSES))
    y = categorical(size, low=low, high=high).target(logits, reward, discount, bonus)
    wanted = projection_in_numpy(*(x.double().numpy() for x in (logits, reward, discount, bonus)), low=low, high=high)
    assert y.dtype == dtype
    # float32 places an atom of 5 within 2e-6 or so, which is 2e-5 of a gap of 0.1
    np.testing.assert_allclose(y.double().numpy(), wanted, rtol=0, atol=1e-12 if dtype == torch.float64 else 3e-5)


def test_projection_by_hand() -> None:
    """Atoms -2, -1, 0, 1, 2."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15])

    def target(reward: float, discount: float, bonus: float) -> Tensor:
        numbers = [torch.tensor([float(x)]) for x in (reward, discount, bonus)]
        return categorical(5, low=-2.0, high=2.0).target(p.log()[None], *numbers)[0]

    for got, wanted in [
        (target(0, 1, 0), [0.1, 0.2, 0.3, 0.25, 0.15]),
        (target(1, 1, 0), [0, 0.1, 0.2, 0.3, 0.4]),  # each exactly on another, the last cut off
        (target(0, 1, -1), [0.3, 0.3, 0.25, 0.15, 0]),  # the entropy bonus moves them like a reward
        (target(-9, 1, 0), [1, 0, 0, 0, 0]),
        (target(9, 1, 0), [0, 0, 0, 0, 1]),
        (target(1, 0, 5), [0, 0, 0, 1, 0]),  # terminal: neither next values nor bonus
        (target(0.25, 0, 0), [0, 0, 0.75, 0.25, 0]),
        (target(0, 0.5, 0), [0, 0.2, 0.525, 0.275, 0]),  # to -1, -1/2, 0, 1/2 and 1: 0.1 + 0.2 / 2, ...
    ]:
        torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float32), rtol=0, atol=1e-6)


def test_projection_keeps_the_mass_always_and_the_mean_where_nothing_is_cut_off() -> None:
    n, value = 300, categorical(51, low=-5.0, high=5.0)
    rng = np.random.default_rng(0)
    logits = 3 * normal(1, n, 51).double()
    discount = torch.from_numpy(rng.uniform(0, 0.9, n))
    reward, bonus = (torch.from_numpy(rng.uniform(-0.25, 0.25, n)) for _ in range(2))
    inside = value.target(logits, reward, discount, bonus)
    assert (inside >= 0).all()
    torch.testing.assert_close(inside.sum(-1), torch.ones(n).double())
    atoms = torch.linspace(-5, 5, 51).double()
    torch.testing.assert_close(inside @ atoms, reward + discount * (value.mean(logits) + bonus))

    cut = value.target(logits, 30 * reward, discount, bonus)
    torch.testing.assert_close(cut.sum(-1), torch.ones(n).double())
    assert ((cut @ atoms - (30 * reward + discount * (value.mean(logits) + bonus))).abs() > 0.1).any()


def test_cross_entropy_and_mean_against_a_loop() -> None:
    value = categorical(5, low=-2.0, high=3.0)
    out, y = 3 * normal(0, B, 5).double(), normal(1, B, 5).double().softmax(-1)
    losses, middles = value.loss(out, y), value.mean(out)
    assert (losses.shape, middles.shape, value.size) == ((B,), (B,), 5)
    for b in range(B):
        p = softmax(out[b].numpy())
        wanted = -sum(float(y[b, k]) * math.log(p[k]) for k in range(5))
        assert losses[b].item() == pytest.approx(wanted, rel=1e-10)
        assert middles[b].item() == pytest.approx(sum(p[k] * (-2 + 1.25 * k) for k in range(5)), rel=1e-10)


def test_cross_entropys_gradient_is_predicted_minus_target() -> None:
    value = categorical(5, low=-2.0, high=3.0)
    out, y = normal(0, B, 5).double().requires_grad_(), normal(1, B, 5).double().softmax(-1)
    (gradient,) = torch.autograd.grad(value.loss(out, y).sum(), out)
    torch.testing.assert_close(gradient, out.softmax(-1).detach() - y)


def test_extreme_logits_stay_finite() -> None:
    value = categorical(5, low=-2.0, high=3.0)
    out = torch.tensor([[300.0, -300.0, 0.0, 0.0, 0.0]])
    y = value.target(out, torch.zeros(1), torch.ones(1), torch.zeros(1))
    torch.testing.assert_close(y, torch.eye(5)[:1])
    assert value.loss(out, torch.eye(5)[1:2]).item() == 600


# Mixtures


def test_a_mixture_of_quantiles_averages_quantile_by_quantile() -> None:
    out = normal(0, E, B, 5)
    for b, k in itertools.product(range(B), range(5)):
        wanted = np.mean([float(out[e, b, k]) for e in range(E)])
        assert quantile(5).average(out)[b, k].item() == pytest.approx(wanted, abs=1e-6)


def test_a_mixture_of_categories_averages_probabilities() -> None:
    """Not logits: those of the mean of 0.9 and 0.1 are level, and so must their means and targets be the members'."""
    value, out = categorical(5, low=-2.0, high=3.0), 3 * normal(0, E, B, 5).double()
    mixed = value.average(out)
    assert mixed.shape == (B, 5)
    for b in range(B):
        wanted = sum(softmax(out[e, b].numpy()) for e in range(E)) / E
        np.testing.assert_allclose(softmax(mixed[b].numpy()), wanted, rtol=1e-10)
    torch.testing.assert_close(value.mean(mixed), value.mean(out).mean(0))
    numbers = normal(1, B).double(), torch.full((B,), 0.9).double(), normal(2, B).double()
    members = torch.stack([value.target(out[e], *numbers) for e in range(E)])
    torch.testing.assert_close(value.target(mixed, *numbers), members.mean(0))


# One voice for an ensemble


def test_aggregates_against_a_loop() -> None:
    out = normal(0, E, B, 1)
    lowest, average = minimum(out, scalar(), DRAW), mean(out, scalar(), DRAW)
    assert lowest.shape == average.shape == (B, 1)
    for i in range(B):
        column = [float(out[e, i, 0]) for e in range(E)]
        assert lowest[i, 0].item() == min(column)  # each row may have another lowest critic
        assert average[i, 0].item() == pytest.approx(np.mean(column), rel=1e-6)


@pytest.mark.parametrize("value", VALUES[1:], ids=NAMES[1:])
def test_the_minimum_of_distributions_is_the_member_with_the_lowest_mean(value: Value) -> None:
    out = normal(3, E, 20, 5)
    got = minimum(out, value, DRAW)
    chosen = set()
    for b in range(20):
        lowest = min(range(E), key=lambda e, b=b: float(value.mean(out[e, b])))
        assert torch.equal(got[b], out[lowest, b])  # whole, not quantile by quantile
        chosen.add(lowest)
    assert chosen == set(range(E))


@pytest.mark.parametrize("value", VALUES, ids=NAMES)
def test_mean_is_the_mixture_and_first_the_first(value: Value) -> None:
    out = normal(0, E, B, value.size)
    assert torch.equal(mean(out, value, DRAW), value.average(out))
    assert torch.equal(first(out, value, DRAW), out[0])


def subsets(m: int, n_critics: int, draws: Tensor) -> list[tuple[int, ...]]:
    """Which members each draw chose: member e alone is low in row e."""
    out = 1 - torch.eye(n_critics).unsqueeze(-1)  # [E, B = E, 1]
    low = vmap(lambda draw: subset_minimum(m)(out, scalar(), draw))(draws)  # as the several-seeds axis does
    return [tuple(np.flatnonzero(row == 0).tolist()) for row in low.squeeze(-1).numpy()]


@pytest.mark.parametrize(("n_critics", "m"), [(10, 2), (5, 3), (4, 1)])
def test_all_subsets_are_equally_likely(n_critics: int, m: int) -> None:
    draws = torch.from_numpy(np.random.default_rng(0).random((9_000, n_critics), dtype=np.float32))
    counts = Counter(subsets(m, n_critics, draws))
    wanted = set(itertools.combinations(range(n_critics), m))
    assert set(counts) == wanted
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("value", VALUES, ids=NAMES)
def test_the_minimum_over_a_subset_of_all_is_the_minimum(value: Value) -> None:
    out = normal(0, E, B, value.size)
    assert torch.equal(subset_minimum(E)(out, value, DRAW), minimum(out, value, DRAW))


@pytest.mark.parametrize("value", VALUES, ids=NAMES)
def test_the_minimum_over_a_subset_is_that_of_its_members(value: Value) -> None:
    out = normal(0, 4, B, value.size)
    draw = torch.tensor([0.4, 0.1, 0.9, 0.2])
    (members,) = subsets(2, 4, draw.unsqueeze(0))
    got = subset_minimum(2)(out, value, draw)
    assert torch.equal(got, minimum(out[list(members)], value, draw[:2]))
