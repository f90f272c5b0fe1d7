"""A small environment for tests of whole runs: a point on a line that should go to the origin."""

import gymnasium
import numpy as np


class Point(gymnasium.Env):
    """Position and goal distance in, velocity out; episodes are truncated after 10 steps or end beyond +-2."""

    def __init__(self, *, bad_step: int | None = None, limit: int = 10) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.bad_step, self.limit, self.total = bad_step, limit, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x, self.t = float(self.np_random.uniform(-1, 1)), 0
        return self.look(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.x += 0.5 * float(action[0]) + 0.01 * float(self.np_random.normal())
        self.t, self.total = self.t + 1, self.total + 1
        reward = float("nan") if self.total == self.bad_step else 1.0 - abs(self.x)
        return self.look(), reward, abs(self.x) > 2, self.t >= self.limit, {}

    def look(self) -> np.ndarray:
        return np.array([self.x, abs(self.x)], np.float32)


gymnasium.register("Point-v0", entry_point=Point)
gymnasium.register("BadPoint-v0", entry_point=Point, kwargs={"bad_step": 25})
