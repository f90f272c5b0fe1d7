"""From a recipe to an agent: the critic's step, the actor's step, and how to act. All pure functions of one seed.

The order inside one gradient step is fixed here and nowhere else: gradient, optimiser, projection, target average.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap

from steadyq.algorithm import explore, normalise, resets
from steadyq.algorithm.bootstrap import Forward, Target, none, polyak, separate
from steadyq.algorithm.explore import Base, Explore
from steadyq.algorithm.nn import Layer, readout, round_hidden, serial
from steadyq.algorithm.normalise import Normalise
from steadyq.algorithm.optim import Optimiser, adamw, global_norm
from steadyq.algorithm.policy import Policy, tanh_gaussian
from steadyq.algorithm.random import Purpose
from steadyq.algorithm.resets import Resets
from steadyq.algorithm.temperature import Temperature, tuned
from steadyq.algorithm.tree import leaves, stack, tree_map
from steadyq.algorithm.types import ActorNoise, CriticNoise, Metrics, Net, Params, State, Transition
from steadyq.algorithm.values import Aggregate, Value, minimum, scalar
from steadyq.algorithm.weight_norm import Project, nothing

Precision = Literal["float32", "bfloat16"]

Order = Literal["critic_first", "actor_first", "together"]
"""Of an update of both: which comes first and is seen by the other, or both from what was there before."""

Draw = Callable[[Purpose], np.random.Generator]
"""The generator of a purpose, of one seed and agent step."""

CRITIC_METRICS = ("train/critic_loss", "train/critic_grad_norm", "train/q_mean", "train/q_std", "train/target_q_mean")
ACTOR_METRICS = ("train/actor_loss", "train/actor_grad_norm", "train/entropy", "train/ent_coef", "train/ent_coef_loss")
"""What each step measures, in its order; all of them finite in a healthy update. Exploration adds its own."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How an algorithm's authors run it; each entry is a default that a run may override."""

    utd: float = 1.0  # critic updates per agent step
    actor_every: int | Literal["agent_step"] = 1  # critic updates per actor and temperature update, over the whole run
    batch_size: int = 256
    learning_starts: int = 5_000  # agent steps of uniform random actions before the first update
    buffer_size: int = 1_000_000  # transitions
    gamma: float | None = 0.99  # None: by the length of an episode
    action_repeat: int = 2  # on DeepMind Control; 1 elsewhere
    source: str = ""  # whose code or paper says so

    def actor_due(self, first: int, end: int) -> list[bool]:
        """For each of the critic updates [first, end) of one agent step, whether the actor is updated with it."""
        if self.actor_every == "agent_step":
            return [number == end - 1 for number in range(first, end)]
        return [(number + 1) % self.actor_every == 0 for number in range(first, end)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An algorithm: one value per independent idea. `make_agent` adds the readouts and the ensemble."""

    actor: Layer  # torso
    critic: Layer  # torso
    readout: Layer = field(default_factory=lambda: readout(1))  # the critic's last layer, as wide as `value.size`
    policy: Policy = field(default_factory=tanh_gaussian)
    n_critics: int = 2
    value: Value = field(default_factory=scalar)
    forward: Forward = field(default_factory=separate)
    backup: Aggregate = minimum  # over critics, in the critic's target
    improve: Aggregate = minimum  # over critics, in the actor's loss
    target: Target = field(default_factory=lambda: polyak(0.005))
    target_actor: Target = field(default_factory=none)  # whose next action the critic's target takes; none: the actor's
    actor_optimiser: Optimiser = field(default_factory=lambda: adamw(3e-4))
    critic_optimiser: Optimiser = field(default_factory=lambda: adamw(3e-4))
    temperature: Temperature = field(default_factory=tuned)
    project: Project = field(default_factory=nothing)  # of actor and critic
    order: Order = "critic_first"
    explore: Explore = field(default_factory=explore.sample)
    normalise: Normalise = field(default_factory=normalise.nothing)
    resets: Resets = field(default_factory=resets.never)
    protocol: Protocol = field(default_factory=Protocol)


class Agent(NamedTuple):
    """What a recipe can do on an environment of given sizes, for one seed.

    init: `rng -> state`.
    critic_step: `(state, batch, noise) -> (state, metrics)`.
    actor_step: `(state, obs[B, O], noise) -> (state, metrics)`: actor, temperature and what explores.
    order: of the two where both are due.
    critic_gradient: `(state, batch, noise) -> (grads, (stats, out[E, B, K], target[B]), loss[])`: the critic's step up
        to the optimiser's; `target` is the mean of what `out` is trained towards, as it is before a categorical critic
        cuts it off at its atoms' ends.
    sample: `(state, obs[B, O], noise[B, A]) -> (action[B, A], log_prob[B])`, from the policy, not exploring.
    q: `(state, obs[B, O], action[B, A]) -> q[E, B]`, each critic's value in eval mode and without noise.
    act: `(state, obs[O], noise[A]) -> action[A]`, exploring.
    mode: `(state, obs[O]) -> action[A]`, for evaluation.
    observe: `(state, obs[O], reward[], last[], gamma) -> state`, after each agent step: see `Normalise`.
    restart: `(fresh, old) -> state`: what a reset leaves of the old state, the rest fresh.
    critic_noise: `(draw, updates U, batch size B) -> noise[U, ..]` of so many critic updates.
    actor_noise: the same of actor updates.
    actor_metrics: the names of what the actor's step measures.
    """

    init: Callable[[np.random.Generator], State]
    critic_step: Callable[[State, Transition, CriticNoise], tuple[State, Metrics]]
    actor_step: Callable[[State, Tensor, ActorNoise], tuple[State, Metrics]]
    order: Order
    critic_gradient: Callable[[State, Transition, CriticNoise], tuple[Params, tuple[Params, Tensor, Tensor], Tensor]]
    sample: Callable[[State, Tensor, Tensor], tuple[Tensor, Tensor]]
    q: Callable[[State, Tensor, Tensor], Tensor]
    act: Callable[[State, Tensor, Tensor], Tensor]
    mode: Callable[[State, Tensor], Tensor]
    observe: Callable[[State, Tensor, Tensor, Tensor, float], State]
    restart: Callable[[State, State], State]
    critic_noise: Callable[[Draw, int, int], CriticNoise]
    actor_noise: Callable[[Draw, int, int], ActorNoise]
    actor_metrics: tuple[str, ...]


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
    policy, value, temperature = recipe.policy, recipe.value, recipe.temperature

    def new_net(params: Params, stats: Params, optimiser: Optimiser, project: Project) -> Net:
        memory = project.init(params)
        memory, params = project.apply(memory, params)
        return Net(params, stats, optimiser.init(params), memory)

    def init(rng: np.random.Generator) -> State:
        torso, actor_stats, width = recipe.actor.init(rng, obs_dim)
        members = [critic.init(rng, obs_dim + action_dim) for _ in range(recipe.n_critics)]
        critic_params, critic_stats = stack([m[0] for m in members]), stack([m[1] for m in members])
        actor_params = (torso, policy.init(rng, width, action_dim))
        actor_net = new_net(actor_params, actor_stats, recipe.actor_optimiser, recipe.project)
        critic_net = new_net(critic_params, critic_stats, recipe.critic_optimiser, recipe.project)
        return State(
            actor=actor_net,
            critic=critic_net,
            target=recipe.target.init(critic_net.params),
            temperature=new_net(temperature.init(), (), temperature.optimiser, nothing()),
            target_actor=recipe.target_actor.init(actor_net.params),
            explore=recipe.explore.init(rng, obs_dim, action_dim),
            normalise=recipe.normalise.init(obs_dim),
        )

    def rounded(params: Params) -> Params:
        return round_hidden(params, hidden)

    def features(params: Params, stats: Params, obs: Tensor, train: bool) -> tuple[Params, Tensor, Params]:
        """What the policy takes, its parameters first, and the statistics."""
        torso, head = rounded(params)
        seen, stats = recipe.actor.apply(torso, stats, obs, train)
        return head, seen, stats

    def critics(params: Params, stats: Params, rows: Tensor, train: bool, noise: Params) -> tuple[Tensor, Params]:
        def one(params: Params, stats: Params, noise: Params) -> tuple[Tensor, Params]:
            return critic.apply(rounded(params), stats, rows, train, noise)

        return vmap(one)(params, stats, noise)

    def learn(net: Net, grads: Params, optimiser: Optimiser, project: Project, stats: Params) -> Net:
        params, opt = optimiser.update(grads, net.opt, net.params)
        memory, params = project.apply(net.project, params)
        return Net(params, stats, opt, memory)

    def critic_gradient(
        state: State, batch: Transition, noise: CriticNoise
    ) -> tuple[Params, tuple[Params, Tensor, Tensor], Tensor]:
        batch = batch._replace(
            obs=recipe.normalise.obs(state.normalise, batch.obs),
            reward=recipe.normalise.reward(state.normalise, batch.reward),
            next_obs=recipe.normalise.obs(state.normalise, batch.next_obs),
        )
        actor = state.target_actor or state.actor.params
        head, seen, _ = features(actor, state.actor.stats, batch.next_obs, False)
        next_action, log_prob = policy.backup(head, seen, noise.next_action)
        bonus = -temperature.alpha(state.temperature.params) * log_prob

        def loss(params: Params) -> tuple[Tensor, tuple[Params, Tensor, Tensor]]:
            out, next_out, stats = recipe.forward.apply(
                critics, params, state.critic.stats, state.target, batch, next_action, noise
            )
            next_voice = recipe.backup(next_out, value, noise.members)
            y = value.target(next_voice, batch.reward, batch.discount, bonus)
            soft = batch.reward + batch.discount * (value.mean(next_voice) + bonus)
            return vmap(value.loss, (0, None))(out, y).mean(-1).sum(), (stats, out, soft)

        return value_and_aux(loss, state.critic.params)

    def critic_step(state: State, batch: Transition, noise: CriticNoise) -> tuple[State, Metrics]:
        grads, (stats, out, soft), total = critic_gradient(state, batch, noise)
        net = learn(state.critic, grads, recipe.critic_optimiser, recipe.project, stats)
        new = state._replace(critic=net, target=recipe.target.update(state.target, net.params))
        q = value.mean(out)
        measured = (if_all_finite(stats, total), global_norm(grads), q.mean(), q.std(correction=0), soft.mean())
        metrics = dict(zip(CRITIC_METRICS, measured, strict=True))
        return if_finite(metrics, new, state), metrics

    def actor_step(state: State, obs: Float[Tensor, "B O"], noise: ActorNoise) -> tuple[State, Metrics]:
        obs = recipe.normalise.obs(state.normalise, obs)
        alpha = temperature.alpha(state.temperature.params)

        def q(action: Tensor) -> Tensor:
            rows = torch.cat([obs, action], -1)
            return critics(state.critic.params, state.critic.stats, rows, False, noise.critic)[0]

        def loss(params: Params) -> tuple[Tensor, tuple[Params, Tensor]]:
            head, seen, stats = features(params, state.actor.stats, obs, True)
            action, log_prob = policy.sample(head, seen, noise.action)
            voice = recipe.improve(q(action), value, noise.members)
            return (alpha * log_prob - value.mean(voice)).mean(), (stats, -log_prob.mean())

        grads, (stats, entropy), total = value_and_aux(loss, state.actor.params)
        actor = learn(state.actor, grads, recipe.actor_optimiser, recipe.project, stats)

        def temperature_loss(params: Params) -> Tensor:
            return temperature.loss(params, entropy.detach(), action_dim)

        slope = grad(temperature_loss)(state.temperature.params)
        new_temperature = learn(state.temperature, slope, temperature.optimiser, nothing(), ())
        slack = temperature_loss(state.temperature.params)
        measured = (if_all_finite(stats, total), global_norm(grads), entropy, alpha, slack)
        metrics = dict(zip(ACTOR_METRICS, measured, strict=True))
        new = state._replace(
            actor=actor,
            temperature=new_temperature,
            target_actor=recipe.target_actor.update(state.target_actor, actor.params),
        )
        if recipe.explore.learn:
            exploring, more = recipe.explore.learn(state.explore, base(new), q, obs, noise.explore)
            new, metrics = new._replace(explore=exploring), metrics | more
        return if_finite(metrics, new, state), metrics

    def base(state: State) -> Base:
        def seen(obs: Tensor) -> tuple[Params, Tensor]:
            return features(state.actor.params, state.actor.stats, obs, False)[:2]

        return Base(
            lambda obs, noise: policy.sample(*seen(obs), noise)[0],
            lambda obs: policy.gaussian(*seen(obs)),
            rounded,
        )

    def sample(
        state: State, obs: Float[Tensor, "B O"], noise: Float[Tensor, "B A"]
    ) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B"]]:
        rows = recipe.normalise.obs(state.normalise, obs)
        head, seen, _ = features(state.actor.params, state.actor.stats, rows, False)
        return policy.sample(head, seen, noise)

    def ensemble_q(state: State, obs: Float[Tensor, "B O"], action: Float[Tensor, "B A"]) -> Float[Tensor, "E B"]:
        rows = torch.cat([recipe.normalise.obs(state.normalise, obs), action], -1)
        return value.mean(critics(state.critic.params, state.critic.stats, rows, False, ())[0])

    def act(state: State, obs: Float[Tensor, "O"], noise: Float[Tensor, "A"]) -> Float[Tensor, "A"]:
        rows = recipe.normalise.obs(state.normalise, obs).unsqueeze(0)
        return recipe.explore.act(state.explore, base(state), rows, noise.unsqueeze(0)).squeeze(0)

    def mode(state: State, obs: Float[Tensor, "O"]) -> Float[Tensor, "A"]:
        rows = recipe.normalise.obs(state.normalise, obs).unsqueeze(0)
        return base(state).gaussian(rows)[0].tanh().squeeze(0)

    def observe(
        state: State, obs: Float[Tensor, "O"], reward: Float[Tensor, ""], last: Float[Tensor, ""], gamma: float
    ) -> State:
        return state._replace(normalise=recipe.normalise.observe(state.normalise, obs, reward, last, gamma))

    def members(rng: np.random.Generator, updates: int) -> Tensor:
        return torch.from_numpy(rng.random((updates, recipe.n_critics), dtype=np.float32))

    def critic_noise(draw: Draw, updates: int, batch_size: int) -> CriticNoise:
        rows = (updates, recipe.n_critics, recipe.forward.rows(batch_size))
        return CriticNoise(
            next_action=normal(draw(Purpose.NEXT_ACTION), updates, batch_size, action_dim),
            members=members(draw(Purpose.MEMBERS), updates),
            online=critic.noise(draw(Purpose.ONLINE_DROPOUT), rows),
            target=critic.noise(draw(Purpose.TARGET_DROPOUT), rows),
        )

    def actor_noise(draw: Draw, updates: int, batch_size: int) -> ActorNoise:
        learns = recipe.explore.learn is not None
        return ActorNoise(
            action=normal(draw(Purpose.ACTOR), updates, batch_size, action_dim),
            members=members(draw(Purpose.ACTOR_MEMBERS), updates),
            critic=critic.noise(draw(Purpose.ACTOR_DROPOUT), (updates, recipe.n_critics, batch_size)),
            explore=normal(draw(Purpose.OPTIMISM), updates, batch_size, action_dim) if learns else (),
        )

    return Agent(
        init=init,
        critic_step=critic_step,
        actor_step=actor_step,
        order=recipe.order,
        critic_gradient=critic_gradient,
        sample=sample,
        q=ensemble_q,
        act=act,
        mode=mode,
        observe=observe,
        restart=lambda fresh, old: fresh._replace(normalise=old.normalise),
        critic_noise=critic_noise,
        actor_noise=actor_noise,
        actor_metrics=ACTOR_METRICS + recipe.explore.metrics,
    )


def normal(rng: np.random.Generator, *shape: int) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def value_and_aux(loss: Callable, params: Params) -> tuple[Params, tuple, Tensor]:
    """`(grads, aux, value)` of a function that returns `(value, aux)`; aux comes back without gradient."""

    def kept(params: Params) -> tuple[Tensor, tuple]:
        value, aux = loss(params)
        return value, (aux, value)

    grads, (aux, value) = grad(kept, has_aux=True)(params)
    return grads, aux, value


def if_all_finite(stats: Params, loss: Tensor) -> Tensor:
    """The loss, or NaN if one of the new running statistics is not finite: then the update has failed, and says so.

    A number of 2e19 makes a batch's variance infinite, and what is divided by its root finite, the loss included.
    """
    moments = [leaf.flatten() for leaf in leaves(stats) if leaf.is_floating_point()]
    return torch.where(torch.cat(moments).isfinite().all(), loss, torch.nan) if moments else loss


def if_finite(metrics: Metrics, new: State, old: State) -> State:
    """The new state if every metric, losses and gradient norms among them, is finite; else the old one, untouched."""
    fine = torch.stack([torch.isfinite(value) for value in metrics.values()]).all()
    return tree_map(lambda n, o: o if n is o else torch.where(fine, n, o), new, old)


def count_parameters(params: Params) -> int:
    """How many numbers are learned."""
    return sum(leaf.numel() for leaf in leaves(params))
