"""What one run is asked to do: the options of `steadyq train`, checked, and completed by the recipe's protocol.

Imports neither torch nor an environment, so the command line can show its help at once.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from itertools import islice
from math import floor
from os import PathLike
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from steadyq.algorithm.ranges import AT_LEAST_0, BELOW_1, COUNT, UP_TO_1, Range, from_, read
from steadyq.errors import InputError, unknown

if TYPE_CHECKING:
    from steadyq.algorithm.agent import Protocol

MOST_THREADS = 4096
MOST_SEEDS = 1_000  # each has an environment and a replay of its own
MOST_UTD = 10_000  # the updates of one agent step are drawn at once
LONGEST_WAIT = 1e6  # seconds; no system call waits for much longer
CHECK_TIMEOUT = 60.0  # seconds within which an environment is to answer `steadyq check-env`
LONGEST_PATH = 4096
LONGEST_NAME = 255  # bytes: of a folder, on most file systems

MINUTES = "min"
PERIOD = r"(?=.*[1-9])\d{1,6}(\.\d{1,3})?" + MINUTES


def frames_or_minutes(text: str) -> int | str:
    """How often to save, as it is written on the command line; `check` refuses what is neither."""
    return read(text, int)


def is_period(every: Any) -> bool:
    """Whether it says how often to save."""
    return every >= 1 if type(every) is int else isinstance(every, str) and re.fullmatch(PERIOD, every) is not None


EPISODES = from_(1, most=100_000)
UTD = Range(f"a number above 0, at most {MOST_UTD:,}", lambda x: 0 < x <= MOST_UTD)
WAIT = Range(f"a number from 0 to {LONGEST_WAIT:,.0f}", lambda x: 0 <= x <= LONGEST_WAIT)
THREADS = Range(f"a whole number from 1 to {MOST_THREADS}", lambda x: 1 <= x <= MOST_THREADS)
PLACE = Range("a path", lambda x: isinstance(x, str) and 0 < len(x) <= LONGEST_PATH and x.isprintable())
FRAMES_OR_MINUTES = Range("frames, a whole number of at least 1, or minutes such as 15min", is_period)


def json_object(text: str) -> Any:
    """An object of JSON as it is written on the command line; `check` refuses what is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def are_arguments(values: Any) -> bool:
    """Whether they are named arguments that run.json can hold as they are."""
    try:
        same = json.loads(json.dumps(values, allow_nan=False)) == values
    except (ValueError, TypeError, RecursionError):
        return False
    return same and isinstance(values, dict) and all(key.isidentifier() for key in values)


TRACKERS = r"wandb(:([\w.-]{1,128}/)?[\w. -]{1,128})?"
TRACK = Range(
    "wandb, wandb:PROJECT or wandb:ENTITY/PROJECT",
    lambda x: isinstance(x, str) and re.fullmatch(TRACKERS, x, re.ASCII) is not None,
)
ARGUMENTS = Range('a JSON object such as {"gain": 2}', are_arguments)
TRUE_OR_FALSE = Range("True or False", lambda x: type(x) is bool)

ENV_NAME = (
    r"(?:(?P<file>[^:,\"\\]+\.py):|(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):)?"
    r"(?P<id>[\w.-]+(?:/[\w.-]+)?)"
)
"""A file or dotted identifiers, with a colon, if code of one's own is to be run; and an id of Gymnasium's, which may
have one slash, or the name of a class or function in that code. Commas and quotes would break rows of metrics.csv."""


class EnvName(NamedTuple):
    """An environment's name in its parts."""

    code: str  # what is run for it: a module by its dotted name, or a file, which ends in .py; empty for nothing
    id: str  # of what the code registers or defines; without code, of what is known anyway


def parse_env(name: Any) -> EnvName:
    """The parts of `Name-v0`, `module:Name-v0`, `module:Class` or `path.py:Class`.

    This is the one place that takes such a name apart, for whoever trusts it.

    Raises:
        InputError: it is no such name.
    """
    printable = isinstance(name, str) and name.isprintable() and len(name) <= LONGEST_PATH
    found = re.fullmatch(ENV_NAME, name) if printable else None
    if found is None or len(found["id"]) > LONGEST_NAME or len(found["module"] or "") > LONGEST_NAME:
        raise InputError(
            f"the environment {short(name)} is not of the form Name-v0, module:Name-v0, module:Class or path.py:Class; "
            f"give one of these"
        )
    return EnvName(found["file"] or found["module"] or "", found["id"])


