"""One seed's ring of transitions, every observation stored once.

The next observation of a transition is the observation of the one after it, so the ring keeps a single array of them:
the row after the newest transition holds the current observation, which makes capacity + 1 rows. Only where an episode
ended is there no such row; those last observations lie in a small side array, whose slots are used again once their
transition was overwritten. A million dog-run transitions (O 223, A 38) take 1.06 GB instead of 1.94.

Transitions are numbered from 0 in the order they were added, and sampled by age: where they lie in the ring shows
nowhere.
"""

import math
import mmap

import numpy as np
import torch
from jaxtyping import Float32

from steadyq.algorithm.ranges import COUNT, MOST, checked
from steadyq.algorithm.types import Transition
from steadyq.engine import machine
from steadyq.errors import InputError

FLOAT = np.dtype(np.float32)
SLOT = np.dtype(np.int32)
LARGEST = float(np.finfo(np.float32).max)
BOUND = 1 + 1e-6  # of actions: rounding may lead so far out of [-1, 1]
NONE = -1  # the slot of a transition whose next observation is the next row


def _reserved(*shape: int) -> np.ndarray:
    """Float32 zeros on pages that the system hands out when they are first written: an empty ring takes no memory.

    Straight from the system, as `np.zeros` may be given used memory, which it then has to clear.
    """
    return np.frombuffer(mmap.mmap(-1, math.prod(shape) * FLOAT.itemsize), FLOAT).reshape(shape)


