"""The run folder: where things lie in it, what run.json says, and how an agent comes back out of it.

run.json                 format, settings, the environment's sizes, per stretch of frames how it was run, a digest
metrics.csv              every measurement, long form
diagnostics.csv          what `steadyq diagnose` measured on the snapshots, in the same form
tensorboard/seed-0/      metrics.csv as TensorBoard events
learning_curve.png       drawn when a run ends
seed-0/checkpoints/      to resume
seed-0/snapshots/FRAME   weights, statistics and temperature at each evaluation
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from steadyq.algorithm.agent import Agent, Precision, make_agent
from steadyq.algorithm.options import make_recipe
from steadyq.algorithm.random import Purpose, generator
from steadyq.algorithm.tree import from_named, named_leaves
from steadyq.algorithm.types import Net, State
from steadyq.errors import InputError
from steadyq.run import checkpoint, disk, logs
from steadyq.run.disk import FileError
from steadyq.run.settings import MOST_THREADS, Settings, check, from_json

FORMAT = 1


class Record(NamedTuple):
    """What run.json says."""

    settings: Settings
    obs_dim: int
    action_dim: int
    observations: list[list]  # [name, size] of each part of the observation, in order
    stretches: list[dict[str, Any]]  # how each stretch of frames was run; the last one is the newest


def seed_folder(run: Path, seed: int) -> Path:
    """What belongs to one seed."""
    return run / f"seed-{seed}"


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, be it one whose run.json was lost."""
    return (folder / "run.json").is_file() or any(folder.glob("seed-*/checkpoints/*.safetensors"))


def snapshot_path(run: Path, seed: int, frame: int) -> Path:
    """The weights at one evaluation."""
    return seed_folder(run, seed) / "snapshots" / f"{frame:012d}.safetensors"


def record_json(record: Record) -> dict[str, Any]:
    """What run.json holds, sealed with a digest over the rest of it."""
    content = {"format": FORMAT, **record._asdict(), "settings": record.settings.to_json()}
    return {**content, "sha256": _digest(content)}


def write_record(run: Path, record: Record) -> None:
    """Write run.json, whole or not at all."""
    disk.write(run / "run.json", json.dumps(record_json(record), indent=2).encode() + b"\n")


def read_record(run: Path) -> Record:
    """Read run.json.

    Raises:
        InputError: there is none, or it is damaged or of another version.
    """
    path = run / "run.json"
    if not path.is_file():
        raise InputError(f"{run} is no run folder: it has no run.json; give the folder that `steadyq train` printed")
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path} cannot be read ({error}); `steadyq resume` restores it from a checkpoint") from None
    return record_from_json(content, source=path, out=run)


def record_from_json(content: Any, *, source: Path, out: Path) -> Record:
    """The record in what `record_json` gave; `source` is named in errors.

    Raises:
        InputError: it is of another version.
        FileError: it is damaged, or nothing that steadyq wrote.
    """
    if not isinstance(content, dict) or "format" not in content:
        raise FileError(f"{source} is damaged, or no record of a run")
    if content["format"] != FORMAT:
        raise InputError(f"{source} has another format than {FORMAT}; use the version of steadyq that wrote it")
    rest = {key: value for key, value in content.items() if key != "sha256"}
    if content.get("sha256", _digest(rest)) != _digest(rest):  # older versions wrote none
        raise FileError(f"{source} is damaged or was edited: its SHA-256 is another one than it was written with")
    try:
        del rest["format"]
        record = Record(**{**rest, "settings": from_json(rest["settings"], out=str(out))})
        check(record.settings)
        _check_sizes(record)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, AssertionError) as error:
        if isinstance(error, InputError):
            raise FileError(f"{source}: {error}") from None
        raise FileError(f"{source} is not what steadyq writes ({type(error).__name__}: {error})") from None
    return record


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_sizes(record: Record) -> None:
    """Of the parts of a record that are no settings, those that a run is made from."""
    sizes = (record.obs_dim, record.action_dim, *(size for _, size in record.observations))
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"sizes {sizes}")
    how = record.stretches[-1]
    if (
        how["precision"] not in ("float32", "bfloat16")
        or how["device"] not in ("cpu", "cuda")
        or how["products"] not in ("mkl", "onednn")
        or type(how["compiled"]) is not bool
        or type(how["threads"]) is not int
        or not 0 < how["threads"] <= MOST_THREADS
    ):
        raise ValueError(f"machine {how}")


