"""Panels of the paper's figures: curves with bands, points with intervals, and what has to be known of them."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, ScalarFormatter

from steadyq.figures.plotting import COLOURS, INK, MARKERS, style_axes, wrap
from steadyq.results import bands, statistics
from steadyq.results.bands import Line
from steadyq.results.published import Reference
from steadyq.results.runs import Run
from steadyq.results.statistics import Interval

DPI, PANEL, HEAD, SMALL = 150, (4.3, 2.9), 11, 7.5  # dots per inch; inches; points of text
LINE = 1.3 * SMALL / 72  # inches that a line of small text is high
HEADLINE = 1.2 * HEAD / 72  # inches that a line of the heading is high
NARROWEST = 0.05  # of its values that a vertical axis shows: what hardly moves shall look so
GREYS = ("0.45", "0.6", "0.3")  # of published curves: one's own have the colours
STYLES = ("-", (0, (5, 1.5)), "-.", (0, (1, 1.2)), (0, (8, 1.5, 1, 1.5)), (0, (3, 1)), (0, (4, 1, 1, 1, 1, 1)))


class Look(NamedTuple):
    """How a method is drawn: told apart by colour, and in grey by marker and dashes."""

    colour: str
    marker: str
    style: str | tuple


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name."""
    return {
        name: Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], STYLES[i % len(STYLES)])
        for i, name in enumerate(names)
    }


def make_figure(
    title: str,
    runs: Sequence[Run],
    panels: int,
    *,
    columns: int,
    labels: Iterable[str] = (),
    warnings: Sequence[str] = (),
    wide: float = 1,
) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, and on its face what it shows and how little that may be.

    Args:
        title: its first line.
        runs: all that it shows.
        panels: how many.
        columns: in so many columns.
        labels: at the ends of a panel's lines, which must find room below each other.
        warnings: further lines of the title.
        wide: a panel's width, as a multiple of the usual one.
    """
    columns = min(columns, panels)
    rows = math.ceil(panels / columns)
    room = sum(LINE * max(3.3, label.count("\n") + 1.3) for label in labels)
    size = max(columns * PANEL[0] * wide, 6.4), rows * max(PANEL[1], room + 1) + 0.6
    figure = Figure(
        figsize=size, dpi=DPI, facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.02)
    )
    width = int(size[0] * 10.5)
    lines = [title, *(sentence for sentence in (too_few(runs), *warnings) if sentence)]
    head = figure.suptitle(
        "\n".join(textwrap.fill(line, width) for line in lines),
        x=0.01,
        horizontalalignment="left",
        color=INK,
        fontsize=HEAD,
        fontweight="bold",
    )
    head.set_parse_math(False)
    found = [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]
    for axes in found:
        style_axes(axes, size=8)
    return figure, found


def too_few(runs: Sequence[Run]) -> str:
    """The sentence on the face of a figure whose seeds are too few, or nothing."""
    if not runs or (least := bands.fewest(runs)) >= bands.FEW:
        return ""
    if least == 1:
        return "TOO FEW SEEDS: 1 on some task. No interval, and nothing about other seeds."
    tasks = len({run.task for run in runs})
    real = statistics.coverage(statistics.IQM_COVERAGE, runs=least, tasks=tasks)
    return f"TOO FEW SEEDS: {least} on some task. Real coverage of a 95% interval: about {real}."


def write_title(axes: Axes, title: str, about: str = "") -> None:
    """A panel's title, and below it what it is about."""
    axes.set_title(
        textwrap.fill(title, 44), loc="left", pad=15 if about else 6, color=INK, fontsize=9.5, fontweight="bold"
    ).set_parse_math(False)
    axes.annotate(
        about, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", color="0.35", fontsize=SMALL
    ).set_parse_math(False)


