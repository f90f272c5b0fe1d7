"""BRO: bigger, regularised, optimistic."""

from dataclasses import replace
from typing import Annotated

from steadyq.algorithm import nn, resets
from steadyq.algorithm.agent import Protocol, Recipe
from steadyq.algorithm.explore import optimistic
from steadyq.algorithm.networks import bro_net
from steadyq.algorithm.optim import adamw
from steadyq.algorithm.policy import tanh_gaussian
from steadyq.algorithm.ranges import COUNT, POSITIVE
from steadyq.algorithm.recipes import hyperparameters as hyper
from steadyq.algorithm.recipes.sac import sac
from steadyq.algorithm.temperature import tuned
from steadyq.algorithm.values import mean, quantile

ActorsWidth = Annotated[hyper.ActorWidth, "units of both actors' layers, one residual block each"]
Quantiles = Annotated[int, COUNT, "of the return that each critic predicts"]
KlTarget = Annotated[float, POSITIVE, "divergence of the optimistic actor from the other, per action dimension"]

RESETS = (15_001, 50_001, 250_001, 500_001, 750_001, 1_000_001, 1_500_001, 2_000_001)
"""Environment frames at which the official code resets."""


def bro(
    *,
    width: hyper.ResidualWidth = 512,
    actor_width: ActorsWidth = 256,
    quantiles: Quantiles = 100,
    lr: hyper.MixedLr = 3e-4,
    tau: hyper.Tau = 0.005,
    alpha: hyper.Alpha = 1.0,
    target_entropy: hyper.TargetEntropy = -0.5,
    decay: hyper.Decay = 1e-4,
    kl_target: KlTarget = 0.05,
) -> Recipe:
    """BRO: residual critics, quantiles, no pessimism, an optimistic actor to explore with, and resets.

    Nauman et al. 2024, after the official code (which has two critics and starts after 2,500 steps; tables elsewhere
    say otherwise). Evaluation plays the other, base actor. Resets draw fresh weights; there they repeat the first ones.
    """
    optimiser = adamw(lr, weight_decay=decay, decays=(nn.Dense, nn.Readout, nn.Norm))
    return replace(
        sac(tau=tau),
        actor=bro_net(actor_width, blocks=1),
        critic=bro_net(width, blocks=2),
        readout=nn.readout(quantiles),
        policy=tanh_gaussian(bound="tanh"),
        value=quantile(quantiles),
        backup=mean,
        improve=mean,
        actor_optimiser=optimiser,
        critic_optimiser=optimiser,
        temperature=tuned(alpha, target_entropy=target_entropy, optimiser=adamw(lr, b1=0.5)),
        explore=optimistic(bro_net(actor_width, blocks=1), optimiser=optimiser, kl_target=kl_target),
        resets=resets.at_frames(*RESETS),
        protocol=Protocol(
            utd=10, batch_size=128, learning_starts=2_500, action_repeat=1, source="naumix/BiggerRegularizedOptimistic"
        ),
    )


def bro_fast(
    *,
    width: hyper.ResidualWidth = 512,
    actor_width: ActorsWidth = 256,
    quantiles: Quantiles = 100,
    lr: hyper.MixedLr = 3e-4,
    tau: hyper.Tau = 0.005,
    alpha: hyper.Alpha = 1.0,
    target_entropy: hyper.TargetEntropy = -0.5,
    decay: hyper.Decay = 1e-4,
    kl_target: KlTarget = 0.05,
) -> Recipe:
    """BRO with 2 updates per step and only the first of its resets.

    Nauman et al. 2024, after the official code.
    """
    parent = bro(
        width=width,
        actor_width=actor_width,
        quantiles=quantiles,
        lr=lr,
        tau=tau,
        alpha=alpha,
        target_entropy=target_entropy,
        decay=decay,
        kl_target=kl_target,
    )
    return replace(parent, resets=resets.at_frames(*RESETS[:1]), protocol=replace(parent.protocol, utd=2))
