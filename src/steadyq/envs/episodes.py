"""The endless stream of episodes one seed trains on, restorable bit-exactly."""

import numpy as np

from steadyq.algorithm.random import Purpose, episode_seed
from steadyq.envs.env import BadStepError, EnvError, Step
from steadyq.envs.guard import Guarded


class EpisodeStream:
    """The endless stream of training episodes of one seed, restorable bit-exactly.

    Episode n starts from a seed that only (seed, n) decides. So the present state of any environment that is
    reproducible at all is the episode's number and the actions so far, whatever simulator is behind it.

    It begins between episodes: call `next_episode` or `restore` first.

    What the environment raises passes through: the failed step is not part of the episode, and all that can follow is
    `next_episode`. Where even its start fails, calling it again tries the episode after that.

    Args:
        env: the environment, owned by the stream from now on.
        seed: the run's seed.
    """

    obs: np.ndarray  # float32 [O], what the next action answers to
    episode: int  # number of the present episode, from 0; -1 before the first
    episode_return: float  # sum of its rewards so far
    ended: bool  # it has terminated, was truncated or has failed: `next_episode` is due

    def __init__(self, env: Guarded, *, seed: int):
        self._env, self._seed = env, seed
        self.episode, self.episode_return, self.ended = -1, 0.0, True
        self.obs, self._actions = np.zeros(env.spec.obs_dim, np.float32), list[np.ndarray]()

    @property
    def length(self) -> int:
        """Agent steps so far in the present episode."""
        return len(self._actions)

    def step(self, action: np.ndarray) -> Step:
        """One agent step with `action` float32 [A] in [-1, 1]."""
        if self.ended:
            raise RuntimeError("the episode has ended: call next_episode() before the next step")
        action = np.array(action, np.float32)
        self.ended = True  # unless the step comes back
        step = self._env.step(action)
        self._actions.append(action)
        self.obs, self.ended = step.obs, step.terminated or step.truncated
        self.episode_return += step.reward
        return step

    def next_episode(self, *, fresh: bool = False) -> np.ndarray:
        """Start the next episode, wherever the present one is; its first observation [O].

        Args:
            fresh: in a fresh environment, as the old one has failed.

        Raises:
            BadStepError, EnvError: this episode could not be started either; the next call tries the one after it.
        """
        self._start(self.episode + 1, fresh=fresh)
        return self.obs

    def snapshot(self) -> dict[str, np.ndarray]:
        """Where the stream is, as small arrays (the largest: the actions of one episode)."""
        return {
            "episode": np.array(self.episode, np.int64),
            "actions": np.array(self._actions, np.float32).reshape(self.length, self._env.spec.action_dim),
            "obs": self.obs,
            "episode_return": np.array(self.episode_return, np.float64),
        }

    def restore(self, snapshot: dict[str, np.ndarray]) -> bool:
        """Go to where `snapshot` was taken, by replaying its episode's actions.

        Returns:
            True if the observation and the return are the same bits as then. Otherwise the environment does not repeat
            itself, and the stream stands at the start of the next episode instead; or it has failed, and the stream has
            `ended`: `next_episode(fresh=True)` is due.
        """
        try:
            if self._replay(snapshot):
                return True
            self.next_episode()
        except (BadStepError, EnvError):
            pass
        return False

    def resume_after(self, snapshot: dict[str, np.ndarray]) -> None:
        """Stand at the end of the episode of `snapshot`, without a step: a robot is not to be moved for that."""
        self.episode, self.ended = int(snapshot["episode"]), True

    def leave(self) -> None:
        """The environment is needed for something else: if an episode is under way, it ends here."""
        self.ended = True

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _replay(self, snapshot: dict[str, np.ndarray]) -> bool:
        """Play a snapshot's actions again; whether that led to the same bits."""
        self._start(int(snapshot["episode"]))
        for action in snapshot["actions"]:
            if self.ended:  # sooner than it did
                break
            self.step(action)
        then = (len(snapshot["actions"]), snapshot["obs"].tobytes(), snapshot["episode_return"].tobytes())
        return then == (self.length, self.obs.tobytes(), np.float64(self.episode_return).tobytes())

    def _start(self, episode: int, *, fresh: bool = False) -> None:
        self.episode, self.episode_return, self.ended = episode, 0.0, True  # unless the reset comes back
        self._actions = []
        if fresh:
            self._env.restart()
        self.obs = self._env.reset(episode_seed(self._seed, Purpose.EPISODE, episode))
        self.ended = False
