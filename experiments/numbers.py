"""Numbers of diagnosed runs and of published curves, for tables of two tasks and of 15."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np

from steadyq.results import scores
from steadyq.results.published import Reference
from steadyq.results.runs import Run, Study
from steadyq.results.statistics import Scores
from steadyq.store.names import CRITIC_ELR, DIAGNOSED_NORM, Q_BIAS, Q_BIAS_STD

Measure = tuple[str, Callable[[Run], float]]
"""A metric, and the number that a run of it comes to."""


class Diagnoses(NamedTuple):
    """The frames that count of diagnosed runs."""

    untrained: int  # right before the first update
    learnt: int  # the first one after it
    end: int

    def change(self, since: int) -> Callable[[Run], float]:
        """The value at the end in units of an earlier one."""
        return lambda run: float(run.value[run.env_step == self.end][0] / run.value[run.env_step == since][0])

    def while_learning(self, summary: Callable[[np.ndarray], np.floating]) -> Callable[[Run], float]:
        """A summary of the values from `learnt` to the end."""
        return lambda run: float(summary(run.value[(run.env_step >= self.learnt) & (run.env_step <= self.end)]))

    def measures(self) -> dict[str, Measure]:
        """Fig. 1, by a title that ends with the frame from which on it is measured."""
        first, learnt = f"{self.untrained:,}", f"{self.learnt:,}"
        return {
            f"Weight norm, ratio of its change from frame {first}": (DIAGNOSED_NORM, self.change(self.untrained)),
            f"Effective learning rate, ratio of its change from frame {learnt}": (
                CRITIC_ELR,
                self.change(self.learnt),
            ),
            f"Q-bias, standard deviation over time from frame {learnt}": (Q_BIAS, self.while_learning(np.std)),
            f"Q-bias, standard deviation over states, mean from frame {learnt}": (
                Q_BIAS_STD,
                self.while_learning(np.mean),
            ),
        }

    def numbers(self, study: Study, measure: Measure, methods: Collection[str]) -> Mapping[str, Scores]:
        """That number of each run that was diagnosed at all three frames, by method."""
        metric, number = measure
        runs = [run for run in study.more.get(metric, []) if run.method in methods and set(self) <= set(run.env_step)]
        return scores.tabulate(runs, np.array([float(self.end)]), lambda run: np.array([number(run)]))


SHARES = (0.05, 0.25, 0.75, 0.95)


class Published(NamedTuple):
    """A published method on a task at a frame; percentiles are of its runs."""

    iqm: float
    mean: float
    p05: float
    p25: float
    p75: float
    p95: float

    @property
    def spread(self) -> str:
        """The middle nine tenths of its runs."""
        return f"{self.p05:.0f} to {self.p95:.0f}"

    def share_below(self, value: float) -> float:
        """The share of its runs that a value lies above, read off the percentiles, and half of those that are equal."""
        percentiles = (self.p05, self.p25, self.p75, self.p95)
        tied = [share for share, percentile in zip(SHARES, percentiles, strict=True) if percentile == value]
        if tied:
            return float(np.mean(tied))
        return float(np.interp(value, percentiles, SHARES, left=SHARES[0] / 2, right=(1 + SHARES[-1]) / 2))


def evaluated(row: Reference, frame: int) -> Published | None:
    """What was published there, if it was evaluated there: what lies between two evaluations is not theirs."""
    if frame not in row.env_step:
        return None
    (index,) = np.flatnonzero(row.env_step == frame)
    return Published(*(float(of[index]) for of in (row.iqm, row.mean, row.p05, row.p25, row.p75, row.p95)))
