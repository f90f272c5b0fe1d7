"""Methods compared at equal frames: what `steadyq compare` prints, as values.

Everything a reader needs to judge the numbers comes with them: `Comparison.notes` says where runs, frames or setups
are not equal and what the intervals are worth, `Comparison.complaints` what could not be read.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product
from typing import Literal, NamedTuple

import numpy as np

from steadyq.errors import InputError
from steadyq.results import differences, over_tasks, published, scores, statistics
from steadyq.results.published import Reference
from steadyq.results.runs import Run, Study, by_method, largest_common, tasks_of
from steadyq.results.scores import DMC_RETURN
from steadyq.results.statistics import RESAMPLES, Interval, Scores
from steadyq.store.names import EPISODES, EVALUATION

SCORE = 500.0  # half of a DeepMind Control task's highest return: what "frames to score" asks for unless told otherwise
PAIRS_OF = 8  # of so many published methods each is compared with each; of more, nobody would read the table
MOST_PAIRS = 1_000  # in all; far fewer are read, and the number grows as the square of the methods
VERDICT_LEVEL = 0.95  # the rule's, whatever the level of the other intervals
EQUAL, EQUAL_LEVEL = 0.1, 0.9  # equal for our purposes: the 90% interval lies within 10% on either side
Over = Literal["seeds", "tasks"]

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "not decidable at this budget"


class Entry(NamedTuple):
    """IQM of one method on one task, or over several; of the return at a frame, or of the area up to it."""

    method: str
    tasks: tuple[str, ...]
    frame: int
    iqm: Interval
    low: float  # 5th percentile of the runs: a spread, not an interval
    high: float  # 95th


class Aggregate(NamedTuple):
    """One method over several DeepMind Control tasks at a frame. The gap is in units of the highest return, 1000."""

    method: str
    tasks: tuple[str, ...]
    frame: int
    iqm: Interval
    mean: Interval
    median: Interval
    optimality_gap: Interval


class Reached(NamedTuple):
    """When the runs of one method on one task first reached a score."""

    method: str
    task: str
    score: float
    median: float  # frame; infinity if fewer than half of the runs reached it
    reached: int
    runs: int
    stop: int  # looked at up to this frame


class Pair(NamedTuple):
    """Is A better than B? By the probability that a run of A has a larger area under the curve than one of B."""

    a: str
    b: str
    tasks: tuple[str, ...]
    probability: Interval
    verdict: str


class Paired(NamedTuple):
    """Is A better than B on tasks like these, and are they equal for our purposes? By relative differences of areas."""

    a: str
    b: str
    differences: dict[str, float]  # by task
    mean: Interval  # over tasks
    p_value: float  # of the sign-flip test, two-sided; NaN of fewer than two tasks
    verdict: str
    narrow: Interval  # of the same mean, with the level of the rule for equality
    equality: str


class ReferenceValue(NamedTuple):
    """A published method's runs on one task at a frame, from the summary that ships with the package."""

    method: str
    task: str
    frame: int
    before: int  # the evaluations that the frame is between; itself, if there was one there
    after: int
    seeds: int
    iqm: float
    p05: float
    p95: float

    @property
    def evaluated(self) -> str:
        """Where the method was evaluated, and whether this value had to be interpolated."""
        there = self.before == self.after
        return f"{self.frame:,}" if there else f"{self.before:,} and {self.after:,} (interpolated)"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that was found, in the order in which it is printed."""

    metric: str
    frames: tuple[int, ...]
    level: float
    resamples: int
    seed: int
    returns: list[Entry]
    aggregates: list[Aggregate]
    areas: list[Entry]
    area_starts: dict[str, int]  # by task, the frame from which areas count; they end at the last of `frames`
    reached: list[Reached]
    over: Over  # what the verdicts speak of: other seeds of these tasks, or other tasks like these
    pairs: list[Pair]  # over seeds
    paired: list[Paired]  # over tasks
    references: list[ReferenceValue]
    notes: list[str]
    complaints: list[str]


def compare(
    study: Study,
    *,
    metric: str = EVALUATION,
    frames: Sequence[int] | None = None,
    start: int = 0,
    score: float | None = None,
    against: Sequence[str] | None = None,
    over: Over = "seeds",
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare the methods of these runs.

    Args:
        study: the runs, and complaints to pass on.
        metric: what they measure; aggregates and published references are for returns only.
        frames: where to compare; None for the last frame that all of one's own runs reach.
        start: the frame from which areas count: before the first update all methods are untrained alike.
        score: what "frames to score" asks for; None for 500 on DeepMind Control and nothing elsewhere.
        against: patterns of the methods of the published summary to show, on tasks that there are; None: the usual.
        over: what the verdicts speak of: other seeds of these tasks, or other tasks like these.
        level: of the intervals, other than the verdicts', which have 95%.
        resamples: of each bootstrap.
        seed: of each bootstrap.

    Raises:
        InputError: no run has a value at these frames, or as `scores.areas` and `statistics.check_bootstrap`.
    """
    statistics.check_bootstrap(level=level, resamples=resamples, seed=seed)
    own = [run for run in study.runs if not run.source]
    first = own or study.runs
    returns, aggregates, notes = list[Entry](), list[Aggregate](), list[str]()
    if frames:
        chosen = tuple(sorted(set(frames)))
    else:
        # A run that has its evaluation of frame 0 only has just begun: it does not count.
        shortest = min(first, key=lambda run: run.env_step[-1] or np.inf)
        chosen = (int(shortest.env_step[-1]),)
        if any(run.env_step[-1] > chosen[0] for run in first):
            why = f"because {shortest.name} ends there; choose another with --at"
            notes.append(f"compared at frame {chosen[0]:,} {why}")
    stop = chosen[-1]
    is_return = metric in (EVALUATION, EPISODES)
    dmc = tuple(task for task in sorted({run.task for run in first}) if is_return and scores.is_dmc(task))
    methods, common = largest_common(tasks_of(run for run in first if run.task in dmc), fewest=2)
    if common and common != dmc:
        left, dmc = ", ".join(task for task in dmc if task not in common), common
        why = f"not all of {', '.join(methods)} have runs there; choose with --methods and --tasks"
        notes.append(f"aggregates leave out {left}: {why}")
    how = {"level": level, "resamples": resamples, "seed": seed}
    for frame in chosen:
        at = scores.at(study.runs, [frame])
        returns += [_entry(found, (task,), frame, how) for task, found in _by_task(at)]
        without: dict[str, list[str]] = {}
        for method in by_method(study.runs) if len(dmc) > 1 else ():
            lacking = [task for task in dmc if method not in at or task not in at[method].tasks]
            if lacking:
                without.setdefault(", ".join(lacking), []).append(method)
            else:
                aggregates.append(_aggregate(at[method].on(dmc), frame, how))
        for lacked, methods in without.items():
            why = f"no run there on {lacked}; choose other tasks with --tasks"
            notes.append(f"no aggregate of {', '.join(methods)} at frame {frame:,}: {why}")
    if not returns:
        ends = ", ".join(f"{run.name} ends at {run.env_step[-1]:,}" for run in study.runs[:3])
        where = ", ".join(f"{frame:,}" for frame in chosen)
        raise InputError(f"no run has a value at frame {where} ({ends}); choose with --at")
    area, starts = scores.areas(study.runs, start=start, stop=stop)
    areas = [_entry(found, (task,), stop, how) for task, found in _by_task(area)]
    if len(dmc) > 1:
        areas += [_entry(found, dmc, stop, how) for found in area.values() if set(dmc) <= found.tasks.keys()]
    wanted, unpaired = _pairs(area, own)
    pairs = [_pair(area[a], area[b], tasks, how) for a, b, tasks in wanted] if over == "seeds" else []
    paired = [_paired(area[a], area[b], how) for a, b, _ in wanted] if over == "tasks" else []
    present, tasks = {run.method for run in study.runs}, {run.task for run in first}
    known = published.references(tasks, against=against, present=present) if metric == EVALUATION else []
    references = [row for row in known if any(row.covers(frame) for frame in chosen)]
    return Comparison(
        metric=metric,
        frames=chosen,
        level=level,
        resamples=resamples,
        seed=seed,
        returns=returns,
        aggregates=aggregates,
        areas=areas,
        area_starts=starts,
        reached=_reached(study.runs, stop, score, is_return=is_return),
        over=over,
        pairs=pairs,
        paired=paired,
        references=_values(references, chosen),
        notes=[
            *notes,
            *differences.in_sentences(study.runs, chosen, {row.method: row.setup for row in references}),
            *_no_scale(first, is_return=is_return),
            *unpaired,
            *_worth(returns, areas, pairs, over),
            *_few_tasks(paired, area),
        ],
        complaints=list(study.complaints),
    )


