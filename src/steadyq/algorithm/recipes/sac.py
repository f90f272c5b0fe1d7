"""Soft actor-critic, and what was made of it for many updates: resets, ensembles, dropout, normalisation."""

from dataclasses import replace
from typing import Annotated

from steadyq.algorithm import nn, resets
from steadyq.algorithm.agent import Protocol, Recipe
from steadyq.algorithm.bootstrap import polyak
from steadyq.algorithm.networks import dropout_mlp, mlp, pre_norm_mlp
from steadyq.algorithm.optim import adamw
from steadyq.algorithm.policy import tanh_gaussian
from steadyq.algorithm.projection import initial_norm
from steadyq.algorithm.ranges import AT_LEAST_0, BELOW_1, COUNT
from steadyq.algorithm.recipes import hyperparameters as hyper
from steadyq.algorithm.temperature import tuned
from steadyq.algorithm.values import mean, minimum, subset_minimum
from steadyq.errors import InputError


def sac(
    *,
    width: hyper.Width = 256,
    actor_width: hyper.ActorWidth = 256,
    n_critics: hyper.NCritics = 2,
    lr: hyper.Lr = 3e-4,
    tau: hyper.Tau = 0.005,
    alpha: hyper.Alpha = 1.0,
    target_entropy: hyper.TargetEntropy = -0.5,
) -> Recipe:
    """Soft actor-critic: two ReLU critics, their minimum, a slow target, a tuned temperature.

    Haarnoja et al. 2018, with the settings of jaxrl, the base of the paper's experiments; only actions are repeated
    twice, as in the paper (jaxrl: not).
    """
    return Recipe(
        actor=mlp(actor_width, actor_width),
        critic=mlp(width, width),
        policy=tanh_gaussian(mean_init=nn.orthogonal(1.0)),
        n_critics=n_critics,
        target=polyak(tau),
        actor_optimiser=adamw(lr),
        critic_optimiser=adamw(lr),
        temperature=tuned(alpha, target_entropy=target_entropy, optimiser=adamw(lr)),
        protocol=Protocol(utd=1, learning_starts=10_000, source="ikostrikov/jaxrl"),
    )


def sac_resets(
    *,
    width: hyper.Width = 256,
    actor_width: hyper.ActorWidth = 256,
    lr: hyper.Lr = 3e-4,
    tau: hyper.Tau = 0.005,
    alpha: hyper.Alpha = 1.0,
    target_entropy: hyper.TargetEntropy = -0.5,
    reset_updates: hyper.ResetUpdates = 2_560_000,
) -> Recipe:
    """SAC at 32 updates per step, all networks reset from time to time, the replay kept.

    D'Oro et al. 2023 (SR-SAC), after the official code, with two differences between its resets and these: it waits for
    an evaluation, which makes them one in 2.72M updates, and always starts from the same weights; here updates are
    counted, and weights are fresh. (Its authors' published curves are of their earlier code, which had fresh weights
    every 80,000 steps, those of the warm-up counted.)
    """
    parent = sac(width=width, actor_width=actor_width, lr=lr, tau=tau, alpha=alpha, target_entropy=target_entropy)
    return replace(
        parent,
        policy=tanh_gaussian(bound="tanh"),
        resets=resets.every_updates(reset_updates),
        protocol=replace(
            parent.protocol,
            utd=32,
            action_repeat=1,
            source="proceduralia/high_replay_ratio_continuous_control",
        ),
    )


def sac_primacy(
    *,
    width: hyper.Width = 256,
    actor_width: hyper.ActorWidth = 256,
    lr: hyper.Lr = 3e-4,
    tau: hyper.Tau = 0.005,
    alpha: hyper.Alpha = 1.0,
    target_entropy: hyper.TargetEntropy = -0.5,
    reset_frames: Annotated[int, AT_LEAST_0, "environment frames between resets, 0 for none"] = 200_000,
) -> Recipe:
    """SAC with all networks reset every 200,000 frames, the replay kept.

    Nikishin et al. 2022 ("The primacy bias"), after the official code; they ran it with UTD 1 and 32.
    """
    parent = sac(width=width, actor_width=actor_width, lr=lr, tau=tau, alpha=alpha, target_entropy=target_entropy)
    return replace(
        parent,
        policy=tanh_gaussian(bound="tanh"),
        resets=resets.every_frames(reset_frames),
        protocol=replace(parent.protocol, action_repeat=1, source="evgenii-nikishin/rl_with_resets"),
    )


