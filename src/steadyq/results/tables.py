"""A comparison as tables to read, as JSON, and as one tidy CSV."""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from steadyq import output
from steadyq.results.compare import EQUAL, Comparison, Entry
from steadyq.results.statistics import Interval
from steadyq.store import disk
from steadyq.store.names import EPISODES, EVALUATION

HEADER = "quantity,statistic,method,other,tasks,frame,runs,estimate,low,high,level,coverage,verdict\n"
METHODS = ("method", "A", "B")
WORDS = ("task", "tasks", "is A better than B?", "is A larger than B?", "equal?")  # headings; the rest are numbers
SPEAKS = {
    "seeds": "Verdicts are over seeds: they speak of other seeds of these tasks, not of other tasks (--over tasks).",
    "tasks": "Verdicts are over tasks: they speak of tasks like these, not of other seeds (--over seeds).",
}


def print_comparison(found: Comparison) -> None:
    """Print a comparison."""
    out = output.console()
    interval = f"{100 * found.level:g}% interval"
    for frame, entries in groupby(found.returns, key=lambda entry: entry.frame):
        out.print(_entries(f"{found.metric} at frame {frame:,}: IQM over runs", list(entries), interval))
    if found.aggregates:
        tasks = output.plural(len(found.aggregates[0].tasks), "task")
        title = f"{found.metric} over {tasks} (optimality gap: mean shortfall from 1000, as a share of it)"
        table = _table(
            title, "frame", "method", "runs", "IQM", interval, "real coverage", "mean", "median", "optimality gap"
        )
        for row in found.aggregates:
            more = (f"{row.mean.estimate:,.1f}", f"{row.median.estimate:,.1f}", f"{row.optimality_gap.estimate:.3f}")
            _add(table, f"{row.frame:,}", row.method, *_interval(row.iqm), *more)
        out.print(table)
    if found.areas:
        starts = sorted(set(found.area_starts.values()))
        begin = f"{starts[0]:,}" if len(starts) == 1 else f"{starts[0]:,} to {starts[-1]:,} (by task)"
        title = (
            f"area under the curve: mean of {found.metric} from frame {begin} to {found.frames[-1]:,}, IQM over runs"
        )
        out.print(_entries(title, found.areas, interval))
    if found.reached:
        title = f"frames to reach a score: first evaluation at or above it, up to frame {found.reached[0].stop:,}"
        table = _table(title, "task", "method", "score", "reached by", "median frame")
        for reached in found.reached:
            when = f"{reached.median:,.0f}" if math.isfinite(reached.median) else "not reached"
            of = f"{reached.reached} of {reached.runs} runs"
            _add(table, reached.task, reached.method, f"{reached.score:g}", of, when)
        out.print(table)
    better = "better" if found.metric in (EVALUATION, EPISODES) else "larger"  # of a loss, larger is no better
    question = f"is A {better} than B?"
    if found.pairs:
        title = f"{question} Probability that a run of A has a larger area under the curve than one of B"
        table = _table(title, "A", "B", "tasks", "runs", "probability", "95% interval", "real coverage", question)
        for pair in found.pairs:
            tasks = pair.tasks[0] if len(pair.tasks) == 1 else str(len(pair.tasks))
            _add(table, pair.a, pair.b, tasks, *_interval(pair.probability, ".2f"), pair.verdict)
        out.print(table)
    if found.paired:
        title = f"is A {better} than B on tasks like these? Mean over tasks of (area of A - area of B) / the larger"
        tested = _table(title, "A", "B", "tasks", "runs", "difference", "95% interval", "real coverage", "p", question)
        title = f"are A and B equal for our purposes? The 90% interval lies within {EQUAL:.0%} on either side"
        equal = _table(title, "A", "B", "tasks", "runs", "difference", "90% interval", "real coverage", "equal?")
        for two in found.paired:
            names = (two.a, two.b, str(two.mean.tasks))
            p_value = f"{two.p_value:.2g}" if math.isfinite(two.p_value) else "none"
            _add(tested, *names, *_interval(two.mean, "+.1%"), p_value, two.verdict)
            _add(equal, *names, *_interval(two.narrow, "+.1%"), two.equality)
        out.print(tested)
        out.print(f"p: exact two-sided sign-flip test over tasks; A is {better}, or B, where it is at most 0.05.\n")
        out.print(equal)
    for frame, references in groupby(found.references, key=lambda row: row.frame):
        title = f"published, at frame {frame:,}; percentiles are a spread of runs, not an interval of the IQM"
        table = _table(title, "task", "method", "runs", "IQM", "5th to 95th percentile", "evaluated at")
        for value in references:
            spread = f"{value.p05:,.1f} to {value.p95:,.1f}"
            _add(table, value.task, value.method, str(value.seeds), f"{value.iqm:,.1f}", spread, value.evaluated)
        out.print(table)
    out.print(
        f"Intervals: percentile bootstrap, {found.resamples:,} resamples, seed {found.seed}. "
        "runs: the fewest on a task. real coverage: how often a 95% interval of so few runs or tasks holds the truth."
    )
    out.print(SPEAKS[found.over])
    doubts = ("What is not equal, or not as sure as it looks", found.notes)
    for title, sentences in (doubts, ("Not read, or not whole", found.complaints)):
        if sentences:
            out.print(f"\n{title}", style="bold")
        for sentence in sentences:
            out.print(output.safe(f"- {sentence}"), soft_wrap=True)


