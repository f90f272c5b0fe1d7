"""What every benchmark gives: rows with medians and spread, which calls count, and the clock they are taken with."""

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
    values: int  # how many were measured


def row(part: str, case: str, metric: str, unit: str, values: Sequence[float]) -> Row:
    """The row of several measurements of one thing."""
    tenths = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else [values[0]] * 9
    return Row(part, case, metric, unit, statistics.median(values), tenths[0], tenths[-1], len(values))


IN_A_ROW, AGREE, FEW, BIMODAL = 3, 1.2, 10, 2.0
"""Calls that must agree, within which factor; a median of fewer values says so; so does one whose spread is wider."""


def steady_from(times: Sequence[float]) -> int | None:
    """The first call that counts: it and the next two agree with each other and with the median of all from there on.

    What comes before is compilation. That three agree with each other is not enough: SBX's CrossQ at UTD 10 compiles
    anew in each of its first three calls, which take as long as one another. None: the case has not become steady.
    """
    for first in range(len(times) - IN_A_ROW + 1):
        found = [*times[first : first + IN_A_ROW], statistics.median(times[first:])]
        if max(found) <= AGREE * min(found):
            return first
    return None


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
    """`median (10th to 90th percentile)`, with how many values it is of where they are few, and whether two kinds."""
    few = f"; {row.values} values" if row.values < FEW else ""
    bimodal = "; bimodal" if row.high > BIMODAL * row.median else ""
    return f"{row.median:.{digits}f} ({row.low:.{digits}f} to {row.high:.{digits}f}{few}{bimodal})"
