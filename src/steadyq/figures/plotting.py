"""The look of every figure: colours, axes, and labels at the ends of lines.

matplotlib's own objects, without pyplot: no window, no global state, nothing for a user's notebook to notice. Every
colour is said, so that a user's own style does not shine through.
"""

import textwrap

from matplotlib.axes import Axes
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


def wrap(name: str, width: int = 28) -> str:
    """A long name in lines, broken after its hyphens."""
    return textwrap.fill(name.replace("-", "- "), width).replace("- ", "-")
