"""steadyq's statistics next to rliable's on the same scores: equal estimates, intervals within Monte-Carlo error.

    python3 -m venv rliable_env && rliable_env/bin/pip install rliable 'pandas<3'
    python experiments/against_rliable.py rliable_env/bin/python > experiments/results/against_rliable.txt

rliable needs an environment of its own (it does not import with pandas 3), and takes its random numbers from NumPy's
global generator, whatever seed it is given, so that is what the script seeds. The difference of two ends is given in
standard errors of their quantiles, estimated from rliable's own resamples in ten parts. Exit code 1 if one is beyond 5.
Takes six minutes, nearly all of them rliable's.
"""

import json
import subprocess
import sys

import numpy as np

from steadyq.results import statistics
from steadyq.results.statistics import Scores

TASKS, RUNS, RESAMPLES, SEED = 15, 10, 50_000, 0
TARGET, THRESHOLDS = 1.0, [0.25, 0.5, 1.0]

THEIRS = """
import json, sys
import numpy as np
from importlib.metadata import version
from rliable import library, metrics
given = json.load(sys.stdin)
a, b = (np.array(given[name]) for name in "ab")
np.random.seed(given["seed"])
reps, parts = given["resamples"], 10
aggregates = [metrics.aggregate_iqm, metrics.aggregate_mean, metrics.aggregate_median,
              lambda x: metrics.aggregate_optimality_gap(x, given["target"])]
aggregates += [lambda x, t=t: library.run_score_deviation(x, t)
               for t in given["thresholds"]]
def intervals(data, functions, reps):
    every = lambda *x: np.array([f(*x) for f in functions])
    points, ends = library.get_interval_estimates({"x": data}, every, reps=reps)
    return points["x"].tolist(), ends["x"].tolist()
found = []
for data, functions in ((a, aggregates), ((a, b), [metrics.probability_of_improvement])):
    pieces = [intervals(data, functions, reps // parts) for _ in range(parts)]
    ends = np.array([piece[1] for piece in pieces])
    error = ends.std(0, ddof=1) / np.sqrt(parts)
    for i, point in enumerate(pieces[0][0]):
        found.append([point, *ends.mean(0)[:, i], *error[:, i]])
print(json.dumps({"version": version("rliable"), "numpy": np.__version__, "found": found}))
"""


def scores(method: str, table: np.ndarray) -> Scores:
    """A table [runs, tasks], as rliable has it, by name."""
    runs, tasks = table.shape
    names = [f"task {i}" for i in range(tasks)]
    seeds = {name: tuple(map(str, range(runs))) for name in names}
    return Scores(method, np.zeros(1), seeds, {name: table[None, :, i] for i, name in enumerate(names)})


def main() -> None:
    """Print both, and how far they are apart."""
    random = np.random.default_rng(SEED)
    levels = random.uniform(0.2, 1.2, size=TASKS)
    a, b = (random.gamma(4.0, (levels + shift) / 4, size=(RUNS, TASKS)) for shift in (0.05, 0.0))
    given = {"a": a.tolist(), "b": b.tolist(), "seed": SEED, "resamples": RESAMPLES, "target": TARGET}
    given["thresholds"] = THRESHOLDS
    output = subprocess.run(
        [sys.argv[1], "-c", THEIRS], input=json.dumps(given), capture_output=True, text=True, check=True
    )
    theirs = json.loads(output.stdout)

    shares = (f"profile at {threshold:g}" for threshold in THRESHOLDS)
    names = ["IQM", "mean", "median", "optimality gap", *shares, "P(A beats B)"]
    chosen = (statistics.iqm, statistics.mean, statistics.median, statistics.optimality_gap(target=TARGET))
    ours = [statistics.estimate(statistic, scores("A", a), resamples=RESAMPLES).at(0) for statistic in chosen]
    # A performance profile is the mean over tasks of the share of runs above each threshold.
    points, mine = np.array(THRESHOLDS), scores("A", a)
    above = {task: (table > points[:, None]).astype(np.float64) for task, table in mine.tasks.items()}
    profile = statistics.estimate(statistics.mean, Scores("A", points, mine.seeds, above), resamples=RESAMPLES)
    ours += [profile.at(i) for i in range(len(THRESHOLDS))]
    ours.append(statistics.probability_of_improvement(scores("A", a), scores("B", b), resamples=RESAMPLES).at(0))

    print(f"{TASKS} tasks x {RUNS} runs, {RESAMPLES:,} resamples; rliable {theirs['version']}, NumPy {theirs['numpy']}")
    print(f"{'':16} {'steadyq':^28} {'rliable':^28} apart, in standard errors")
    worst = 0.0
    for name, our, (point, low, high, low_error, high_error) in zip(names, ours, theirs["found"], strict=True):
        np.testing.assert_allclose(our.estimate, point, rtol=1e-10)
        # Ours has about the same error as theirs; a discrete statistic may have none in either.
        apart = [
            abs(x - y) / max(error * np.sqrt(2), 1e-4)
            for x, y, error in ((our.low, low, low_error), (our.high, high, high_error))
        ]
        worst = max(worst, *apart)
        both = (f"{e:7.4f} ({lo:.4f} to {hi:.4f})" for e, lo, hi in (our[:3], (point, low, high)))
        print(f"{name:16} {' '.join(f'{text:28}' for text in both)} {apart[0]:.1f} {apart[1]:.1f}")
    print(f"largest: {worst:.1f}")
    sys.exit(int(worst > 5))


if __name__ == "__main__":
    main()
