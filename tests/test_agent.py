"""The agent's steps: which mode each network runs in, what each step may touch, and what a bad update leaves behind."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import vmap

from small import (
    ACTION,
    BATCH,
    OBS,
    assert_close,
    double,
    for_actor,
    for_critic,
    normal,
    same_bits,
    small,
    start,
    transitions,
)
from steadyq.algorithm.actor_critic import CRITIC_METRICS, count_parameters, make_agent
from steadyq.algorithm.agent import Recipe
from steadyq.algorithm.networks import mlp
from steadyq.algorithm.nn import Dense, Layer, batch_norm
from steadyq.algorithm.options import make_recipe, options
from steadyq.algorithm.recipes import RECIPES
from steadyq.algorithm.tree import leaves, named_leaves, stack, tree_map
from steadyq.algorithm.types import Params

BATCH_0 = transitions(0, BATCH)
NOISE = normal(1, BATCH, ACTION)
NAMES = list(RECIPES)


def tuned(name: str) -> bool:
    """Whether a recipe learns its temperature."""
    return "alpha" in options(name)


# The first state


@pytest.mark.parametrize("name", NAMES)
def test_first_state(name: str) -> None:
    recipe, agent, state = small(name)
    for net in (state.actor, state.critic, state.temperature):
        assert not any(leaf.any() for leaf in leaves(net.opt))
    for leaf in leaves(state.critic.params):
        if leaf.dim() == 3:  # each critic has its own weights
            assert len({tuple(member.flatten().tolist()) for member in leaf}) == recipe.n_critics
    assert state.target == () or same_bits(state.target, state.critic.params)
    assert same_bits(state, agent.init(np.random.default_rng(0)))
    assert not same_bits(state, agent.init(np.random.default_rng(1)))
    assert {leaf.dtype for leaf in leaves(state._replace(normalise=()))} <= {torch.float32, torch.int64}
    assert {leaf.dtype for leaf in leaves(state.normalise)} <= {torch.float32, torch.float64}


def test_parameters_are_counted() -> None:
    """A sac actor of 5 -> 16 -> 16 -> 2 + 2 and two critics of 7 -> 16 -> 16 -> 1."""
    state = small("sac").state
    assert count_parameters(state.actor.params) == (5 * 16 + 16) + (16 * 16 + 16) + 2 * (16 * 2 + 2)
    assert count_parameters(state.critic.params) == 2 * ((7 * 16 + 16) + (16 * 16 + 16) + (16 + 1))


# Modes: each network called as the algorithm says, and no other way


def spied(recipe: Recipe, calls: list[tuple[str, bool, int]]) -> Recipe:
    """The recipe with torsos that write down their name, their mode and their number of rows."""

    def spy(name: str, layer: Layer) -> Layer:
        def apply(params: Params, stats: Params, x: Tensor, train: bool, noise: Params = ()) -> tuple[Tensor, Params]:
            calls.append((name, train, x.shape[0]))
            return layer.apply(params, stats, x, train, noise)

        return Layer(layer.init, apply)

    return replace(recipe, actor=spy("actor", recipe.actor), critic=spy("critic", recipe.critic))


TRAIN, EVAL = True, False
MODES = {
    ("sac", "polyak"): [("actor", EVAL, BATCH), ("critic", EVAL, BATCH), ("critic", TRAIN, BATCH)],
    ("crossq", "none"): [("actor", EVAL, BATCH), ("critic", TRAIN, 2 * BATCH)],
    ("crossq_wn", "none"): [("actor", EVAL, BATCH), ("critic", TRAIN, 2 * BATCH)],
    ("crossq_wn", "polyak"): [("actor", EVAL, BATCH), ("critic", TRAIN, 2 * BATCH), ("critic", TRAIN, 2 * BATCH)],
}


@pytest.mark.parametrize(("name", "target"), MODES)
def test_modes(name: str, target: str) -> None:
    calls: list = []
    recipe = make_recipe(name, {"target": target} if name == "crossq_wn" else {})
    _, agent, state = start(spied(recipe, calls))
    state, _ = agent.step("critic").update(state, BATCH_0, for_critic(agent, NOISE))
    assert calls == MODES[name, target]
    calls.clear()
    state, _ = agent.step("actor").update(state, BATCH_0, for_actor(agent, NOISE))
    assert calls == [("actor", TRAIN, BATCH), ("critic", EVAL, BATCH)]
    calls.clear()
    agent.act(state, BATCH_0.obs[0], NOISE[0])
    agent.mode(state, BATCH_0.obs[0])
    assert calls == [("actor", EVAL, 1)] * 2


@pytest.mark.parametrize("name", NAMES)
def test_each_step_moves_its_own_networks_only(name: str) -> None:
    """Running moments too, once each: the critics' in critic steps, the actor's in its own or where the recipe says."""
    recipe, agent, state = small(name)
    apart = recipe.actor_moments == "critic"
    kept = tree_map(torch.clone, state)

    after, _ = agent.step("critic").update(state, BATCH_0, for_critic(agent, NOISE))
    assert same_bits(state, kept)  # a pure function
    assert same_bits(after.actor._replace(stats=()), state.actor._replace(stats=()))
    assert same_bits(after.actor.stats, state.actor.stats) != apart
    assert same_bits(after.temperature, state.temperature)
    moved = {key: not torch.equal(leaf, dict(named_leaves(state))[key]) for key, leaf in named_leaves(after)}
    assert all(
        moved[key] for key in moved if key.startswith(("critic.params", "critic.opt.m", "target.", "critic.stats"))
    )

    last, _ = agent.step("actor").update(after, BATCH_0, for_actor(agent, NOISE))
    assert same_bits(last.critic, after.critic)
    assert same_bits(last.target, after.target)
    moved = {key: not torch.equal(leaf, dict(named_leaves(after))[key]) for key, leaf in named_leaves(last)}
    assert not apart or same_bits(last.actor.stats, after.actor.stats)
    more = (*(("temperature",) if tuned(name) else ()), *(() if apart else ("actor.stats",)))
    learned = ("actor.params", "actor.opt", "explore", *more)
    assert all(moved[key] for key in moved if key.startswith(learned))
    counters = {key: leaf for key, leaf in named_leaves(last) if key.endswith(("calls", "opt.updates"))}
    assert {int(x) for leaf in counters.values() for x in leaf.flatten()} == {1}


# Acting


@pytest.mark.parametrize("name", NAMES)
def test_acting(name: str) -> None:
    _, agent, state = small(name)
    obs, noise = BATCH_0.obs[0], NOISE[0]
    explored, mean = agent.act(state, obs, noise), agent.mode(state, obs)
    assert explored.shape == mean.shape == (ACTION,)
    assert not torch.allclose(explored, mean)
    if state.explore == ():  # an actor of its own has a mean of its own
        torch.testing.assert_close(agent.act(state, obs, torch.zeros(ACTION)), mean)
    assert not torch.allclose(agent.mode(state, BATCH_0.obs[1]), mean)
    assert (explored.abs() <= 1).all()


# The temperature


@pytest.mark.parametrize("name", [*filter(tuned, NAMES)])
@pytest.mark.parametrize(("target_entropy", "sign"), [(-50.0, -1), (0.69, 1)])
def test_temperature_steers_to_the_target_entropy(name: str, target_entropy: float, sign: int) -> None:
    """Too much entropy lowers alpha, too little raises it; the target is per action dimension."""
    _, agent, state = small(name, target_entropy=target_entropy, alpha=0.2)
    after, metrics = agent.step("actor").update(state, BATCH_0, for_actor(agent, NOISE))
    assert (after.temperature.params - state.temperature.params).sign().item() == sign
    weight = math.log(0.2) if name in ("redq", "droq") else 0.2
    wanted = weight * (metrics["train/entropy"].item() - ACTION * target_entropy)
    assert metrics["train/ent_coef_loss"].item() == pytest.approx(wanted, rel=1e-5)
    assert metrics["train/ent_coef"].item() == pytest.approx(0.2, rel=1e-5)


# Bad numbers


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["obs", "action", "reward", "next_obs"])
@pytest.mark.parametrize("name", NAMES)
def test_a_bad_batch_changes_nothing(name: str, field: str, bad: float) -> None:
    _, agent, state = small(name)
    state, _ = agent.step("critic").update(state, BATCH_0, for_critic(agent, NOISE))
    leaf = getattr(BATCH_0, field).clone()
    leaf[3] = bad
    after, metrics = agent.step("critic").update(state, BATCH_0._replace(**{field: leaf}), for_critic(agent, NOISE))
    assert same_bits(after, state)
    assert tuple(metrics) == CRITIC_METRICS
    assert not all(map(torch.isfinite, metrics.values()))  # an infinite reward is a finite loss of a categorical critic

    if field == "obs":
        after, metrics = agent.step("actor").update(state, BATCH_0._replace(obs=leaf), for_actor(agent, NOISE))
        assert same_bits(after, state)
        assert tuple(metrics) == agent.step("actor").metrics
        assert not torch.isfinite(metrics["train/actor_loss"])


def test_a_gradient_that_overflows_changes_nothing() -> None:
    """The loss is still a number here, its gradient's norm is not."""
    _, agent, state = small("sac")
    after, metrics = agent.step("critic").update(
        state, BATCH_0._replace(obs=1e17 * BATCH_0.obs), for_critic(agent, NOISE)
    )
    assert [key for key, value in metrics.items() if not torch.isfinite(value)] == ["train/critic_grad_norm"]
    assert same_bits(after, state)