def check_trust(record: Record, *, trust: bool) -> None:
    """InputError if making the environment would import a module that nobody but the run folder asks for."""
    module, colon, _ = record.settings.env.partition(":")
    if colon and not trust and module not in sys.modules:
        raise InputError(
            f"the run's environment {record.settings.env} imports the Python module {module!r}; "
            f"if you trust it, add --trust"
        )


def agent_of(record: Record, *, precision: Precision = "float32") -> Agent:
    """The agent that a run trains."""
    settings = record.settings
    recipe = make_recipe(settings.recipe, settings.options)
    return make_agent(recipe, obs_dim=record.obs_dim, action_dim=record.action_dim, precision=precision)


def without_optimisers(state: State) -> State:
    """Weights, statistics and temperature: what acting and diagnosis need."""

    def bare(net: Net) -> Net:
        return net._replace(opt=(), project=())

    return state._replace(actor=bare(state.actor), critic=bare(state.critic), temperature=bare(state.temperature))


def snapshot_tensors(state: State) -> dict[str, Tensor]:
    """A snapshot's content, by name."""
    return dict(named_leaves(without_optimisers(state)))


def load_state(run: Path, record: Record, *, seed: int, which: str = "last") -> tuple[State, int]:
    """One seed's weights and their frame, without optimiser state.

    Args:
        run: the run folder.
        record: its run.json.
        seed: one of its seeds.
        which: `last` checkpoint, `best` evaluation, or the frame of an evaluation.

    Raises:
        InputError: no such seed, nothing saved yet, no such frame, or weights of other networks.
    """
    if seed not in record.settings.seeds:
        raise InputError(f"--seed is {seed}; this run has {' '.join(map(str, record.settings.seeds))}")
    like = without_optimisers(agent_of(record).init(generator(seed, Purpose.INIT)))
    if which == "last":
        saved = checkpoint.load(seed_folder(run, seed), replay=None)
        return state_of(saved, like, seed_folder(run, seed)), saved.frame
    frame = best_frame(run, seed) if which == "best" else _frame(which)
    path = snapshot_path(run, seed, frame)
    if not path.is_file():
        frames = sorted(int(p.stem) for p in path.parent.glob("*.safetensors"))
        known = f"{frames[0]:,} to {frames[-1]:,}, {len(frames)} in all" if frames else "none yet"
        raise InputError(f"there is no snapshot at frame {frame}; evaluations with one: {known}")
    tensors, _ = checkpoint.read_snapshot(path)
    return fill(like, tensors, path), frame


def state_of(saved: checkpoint.Checkpoint, like: State, source: Path) -> State:
    """As much of a checkpoint's state as `like` has; errors as of `fill`."""
    names = {name: f"state.{name}" for name, _ in named_leaves(like)}
    return fill(like, {name: saved.tensors[key] for name, key in names.items() if key in saved.tensors}, source)


def fill(like: State, tensors: Mapping[str, Tensor], source: Path) -> State:
    """The state of these tensors, which lie in `source`.

    Raises:
        InputError: they are not those of such a state.
    """
    try:
        return from_named(like, tensors)
    except ValueError as error:
        raise InputError(
            f"{source} does not fit this run ({error}); use the version of steadyq that wrote it"
        ) from None


def best_frame(run: Path, seed: int) -> int:
    """The frame of the evaluation with the highest mean return; the earliest of equals."""
    found = returns(run, seed)
    if not found:
        raise InputError(f"{run} has no evaluation of seed {seed} yet; use --checkpoint last")
    return max(found, key=lambda frame: (found[frame], -frame))


def returns(run: Path, seed: int) -> Mapping[int, float]:
    """Mean evaluation return by frame."""
    rows = logs.read(run / logs.FILE)
    return {row.env_step: row.value for row in rows if row.seed == seed and row.metric == "eval/mean_reward"}


def _frame(which: str) -> int:
    try:
        return int(which)
    except ValueError:
        raise InputError(f"--checkpoint is {which!r}; give last, best or the frame of an evaluation") from None
