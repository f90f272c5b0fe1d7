"""Norms, gradient-to-weight ratios and rotations, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from small import BATCH, for_critic, normal, small, transitions
from steadyq.algorithm import weights
from steadyq.algorithm.nn import Dense, Norm, Readout
from steadyq.algorithm.tree import tree_map
from steadyq.algorithm.types import Params


def net(*numbers: float) -> Params:
    """One critic: two inputs, two hidden units with biases, one output without."""
    a, b, c, d, bias_0, bias_1, out_0, out_1 = numbers
    hidden = Dense(torch.Tensor([[[a, b], [c, d]]]), torch.Tensor([[bias_0, bias_1]]))
    norm = Norm(torch.Tensor([[1, 3]]), torch.Tensor([[-1, -2]]))
    return (hidden, norm), Readout(torch.Tensor([[[out_0], [out_1]]]), ())


def test_norms_by_hand() -> None:
    # Units (2, 1 | 2) of norm 3 and (4, 4 | 2) of norm 6; matrix norm sqrt(4 + 1 + 16 + 16); readout 5.
    got = weights.norms(net(2, 4, 1, 4, 2, 2, 3, 4))
    wanted = {
        "weight_norm": math.sqrt(37) + 5,
        "weight_norm/hidden_0": math.sqrt(37),
        "weight_norm/readout": 5,
        "unit_norm_mean/hidden_0": 4.5,
        "unit_norm_std/hidden_0": 1.5,
        "unit_norm_mean/readout": 5,
        "unit_norm_std/readout": 0,
    }
    assert got == pytest.approx(wanted)


def test_critics_are_averaged() -> None:
    both = tree_map(lambda a, b: torch.cat([a, b]), net(2, 4, 1, 4, 2, 2, 3, 4), net(0, 0, 0, 1, 0, 1, 0, 1))
    got = weights.norms(both)
    assert got["weight_norm"] == pytest.approx((math.sqrt(37) + 5 + 1 + 1) / 2)
    assert got["unit_norm_std/hidden_0"] == pytest.approx((1.5 + math.sqrt(2) / 2) / 2)


def test_scales_by_hand() -> None:
    got = weights.scales(net(*range(8)))
    assert got["norm_scale_mean"] == got["norm_scale_mean/norm_0"] == 2
    assert got["norm_scale_std"] == 1
    assert got["norm_shift_mean"] == -1.5
    assert got["norm_shift_std/norm_0"] == 0.5
    assert weights.scales(Dense(torch.ones(2, 2), ())) == {}


def test_effective_learning_rate_by_hand() -> None:
    params, grads = net(2, 4, 1, 4, 2, 2, 3, 4), net(0, 3, 4, 0, 12, 0, 0, 0.5)
    got = weights.gradients(params, grads)
    hidden, last = 5 / math.sqrt(37), 0.5 / 5
    wanted = {
        "elr/hidden_0": hidden,
        "elr/readout": last,
        "elr": (4 * hidden + 2 * last) / 6,  # weighted by 4 and 2 weights; biases and norms are no part of it
        "gradient_norm/hidden_0": 5,
        "gradient_norm/readout": 0.5,
        "gradient_norm": math.sqrt(25 + 144 + 0.25 + (1 + 9) + (1 + 4)),  # of everything
    }
    assert got == pytest.approx(wanted)


def test_rotation_by_hand() -> None:
    before = net(1, 0, 0, 3, 0, 4, 1, 0)
    # Unit 0 from (1, 0 | 0) to (1, 1 | 0): 45 degrees. Unit 1 (0, 3 | 4) twice as long: none. Readout turned round.
    got = weights.rotation(before, net(1, 0, 1, 6, 0, 8, -2, 0))
    assert got == pytest.approx(
        {"rotation/hidden_0": math.pi / 8, "rotation/readout": math.pi, "rotation": 5 / 12 * math.pi}
    )


@pytest.mark.parametrize("step", [1e-2, 3e-4, 1e-6])
def test_small_rotations_keep_their_digits(step: float) -> None:
    """Where the arc cosine of float32, or of the float64 below 1e-8, says 0 or anything."""
    one = Dense(torch.eye(2), ())
    turned = Dense(torch.tensor([[1.0, 0.0], [step, 1.0]]), ())
    assert weights.rotation(one, turned)["rotation/hidden_0"] == pytest.approx(math.atan(step) / 2, rel=1e-6)


def test_the_gradient_is_that_of_the_update() -> None:
    """Over both critics, as `train/critic_grad_norm` has it."""
    _, agent, state = small("crossq_wn")
    batch = transitions(0, BATCH)
    noise = for_critic(agent, normal(1, BATCH, 2))
    grads, q, target = agent.critic_gradient(state, batch, noise)
    _, metrics = agent.step("critic").update(state, batch, noise)
    each = [
        weights.gradients(*[tree_map(lambda leaf, i=i: leaf[i : i + 1], tree) for tree in (state.critic.params, grads)])
        for i in range(2)
    ]
    norm = math.hypot(*[one["gradient_norm"] for one in each])
    assert norm == pytest.approx(float(metrics["train/critic_grad_norm"]), rel=1e-5)
    assert float(target.mean()) == pytest.approx(float(metrics["train/target_q_mean"]))
    assert float(q.mean()) == pytest.approx(float(metrics["train/q_mean"]))


def test_a_projected_layer_has_the_norm_of_the_paper() -> None:
    """Unit norm for each of n units, bias counted: sqrt(n) for the matrix while biases are 0, as at the start."""
    got = weights.norms(small("crossq_wn", width=64).state.critic.params)
    assert got["weight_norm/hidden_0"] == pytest.approx(8)
    assert got["unit_norm_mean/hidden_1"] == pytest.approx(1)
    assert got["unit_norm_std/hidden_1"] == pytest.approx(0, abs=1e-6)


def test_layers_are_named_in_order() -> None:
    assert list(weights.layers(small("simba").state.critic.params)) == [*(f"hidden_{i}" for i in range(5)), "readout"]
    assert list(weights.layers(small("sac").state.actor.params)) == ["hidden_0", "hidden_1", "readout_0", "readout_1"]
    assert np.prod(weights.units(Dense(torch.ones(3, 2), torch.ones(2))).shape) == 8
