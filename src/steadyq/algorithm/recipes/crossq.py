"""CrossQ and what came of it: batch normalisation in the critic, one joint pass, weights on the unit sphere."""

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from steadyq.algorithm import bootstrap, nn, normalise, resets
from steadyq.algorithm.agent import Protocol, Recipe
from steadyq.algorithm.bootstrap import joint, polyak
from steadyq.algorithm.explore import gaussian
from steadyq.algorithm.networks import input_norm, mlp, pre_norm_mlp
from steadyq.algorithm.optim import adamw, linear
from steadyq.algorithm.policy import deterministic, tanh_gaussian
from steadyq.algorithm.projection import every_update
from steadyq.algorithm.ranges import COUNT, NOT_NEGATIVE, POSITIVE
from steadyq.algorithm.recipes import hyperparameters as hyper
from steadyq.algorithm.recipes.sac import sac
from steadyq.algorithm.temperature import fixed, tuned
from steadyq.algorithm.types import Params
from steadyq.algorithm.values import categorical, first, scalar
from steadyq.algorithm.weight_norm import unit_norm


def crossq(
    *,
    width: hyper.Width = 2048,
    actor_width: hyper.ActorWidth = 256,
    n_critics: hyper.NCritics = 2,
    lr: hyper.Lr = 1e-3,
    b1: Annotated[hyper.B1, "first-moment decay of critic and actor; the temperature keeps 0.9"] = 0.5,
    alpha: hyper.Alpha = 1.0,
    target_entropy: hyper.TargetEntropy = -1.0,
    actor_every: hyper.ActorEvery = 3,
    norm_warm_up: hyper.NormWarmUp = 100_000,
) -> Recipe:
    """CrossQ: batch renormalisation and one joint pass over (s, a) and (s', a') instead of a target network.

    Bhatt et al. 2024, after the official code, batch renormalisation as it is there included. (Its authors ran
    DeepMind Control with lr 8e-4 and action repeat 1, and Swimmer-v4 with gamma 0.9999. Of more than two critics their
    code takes the minimum of a random two, ours of all.)
    """
    parent = sac(n_critics=n_critics, lr=lr, alpha=alpha, target_entropy=target_entropy)
    init, norm = nn.lecun_normal(), partial(nn.batch_renorm, warm_up=norm_warm_up)
    return replace(
        parent,
        actor=mlp(actor_width, actor_width, norm=norm, init=init),
        critic=mlp(width, width, norm=norm, init=init),
        readout=nn.readout(1, init=init),
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
    width: hyper.Width = 512,
    actor_width: hyper.ActorWidth = 256,
    n_critics: hyper.NCritics = 2,
    lr: Annotated[hyper.Lr, "step size of AdamW for critic and actor"] = 3e-4,
    temperature_lr: Annotated[float, POSITIVE, "step size of Adam for the temperature"] = 3e-4,
    b1: hyper.B1 = 0.9,
    alpha: Annotated[
        hyper.Alpha, "temperature at the start; from 1.0 it takes most of a short run to come down"
    ] = 0.01,
    target_entropy: hyper.TargetEntropy = -0.5,
    actor_every: hyper.ActorEvery = 3,
    target: Annotated[
        Literal["polyak", "none"], "a slow copy of the critic for the target (polyak), or the critic itself (none)"
    ] = "polyak",
    tau: Annotated[hyper.Tau, "speed of the target network's average; has no effect with `target none`"] = 0.005,
    project: Annotated[
        Literal["unit", "weights", "none"],
        "each hidden unit's weights and bias to norm 1 (unit), its weights alone (weights), or neither (none)",
    ] = "unit",
    project_readout: Annotated[bool, "the readouts' weights to norm 1 too, as in the authors' later code"] = False,
    decay: Annotated[hyper.Decay, "AdamW's weight decay of the readouts, times lr"] = 1e-2,
    decay_norms: Annotated[bool, "let the scale and shift of the normalisation layers decay too"] = False,
    actor_moments: Annotated[
        Literal["actor", "critic"],
        "whose updates the actor's running moments move with: its own (actor), or the critic's (critic), as in the "
        "authors' later code",
    ] = "actor",
    norm: Annotated[Literal["batch", "renorm"], "batch normalisation, or CrossQ's batch renormalisation"] = "batch",
    norm_warm_up: Annotated[
        hyper.NormWarmUp,
        "with `norm renorm`, train-mode calls before batch normalisation becomes batch renormalisation",
    ] = 100_000,
    reset_updates: Annotated[
        hyper.ResetUpdates,
        "critic updates between resets of all networks, 0 for none; the paper's point is not to need any",
    ] = 0,
) -> Recipe:
    """CrossQ with weight normalisation: hidden weights on the unit sphere, stable at many updates per step.

    Palenicek, Vogt and Peters 2025. Where the paper is silent: its full version and the authors' later code (critics
    512 wide, plain batch normalisation, a target network in the joint pass, AdamW whose decay meets the readouts only).
    `--target none` is the literal reading of the workshop paper. The later code also has `--project-readout
    --decay-norms`: neither of them nor both were better for certain (docs/evidence.md), so they stay options.
    """
    parent = crossq(n_critics=n_critics, actor_every=actor_every)
    layer = partial(nn.batch_renorm, warm_up=norm_warm_up) if norm == "renorm" else nn.batch_norm

    def projection(params: Params) -> Params:
        if project != "none":
            params = unit_norm(params, with_bias=project == "unit")
        return unit_norm(params, types=(nn.Readout,), with_bias=False) if project_readout else params

    decays = (nn.Readout, nn.Norm) if decay_norms else (nn.Readout,)
    optimiser = adamw(lr, b1=b1, weight_decay=decay, decays=decays)
    return replace(
        parent,
        actor=mlp(actor_width, actor_width, norm=layer),
        critic=mlp(width, width, norm=layer),
        readout=nn.readout(1),
        policy=tanh_gaussian(),
        target=polyak(tau) if target == "polyak" else bootstrap.none(),
        actor_optimiser=optimiser,
        critic_optimiser=optimiser,
        temperature=tuned(alpha, target_entropy=target_entropy, optimiser=adamw(temperature_lr)),
        project=every_update(projection),
        actor_moments=actor_moments,
        resets=resets.every_updates(reset_updates),
        protocol=replace(parent.protocol, utd=2, source="the paper, danielpalenicek/xqc"),
    )


