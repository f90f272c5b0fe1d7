"""The look of every figure: colours, axes, and labels at the ends of lines.

matplotlib's own objects, without pyplot: no window, no global state, nothing for a user's notebook to notice. Every
colour is said, so that a user's own style does not shine through.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

INK, FAINT = "0.15", "0.8"
# Okabe and Ito's colours, which colour-blind readers tell apart, ordered so that neighbours differ in grey as well.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v")


def style_axes(axes: Axes, *, size: float = 10) -> None:
    """White ground, a light grid, environment frames along the bottom."""
    axes.set_facecolor("white")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(True, axis="y", color="0.9", linewidth=0.8, linestyle="-")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.5")
    axes.tick_params(colors="0.3", labelsize=size)
    axes.yaxis.get_offset_text().set(x=-0.02, horizontalalignment="right", color="0.3", fontsize=size)  # off the title


def label_ends(axes: Axes, labels: Mapping[str, Line2D], *, size: float = 10, height: float = 0.045) -> None:
    """Name each line right of the axis, in its colour, joined to its end by a hairline.

    Args:
        axes: where; its limits must be set.
        labels: the lines by their text.
        size: of the text, in points.
        height: of one line of text, as a share of the axis.
    """
    ends = [np.asarray(line.get_xydata(), dtype=np.float64)[-1].tolist() for line in labels.values()]
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = [float(to_axes.transform(end)[1]) for end in ends]
    heights = keep_apart(wanted, [height * (label.count("\n") + 1.3) for label in labels])
    for (label, line), end, centre in zip(labels.items(), ends, heights, strict=True):
        axes.annotate(
            label,
            end,
            (1.05, centre),
            textcoords="axes fraction",
            color=line.get_color(),
            fontsize=size,
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


def wrap(name: str, width: int = 28) -> str:
    """A long name in lines, broken after its hyphens."""
    return textwrap.fill(name.replace("-", "- "), width).replace("- ", "-")
