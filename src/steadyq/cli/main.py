"""The command line: `steadyq COMMAND`, from training to the report.

Nothing heavy is imported before a command needs it, so that help and mistakes are answered at once. Exit codes: 0 done,
2 refused input, 75 stopped but resumable, 1 anything else.
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from steadyq import output
from steadyq.errors import InputError, RunError, Stopped, unknown
from steadyq.settings import CHOICES, Settings, flag, frames_or_minutes

if TYPE_CHECKING:
    from steadyq.algorithm.options import Option
    from steadyq.run.go import Result

DONE, FAILED, REFUSED, STOPPED = 0, 1, 2, 75
NUMBERS: dict[str, Any] = {
    "gamma": float,
    "name": str,
    "out": str,
    "utd": str,
    "save_every": frames_or_minutes,
    "env_timeout": float,
} | dict.fromkeys(CHOICES, str)
ON_RESUMING = ("save_every", "keep", "on_bad_step", "env_timeout", "precision", "compile", "device", "threads")


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one clear sentence."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        code = run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read what is printed has seen enough, as `head` has
        from steadyq.run.views import drain

        drain(sys.stdout)
        return FAILED
    except InputError as error:
        print(f"steadyq: {error}", file=sys.stderr)
        return REFUSED
    except (RunError, OSError) as error:  # of a disk that takes nothing, say
        print(f"steadyq: {error}", file=sys.stderr)
        return FAILED
    except (KeyboardInterrupt, Stopped):  # twice Ctrl-C, or before a run began: the last checkpoint counts
        print("steadyq: interrupted; what was saved is whole", file=sys.stderr)
        return STOPPED


def process() -> NoReturn:
    """The whole life of the command `steadyq`."""
    code = main()
    if threading.active_count() > 1:
        # Updates still being compiled, or an environment that hangs: the interpreter cannot end under such a thread's
        # feet, and everything is on the disk.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Parse and do; errors are raised."""
    commands = {
        "train": train,
        "resume": resume,
        "evaluate": evaluate,
        "diagnose": diagnose,
        "compare": compare_runs,
        "figures": figures_of_runs,
        "report": report_on_runs,
        "watch": watch_runs,
        "list": list_names,
        "doctor": doctor,
    }
    parser = Parser(prog="steadyq", description="CrossQ with weight normalisation, and its baselines.")
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help=", ".join(commands))
    parser.epilog = "steadyq COMMAND --help tells more; a start: steadyq train crossq_wn --env walker-run"
    if not arguments or arguments[0].startswith("-"):
        if parser.parse_args(arguments).version:
            from importlib.metadata import version

            print(f"steadyq {version('steadyq')}")
            return DONE
        parser.print_help()
        return DONE if arguments == [] else REFUSED
    name, *rest = arguments
    if name not in commands:
        raise unknown("command", name, commands)
    return commands[name](rest)


def parse(parser: Parser, arguments: list[str]) -> argparse.Namespace:
    """Parse all of the arguments; an unknown option is named with its nearest neighbours."""
    values, left = parser.parse_known_args(arguments)
    if left:
        if left[0].startswith("--"):
            raise unknown("option", left[0].split("=")[0], parser._option_string_actions)
        raise InputError(f"did not expect {left[0]!r}; see `{parser.prog} --help`")
    return values


