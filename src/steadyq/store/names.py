"""Names of metrics that more than one room knows; all of a run's are in docs/run-folder.md.

What no other room reads is named where it is measured.
"""

DIAGNOSES, CLOCKS = "diag/", "time/"
"""How the names begin of what `steadyq diagnose` measures, and of what depends on a clock."""

REGULAR, AFTER_RESET, AT_THE_END = "eval/", "eval_after_reset/", "eval_end/"
"""How the names begin of what an evaluation measures: each `--eval-every` frames, right after a reset, and at the end
of a run that is between two of the first kind."""

EVALUATED_AT_THE_END = "eval_end/std_reward"
"""Comes last in the record of the evaluation at the end, but for its time: where this is, the others are."""

EVALUATION, EVALUATION_STD, EPISODES = "eval/mean_reward", "eval/std_reward", "rollout/ep_rew_mean"
UPDATES, UTD = "train/n_updates", "train/utd"
Q, ALPHA, ENTROPY, CRITIC_LOSS = "train/q_mean", "train/ent_coef", "train/entropy", "train/critic_loss"
CRITIC_NORM, ACTOR_NORM = "train/critic_weight_norm", "train/actor_weight_norm"
CRITIC_GRADIENT, ACTOR_GRADIENT = "train/critic_grad_norm", "train/actor_grad_norm"
WALL_TIME, UPDATES_PER_SECOND = "time/time_elapsed", "time/updates_per_second"
"""Seconds since the run began; critic updates per second since the last record."""

EVALUATION_SECONDS, DIAGNOSIS_SECONDS = "time/evaluation_seconds", "time/diagnosis_seconds"
"""Of one seed."""

Q_BIAS, Q_BIAS_STD = "diag/q_bias/aggregate_mean", "diag/q_bias/aggregate_std"
DIAGNOSED_NORM, DIAGNOSED_GRADIENT = "diag/critic/weight_norm", "diag/critic/gradient_norm"
CRITIC_ELR, CRITIC_ROTATION, CRITIC_DEAD = "diag/critic/elr", "diag/critic/rotation", "diag/critic/dead_units"


def in_a_curve(metric: str) -> str:
    """The name of the curve that a metric belongs to: the evaluation at the end is the last one of the regular ones."""
    return REGULAR + metric.removeprefix(AT_THE_END) if metric.startswith(AT_THE_END) else metric
