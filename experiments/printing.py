"""Markdown of the tables, and what they are made of."""

from collections.abc import Callable

import numpy as np

from steadyq.results import scores
from steadyq.results.runs import Run
from steadyq.results.statistics import Scores


def print_head(*headings: str) -> None:
    """The first two lines of a table."""
    print(f"\n| {' | '.join(headings)} |\n|{'---|' * len(headings)}".replace("|  |", "| |"))


def print_row(*cells: object) -> None:
    """And each further one."""
    print(f"| {' | '.join(map(str, cells))} |")


def cells(found: Scores, task: str, form: str) -> str:
    """A method's numbers on a task, by seed."""
    return ", ".join(format(value, form) for value in found.tasks[task][0]) if task in found.tasks else ""


def of_runs(runs: list[Run], number: Callable[[Run], float], frame: int) -> dict[str, Scores]:
    """One number of each run, by method, as its score at a frame."""
    return scores.tabulate(runs, np.array([float(frame)]), lambda run: np.array([number(run)]))
