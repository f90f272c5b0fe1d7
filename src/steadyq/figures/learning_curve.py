"""Learning curves of run folders, as PNG."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from steadyq.errors import InputError
from steadyq.figures.plotting import COLOURS, FAINT, INK, MARKERS, dress, label_ends, wrap
from steadyq.results import curves
from steadyq.results.curves import Curve
from steadyq.store.names import EPISODES, EVALUATION

SIZE, DPI = (8.0, 5.0), 150  # inches and dots per inch: 1200 x 750 pixels


def learning_curve(run_dir: Path, path: Path) -> Path:
    """Draw the learning curve of one run: its evaluations over environment frames, and the training behind them.

    Args:
        run_dir: the folder of the run.
        path: the PNG file to write; its folder is made.

    Raises:
        InputError: the folder is not a run's, the run has no evaluation yet, or `path` does not end in `.png`.
    """
    return _save(draw_learning_curve(run_dir), path)


def learning_curves(runs: Sequence[Path], path: Path) -> Path:
    """Draw the learning curves of several runs on one task, seeds pooled by experiment name.

    Args:
        runs: the folders of the runs; those with one experiment name are seeds of one curve.
        path: the PNG file to write; its folder is made.

    Raises:
        InputError: as `learning_curve`, or the runs are of different tasks.
    """
    return _save(draw_learning_curves(runs), path)


def draw_learning_curve(run_dir: Path) -> Figure:
    """The figure of `learning_curve`, not yet written."""
    everything = curves.read([run_dir])
    evaluations = _evaluations(everything, [run_dir])
    one, several = evaluations[0], len(evaluations) > 1
    training = [curve for curve in everything if curve.metric == EPISODES]
    figure, axes = _empty(f"{one.env_name}   {one.exp_name}", f"{_seeds(evaluations)}, {_frames(evaluations)}")
    for curve in training:
        axes.plot(curve.env_step, curve.value, color=FAINT, linewidth=0.9, zorder=1, label="training episodes")
    if several:
        for curve in evaluations:
            axes.plot(
                curve.env_step, curve.value, color=COLOURS[0], linewidth=1.1, alpha=0.6, label="evaluation, each seed"
            )
        _bold(axes, evaluations, color=INK, label="evaluation, mean of seeds")
    else:
        _bold(axes, evaluations, color=COLOURS[0], label="evaluation")
    _limits(axes, [*training, *evaluations])
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # each name once
    axes.legend(named.values(), named.keys(), loc="lower right", frameon=False, labelcolor=INK, fontsize=10)
    return figure


def draw_learning_curves(runs: Sequence[Path]) -> Figure:
    """The figure of `learning_curves`, not yet written."""
    evaluations = _evaluations(curves.read(runs), runs)
    tasks = sorted({curve.env_name for curve in evaluations})
    if len(tasks) > 1:
        raise InputError(f"returns of {' and '.join(tasks)} do not share an axis; draw one figure per task")
    groups: dict[str, list[Curve]] = {}
    for curve in evaluations:
        groups.setdefault(curve.exp_name, []).append(curve)
    figure, axes = _empty(tasks[0], f"each seed thin, their mean bold; up to {_frames(evaluations)}")
    labels: dict[str, Line2D] = {}
    for number, (name, group) in enumerate(groups.items()):
        color, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        if len(group) > 1:
            for curve in group:
                axes.plot(curve.env_step, curve.value, color=color, linewidth=0.9, alpha=0.35)
        labels[f"{wrap(name)}\n{_seeds(group)}"] = _bold(axes, group, color=color, marker=marker)
    _limits(axes, evaluations)
    label_ends(axes, labels)
    return figure


def _evaluations(everything: Iterable[Curve], runs: Sequence[Path]) -> list[Curve]:
    evaluations = [curve for curve in everything if curve.metric == EVALUATION]
    if not evaluations:
        places = ", ".join(str(run) for run in runs)
        raise InputError(f"no evaluation ({EVALUATION}) in {places} to draw; train with --eval-every above 0")
    return evaluations


def _empty(title: str, subtitle: str) -> tuple[Figure, Axes]:
    """A white figure with one axis."""
    figure = Figure(figsize=SIZE, dpi=DPI, facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    axes = figure.subplots()
    dress(axes)
    axes.set_title(title, loc="left", pad=24, color=INK, fontsize=13, fontweight="bold", parse_math=False)
    axes.annotate(
        subtitle, (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points", color="0.35", fontsize=10
    )
    axes.set_xlabel("environment frames", color=INK, fontsize=11)
    axes.set_ylabel("return", color=INK, fontsize=11)
    return figure, axes


def _bold(axes: Axes, group: Sequence[Curve], *, color: str, marker: str = "o", label: str = "") -> Line2D:
    """The mean of a group of seeds, or the one seed there is; a run with its first evaluation only shows as a point."""
    frames, values = curves.mean(group)
    every = 1 + len(frames) // 40
    (line,) = axes.plot(
        frames, values, color=color, marker=marker, markevery=every, label=label, zorder=3, clip_on=False
    )
    line.set(linewidth=2.4, markersize=5)
    return line


def _limits(axes: Axes, drawn: Sequence[Curve]) -> None:
    """Start both axes at zero where the data allow it: a cut-off axis flatters a curve."""
    axes.set_xlim(0, 1.01 * max(1_000, *(curve.env_step[-1] for curve in drawn)))
    if min(curve.value.min() for curve in drawn) >= 0:
        axes.set_ylim(bottom=0)


def _seeds(group: Sequence[Curve]) -> str:
    seeds = {(curve.exp_name, curve.seed) for curve in group}
    return f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"


def _frames(group: Sequence[Curve]) -> str:
    return f"{max(curve.env_step[-1] for curve in group):,} environment frames"


def _save(figure: Figure, path: Path) -> Path:
    if path.suffix.lower() != ".png":
        raise InputError(f"figures are PNG files, got {path.name!r}; give a name that ends in .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)  # savefig would ask the user's settings for its size
    return path
