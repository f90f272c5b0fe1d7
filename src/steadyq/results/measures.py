"""What is drawn next to returns: quantities in the record of a run, and what to call them."""

from typing import NamedTuple

from steadyq.store import names


class Measure(NamedTuple):
    """One quantity of a record."""

    metric: str
    title: str
    unit: str = ""
    log: bool = False  # ratios matter: a logarithmic axis where all values are above 0


WEIGHT_NORM = Measure(names.CRITIC_NORM, "weight norm of the critic", "sum over dense layers", log=True)
GRADIENT_NORM = Measure(names.CRITIC_GRADIENT, "gradient norm of the critic", log=True)
Q_BIAS = (
    Measure(names.Q_BIAS, "Q-bias: mean", "relative to the return"),
    Measure(names.Q_BIAS_STD, "Q-bias: standard deviation", "relative to the return"),
)
LEARNING_RATE = (Measure(names.CRITIC_ELR, "effective learning rate of the critic", log=True),)
DEAD = (Measure(names.CRITIC_DEAD, "dead units of the critic", "share"),)
OTHERS = (
    Measure(names.Q, "mean Q of a batch"),
    Measure(names.ENTROPY, "entropy of the policy", "nats"),
    Measure(names.ALPHA, "temperature", log=True),
    Measure(names.CRITIC_LOSS, "loss of the critic", log=True),
    Measure(names.ACTOR_NORM, "weight norm of the actor", "sum over dense layers", log=True),
    Measure(names.ACTOR_GRADIENT, "gradient norm of the actor", log=True),
)
NAMED = (*Q_BIAS, WEIGHT_NORM, *LEARNING_RATE, GRADIENT_NORM, *DEAD, *OTHERS)
"""Every quantity with a title, the most telling first."""


def remedy(metric: str) -> str:
    """What to do if runs have no such quantity: some are measured afterwards, the others come from training alone."""
    if metric.startswith(names.DIAGNOSES):
        return "measure it with `steadyq diagnose RUN_DIR`"
    return (
        "training logs it each --log-every frames once it updates: draw from run folders, or from a table that keeps it"
    )


def wanted(metric: str) -> bool:
    """Whether figures or the report draw this metric, or tell it in a table."""
    return metric.startswith(names.DIAGNOSES) or metric in TOLD


def is_of_a_layer(metric: str) -> bool:
    """Whether a metric is about one layer, as `diag/critic/elr/hidden_0` is: there are many of them."""
    return metric.startswith(names.DIAGNOSES) and metric.count("/") > 2


TOLD = frozenset(measure.metric for measure in NAMED) | {names.WALL_TIME, names.UPDATES_PER_SECOND}


def describe(metric: str) -> Measure:
    """How to draw a metric: as listed above, or by its own name."""
    known = {measure.metric: measure for measure in NAMED}
    return known.get(metric) or Measure(metric, metric.removeprefix(names.DIAGNOSES).replace("_", " "))


def ordered(metrics: list[str]) -> list[str]:
    """The metrics to draw, those with a title first and in their order."""
    order = [measure.metric for measure in NAMED]
    drawn = [metric for metric in metrics if not metric.startswith(names.CLOCKS)]
    return sorted(drawn, key=lambda metric: (order.index(metric) if metric in order else len(order), metric))
