"""Statistics against SciPy, a slow bootstrap in plain loops, exact distributions and worked examples."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from steadyq.errors import InputError
from steadyq.results import statistics
from steadyq.results.statistics import Scores

RUNS = {"a": 10, "b": 4, "c": 7}


def scores(tasks: dict[str, list | np.ndarray], *, points: list[float] | None = None) -> Scores:
    """Scores of runs 0, 1, 2, ...; without points of one."""
    tables = {task: np.atleast_2d(np.asarray(values, dtype=np.float64)) for task, values in tasks.items()}
    seeds = {task: tuple(map(str, range(table.shape[-1]))) for task, table in tables.items()}
    return Scores("method", np.array(points or [0.0]), seeds, tables)


def drawn(seed: int, *, points: int = 1, shift: float = 0.0, runs: dict[str, int] = RUNS) -> Scores:
    random = np.random.default_rng(seed)
    tables = {task: random.gamma(2.0, size=(points, n)) + shift for task, n in runs.items()}
    return scores(tables, points=list(range(points)))


# ---- statistics


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 10, 30, 150])
def test_iqm_is_scipys_trimmed_mean(n: int) -> None:
    values = np.random.default_rng(n).normal(500, 300, size=(6, n))
    expected = stats.trim_mean(values, 0.25, axis=-1)
    np.testing.assert_allclose(statistics.iqm({"task": values}), expected, rtol=1e-12)
    if n > 1:  # however the runs are spread over tasks
        np.testing.assert_allclose(statistics.iqm({"a": values[:, :1], "b": values[:, 1:]}), expected, rtol=1e-12)


def test_worked_examples() -> None:
    tasks = {"a": np.array([0.0, 10.0]), "b": np.array([20.0, 30.0, 40.0, 1030.0]), "c": np.array([7.0])}
    assert statistics.mean(tasks) == pytest.approx((5 + 280 + 7) / 3)
    assert statistics.median(tasks) == 7
    assert statistics.iqm(tasks) == pytest.approx((7 + 10 + 20 + 30 + 40) / 5)  # of 7 runs one goes at each end
    shares = (1 - 0.005, (0.98 + 0.97 + 0.96 + 0) / 4, 1 - 0.007)  # above the target counts as the target
    assert statistics.optimality_gap(target=1000)(tasks) == pytest.approx(sum(shares) / 3)


# ---- the bootstrap


def slow_bootstrap(found: Scores, resamples: int, seed: int) -> np.ndarray:
    """IQMs of resamples in plain loops, with other random numbers."""
    random = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        pooled = []
        for table in found.tasks.values():
            runs = table[0].tolist()
            pooled += [runs[random.integers(len(runs))] for _ in runs]
        values.append(stats.trim_mean(pooled, 0.25))
    return np.array(values)


def test_the_interval_is_that_of_a_slow_bootstrap() -> None:
    found = drawn(3)
    slow = slow_bootstrap(found, 4_000, seed=11)
    for level in (0.95, 0.5):
        interval = statistics.estimate(statistics.iqm, found, level=level, resamples=40_000).at(0)
        expected = np.quantile(slow, [(1 - level) / 2, (1 + level) / 2])
        # five standard errors of a quantile of 4,000 draws, with a normal's density there
        density = stats.norm.pdf(stats.norm.ppf((1 + level) / 2)) / slow.std()
        error = 5 * np.sqrt((1 - level) / 2 * (1 + level) / 2 / 4_000) / density
        np.testing.assert_allclose([interval.low, interval.high], expected, atol=error)
        assert error < 0.12 * (interval.high - interval.low)  # the test can tell
        assert interval.estimate == statistics.iqm(found.tasks)[0]
        assert (interval.level, interval.runs, interval.tasks) == (level, 4, 3)


def test_the_interval_of_a_mean_of_two_runs_is_exact() -> None:
    found = scores({"a": [0.0, 1.0]})  # resampled means are 0, 1/2, 1 with 1/4, 1/2, 1/4
    assert statistics.estimate(statistics.mean, found, level=0.4).at(0)[1:3] == (0.5, 0.5)
    assert statistics.estimate(statistics.mean, found, level=0.6).at(0)[1:3] == (0.0, 1.0)


def test_tasks_are_resampled_by_themselves() -> None:
    """Runs that agree on each task leave nothing to chance, however far the tasks are apart."""
    interval = statistics.estimate(statistics.mean, scores({"a": [1.0] * 5, "b": [900.0] * 3})).at(0)
    assert interval[:3] == (450.5, 450.5, 450.5)


def test_equal_seeds_give_equal_intervals_in_any_order_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = drawn(5, points=3)
    band = statistics.estimate(statistics.iqm, found, seed=1, resamples=500)
    again = statistics.estimate(statistics.iqm, found.on(["c", "a", "b"]), seed=1, resamples=500)
    other = statistics.estimate(statistics.iqm, found, seed=2, resamples=500)
    np.testing.assert_array_equal(band.low, again.low)
    assert (band.low != other.low).all()
    monkeypatch.setattr(statistics, "ELEMENTS", 1_000)  # in many blocks: other draws, the same distribution
    blocks = statistics.estimate(statistics.iqm, found, seed=1, resamples=20_000)
    whole = statistics.estimate(statistics.iqm, found, seed=7, resamples=20_000)
    np.testing.assert_allclose(blocks.low, whole.low, atol=0.05)


def test_whole_runs_are_resampled_the_same_at_every_point() -> None:
    curve = np.array([[0.0, 5.0, 9.0, 2.0]])
    band = statistics.estimate(statistics.iqm, scores({"a": np.vstack([curve, curve + 100])}, points=[0, 1]))
    assert band.low[1] - band.low[0] == pytest.approx(100)
    assert band.high[1] - band.high[0] == pytest.approx(100)


def test_one_run_has_no_interval() -> None:
    interval = statistics.estimate(statistics.iqm, scores({"a": [1.0, 2.0, 4.0], "b": [3.0]})).at(0)
    assert interval.estimate == 2.5
    assert np.isnan([interval.low, interval.high]).all()
    assert (interval.runs, interval.coverage) == (1, "")


# ---- probability of improvement, spreads


def test_probability_of_improvement_is_mann_whitneys() -> None:
    a, b = drawn(1, points=2, shift=0.3), drawn(2, points=2, runs={"a": 5, "b": 6, "c": 3})
    a.tasks["b"][:, 0] = b.tasks["b"][:, 0]  # a tie
    found = statistics.probability_of_improvement(a, b)
    for point in range(2):
        each = [
            stats.mannwhitneyu(a.tasks[task][point], b.tasks[task][point]).statistic
            / (a.tasks[task].shape[-1] * b.tasks[task].shape[-1])
            for task in RUNS
        ]
        assert found.estimate[point] == pytest.approx(np.mean(each))
    assert found.runs == 3
    turned = statistics.probability_of_improvement(b, a)
    np.testing.assert_allclose(turned.estimate, 1 - found.estimate)
    np.testing.assert_allclose(turned.low, 1 - found.high, atol=0.02)


def test_the_interval_of_the_probability_is_exact_for_two_runs_each() -> None:
    a, b = [1.0, 3.0], [0.0, 2.0]
    every = [
        np.mean([(x > y) + 0.5 * (x == y) for x in left for y in right])
        for left in itertools.product(a, repeat=2)
        for right in itertools.product(b, repeat=2)
    ]
    values, counts = np.unique(every, return_counts=True)
    for level in (0.3, 0.6, 0.8):
        got = statistics.probability_of_improvement(scores({"t": a}), scores({"t": b}), level=level).at(0)
        shares = np.cumsum(counts) / 16
        expected = [values[np.searchsorted(shares, tail)] for tail in ((1 - level) / 2, (1 + level) / 2)]
        assert [got.low, got.high] == expected


def test_the_probability_needs_the_same_tasks_and_two_runs() -> None:
    with pytest.raises(InputError, match="other tasks or points"):
        statistics.probability_of_improvement(drawn(1), drawn(2, runs={"a": 3}))
    one = statistics.probability_of_improvement(scores({"a": [3.0, 4.0]}), scores({"a": [1.0]})).at(0)
    assert one.estimate == 1
    assert np.isnan(one.low)


def test_a_spread_is_of_runs() -> None:
    spread = statistics.spread(scores({"a": list(range(101))}))
    assert (spread.low[0], spread.high[0]) == (pytest.approx(5), pytest.approx(95))


# ---- curves


def test_area_by_hand() -> None:
    frames, values = np.array([0.0, 10.0, 20.0, 50.0]), np.array([0.0, 4.0, 4.0, 10.0])
    assert statistics.area_under_curve(frames, values, start=0, stop=50) == (20 + 40 + 210) / 50
    assert statistics.area_under_curve(frames, values, start=5, stop=35) == pytest.approx((15 + 40 + 82.5) / 30)
    for start, stop in ((-1, 50), (0, 51), (10, 10)):
        with pytest.raises(InputError, match="this one has 0 to 50"):
            statistics.area_under_curve(frames, values, start=start, stop=stop)


def test_frames_to_a_score() -> None:
    frames, values = np.array([0.0, 10.0, 20.0]), np.array([0.0, 4.0, 3.0])
    reached = [statistics.frames_to_reach(frames, values, score=score) for score in (0, 3, 4, 5)]
    assert reached == [0, 10, 10, np.inf]


# ---- names and refusals


def test_runs_and_points_cannot_be_swapped() -> None:
    table = np.zeros((2, 3))
    seeds, points = {"a": ("0", "1", "2")}, np.array([5.0, 10.0])
    Scores("m", points, seeds, {"a": table})
    with pytest.raises(InputError, match=r"m on a have the shape \(3, 2\); 2 points and 3 seeds are named"):
        Scores("m", points, seeds, {"a": table.T})
    with pytest.raises(InputError, match="each with its seeds"):
        Scores("m", points, {}, {"a": table})
    with pytest.raises(InputError, match="not all finite"):
        Scores("m", points, seeds, {"a": table * np.nan})


def test_levels_and_resamples_are_checked() -> None:
    for level in (0, 1, 95):
        with pytest.raises(InputError, match="between 0 and 1"):
            statistics.estimate(statistics.iqm, drawn(0), level=level)
    with pytest.raises(InputError, match="resamples is 0"):
        statistics.probability_of_improvement(drawn(0), drawn(1), resamples=0)


# ---- what intervals are worth


def test_the_quoted_coverage_is_the_measured_one() -> None:
    path = Path(__file__).parents[1] / "experiments/results/coverage.csv"
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["distribution"] == "published" and int(row["runs"]) < 10]
    for name, table in (("iqm", statistics.IQM_COVERAGE), ("probability", statistics.PROBABILITY_COVERAGE)):
        measured = {(int(row["runs"]), int(row["tasks"])): 100 * float(row[name]) for row in rows}
        quoted = {(runs, tasks): both[tasks > 1] for runs, both in table.items() for tasks in (1, 15)}
        assert quoted == pytest.approx(measured, abs=0.5)


def test_coverage_stands_beside_nominal_95_percent_only() -> None:
    few, many = scores({"a": [1.0, 2.0, 3.0]}), scores({"a": list(range(10))})
    one = f"{statistics.IQM_COVERAGE[3][0]:.0f}%"
    assert statistics.estimate(statistics.iqm, few).at(0).coverage == one
    assert statistics.estimate(statistics.iqm, few, level=0.9).at(0).coverage == ""
    assert statistics.estimate(statistics.median, few).at(0).coverage == ""  # not measured
    assert statistics.estimate(statistics.iqm, many).at(0).coverage == ""
    two = statistics.estimate(statistics.iqm, scores({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]})).at(0)
    assert two.coverage == "{:.0f} to {:.0f}%".format(*statistics.IQM_COVERAGE[3])


def test_true_coverage_of_a_mean_is_what_simulation_says() -> None:
    """The claim itself, on a small scale: with 3 normal runs a nominal 95% interval holds the truth far less often."""
    random = np.random.default_rng(0)
    held = 0
    for seed in range(400):
        interval = statistics.estimate(statistics.iqm, scores({"a": random.normal(size=3)}), resamples=400, seed=seed)
        held += interval.low[0] <= 0 <= interval.high[0]
    assert 0.68 < held / 400 < 0.84
