"""`steadyq study`: many runs from one file, each made once; what is planned, how far it is, and its table."""

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steadyq import output
from steadyq.cli.parser import DONE, FAILED, STOPPED, Parser, parse
from steadyq.cli.results import complain
from steadyq.cli.train import minutes
from steadyq.errors import InputError, unknown
from steadyq.settings import flag

if TYPE_CHECKING:
    from steadyq.study.make import Engine
    from steadyq.study.plan import Planned

EVERY = 2.0  # seconds between two looks of a live table


def study(parser: Parser, arguments: list[str]) -> int:
    """`steadyq study run|plan|status|collect|slurm ...`."""
    if arguments and not arguments[0].startswith("-"):
        name, *rest = arguments
        if name not in COMMANDS:
            raise unknown("part of `steadyq study`", name, COMMANDS)
        words = (COMMANDS[name].__doc__ or "").partition(": ")[2]
        return COMMANDS[name](Parser(prog=f"steadyq study {name}", description=words), rest)
    parser.usage = f"steadyq study {'|'.join(COMMANDS)} ..."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(doing.__doc__ or "" for doing in COMMANDS.values()) + "\n\nThe file: docs/study.md"
    parse(parser, arguments)
    parser.print_help()
    return DONE


def run(parser: Parser, arguments: list[str]) -> int:
    """run FILE: Make the runs of a study file that are not done yet; interrupt it and run it again at any time."""
    add_file(parser)
    parser.add_argument("--workers", type=int, help="runs at once [all that the cores, or the cluster, have room for]")
    parser.add_argument("--threads", type=int, help="of each run that FILE gives none [the cores, shared out]")
    parser.add_argument("--max-minutes", type=minutes, metavar="MINUTES", help="save and stop after so long [never]")
    parser.add_argument("--no-wait", action="store_true", help="end when other commands make all that is left")
    add_retry(parser)
    cluster = parser.add_argument_group("on a Ray cluster")
    cluster.add_argument("--ray", metavar="ADDRESS", help="HOST:PORT of its head, auto, or local [this machine alone]")
    cluster.add_argument("--cpus-per-run", type=int, metavar="CPUS", help="to reserve for a run [its threads]")
    cluster.add_argument("--gpus-per-run", type=float, default=0.0, metavar="GPUS", help="to reserve, such as 0.25 [0]")
    cluster.add_argument("--mixed", action="store_true", help="use nodes of several kinds, whose bits differ")
    values = parse(parser, arguments)
    check_counts(workers=values.workers, threads=values.threads)
    check_cluster(values)

    from steadyq.run.conditions import check_threads
    from steadyq.study import file, make, plan, state, tries

    check_threads(values.threads)
    folder = folder_of(values)
    runs = file.read(values.file, here=lambda one: values.ray is None and state.look(folder, one).name != "done")
    plan.write(folder, runs)
    if values.retry:
        for one in runs:
            tries.forget(folder, one)

    with engine_of(values, folder, runs) as engine:
        count = make.make(folder, runs, engine, minutes=values.max_minutes, wait=not values.no_wait, say=output.say)
    output.say(
        f"{folder}: {output.plural(count.done, 'run')} done, {count.set_aside:,} set aside, {count.more:,} to do"
    )
    if count.more and count.stopped:
        return STOPPED
    return FAILED if count.set_aside else DONE


def plan(parser: Parser, arguments: list[str]) -> int:
    """plan FILE: Show the runs in their order with the time, memory and disk they need; nothing is started."""
    add_file(parser)
    parser.add_argument("--workers", type=int, help="runs at once [all that the cores have room for]")
    parser.add_argument(
        "--calibrate",
        type=float,
        nargs="?",
        const=0.5,
        metavar="MINUTES",
        help="first let each kind of run that was not measured yet learn for so long, in a folder that is removed "
        "afterwards [0.5]",
    )
    values = parse(parser, arguments)
    if values.calibrate is not None and not 0 < values.calibrate < float("inf"):
        raise InputError(f"--calibrate is {values.calibrate:g}; give minutes above 0")
    check_counts(workers=values.workers)

    from steadyq.study import estimate, file, local

    # What is only planned here may be made elsewhere, where there are more cores, or a GPU.
    folder, runs = folder_of(values), file.read(values.file, here=lambda one: values.calibrate is not None)
    threads, workers = local.share_out(runs, workers=values.workers)
    if values.calibrate:
        estimate.calibrate(folder, runs, threads=threads, workers=workers, minutes=values.calibrate, say=output.say)
    found = estimate.forecast(folder, runs)
    for line in estimate.lines(found, workers=workers):
        output.say(line)
    return DONE


def status(parser: Parser, arguments: list[str]) -> int:
    """status DIR: Show which runs are done, running, waiting or failed; on a terminal it follows them."""
    parser.add_argument("dir", metavar="DIR", type=Path, help="folder of the study")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    values = parse(parser, arguments)

    from steadyq.study import plan, status

    runs = plan.read(values.dir)
    found = status.rows(values.dir, runs)
    console = output.console()
    if values.json:
        print(json.dumps({"runs": found}, indent=1))
    elif not console.is_terminal:
        for line in status.lines(found):
            output.say(line)
    else:
        from rich.live import Live

        with (
            contextlib.suppress(KeyboardInterrupt),  # seen enough
            Live(status.table(found), console=console, auto_refresh=False) as live,
        ):
            while any(row["state"] in ("running", "waiting") for row in found):
                time.sleep(EVERY)
                found = status.rows(values.dir, runs)
                live.update(status.table(found), refresh=True)
    return DONE


