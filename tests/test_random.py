"""Named randomness: streams are independent of each other, and what a seed means never changes."""

from itertools import pairwise

import numpy as np
import pytest

from steadyq.algorithm.random import Purpose, episode_seed, generator

WORD = 2**64


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> list[int]:
    """Philox4x64-10 written from Salmon et al. 2011, section 3.3: four random words for one value of the counter."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        even, odd = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (odd // WORD) ^ c1 ^ k0, odd % WORD, (even // WORD) ^ c3 ^ k1, even % WORD
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % WORD, (k1 + 0xBB67AE8584CAA73B) % WORD
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(
    ("seed", "purpose", "step"), [(0, Purpose.INIT, 0), (3, Purpose.ACT, 1_000_000), (2**40 + 1, Purpose.SAMPLE, 7)]
)
def test_words_are_those_of_the_paper(seed: int, purpose: Purpose, step: int) -> None:
    """Key (seed, purpose); the step in the counter's highest word, blocks counted from 1 in its lowest."""
    wanted = [word for block in (1, 2, 3) for word in philox((seed, int(purpose)), (block, 0, 0, step))]
    assert generator(seed, purpose, step).bit_generator.random_raw(12).tolist() == wanted


def test_frozen_draws() -> None:
    """What a seed means: computed once and written down. NumPy may not change it under us either."""
    draws = generator(3, Purpose.ACT, 1_000_000).standard_normal(2)
    assert draws.tolist() == [-0.1513234205617127, -1.6326504716648564]
    assert generator(0, Purpose.SAMPLE, 7).integers(1000, size=3).tolist() == [418, 252, 429]
    assert [episode_seed(0, Purpose.EPISODE, i) for i in range(3)] == [1133080851, 37606056, 1781701822]
    assert episode_seed(0, Purpose.EVALUATE, 0) == 1742840615


def test_purposes_keep_their_numbers() -> None:
    """A changed number would change every run of every seed."""
    names = [
        "INIT",
        "WARM_UP",
        "ACT",
        "SAMPLE",
        "NEXT_ACTION",
        "ACTOR",
        "EPISODE",
        "EVALUATE",
        "SHOW",
        "MEMBERS",
        "ACTOR_MEMBERS",
        "ONLINE_DROPOUT",
        "TARGET_DROPOUT",
        "ACTOR_DROPOUT",
        "OPTIMISM",
        "BIAS_EPISODE",
        "BIAS_ACTION",
        "DIAGNOSE_STATES",
        "DIAGNOSE_UPDATE",
        "PLASTICITY",
    ]
    assert {purpose.name: purpose.value for purpose in Purpose} == {name: i for i, name in enumerate(names)}


def test_no_two_streams_share_a_draw() -> None:
    streams = [(s, p, t) for s in (0, 1, 2**32, 2**32 + 1) for p in Purpose for t in (0, 1, 2**32)]
    words = [word for stream in streams for word in generator(*stream).bit_generator.random_raw(8).tolist()]
    assert len(set(words)) == 8 * len(streams)


def test_one_stream_does_not_move_another() -> None:
    alone = generator(1, Purpose.ACT, 5).standard_normal(4)
    first, second = generator(1, Purpose.ACT, 5), generator(1, Purpose.ACTOR, 5)
    mixed = []
    for _ in range(4):
        mixed.append(first.standard_normal())
        second.standard_normal(100)
    assert np.array_equal(alone, mixed)


def test_neighbouring_streams_are_uncorrelated() -> None:
    """Correlations of 20,000 draws have a standard deviation of 0.007; five of them is the limit."""
    n = 20_000
    near = [(0, Purpose.ACT, 0), (0, Purpose.ACT, 1), (1, Purpose.ACT, 1), (1, Purpose.SAMPLE, 1)]
    draws = [generator(*stream).standard_normal(n) for stream in near]
    for a, b in pairwise(draws):
        assert abs(float(np.mean(a * b))) < 5 / n**0.5


def test_episode_seeds_fit_every_environment() -> None:
    seeds = [episode_seed(0, Purpose.EPISODE, i) for i in range(1000)]
    assert len(set(seeds)) == 1000
    assert 0 <= min(seeds) < 2**24  # the whole range is used
    assert 2**31 - 2**24 < max(seeds) < 2**31
