"""What critics' outputs mean, against a slow loop."""

import numpy as np
import pytest
import torch

from small import normal
from steadyq.algorithm.values import Value, mean, minimum, scalar

E, B = 3, 6


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


def test_aggregates_against_a_loop() -> None:
    out = normal(0, E, B, 1)
    lowest, average = minimum(out, scalar()), mean(out, scalar())
    assert lowest.shape == average.shape == (B, 1)
    for i in range(B):
        column = [float(out[e, i, 0]) for e in range(E)]
        assert lowest[i, 0].item() == min(column)  # each row may have another lowest critic
        assert average[i, 0].item() == pytest.approx(np.mean(column), rel=1e-6)


def test_the_minimum_of_a_distribution_is_refused() -> None:
    value = Value(size=5, mean=lambda out: out.mean(-1), target=scalar().target, loss=scalar().loss)
    with pytest.raises(ValueError, match="this one has 5 outputs"):
        minimum(normal(0, E, B, 5), value)
    assert mean(normal(0, E, B, 5), value).shape == (B, 5)
