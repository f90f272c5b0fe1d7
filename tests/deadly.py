"""The toy environment, in which a process dies at chosen steps: each file of the folder DEADLY is one death.

Its name says after how many steps of one environment, and who dies: `33-worker`, `33-driver` (the parent), `33-both`
or the process of a number, `33-4321`. At `33-warned` the grandparent gets SIGUSR1, as from Slurm.
Whoever removes the file kills, so that each happens once.
"""

import os
import signal
from pathlib import Path

import gymnasium
import numpy as np
import psutil

from toy import Point


class Deadly(Point):
    """A point on a line, and on thin ice."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        for death in Path(os.environ["DEADLY"]).glob(f"{self.total}-*"):
            try:
                death.unlink()
            except FileNotFoundError:  # another worker was quicker
                continue
            who = death.name.partition("-")[2]
            if who in ("driver", "both"):
                os.kill(os.getppid(), signal.SIGKILL)
            if who == "warned":
                psutil.Process().parent().parent().send_signal(signal.SIGUSR1)
            if who.isdecimal():
                os.kill(int(who), signal.SIGKILL)
            if who in ("worker", "both"):
                os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


gymnasium.register("Point-v0", entry_point=Deadly)
