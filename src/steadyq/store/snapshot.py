"""Snapshots: the weights, statistics and temperature of one evaluation, and how an agent comes back out of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steadyq.algorithm import ranges
from steadyq.algorithm.actor_critic import make_agent
from steadyq.algorithm.agent import Agent
from steadyq.algorithm.nn import SHAPES
from steadyq.algorithm.options import make_recipe
from steadyq.algorithm.tree import from_named, named_leaves, tree_map
from steadyq.algorithm.types import Net, State
from steadyq.engine import machine
from steadyq.errors import InputError
from steadyq.store import checkpoint, disk, sealed
from steadyq.store.folder import PRIOR, REPLAY, best_frame, seed_folder, snapshot_path
from steadyq.store.record import Record, check_seed
from steadyq.store.replay import Replay


def write_snapshot(path: Path, tensors: Mapping[str, np.ndarray | torch.Tensor], meta: Mapping[str, Any]) -> None:
    """Write weights or other tensors, and JSON values, as one sealed file for later diagnosis and evaluation."""
    sealed.write(path, "snapshot", tensors, dict(meta))


def read_snapshot(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and JSON values of a snapshot.

    Raises:
        FileError: the file is missing, damaged or something else.
    """
    arrays, meta, _ = sealed.read(path, "snapshot")
    return sealed.tensors(arrays), meta


def agent_of(record: Record) -> Agent:
    """The agent that a run trains, in float32."""
    recipe = make_recipe(record.settings.recipe, record.settings.options)
    machine.check_networks(recipe, obs_dim=record.obs_dim, action_dim=record.action_dim)
    return make_agent(recipe, obs_dim=record.obs_dim, action_dim=record.action_dim)


def replays_of(record: Record, seed: int) -> dict[str, Replay]:
    """Empty replays for the transitions of one of a run's seeds, by name."""
    sizes = {"obs_dim": record.obs_dim, "action_dim": record.action_dim}
    return {name: Replay(capacity=capacity, **sizes) for name, capacity in _capacities(record, seed).items()}


def replay_sizes(record: Record) -> dict[str, tuple[int, int]]:
    """The sizes of observations and actions in the replays of each of a run's seeds, by name."""
    return dict.fromkeys(_capacities(record, record.settings.seeds[0]), (record.obs_dim, record.action_dim))


def check_replays(record: Record) -> None:
    """InputError if there is no memory for the replays of all seeds of a run."""
    seeds = record.settings.seeds
    most = max(sum(_capacities(record, seed).values()) for seed in seeds)
    Replay.check_memory(most, record.obs_dim, record.action_dim, seeds=len(seeds))


def _capacities(record: Record, seed: int) -> dict[str, int]:
    own = {REPLAY: record.settings.capacity(record.prefilled(seed))}
    return own | {PRIOR: record.loaded(seed)} if record.settings.prior_share else own


def without_optimisers(state: State) -> State:
    """Weights, statistics and temperature: what acting and diagnosis need."""
    return tree_map(lambda net: net._replace(opt=(), project=()), state, stop=lambda tree: isinstance(tree, Net))


def snapshot_tensors(state: State) -> dict[str, Tensor]:
    """A snapshot's content, by name."""
    return dict(named_leaves(without_optimisers(state)))


def is_of(tensors: Mapping[str, Tensor], state: State) -> bool:
    """Whether a snapshot holds these very weights: a checkpoint of its frame may have others, if there was a reset."""
    now = snapshot_tensors(state)
    return all(now[name].equal(tensor) for name, tensor in tensors.items())


def load_state(run: Path, record: Record, *, seed: int, which: str = "last") -> tuple[State, int]:
    """One seed's weights and their frame, without optimiser state.

    Args:
        run: the run folder.
        record: its run.json.
        seed: one of its seeds.
        which: `last` checkpoint (of a pack, which has none, the newest snapshot), `best` evaluation, or the frame of an
            evaluation.

    Raises:
        InputError: no such seed, nothing saved yet, no such frame, or weights of other networks.
    """
    check_seed(record, seed)
    like = without_optimisers(agent_of(record).init(SHAPES))
    place = seed_folder(run, seed)
    snapshots = sealed.frames(place / "snapshots")
    if which == "last" and (checkpoint.frames(place) or not snapshots):
        saved = checkpoint.load(place)
        return state_of(saved, like, place), saved.frame
    frame = snapshots[-1] if which == "last" else best_frame(run, seed) if which == "best" else _frame(which)
    path = snapshot_path(run, seed, frame)
    if not disk.is_there(path):
        known = f"{snapshots[0]:,} to {snapshots[-1]:,}, {len(snapshots)} in all" if snapshots else "none yet"
        raise InputError(f"there is no snapshot at frame {frame}; evaluations with one: {known}")
    tensors, _ = read_snapshot(path)
    return fill(like, tensors, path), frame


def state_of(saved: checkpoint.Checkpoint, like: State, source: Path) -> State:
    """As much of a checkpoint's state as `like` has; errors as of `fill`."""
    names = {name: f"state.{name}" for name, _ in named_leaves(like)}
    return fill(like, {name: saved.tensors[key] for name, key in names.items() if key in saved.tensors}, source)


def fill(like: State, tensors: Mapping[str, Tensor], source: Path) -> State:
    """The state of these tensors, which lie in `source`.

    Raises:
        InputError: they are not those of such a state, or not finite.
    """
    if odd := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise InputError(f"{source} holds numbers that are not finite: {odd[0]}; use another checkpoint")
    try:
        return from_named(like, tensors)
    except ValueError as error:
        raise InputError(
            f"{source} does not fit this run ({error}); use the version of steadyq that wrote it"
        ) from None


def _frame(which: str) -> int:
    frame = ranges.read(which, int)
    if not isinstance(frame, int):
        raise InputError(f"--checkpoint is {which!r}; give last, best or the frame of an evaluation")
    return frame
