"""What is drawn besides returns: names in the record of a run, and what to call them."""

from typing import NamedTuple


class Measure(NamedTuple):
    """One quantity of a record."""

    metric: str
    title: str
    unit: str = ""
    log: bool = False  # its ratios matter: drawn on a logarithmic axis where all values are above 0


MEASURES = (
    Measure("train/critic_weight_norm", "weight norm of the critic", "sum over dense layers", log=True),
    Measure("train/critic_grad_norm", "gradient norm of the critic", log=True),
    Measure("train/actor_weight_norm", "weight norm of the actor", "sum over dense layers", log=True),
    Measure("train/actor_grad_norm", "gradient norm of the actor", log=True),
    Measure("train/q_mean", "mean Q of a batch"),
    Measure("train/entropy", "entropy of the policy", "nats"),
    Measure("train/ent_coef", "temperature", log=True),
    Measure("train/critic_loss", "critic loss", log=True),
)
"""Quantities of every run's record, the most telling first."""
