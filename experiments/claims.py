"""The tables of docs/evidence.md: the paper's claims, tested with the runs of experiments/results/learning.csv.

    python experiments/claims.py experiments/results/learning.csv

"A is better than B" is supported if the 95% interval of the probability that a run of A beats one of B, over runs and
tasks, lies above one half, contradicted if it lies below, and not decidable at this budget otherwise.
"""

import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import stats

from steadyq.study import published, scores
from steadyq.study.compare import verdict
from steadyq.study.scores import Run, Study
from steadyq.study.statistics import Scores, probability_of_improvement

END = 50_000
TASKS = ("walker-run", "cheetah-run", "quadruped-run", "finger-turn_hard")
LEARNT = 20_000  # frame of the first diagnosis after the warm-up of 10,000
ROUNDED = "-precision=bfloat16"
BIAS, SPREAD = "diag/q_bias/aggregate_mean", "diag/q_bias/aggregate_std"
CLOCK = "time/time_elapsed"
NORM, ELR = "diag/critic/weight_norm", "diag/critic/elr"


def named(utd: int, options: str = "") -> str:
    """The name of an experiment with `crossq_wn`; options sorted as a name has them."""
    return f"crossq_wn-utd{utd}{ROUNDED}{options}"


PLAIN, BARE = "-project=none", "-project=none-target=none"
VARIANTS = {
    "`crossq_wn`, UTD 1": named(1),
    "`crossq_wn`, UTD 10": named(10),
    "not projected, UTD 1": named(1, PLAIN),
    "not projected, UTD 10": named(10, PLAIN),
    "not projected, no target network, UTD 1": named(1, BARE),
    "not projected, no target network, UTD 10": named(10, BARE),
    "`sac`, UTD 1": f"sac-utd1{ROUNDED}",
}

BESIDE = [
    *((named(10), theirs) for theirs in ("BRO-utd10@naumix", "SR-SAC-rr32@proceduralia")),
    *(
        (f"{ours}{ROUNDED}", theirs)
        for ours, theirs in (
            ("xqc-utd2", "XQC-utd2@danielpalenicek"),
            ("simba-utd2", "SimBa-utd2@SonyResearch"),
            ("bro_fast-utd2", "BRO-utd2@naumix"),
            ("bro-utd10", "BRO-utd10@naumix"),
            ("sac_resets-utd32", "SR-SAC-rr32@proceduralia"),
            ("redq-utd20", "REDQ@proceduralia"),
            ("sac-utd1", "SAC-rr1@evgenii-nikishin"),
        )
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
    print(f"Area under the curve to frame {END:,} (mean return), by seed:\n")
    print("| task | UTD 1 | UTD 2 | UTD 5 | UTD 10 |\n|---|---|---|---|---|")
    utds = [utd for utd in (1, 2, 5, 10) if named(utd) in area]
    for task in TASKS:
        row = [cells(area.get(named(utd)), task, ".0f") for utd in (1, 2, 5, 10)]
        if any(row):
            print(f"| {task} | {' | '.join(row)} |")
    print("\n| claim | on | probability | 95% interval | truly covers | |\n|---|---|---|---|---|---|")
    for low, high in pairwise(utds):
        print(f"| UTD {high} is better than UTD {low} {beats(area[named(high)], area[named(low)])}")


def measured(study: Study, metric: str, number: Callable[[Run], float]) -> dict[str, Scores]:
    """A number of each run's diagnoses, by method; only of runs diagnosed to the end."""
    by_method: dict[str, list[tuple[Run, float]]] = {}
    for run in study.more.get(metric, ()):
        if run.covers(END) and run.covers(LEARNT):
            by_method.setdefault(run.method, []).append((run, number(run)))
    return {method: table(method, runs) for method, runs in by_method.items()}


def since(run: Run, frame: int) -> np.ndarray:
    """A run's values from a frame on, to the end."""
    return run.value[(run.env_step >= frame) & (run.env_step <= END)]


def health(study: Study) -> dict[str, Scores]:
    """Fig. 1; the spread of Q-bias, by method."""
    numbers = {
        "weight norm, last / first": (NORM, lambda run: run.value[-1] / run.value[0], ".2f"),
        f"effective learning rate, last / frame {LEARNT:,}": (
            ELR,
            lambda run: since(run, LEARNT)[-1] / since(run, LEARNT)[0],
            ".2g",
        ),
        "Q-bias, standard deviation over time": (BIAS, lambda run: np.std(since(run, LEARNT)), ".2g"),
        "Q-bias, standard deviation over states": (SPREAD, lambda run: np.mean(since(run, LEARNT)), ".2g"),
    }
    for title, (metric, number, form) in numbers.items():
        found = measured(study, metric, number)
        print(f"\n**{title[0].upper()}{title[1:]}**, by seed:\n")
        tasks = [
            task
            for task in TASKS
            if any(method in found and task in found[method].tasks for method in VARIANTS.values())
        ]
        print(f"| | {' | '.join(tasks)} |\n|---|{'---|' * len(tasks)}")
        for words, method in VARIANTS.items():
            if method in found:
                print(f"| {words} | {' | '.join(cells(found[method], task, form) for task in tasks)} |")
        print(
            "\n| larger in A than in B | on | probability | 95% interval | truly covers | |\n|---|---|---|---|---|---|"
        )
        for options, words in ((PLAIN, "not projected"), (BARE, "not projected, no target network")):
            for utd in (1, 10):
                compare(found, named(utd, options), named(utd), f"{words} / `crossq_wn`, UTD {utd}")
            compare(found, named(10, options), named(1, options), f"{words}: UTD 10 / UTD 1")
        compare(found, named(10), named(1), "`crossq_wn`: UTD 10 / UTD 1")
    return found  # of the last, the spread over states


def compare(found: dict[str, Scores], a: str, b: str, words: str) -> None:
    """One row, if both have been run."""
    if a in found and b in found:
        print(f"| {words} {beats(found[a], found[b])}")


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
            print(f"| {task} | {len(pairs)} | {rho:+.2f} | {p:.3f} |")


def beside_published(study: Study) -> None:
    """Fig. 3 and the baselines: our seeds beside the middle nine tenths of the published ones, at equal frames."""
    print("\n| ours | theirs | task | frame | our seeds | their IQM | 5th to 95th percentile | ours inside |")
    print("|---|---|---|---|---|---|---|---|")
    for ours, theirs in BESIDE:
        for reference in published.summary():
            for frame in (END, 2 * END):
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
    area, _ = scores.areas(study.runs, stop=END)
    sample_efficiency(area)
    spread = health(study)
    bias_and_failure(spread, scores.at(study.runs, [END]))
    beside_published(study)


if __name__ == "__main__":
    main()
