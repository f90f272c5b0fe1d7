"""Tidy rows of finished and unfinished runs for the repository: evaluation returns, and what `steadyq diagnose` found.

Each with commit, machine and precision; the command is the name of the experiment and the list it is on.

python experiments/collect.py ~/runs/*/ --out experiments/results/learning.csv
"""

import argparse
import csv
from pathlib import Path

from steadyq.run import logs
from steadyq.run.folder import read_record
from steadyq.study import diagnostics

KEPT = (
    "eval/mean_reward",
    "train/utd",
    "time/time_elapsed",
    "diag/q_bias/aggregate_mean",
    "diag/q_bias/aggregate_std",
    "diag/critic/weight_norm",
    "diag/critic/elr",
    "diag/critic/gradient_norm",
    "diag/critic/rotation",
)


def main() -> None:
    """Read run folders and write one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    values = parser.parse_args()
    columns = ["exp_name", "env_name", "seed", "metric", "env_step", "value", "precision", "threads", "commit", "cpu"]
    with values.out.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(columns)
        for run in sorted(path for path in values.runs if (path / "run.json").is_file()):
            how = read_record(run).stretches[-1]
            where = (how["precision"], how["threads"], how["commit"], how["machine"]["cpu"])
            for path in (run / logs.FILE, run / diagnostics.FILE):
                for row in logs.read(path) if path.exists() else ():
                    if row.metric in KEPT:
                        rows.writerow([*row[:5], f"{row.value:.4g}", *where])


if __name__ == "__main__":
    main()
