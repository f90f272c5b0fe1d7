"""Learn in a loop of your own: here a Gymnasium task stands for the robot.

    python examples/own_loop.py --steps 10000 --save pendulum --export policy.npz

All that the learner needs are numbers: what was sensed, the action taken, the reward, and whether an episode ended.
Started again with the same --save, it resumes where it saved last.
"""

import argparse

import gymnasium
import numpy as np

import steadyq


def train(task: str, steps: int, seed: int, folder: str | None, policy: str | None = None) -> list[float]:
    """Learn for so many steps; the returns of the episodes."""
    robot = gymnasium.make(task)
    low, high = robot.action_space.low, robot.action_space.high
    obs_dim, action_dim = robot.observation_space.shape[0], robot.action_space.shape[0]

    agent = steadyq.make_agent("crossq_wn", obs_dim=obs_dim, action_dim=action_dim, width=128, actor_width=128)
    learner = steadyq.Learner(agent, seed=seed, learning_starts=500, gamma=0.98)
    replay = steadyq.Replay(capacity=100_000, obs_dim=obs_dim, action_dim=action_dim)
    if folder and learner.restore(folder, replay):
        print(f"resumed at step {learner.steps:,}")

    returns, total = [], 0.0
    obs, _ = robot.reset(seed=seed + learner.steps)
    replay.start(obs)
    while learner.steps < steps:
        action = learner.act(obs)  # in [-1, 1]
        obs, reward, terminated, truncated, _ = robot.step(low + (action + 1) / 2 * (high - low))
        ended = terminated or truncated
        replay.add(action, float(reward), 0.0 if terminated else learner.gamma, obs, last=ended)
        total += float(reward)
        if ended:
            returns.append(total)
            print(f"step {learner.steps:6,}  return {total:8.1f}  mean of the last ten {np.mean(returns[-10:]):8.1f}")
            total = 0.0
            obs, _ = robot.reset()
            replay.start(obs)
        learner.update(replay)  # or between episodes, while the robot stands: it makes up for all steps since
        if folder and (ended or learner.steps == steps):
            learner.save(folder, replay)
    if policy:
        learner.export(policy, replay, action_low=low, action_high=high)  # steadyq.deploy.Policy.load reads it
    return returns


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train crossq_wn on a Gymnasium task in a loop of your own.")
    parser.add_argument("--task", default="Pendulum-v1", help="with vectors and bounded actions [Pendulum-v1]")
    parser.add_argument("--steps", type=int, default=6_000, help="in all [6000]")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    parser.add_argument("--save", help="folder to save in and to resume from [none]")
    parser.add_argument("--export", metavar="FILE", help="write the policy at the end: .npz or .onnx [none]")
    arguments = parser.parse_args()
    train(arguments.task, arguments.steps, arguments.seed, arguments.save, arguments.export)
