"""Markdown of the tables."""


def print_head(*headings: str) -> None:
    """The first two lines of a table."""
    print(f"\n| {' | '.join(headings)} |\n|{'---|' * len(headings)}".replace("|  |", "| |"))


def print_row(*cells: object) -> None:
    """And each further one."""
    print(f"| {' | '.join(map(str, cells))} |")
