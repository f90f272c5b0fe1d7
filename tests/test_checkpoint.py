"""Checkpoints: to the bit there and back, whole through interrupted writes, damage found before anything changes."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from steadyq.algorithm.actor_critic import make_agent
from steadyq.algorithm.options import make_recipe
from steadyq.algorithm.tree import named_leaves
from steadyq.errors import InputError
from steadyq.store import checkpoint, disk, sealed, snapshot
from steadyq.store.checkpoint import History
from steadyq.store.disk import FileError
from steadyq.store.replay import Replay

OBS, ACTION, CAPACITY = 3, 2, 20

TENSORS = {
    "weight": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 7,
    "transposed": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
    "odd": torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45]),
    "scalar": torch.tensor(-0.1),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "steps": torch.tensor(2**62 + 1),
    "flags": torch.tensor([True, False, True]),
    "flag": torch.tensor(True),
    "empty": torch.zeros(0, 4),
    "array": np.array([[1.5, -2.5]]),
    "bytes": np.arange(5, dtype=np.uint8),
    "big-endian": np.array([1, 256], dtype=">i4"),
}
META = {"step": 3, "name": "dög", "windows": [[1.1, 2], []], "nothing": None, "deep": {"yes": True}}


def play(replay: Replay, count: int, *, episode: int = 7) -> None:
    """Transitions that are a function of their number, in episodes of a fixed length, the next one begun at once."""
    for number in range(replay.added, replay.added + count):
        rng = np.random.default_rng(number)
        if replay.head is None:
            replay.start(rng.normal(size=OBS).astype(np.float32))
        last = number % episode == episode - 1
        replay.add(rng.uniform(-1, 1, ACTION), rng.normal(), 0.99, rng.normal(size=OBS).astype(np.float32), last=last)
        if last:
            replay.start(rng.normal(size=OBS).astype(np.float32))


def empty(capacity: int = CAPACITY) -> Replay:
    return Replay(capacity=capacity, obs_dim=OBS, action_dim=ACTION)


def content(replay: Replay) -> list[bytes]:
    head = b"between episodes" if replay.head is None else replay.head.tobytes()
    return [head, *(field.numpy().tobytes() for field in replay.sample(np.arange(replay.size)))]


def save(history: History, frame: int, replay: Replay, *, keep: int = 2) -> History:
    history = write(history, frame, replay)
    checkpoint.prune(history, keep=keep)
    return history


def write(history: History, frame: int, replay: Replay) -> History:
    meta = META | {"frame": frame}
    return checkpoint.save(history, frame=frame, tensors=TENSORS, meta=meta, replays={"replay": replay})


def load(seed_dir: Path, frame: int | None = None, *, into: Replay) -> History:
    """As a resumed run does: everything is looked at before the replay is filled."""
    found = checkpoint.load(seed_dir, frame)
    checkpoint.verify(seed_dir, found, sizes={"replay": (OBS, ACTION)})
    return checkpoint.fill(seed_dir, found, {"replay": into})


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def segments(seed_dir: Path, name: str = "replay") -> list[str]:
    """A replay's files as `first-last`."""
    paths = (seed_dir / "checkpoints" / name).iterdir()
    return sorted("-".join(str(int(number)) for number in path.name.split("-")[:2]) for path in paths)


def assert_tensors(got: dict[str, torch.Tensor]) -> None:
    assert got.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        wanted = value.detach() if isinstance(value, torch.Tensor) else torch.from_numpy(value.astype(value.dtype.name))
        assert got[name].dtype == wanted.dtype, name
        assert got[name].shape == wanted.shape, name
        assert got[name].numpy().tobytes() == wanted.contiguous().numpy().tobytes(), name


def test_everything_comes_back_to_the_bit(tmp_path: Path) -> None:
    replay, copy = empty(), empty()
    play(replay, 50)
    history = save(History(tmp_path), 100, replay)
    assert (tmp_path / "checkpoints" / "000000000100.safetensors").is_file()
    got = checkpoint.load(tmp_path)
    assert load(tmp_path, into=copy) == history
    assert (got.frame, got.meta) == (100, META | {"frame": 100})
    assert_tensors(got.tensors)
    got.tensors["weight"].fill_(0.0)  # tensors of their own
    assert (copy.added, copy.size) == (50, 20)
    assert content(copy) == content(replay)
    for _ in range(60):
        play(replay, 1)
        play(copy, 1)
        assert content(copy) == content(replay)


