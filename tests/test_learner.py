"""Several agents in one place: the pure steps in order, in place, for each seed; and the same when compiled."""

import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from small import ACTION, BATCH, OBS, assert_close, double, for_actor, for_critic, normal, same_bits, small, transitions
from steadyq.algorithm.actor_critic import CRITIC_METRICS
from steadyq.algorithm.agent import Agent
from steadyq.algorithm.recipes import RECIPES
from steadyq.algorithm.tree import leaves, named_leaves, stack, tree_map
from steadyq.algorithm.types import ActorNoise, CriticNoise, Transition
from steadyq.engine import compiler
from steadyq.engine.compiled import Compiled, trace
from steadyq.engine.learner import Draws, Lane, Learners, in_place

U = 4
DUE = (False, True, False, True)
CPU = torch.device("cpu")


def seeds(name: str, count: int) -> tuple:
    """`(agent, states)` with other weights for each seed."""
    agent = small(name).agent
    return agent, [agent.init(np.random.default_rng(seed)) for seed in range(count)]


def data(agent: Agent, seed: int) -> tuple[Transition, CriticNoise, ActorNoise]:
    """`(batches, noise of the critic's updates, noise of the actor's)` of one agent step."""
    next_noise, noise = normal(100 + seed, U, BATCH, ACTION), normal(200 + seed, 2, BATCH, ACTION)
    return transitions(seed, U, BATCH), for_critic(agent, next_noise), for_actor(agent, noise)


def draws(agent: Agent, seed: int, **changed: Tensor) -> Draws:
    """The same as the learner wants them, with some fields of the transitions changed."""
    batches, for_critic, for_actor = data(agent, seed)
    noise = {"critic": for_critic, "actor": for_actor}
    return Draws((batches._replace(**changed),), tuple(noise[step.name] for step in agent.steps))


def due(agent: Agent, actor: Sequence[bool] = DUE) -> list[Sequence[bool]]:
    """When each step is due: the critic's always."""
    return [actor if step.name == "actor" else (True,) * U for step in agent.steps]


def update(learner: Learners, of: Sequence[int]) -> None:
    learner.update([draws(learner.agent, seed) for seed in of], due(learner.agent))


