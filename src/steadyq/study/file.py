"""A study file, TOML, into runs: lists multiplied, names of sets filled in, and every fault with its line.

order = ["seeds"]               # which loops are the outermost; without it, the file's own order
[defaults]                      # options of every run, as on the command line
frames = 100_000
[[runs]]                        # lists multiply; seeds make one run each, unless seeds-together = true
recipe = ["crossq_wn", "sac"]
env = ["dmc15", "HalfCheetah-v5"]
seeds = [0, 1, 2]
utd = [1, 2, 10]
width = 512                     # any option of `steadyq train RECIPE`
"""

import functools
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from steadyq.algorithm.actor_critic import size
from steadyq.algorithm.options import make_recipe
from steadyq.envs import suites
from steadyq.errors import InputError, unknown
from steadyq.run.choices import settings_of
from steadyq.run.conditions import check_threads, choose_machine
from steadyq.settings import Settings, check_seeds, flag, seeds_folder
from steadyq.store import disk, start
from steadyq.store.disk import FileError
from steadyq.store.replay import Replay
from steadyq.study.plan import Planned


class Sizes(NamedTuple):
    """What of an environment decides how much memory a run needs."""

    obs_dim: int
    action_dim: int


SizesOf = dict[tuple[str, str], Sizes | str]
"""By an environment's name and its arguments as text: its sizes, or why it cannot be made, in a sentence."""


DOG_HUMANOID = {
    **dict.fromkeys(("dog-stand", "dog-walk", "dog-trot", "dog-run"), Sizes(223, 38)),
    **dict.fromkeys(("humanoid-stand", "humanoid-walk", "humanoid-run"), Sizes(67, 21)),
}
SETS: dict[str, dict[str, Sizes]] = {
    "dmc15": {
        **DOG_HUMANOID,
        "cheetah-run": Sizes(17, 6),
        "finger-turn_hard": Sizes(12, 2),
        "fish-swim": Sizes(24, 5),
        "hopper-hop": Sizes(15, 4),
        "hopper-stand": Sizes(15, 4),
        "pendulum-swingup": Sizes(3, 1),
        "quadruped-run": Sizes(78, 12),
        "walker-run": Sizes(24, 6),
    },
    "dog_humanoid": DOG_HUMANOID,
    "mujoco": {
        "Ant-v5": Sizes(105, 8),
        "HalfCheetah-v5": Sizes(17, 6),
        "Hopper-v5": Sizes(11, 3),
        "Humanoid-v5": Sizes(348, 17),
        "Walker2d-v5": Sizes(17, 6),
    },
}
"""Environments by the name of a set; `dmc15` is the paper's. With their sizes: to make all of them takes 600 MB."""

WITHOUT_REPLAY = 1_100_000_000
"""Bytes of a run before it has stored anything, at most: `crossq_wn` on walker-run with the compiler's processes."""

COPIES = 4
"""What a checkpoint keeps of each learned number: itself, two moments, and a target of most."""

MOST_RUNS = 1_000_000
"""A study of more is a mistake: a list multiplied with one too many."""


class FaultError(Exception):
    """One thing that is wrong, and on which line."""

    def __init__(self, line: int, words: str) -> None:
        super().__init__(f"line {line}: {words}")


class Lines(NamedTuple):
    """Where the tables of a file and their keys are, which tomllib does not tell."""

    tables: Mapping[str, int]  # "", "defaults", "runs 0", ...
    keys: Mapping[tuple[str, str], int]  # table and key

    def of(self, table: str, key: str = "") -> int:
        """The line of a key: in its table, among the defaults, or else that of the table."""
        found = self.keys.get((table, key)) or self.keys.get(("defaults", key))
        return found or self.tables.get(table) or self.keys.get(("", table.partition(" ")[0])) or 1