@pytest.mark.parametrize("field", ["obs", "next_obs"])
@pytest.mark.parametrize("name", NAMES)
def test_a_huge_number_leaves_a_finite_state(name: str, field: str) -> None:
    """The square of 1e20 is infinite: a batch's variance, but not what is divided by its root."""
    _, agent, state = small(name)
    leaf = getattr(BATCH_0, field).clone()
    leaf[3, 0] = 1e20
    critic, critic_metrics = agent.step("critic").update(
        state, BATCH_0._replace(**{field: leaf}), for_critic(agent, NOISE)
    )
    actor, actor_metrics = agent.step("actor").update(state, BATCH_0._replace(obs=leaf), for_actor(agent, NOISE))
    for after, metrics in ((critic, critic_metrics), (actor, actor_metrics)):
        assert all(leaf.isfinite().all() for leaf in leaves(after))
        assert same_bits(after, state) != all(value.isfinite() for value in metrics.values())  # a refusal is seen


@pytest.mark.parametrize("name", NAMES)
def test_good_metrics_are_finite(name: str) -> None:
    _, agent, state = small(name)
    state, critic_metrics = agent.step("critic").update(state, BATCH_0, for_critic(agent, NOISE))
    _, actor_metrics = agent.step("actor").update(state, BATCH_0, for_actor(agent, NOISE))
    for names, metrics in ((CRITIC_METRICS, critic_metrics), (agent.step("actor").metrics, actor_metrics)):
        assert tuple(metrics) == names
        assert all(value.shape == () and torch.isfinite(value) for value in metrics.values())