def verdict(probability: Interval) -> str:
    """The fixed rule for "A is better than B": its 95% interval lies above one half, below it, or neither."""
    if probability.low > 0.5:
        return SUPPORTED
    return CONTRADICTED if probability.high < 0.5 else UNDECIDED  # no interval, NaN, decides nothing


def verdict_over_tasks(p_value: float, mean: float) -> str:
    """The fixed rule for the same over tasks: the sign-flip test decides, and the mean difference tells which way."""
    if p_value > 1 - VERDICT_LEVEL or np.isnan(p_value):
        return UNDECIDED
    return SUPPORTED if mean > 0 else CONTRADICTED


def _entry(found: Scores, tasks: tuple[str, ...], frame: int, how: dict) -> Entry:
    chosen = found.on(tasks)
    spread = statistics.spread(chosen)
    iqm = statistics.estimate(statistics.iqm, chosen, **how).at(0)
    return Entry(found.method, tasks, frame, iqm, float(spread.low[0]), float(spread.high[0]))


def _aggregate(found: Scores, frame: int, how: dict) -> Aggregate:
    def interval(statistic: statistics.Statistic) -> Interval:
        return statistics.estimate(statistic, found, **how).at(0)

    gap = statistics.optimality_gap(target=DMC_RETURN)
    chosen = (statistics.iqm, statistics.mean, statistics.median, gap)
    return Aggregate(found.method, tuple(found.tasks), frame, *map(interval, chosen))