def read(path: Path, *, here: Callable[[Planned], bool] = lambda run: True) -> list[Planned]:
    """The runs that a study file asks for, in the order in which they are made; a run asked for twice is made once.

    Args:
        path: of the file.
        here: whether a run is to be made on this machine, which then must have what it asks for, such as a GPU.

    Raises:
        InputError: it cannot be read, or `steadyq train` would refuse some of it. Every fault is named with its line.
    """
    try:
        text = disk.read(Path(os.path.realpath(path))).decode()
        content = tomllib.loads(text)
    except (FileError, OSError) as error:
        raise InputError(f"{error}; give a study file, see docs/study.md") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    lines, faults, found = find_lines(text), list[str](), list[Asked]()
    try:
        order, defaults, tables = _parts(content, lines)
    except FaultError as fault:
        raise InputError(f"{path}, {fault}") from None
    sizes: SizesOf = {(task, ""): found for tasks in SETS.values() for task, found in tasks.items()}
    loaded = functools.cache(start.most_transitions)  # of each place once
    for number, table in enumerate(tables):
        name = f"runs {number}"
        try:
            for choices, seeds in _combinations({**defaults, **table}, lines, name):
                try:
                    settings = _settings(choices, seeds[0], sizes)
                    first, place = _planned(settings, choices, sizes, loaded), settings.folder.parent
                    runs = [
                        first._replace(seeds=several, folder=os.path.join(place, seeds_folder(several)))
                        for several in seeds
                    ]
                    _check_machine(settings, runs, here)
                except InputError as error:
                    faults.append(str(FaultError(lines.of(name, _named_in(str(error), choices)), str(error))))
                    continue
                found += [Asked(run, settings, choices, lines.of(name)) for run in runs]
                if len(found) > MOST_RUNS:
                    raise FaultError(lines.of(name), f"more than {MOST_RUNS:,} runs; multiply fewer lists")
        except FaultError as fault:
            faults.append(str(fault))
    asked: dict[str, Asked] = {}
    for one in _sorted(found, order):
        other = asked.setdefault(one.run.folder, one)
        if other.settings is not one.settings and (odd := _unlike(other.settings, one.settings)):
            words = f"line {other.line} asks for the same run, {one.run.folder}, with another {', '.join(odd)}"
            faults.append(str(FaultError(one.line, f"{words}; give one of them a `name`")))
    if faults:
        raise InputError(f"{path}, {'; '.join(dict.fromkeys(faults))}")
    return [one.run for one in asked.values()]


class Asked(NamedTuple):
    """One run as the file asks for it."""

    run: Planned
    settings: Settings  # of the first of the runs that differ in nothing but their seeds
    choices: dict[str, Any]  # what it names, seeds and environments apart
    line: int


def find_lines(text: str) -> Lines:
    """Where the tables of a TOML file and their keys begin."""
    tables, keys, table, count = dict[str, int](), dict[tuple[str, str], int](), "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*(\[\[?)\s*([\w-]+)\s*\]", line):
            table = header[2]
            if header[1] == "[[":
                table, count = f"{table} {count}", count + 1
            tables.setdefault(table, number)
        elif assigned := re.match(r"\s*([\w-]+)\s*=", line):
            keys.setdefault((table, _plain(assigned[1])), number)
    return Lines(tables, keys)


def _plain(key: str) -> str:
    """A key as Python spells it; in the file it may be spelled as on the command line."""
    return key.replace("-", "_")


def _parts(content: Mapping[str, Any], lines: Lines) -> tuple[list[str], dict[str, Any], list[dict[str, Any]]]:
    """The order, the defaults and the tables of runs."""
    known = ("order", "defaults", "runs")
    for key in content:
        if key not in known:
            words = "; options of runs belong under [defaults] or [[runs]]"
            raise FaultError(
                lines.of(_plain(key), _plain(key)), f"{unknown('part of a study file', key, known)}{words}"
            )
    defaults, tables, order = content.get("defaults", {}), content.get("runs"), content.get("order", [])
    if not isinstance(defaults, dict):
        raise FaultError(lines.of("", "defaults"), "defaults is not a table; write [defaults] and its options below")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise FaultError(lines.of("runs"), "there are no runs; write [[runs]], and a recipe, an env and seeds below")
    if not isinstance(order, list) or not all(isinstance(key, str) for key in order):
        raise FaultError(lines.of("", "order"), f'order is {order!r}; give a list of options such as ["seeds", "env"]')
    tables = [_entry(table, lines, f"runs {number}") for number, table in enumerate(tables)]
    defaults = _entry(defaults, lines, "defaults")
    used = {key for table in (defaults, *tables) for key in table}
    for key in order:
        if _plain(key) not in used:
            raise FaultError(lines.of("", "order"), str(unknown("option to order by", key, used)))
    return [_plain(key) for key in order], defaults, tables


