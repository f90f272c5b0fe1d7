"""A slow, plain second writing of the gradient steps, in float64, to hold the real ones against.

Ordinary modules, one critic after the other, autograd and PyTorch's own AdamW; nothing of steadyq is imported. Numbers
go in and come out under the names that steadyq gives its leaves (`critic.params.0.1.w`), as arrays with a leading axis
of critics where steadyq has one.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

Numbers = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What makes an algorithm, in numbers; the defaults are SAC's."""

    lr: float
    b1: float = 0.9
    temperature_lr: float | None = None  # as lr
    norm: Literal["batch", "renorm"] | None = None
    warm_up: int = 100_000
    joint: bool = False
    tau: float | None = 0.005
    loss_weight: float = 1.0
    log_std_min: float = -10.0
    target_entropy: float = -0.5  # per action dimension
    project: Literal["unit", "weights"] | None = None
    project_readout: bool = False
    decay: float = 0.0
    decay_norms: bool = False
    actor_moments: Literal["actor", "critic"] = "actor"


class BatchNorm(nn.Module):
    """Batch normalisation, or renormalisation after `warm_up` calls (by substituted moments); eps 1e-3."""

    def __init__(self, width: int, *, renorm: bool, warm_up: int) -> None:
        super().__init__()
        self.renorm, self.warm_up = renorm, warm_up
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        for name, value in (("mean", torch.zeros(width)), ("var", torch.ones(width)), ("calls", torch.tensor(0))):
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return (x - self.mean) / torch.sqrt(self.var + 1e-3) * self.scale + self.shift
        mean = x.sum(0) / len(x)
        var = ((x - mean) ** 2).sum(0) / len(x)
        used_mean, used_var = mean, var
        if self.renorm and self.calls >= self.warm_up:
            running_std = torch.sqrt(self.var + 1e-3)
            r = (torch.sqrt(var + 1e-3) / running_std).clip(1 / 3, 3).detach()
            d = ((mean - self.mean) / running_std).clip(-5, 5).detach()
            used_mean, used_var = mean - d * torch.sqrt(var) / r, var / r**2
        y = (x - used_mean) / torch.sqrt(used_var + 1e-3)
        self.mean = 0.99 * self.mean + 0.01 * mean.detach()
        self.var = 0.99 * self.var + 0.01 * var.detach()
        self.calls = self.calls + 1
        return y * self.scale + self.shift


class Network(nn.Module):
    """Two hidden layers and one or more readouts, by the names they have in steadyq."""

    def __init__(self, facts: Facts, d_in: int, width: int, heads: dict[str, int]) -> None:
        super().__init__()

        def norm(size: int) -> list[nn.Module]:
            return [BatchNorm(size, renorm=facts.norm == "renorm", warm_up=facts.warm_up)] if facts.norm else []

        hidden = [nn.Linear(d_in, width), nn.ReLU(), *norm(width), nn.Linear(width, width), nn.ReLU(), *norm(width)]
        self.torso = nn.Sequential(*norm(d_in), *hidden)
        self.names, self.heads = list(heads), nn.ModuleList(nn.Linear(width, size) for size in heads.values())
        self.double()

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.torso(x)
        return [head(x) for head in self.heads]

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter with its name in steadyq."""
        layers = [(f"0.{i}", layer) for i, layer in enumerate(self.torso)]
        layers += zip(self.names, self.heads, strict=True)
        for name, layer in layers:
            if isinstance(layer, nn.Linear):
                yield f"{name}.w", layer.weight
                yield f"{name}.b", layer.bias
            elif isinstance(layer, BatchNorm):
                yield f"{name}.scale", layer.scale
                yield f"{name}.shift", layer.shift

    def norms(self) -> Iterator[tuple[int, BatchNorm]]:
        """Each normalisation with its place in the torso."""
        return ((i, layer) for i, layer in enumerate(self.torso) if isinstance(layer, BatchNorm))


def turned(name: str, array: np.ndarray) -> np.ndarray:
    """Between steadyq's layout and ours, which keeps weights as [out, in]; a copy."""
    return array.T.copy() if name.endswith(".w") else array.copy()


def as_theirs(name: str, value: Tensor) -> np.ndarray:
    """A tensor of ours, as steadyq writes it."""
    return turned(name, value.detach().numpy())


def squashed_sample(actor: Network, obs: Tensor, noise: Tensor, log_std_min: float) -> tuple[Tensor, Tensor]:
    """`(action, log_prob)` of a tanh-Gaussian, by the change of variables: 1 - tanh(u)^2 = cosh(u)^-2."""
    mean, log_std = actor(obs)
    std = log_std.clip(log_std_min, 2).exp()
    u = mean + std * noise
    log_prob = Normal(mean, std).log_prob(u) + 2 * torch.log(torch.cosh(u))
    return torch.tanh(u), log_prob.sum(-1)


