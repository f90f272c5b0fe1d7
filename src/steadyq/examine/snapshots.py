"""What the snapshots of a run show of how it learned: `steadyq diagnose`. Definitions: `docs/diagnostics.md`."""

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from steadyq import output
from steadyq.algorithm.nn import SHAPES
from steadyq.algorithm.options import make_recipe
from steadyq.algorithm.ranges import COUNT, checked
from steadyq.algorithm.types import State
from steadyq.engine import machine
from steadyq.envs import guard
from steadyq.envs.source import Source
from steadyq.errors import InputError
from steadyq.examine.diagnosis import Examiner, examine, examiner
from steadyq.store import checkpoint, disk, folder, metrics_csv, names, sealed, snapshot
from steadyq.store.disk import FileError, Unreadable
from steadyq.store.folder import DIAGNOSTICS, REPLAY, seed_folder, snapshot_path
from steadyq.store.record import Record, check_seed, check_spaces, check_trust, read_record
from steadyq.store.replay import Replay

LOCK = ".diagnostics.lock"
"""Held while that file is changed. The run's own lock is that of a training in progress, which may be diagnosed."""

COLUMNS = {  # of the printed table: heading, name and format
    "Q-bias": (names.Q_BIAS, "+.1%"),
    "its std": (names.Q_BIAS_STD, ".1%"),
    "Q": ("diag/q_bias/q_mean", ",.1f"),
    "soft return": ("diag/q_bias/return_mean", ",.1f"),
    "weight norm": (names.DIAGNOSED_NORM, ",.1f"),
    "ELR": (names.CRITIC_ELR, ".1e"),
    "rotation": (names.CRITIC_ROTATION, ".1e"),
    "dormant": ("diag/critic/dormant_units", ".1%"),
    "rank": ("diag/critic/feature_rank", ".0f"),
    "probe": ("diag/plasticity/loss", ".3f"),
    "seconds": ("time/diagnosis_seconds", ".1f"),
}

Diagnoses = dict[int, dict[str, float]]
"""Measured numbers by frame and name."""


class Patient(NamedTuple):
    """One seed of a run, as it lies on the disk."""

    seed: int
    frames: list[int]  # of its snapshots, ascending
    replay: Replay  # of its newest checkpoint; empty before the first
    saved: list[int]  # frames of its checkpoints, which have the optimisers' state too


def diagnose(
    run: Path | str,
    *,
    seed: int | None = None,
    frames: Sequence[int] | None = None,
    episodes: int | None = None,
    trust: bool = False,
    env: Source | None = None,
) -> dict[int, Diagnoses]:
    """Diagnose a run's snapshots, write what is found to the run's `diagnostics.csv`, and print a table per seed.

    Rows of a seed and frame that are diagnosed again are replaced. The file is whole after each frame.

    Args:
        run: the run folder.
        seed: which of its agents; all if None.
        frames: of which snapshots; all if None.
        episodes: roll-outs for Q-bias; None for as many as REDQ's protocol takes.
        trust: run the code that the run's environment names.
        env: the environment again, if the run was given it as an object of Python.

    Returns:
        By seed and frame, what was measured.

    Raises:
        InputError: no such run, seed or snapshot, no episode to play, or a file that is damaged or of another version.
    """
    run = Path(run)
    episodes = None if episodes is None else checked("episodes", episodes, int, COUNT)
    record = read_record(run)
    check_trust(record, trust=trust)
    disk.refuse_links(run)  # a lock that is a link would open another file
    settings = record.settings
    if seed is not None:
        check_seed(record, seed)
    patients = [patient(run, record, one, frames) for one in (settings.seeds if seed is None else [seed])]
    recipe = make_recipe(settings.recipe, settings.options)
    machine.check_networks(recipe, obs_dim=record.obs_dim, action_dim=record.action_dim)
    found, console = dict[int, Diagnoses](), output.console()
    endless = not settings.single_env  # a robot is not to run on past its limit
    with closing(guard.of_run(settings, env, endless=endless)) as made:
        chosen = examiner(settings, recipe, made)
        check_spaces(record, made.spec.spaces)
        blank = chosen.agent.init(SHAPES)
        for one in patients:
            found[one.seed], earlier = {}, record.prefilled(one.seed)
            words = f"seed {one.seed}, snapshots"
            for frame in track(one.frames, words, console=console, transient=True, disable=not console.is_terminal):
                state = load(run, one, frame, blank)
                measured = examine(
                    chosen, state, seed=one.seed, frame=frame, replay=one.replay, earlier=earlier, episodes=episodes
                )
                found[one.seed][frame] = measured
                note(run, record, one.seed, frame, measured)
            show(console, run, record, one, found[one.seed], chosen)
    output.say(f"everything {run / DIAGNOSTICS}")
    return found