def train(arguments: list[str]) -> int:
    """`steadyq train RECIPE --env ENV ...`."""
    parser = Parser(
        prog="steadyq train",
        usage="steadyq train RECIPE --env ENV [options]",
        description="Train a recipe on an environment.",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="e.g. crossq_wn; `steadyq list recipes` shows all")
    parser.add_argument("--env", required=True, help="DeepMind Control task or Gymnasium id, see `steadyq list envs`")
    for field in fields(Settings):
        if "help" in field.metadata:
            add_setting(parser, field.name, field.default, field.metadata["help"])
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--overwrite", action="store_true", help="delete the run that is already in the folder")
    whose.add_argument(
        "--resume", action="store_true", help="go on with the run that is already there, if it is this one"
    )
    add_inexact(parser)
    add_max_minutes(parser)
    if arguments and not arguments[0].startswith("-"):
        from steadyq.algorithm.options import options, summary

        known = options(arguments[0])
        parser.prog = f"steadyq train {arguments[0]}"
        parser.description = summary(arguments[0])
        group = parser.add_argument_group(f"options of {arguments[0]}")
        for option in known.values():
            add_option(group, option)
    elif arguments and not {"-h", "--help"} & {*arguments}:
        raise InputError(f"the recipe comes first, before {arguments[0]}: {parser.usage}")
    else:
        parser.epilog = "steadyq train RECIPE --help shows the options of that recipe too"
    values = vars(parse(parser, arguments))

    from steadyq.run.train import settings_of, start

    recipe, env = values.pop("recipe"), values.pop("env")
    ways = {
        "overwrite": values.pop("overwrite"),
        "go_on": values.pop("resume"),
        "inexact": values.pop("inexact"),
        "max_minutes": values.pop("max_minutes"),
    }
    return report(start(settings_of(recipe, env=env, choices=values), **ways))


def add_setting(parser: argparse.ArgumentParser, name: str, default: Any, words: str) -> None:
    """An option of every run."""
    if name == "seeds":
        parser.add_argument("--seeds", type=int, nargs="+", default=list(default), help=f"{words} [0]")
        return
    shown = "the recipe's" if default is None and "[" not in words else default
    text = words if "[" in words else f"{words} [{shown}]"
    parser.add_argument(
        flag(name),
        type=NUMBERS.get(name, int),
        choices=CHOICES.get(name),
        default=default,
        help=text,
        metavar=metavar(name),
    )


def metavar(name: str) -> str:
    """What stands for a value in the help."""
    return "|".join(CHOICES[name]) if name in CHOICES else name.rpartition("_")[2].upper()


def add_option(group: argparse._ArgumentGroup, option: "Option") -> None:
    """An option of one recipe, in its own type."""
    text = f"{option.help} [{option.default}]"
    if option.kind is bool:
        group.add_argument(flag(option.name), action=argparse.BooleanOptionalAction, default=option.default, help=text)
    else:
        shown = "|".join(option.choices) or option.kind.__name__.upper()
        group.add_argument(flag(option.name), type=option.kind, default=option.default, help=text, metavar=shown)


def resume(arguments: list[str]) -> int:
    """`steadyq resume RUN_DIR [--frames NEW_TOTAL]`."""
    parser = Parser(prog="steadyq resume", description="Go on with a run from its newest checkpoint.")
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="folder of the run")
    parser.add_argument("--frames", type=int, help="new total length [the old one]")
    parser.add_argument(
        "--past-schedule", action="store_true", help="even where a learning-rate schedule ends, at its last rate"
    )
    add_inexact(parser)
    add_trust(parser)
    add_max_minutes(parser)
    settings = {field.name: field for field in fields(Settings)}
    for name in ON_RESUMING:
        add_setting(parser, name, None, settings[name].metadata["help"].partition(" [")[0] + " [as before]")
    values = vars(parse(parser, arguments))

    from steadyq.run.resume import resume

    return report(resume(values.pop("run"), **values))


def add_inexact(parser: argparse.ArgumentParser) -> None:
    """What a resumed run need not be."""
    parser.add_argument(
        "--inexact",
        action="store_true",
        help="resume even if bits may differ from here on: another machine or version, or a damaged record",
    )


def add_max_minutes(parser: argparse.ArgumentParser) -> None:
    """When to stop by the clock."""
    parser.add_argument("--max-minutes", type=minutes, metavar="MINUTES", help="save and stop after so long [never]")


