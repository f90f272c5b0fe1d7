"""Q-bias: what the critics promise against what the policy then earns, after REDQ (Chen et al. 2021).

The stochastic policy is rolled out, and the value of each pair (s_t, a_t) is compared with the soft return from there,
`G_t = r_t + gamma (G_{t+1} - alpha log pi(a_{t+1} | s_{t+1}))`: the log-probability of the *next* action, and the alpha
that the critics were trained with. A critic looks through a time limit, so the roll-out continues past it.
"""

from collections.abc import Callable
from math import ceil, log
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from steadyq.algorithm.random import Purpose, generator
from steadyq.envs.env import Env
from steadyq.examine.play import Interrupted

PAIRS = 1_000  # roll out until there are as many,
KEPT = 350  # of the first steps of each trajectory: both as in REDQ's code
FLOOR = 10.0  # of what a bias is divided by
TAIL = 0.01  # weight of the rewards after the last one at which they may be left out
LONGEST = 10_000  # agent steps of one roll-out: discounts above 0.9995 have no tail that ends


class Subject(NamedTuple):
    """A policy and its critics, in the environment's reward units.

    sample: `(obs[B, O], noise[B, A]) -> (action[B, A], log_prob[B])`, noise standard normal.
    q: `(obs[B, O], action[B, A]) -> q[E, B]`.
    """

    sample: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    q: Callable[[Tensor, Tensor], Tensor]
    alpha: float
    gamma: float


class Rollout(NamedTuple):
    """One trajectory of T steps, and the state that it left off at with the action the policy would take there."""

    obs: Float32[np.ndarray, "T+1 O"]
    action: Float32[np.ndarray, "T+1 A"]
    log_prob: Float64[np.ndarray, "T+1"]
    reward: Float64[np.ndarray, "T"]
    terminated: bool  # there is no future after it


class Pairs(NamedTuple):
    """What one roll-out says about its first pairs, each [n]."""

    q: Float64[np.ndarray, "n"]  # mean over critics
    soft_return: Float64[np.ndarray, "n"]
    missing: Float64[np.ndarray, "n"]  # weight of what the return leaves out
    bootstrapped: Float64[np.ndarray, "n"]  # weight of the critics' own value in it