def collect(parser: Parser, arguments: list[str]) -> int:
    """collect DIR... TABLE.csv: Write one tidy table of all that figures and reports need, or bring it up to date."""
    parser.add_argument("places", nargs="+", metavar="DIR", type=Path, help="folder of the study, or of any runs")
    parser.add_argument("table", metavar="TABLE.csv", type=Path, help="what it has of other runs stays")
    parser.add_argument(
        "--no-layers", action="store_true", help="leave out what was diagnosed of single layers: a much smaller table"
    )
    values = parse(parser, arguments)
    output.check(values.table)

    from steadyq.study.collect import collect

    found = collect(values.places, values.table, layers=not values.no_layers)
    complain(found.complaints)
    output.say(f"{values.table}: {output.plural(found.rows, 'row')}, {output.plural(found.runs, 'run')}")
    return DONE


def slurm(parser: Parser, arguments: list[str]) -> int:
    """slurm FILE: Submit an array job that makes the runs; its elements take one after the other until time is up."""
    parser.usage = "steadyq study slurm FILE [options] [-- options of sbatch]"
    add_file(parser)
    parser.add_argument("--workers", type=int, help="runs at once, elements of the array [one per run, up to 1,000]")
    parser.add_argument("--threads", type=int, default=1, help="of each run that FILE gives none [1]")
    parser.add_argument(
        "--max-minutes",
        type=int,
        default=240,
        metavar="MINUTES",
        help="that an element makes runs before it saves and is requeued [240]",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the job script, and submit nothing")
    add_retry(parser)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    values = parse(parser, arguments[:end])
    check_counts(workers=values.workers, threads=values.threads, max_minutes=values.max_minutes)

    from steadyq.study import file, plan, slurm, state, tries

    folder, runs = folder_of(values), file.read(values.file, here=lambda one: False)
    if values.retry and not values.dry_run:
        for one in runs:
            tries.forget(folder, one)
    names = [state.look(folder, one).name for one in runs]
    left = [one for one, name in zip(runs, names, strict=True) if name in ("waiting", "running")]
    if not left:
        failed = names.count("failed")
        aside = f"; {output.plural(failed, 'run')} set aside: see `steadyq study status {folder}`, and --retry"
        output.say(f"{folder}: nothing is left to do{aside if failed else ''}")
        return FAILED if failed else DONE
    text = slurm.script(
        values.file, folder, left, workers=values.workers, threads=values.threads, minutes=values.max_minutes
    )
    if values.dry_run:
        print(text, end="")
        return DONE
    plan.write(folder, runs)
    output.say(slurm.submit(folder, text, arguments[end + 1 :]))
    return DONE


COMMANDS: dict[str, Callable[[Parser, list[str]], int]] = {
    "run": run,
    "plan": plan,
    "status": status,
    "collect": collect,
    "slurm": slurm,
}


def add_file(parser: Parser) -> None:
    """The study file, and the folder that goes with it."""
    parser.add_argument("file", metavar="FILE", type=Path, help="study file, see docs/study.md")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the study [studies/ and the file's name]")


def add_retry(parser: Parser) -> None:
    """Whether to begin anew with what was set aside."""
    parser.add_argument("--retry", action="store_true", help="try again what was set aside")


def check_counts(**counts: int | None) -> None:
    """InputError if an option is no number of workers, threads or the like."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"{flag(name)} is {count}; give at least 1")


def check_cluster(values: argparse.Namespace) -> None:
    """InputError if what is for a cluster makes no sense."""
    named = values.cpus_per_run is not None or values.gpus_per_run or values.mixed
    if named and values.ray is None:
        raise InputError("--cpus-per-run, --gpus-per-run and --mixed are for clusters; add --ray ADDRESS")
    if values.threads is not None and values.ray is not None:
        raise InputError("--threads is for this machine; with --ray give --cpus-per-run")
    check_counts(cpus_per_run=values.cpus_per_run)
    if not (0 <= values.gpus_per_run < 1 or values.gpus_per_run % 1 == 0 < values.gpus_per_run):
        raise InputError(f"--gpus-per-run is {values.gpus_per_run:g}; give a part of one, or a whole number")


@contextlib.contextmanager
def engine_of(values: argparse.Namespace, folder: Path, runs: "Sequence[Planned]") -> "Iterator[Engine]":
    """Who starts the workers."""
    if values.ray is None:
        from steadyq.study.local import Local

        yield Local(folder, runs, workers=values.workers, threads=values.threads)
        return

    from steadyq.study.ray_cluster import Cluster

    if not values.gpus_per_run and any(run.choices.get("device") == "cuda" for run in runs):
        raise InputError(f"{values.file} asks for runs on a GPU; add --gpus-per-run")
    if values.gpus_per_run and len({Path(run.folder).parent for run in runs}) < len(runs):
        output.say("runs that differ in nothing but the seed share a GPU best as one process: seeds-together = true")
    made = Cluster(
        folder,
        runs,
        address=values.ray,
        workers=values.workers,
        cpus=values.cpus_per_run,
        gpus=values.gpus_per_run,
        mixed=values.mixed,
        say=output.say,
    )
    with contextlib.closing(made) as engine:
        yield engine


def folder_of(values: argparse.Namespace) -> Path:
    """Where the study is kept."""
    return values.out or Path("studies") / values.file.stem