class Oracle:
    """An agent that starts from given numbers, before any update."""

    def __init__(self, facts: Facts, numbers: Numbers) -> None:
        self.facts = facts
        mean = numbers["actor.params.1.mean.w"]
        first = 1 if facts.norm else 0
        obs_dim, actor_width = numbers[f"actor.params.0.{first}.w"].shape
        n_critics, critic_in, width = numbers[f"critic.params.0.{first}.w"].shape
        self.action_dim = mean.shape[1]
        assert critic_in == obs_dim + self.action_dim

        heads = {"1.mean": self.action_dim, "1.log_std": self.action_dim}
        self.actor = Network(facts, obs_dim, actor_width, heads)
        self.critics = [Network(facts, critic_in, width, {"1": 1}) for _ in range(n_critics)]
        self.log_alpha = nn.Parameter(torch.tensor(float(numbers["temperature.params"]), dtype=torch.float64))
        with torch.no_grad():
            for name, parameter in self.actor.named():
                parameter.copy_(torch.from_numpy(turned(name, numbers[f"actor.params.{name}"])))
            for e, critic in enumerate(self.critics):
                for name, parameter in critic.named():
                    parameter.copy_(torch.from_numpy(turned(name, numbers[f"critic.params.{name}"][e])))
        self.targets = deepcopy(self.critics)

        self.actor_optimiser = self.adamw([self.actor])
        self.critic_optimiser = self.adamw(self.critics)
        self.temperature_optimiser = torch.optim.Adam([self.log_alpha], lr=facts.temperature_lr or facts.lr)

    def adamw(self, networks: list[Network]) -> torch.optim.Optimizer:
        """AdamW whose decay meets the readouts, and the normalisations where the facts say so."""
        facts = self.facts
        decaying, others = [], []
        for network in networks:
            for name, parameter in network.named():
                norm = name.endswith(("scale", "shift"))
                decays = name.startswith("1.") or (norm and facts.decay_norms)
                (decaying if decays else others).append(parameter)
        groups = [{"params": decaying, "weight_decay": facts.decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=facts.lr, betas=(facts.b1, 0.999), eps=1e-8)

    def project(self, networks: list[Network]) -> None:
        """Unit by unit."""
        facts = self.facts
        if facts.project is None:
            return
        for network in networks:
            layers = [layer for layer in network.torso if isinstance(layer, nn.Linear)]
            heads = list(network.heads) if facts.project_readout else []
            for layer in [*layers, *heads]:
                for o in range(layer.out_features):
                    weights, bias = layer.weight.data[o], layer.bias.data[o]
                    if facts.project == "unit" and layer not in heads:  # a head's bias is no part of its norm
                        norm = (sum(float(w) ** 2 for w in weights) + float(bias) ** 2) ** 0.5
                        layer.weight.data[o], layer.bias.data[o] = weights / norm, bias / norm
                    else:
                        layer.weight.data[o] = weights / sum(float(w) ** 2 for w in weights) ** 0.5

    def critic_step(
        self, obs: Tensor, action: Tensor, reward: Tensor, discount: Tensor, next_obs: Tensor, noise: Tensor
    ) -> dict[str, float]:
        """One update of the critics; the metrics by steadyq's names."""
        facts, n = self.facts, len(obs)
        now = torch.cat([obs, action], 1)
        with torch.no_grad():
            next_action, log_prob = squashed_sample(self.actor.eval(), next_obs, noise, facts.log_std_min)
        then = torch.cat([next_obs, next_action], 1)

        outs, next_outs = [], []
        for critic, target in zip(self.critics, self.targets, strict=True):
            if facts.tau is not None:  # the target knows the critic's running moments, and nobody keeps its own
                for (_, theirs), (_, its) in zip(critic.norms(), target.norms(), strict=True):
                    its.mean, its.var, its.calls = theirs.mean, theirs.var, theirs.calls
            critic.train()
            target.train(facts.joint)
            if facts.joint:
                q = critic(torch.cat([now, then]))[0][:, 0]
                next_q = q if facts.tau is None else target(torch.cat([now, then]))[0][:, 0]
                outs.append(q[:n])
                next_outs.append(next_q[n:].detach())
            else:
                outs.append(critic(now)[0][:, 0])
                next_outs.append(target(then)[0][:, 0].detach())

        y = []
        for i in range(n):
            lowest = min(float(next_q[i]) for next_q in next_outs)
            soft = lowest - self.log_alpha.exp().item() * float(log_prob[i])
            y.append(float(reward[i]) + float(discount[i]) * soft)
        targets = torch.tensor(y, dtype=torch.float64)
        loss = sum(facts.loss_weight * ((q - targets) ** 2).mean() for q in outs)
        grad_norm = self.descend(loss, self.critic_optimiser)
        self.project(self.critics)
        if facts.actor_moments == "critic":
            self.actor.train()(obs)
        if facts.tau is not None:
            for critic, target in zip(self.critics, self.targets, strict=True):
                for new, slow in zip(critic.parameters(), target.parameters(), strict=True):
                    slow.data = (1 - facts.tau) * slow.data + facts.tau * new.data
        every_q = np.concatenate([q.detach().numpy() for q in outs])
        return {
            "train/critic_loss": loss.item(),
            "train/critic_grad_norm": grad_norm,
            "train/q_mean": every_q.mean(),
            "train/q_std": every_q.std(ddof=0),
            "train/target_q_mean": targets.mean().item(),
        }

    def actor_step(self, obs: Tensor, noise: Tensor) -> dict[str, float]:
        """One update of the actor and the temperature; the metrics by steadyq's names."""
        alpha = self.log_alpha.exp().item()
        moments = deepcopy([(norm.mean, norm.var, norm.calls) for _, norm in self.actor.norms()])
        self.actor.train()
        action, log_prob = squashed_sample(self.actor, obs, noise, self.facts.log_std_min)
        if self.facts.actor_moments == "critic":  # they have moved with these observations before
            for (_, norm), before in zip(self.actor.norms(), moments, strict=True):
                norm.mean, norm.var, norm.calls = before
        q = torch.stack([critic.eval()(torch.cat([obs, action], 1))[0][:, 0] for critic in self.critics])
        loss = (alpha * log_prob - q.min(0).values).mean()
        grad_norm = self.descend(loss, self.actor_optimiser)
        self.project([self.actor])

        entropy = -log_prob.mean().item()
        slack = self.log_alpha.exp() * (entropy - self.facts.target_entropy * self.action_dim)
        self.descend(slack, self.temperature_optimiser)
        return {
            "train/actor_loss": loss.item(),
            "train/actor_grad_norm": grad_norm,
            "train/entropy": entropy,
            "train/ent_coef": alpha,
            "train/ent_coef_loss": slack.item(),
        }

    def descend(self, loss: Tensor, optimiser: torch.optim.Optimizer) -> float:
        """One step of an optimiser; the norm of its parameters' gradient."""
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
        return sum((gradient**2).sum().item() for gradient in gradients) ** 0.5

    def numbers(self) -> Numbers:
        """Everything that has been learned, by steadyq's names."""
        found: Numbers = {}
        for name, parameter in self.actor.named():
            state = self.actor_optimiser.state[parameter]
            found[f"actor.params.{name}"] = as_theirs(name, parameter)
            found[f"actor.opt.m.{name}"] = as_theirs(name, state["exp_avg"])
            found[f"actor.opt.v.{name}"] = as_theirs(name, state["exp_avg_sq"])
            found["actor.opt.updates"] = state["step"].numpy()
        for i, norm in self.actor.norms():
            for key in ("mean", "var", "calls"):
                found[f"actor.stats.{i}.{key}"] = getattr(norm, key).numpy()

        members = [dict(critic.named()) for critic in self.critics]
        slow = [dict(target.named()) for target in self.targets]
        memory = self.critic_optimiser.state
        for name in members[0]:
            own = [member[name] for member in members]
            found[f"critic.params.{name}"] = np.stack([as_theirs(name, p) for p in own])
            found[f"critic.opt.m.{name}"] = np.stack([as_theirs(name, memory[p]["exp_avg"]) for p in own])
            found[f"critic.opt.v.{name}"] = np.stack([as_theirs(name, memory[p]["exp_avg_sq"]) for p in own])
            found["critic.opt.updates"] = memory[own[0]]["step"].numpy()
            if self.facts.tau is not None:
                found[f"target.{name}"] = np.stack([as_theirs(name, target[name]) for target in slow])
        places = [dict(critic.norms()) for critic in self.critics]
        for i in places[0]:
            for key in ("mean", "var", "calls"):
                found[f"critic.stats.0.{i}.{key}"] = np.stack([getattr(place[i], key).numpy() for place in places])

        state = self.temperature_optimiser.state[self.log_alpha]
        found["temperature.params"] = self.log_alpha.detach().numpy()
        found["temperature.opt.m"] = state["exp_avg"].numpy()
        found["temperature.opt.v"] = state["exp_avg_sq"].numpy()
        found["temperature.opt.updates"] = state["step"].numpy()
        return found