def _entry(table: Mapping[str, Any], lines: Lines, name: str) -> dict[str, Any]:
    """A table with its keys in one spelling."""
    plain = {_plain(key): value for key, value in table.items()}
    if len(plain) < len(table):
        twice = next(key for key in plain if len([other for other in table if _plain(other) == key]) > 1)
        raise FaultError(lines.of(name, twice), f"{twice} is there twice, in two spellings; leave one")
    return plain


def _combinations(
    entry: dict[str, Any], lines: Lines, name: str
) -> Iterator[tuple[dict[str, Any], list[tuple[int, ...]]]]:
    """Every combination of an entry's lists, the last key going round fastest, each with its sets of seeds."""
    together = entry.pop("seeds_together", False)
    if not isinstance(together, bool):
        raise FaultError(lines.of(name, "seeds_together"), f"seeds-together is {together!r}; give true or false")
    if "out" in entry:
        raise FaultError(
            lines.of(name, "out"), "out is not for a study: a run's folder follows from what it is; leave it out"
        )
    for key in ("recipe", "env"):
        if key not in entry:
            raise FaultError(lines.of(name), f"there is no {key}; give one, or a list")
    values = {key: value if isinstance(value, list) else [value] for key, value in entry.items()}
    values["env"] = [
        one for env in values["env"] for one in (SETS.get(env, (env,)) if isinstance(env, str) else (env,))
    ]
    for key, several in values.items():
        if not several:
            raise FaultError(lines.of(name, key), f"{key} is an empty list; give at least one")
        if not all(isinstance(one, str | int | float) for one in several):
            raise FaultError(
                lines.of(name, key), f"{key} is {several!r}; give text, numbers, true or false, or a list of them"
            )
    for key in ("recipe", "env"):
        if odd := [one for one in values[key] if not isinstance(one, str)]:
            raise FaultError(lines.of(name, key), f"{key} is {odd[0]!r}; give a name")
    seeds = values.pop("seeds", [0])
    try:
        check_seeds(seeds)
    except InputError as error:
        raise FaultError(lines.of(name, "seeds"), str(error)) from None
    sets: list[tuple[int, ...]] = [tuple(seeds)] if together else [(seed,) for seed in seeds]
    for combination in product(*(dict.fromkeys(several) for several in values.values())):
        yield dict(zip(values, combination, strict=True)), sets


def _settings(choices: dict[str, Any], seeds: tuple[int, ...], sizes: SizesOf) -> Settings:
    """What `steadyq train` would make of it; InputError where it would refuse."""
    named = {key: value for key, value in choices.items() if key not in ("recipe", "env")}
    settings = settings_of(choices["recipe"], env=choices["env"], choices={**named, "seeds": seeds})
    made = _made_of(settings)
    if made not in sizes:
        sizes[made] = sizes_of(settings.env, settings.env_kwargs)
    found = sizes[made]
    if isinstance(found, str):
        raise InputError(found)
    try:
        learned_by(settings, found)
    except RuntimeError:  # of so many numbers that torch cannot count them
        raise InputError("networks of these sizes cannot be made; give a smaller --width") from None
    return settings


def _check_machine(settings: Settings, runs: Sequence[Planned], here: Callable[[Planned], bool]) -> None:
    """InputError if one of these runs is to be made here, where there is not what its settings ask for."""
    special = settings.device == "cuda" or settings.compile == "on"
    if (special or settings.threads) and any(map(here, runs)):
        check_threads(settings.threads)
        if special:
            choose_machine(settings)


