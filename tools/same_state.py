"""Whether two runs of one command are the same run: every record, every checkpoint and snapshot that both have.

    python -m tools.same_state RUN OTHER

Compared are the bytes of `metrics.csv` without the rows under `time/`; of each checkpoint every tensor, the replay's
transitions however its files were cut, and the counters; of each snapshot every tensor. Prints a SHA-256 per seed over
the newest state, then what differs; exit code 1 if anything does.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from steadyq.store import checkpoint, metrics_csv, snapshot
from steadyq.store.folder import REPLAY, seed_folder
from steadyq.store.record import read_record
from steadyq.store.replay import Replay

CLOCKS = ("elapsed", "metrics", "record")
"""What a checkpoint's meta has of clocks: times, the file that rows of `time/` are in, and when the run was resumed."""

CHUNK = 2**16  # transitions hashed at a time: aligned to their numbers, so that it does not show how files were cut
SHOWN = 5  # differences of one kind

Parts = dict[str, str]
"""Name and SHA-256 (or value) of everything in a state."""


def load(run: Path, seed: int, frame: int) -> tuple[checkpoint.Checkpoint, Replay]:
    """One seed's checkpoint and its transitions."""
    record = read_record(run)
    capacity = min(record.settings.resolved("buffer_size"), record.settings.agent_steps)
    replay = Replay(capacity=capacity, obs_dim=record.obs_dim, action_dim=record.action_dim)
    found = checkpoint.load(seed_folder(run, seed), frame)
    checkpoint.fill(seed_folder(run, seed), found, {REPLAY: replay})
    return found, replay


def read_state(run: Path, seed: int, frame: int) -> Parts:
    """Everything in one seed's checkpoint but clocks."""
    saved, replay = load(run, seed, frame)
    tensors = {name: tensor.numpy() for name, tensor in saved.tensors.items()}
    if replay.head is not None:
        tensors[f"{REPLAY}.head"] = replay.head
    counters = {f"meta.{name}": json.dumps(value) for name, value in saved.meta.items() if name not in CLOCKS}
    return arrays(tensors) | transitions(replay) | counters


def read_snapshots(run: Path, seed: int) -> dict[str, Parts]:
    """Every snapshot of one seed, by the name of its file."""
    found = sorted((seed_folder(run, seed) / "snapshots").glob("*.safetensors"))
    return {
        path.name: arrays({name: tensor.numpy() for name, tensor in snapshot.read_snapshot(path)[0].items()})
        for path in found
    }


def transitions(replay: Replay) -> Parts:
    """The transitions in the ring, by their numbers."""
    parts: Parts = {}
    first = replay.added - replay.size
    while first < replay.added:
        last = min(first - first % CHUNK + CHUNK, replay.added)
        chunk = replay.segment(first, last)
        parts |= {f"replay[{first}:{last}].{name}": digest(array) for name, array in chunk.items()}
        first = last
    return parts


def arrays(named: dict[str, np.ndarray]) -> Parts:
    """The digest of each array."""
    return {name: digest(array) for name, array in named.items()}


def digest(array: np.ndarray) -> str:
    """SHA-256 over type, shape and bytes."""
    about = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(about + np.asarray(array, order="C").tobytes()).hexdigest()


def whole(parts: Parts) -> str:
    """One SHA-256 over all of a state."""
    return hashlib.sha256(json.dumps(sorted(parts.items())).encode()).hexdigest()


def differences(one: Path, other: Path) -> list[str]:
    """A sentence for each difference between two run folders; none if they are the same run."""
    found = records(one, other)
    for seed in read_record(one).settings.seeds:
        frames, others = (checkpoint.frames(seed_folder(run, seed)) for run in (one, other))
        if frames[-1:] != others[-1:] or not frames:
            found.append(f"seed {seed}: the newest checkpoints are at frames {frames[-1:]} and {others[-1:]}")
        for frame in sorted({*frames} & {*others}):
            pair = (read_state(run, seed, frame) for run in (one, other))
            found += uneven(f"seed {seed}, checkpoint at frame {frame}", *pair)
        snapshots, other_snapshots = (read_snapshots(run, seed) for run in (one, other))
        found += uneven(
            f"seed {seed}, snapshots", *({n: whole(p) for n, p in x.items()} for x in (snapshots, other_snapshots))
        )
    return found


def records(one: Path, other: Path) -> list[str]:
    """How two `metrics.csv` differ: rows that are there twice or only once, and bytes apart from clocks."""
    found, keys = [], []
    for run in (one, other):
        counts = Counter((row.seed, row.metric, row.env_step) for row in metrics_csv.read(run / metrics_csv.FILE))
        found += some(f"{run}: there more than once", [key for key, count in counts.items() if count > 1])
        keys.append(set(counts))
    found += some(f"rows that only {one} has", sorted(keys[0] - keys[1]))
    found += some(f"rows that only {other} has", sorted(keys[1] - keys[0]))
    lines, other_lines = (without_clocks(run / metrics_csv.FILE) for run in (one, other))
    if lines != other_lines:
        pairs = [pair for pair in zip(lines, other_lines, strict=False) if pair[0] != pair[1]]
        differing = f"{len(pairs)} lines and has {len(lines)} and {len(other_lines)}"
        found += some(f"{metrics_csv.FILE} differs in {differing}", pairs)
    return found


def without_clocks(path: Path) -> list[bytes]:
    """The lines of a `metrics.csv`, as bytes, but for those under `time/`."""
    return [line for line in path.read_bytes().splitlines(keepends=True) if b",time/" not in line]


def uneven(where: str, one: Parts, other: Parts) -> list[str]:
    """What is not equal in two states."""
    return some(f"{where}: differing", sorted(n for n in one.keys() | other.keys() if one.get(n) != other.get(n)))


def some(what: str, items: list[Any]) -> list[str]:
    """One sentence with the first few of several things; none for none."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return [f"{what}: {', '.join(map(str, items[:SHOWN]))}{more}"] if items else []


def main() -> int:
    """Compare two run folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path)
    values = parser.parse_args()
    for run in (values.run, values.other):
        for seed in read_record(run).settings.seeds:
            frame = checkpoint.frames(seed_folder(run, seed))[-1]
            print(f"{whole(read_state(run, seed, frame))}  {run}, seed {seed}, frame {frame}")
    found = differences(values.run, values.other)
    print("\n".join(found) or "the same run")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
