"""Names of metrics that more than one room knows; all of a run's are in docs/run-folder.md."""

EVALUATION, EVALUATION_STD, EPISODES = "eval/mean_reward", "eval/std_reward", "rollout/ep_rew_mean"
Q, ALPHA, ENTROPY, UPDATES = "train/q_mean", "train/ent_coef", "train/entropy", "train/n_updates"
