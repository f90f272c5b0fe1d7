"""Does rounding hidden products to bfloat16 cost learning? Area under the curve, seed by seed.

    python experiments/precision.py experiments/results/learning.csv

The area is the mean evaluation return from frame 0 on (trapezoids, divided by the length). A pair is one task and seed
in both precisions; the interval is Student's, over pairs, of the difference relative to the task's float32 mean.
"""

import csv
import sys
from collections import defaultdict
from statistics import mean

import numpy as np
from scipy import stats

RUNS = ("crossq_wn-utd2", "crossq_wn-utd2-precision=bfloat16")


def areas(path: str) -> dict[tuple[str, int, str], float]:
    """Area by (task, seed, precision) of the runs of `crossq_wn` at UTD 2."""
    curves: dict[tuple[str, int, str], list[tuple[int, float]]] = defaultdict(list)
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            if row["metric"] == "eval/mean_reward" and row["exp_name"] in RUNS:
                key = (row["env_name"], int(row["seed"]), row["precision"])
                curves[key].append((int(row["env_step"]), float(row["value"])))
    found = {}
    for key, points in curves.items():
        frames, returns = np.array(sorted(points)).T
        found[key] = float(np.trapezoid(returns, frames) / (frames[-1] - frames[0]))
    return found


def main() -> None:
    """Print a Markdown table and the mean relative difference."""
    area = areas(sys.argv[1])
    pairs = sorted({(env, seed) for env, seed, precision in area if precision == "bfloat16"})
    print("| task | seed | float32 | bfloat16 |\n|---|---|---|---|")
    differences = []
    for env, seed in pairs:
        plain, rounded = area[env, seed, "float32"], area[env, seed, "bfloat16"]
        level = mean(value for (e, _, precision), value in area.items() if e == env and precision == "float32")
        differences.append((rounded - plain) / level)
        print(f"| {env} | {seed} | {plain:.0f} | {rounded:.0f} |")
    half = stats.t.ppf(0.975, len(pairs) - 1) * stats.sem(differences)
    centre = mean(differences)
    print(f"\nbfloat16 - float32, relative: {centre:+.0%} (95% interval {centre - half:+.0%} to {centre + half:+.0%})")


if __name__ == "__main__":
    main()
