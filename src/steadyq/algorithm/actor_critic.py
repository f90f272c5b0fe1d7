"""From a recipe to an agent of an actor and an ensemble of critics. All pure functions of one seed.

The order inside one gradient step is fixed here and nowhere else: gradient, optimiser, projection, target average.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap

from steadyq.algorithm.agent import Agent, Auxiliary, Draw, Noise, Precision, Recipe, Step, Torso
from steadyq.algorithm.explore import Base
from steadyq.algorithm.nn import SHAPES, round_hidden, serial
from steadyq.algorithm.optim import Optimiser, global_norm
from steadyq.algorithm.options import recipe_without_run
from steadyq.algorithm.projection import Project, nothing
from steadyq.algorithm.random import Purpose
from steadyq.algorithm.ranges import COUNT, checked
from steadyq.algorithm.tree import leaves, select, stack, tree_map
from steadyq.algorithm.types import ActorNoise, CriticNoise, Metrics, Net, Params, Transition
from steadyq.errors import InputError, unknown

CRITIC_METRICS = ("train/critic_loss", "train/critic_grad_norm", "train/q_mean", "train/q_std", "train/target_q_mean")
ACTOR_METRICS = ("train/actor_loss", "train/actor_grad_norm", "train/entropy", "train/ent_coef", "train/ent_coef_loss")
"""What each step measures, in its order; all of them finite in a healthy update. Exploration adds its own."""


class State(NamedTuple):
    """Everything an agent learns, as one value; with several seeds every leaf has a leading axis S.

    Private to this file, and to tests: others ask the agent. A tree of tensors is all that they know of it.
    """

    actor: Net
    critic: Net
    target: Params  # the slow copy of the critic's parameters; () without a target network
    temperature: Net  # its parameter is log alpha, or alpha where that is fixed, a 0-d tensor
    target_actor: Params = ()  # the slow copy of the actor's parameters; () without one
    explore: Any = ()  # what is learned for exploration alone
    normalise: Any = ()  # running moments of observations and returns
    auxiliaries: tuple = ()  # what each auxiliary learns for itself


def make_agent(
    recipe: Recipe | str, *, obs_dim: int, action_dim: int, precision: Precision = "float32", **options: Any
) -> Agent:
    """The agent of a recipe.

    >>> import steadyq
    >>> agent = steadyq.make_agent("crossq_wn", obs_dim=17, action_dim=6, width=256)
    >>> [step.name for step in agent.steps]
    ['critic', 'actor']

    Args:
        recipe: the algorithm, or its name.
        obs_dim: O.
        action_dim: A.
        precision: of the hidden layers' matrix products. Parameters, statistics, optimiser state, targets, losses and
            readouts are float32 always.
        **options: of the recipe of this name, see `steadyq train NAME --help`.

    Raises:
        InputError: no such recipe or option, a value that cannot work, or sizes that are not positive.
    """
    if isinstance(recipe, str):
        recipe = recipe_without_run(recipe, options)
    elif options:
        raise InputError(f"options ({', '.join(options)}) go with a recipe's name; this recipe has its values already")
    obs_dim, action_dim = checked("obs_dim", obs_dim, int, COUNT), checked("action_dim", action_dim, int, COUNT)
    if precision not in get_args(Precision):
        raise unknown("precision", str(precision), get_args(Precision))
    hidden = torch.bfloat16 if precision == "bfloat16" else torch.float32
    critic = serial(recipe.critic, recipe.readout)
    policy, value, temperature = recipe.policy, recipe.value, recipe.temperature
    auxiliaries = [make(obs_dim, action_dim) for make in recipe.auxiliaries]

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
            auxiliaries=tuple(auxiliary.init(rng) for auxiliary in auxiliaries),
        )

    def rounded(params: Params) -> Params:
        return round_hidden(params, hidden)

    def features(params: Params, stats: Params, obs: Tensor, train: bool) -> tuple[Params, Tensor, Params]:
        """What the policy takes, its parameters first, and the statistics."""
        torso, head = rounded(params)
        seen, stats = recipe.actor.apply(torso, stats, obs, train)
        return head, seen, stats

    def critics(params: Params, stats: Params, rows: Tensor, train: bool, noise: Params) -> tuple[Tensor, Params]:
        def one(params: Params, stats: Params, noise: Params, rows: Tensor) -> tuple[Tensor, Params]:
            return critic.apply(rounded(params), stats, rows, train, noise)

        return vmap(one, (0, 0, 0, None if rows.dim() == 2 else 0))(params, stats, noise, rows)

    def learn(net: Net, grads: Params, optimiser: Optimiser, project: Project, stats: Params) -> Net:
        params, opt = optimiser.update(grads, net.opt, net.params)
        memory, params = project.apply(net.project, params)
        return Net(params, stats, opt, memory)

    def critic_losses(
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
        now, then = torch.cat([batch.obs, batch.action], -1), torch.cat([batch.next_obs, next_action], -1)

        def loss(params: Params) -> tuple[Tensor, tuple[Params, Tensor, Tensor]]:
            out, next_out, stats = recipe.forward.apply(
                critics, params, state.critic.stats, state.target, now, then, noise
            )
            next_voice = recipe.backup(next_out, value, noise.members)
            y = value.target(next_voice, batch.reward, batch.discount, bonus)
            soft = batch.reward + batch.discount * (value.mean(next_voice) + bonus)
            return vmap(value.loss, (0, None))(out, y).mean(-1).sum(), (stats, out, soft)

        return value_and_aux(loss, state.critic.params)

    def critic_gradient(state: State, batch: Transition, noise: CriticNoise) -> tuple[Params, Tensor, Tensor]:
        grads, (_, out, soft), _ = critic_losses(state, batch, noise)
        return grads, value.mean(out), soft

    def critic_step(state: State, batch: Transition, noise: CriticNoise) -> tuple[State, Metrics]:
        grads, (stats, out, soft), total = critic_losses(state, batch, noise)
        net = learn(state.critic, grads, recipe.critic_optimiser, recipe.project, stats)
        new = state._replace(critic=net, target=recipe.target.update(state.target, net.params))
        if recipe.actor_moments == "critic":
            obs = recipe.normalise.obs(state.normalise, batch.obs)
            new = new._replace(actor=state.actor._replace(stats=features(*state.actor[:2], obs, True)[2]))
        q = value.mean(out)
        measured = (if_all_finite(stats, total), global_norm(grads), q.mean(), q.std(correction=0), soft.mean())
        metrics = dict(zip(CRITIC_METRICS, measured, strict=True))
        return if_finite(metrics, new, state), metrics

    def actor_step(state: State, batch: Transition, noise: ActorNoise) -> tuple[State, Metrics]:
        obs = recipe.normalise.obs(state.normalise, batch.obs)
        alpha = temperature.alpha(state.temperature.params)

        def q(action: Tensor) -> Tensor:
            # A view per critic: of shared rows that need a slope PyTorch's product would copy all weights, transposed.
            rows = torch.cat([obs, action], -1).expand(recipe.n_critics, -1, -1)
            return critics(state.critic.params, state.critic.stats, rows, False, noise.critic)[0]

        def loss(params: Params) -> tuple[Tensor, tuple[Params, Tensor]]:
            head, seen, stats = features(params, state.actor.stats, obs, True)
            action, log_prob = policy.sample(head, seen, noise.action)
            voice = recipe.improve(q(action), value, noise.members)
            return (alpha * log_prob - value.mean(voice)).mean(), (stats, -log_prob.mean())

        grads, (stats, entropy), total = value_and_aux(loss, state.actor.params)
        stats = stats if recipe.actor_moments == "actor" else state.actor.stats
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
        state: State, obs: Float[Tensor, "O"], reward: Float[Tensor, ""], last: Float[Tensor, ""], gamma: float | Tensor
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

    def actor_of_before(state: State) -> State:
        copied = {
            name: tree_map(torch.clone, getattr(state, name)) for name in ("actor", "temperature", "target_actor")
        }
        return state._replace(**copied)

    def networks(state: State) -> dict[str, Net]:
        own = zip(auxiliaries, state.auxiliaries, strict=True)
        more = {auxiliary.name: net for auxiliary, net in own if isinstance(net, Net)}
        return {"critic": state.critic, "actor": state.actor} | more

    def torsos(state: State, batch: Transition) -> dict[str, Torso]:
        obs = recipe.normalise.obs(state.normalise, batch.obs)
        rows = torch.cat([obs, batch.action], -1)
        return {
            "critic": Torso(recipe.critic, state.critic.params[0], state.critic.stats[0], rows),
            "actor": Torso(recipe.actor, stack([state.actor.params[0]]), stack([state.actor.stats]), obs),
        }

    train_critic = Step("critic", critic_step, critic_noise, every_update, CRITIC_METRICS)
    train_actor = Step(
        "actor",
        actor_step,
        actor_noise,
        recipe.protocol.actor_due,
        ACTOR_METRICS + recipe.explore.metrics,
        before=actor_of_before if recipe.order == "together" else None,
    )
    agent = Agent(
        recipe=recipe,
        obs_dim=obs_dim,
        action_dim=action_dim,
        init=init,
        steps=(train_critic, train_actor) if recipe.order == "critic_first" else (train_actor, train_critic),
        samples=tuple(dict.fromkeys([Purpose.SAMPLE, *(auxiliary.sample for auxiliary in auxiliaries)])),
        critic_gradient=critic_gradient,
        sample=sample,
        q=ensemble_q,
        act=act,
        mode=mode,
        observe=observe,
        observes=bool(recipe.normalise.init(obs_dim)),
        restart=lambda fresh, old: fresh._replace(normalise=old.normalise),
        networks=networks,
        torsos=torsos,
        alpha=lambda state: temperature.alpha(state.temperature.params),
        reward_scale=lambda state: recipe.normalise.reward(state.normalise, torch.ones(())),
    )
    more = (auxiliary_step(agent, auxiliary, place) for place, auxiliary in enumerate(auxiliaries))
    return agent._replace(steps=(*agent.steps, *more))


def auxiliary_step(agent: Agent, auxiliary: Auxiliary, place: int) -> Step:
    """The step of the recipe's auxiliary at this place."""

    def update(state: State, batch: Transition, noise: Noise) -> tuple[State, Metrics]:
        every = list(state.auxiliaries)
        every[place], metrics = auxiliary.learn(agent, state, every[place], batch, noise)
        return if_finite(metrics, state._replace(auxiliaries=tuple(every)), state), metrics

    sample = agent.samples.index(auxiliary.sample)
    return Step(auxiliary.name, update, auxiliary.noise, auxiliary.due, auxiliary.metrics, sample)


