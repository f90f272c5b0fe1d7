"""`steadyq compare --over tasks`: relative differences, their exact test, and whether methods are equal."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import permutation_test

from steadyq.cli.main import main
from steadyq.results import compare, over_tasks
from steadyq.results.runs import Run, Study
from steadyq.results.statistics import Scores

TASKS = [f"dog-{letter}" for letter in "abcdefgh"]
HOW = {"resamples": 2_000, "seed": 0}


def one_seed(method: str, values: list[float], *, seed: str = "0") -> list[Run]:
    """A run on each task whose area under the curve is that value."""
    frames = np.array([0, 100])
    return [
        Run(method, task, seed, frames, np.full(2, value), "here") for task, value in zip(TASKS, values, strict=False)
    ]


def compared(*found: list[Run]) -> compare.Paired:
    (pair,) = compare.compare(Study([*itertools.chain(*found)], []), over="tasks", resamples=2_000).paired
    return pair


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_the_sign_flip_test_is_that_of_all_assignments_and_of_scipy(count: int) -> None:
    random = np.random.default_rng(count)
    for _ in range(5):
        ours, theirs = random.uniform(0, 1000, (2, count)).round(-2)  # with ties
        found = (ours - theirs) / np.maximum(np.maximum(ours, theirs), 1)
        flipped = [abs(np.dot(signs, found)) for signs in itertools.product([-1, 1], repeat=count)]
        by_hand = np.mean([value >= abs(found.sum()) - 1e-9 for value in flipped])
        assert over_tasks.sign_flip(found, **HOW) == pytest.approx(by_hand, abs=1e-12)
        if count > 1:
            scipy = permutation_test(
                (ours, theirs),
                lambda a, b, axis: ((a - b) / np.maximum(np.maximum(a, b), 1)).mean(axis),
                permutation_type="samples",
                n_resamples=np.inf,
                vectorized=True,
            )
            assert over_tasks.sign_flip(found, **HOW) == pytest.approx(min(1, scipy.pvalue), abs=1e-12)


def test_many_tasks_are_counted_too_and_very_many_sampled() -> None:
    same = np.full(30, 0.1)
    assert over_tasks.sign_flip(same, **HOW) == 2 / 2**30
    assert over_tasks.sign_flip(np.append(same, -0.1), **HOW) == (2 + 2 * 31) / 2**31
    mixed = np.random.default_rng(1).normal(0.15, 1, over_tasks.EXACT + 1)
    exact = over_tasks.sign_flip(mixed[:-1], **HOW)
    assert over_tasks.sign_flip(mixed, **HOW) == pytest.approx(exact, abs=0.1)
    assert over_tasks.sign_flip(mixed, **HOW) != over_tasks.sign_flip(mixed, resamples=2_000, seed=1)


def scores_of(method: str, tasks: dict[str, list[float]]) -> Scores:
    """Runs at one point."""
    seeds = {task: tuple(map(str, range(len(values)))) for task, values in tasks.items()}
    return Scores(method, np.zeros(1), seeds, {task: np.array([values]) for task, values in tasks.items()})


def test_differences_are_relative_to_the_larger_of_each_pair_of_runs() -> None:
    a = scores_of("a", {"x": [1.0, 3.0], "y": [0.0], "z": [-1.0, 9.0], "only": [1.0]})
    b = scores_of("b", {"x": [4.0], "y": [0.0, 0.0], "z": [5.0]})
    assert over_tasks.differences(a, b) == {"x": (-3 / 4 - 1 / 4) / 2, "y": 0}
    assert over_tasks.differences(b, a) == {"x": (3 / 4 + 1 / 4) / 2, "y": 0}


def test_one_run_of_equals_is_not_behind_in_the_mean() -> None:
    """Each of seven skewed runs, four of them nothing, next to the other six; by their mean it would be behind."""
    runs = [0.0, 0.0, 0.0, 0.0, 10.0, 100.0, 900.0]
    found, by_means = [], []
    for place, value in enumerate(runs):
        others = runs[:place] + runs[place + 1 :]
        found.append(over_tasks.differences(scores_of("a", {"x": [value]}), scores_of("b", {"x": others}))["x"])
        by_means.append((value - np.mean(others)) / max(value, np.mean(others)))
    assert np.mean(found) == pytest.approx(0, abs=1e-12)
    assert np.mean(by_means) < -0.4


def test_intervals_cover_what_is_said() -> None:
    random = np.random.default_rng(0)
    for tasks, level in ((6, 0.9), (15, 0.95)):
        held = 0
        for seed in range(500):
            means = over_tasks.resampled_means(random.normal(size=tasks), resamples=300, seed=seed)
            low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
            held += low <= 0 <= high
        assert held / 500 == pytest.approx(over_tasks.real_coverage(tasks=tasks, level=level), abs=0.04)


def test_one_seed_on_each_task_is_enough_for_a_verdict_over_tasks() -> None:
    good, poor = one_seed("good", [400 + 10 * k for k in range(8)]), one_seed("poor", [200.0] * 8)
    found = compared(good, poor)
    assert found.differences == {task: pytest.approx(1 - 200 / (400 + 10 * k)) for k, task in enumerate(TASKS)}
    assert found.p_value == 2 / 2**8
    assert (found.verdict, found.equality) == ("supported", "not shown")
    assert found.mean.low < found.mean.estimate == np.mean([*found.differences.values()]) < found.mean.high
    assert (found.mean.tasks, found.mean.runs, found.mean.coverage) == (8, 1, "89%")
    assert (found.narrow.level, found.narrow.coverage) == (0.9, "83%")
    assert compared(poor, good).verdict == "contradicted"
    half = compared(one_seed("a", [100.0, 200.0] * 4), one_seed("b", [200.0, 100.0] * 4))
    assert (half.verdict, half.equality, half.p_value) == ("not decidable at this budget", "not shown", 1)


def test_what_differs_by_little_is_equal_be_it_better_or_not() -> None:
    base = [100.0 + k for k in range(8)]
    found = compared(one_seed("a", base), one_seed("b", [value * (0.99 - 0.002 * k) for k, value in enumerate(base)]))
    assert (found.verdict, found.equality) == ("supported", "equal")
    assert -0.1 < found.narrow.low < found.narrow.high < 0.1
    wide = compared(one_seed("a", base), one_seed("b", [value * (0.9 - 0.002 * k) for k, value in enumerate(base)]))
    assert wide.equality == "not shown"


def test_few_tasks_decide_nothing_and_that_is_said() -> None:
    study = Study([*one_seed("a", [9.0] * 5), *one_seed("b", [1.0] * 5)], [])
    found = compare.compare(study, over="tasks", resamples=100)
    (pair,) = found.paired
    assert found.pairs == []
    assert (pair.verdict, pair.equality, pair.p_value) == ("not decidable at this budget", "too few tasks", 2 / 2**5)
    assert (
        "5 tasks are too few for a verdict over tasks: even of equal signs on all of them p would be 0.062; "
        "compare on at least 6" in found.notes
    )
    assert "where a task has one run only there is no interval" in found.notes
    (alone,) = compare.compare(Study([*study.runs[:1], *study.runs[5:6]], []), over="tasks").paired
    assert np.isnan(alone.p_value)
    below = [run._replace(value=-run.value) for run in one_seed("c", [1.0])]
    notes = compare.compare(Study([*study.runs, *below], []), over="tasks", resamples=100).notes
    assert "left out over tasks: dog-a, where an area is below 0: relative to what?" in notes


def test_runs_are_counted_on_the_tasks_that_both_have() -> None:
    several = [run._replace(seed=str(seed)) for seed in range(5) for run in one_seed("a", [400.0] * 8)]
    more = [several[0]._replace(task="another-task")]
    study = Study([*several, *more, *one_seed("b", [200.0] * 8)], [])
    (pair,) = compare.compare(study, over="tasks", resamples=100).paired
    assert (pair.mean.runs, pair.mean.tasks) == (1, 8)  # of b
    doubled = [run._replace(seed=str(seed)) for seed in range(5) for run in one_seed("b", [200.0] * 8)]
    (pair,) = compare.compare(Study([*several, *more, *doubled], []), over="tasks", resamples=100).paired
    assert pair.mean.runs == 5


def test_the_command_says_which_analysis_it_did(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = tmp_path / "runs.csv"
    lines = [
        f"{run.method},{run.task},{run.seed},eval/mean_reward,{frame},{value}"
        for run in [*one_seed("good", [400.0] * 8), *one_seed("poor", [200.0] * 8)]
        for frame, value in zip(run.env_step, run.value, strict=True)
    ]
    table.write_text("\n".join(["exp_name,env_name,seed,metric,env_step,value", *lines]) + "\n")
    out = {name: tmp_path / f"out.{name}" for name in ("json", "csv")}
    arguments = ["compare", str(table), "--reps", "100"]
    assert main([*arguments, "--over", "tasks", "--json", str(out["json"]), "--csv", str(out["csv"])]) == 0
    printed = capsys.readouterr().out
    for words in (
        "on tasks like these?",
        "+50.0%",
        "0.0078",
        "supported",
        "equal?",
        "not of other seeds (--over seeds)",
    ):
        assert words in printed
    assert "Probability that a run" not in printed
    content = json.loads(out["json"].read_text())
    assert content["over"] == "tasks"
    assert content["pairs"] == []
    assert content["paired"][0]["differences"] == dict.fromkeys(TASKS, 0.5)
    with out["csv"].open(newline="") as file:
        rows = {(row["statistic"], row["level"]): row for row in csv.DictReader(file) if row["other"]}
    assert {key: (row["estimate"], row["verdict"]) for key, row in rows.items()} == {
        ("relative_difference", "0.95"): ("0.5", "supported"),
        ("relative_difference", "0.9"): ("0.5", "not shown"),
        ("sign_flip_p", ""): ("0.0078125", "supported"),
    }
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "not of other tasks (--over tasks)" in printed
    assert "on tasks like these?" not in printed
