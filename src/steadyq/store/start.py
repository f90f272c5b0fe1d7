"""What a new run starts from: the weights of an earlier run, and transitions of one, or of a file of anyone's.

Everything is read and checked before the new run writes anything; then it is the run's own, in its first checkpoint.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError

from steadyq.algorithm.agent import Agent
from steadyq.algorithm.nn import SHAPES
from steadyq.algorithm.tree import from_named, leaves, named_leaves, tree_map
from steadyq.algorithm.types import Net, State
from steadyq.errors import InputError
from steadyq.settings import flag
from steadyq.store import checkpoint, disk
from steadyq.store.disk import FileError
from steadyq.store.folder import PRIOR, REPLAY, is_run, seed_folder
from steadyq.store.record import INIT, LOAD, Record, Source, read_record
from steadyq.store.replay import Replay
from steadyq.store.sealed import Arrays
from steadyq.store.snapshot import agent_of, check_replays, replays_of

Segment = Arrays
"""Transitions as `Replay.extend` takes them."""


class Start(NamedTuple):
    """What the seeds of a run start from, in their order."""

    sources: dict[str, list[Source]]
    states: list[State]  # without the optimisers'; none: fresh networks
    replays: list[dict[str, Replay]]  # by name; none: empty ones


NOTHING = Start({}, [], [])


def find(record: Record) -> Start:
    """What the settings of a run ask for, as it is now.

    Args:
        record: of the run, without sources.

    Raises:
        InputError: it is not there, damaged, or does not fit this run; nothing was written.
        Unreadable: it cannot be read now.
    """
    settings = record.settings
    sources, states, replays = dict[str, list[Source]](), list[State](), list[dict[str, Replay]]()
    for option in (INIT, LOAD):
        place = getattr(settings, option)
        if place and Path(place).resolve().is_relative_to(settings.folder.resolve()):
            raise InputError(f"{flag(option)} is {place}, which lies in the folder of the new run; give another --out")
    if settings.init_from:
        found = [_weights(record, Path(settings.init_from), seed) for seed in settings.seeds]
        sources[INIT], states = [source for source, _ in found], [state for _, state in found]
    if settings.load_replay:
        place = Path(settings.load_replay)
        open_one = _of_file(record, place) if place.is_file() else _of_run(record, place)
        opened = [open_one(seed) for seed in settings.seeds]
        sources[LOAD] = [source for source, _ in opened]
        _check_counts(record, sources[LOAD])
        record = record._replace(sources=sources)
        check_replays(record)
        for seed, (_, fill) in zip(settings.seeds, opened, strict=True):
            mine = replays_of(record, seed)
            fill(mine[PRIOR if settings.prior_share else REPLAY])
            replays.append(mine)
    return Start(sources, states, replays)


def most_transitions(place: Path) -> int:
    """How many transitions `--load-replay` may find in a place, at most, without reading them; 0 if it finds none."""
    try:
        if is_run(place):
            record = read_record(place)
            return max(record.settings.capacity(record.prefilled(seed)) for seed in record.settings.seeds)
        with safetensors.safe_open(place, "numpy") as file:
            shape: list[int] = file.get_slice("obs").get_shape()
            return shape[0]
    except (InputError, SafetensorError, OSError, IndexError):  # of which the run itself will complain
        return 0


def find_again(record: Record, *, trust: bool) -> Start:
    """What a run started from, which it had no time to save.

    Raises:
        InputError: as of `find`; it has changed; or nobody but the run folder asks to read it.
    """
    places = [str(getattr(record.settings, option)) for option in record.sources]
    if places and not trust:
        raise InputError(f"the run begins again from {' and '.join(places)}; if you trust it, add --trust")
    start = find(record._replace(sources={}))
    for option, then in record.sources.items():
        if start.sources[option] != then:
            raise InputError(
                f"{getattr(record.settings, option)} has changed since the run began from it, and the run has saved "
                f"nothing yet; start it again with `steadyq train ... --overwrite`"
            )
    return start


def networks(agent: Agent, saved: checkpoint.Checkpoint) -> State:
    """What an agent takes over from a checkpoint: its state without the optimisers'.

    Raises:
        ValueError: the checkpoint is of other networks, or their numbers are not finite.
    """
    like = tree_map(lambda net: net._replace(opt=()), agent.init(SHAPES), stop=_is_net)
    names = {name: f"state.{name}" for name, _ in named_leaves(like)}
    state = from_named(like, {name: saved.tensors[key] for name, key in names.items() if key in saved.tensors})
    if not all(torch.isfinite(leaf).all() for leaf in leaves(state)):
        raise ValueError("it has numbers that are not finite")
    return state


def with_fresh_optimisers(old: State, fresh: State) -> State:
    """A state as `Start` has it, with the optimisers of another."""
    return tree_map(lambda net, new: net._replace(opt=new.opt), old, fresh, stop=_is_net)


def _is_net(tree: State) -> bool:
    return isinstance(tree, Net)


def _weights(record: Record, place: Path, seed: int) -> tuple[Source, State]:
    """The newest state of a seed of an earlier run, without the optimisers'."""
    earlier, ours = _earlier(record, place, INIT), record.settings
    if earlier.settings.recipe != ours.recipe:
        raise _unfit(INIT, place, "the recipe", earlier.settings.recipe, ours.recipe)
    theirs = _seed(earlier, place, INIT, seed)
    saved = checkpoint.load(seed_folder(place, theirs))
    try:
        state = networks(agent_of(record), saved)
    except ValueError as error:
        there, here = earlier.settings.options, ours.options
        odd = [f"{key} ({there.get(key)} there, {here[key]} here)" for key in here if there.get(key) != here[key]]
        raise InputError(
            f"{flag(INIT)} {place} does not have the networks of this run ({error}); options that differ: "
            f"{', '.join(odd) or 'none'}"
        ) from None
    return Source(theirs, saved.frame, 0, saved.sha256), state


