"""One self-contained HTML page about runs: `steadyq report`. It needs no network, and asks for none.

The words and tables are HTML, made here with every name escaped; the curves are drawn by Plotly, which is in the page,
from numbers that are thinned to what a screen can show. The page's own files are in `data/`: `report.html`,
`report.css` and `report.js`.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib import resources
from importlib.metadata import version
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Num
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from steadyq.errors import InputError
from steadyq.report import details, verdicts
from steadyq.results import bands, compare, measures, published, variants
from steadyq.results.bands import Line
from steadyq.results.compare import Comparison
from steadyq.results.measures import Measure
from steadyq.results.published import Reference
from steadyq.results.runs import Run, Study, by_method, largest_common, matches, tasks_of
from steadyq.results.statistics import Interval
from steadyq.results.untrusted import printable
from steadyq.store.names import EVALUATION, UPDATES_PER_SECOND, WALL_TIME

RESAMPLES = 5_000  # of the numbers in the tables
CURVES_BYTES, NUMBER_BYTES = 1_500_000, 6  # what all curves may take in the page, and one number of them does
MOST_POINTS, FEWEST_POINTS = 100, 20
SHOWN = ("BRO-utd10@*", "SAC@*")
"""Published curves that are not hidden at first, unless the user chose some."""
Say = Callable[[str], None]


def render(
    study: Study,
    *,
    frame: int | None = None,
    against: Sequence[str] | None = None,
    watched: str = "",
    say: Say = lambda text: None,
) -> str:
    """The report as HTML.

    Args:
        study: as `read_study` returns it.
        frame: of the tables; None for the last one that all of one's own runs reach.
        against: patterns of published methods to show; None for the usual ones, of which a few are shown at first.
        watched: the state of the runs, for a page that is served and refreshed; empty for a page in a file.
        say: takes one line about what is being done.

    Raises:
        InputError: no run has a value at that frame.
    """
    say("comparing methods")
    at = None if frame is None else [frame]
    found = compare.compare(study, frames=at, against=against, resamples=RESAMPLES)
    own = [run for run in study.runs if not run.source]
    pictures, missing_pictures = details.film_strips(own)
    curves, left_out = _curves(study, against, say)
    say("writing the page")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_file("report.html"))
    html = template.render(
        style=Markup(_file("report.css")),
        library=Markup(get_plotlyjs()),
        script=Markup(_file("report.js")),
        data=Markup(_json(curves)),
        watched=watched,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("steadyq"),
        runs=len(own or study.runs),
        methods=len(by_method(own or study.runs)),
        task_count=len({run.task for run in own or study.runs}),
        found=found,
        sentences=verdicts.phrase(found, published={run.method for run in study.runs if run.source}),
        rows=_rows(study, found),
        aggregates=[_aggregate(row) for row in found.aggregates],
        references=[(row, variants.label(row.method)) for row in found.references],
        score=" or ".join(f"{score:g}" for score in sorted({row.score for row in found.reached})) or "a score",
        few=bands.fewest(own or study.runs),
        enough=bands.FEW,
        strips=pictures,
        details=details.of_runs(own or study.runs),
        complaints=[*study.complaints, *left_out, *missing_pictures],
    )
    return printable(html)


# ---- tables


def _rows(study: Study, found: Comparison) -> list[dict[str, Any]]:
    """Each method on each task, for the summary table."""
    areas = {(entry.method, entry.tasks): entry.iqm for entry in found.areas}
    reached = {(row.method, row.task): row for row in found.reached}
    rows = []
    for entry in found.returns:
        (task,) = entry.tasks
        of = reached.get((entry.method, task))
        area = areas.get((entry.method, entry.tasks))
        end = entry.frame
        clocks = [run for run in _of(study, WALL_TIME, entry.method, task) if run.covers(end)]
        times = [np.interp(end, run.env_step, run.value) for run in clocks]
        counted = [run.value[run.env_step <= end] for run in _of(study, UPDATES_PER_SECOND, entry.method, task)]
        speeds = [np.median(values[values > 0]) for values in counted if (values > 0).any()]
        rows.append(
            _cells(entry.method, entry.iqm)
            | {
                "tasks": task,
                "spread": _between(entry.low, entry.high) if entry.iqm.runs > 1 else "",
                "area": f"{area.estimate:,.1f}" if area else "",
                "reached": _reached(of) if of else "",
                "wall_time": _duration(float(np.median(times))) if times else "",
                "updates": f"{np.median(speeds):,.0f}" if speeds else "",
            }
        )
    return rows


def _of(study: Study, metric: str, method: str, task: str) -> list[Run]:
    return [run for run in study.more.get(metric, []) if (run.method, run.task) == (method, task)]


def _aggregate(row: compare.Aggregate) -> dict[str, Any]:
    return _cells(row.method, row.iqm) | {
        "tasks": len(row.tasks),
        "mean": f"{row.mean.estimate:,.1f}",
        "median": f"{row.median.estimate:,.1f}",
        "gap": f"{row.optimality_gap.estimate:.3f}",
    }


def _cells(method: str, iqm: Interval) -> dict[str, Any]:
    return {
        "method": variants.label(method),
        "runs": iqm.runs,
        "iqm": f"{iqm.estimate:,.1f}",
        "interval": _between(iqm.low, iqm.high),
        "coverage": iqm.coverage,
    }


def _between(low: float, high: float) -> str:
    return f"{low:,.1f} to {high:,.1f}" if np.isfinite([low, high]).all() else "none"


def _reached(row: compare.Reached) -> str:
    when = f"{row.median:,.0f}" if np.isfinite(row.median) else "not reached"
    return f"{when} ({row.reached} of {row.runs})"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


# ---- curves


def _curves(study: Study, against: Sequence[str] | None, say: Say) -> tuple[dict[str, Any], list[str]]:
    """What the page's script draws, and a sentence for each thing that cannot be drawn."""
    runs = bands.cut_published(study.runs)
    own = [run for run in runs if not run.source] or runs
    tasks = sorted({run.task for run in own})
    methods = list(by_method(study.runs))
    shown = published.references(tasks, against=against, present=methods)
    metrics = measures.ordered(list(study.more))
    panels = _Panels(study, methods, len(metrics))
    returns = []
    have = tasks_of(own)
    _, common = largest_common(have, fewest=2)
    groups = bands.task_groups(tasks, common)
    for number, (title, which) in enumerate(groups.items()):
        say(f"learning curves {number + 1} of {len(groups)}: {title}")
        references = [row for row in shown if (row.task,) == which]
        returns.append(panels.panel(title, "", runs, which, Measure(EVALUATION, "return"), references=references))
    diagnostics = []
    for number, task in enumerate(tasks):
        say(f"diagnostics {number + 1} of {len(tasks)}: {task}")
        for metric in metrics:
            of_this = [run for run in study.more[metric] if run.task == task]
            if of_this:
                measure = measures.describe(metric)
                panel = panels.panel(measure.title, metric, of_this, (task,), measure, interval=False)
                diagnostics.append(panel | {"layer": measures.is_of_a_layer(metric)})
    visible = SHOWN if against is None else against
    names = list(dict.fromkeys(row.method for row in shown))
    return {
        "frames": panels.frames,
        "points": panels.points,
        "methods": [{"name": variants.label(method), "own": method not in panels.foreign} for method in methods],
        "references": [{"name": name, "shown": matches(name, visible)} for name in names],
        "returns": returns,
        "diagnostics": diagnostics,
        "tasks": tasks,
    }, panels.left_out