def minutes(text: str) -> float:
    """A time above 0, as what is left of it: whoever allots it counts from the start of the process."""
    import psutil

    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value - (time.time() - psutil.Process().create_time()) / 60


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Whether a run folder may name a module to import."""
    parser.add_argument("--trust", action="store_true", help="import the module that the run's environment names")


def report(result: "Result") -> int:
    """The last lines of a run: returns before and after, and where everything is."""
    from steadyq.store.record import read_record

    settings = read_record(result.folder).settings
    evaluated = False
    for seed in settings.seeds:
        found = result.returns(seed)
        if not found:
            continue
        evaluated = True
        first, last = min(found), max(found)
        print(
            f"seed {seed}: return {found[first]:.1f} at frame {first:,}, {found[last]:.1f} at frame {last:,}, "
            f"best {max(found.values()):.1f} (means of {settings.eval_episodes} episodes)"
        )
    print(f"run            {result.folder}")
    if not result.finished:  # no time for a picture: whoever asked may not wait
        print(f"stopped at frame {result.frame:,} and saved; go on with: steadyq resume {result.folder}")
        return STOPPED
    if evaluated:
        from steadyq.figures.learning_curve import write_learning_curve

        print(f"learning curve {write_learning_curve(result.folder, result.folder / 'learning_curve.png')}")
    return DONE


def evaluate(arguments: list[str]) -> int:
    """`steadyq evaluate RUN_DIR ...`."""
    parser = Parser(prog="steadyq evaluate", description="Play episodes with a trained policy's mean action.")
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="folder of the run")
    parser.add_argument("--seed", type=int, help="which of the run's agents [the first]")
    parser.add_argument("--checkpoint", default="last", metavar="last|best|FRAME", help="which weights [last]")
    parser.add_argument("--episodes", type=int, default=10, help="how many [10]")
    add_trust(parser)
    parser.add_argument("--video", type=Path, metavar="FILE.mp4", help="record a typical episode")
    parser.add_argument(
        "--film-strip", type=Path, metavar="FILE.png", help="pictures of a typical episode, side by side"
    )
    values = parse(parser, arguments)
    if values.episodes < 1:
        raise InputError(f"--episodes is {values.episodes}; give a whole number >= 1")

    from steadyq.examine import show

    show.show(
        values.run,
        seed=values.seed,
        which=values.checkpoint,
        episodes=values.episodes,
        video=values.video,
        film_strip=values.film_strip,
        trust=values.trust,
    )
    return DONE


def diagnose(arguments: list[str]) -> int:
    """`steadyq diagnose RUN_DIR ...`."""
    parser = Parser(
        prog="steadyq diagnose",
        description="Q-bias, norms, effective learning rates, units and plasticity of a run's snapshots "
        "(docs/diagnostics.md), into RUN_DIR/diagnostics.csv.",
    )
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="folder of the run")
    parser.add_argument("--seed", type=int, help="which of the run's agents [all]")
    parser.add_argument("--frames", type=int, nargs="+", metavar="FRAME", help="which snapshots [all]")
    parser.add_argument("--episodes", type=int, help="roll-outs for Q-bias [as many as give 1,000 pairs, at least 3]")
    add_trust(parser)
    values = parse(parser, arguments)
    if values.episodes is not None and values.episodes < 1:
        raise InputError(f"--episodes is {values.episodes}; give a whole number >= 1")

    from steadyq.examine import snapshots

    snapshots.diagnose(values.run, seed=values.seed, frames=values.frames, episodes=values.episodes, trust=values.trust)
    return DONE


def compare_runs(arguments: list[str]) -> int:
    """`steadyq compare PLACE... [--published FILE] ...`."""
    parser = Parser(prog="steadyq compare", description="Compare methods: IQM with intervals, areas, verdicts.")
    add_places(parser, "*")
    parser.add_argument("--published", type=Path, metavar="FILE", help="per-seed results of other authors, CSV")
    parser.add_argument(
        "--against",
        nargs="+",
        metavar="METHOD",
        help="published methods, * matches anything [a few strong ones and SAC]",
    )
    parser.add_argument("--tasks", nargs="+", default=["*"], metavar="TASK", help="tasks, * matches anything [all]")
    parser.add_argument("--metric", default="eval/mean_reward", help="what to compare [eval/mean_reward]")
    parser.add_argument(
        "--at", nargs="+", type=int, metavar="FRAMES", help="where [the last frame that all of your runs reach]"
    )
    parser.add_argument("--score", type=float, help="for frames to reach it [500 on DeepMind Control, none elsewhere]")
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals [0.95]")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap [0]")
    parser.add_argument("--reps", type=int, default=20_000, help="resamples of the bootstrap [20000]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the numbers as one tidy table")
    values = parse(parser, arguments)

    from steadyq.results import compare, statistics, tables
    from steadyq.results.read import read_study

    statistics.check_bootstrap(level=values.level, resamples=values.reps, seed=values.seed)
    for path in filter(None, (values.json, values.csv)):
        output.check(path)
    study = read_study(
        values.places, published_file=values.published, against=values.against, tasks=values.tasks, metric=values.metric
    )
    found = compare.compare(
        study,
        metric=values.metric,
        frames=values.at,
        score=values.score,
        against=values.against,
        level=values.level,
        resamples=values.reps,
        seed=values.seed,
    )
    tables.print_comparison(found)
    if values.json:
        tables.write_json(found, values.json)
    if values.csv:
        tables.write_csv(found, values.csv)
    return DONE


def figures_of_runs(arguments: list[str]) -> int:
    """`steadyq figures NUMBER... PLACE... --out DIR`."""
    parser = Parser(prog="steadyq figures", description="Draw the paper's figures from runs, as PNG and PDF.")
    parser.add_argument(
        "what",
        nargs="+",
        metavar="NUMBER|PLACE",
        help="1 returns, Q-bias, norms; 2 by UTD; 3 by task; 4 gradients, effective learning rate, dead units; "
        "5 ablations; 6 sensitivity; all; then run folders, folders that hold some, tidy CSV files",
    )
    add_sources(parser)
    parser.add_argument("--methods", nargs="+", default=["*"], metavar="METHOD", help="which, * matches anything [all]")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    values = parse(parser, arguments)

    from steadyq import progress
    from steadyq.figures import paper
    from steadyq.results.read import read_study

    against = values.against or paper.PUBLISHED

    known = [*paper.FIGURES, "all"]
    count = next((i for i, word in enumerate(values.what) if word not in known), len(values.what))
    numbers, places = values.what[:count], [Path(word) for word in values.what[count:]]
    if not numbers:
        raise InputError(f"which figure? got {values.what[0]!r} first; give some of {', '.join(known)}, then the runs")
    output.check(values.out / "figure.png")
    with progress.shown() as say:
        study = read_study(places, published_file=values.published, against=against, tasks=values.tasks, say=say)
        study = paper.of_methods(study, values.methods)
        for number in paper.FIGURES if "all" in numbers else dict.fromkeys(numbers):
            say(f"drawing figure {number}")
            figure = paper.draw(number, study, against=against)
            for path in paper.write(figure, values.out / f"figure-{number}"):
                print(path)
    complain(study.complaints)
    return DONE


def report_on_runs(arguments: list[str]) -> int:
    """`steadyq report PLACE... [--out report.html]`."""
    parser = Parser(prog="steadyq report", description="Write one HTML page about runs; it needs no network.")
    add_places(parser, "*")
    add_sources(parser)
    parser.add_argument("--at", type=int, metavar="FRAME", help="of the tables [the last that all of your runs reach]")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="[report.html]")
    values = parse(parser, arguments)

    from steadyq import progress
    from steadyq.report import page
    from steadyq.results.read import read_study

    output.check(values.out)
    with progress.shown() as say:
        study = read_study(
            values.places, published_file=values.published, against=values.against, tasks=values.tasks, say=say
        )
        html = page.render(study, frame=values.at, against=values.against, say=say)
    values.out.parent.mkdir(parents=True, exist_ok=True)
    values.out.write_text(html, encoding="utf-8")
    complain(study.complaints)
    print(f"report {values.out} ({len(html.encode()) / 1e6:.1f} MB)")
    return DONE


def watch_runs(arguments: list[str]) -> int:
    """`steadyq watch PLACE... [--port PORT]`."""
    parser = Parser(prog="steadyq watch", description="Serve the report of runs in progress on this machine.")
    add_places(parser, "+")
    add_sources(parser)
    parser.add_argument("--port", type=int, default=8008, help="0 for any that is free [8008]")
    values = parse(parser, arguments)

    from steadyq.report import page, serve
    from steadyq.results.read import read_study

    def build(state: str) -> str:
        study = read_study(values.places, published_file=values.published, against=values.against, tasks=values.tasks)
        return page.render(study, against=values.against, watched=state)

    server = serve.Server(values.places, build, port=values.port)
    server.refresh()
    print(f"{server.address} shows these runs and follows them; Ctrl-C ends", flush=True)
    server.run()
    return DONE


def add_places(parser: argparse.ArgumentParser, count: str) -> None:
    """Where the runs are: any number (`*`) of places, or at least one (`+`)."""
    words = "run folders, folders that hold some, tidy CSV files"
    parser.add_argument("places", nargs=count, metavar="PLACE", type=Path, help=words)


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Which tasks and which other authors' results, for figures and report."""
    parser.add_argument("--published", type=Path, metavar="FILE", help="per-seed results of other authors, CSV")
    parser.add_argument(
        "--against", nargs="+", metavar="METHOD", help="published methods, * matches anything [a few strong ones]"
    )
    parser.add_argument("--tasks", nargs="+", default=["*"], metavar="TASK", help="tasks, * matches anything [all]")