def _of_run(record: Record, place: Path) -> Callable[[int], tuple[Source, Callable[[Replay], None]]]:
    """Of each seed where its transitions come from, and what puts them into an empty replay."""
    if not is_run(place):
        raise InputError(
            f"{flag(LOAD)} is {place}, neither a run folder nor a file; give one of them, see docs/start-from.md"
        )
    earlier = _earlier(record, place, LOAD)

    def of_seed(seed: int) -> tuple[Source, Callable[[Replay], None]]:
        theirs = _seed(earlier, place, LOAD, seed)
        folder = seed_folder(place, theirs)
        saved = checkpoint.load(folder)
        if (files := saved.replays.get(REPLAY)) is None or not files.segments:
            raise InputError(f"{place} has no transitions of seed {theirs} yet; train it for longer")

        def fill(replay: Replay) -> None:
            for segment in checkpoint.segments(folder, saved, REPLAY, (record.obs_dim, record.action_dim)):
                if np.abs(segment["action"]).max() > 1:
                    raise FileError(f"{place} has transitions whose actions do not lie in [-1, 1]")
                replay.extend({**segment, "first": np.array(replay.added, np.int64)})

        return Source(theirs, saved.frame, files.added - files.segments[0].first, saved.sha256), fill

    return of_seed


def _of_file(record: Record, place: Path) -> Callable[[int], tuple[Source, Callable[[Replay], None]]]:
    """The same for a safetensors file, whose transitions every seed gets."""
    data = disk.read(place.resolve())
    try:
        arrays = safetensors.numpy.load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise FileError(f"{place} is cut, damaged or no safetensors file ({error})") from None
    segment = segment_of(record, arrays, str(place))
    source = Source(None, None, len(segment["ends"]), hashlib.sha256(data).hexdigest())
    return lambda seed: (source, lambda replay: replay.extend(segment))