def q_bias(
    env: Env,
    subject: Subject,
    *,
    seed: int,
    frame: int,
    limit: int | None,
    episodes: int | None = None,
    tail: float = TAIL,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Roll out and compare; the draws are named by seed and frame.

    Args:
        env: without its time limit, as far as that can be had.
        subject: the policy and its critics.
        seed: of the run.
        frame: of the weights.
        limit: agent steps after which training cuts an episode; pairs beyond it are not looked at.
        episodes: roll-outs; None for as many as give `PAIRS` pairs.
        tail: weight below which the rest of a return is left out.
        interrupted: asked at each step; `Interrupted` is raised when it says yes.
    """
    starts, draws = generator(seed, Purpose.BIAS_EPISODE, frame), generator(seed, Purpose.BIAS_ACTION, frame)
    kept = min(KEPT, limit or KEPT)
    found: list[Pairs] = []
    while len(found) < episodes if episodes else sum(len(one.q) for one in found) < PAIRS:
        start = int(starts.integers(2**31))
        rollout = roll(
            env, subject, draws, start=start, steps=kept + tail_steps(subject.gamma, tail), interrupted=interrupted
        )
        found.append(judge(rollout, subject, kept=kept, tail=tail))
    q, soft, missing, bootstrapped = (np.concatenate(column) for column in zip(*found, strict=True))
    bias = q - soft
    aggregate, per_state = max(abs(soft.mean()), FLOOR), np.maximum(np.abs(soft), FLOOR)
    return {
        "aggregate_mean": bias.mean() / aggregate,
        "aggregate_std": bias.std() / aggregate,
        "per_state_mean": (bias / per_state).mean(),
        "per_state_std": (bias / per_state).std(),
        "raw_mean": bias.mean(),
        "raw_std": bias.std(),
        "q_mean": q.mean(),
        "return_mean": soft.mean(),
        "return_std": soft.std(),
        "pairs": len(q),
        "rollouts": len(found),
        "missing_tail": missing.mean(),
        "bootstrapped_tail": bootstrapped.mean(),
    }


def tail_steps(gamma: float, tail: float) -> int:
    """The first k with gamma^k < tail; `LONGEST` where that is further off."""
    if gamma <= 0:
        return 1
    return min(LONGEST, ceil(log(tail) / log(gamma) + 1e-9)) if gamma < 1 else LONGEST


def roll(
    env: Env,
    subject: Subject,
    draws: np.random.Generator,
    *,
    start: int,
    steps: int,
    interrupted: Callable[[], bool] = lambda: False,
) -> Rollout:
    """Up to so many agent steps of the stochastic policy; fewer where the environment ends or refuses to continue."""
    obs, actions, log_probs, rewards = [env.reset(start)], list[np.ndarray](), list[float](), list[float]()
    terminated = truncated = False
    while True:
        if interrupted():
            raise Interrupted
        noise = torch.from_numpy(draws.standard_normal((1, env.spec.action_dim), dtype=np.float32))
        with torch.no_grad():
            action, log_prob = subject.sample(torch.from_numpy(obs[-1]).unsqueeze(0), noise)
        actions.append(action.squeeze(0).numpy())
        log_probs.append(float(log_prob))
        if terminated or truncated or len(rewards) == steps:
            break
        step = env.step(actions[-1])
        obs.append(step.obs)
        rewards.append(step.reward)
        terminated, truncated = step.terminated, step.truncated
    return Rollout(np.stack(obs), np.stack(actions), np.array(log_probs), np.array(rewards), terminated)


def judge(rollout: Rollout, subject: Subject, *, kept: int, tail: float) -> Pairs:
    """Values and soft returns of the first pairs of a roll-out.

    What follows its last step counts nothing where the episode terminated, or where even for the last pair that is kept
    it weighs less than `tail`. Otherwise, because the environment cut the episode off all the same, the critics' mean
    soft value stands in for it.
    """
    total = len(rollout.reward)
    n = min(kept, total)
    weight = subject.gamma ** (total - np.arange(n, dtype=np.float64))  # of what follows, in each pair's return
    nothing = np.zeros(n)
    with torch.no_grad():
        rows = [*range(n), total]  # the pairs that are kept, and where the roll-out left off
        each = subject.q(torch.from_numpy(rollout.obs[rows]), torch.from_numpy(rollout.action[rows]))
    q = each.double().mean(0).numpy()
    negligible = bool(weight[-1] < tail)
    entropy = -subject.alpha * rollout.log_prob
    end = 0.0 if rollout.terminated or negligible else q[-1] + entropy[-1]
    soft = soft_returns(rollout.reward, entropy, gamma=subject.gamma, end=end)[:n]
    if rollout.terminated:
        return Pairs(q[:n], soft, nothing, nothing)
    return Pairs(q[:n], soft, weight if negligible else nothing, nothing if negligible else weight)


def soft_returns(
    reward: Float64[np.ndarray, "T"], entropy: Float64[np.ndarray, "T+1"], *, gamma: float, end: float
) -> Float64[np.ndarray, "T"]:
    """`G_t = r_t + gamma (G_{t+1} + entropy_{t+1})`, backwards from `r + gamma end` at the last step.

    Args:
        reward: of each step.
        entropy: `-alpha log pi(a_t | s_t)`; that of the first action counts for no return.
        gamma: discount per step.
        end: soft value of where the steps ended, `Q - alpha log pi` there, or 0.
    """
    found = np.empty(len(reward))
    following = end
    for t in reversed(range(len(reward))):
        found[t] = reward[t] + gamma * following
        following = found[t] + entropy[t]
    return found
