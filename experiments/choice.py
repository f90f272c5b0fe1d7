"""Tables of the choice of a default for `crossq_wn`: from results/default.csv, printed by tables.py."""

import numpy as np

from experiments.names import ROUNDED, named
from experiments.printing import cells, print_head, print_row
from steadyq.results import over_tasks, scores
from steadyq.results.runs import Run
from steadyq.results.statistics import tails

PLAIN = "`crossq_wn`"
QUIRKS = {
    PLAIN: ROUNDED,
    "`--project-readout`": f"{ROUNDED}-project_readout=True",
    "`--decay-norms`": f"-decay_norms=True{ROUNDED}",
    "both": f"-decay_norms=True{ROUNDED}-project_readout=True",
}
"""What default.toml tries."""
ENDS = {2: 50_000, 10: 30_000}  # frames, by UTD
PAIRS = 7  # of task and UTD in default.toml


def print_all(runs: list[Run]) -> None:
    """Should `crossq_wn` have its authors' quirks? Each choice against the plain one, over pairs of task and UTD.

    A relative difference is at most 1, and the lower end of the interval grows with each of them. So with ones for the
    pairs that were not run it is the highest that it could have come to.
    """
    print_head("task", *QUIRKS)
    change: dict[str, list[float]] = {words: [] for words in QUIRKS}
    for utd, end in ENDS.items():
        area, _ = scores.areas([run for run in runs if run.method.startswith(named(utd, "-"))], stop=end)
        of = {words: area[named(utd, options)] for words, options in QUIRKS.items() if named(utd, options) in area}
        for task in of[PLAIN].tasks:
            shown = (cells(of[words], task, ".3g") if words in of else "" for words in QUIRKS)
            print_row(f"{task}, UTD {utd}", *shown)
        for words, found in of.items():
            change[words] += over_tasks.differences(found, of[PLAIN]).values()
    print_head("next to the plain one", "mean relative difference", "95% interval", "better on", "lower end at most")
    for words, values in change.items():
        if words != PLAIN:
            pairs = np.array(values)
            low, high = np.quantile(means(pairs), tails(0.95))
            most = np.quantile(means(np.append(pairs, np.ones(PAIRS - len(pairs)))), tails(0.95)[0])
            better = f"{sum(pairs > 0)} of {len(pairs)}"
            print_row(words, f"{pairs.mean():+.0%}", f"{low:+.0%} to {high:+.0%}", better, f"{most:+.2%}")


def means(pairs: np.ndarray) -> np.ndarray:
    """Of every draw of as many pairs with replacement: of up to seven there are few enough to take all."""
    return pairs[np.indices((len(pairs),) * len(pairs)).reshape(len(pairs), -1)].mean(axis=0)
