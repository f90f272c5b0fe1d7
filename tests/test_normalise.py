"""Running moments against NumPy over the whole history, and scaled rewards against slow loops."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import vmap

from small import assert_close, double, same_bits
from steadyq.algorithm.normalise import Normalise, Running, both, nothing, observations, returns
from steadyq.algorithm.tree import stack, tree_map
from steadyq.algorithm.types import Params

O, GAMMA = 4, 0.9  # noqa: E741


def history(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations of very different sizes, one of them constant; heavy-tailed rewards; episodes of uneven length."""
    rng = np.random.default_rng(seed)
    obs = rng.standard_normal((n, O)) * [1.0, 50.0, 1e-3, 0.0] + [0.0, -20.0, 3.0, 7.0]
    reward = rng.standard_normal(n) ** 3 + 0.5
    return obs, reward, rng.random(n) < 0.1


def play(part: Normalise, obs: np.ndarray, reward: np.ndarray, last: np.ndarray, state: Params = None) -> Params:
    """The state after all steps, in float64."""
    state = double(part.init(O)) if state is None else state
    for x, r, end in zip(*map(torch.from_numpy, (obs, reward, last.astype(float))), strict=True):
        state = part.observe(state, x, r, end, GAMMA)
    return state


def moments_with_prior(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted moments of all numbers and of what SimBa's code starts with: mean 0, variance 1, of weight 1e-4."""
    prior = np.broadcast_to(np.array([-1.0, 1.0]).reshape(2, *[1] * (x.ndim - 1)), (2, *x.shape[1:]))
    values, weights = np.concatenate([prior, x]), np.array([0.5e-4, 0.5e-4] + [1.0] * len(x))
    mean = np.average(values, 0, weights)
    return mean, np.average((values - mean) ** 2, 0, weights)


def discounted(reward: np.ndarray, last: np.ndarray) -> list[float]:
    """G <- gamma (1 - done) G + r, as SimbaV2's and XQC's code do it step by step."""
    sums, g = [], 0.0
    for r, done in zip(reward, last, strict=True):
        g = GAMMA * (0 if done else 1) * g + r
        sums.append(g)
    return sums


@pytest.mark.parametrize("n", [1, 2, 300])
def test_observations_against_numpy(n: int) -> None:
    part, (obs, reward, last) = observations(), history(n)
    state = play(part, obs, reward, last)
    mean, var = moments_with_prior(obs)
    batch = np.random.default_rng(9).standard_normal((3, 5, O))
    got = part.obs(state, torch.from_numpy(batch))
    np.testing.assert_allclose(got.numpy(), (batch - mean) / np.sqrt(var + 1e-8), rtol=1e-7, atol=1e-9)
    assert bool(torch.isfinite(got).all())  # a constant dimension too
    rewards = torch.from_numpy(reward)
    assert torch.equal(part.reward(state, rewards), rewards)


def test_the_moments_of_a_sensor_far_from_zero_still_follow_after_a_million_steps() -> None:
    """In float32 they stood still: a millionth of three is less than half the last bit of 300."""
    part, steps, obs = observations(), 1_000, torch.tensor([303.0])
    state = Running(*(torch.tensor(x, dtype=torch.float64) for x in ([300.0], [1.0], 1e6)))
    for _ in range(steps):
        state = part.observe(state, obs, torch.zeros(()), torch.zeros(()), GAMMA)
    share = steps / (1e6 + steps)
    np.testing.assert_allclose(state.mean, 300 + 3 * share, rtol=1e-12)
    np.testing.assert_allclose(state.var, 1 - share + 9 * share * (1 - share), rtol=1e-9)
    assert part.obs(state, obs).dtype == torch.float32


def test_observations_unseen_pass_unchanged() -> None:
    part, x = observations(), torch.randn(6, O, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(part.obs(part.init(O), x), x)


def test_observations_become_standard() -> None:
    part, (obs, reward, last) = observations(), history(2_000)
    seen = part.obs(play(part, obs, reward, last), torch.from_numpy(obs))[:, :2].numpy()
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(seen.std(0), 1, atol=1e-4)


@pytest.mark.parametrize("n", [2, 3, 300])
def test_returns_against_a_loop(n: int) -> None:
    """As in XQC: the standard deviation of the running sum over all steps so far, with nothing to start from."""
    part, (obs, reward, last) = returns(), history(n)
    state = play(part, obs, reward, last)
    rewards = np.random.default_rng(9).standard_normal((3, 5))
    wanted = rewards / np.std(discounted(reward, last))
    np.testing.assert_allclose(part.reward(state, torch.from_numpy(rewards)).numpy(), wanted, rtol=1e-6)
    assert torch.equal(part.obs(state, torch.from_numpy(obs)), torch.from_numpy(obs))


def bounded_divisor(sums: list[float], bound: float) -> tuple[float, float]:
    """SimbaV2's two candidates: the spread, and the largest sum so far over the bound."""
    return float(np.sqrt(moments_with_prior(np.array(sums))[1] + 1e-8)), float(max(map(abs, sums)) / bound)


@pytest.mark.parametrize(("bound", "limited"), [(2.0, True), (5.0, False)])
def test_bounded_returns_against_a_loop(bound: float, limited: bool) -> None:
    part, (obs, reward, last) = returns(bound=bound), history(300)
    spread, least = bounded_divisor(discounted(reward, last), bound)
    assert (least > spread) == limited  # both sides of the rule are met
    rewards = np.random.default_rng(9).standard_normal((3, 5))
    got = part.reward(play(part, obs, reward, last), torch.from_numpy(rewards))
    np.testing.assert_allclose(got.numpy(), rewards / max(spread, least), rtol=1e-9)


def test_no_return_seen_leaves_the_bound() -> None:
    """The sums of the scaled rewards reach the bound at their largest, and the largest is remembered."""
    part, (obs, reward, last) = returns(bound=2.0), history(300)
    state = play(part, obs, reward, last)
    scaled = discounted(part.reward(state, torch.from_numpy(reward)).numpy(), last)
    assert max(map(abs, scaled)) == pytest.approx(2.0, rel=1e-9)
    quiet = play(part, obs, np.zeros(300), last, state)
    one = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(part.reward(quiet, one), part.reward(state, one))


def test_an_episode_s_last_reward_starts_the_next_sum() -> None:
    """By hand: rewards 1, 2, 4, 8, an end at the third: sums 1, 2.9, 4, 11.6."""
    part = returns(bound=1.0)
    sums = []
    state = double(part.init(O))
    for reward, last in [(1.0, 0.0), (2.0, 0.0), (4.0, 1.0), (8.0, 0.0)]:
        numbers = (torch.tensor(x, dtype=torch.float64) for x in (reward, last))
        state = part.observe(state, torch.zeros(O, dtype=torch.float64), *numbers, GAMMA)
        sums.append(1 / part.reward(state, torch.ones((), dtype=torch.float64)).item())  # max |G|, larger than the std
    assert sums == pytest.approx([1.0, 2.9, 4.0, 11.6])


@pytest.mark.parametrize("bound", [None, 5.0])
def test_rewards_before_the_first_step_pass_unchanged(bound: float | None) -> None:
    part, rewards = returns(bound=bound), torch.tensor([3.0, -1.0])
    torch.testing.assert_close(part.reward(part.init(O), rewards), rewards)


@pytest.mark.parametrize("bound", [None, 5.0])
def test_rewards_of_zero_stay_zero(bound: float | None) -> None:
    """Where nothing has been earned yet there is no spread to divide by."""
    part, (obs, reward, last) = returns(bound=bound), history(20)
    state = play(part, obs, 0 * reward, last)
    assert part.reward(state, torch.zeros(3, dtype=torch.float64)).tolist() == [0.0] * 3


def test_both_are_each() -> None:
    steps = history(50)
    parts = observations(), returns(bound=5.0)
    together = both(*parts)
    state = play(together, *steps)
    alone = [play(part, *steps) for part in parts]
    assert same_bits(tuple(state), tuple(alone))
    obs, rewards = map(torch.from_numpy, steps[:2])
    assert torch.equal(together.obs(state, obs), parts[0].obs(alone[0], obs))
    assert torch.equal(together.reward(state, rewards), parts[1].reward(alone[1], rewards))
    assert not torch.equal(together.obs(state, obs), obs)
    assert not torch.equal(together.reward(state, rewards), rewards)


def test_nothing_is_the_identity() -> None:
    part, steps = nothing(), history(3)
    state = play(part, *steps)
    obs, rewards = map(torch.from_numpy, steps[:2])
    assert state == part.init(O) == ()
    assert part.obs(state, obs) is obs
    assert part.reward(state, rewards) is rewards


PARTS = {
    "observations": observations(),
    "returns": returns(),
    "bounded": returns(bound=5.0),
    "both": both(observations(), returns(bound=5.0)),
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
def test_several_seeds_equal_single_ones(part: Normalise) -> None:
    seeds = 3
    steps = [history(40, seed) for seed in range(seeds)]
    many = double(stack([part.init(O)] * seeds))
    observe = vmap(part.observe, (0, 0, 0, 0, None))
    for i in range(40):
        columns = ([torch.as_tensor(kind[i], dtype=torch.float64) for kind in own] for own in steps)
        many = observe(many, *map(torch.stack, zip(*columns, strict=True)), GAMMA)
    x = torch.from_numpy(np.random.default_rng(9).standard_normal((seeds, 5, O)))
    seen, paid = vmap(part.obs)(many, x), vmap(part.reward)(many, x[..., 0])
    for i, own in enumerate(steps):
        alone = play(part, *own)
        assert_close(tree_map(lambda leaf, i=i: leaf[i], many), alone, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(seen[i], part.obs(alone, x[i]), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(paid[i], part.reward(alone, x[i, :, 0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
def test_an_update_leaves_the_old_state_alone(part: Normalise) -> None:
    """The loop may still hold it."""
    state = play(part, *history(5))
    kept = tree_map(torch.clone, state)
    play(part, *history(5, seed=1), state)
    assert same_bits(state, kept)


def test_float32_stays_accurate_over_many_steps() -> None:
    """A hundred thousand observations whose mean is a thousand standard deviations, or whose mean moves on by three.

    Off by less than a hundredth of a standard deviation. Sums of squares would have lost the variance altogether.
    """
    n, rng = 100_000, np.random.default_rng(0)
    x = np.array([0.0, 10.0, 100.0, 1_000.0]) + rng.standard_normal((n, O))
    x[n // 2 :, :3] += 3
    x = x.astype(np.float32)
    part = observations()
    state, reward, last = part.init(O), torch.zeros(()), torch.zeros(())
    for row in torch.from_numpy(x):
        state = part.observe(state, row, reward, last, GAMMA)
    exact = x.astype(np.float64)
    probe = exact.mean(0) + np.array([[-2.0], [0.0], [2.0]]) * exact.std(0)
    got: Tensor = part.obs(state, torch.from_numpy(probe).float())
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), np.repeat([[-2.0], [0.0], [2.0]], O, 1), atol=0.01)
