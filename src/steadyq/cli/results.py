"""`steadyq compare`, `figures`, `report` and `watch`: what runs mean, next to published results."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steadyq import output
from steadyq.cli.parser import DONE, Parser, frame, parse
from steadyq.errors import InputError


def compare(parser: Parser, arguments: list[str]) -> int:
    """`steadyq compare PLACE... [--published FILE] ...`."""
    add_places(parser, "*")
    add_sources(parser, usual="a few strong ones and SAC")
    parser.add_argument("--metric", default="eval/mean_reward", help="what to compare [eval/mean_reward]")
    parser.add_argument(
        "--at", nargs="+", type=frame, metavar="FRAMES", help="where [the last frame that all of your runs reach]"
    )
    parser.add_argument(
        "--from",
        dest="start",
        type=frame,
        default=0,
        metavar="FRAME",
        help="where areas under the curve begin, such as a run's first update [each task's first evaluation]",
    )
    parser.add_argument("--score", type=float, help="for frames to reach it [500 on DeepMind Control, none elsewhere]")
    parser.add_argument(
        "--over",
        choices=("seeds", "tasks"),
        default="seeds",
        metavar="seeds|tasks",
        help="what verdicts speak of: other seeds of these tasks, or tasks like these (one seed will do) [seeds]",
    )
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals [0.95]")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap [0]")
    parser.add_argument("--reps", type=int, default=20_000, help="resamples of the bootstrap [20000]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the numbers as one tidy table")
    values = parse(parser, arguments)

    from steadyq.results import compare, statistics, tables
    from steadyq.results.read import read_study

    how = {"level": values.level, "resamples": values.reps, "seed": values.seed}
    statistics.check_bootstrap(**how)
    for path in filter(None, (values.json, values.csv)):
        output.check(path)
    study = read_study(values.places, **sources(values), metric=values.metric)
    found = compare.compare(
        study,
        metric=values.metric,
        frames=values.at,
        start=values.start,
        score=values.score,
        against=values.against,
        over=values.over,
        **how,
    )
    tables.print_comparison(found)
    if values.json:
        tables.write_json(found, values.json)
    if values.csv:
        tables.write_csv(found, values.csv)
    return DONE


def figures(parser: Parser, arguments: list[str]) -> int:
    """`steadyq figures NUMBER... PLACE... --out DIR`."""
    parser.add_argument(
        "what",
        nargs="+",
        metavar="NUMBER|PLACE",
        help="1 returns, Q-bias, norms; 2 by UTD; 3 by task; 4 gradients, effective learning rate, dead units; "
        "5 ablations; 6 sensitivity; all; then run folders, folders that hold some, packs (.zip), tidy CSV files",
    )
    add_sources(parser)
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
    left_out: list[str] = []
    with progress.shown() as say:
        study = read_study(places, **sources(values) | {"against": against}, say=say)
        for number in paper.FIGURES if "all" in numbers else dict.fromkeys(numbers):
            say(f"drawing figure {number}")
            figure = paper.draw(number, study, against=against, tell=left_out.append)
            for path in paper.write(figure, values.out / f"figure-{number}"):
                output.say(path)
    complain([*study.complaints, *left_out])
    return DONE


def report(parser: Parser, arguments: list[str]) -> int:
    """`steadyq report PLACE... [--out report.html]`."""
    add_places(parser, "*")
    add_sources(parser)
    parser.add_argument("--at", type=frame, metavar="FRAME", help="of the tables [the last that all runs reach]")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="[report.html]")
    values = parse(parser, arguments)

    from steadyq import progress
    from steadyq.report import page
    from steadyq.results.read import read_study
    from steadyq.store import disk

    output.check(values.out)
    with progress.shown() as say:
        study = read_study(values.places, **sources(values), say=say)
        html = page.render(study, frame=values.at, against=values.against, say=say)
    disk.give(values.out, html.encode())
    complain(study.complaints)
    output.say(f"report {values.out} ({len(html.encode()) / 1e6:.1f} MB)")
    return DONE


def watch(parser: Parser, arguments: list[str]) -> int:
    """`steadyq watch PLACE... [--port PORT]`."""
    add_places(parser, "+")
    add_sources(parser)
    parser.add_argument("--port", type=int, default=8008, help="0 for any that is free [8008]")
    values = parse(parser, arguments)

    from steadyq.report import page, serve
    from steadyq.results.read import read_study

    def build(state: str) -> str:
        study = read_study(values.places, **sources(values))
        return page.render(study, against=values.against, watched=state)

    server = serve.Server(values.places, build, port=values.port)
    server.refresh()
    print(f"{server.address} shows these runs and follows them; Ctrl-C ends", flush=True)
    server.run()
    return DONE


def add_places(parser: Parser, count: str) -> None:
    """Where the runs are: any number (`*`) of places, or at least one (`+`)."""
    words = "run folders, folders that hold some, zip files of `steadyq pack`, tidy CSV files"
    parser.add_argument("places", nargs=count, metavar="PLACE", type=Path, help=words)


def add_sources(parser: Parser, *, usual: str = "a few strong ones") -> None:
    """Which tasks and methods, and which other authors' results; `usual` are the methods where none are named."""
    parser.add_argument("--published", type=Path, metavar="FILE", help="per-seed results of other authors, CSV")
    words = f"published methods, * matches anything [{usual}]"
    parser.add_argument("--against", nargs="+", metavar="METHOD", help=words)
    parser.add_argument("--tasks", nargs="+", default=["*"], metavar="TASK", help="tasks, * matches anything [all]")
    parser.add_argument("--methods", nargs="+", default=["*"], metavar="METHOD", help="methods, in the same way [all]")


def sources(values: argparse.Namespace) -> dict[str, Any]:
    """What `add_sources` asked for, as `read_study` takes it."""
    names = {"published_file": "published", "against": "against", "tasks": "tasks", "methods": "methods"}
    return {key: getattr(values, name) for key, name in names.items()}


def complain(complaints: Sequence[str]) -> None:
    """What could not be read, or is not whole."""
    for sentence in complaints:
        output.say(f"steadyq: {sentence}", stream=sys.stderr)
