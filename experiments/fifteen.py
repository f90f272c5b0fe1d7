"""Tables of the paper's claims on its 15 tasks, one seed each: from results/fifteen.csv, printed by tables.py.

"A is better than B", over tasks, is supported if an exact sign-flip test over the tasks' relative differences in the
area under the curve, from the first update on, has a p-value of at most 0.05 and their mean is above zero, contradicted
if it is below; else it is not decidable at this budget. Two are equal for our purposes if the 90% interval of that mean
is within 10%.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments.names import FULL, ROUNDED, named
from experiments.numbers import Diagnoses, Measure, Published, evaluated
from experiments.printing import print_head, print_row
from steadyq.results import over_tasks, published, scores
from steadyq.results.compare import Paired, compare, verdict_over_tasks
from steadyq.results.runs import Run, Study
from steadyq.results.statistics import RESAMPLES
from steadyq.store.names import CRITIC_ROTATION, Q_BIAS, WALL_TIME
from steadyq.study.file import SETS

ENDS = (50_000, 100_000)
EARLY = 30_000
"""Where runs at UTD 10 end at first."""
TASKS = tuple(sorted(SETS["dmc15"]))
HARD = tuple(sorted(SETS["dog_humanoid"]))

UTDS = {utd: named(utd, ROUNDED) for utd in (1, 2, 5, 10)}
FREE = {utd: named(utd, f"{ROUNDED}-project=none") for utd in (2, 10)}
"""Without the projection to unit norm."""
FLOAT32 = named(2, FULL)
READOUT = named(2, f"{ROUNDED}-project_readout=True")
MOMENTS = named(2, f"-actor_moments=critic{ROUNDED}")

THEIRS = (
    "BRO-utd2@naumix",
    "BRO-utd10@naumix",
    "SR-SAC-rr32@proceduralia",
    "SimBa-utd2@SonyResearch",
    "DR.Q-utd1@dmksjfl",
    "XQC-utd2@danielpalenicek",
    "SimbaV2-utd8@DAVIAN-Robotics",
    "FlashSAC-utd1@Holiday-Robot",
)

UNTRAINED, LEARNT = 10_000, 20_000  # frames of the diagnosis right before the first update, and of the first after it

SIGNED = f"Q-bias, mean from frame {LEARNT:,}"
"""The measure that may be negative. Of the others logarithms are compared: what matters is how many times as large."""


class Pair(NamedTuple):
    """Is a measure larger in the one method than in the other, when they have come to this frame?"""

    larger: str
    smaller: str
    end: int


METHODS = {
    "`crossq_wn`, UTD 2": UTDS[2],
    "`crossq_wn`, UTD 10": UTDS[10],
    "not projected, UTD 2": FREE[2],
    "not projected, UTD 10": FREE[10],
}
PAIRS = (
    Pair("not projected, UTD 2", "`crossq_wn`, UTD 2", ENDS[0]),
    Pair("not projected, UTD 10", "`crossq_wn`, UTD 10", EARLY),
    Pair("not projected, UTD 10", "not projected, UTD 2", EARLY),
    Pair("`crossq_wn`, UTD 10", "`crossq_wn`, UTD 2", EARLY),
)


class Claim(NamedTuple):
    """One method is better than another; or, of `equal`, neither."""

    words: str
    a: str
    b: str
    equal: bool = False
    ends: tuple[int, ...] = ENDS


CLAIMS = (
    Claim("UTD 2 is better than UTD 1", UTDS[2], UTDS[1]),
    Claim("UTD 5 is better than UTD 2", UTDS[5], UTDS[2]),
    Claim("UTD 10 is better than UTD 5", UTDS[10], UTDS[5], ends=(EARLY, *ENDS)),
    Claim("UTD 10 is better than UTD 2", UTDS[10], UTDS[2], ends=(EARLY, *ENDS)),
    Claim("at UTD 2, projection is better than none", UTDS[2], FREE[2]),
    Claim("at UTD 10, projection is better than none", UTDS[10], FREE[10], ends=(EARLY, *ENDS)),
    Claim("at UTD 2, `--project-readout` is better than the default", READOUT, UTDS[2]),
    Claim("at UTD 2, `--actor-moments critic` is better than the default", MOMENTS, UTDS[2]),
    Claim("at UTD 2, bfloat16 is equal to float32", UTDS[2], FLOAT32, equal=True),
)


def paired(runs: list[Run], a: str, b: str, frame: int) -> Paired | None:
    """The comparison over tasks of two methods, on the tasks where both have come to this frame.

    Areas begin at the first update: what an untrained policy returns says nothing about learning.
    """
    chosen = [run for method in (a, b) for run in runs if run.method == method and run.covers(frame)]
    found = compare(Study(chosen, []), frames=[frame], start=UNTRAINED, over="tasks").paired if chosen else []
    return found[0] if found else None


def claims(runs: list[Run]) -> None:
    """Each claim with its mean relative difference over tasks, the interval of that, p-value and verdict."""
    print_head("claim", "frames", "tasks", "mean relative difference", "interval", "p", "verdict")
    for claim in CLAIMS:
        for frame in claim.ends:
            found = paired(runs, claim.a, claim.b, frame)
            if found is None or len(found.differences) < 2:
                continue
            interval = found.narrow if claim.equal else found.mean
            words = found.equality if claim.equal else found.verdict
            ends = f"{interval.low:+.0%} to {interval.high:+.0%} ({interval.level:.0%})"
            tasks, mean = len(found.differences), f"{interval.estimate:+.0%}"
            print_row(claim.words, f"{frame:,}", tasks, mean, ends, f"{found.p_value:.2g}", words)


def returns(runs: list[Run]) -> None:
    """Each task's return, next to the IQM of published runs and their 5th to 95th percentile; and what all come to."""
    for frame in (EARLY, *ENDS):
        found = scores.at([run for run in runs if run.method in UTDS.values()], [frame])
        ours = {
            f"UTD {utd}": {task: found[method].tasks[task].mean() for task in TASKS if task in found[method].tasks}
            for utd, method in UTDS.items()
            if method in found
        }
        theirs = published_at(frame)
        if not ours or (len(ours) == 1 and not theirs):  # nothing to compare with
            continue
        print(f"\n**Return at frame {frame:,}**:")
        print_head("task", *ours, *theirs)
        for task in TASKS:
            own = (f"{of[task]:.0f}" if task in of else "" for of in ours.values())
            published_there = (of.get(task) for of in theirs.values())
            print_row(task, *own, *(f"{x.iqm:.0f} ({x.spread})" if x else "" for x in published_there))
        for words, chosen in (("mean of all 15", TASKS), ("mean of dog and humanoid", HARD)):
            means = list(ours.values())
            means += [{task: one.mean for task, one in of.items()} for of in theirs.values()]
            print_row(
                words, *(f"{np.mean([of[x] for x in chosen]):.0f}" if of.keys() >= set(chosen) else "" for of in means)
            )
        if theirs:
            print(f"\n**Next to their runs at frame {frame:,}**:")
            print_head("", *ours)
            for method, of in theirs.items():
                print_row(method, *(next_to(own, of) for own in ours.values()))


