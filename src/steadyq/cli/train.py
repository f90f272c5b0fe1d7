"""`steadyq train` and `steadyq resume`: their options, and the closing lines of a run."""

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyq.cli.parser import DONE, STOPPED, Parser, add_trust, parse
from steadyq.errors import InputError
from steadyq.output import say
from steadyq.settings import SETTINGS, Setting, flag

if TYPE_CHECKING:
    from steadyq.algorithm.options import Option
    from steadyq.run.go import Result

NEXT = "making the environment, and looking at what this machine can do"
"""What comes before the first line of a run, and may take seconds: of a robot more."""


def train(parser: Parser, arguments: list[str]) -> int:
    """`steadyq train RECIPE --env ENV ...`."""
    parser.usage, parser.allow_abbrev = "steadyq train RECIPE --env ENV [options]", False
    protocol: dict[str, Any] = {}
    parser.add_argument("recipe", metavar="RECIPE", help="e.g. crossq_wn; `steadyq list recipes` shows all")
    parser.add_argument(
        "--env",
        required=True,
        help="DeepMind Control task or Gymnasium id, see `steadyq list envs`; or one of your own, see "
        "docs/environments.md: module:Name-v0, module:Class or path.py:Class",
    )
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--overwrite", action="store_true", help="delete the run that is already in the folder")
    whose.add_argument("--resume", action="store_true", help="resume the run that is already there, if it is this one")
    add_limits(parser)
    if arguments and not arguments[0].startswith("-"):
        with loading() as tell:
            from steadyq.algorithm.options import make_recipe, options, summary

        known = options(arguments[0])
        protocol = vars(make_recipe(arguments[0], {}).protocol)
        parser.prog = f"steadyq train {arguments[0]}"
        parser.description = summary(arguments[0])
        group = parser.add_argument_group(f"options of {arguments[0]}")
        for option in known.values():
            add_option(group, option)
    elif arguments and not {"-h", "--help"} & {*arguments}:
        raise InputError(f"the recipe comes first, before {arguments[0]}: {parser.usage}")
    else:
        parser.epilog = "steadyq train RECIPE --help shows the options of that recipe too"
    for name, setting in SETTINGS.items():
        add_setting(parser, name, setting._replace(help=with_default(setting.help, protocol.get(name))))
    values = vars(parse(parser, arguments, recipe=next(iter(arguments), None)))

    tell(NEXT)
    from steadyq.run.train import train

    return conclude(train(values.pop("recipe"), **values))


@contextmanager
def loading() -> Iterator[Callable[[str], None]]:
    """Tell whoever waits that PyTorch is being imported, which takes seconds; nothing if it is there.

    Gives what tells them of the next thing that they wait for, on a line of its own.
    """
    if "torch" in sys.modules:
        yield lambda text: None
        return
    from steadyq.progress import shown

    with shown(every=0) as show:
        show("loading PyTorch")
        yield partial(say, stream=sys.stderr)


def add_setting(parser: Parser, name: str, setting: Setting) -> None:
    """An option of every run; `train` and `resume` read its numbers, from text too."""
    default, words = setting.default, setting.help
    if name == "seeds":
        parser.add_argument("--seeds", nargs="+", default=list(default), help=f"{words} [0]")
        return
    text = words if "[" in words else f"{words} [{default}]"
    if setting.read is bool:
        parser.add_argument(flag(name), action=argparse.BooleanOptionalAction, default=default, help=text)
        return
    parser.add_argument(
        flag(name),
        type=str if setting.read in (int, float) else setting.read,
        choices=setting.choices or None,
        default=default,
        help=text,
        metavar="|".join(setting.choices) or name.rpartition("_")[2].upper(),
    )


def with_default(words: str, value: Any) -> str:
    """The words of a setting with the recipe's own number, where the recipe is known and has one."""
    return words if value is None else re.sub(r"the recipe's(, or [^\]]*)?", str(value).removesuffix(".0"), words)


def add_option(group: argparse._ArgumentGroup, option: "Option") -> None:
    """An option of one recipe; `train` reads its numbers from text too."""
    text = f"{option.help} [{option.default}]"
    if option.kind is bool:
        group.add_argument(flag(option.name), action=argparse.BooleanOptionalAction, default=option.default, help=text)
    else:
        shown = "|".join(option.choices) or option.kind.__name__.upper()
        group.add_argument(flag(option.name), default=option.default, help=text, metavar=shown)


def resume(parser: Parser, arguments: list[str]) -> int:
    """`steadyq resume RUN_DIR [--frames NEW_TOTAL]`."""
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="folder of the run")
    parser.add_argument("--frames", help="new total length [the old one]")
    parser.add_argument(
        "--past-schedule", action="store_true", help="even where a learning-rate schedule ends, at its last rate"
    )
    add_limits(parser)
    add_trust(parser)
    for name, setting in SETTINGS.items():
        if setting.resumable and name != "frames":
            words = setting.help if name == "track" else setting.help.partition(" [")[0] + " [as before]"
            add_setting(parser, name, setting._replace(default=None, help=words))
    values = vars(parse(parser, arguments))

    with loading() as tell:
        from steadyq.run.resume import resume

    tell(NEXT)
    return conclude(resume(values.pop("run"), **values))


def add_limits(parser: Parser) -> None:
    """What a resumed run need not be, and when a run stops by the clock."""
    parser.add_argument(
        "--inexact",
        action="store_true",
        help="resume even if bits may differ from here on: another machine or version, or a damaged record",
    )
    parser.add_argument("--max-minutes", type=minutes, metavar="MINUTES", help="save and stop after so long [never]")


def minutes(text: str) -> float:
    """A time above 0, as what is left of it: whoever allots it counts from the start of the process."""
    import psutil

    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value - (time.time() - psutil.Process().create_time()) / 60


def conclude(result: "Result") -> int:
    """The last lines of a run: returns before and after, and where everything is.

    What cannot be read or drawn is told: how the run ended, and so the exit code, is known by now.
    """
    from steadyq.store.record import read_record
    from steadyq.store.state import resume_command

    lines, about = list[str](), {}
    try:
        settings = read_record(result.folder).settings
        about = vars(settings)
        returns = {seed: result.returns(seed) for seed in settings.seeds}
        lines += [f"seed {seed}: {progress(of, episodes=settings.eval_episodes)}" for seed, of in returns.items() if of]
    except (InputError, OSError) as error:
        lines.append(f"no returns to show: {error}")
    for line in (*lines, f"run            {result.folder}"):
        say(line)
    if not result.finished:  # no time for a picture: whoever asked may not wait
        say(f"stopped at frame {result.frame:,} and saved; resume with: {resume_command(result.folder, about)}")
        return STOPPED
    if lines:
        say(f"learning curve {picture(result.folder)}")
    return DONE


def progress(returns: Mapping[int, float], *, episodes: int) -> str:
    """The first, the last and the best of a seed's evaluations, each a mean of so many episodes, by frame."""
    first, last = min(returns), max(returns)
    words = f"return {returns[first]:.1f} at frame {first:,}"
    if last > first:
        words += f", {returns[last]:.1f} at frame {last:,}, best {max(returns.values()):.1f}"
    return f"{words} ({'one episode' if episodes == 1 else f'means of {episodes} episodes'})"


def picture(run: Path) -> str:
    """Draw the learning curve of a run: where it is, or in a sentence why there is none."""
    from steadyq.figures.learning_curve import write_learning_curve

    try:
        return str(write_learning_curve(run, run / "learning_curve.png"))
    except Exception as error:  # whatever is wrong with it, training is done
        return f"could not be drawn: {' '.join(str(error).split())}"
