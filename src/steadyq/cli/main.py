"""The command line: `steadyq COMMAND`, from training to the report.

Nothing heavy is imported before a command needs it, so that help and mistakes are answered at once. Exit codes: 0 done,
2 refused input, 75 stopped but resumable, 1 anything else.
"""

import argparse
import os
import shlex
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from steadyq.cli import deploy, envs, examine, lists, results, study, train
from steadyq.cli.parser import DONE, FAILED, REFUSED, STOPPED, Parser
from steadyq.errors import InputError, RunError, Stopped, unknown
from steadyq.output import drain, open_streams, say, show_warning


class Command(NamedTuple):
    """One command: adds its options to a parser, parses the arguments, does it and returns the exit code."""

    run: Callable[[Parser, list[str]], int]
    help: str


def doctor(parser: Parser, arguments: list[str]) -> int:
    """`steadyq doctor`, whose file alone imports more than parsing needs."""
    from steadyq.cli.doctor import doctor

    return doctor(parser, arguments)


COMMANDS = {
    "train": Command(train.train, "Train a recipe on an environment."),
    "resume": Command(train.resume, "Resume a run from its newest checkpoint."),
    "evaluate": Command(examine.evaluate, "Play episodes with a trained policy's mean action."),
    "diagnose": Command(examine.diagnose, "Measure Q-bias, norms, dead units and plasticity of a run's snapshots."),
    "study": Command(study.study, "Make many runs from one file, each once; their plan, state and table."),
    "export": Command(deploy.export, "Write a trained policy as a file for a robot: ONNX, or NumPy alone."),
    "pack": Command(deploy.pack, "Put what is worth sharing of a run into one zip file, with a page about it."),
    "compare": Command(results.compare, "Compare methods: IQM with intervals, areas, verdicts."),
    "figures": Command(results.figures, "Draw the paper's figures from runs, as PNG and PDF."),
    "report": Command(results.report, "Write one HTML page about runs; it needs no network."),
    "watch": Command(results.watch, "Serve the report of runs in progress on this machine."),
    "check-env": Command(envs.check_env, "Play an environment: whether it can be trained on, and what to fix."),
    "list": Command(lists.names, "What there is to train, and on what."),
    "doctor": Command(doctor, "What this machine has, and what a missing thing costs."),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = run(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read what is printed has seen enough, as `head` has
        drain(sys.stdout)
        return FAILED
    except InputError as error:
        command = f": {shlex.join(['steadyq', *words])} {error.add}" if error.add else ""
        say(f"steadyq: {error}{command}", stream=sys.stderr)
        return REFUSED
    except (RunError, OSError) as error:  # of a disk that takes nothing, say
        say(f"steadyq: {error}", stream=sys.stderr)
        return FAILED
    except (KeyboardInterrupt, Stopped):  # twice Ctrl-C, or before a run began: the last checkpoint counts
        print("steadyq: interrupted; what was saved is whole", file=sys.stderr)
        return STOPPED


def process() -> NoReturn:
    """The whole life of the command `steadyq`."""
    open_streams()
    warnings.showwarning = show_warning
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
    if arguments and not arguments[0].startswith("-"):
        name, *rest = arguments
        if name not in COMMANDS:
            raise unknown("command", name, COMMANDS)
        command = COMMANDS[name]
        return command.run(Parser(prog=f"steadyq {name}", description=command.help), rest)

    lines = (f"  {name:10}{command.help}" for name, command in COMMANDS.items())
    parser = Parser(
        prog="steadyq",
        usage="steadyq [--help] [--version] COMMAND ...",
        description="\n".join(["CrossQ with weight normalisation, and its baselines.", "", "commands:", *lines]),
        epilog="steadyq COMMAND --help tells more; a start: steadyq train crossq_wn --env walker-run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    if parser.parse_args(arguments).version:
        from importlib.metadata import version

        print(f"steadyq {version('steadyq')}")
        return DONE
    parser.print_help()
    return DONE if arguments == [] else REFUSED
