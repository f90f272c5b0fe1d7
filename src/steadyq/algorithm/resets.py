"""When networks start again from fresh weights, as functions of how far a run has come: nothing about it needs saving.

A reset draws new weights, statistics and optimiser states for actor, critics, target, temperature and exploration. The
replay and what normalises observations and rewards are kept (Nikishin et al. 2022, D'Oro et al. 2023).
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import Literal, NamedTuple


class Resets(NamedTuple):
    """A schedule.

    unit: what it counts: critic updates, or environment frames.
    due: `how many of these so far -> how many resets should have been made by then`.
    """

    unit: Literal["updates", "frames"]
    due: Callable[[int], int]


def never() -> Resets:
    """No resets."""
    return Resets("updates", lambda done: 0)


def every_updates(n: int) -> Resets:
    """After each `n` critic updates; 0 for never."""
    return Resets("updates", lambda done: done // n if n else 0)


def every_frames(n: int) -> Resets:
    """After each `n` environment frames; 0 for never."""
    return Resets("frames", lambda done: done // n if n else 0)


def at_frames(*frames: int) -> Resets:
    """Once at each of these environment frames, in ascending order."""
    return Resets("frames", lambda done: bisect_right(frames, done))
