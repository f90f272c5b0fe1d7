"""How the time of an update grows with width, batch, UTD, critics and seeds, next to its arithmetic."""

import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.rows import Row, milliseconds, row, table
from benchmarks.steps import Steps

AXES: dict[str, list[int]] = {
    "width": [128, 256, 512, 1024, 2048],
    "batch": [64, 128, 256, 512, 1024],
    "UTD": [1, 2, 5, 10, 20],
    "critics": [1, 2, 4, 8],
    "seeds": [1, 2, 4, 8],
}


def build(axis: str, value: int) -> Steps:
    """`crossq_wn` at dog-run sizes with one thing changed."""
    choices: dict[str, Any] = {"updates": 6}  # a multiple of the actor's three
    if axis == "width":
        return Steps("crossq_wn", {"width": value}, **choices)
    if axis == "critics":
        return Steps("crossq_wn", {"n_critics": value}, **choices)
    if axis == "UTD":
        choices["updates"] = value
    else:
        choices[axis] = value
    return Steps("crossq_wn", **choices)


def measure(minutes: float) -> list[Row]:
    """Milliseconds and GFLOP of an agent step's updates, all cases taking turns."""
    steps = {(axis, value): build(axis, value) for axis, values in AXES.items() for value in values}
    for step in steps.values():
        step.run()
    times: dict[tuple[str, int], list[float]] = {key: [] for key in steps}
    started = time.monotonic()
    while len(times["width", 128]) < 5 or time.monotonic() - started < 60 * minutes:
        for key, step in steps.items():
            times[key].append(milliseconds(step.run))
    rows = []
    for (axis, value), step in steps.items():
        case, scale = f"{axis}={value}", step.updates * step.seeds
        flops = scale * sum(count * product.flops for product, count in step.products().items())
        rows.append(row("growth", case, "time", "ms per agent step", times[axis, value]))
        rows.append(row("growth", case, "products", "GFLOP per agent step", [flops / 1e9]))
    return rows


def _of(rows: list[Row], axis: str, metric: str) -> list[float]:
    found = {r.case: r.median for r in rows if r.part == "growth" and r.metric == metric}
    return [found[f"{axis}={value}"] for value in AXES[axis]]


def report(rows: list[Row]) -> str:
    """Markdown: how many times longer, and how many times more arithmetic, than the least value."""
    lines = []
    for axis, values in AXES.items():
        times, flops = _of(rows, axis, "time"), _of(rows, axis, "products")
        for value, taken, work in zip(values, times, flops, strict=True):
            lines.append([axis, value, f"{taken:.0f}", f"{taken / times[0]:.1f}", f"{work / flops[0]:.1f}"])
    text = table(["changed", "to", "ms per agent step", "time grows by", "arithmetic grows by"], lines)
    return (
        text + "\nAt UTD 1 the median step has no actor's update, which is due at every third: UTD grows from less.\n"
    )


def draw(rows: list[Row], path: Path) -> None:
    """Time against arithmetic, both relative to the least value of each axis."""
    figure, panels = plt.subplots(1, len(AXES), figsize=(15, 3.2), layout="constrained")
    for panel, (axis, values) in zip(panels, AXES.items(), strict=True):
        times, flops = _of(rows, axis, "time"), _of(rows, axis, "products")
        panel.loglog(values, [value / flops[0] for value in flops], "--", color="0.6", label="arithmetic")
        panel.loglog(values, [value / times[0] for value in times], "o-", color="#0072B2", label="time")
        panel.set_xticks(values, [str(value) for value in values], minor=False)
        panel.minorticks_off()
        panel.set_xlabel(axis)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("times the least value's")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
