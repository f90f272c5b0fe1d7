"""The tables of docs/evidence.md: the paper's claims, tested with the runs of experiments/results/learning.csv.

    python experiments/claims.py experiments/results/learning.csv

"A is better than B" is supported if the 95% interval of the probability that a run of A beats one of B, over runs and
tasks, lies above one half, contradicted if it lies below, and not decidable at this budget otherwise.
"""

import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from steadyq.results import published, scores
from steadyq.results.compare import verdict
from steadyq.results.scores import Run, Study
from steadyq.results.statistics import Scores, probability_of_improvement

END = 50_000
ALL_REACHED = 45_000  # the machine that held the last two runs of utd.txt was lost before their end
TASKS = ("walker-run", "cheetah-run", "quadruped-run", "finger-turn_hard")
ROUNDED = "-precision=bfloat16"
BIAS, SPREAD = "diag/q_bias/aggregate_mean", "diag/q_bias/aggregate_std"
CLOCK = "time/time_elapsed"
NORM, ELR = "diag/critic/weight_norm", "diag/critic/elr"


def named(utd: int, options: str = "") -> str:
    """The name of an experiment with `crossq_wn`; options sorted as a name has them."""
    return f"crossq_wn-utd{utd}{options}"


class Health(NamedTuple):
    """Runs that were diagnosed at the same frames."""

    untrained: int  # frame of the diagnosis right before the first update
    learnt: int  # and of the first one after it
    end: int  # of the last one
    variants: dict[str, str]  # words -> experiment
    pairs: tuple[tuple[str, str], ...]  # of words: is the first one larger?