def _made_of(settings: Settings) -> tuple[str, str]:
    """What an environment is made of: its name, and its arguments as text."""
    return settings.env, json.dumps(dict(settings.env_kwargs), sort_keys=True) if settings.env_kwargs else ""


def sizes_of(env: str, kwargs: Mapping[str, Any] | None = None) -> Sizes | str:
    """The sizes of an environment, which is made for that; or why it cannot be made, in a sentence."""
    try:
        with closing(suites.make(env, kwargs=kwargs)) as made:
            return Sizes(made.spec.obs_dim, made.spec.action_dim)
    except InputError as error:
        return str(error)
    except Exception as error:  # of anyone's environment
        return f"{env} cannot be made ({type(error).__name__}: {error}); fix the environment"


def _named_in(complaint: str, choices: Mapping[str, Any]) -> str:
    """Which of the options a complaint is about, as far as one can see: the first that it names, or quotes."""
    places: dict[str, int] = {}
    for key, value in choices.items():
        names = [rf"{flag(key)}\b", f"'{key}'", f"^{key} is"]
        if isinstance(value, str):
            names.append(re.escape(repr(value)))
        if found := re.search("|".join(names), complaint):
            places[key] = found.start()
    return min(places, key=places.__getitem__, default="env" if choices["env"] in complaint else "")


def _sorted(found: list[Asked], order: list[str]) -> list[Asked]:
    """The runs by the options to order by, the first of them slowest; values count in the file's order."""
    first: dict[tuple[str, Any], int] = {}

    def rank(one: Asked, key: str) -> int:
        value = one.run.seeds if key == "seeds" else one.choices.get(key)
        return first.setdefault((key, value), len(first))

    ranks = [[rank(one, key) for key in order] for one in found]
    return [found[i] for i in sorted(range(len(found)), key=ranks.__getitem__)]


def _unlike(one: Settings, other: Settings) -> list[str]:
    """In what two runs differ, apart from their seeds."""
    mine, others = one.to_json(), other.to_json()
    return [key for key in mine if key != "seeds" and mine[key] != others[key]]


def _planned(settings: Settings, choices: dict[str, Any], sizes: SizesOf, loaded: Callable[[Path], int]) -> Planned:
    """A run with what it is expected to need of memory and disk."""
    found = sizes[_made_of(settings)]
    assert isinstance(found, Sizes)
    seeds = len(settings.seeds)
    more = loaded(Path(settings.load_replay)) if settings.load_replay else 0
    # A replay of its own for what is kept apart is as large as one that has it all, but for its bounds.
    transitions = settings.capacity() + more if settings.prior_share else settings.capacity(more)
    replay = Replay.bytes_needed(transitions, found.obs_dim, found.action_dim)
    learned = 4 * learned_by(settings, found)
    snapshots = ceil(settings.frames / settings.eval_every) + 1 if settings.eval_every else 0
    return Planned(
        recipe=settings.recipe,
        env=settings.env,
        seeds=settings.seeds,
        choices={key: value for key, value in choices.items() if key not in ("recipe", "env")},
        folder=str(settings.folder),
        frames=settings.frames,
        memory=WITHOUT_REPLAY + seeds * (replay + COPIES * learned),
        disk=seeds * (replay + (settings.keep + 1) * COPIES * learned + snapshots * learned),
    )


def learned_by(settings: Settings, sizes: Sizes) -> int:
    """How many numbers a run learns per seed."""
    return _learned(settings.recipe, json.dumps(dict(settings.options), sort_keys=True), sizes)


@functools.cache
def _learned(recipe: str, options: str, sizes: Sizes) -> int:
    """How many numbers a recipe learns on observations and actions of these sizes."""
    return size(make_recipe(recipe, json.loads(options)), obs_dim=sizes.obs_dim, action_dim=sizes.action_dim)
