"""The state of a study's runs as tables, lines and JSON."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyq.output import plural, safe
from steadyq.study import state
from steadyq.study.plan import Planned

if TYPE_CHECKING:
    from rich.table import Table

ORDER: tuple[state.Name, ...] = ("running", "failed", "waiting", "done")
MOST_ROWS = 30
"""Of a live table."""


def rows(study: Path, runs: Sequence[Planned]) -> list[dict[str, Any]]:
    """Every run's state in plain JSON values, in the order of the plan."""
    return [_row(run, state.look(study, run)) for run in runs]


def _row(run: Planned, found: state.State) -> dict[str, Any]:
    speed = found.frames_per_second
    return {
        "run": run.folder,
        "state": found.name,
        "frame": min(found.frame, run.frames),
        "frames": run.frames,
        "frames_per_second": speed,
        "seconds_left": max(0, run.frames - found.frame) / speed if speed else None,
        "reason": found.reason or None,
    }


def summary(found: Sequence[dict[str, Any]]) -> str:
    """How many runs are in which state."""
    count = Counter(row["state"] for row in found)
    return f"{plural(len(found), 'run')}: " + ", ".join(f"{count[name]:,} {name}" for name in ORDER)


def lines(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Plain lines: the summary, and each run that is not done, what it does now first."""
    yield summary(found)
    for row in _by_state(found):
        if row["state"] != "done":
            yield "  ".join(filter(None, [f"{row['state']:8}", row["run"], *_progress(row), row["reason"]]))


def table(found: Sequence[dict[str, Any]]) -> "Table":
    """A table for a terminal: as many runs as fit, what they do now first."""
    from rich.table import Table

    made = Table(title=summary(found), title_justify="left", expand=False)
    for name in ("state", "run", "frame", "frames/s", "time left", "reason"):
        right = name in ("frame", "frames/s", "time left")
        made.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
    ordered = _by_state(found)
    for row in ordered[:MOST_ROWS]:
        frame, speed, left = (*_progress(row), "", "", "")[:3]
        made.add_row(row["state"], safe(row["run"]), frame, speed, left, safe(row["reason"] or ""))
    if len(ordered) > MOST_ROWS:
        made.caption = f"and {len(ordered) - MOST_ROWS:,} more"
    return made


def _by_state(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda row: ORDER.index(row["state"]))


def _progress(row: dict[str, Any]) -> list[str]:
    """Frame, speed and time left, as far as they are known."""
    words = [f"{row['frame']:,} of {row['frames']:,}"]
    if row["frames_per_second"]:
        words += [f"{row['frames_per_second']:.1f}/s", duration(row["seconds_left"])]
    return words


def duration(seconds: float) -> str:
    """Hours and minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60}h{minutes % 60:02}" if minutes >= 60 else f"{minutes} min"
