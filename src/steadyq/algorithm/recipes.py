"""Algorithms, each a short function that returns a `Recipe` and states how it differs from its parent.

A function's keyword arguments are its hyperparameters: `steadyq train NAME --help` shows them with these types,
defaults and words.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from steadyq.algorithm import bootstrap
from steadyq.algorithm.agent import Protocol, Recipe
from steadyq.algorithm.bootstrap import joint, polyak
from steadyq.algorithm.nn import Dense, Layer, Norm, Readout, batch_norm, batch_renorm, lecun_normal, mlp, readout
from steadyq.algorithm.optim import adamw
from steadyq.algorithm.policy import tanh_gaussian
from steadyq.algorithm.types import Params
from steadyq.algorithm.values import scalar
from steadyq.algorithm.weight_norm import every_update, nothing, unit_norm


def sac(
    *,
    width: int = 256,
    actor_width: int = 256,
    n_critics: int = 2,
    lr: float = 3e-4,
    tau: float = 0.005,
    alpha: float = 1.0,
    target_entropy: float = -0.5,
) -> Recipe:
    """Soft actor-critic: two ReLU critics, their minimum, a slow target, a tuned temperature.

    Haarnoja et al. 2018, with the settings of jaxrl, the base of the paper's experiments.

    Args:
        width: units in each of the critic's two hidden layers.
        actor_width: units in each of the actor's two hidden layers.
        n_critics: number of critics.
        lr: step size of Adam for critic, actor and temperature.
        tau: speed of the target network's average.
        alpha: temperature at the start.
        target_entropy: what the temperature steers the policy's entropy to, per action dimension.
    """
    return Recipe(
        actor=mlp(actor_width, actor_width),
        critic=mlp(width, width),
        n_critics=n_critics,
        target=polyak(tau),
        actor_optimiser=adamw(lr),
        critic_optimiser=adamw(lr),
        temperature_optimiser=adamw(lr),
        alpha=alpha,
        target_entropy=target_entropy,
        protocol=Protocol(utd=1, learning_starts=10_000),
    )


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

    Bhatt et al. 2024, after the official code. (Its authors ran DeepMind Control with lr 8e-4 and action repeat 1.)

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
        forward=joint,
        target=bootstrap.none(),
        actor_optimiser=adamw(lr, b1=b1),
        critic_optimiser=adamw(lr, b1=b1),
        protocol=Protocol(utd=1, actor_every=actor_every, learning_starts=5_000),
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
        project: each unit's weights and bias to norm 1 (unit), its weights alone (weights), or no projection (none).
        project_readout: project the readouts too, as the authors' later code does.
        decay: AdamW's weight decay of the readouts, times lr.
        decay_norms: let the scale and shift of the normalisation layers decay too.
        norm: batch normalisation, or CrossQ's batch renormalisation.
        norm_warm_up: with `norm renorm`, train-mode calls before batch normalisation becomes batch renormalisation.
    """
    parent = crossq(n_critics=n_critics, alpha=alpha, target_entropy=target_entropy, actor_every=actor_every)

    def layer() -> Layer:
        return batch_renorm(warm_up=norm_warm_up) if norm == "renorm" else batch_norm()

    def projection(params: Params) -> Params:
        types = (Dense, Readout) if project_readout else (Dense,)
        return unit_norm(params, types=types, with_bias=project == "unit")

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
        temperature_optimiser=adamw(temperature_lr),
        project=nothing() if project == "none" else every_update(projection),
        protocol=replace(parent.protocol, utd=2),
    )


RECIPES: dict[str, Callable[..., Recipe]] = {recipe.__name__: recipe for recipe in (sac, crossq, crossq_wn)}
