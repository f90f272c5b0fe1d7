"""What 95% bootstrap intervals are worth with few runs: how often they hold the truth, of the IQM and of P(A beats B).

    python experiments/coverage.py experiments/results/coverage.csv

Data sets are drawn from known distributions. `published`: those of a strong method half way, BRO at UTD 10 on 15 tasks
of DeepMind Control at 500,000 frames: lines through the 5th, 25th, 75th and 95th percentile of its runs, continued to
both ends and cut to 0 and 1000. With `tasks` 1 it is the mean over these tasks, each taken alone, with 15 all at once.
`normal`: one task with normal returns. The truth of the IQM is that of infinitely many runs; of the probability of
improvement it is one half, of two methods that are the same: 1 minus its coverage is the rate of false verdicts.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from steadyq.results import published
from steadyq.results.statistics import Scores, estimate, iqm, probability_of_improvement

RUNS = range(2, 11)
DATA_SETS, RESAMPLES, FRAME = 3_000, 1_000, 500_000
METHOD, SEED = "BRO-utd10@naumix", 0


def quantiles() -> dict[str, np.ndarray]:
    """Return at the quantiles 0, 0.05, 0.25, 0.75, 0.95 and 1, by task."""
    found = {}
    for row in published.summary():
        if row.method == METHOD:
            (index,) = np.flatnonzero(row.env_step == FRAME)
            p05, p25, p75, p95 = (float(column[index]) for column in (row.p05, row.p25, row.p75, row.p95))
            ends = (p05 - (p25 - p05) / 4, p95 + (p95 - p75) / 4)
            found[row.task] = np.clip([ends[0], p05, p25, p75, p95, ends[1]], 0, 1000)
    return found


def scores(tasks: dict[str, np.ndarray], runs: int, random: np.random.Generator) -> Scores:
    """One data set: so many runs on every task. A task without quantiles is standard normal."""
    levels = [0, 0.05, 0.25, 0.75, 0.95, 1]
    tables = {
        task: np.interp(random.random((1, runs)), levels, values) if len(values) else random.normal(size=(1, runs))
        for task, values in tasks.items()
    }
    seeds = {task: tuple(map(str, range(runs))) for task in tasks}
    return Scores("simulated", np.zeros(1), seeds, tables)


def rates(tasks: dict[str, np.ndarray], runs: int, data_sets: int, random: np.random.Generator) -> tuple[float, float]:
    """Share of intervals that hold the truth: of the IQM, and of the probability of improvement."""
    truth = float(iqm(scores(tasks, 400_000, random).tasks)[0]) if any(map(len, tasks.values())) else 0.0
    held = np.zeros(2)
    for seed in range(data_sets):
        found = estimate(iqm, scores(tasks, runs, random), resamples=RESAMPLES, seed=seed).at(0)
        pair = scores(tasks, runs, random), scores(tasks, runs, random)
        better = probability_of_improvement(*pair, resamples=RESAMPLES, seed=seed).at(0)
        held += found.low <= truth <= found.high, better.low <= 0.5 <= better.high
    return held[0] / data_sets, held[1] / data_sets


def main() -> None:
    """Print a table and write it."""
    every = quantiles()
    with Path(sys.argv[1]).open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["distribution", "tasks", "runs", "data_sets", "iqm", "probability"])
        print("runs per task | IQM: one task, 15 tasks, normal | probability: one task, 15 tasks, normal")
        for runs in RUNS:
            random = np.random.default_rng([SEED, runs])
            alone = [rates({task: values}, runs, DATA_SETS // len(every), random) for task, values in every.items()]
            one = tuple(np.mean(alone, axis=0))
            many = rates(every, runs, DATA_SETS, random)
            normal = rates({"normal": np.empty(0)}, runs, DATA_SETS, random)
            kinds = (("published", 1, one), ("published", len(every), many), ("normal", 1, normal))
            for name, tasks, found in kinds:
                rows.writerow([name, tasks, runs, DATA_SETS, *(f"{rate:.4f}" for rate in found)])
            shares = (" ".join(f"{found[i]:6.1%}" for _, _, found in kinds) for i in (0, 1))
            print(f"{runs:13} | {' | '.join(shares)}", flush=True)


if __name__ == "__main__":
    main()
