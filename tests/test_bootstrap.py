"""Where the next value comes from: one pass or two, which parameters, which moments, and what carries a gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import vmap

from small import ACTION, BATCH, OBS, double, normal, same_bits, transitions
from steadyq.algorithm.bootstrap import Forward, joint, none, polyak, separate
from steadyq.algorithm.networks import mlp
from steadyq.algorithm.nn import Layer, batch_norm, batch_renorm, dense, dropout, readout, relu, serial
from steadyq.algorithm.tree import leaves, stack, tree_map
from steadyq.algorithm.types import CriticNoise, Params, Transition

E = 2
BATCHES = double(transitions(0, BATCH))
NEXT_ACTION = normal(1, BATCH, ACTION).tanh().double()
NO_NOISE = CriticNoise(NEXT_ACTION)


class Critics(NamedTuple):
    """An ensemble as `Forward` wants it, which writes down how it was called."""

    apply: Callable
    calls: list[tuple[Any, Any, Tensor, bool, Any]]
    params: Params
    target: Params
    stats: Params


def normalised(norm: Callable[[], Layer] = batch_norm) -> Layer:
    return serial(mlp(8, 8, norm=norm), readout(1))


def critics(network: Layer | None = None) -> Critics:
    """Two critics in float64 and another two as their target, with running moments unlike any batch's."""
    network = network or normalised()
    members = [network.init(np.random.default_rng(seed), OBS + ACTION) for seed in range(2 * E)]
    params, target = (double(stack([m[0] for m in some])) for some in (members[:E], members[E:]))
    stats = double(stack([m[1] for m in members[:E]]))
    stats = tree_map(lambda leaf: leaf + 0.5 if leaf.is_floating_point() else leaf, stats)
    calls: list = []

    def apply(params: Params, stats: Params, rows: Tensor, train: bool, noise: Params) -> tuple[Tensor, Params]:
        calls.append((params, stats, rows, train, noise))
        return vmap(lambda p, s, n: network.apply(p, s, rows, train, n))(params, stats, noise)

    return Critics(apply, calls, params, target, stats)


def run(
    forward: Forward,
    c: Critics,
    batch: Transition = BATCHES,
    *,
    next_action: Tensor = NEXT_ACTION,
    target: Params = (),
    noise: CriticNoise = NO_NOISE,
) -> tuple:
    now, then = torch.cat([batch.obs, batch.action], -1), torch.cat([batch.next_obs, next_action], -1)
    return forward.apply(c.apply, c.params, c.stats, target, now, then, noise)


NOW = torch.cat([BATCHES.obs, BATCHES.action], -1)
THEN = torch.cat([BATCHES.next_obs, NEXT_ACTION], -1)
FORWARDS = {"separate": separate(), "joint": joint()}


def test_separate_makes_two_passes() -> None:
    """The critic on (s, a) in train mode; the target on (s', a') in eval mode, with the critic's running moments."""
    c = critics()
    out, next_out, stats = run(separate(), c, target=c.target)
    assert [(rows.tolist(), train) for _, _, rows, train, _ in c.calls] == [
        (THEN.tolist(), False),
        (NOW.tolist(), True),
    ]
    wanted, wanted_stats = c.apply(c.params, c.stats, NOW, True, ())
    assert torch.equal(out, wanted)
    assert torch.equal(next_out, c.apply(c.target, c.stats, THEN, False, ())[0])
    assert same_bits(stats, wanted_stats)
    assert out.shape == next_out.shape == (E, BATCH, 1)


def test_separate_without_a_target_bootstraps_from_the_critic() -> None:
    c = critics()
    _, next_out, _ = run(separate(), c)
    assert torch.equal(next_out, c.apply(c.params, c.stats, THEN, False, ())[0])


def test_joint_makes_one_train_mode_pass_over_both() -> None:
    c = critics()
    out, next_out, stats = run(joint(), c)
    assert [(rows.tolist(), train) for _, _, rows, train, _ in c.calls] == [([*NOW.tolist(), *THEN.tolist()], True)]
    wanted, wanted_stats = c.apply(c.params, c.stats, torch.cat([NOW, THEN]), True, ())
    assert torch.equal(out, wanted[:, :BATCH])
    assert torch.equal(next_out, wanted[:, BATCH:])
    assert same_bits(stats, wanted_stats)