# Invariants of the joint pass, through whole steps


@pytest.mark.parametrize("name", NAMES)
def test_a_shuffled_batch_is_the_same_update(name: str) -> None:
    _, agent, state = small(name)
    state, order = double(state), torch.from_numpy(np.random.default_rng(3).permutation(BATCH))
    batch, noise = double(BATCH_0), NOISE.double()
    drawn = for_critic(agent, noise)._replace(online=(), target=())  # dropout's would have to be shuffled too
    ours, metrics = agent.step("critic").update(state, batch, drawn)
    shuffled = drawn._replace(next_action=noise[order])
    theirs, other = agent.step("critic").update(state, tree_map(lambda leaf: leaf[order], batch), shuffled)
    assert_close(theirs, ours, rtol=1e-7, atol=1e-10)
    for key, value in metrics.items():
        torch.testing.assert_close(other[key], value, rtol=1e-9, atol=1e-12)


def test_an_end_that_terminates_does_not_bootstrap() -> None:
    """With discount 0 the next state matters through the joint moments only; SAC's update does not see it at all."""
    _, agent, state = small("sac")
    ended = BATCH_0._replace(discount=torch.zeros(BATCH))
    ours, _ = agent.step("critic").update(state, ended, for_critic(agent, NOISE))
    theirs, _ = agent.step("critic").update(
        state, ended._replace(next_obs=BATCH_0.next_obs + 1), for_critic(agent, NOISE)
    )
    assert same_bits(ours, theirs)
    truncated, _ = agent.step("critic").update(
        state, BATCH_0._replace(discount=torch.full((BATCH,), 0.99)), for_critic(agent, NOISE)
    )
    assert not same_bits(ours.critic, truncated.critic)


