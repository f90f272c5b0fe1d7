"""A trained policy out of a run folder: `steadyq.load_policy`. No environment is needed."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steadyq.algorithm.agent import Agent
from steadyq.algorithm.types import State
from steadyq.deploy.policy import Part, Policy, Spec
from steadyq.store import disk
from steadyq.store.folder import returns, seed_folder, snapshot_path
from steadyq.store.packed import opened
from steadyq.store.record import Record, read_record
from steadyq.store.snapshot import agent_of, is_of, load_state, read_snapshot


class Loaded(NamedTuple):
    """A policy with what it is made from."""

    policy: Policy
    agent: Agent
    state: State
    record: Record
    seed: int


def load_policy(run: Path | str, *, seed: int | None = None, checkpoint: str | int = "last") -> Policy:
    """The policy that a run trained: NumPy in and out, in the environment's own units.

    Args:
        run: the run folder, or a zip file of `steadyq pack`.
        seed: which of its agents; the first that is there if None.
        checkpoint: `last`, `best` (the evaluation with the highest return), or the frame of an evaluation.

    Raises:
        InputError: no such run, seed or checkpoint.
    """
    with opened(Path(run)) as folder:
        return load(folder, seed=seed, checkpoint=checkpoint).policy


def load(run: Path, *, seed: int | None, checkpoint: str | int) -> Loaded:
    """The policy, agent and record of a run; errors as of `load_policy`."""
    record = read_record(run)
    settings = record.settings
    if seed is None:  # a pack may have some of them only
        seed = next((one for one in settings.seeds if disk.is_there(seed_folder(run, one))), settings.seeds[0])
    agent = agent_of(record)
    state, frame = load_state(run, record, seed=seed, which=str(checkpoint))
    spec = Spec(
        observations=[Part(*part) for part in record.observations],
        action_low=record.action_low,
        action_high=record.action_high,
        step_seconds=record.step_seconds,
        trained={
            "recipe": settings.recipe,
            "env": settings.env,
            "run": settings.name,
            "seed": seed,
            "commit": record.stretches[-1].get("commit"),
            "frame": frame,
            "return": _return(run, seed, frame, state),
        },
    )
    return Loaded(policy_of(agent, state, spec), agent, state, record, seed)


def _return(run: Path, seed: int, frame: int, state: State) -> float | None:
    """What these weights returned at this frame; None if they were not evaluated, or are others since: reset ones."""
    path = snapshot_path(run, seed, frame)
    if disk.is_there(path) and not is_of(read_snapshot(path)[0], state):
        return None
    return returns(run, seed).get(frame)


def policy_of(agent: Agent, state: State, spec: Spec) -> Policy:
    """The policy of an agent in a state, both on the CPU, in the environment's own units."""
    low, high = spec.bounds()
    centre, half = np.float32((high + low) / 2), np.float32((high - low) / 2)

    def scaled(act: Callable[[], Tensor]) -> np.ndarray:
        with torch.no_grad():
            return np.clip(centre + half * act().numpy(), low, high)

    def mode(rows: np.ndarray) -> np.ndarray:
        obs = torch.from_numpy(rows)
        if len(obs) == 1:  # vmap would take longer than the networks
            return scaled(lambda: agent.mode(state, obs[0]).unsqueeze(0))
        return scaled(lambda: torch.func.vmap(agent.mode, (None, 0))(state, obs))

    def draw(rows: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return scaled(lambda: agent.sample(state, torch.from_numpy(rows), torch.from_numpy(noise))[0])

    return Policy(spec, mode, draw)
