"""Tables of the choice of a default for `crossq_wn`: from results/default.csv, printed by tables.py."""

import numpy as np

from experiments.names import ROUNDED, named
from experiments.printing import cells, print_head, print_row
from steadyq.results import over_tasks, scores
from steadyq.results.runs import Run
from steadyq.results.statistics import RESAMPLES, tails

PLAIN = "`crossq_wn`"
QUIRKS = {
    PLAIN: ROUNDED,
    "`--project-readout`": f"{ROUNDED}-project_readout=True",
    "`--decay-norms`": f"-decay_norms=True{ROUNDED}",
    "both": f"-decay_norms=True{ROUNDED}-project_readout=True",
}
"""What default.toml tries."""
ENDS = {2: 50_000, 10: 30_000}  # frames, by UTD


def print_all(runs: list[Run]) -> None:
    """Should `crossq_wn` have its authors' quirks? Each choice against the plain one, over pairs of task and UTD."""
    print_head("task", *QUIRKS)
    change: dict[str, list[float]] = {words: [] for words in QUIRKS}
    for utd, end in ENDS.items():
        area, _ = scores.areas([run for run in runs if run.method.startswith(named(utd, "-"))], stop=end)
        of = {words: area[named(utd, options)] for words, options in QUIRKS.items() if named(utd, options) in area}
        if len(of) < len(QUIRKS):
            continue
        tasks = [task for task in of[PLAIN].tasks if all(task in found.tasks for found in of.values())]
        of = {words: found.on(tasks) for words, found in of.items()}
        for task in tasks:
            print_row(f"{task}, UTD {utd}", *(cells(found, task, ".3g") for found in of.values()))
        for words, found in of.items():
            change[words] += over_tasks.differences(found, of[PLAIN]).values()
    print_head("next to the plain one", "mean relative difference", "95% interval", "better on")
    for words, values in change.items():
        if words != PLAIN:
            pairs = np.array(values)
            means = over_tasks.resampled_means(pairs, resamples=RESAMPLES, seed=0)
            low, high = np.quantile(means, tails(0.95))
            better = f"{sum(pairs > 0)} of {len(pairs)}"
            print_row(words, f"{pairs.mean():+.0%}", f"{low:+.0%} to {high:+.0%}", better)
