"""CrossQ and what came of it: batch normalisation in the critic, one joint pass, weights on the unit sphere."""

from dataclasses import replace
from typing import Literal

from steadyq.algorithm import bootstrap, normalise, resets
from steadyq.algorithm.agent import Protocol, Recipe
from steadyq.algorithm.bootstrap import joint, polyak
from steadyq.algorithm.explore import gaussian
from steadyq.algorithm.networks import input_norm, mlp, pre_norm_mlp
from steadyq.algorithm.nn import (
    Dense,
    Layer,
    Norm,
    Readout,
    batch_norm,
    batch_renorm,
    lecun_normal,
    orthogonal,
    readout,
    serial,
)
from steadyq.algorithm.optim import adamw, linear
from steadyq.algorithm.policy import deterministic, tanh_gaussian
from steadyq.algorithm.projection import every_update
from steadyq.algorithm.recipes.sac import sac
from steadyq.algorithm.temperature import fixed, tuned
from steadyq.algorithm.types import Params
from steadyq.algorithm.values import categorical, first, scalar
from steadyq.algorithm.weight_norm import unit_norm


def crossq(
    *,
    width: int = 2048,
    actor_width: int = 256,
    n_critics: int = 2,
    lr: float = 1e-3,
    b1: float = 0.5,
    alpha: float = 1.0,
    target_entropy: float = -1.0,
    actor_every: int = 3,
    norm_warm_up: int = 100_000,
) -> Recipe:
    """CrossQ: batch renormalisation and one joint pass over (s, a) and (s', a') instead of a target network.

    Bhatt et al. 2024, after the official code, batch renormalisation as it is there included. (Its authors ran
    DeepMind Control with lr 8e-4 and action repeat 1, and Swimmer-v4 with gamma 0.9999. Of more than two critics their
    code takes the minimum of a random two, ours of all.)

    Args:
        width: units in each of the critic's two hidden layers.
        actor_width: units in each of the actor's two hidden layers.
        n_critics: number of critics.
        lr: step size of Adam for critic, actor and temperature.
        b1: first-moment decay of critic and actor; the temperature keeps 0.9.
        alpha: temperature at the start.
        target_entropy: what the temperature steers the policy's entropy to, per action dimension.
        actor_every: critic updates per update of actor and temperature.
        norm_warm_up: train-mode calls of a layer before batch normalisation becomes batch renormalisation.
    """
    parent = sac(n_critics=n_critics, lr=lr, alpha=alpha, target_entropy=target_entropy)
    init = lecun_normal()

    def norm() -> Layer:
        return batch_renorm(warm_up=norm_warm_up)

    return replace(
        parent,
        actor=mlp(actor_width, actor_width, norm=norm, init=init),
        critic=mlp(width, width, norm=norm, init=init),
        readout=readout(1, init=init),
        policy=tanh_gaussian(log_std_min=-20, mean_init=init, log_std_init=init),
        value=scalar(weight=0.5),
        forward=joint(),
        target=bootstrap.none(),
        actor_optimiser=adamw(lr, b1=b1),
        critic_optimiser=adamw(lr, b1=b1),
        protocol=Protocol(utd=1, actor_every=actor_every, source="adityab/CrossQ"),
    )


def crossq_wn(
    *,
    width: int = 512,
    actor_width: int = 256,
    n_critics: int = 2,
    lr: float = 3e-4,
    temperature_lr: float = 3e-4,
    b1: float = 0.9,
    alpha: float = 0.01,
    target_entropy: float = -0.5,
    actor_every: int = 3,
    target: Literal["polyak", "none"] = "polyak",
    tau: float = 0.005,
    project: Literal["unit", "weights", "none"] = "unit",
    project_readout: bool = False,
    decay: float = 1e-2,
    decay_norms: bool = False,
    norm: Literal["batch", "renorm"] = "batch",
    norm_warm_up: int = 100_000,
    reset_updates: int = 0,
) -> Recipe:
    """CrossQ with weight normalisation: hidden weights on the unit sphere, stable at many updates per step.

    Palenicek, Vogt and Peters 2025. Where the paper is silent: its full version and the authors' later code (critics
    512 wide, plain batch normalisation, a target network in the joint pass, AdamW whose decay meets the readouts only).
    `--target none` is the literal reading of the workshop paper.

    Args:
        width: units in each of the critic's two hidden layers.
        actor_width: units in each of the actor's two hidden layers.
        n_critics: number of critics.
        lr: step size of AdamW for critic and actor.
        temperature_lr: step size of Adam for the temperature.
        b1: first-moment decay of critic and actor.
        alpha: temperature at the start; from 1.0 it takes most of a short run to come down.
        target_entropy: what the temperature steers the policy's entropy to, per action dimension.
        actor_every: critic updates per update of actor and temperature.
        target: a slow copy of the critic for the target (polyak), or the critic itself (none).
        tau: speed of the target network's average; has no effect with `target none`.
        project: each hidden unit's weights and bias to norm 1 (unit), its weights alone (weights), or neither (none).
        project_readout: the readouts' weights to norm 1, as the authors' later code does beside the hidden ones.
        decay: AdamW's weight decay of the readouts, times lr.
        decay_norms: let the scale and shift of the normalisation layers decay too.
        norm: batch normalisation, or CrossQ's batch renormalisation.
        norm_warm_up: with `norm renorm`, train-mode calls before batch normalisation becomes batch renormalisation.
        reset_updates: critic updates between resets of all networks, 0 for none; the paper's point is not to need any.
    """
    parent = crossq(n_critics=n_critics, actor_every=actor_every)

    def layer() -> Layer:
        return batch_renorm(warm_up=norm_warm_up) if norm == "renorm" else batch_norm()

    def projection(params: Params) -> Params:
        if project != "none":
            params = unit_norm(params, with_bias=project == "unit")
        return unit_norm(params, types=(Readout,), with_bias=False) if project_readout else params

    decays = (Readout, Norm) if decay_norms else (Readout,)
    optimiser = adamw(lr, b1=b1, weight_decay=decay, decays=decays)
    return replace(
        parent,
        actor=mlp(actor_width, actor_width, norm=layer),
        critic=mlp(width, width, norm=layer),
        readout=readout(1),
        policy=tanh_gaussian(),
        target=polyak(tau) if target == "polyak" else bootstrap.none(),
        actor_optimiser=optimiser,
        critic_optimiser=optimiser,
        temperature=tuned(alpha, target_entropy=target_entropy, optimiser=adamw(temperature_lr)),
        project=every_update(projection),
        resets=resets.every_updates(reset_updates),
        protocol=replace(parent.protocol, utd=2, source="the paper, danielpalenicek/xqc"),
    )


