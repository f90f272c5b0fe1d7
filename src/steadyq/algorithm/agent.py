"""From a recipe to an agent: the critic's step, the actor's step, and how to act. All pure functions of one seed.

The order of one gradient step is fixed here and nowhere else: gradient, optimiser, projection, target average.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap

from steadyq.algorithm.bootstrap import Forward, Target, polyak, separate
from steadyq.algorithm.nn import Layer, readout, round_hidden, serial
from steadyq.algorithm.optim import Optimiser, adamw, global_norm
from steadyq.algorithm.policy import Policy, tanh_gaussian
from steadyq.algorithm.tree import leaves, stack, tree_map
from steadyq.algorithm.types import Metrics, Net, Params, State, Transition
from steadyq.algorithm.values import Aggregate, Value, minimum, scalar
from steadyq.algorithm.weight_norm import Project, nothing

Precision = Literal["float32", "bfloat16"]

CRITIC_METRICS = ("train/critic_loss", "train/critic_grad_norm", "train/q_mean", "train/q_std", "train/target_q_mean")
ACTOR_METRICS = ("train/actor_loss", "train/actor_grad_norm", "train/entropy", "train/ent_coef", "train/ent_coef_loss")
"""What each step measures, in its order; all of them finite in a healthy update."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How an algorithm's authors run it; each entry is a default that a run may override."""

    utd: float = 1.0  # critic updates per agent step
    actor_every: int = 1  # critic updates per actor and temperature update, counted over the whole run
    batch_size: int = 256
    learning_starts: int = 5_000  # agent steps of uniform random actions before the first update
    buffer_size: int = 1_000_000  # transitions
    gamma: float = 0.99
    action_repeat: int = 2  # on DeepMind Control; 1 elsewhere


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An algorithm: one value per independent idea. `make_agent` adds the readouts and the ensemble."""

    actor: Layer  # torso
    critic: Layer  # torso
    readout: Layer = field(default_factory=lambda: readout(1))  # the critic's last layer, as wide as `value.size`
    policy: Policy = field(default_factory=tanh_gaussian)
    n_critics: int = 2
    value: Value = field(default_factory=scalar)
    forward: Forward = separate
    backup: Aggregate = minimum  # over critics, in the critic's target
    improve: Aggregate = minimum  # over critics, in the actor's loss
    target: Target = field(default_factory=lambda: polyak(0.005))
    actor_optimiser: Optimiser = field(default_factory=lambda: adamw(3e-4))
    critic_optimiser: Optimiser = field(default_factory=lambda: adamw(3e-4))
    temperature_optimiser: Optimiser = field(default_factory=lambda: adamw(3e-4))
    alpha: float = 1.0  # temperature at the start
    target_entropy: float = -0.5  # per action dimension
    project: Project = field(default_factory=nothing)  # of actor and critic
    protocol: Protocol = field(default_factory=Protocol)


class Agent(NamedTuple):
    """What a recipe can do on an environment of given sizes, for one seed.

    init: `rng -> state`.
    critic_step: `(state, batch, noise[B, A]) -> (state, metrics)`.
    actor_step: `(state, obs[B, O], noise[B, A]) -> (state, metrics)`, actor and temperature.
    act: `(state, obs[O], noise[A]) -> action[A]`, exploring.
    mode: `(state, obs[O]) -> action[A]`, for evaluation.
    """

    init: Callable[[np.random.Generator], State]
    critic_step: Callable[[State, Transition, Tensor], tuple[State, Metrics]]
    actor_step: Callable[[State, Tensor, Tensor], tuple[State, Metrics]]
    act: Callable[[State, Tensor, Tensor], Tensor]
    mode: Callable[[State, Tensor], Tensor]


def make_agent(recipe: Recipe, *, obs_dim: int, action_dim: int, precision: Precision = "float32") -> Agent:
    """The agent of a recipe.

    Args:
        recipe: the algorithm.
        obs_dim: O.
        action_dim: A.
        precision: of the hidden layers' matrix products. Parameters, statistics, optimiser state, targets, losses and
            readouts are float32 always.
    """
    hidden = torch.bfloat16 if precision == "bfloat16" else torch.float32
    critic = serial(recipe.critic, recipe.readout)
    policy, value = recipe.policy, recipe.value
    target_entropy = recipe.target_entropy * action_dim

    def new_net(params: Params, stats: Params, optimiser: Optimiser, project: Project) -> Net:
        memory = project.init(params)
        memory, params = project.apply(memory, params)
        return Net(params, stats, optimiser.init(params), memory)

    def init(rng: np.random.Generator) -> State:
        torso, actor_stats, width = recipe.actor.init(rng, obs_dim)
        members = [critic.init(rng, obs_dim + action_dim) for _ in range(recipe.n_critics)]
        critic_params, critic_stats = stack([m[0] for m in members]), stack([m[1] for m in members])
        log_alpha = torch.tensor(recipe.alpha).log()
        actor = (torso, policy.init(rng, width, action_dim))
        critic_net = new_net(critic_params, critic_stats, recipe.critic_optimiser, recipe.project)
        return State(
            actor=new_net(actor, actor_stats, recipe.actor_optimiser, recipe.project),
            critic=critic_net,
            target=recipe.target.init(critic_net.params),
            temperature=new_net(log_alpha, (), recipe.temperature_optimiser, nothing()),
        )

    def features(params: Params, stats: Params, obs: Tensor, train: bool) -> tuple[Tensor, Params]:
        return recipe.actor.apply(round_hidden(params[0], hidden), stats, obs, train)

    def critics(params: Params, stats: Params, rows: Tensor, train: bool) -> tuple[Tensor, Params]:
        def one(params: Params, stats: Params) -> tuple[Tensor, Params]:
            return critic.apply(round_hidden(params, hidden), stats, rows, train)

        return vmap(one)(params, stats)

    def learn(net: Net, grads: Params, optimiser: Optimiser, project: Project, stats: Params) -> Net:
        params, opt = optimiser.update(grads, net.opt, net.params)
        memory, params = project.apply(net.project, params)
        return Net(params, stats, opt, memory)

    def critic_step(state: State, batch: Transition, noise: Float[Tensor, "B A"]) -> tuple[State, Metrics]:
        next_features, _ = features(state.actor.params, state.actor.stats, batch.next_obs, False)
        next_action, log_prob = policy.sample(state.actor.params[1], next_features, noise)
        bonus = -state.temperature.params.exp() * log_prob

        def loss(params: Params) -> tuple[Tensor, tuple[Params, Tensor, Tensor]]:
            out, next_out, stats = recipe.forward(critics, params, state.critic.stats, state.target, batch, next_action)
            y = value.target(recipe.backup(next_out, value), batch.reward, batch.discount, bonus)
            return vmap(value.loss, (0, None))(out, y).mean(-1).sum(), (stats, out, y)

        grads, (stats, out, y), total = value_and_aux(loss, state.critic.params)
        net = learn(state.critic, grads, recipe.critic_optimiser, recipe.project, stats)
        new = state._replace(critic=net, target=recipe.target.update(state.target, net.params))
        q = value.mean(out)
        measured = (total, global_norm(grads), q.mean(), q.std(correction=0), value.mean(y).mean())
        metrics = dict(zip(CRITIC_METRICS, measured, strict=True))
        return if_finite(metrics, new, state), metrics

    def actor_step(state: State, obs: Float[Tensor, "B O"], noise: Float[Tensor, "B A"]) -> tuple[State, Metrics]:
        alpha = state.temperature.params.exp()

        def loss(params: Params) -> tuple[Tensor, tuple[Params, Tensor]]:
            hidden_features, stats = features(params, state.actor.stats, obs, True)
            action, log_prob = policy.sample(params[1], hidden_features, noise)
            out, _ = critics(state.critic.params, state.critic.stats, torch.cat([obs, action], -1), False)
            q = value.mean(recipe.improve(out, value))
            return (alpha * log_prob - q).mean(), (stats, -log_prob.mean())

        grads, (stats, entropy), total = value_and_aux(loss, state.actor.params)
        actor = learn(state.actor, grads, recipe.actor_optimiser, recipe.project, stats)

        def temperature_loss(log_alpha: Tensor) -> Tensor:
            return log_alpha.exp() * (entropy.detach() - target_entropy)

        slope = grad(temperature_loss)(state.temperature.params)
        temperature = learn(state.temperature, slope, recipe.temperature_optimiser, nothing(), ())
        slack = temperature_loss(state.temperature.params)
        metrics = dict(zip(ACTOR_METRICS, (total, global_norm(grads), entropy, alpha, slack), strict=True))
        return if_finite(metrics, state._replace(actor=actor, temperature=temperature), state), metrics

    def act(state: State, obs: Float[Tensor, "O"], noise: Float[Tensor, "A"]) -> Float[Tensor, "A"]:
        rows, _ = features(state.actor.params, state.actor.stats, obs.unsqueeze(0), False)
        return policy.sample(state.actor.params[1], rows, noise.unsqueeze(0))[0].squeeze(0)

    def mode(state: State, obs: Float[Tensor, "O"]) -> Float[Tensor, "A"]:
        rows, _ = features(state.actor.params, state.actor.stats, obs.unsqueeze(0), False)
        return policy.mode(state.actor.params[1], rows).squeeze(0)

    return Agent(init, critic_step, actor_step, act, mode)


def value_and_aux(loss: Callable, params: Params) -> tuple[Params, tuple, Tensor]:
    """`(grads, aux, value)` of a function that returns `(value, aux)`; aux comes back without gradient."""

    def kept(params: Params) -> tuple[Tensor, tuple]:
        value, aux = loss(params)
        return value, (aux, value)

    grads, (aux, value) = grad(kept, has_aux=True)(params)
    return grads, aux, value


def if_finite(metrics: Metrics, new: State, old: State) -> State:
    """The new state if every metric, losses and gradient norms among them, is finite; else the old one, untouched."""
    fine = torch.stack([torch.isfinite(value) for value in metrics.values()]).all()
    return tree_map(lambda n, o: o if n is o else torch.where(fine, n, o), new, old)


def count_parameters(params: Params) -> int:
    """How many numbers are learned."""
    return sum(leaf.numel() for leaf in leaves(params))