@pytest.mark.parametrize("norm", [batch_norm, lambda: batch_renorm(warm_up=0)], ids=["batch", "renorm"])
def test_a_target_makes_the_same_pass_and_advances_nothing(norm: Callable[[], Layer]) -> None:
    """Renormalisation's r and d come from the critic's own running moments in both passes."""
    c = critics(normalised(norm))
    out, next_out, stats = run(joint(), c, target=c.target)
    both = torch.cat([NOW, THEN])
    wanted, once = c.apply(c.params, c.stats, both, True, ())
    assert torch.equal(out, wanted[:, :BATCH])
    assert torch.equal(next_out, c.apply(c.target, c.stats, both, True, ())[0][:, BATCH:])
    assert same_bits(stats, once)
    for _, _, rows, train, _ in c.calls[:2]:
        assert train
        assert torch.equal(rows, both)
    calls = [leaf for leaf in leaves(stats) if leaf.dtype == torch.int64]
    assert [leaf.tolist() for leaf in calls] == [[1, 1]] * 3


def loss(out: Tensor, next_out: Tensor, batch: Transition) -> Tensor:
    y = batch.reward + batch.discount * next_out.amin(0).squeeze(-1)
    return (out.squeeze(-1) - y).square().mean()


@pytest.mark.parametrize("forward", FORWARDS.values(), ids=FORWARDS.keys())
def test_the_order_of_rows_does_not_matter(forward: Forward) -> None:
    c = critics()
    order = torch.from_numpy(np.random.default_rng(3).permutation(BATCH))
    shuffled = tree_map(lambda leaf: leaf[order], BATCHES)
    out, next_out, stats = run(forward, c, target=c.target)
    other, next_other, other_stats = run(forward, c, shuffled, next_action=NEXT_ACTION[order], target=c.target)
    torch.testing.assert_close(other, out[:, order])
    torch.testing.assert_close(loss(other, next_other, shuffled), loss(out, next_out, BATCHES))
    torch.testing.assert_close(other_stats, stats)


def test_the_order_within_each_half_does_not_matter() -> None:
    """The halves meet in the moments only: the rows of one may be shuffled under the other."""
    c = critics()
    order = torch.from_numpy(np.random.default_rng(3).permutation(BATCH))
    out, next_out, _ = run(joint(), c)
    shuffled = BATCHES._replace(next_obs=BATCHES.next_obs[order])
    other, next_other, _ = run(joint(), c, shuffled, next_action=NEXT_ACTION[order])
    torch.testing.assert_close(other, out)
    torch.testing.assert_close(next_other, next_out[:, order])


@pytest.mark.parametrize(("forward", "shared"), [(separate(), False), (joint(), True)], ids=["separate", "joint"])
def test_the_second_half_moves_the_first_through_the_moments_alone(forward: Forward, shared: bool) -> None:
    c = critics()
    out, next_out, _ = run(forward, c)
    changed = BATCHES._replace(next_obs=BATCHES.next_obs + 1)
    other, next_other, _ = run(forward, c, changed)
    assert not torch.allclose(next_other, next_out, rtol=1e-3)
    assert torch.allclose(other, out, rtol=1e-3) != shared


@pytest.mark.parametrize("with_target", [True, False])
@pytest.mark.parametrize("forward", FORWARDS.values(), ids=FORWARDS.keys())
def test_next_values_carry_no_gradient(forward: Forward, with_target: bool) -> None:
    c = critics()
    params = tree_map(lambda leaf: leaf.requires_grad_(), c.params)
    next_action = NEXT_ACTION.clone().requires_grad_()
    out, next_out, stats = run(forward, c, target=c.target if with_target else (), next_action=next_action)
    assert not next_out.requires_grad
    assert not any(leaf.requires_grad for leaf in leaves(stats))
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(out[..., 0].square().sum(), leaves(params)))


