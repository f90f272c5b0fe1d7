"""What is drawn besides returns: names in the record of a run, and what to call them."""

from typing import NamedTuple


class Measure(NamedTuple):
    """One quantity of a record."""

    metric: str
    title: str
    unit: str = ""
    log: bool = False  # ratios matter: a logarithmic axis where all values are above 0


WEIGHT_NORM = Measure("train/critic_weight_norm", "weight norm of the critic", "sum over dense layers", log=True)
GRADIENT_NORM = Measure("train/critic_grad_norm", "gradient norm of the critic", log=True)
Q_BIAS = (
    Measure("diag/q_bias/aggregate_mean", "Q-bias: mean", "relative to the return"),
    Measure("diag/q_bias/aggregate_std", "Q-bias: standard deviation", "relative to the return"),
)
LEARNING_RATE = (Measure("diag/critic/elr", "effective learning rate of the critic", log=True),)
DEAD = (Measure("diag/critic/dead_units", "dead units of the critic", "share"),)
OTHERS = (
    Measure("train/q_mean", "mean Q of a batch"),
    Measure("train/entropy", "entropy of the policy", "nats"),
    Measure("train/ent_coef", "temperature", log=True),
    Measure("train/critic_loss", "loss of the critic", log=True),
    Measure("train/actor_weight_norm", "weight norm of the actor", "sum over dense layers", log=True),
    Measure("train/actor_grad_norm", "gradient norm of the actor", log=True),
)
NAMED = (*Q_BIAS, WEIGHT_NORM, *LEARNING_RATE, GRADIENT_NORM, *DEAD, *OTHERS)
"""Every quantity with a title, the most telling first."""
WALL_TIME, UPDATES_PER_SECOND = "time/time_elapsed", "time/updates_per_second"


def remedy(metric: str) -> str:
    """What to do if runs have no such quantity: some are measured afterwards, the others come from training alone."""
    if metric.startswith("diag/"):
        return "measure it with `steadyq diagnose`"
    return (
        "training logs it each --log-every frames once it updates: draw from run folders, or from a table that keeps it"
    )


def wanted(metric: str) -> bool:
    """Whether figures or the report draw this metric, or tell it in a table."""
    return metric.startswith("diag/") or metric in TOLD


TOLD = frozenset(measure.metric for measure in NAMED) | {WALL_TIME, UPDATES_PER_SECOND}


def describe(metric: str) -> Measure:
    """How to draw a metric: as said above, or by its own name."""
    known = {measure.metric: measure for measure in NAMED}
    return known.get(metric) or Measure(metric, metric.removeprefix("diag/").replace("_", " "))


def ordered(metrics: list[str]) -> list[str]:
    """The metrics to draw, those with a title first and in their order."""
    order = [measure.metric for measure in NAMED]
    drawn = [metric for metric in metrics if not metric.startswith("time/")]
    return sorted(drawn, key=lambda metric: (order.index(metric) if metric in order else len(order), metric))