def every_update(first: int, end: int) -> list[bool]:
    """Due with each update."""
    return [True] * (end - first)


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
    """The loss, or NaN if one of the new running statistics is not finite: then the update has failed, and reports it.

    A number of 2e19 makes a batch's variance infinite, and what is divided by its root finite, the loss included.
    """
    moments = [leaf.flatten() for leaf in leaves(stats) if leaf.is_floating_point()]
    return torch.where(torch.cat(moments).isfinite().all(), loss, torch.nan) if moments else loss


def if_finite(metrics: Metrics, new: State, old: State) -> State:
    """The new state if every metric, losses and gradient norms among them, is finite; else the old one, untouched."""
    fine = torch.stack([torch.isfinite(value) for value in metrics.values()]).all()
    return select(fine, new, old)


def count_parameters(params: Params) -> int:
    """How many numbers are learned."""
    return sum(leaf.numel() for leaf in leaves(params))


def size(recipe: Recipe, *, obs_dim: int, action_dim: int) -> int:
    """How many numbers actor and critics learn, without drawing any: in no time, however large they are."""
    with torch.device("meta"):
        torso, _, width = recipe.actor.init(SHAPES, obs_dim)
        head = recipe.policy.init(SHAPES, width, action_dim)
        member, _, _ = serial(recipe.critic, recipe.readout).init(SHAPES, obs_dim + action_dim)
    return count_parameters((torso, head)) + recipe.n_critics * count_parameters(member)