@pytest.mark.parametrize("seed", range(10))
def test_a_run_of_saves_and_resumes_is_the_undisturbed_run(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    capacity, episode = int(rng.integers(1, 30)), int(rng.integers(1, 12))
    undisturbed, run, history = empty(capacity), empty(capacity), History(tmp_path)
    saved_at: dict[int, int] = {}
    for frame in range(1, 30):
        count = int(rng.integers(0, 12))
        play(undisturbed, count, episode=episode)
        play(run, undisturbed.added - run.added, episode=episode)
        assert content(run) == content(undisturbed)
        if rng.random() < 0.6:
            history = save(history, frame, run)
            saved_at[frame] = run.added
        if checkpoint.frames(tmp_path) and rng.random() < 0.3:
            run = empty(capacity)
            chosen = int(rng.choice(checkpoint.frames(tmp_path)))
            history = load(tmp_path, chosen, into=run)
            assert history.frames[-1] == chosen
            assert run.added == saved_at[chosen]
    assert saved_at


def test_between_two_episodes_and_before_the_first_step(tmp_path: Path) -> None:
    obs = [np.full(OBS, value, np.float32) for value in range(4)]
    action = np.zeros(ACTION, np.float32)
    replay, history = empty(), History(tmp_path)

    def again(frame: int) -> Replay:
        nonlocal history
        history = save(history, frame, replay)
        copy = empty()
        load(tmp_path, into=copy)
        assert copy.added == replay.added
        assert content(copy)[0] == content(replay)[0]
        return copy

    assert again(0).head is None
    replay.start(obs[0])
    again(1)
    replay.add(action, 0.0, 0.99, obs[1], last=True)
    assert again(2).head is None
    replay.start(obs[2])  # no new transition, and yet a new head
    copy = again(3)
    for one in (copy, replay):
        one.add(action, 0.0, 0.99, obs[3], last=False)
    assert content(copy) == content(replay)
    assert content(again(4)) == content(replay)
    replay.start(obs[0])  # the episode is given up after its transition was saved
    assert content(again(5)) == content(replay)
    replay.add(action, 0.0, 0.99, obs[1], last=False)
    copy = again(6)
    assert content(copy) == content(replay)
    assert copy.sample(np.array([1])).next_obs.tolist() == [[3.0] * OBS]


def test_a_save_writes_only_what_is_new_and_keeps_only_what_is_needed(tmp_path: Path) -> None:
    replay, history = empty(), History(tmp_path)
    play(replay, 6)
    history = save(history, 1, replay)
    assert segments(tmp_path) == ["0-6"]
    play(replay, 6)
    before = files(tmp_path)
    history = save(history, 2, replay)
    assert segments(tmp_path) == ["0-6", "6-12"]
    assert before.items() <= files(tmp_path).items()
    history = save(history, 3, replay)  # nothing new
    assert segments(tmp_path) == ["0-6", "6-12"]
    assert checkpoint.frames(tmp_path) == [2, 3]
    play(replay, 14)  # 26 added, the ring holds 6 to 25: 0-6 is needed by the checkpoint of frame 3 alone
    history = save(history, 4, replay)
    assert segments(tmp_path) == ["0-6", "12-26", "6-12"]
    history = save(history, 5, replay, keep=1)
    assert segments(tmp_path) == ["12-26", "6-12"]
    assert checkpoint.frames(tmp_path) == [5]
    play(replay, 100)  # nothing of the old is left in the ring
    history = save(history, 6, replay, keep=1)
    assert segments(tmp_path) == ["106-126"]
    copy = empty()
    load(tmp_path, into=copy)
    assert content(copy) == content(replay)


def test_a_large_replay_is_cut_into_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES", 7 * 4 * (OBS + ACTION + 3) * 2)
    replay, copy = empty(50), empty(50)
    play(replay, 80)
    save(History(tmp_path), 1, replay)
    assert segments(tmp_path) == ["30-37", "37-44", "44-51", "51-58", "58-65", "65-72", "72-79", "79-80"]
    load(tmp_path, into=copy)
    assert content(copy) == content(replay)


def test_a_snapshot_that_cannot_be_written_leaves_the_old_one_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "snapshots" / "1"
    snapshot.write_snapshot(path, TENSORS, META)
    before = files(tmp_path)
    for n in range(1, 5):
        with pytest.MonkeyPatch.context() as monkeypatch:
            interrupt(monkeypatch, n, OSError(5, "Input/output error"))
            with pytest.raises(OSError, match="Input/output"):
                snapshot.write_snapshot(path, {}, {})
        assert files(tmp_path) == before


def test_another_history_takes_over_without_touching_the_old_one_first(tmp_path: Path) -> None:
    replay, history = empty(), History(tmp_path)
    for frame in (1, 2, 3):
        play(replay, 5)
        history = save(history, frame, replay, keep=3)
    other = empty()
    history = load(tmp_path, 1, into=other)
    other.add(np.ones(ACTION), 7.0, 0.0, np.ones(OBS), last=False)  # the same number as before, but other bits
    play(other, 4)
    save(history, 2, other, keep=3)
    assert checkpoint.frames(tmp_path) == [1, 2]
    copy = empty()
    load(tmp_path, into=copy)
    assert content(copy) == content(other)
    assert content(copy) != content(replay)
    assert segments(tmp_path) == ["0-5", "5-10"]


def test_a_fresh_run_in_an_old_folder_removes_the_old_checkpoints(tmp_path: Path) -> None:
    replay, fresh, copy = empty(), empty(), empty()
    play(replay, 5)
    save(History(tmp_path), 9, replay)
    play(fresh, 3)
    save(History(tmp_path), 4, fresh)
    assert checkpoint.frames(tmp_path) == [4]
    assert segments(tmp_path) == ["0-3"]
    load(tmp_path, into=copy)
    assert content(copy) == content(fresh)


def test_a_replay_whose_files_are_gone_is_written_whole(tmp_path: Path) -> None:
    replay, history = empty(), History(tmp_path)
    for frame in (1, 2):
        play(replay, 3)
        history = save(history, frame, replay)
    assert segments(tmp_path) == ["0-3", "3-6"]
    shutil.rmtree(tmp_path / "checkpoints" / "replay")
    history = save(history, 3, replay, keep=1)
    assert segments(tmp_path) == ["0-6"]
    copy = empty()
    assert load(tmp_path, into=copy) == history._replace(frames=(3,))
    assert content(copy) == content(replay)


READS = ("lstat", "listdir", "fstat", "read")


def interrupt(monkeypatch: pytest.MonkeyPatch, n: int, error: BaseException) -> list[str]:
    """Make the n-th thing asked of the disk fail, a write with half of it done; the list fills with what is asked."""
    calls: list[str] = []

    def do(operation: Callable[..., Any], *arguments: Any) -> Any:
        if len(calls) < n:
            calls.append(operation.__name__)
            if len(calls) == n:
                if operation.__name__ == "write":
                    operation(arguments[0][: len(arguments[0]) // 2])
                raise error
        return operation(*arguments)

    monkeypatch.setattr(disk, "do", do)
    return calls


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_anywhere_leaves_the_older_checkpoint_and_no_litter(
    tmp_path: Path, error: BaseException
) -> None:
    n, calls = 0, [""]
    while len(calls) > n - 1 or n == 0:
        n += 1
        folder = tmp_path / str(n)
        replay = empty()
        play(replay, 9)
        history = save(History(folder), 1, replay)
        older = content(replay)
        play(replay, 9)
        with pytest.MonkeyPatch.context() as monkeypatch:
            calls = interrupt(monkeypatch, n, error)
            with contextlib.suppress(type(error)):
                history = save(history, 2, replay)
        newest = checkpoint.frames(folder)[-1]
        copy = empty()
        load(folder, newest, into=copy)
        assert content(copy) == (older if newest == 1 else content(replay))
        if newest == 1:
            assert segments(folder) == ["0-9"]
        assert not list(folder.rglob(".tmp-*"))
        save(history, 3, replay)  # the same process goes on
        copy = empty()
        load(folder, into=copy)
        assert content(copy) == content(replay)
    assert calls[:11] == ["lstat", *["open", "write", "fsync", "replace", "fsync"] * 2]  # transitions, checkpoint
    assert {*calls[11:]} == {"listdir", "open", "fstat", "read"}  # what may go


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_no_checkpoint_loses_transitions_because_something_could_not_be_read(
    tmp_path: Path, number: int, lasts: bool
) -> None:
    """A checkpoint that cannot be read when what nobody mentions is removed is not one that mentions nothing."""
    n, asked = 0, 1
    while asked >= n:
        n, asked = n + 1, 0
        replay, history = empty(), History(tmp_path / str(n))
        for frame in (1, 2):
            play(replay, 9)
            history = save(history, frame, replay)

        def do(operation: Callable[..., Any], *arguments: Any, n: int = n) -> Any:
            nonlocal asked
            if operation is os.open or operation.__name__ in READS:
                asked += 1
                if asked == n or (lasts and asked > n):
                    raise OSError(number, os.strerror(number))
            return operation(*arguments)

        play(replay, 9)
        with pytest.MonkeyPatch.context() as monkeypatch, contextlib.suppress(OSError):
            monkeypatch.setattr(disk, "do", do)
            save(history, 3, replay)
        left = checkpoint.frames(tmp_path / str(n))
        assert {2, *left} <= {1, 2, 3}
        assert len(left) >= 2
        for frame in left:
            copy, wanted = empty(), empty()
            load(tmp_path / str(n), frame, into=copy)
            play(wanted, 9 * frame)
            assert content(copy) == content(wanted)
    assert n > 12


def kill_writers(folder: Path, count: int) -> None:
    """Fork writers that kill themselves at the n-th thing they ask of the disk, n = 1, 2, ... again and again.

    After each one the newest checkpoint must be whole: its own, or the one before. Run in a process of its own.
    """
    kills = lived = newer = 0
    frame, n = 1, 0
    replay = empty()
    play(replay, 5)
    history = save(History(folder), frame, replay)
    while kills < count:
        n += 1
        child = os.fork()
        if child == 0:
            write_and_die(folder, frame, n)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
        else:
            lived, n = lived + 1, 0
        newest = checkpoint.frames(folder)[-1]
        copy, wanted = empty(), empty()
        history = load(folder, newest, into=copy)
        play(wanted, copy.added)
        assert newest in (frame, frame + 1)
        assert content(copy) == content(wanted)
        assert len([*folder.rglob(".tmp-*")]) <= 1
        newer += newest > frame and os.WIFSIGNALED(status)
        frame = newest
    save(history, frame, copy)
    assert not [*folder.rglob(".tmp-*")]
    print(f"{kills} killed, {newer} of them after the new checkpoint was there, {lived} lived")


def write_and_die(folder: Path, frame: int, n: int) -> None:
    """Go on from a checkpoint and save the next, but die at the n-th thing asked of the disk, a write half-way."""
    replay = empty()
    history = load(folder, frame, into=replay)
    play(replay, 9)
    calls = 0

    def do(operation: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal calls
        calls += operation is not os.open and operation.__name__ not in READS
        if calls == n:
            if operation.__name__ == "write":
                operation(arguments[0][: len(arguments[0]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return operation(*arguments)

    disk.do = do
    save(history, frame + 1, replay)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("count", [40, pytest.param(600, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_a_whole_checkpoint_and_its_litter_to_the_next(tmp_path: Path, count: int) -> None:
    code = f"import sys, pathlib; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_checkpoint\n"
    code += f"test_checkpoint.kill_writers(pathlib.Path({str(tmp_path)!r}), {count})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    numbers = [int(word) for word in done.stdout.split() if word.isdigit()]
    assert numbers[0] == count
    assert 0 < numbers[1] < count / 2  # 10 things to ask for until the checkpoint is there, 2 and more after that


def test_what_dead_writers_left_in_any_folder_is_removed_by_the_next_save(tmp_path: Path) -> None:
    run = Two.empty()
    run.play(9)
    history = run.save(History(tmp_path), 1)
    before = files(tmp_path)
    for place in (".", "replay", "held_out"):
        (tmp_path / "checkpoints" / place / ".tmp-left").write_bytes(b"half")
    (tmp_path / "checkpoints" / "held_out" / "000000000009-000000000010-abc.safetensors").write_bytes(b"unlisted")
    run.save(history, 1)
    assert files(tmp_path) == before


def test_seeds_that_cannot_all_be_saved_keep_what_they_had(tmp_path: Path) -> None:
    replay, history = empty(), History(tmp_path)
    for frame in (1, 2, 3):
        play(replay, 5)
        history = save(history, frame, replay)
    before = files(tmp_path)
    play(replay, 5)
    write(history, 4, replay)
    checkpoint.remove(tmp_path, 4)
    assert files(tmp_path) == before
    play(replay, 5)
    save(history, 5, replay)
    assert checkpoint.frames(tmp_path) == [3, 5]
    copy = empty()
    load(tmp_path, into=copy)
    assert content(copy) == content(replay)


def test_the_best_stays_beside_the_newest(tmp_path: Path) -> None:
    replay, history = empty(), History(tmp_path)
    for frame in range(1, 7):
        play(replay, 3)
        history = write(history, frame, replay)
        checkpoint.prune(history, keep=2, best=2)
    assert checkpoint.frames(tmp_path) == [2, 5, 6]
    again = empty()
    history = load(tmp_path, 5, into=again)
    play(again, 3)
    history = write(history, 7, again)
    checkpoint.prune(history, keep=1, best=6)  # of a history that was left
    assert checkpoint.frames(tmp_path) == [7]


class Two(NamedTuple):
    """What trains with two replays: one as elsewhere here, and one of other sizes that gets a transition in three."""

    replay: Replay
    held_out: Replay

    @staticmethod
    def empty() -> "Two":
        return Two(empty(), Replay(capacity=6, obs_dim=5, action_dim=1))

    def play(self, count: int) -> None:
        play(self.replay, count)
        for number in range(self.held_out.added, self.held_out.added + count // 3):
            rng = np.random.default_rng(number)
            if self.held_out.head is None:
                self.held_out.start(rng.normal(size=5).astype(np.float32))
            obs = rng.normal(size=5).astype(np.float32)
            self.held_out.add(rng.uniform(-1, 1, 1), rng.normal(), 0.9, obs, last=number % 4 == 3)

    def save(self, history: History, frame: int, *, keep: int = 2) -> History:
        history = checkpoint.save(history, frame=frame, tensors=TENSORS, meta=META, replays=self._asdict())
        checkpoint.prune(history, keep=keep)
        return history

    def load(self, seed_dir: Path, frame: int | None = None) -> History:
        found = checkpoint.load(seed_dir, frame)
        checkpoint.verify(seed_dir, found, sizes={"replay": (OBS, ACTION), "held_out": (5, 1)})
        return checkpoint.fill(seed_dir, found, self._asdict())

    def content(self) -> list[bytes]:
        return content(self.replay) + content(self.held_out)


def test_two_replays_of_other_sizes(tmp_path: Path) -> None:
    """Saved, pruned and resumed: each is as it would be alone, in a folder of its name."""
    run, alone, history, history_alone = Two.empty(), empty(), History(tmp_path / "two"), History(tmp_path / "one")
    for frame, count in enumerate((6, 6, 0, 14), 1):
        run.play(count)
        play(alone, count)
        history, history_alone = run.save(history, frame), save(history_alone, frame, alone)
    folder = tmp_path / "two" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["held_out", "replay"]
    assert segments(tmp_path / "two") == ["0-6", "12-26", "6-12"]
    assert files(folder / "replay") == files(tmp_path / "one" / "checkpoints" / "replay")
    assert segments(tmp_path / "two", "held_out") == ["0-2", "2-4", "4-8"]  # the ring holds 2 to 7; frame 3 needs 0-2
    run.save(history, 5, keep=1)
    assert segments(tmp_path / "two", "held_out") == ["2-4", "4-8"]
    again = Two.empty()
    history = again.load(tmp_path / "two")
    assert history.frames == (5,)
    assert again.content() == run.content()
    for frame in (6, 7):
        run.play(9)
        again.play(9)
        assert again.content() == run.content()
        history = again.save(history, frame)
    third = Two.empty()
    assert third.load(tmp_path / "two", 7) == history._replace(frames=(6, 7))  # 5 was pruned
    assert third.content() == run.content()
    only = empty()
    checkpoint.fill(tmp_path / "two", checkpoint.load(tmp_path / "two", 7), {"replay": only})  # and leaves the other
    assert content(only) == content(run.replay)


def test_damage_to_either_of_two_replays_is_found_before_any_is_filled(tmp_path: Path) -> None:
    run, history = Two.empty(), History(tmp_path)
    for frame in (1, 2):
        run.play(9)
        history = run.save(history, frame)
    whole = files(tmp_path)
    assert len([name for name in whole if "held_out" in name]) == 2
    for name, data in whole.items():
        for damaged in (data[:-1], data[:-3] + bytes([data[-3] ^ 1]) + data[-2:], b""):
            (tmp_path / name).write_bytes(damaged)
            again = Two.empty()
            if name.endswith("000000000001.safetensors"):  # not needed by the newest
                again.load(tmp_path)
                continue
            with pytest.raises(FileError, match=Path(name).name):
                again.load(tmp_path)
            assert [replay.added for replay in again] == [0, 0]
        (tmp_path / name).write_bytes(data)
    again = Two.empty()
    again.load(tmp_path)
    assert again.content() == run.content()


def test_a_checkpoint_without_a_replay_that_is_wanted_or_with_other_sizes_is_refused(tmp_path: Path) -> None:
    run = Two.empty()
    run.play(9)
    run.save(History(tmp_path), 1)
    found = checkpoint.load(tmp_path)
    sizes = {"replay": (OBS, ACTION), "held_out": (5, 1)}
    for wanted, match in (
        (sizes | {"third": (1, 1)}, "has no replay 'third'"),
        ({"replay": sizes["replay"]}, "has a replay 'held_out', which this run has not"),
        (sizes | {"held_out": (5, 2)}, r"sizes \(5, 1\), the environment has \(5, 2\)"),
    ):
        with pytest.raises(FileError, match=match):
            checkpoint.verify(tmp_path, found, sizes=wanted)
    with pytest.raises(FileError, match="has no replay 'third'"):
        checkpoint.fill(tmp_path, found, {"third": empty()})


def test_common_frames(tmp_path: Path) -> None:
    for seed, frames in enumerate([(1, 2), (2, 3)]):
        replay, history = empty(), History(tmp_path / str(seed))
        for frame in frames:
            history = save(history, frame, replay)
    assert checkpoint.common_frames([tmp_path / "0", tmp_path / "1"]) == [2]
    assert checkpoint.common_frames([tmp_path / "0", tmp_path / "2"]) == []


def test_a_flipped_bit_in_any_file_is_found_before_anything_changes(tmp_path: Path) -> None:
    replay, history = empty(), History(tmp_path)
    for frame in (1, 2):
        play(replay, 8)
        history = save(history, frame, replay, keep=1)
    there = tmp_path / "snapshots" / "2"

    def read(path: Path, into: Replay) -> None:
        if path == there:
            snapshot.read_snapshot(path)
        else:
            load(tmp_path, into=into)

    snapshot.write_snapshot(there, TENSORS, META)
    whole = files(tmp_path)
    assert len(whole) == 4
    rng = np.random.default_rng(0)
    for name, data in whole.items():
        path = tmp_path / name
        header = 8 + int.from_bytes(data[:8], "little")
        offsets = {
            *range(16),
            *rng.integers(header, size=60).tolist(),
            header - 1,
            header,
            *range(header, len(data), 5),
        }
        for offset in offsets:
            damaged = bytearray(data)
            damaged[offset] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            copy = empty()
            with pytest.raises(FileError, match=path.name):
                read(path, copy)
            assert (copy.added, copy.size, copy.head) == (0, 0, None)
        for length in (0, 1, 7, 8, 9, header, len(data) - 1):
            path.write_bytes(data[:length])
            with pytest.raises(FileError, match=path.name):
                read(path, empty())
        path.write_bytes(data + b"\0")
        with pytest.raises(FileError, match=path.name):
            read(path, empty())
        path.write_bytes(data)
    load(tmp_path, into=empty())


def test_files_of_two_checkpoints_cannot_be_mixed(tmp_path: Path) -> None:
    replay, other = empty(), empty()
    play(replay, 8)
    save(History(tmp_path / "a"), 1, replay)
    play(other, 8, episode=3)
    save(History(tmp_path / "b"), 1, other)
    (ours,), (theirs,) = ((tmp_path / x / "checkpoints" / "replay").iterdir() for x in "ab")
    shutil.copy(theirs, ours)
    with pytest.raises(FileError, match=f"{ours.name} holds other transitions"):
        load(tmp_path / "a", into=empty())
    ours.unlink()
    with pytest.raises(FileError, match=f"there is no .*{ours.name}"):
        load(tmp_path / "a", into=empty())
    newest = tmp_path / "b" / "checkpoints" / "000000000001.safetensors"
    newest.rename(newest.with_name("000000000002.safetensors"))
    with pytest.raises(FileError, match="name does not go with the frame"):
        load(tmp_path / "b", into=empty())


def forge(path: Path, kind: str, arrays: dict[str, np.ndarray], text: str) -> str:
    """A file with a right digest, as a stranger could write it."""
    arrays = {name: array.copy() for name, array in arrays.items()}
    sha256 = sealed.digest(kind, text, arrays)
    metadata = {"steadyq": f"steadyq {kind} 2\n{sha256}\n{text}"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors.numpy.save(arrays, metadata))
    return sha256


NONE = {"obs_dim": OBS, "action_dim": ACTION, "added": 0, "segments": []}
GOOD = {"frame": 1, "meta": {}, "replays": {"replay": NONE}}
SHA = "0" * 64


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[]", "no object"),
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        (json.dumps({}), "`checkpoint` lacks 'frame'"),
        (json.dumps(GOOD | {"frame": "1"}), "`checkpoint.frame` is '1', not of the type int"),
        (json.dumps(GOOD | {"frame": 2}), "name does not go with the frame in it, 2"),
        (json.dumps(GOOD | {"meta": 3}), "`checkpoint.meta` is 3"),
        (json.dumps(GOOD | {"more": 3}), "`checkpoint` has the unknown 'more'"),
        (json.dumps(GOOD | {"replays": None}), "`checkpoint.replays` is None"),
        (json.dumps(GOOD | {"replays": {}}), "has no replay 'replay'"),
        (
            json.dumps(GOOD | {"replays": {"replay": NONE, "other": NONE}}),
            "has a replay 'other', which this run has not",
        ),
        *(
            (json.dumps(GOOD | {"replays": {name: NONE}}), "cannot be the name of a replay")
            for name in ("", ".", "..", "../replay", "/tmp", "a/b", "Replay", "replay\n", ".tmp-x", "x" * 65)
        ),
        (
            json.dumps(GOOD | {"replays": {"replay": {"obs_dim": 3}}}),
            "`checkpoint.replays.'replay'` lacks 'action_dim'",
        ),
        *(
            (json.dumps(GOOD | {"replays": {"replay": NONE | replay}}), match)
            for replay, match in (
                ({"obs_dim": 4}, r"sizes \(4, 2\), the environment has \(3, 2\)"),
                ({"obs_dim": True}, "obs_dim"),
                ({"added": -1}, "end at 0, but it had -1"),
                ({"added": 1.0}, "added"),
                ({"added": 5}, "end at 0, but it had 5"),
                ({"segments": {}}, "segments` is {}, not of the type list"),
                ({"segments": ["x"]}, "segments` is 'x', not of the type list"),
                ({"segments": [[0, 5]]}, r"segments` is \[0, 5\], not \[first, last, sha256\]"),
                ({"segments": [[0, 5, "../../../../etc/passwd"]], "added": 5}, "is not"),
                ({"segments": [[0, 5, SHA + "\n"]], "added": 5}, "is not"),
                ({"segments": [[0, 5, SHA.replace("0", "/")]], "added": 5}, "is not"),
                ({"segments": [["../0", 5, SHA]], "added": 5}, "segments.first` is '../0', not of"),
                ({"segments": [[5, 5, SHA]], "added": 5}, "is not"),
                ({"segments": [[-5, 5, SHA]], "added": 5}, "is not"),
                ({"segments": [[0, 5, SHA], [6, 9, SHA]], "added": 9}, "before 6 are missing"),
                ({"segments": [[0, 5, SHA]], "added": 5}, "there is no"),
            )
        ),
    ],
)
def test_json_that_save_never_writes_is_refused_in_one_sentence(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "checkpoints" / "000000000001.safetensors"
    forge(path, "checkpoint", {}, text)
    replay = empty()
    with pytest.raises(FileError, match=match) as caught:
        load(tmp_path, into=replay)
    assert str(path.parent) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert replay.added == 0


def test_transitions_of_a_wrong_shape_are_refused_however_well_sealed(tmp_path: Path) -> None:
    replay = empty()
    play(replay, 4)
    good = replay.segment(0, 4)
    for bad, match in (
        (good | {"obs": good["obs"][:, :1]}, "`obs`"),
        (good | {"first": np.array(9)}, "does not hold"),
        ({"first": np.array(0)}, "`ends`"),
    ):
        folder = tmp_path / "checkpoints"
        temporary = folder / "replay" / "x"
        sha256 = forge(temporary, "replay", bad, "{}")
        temporary.rename(folder / "replay" / f"{0:012d}-{4:012d}-{sha256[:12]}.safetensors")
        text = json.dumps(GOOD | {"replays": {"replay": NONE | {"added": 4, "segments": [[0, 4, sha256]]}}})
        forge(folder / f"{1:012d}.safetensors", "checkpoint", {}, text)
        copy = empty()
        with pytest.raises(FileError, match=match):
            load(tmp_path, into=copy)
        assert copy.added == 0
    forge(folder / f"{1:012d}.safetensors", "checkpoint", {"replay.head": np.zeros(2, np.float32)}, json.dumps(GOOD))
    with pytest.raises(FileError, match="head"):
        load(tmp_path, into=empty())


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "000000000001.safetensors"
    path.parent.mkdir()
    plain = {"x": np.zeros(3, np.float32)}
    for data, match in (
        (b"\x80\x04\x95pickled", "no safetensors file"),
        ((2**62).to_bytes(8, "little") + b"{}", "no safetensors file"),
        (safetensors.numpy.save(plain), "no format of ours"),
        (safetensors.numpy.save(plain, {"format": "pt"}), "no format of ours"),
        (
            safetensors.numpy.save(plain, {"steadyq": "steadyq checkpoint 1\nx\n{}"}),
            "1'.* reads 'steadyq checkpoint 2'",
        ),
        (safetensors.numpy.save(plain, {"steadyq": "steadyq checkpoint 2"}), "checkpoint 2"),
    ):
        path.write_bytes(data)
        with pytest.raises(FileError, match=match) as caught:
            load(tmp_path, into=empty())
        assert isinstance(caught.value, InputError)  # so the command line says it in one line
    snapshot.write_snapshot(path, plain, {})
    with pytest.raises(FileError, match="steadyq snapshot 2"):
        checkpoint.load(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(FileError, match="cannot read"):
        checkpoint.load(tmp_path)


def test_a_damaged_checkpoint_does_not_keep_a_later_save_from_working(tmp_path: Path) -> None:
    replay = empty()
    play(replay, 5)
    save(save(History(tmp_path), 1, replay), 2, replay)
    (tmp_path / "checkpoints" / "000000000002.safetensors").write_bytes(b"rubbish")
    copy = empty()
    save(load(tmp_path, 1, into=copy), 3, copy)
    assert checkpoint.frames(tmp_path) == [1, 3]  # the bad one is no part of the history that went on
    for frame in (1, 3):
        load(tmp_path, frame, into=empty())


def test_no_checkpoint_no_such_frame_and_a_used_replay(tmp_path: Path) -> None:
    assert checkpoint.frames(tmp_path) == []
    with pytest.raises(FileError, match="there is no checkpoint in"):
        checkpoint.load(tmp_path)
    replay = empty()
    play(replay, 2)
    save(History(tmp_path), 1, replay)
    (tmp_path / "checkpoints" / "notes.safetensors").write_text("not ours, and left alone")
    assert checkpoint.frames(tmp_path) == [1]
    with pytest.raises(FileError, match=r"there is no .*000000000007"):
        checkpoint.load(tmp_path, 7)
    with pytest.raises(ValueError, match="empty replay"):
        load(tmp_path, into=replay)
    assert_tensors(checkpoint.load(tmp_path).tensors)


def test_what_cannot_be_written_is_said_before_anything_is_written(tmp_path: Path) -> None:
    replay = empty()
    play(replay, 4)
    for tensors, meta, error, match in (
        ({"x": np.array([object()])}, {}, TypeError, "x has the type object"),
        ({"x": np.array(["text"])}, {}, TypeError, "x has the type"),
        ({"replay.head": np.zeros(3)}, {}, ValueError, "'replay.head' is taken by a replay"),
        ({}, {"x": float("nan")}, ValueError, "not JSON compliant"),
        ({}, {"x": np.float32(1)}, TypeError, "not JSON serializable"),
    ):
        with pytest.raises(error, match=match):
            checkpoint.save(History(tmp_path), frame=1, tensors=tensors, meta=meta, replays={"replay": replay})
        assert files(tmp_path) == {}
    with pytest.raises(ValueError, match=r"'\.\./x' cannot be the name of a replay"):
        checkpoint.save(History(tmp_path), frame=1, tensors={}, meta={}, replays={"../x": replay})
    with pytest.raises(ValueError, match="keep"):
        save(History(tmp_path), 1, replay, keep=0)
    history = save(History(tmp_path), 9, replay)
    with pytest.raises(ValueError, match="frame 8 is before 9"):
        save(history, 8, replay)


def test_a_snapshot_is_one_file_that_other_programs_can_read(tmp_path: Path) -> None:
    path = tmp_path / "snapshots" / "000000000001.safetensors"
    snapshot.write_snapshot(path, TENSORS, META)
    tensors, meta = snapshot.read_snapshot(path)
    assert meta == META
    assert_tensors(tensors)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with safetensors.safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["steadyq"].splitlines()[2]) == META
        assert torch.equal(file.get_tensor("weight"), TENSORS["weight"])
    with pytest.raises(FileError, match="there is no"):
        snapshot.read_snapshot(tmp_path / "other")


@pytest.mark.parametrize("name", ["bro", "crossq_wn", "nap"])
def test_a_snapshot_has_nothing_of_optimisers_and_projections_wherever_the_networks_are(name: str) -> None:
    state = make_agent(make_recipe(name, {"width": 8}), obs_dim=OBS, action_dim=ACTION).init(np.random.default_rng(0))
    whole, kept = dict(named_leaves(state)), snapshot.snapshot_tensors(state)
    left_out = {key for key in whole if {"opt", "project"} & {*key.split(".")}}
    assert kept.keys() == whole.keys() - left_out
    assert all(kept[key] is whole[key] for key in kept)
    nets = {key.split(".opt.")[0] for key in left_out if ".opt." in key}
    assert nets >= {"actor", "critic", "temperature"}
    assert any(".project." in key for key in left_out) == (name == "nap")
    if name == "bro":
        assert nets >= {f"explore.{net}" for net in ("actor", "optimism", "regulariser")}


def test_one_command_writes_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        replay = empty()
        play(replay, 30)
        save(History(tmp_path / folder), 1, replay)
    assert files(tmp_path / "a") == files(tmp_path / "b")
