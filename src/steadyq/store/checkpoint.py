"""What a run leaves on disk to resume from or to look at: atomic, sealed with a digest, bit-exact.

    SEED_DIR/checkpoints/<frame, 12 digits>.safetensors               one checkpoint: every tensor, and JSON
    SEED_DIR/checkpoints/NAME/<first>-<last>-<digest>.safetensors     transitions [first, last) of the replay NAME

A replay's files are shared by the checkpoints: a save writes only the transitions added since the last one, and the
checkpoint lists the files it needs with their digests. A checkpoint is there as soon as its name is, because files are
written whole or not at all (see `steadyq.store.disk`), the replays' files first.

Every file is a sealed one (see `steadyq.store.sealed`). The JSON of a checkpoint is a `Description`; the current
observation of the replay NAME is among its tensors as `NAME.head`, unless that was between episodes.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from steadyq.store import disk, sealed
from steadyq.store.disk import TEMPORARY, FileError
from steadyq.store.replay import Replay, check_segment
from steadyq.store.sealed import Arrays
from steadyq.store.typed import from_json

NAME = "[a-z][a-z0-9_]{0,63}"
"""A replay's name, which names a folder: whoever wrote the file cannot lead us elsewhere by it."""

SEGMENT_BYTES = 16 * 2**20  # of one file of a replay at most: 64 MiB take 1.5 times as long to read, by page faults


class SegmentFile(NamedTuple):
    """A file that holds the transitions [first, last)."""

    first: int
    last: int
    sha256: str


@dataclass(frozen=True)
class ReplayFiles:
    """Where the transitions of one replay lie."""

    obs_dim: int
    action_dim: int
    added: int  # transitions so far
    segments: list[SegmentFile]  # oldest first, without gaps


@dataclass(frozen=True)
class Description:
    """The JSON of a checkpoint."""

    frame: int
    meta: dict[str, Any]  # what the caller gave
    replays: dict[str, ReplayFiles]


class Checkpoint(NamedTuple):
    """What `save` was given, and where the transitions lie."""

    frame: int
    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]
    replays: dict[str, ReplayFiles]
    heads: dict[str, np.ndarray]  # current observations of the replays that are not between episodes
    sha256: str  # over all of it, and so over the transitions


class History(NamedTuple):
    """What a seed's replays have on disk: the checkpoints that lead to them, and the newest one's files.

    Whoever trains a seed holds one, which goes with its replays: it begins as `History(seed_dir)` or comes from `fill`,
    and each save gives the next.
    """

    seed_dir: Path
    frames: tuple[int, ...] = ()  # ascending
    segments: Mapping[str, Sequence[SegmentFile]] = {}  # by the replay's name


def save(
    history: History,
    *,
    frame: int,
    tensors: Mapping[str, np.ndarray | torch.Tensor],
    meta: Mapping[str, Any],
    replays: Mapping[str, Replay],
) -> History:
    """Write a checkpoint of one seed. `prune` removes what is no longer needed, once all seeds have theirs.

    Args:
        history: what these replays have on disk already.
        frame: environment frames so far; a checkpoint of the same frame is replaced.
        tensors: everything else with numbers in it, by name; no name may be that of a replay's head.
        meta: JSON values (numbers must be finite).
        replays: this seed's replays, by name.

    Returns:
        what they have on disk now.

    Raises:
        OSError: the disk is full, or anything else. The earlier checkpoints are as they were; try again later.
        ValueError, TypeError: a mistake in the program: names, `tensors` or `meta` that cannot be written, or an
            earlier frame than the last save.
    """
    if bad := [name for name in replays if not re.fullmatch(NAME, name)]:
        raise ValueError(f"{bad[0]!r} cannot be the name of a replay")
    if taken := sorted(tensors.keys() & {_head(name) for name in replays}):
        raise ValueError(f"the name {taken[0]!r} is taken by a replay")
    if frame < max(history.frames, default=frame):
        raise ValueError(f"frame {frame} is before {history.frames[-1]}, where these replays were saved last")
    heads = {_head(name): replay.head for name, replay in replays.items() if replay.head is not None}
    folder = history.seed_dir / "checkpoints"
    try:
        files = {
            name: ReplayFiles(
                replay.obs_dim,
                replay.action_dim,
                replay.added,
                _write_new(folder / name, history.segments.get(name, ()), replay),
            )
            for name, replay in replays.items()
        }
        description = asdict(Description(frame, dict(meta), files))
        sealed.write(sealed.place(folder, frame), "checkpoint", {**tensors, **heads}, description)
    except BaseException:
        # On a full disk the new transitions must not stay behind as well. A kill leaves them to the next save.
        _sweep(folder)
        raise
    frames = (*(earlier for earlier in history.frames if earlier != frame), frame)
    return History(history.seed_dir, frames, {name: one.segments for name, one in files.items()})


