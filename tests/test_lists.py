"""`steadyq list`: what it prints from its tables is what recipes and environments say themselves.

Where these have changed, write the tables anew with `python tests/test_lists.py recipes envs`.
"""

import csv
import io
import subprocess
import sys
import warnings
from contextlib import closing
from importlib.util import find_spec

import pytest

from steadyq.algorithm.actor_critic import size
from steadyq.algorithm.options import make_recipe, summary
from steadyq.algorithm.recipes import RECIPES
from steadyq.cli import lists
from steadyq.cli.main import main
from steadyq.envs import dm_control, suites
from steadyq.errors import InputError

COLUMNS = ["suite", "name", "obs_dim", "action_dim", "episode_frames", "needs"]


def recipes() -> str:
    """Every recipe with its protocol on DeepMind Control and its size on dog-run, and what it is in the line below."""
    row = "{:14}{:>4}{:>7}{:>8}{:>9}{:>9}{:>9}{:>12}  {}\n"
    lines = row.format("", "UTD", "batch", "repeat", "warm-up", "gamma", "size", "per 1,000", "source")
    for name in RECIPES:
        made = make_recipe(name)
        protocol = made.protocol
        lines += row.format(
            name,
            f"{protocol.utd:g}",
            protocol.batch_size,
            protocol.action_repeat,
            f"{protocol.learning_starts:,}",
            protocol.gamma or "length",
            f"{size(made, obs_dim=223, action_dim=38) / 1e6:.2f}M",
            f"{1_000 * protocol.utd / protocol.action_repeat:,.0f}",
            protocol.source,
        )
        lines += f"    {summary(name)}\n"
    return lines + (
        "\nrepeat: frames per agent step; warm-up: agent steps of random actions; gamma: `length`, by an episode's;"
        "\nsize: learned numbers of actor and critics on dog-run; per 1,000: critic updates per 1,000 frames\n"
    )


def table() -> dict[str, list[str]]:
    """The rows of the table of environments, by name."""
    with lists.ENVS.open(newline="") as file:
        return {row["name"]: [row[column] for column in COLUMNS] for row in csv.DictReader(file)}


def measured(suite: str, name: str) -> list[str]:
    """The row of an environment, which is made for it; without sizes if `train` refuses it."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is out of date")  # Gymnasium, of its own v4
            made = suites.make(name)
    except InputError:
        return [suite, name, "", "", "", ""]
    with closing(made):
        limit = "" if made.spec.episode_frames is None else str(made.spec.episode_frames)
        return [suite, name, str(made.spec.obs_dim), str(made.spec.action_dim), limit, ""]


def test_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "recipes"]) == 0
    assert capsys.readouterr().out == recipes()


LIST = """
import sys
from steadyq.cli.main import main
main(["list", sys.argv[1]])
assert not {"torch", "mujoco", "dm_control.suite"} & sys.modules.keys()
"""


@pytest.mark.parametrize(("what", "words"), [("recipes", "crossq_wn"), ("envs", "walker-run")])
def test_nothing_heavy_is_imported(what: str, words: str) -> None:
    done = subprocess.run([sys.executable, "-c", LIST, what], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"\n{words} " in done.stdout


def test_only_what_can_be_trained_on_is_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suites, "names", lambda: {"dmc": ["lqr-lqr_2_1"], "gymnasium": [*OWN, "Mine-v0"]})
    monkeypatch.setattr(lists, "find_spec", lambda module: None)
    assert main(["list", "envs"]) == 0
    out = capsys.readouterr().out
    assert "HalfCheetah-v5                         17        6     1000\n" in out
    assert not [name for name in ("lqr", "Blackjack", "CartPole", "HalfCheetah-v2", "BipedalWalker") if name in out]
    assert "registered here too: Mine-v0\n" in out


OWN = [row[1] for row in table().values() if row[0] == "gymnasium"]
TASKS = [row[1] for row in table().values() if row[0] == "dmc"]
SOME = [name for name in TASKS[::6] if not name.startswith("dog")]
"""Dogs take a second each, and are in test_envs.py."""


def test_the_table_has_every_name() -> None:
    assert suites.names()["dmc"] == TASKS
    assert [f"{domain}-{task}" for domain, task in dm_control._suite().ALL_TASKS] == TASKS
    code = "import gymnasium; print(*sorted(gymnasium.registry))"  # without those that tests register
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == OWN


@pytest.mark.parametrize("names", [OWN, SOME, pytest.param(TASKS, marks=pytest.mark.slow)])
def test_sizes_are_those_of_the_environments(names: list[str]) -> None:
    rows = table()
    for name in names:
        if not rows[name][-1]:  # what needs another package is refused here
            assert measured(rows[name][0], name) == rows[name]


def write_envs() -> None:
    """The table of environments; a row that needs a package which is not installed stays."""
    before, rows = table(), io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(COLUMNS)
    for suite, names in suites.names().items():
        for name in names:
            needs = before[name][-1] if name in before else ""
            writer.writerow(before[name] if needs and not find_spec(needs) else [*measured(suite, name)[:-1], needs])
    lists.ENVS.write_text(rows.getvalue())


if __name__ == "__main__":
    if "recipes" in sys.argv:
        lists.RECIPES.write_text(recipes())
    if "envs" in sys.argv:
        write_envs()
