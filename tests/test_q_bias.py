"""Q-bias against decision problems whose soft values are known in closed form."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from steadyq.envs import suites
from steadyq.envs.env import Spec, Step
from steadyq.examine.play import Interrupted
from steadyq.examine.q_bias import KEPT, Subject, q_bias, tail_steps

GAMMA, ALPHA = 0.9, 0.5
REWARD = np.array([1.0, 3.0])
LOG_PROB = np.log([0.1, 0.5])  # densities of the policy in either state: another entropy in each
ENTROPY = -ALPHA * LOG_PROB


class TwoStates:
    """State 0 and state 1 in turn; ends after so many steps, or never."""

    def __init__(self, *, terminates: int | None = None, truncates: int | None = None) -> None:
        self.spec = Spec("two-states", "gymnasium", 1, 1, 1, None, (("state", 1),), None, (-1.0,), (1.0,))
        self.terminates, self.truncates = terminates, truncates

    def reset(self, seed: int) -> np.ndarray:
        self.state, self.steps = 0, 0
        return np.float32([0])

    def step(self, action: np.ndarray) -> Step:
        reward, self.state, self.steps = REWARD[self.state], 1 - self.state, self.steps + 1
        return Step(np.float32([self.state]), reward, self.steps == self.terminates, self.steps == self.truncates)

    def render(self, *, height: int, width: int) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        pass


def soft_q() -> np.ndarray:
    """Of both states, for ever: `Q(s) = r(s) + gamma (Q(s') + entropy(s'))`, solved as linear equations."""
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    return np.linalg.solve(np.eye(2) - GAMMA * swap, REWARD + GAMMA * swap @ ENTROPY)


def subject(q: Callable[[np.ndarray], np.ndarray], *, gamma: float = GAMMA, alpha: float = ALPHA) -> Subject:
    """Two critics, one above and one below what `q` says of the states by as much."""

    def sample(obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return noise, torch.from_numpy(LOG_PROB)[obs[:, 0].long()]

    def critics(obs: Tensor, action: Tensor) -> Tensor:
        said = torch.from_numpy(q(obs[:, 0].long().numpy()))
        return torch.stack([said + 7, said - 7])

    return Subject(sample, critics, alpha, gamma)


def measure(env: TwoStates, who: Subject, **more: object) -> dict[str, float]:
    return q_bias(env, who, **{"seed": 0, "frame": 0, "limit": None, "tail": 1e-7, **more})


def test_exact_critics_have_no_bias_without_a_time_limit() -> None:
    got = measure(TwoStates(), subject(lambda s: soft_q()[s]))
    assert got["pairs"] == 1_050
    assert got["rollouts"] == 3
    assert got["return_mean"] == pytest.approx(soft_q().mean(), abs=1e-3)
    for name in ("aggregate_mean", "aggregate_std", "per_state_mean", "per_state_std", "raw_mean", "raw_std"):
        assert got[name] == pytest.approx(0, abs=1e-3), name


def test_a_known_bias_and_each_normalisation_of_it() -> None:
    """Critics that are off by 2 in state 0 and by -1 in state 1: mean 1/2, spread 3/2."""
    q, off = soft_q(), np.array([2.0, -1.0])
    got = measure(TwoStates(), subject(lambda s: (q + off)[s]))
    assert min(q) > 10
    wanted = {
        "raw_mean": 0.5,
        "raw_std": 1.5,
        "aggregate_mean": 0.5 / q.mean(),
        "aggregate_std": 1.5 / q.mean(),
        "per_state_mean": (off / q).mean(),
        "per_state_std": (off / q).std(),
        "q_mean": q.mean() + 0.5,
        "return_std": q.std(),
    }
    for name, value in wanted.items():
        assert got[name] == pytest.approx(value, abs=1e-3), name


def test_returns_below_the_floor_are_divided_by_it() -> None:
    """Discount 0: the return is the reward, 1 or 3, and the entropy of no state counts."""
    got = measure(TwoStates(), subject(lambda s: REWARD[s] + 5, gamma=0.0))
    assert got["aggregate_mean"] == pytest.approx(0.5)
    assert got["per_state_mean"] == pytest.approx(0.5)
    assert got["return_mean"] == pytest.approx(2)


def finite(steps: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Soft values with so many steps to go, the last of which terminates, by summing them up one by one."""
    found = []
    for n, s in zip(steps, start, strict=True):
        states = (s + np.arange(n)) % 2
        found.append(
            (GAMMA ** np.arange(n) * REWARD[states]).sum() + (GAMMA ** np.arange(n) * ENTROPY[states])[1:].sum()
        )
    return np.array(found)