def _by_task(found: dict[str, Scores]) -> Iterable[tuple[str, Scores]]:
    """Every task with every method that has runs on it."""
    tasks = sorted({task for one in found.values() for task in one.tasks})
    return [(task, one) for task in tasks for one in found.values() if task in one.tasks]


def _reached(runs: Sequence[Run], stop: int, score: float | None, *, is_return: bool) -> list[Reached]:
    found = []
    for task in sorted({run.task for run in runs}):
        wanted = SCORE if score is None and is_return and scores.is_dmc(task) else score
        for method in by_method(runs):
            chosen = [run for run in runs if (run.method, run.task) == (method, task) and run.covers(stop)]
            if wanted is None or not chosen:
                continue
            at = [statistics.frames_to_reach(run.env_step, run.value, score=wanted, stop=stop) for run in chosen]
            count = int(np.isfinite(at).sum())
            found.append(Reached(method, task, wanted, float(np.median(at)), count, len(at), stop))
    return found


def _pairs(area: dict[str, Scores], own: Sequence[Run]) -> tuple[list[tuple[str, str, tuple[str, ...]]], list[str]]:
    """Each pair with one of one's own methods in it, its tasks, and what to report of pairs that are left out."""
    ours = [method for method in by_method(own) if method in area]
    others = [method for method in area if method not in ours]
    if own:
        wanted = [*combinations(ours, 2), *product(ours, others)]
    elif len(others) <= PAIRS_OF:
        wanted = list(combinations(others, 2))
    else:
        return [], [f"no pairs: {len(others)} published methods are too many to compare each with each; see --against"]
    if len(wanted) > MOST_PAIRS:
        why = f"{len(wanted):,} are more than the {MOST_PAIRS:,} that are compared; choose methods with --methods"
        return [], [f"no pairs: {why}"]
    common = [(a, b, tuple(sorted(area[a].tasks.keys() & area[b].tasks.keys()))) for a, b in wanted]
    return [pair for pair in common if pair[2]], _apart([(a, b) for a, b, tasks in common if not tasks])


def _pair(a: Scores, b: Scores, tasks: tuple[str, ...], how: dict) -> Pair:
    settings = how | {"level": VERDICT_LEVEL}
    probability = statistics.probability_of_improvement(a.on(tasks), b.on(tasks), **settings).at(0)
    return Pair(a.method, b.method, tasks, probability, verdict(probability))