Resumable = Literal["freely", "inexactly"]
"""How a resumed run may have another value: bits stay the same all the same, or may differ from there on."""


class Setting(NamedTuple):
    """All that is known of one setting; a default of None is completed later, by the protocol or the machine."""

    default: Any
    help: str
    range: Range | None
    read: Callable[[str], Any]  # what makes a value of the command line's text
    choices: tuple[str, ...]  # () for any
    resumable: Resumable | None  # None: another value makes another run


def option(
    default: Any,
    help: str,
    range: Range | None = None,
    *,
    read: Callable[[str], Any] = int,
    choices: tuple[str, ...] = (),
    resumable: Resumable | None = None,
) -> Any:
    """A field that is an option of `steadyq train`, and of `steadyq resume` where it is resumable."""
    setting = Setting(default, help, range, str if choices else read, choices, resumable)
    return field(default=default, metadata={"setting": setting})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run, whole. All frames are environment frames: control steps of the simulator, action repeat counted."""

    recipe: str
    env: str
    env_object: str | None = None  # what it was, in words, if it was given as an object of Python
    options: Mapping[str, Any] = field(default_factory=dict)  # of the recipe, all of them once completed
    frames: int = option(1_000_000, "length of the run", COUNT, resumable="freely")
    utd: Fraction | None = option(
        None, "critic updates per agent step; may be a fraction such as 0.5 or 1/3 [the recipe's]", UTD, read=str
    )
    seeds: tuple[int, ...] = option((0,), "one independent agent each, trained side by side")
    name: str | None = option(
        None, "name of the experiment [recipe, UTD and the options that are not the defaults]", read=str
    )
    out: str | None = option(None, "run folder [runs/ENV/NAME/seeds-...]", read=str)
    action_repeat: int | None = option(
        None, "frames per agent step [the recipe's on DeepMind Control, 1 elsewhere]", COUNT
    )
    env_kwargs: Mapping[str, Any] | None = option(
        None,
        "arguments of the environment's constructor, as JSON such as '{\"gain\": 2}' [none]",
        ARGUMENTS,
        read=json_object,
    )
    single_env: bool = option(
        False,
        "make one environment, once, for training and for evaluations at the ends of episodes: for a robot "
        "(docs/environments.md)",
        TRUE_OR_FALSE,
        read=bool,
    )
    max_episode_steps: int | None = option(
        None, "frames after which an episode is cut off [the environment's own time limit]", COUNT
    )
    gamma: float | None = option(
        None, "discount per agent step [the recipe's, or by the length of an episode]", UP_TO_1, read=float
    )
    batch_size: int | None = option(None, "transitions per update [the recipe's]", COUNT)
    learning_starts: int | None = option(
        None, "agent steps of random actions before the first update [the recipe's]", COUNT
    )
    buffer_size: int | None = option(None, "transitions kept for replay [the recipe's]", COUNT)
    init_from: str | None = option(
        None,
        "run whose newest weights, statistics and normalisers to start from, with fresh optimisers [none]",
        PLACE,
        read=str,
    )
    load_replay: str | None = option(
        None, "run or safetensors file whose transitions to start with (docs/start-from.md) [none]", PLACE, read=str
    )
    prior_share: float = option(
        0.0, "share of each batch drawn from these, kept apart; 0 puts them into the replay", BELOW_1, read=float
    )
    precision: str = option(
        "auto",
        "of hidden matrix products; auto is float32",
        choices=("auto", "float32", "bfloat16"),
        resumable="inexactly",
    )
    compile: str = option(
        "auto",
        "compile the updates; auto: where a C++ compiler works",
        choices=("auto", "on", "off"),
        resumable="inexactly",
    )
    device: str = option(
        "auto",
        "where the networks live; auto takes a GPU if there is one",
        choices=("auto", "cpu", "cuda"),
        resumable="inexactly",
    )
    threads: int | None = option(None, "threads of a CPU update [all cores]", THREADS, resumable="inexactly")
    eval_every: int = option(
        25_000,
        "frames between evaluations, the first at frame 0; the end is evaluated as well; 0 for none. With --single-env "
        "each waits for the end of an episode, and the end is evaluated only if one is due",
        AT_LEAST_0,
    )
    eval_episodes: int = option(5, "episodes per evaluation, with the mean action", EPISODES)
    diagnose_every: int = option(
        0, "frames between diagnoses (docs/diagnostics.md), the first at frame 0; 0 for none", AT_LEAST_0
    )
    log_every: int = option(5_000, "frames between log records", COUNT)
    save_every: int | str = option(
        10_000,
        "between checkpoints: frames, or minutes such as 15min",
        FRAMES_OR_MINUTES,
        read=frames_or_minutes,
        resumable="freely",
    )
    keep: int = option(
        2, "newest checkpoints that stay, next to the one of the best evaluation", COUNT, resumable="freely"
    )
    on_bad_step: str = option(
        "raise",
        "when the environment gives NaN or Inf: stop the run, or end that episode",
        choices=("raise", "end-episode"),
        resumable="freely",
    )
    env_timeout: float = option(
        0.0,
        "seconds after which an environment that does not answer is replaced; 0 for never",
        WAIT,
        read=float,
        resumable="freely",
    )
    track: str | None = option(
        None,
        "send what is measured to Weights & Biases: wandb, wandb:PROJECT or wandb:ENTITY/PROJECT (docs/track.md) [no]",
        TRACK,
        read=str,
        resumable="freely",
    )

    @property
    def agent_steps(self) -> int:
        """Length of the run in decisions."""
        return self.frames // self.resolved("action_repeat")

    def capacity(self, loaded: int = 0) -> int:
        """Transitions that a seed's replay has room for, where so many are loaded into it at the start."""
        return min(self.resolved("buffer_size"), self.agent_steps + loaded)

    @property
    def prior_rows(self) -> int:
        """Transitions of each batch that are drawn from those kept apart."""
        return round(self.prior_share * self.resolved("batch_size"))

    def updates(self, step: int) -> int:
        """Critic updates due before agent step `step`: exact for any fractional UTD."""
        return updates_by(step, utd=self.resolved("utd"), learning_starts=self.resolved("learning_starts"))

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
        code, name = parse_env(self.env)
        stem = Path(code).stem if code.endswith(".py") else code
        env = f"{stem}-{name}" if code else name
        return Path("runs", env.replace("/", "-"), self.resolved("name"), seeds_folder(self.seeds))

    def to_json(self) -> dict[str, Any]:
        """Plain values for run.json; the folder is where the file lies, so it is left out."""
        values = asdict(self) | {"utd": str(self.utd), "options": dict(self.options), "seeds": list(self.seeds)}
        del values["out"]
        return values