def test_moments_of_the_second_half_carry_a_gradient() -> None:
    """Detached moments would give another gradient: that of the first half normalised by given numbers."""
    c = critics()
    next_obs = BATCHES.next_obs.clone().requires_grad_()
    out, _, _ = run(joint(), c, BATCHES._replace(next_obs=next_obs))
    (through_moments,) = torch.autograd.grad(out.square().sum(), next_obs)
    assert through_moments.abs().max() > 1e-3


DROPOUT = serial(dense(16), dropout(0.5, width=16), relu(), readout(1))


def drawn(forward: Forward, seed: int) -> CriticNoise:
    """What two critics with dropout draw for one update, for the passes that `forward` says it makes."""
    rng = np.random.default_rng(seed)
    online, target = (double(DROPOUT.noise(rng, (E, forward.rows(BATCH)))) for _ in range(2))
    return CriticNoise(NEXT_ACTION, (), online, target)


@pytest.mark.parametrize("with_target", [True, False])
def test_separate_gives_each_pass_its_noise(with_target: bool) -> None:
    c = critics(DROPOUT)
    noise = drawn(separate(), 0)
    slow = c.target if with_target else ()
    out, next_out, _ = run(separate(), c, target=slow, noise=noise)
    assert same_bits(tuple(call[4] for call in c.calls), (noise.target, noise.online))
    assert torch.equal(out, c.apply(c.params, c.stats, NOW, True, noise.online)[0])
    assert torch.equal(next_out, c.apply(slow or c.params, c.stats, THEN, False, noise.target)[0])
    assert not torch.equal(next_out, c.apply(slow or c.params, c.stats, THEN, False, noise.online)[0])


def test_joint_gives_each_pass_its_noise() -> None:
    c = critics(DROPOUT)
    noise = drawn(joint(), 0)
    both = torch.cat([NOW, THEN])
    out, next_out, _ = run(joint(), c, target=c.target, noise=noise)
    assert torch.equal(out, c.apply(c.params, c.stats, both, True, noise.online)[0][:, :BATCH])
    assert torch.equal(next_out, c.apply(c.target, c.stats, both, True, noise.target)[0][:, BATCH:])
    assert not torch.equal(next_out, c.apply(c.target, c.stats, both, True, noise.online)[0][:, BATCH:])


def test_joint_without_a_target_draws_once() -> None:
    """Its one pass is the trained one: the noise of the other is not looked at."""
    c = critics(DROPOUT)
    noise = drawn(joint(), 0)
    out, next_out, _ = run(joint(), c, noise=noise)
    wanted = c.apply(c.params, c.stats, torch.cat([NOW, THEN]), True, noise.online)[0]
    assert torch.equal(torch.cat([out, next_out], 1), wanted)
    again = run(joint(), c, noise=noise._replace(target=drawn(joint(), 1).target))
    assert torch.equal(torch.cat(again[:2], 1), wanted)


@pytest.mark.parametrize("with_target", [True, False])
@pytest.mark.parametrize(("forward", "passes"), [(separate(), 1), (joint(), 2)], ids=["separate", "joint"])
def test_rows_are_those_of_each_pass(forward: Forward, passes: int, with_target: bool) -> None:
    """Noise is drawn for so many rows before anything else is known."""
    c = critics()
    run(forward, c, target=c.target if with_target else ())
    assert {call[2].shape[0] for call in c.calls} == {forward.rows(BATCH)} == {passes * BATCH}
    assert forward.rows(3) == 3 * passes


def test_no_target() -> None:
    target, params = none(), critics().params
    assert target.init(params) == ()
    assert target.update((), params) == ()


@pytest.mark.parametrize("tau", [0.005, 0.3, 1.0])
def test_polyak_average(tau: float) -> None:
    target, c = polyak(tau), critics()
    slow = target.init(c.params)
    assert same_bits(slow, c.params)
    assert not any(a is b for a, b in zip(leaves(slow), leaves(c.params), strict=True))  # a copy, not the same memory
    wanted = [leaf.numpy().copy() for leaf in leaves(slow)]
    for step in range(1, 4):
        new = tree_map(lambda leaf, step=step: leaf + step, c.params)
        slow = target.update(slow, new)
        wanted = [(1 - tau) * old + tau * leaf.numpy() for old, leaf in zip(wanted, leaves(new), strict=True)]
    for got, want in zip(leaves(slow), wanted, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-12)
