"""`steadyq list`: what there is to train, and on what.

Both answers are tables in `data/`, which a test compares with the recipes and the environments themselves: to import
PyTorch takes more than a second, and to make all environments ten.
"""

import csv
from importlib.util import find_spec
from pathlib import Path

from steadyq.cli.parser import DONE, Parser, parse

RECIPES, ENVS = (Path(__file__).parent / "data" / name for name in ("recipes.txt", "envs.csv"))


def names(parser: Parser, arguments: list[str]) -> int:
    """`steadyq list recipes|envs`."""
    parser.add_argument("what", choices=("recipes", "envs"), metavar="recipes|envs")
    if parse(parser, arguments).what == "recipes":
        print(RECIPES.read_text(encoding="utf-8"), end="")
    else:
        print_envs()
    return DONE


def print_envs() -> None:
    """Every environment that `train` takes here, with its sizes, and the names of those that the table has not got."""
    from steadyq.envs import suites

    with ENVS.open(encoding="utf-8", newline="") as file:
        table = {row["name"]: row for row in csv.DictReader(file)}
    unknown = list[str]()
    line = "{:28}{:>13}{:>9}{:>9}"
    for suite, registered in suites.names().items():
        print(line.format(suite, "observations", "actions", "frames"))
        for name in registered:
            row = table.get(name)
            if row is None:
                unknown.append(name)
            elif row["obs_dim"] and (not row["needs"] or find_spec(row["needs"])):
                print(line.format(name, row["obs_dim"], row["action_dim"], row["episode_frames"]))
        print()
    print("observations, actions: numbers in each; frames: time limit of an episode, in frames")
    if unknown:
        print(f"registered here too: {', '.join(unknown)}")
    print("steadyq check-env ENV tells whether any other can be trained on; for your own see docs/environments.md")
