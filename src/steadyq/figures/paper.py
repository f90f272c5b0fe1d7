"""The paper's figures, from run folders, tidy CSV files and published results: `steadyq figures`.

Each figure shows on its face which tasks, frames and seeds it shows, what is missing, and when the seeds are too few.
What each one shows: `docs/figures.md`.
"""

import functools
import io
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure

from steadyq.errors import InputError, unknown
from steadyq.figures import panels
from steadyq.figures.plotting import COLOURS, wrap
from steadyq.results import bands, measures, published, scores, statistics, variants
from steadyq.results.bands import Line
from steadyq.results.measures import Measure
from steadyq.results.runs import Run, Study, by_method, largest_common, tasks_of
from steadyq.results.statistics import Interval
from steadyq.results.variants import Variant
from steadyq.store import disk
from steadyq.store.names import EVALUATION

FEW = 4  # tasks that are named in a panel; of more, their number
MOST = len(COLOURS)  # methods in one figure: of more, colours would repeat
PUBLISHED = ("BRO-utd10@naumix", "SR-SAC-rr32@proceduralia")
"""Published methods of figure 3 unless others are asked for: BRO, and SAC with resets at a high update ratio."""


Tell = Callable[[str], None]


class Member(NamedTuple):
    """One method of a family."""

    variant: Variant
    runs: list[Run]


class Ends(NamedTuple):
    """IQMs of a family's members at the last frame that all of their runs reach, over the tasks that all have.

    Of the members as many as share tasks: see `largest_common`.
    """

    frame: int
    tasks: tuple[str, ...]
    values: list[tuple[Variant, Interval]]
    left_out: str  # what other members there are, and on what other tasks

    @property
    def words(self) -> str:
        """Frame, tasks and seeds for the panel."""
        runs = [interval.runs for _, interval in self.values]
        return f"{tasks_in_words(self.tasks)}; frame {self.frame:,}; {bands.seed_count(min(runs), max(runs))}"

    def drawn(self, members: Sequence[Member]) -> list[Run]:
        """The runs of a family that these values are made of."""
        there = [variant for variant, _ in self.values]
        return [run for one in members if one.variant in there for run in one.runs if run.task in self.tasks]


def draw(
    number: str,
    study: Study,
    *,
    against: Sequence[str] = PUBLISHED,
    tell: Tell = lambda sentence: None,
) -> Figure:
    """Draw one of `FIGURES`.

    Args:
        number: its name.
        study: as `read_study` returns it.
        against: patterns of the published methods in figure 3.
        tell: takes a sentence about each thing that it leaves out, which is on its face too.

    Raises:
        InputError: no such figure.
    """
    if number not in FIGURES:
        raise unknown("figure", number, FIGURES)
    figure = by_task(study, tell, against) if number == "3" else FIGURES[number](study, tell)
    panels.make_room(figure)
    return figure