@pytest.mark.parametrize("name", RECIPES)
def test_an_update_is_the_pure_steps_in_order(name: str) -> None:
    """Each seed to the same bits as its steps alone; the actor where it is due, in the recipe's order."""
    agent, states = seeds(name, 2)
    learner = Learners(agent, states, device=CPU, compiled=False)
    places = [leaf.data_ptr() for leaf in leaves(learner.all.state)]
    update(learner, range(2))
    for seed, state in enumerate(states):
        drawn, critic, actor, order = data(agent, seed), [], [], small(name).recipe.order
        for u, actor_too in enumerate(DUE):
            now, for_critic = (tree_map(lambda leaf, u=u: leaf[u], tree) for tree in drawn[:2])
            for_actor = tree_map(lambda leaf, u=u: leaf[u // 2], drawn[2])
            before = state
            if actor_too and order != "critic_first":
                state, metrics = agent.step("actor").update(state, now, for_actor)
                actor.append(metrics)
            seen = before if order == "together" else state
            new, metrics = agent.step("critic").update(seen, now, for_critic)
            state = state._replace(critic=new.critic, target=new.target) if order == "together" else new
            critic.append(metrics)
            if actor_too and order == "critic_first":
                state, metrics = agent.step("actor").update(state, now, for_actor)
                actor.append(metrics)
        assert same_bits(learner.seed(seed).state, state)
        means = learner.means()[seed]
        assert tuple(means) == tuple(key for step in agent.steps for key in step.metrics)
        for key, value in means.items():
            every = [float(metrics[key]) for metrics in (critic if key in CRITIC_METRICS else actor)]
            assert value == pytest.approx(np.mean(every), rel=1e-5)
    assert [leaf.data_ptr() for leaf in leaves(learner.all.state)] == places  # nothing moved


def test_one_of_three_seeds_is_that_seed_alone() -> None:
    agent, states = seeds("crossq_wn", 3)
    together = Learners(agent, states, device=CPU, compiled=False)
    alone = Learners(agent, [states[1]], device=CPU, compiled=False)
    update(together, range(3))
    update(alone, [1])
    assert same_bits(together.seed(1), alone.seed(0))
    obs, noise = normal(7, 3, OBS), normal(8, 3, ACTION)
    assert torch.equal(together.act(obs, noise)[1:2], alone.act(obs[1:2], noise[1:2]))


def test_the_given_states_are_copied() -> None:
    agent, states = seeds("sac", 1)
    kept = tree_map(torch.clone, states[0])
    learner = Learners(agent, states, device=CPU, compiled=False)
    update(learner, [0])
    assert same_bits(states[0], kept)
    assert not same_bits(learner.seed(0).state, kept)


def test_windows() -> None:
    agent, states = seeds("sac", 1)
    learner = Learners(agent, states, device=CPU, compiled=False)
    assert learner.means() == [{}]
    update(learner, [0])
    assert learner.tallies[0].updates == {"critic": 4, "actor": 2}
    first = learner.means()
    learner.open_window()
    assert learner.means() == [{}]
    update(learner, [0])
    assert learner.means() != first
    assert learner.tallies[0].updates["critic"] == 4


def test_a_seed_whose_updates_fail_keeps_its_state() -> None:
    agent, states = seeds("crossq_wn", 3)
    learner = Learners(agent, states, device=CPU, compiled=False)
    bad_rewards = torch.full((U, BATCH), math.nan)
    drawn = [draws(agent, 0), draws(agent, 1, reward=bad_rewards), draws(agent, 2)]
    learner.update(drawn, due(agent, (False,) * U))
    bad, good = learner.tallies[1], learner.tallies[2]
    assert (bad.failure, bad.failed, bad.updates, bad.given_up) == ("train/critic_loss", 3, {}, True)
    assert (good.failure, good.failed, good.updates, good.given_up) == ("", 0, {"critic": U}, False)
    assert learner.means()[1] == {}
    assert same_bits(learner.seed(1).state, states[1])
    assert not same_bits(learner.seed(2).state, states[2])


def test_a_seed_whose_actor_fails_is_given_up_though_its_critic_learns() -> None:
    """Whether a step fails is counted per step: the critic's updates between the actor's make none of them good."""
    agent, states = seeds("crossq_wn", 1)
    learner = Learners(agent, states, device=CPU, compiled=False)
    drawn = draws(agent, 0)
    bad = tree_map(lambda leaf: leaf * math.nan, drawn.noise[1])
    for _ in range(2):
        learner.update([drawn._replace(noise=(drawn.noise[0], bad))], due(agent))
    (tally,) = learner.tallies
    assert (tally.failure, tally.failed, tally.given_up) == ("train/actor_loss", 3, True)
    assert tally.updates == {"critic": 2 * U - 2}  # the third failure comes with the sixth of eight updates
    assert same_bits(learner.seed(0).state.actor, states[0].actor)
    learner.update([drawn], due(agent))
    assert learner.tallies == [tally]


def test_a_seed_that_is_given_up_is_left_alone_in_a_batch() -> None:
    """As on a GPU, where a step takes all seeds: what it did to a seed that was given up is undone."""
    agent, states = seeds("crossq_wn", 2)
    learner = Learners(agent, states, device=CPU, compiled=False)
    learner.batched, learner.lanes = True, [learner.all]
    learner.steps = [in_place(agent, place, batched=True) for place in range(2)]
    bad = draws(agent, 1, reward=torch.full((U, BATCH), math.nan))
    learner.update([draws(agent, 0), bad], due(agent, (False,) * U))
    assert [tally.given_up for tally in learner.tallies] == [False, True]
    assert same_bits(learner.seed(1).state, states[1])
    update(learner, range(2))
    assert same_bits(learner.seed(1).state, states[1])
    assert learner.tallies[1].updates == {}
    assert not same_bits(learner.seed(0).state, states[0])


def test_seeds_batched_as_on_a_gpu() -> None:
    """The in-place step under `vmap` against the pure one, seed by seed, in float64."""
    agent, states = seeds("crossq_wn", 3)
    lane = Learners(agent, states, device=CPU, compiled=False).all
    lane = lane._replace(state=double(lane.state))
    batches = [double(transitions(seed, BATCH)) for seed in range(3)]
    noise = normal(5, 3, BATCH, ACTION).double()
    metrics = in_place(agent, 0, batched=True)(lane, stack(batches), double(for_critic(agent, noise)))
    for seed in range(3):
        state, alone = agent.step("critic").update(
            double(states[seed]), batches[seed], double(for_critic(agent, noise[seed]))
        )
        assert_close(tree_map(lambda leaf, seed=seed: leaf[seed], lane.state), state, rtol=1e-8, atol=1e-11)
        for i, key in enumerate(CRITIC_METRICS):
            torch.testing.assert_close(metrics[seed, i], alone[key], rtol=1e-9, atol=1e-12)


def test_a_whole_update_runs_elsewhere() -> None:
    """On PyTorch's device without memory, the batched way: everything is moved there and stays there."""
    agent, states = seeds("crossq_wn", 2)
    learner = Learners(agent, states, device=torch.device("meta"), compiled=False)
    update(learner, range(2))
    assert {leaf.device.type for leaf in leaves(learner.all)} == {"meta"}


SLOWLY = [pytest.param(name, marks=pytest.mark.slow) for name in ("crossq", "xqc", "droq", "nap")]


@pytest.mark.parametrize("name", ["crossq_wn", "bro", "simba_v2", *SLOWLY])  # every piece is in one of them
def test_a_step_needs_nothing_of_the_host(name: str) -> None:
    """Traced on `meta`, the batched way: no constant is copied there, no number is read back, and what is written are
    the leaves of the lane, each once."""
    agent, states = seeds(name, 2)
    learner = Learners(agent, states, device=torch.device("meta"), compiled=False)
    lane = leaves(learner.all)
    for place, step in enumerate(agent.steps):
        noise = tree_map(lambda leaf: leaf.expand(2, *leaf.shape[1:]), step.noise(np.random.default_rng, 1, BATCH))
        given = tree_map(lambda leaf: leaf.to("meta"), (transitions(0, 2, BATCH), noise))

        def on_leaves(*flat: Tensor, given: Any = given, place: int = place) -> Tensor:
            values = iter(flat)
            return learner.steps[place](*tree_map(lambda _: next(values), (learner.all, *given)))

        graph = make_fx(on_leaves)(*lane, *leaves(given)).graph
        names = {str(node.target) for node in graph.nodes}
        hosts = {name for name in names if "lift_fresh" in name or "constant" in name or "_local_scalar_dense" in name}
        assert not hosts, f"{step.name}: {hosts}"
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        written = [inputs.index(node.args[0]) for node in graph.nodes if "copy_" in str(node.target)]
        assert len(written) == len(set(written)), step.name
        assert written, step.name
        assert max(written) < len(lane), f"{step.name} writes into what it was given"


# Compiled


def learned(*, compiled: bool) -> Lane:
    """State and metrics of a `crossq_wn` agent after one agent step's updates, in float32."""
    agent, states = seeds("crossq_wn", 1)
    products = "onednn" if torch.backends.mkldnn.is_available() else "mkl"
    learner = Learners(agent, states, device=CPU, compiled=compiled, products=products)
    learner.compile_ahead(batch_size=BATCH, obs_dim=OBS, action_dim=ACTION)
    assert learner.compiling == compiled
    update(learner, [0])
    if compiled:
        wider = draws(agent, 0, obs=normal(1, U, BATCH, OBS + 1))
        with pytest.raises(AssertionError, match="size"):
            learner.update([wider], due(agent))
    return learner.all


def compare() -> None:
    """Both, one after the other, leaf by leaf: run as a program, see the test below."""
    torch.set_num_threads(1)
    eager, compiled = dict(named_leaves(learned(compiled=False))), dict(named_leaves(learned(compiled=True)))
    assert eager.keys() == compiled.keys()
    for name, leaf in eager.items():
        size = float(leaf.double().abs().max())
        torch.testing.assert_close(
            compiled[name], leaf, rtol=1e-4, atol=1e-5 * size, msg=lambda text, name=name: f"{name}: {text}"
        )
    print("same")


def moments(name: str, which: str, *, compiled: bool) -> dict[str, Tensor]:
    """First and second moments of one step's gradients, running statistics and metrics, from the first state."""
    agent, states = seeds(name, 1)
    learner = Learners(agent, states, device=CPU, compiled=compiled, products="mkl")
    lane = learner.lanes[0]
    batch, for_critic, for_actor = (tree_map(lambda leaf: leaf[0], tree) for tree in data(agent, 0))
    place = agent.steps.index(agent.step(which))
    metrics = learner.steps[place](lane, batch, for_critic if which == "critic" else for_actor)
    kept = {key: leaf for key, leaf in named_leaves(lane.state) if ".opt." in key or ".stats." in key}
    return kept | {"metrics": metrics}


def compare_moments(recipe: str, which: str) -> None:
    """Leaf by leaf, as parts of their network: run as a program, see the test below."""
    torch.set_num_threads(1)
    eager, compiled = (moments(recipe, which, compiled=compiled) for compiled in (False, True))
    assert eager.keys() == compiled.keys()
    for key, leaf in eager.items():
        network = [part.double().norm() for name, part in eager.items() if name.startswith(key.partition(".")[0])]
        error, own, all_of_it = (
            (compiled[key] - leaf).double().norm(),
            leaf.double().norm(),
            torch.stack(network).norm(),
        )
        assert error <= 1e-4 * own + 1e-6 * all_of_it, f"{key}: {error:.1e} of {own:.1e}"
    print("same")


@pytest.mark.slow
@pytest.mark.parametrize("which", ["critic", "actor"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_compiled_step_has_the_gradients_of_the_eager_one(name: str, which: str) -> None:
    """Of every recipe: what is fused with what depends on all of it, and PyTorch has made silent mistakes there."""
    in_its_own_process(f"{name}/{which}")


def test_compiled_is_eager() -> None:
    """All updates of an agent step, within rounding, which Adam passes on: a step's direction is a ratio of small
    numbers. The gradients of the step that PyTorch once got wrong. And bfloat16 products in float32."""
    in_its_own_process("updates", "bro/actor", "widened")


def widened() -> None:
    """Exact where float32 is: small whole numbers, whose sums bfloat16 must round. Run as a program, see below."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        return (x.bfloat16() @ w.bfloat16()).float()

    draws = np.random.default_rng(0)
    for shapes in (((5, 300), (300, 7)), ((2, 5, 300), (2, 300, 7))):
        x, w = (torch.from_numpy(draws.integers(-9, 10, shape).astype(np.float32)) for shape in shapes)
        compiled, wanted = Compiled(product, products="mkl", widen=True), (x @ w).bfloat16().float()
        assert not torch.equal(wanted, x @ w)
        assert torch.equal(compiled(x, w), wanted)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as calls:
            compiled(x, w)
        assert "steadyq::widened" in {event.key for event in calls.key_averages()}
    print("same")


@pytest.mark.parametrize("direct", [True, False])
def test_products_by_onednn(direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One or stacked, factors transposed or shared by the stack: by the function that PyTorch hides, or without it."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    from steadyq.engine import onednn

    if not direct:
        monkeypatch.setattr(onednn, "_matmul", None)
    x, w = normal(0, 2, 9, 12), normal(1, 2, 12, 10)
    turned = [(x, w), (x.mT.contiguous().mT, w), (x, w.mT.contiguous().mT), (x[:1].expand(2, -1, -1), w)]
    for a, b in [*turned, *((a[0], b[0]) for a, b in turned), (x[:, ::2], w[:, :, 1:])]:
        product = torch.ops.steadyq.product(a, b)
        assert product.is_contiguous()
        torch.testing.assert_close(product.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-5)


def test_what_rows_have_in_common_is_computed_once() -> None:
    """What a loop over rows takes that was computed per column is kept; inputs, and what is as large, are not."""
    pytest.importorskip("torch._inductor")
    from steadyq.engine.once import compute_once

    def normalised(x: Tensor, scale: Tensor) -> Tensor:
        centred = x - x.mean(0)
        return (centred * torch.rsqrt(centred.square().mean(0) + 1e-3)).exp() * scale

    x, scale = normal(0, 16, 3), normal(1, 3)
    graph, _ = trace(normalised, (x, scale))
    compute_once(graph.graph)
    kept = [node.args[0].name for node in graph.graph.nodes if "as_strided" in str(node.target)]
    assert sorted(kept) == ["mean", "rsqrt"]
    assert torch.equal(graph(x, scale), normalised(x, scale))


def test_columns_that_nobody_looks_at_are_not_multiplied() -> None:
    """Cut out of the factor through what keeps columns apart, and only where nothing else needs the others."""
    pytest.importorskip("torch._inductor")
    from steadyq.engine.columns import make_wanted

    def through(x: Tensor, w: Tensor, scale: Tensor) -> Tensor:
        product = torch.ops.prims.convert_element_type(x.bmm(w), torch.float64)
        return (product * scale).sum(0, keepdim=True).view(5, 7).narrow(-1, 3, 4)

    def looked_at(x: Tensor, w: Tensor, scale: Tensor) -> Tensor:
        product = x.bmm(w) * scale
        return product.narrow(-1, 3, 2) + product.sum()

    def mixed(x: Tensor, w: Tensor, scale: Tensor) -> Tensor:
        return x.bmm(w).softmax(-1).narrow(-1, 3, 2) + x.bmm(w).view(2, 7, 5).narrow(-1, 3, 2).sum() * scale.sum()

    def wider(x: Tensor, w: Tensor, scale: Tensor) -> Tensor:
        return (x.bmm(w) * scale).sum(0, dtype=torch.float64).narrow(-1, 3, 4)

    def of_all(x: Tensor, w: Tensor, scale: Tensor) -> Tensor:
        return (x.bmm(w) * scale).sum([], keepdim=True).narrow(-1, 0, 1)

    for function, columns in ((through, [4]), (looked_at, [7]), (mixed, [7, 7]), (wider, [7]), (of_all, [7])):
        given = normal(0, 2, 5, 6), normal(1, 2, 6, 7), normal(2, 2, 1, 7)
        graph, _ = trace(function, given)
        make_wanted(graph.graph)
        graph.recompile()
        made = [node.meta["val"].shape[-1] for node in graph.graph.nodes if node.target is torch.ops.aten.bmm.default]
        assert made == columns, function.__name__
        torch.testing.assert_close(graph(*given), function(*given))


def in_its_own_process(*checks: str) -> None:
    """The shape checks of the other tests and compiling do not mix. One process, since loading the compiler is slow."""
    found = compiler.works()
    if not found.ok:
        pytest.skip(f"nothing to compile with: {found.reason}")
    ran = subprocess.run([sys.executable, __file__, *checks], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["same"] * len(checks)


if __name__ == "__main__":
    for check in sys.argv[1:]:
        if "/" in check:
            compare_moments(*check.split("/"))
        else:
            {"updates": compare, "widened": widened}[check]()


def test_only_one_step_is_compiled_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's tracer has one state for the whole process: a second trace in another thread crashed both."""
    busy, begun = threading.Lock(), list[bool]()

    def compile_alone(step: Callable, *_: Any, **__: Any) -> Callable:
        begun.append(busy.acquire(blocking=False))
        time.sleep(0.05)
        if begun[-1]:
            busy.release()
        return step

    monkeypatch.setattr("steadyq.engine.compiled._compile", compile_alone)
    threads = [threading.Thread(target=Compiled(torch.neg, products="mkl").prepare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert begun == [True] * 3