def segment_of(record: Record, arrays: Arrays, place: str) -> Segment:
    """The transitions of a file in the form of docs/start-from.md.

    Raises:
        InputError: a field is missing or of another shape, a number is not finite, or they are those of another robot.
    """
    n = len(arrays["obs"]) if np.ndim(arrays.get("obs", 0)) else 0
    shapes: dict[str, tuple[int, ...]] = {
        "obs": (n, record.obs_dim),
        "action": (n, record.action_dim),
        "reward": (n,),
        "next_obs": (n, record.obs_dim),
        "terminated": (n,),
        "action_low": (record.action_dim,),
        "action_high": (record.action_dim,),
        "action_repeat": (),
    }
    for name, shape in shapes.items():
        wanted = {"terminated": "b", "action_repeat": "iu"}.get(name, "f")
        got = arrays.get(name)
        if got is None or got.shape != shape or got.dtype.kind not in wanted or not n:
            what = "missing" if got is None else f"{got.dtype} {got.shape}"
            kind = {"b": "booleans", "iu": "a whole number", "f": "floats"}[wanted]
            raise InputError(f"{place}: `{name}` must be {kind} {shape if n else 'of at least one row'}, and is {what}")
        if not np.isfinite(got.astype(np.float32)).all():
            raise InputError(f"{place}: `{name}` has a number that is not finite")
    repeat, ours = int(arrays["action_repeat"]), record.settings.resolved("action_repeat")
    if repeat != ours:
        raise _unfit(LOAD, place, "the action repeat", repeat, ours)
    bounds = []
    for name, mine in (("action_low", record.action_low), ("action_high", record.action_high)):
        if not np.array_equal(arrays[name].astype(np.float32), np.array(mine, np.float32)):
            raise _unfit(LOAD, place, name, arrays[name].tolist(), mine)
        bounds.append(np.array(mine))
    low, high = bounds
    action = (2 * (arrays["action"].astype(np.float64) - low) / np.where(high > low, high - low, 1) - 1) * (high > low)
    if (most := np.abs(action).max()) > 1 + 1e-4:  # rounding of the bounds
        row = int(np.abs(action).max(1).argmax())
        raise InputError(f"{place}: `action` lies outside of its bounds, most of all in row {row} (by {most - 1:.2g})")
    obs, next_obs = arrays["obs"].astype(np.float32), arrays["next_obs"].astype(np.float32)
    ends = arrays["terminated"].copy()
    ends[:-1] |= (next_obs[:-1] != obs[1:]).any(1)
    ends[-1] = True
    return {
        "first": np.array(0, np.int64),
        "obs": obs,
        "action": np.clip(action, -1, 1).astype(np.float32),
        "reward": arrays["reward"].astype(np.float32),
        "discount": np.where(arrays["terminated"], 0, record.settings.resolved("gamma")).astype(np.float32),
        "ends": ends,
        "next_obs": next_obs[ends],
    }


def _earlier(record: Record, place: Path, option: str) -> Record:
    """The record of an earlier run, if it had the same robot and the same discount."""
    earlier = read_record(place)
    now, then = record.settings, earlier.settings
    facts = {
        "the observations": (earlier.observations, [list(part) for part in record.observations]),
        "the size of actions": (earlier.action_dim, record.action_dim),
        "the lower bound of actions": (earlier.action_low, record.action_low),
        "the upper bound of actions": (earlier.action_high, record.action_high),
        "the action repeat": (then.action_repeat, now.action_repeat),
        "gamma": (then.gamma, now.gamma),
    }
    for what, (theirs, ours) in facts.items():
        if theirs != ours:
            raise _unfit(option, place, what, theirs, ours)
    return earlier


def _seed(earlier: Record, place: Path, option: str, seed: int) -> int:
    """The seed of an earlier run from which one of this run starts: of the same number, or the only one."""
    theirs = earlier.settings.seeds
    if seed not in theirs and len(theirs) > 1:
        known = " ".join(map(str, theirs))
        raise InputError(f"{flag(option)} {place} has seeds {known} and not {seed}; give --seeds that it has")
    return seed if seed in theirs else theirs[0]


def _check_counts(record: Record, sources: list[Source]) -> None:
    """InputError if the first update would have less than a batch to draw from."""
    settings, fewest = record.settings, min(source.transitions for source in sources)
    there, batch = settings.resolved("learning_starts") + fewest, settings.resolved("batch_size")
    if not settings.prior_share and there < batch:
        raise InputError(
            f"--batch-size is {batch}, and there are {there} transitions at the first update ({fewest} loaded); give a "
            f"larger --learning-starts"
        )


def _unfit(option: str, place: Path | str, what: str, theirs: object, ours: object) -> InputError:
    """The error of something that is another one there."""
    return InputError(
        f"{flag(option)} {place} does not fit this run: {what} is {theirs} there and {ours} here; make them the same"
    )
