"""The replay against a plain list of transitions, cut up and put together again, and its size and messages."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice, pairwise

import numpy as np
import psutil
import pytest
import torch

from steadyq.algorithm.types import Transition
from steadyq.engine import machine
from steadyq.errors import InputError
from steadyq.store.replay import Replay

OBS, ACTION = 3, 2


class Oracle:
    """What a replay means: the newest `capacity` transitions in a list, each with both of its observations."""

    def __init__(self, capacity: int) -> None:
        self.kept: deque = deque(maxlen=capacity)
        self.obs: np.ndarray | None = None

    def start(self, obs: np.ndarray) -> None:
        self.obs = obs

    def add(self, action: np.ndarray, reward: float, discount: float, next_obs: np.ndarray, *, last: bool) -> None:
        self.kept.append((self.obs, action, reward, discount, next_obs))
        self.obs = None if last else next_obs


Step = Callable[[Replay | Oracle], None]


def steps(seed: int, *, longest: int, restarts: bool = False) -> Iterator[Step]:
    """An endless stream of calls, `start` together with the `add` after it, of random episodes from length 1 up."""
    rng = np.random.default_rng(seed)
    left, begin = 0, True
    while True:
        first = rng.normal(size=OBS).astype(np.float32) if begin else None
        if begin:
            left = int(rng.integers(1, longest + 1))
        left -= 1
        last = left == 0
        action, next_obs = rng.uniform(-1, 1, ACTION).astype(np.float32), rng.normal(size=OBS).astype(np.float32)
        reward, discount = float(np.float32(rng.normal())), float(np.float32(rng.choice([0.0, 0.99])))

        def step(on: Replay | Oracle, first=first, arguments=(action, reward, discount, next_obs), last=last) -> None:
            if first is not None:
                on.start(first)
            on.add(*arguments, last=last)

        # An episode abandoned halfway: the next one starts without a `last`.
        begin = last or (restarts and rng.random() < 0.1)
        yield step


def play(count: int, stream: Iterator[Step], *on: Replay | Oracle) -> None:
    for step in islice(stream, count):
        for one in on:
            step(one)


def everything(replay: Replay) -> Transition:
    return replay.sample(np.arange(replay.size))


def assert_same(got: Transition, wanted: Transition) -> None:
    for name, a, b in zip(Transition._fields, got, wanted, strict=True):
        assert torch.equal(a, b), name


def assert_is(replay: Replay, oracle: Oracle) -> None:
    assert replay.size == len(oracle.kept)
    wanted = (torch.from_numpy(np.array(field, np.float32)) for field in zip(*oracle.kept, strict=True))
    assert_same(everything(replay), Transition(*wanted))
    if oracle.obs is None:
        assert replay.head is None
    else:
        np.testing.assert_array_equal(replay.head, oracle.obs)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(("capacity", "longest"), [(1, 1), (1, 4), (2, 3), (7, 1), (7, 3), (16, 5), (16, 60)])
def test_equals_a_list_of_transitions_through_several_laps(capacity: int, longest: int, restarts: bool) -> None:
    replay, oracle = Replay(capacity=capacity, obs_dim=OBS, action_dim=ACTION), Oracle(capacity)
    stream = steps(capacity, longest=longest, restarts=restarts)
    for number in range(6 * capacity + 5):
        play(1, stream, replay, oracle)
        assert replay.added == number + 1
        assert_is(replay, oracle)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 3, 4), (0,)])
def test_sample_takes_indices_of_any_shape_and_returns_tensors_of_its_own(shape: tuple[int, ...]) -> None:
    replay = Replay(capacity=10, obs_dim=OBS, action_dim=ACTION)
    play(27, steps(0, longest=4), replay)
    indices = np.random.default_rng(1).integers(10, size=shape)
    got, whole = replay.sample(np.asarray(indices)), everything(replay)
    assert [tuple(field.shape) for field in got] == [(*shape, OBS), (*shape, ACTION), shape, shape, (*shape, OBS)]
    assert all(field.dtype == torch.float32 for field in got)
    assert_same(got, Transition(*(field[torch.from_numpy(np.asarray(indices))] for field in whole)))
    for field in got:
        field.fill_(7.0)
    assert_same(everything(replay), whole)


def test_a_start_right_after_a_start_replaces_the_first_observation_only() -> None:
    replay, oracle = Replay(capacity=5, obs_dim=OBS, action_dim=ACTION), Oracle(5)
    stream = steps(4, longest=1)  # every step begins and ends an episode
    for _ in range(20):
        replay.start(np.full(OBS, 9.0))
        play(1, stream, replay, oracle)
        assert_is(replay, oracle)
    replay, oracle = Replay(capacity=5, obs_dim=OBS, action_dim=ACTION), Oracle(5)
    replay.start(np.full(OBS, 9.0))
    stream = steps(4, longest=1_000)
    for _ in range(20):
        play(1, stream, replay, oracle)
        assert_is(replay, oracle)


def test_last_observations_take_no_more_slots_than_episodes_are_in_the_ring() -> None:
    replay = Replay(capacity=100, obs_dim=OBS, action_dim=ACTION)
    play(5_000, steps(0, longest=1), replay)
    assert len(replay._final) == 128  # 100 episodes of one transition, doubled up from 1
    play(5_000, steps(1, longest=400), replay)
    ended = int((replay._slot >= 0).sum())
    assert len(replay._free) + ended == 128
    assert sorted([*replay._free, *replay._slot[replay._slot >= 0]]) == list(range(128))


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_cut_into_segments_and_put_together_it_goes_on_as_if_nothing_had_happened(seed: int, restarts: bool) -> None:
    rng = np.random.default_rng(seed)
    capacity, longest = int(rng.integers(1, 30)), int(rng.integers(1, 15))
    stream = steps(seed, longest=longest, restarts=restarts)
    replay, oracle = Replay(capacity=capacity, obs_dim=OBS, action_dim=ACTION), Oracle(capacity)
    segments, done = [], 0
    # As checkpoints do: a segment now and then with what is new, taken while its episode may be under way.
    for _ in range(6):
        play(int(rng.integers(1, capacity + 1)), stream, replay, oracle)
        cuts = sorted({done, replay.added, *rng.integers(done, replay.added + 1, size=2).tolist()})
        segments += [replay.segment(a, b) for a, b in pairwise(cuts)]
        done = replay.added

    whole = segments[rng.integers(2) :]  # a later one may be the first, as when the ring has lost the older ones
    if sum(len(segment["ends"]) for segment in whole) < replay.size:
        whole = segments
    copy = Replay(capacity=capacity, obs_dim=OBS, action_dim=ACTION)
    for segment in whole:
        copy.extend(segment)
    assert copy.added == replay.added
    for _ in range(3 * capacity):
        assert_is(copy, oracle)
        play(1, stream, copy, oracle)


def test_a_segment_longer_than_the_ring_leaves_its_newest_transitions() -> None:
    large, small = (Replay(capacity=capacity, obs_dim=OBS, action_dim=ACTION) for capacity in (50, 8))
    oracle = Oracle(8)
    stream = steps(3, longest=4)
    play(40, stream, large, oracle)
    small.extend(large.segment(0, 15))
    small.extend(large.segment(15, 40))
    for _ in range(20):
        assert_is(small, oracle)
        play(1, stream, small, oracle)


def test_a_segment_is_a_copy() -> None:
    replay = Replay(capacity=4, obs_dim=OBS, action_dim=ACTION)
    stream = steps(0, longest=3)
    play(4, stream, replay)
    segment = replay.segment(0, 4)
    before = {name: array.copy() for name, array in segment.items()}
    play(9, stream, replay)
    for name, array in segment.items():
        np.testing.assert_array_equal(array, before[name])


def test_bits_are_kept_even_of_negative_zero_and_the_smallest_numbers() -> None:
    odd = np.array([-0.0, 1e-45, 3.4028235e38], np.float32)
    replay = Replay(capacity=2, obs_dim=OBS, action_dim=ACTION)
    replay.start(odd)
    replay.add(odd[:ACTION], -0.0, 1e-45, odd[::-1], last=True)
    copy = Replay(capacity=2, obs_dim=OBS, action_dim=ACTION)
    copy.extend(replay.segment(0, 1))
    for one in (replay, copy):
        got = [field.numpy().tobytes() for field in everything(one)]
        small = [np.array([x], np.float32).tobytes() for x in (-0.0, 1e-45)]
        assert got == [odd.tobytes(), odd[:ACTION].tobytes(), *small, odd[::-1].tobytes()]


def test_dog_run_takes_less_than_1100_bytes_a_transition() -> None:
    million = 1_000_000
    assert Replay.bytes_needed(million, 223, 38) / million < 1_100
    # What is there once it is full, in episodes of 500 agent steps, as dog-run has with its action repeat.
    replay = Replay(capacity=5_000, obs_dim=223, action_dim=38)
    action, obs = np.zeros(38, np.float32), np.zeros(223, np.float32)
    for number in range(12_000):
        if number % 500 == 0:
            replay.start(obs)
        replay.add(action, 0.0, 0.99, obs, last=number % 500 == 499)
    arrays = [value for value in vars(replay).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) / replay.size < 1_100
    ring = [array for array in arrays if array is not replay._final]
    assert sum(array.nbytes for array in ring) == Replay.bytes_needed(5_000, 223, 38)


def test_an_empty_ring_takes_no_memory() -> None:
    before = psutil.Process().memory_info().rss
    replay = Replay(capacity=500_000, obs_dim=223, action_dim=38)
    assert psutil.Process().memory_info().rss - before < 50e6
    assert replay.size == 0


def test_too_little_memory_is_said_with_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(total=8_000_000_000, available=2_200_000_000))
    Replay.check_memory(1_000_000, 223, 38)
    Replay.check_memory(1_000_000, 223, 38, seeds=2)
    with pytest.raises(
        InputError, match=r"3 seeds times 1,000,000 .* 3\.17 GB .* 2\.20 GB .*--buffer-size or fewer seeds"
    ):
        Replay.check_memory(1_000_000, 223, 38, seeds=3)
    with pytest.raises(
        InputError, match=r"needs 10\.56 GB of memory and 2\.20 GB are available; give a smaller --buffer-size$"
    ):
        Replay.check_memory(10_000_000, 223, 38)


@pytest.mark.parametrize("sizes", [(0, 3, 2), (-5, 3, 2), (5, 0, 2), (5, 3, 0)])
def test_sizes_that_cannot_work_are_refused(sizes: tuple[int, int, int]) -> None:
    capacity, obs_dim, action_dim = sizes
    with pytest.raises(InputError, match="at least 1"):
        Replay(capacity=capacity, obs_dim=obs_dim, action_dim=action_dim)


def test_mistakes_are_said_and_change_nothing() -> None:
    replay = Replay(capacity=4, obs_dim=OBS, action_dim=ACTION)
    obs, action = np.ones(OBS, np.float32), np.ones(ACTION, np.float32)
    with pytest.raises(ValueError, match="call start"):
        replay.add(action, 0.0, 0.99, obs, last=False)
    with pytest.raises(ValueError, match=r"obs must have the shape \(3,\), got \(1,\)"):
        replay.start(obs[:1])
    with pytest.raises(ValueError, match=r"\[0, 0\)"):
        replay.sample(np.zeros(1, np.int64))
    replay.start(obs)
    replay.add((1 + 5e-7) * action, 1.0, 0.99, obs, last=True)  # rounding is no mistake
    with pytest.raises(ValueError, match="call start"):
        replay.add(action, 0.0, 0.99, obs, last=False)
    replay.start(obs)
    with pytest.raises(ValueError, match=r"next_obs must have the shape \(3,\), got \(\)"):
        replay.add(action, 0.0, 0.99, np.float32(1.0), last=False)
    with pytest.raises(ValueError, match=r"action must have the shape \(2,\), got \(1, 2\)"):
        replay.add(action[None], 0.0, 0.99, obs, last=False)
    with pytest.raises(
        ValueError, match=r"action must lie in \[-1, 1\], got a number of size 1\.5; add what the learner"
    ):
        replay.add(-1.5 * action, 0.0, 0.99, obs, last=False)
    for index in (-1, 1):
        with pytest.raises(ValueError, match="do not lie in"):
            replay.sample(np.array([0, index]))
    with pytest.raises(ValueError, match="int64"):
        replay.sample(np.array([0], np.int32))
    for span in ((0, 0), (0, 2), (-1, 1)):
        with pytest.raises(ValueError, match="not within"):
            replay.segment(*span)
    assert (replay.size, replay.added) == (1, 1)
    assert everything(replay).reward.tolist() == [1.0]


def test_a_segment_that_does_not_follow_or_is_malformed_is_refused_and_changes_nothing() -> None:
    source, replay = (Replay(capacity=20, obs_dim=OBS, action_dim=ACTION) for _ in range(2))
    play(20, steps(0, longest=4), source)
    replay.extend(source.segment(2, 8))
    before = everything(replay)
    good = source.segment(8, 12)
    bad = [
        (source.segment(9, 12), "cannot follow"),
        (source.segment(7, 12), "cannot follow"),
        ({}, "ends"),
        (good | {"ends": good["ends"][:0]}, "at least one"),
        (good | {"ends": np.array(True)}, "at least one"),
        ({name: array for name, array in good.items() if name != "reward"}, "fields"),
        (good | {"other": good["reward"]}, "fields"),
        (good | {"obs": good["obs"].astype(np.float64)}, "`obs`"),
        (good | {"obs": good["obs"][:, :2]}, "`obs`"),
        (good | {"action": good["action"][1:]}, "`action`"),
        (good | {"ends": good["ends"].astype(np.int64)}, "`ends`"),
        (good | {"next_obs": good["next_obs"][1:]}, "`next_obs`"),
        (good | {"first": np.array([8])}, "`first`"),
        (good | {"first": np.array(-8)}, "-8"),
    ]
    for segment, match in bad:
        with pytest.raises(ValueError, match=match):
            replay.extend(segment)
        assert (replay.size, replay.added) == (6, 8)
        assert_same(everything(replay), before)
    replay.extend(good)
    assert_same(everything(replay), source.sample(np.arange(2, 12)))
