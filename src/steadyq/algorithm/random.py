"""Named randomness: every draw is a function of (seed, purpose, step), so nothing about it needs saving.

A resumed run, an evaluation in between or other seeds in the same process cannot change a draw: seed 3 of ten draws
what seed 3 alone draws. The generator is NumPy's counter-based Philox (Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3"): `key = (seed, purpose)`, and the step in the counter's highest word, so that the draws of two
steps, each far shorter than 2**192 blocks, never overlap.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream of random numbers is for. The values are part of what a seed means: never renumber them."""

    INIT = 0  # weights; step = number of the reset, 0 at the start
    WARM_UP = 1  # uniform actions before learning; step = agent step
    ACT = 2  # exploration noise; step = agent step
    SAMPLE = 3  # replay indices of all updates of one agent step
    NEXT_ACTION = 4  # noise of a' in the critic's target
    ACTOR = 5  # noise of the action in the actor's loss
    EPISODE = 6  # the seed of a training episode; step = number of the episode
    EVALUATE = 7  # the seed of an evaluation episode; step = number of the episode
    SHOW = 8  # the seed of an episode played for a person: `evaluate`, videos
    MEMBERS = 9  # which critics speak in the target
    ACTOR_MEMBERS = 10  # which critics speak in the actor's loss
    ONLINE_DROPOUT = 11  # of the critics in the pass that is trained
    TARGET_DROPOUT = 12  # of the critics in the pass that makes the target
    ACTOR_DROPOUT = 13  # of the critics in the actor's loss
    OPTIMISM = 14  # noise of the action in the optimistic actor's loss
    BIAS_EPISODE = 15  # the seeds of the roll-outs that measure Q-bias; step of this and the next three = frame
    BIAS_ACTION = 16  # noise of the actions in them
    DIAGNOSE_STATES = 17  # which transitions units, ranks and the plasticity probe look at
    DIAGNOSE_UPDATE = 18  # which transitions, and what noise, the update that is taken apart sees
    PLASTICITY = 19  # states, targets and fresh weights of the plasticity probe


def generator(seed: int, purpose: int, step: int = 0) -> np.random.Generator:
    """The generator for one seed, purpose and step; the same arguments give the same numbers anywhere."""
    key = np.array([seed, purpose], dtype=np.uint64)
    counter = np.array([0, 0, 0, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def episode_seed(seed: int, purpose: Purpose, episode: int) -> int:
    """The seed in [0, 2**31) that resets the environment for one episode."""
    return int(generator(seed, purpose, episode).integers(2**31))