class Replay:
    """The newest `capacity` transitions of one seed.

    >>> import numpy as np
    >>> import steadyq
    >>> replay = steadyq.Replay(capacity=1_000, obs_dim=3, action_dim=1)
    >>> replay.start(np.zeros(3))  # an episode begins
    >>> replay.add(np.array([0.5]), -1.0, 0.99, np.ones(3), last=False)
    >>> replay.add(np.array([0.1]), -2.0, 0.0, np.ones(3), last=True)  # it ends, with no future
    >>> replay.sample(np.array([1])).reward
    tensor([-2.])

    Args:
        capacity: transitions; unused capacity is reserved but takes no memory.
        obs_dim: O.
        action_dim: A. Actions lie in [-1, 1].

    Attributes:
        size: transitions that can be sampled.
        added: transitions ever added, which is also the number of the next one.

    Raises:
        InputError: a size that is not positive. Numbers of a wrong shape or that are not finite, actions outside of
            [-1, 1], an `add` before `start` and indices out of range are mistakes in the program: ValueError.
    """

    def __init__(self, *, capacity: int, obs_dim: int, action_dim: int) -> None:
        sizes = {"capacity": capacity, "obs_dim": obs_dim, "action_dim": action_dim}
        capacity, obs_dim, action_dim = (checked(f"the replay's {key}", n, int, COUNT) for key, n in sizes.items())
        self.capacity, self.obs_dim, self.action_dim = capacity, obs_dim, action_dim
        self.size = 0
        self.added = 0
        self._rows = capacity + 1
        widths = {"obs": (obs_dim,), "action": (action_dim,), "reward": (), "discount": ()}
        self._stored = {name: _reserved(self._rows, *width) for name, width in widths.items()}
        self._obs, self._action, self._reward, self._discount = self._stored.values()
        self._slot = np.full(self._rows, NONE, SLOT)  # of the last observation in `_final`, where an episode ended
        self._final = np.zeros((1, obs_dim), FLOAT)  # last observations of episodes; doubles when it is full
        self._free = [0]  # unused slots of `_final`
        self._running = False  # whether row `added` holds the current observation of an unfinished episode

    @staticmethod
    def bytes_needed(capacity: int, obs_dim: int, action_dim: int) -> int:
        """The memory of a full ring in bytes, but for the last observation of each episode in it."""
        return (capacity + 1) * ((obs_dim + action_dim + 2) * FLOAT.itemsize + SLOT.itemsize)

    @staticmethod
    def check_memory(capacity: int, obs_dim: int, action_dim: int, *, seeds: int = 1) -> None:
        """Refuse replays that this machine has no memory for, before anything is allocated.

        Raises:
            InputError: with what is needed and what is available, in GB (1e9 bytes).
        """
        needed = seeds * Replay.bytes_needed(capacity, obs_dim, action_dim)
        available = machine.memory().available
        if needed > available:
            copies, fewer = (f"{seeds} seeds times ", " or fewer seeds") if seeds > 1 else ("", "")
            raise InputError(
                f"the replay ({copies}{capacity:,} transitions) needs {needed / 1e9:.2f} GB of memory and "
                f"{available / 1e9:.2f} GB are available; give a smaller --buffer-size{fewer}"
            )

    @property
    def head(self) -> Float32[np.ndarray, " O"] | None:
        """A copy of the current observation of the unfinished episode; None between episodes."""
        return self._obs[self.added % self._rows].copy() if self._running else None

    def start(self, obs: np.ndarray) -> None:
        """Begin an episode with its first observation `[O]`; one that was under way ends there, as if truncated."""
        self._check("obs", obs, self.obs_dim)
        newest = (self.added - 1) % self._rows
        if self._running and self.size and self._slot[newest] == NONE:
            self._end(newest, self._obs[self.added % self._rows])
        self._obs[self.added % self._rows] = obs
        self._running = True

    def add(self, action: np.ndarray, reward: float, discount: float, next_obs: np.ndarray, *, last: bool) -> None:
        """Store one transition, which begins at the current observation.

        Args:
            action: `[A]` in [-1, 1].
            reward: of this step.
            discount: gamma, or 0 where the episode reached an end that has no future; a time limit is no such end.
            next_obs: `[O]`, the new current observation.
            last: the episode ends with this transition, terminated or truncated; then `start` comes next.
        """
        if not self._running:
            raise ValueError("no episode is under way; call start(obs) before add")
        if (largest := self._check("action", action, self.action_dim)) > BOUND:
            raise ValueError(
                f"action must lie in [-1, 1], got a number of size {largest:g}; add what the learner chose, and scale "
                f"only what the robot gets"
            )
        self._check("next_obs", next_obs, self.obs_dim)
        if not (abs(reward) <= LARGEST and 0 <= discount <= 1):  # which NaN is not
            raise ValueError(
                f"the reward must be finite in float32 and the discount in [0, 1], got {reward} and {discount}"
            )
        row = self.added % self._rows
        after = row + 1 if row < self.capacity else 0
        if self.size == self.capacity:
            self._forget(after)  # the oldest transition, whose row the next observation takes
        else:
            self.size += 1
        self._action[row] = action
        self._reward[row] = reward
        self._discount[row] = discount
        self.added += 1
        if last:
            self._end(row, next_obs)
            self._running = False
        else:
            self._obs[after] = next_obs

    def sample(self, indices: np.ndarray) -> Transition:
        """The transitions of the given ages as new float32 tensors.

        Args:
            indices: int64 of any shape `[*b]`; k in [0, size) is the k-th oldest transition.

        Returns:
            a `Transition` of tensors `[*b, ...]`.
        """
        if indices.dtype != np.int64:
            raise ValueError(f"indices must be int64, got {indices.dtype}")
        if indices.size and not 0 <= indices.min() <= indices.max() < self.size:
            raise ValueError(f"indices from {indices.min()} to {indices.max()} do not lie in [0, {self.size})")
        rows = self._wrap(indices + (self.added - self.size) % self._rows)
        # One block for both observations: in two, their memory goes back to the system each time (glibc keeps what is
        # less than twice its largest block) and is faulted in again, which made 2,560 dog-run transitions take 2.7 ms
        # instead of 0.8.
        obs, next_obs = np.empty((2, *rows.shape, self.obs_dim), FLOAT)
        np.take(self._obs, rows, axis=0, out=obs, mode="clip")  # the rows do exist; "raise" would copy once more
        self._next_obs(rows, out=next_obs)
        action = np.take(self._action, rows, axis=0)
        fields = (obs, action, np.take(self._reward, rows), np.take(self._discount, rows), next_obs)
        # np.take of 0-d indices gives a scalar; asarray makes it an array again and does nothing to the others.
        return Transition(*(torch.from_numpy(np.asarray(field)) for field in fields))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Transition:
        """Transitions `[*shape, ...]` drawn uniformly, each any number of times."""
        return self.sample(rng.integers(self.size, size=shape))

    def segment(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Copies of the transitions numbered [first, last), all that `extend` needs.

        Returns:
            `first` (0-d int64), `obs` [n, O], `action` [n, A], `reward` [n], `discount` [n], `ends` [n] (bool: the
            episode ends there), and `next_obs` [m, O]: in order, the next observations that are not in `obs`, which
            are those of the transitions where an episode ends and of the newest one.
        """
        if not self.added - self.size <= first < last <= self.added:
            raise ValueError(f"[{first}, {last}) is empty or not within [{self.added - self.size}, {self.added})")
        rows = np.arange(first, last) % self._rows
        ends = self._slot[rows] != NONE
        alone = rows[_without_next_row(ends)]
        next_obs = np.empty((len(alone), self.obs_dim), FLOAT)
        self._next_obs(alone, out=next_obs)
        return {
            "first": np.array(first, np.int64),
            **{name: stored[rows] for name, stored in self._stored.items()},
            "ends": ends,
            "next_obs": next_obs,
        }

    def extend(self, segment: dict[str, np.ndarray]) -> None:
        """Append a segment to an empty replay, or to one whose newest transition is the one before it.

        The capacity may differ from the one the segment was taken with. The episode continues where the segment begins
        with the current observation, and is otherwise taken to have ended.

        Raises:
            ValueError: the segment is malformed or does not follow; nothing was changed then.
        """
        check_segment(segment, obs_dim=self.obs_dim, action_dim=self.action_dim)
        first, ends, next_obs = int(segment["first"]), segment["ends"], segment["next_obs"]
        if self.added == 0:
            self.added = first
        elif first != self.added:
            raise ValueError(f"a segment that begins with transition {first} cannot follow transition {self.added - 1}")
        head = self.head
        if head is None or head.tobytes() != segment["obs"][0].tobytes():
            self.start(segment["obs"][0])

        total = len(ends)
        for oldest in range(
            self.added - self.size, self.added - self.size + min(self.size, self.size + total - self.capacity)
        ):
            self._forget(oldest % self._rows)
        newest = slice(max(0, total - self.capacity), total)  # all, unless the segment is longer than the ring
        rows = np.arange(first, first + total)[newest] % self._rows
        for name, stored in self._stored.items():
            stored[rows] = segment[name][newest]
        self.size = min(self.size + total, self.capacity)
        self.added = first + total
        for index, final in zip(np.flatnonzero(ends), next_obs, strict=False):
            if index >= newest.start:
                self._end(int(first + index) % self._rows, final)
        self._running = not ends[-1]
        if self._running:
            self._obs[self.added % self._rows] = next_obs[-1]

    def _next_obs(self, rows: np.ndarray, *, out: np.ndarray) -> None:
        """Write the next observations of the transitions in rows `[*b]` to `out` `[*b, O]`."""
        np.take(self._obs, self._wrap(rows + 1), axis=0, out=out, mode="clip")
        slots = np.take(self._slot, rows)
        ended = slots != NONE
        out[ended] = self._final[slots[ended]]

    def _wrap(self, rows: np.ndarray) -> np.ndarray:
        """Rows in [0, 2 * rows) to where they lie in the ring; a subtraction is 4 times as quick as `%`."""
        return rows - self._rows * (rows >= self._rows)

    def _end(self, row: int, final: np.ndarray) -> None:
        """Give the transition in this row a last observation of its own."""
        if not self._free:
            used = len(self._final)
            self._final = np.concatenate([self._final, np.zeros_like(self._final)])
            self._free = list(range(2 * used - 1, used - 1, -1))
        slot = self._free.pop()
        self._final[slot] = final
        self._slot[row] = slot

    def _forget(self, row: int) -> None:
        """Give back the slot of a transition that leaves the ring."""
        slot = self._slot[row]
        if slot != NONE:
            self._free.append(int(slot))
            self._slot[row] = NONE

    @staticmethod
    def _check(name: str, value: np.ndarray, length: int) -> float:
        """The largest absolute number of a vector that may be stored."""
        # Otherwise NumPy would spread a number or a single element over the whole row.
        if np.shape(value) != (length,):
            raise ValueError(f"{name} must have the shape ({length},), got {np.shape(value)}")
        largest = float(np.abs(value).max())
        if not largest <= LARGEST:  # which NaN is not
            raise ValueError(f"{name} has a number that is not finite in float32")
        return largest


def check_segment(segment: dict[str, np.ndarray], *, obs_dim: int, action_dim: int) -> None:
    """Make sure that `extend` can take a segment, which may come from a file anyone wrote.

    Raises:
        ValueError: a field is missing or unknown, or has a wrong type, shape or number of rows.
    """
    n = len(segment["ends"]) if np.ndim(segment.get("ends", 0)) == 1 else 0
    if n == 0:
        raise ValueError("a segment needs `ends`, one row for each of its transitions and at least one")
    boundaries = np.count_nonzero(_without_next_row(segment["ends"] != 0))
    wanted = {
        "first": (np.int64, ()),
        "obs": (np.float32, (n, obs_dim)),
        "action": (np.float32, (n, action_dim)),
        "reward": (np.float32, (n,)),
        "discount": (np.float32, (n,)),
        "ends": (np.bool_, (n,)),
        "next_obs": (np.float32, (boundaries, obs_dim)),
    }
    if segment.keys() != wanted.keys():
        raise ValueError(f"a segment has the fields {', '.join(wanted)}; got {', '.join(sorted(segment))}")
    for name, (dtype, shape) in wanted.items():
        got = segment[name]
        if got.dtype != dtype or got.shape != shape:
            raise ValueError(f"`{name}` of a segment must be {np.dtype(dtype)} {shape}, got {got.dtype} {got.shape}")
        if got.dtype == np.float32 and not math.isfinite(np.abs(got).max(initial=0)):
            raise ValueError(f"`{name}` of a segment has a number that is not finite")
    if not (segment["discount"].min() >= 0 and segment["discount"].max() <= 1):
        raise ValueError("`discount` of a segment does not lie in [0, 1]")
    if not 0 <= segment["first"] <= MOST:
        raise ValueError(f"a segment cannot begin with transition {segment['first']}")


def _without_next_row(ends: np.ndarray) -> np.ndarray:
    """Which transitions `[n]` of a segment have a next observation that is not in it: ends, and the newest."""
    alone = ends.copy()
    alone[-1] = True
    return alone
