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


class Published(NamedTuple):
    """A published method on a task at a frame."""

    iqm: float
    low: float  # 5th percentile of its runs
    high: float  # and 95th
    mean: float


def evaluated(row: Reference, frame: int) -> Published | None:
    """What was published there, if it was evaluated there: what lies between two evaluations is not theirs."""
    if frame not in row.env_step:
        return None
    (index,) = np.flatnonzero(row.env_step == frame)
    return Published(*(float(column[index]) for column in (row.iqm, row.p05, row.p95, row.mean)))
