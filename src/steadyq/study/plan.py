"""The runs of a study in the order in which they are made, as its folder keeps them in `study.json`."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steadyq.errors import InputError
from steadyq.settings import check_seeds, flag
from steadyq.store import disk
from steadyq.store.typed import from_json

FILE = "study.json"


class Planned(NamedTuple):
    """One run: what `steadyq train` is asked for, where it is kept, and what it is expected to need."""

    recipe: str
    env: str
    seeds: tuple[int, ...]
    choices: dict[str, Any]  # the other options that the study file names
    folder: str  # below the study's
    frames: int
    memory: int  # bytes
    disk: int  # bytes


def command(run: Planned, folder: Path, **more: Any) -> list[str]:
    """What follows `steadyq` to take this run on; `more` are options as well."""
    words = ["train", run.recipe, f"--env={run.env}", f"--out={folder / run.folder}", "--resume"]
    for key, value in {**run.choices, **more}.items():
        if isinstance(value, bool):
            words.append(flag(key) if value else "--no-" + flag(key).removeprefix("--"))
        else:
            words.append(f"{flag(key)}={value}")
    return [*words, "--seeds", *map(str, run.seeds)]


def write(folder: Path, runs: Sequence[Planned]) -> None:
    """Keep the plan in the study's folder, whole or not at all. Other commands may do so at the same moment.

    Raises:
        InputError: the folder cannot be made or written in.
    """
    path, data = folder / FILE, json.dumps([run._asdict() for run in runs]).encode() + b"\n"
    with contextlib.suppress(OSError, InputError):
        if disk.read(path) == data:
            return
    try:
        disk.write(path, data, shared=True)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); make room, or give another --out") from None


def read(folder: Path) -> list[Planned]:
    """The plan that `steadyq study run` left in a study's folder.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError(
            f"{folder} is not a study's folder: it has no {FILE}; give the --out of `steadyq study run`, which "
            f"writes it"
        )
    try:
        return [_planned(one) for one in json.loads(disk.read(path))]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); `steadyq study run` writes it again") from None


def _planned(one: Mapping[str, Any]) -> Planned:
    run = from_json(Planned, [one[name] for name in Planned._fields], "run")
    place = Path(run.folder)
    if place.is_absolute() or ".." in place.parts:
        raise ValueError(f"the run folder {run.folder} lies outside")
    check_seeds(run.seeds)
    return run