def test_episodes_that_terminate_end_truly() -> None:
    t = np.arange(12)
    true = finite(12 - t, t % 2)
    got = measure(TwoStates(terminates=12), subject(lambda s: soft_q()[s]), episodes=2)
    assert got["pairs"] == 24
    assert got["return_mean"] == pytest.approx(true.mean(), abs=1e-3)
    assert got["raw_mean"] == pytest.approx(soft_q()[t % 2].mean() - true.mean(), abs=1e-3)
    assert got["missing_tail"] == got["bootstrapped_tail"] == 0


def test_where_a_time_limit_cannot_be_lifted_the_critics_stand_in() -> None:
    """Exact critics then have no bias; critics that are off by c seem off by `c (1 - gamma^(T - t))`."""
    env = TwoStates(truncates=21)
    exact = measure(env, subject(lambda s: soft_q()[s]))
    assert exact["raw_mean"] == pytest.approx(0, abs=1e-3)
    assert exact["raw_std"] == pytest.approx(0, abs=1e-3)
    weight = GAMMA ** (21 - np.arange(21))
    assert exact["bootstrapped_tail"] == pytest.approx(weight.mean())
    assert exact["rollouts"] == 48
    off = measure(env, subject(lambda s: soft_q()[s] + 4))
    assert off["raw_mean"] == pytest.approx(4 * (1 - weight.mean()), abs=1e-3)


def test_what_a_time_limit_would_do_is_not_there() -> None:
    """A limit of 40 steps in training, lifted: 40 pairs are kept of each roll-out, their returns are whole."""
    got = measure(TwoStates(), subject(lambda s: soft_q()[s]), limit=40)
    assert got["pairs"] == 1_000
    assert got["rollouts"] == 25
    assert got["raw_mean"] == pytest.approx(0, abs=1e-3)


def test_what_is_left_out_weighs_less_than_a_hundredth() -> None:
    got = measure(TwoStates(), subject(lambda s: soft_q()[s]), tail=0.01)
    steps = KEPT + tail_steps(GAMMA, 0.01)
    weight = GAMMA ** (steps - np.arange(KEPT))
    assert got["missing_tail"] == pytest.approx(weight.mean())
    assert weight.max() < 0.01
    after = (soft_q() + ENTROPY)[steps % 2]
    assert got["raw_mean"] == pytest.approx((weight * after).mean())


def test_the_tail_of_dm_control() -> None:
    assert tail_steps(0.99, 0.01) == 459
    assert 0.99**459 < 0.01 <= 0.99**458
    assert tail_steps(0.0, 0.01) == 1
    assert tail_steps(0.5, 0.25) == 2 + 1  # exactly a quarter is not yet less
    assert tail_steps(1.0, 0.01) == 10_000


def test_a_discount_without_an_end_is_bootstrapped() -> None:
    """Alpha 0 and rewards of 1 and 3 for 10,350 steps; the critics know what comes after: nothing."""
    got = measure(TwoStates(), subject(lambda s: 0.0 * s, gamma=1.0, alpha=0.0), episodes=1)
    assert got["bootstrapped_tail"] == 1
    assert got["return_mean"] == pytest.approx(2 * (10_350 - (KEPT - 1) / 2), abs=2)


def test_it_can_be_interrupted() -> None:
    with pytest.raises(Interrupted):
        measure(TwoStates(), subject(lambda s: 0.0 * s), interrupted=lambda: True)


@pytest.mark.parametrize(
    ("name", "repeat", "limit"), [("cartpole-balance", 100, 10), ("MountainCarContinuous-v0", 1, 999)]
)
def test_suites_lift_their_time_limits(name: str, repeat: int, limit: int) -> None:
    action = np.zeros(1, np.float32)
    limited, endless = (suites.make(name, action_repeat=repeat, endless=lifted) for lifted in (False, True))
    assert limited.spec.episode_frames == limit * repeat
    assert endless.spec.obs_dim == limited.spec.obs_dim
    for env in (limited, endless):
        env.reset(0)
    steps = [(limited.step(action), endless.step(action)) for _ in range(limit)]
    assert all((a.obs == b.obs).all() and a.reward == b.reward for a, b in steps)
    assert steps[-1][0].truncated
    more = [endless.step(action) for _ in range(limit)]
    assert not any(step.truncated or step.terminated for step in [steps[-1][1], *more])
