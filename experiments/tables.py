"""The tables of docs/evidence.md, from the tidy tables in results/.

python -m experiments.tables
"""

from pathlib import Path

from experiments import authors, choice, fifteen, two_tasks
from steadyq.results.read import read_runs

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Print everything as Markdown, in the order of the page."""
    fifteen.print_all(read_runs([RESULTS / "fifteen.csv"]))
    authors.print_all(read_runs([RESULTS / f"{name}.csv" for name in ("authors", "default", "fifteen")]))
    two_tasks.print_all(read_runs([RESULTS / "learning.csv"]))
    choice.print_all(read_runs([RESULTS / "default.csv"]).runs)


if __name__ == "__main__":
    main()
