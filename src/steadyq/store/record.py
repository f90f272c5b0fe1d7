"""run.json: what a run was asked to do, the sizes of its environment, and how each stretch of frames was run."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

from steadyq.algorithm.options import make_recipe
from steadyq.algorithm.ranges import COUNT
from steadyq.errors import InputError
from steadyq.settings import THREADS, Settings, check, from_json, parse_env
from steadyq.store import disk, typed
from steadyq.store.disk import FileError
from steadyq.store.sealed import json_digest
from steadyq.store.state import resume_command

FORMAT = 2
LONG = 500  # characters of an error, which may quote what a stranger wrote

CHOICES = {"precision": ("float32", "bfloat16"), "device": ("cpu", "cuda"), "products": ("mkl", "onednn")}
"""What the machine's part of a stretch may say."""


INIT, LOAD = "init_from", "load_replay"
"""The settings that name what a run starts from."""


class Source(NamedTuple):
    """What one seed of a run started from."""

    seed: int | None  # of the earlier run; None for a file
    frame: int | None  # of its checkpoint
    transitions: int  # 0 where weights were taken
    sha256: str  # of that checkpoint, as sealed; or of the file


class Record(NamedTuple):
    """What run.json holds."""

    settings: Settings
    obs_dim: int
    action_dim: int
    observations: list[list]  # [name, size] of each part of the observation, in order
    action_low: list[float]  # [A], the environment's own bounds
    action_high: list[float]
    step_seconds: float | None  # real time one agent step stands for, where the environment says so
    stretches: list[dict[str, Any]]  # how each stretch of frames was run; the last one is the newest
    sources: dict[str, list[Source]]  # what the seeds started from, by the setting that names it

    def prefilled(self, seed: int) -> int:
        """Transitions of a seed from before the run that are in its replay, with those of the run."""
        return 0 if self.settings.prior_share else self.loaded(seed)

    def loaded(self, seed: int) -> int:
        """Transitions of a seed from before the run."""
        return self.sources[LOAD][self.settings.seeds.index(seed)].transitions if LOAD in self.sources else 0


def record_json(record: Record) -> dict[str, Any]:
    """What run.json holds, sealed with a digest over the rest of it."""
    content = {"format": FORMAT, **record._asdict(), "settings": record.settings.to_json()}
    return {**content, "sha256": json_digest(content)}


def write_record(run: Path, record: Record) -> None:
    """Write run.json, whole or not at all."""
    disk.write(run / "run.json", json.dumps(record_json(record), indent=2).encode() + b"\n")


def read_record(run: Path) -> Record:
    """Read run.json.

    Raises:
        InputError: there is none, or it is damaged or of another version.
        Unreadable: it cannot be read now.
    """
    path = run / "run.json"
    if not disk.is_there(path):
        raise InputError(f"{run} is not a run folder: it has no run.json; give the folder that `steadyq train` printed")
    try:
        content = json.loads(disk.read(path))
    except (ValueError, RecursionError) as error:
        raise FileError(
            f"{path} cannot be read ({error}); `{resume_command(run, {})}` restores it from a checkpoint"
        ) from None
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
    if content.get("sha256") != json_digest(content):
        raise FileError(f"{source} is damaged or was edited: its SHA-256 is another one than it was written with")
    try:
        rest = {key: value for key, value in content.items() if key not in ("format", "sha256")}
        sources = typed.from_json(dict[str, list[Source]], rest["sources"], "sources")
        record = Record(**{**rest, "settings": from_json(rest["settings"], out=str(out)), "sources": sources})
        check(record.settings)
        record.settings.resolved("gamma")
        make_recipe(record.settings.recipe, record.settings.options)
        _check_sizes(record)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, AssertionError) as error:
        if isinstance(error, InputError):
            raise FileError(f"{source}: {str(error)[:LONG]}") from None
        raise FileError(f"{source} is not what steadyq writes ({type(error).__name__}: {str(error)[:LONG]})") from None
    return record


def _check_sizes(record: Record) -> None:
    """Of the parts of a record that are not settings, those that a run is made from."""
    sizes = (record.obs_dim, record.action_dim, *(size for _, size in record.observations))
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"sizes {sizes}")
    if sum(sizes[2:]) != record.obs_dim or not all(type(name) is str for name, _ in record.observations):
        raise ValueError(f"observations {record.observations}")
    asked = {option for option in (INIT, LOAD) if getattr(record.settings, option) is not None}
    counts = [len(record.settings.seeds)] * len(asked)
    if record.sources.keys() != asked or [len(one) for one in record.sources.values()] != counts:
        raise ValueError(f"sources {record.sources}")
    if not all(COUNT.holds(source.transitions) for source in record.sources.get(LOAD, [])):
        raise ValueError(f"sources {record.sources}")
    low, high, seconds = record.action_low, record.action_high, record.step_seconds
    if (
        not all(type(number) is float and math.isfinite(number) for number in (*low, *high, seconds or 1.0))
        or not len(low) == len(high) == record.action_dim
        or not all(a <= b for a, b in zip(low, high, strict=True))
        or not (seconds is None or seconds > 0)
    ):
        raise ValueError(f"actions from {low} to {high} every {seconds} s")
    if not all(type(one["from_frame"]) is int for one in record.stretches):
        raise ValueError("a stretch that begins at no frame")
    how = record.stretches[-1]
    known = all(how[key] in values for key, values in CHOICES.items())
    flags = all(type(how[key]) is bool for key in ("compiled", "reproducible"))
    facts = isinstance(how["commit"], str | None) and isinstance(how["versions"], dict)
    facts = facts and isinstance(how["machine"], dict)
    if not (known and flags and facts and type(how["threads"]) is int and THREADS.holds(how["threads"])):
        raise ValueError(f"machine {how}")


def check_spaces(record: Record, made: Mapping[str, Sequence[Any]]) -> None:
    """InputError if the environment of this name takes or gives something else than when the run was made.

    A policy's actions in [-1, 1] would stand for others, and parts of an observation for others.
    """
    for name, now in made.items():
        here, there = json.dumps(now), json.dumps(getattr(record, name))
        if here != there:
            raise InputError(
                f"{record.settings.env} has {name} {here[:LONG]}, and the run was made with {there[:LONG]}; give the "
                f"environment as it was"
            )


def check_seed(record: Record, seed: int) -> None:
    """InputError if a run has no such seed."""
    if seed not in record.settings.seeds:
        raise InputError(f"--seed is {seed}; this run has {' '.join(map(str, record.settings.seeds))}")


def check_trust(record: Record, *, trust: bool) -> None:
    """InputError if making the environment would run code that nobody but the run folder asks for.

    A class or function that the folder chooses, or arguments that it chooses, can do anything, also where the module is
    imported already; an id that is registered cannot.
    """
    settings = record.settings
    code, name = parse_env(settings.env)
    if trust or settings.env_object:  # the latter is not made from its name
        return
    registered = code in sys.modules and name in getattr(sys.modules.get("gymnasium"), "registry", ())
    if code and not registered:
        raise InputError(
            f"the run's environment {settings.env} runs the Python code of {code!r}; if you trust it, add --trust",
            add="--trust",
        )
    if settings.env_kwargs:
        raise InputError(
            f"the run's environment {settings.env} is made with the arguments {short(settings.env_kwargs)}; if you "
            f"trust them, add --trust",
            add="--trust",
        )
