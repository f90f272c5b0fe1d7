"""The projection onto the unit sphere, and why it is harmless: a normalisation follows each hidden layer."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from small import double, noisy, normal, same_bits, small
from steadyq.algorithm.networks import mlp, pre_norm_mlp
from steadyq.algorithm.nn import Dense, Layer, Norm, Readout, batch_norm, layer_norm, readout, serial
from steadyq.algorithm.projection import every_update, initial_norm, nothing
from steadyq.algorithm.tree import leaves, nodes, stack, tree_map
from steadyq.algorithm.types import Params
from steadyq.algorithm.weight_norm import unit_norm
from steadyq.algorithm.weights import frobenius_norms

B, I = 32, 6  # noqa: E741, the axis letters of the signatures


def critic(eps: float, seed: int = 0) -> tuple:
    """`(apply(params, x), params)` of a normalised network in float64, train mode."""
    network = serial(mlp(8, 7, norm=lambda: batch_norm(eps=eps)), readout(2))
    params, stats, _ = network.init(np.random.default_rng(seed), I)
    stats = double(stats)
    return lambda params, x: network.apply(params, stats, x, True)[0], noisy(double(params))


def with_hidden(params: Params, index: int, layer: Dense) -> Params:
    """The network's parameters with another hidden layer at an index of its torso."""
    torso, last = params
    return tuple(layer if i == index else old for i, old in enumerate(torso)), last


HIDDEN = (1, 4)
"""Where the dense layers of a two-layer torso with norms stand."""


def unit_norms(layer: Dense | Readout) -> np.ndarray:
    """Each unit's norm with its bias, in a slow loop, [.., O] flattened."""
    w, b = layer.w.double().numpy(), layer.b.double().numpy()
    w, b = w.reshape(-1, *w.shape[-2:]), b.reshape(-1, b.shape[-1])
    return np.array(
        [[sum(v**2 for v in [*w[e, :, o], b[e, o]]) ** 0.5 for o in range(w.shape[-1])] for e in range(len(w))]
    )


def test_every_hidden_unit_has_norm_one_and_nothing_else_changes() -> None:
    _, params = critic(1e-3)
    single = tree_map(lambda leaf: leaf.float(), params)
    projected = unit_norm(single)
    for before, after in zip((*single[0], single[1]), (*projected[0], projected[1]), strict=True):
        if isinstance(after, Dense):
            assert np.abs(unit_norms(before) - 1).max() > 0.1
            np.testing.assert_allclose(unit_norms(after), 1, atol=1e-6)
            ratio = before.w / after.w  # each unit keeps its direction
            torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
            torch.testing.assert_close(before.b / after.b, ratio[0])
        else:
            assert all(a is b for a, b in zip(leaves(before), leaves(after), strict=True))


