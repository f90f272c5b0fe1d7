"""AdamW and its schedule against PyTorch's, with the decay on chosen types only."""

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from small import double
from steadyq.algorithm.nn import Dense, Norm, Readout
from steadyq.algorithm.optim import adamw, global_norm, linear
from steadyq.algorithm.tree import leaves, tree_map


def network(seed: int) -> tuple:
    """A hidden layer, a normalisation and a readout, in float64."""
    random = torch.Generator().manual_seed(seed)
    shapes = (Dense((4, 3), (3,)), Norm((3,), (3,)), Readout((3, 1), (1,)))
    return tuple(
        type(layer)(*[torch.randn(shape, generator=random, dtype=torch.float64) for shape in layer]) for layer in shapes
    )


def gradients(step: int) -> tuple:
    """Of very different sizes, some exactly zero."""
    return tree_map(lambda g: g * 10.0 ** (step % 7 - 5) * (g > -1), network(100 + step))


DECAYED = {"none": (), "readout": (Readout,), "readout and norms": (Readout, Norm)}


@pytest.mark.parametrize("b1", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("decays", DECAYED.values(), ids=DECAYED.keys())
def test_against_torch(decays: tuple, b1: float) -> None:
    params = network(0)
    copies = tree_map(lambda leaf: torch.nn.Parameter(leaf.clone()), params)
    decaying = [leaf for layer in copies if type(layer) in decays for leaf in layer]
    others = [leaf for layer in copies if type(layer) not in decays for leaf in layer]
    groups = [{"params": decaying, "weight_decay": 0.3}] * bool(decaying) + [{"params": others, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.02, betas=(b1, 0.999), eps=1e-8)

    ours = adamw(0.02, b1=b1, weight_decay=0.3, decays=decays)
    memory = double(ours.init(params))
    for step in range(20):
        grads = gradients(step)
        params, memory = ours.update(grads, memory, params)
        for copy, grad in zip(leaves(copies), leaves(grads), strict=True):
            copy.grad = grad
        theirs.step()

    for got, copy, m, v in zip(leaves(params), leaves(copies), leaves(memory.m), leaves(memory.v), strict=True):
        torch.testing.assert_close(got, copy.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(m, theirs.state[copy]["exp_avg"], rtol=1e-12, atol=0)
        torch.testing.assert_close(v, theirs.state[copy]["exp_avg_sq"], rtol=1e-12, atol=0)
    assert memory.updates.item() == 20


def test_without_decay_it_is_adam() -> None:
    params = network(0)
    copies = tree_map(lambda leaf: torch.nn.Parameter(leaf.clone()), params)
    theirs = torch.optim.Adam(leaves(copies), lr=0.02)
    ours = adamw(0.02, decays=(Dense, Norm, Readout))
    memory = double(ours.init(params))
    for step in range(5):
        params, memory = ours.update(gradients(step), memory, params)
        for copy, grad in zip(leaves(copies), leaves(gradients(step)), strict=True):
            copy.grad = grad
        theirs.step()
    for got, copy in zip(leaves(params), leaves(copies), strict=True):
        torch.testing.assert_close(got, copy.detach(), rtol=1e-12, atol=1e-12)


def test_eps_is_added_outside_the_square_root() -> None:
    """A first gradient g moves a parameter by lr g / (|g| + eps)."""
    theta, grad = torch.zeros(1, dtype=torch.float64), torch.full((1,), 1e-8, dtype=torch.float64)
    ours = adamw(1.0)
    moved, _ = ours.update(grad, ours.init(theta), theta)
    assert moved.item() == pytest.approx(-0.5, rel=1e-4)


def test_a_zero_gradient_moves_only_what_decays() -> None:
    params = network(0)
    ours = adamw(0.1, weight_decay=0.5, decays=(Readout,))
    moved, _ = ours.update(tree_map(torch.zeros_like, params), ours.init(params), params)
    assert torch.equal(moved[0].w, params[0].w)
    assert torch.equal(moved[1].scale, params[1].scale)
    torch.testing.assert_close(moved[2].w, 0.95 * params[2].w)
    torch.testing.assert_close(moved[2].b, 0.95 * params[2].b)


def test_members_of_an_ensemble_do_not_meet() -> None:
    ours = adamw(0.02, weight_decay=0.3, decays=(Readout,))

    def run(params: tuple, *seeds: int) -> tuple:
        memory = double(ours.init(params))
        for step in range(3):
            grads = [gradients(step + seed) for seed in seeds]
            together = grads[0] if len(seeds) == 1 else tree_map(lambda *leaf: torch.stack(leaf), *grads)
            params, memory = ours.update(together, memory, params)
        return params

    both = run(tree_map(lambda *leaf: torch.stack(leaf), network(1), network(2)), 1, 2)
    for i, seed in enumerate((1, 2)):
        alone = run(network(seed), seed)
        for got, wanted in zip(leaves(both), leaves(alone), strict=True):
            assert torch.equal(got[i], wanted)


def straight(done: int, *, start: float, end: float, updates: int) -> float:
    """By hand."""
    return start if updates == 0 else end if done >= updates else start + (end - start) * done / updates


@pytest.mark.parametrize(("start", "end"), [(3e-4, 3e-5), (1e-4, 5e-5), (1e-5, 1e-3), (2e-4, 2e-4)])
@pytest.mark.parametrize("updates", [0, 1, 7, 1_000_000])
def test_linear_against_a_loop(updates: int, start: float, end: float) -> None:
    schedule = linear(start, end, updates=updates)
    for done in {0, 1, 2, 3, 6, 7, 8, 50, 500_000, 999_999, 1_000_000, 10**9}:
        wanted = straight(done, start=start, end=end, updates=updates)
        size = schedule(torch.tensor(float(done)))
        assert size.shape == ()
        assert size.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("updates", [0, 1, 6])
def test_adamw_with_a_schedule_against_torch(updates: int) -> None:
    """Before, at and past the end; the first update has the start's step size, and the decay follows along."""
    start, end = 0.02, 0.001
    params = network(0)
    copies = tree_map(lambda leaf: torch.nn.Parameter(leaf.clone()), params)
    theirs = torch.optim.AdamW(leaves(copies), lr=start, weight_decay=0.3, eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        theirs, lambda done: straight(done, start=start, end=end, updates=updates) / start
    )
    ours = adamw(linear(start, end, updates=updates), weight_decay=0.3, decays=(Dense, Norm, Readout))
    memory = double(ours.init(params))
    for step in range(12):
        params, memory = ours.update(gradients(step), memory, params)
        for copy, grad in zip(leaves(copies), leaves(gradients(step)), strict=True):
            copy.grad = grad
        theirs.step()
        schedule.step()
        for got, copy in zip(leaves(params), leaves(copies), strict=True):
            torch.testing.assert_close(got, copy.detach(), rtol=1e-12, atol=1e-12)


def test_it_counts_beyond_the_whole_numbers_of_float32() -> None:
    """At 2**24 float32 has no next one; a schedule would stop there. Two seeds, one of them at its schedule's end."""
    ours = adamw(linear(1.0, 0.0, updates=2**25))
    params = torch.zeros(2)
    memory = tree_map(lambda leaf: torch.stack([leaf, leaf]), ours.init(params))
    seeds, grads = torch.zeros(2, 2), torch.ones(2, 2)
    memory = memory._replace(updates=memory.updates + torch.tensor([2**24, 2**25]))
    for _ in range(3):
        before, (seeds, memory) = seeds, vmap(ours.update)(grads, memory, seeds)
    assert memory.updates.tolist() == [2**24 + 3, 2**25 + 3]
    assert seeds.dtype == torch.float32
    assert (seeds != before).tolist() == [[True, True], [False, False]]


def test_global_norm() -> None:
    tree: tuple[Tensor | tuple, ...] = (torch.tensor([3.0, 0.0]), ((), torch.tensor(4.0)), torch.tensor([[12.0]]))
    assert global_norm(tree).item() == 13.0
