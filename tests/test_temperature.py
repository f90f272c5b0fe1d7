"""The entropy's weight: loss, slope and first updates by hand."""

import math

import pytest
import torch
from torch.func import grad

from steadyq.algorithm.optim import adamw
from steadyq.algorithm.temperature import Temperature, fixed, tuned

A = 6


def number(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def updated(temperature: Temperature, entropies: list[float]) -> list[float]:
    """Alpha before the first update and after each."""
    params = temperature.init()
    opt, alphas = temperature.optimiser.init(params), [temperature.alpha(params).item()]
    for entropy in entropies:
        slope = grad(temperature.loss)(params, torch.tensor(entropy), A)
        params, opt = temperature.optimiser.update(slope, opt, params)
        alphas.append(temperature.alpha(params).item())
    return alphas


@pytest.mark.parametrize("start", [1.0, 0.01, 2.5])
def test_start(start: float) -> None:
    temperature = tuned(start)
    assert temperature.init().item() == pytest.approx(math.log(start), rel=1e-6)
    assert temperature.alpha(temperature.init()).item() == pytest.approx(start, rel=1e-6)
    assert temperature.init().shape == ()
    assert temperature.init().dtype == torch.float32


@pytest.mark.parametrize(
    ("log_alpha", "entropy", "target_entropy", "wanted"),
    [
        (0.0, 5.0, -0.5, 8.0),  # 1 * (5 + 3)
        (math.log(0.5), -4.0, -0.5, -0.5),  # 0.5 * (-4 + 3)
        (math.log(2.0), 1.0, -1.0, 14.0),  # 2 * (1 + 6)
        (math.log(3.0), 2.0, 0.0, 6.0),
        (0.7, -3.0, -0.5, 0.0),  # on target
    ],
)
def test_loss_and_slope(log_alpha: float, entropy: float, target_entropy: float, wanted: float) -> None:
    """alpha (H - target |A|); alpha being an exponential, the slope in its logarithm is the same number."""
    loss = tuned(target_entropy=target_entropy).loss
    args = number(log_alpha), number(entropy), A
    assert loss(*args).item() == pytest.approx(wanted, abs=1e-12)
    assert grad(loss)(*args).item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("log_alpha", [0.0, -3.0, 0.7])
def test_weighted_by_log_alpha(log_alpha: float) -> None:
    """Of REDQ's code: the slope is the entropy's excess, whatever alpha is."""
    loss = tuned(target_entropy=-0.5, weight="log_alpha").loss
    args = number(log_alpha), number(5.0), A
    assert loss(*args).item() == pytest.approx(8 * log_alpha, abs=1e-12)
    assert grad(loss)(*args).item() == pytest.approx(8.0, abs=1e-12)


def test_the_target_is_half_the_action_dimension_by_default() -> None:
    assert tuned().loss(number(0.0), number(-A / 2), A).item() == 0.0


def test_alpha_follows_the_entropy() -> None:
    """Too random: a lower price on it; too certain: a higher one."""
    too_random, too_certain = updated(tuned(), [9.0] * 4), updated(tuned(), [-9.0] * 4)
    assert too_random == sorted(too_random, reverse=True)
    assert too_random[-1] < too_random[0] == 1.0
    assert too_certain == sorted(too_certain)
    assert too_certain[-1] > 1.0


@pytest.mark.parametrize(("chosen", "size"), [({}, 3e-4), ({"optimiser": adamw(0.01, b1=0.5)}, 0.01)])
def test_the_first_step_is_the_optimiser_s(chosen: dict, size: float) -> None:
    """Adam's first step has its step size, whatever the slope."""
    for entropy, sign in [(50.0, -1), (-50.0, 1)]:
        assert updated(tuned(0.2, **chosen), [entropy])[-1] == pytest.approx(0.2 * math.exp(sign * size), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 0.0, 0, 1])
def test_fixed_stays_put(alpha: float) -> None:
    """To the bit, whatever the entropy; a whole number is a number too."""
    kept = torch.tensor(alpha, dtype=torch.float32).item()
    assert updated(fixed(alpha), [3.0, -100.0, 1e6, 0.0]) == [kept] * 5
    assert fixed(alpha).init().dtype == torch.float32
    assert fixed(alpha).loss(fixed(alpha).init(), torch.tensor(7.0), A).item() == 0.0