def write(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and PDF; `path` has no suffix. Equal figures give equal files."""
    png, pdf = io.BytesIO(), io.BytesIO()
    with mpl.rc_context({"savefig.bbox": "standard", "savefig.dpi": "figure", "pdf.fonttype": 42}):
        FigureCanvasAgg(figure).print_png(png)
        FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None})
    files = {path.with_name(f"{path.name}.png"): png, path.with_name(f"{path.name}.pdf"): pdf}
    for place, content in files.items():
        disk.give(place, content.getvalue())
    return [*files]


# ---- the figures


def overview(study: Study, tell: Tell) -> Figure:
    """Figure 1: returns, Q-bias and the critic's weight norm."""
    wanted = [Measure(EVALUATION, "return"), *measures.Q_BIAS, measures.WEIGHT_NORM]
    return _of_measures("1: Returns, Q-bias and weight norms", study, tell, wanted)


def health(study: Study, tell: Tell) -> Figure:
    """Figure 4: the critic's gradient norm, effective learning rate and dead units."""
    wanted = [measures.GRADIENT_NORM, *measures.LEARNING_RATE, *measures.DEAD]
    return _of_measures("4: Gradient norm, effective learning rate and dead units of the critic", study, tell, wanted)


def scaling(study: Study, tell: Tell) -> Figure:
    """Figure 2: returns by update ratio, each recipe by itself."""
    title = "2: Returns by update-to-data ratio (UTD): IQM with 95% intervals"
    everything = _families(study.runs, lambda variant: (variant.recipe, variant.options))
    several = [members for members in everything if len(members) > 1] or everything
    if not several:
        return _only(
            title,
            "no method with a value after frame 0 tells its UTD in its name, as `steadyq train` writes it: sac-utd1",
        )
    left_out = several[MOST:]
    shown = [_whole(sorted(members, key=lambda member: member.variant.utd)) for members in several[:MOST]]
    warnings = [f"{len(left_out)} more recipes are not drawn: choose with --methods"] if left_out else []
    _tell_all(tell, "2", warnings)
    runs = [run for members, tasks, _ in shown for one in members for run in one.runs if run.task in tasks]
    figure, places = panels.make_figure(title, runs, 2 * len(shown), columns=2, warnings=warnings)
    for (members, tasks, rest), left, right in zip(shown, places[::2], places[1::2], strict=True):
        how = panels.looks(member.runs[0].method for member in members)
        family = ", ".join([members[0].variant.recipe, *members[0].variant.changes])
        ratios = [member.variant.utd for member in members]
        lines, apart = {}, []
        for member in members:
            if line := _line(member.runs, tasks):
                alone = ratios.count(member.variant.utd) == 1
                words = f"UTD {member.variant.utd}" if alone else wrap(line.method, 22)
                lines[f"{words}\n{bands.seeds(line.runs)}"] = line
            else:
                apart.append(variants.label(member.runs[0].method))
        rest = "; ".join(filter(None, [rest, _no_frame(apart)]))
        _tell_all(tell, "2", [rest])
        panels.write_title(left, family, _about(tasks, lines.values()))
        panels.draw_curves(left, lines, how, y="return")
        panels.write_below(left, [rest, _one_scale(tasks), *(line.until for line in lines.values())])
        ends = _ends(members)
        panels.write_title(right, f"{family}: by UTD", ends.words if ends else "")
        if ends is None:
            panels.explain_blank(right, "these runs share no task or no frame")
            continue
        panels.draw_by_number(
            right, {family: [(float(v.utd), i) for v, i in ends.values]}, x="critic updates per agent step"
        )
        panels.write_below(right, ["one UTD only: nothing to compare" if len(members) == 1 else ""])
    return figure


def by_task(study: Study, tell: Tell, against: Sequence[str] = PUBLISHED) -> Figure:
    """Figure 3: every task by itself, the dog and humanoid tasks together, and all tasks together."""
    chosen, warnings = _first(bands.cut_published(study.runs))
    own = [run for runs in chosen.values() for run in runs]
    names = sorted({run.task for run in own})
    ours = {method: runs for method, runs in chosen.items() if not runs[0].source}
    common, rest = _common(ours or chosen, fewest=2)
    _tell_all(tell, "3", [*warnings, *(f"of several tasks together {sentence}" for sentence in rest)])
    references = published.references(names, against=against, present=chosen)
    how = panels.looks(chosen)
    groups = bands.task_groups(names, common)
    title = "3: Returns by task: IQM and spread (5th to 95th percentile of runs)"
    if any(len(tasks) > 1 for tasks in groups.values()):
        title += "; several tasks: with 95% intervals"
    columns = max(2, round(math.sqrt(len(groups) * 0.8)))
    labels = [_label(method, runs) for method, runs in chosen.items()]
    labels += dict.fromkeys(f"{wrap(row.method, 24)}\npublished" for row in references)
    figure, places = panels.make_figure(title, own, len(groups), columns=columns, labels=labels, warnings=warnings)
    for (name, tasks), axes in zip(groups.items(), places, strict=True):
        lines = {method: _line(runs, tasks) for method, runs in chosen.items()}
        together = len(tasks) > 1
        lacking = [variants.label(method) for method, line in lines.items() if together and line is None]
        notes = [f"not on all of them: {', '.join(lacking)}"] if lacking else rest * together
        here = [method for method, runs in chosen.items() if any(run.task in tasks for run in runs)]
        notes += [_no_frame([variants.label(method) for method in here if lines[method] is None])] * (not together)
        if together and references:
            notes.append("published: over several tasks from per-seed results only (--published)")
        panels.write_title(axes, name, _about((), lines.values()) if any(lines.values()) else "")
        if not any(lines.values()):
            panels.explain_blank(
                axes, f"no method was run on {'all of them' if together else 'it'} to frames that its seeds share"
            )
            continue
        last = max(line.last for line in lines.values() if line)
        published_here = [row for row in references if (row.task,) == tasks]
        early = [row for row in published_here if row.env_step[0] <= last]
        panels.draw_curves(axes, _named(lines.values()), how, y="return", spread=not together, references=early)
        late = [row for row in published_here if row.env_step[0] > last]
        notes += [f"{row.method}: published from frame {row.env_step[0]:,} on" for row in late]
        panels.write_below(axes, [*notes, *(line.until for line in lines.values() if line)])
    return figure


def ablations(study: Study, tell: Tell) -> Figure:
    """Figure 5: a recipe with one or more options changed, next to the recipe as it is."""
    title = "5: What each change does: IQM of the return with 95% intervals"
    found = _families(study.runs, lambda variant: (variant.recipe, variant.utd))
    several = [(members, ends) for members in found if (ends := _ends(members)) and len(ends.values) > 1]
    _tell_all(tell, "5", [ends.left_out for _, ends in several])
    if not several:
        return _only(title, "no recipe here was run with an option changed and, on the same tasks, without")
    forests = []
    for _, ends in several:
        ordered = sorted(ends.values, key=lambda value: (len(value[0].options), value[0].options))
        rows = [(wrap(", ".join(v.changes) or "as it is", 40), i, not v.options) for v, i in ordered]
        forests.append([(f"{name}\n{bands.seed_count(i.runs, i.runs)}", i, marked) for name, i, marked in rows])
    runs = [run for members, ends in several for run in ends.drawn(members)]
    labels = [name for name, *_ in max(forests, key=len)]
    figure, places = panels.make_figure(title, runs, len(several), columns=1, labels=labels, wide=1.8)
    for (_, ends), rows, axes in zip(several, forests, places, strict=True):
        base = ends.values[0][0]
        panels.write_title(axes, f"{base.recipe}, UTD {base.utd}", ends.words)
        panels.draw_forest(axes, rows)
        plain = any(marked for *_, marked in rows)
        lone = "" if plain else "no run of the recipe as it is: nothing to compare with"
        panels.write_below(axes, [lone, ends.left_out])
    return figure


def sensitivity(study: Study, tell: Tell) -> Figure:
    """Figure 6: the return by learning rate, and by width."""
    title = "6: Sensitivity to learning rate and width: IQM of the return with 95% intervals"
    drawn = []
    for option, words in (("lr", "learning rate"), ("width", "width of the critic")):
        members = _families(study.runs, functools.partial(Variant.without, option=option))
        known = [[member for member in family if member.variant.value(option) is not None] for family in members]
        several = [family for family in known if len({member.variant.value(option) for member in family}) > 1]
        whole = [(family, found) for family in several if (found := _ends(family)) and len(found.values) > 1]
        drawn.append((option, words, whole))
    runs = [run for *_, whole in drawn for family, found in whole for run in found.drawn(family)]
    figure, places = panels.make_figure(title, runs, 2, columns=2)
    for (option, words, whole), axes in zip(drawn, places, strict=True):
        ends = {family[0].variant.without(option).words: found for family, found in whole}
        _tell_all(tell, "6", [found.left_out for found in ends.values()])
        panels.write_title(axes, words, "; ".join(dict.fromkeys(found.words for found in ends.values())))
        if not ends:
            panels.explain_blank(axes, f"no method here was run with two values of --{option} on the same tasks")
            continue
        series = {
            name: sorted((value, interval) for v, interval in found.values if (value := v.value(option)) is not None)
            for name, found in ends.items()
        }
        panels.draw_by_number(axes, series, x=words)
        panels.write_below(axes, [found.left_out for found in ends.values()])
    return figure


FIGURES: dict[str, Callable[[Study, Tell], Figure]] = {
    "1": overview,
    "2": scaling,
    "3": by_task,
    "4": health,
    "5": ablations,
    "6": sensitivity,
}


# ---- what they share


def _of_measures(title: str, study: Study, tell: Tell, wanted: Sequence[Measure]) -> Figure:
    """One panel per quantity, one line per method, over the tasks that they share."""
    chosen, warnings = _first([run for run in study.runs if not run.source] or study.runs)
    tasks, rest = _common(chosen)
    warnings += rest
    _tell_all(tell, title[0], warnings)
    chosen = {method: runs for method, runs in chosen.items() if {run.task for run in runs} >= {*tasks}}
    shown = [run for runs in chosen.values() for run in runs if run.task in tasks]
    columns = 2 if len(wanted) == 4 else 3
    labels = [_label(method, runs) for method, runs in chosen.items()]
    title = f"{title}: IQM with 95% intervals"
    figure, places = panels.make_figure(title, shown, len(wanted), columns=columns, labels=labels, warnings=warnings)
    how = panels.looks(chosen)
    for measure, axes in zip(wanted, places, strict=True):
        of_this = study.runs if measure.metric == EVALUATION else study.more.get(measure.metric, [])
        groups = by_method(of_this)
        lines = {method: _line(groups.get(method, []), tasks) for method in chosen}
        drawn = [line for line in lines.values() if line]
        panels.write_title(axes, measure.title, _about(tasks, drawn) if drawn else "")
        if not drawn:
            panels.explain_blank(axes, _unmeasured(measure, groups, tasks, [*chosen], alone=True))
        elif measure.metric == EVALUATION and (odd := _one_scale(tasks)):
            panels.explain_blank(axes, odd)
        else:
            panels.draw_curves(axes, _named(drawn), how, y=measure.unit, log=measure.log)
            lacking = [method for method, line in lines.items() if line is None]
            missing = _unmeasured(measure, groups, tasks, lacking, alone=False)
            panels.write_below(axes, [missing, *(line.until for line in drawn)])
    return figure


def _unmeasured(
    measure: Measure, groups: Mapping[str, Sequence[Run]], tasks: Sequence[str], methods: Sequence[str], *, alone: bool
) -> str:
    """Why these methods, `alone` or next to others, have no curve of a quantity over these tasks, and what to do."""
    there = {method: {run.task for run in groups.get(method, [])} for method in methods}
    gaps = {method: [task for task in tasks if task not in there[method]] for method in methods}
    without = [variants.label(method) for method in methods if len(gaps[method]) == len(tasks)]
    words = (
        ["in these runs" if alone and len(without) == len(methods) else f"of {', '.join(without)}"] if without else []
    )
    words += [
        f"of {variants.label(method)} on {', '.join(lacked[:FEW])}"
        + f" and {len(lacked) - FEW} more" * (len(lacked) > FEW)
        for method, lacked in gaps.items()
        if 0 < len(lacked) < len(tasks)
    ]
    apart = _no_frame([variants.label(method) for method in methods if not gaps[method]])
    missing = f"no {measure.metric} {'; '.join(words)}: {measures.remedy(measure.metric)}" if words else ""
    return "; ".join(filter(None, [missing, apart]))


def _no_frame(methods: Sequence[str]) -> str:
    """What to report of methods whose seeds share no frame; nothing if there is none."""
    return f"not drawn: {', '.join(methods)} (no frame that all of its seeds reach)" if methods else ""


def _only(title: str, sentence: str) -> Figure:
    """A figure that has nothing to show, and reports why."""
    figure, (axes,) = panels.make_figure(title, [], 1, columns=1, wide=1.8)
    panels.explain_blank(axes, sentence)
    return figure


def _first(runs: Iterable[Run]) -> tuple[dict[str, list[Run]], list[str]]:
    """The runs of as many methods as one figure can show, and what to report of the rest."""
    groups = by_method(runs)
    rest = len(groups) - MOST
    warnings = [f"The first {MOST} of {len(groups)} methods: choose others with --methods."] if rest > 0 else []
    return dict(list(groups.items())[:MOST]), warnings


def _common(groups: Mapping[str, Sequence[Run]], *, fewest: int = 1) -> tuple[tuple[str, ...], list[str]]:
    """The tasks that most of these methods share, and what to report of the other methods and of the other tasks."""
    have = tasks_of(run for runs in groups.values() for run in runs)
    methods, tasks = largest_common(have, fewest=fewest)
    if not tasks:
        return (), []
    lacking = [variants.label(method) for method in have if method not in methods]
    others = sorted({task for method in methods for task in have[method]} - {*tasks})
    rest = [f"left out: {', '.join(lacking)} (not on all of {tasks_in_words(tasks)})"] if lacking else []
    rest += [f"left out: {', '.join(others)} (not all of these methods have runs there)"] if others else []
    return tasks, rest


def _whole(members: Sequence[Member]) -> tuple[list[Member], tuple[str, ...], str]:
    """The members that share most tasks, these tasks, and what to report of the rest."""
    tasks, rest = _common({member.runs[0].method: member.runs for member in members})
    whole = [member for member in members if {run.task for run in member.runs} >= {*tasks}]
    return whole, tasks, "; ".join(rest)


def _tell_all(tell: Tell, number: str, sentences: Iterable[str]) -> None:
    for sentence in filter(None, sentences):
        tell(f"figure {number}: {sentence}")


def _line(runs: Sequence[Run], tasks: Sequence[str]) -> Line | None:
    """The curve over these tasks, if there are runs on all of them and they share a frame."""
    chosen = [run for run in runs if run.task in tasks]
    if not chosen or {run.task for run in chosen} != set(tasks):
        return None
    try:
        return bands.line(chosen)
    except InputError:
        return None


def _named(lines: Iterable[Line | None]) -> dict[str, Line]:
    return {_label(line.method, line.runs): line for line in lines if line}


def _label(method: str, runs: Sequence[Run]) -> str:
    return f"{wrap(variants.label(method), 22)}\n{bands.seeds(runs)}"


def _families(runs: Iterable[Run], key: Callable[[Variant], Hashable]) -> list[list[Member]]:
    """Methods whose variants agree in the key, in the order of their runs; a name without a variant has no family.

    Without the runs that have only just begun.
    """
    found: dict[Hashable, list[Member]] = {}
    for method, chosen in by_method(run for run in runs if run.env_step[-1] > 0).items():
        if variant := variants.parse(method):
            found.setdefault(key(variant), []).append(Member(variant, chosen))
    return list(found.values())


def _ends(members: Sequence[Member]) -> Ends | None:
    """Values at the end; None if the members share no frame, or their tasks no scale."""
    members, tasks, rest = _whole(members)
    runs = [run for member in members for run in member.runs if run.task in tasks]
    if not runs or _one_scale(tasks):
        return None
    stop = min(int(run.env_step[-1]) for run in runs)
    found = scores.at(runs, [stop])
    values = []
    for member in members:
        mine = found.get(member.runs[0].method)
        if mine is None or set(mine.tasks) != set(tasks):
            return None
        interval = statistics.estimate(statistics.iqm, mine, resamples=bands.RESAMPLES).at(0)
        values.append((member.variant, interval))
    return Ends(stop, tasks, values, rest)


def _one_scale(tasks: Sequence[str]) -> str:
    """Why returns of these tasks cannot be averaged, or nothing."""
    odd = [task for task in tasks if not scores.is_dmc(task)]
    if len(tasks) < 2 or not odd:
        return ""
    return f"returns of {', '.join(odd)} and other tasks have no common scale: choose one with --tasks"


def _about(tasks: Sequence[str], lines: Iterable[Line | None]) -> str:
    """Tasks and frames for a panel."""
    last = max((line.last for line in lines if line), default=0)
    return "; ".join(filter(None, [tasks_in_words(tasks), f"to frame {last:,.0f}"]))


def tasks_in_words(tasks: Sequence[str]) -> str:
    """One task by its name, a few by theirs, of more their number."""
    return ", ".join(tasks) if len(tasks) <= 2 else f"{len(tasks)} tasks"
