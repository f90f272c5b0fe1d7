"""What one run is asked to do: the options of `steadyq train`, checked, and completed by the recipe's protocol.

Imports neither torch nor an environment, so the command line can show its help at once.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyq.errors import InputError, unknown

if TYPE_CHECKING:
    from steadyq.algorithm.agent import Protocol

CHOICES = {
    "precision": ("auto", "float32", "bfloat16"),
    "compile": ("auto", "on", "off"),
    "device": ("auto", "cpu", "cuda"),
    "on_bad_step": ("raise", "end-episode"),
}

LATER = {"diagnose_every": 0, "keep": 2, "on_bad_step": "raise", "env_timeout": 0.0}
"""Settings that runs of older versions did not have, as they were then."""


MOST_THREADS = 4096
LONGEST_NAME = 255  # bytes: of a folder, on most file systems

MINUTES = "min"
PERIOD = r"(?=.*[1-9])\d{1,6}(\.\d{1,3})?" + MINUTES


def option(default: Any, help: str) -> Any:
    """A field with its words for `--help`; a default of None is completed later, by the protocol or the machine."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run, whole. All frames are environment frames: control steps of the simulator, action repeat counted."""

    recipe: str
    env: str
    options: Mapping[str, Any] = field(default_factory=dict)  # of the recipe, all of them once completed
    frames: int = option(1_000_000, "length of the run")
    utd: Fraction | None = option(None, "critic updates per agent step; may be a fraction such as 0.5 or 1/3")
    seeds: tuple[int, ...] = option((0,), "one independent agent each, trained side by side")
    name: str | None = option(None, "name of the experiment [recipe, UTD and the options that are not the defaults]")
    out: str | None = option(None, "run folder [runs/ENV/NAME/seeds-...]")
    action_repeat: int | None = option(None, "frames per agent step [the recipe's on DeepMind Control, 1 elsewhere]")
    gamma: float | None = option(None, "discount per agent step [the recipe's, or by the length of an episode]")
    batch_size: int | None = option(None, "transitions per update")
    learning_starts: int | None = option(None, "agent steps of random actions before the first update")
    buffer_size: int | None = option(None, "transitions kept for replay")
    precision: str = option("auto", "of hidden matrix products; auto is float32")
    compile: str = option("auto", "compile the updates; auto: where a C++ compiler works")
    device: str = option("auto", "where the networks live; auto takes a GPU if there is one")
    threads: int | None = option(None, "threads of a CPU update [all cores]")
    eval_every: int = option(25_000, "frames between evaluations, the first at frame 0; 0 for none")
    eval_episodes: int = option(5, "episodes per evaluation, with the mean action")
    diagnose_every: int = option(0, "frames between diagnoses (docs/diagnostics.md), the first at frame 0; 0 for none")
    log_every: int = option(5_000, "frames between log records")
    save_every: int | str = option(10_000, "between checkpoints: frames, or minutes such as 15min")
    keep: int = option(2, "newest checkpoints that stay, besides the one of the best evaluation")
    on_bad_step: str = option("raise", "when the environment gives NaN or Inf: stop the run, or end that episode")
    env_timeout: float = option(0.0, "seconds after which an environment that does not answer is replaced; 0 for never")

    @property
    def agent_steps(self) -> int:
        """Length of the run in decisions."""
        return self.frames // self.resolved("action_repeat")

    def updates(self, step: int) -> int:
        """Critic updates due before agent step `step`: exact for any fractional UTD."""
        utd: Fraction = self.resolved("utd")
        return floor(max(step - self.resolved("learning_starts"), 0) * utd)

    def resolved(self, name: str) -> Any:
        """The value of a field that `complete` has filled."""
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"{name} is not resolved yet: call complete() first")
        return value

    @property
    def planned_updates(self) -> int:
        """Over how many updates a learning rate falls that is to fall over the whole run; 1 where there are none."""
        return max(1, self.updates(self.agent_steps))

    @property
    def save_frames(self) -> int | None:
        """Frames between checkpoints; None where minutes count."""
        return self.save_every if isinstance(self.save_every, int) else None

    @property
    def save_seconds(self) -> float | None:
        """Seconds between checkpoints; None where frames count."""
        return None if isinstance(self.save_every, int) else 60 * float(self.save_every.removesuffix(MINUTES))

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        if self.out:
            return Path(self.out)
        env = self.env.replace(":", "-").replace("/", "-")
        return Path("runs") / env / self.resolved("name") / ("seeds-" + "-".join(map(str, self.seeds)))

    def to_json(self) -> dict[str, Any]:
        """Plain values for run.json; the folder is where the file lies, so it is left out."""
        values = asdict(self) | {"utd": str(self.utd), "options": dict(self.options), "seeds": list(self.seeds)}
        del values["out"]
        return values


def frames_or_minutes(text: str) -> int | str:
    """How often to save, as it is written on the command line; `check` refuses what is neither."""
    return int(text) if text.isdecimal() else text


def from_json(values: Mapping[str, Any], *, out: str) -> Settings:
    """The settings of run.json.

    Raises:
        InputError: fields that this version does not know, or that are missing.
    """
    known = {f.name for f in fields(Settings)} - {"out"}
    values = {**LATER, **values}
    if values.keys() != known:
        odd = ", ".join(sorted(values.keys() ^ known))
        raise InputError(f"run.json in {out} has other settings than this version of steadyq: {odd}")
    return Settings(**{**values, "utd": Fraction(values["utd"]), "seeds": tuple(values["seeds"])}, out=out)