WITH, WITHOUT = "`crossq_wn`, UTD {}", "not projected, UTD {}"
NORMS = Health(
    *(10_000, 11_000, 12_000),
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
"""The runs of norms.txt."""
LONG = Health(
    *(10_000, 20_000, END),
    {WITH.format(utd): named(utd, ROUNDED) for utd in (1, 5, 10)}
    | {"`crossq --width 512`, UTD 1": "crossq-utd1-width=512", "`sac`, UTD 1": "sac-utd1"},
    (),
)
"""One seed each of utd.txt and learning.txt, to their end."""

BESIDE = [
    *((named(10, ROUNDED), theirs) for theirs in ("BRO-utd10@naumix", "SR-SAC-rr32@proceduralia")),
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


def table(method: str, runs: Iterable[tuple[Run, float]]) -> Scores:
    """One number per run, as scores by task."""
    found: dict[str, dict[str, float]] = {}
    for run, value in runs:
        found.setdefault(run.task, {})[run.seed] = value
    seeds = {task: tuple(values) for task, values in found.items()}
    return Scores(
        method, "frame", np.array([float(END)]), seeds, {t: np.array([list(v.values())]) for t, v in found.items()}
    )


def beats(a: Scores, b: Scores) -> str:
    """A row's end: tasks, runs, probability, interval, what that is worth, verdict."""
    tasks = [task for task in TASKS if task in a.tasks and task in b.tasks]
    if not tasks:
        return "| none yet | | | | |"
    found = probability_of_improvement(a.on(tasks), b.on(tasks)).at(0)
    interval = f"{found.low:.2f} to {found.high:.2f}" if found.low == found.low else "none"
    words = f"{' and '.join(tasks)}, {found.runs} seed{'s' * (found.runs > 1)}"
    return f"| {words} | {found.estimate:.2f} | {interval} | {found.coverage} | {verdict(found)} |"


def cells(found: Scores | None, task: str, form: str) -> str:
    """A method's numbers on a task, by seed."""
    if found is None or task not in found.tasks:
        return ""
    return ", ".join(format(value, form) for value in found.tasks[task][0])


def sample_efficiency(area: dict[str, Scores]) -> None:
    """Fig. 2."""
    print(f"Area under the curve to frame {ALL_REACHED:,} (mean return), by seed:\n")
    print("| task | UTD 1 | UTD 2 | UTD 5 | UTD 10 |\n|---|---|---|---|---|")
    of = {utd: area[named(utd, ROUNDED)] for utd in (1, 2, 5, 10)}
    for task in TASKS:
        row = [cells(found, task, ".0f") for found in of.values()]
        if any(row):
            print(f"| {task} | {' | '.join(row)} |")
    print("\n| claim | on | probability | 95% interval | truly covers | |\n|---|---|---|---|---|---|")
    for low, high in pairwise(of):
        print(f"| UTD {high} is better than UTD {low} {beats(of[high], of[low])}")


def measured(study: Study, health: Health, metric: str, number: Callable[[Run], float]) -> dict[str, Scores]:
    """A number of each run's diagnoses, by method; only of runs diagnosed at this study's frames."""
    by_method: dict[str, list[tuple[Run, float]]] = {}
    for run in study.more.get(metric, ()):
        if run.method in health.variants.values() and {health.untrained, health.learnt, health.end} <= set(
            run.env_step
        ):
            by_method.setdefault(run.method, []).append((run, number(run)))
    return {method: table(method, runs) for method, runs in by_method.items()}


def unhealthy(study: Study, health: Health) -> dict[str, Scores]:
    """Fig. 1; the spread of Q-bias, by method."""

    def at(run: Run, frame: int) -> float:
        return float(run.value[run.env_step == frame][0])

    def learnt(run: Run) -> np.ndarray:
        return run.value[(run.env_step >= health.learnt) & (run.env_step <= health.end)]

    first, learning, end = (f"{frame:,}" for frame in health[:3])
    numbers: dict[str, tuple[str, Callable[[Run], float], str, str]] = {
        f"weight norm, frame {end} / {first}": (
            NORM,
            lambda run: at(run, health.end) / at(run, health.untrained),
            ".2f",
            "larger",
        ),
        f"effective learning rate, frame {end} / {learning}": (
            ELR,
            lambda run: at(run, health.end) / at(run, health.learnt),
            ".2f",
            "smaller",
        ),
        f"Q-bias, standard deviation over time from frame {learning}": (
            BIAS,
            lambda run: float(np.std(learnt(run))),
            ".2f",
            "larger",
        ),
        f"Q-bias, standard deviation over states, mean from frame {learning}": (
            SPREAD,
            lambda run: float(np.mean(learnt(run))),
            ".2f",
            "larger",
        ),
    }
    found: dict[str, Scores] = {}
    for title, (metric, number, form, expected) in numbers.items():
        found = measured(study, health, metric, number)
        print(f"\n**{title[0].upper()}{title[1:]}**, by seed:\n")
        tasks = [task for task in TASKS if any(task in scores.tasks for scores in found.values())]
        print(f"| | {' | '.join(tasks)} |\n|---|{'---|' * len(tasks)}")
        for words, method in health.variants.items():
            if method in found:
                print(f"| {words} | {' | '.join(cells(found[method], task, form) for task in tasks)} |")
        if health.pairs:
            print(f"\n| {expected} in | than in | on | probability | 95% interval | truly covers | |")
            print("|---|---|---|---|---|---|---|")
        for words in health.pairs:
            a, b = (found.get(health.variants[word]) for word in words)
            if a and b:
                print(f"| {words[0]} | {words[1]} {beats(*((a, b) if expected == 'larger' else (b, a)))}")
    return found  # of the last, the spread over states


def bias_and_failure(spread: dict[str, Scores], last: dict[str, Scores]) -> None:
    """Does high Q-bias go with low return? Spearman's rank correlation over all diagnosed runs of a task."""
    print("\n| task | runs | rank correlation of Q-bias spread and return | p (permutation) |\n|---|---|---|---|")
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
            print(f"| {task} | {len(pairs)} | {rho:+.2f} | {p:.4f} |")


def beside_published(study: Study) -> None:
    """Fig. 3 and the baselines: our seeds beside the middle nine tenths of the published ones, at equal frames."""
    print("\n| ours | theirs | task | frame | our seeds | their IQM | 5th to 95th percentile | ours inside |")
    print("|---|---|---|---|---|---|---|---|")
    for ours, theirs in BESIDE:
        for reference in published.summary():
            for frame in (END // 2, END, 2 * END):
                found = scores.at([run for run in study.runs if run.method == ours], [frame]).get(ours)
                if reference.method != theirs or found is None or reference.task not in found.tasks:
                    continue
                if frame not in reference.env_step:  # what lies between two evaluations is not theirs
                    continue
                (index,) = np.flatnonzero(reference.env_step == frame)
                iqm, low, high = (float(column[index]) for column in (reference.iqm, reference.p05, reference.p95))
                values = found.tasks[reference.task][0]
                inside = sum(low <= value <= high for value in values)
                print(
                    f"| {ours.removesuffix(ROUNDED)} | {theirs} | {reference.task} | {frame:,} | "
                    f"{cells(found, reference.task, '.0f')} | {iqm:.0f} | {low:.0f} to {high:.0f} | "
                    f"{inside} of {len(values)} |"
                )


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Spearman's, and how often a random pairing gives one at least as strong."""

    def of(drawn: np.ndarray) -> float:
        return float(stats.spearmanr(drawn, y).statistic)

    random = np.random.default_rng(0)
    test = stats.permutation_test((x,), of, permutation_type="pairings", n_resamples=9_999, rng=random)
    return of(x), float(test.pvalue)


def main() -> None:
    """Print everything as Markdown."""
    study = scores.read([Path(sys.argv[1])], also=lambda metric: metric.startswith(("diag/", CLOCK)))
    spent = {(run.method, run.task, run.value[-1]) for run in study.more[CLOCK]}  # seeds of one process have one clock
    print(f"{len(study.runs)} runs, {sum(seconds for *_, seconds in spent) / 3600:.0f} hours of one thread.\n")
    area, _ = scores.areas(study.runs, stop=ALL_REACHED)
    sample_efficiency(area)
    print(f"\nTo frame {NORMS.end:,}:")
    spread = unhealthy(study, NORMS)
    bias_and_failure(spread, scores.at(study.runs, [NORMS.end]))
    print(f"\nTo frame {LONG.end:,}, one seed each:")
    unhealthy(study, LONG)
    beside_published(study)


if __name__ == "__main__":
    main()
