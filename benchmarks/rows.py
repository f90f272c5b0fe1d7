"""What every benchmark gives: rows with medians and spread, and the clock they are taken with."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One measured quantity."""

    part: str  # which benchmark
    case: str  # what was measured, in words of `key=value`
    metric: str
    unit: str
    median: float
    low: float  # 10th percentile
    high: float  # 90th percentile
    count: int  # measurements


def row(part: str, case: str, metric: str, unit: str, values: Sequence[float]) -> Row:
    """The row of several measurements of one thing."""
    tenths = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else [values[0]] * 9
    return Row(part, case, metric, unit, statistics.median(values), tenths[0], tenths[-1], len(values))


def milliseconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


def table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in rows) + "\n"


def spread(row: Row, digits: int = 1) -> str:
    """`median (10th to 90th percentile)`."""
    return f"{row.median:.{digits}f} ({row.low:.{digits}f} to {row.high:.{digits}f})"
