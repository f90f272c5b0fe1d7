"""Is A better than B on tasks like these? What can be said over tasks, with as little as one seed on each.

The differences are paired: on each task the area under the curve of A less that of B, divided by the larger of the two,
as a mean over pairs of runs.
The other analysis, over seeds, is in `steadyq.results.statistics`; the equations of both are in `docs/statistics.md`.
"""

import functools

import numpy as np
from jaxtyping import Float64, Int64

from steadyq.results.statistics import Scores, tails

FEWEST = 6
"""Of fewer tasks, not even a difference of one sign on all of them is rarer than one in twenty."""
EXACT = 36
"""Up to so many tasks all assignments of signs are counted; of more, random ones are drawn."""


def differences(a: Scores, b: Scores) -> dict[str, float]:
    """The relative difference on each task that both have, as a mean over all pairs of a run of A and one of B.

    So equals differ by nothing in the mean, however many runs each has. (The difference of means would not do: returns
    are skewed, and one run is more often below the mean of ten than above.) Both must have one point.

    A task on which a run is below zero has none: relative to what?
    """
    found = {}
    for task in sorted(a.tasks.keys() & b.tasks.keys()):
        ours, theirs = a.tasks[task].ravel(), b.tasks[task].ravel()
        if min(ours.min(), theirs.min()) >= 0:
            larger = np.maximum.outer(ours, theirs)
            found[task] = float((np.subtract.outer(ours, theirs) / np.where(larger > 0, larger, 1)).mean())
    return found


def sign_flip(found: Float64[np.ndarray, " tasks"], *, resamples: int, seed: int) -> float:
    """The two-sided p-value of a sign-flip test: were A and B equal, each difference could as well have the other sign.

    It is the share of all 2^n assignments of signs that lead to a mean at least as far from zero as the one found. They
    are counted exactly, in two halves: for each sum of the first the sums of the second that go far enough. Beyond
    `EXACT` tasks so many random assignments stand for all.
    """
    slack = 1e-12 * np.abs(found).sum()  # the same numbers added in another order
    wanted = abs(found.sum()) - slack
    if wanted <= 0:
        return 1.0
    if len(found) > EXACT:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(resamples, len(found)))
        return float(1 + (np.abs(signs @ found) >= wanted).sum()) / (1 + resamples)
    left, right = (_sums(half) for half in np.array_split(found, 2))
    right.sort()
    above = len(right) - np.searchsorted(right, wanted - left, side="left")
    below = np.searchsorted(right, -wanted - left, side="right")
    return float((above.sum() + below.sum()) / 2.0 ** len(found))


def _sums(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " sums"]:
    """The sum under each of the 2^n assignments of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def resampled_means(
    found: Float64[np.ndarray, " tasks"], *, resamples: int, seed: int
) -> Float64[np.ndarray, " resamples"]:
    """Means of as many tasks, drawn with replacement: the bootstrap over tasks."""
    return _counts(len(found), resamples, seed) @ found / len(found)


@functools.lru_cache(maxsize=1)
def _counts(tasks: int, resamples: int, seed: int) -> Int64[np.ndarray, "resamples tasks"]:
    """How often each task is drawn; kept for the next pair, which mostly has as many tasks."""
    return np.random.default_rng(seed).multinomial(tasks, np.full(tasks, 1 / tasks), size=resamples)


@functools.cache
def real_coverage(*, tasks: int, level: float) -> float:
    """How often the percentile interval of so many normal differences holds the true mean; less than its level.

    It is as wide as one of a known standard deviation, and of the one that divides by n: so it covers what Student's t
    with n - 1 degrees of freedom has between -z and z times the root of (n - 1) / n.
    """
    from scipy.stats import norm, t  # half a second, for this analysis alone

    edge = norm.ppf(tails(level)[1]) * np.sqrt((tasks - 1) / tasks)
    return float(2 * t.cdf(edge, tasks - 1) - 1)
