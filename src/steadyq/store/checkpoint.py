"""What a run leaves on disk to go on from or to look at: atomic, sealed with a digest, resumable to the bit.

    SEED_DIR/checkpoints/<frame, 12 digits>.safetensors               one checkpoint: every tensor, and JSON
    SEED_DIR/checkpoints/replay/<first>-<last>-<digest>.safetensors   transitions [first, last) of the replay

The replay's files are shared by the checkpoints: a save writes only the transitions added since the last one, and the
checkpoint lists the files it needs with their digests. A checkpoint is there as soon as its name is, because files are
written whole or not at all (see `steadyq.store.disk`), the replay's files first.

Every file is a sealed one (see `steadyq.store.sealed`). The JSON of a checkpoint is
    frame      environment frames
    meta       what the caller gave
    replay     obs_dim, action_dim, added (transitions so far) and segments: [[first, last, sha256], ...], oldest first
with the replay's current observation among the tensors as `replay.head`, unless it was between episodes.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from steadyq.store import disk, sealed
from steadyq.store.disk import TEMPORARY, FileError
from steadyq.store.replay import Replay, Saved, SegmentFile, check_segment
from steadyq.store.sealed import Arrays

HEAD = "replay.head"
COUNTS = ".opt.updates"  # how the names of whole numbers end that older versions kept in float32
SEGMENT_BYTES = 16 * 2**20  # of one file of the replay at most: 64 MiB take 1.5 times as long to read, by page faults


class Checkpoint(NamedTuple):
    """What `save` was given, apart from the replay."""

    frame: int
    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]


def save(
    seed_dir: Path,
    *,
    frame: int,
    tensors: Mapping[str, np.ndarray | torch.Tensor],
    meta: Mapping[str, Any],
    replay: Replay,
) -> Path:
    """Write a checkpoint of one seed. `prune` removes what is no longer needed, once all seeds have theirs.

    The replay remembers which of its transitions are on disk and which checkpoint it comes from.

    Args:
        seed_dir: the seed's folder.
        frame: environment frames so far; a checkpoint of the same frame is replaced.
        tensors: everything else with numbers in it, by name; no name may be `replay.head`.
        meta: JSON values (numbers must be finite).
        replay: this seed's replay.

    Returns:
        the checkpoint's file.

    Raises:
        OSError: the disk is full, or anything else. The earlier checkpoints are as they were; try again later.
        ValueError, TypeError: a mistake in the program: `tensors` or `meta` that cannot be written, or an earlier frame
            than the last save.
    """
    if HEAD in tensors:
        raise ValueError(f"the name {HEAD!r} is taken by the replay")
    folder = seed_dir / "checkpoints"
    path = _path(folder, frame)
    earlier = _earlier(folder, replay)
    if frame < earlier.frame:
        raise ValueError(f"frame {frame} is before {earlier.frame}, where this replay was saved last")
    segments = _reusable(folder, replay, earlier.segments)
    first = segments[-1].last if segments else replay.added - replay.size
    head = {} if replay.head is None else {HEAD: replay.head}
    try:
        segments += [_write_segment(folder, replay, start, stop) for start, stop in _spans(first, replay)]
        description = {
            "frame": frame,
            "meta": dict(meta),
            "replay": {
                "obs_dim": replay.obs_dim,
                "action_dim": replay.action_dim,
                "added": replay.added,
                "segments": segments,
            },
        }
        sealed.write(path, "checkpoint", {**tensors, **head}, description)
    except BaseException:
        # On a full disk the new transitions must not stay behind as well. A kill leaves them to the next save.
        _sweep(folder)
        raise
    replay.saved = Saved(folder, frame, tuple(segments), frames=(*(f for f in earlier.frames if f != frame), frame))
    return path


def prune(seed_dir: Path, *, replay: Replay, keep: int, best: int | None = None) -> None:
    """Remove the checkpoints that are no longer needed, and what dead writers left.

    Those of the history that the replay was saved with stay if they are among its newest `keep`, or at frame `best`.
    Others go: older ones, and later ones, which a resume from an earlier frame left behind. What cannot be removed now
    waits for the next time.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}; at least one checkpoint must stay")
    folder = seed_dir / "checkpoints"
    history = sorted(set(_earlier(folder, replay).frames) & set(frames(seed_dir)))
    stay = {*history[-keep:], best} & set(history)
    with contextlib.suppress(OSError):
        for frame in frames(seed_dir):
            if frame not in stay:
                disk.remove(_path(folder, frame))
    _sweep(folder)


