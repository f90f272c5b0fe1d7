"""SimBa and SimbaV2: normalised observations and residual networks; features and weights on the sphere."""

from dataclasses import replace

from steadyq.algorithm import normalise
from steadyq.algorithm.agent import Protocol, Recipe
from steadyq.algorithm.hypersphere import head, simba_v2_net
from steadyq.algorithm.networks import simba_net
from steadyq.algorithm.nn import Dense, Norm, Readout, orthogonal, readout
from steadyq.algorithm.optim import adamw, linear
from steadyq.algorithm.policy import tanh_gaussian
from steadyq.algorithm.projection import every_update
from steadyq.algorithm.recipes.sac import sac
from steadyq.algorithm.temperature import tuned
from steadyq.algorithm.values import categorical
from steadyq.algorithm.weight_norm import unit_norm


def simba(
    *,
    width: int = 512,
    actor_width: int = 128,
    n_critics: int = 1,
    lr: float = 1e-4,
    tau: float = 0.005,
    alpha: float = 0.01,
    target_entropy: float = -0.5,
    decay: float = 1e-2,
) -> Recipe:
    """SimBa: SAC on normalised observations with residual networks, one critic, the actor updated first.

    Lee et al. 2025, after the official code.

    Args:
        width: units of the critic's layers, two residual blocks.
        actor_width: units of the actor's layers, one residual block.
        n_critics: number of critics; its authors take two where episodes can terminate.
        lr: step size of AdamW for critic and actor and of Adam for the temperature.
        tau: speed of the target network's average.
        alpha: temperature at the start.
        target_entropy: what the temperature steers the policy's entropy to, per action dimension.
        decay: AdamW's weight decay of all parameters but the temperature, times lr.
    """
    optimiser = adamw(lr, weight_decay=decay, decays=(Dense, Readout, Norm))
    flat = orthogonal(1.0)
    return replace(
        sac(n_critics=n_critics, tau=tau),
        actor=simba_net(actor_width, blocks=1),
        critic=simba_net(width, blocks=2),
        readout=readout(1, init=flat),
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
    width: int = 512,
    actor_width: int = 128,
    n_critics: int = 1,
    lr: float = 1e-4,
    lr_end: float = 5e-5,
    schedule_updates: int = 0,
    tau: float = 0.005,
    alpha: float = 0.01,
    target_entropy: float = -0.5,
    bins: int = 101,
    bound: float = 5.0,
) -> Recipe:
    """SimbaV2: features and weights on the unit sphere, a categorical critic, scaled rewards.

    Lee et al. 2025 ("Hyperspherical normalization for scalable deep RL"), after the official code. Its authors make as
    many updates per agent step as it repeats an action: 2 on DeepMind Control, 1 elsewhere (give `--utd 1` there).

    Args:
        width: units of the critic's layers, two residual blocks.
        actor_width: units of the actor's layers, one residual block.
        n_critics: number of critics; its authors take two where episodes can terminate.
        lr: step size of Adam for critic, actor and temperature at the start.
        lr_end: and at the end of its schedule, between which it falls linearly.
        schedule_updates: updates of the schedule; 0 for the critic updates of the run. Its authors' is 1,000,000: that
            of their runs of a million frames, which they count from the first step on.
        tau: speed of the target network's average.
        alpha: temperature at the start.
        target_entropy: what the temperature steers the policy's entropy to, per action dimension.
        bins: atoms of the critic's distribution.
        bound: the atoms lie between plus and minus this; rewards are scaled so that no return seen so far leaves it.
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
        project=every_update(lambda params: unit_norm(params, types=(Dense, Readout), with_bias=False)),
        normalise=normalise.both(normalise.observations(), normalise.returns(bound=bound)),
        protocol=Protocol(utd=2, gamma=None, source="DAVIAN-Robotics/SimbaV2"),
    )
