"""One tidy table of many runs: all that the paper's figures and the report need, with commit, machine and precision.

Rows that the table has of other runs stay: machines come and go, and their run folders with them. Of one experiment,
task and seed twice, the run that got further counts.
"""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from steadyq.errors import InputError
from steadyq.results import measures
from steadyq.results.read import read_rows
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


class Collected(NamedTuple):
    """What a table has now."""

    rows: int
    runs: int
    complaints: list[str]


def collect(places: list[Path], table: Path) -> Collected:
    """Bring a table up to date with the run folders in these places, or begin one; whole or not at all.

    Raises:
        InputError: a place holds no run, or the table is not one of these.
    """
    found: dict[tuple[str, ...], Found] = {}
    complaints: list[str] = []
    for row in _rows_of_table(table):
        found.setdefault(tuple(row[:3]), Found(table, [])).rows.append(row)
    for run in (run for place in places for run in _runs(place)):
        try:
            rows = rows_of(run)
        except (InputError, OSError) as error:
            complaints.append(str(error))
            continue
        for key, own in rows.items():
            further, shorter = Found(run, own), found.get(key)
            if shorter and shorter.last > further.last:
                further, shorter = shorter, further
            if shorter and shorter.place != table:  # what the table has of a run is brought up to date
                name, task, seed = key
                complaints.append(
                    f"seed {seed} of {name} on {task} is in {further.place} to frame {further.last:,} and in "
                    f"{shorter.place} to frame {shorter.last:,}; only the first counts"
                )
            found[key] = further
    lines = [row for one in found.values() for row in one.rows]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *lines])
    disk.write(table, text.getvalue().encode())
    return Collected(len(lines), len(found), complaints)


def _rows_of_table(table: Path) -> list[list[str]]:
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if header != COLUMNS or any(len(row) != len(COLUMNS) or not row[4].isdecimal() for row in rows):
        raise InputError(
            f"{table} is there and is no table of `steadyq study collect`; give another name, or remove it"
        )
    return rows


def _runs(place: Path) -> list[Path]:
    """The run folders in a place that have begun to measure."""
    runs = sorted(path.parent for path in place.rglob(metrics_csv.FILE) if (path.parent / "run.json").is_file())
    if not runs:
        raise InputError(f"there is no run with a {metrics_csv.FILE} in {place}; give the folder of a study or of runs")
    return runs


def rows_of(run: Path) -> dict[tuple[str, ...], list[list[str]]]:
    """A run folder's rows, by experiment, task and seed."""
    how = read_record(run).stretches[-1]
    where = [how["precision"], str(how["threads"]), str(how["commit"]), how["machine"]["cpu"]]
    rows: dict[tuple[str, ...], list[list[str]]] = {}
    for row in read_rows(run):
        if row.metric in (names.EVALUATION, names.UTD) or measures.wanted(row.metric):
            line = [*map(str, row[:5]), f"{row.value:.6g}", *where]
            rows.setdefault(tuple(line[:3]), []).append(line)
    return rows
