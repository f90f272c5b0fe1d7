"""A recipe whose agent has three steps: a critic that nobody asks learns from draws of its own. For `test_steps.py`.

Run as a program it is the command `steadyq`, with that recipe among the others; several commands may be joined by the
word `then`. With KILL_AT in its environment it kills itself, as a power cut would, before it takes that agent step.
"""

import os
import signal
import sys
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad

from steadyq.algorithm.actor_critic import State, normal
from steadyq.algorithm.agent import Agent, Auxiliary, Draw, Recipe
from steadyq.algorithm.networks import mlp
from steadyq.algorithm.nn import readout, serial
from steadyq.algorithm.optim import adamw, global_norm
from steadyq.algorithm.recipes import RECIPES
from steadyq.algorithm.recipes.sac import sac
from steadyq.algorithm.types import Metrics, Net, Params, Transition

HELD_OUT, NEXT_ACTION = 1_000, 1_001
"""Purposes that no other draw has: which transitions the passive critic sees, and the noise of its next actions."""


def passive_critic(obs_dim: int, action_dim: int, *, width: int) -> Auxiliary:
    """A critic of the present policy that nobody asks, with every second update."""
    network, optimiser = serial(mlp(width), readout(1)), adamw(1e-3)

    def init(rng: np.random.Generator) -> Net:
        params, stats, _ = network.init(rng, obs_dim + action_dim)
        return Net(params, stats, optimiser.init(params), ())

    def learn(agent: Agent, state: State, own: Net, batch: Transition, noise: Tensor) -> tuple[Net, Metrics]:
        def q(params: Params, obs: Tensor, action: Tensor) -> Tensor:
            return network.apply(params, own.stats, torch.cat([obs, action], -1), True)[0].squeeze(-1)

        next_action, _ = agent.sample(state, batch.next_obs, noise)
        target = (batch.reward + batch.discount * q(own.params, batch.next_obs, next_action)).detach()

        def loss(params: Params) -> tuple[Tensor, Tensor]:
            value = (q(params, batch.obs, batch.action) - target).square().mean()
            return value, value

        grads, value = grad(loss, has_aux=True)(own.params)
        params, opt = optimiser.update(grads, own.opt, own.params)
        metrics = {"train/passive_loss": value, "train/passive_grad_norm": global_norm(grads)}
        return own._replace(params=params, opt=opt), metrics

    def noise(draw: Draw, updates: int, batch_size: int) -> Tensor:
        return normal(draw(NEXT_ACTION), updates, batch_size, action_dim)

    return Auxiliary(
        name="passive",
        init=init,
        learn=learn,
        noise=noise,
        due=lambda first, end: [number % 2 == 1 for number in range(first, end)],
        metrics=("train/passive_loss", "train/passive_grad_norm"),
        sample=HELD_OUT,
    )


def with_passive_critic(*, width: int = 16) -> Recipe:
    """sac, and a critic that nobody asks.

    Args:
        width: units in each hidden layer.
    """
    return replace(sac(width=width, actor_width=width), auxiliaries=(partial(passive_critic, width=width),))


def main() -> int:
    """The commands, killed where the environment says so."""
    RECIPES["with_passive_critic"] = with_passive_critic
    from steadyq.cli.main import main
    from steadyq.run import loop

    take_steps = loop.act_and_store

    def killed_before_a_step(run: Any) -> None:
        if run.step == int(os.environ.get("KILL_AT", "-1")):
            os.kill(os.getpid(), signal.SIGKILL)
        take_steps(run)

    loop.act_and_store = killed_before_a_step
    commands = [list(words) for joined, words in groupby(sys.argv[1:], "then".__eq__) if not joined]
    return max(map(main, commands))


if __name__ == "__main__":
    sys.exit(main())