def patient(run: Path, record: Record, seed: int, frames: Sequence[int] | None) -> Patient:
    """What there is of a seed, of the wanted snapshots."""
    known = sealed.frames(snapshot_path(run, seed, 0).parent)
    if not known:
        raise InputError(f"{run} has no snapshot of seed {seed} yet; wait for its first evaluation")
    missing = sorted(set(frames or ()) - set(known))
    if missing:
        raise InputError(
            f"there is no snapshot of seed {seed} at frame {missing[0]}; known: {', '.join(map(str, known))}"
        )
    replay = snapshot.replays_of(record, seed)[REPLAY]
    Replay.check_memory(replay.capacity, record.obs_dim, record.action_dim)
    saved = checkpoint.frames(seed_folder(run, seed))
    try:
        if saved:
            found = checkpoint.load(seed_folder(run, seed), saved[-1])
            checkpoint.fill(seed_folder(run, seed), found, {REPLAY: replay})
    except (FileError, Unreadable):  # gone; on a network file system that may be a stale handle
        if saved[-1] in checkpoint.frames(seed_folder(run, seed)):
            raise
        return patient(run, record, seed, frames)  # a run in progress has saved a newer one, and removed this one
    return Patient(seed, sorted(set(frames)) if frames else known, replay, saved)


def load(run: Path, one: Patient, frame: int, blank: State) -> State:
    """The state at a snapshot, with the optimisers' state where a checkpoint has it.

    A checkpoint of the same frame may be another state, if the networks were reset between the two: bits are compared.
    It may also be gone by now: a run in progress keeps the newest only.
    """
    path = snapshot_path(run, one.seed, frame)
    tensors, _ = snapshot.read_snapshot(path)
    state = snapshot.fill(snapshot.without_optimisers(blank), tensors, path)
    if frame not in one.saved:
        return state
    try:
        saved = checkpoint.load(seed_folder(run, one.seed), frame)
    except FileError:
        return state
    whole = snapshot.state_of(saved, blank, path)
    return whole if snapshot.is_of(tensors, whole) else state


def note(run: Path, record: Record, seed: int, frame: int, measured: Mapping[str, float]) -> None:
    """Put one diagnosis into `diagnostics.csv`, in the place of an earlier one of this seed and frame."""
    path, settings = run / DIAGNOSTICS, record.settings
    about = (settings.resolved("name"), settings.env, seed)
    new = [metrics_csv.Row(*about, name, frame, value) for name, value in measured.items() if math.isfinite(value)]
    with FileLock(run / LOCK):
        before = metrics_csv.read(path) if disk.is_there(path) else []
        kept = [row for row in before if (row.seed, row.env_step) != (seed, frame)]
        metrics_csv.replace(path, sorted(kept + new, key=lambda row: (row.seed, row.env_step, row.metric)))


def show(console: Console, run: Path, record: Record, one: Patient, found: Diagnoses, chosen: Examiner) -> None:
    """Print one seed's diagnoses as a table, and in words what could not be measured."""
    settings, returns = record.settings, folder.returns(run, one.seed)
    title = f"{settings.name} on {settings.env}, seed {one.seed}: its critics, at each snapshot"
    table = Table(title=output.safe(title), title_justify="left", box=SIMPLE_HEAD)
    for heading in ("frame", "return", *COLUMNS):
        table.add_column(heading, justify="right", no_wrap=True)
    for frame, measured in found.items():
        cells = [f"{measured[name]:{form}}" if name in measured else "-" for name, form in COLUMNS.values()]
        table.add_row(f"{frame:,}", f"{returns[frame]:.1f}" if frame in returns else "-", *cells)
    console.print(table)
    for line in remarks(found, chosen):
        console.print(line)


def remarks(found: Diagnoses, chosen: Examiner) -> list[str]:
    """What was left out and why, and what the values stand on where that is not the usual."""
    said = []
    idle = [frame for frame, measured in found.items() if "diag/states" not in measured]
    if idle:
        said.append(
            f"frame {listed(idle)}: the last checkpoint has fewer than {chosen.batch_size} transitions from "
            "before, so there are no gradients, units and ranks"
        )
    still = [frame for frame, measured in found.items() if names.CRITIC_ROTATION not in measured]
    if set(still) - set(idle):
        said.append(
            "rotation per update needs the optimiser's state: only where a checkpoint has the frame of a snapshot, "
            "or while training with --diagnose-every"
        )
    missing = [f for f, measured in found.items() if "diag/plasticity/loss" not in measured and f not in idle]
    if missing:
        said.append(
            f"frame {listed(missing)}: no plasticity probe, whose states are the warm-up's {chosen.warm_up:,} "
            "transitions: not there yet, or out of the replay by now"
        )
    share = max(measured["diag/q_bias/bootstrapped_tail"] for measured in found.values())
    if share > 0:
        said.append(
            f"the environment ends episodes before returns are complete, time limit or not: of each return {share:.1%} "
            "(mean weight) is the critics' own value of the state it was cut off at"
        )
    return said


def listed(frames: Sequence[int]) -> str:
    """Frames in words."""
    return ", ".join(f"{frame:,}" for frame in frames)