def explain_blank(axes: Axes, sentence: str) -> None:
    """Write in the middle of an empty panel why it is empty."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.text(
        0.5,
        0.5,
        textwrap.fill(sentence, 40),
        transform=axes.transAxes,
        horizontalalignment="center",
        verticalalignment="center",
        color="0.35",
        fontsize=9,
        wrap=False,
    ).set_parse_math(False)


def write_below(axes: Axes, sentences: Iterable[str]) -> None:
    """Write below a panel what its curves do not show."""
    text = "; ".join(dict.fromkeys(sentence for sentence in sentences if sentence))
    label = axes.get_xlabel()
    below = "\n".join([label, textwrap.fill(text, 62)] if text else [label])
    axes.set_xlabel(below, color="0.35", fontsize=SMALL, loc="left").set_parse_math(False)


def make_room(figure: Figure) -> None:
    """Grow a figure by what `write_below` wrote, and by a heading of more than a line.

    Otherwise its panels would shrink, and their labels overlap.
    """
    lines = dict[int, int]()
    for axes in figure.get_axes():
        if place := axes.get_subplotspec():
            row = place.rowspan.start
            lines[row] = max(lines.get(row, 0), axes.get_xlabel().count("\n"))
    more = HEADLINE * figure.get_suptitle().count("\n") + LINE * sum(lines.values())
    figure.set_figheight(figure.get_figheight() + more)


def draw_curves(
    axes: Axes,
    lines: Mapping[str, Line],
    how: Mapping[str, Look],
    *,
    y: str = "",
    log: bool = False,
    spread: bool = False,
    references: Sequence[Reference] = (),
) -> None:
    """Curves with bands, each named at its end: 95% intervals, or the 5th to 95th percentile of runs if `spread`.

    Args:
        axes: where.
        lines: by their label.
        how: the look of each method.
        y: what the values are.
        log: draw them on a logarithmic axis if all are above 0.
        spread: which band.
        references: published curves to draw behind, with their percentiles; each begins before the lines end.
    """
    ends, lows = {}, list[np.ndarray]()
    longest = max((found.last for found in lines.values()), default=0.0) or 1_000.0
    for number, row in enumerate(references):
        inside = row.env_step <= longest
        frames, grey = row.env_step[inside], GREYS[number % len(GREYS)]
        _band(axes, frames, row.p05[inside], row.p95[inside], grey, alpha=0.15, zorder=1)
        lows.append(row.p05[inside])
        (ends[f"{wrap(row.method, 24)}\npublished, {row.seeds[inside][-1]} seeds"],) = axes.plot(
            frames,
            row.iqm[inside],
            color=grey,
            marker="o" if len(frames) == 1 else "",
            linestyle=STYLES[number % len(STYLES)],
            markersize=4,
            linewidth=1.1,
            zorder=2,
        )
    for label, found in lines.items():
        look, frames = how[found.method], found.band.points
        low, high = (found.spread.low, found.spread.high) if spread else (found.band.low, found.band.high)
        _band(axes, frames, low, high, look.colour, alpha=0.18, zorder=2)
        lows.append(low)
        (ends[label],) = axes.plot(
            frames,
            found.band.estimate,
            color=look.colour,
            marker=look.marker,
            linestyle=look.style,
            markevery=1 + len(frames) // 8,
            markersize=4,
            linewidth=1.7,
            zorder=3,
        )
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ends.values()] or [np.zeros(1)])
    least = np.nanmin(np.concatenate([values, *lows]))  # the ends of one run's interval are not numbers
    axes.set_xlim(0, longest * 1.01)
    if log and least > 0:
        axes.set_yscale("log")
        if values.max() < 30 * values.min():
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(ScalarFormatter())
        else:
            axes.yaxis.set_major_formatter(LogFormatterSciNotation())
        axes.yaxis.minorticks_off()
    elif least >= 0:
        axes.set_ylim(bottom=0)
    bottom, top = axes.get_ylim()
    shown = max(top - bottom, NARROWEST * max(abs(bottom), abs(top)))
    if shown > top - bottom:
        axes.set_ylim((bottom + top - shown) / 2, (bottom + top + shown) / 2)
    axes.set_ylabel(y, color=INK, fontsize=8)
    axes.set_xlabel("environment frames")
    label_ends(axes, ends)


def draw_by_number(axes: Axes, series: Mapping[str, Sequence[tuple[float, Interval]]], *, x: str) -> None:
    """Estimates with their intervals over a number on a logarithmic axis, one line per series, named at its end."""
    how, ends = looks(series), {}
    for name, points in series.items():
        look = how[name]
        numbers = [number for number, _ in points]
        estimates = np.array([interval.estimate for _, interval in points])
        lows, highs = (np.array([getattr(interval, end) for _, interval in points]) for end in ("low", "high"))
        axes.errorbar(
            numbers,
            estimates,
            np.nan_to_num(np.stack([estimates - lows, highs - estimates])).clip(min=0),
            fmt="none",
            ecolor=look.colour,
            capsize=3,
        )
        (ends[wrap(name, 30)],) = axes.plot(
            numbers, estimates, color=look.colour, marker=look.marker, linestyle=look.style, linewidth=1.5, markersize=5
        )
    ticks = sorted({number for points in series.values() for number, _ in points})
    axes.set_xscale("log")
    axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    bottom, highest = min(0.0, axes.get_ylim()[0]), axes.dataLim.y1
    room = 0.05 * (highest - bottom or 1.0)  # for the markers, above values that lie close together
    axes.set_ylim(bottom, highest + room)
    axes.set_xlabel(x)
    axes.set_ylabel("return", color=INK, fontsize=8)
    label_ends(axes, ends)


def draw_forest(axes: Axes, rows: Sequence[tuple[str, Interval, bool]]) -> None:
    """Estimates with their intervals, one below the other; the marked one is what the rest are compared with."""
    for height, (_, interval, marked) in enumerate(reversed(rows)):
        colour = COLOURS[0] if marked else INK
        axes.plot([interval.low, interval.high], [height, height], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(interval.estimate, height, color=colour, marker="s" if marked else "o", markersize=6)
        axes.annotate(
            f"{interval.estimate:,.0f}",
            (interval.estimate, height),
            (0, 6),
            textcoords="offset points",
            color=colour,
            fontsize=SMALL,
            horizontalalignment="center",
        )
        if marked:
            axes.axvline(interval.estimate, color=colour, linewidth=0.7, linestyle=":", zorder=0)
    axes.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x", color="0.9", linewidth=0.8)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.set_xlabel("return")


def label_ends(axes: Axes, labels: Mapping[str, Line2D]) -> None:
    """Name each line right of the axis, whose limits must be set, in its colour, joined to its end by a hairline."""
    ends = [np.asarray(line.get_xydata(), dtype=np.float64)[-1].tolist() for line in labels.values()]
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = [float(to_axes.transform(end)[1]) for end in ends]
    height = _line_height(axes)
    heights = keep_apart(wanted, [height * (label.count("\n") + 1.3) for label in labels])
    for (label, line), end, centre in zip(labels.items(), ends, heights, strict=True):
        axes.annotate(
            label,
            end,
            (1.05, centre),
            textcoords="axes fraction",
            color=line.get_color(),
            fontsize=SMALL,
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": line.get_color(),
                "linewidth": 0.6,
                "relpos": (0, 0.5),  # to the label's left edge: never through its words
                "shrinkA": 2,
                "shrinkB": 3,
            },
        ).set_parse_math(False)


def keep_apart(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Centres near the wanted ones, in their order, for labels of these sizes not to overlap in [0, 1] if they fit."""
    order = [int(index) for index in np.argsort(wanted, kind="stable")]
    centres, floor, ceiling = list(wanted), -math.inf, 1.0
    for index in order:
        centres[index] = max(centres[index], floor + sizes[index] / 2)
        floor = centres[index] + sizes[index] / 2
    for index in reversed(order):
        centres[index] = min(centres[index], ceiling - sizes[index] / 2)
        ceiling = centres[index] - sizes[index] / 2
    return centres


def _band(
    axes: Axes, frames: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, *, alpha: float, zorder: int
) -> None:
    """The area between two curves; of a single frame a bar."""
    edge = 5 if len(frames) == 1 else 0
    axes.fill_between(frames, low, high, color=colour, alpha=alpha, linewidth=edge, zorder=zorder)


def _line_height(axes: Axes) -> float:
    """About how high a line of small text is, as a share of the axis."""
    place = axes.get_subplotspec()
    figure = axes.get_figure(root=True)
    if place is None or figure is None:
        raise ValueError("a panel is made by `make_figure`")
    return LINE / (figure.get_figheight() / place.get_gridspec().nrows - 0.9)