def seeds_folder(seeds: Iterable[int]) -> str:
    """How a run's folder is called in that of its experiment."""
    return "seeds-" + "-".join(map(str, seeds))


SETTINGS: dict[str, Setting] = {f.name: f.metadata["setting"] for f in fields(Settings) if f.metadata}
"""Every setting that is an option, by name."""


def resumable(how: Resumable) -> tuple[str, ...]:
    """The settings that a resumed run may change so."""
    return tuple(name for name, setting in SETTINGS.items() if setting.resumable == how)


def from_json(values: Mapping[str, Any], *, out: str) -> Settings:
    """The settings of run.json.

    Raises:
        InputError: fields that this version does not know, or that are missing.
    """
    known = {f.name for f in fields(Settings)} - {"out"}
    if values.keys() != known:
        odd = ", ".join(sorted(values.keys() ^ known))
        raise InputError(f"run.json in {out} has other settings than this version of steadyq: {odd}")
    return Settings(**{**values, "utd": fraction(values["utd"]), "seeds": tuple(values["seeds"])}, out=out)


def updates_by(step: int, *, utd: Fraction, learning_starts: int) -> int:
    """Critic updates due before an agent step: exact for any fraction."""
    return floor(max(step - learning_starts, 0) * utd)


NAME_MAX = 255  # bytes of a folder's name on nearly all file systems
DIGITS = 19  # of a fraction's numerator and denominator, so that what is read is no longer than what was written