def discount(episode_steps: int | None) -> float:
    """The discount for episodes of so many agent steps, as in TD-MPC2, SimBa and XQC; None for no time limit.

    `1 - 5 / steps`, kept within [0.95, 0.995]: 0.99 for DeepMind Control with action repeat 2, 0.995 without.
    """
    return 0.995 if episode_steps is None else min(max(1 - 5 / episode_steps, 0.95), 0.995)


def complete(
    settings: Settings,
    protocol: "Protocol",
    option_defaults: Mapping[str, Any],
    *,
    suite: str,
    episode_frames: Callable[[], int | None],
) -> Settings:
    """Fill in what was left out: from the recipe's protocol and defaults, and the name from what differs from them.

    `episode_frames` tells the environment's time limit, and is asked where the discount depends on it.
    """
    repeat = protocol.action_repeat if suite == "dmc" else 1
    gamma = protocol.gamma
    if gamma is None and settings.gamma is None:
        limit = episode_frames()
        gamma = discount(None if limit is None else -(-limit // (settings.action_repeat or repeat)))
    defaults: dict[str, Any] = {
        "utd": Fraction(str(protocol.utd)),
        "action_repeat": repeat,
        "gamma": gamma,
        "batch_size": protocol.batch_size,
        "learning_starts": protocol.learning_starts,
        "buffer_size": protocol.buffer_size,
    }
    given = {key: getattr(settings, key) for key in defaults if getattr(settings, key) is not None}
    changed = {key: value for key, value in settings.options.items() if value != option_defaults[key]}
    changed |= {key: value for key, value in given.items() if key != "utd" and value != defaults[key]}
    if settings.precision != "auto":
        changed["precision"] = settings.precision
    utd = given.get("utd", defaults["utd"])
    name = settings.name or name_of(settings.recipe, utd, sorted(changed.items()))
    options = {**option_defaults, **settings.options}
    completed = replace(settings, **(defaults | given), options=options, name=name)
    if options.get("schedule_updates") == 0:  # fixed now: a longer run later must not change what was
        options["schedule_updates"] = completed.planned_updates
    return completed


def name_of(recipe: str, utd: Fraction, changed: Iterable[tuple[str, Any]]) -> str:
    """The name of an experiment: its recipe, UTD and the options that are not the defaults."""
    return "-".join([recipe, f"utd{str(utd).replace('/', 'over')}", *(f"{key}={value}" for key, value in changed)])


def check(settings: Settings) -> None:
    """Refuse completed settings that cannot work, before anything starts."""
    s = settings
    for key, known in CHOICES.items():
        if getattr(s, key) not in known:
            raise unknown(f"value of {flag(key)}", getattr(s, key), known)
    least = {
        "frames": 1,
        "action_repeat": 1,
        "batch_size": 1,
        "learning_starts": 1,
        "buffer_size": 1,
        "eval_every": 0,
        "eval_episodes": 1,
        "diagnose_every": 0,
        "log_every": 1,
        "keep": 1,
    } | ({"threads": 1} if s.threads is not None else {})
    for key, smallest in least.items():
        need(type(getattr(s, key)) is int and getattr(s, key) >= smallest, s, key, f"a whole number >= {smallest}")
    need(s.threads is None or s.threads <= MOST_THREADS, s, "threads", f"at most {MOST_THREADS}")
    every = s.save_every
    fine = every >= 1 if type(every) is int else isinstance(every, str) and re.fullmatch(PERIOD, every) is not None
    need(fine, s, "save_every", "frames, a whole number >= 1, or minutes such as 15min")
    need(0 <= s.env_timeout < math.inf, s, "env_timeout", "seconds, or 0 for none")
    need(s.resolved("utd") > 0, s, "utd", "a number above 0")
    need(0 <= s.resolved("gamma") <= 1, s, "gamma", "a number in [0, 1]")
    check_seeds(s.seeds)
    repeat, batch = s.resolved("action_repeat"), s.resolved("batch_size")
    need(s.frames % repeat == 0, s, "frames", f"a multiple of the action repeat, {repeat}")
    need(batch <= s.resolved("learning_starts"), s, "batch_size", f"at most --learning-starts, {s.learning_starts}")
    need(batch <= s.resolved("buffer_size"), s, "batch_size", f"at most --buffer-size, {s.buffer_size}")
    name = s.resolved("name")
    if len(name.encode()) > LONGEST_NAME:
        raise InputError(f"--name has {len(name.encode())} bytes; give one of at most {LONGEST_NAME}")
    if not name or name in (".", "..") or any(c in name for c in '/\\\n\r",'):
        raise InputError(f"--name is {name!r}; give a name without slashes, quotes, commas or line breaks")


def check_seeds(seeds: Sequence[int]) -> None:
    """Seeds are distinct whole numbers that fit 63 bits."""
    if not seeds or len(set(seeds)) != len(seeds) or not all(type(s) is int and 0 <= s < 2**63 for s in seeds):
        raise InputError(f"--seeds is {' '.join(map(str, seeds)) or 'empty'}; give distinct whole numbers from 0 up")


def flag(key: str) -> str:
    """The command-line spelling of a field."""
    return "--" + key.replace("_", "-")


def need(holds: bool, settings: Settings, key: str, wanted: str) -> None:
    """InputError unless the condition holds, in one form of words."""
    if not holds:
        raise InputError(f"{flag(key)} is {getattr(settings, key)}; give {wanted}")
