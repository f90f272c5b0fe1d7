"""Dead and dormant units, ranks and the plasticity probe, on networks whose answers are known."""

import numpy as np
import pytest
import torch

from small import normal
from steadyq.algorithm import plasticity, units
from steadyq.algorithm.networks import bro_net, mlp, simba_net
from steadyq.algorithm.nn import Dense, Layer, batch_norm, dense, relu, serial
from steadyq.algorithm.tree import stack

ROWS = torch.tensor([[1.0], [3.0]])


def one_layer(weights: list[float]) -> tuple[Layer, tuple]:
    """ReLU units of a single positive input: mean activation is twice the weight, or 0 where that is negative."""
    return serial(dense(len(weights)), relu()), (Dense(torch.tensor([weights]), ()), ())


def test_dead_and_dormant_units_by_hand() -> None:
    torso, params = one_layer([-1.0, 0.0, 0.1, 0.5, 9.4])  # mean activation of the layer: 4, so dormant up to 0.4
    got = units.activity(torso, stack([params]), ((), ()), ROWS)
    assert got["dead_units"] == got["dead_units/relu_0"] == pytest.approx(2 / 5)
    assert got["dormant_units"] == pytest.approx(3 / 5)
    assert got["feature_rank"] == 1
    assert got["feature_stable_rank"] == pytest.approx(1)


def test_a_dead_layer_is_all_dead() -> None:
    torso, params = one_layer([-1.0, -2.0])
    got = units.activity(torso, stack([params]), ((), ()), ROWS)
    assert got == {
        "dead_units": 1,
        "dead_units/relu_0": 1,
        "dormant_units": 1,
        "dormant_units/relu_0": 1,
        "feature_rank": 0,
        "feature_stable_rank": 0,
    }


def test_critics_are_averaged() -> None:
    torso, alive = one_layer([1.0, 1.0])
    _, half = one_layer([1.0, -1.0])
    assert units.activity(torso, stack([alive, half]), ((), ()), ROWS)["dead_units"] == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("torso", "relus"),
    [(mlp(8, 8, norm=batch_norm), 2), (bro_net(8, blocks=2), 3), (simba_net(8, blocks=2), 2)],
)
def test_every_relu_is_seen_wherever_it_is(torso: Layer, relus: int) -> None:
    params, stats, _ = torso.init(np.random.default_rng(0), 3)
    got = units.activity(torso, stack([params]), stack([stats]), normal(1, 32, 3))
    assert sum(name.startswith("dead_units/relu_") for name in got) == relus


def test_effective_rank_by_hand() -> None:
    assert units.effective_rank(torch.tensor([1.0, 1.0, 1.0, 1.0])) == 4
    assert units.effective_rank(torch.tensor([98.0, 1.5, 0.5])) == 2  # 98% is too little, 99.5% is enough
    assert units.effective_rank(torch.tensor([99.5, 0.5])) == 1


def fresh(torso: Layer, seed: int = 0) -> tuple:
    params, stats, _ = torso.init(np.random.default_rng(seed), 4)
    return stack([params]), stack([stats])


def test_a_fresh_network_probes_like_a_fresh_one_and_a_dead_one_learns_nothing() -> None:
    torso, rows = mlp(64, 64), normal(3, 64, 4)
    got = plasticity.probe(torso, *fresh(torso), rows, np.random.default_rng(5))
    assert 0 < got["fresh_loss"] < 1
    assert got["loss"] == pytest.approx(got["fresh_loss"], rel=0.3)
    (params, stats) = fresh(torso)
    dead = (*params[:2], params[2]._replace(w=0 * params[2].w, b=params[2].b - 1), *params[3:])
    assert plasticity.probe(torso, dead, stats, rows, np.random.default_rng(5))["loss"] == pytest.approx(1, abs=1e-3)


def test_large_weights_are_slow_to_train() -> None:
    """What the probe is for: Adam's steps turn weights the less the longer they are, so less is learned in as many."""
    torso, rows = mlp(64, 64, norm=batch_norm), normal(3, 64, 4)
    params, stats = fresh(torso)
    long = tuple(p._replace(w=30 * p.w) if isinstance(p, Dense) else p for p in params)
    short = plasticity.probe(torso, params, stats, rows, np.random.default_rng(5))
    slow = plasticity.probe(torso, long, stats, rows, np.random.default_rng(5))
    assert slow["loss"] > 1.5 * short["loss"]
    assert slow["fresh_loss"] == short["fresh_loss"]