def crossq_wn_td3(
    *,
    width: int = 512,
    actor_width: int = 256,
    lr: float = 3e-4,
    tau: float = 0.005,
    exploration: float = 0.1,
    smoothing: float = 0.2,
    actor_every: int = 3,
) -> Recipe:
    """CrossQ's critic and weight normalisation on a TD3 base: a deterministic actor and no entropy.

    An ablation of the paper's full version (arXiv 2502.07523), which gives no settings for it. Our choice: those of
    `crossq_wn`, and of TD3 (Fujimoto et al. 2018) where they concern the deterministic actor.

    Args:
        width: units in each of the critic's two hidden layers.
        actor_width: units in each of the actor's two hidden layers.
        lr: step size of AdamW for critic and actor.
        tau: speed of the average of both target networks.
        exploration: standard deviation of the noise on training actions.
        smoothing: standard deviation of the noise on the next action in the critic's target, cut off at 0.5.
        actor_every: critic updates per update of the actor.
    """
    parent = crossq_wn(width=width, actor_width=actor_width, lr=lr, tau=tau, actor_every=actor_every)
    return replace(
        parent,
        policy=deterministic(smoothing=smoothing),
        temperature=fixed(0.0),
        improve=first,
        target_actor=polyak(tau),
        explore=gaussian(exploration),
        protocol=replace(parent.protocol, source="our choice"),
    )


def xqc(
    *,
    width: int = 512,
    actor_width: int = 256,
    depth: int = 4,
    lr: float = 3e-4,
    lr_end: float = 3e-5,
    schedule_updates: int = 0,
    tau: float = 0.005,
    alpha: float = 0.01,
    target_entropy: float = -0.5,
    actor_every: int = 3,
    bins: int = 101,
    bound: float = 5.0,
) -> Recipe:
    """XQC, the successor of CrossQ with weight normalisation: deeper, categorical, normalised before the activation.

    Palenicek et al. 2026, after the official code, its quirks included: the schedules of actor and temperature count
    their own updates, so these step sizes fall a third of the way, and further in a run that goes on beyond its planned
    end (`--past-schedule`), where the critic's stays; readouts are projected, biases left out. (There the actor's
    running moments are updated with every critic update; here, as in CrossQ, with the actor's.)

    Args:
        width: units in each of the critic's hidden layers.
        actor_width: units in each of the actor's hidden layers.
        depth: hidden layers of critic and actor.
        lr: step size of Adam for critic, actor and temperature at the start.
        lr_end: and at the end of its schedule, between which it falls linearly.
        schedule_updates: updates of the schedule; 0 for the critic updates of the run. Its authors' is 990,000: that of
            their runs of a million frames. Give it to compare a shorter run with theirs.
        tau: speed of the target network's average.
        alpha: temperature at the start.
        target_entropy: what the temperature steers the policy's entropy to, per action dimension.
        actor_every: critic updates per update of actor and temperature.
        bins: atoms of the critic's distribution.
        bound: the atoms lie between plus and minus this many standard deviations of the discounted return.
    """
    parent = crossq_wn(tau=tau, actor_every=actor_every)
    optimiser = adamw(linear(lr, lr_end, updates=schedule_updates))

    def torso(units: int) -> Layer:
        return serial(input_norm(batch_norm), pre_norm_mlp(*(units,) * depth, norm=batch_norm))

    return replace(
        parent,
        actor=torso(actor_width),
        critic=torso(width),
        readout=readout(bins, init=orthogonal()),
        value=categorical(bins, low=-bound, high=bound),
        actor_optimiser=optimiser,
        critic_optimiser=optimiser,
        temperature=tuned(alpha, target_entropy=target_entropy, optimiser=optimiser),
        project=every_update(lambda params: unit_norm(params, types=(Dense, Readout), with_bias=False)),
        normalise=normalise.returns(),
        protocol=replace(parent.protocol, gamma=None, source="danielpalenicek/xqc"),
    )