def complain(complaints: Sequence[str]) -> None:
    """What could not be read, or is not whole."""
    for sentence in complaints:
        print(f"steadyq: {sentence}", file=sys.stderr)


def list_names(arguments: list[str]) -> int:
    """`steadyq list recipes|envs`."""
    parser = Parser(prog="steadyq list", description="What there is to train, and on what.")
    parser.add_argument("what", choices=("recipes", "envs"), metavar="recipes|envs")
    if parse(parser, arguments).what == "recipes":
        print_recipes()
    else:
        from steadyq.envs.suites import names

        for suite, known in names().items():
            print(f"{suite}: {' '.join(known)}")
    return DONE


def print_recipes() -> None:
    """Every recipe with its protocol on DeepMind Control and its size on dog-run, and what it is in the line below."""
    from numpy.random import default_rng

    from steadyq.algorithm.actor_critic import count_parameters, make_agent
    from steadyq.algorithm.options import make_recipe, summary
    from steadyq.algorithm.recipes import RECIPES

    obs_dim, action_dim = 223, 38  # of dog-run
    row = "{:14}{:>4}{:>7}{:>8}{:>9}{:>9}{:>9}{:>12}  {}"
    print(row.format("", "UTD", "batch", "repeat", "warm-up", "gamma", "size", "per 1,000", "source"))
    for name in RECIPES:
        made = make_recipe(name)
        protocol = made.protocol
        state = make_agent(made, obs_dim=obs_dim, action_dim=action_dim).init(default_rng(0))
        learned = count_parameters((state.actor.params, state.critic.params))
        print(
            row.format(
                name,
                f"{protocol.utd:g}",
                protocol.batch_size,
                protocol.action_repeat,
                f"{protocol.learning_starts:,}",
                protocol.gamma or "length",
                f"{learned / 1e6:.2f}M",
                f"{1_000 * protocol.utd / protocol.action_repeat:,.0f}",
                protocol.source,
            )
        )
        print(f"    {summary(name)}")
    print(
        "\nrepeat: frames per agent step; warm-up: agent steps of random actions; gamma: `length`, by an episode's;"
        "\nsize: learned numbers of actor and critics on dog-run; per 1,000: critic updates per 1,000 frames"
    )


def doctor(arguments: list[str]) -> int:
    """`steadyq doctor`."""
    parse(
        Parser(prog="steadyq doctor", description="What this machine has, and what a missing thing costs."), arguments
    )

    from steadyq.cli.doctor import main

    return main()
