"""Reset schedules against counting by hand."""

import pytest

from steadyq.algorithm.recipes.bro import bro, bro_fast
from steadyq.algorithm.resets import Resets, at_frames, every_frames, every_updates, never

OFFICIAL_BRO = (15_001, 50_001, 250_001, 500_001, 750_001, 1_000_001, 1_500_001, 2_000_001)


def test_never() -> None:
    assert [never().due(n) for n in (0, 1, 10**9)] == [0, 0, 0]


@pytest.mark.parametrize(("every", "unit"), [(every_updates, "updates"), (every_frames, "frames")])
def test_a_period(every, unit: str) -> None:
    schedule = every(100)
    assert schedule.unit == unit
    assert [schedule.due(n) for n in (0, 1, 99, 100, 101, 199, 200, 1_000)] == [0, 0, 0, 1, 1, 1, 2, 10]


def test_an_interval_of_one_resets_each_time() -> None:
    assert [every_updates(1).due(n) for n in range(4)] == [0, 1, 2, 3]


def test_sr_sac_s_interval() -> None:
    """2.56 million critic updates: at 32 per step, 80,000 steps."""
    schedule = every_updates(2_560_000)
    assert [schedule.due(32 * step) for step in (79_999, 80_000, 159_999, 160_000)] == [0, 1, 1, 2]


def test_at_given_frames() -> None:
    schedule = at_frames(10, 20, 50)
    assert schedule.unit == "frames"
    assert [schedule.due(n) for n in (0, 9, 10, 11, 19, 20, 49, 50, 51, 10**9)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert at_frames().due(10**9) == 0


@pytest.mark.parametrize(("recipe", "wanted"), [(bro, OFFICIAL_BRO), (bro_fast, OFFICIAL_BRO[:1])])
def test_bro_s_frames(recipe, wanted: tuple[int, ...]) -> None:
    """Those of the official code: with 2 updates per step, only the first."""
    schedule = recipe().resets
    assert schedule.unit == "frames"
    for i, frame in enumerate(wanted):
        assert [schedule.due(frame + offset) for offset in (-1, 0, 1)] == [i, i + 1, i + 1]
    assert schedule.due(10**8) == len(wanted)


def walk(schedule: Resets, *, stride: int, end: int) -> list[int]:
    """Where resets are made by a run that looks every `stride`, one reset at a time however many became due."""
    made, done = [], 0
    for n in range(0, end + 1, stride):
        if done < schedule.due(n):
            made.append(n)
            done = schedule.due(n)
    return made


def test_a_run_in_strides_resets_at_the_next_look() -> None:
    assert walk(at_frames(11, 20, 31), stride=2, end=40) == [12, 20, 32]
    assert walk(every_updates(7), stride=3, end=30) == [9, 15, 21, 30]


def test_resets_that_fall_between_two_looks_are_one() -> None:
    assert walk(at_frames(3, 4, 5, 20), stride=10, end=40) == [10, 20]
    assert walk(every_updates(4), stride=10, end=40) == [10, 20, 30, 40]
    assert every_updates(4).due(10) == 2  # counted all the same
