"""Tables of the paper's claims on two tasks, three seeds each: from results/learning.csv, printed by tables.py.

"A is better than B" is supported if the 95% interval of the probability that a run of A beats one of B, over runs and
tasks, lies above one half, contradicted if it lies below, and not decidable at this budget otherwise.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.names import ROUNDED, named
from experiments.numbers import Diagnoses, evaluated
from experiments.printing import cells, print_head, print_row
from steadyq.results import published, scores
from steadyq.results.compare import verdict
from steadyq.results.runs import Run, Study
from steadyq.results.statistics import Scores, probability_of_improvement
from steadyq.store.names import CRITIC_ELR, DIAGNOSED_NORM

END = 50_000
ALL_REACHED = 45_000  # the machine that held the last two runs of utd.toml was lost before their end
TASKS = ("walker-run", "cheetah-run", "quadruped-run", "finger-turn_hard")


class Health(NamedTuple):
    """Runs that were diagnosed at the same frames."""

    at: Diagnoses
    variants: dict[str, str]  # words -> experiment
    pairs: tuple[tuple[str, str], ...]  # of words: is the first one larger?


WITH, WITHOUT = "`crossq_wn`, UTD {}", "not projected, UTD {}"
NORMS = Health(
    Diagnoses(10_000, 11_000, 12_000),
    {
        words.format(utd): named(utd, options)
        for words, options in ((WITH, ""), (WITHOUT, "-project=none"))
        for utd in (1, 10)
    },
    (
        (WITHOUT.format(10), WITH.format(10)),
        (WITHOUT.format(1), WITH.format(1)),
        (WITHOUT.format(10), WITHOUT.format(1)),
        (WITH.format(10), WITH.format(1)),
    ),
)
"""The runs of norms.toml."""
LONG = Health(
    Diagnoses(10_000, 30_000, END),  # `sac` makes its first update after frame 20,000
    {WITH.format(utd): named(utd, ROUNDED) for utd in (1, 5, 10)}
    | {"`crossq --width 512`, UTD 1": "crossq-utd1-width=512", "`sac`, UTD 1": "sac-utd1"},
    (),
)
"""One seed each of utd.toml and learning.toml, to their end."""

PUBLISHED = [
    *((named(10, ROUNDED), theirs) for theirs in ("BRO-utd10@naumix", "SR-SAC-rr32@proceduralia")),
    *((named(2, precision), "SimBa-utd2@SonyResearch") for precision in ("", ROUNDED)),
    *(
        (ours + precision, theirs)
        for ours, theirs in (
            ("xqc-utd2", "XQC-utd2@danielpalenicek"),
            ("xqc-utd2-schedule_updates=990000", "XQC-utd2@danielpalenicek"),
            ("simba-utd2", "SimBa-utd2@SonyResearch"),
            ("bro_fast-utd2", "BRO-utd2@naumix"),
            ("bro-utd10", "BRO-utd10@naumix"),
            ("sac_resets-utd32", "SR-SAC-rr32@proceduralia"),
            ("redq-utd20", "REDQ@proceduralia"),
            ("sac_primacy-utd1", "SAC-rr1@evgenii-nikishin"),
        )
        for precision in ("", ROUNDED)
    ),
]
"""Our experiments, and whose runs they are compared with."""


def print_verdict(claim: str, a: Scores, b: Scores) -> None:
    """A row: the claim that A is better than B, tasks, runs, probability, interval, what that is worth, verdict."""
    tasks = [task for task in TASKS if task in a.tasks and task in b.tasks]
    found = probability_of_improvement(a.on(tasks), b.on(tasks)).at(0)
    words = f"{' and '.join(tasks)}, {found.runs} seed{'s' * (found.runs > 1)}"
    interval = f"{found.low:.2f} to {found.high:.2f}" if found.low == found.low else "none"
    print_row(claim, words, f"{found.estimate:.2f}", interval, found.coverage, verdict(found))


def sample_efficiency(runs: list[Run]) -> None:
    """Fig. 2: area under the curve to the frame that all runs reached."""
    area, _ = scores.areas(runs, stop=ALL_REACHED)
    of = {utd: area[named(utd, ROUNDED)] for utd in (1, 2, 5, 10)}
    print_head("task", *(f"UTD {utd}" for utd in of))
    for task in TASKS:
        row = [cells(found, task, ".0f") for found in of.values()]
        if any(row):
            print_row(task, *row)
    print_head("claim", "on", "probability", "95% interval", "real coverage", "")
    for low, high in pairwise(of):
        print_verdict(f"UTD {high} is better than UTD {low}", of[high], of[low])


def unhealthy(study: Study, health: Health) -> Mapping[str, Scores]:
    """Fig. 1; the spread of Q-bias, by method."""

    found: Mapping[str, Scores] = {}
    for title, measure in health.at.measures().items():
        found = health.at.numbers(study, measure, health.variants.values())
        print(f"\n**{title} to {health.at.end:,}**, by seed:")
        tasks = [task for task in TASKS if any(task in scores.tasks for scores in found.values())]
        print_head("", *tasks)
        form = ".3f" if measure[0] == DIAGNOSED_NORM else ".2f"
        for words, method in health.variants.items():
            if method in found:
                print_row(words, *(cells(found[method], task, form) for task in tasks))
        expected = "smaller" if measure[0] == CRITIC_ELR else "larger"
        if health.pairs:
            print_head(f"{expected} in", "than in", "on", "probability", "95% interval", "real coverage", "")
        for pair in health.pairs:
            a, b = (found[health.variants[words]] for words in pair)
            print_verdict(" | ".join(pair), *((a, b) if expected == "larger" else (b, a)))
    return found  # of the last, the spread over states


def bias_and_failure(spread: Mapping[str, Scores], last: dict[str, Scores]) -> None:
    """Does high Q-bias go with low return? Spearman's rank correlation over all diagnosed runs of a task."""
    print_head("task", "runs", "rank correlation of Q-bias spread and return", "p (permutation)")
    for task in TASKS:
        pairs = [
            (value, last[method].tasks[task][0, last[method].seeds[task].index(seed)])
            for method, found in spread.items()
            if task in found.tasks and method in last
            for seed, value in zip(found.seeds[task], found.tasks[task][0], strict=True)
        ]
        if len(pairs) > 4:
            x, y = np.array(pairs).T
            rho, p = rank_correlation(x, y)
            print_row(task, len(pairs), f"{rho:+.2f}", f"{p:.4f}")


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Spearman's, and how often a random pairing gives one at least as strong."""
    a, b = stats.zscore(stats.rankdata(x)), stats.zscore(stats.rankdata(y))

    def of(drawn: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(drawn * b, axis=axis)

    random = np.random.default_rng(0)
    test = stats.permutation_test((a,), of, permutation_type="pairings", vectorized=True, n_resamples=9_999, rng=random)
    return float(test.statistic), float(test.pvalue)


def next_to_published(runs: list[Run]) -> None:
    """Fig. 3 and the baselines: our seeds and the middle nine tenths of the published ones, at equal frames."""
    columns = ("ours", "theirs", "task", "frame", "our seeds", "their IQM", "5th to 95th percentile", "ours inside")
    print_head(*columns)
    for ours, theirs in PUBLISHED:
        for reference in published.summary():
            for frame in (END // 2, END, 2 * END):
                found = scores.at([run for run in runs if run.method == ours], [frame]).get(ours)
                if reference.method != theirs or found is None or reference.task not in found.tasks:
                    continue
                there = evaluated(reference, frame)
                if there is None:
                    continue
                values = found.tasks[reference.task][0]
                inside = sum(there.p05 <= value <= there.p95 for value in values)
                name, numbers = ours.replace(ROUNDED, ", bfloat16"), cells(found, reference.task, ".0f")
                shown = f"{inside} of {len(values)}"
                print_row(name, theirs, reference.task, f"{frame:,}", numbers, f"{there.iqm:.0f}", there.spread, shown)


def rounding(runs: list[Run]) -> None:
    """Does rounding hidden products to bfloat16 cost learning? Area under the whole curve, seed by seed.

    A pair is one task and seed in both precisions; the interval is Student's, over pairs, of the difference relative to
    the task's float32 mean.
    """
    area, _ = scores.areas([run for run in runs if run.method in (named(2), named(2, ROUNDED))], stop=END)
    plain, rounded = area[named(2)], area[named(2, ROUNDED)]
    print_head("task", "seed", "float32", "bfloat16")
    differences = []
    for task in sorted(rounded.tasks):
        level = plain.tasks[task].mean()
        for seed, there in sorted(zip(rounded.seeds[task], rounded.tasks[task][0], strict=True)):
            here = plain.tasks[task][0, plain.seeds[task].index(seed)]
            differences.append((there - here) / level)
            print_row(task, seed, f"{here:.0f}", f"{there:.0f}")
    centre = np.mean(differences)
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    print(f"\nbfloat16 - float32, relative: {centre:+.0%} (95% interval {centre - half:+.0%} to {centre + half:+.0%})")


def print_all(study: Study) -> None:
    """In the order of the page."""
    sample_efficiency(study.runs)
    spread = unhealthy(study, NORMS)
    bias_and_failure(spread, scores.at(study.runs, [NORMS.at.end]))
    unhealthy(study, LONG)
    next_to_published(study.runs)
    rounding(study.runs)