def test_idempotent() -> None:
    _, params = critic(1e-3)
    once = unit_norm(params)
    for a, b in zip(leaves(once), leaves(unit_norm(once)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-15)


def test_leading_axes_are_networks_of_their_own() -> None:
    members = [critic(1e-3, seed)[1] for seed in range(3)]
    together = unit_norm(stack([stack(members), stack(members[::-1])]))
    for s, order in enumerate((members, members[::-1])):
        for e, member in enumerate(order):
            alone = unit_norm(member)
            for got, wanted in zip(leaves(together), leaves(alone), strict=True):
                torch.testing.assert_close(got[s, e], wanted)


def test_without_bias_the_weights_alone_are_normalised() -> None:
    _, params = critic(1e-3)
    for layer, before in zip(nodes(unit_norm(params, with_bias=False), (Dense,)), nodes(params, (Dense,)), strict=True):
        assert layer.b is before.b
        torch.testing.assert_close(torch.linalg.vector_norm(layer.w, dim=0), torch.ones_like(layer.b))


def test_a_layer_without_bias_has_unit_columns() -> None:
    layer = unit_norm(Dense(normal(0, I, 4), ()))
    assert layer.b == ()
    torch.testing.assert_close(torch.linalg.vector_norm(layer.w, dim=0), torch.ones(4))


def test_readouts_are_projected_when_asked_for() -> None:
    _, params = critic(1e-3)
    projected = unit_norm(params, types=(Dense, Readout))
    np.testing.assert_allclose(unit_norms(projected[1]), 1, atol=1e-12)
    for norm, before in zip(nodes(projected, (Norm,)), nodes(params, (Norm,)), strict=True):
        assert norm.scale is before.scale
        assert norm.shift is before.shift


def test_xqc_projects_readouts_without_their_biases() -> None:
    """As its code does, whose hidden layers have none."""
    recipe = small("xqc").recipe
    params = noisy(recipe.readout.init(np.random.default_rng(0), I)[0])
    _, after = recipe.project.apply(recipe.project.init(params), params)
    torch.testing.assert_close(torch.linalg.vector_norm(after.w, dim=0), torch.ones_like(after.b))
    assert after.b is params.b


def relative_change(eps: float, *, with_bias: bool = True) -> float:
    """How much projecting changes train-mode outputs."""
    apply, params = critic(eps)
    x = normal(3, B, I).double()
    before, after = apply(params, x), apply(unit_norm(params, with_bias=with_bias), x)
    return float(torch.linalg.norm(after - before) / torch.linalg.norm(before))


def test_projecting_keeps_the_function() -> None:
    """BN(ReLU(c z)) = BN(ReLU(z)) per unit, but for eps: the standard deviation moves by about eps / (2 var).

    A unit's variance is at least a tenth here and the projection changes it by less than a factor of ten, so the
    outputs move by a few 1e-3 at eps 1e-3, and in proportion to eps.
    """
    assert relative_change(1e-3) < 5e-3
    assert relative_change(1e-6) < 5e-6
    assert relative_change(0.0) < 1e-12


def test_projecting_the_weights_alone_does_not() -> None:
    assert relative_change(0.0, with_bias=False) > 0.05


@pytest.mark.parametrize("index", HIDDEN)
@pytest.mark.parametrize(("eps", "tolerance"), [(0.0, 1e-12), (1e-3, 1e-2)])
def test_the_gradient_is_orthogonal_to_each_unit(index: int, eps: float, tolerance: float) -> None:
    apply, params = critic(eps)
    x, y = normal(3, B, I).double(), normal(4, B, 2).double()
    gradient = grad(lambda params: (apply(params, x) - y).square().mean())(params)[0][index]
    layer = params[0][index]
    along = (gradient.w * layer.w).sum(0) + gradient.b * layer.b
    size = (gradient.w.square().sum(0) + gradient.b.square()).sqrt() * torch.from_numpy(unit_norms(layer)[0])
    alive = size > 0
    assert alive.sum() >= 5
    assert (along[alive] / size[alive]).abs().max() < tolerance


@pytest.mark.parametrize("index", HIDDEN)
@pytest.mark.parametrize("c", [0.2, 7.0])
def test_scaling_a_unit_keeps_the_values_and_shrinks_its_gradient(index: int, c: float) -> None:
    apply, params = critic(0.0)
    x, y = normal(3, B, I).double(), normal(4, B, 2).double()
    scale = torch.ones_like(params[0][index].b)
    scale[2] = c
    layer = params[0][index]
    scaled = with_hidden(params, index, Dense(layer.w * scale, layer.b * scale))
    torch.testing.assert_close(apply(scaled, x), apply(params, x), rtol=1e-10, atol=1e-10)

    def loss(params: Params) -> Tensor:
        return (apply(params, x) - y).square().mean()

    before, after = grad(loss)(params)[0][index], grad(loss)(scaled)[0][index]
    assert before.w[:, 2].abs().max() > 0
    torch.testing.assert_close(after.w, before.w / scale, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(after.b, before.b / scale, rtol=1e-8, atol=1e-12)


def test_projections_as_values() -> None:
    params = critic(1e-3)[1]
    assert nothing().init(params) == ()
    assert nothing().apply((), params) == ((), params)
    halve = every_update(lambda params: tree_map(lambda leaf: leaf / 2, params))
    memory, halved = halve.apply(halve.init(params), params)
    assert memory == ()
    torch.testing.assert_close(halved[1].w, params[1].w / 2)


def test_frobenius_norms_against_a_loop() -> None:
    members = [critic(1e-3, seed)[1] for seed in range(3)]
    got = frobenius_norms(stack(members))
    for e, (torso, last) in enumerate(members):
        matrices = [torso[1].w, torso[4].w, last.w]
        wanted = sum(sum(float(v) ** 2 for v in w.flatten()) ** 0.5 for w in matrices)
        assert got[e].item() == pytest.approx(wanted, rel=1e-9)
    torch.testing.assert_close(vmap(frobenius_norms)(stack(members)), got)


# To the initial norm


def normalised_critic() -> Layer:
    """Layers with bias and without, two normalisations, a readout."""
    return serial(pre_norm_mlp(8, norm=layer_norm), mlp(7), layer_norm(), readout(2))


def start(seed: int = 0) -> Params:
    return double(normalised_critic().init(np.random.default_rng(seed), I)[0])


def norms(params: Params) -> list[float]:
    """Of each hidden matrix, and of each normalisation's scale and shift together, in a slow loop."""
    found = []
    for node in nodes(params, (Dense, Norm)):
        numbers = node.w.flatten().tolist() if isinstance(node, Dense) else [*node.scale.tolist(), *node.shift.tolist()]
        found.append(sum(x**2 for x in numbers) ** 0.5)
    return found


def test_the_initial_norms_are_back_after_each_update() -> None:
    project, params = initial_norm(), start()
    wanted = norms(params)
    memory = project.init(params)
    for update in range(4):  # the first call is that at the start
        memory, params = project.apply(memory, params)
        np.testing.assert_allclose(norms(params), wanted, rtol=1e-12)
        params = noisy(params, update)
        assert np.abs(np.array(norms(params)) / wanted - 1).min() > 1e-3


@pytest.mark.parametrize("every", [2, 3])
def test_only_each_nth_update_is_projected(every: int) -> None:
    project, params = initial_norm(every=every), start()
    wanted = norms(params)
    memory, params = project.apply(project.init(params), params)
    np.testing.assert_allclose(norms(params), wanted, rtol=1e-12)
    for update in range(1, 3 * every + 1):
        stepped = noisy(params, update)
        memory, params = project.apply(memory, stepped)
        if update % every:
            assert same_bits(params, stepped)
        else:
            np.testing.assert_allclose(norms(params), wanted, rtol=1e-12)


def test_one_number_scales_a_whole_matrix_or_normalisation_and_nothing_else_moves() -> None:
    project, params = initial_norm(), start()
    moved = noisy(params)
    _, back = project.apply(project.init(params), moved)
    factors = []
    for before, after in zip(nodes(moved, (Dense, Norm)), nodes(back, (Dense, Norm)), strict=True):
        pairs = [(before.w, after.w)] if isinstance(after, Dense) else list(zip(before, after, strict=True))
        ratio = torch.cat([(new / old).flatten() for old, new in pairs])
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
        factors.append(ratio[0].item())
        if isinstance(after, Dense):
            assert after.b is before.b
    assert np.ptp(factors) > 0.01
    for old, new in zip(nodes(moved, (Readout,)), nodes(back, (Readout,)), strict=True):
        assert old.w is new.w
        assert old.b is new.b


def test_each_critic_goes_back_to_its_own_norms() -> None:
    """Stacked, under `vmap` over seeds too, with one counter for all critics of a seed."""
    project = initial_norm(every=2)
    members = [start(seed) for seed in range(3)]
    members[1] = noisy(members[1])  # another norm at the start
    steps = [[noisy(member, 10 * step + e) for e, member in enumerate(members)] for step in range(3)]
    memory = project.init(stack(members))
    seeds = vmap(project.init)(stack([stack(members), stack(members)]))
    assert memory.updates.shape == ()
    alone = [project.init(member) for member in members]
    for step in steps:
        memory, together = project.apply(memory, stack(step))
        seeds, both = vmap(project.apply)(seeds, stack([stack(step), stack(step)]))
        for e, member in enumerate(step):
            alone[e], wanted = project.apply(alone[e], member)
            for got, twice, want in zip(leaves(together), leaves(both), leaves(wanted), strict=True):
                torch.testing.assert_close(got[e], want)
                torch.testing.assert_close(twice[1, e], want)


def test_nap_starts_with_its_first_projection_counted() -> None:
    """So that the n-th projection comes with the n-th update."""
    state = small("nap").state
    assert state.critic.project.updates == state.actor.project.updates == 1
    assert len(nodes(state.critic.params, (Norm,))) == 2


# In an agent


def test_the_state_is_projected_from_the_start() -> None:
    """Actor, critics and the target's copy; readouts keep the scale they were drawn with."""
    state = small("crossq_wn").state
    for params in (state.actor.params, state.critic.params, state.target):
        for layer in nodes(params, (Dense,)):
            np.testing.assert_allclose(unit_norms(layer), 1, atol=1e-6)
    np.testing.assert_allclose(unit_norms(state.critic.params[1]), 2**0.5, atol=1e-5)