def fraction(value: Any) -> Fraction:
    """An exact number from an int, a float as it is written, or text such as 1/3."""
    try:
        # Of 1e999999999 nobody sees the end.
        if not re.fullmatch(r"[+-]?([\d./]{1,40}|[\d.]{1,40}e[+-]?\d{1,2})", str(value)):
            raise ValueError
        found = Fraction(str(value))
        if found.denominator > 1 and max(len(str(found.numerator)), len(str(found.denominator))) > DIGITS:
            raise ValueError
        return found
    except (ValueError, ZeroDivisionError):
        raise InputError(f"--utd is {str(value)[:40]}; give a number such as 2, 0.5 or 1/3") from None


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
    repeats: bool,
) -> Settings:
    """Fill in what was left out: from the recipe's protocol and defaults, and the name from what differs from them.

    A discount by the length of an episode is left out: `discounted` fills it in, once there is an environment.

    Args:
        repeats: whether recipes repeat actions in the environment's suite.
    """
    defaults: dict[str, Any] = {
        "utd": Fraction(str(protocol.utd)),
        "action_repeat": protocol.action_repeat if repeats else 1,
        "gamma": protocol.gamma,
        "batch_size": protocol.batch_size,
        "learning_starts": protocol.learning_starts,
        "buffer_size": protocol.buffer_size,
    }
    given = {key: getattr(settings, key) for key in defaults if getattr(settings, key) is not None}
    changed = {key: value for key, value in settings.options.items() if value != option_defaults[key]}
    changed |= {key: value for key, value in given.items() if key != "utd" and value != defaults[key]}
    if settings.precision != "auto":
        changed["precision"] = settings.precision
    changed |= {key: "yes" for key in ("init_from", "load_replay") if getattr(settings, key) is not None}
    if settings.prior_share:
        changed["prior_share"] = settings.prior_share
    if settings.max_episode_steps is not None:
        changed["max_episode_steps"] = settings.max_episode_steps
    if isinstance(settings.env_kwargs, dict):
        changed |= {f"env.{key}": re.sub(r"[^\w.+-]+", "_", str(value)) for key, value in settings.env_kwargs.items()}
    utd = given.get("utd", defaults["utd"])
    name = settings.name or name_of(settings.recipe, utd, sorted(changed.items()))
    options = {**option_defaults, **settings.options}
    completed = replace(settings, **(defaults | given), options=options, name=name)
    if options.get("schedule_updates") == 0:  # fixed now: a longer run later must not change what was
        options["schedule_updates"] = completed.planned_updates
    return completed