# Seeds


@pytest.mark.parametrize("name", NAMES)
def test_seeds_at_once_are_seeds_alone(name: str) -> None:
    """`vmap` over three seeds against one after the other, two updates of each kind, in float64."""
    _, agent, _ = small(name)
    states = [double(agent.init(np.random.default_rng(seed))) for seed in range(3)]
    together = stack(states)
    for update in range(2):
        batches = [double(transitions(10 * update + seed, BATCH)) for seed in range(3)]
        noise = normal(50 + update, 3, BATCH, ACTION).double()
        drawn = for_critic(agent, noise), for_actor(agent, noise)
        together, _ = vmap(agent.step("critic").update)(together, stack(batches), drawn[0])
        together, metrics = vmap(agent.step("actor").update)(together, stack(batches), drawn[1])
        for seed in range(3):
            own = tree_map(lambda leaf, seed=seed: leaf[seed], drawn)
            states[seed], _ = agent.step("critic").update(states[seed], batches[seed], own[0])
            states[seed], alone = agent.step("actor").update(states[seed], batches[seed], own[1])
            for key, value in alone.items():
                torch.testing.assert_close(metrics[key][seed], value, rtol=1e-9, atol=1e-12)
    assert_close(together, stack(states), rtol=1e-8, atol=1e-11)


def test_a_bad_seed_does_not_stop_its_neighbours() -> None:
    _, agent, state = small("crossq_wn")
    batches = [BATCH_0, BATCH_0._replace(reward=torch.full((BATCH,), math.nan))]
    after, metrics = vmap(agent.step("critic").update)(
        stack([state, state]), stack(batches), for_critic(agent, torch.stack([NOISE, NOISE]))
    )
    assert same_bits(tree_map(lambda leaf: leaf[1], after), state)
    assert not same_bits(tree_map(lambda leaf: leaf[0], after), state)
    assert torch.isfinite(metrics["train/critic_loss"]).tolist() == [True, False]


# Devices and precision


