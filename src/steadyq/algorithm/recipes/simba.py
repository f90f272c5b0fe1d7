"""SimBa and SimbaV2: normalised observations and residual networks; features and weights on the sphere."""

from dataclasses import replace
from typing import Annotated

from steadyq.algorithm import nn, normalise
from steadyq.algorithm.agent import Protocol, Recipe
from steadyq.algorithm.hypersphere import head, simba_v2_net
from steadyq.algorithm.networks import simba_net
from steadyq.algorithm.optim import adamw, linear
from steadyq.algorithm.policy import tanh_gaussian
from steadyq.algorithm.projection import every_update
from steadyq.algorithm.ranges import POSITIVE
from steadyq.algorithm.recipes import hyperparameters as hyper
from steadyq.algorithm.recipes.sac import sac
from steadyq.algorithm.temperature import tuned
from steadyq.algorithm.values import categorical
from steadyq.algorithm.weight_norm import unit_norm

FewCritics = Annotated[hyper.NCritics, "number of critics; its authors take two where episodes can terminate"]


def simba(
    *,
    width: hyper.ResidualWidth = 512,
    actor_width: hyper.ResidualActorWidth = 128,
    n_critics: FewCritics = 1,
    lr: hyper.MixedLr = 1e-4,
    tau: hyper.Tau = 0.005,
    alpha: hyper.Alpha = 0.01,
    target_entropy: hyper.TargetEntropy = -0.5,
    decay: Annotated[hyper.Decay, "AdamW's weight decay of all parameters but the temperature, times lr"] = 1e-2,
) -> Recipe:
    """SimBa: SAC on normalised observations with residual networks, one critic, the actor updated first.

    Lee et al. 2025, after the official code.
    """
    optimiser = adamw(lr, weight_decay=decay, decays=(nn.Dense, nn.Readout, nn.Norm))
    flat = nn.orthogonal(1.0)
    return replace(
        sac(n_critics=n_critics, tau=tau),
        actor=simba_net(actor_width, blocks=1),
        critic=simba_net(width, blocks=2),
        readout=nn.readout(1, init=flat),
        policy=tanh_gaussian(bound="tanh", mean_init=flat, log_std_init=flat),
        actor_optimiser=optimiser,
        critic_optimiser=optimiser,
        temperature=tuned(alpha, target_entropy=target_entropy, optimiser=adamw(lr)),
        order="actor_first",
        normalise=normalise.observations(),
        protocol=Protocol(utd=2, gamma=None, source="SonyResearch/simba"),
    )


def simba_v2(
    *,
    width: hyper.ResidualWidth = 512,
    actor_width: hyper.ResidualActorWidth = 128,
    n_critics: FewCritics = 1,
    lr: hyper.ScheduledLr = 1e-4,
    lr_end: hyper.LrEnd = 5e-5,
    schedule_updates: Annotated[
        hyper.ScheduleUpdates,
        "updates of the schedule; 0 for the critic updates of the run. Its authors' is 1,000,000: that of their runs "
        "of a million frames, which they count from the first step on",
    ] = 0,
    tau: hyper.Tau = 0.005,
    alpha: hyper.Alpha = 0.01,
    target_entropy: hyper.TargetEntropy = -0.5,
    bins: hyper.Bins = 101,
    bound: Annotated[
        float,
        POSITIVE,
        "the atoms lie between plus and minus this; rewards are scaled so that no return seen so far leaves it",
    ] = 5.0,
) -> Recipe:
    """SimbaV2: features and weights on the unit sphere, a categorical critic, scaled rewards.

    Lee et al. 2025 ("Hyperspherical normalization for scalable deep RL"), after the official code. Its authors make as
    many updates per agent step as it repeats an action: 2 on DeepMind Control, 1 elsewhere (give `--utd 1` there).
    """
    optimiser = adamw(linear(lr, lr_end, updates=schedule_updates))
    return replace(
        simba(n_critics=n_critics, tau=tau),
        actor=simba_v2_net(actor_width, blocks=1),
        critic=simba_v2_net(width, blocks=2),
        readout=head(bins, width=width),
        policy=tanh_gaussian(bound="tanh", head=lambda size, init: head(size, width=actor_width)),
        value=categorical(bins, low=-bound, high=bound),
        actor_optimiser=optimiser,
        critic_optimiser=optimiser,
        temperature=tuned(alpha, target_entropy=target_entropy, optimiser=optimiser),
        project=every_update(lambda params: unit_norm(params, types=(nn.Dense, nn.Readout), with_bias=False)),
        normalise=normalise.both(normalise.observations(), normalise.returns(bound=bound)),
        protocol=Protocol(utd=2, gamma=None, source="DAVIAN-Robotics/SimbaV2"),
    )