class _Panels:
    """Panels as plain values, with equal frames written once."""

    def __init__(self, study: Study, methods: Sequence[str], metrics: int) -> None:
        self.methods = {method: number for number, method in enumerate(methods)}
        self.foreign = {run.method for run in study.runs if run.source}
        pairs = len({run[:2] for run in study.runs})
        arrays = 3 * pairs * (1 + metrics) + len(study.runs)
        self.points = int(np.clip(CURVES_BYTES / (NUMBER_BYTES * arrays), FEWEST_POINTS, MOST_POINTS))
        self.frames: list[list[int]] = []
        self.left_out: list[str] = []
        self._places: dict[bytes, int] = {}

    def panel(
        self,
        title: str,
        about: str,
        runs: Iterable[Run],
        tasks: tuple[str, ...],
        measure: Measure,
        *,
        interval: bool = True,
        references: Sequence[Reference] = (),
    ) -> dict[str, Any]:
        """One panel: a line per method, the single runs where it is about one task, and published curves."""
        chosen = [run for run in runs if run.task in tasks]
        lines, notes, lacking = [], [], []
        for method, group in by_method(chosen).items():
            if {run.task for run in group} != set(tasks):
                lacking.append(variants.label(method))
                continue
            try:
                line = bands.line(group, points=self.points, interval=interval)
            except InputError as error:
                self.left_out.append(str(error))
                continue
            lines.append(self._line(line, interval=interval))
            notes.append(line.until)
        if lacking:
            notes.append(f"not on all of these tasks: {'; '.join(lacking)}")
        alone = len(tasks) == 1 and interval
        return {
            "title": title,
            "about": about,
            "task": tasks[0] if len(tasks) == 1 else "",
            "y": measure.unit or measure.title,
            "log": measure.log,
            "band": "95% interval of the IQM" if interval else "5th to 95th percentile of runs",
            "lines": lines,
            "seeds": [self._seed(run) for run in chosen] if alone else [],
            "references": [self._reference(row, by_method(chosen)) for row in references],
            "notes": [sentence for sentence in dict.fromkeys(notes) if sentence],
        }

    def _line(self, line: Line, *, interval: bool) -> dict[str, Any]:
        low, high = (line.band.low, line.band.high) if interval else (line.spread.low, line.spread.high)
        return {
            "method": self.methods[line.method],
            "x": self._at(line.band.points),
            "y": bands.rounded(line.band.estimate),
            "low": bands.rounded(low) if line.band.runs > 1 else [],
            "high": bands.rounded(high) if line.band.runs > 1 else [],
            "seeds": bands.seeds(line.runs),
        }

    def _seed(self, run: Run) -> dict[str, Any]:
        places = bands.thin(np.arange(len(run.env_step)), self.points)
        return {
            "method": self.methods[run.method],
            "seed": run.seed,
            "x": self._at(run.env_step[places]),
            "y": bands.rounded(run.value[places]),
        }

    def _reference(self, row: Reference, groups: dict[str, list[Run]]) -> dict[str, Any]:
        last = max((int(run.env_step[-1]) for group in groups.values() for run in group), default=0)
        inside = row.env_step <= max(last, row.env_step[0])
        return {
            "name": row.method,
            "x": self._at(row.env_step[inside]),
            "y": bands.rounded(row.iqm[inside]),
            "low": bands.rounded(row.p05[inside]),
            "high": bands.rounded(row.p95[inside]),
            "seeds": f"{row.seeds[inside][-1]} seeds",
        }

    def _at(self, frames: Num[np.ndarray, " n"]) -> int:
        """The place of these frames in the page."""
        whole = frames.astype(np.int64)
        place = self._places.setdefault(whole.tobytes(), len(self.frames))
        if place == len(self.frames):
            self.frames.append(whole.tolist())
        return place


# ---- the page's parts


def _file(name: str) -> str:
    return resources.files("steadyq.report").joinpath("data", name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that can stand inside a script element, whatever names are in it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