def crossq_wn_td3(
    *,
    width: hyper.Width = 512,
    actor_width: hyper.ActorWidth = 256,
    lr: Annotated[hyper.Lr, "step size of AdamW for critic and actor"] = 3e-4,
    tau: Annotated[hyper.Tau, "speed of the average of both target networks"] = 0.005,
    exploration: Annotated[float, NOT_NEGATIVE, "standard deviation of the noise on training actions"] = 0.1,
    smoothing: Annotated[
        float, NOT_NEGATIVE, "standard deviation of the noise on the critic's next action, cut off at 0.5"
    ] = 0.2,
    actor_every: Annotated[hyper.ActorEvery, "critic updates per update of the actor"] = 3,
) -> Recipe:
    """CrossQ's critic and weight normalisation on a TD3 base: a deterministic actor and no entropy.

    An ablation of the paper's full version (arXiv 2502.07523), which gives no settings for it. Our choice: those of
    `crossq_wn`, and of TD3 (Fujimoto et al. 2018) where they concern the deterministic actor.
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
    width: Annotated[hyper.Width, "units in each of the critic's hidden layers"] = 512,
    actor_width: Annotated[hyper.ActorWidth, "units in each of the actor's hidden layers"] = 256,
    depth: Annotated[int, COUNT, "hidden layers of critic and actor"] = 4,
    lr: hyper.ScheduledLr = 3e-4,
    lr_end: hyper.LrEnd = 3e-5,
    schedule_updates: Annotated[
        hyper.ScheduleUpdates,
        "updates of the schedule; 0 for the critic updates of the run. Its authors' is 990,000: that of their runs of "
        "a million frames. Give it to compare a shorter run with theirs",
    ] = 0,
    tau: hyper.Tau = 0.005,
    alpha: hyper.Alpha = 0.01,
    target_entropy: hyper.TargetEntropy = -0.5,
    actor_every: hyper.ActorEvery = 3,
    bins: hyper.Bins = 101,
    bound: Annotated[
        float, POSITIVE, "the atoms lie between plus and minus this many standard deviations of the discounted return"
    ] = 5.0,
) -> Recipe:
    """XQC, the successor of CrossQ with weight normalisation: deeper, categorical, normalised before the activation.

    Palenicek et al. 2026, after the official code, its quirks included: the schedules of actor and temperature count
    their own updates, so these step sizes fall a third of the way, and further in a run extended beyond its planned
    end (`--past-schedule`), where the critic's stays; readouts are projected, biases left out; the actor's running
    moments move with every critic update.
    """
    parent = crossq_wn(tau=tau, actor_every=actor_every)
    optimiser = adamw(linear(lr, lr_end, updates=schedule_updates))

    def torso(units: int) -> nn.Layer:
        return nn.serial(input_norm(nn.batch_norm), pre_norm_mlp(*(units,) * depth, norm=nn.batch_norm))

    return replace(
        parent,
        actor=torso(actor_width),
        critic=torso(width),
        readout=nn.readout(bins, init=nn.orthogonal()),
        value=categorical(bins, low=-bound, high=bound),
        actor_optimiser=optimiser,
        critic_optimiser=optimiser,
        temperature=tuned(alpha, target_entropy=target_entropy, optimiser=optimiser),
        project=every_update(lambda params: unit_norm(params, types=(nn.Dense, nn.Readout), with_bias=False)),
        actor_moments="critic",
        normalise=normalise.returns(),
        protocol=replace(parent.protocol, gamma=None, source="danielpalenicek/xqc"),
    )
