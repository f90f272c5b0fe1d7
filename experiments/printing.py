"""Markdown of the tables."""

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