def remove(seed_dir: Path, frame: int, *, replay: Replay) -> None:
    """Take a checkpoint back that was just written, because other seeds could not write theirs."""
    folder = seed_dir / "checkpoints"
    earlier = _earlier(folder, replay)
    with contextlib.suppress(OSError):
        disk.remove(_path(folder, frame))
    left = tuple(f for f in earlier.frames if f != frame)
    replay.saved = earlier._replace(frame=max(left, default=-1), frames=left)
    _sweep(folder)  # what a later save finds missing it writes again


def common_frames(seed_dirs: Sequence[Path]) -> list[int]:
    """The frames at which every seed has a checkpoint, ascending."""
    return sorted(set.intersection(*(set(frames(seed_dir)) for seed_dir in seed_dirs)))


def frames(seed_dir: Path) -> list[int]:
    """The frames of a seed's checkpoints, ascending. Their content is not looked at."""
    stems = (path.stem for path in (seed_dir / "checkpoints").glob("*.safetensors"))
    return sorted(int(stem) for stem in stems if re.fullmatch("[0-9]{12}", stem))


def load(seed_dir: Path, frame: int | None = None, *, replay: Replay | None) -> Checkpoint:
    """Read a checkpoint of one seed and fill its replay.

    Args:
        seed_dir: the seed's folder.
        frame: which one; None is the newest.
        replay: an empty replay, or None to leave the transitions where they are.

    Raises:
        FileError: there is none, or one of its files is damaged, foreign or does not fit the replay. Every file
            is read and its digest compared before the replay is touched.
    """
    if frame is None:
        frame = max(frames(seed_dir), default=None)
        if frame is None:
            raise FileError(f"there is no checkpoint in {seed_dir / 'checkpoints'}")
    if replay is None:
        return _read(seed_dir, frame)[0]
    found = verify(seed_dir, frame, obs_dim=replay.obs_dim, action_dim=replay.action_dim)
    fill(seed_dir, frame, replay)
    return found


def verify(seed_dir: Path, frame: int, *, obs_dim: int, action_dim: int) -> Checkpoint:
    """Read a checkpoint and every file of the replay that it needs; nothing is kept of the transitions.

    Raises:
        FileError: one of the files is missing, damaged, foreign or has observations and actions of other sizes.
    """
    found, segments, _ = _read(seed_dir, frame, sizes=(obs_dim, action_dim))
    for segment in segments:
        _read_segment(seed_dir / "checkpoints", segment, obs_dim, action_dim)
    return found


def fill(seed_dir: Path, frame: int, replay: Replay) -> None:
    """Put the transitions of a checkpoint that was verified into an empty replay."""
    if replay.added:
        raise ValueError(f"a checkpoint fills an empty replay; this one has had {replay.added} transitions")
    folder = seed_dir / "checkpoints"
    _, segments, head = _read(seed_dir, frame, sizes=(replay.obs_dim, replay.action_dim))
    for segment in segments:  # read once more rather than all of it in memory twice
        replay.extend(_read_segment(folder, segment, replay.obs_dim, replay.action_dim))
    # The head is the next observation of the newest transition already, unless an episode began after that one.
    if head is not None and (replay.head is None or replay.head.tobytes() != head.tobytes()):
        replay.start(head)
    replay.saved = Saved(folder, frame, tuple(segments), tuple(f for f in frames(seed_dir) if f <= frame))


def _path(folder: Path, frame: int) -> Path:
    return folder / f"{frame:012d}.safetensors"


def _segment_path(folder: Path, segment: SegmentFile) -> Path:
    """The digest in the name keeps two histories, whose transitions may differ, out of each other's files."""
    return folder / "replay" / f"{segment.first:012d}-{segment.last:012d}-{segment.sha256[:12]}.safetensors"


def _reusable(folder: Path, replay: Replay, segments: tuple[SegmentFile, ...]) -> list[SegmentFile]:
    """The files on disk that hold transitions still in the ring, up to the first that is missing."""
    needed = [segment for segment in segments if segment.last > replay.added - replay.size]
    return [*takewhile(lambda segment: _segment_path(folder, segment).is_file(), needed)]