def published_at(frame: int) -> dict[str, dict[str, Published]]:
    """What was published at this frame, by method and task; a method without any is left out."""
    found: dict[str, dict[str, Published]] = {}
    for method in THEIRS:
        for row in published.summary():
            if row.method == method and row.task in TASKS and (there := evaluated(row, frame)):
                found.setdefault(method, {})[row.task] = there
    return found


def next_to(ours: Mapping[str, float], theirs: Mapping[str, Published]) -> str:
    """On how many tasks a return of ours is above the spread of theirs, within it and below it; and over tasks.

    The latter is the share of their runs that ours is above, half of it if they are equal, as a mean over tasks, with
    the sign-flip test's p-value. (A difference to their mean would be biased: returns are skewed.)
    """
    both = [(value, theirs[task]) for task, value in ours.items() if task in theirs]
    above, below = sum(value > one.p95 for value, one in both), sum(value < one.p05 for value, one in both)
    shares = np.array([one.share_below(value) for value, one in both])
    p_value = over_tasks.sign_flip(shares - 0.5, resamples=RESAMPLES, seed=0)
    return f"{above}, {len(both) - above - below}, {below}; {shares.mean():.2f} (p {p_value:.2g})"


def measures(at: Diagnoses) -> dict[str, Measure]:
    """Fig. 1, by title: what is looked at on two tasks too, and what needs longer runs to be seen."""
    return at.measures() | {
        f"Rotation by an update, ratio of its change from frame {LEARNT:,}": (CRITIC_ROTATION, at.change(LEARNT)),
        SIGNED: (Q_BIAS, at.while_learning(np.mean)),
    }


def health(study: Study) -> None:
    """Fig. 1: is what happens to weights, steps and Q-bias larger in one method than in another? Task by task."""
    for title in measures(Diagnoses(UNTRAINED, LEARNT, EARLY)):
        rows = [(pair, found) for pair in PAIRS if (found := compared(study, pair, title))]
        if not rows:
            continue
        print(f"\n**{title}**:")
        print_head("larger in", "than in", "to frame", "task by task", "larger on", "p", "")
        for pair, found in rows:
            values = np.array(list(found.values()))
            differences = np.subtract(*(values if title == SIGNED else np.log(values)).T)
            p_value = over_tasks.sign_flip(differences, resamples=RESAMPLES, seed=0)
            print_row(
                pair.larger,
                pair.smaller,
                f"{pair.end:,}",
                ", ".join(f"{task} {a:.2f} ({b:.2f})" for task, (a, b) in found.items()),
                f"{sum(differences > 0)} of {len(differences)}",
                f"{p_value:.2g}",
                verdict_over_tasks(p_value, differences.mean()),
            )


def compared(study: Study, pair: Pair, title: str) -> dict[str, tuple[float, float]]:
    """The measure of a title in both methods, by task, where both were diagnosed until then."""
    at = Diagnoses(UNTRAINED, LEARNT, pair.end)
    found = at.numbers(study, measures(at)[title], (METHODS[pair.larger], METHODS[pair.smaller]))
    a, b = (found[METHODS[words]].tasks if METHODS[words] in found else {} for words in (pair.larger, pair.smaller))
    return {task: (float(a[task].mean()), float(b[task].mean())) for task in TASKS if task in a and task in b}


def cost(study: Study) -> None:
    """Hours that one core was busy with these runs, two at a time on two cores."""
    print_head("method", "runs", "frames", "core-hours", "slowest run")
    total = 0.0
    for method in sorted({run.method for run in study.runs}):
        taken = [run for run in study.more.get(WALL_TIME, []) if run.method == method]
        if not taken:
            continue
        hours = [float(run.value[-1]) / 3600 for run in taken]
        total += sum(hours)
        frames = int(sum(run.env_step[-1] for run in taken))
        print_row(f"`{method}`", len(taken), f"{frames:,}", f"{sum(hours):.1f}", f"{max(hours):.1f}")
    print_row("all", "", "", f"{total:.1f}", "")


def print_all(study: Study) -> None:
    """What there is so far."""
    claims(study.runs)
    returns(study.runs)
    health(study)
    cost(study)
