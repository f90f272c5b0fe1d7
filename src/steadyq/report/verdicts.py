"""What a comparison does and does not support, in plain sentences: the report's first section."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from steadyq.results import statistics, variants
from steadyq.results.compare import CONTRADICTED, UNDECIDED, Comparison, Pair

ALWAYS = (
    "An interval speaks of other seeds on these tasks. It says nothing of other tasks, machines or settings.",
    "The spread of the runs (5th to 95th percentile) is not an interval: it does not shrink with more seeds.",
    "Published results were made with other code, and often another action repeat and evaluation: orientation only.",
)


class Sentences(NamedTuple):
    """What can be said, by how much it claims."""

    supported: list[str]
    undecided: list[str]
    with_published: list[str]  # comparisons with published runs, whatever their verdict
    cautions: list[str]


def phrase(found: Comparison, *, published: Collection[str] = ()) -> Sentences:
    """Put the verdicts of a comparison into words, with what they are worth; `published` methods are others' work."""
    foreign = [pair for pair in found.pairs if pair.a in published or pair.b in published]
    own = [pair for pair in found.pairs if pair not in foreign]
    supported = [_sentence(pair) for pair in own if pair.verdict != UNDECIDED]
    undecided = [_sentence(pair) for pair in own if pair.verdict == UNDECIDED]
    with_published = [_sentence(pair) for pair in foreign]
    cautions = list(_chance(found.pairs))
    if not found.pairs:
        cautions.append("There is one method only, or no two share a task: nothing is compared.")
    return Sentences(supported, undecided, with_published, [*cautions, *ALWAYS])


def _sentence(pair: Pair) -> str:
    if pair.verdict == UNDECIDED:
        return _undecided(pair)
    better, worse, interval = pair.a, pair.b, pair.probability
    estimate, low, high = interval.estimate, interval.low, interval.high
    if pair.verdict == CONTRADICTED:
        better, worse, estimate, low, high = worse, better, 1 - estimate, 1 - high, 1 - low
    return (
        f"{variants.label(better)} is better than {variants.label(worse)} on {_where(pair)}: a run of it has "
        f"the larger area under the learning curve with probability {estimate:.2f} "
        f"(95% interval {low:.2f} to {high:.2f}{_worth(pair)})."
    )


def _undecided(pair: Pair) -> str:
    names = f"{variants.label(pair.a)} and {variants.label(pair.b)} on {_where(pair)}"
    interval = pair.probability
    if interval.runs < 2:
        return f"{names}: one run of one of them, so nothing about other seeds follows. More seeds would tell."
    return (
        f"{names}: the probability that the first is better is {interval.estimate:.2f}, but its 95% interval "
        f"({interval.low:.2f} to {interval.high:.2f}{_worth(pair)}) holds one half. More seeds would tell."
    )


def _where(pair: Pair) -> str:
    return ", ".join(pair.tasks) if len(pair.tasks) <= 3 else f"{len(pair.tasks)} tasks"


def _worth(pair: Pair) -> str:
    runs, coverage = pair.probability.runs, pair.probability.coverage
    return f"; real coverage with {runs} runs per task: about {coverage}" if coverage else ""


def _chance(pairs: Sequence[Pair]) -> list[str]:
    """How many verdicts chance alone would give if all methods were equal."""
    decidable = [pair for pair in pairs if pair.probability.runs > 1]
    if len(decidable) < 2:
        return []
    covered = [
        statistics.PROBABILITY_COVERAGE.get(pair.probability.runs, (95.0, 95.0))[len(pair.tasks) > 1]
        for pair in decidable
    ]
    expected = sum(1 - share / 100 for share in covered)
    count = f"{len(decidable)} comparisons are made here"
    if alone := len(pairs) - len(decidable):
        count += f"; {alone} more have one run only and decide nothing"
    return [
        f"{count}. If all methods were equal, about {expected:.1f} of them would "
        "still come out as supported or contradicted, by chance."
    ]
