"""One tidy table of many runs: all that the paper's figures and the report need, with commit, machine and precision.

Rows that the table has of other runs stay: machines come and go, and their run folders with them. Of one experiment,
task and seed twice, the run that got further counts, with what was diagnosed of a copy of it.
"""

import csv
import io
import math
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

from steadyq.errors import InputError
from steadyq.results import measures
from steadyq.results.csv_columns import MOST_BYTES
from steadyq.results.read import check_record, read_rows, run_folders
from steadyq.results.untrusted import attempt, check_file, printable
from steadyq.store import disk, metrics_csv, names
from steadyq.store.record import read_record

COLUMNS = ["exp_name", "env_name", "seed", "metric", "env_step", "value", "precision", "threads", "commit", "cpu"]


class Found(NamedTuple):
    """The rows of one experiment, task and seed."""

    place: Path  # a run folder, or the table
    rows: list[list[str]]

    @property
    def last(self) -> int:
        """How far they go, in frames."""
        return max(int(row[COLUMNS.index("env_step")]) for row in self.rows)

    def by_point(self) -> dict[tuple[str, int], list[str]]:
        """The rows by metric and frame."""
        return {(row[3], int(row[4])): row for row in self.rows}


class Collected(NamedTuple):
    """What a table has now."""

    rows: int
    runs: int
    complaints: list[str]


def collect(places: list[Path], table: Path, *, layers: bool = True) -> Collected:
    """Bring a table up to date with the run folders in these places, or begin one; whole or not at all.

    Without `layers`, what was diagnosed of single layers is left out: most of what a diagnosis measures.

    Raises:
        InputError: a place holds no run, or the table is not one of these.
    """
    found: dict[tuple[str, ...], Found] = {}
    complaints: list[str] = []
    for row in _rows_of_table(table):
        found.setdefault(tuple(row[:3]), Found(table, [])).rows.append(row)
    for run in (run for place in places for run in _runs(place, complaints)):
        rows = attempt(partial(rows_of, run, complaints, layers=layers), complaints, failing=f"{run} cannot be read")
        for key, own in (rows or {}).items():
            known, new = found.get(key), Found(run, own)
            found[key] = _joined(known, new, table, complaints, layers=layers) if known else new
    lines = [row for one in found.values() for row in one.rows]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *lines])
    disk.give(table, text.getvalue().encode())
    return Collected(len(lines), len(found), complaints)


def _joined(known: Found, new: Found, table: Path, complaints: list[str], *, layers: bool) -> Found:
    """Of two that have one name: the one that goes further; of its copy what only that was diagnosed of, too."""
    further, other = (known, new) if known.last > new.last else (new, known)
    there, rest = further.by_point(), other.by_point()
    name, task, seed = new.rows[0][:3]
    run = f"seed {seed} of {name} on {task} is in {further.place} to frame {further.last:,} and"
    for metric, frame in sorted(there.keys() & rest.keys(), key=lambda point: point[::-1]):
        ours, theirs = (float(rows[metric, frame][5]) for rows in (there, rest))
        if metric.startswith((names.CLOCKS, names.DIAGNOSES)) or math.isclose(ours, theirs, rel_tol=1e-5):
            continue
        complaints.append(
            f"{run}, with other numbers ({metric} at frame {frame:,}: {ours:g} and {theirs:g}), in {other.place} to "
            f"frame {other.last:,}; only the first counts"
        )
        return further
    if other.place != table:  # what the table has of a run is brought up to date
        complaints.append(f"{run} in {other.place} to frame {other.last:,}; only the first counts")
    more = [
        row
        for (metric, frame), row in rest.items()
        if metric.startswith(names.DIAGNOSES)
        and (metric, frame) not in there
        and (layers or not measures.is_of_a_layer(metric))
    ]
    return Found(further.place, further.rows + more)


def _rows_of_table(table: Path) -> list[list[str]]:
    if not table.exists():
        return []
    check_file(table, most=MOST_BYTES)
    try:
        with table.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        if header != COLUMNS or not all(len(row) == len(COLUMNS) and 0 <= int(row[4]) < 2**63 for row in rows):
            raise ValueError("other columns or frames")
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{table} is there and is not a table of `steadyq study collect` ({error}); give another name, or remove it"
        ) from None
    return rows


def _runs(place: Path, complaints: list[str]) -> list[Path]:
    """The run folders in a place that have begun to measure."""
    needed = (metrics_csv.FILE, "run.json")
    runs = [run for run in run_folders(place, complaints) if all(os.path.isfile(run / name) for name in needed)]
    if not runs:
        raise InputError(f"there is no run with a {metrics_csv.FILE} in {place}; give the folder of a study or of runs")
    return runs


def rows_of(run: Path, complaints: list[str], *, layers: bool) -> dict[tuple[str, ...], list[list[str]]]:
    """A run folder's rows, by experiment, task and seed; with those of single layers, or without."""
    check_record(run, complaints)
    stretches = read_record(run).stretches
    rows: dict[tuple[str, ...], list[list[str]]] = {}
    for row in read_rows(run, complaints):
        if not layers and measures.is_of_a_layer(row.metric):
            continue
        if row.metric in (names.EVALUATION, names.UTD) or measures.wanted(row.metric):
            how = next((one for one in reversed(stretches) if one["from_frame"] < row.env_step), stretches[0])
            where = (how["precision"], how["threads"], how["commit"], how["machine"].get("cpu"))
            line = [*map(str, row[:5]), f"{row.value:.6g}", *(printable(str(word)) for word in where)]
            rows.setdefault(tuple(line[:3]), []).append(line)
    return rows