def write_json(found: Comparison, path: Path) -> None:
    """Write all of it as JSON; what is not finite is null."""
    disk.give(path, json.dumps(_plain(vars(found)), indent=2, allow_nan=False).encode() + b"\n")


def write_csv(found: Comparison, path: Path) -> None:
    """Write the numbers as one tidy table; an empty field is a number that there is not.

    `low` and `high` are the ends of the interval of nominal `level`; of `published_iqm`, which has no level, they are
    the 5th and 95th percentile of runs, and `verdict` says at which frames these were evaluated.
    """
    text = io.StringIO(newline="")
    text.write(HEADER)
    rows = csv.writer(text, lineterminator="\n")
    for row in _rows(found):
        rows.writerow(["" if isinstance(value, float) and not math.isfinite(value) else value for value in row])
    disk.give(path, text.getvalue().encode())


def _rows(found: Comparison) -> Iterator[tuple[Any, ...]]:
    def row(
        names: tuple[str, str, str, str], tasks: Sequence[str], frame: int, i: Interval, verdict: str = ""
    ) -> tuple:
        return (*names, " ".join(tasks), frame, i.runs, i.estimate, i.low, i.high, i.level, i.coverage, verdict)

    for quantity, entries in ((found.metric, found.returns), ("area", found.areas)):
        for e in entries:
            yield row((quantity, "iqm", e.method, ""), e.tasks, e.frame, e.iqm)
    for a in found.aggregates:
        for name in ("iqm", "mean", "median", "optimality_gap"):
            yield row((found.metric, name, a.method, ""), a.tasks, a.frame, getattr(a, name))
    for p in found.pairs:
        names = ("area", "probability_of_improvement", p.a, p.b)
        yield row(names, p.tasks, found.frames[-1], p.probability, p.verdict)
    for q in found.paired:
        tasks, frame = [*q.differences], found.frames[-1]
        yield row(("area", "relative_difference", q.a, q.b), tasks, frame, q.mean, q.verdict)
        yield row(("area", "relative_difference", q.a, q.b), tasks, frame, q.narrow, q.equality)
        names = ("area", "sign_flip_p", q.a, q.b)
        yield *names, " ".join(tasks), frame, q.mean.runs, q.p_value, "", "", "", "", q.verdict
    for r in found.reached:
        names = (f"frames_to_{r.score:g}", "median", r.method, "")
        yield *names, r.task, r.stop, r.runs, r.median, "", "", "", "", f"{r.reached} of {r.runs}"
    for v in found.references:
        names = (found.metric, "published_iqm", v.method, "")
        yield *names, v.task, v.frame, v.seeds, v.iqm, v.p05, v.p95, "", "", f"evaluated at {v.evaluated}"


def _entries(title: str, entries: Sequence[Entry], interval: str) -> Table:
    table = _table(title, "task", "method", "runs", "IQM", interval, "real coverage", "5th to 95th percentile of runs")
    for entry in entries:
        task = entry.tasks[0] if len(entry.tasks) == 1 else f"all {len(entry.tasks)}"
        spread = f"{entry.low:,.1f} to {entry.high:,.1f}" if entry.low < entry.high else ""
        _add(table, task, entry.method, *_interval(entry.iqm), spread)
    return table


def _interval(found: Interval, form: str = ",.1f") -> tuple[str, str, str, str]:
    """Runs, estimate, interval and its real coverage."""
    between = f"{found.low:{form}} to {found.high:{form}}" if math.isfinite(found.low) else "none"
    return str(found.runs), f"{found.estimate:{form}}", between, found.coverage


def _table(title: str, *headings: str) -> Table:
    """A table whose words wrap and are never cut: two methods may differ in the last letter only."""
    table = Table(
        title=output.safe(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for heading in headings:
        table.add_column(
            heading,
            justify="left" if heading in METHODS + WORDS else "right",
            overflow="fold",
            no_wrap=heading not in METHODS,
        )
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*map(output.safe, cells))


def _plain(value: Any) -> Any:
    """Values of JSON: named tuples as objects."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