def prune(history: History, *, keep: int, best: int | None = None) -> None:
    """Remove the checkpoints that are no longer needed, and what dead writers left.

    Those of this history stay if they are among its newest `keep`, or at frame `best`. Others go: older ones, and later
    ones, which a resume from an earlier frame left behind. What cannot be removed now waits for the next time.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}; at least one checkpoint must stay")
    folder = history.seed_dir / "checkpoints"
    with contextlib.suppress(OSError):
        there = frames(history.seed_dir)
        mine = sorted({*history.frames} & {*there})
        stay = {*mine[-keep:], best} & {*mine}
        for frame in there:
            if frame not in stay:
                disk.remove(sealed.place(folder, frame))
    _sweep(folder)


def remove(seed_dir: Path, frame: int) -> None:
    """Take a checkpoint back that was just written, because other seeds could not write theirs."""
    folder = seed_dir / "checkpoints"
    with contextlib.suppress(OSError):
        disk.remove(sealed.place(folder, frame))
    _sweep(folder)


def common_frames(seed_dirs: Sequence[Path]) -> list[int]:
    """The frames at which every seed has a checkpoint, ascending."""
    return sealed.common_frames(seed_dir / "checkpoints" for seed_dir in seed_dirs)


def frames(seed_dir: Path) -> list[int]:
    """The frames of a seed's checkpoints, ascending. Their content is not looked at."""
    return sealed.frames(seed_dir / "checkpoints")


def load(seed_dir: Path, frame: int | None = None) -> Checkpoint:
    """Read a checkpoint of one seed; the transitions stay where they are.

    Args:
        seed_dir: the seed's folder.
        frame: which one; None is the newest.

    Raises:
        FileError: there is none, or it is damaged or foreign.
        Unreadable: it cannot be read now.
    """
    if frame is None:
        frame = max(frames(seed_dir), default=None)
        if frame is None:
            raise FileError(f"there is no checkpoint in {seed_dir / 'checkpoints'}")
    path = sealed.place(seed_dir / "checkpoints", frame)
    arrays, values, sha256 = sealed.read(path, "checkpoint")
    description, heads = _description(path, values, frame=frame), Arrays()
    for name, files in description.replays.items():
        if (head := arrays.pop(_head(name), None)) is None:
            continue
        if head.dtype != np.float32 or head.shape != (files.obs_dim,):
            raise FileError(
                f"{path}: `{_head(name)}` must be float32 {(files.obs_dim,)}, got {head.dtype} {head.shape}"
            )
        heads[name] = head
    return Checkpoint(frame, sealed.tensors(arrays), description.meta, description.replays, heads, sha256)


def segments(seed_dir: Path, found: Checkpoint, name: str, sizes: tuple[int, int]) -> Iterator[Arrays]:
    """The transitions of one replay of a checkpoint, as `Replay.extend` takes them; errors as of `verify`."""
    folder = seed_dir / "checkpoints"
    for segment in _files(folder, found, name, sizes).segments:
        yield _read_segment(folder / name, segment, *sizes)