def _paired(a: Scores, b: Scores, how: dict) -> Paired:
    found = over_tasks.differences(a, b)
    values, settings = np.array([*found.values()]), {key: how[key] for key in ("resamples", "seed")}
    count = len(values)
    runs = min(a.on([*found]).runs, b.on([*found]).runs) if found else 0
    means = over_tasks.resampled_means(values, **settings) if count > 1 else np.full(1, np.nan)
    p_value = over_tasks.sign_flip(values, **settings) if count > 1 else np.nan

    def interval(level: float) -> Interval:
        low, high = (float(end) for end in np.quantile(means, statistics.tails(level)))
        real = f"{over_tasks.real_coverage(tasks=count, level=level):.0%}" if count > 1 else ""
        estimate = float(values.mean()) if count else np.nan
        return Interval(estimate, low, high, level, runs, count, real)

    mean, narrow = interval(VERDICT_LEVEL), interval(EQUAL_LEVEL)
    if count < over_tasks.FEWEST:
        equality = "too few tasks"
    else:
        equality = "equal" if narrow.low > -EQUAL and narrow.high < EQUAL else "not shown"
    words = verdict_over_tasks(p_value, mean.estimate)
    return Paired(a.method, b.method, found, mean, p_value, words, narrow, equality)


def _apart(pairs: list[tuple[str, str]]) -> list[str]:
    """Few sentences about the pairs that have no task in common: the method that is in most of them comes first."""
    found = []
    while pairs:
        ((method, _),) = Counter(chain(*pairs)).most_common(1)
        others = [b if a == method else a for a, b in pairs if method in (a, b)]
        found.append(f"{method} has no task in common with {', '.join(others)}")
        pairs = [pair for pair in pairs if method not in pair]
    return found


def _values(references: Sequence[Reference], frames: Sequence[int]) -> list[ReferenceValue]:
    """The published curves' values at these frames, the best first; between two frames interpolated."""
    found = []
    for row, frame in product(references, frames):
        if row.covers(frame):
            iqm, p05, p95 = (float(np.interp(frame, row.env_step, column)) for column in (row.iqm, row.p05, row.p95))
            place = int(np.searchsorted(row.env_step, frame))
            after, seeds = int(row.env_step[place]), int(row.seeds[place])
            before = after if after == frame else int(row.env_step[place - 1])
            found.append(ReferenceValue(row.method, row.task, frame, before, after, seeds, iqm, p05, p95))
    return sorted(found, key=lambda row: (row.frame, row.task, -row.iqm))


def _no_scale(runs: Sequence[Run], *, is_return: bool) -> list[str]:
    tasks = sorted({run.task for run in runs})
    odd = tasks if not is_return else [task for task in tasks if not scores.is_dmc(task)]
    if not odd or len(tasks) == 1:
        return []
    return [
        f"aggregates leave out {', '.join(odd)}: only returns of DeepMind Control tasks have one scale, 0 to 1000; "
        "the probability of improvement, which compares within tasks, does not need one"
    ]


def _few_tasks(paired: Sequence[Paired], area: Mapping[str, Scores]) -> list[str]:
    """What an analysis over tasks could not take in, and where no verdict was possible."""
    found = []
    below = {task for row in paired for task in area[row.a].tasks.keys() & area[row.b].tasks.keys() - row.differences}
    if below:
        found.append(f"left out over tasks: {', '.join(sorted(below))}, where an area is below 0: relative to what?")
    for count in sorted({len(row.differences) for row in paired}):
        if count < over_tasks.FEWEST:
            least = f": even of equal signs on all of them p would be {2 / 2**count:.2g}" if count > 1 else ""
            few = "one task is" if count == 1 else f"{count} tasks are"
            found.append(f"{few} too few for a verdict over tasks{least}; compare on at least {over_tasks.FEWEST}")
        if count > over_tasks.EXACT:
            found.append(f"of {count} tasks not all assignments of signs were counted, but random ones")
    return found


def _worth(returns: Sequence[Entry], areas: Sequence[Entry], pairs: Sequence[Pair], over: Over) -> list[str]:
    """What intervals of so few runs are worth."""
    found = []
    intervals, probabilities = [entry.iqm for entry in (*returns, *areas)], [pair.probability for pair in pairs]
    if any(interval.runs < 2 for interval in (*intervals, *probabilities)):
        nor = ", and no verdict" if over == "seeds" else ""
        found.append(f"where a task has one run only there is no interval{nor}")
    for sentence, which in (("of the IQM", intervals), ("of the probability of improvement", probabilities)):
        for runs, tasks, share in sorted({(i.runs, i.tasks, i.coverage) for i in which if i.coverage}):
            where = "one task" if tasks == 1 else f"{tasks} tasks"
            found.append(f"with {runs} runs on {where} the real coverage of a 95% interval {sentence} is about {share}")
    return found
