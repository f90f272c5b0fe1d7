"""The learning curve of one run, as PNG."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from steadyq.errors import InputError
from steadyq.figures.plotting import COLOURS, FAINT, INK, style_axes
from steadyq.results import bands
from steadyq.results.read import read_folder
from steadyq.results.runs import Run
from steadyq.store import disk
from steadyq.store.names import EPISODES, EVALUATION

SIZE, DPI = (8.0, 5.0), 150  # inches and dots per inch: 1200 x 750 pixels


def write_learning_curve(run_dir: Path, path: Path) -> Path:
    """Draw the learning curve of one run into a PNG file: its evaluations over frames, and the training behind them.

    Args:
        run_dir: the folder of the run.
        path: the file to write; its folder is made.

    Raises:
        InputError: the folder is not a run's, the run has no evaluation yet, or `path` does not end in `.png`.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"figures are PNG files, got {path.name!r}; give a name that ends in .png")
    figure = draw_learning_curve(run_dir)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)  # savefig would ask the user's settings for its size
    disk.give(path, content.getvalue())
    return path


def draw_learning_curve(run_dir: Path) -> Figure:
    """The figure of `write_learning_curve`, not yet written."""
    everything = read_folder(run_dir, [])  # whatever is wrong with later measurements, there are none here
    evaluations, training = everything.get(EVALUATION, []), everything.get(EPISODES, [])
    if not evaluations:
        raise InputError(f"no evaluation ({EVALUATION}) in {run_dir} to draw; train with --eval-every above 0")
    one, seeds = evaluations[0], bands.seeds(evaluations)
    last = max(run.env_step[-1] for run in evaluations)
    figure, axes = _empty(f"{one.task}   {one.method}", f"{seeds}, {last:,} environment frames")
    for run in training:
        axes.plot(run.env_step, run.value, color=FAINT, linewidth=0.9, zorder=1, label="training episodes")
    if len(evaluations) > 1:
        for run in evaluations:
            axes.plot(
                run.env_step, run.value, color=COLOURS[0], linewidth=1.1, alpha=0.6, label="evaluation, each seed"
            )
        _bold(axes, evaluations, color=INK, label="evaluation, mean of seeds")
    else:
        _bold(axes, evaluations, color=COLOURS[0], label="evaluation")
    # Both axes start at zero where the data allow it: a cut-off axis flatters a curve.
    axes.set_xlim(0, 1.01 * max(1_000, *(run.env_step[-1] for run in [*training, *evaluations])))
    if min(run.value.min() for run in [*training, *evaluations]) >= 0:
        axes.set_ylim(bottom=0)
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # each name once
    axes.legend(named.values(), named.keys(), loc="lower right", frameon=False, labelcolor=INK, fontsize=10)
    return figure


def mean_at_common_frames(runs: Sequence[Run]) -> tuple[Int64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
    """The frames that all of these runs have in common, and the mean of their values there.

    Only common frames: where one seed has run further than another, a mean over the rest would jump.

    Raises:
        InputError: they have no frame in common.
    """
    common = runs[0].env_step
    for run in runs[1:]:
        common = np.intersect1d(common, run.env_step)
    if not common.size:
        raise InputError(f"{' and '.join(run.name for run in runs)} share no frame to average at; resume the run")
    return common, np.mean([run.value[np.searchsorted(run.env_step, common)] for run in runs], axis=0)


def _empty(title: str, subtitle: str) -> tuple[Figure, Axes]:
    """A white figure with one axis."""
    figure = Figure(figsize=SIZE, dpi=DPI, facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    axes = figure.subplots()
    style_axes(axes)
    axes.set_title(title, loc="left", pad=24, color=INK, fontsize=13, fontweight="bold", parse_math=False)
    axes.annotate(
        subtitle, (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points", color="0.35", fontsize=10
    )
    axes.set_xlabel("environment frames", color=INK, fontsize=11)
    axes.set_ylabel("return", color=INK, fontsize=11)
    return figure, axes


def _bold(axes: Axes, runs: Sequence[Run], *, color: str, label: str) -> None:
    """The mean of the seeds, or the one seed there is; a run with its first evaluation only shows as a point."""
    frames, values = mean_at_common_frames(runs)
    every = 1 + len(frames) // 40
    (line,) = axes.plot(frames, values, color=color, marker="o", markevery=every, label=label, zorder=3, clip_on=False)
    line.set(linewidth=2.4, markersize=5)