def discounted(settings: Settings, episode_frames: int | None) -> Settings:
    """The settings with a discount by the length of an episode in frames, where none was given; None for no limit."""
    if settings.gamma is not None:
        return settings
    repeat = settings.resolved("action_repeat")
    return replace(settings, gamma=discount(None if episode_frames is None else -(-episode_frames // repeat)))


def name_of(recipe: str, utd: Fraction, changed: Iterable[tuple[str, Any]]) -> str:
    """The name of an experiment: its recipe, UTD and the options that are not the defaults."""
    return "-".join([recipe, f"utd{str(utd).replace('/', 'over')}", *(f"{key}={value}" for key, value in changed)])


def take(key: str, value: Any) -> Any:
    """The value of a setting as a run keeps it, from what a user gives: numbers may be text or of another type.

    Raises:
        InputError: it cannot work.
    """
    setting = SETTINGS[key]
    if key == "seeds":
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise InputError(f"--seeds is {value}; give a list: [3] is seed 3 alone, range(3) is seeds 0, 1 and 2")
        value = tuple(read(seed, int) for seed in islice(value, MOST_SEEDS + 1))
    elif key == "utd":
        value = None if value is None else fraction(value)
    elif setting.read in (int, float):
        value = read(value, setting.read)
    elif isinstance(value, PathLike):
        value = str(value)
    elif setting.range and isinstance(value, str) and setting.read is not bool:
        value = setting.read(value)
    check_value(key, value)
    return value


KINDS: dict[Any, tuple[type, ...]] = {int: (int,), float: (float, int)}
"""Of which types a number may be: exactly, True is none."""


def check(settings: Settings) -> None:
    """Refuse completed settings that cannot work, before anything starts."""
    s = settings
    parse_env(s.env)
    if not isinstance(s.env_object, str | None):
        raise InputError(f"env_object is {short(s.env_object)}; it is some text, or null")
    for key in SETTINGS:
        check_value(key, getattr(s, key))
    if s.env_object and s.env_kwargs:
        raise InputError(
            f"--env-kwargs goes with an environment's name, and this is {s.env_object}; give a function that makes one"
        )
    if s.env_kwargs and "max_episode_steps" in s.env_kwargs:
        raise InputError(
            "--env-kwargs has max_episode_steps, which is no argument of a constructor; give it as an option"
        )
    if s.single_env and len(s.seeds) > 1:
        raise InputError(f"--seeds are {' '.join(map(str, s.seeds))}, and there is a single environment; give one seed")
    if s.single_env and s.diagnose_every:
        raise InputError(
            f"--diagnose-every is {s.diagnose_every}, and a diagnosis takes another environment than the single one; "
            f"give 0"
        )
    if not s.out and len(seeds_folder(s.seeds)) > NAME_MAX:
        raise InputError(f"the {len(s.seeds)} seeds would make the run's folder a longer name than can be; give --out")
    repeat, batch = s.resolved("action_repeat"), s.resolved("batch_size")
    need(s.frames % repeat == 0, "frames", s.frames, f"a multiple of the action repeat, {repeat}")
    if s.load_replay is None or s.prior_share:  # else what is loaded counts too
        most = f"at most --learning-starts, {s.learning_starts}"
        need(batch <= s.resolved("learning_starts"), "batch_size", batch, most)
    if s.prior_share and s.load_replay is None:
        raise InputError(f"--prior-share is {s.prior_share}, of nothing; give --load-replay as well")
    if s.prior_share:
        both = f"one that leaves some of a batch of {batch} to both"
        need(0 < s.prior_rows < batch, "prior_share", s.prior_share, both)
    need(batch <= s.resolved("buffer_size"), "batch_size", batch, f"at most --buffer-size, {s.buffer_size}")
    name = s.resolved("name")
    need(isinstance(name, str), "name", name, "some text")
    if not name or name in (".", "..") or not name.isprintable() or any(c in name for c in '/\\",'):
        raise InputError(
            f"--name is {name!r}; give a name without slashes, quotes, commas, line breaks and other control characters"
        )
    if len(name.encode()) > LONGEST_NAME:
        raise InputError(f"--name has {len(name.encode())} bytes; give one of at most {LONGEST_NAME}")


def check_value(key: str, value: Any) -> None:
    """InputError if a setting cannot have this value, whatever the others are."""
    setting = SETTINGS[key]
    if key == "seeds":
        check_seeds(value)
    if setting.choices and value not in setting.choices:
        raise unknown(f"value of {flag(key)}", str(value), setting.choices)
    if setting.range and (value is not None or setting.default is not None):
        fits = type(value) in KINDS.get(setting.read, (type(value),)) and setting.range.holds(value)
        need(fits, key, value, setting.range.words)


def check_seeds(seeds: Sequence[int]) -> None:
    """Seeds are distinct whole numbers that fit 63 bits."""
    if len(seeds) > MOST_SEEDS:
        raise InputError(f"--seeds has more than {MOST_SEEDS:,} numbers; give the others in another run")
    if not seeds or len(set(seeds)) != len(seeds) or not all(type(s) is int and 0 <= s < 2**63 for s in seeds):
        raise InputError(
            f"--seeds is {' '.join(map(str, seeds))[:200] or 'empty'}; give distinct whole numbers from 0 up, "
            f"such as 0 1 2"
        )


def flag(key: str) -> str:
    """The command-line spelling of a field."""
    return "--" + key.replace("_", "-")


def need(holds: bool, key: str, value: Any, wanted: str) -> None:
    """InputError unless the condition holds, in one form of words."""
    if not holds:
        raise InputError(f"{flag(key)} is {value}; give {wanted}")