def redq(
    *,
    width: hyper.Width = 256,
    actor_width: hyper.ActorWidth = 256,
    n_critics: hyper.NCritics = 10,
    subset: Annotated[
        int, COUNT, "how many of them, drawn anew for each update, the target takes its minimum over"
    ] = 2,
    lr: hyper.Lr = 3e-4,
    tau: hyper.Tau = 0.005,
    alpha: hyper.Alpha = 1.0,
    target_entropy: hyper.TargetEntropy = -0.5,
) -> Recipe:
    """REDQ: ten critics, the target from a random two of them, the actor improved on the mean of all.

    Chen et al. 2021, after the official code: the actor is updated once per agent step, with the last batch, and at
    the critics from before their update. (The first alpha of that code is 0.2 by mistake, and it adds 1e-6 inside the
    log-probability's logarithm; not here.) There are no settings for DeepMind Control: action repeat and target entropy
    are our choice.
    """
    if subset > n_critics:
        raise InputError(f"subset is {subset} of {n_critics} critics; give at most n_critics")
    init = nn.xavier_uniform()
    parent = sac(n_critics=n_critics, lr=lr, tau=tau)
    return replace(
        parent,
        actor=mlp(actor_width, actor_width, init=init),
        critic=mlp(width, width, init=init),
        readout=nn.readout(1, init=init),
        policy=tanh_gaussian(log_std_min=-20, mean_init=init, log_std_init=init),
        backup=subset_minimum(subset),
        improve=mean,
        temperature=tuned(alpha, target_entropy=target_entropy, optimiser=adamw(lr), weight="log_alpha"),
        order="together",
        protocol=Protocol(utd=20, actor_every="agent_step", action_repeat=1, source="watchernyu/REDQ"),
    )


def droq(
    *,
    width: hyper.Width = 256,
    actor_width: hyper.ActorWidth = 256,
    rate: Annotated[float, BELOW_1, "probability that dropout sets a unit to 0"] = 0.01,
    lr: hyper.Lr = 3e-4,
    tau: hyper.Tau = 0.005,
    alpha: hyper.Alpha = 1.0,
    target_entropy: hyper.TargetEntropy = -0.5,
) -> Recipe:
    """DroQ: two critics with dropout and layer normalisation in place of REDQ's ten.

    Hiraoka et al. 2022, after the official code; dropout is on in all passes. (There the actor's update draws a batch
    of its own; here, as in REDQ, it takes the last.) Sensitive to `rate` and `target_entropy`; on DeepMind Control the
    latter is our choice, as is the action repeat.
    """
    parent = redq(actor_width=actor_width, lr=lr, tau=tau, alpha=alpha, target_entropy=target_entropy)
    return replace(
        parent,
        critic=dropout_mlp(width, width, rate=rate, init=nn.xavier_uniform()),
        n_critics=2,
        backup=minimum,
        order="critic_first",
        protocol=replace(parent.protocol, source="TakuyaHiraoka's DroQ"),
    )


def ofn(
    *,
    width: hyper.Width = 256,
    actor_width: hyper.ActorWidth = 256,
    lr: hyper.Lr = 3e-4,
    tau: hyper.Tau = 0.005,
    alpha: hyper.Alpha = 1.0,
    target_entropy: hyper.TargetEntropy = -0.5,
) -> Recipe:
    """SAC with the critic's last features on the unit ball, so that only the last layer sets a scale.

    Output feature normalisation, Hussing et al. 2024. No official code is known; made for high UTD (try `--utd 8`), the
    rest is our SAC.
    """
    parent = sac(actor_width=actor_width, lr=lr, tau=tau, alpha=alpha, target_entropy=target_entropy)
    return replace(
        parent,
        critic=nn.serial(mlp(width, width), nn.unit_ball()),
        protocol=replace(parent.protocol, source="arXiv 2403.05996"),
    )


def nap(
    *,
    width: hyper.Width = 256,
    actor_width: hyper.ActorWidth = 256,
    lr: hyper.Lr = 3e-4,
    tau: hyper.Tau = 0.005,
    alpha: hyper.Alpha = 1.0,
    target_entropy: hyper.TargetEntropy = -0.5,
    project_every: Annotated[int, COUNT, "updates of a network between two projections of it"] = 1,
) -> Recipe:
    """SAC with layer normalisation before each activation and weights held at their initial norm.

    Normalize-and-Project, Lyle et al. 2024; no official code is known. One norm per matrix, biases left out; scale and
    shift of a normalisation are rescaled together, one of the two ways the paper offers. The rest is our SAC.
    """
    parent = sac(lr=lr, tau=tau, alpha=alpha, target_entropy=target_entropy)
    return replace(
        parent,
        actor=pre_norm_mlp(actor_width, actor_width, norm=nn.layer_norm),
        critic=pre_norm_mlp(width, width, norm=nn.layer_norm),
        project=initial_norm(every=project_every),
        protocol=replace(parent.protocol, source="arXiv 2407.01800"),
    )