def verify(seed_dir: Path, found: Checkpoint, *, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Make sure that a checkpoint has these replays and that every file of theirs is whole; nothing of it is kept.

    Args:
        seed_dir: the seed's folder.
        found: the checkpoint, as `load` gave it.
        sizes: of observations and actions, by the replay's name.

    Raises:
        FileError: a replay more or less, or with other sizes; or a file is missing, damaged or foreign.
    """
    folder = seed_dir / "checkpoints"
    if more := sorted(found.replays.keys() - sizes.keys()):
        raise FileError(f"{sealed.place(folder, found.frame)} has a replay {more[0]!r}, which this run has not")
    for name, wanted in sizes.items():
        for _ in segments(seed_dir, found, name, wanted):
            pass


def fill(seed_dir: Path, found: Checkpoint, replays: Mapping[str, Replay]) -> History:
    """Put the transitions of a checkpoint that was verified into empty replays, by name.

    Returns:
        what these replays have on disk.

    Raises:
        FileError: a file is not, or no longer, what it was when it was verified; a replay may be half full.
    """
    for name, replay in replays.items():
        if replay.added:
            raise ValueError(f"a checkpoint fills an empty replay; {name!r} has had {replay.added} transitions")
        for segment in segments(seed_dir, found, name, (replay.obs_dim, replay.action_dim)):
            replay.extend(segment)  # read once more rather than all in memory twice
        # The head is the next observation of the newest transition already, unless an episode began after that one.
        head = found.heads.get(name)
        if head is not None and (replay.head is None or replay.head.tobytes() != head.tobytes()):
            replay.start(head)
    earlier = tuple(frame for frame in frames(seed_dir) if frame <= found.frame)
    return History(seed_dir, earlier, {name: found.replays[name].segments for name in replays})


def _segment_path(folder: Path, segment: SegmentFile) -> Path:
    """The digest in the name keeps two histories, whose transitions may differ, out of each other's files."""
    return folder / f"{segment.first:012d}-{segment.last:012d}-{segment.sha256[:12]}.safetensors"


def _head(name: str) -> str:
    return f"{name}.head"


def _files(folder: Path, found: Checkpoint, name: str, sizes: tuple[int, int]) -> ReplayFiles:
    """The files of one replay of a checkpoint, if it has it, with observations and actions of these sizes."""
    path, files = sealed.place(folder, found.frame), found.replays.get(name)
    if files is None:
        raise FileError(f"{path} has no replay {name!r}")
    if (got := (files.obs_dim, files.action_dim)) != sizes:
        raise FileError(f"{path} has observations and actions of sizes {got}, the environment has {sizes}")
    return files


def _write_new(folder: Path, before: Sequence[SegmentFile], replay: Replay) -> list[SegmentFile]:
    """Put on disk what is not yet there of a replay, in files of at most `SEGMENT_BYTES`; all that hold what is in it.

    Of the files from before these are the ones with transitions that are still in the ring, up to the first that is
    missing.
    """
    needed = [segment for segment in before if segment.last > replay.added - replay.size]
    segments = [*takewhile(lambda segment: disk.is_there(_segment_path(folder, segment)), needed)]
    step = max(1, SEGMENT_BYTES // Replay.bytes_needed(1, replay.obs_dim, replay.action_dim))
    for first in range(segments[-1].last if segments else replay.added - replay.size, replay.added, step):
        last = min(first + step, replay.added)
        arrays = replay.segment(first, last)
        segments.append(SegmentFile(first, last, sealed.digest("replay", "{}", arrays)))
        sealed.write(_segment_path(folder, segments[-1]), "replay", arrays, {})
    return segments


def _read_segment(folder: Path, segment: SegmentFile, obs_dim: int, action_dim: int) -> Arrays:
    path = _segment_path(folder, segment)
    arrays, _, sha256 = sealed.read(path, "replay")
    if sha256 != segment.sha256:
        raise FileError(f"{path} holds other transitions than its checkpoint wants (SHA-256 {sha256})")
    try:
        check_segment(arrays, obs_dim=obs_dim, action_dim=action_dim)
    except ValueError as error:
        raise FileError(f"{path}: {error}") from None
    if (arrays["first"], arrays["first"] + len(arrays["ends"])) != (segment.first, segment.last):
        raise FileError(f"{path} does not hold the transitions [{segment.first}, {segment.last})")
    return arrays


def _sweep(folder: Path) -> None:
    """Remove the leftovers of dead writers, and the replays' files that no checkpoint mentions.

    What cannot be removed now is not a reason for a save to fail, and waits for the next one. So does everything where
    a checkpoint cannot be read now: it may mention any of them.
    """
    with contextlib.suppress(OSError):
        here = [folder / name for name in disk.names(folder)]
        inside = [path / name for path in here if not path.suffix for name in disk.names(path)]
        for path in (*here, *inside):
            if path.name.startswith(TEMPORARY):
                disk.remove(path)
        wanted: set[Path] = set()
        for frame in frames(folder.parent):
            path = sealed.place(folder, frame)
            with contextlib.suppress(FileError):  # a damaged checkpoint needs nothing any more
                found = _description(path, sealed.peek(path, "checkpoint"), frame=frame)
                for name, files in found.replays.items():
                    wanted |= {_segment_path(folder / name, segment) for segment in files.segments}
        for path in inside:
            if path.suffix == ".safetensors" and path not in wanted:
                disk.remove(path)


def _description(path: Path, values: dict[str, Any], *, frame: int) -> Description:
    """A checkpoint's JSON, after making sure that all of it is what `save` writes."""

    def must(holds: bool, what: str) -> None:
        if not holds:
            raise FileError(f"{path}: {what}")

    try:
        found = from_json(Description, values, "checkpoint")
    except ValueError as error:
        raise FileError(f"{path}: {error}") from None
    must(found.frame == frame, f"the file's name does not go with the frame in it, {found.frame}")
    for name, files in found.replays.items():
        must(re.fullmatch(NAME, name) is not None, f"{name[:80]!r} cannot be the name of a replay")
        last = files.segments[0].first if files.segments else 0
        for segment in files.segments:
            must(
                0 <= segment.first < segment.last and re.fullmatch("[0-9a-f]{64}", segment.sha256) is not None,
                f"{str(segment)[:120]!r} of the replay {name} is not [first, last, sha256]",
            )
            must(segment.first == last, f"the transitions of the replay {name} before {segment.first} are missing")
            last = segment.last
        must(last == files.added, f"the files of the replay {name} end at {last}, but it had {files.added} transitions")
    return found
