"""Tidy rows of finished and unfinished runs for the repository: evaluation returns, and what `steadyq diagnose` found.

Each with commit, machine and precision; the command is the name of the experiment and the list it is on. Rows that the
table has of other runs stay: machines come and go, and their run folders with them. Of one experiment, task and seed
twice the one that got further counts.

python experiments/collect.py ~/runs/*/ --out experiments/results/learning.csv
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import NamedTuple

from steadyq.results.read import read_rows
from steadyq.store import metrics_csv, names
from steadyq.store.record import read_record

KEPT = (
    names.EVALUATION,
    names.UTD,
    names.WALL_TIME,
    names.Q_BIAS,
    names.Q_BIAS_STD,
    names.DIAGNOSED_NORM,
    names.CRITIC_ELR,
    names.DIAGNOSED_GRADIENT,
    names.CRITIC_ROTATION,
)

COLUMNS = ["exp_name", "env_name", "seed", "metric", "env_step", "value", "precision", "threads", "commit", "cpu"]


class Found(NamedTuple):
    """The rows of one experiment, task and seed."""

    place: Path  # a run folder, or the table
    rows: list[list[str]]

    @property
    def last(self) -> int:
        """How far they go, in frames."""
        return max(int(row[COLUMNS.index("env_step")]) for row in self.rows)


def main() -> None:
    """Read run folders and bring one table up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    values = parser.parse_args()
    found: dict[tuple[str, ...], Found] = {}
    if values.out.exists():
        with values.out.open(newline="") as file:
            for row in list(csv.reader(file))[1:]:
                found.setdefault(tuple(row[:3]), Found(values.out, [])).rows.append(row)
    for run in sorted(
        path for path in values.runs if (path / "run.json").is_file() and (path / metrics_csv.FILE).is_file()
    ):
        for key, rows in rows_of(run).items():
            further, shorter = Found(run, rows), found.get(key)
            if shorter and shorter.last > further.last:
                further, shorter = shorter, further
            if shorter and shorter.place != values.out:  # what the table has of a run is brought up to date
                name, task, seed = key
                print(
                    f"seed {seed} of {name} on {task} is in {further.place} to frame {further.last:,} and in "
                    f"{shorter.place} to frame {shorter.last:,}; only the first counts",
                    file=sys.stderr,
                )
            found[key] = further
    with values.out.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *(row for one in found.values() for row in one.rows)])


def rows_of(run: Path) -> dict[tuple[str, ...], list[list[str]]]:
    """A run folder's rows, by experiment, task and seed."""
    how = read_record(run).stretches[-1]
    where = [how["precision"], str(how["threads"]), how["commit"], how["machine"]["cpu"]]
    rows: dict[tuple[str, ...], list[list[str]]] = {}
    for row in read_rows(run):
        if row.metric in KEPT:
            line = [*map(str, row[:5]), f"{row.value:.4g}", *where]
            rows.setdefault(tuple(line[:3]), []).append(line)
    return rows


if __name__ == "__main__":
    main()