def _spans(first: int, replay: Replay) -> list[tuple[int, int]]:
    """The transitions from number `first` on, cut into pieces of at most `SEGMENT_BYTES`."""
    each = Replay.bytes_needed(1, replay.obs_dim, replay.action_dim)
    step = max(1, SEGMENT_BYTES // each)
    return [(start, min(start + step, replay.added)) for start in range(first, replay.added, step)]


def _earlier(folder: Path, replay: Replay) -> Saved:
    """What this replay has on disk in this folder."""
    return replay.saved if replay.saved and replay.saved.folder == folder else Saved(folder, -1, (), ())


def _write_segment(folder: Path, replay: Replay, first: int, last: int) -> SegmentFile:
    arrays = replay.segment(first, last)
    segment = SegmentFile(first, last, sealed.digest("replay", "{}", arrays))
    sealed.write(_segment_path(folder, segment), "replay", arrays, {})
    return segment


def _read(
    seed_dir: Path, frame: int, *, sizes: tuple[int, int] | None = None
) -> tuple[Checkpoint, list[SegmentFile], np.ndarray | None]:
    """A checkpoint, the files of the replay that it needs, and the replay's head, if there is one."""
    path = _path(seed_dir / "checkpoints", frame)
    arrays, description, _ = sealed.read(path, "checkpoint")
    segments = _check_description(path, description, frame=frame)
    head = arrays.pop(HEAD, None)
    if sizes is not None:
        _check_replay(path, description["replay"], head, sizes)
    tensors = {name: leaf.long() if name.endswith(COUNTS) else leaf for name, leaf in sealed.tensors(arrays).items()}
    return Checkpoint(frame, tensors, description["meta"]), segments, head


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
    """Remove the leftovers of dead writers, and the replay's files that no checkpoint mentions.

    What cannot be removed now is no reason for a save to fail, and waits for the next one.
    """
    with contextlib.suppress(OSError):
        for left in (*folder.glob(TEMPORARY + "*"), *(folder / "replay").glob(TEMPORARY + "*")):
            disk.remove(left)
        wanted: set[Path] = set()
        for frame in frames(folder.parent):
            path = _path(folder, frame)
            with contextlib.suppress(FileError):  # a damaged checkpoint needs nothing any more
                wanted |= {
                    _segment_path(folder, segment)
                    for segment in _check_description(path, sealed.peek(path, "checkpoint"), frame=frame)
                }
        for path in (folder / "replay").glob("*.safetensors"):
            if path not in wanted:
                disk.remove(path)


def _check_description(path: Path, description: dict[str, Any], *, frame: int) -> list[SegmentFile]:
    """The segments of a checkpoint's JSON, after making sure that all of it is what `save` writes."""

    def must(holds: bool, what: str) -> None:
        if not holds:
            raise FileError(f"{path}: {what}")

    must(
        description.get("frame") == frame,
        f"the file's name does not go with the frame in it, {description.get('frame')!r}",
    )
    must(isinstance(description.get("meta"), dict), "`meta` is no JSON object")
    about = description.get("replay")
    must(isinstance(about, dict), "`replay` is no JSON object")
    assert isinstance(about, dict)
    for name in ("obs_dim", "action_dim", "added"):
        must(
            type(about.get(name)) is int and about[name] >= 0,
            f"`replay.{name}` is no number of things: {about.get(name)!r}",
        )
    rows = about.get("segments")
    must(isinstance(rows, list), "`replay.segments` is no list")
    segments: list[SegmentFile] = []
    for row in rows or ():
        must(
            isinstance(row, list)
            and [type(value) for value in row] == [int, int, str]
            and 0 <= row[0] < row[1]
            and re.fullmatch("[0-9a-f]{64}", row[2]) is not None,
            f"{str(row)[:120]} in `replay.segments` is not [first, last, sha256]",
        )
        must(not segments or segments[-1].last == row[0], f"the transitions before {row[0]} are missing")
        segments.append(SegmentFile(*row))
    last = segments[-1].last if segments else 0
    must(last == about["added"], f"its segments end at transition {last}, but there were {about['added']}")
    return segments


def _check_replay(path: Path, about: dict[str, Any], head: np.ndarray | None, sizes: tuple[int, int]) -> None:
    """Make sure that the checkpoint's transitions have the sizes of the environment's observations and actions."""
    got = (about["obs_dim"], about["action_dim"])
    if got != sizes:
        raise FileError(f"{path} has observations and actions of sizes {got}, the environment has {sizes}")
    if head is not None and (head.dtype != np.float32 or head.shape != sizes[:1]):
        raise FileError(f"{path}: `{HEAD}` must be float32 {sizes[:1]}, got {head.dtype} {head.shape}")
