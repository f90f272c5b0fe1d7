"""A whole environment of one's own, and how to train on it.

    steadyq train crossq_wn --env examples/own_environment.py:Reach --frames 20000
    steadyq train crossq_wn --env examples/own_environment.py:Reach --env-kwargs '{"gain": 2}' --frames 20000
    python examples/own_environment.py     # the same from Python

An arm of two joints moves its hand to a target.
"""

import gymnasium
import numpy as np


class Reach(gymnasium.Env):
    """Angles, speeds and the way to the target in; a torque for each joint out."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (8,), np.float32)
    action_space = gymnasium.spaces.Box(-0.5, 0.5, (2,), np.float32)  # any finite box: actions are scaled to it

    def __init__(self, *, gain: float = 1.0, steps: int = 100) -> None:
        self.gain = gain
        self._max_episode_steps = steps  # the name that Gymnasium's TimeLimit has for it: so steadyq knows the limit

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)  # all that is random in an episode comes from self.np_random, so it can be repeated
        self.time = 0
        self.angles, self.speeds = self.np_random.uniform(-np.pi, np.pi, 2), np.zeros(2)
        angle, distance = self.np_random.uniform(-np.pi, np.pi), self.np_random.uniform(0.5, 1.8)
        self.target = distance * np.array([np.cos(angle), np.sin(angle)])
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        self.speeds = 0.9 * self.speeds + self.gain * action
        self.angles = self.angles + 0.1 * self.speeds
        reward = float(np.exp(-(np.linalg.norm(self._way()) ** 2)) - 0.01 * np.square(action).sum())
        terminated = False  # True where an episode reaches an end that has no future, such as a fall
        truncated = self.time >= self._max_episode_steps  # a time limit: the future is only not seen
        return self._observation(), reward, terminated, truncated, {}

    def _way(self) -> np.ndarray:
        """From the hand to the target."""
        first, second = self.angles[0], self.angles.sum()
        return self.target - [np.cos(first) + np.cos(second), np.sin(first) + np.sin(second)]

    def _observation(self) -> np.ndarray:
        parts = (np.cos(self.angles), np.sin(self.angles), self.speeds, self._way())
        return np.concatenate(parts).astype(np.float32)


if __name__ == "__main__":
    import steadyq

    result = steadyq.train("crossq_wn", env=Reach, frames=20_000)
    print(result.returns(seed=0))