@pytest.mark.parametrize("name", NAMES)
def test_no_step_mixes_devices(name: str) -> None:
    """On fake tensors, as a GPU would get them: seeds batched, and nothing made on the CPU on the way.

    The fake device is `meta`, not `cuda`: without CUDA's own library PyTorch aborts in the backward pass of fake CUDA
    tensors. A mixture is refused alike.
    """
    _, agent, state = small(name)
    noises = torch.stack([NOISE] * 2)
    given = (stack([state] * 2), stack([BATCH_0] * 2), for_critic(agent, noises), for_actor(agent, noises))
    with FakeTensorMode():
        elsewhere: Any = tree_map(lambda leaf: torch.empty(leaf.shape, dtype=leaf.dtype, device="meta"), given)
        states, batches, critic_noise, actor_noise = elsewhere
        with pytest.raises(RuntimeError, match="same device"):  # the test can fail
            actor_noise.action @ torch.ones(ACTION, ACTION)
        states = vmap(agent.observe, (0, 0, 0, 0, None))(
            states, batches.obs[:, 0], batches.reward[:, 0], batches.reward[:, 0], 0.99
        )
        new, critic_metrics = vmap(agent.step("critic").update)(states, batches, critic_noise)
        new, actor_metrics = vmap(agent.step("actor").update)(new, batches, actor_noise)
        actions = vmap(agent.act)(new, batches.obs[:, 0], actor_noise.action[:, 0])
        means = vmap(agent.mode)(new, batches.obs[:, 0])
    made = [*leaves(new), *critic_metrics.values(), *actor_metrics.values(), actions, means]
    assert {leaf.device.type for leaf in made} == {"meta"}
    assert [(x.shape, x.dtype) for x in leaves(new)] == [(x.shape, x.dtype) for x in leaves(given[0])]


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_rounds_products_and_keeps_the_rest(name: str) -> None:
    """Gradients agree to a few roundings of 2^-8; every leaf of the state stays float32."""
    recipe, agent, state = small(name)
    rounded = make_agent(recipe, obs_dim=OBS, action_dim=ACTION, precision="bfloat16")
    assert same_bits(rounded.init(np.random.default_rng(0)), state)
    exact, exact_metrics = agent.step("critic").update(state, BATCH_0, for_critic(agent, NOISE))
    after, metrics = rounded.step("critic").update(state, BATCH_0, for_critic(agent, NOISE))
    after, _ = rounded.step("actor").update(after, BATCH_0, for_actor(agent, NOISE))
    assert [leaf.dtype for leaf in leaves(after)] == [leaf.dtype for leaf in leaves(exact)]
    largest = max(torch.linalg.vector_norm(leaf) for leaf in leaves(exact.critic.opt.m))
    for (key, m), wanted in zip(named_leaves(after.critic.opt.m), leaves(exact.critic.opt.m), strict=True):
        if torch.linalg.vector_norm(wanted) < 1e-6 * largest:
            continue  # zero but for rounding: what a normalisation takes out again
        assert not torch.equal(m, wanted), key
        assert torch.linalg.vector_norm(m - wanted) < 0.1 * torch.linalg.vector_norm(wanted), key
    for key, value in metrics.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact_metrics[key].item(), rel=0.05, abs=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_rounds_every_hidden_layer(name: str) -> None:
    """Of a hidden weight, the digits that bfloat16 does not have reach no action, no loss and no gradient."""
    recipe, _, state = small(name)
    agent = make_agent(recipe, obs_dim=OBS, action_dim=ACTION, precision="bfloat16")

    def dense(node: Any) -> bool:
        return isinstance(node, Dense)

    cut: Any = tree_map(lambda n: n._replace(w=n.w.bfloat16().float()) if dense(n) else n, state, stop=dense)
    assert not same_bits(cut, state)
    obs, learned = BATCH_0.obs[0], for_actor(agent, NOISE)
    assert torch.equal(agent.act(cut, obs, NOISE[0]), agent.act(state, obs, NOISE[0]))
    assert torch.equal(agent.mode(cut, obs), agent.mode(state, obs))
    assert same_bits(agent.sample(cut, BATCH_0.obs, NOISE), agent.sample(state, BATCH_0.obs, NOISE))
    (ours, metrics), (theirs, others) = (
        agent.step("critic").update(x, BATCH_0, for_critic(agent, NOISE)) for x in (cut, state)
    )
    assert same_bits(ours.critic.opt, theirs.critic.opt)
    assert metrics == others
    ours, theirs = (agent.step("actor").update(x, BATCH_0, learned)[0] for x in (cut, state))
    assert same_bits(ours.actor.opt, theirs.actor.opt)


def test_a_custom_torso_fits_in() -> None:
    """A recipe is made of values: another torso needs no other code."""
    recipe = replace(make_recipe("crossq_wn"), critic=mlp(9, norm=batch_norm), n_critics=3)
    _, agent, state = start(recipe)
    after, _ = agent.step("critic").update(state, BATCH_0, for_critic(agent, NOISE))
    shapes = {key: tuple(leaf.shape) for key, leaf in named_leaves(after.critic.params)}
    assert shapes == {
        "0.0.scale": (3, OBS + ACTION),
        "0.0.shift": (3, OBS + ACTION),
        "0.1.w": (3, OBS + ACTION, 9),
        "0.1.b": (3, 9),
        "0.3.scale": (3, 9),
        "0.3.shift": (3, 9),
        "1.w": (3, 9, 1),
        "1.b": (3, 1),
    }


def test_shapes_are_checked_in_tests() -> None:
    """The conftest's hook is on: noise of another batch size is refused by name."""
    _, agent, state = small("sac")
    with pytest.raises(TypeError, match="noise"):
        agent.step("actor").update(state, BATCH_0, for_actor(agent, NOISE[:3]))
