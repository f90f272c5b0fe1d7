"""A run into its checkpoints, and back out of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from steadyq.algorithm.ranges import MOST
from steadyq.algorithm.tree import from_named, named_leaves, tree_map
from steadyq.engine.learner import FAILURE
from steadyq.errors import RunError
from steadyq.run.training import Counters, Seed, SeedCounters, Training, Unwritten
from steadyq.store import checkpoint, snapshot
from steadyq.store.disk import FileError
from steadyq.store.folder import snapshot_path
from steadyq.store.metrics_csv import Mark
from steadyq.store.names import AFTER_RESET, AT_THE_END, DIAGNOSES, DIAGNOSIS_SECONDS, EVALUATION_SECONDS, REGULAR
from steadyq.store.record import Record, record_json
from steadyq.store.typed import from_json

STREAM = "stream."


@dataclass(frozen=True)
class Kept:
    """What a checkpoint keeps besides tensors and transitions: the `meta` of its JSON."""

    record: dict[str, Any]  # should run.json be lost
    metrics: Mark
    elapsed: float  # seconds of training
    run: Counters
    seed: SeedCounters


def kept(saved: checkpoint.Checkpoint) -> Kept:
    """What a checkpoint kept; FileError if that is not what `save` writes."""
    try:
        return from_json(Kept, saved.meta, "meta")
    except ValueError as error:
        raise foreign(saved, str(error)) from None


def foreign(saved: checkpoint.Checkpoint, why: str) -> FileError:
    """The error of a checkpoint that this run cannot have written."""
    return FileError(f"the checkpoint of frame {saved.frame:,} is not one of this run: {why}")


def save(run: Training) -> None:
    """A checkpoint of every seed at this step. What the disk refuses is reported once; earlier checkpoints then stay.

    Raises:
        RunError: a number of the state is not finite, a mistake in the program; nothing was saved.
    """
    run.save_started, run.save_now = run.clock(), False
    if not run.find_folder():
        return
    waiting = [*run.unwritten]
    run.unwritten.clear()
    for late in waiting:
        write_snapshot(run, late.seed, late.frame, late.tensors, quiet=True)
    written: list[checkpoint.History] = []
    try:
        mark, elapsed = run.logger.offset(), run.elapsed + run.clock() - run.started
        for i, one in enumerate(run.seeds):
            meta = Kept(record_json(run.record), mark, elapsed, run.counters, one.counters)
            written.append(
                checkpoint.save(
                    one.history, frame=run.frame, tensors=tensors(run, i, one), meta=asdict(meta), replays=one.replays
                )
            )
    except OSError as error:
        whole = f"the checkpoint of frame {run.saved:,} is whole" if run.saved >= 0 else "there is no checkpoint yet"
        run.save_trouble = f"could not save at frame {run.frame:,}: {error.strerror or error}; {whole}"
        run.view.message(run.save_trouble)
        if run.frame != run.saved:  # else both versions of this frame are whole
            for history in written:
                checkpoint.remove(history.seed_dir, run.frame)
        return
    run.saved, run.save_trouble = run.frame, ""
    for one, history in zip(run.seeds, written, strict=True):  # not before all are written: they share a frame
        one.history, best = history, one.counters.best
        checkpoint.prune(history, keep=run.settings.keep, best=best.frame if best else None)


def write_snapshot(run: Training, seed: int, frame: int, tensors: Mapping[str, Tensor], *, quiet: bool = False) -> None:
    """A snapshot of one seed; what the disk refuses is tried again at each save, and said unless `quiet`."""
    meta = {"frame": frame, "seed": seed, "recipe": run.settings.recipe, "env": run.settings.env}
    try:
        snapshot.write_snapshot(snapshot_path(run.folder, seed, frame), tensors, meta)
    except OSError as error:
        why = error.strerror or str(error)
        if not quiet:
            run.view.message(f"no snapshot at frame {frame:,}: {why}; it is tried again at each save")
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}  # training goes on in the same memory
        run.unwritten.append(Unwritten(seed, frame, tensors, why))


def tensors(run: Training, i: int, one: Seed) -> dict[str, Any]:
    """Everything of a seed that has numbers in it, by name, apart from its replay."""
    named = {name: leaf.detach().cpu() for name, leaf in named_leaves(run.learner.seed(i))}
    for name, leaf in named.items():
        if not torch.isfinite(leaf).all():
            raise RunError(f"seed {one.seed}: {name} is not finite at frame {run.frame}; it was not saved")
    return {**named, **{STREAM + name: value for name, value in one.stream.snapshot().items()}}


def check(saved: checkpoint.Checkpoint, record: Record) -> None:
    """Make sure that a checkpoint, which may come from anyone, is what `save` writes for such a run, but for tensors.

    Raises:
        FileError: it is not.
    """

    def must(holds: bool, what: str) -> None:
        if not holds:
            raise foreign(saved, what)

    found = kept(saved)
    must(saved.frame == found.run.step * record.settings.resolved("action_repeat"), "`step` does not go with the frame")
    must(found.run.step <= record.settings.agent_steps, "`step` lies behind the run's end")
    must(found.metrics.size >= 0, "the size of `metrics` is negative")
    wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "episode": (torch.int64, ()),
        "actions": (torch.float32, (record.action_dim,)),  # each
        "obs": (torch.float32, (record.obs_dim,)),
        "episode_return": (torch.float64, ()),
    }
    for name, (dtype, shape) in wanted.items():
        got = saved.tensors.get(STREAM + name, torch.empty(0))  # of no right shape
        rows = got.shape[:1] if name == "actions" else ()
        fits = got.dtype == dtype and got.shape == (*rows, *shape)
        must(fits, f"{STREAM}{name} is missing, or {got.dtype} {tuple(got.shape)}")
        must(bool(torch.isfinite(got).all()), f"{STREAM}{name} is not finite")
    episode = int(saved.tensors[STREAM + "episode"])
    must(-1 <= episode <= MOST, f"{STREAM}episode is too small or too large")  # -1: of a single environment, not begun


def earliest(saved: Sequence[checkpoint.Checkpoint]) -> Kept:
    """Of the checkpoints of one frame the one written first: a later one may know of an evaluation that is to come."""
    return min((kept(one) for one in saved), key=lambda one: one.metrics.size)


def to_come(saved: Sequence[checkpoint.Checkpoint]) -> tuple[str, ...]:
    """Of what is measured at a checkpoint's own frame, the prefixes of that which the run has still to measure."""
    run, frame = earliest(saved).run, saved[0].frame
    evaluated, diagnosed = run.evaluated == frame, run.diagnosed == frame
    after_reset = evaluated and run.resets_evaluated == run.resets
    return (
        *(() if evaluated else (REGULAR, EVALUATION_SECONDS)),
        *(() if diagnosed else (DIAGNOSES, DIAGNOSIS_SECONDS)),
        *(() if after_reset else (AFTER_RESET,)),
        AT_THE_END,  # which no checkpoint takes note of
    )


def restore(run: Training, saved: Sequence[checkpoint.Checkpoint]) -> list[int]:
    """Put a checkpoint of every seed back; the seeds whose environment could not be restored bit-exactly are returned.

    The replays were filled before, and `check` has passed.

    Raises:
        FileError: the tensors are not those of this run's agents.
    """
    inexact = []
    for i, (one, loaded) in enumerate(zip(run.seeds, saved, strict=True)):
        lane = run.learner.seed(i)
        agent = {name: leaf for name, leaf in loaded.tensors.items() if not name.startswith(STREAM)}
        if odd := [name for name, leaf in agent.items() if not torch.isfinite(leaf).all()]:
            raise FileError(f"the checkpoint of frame {loaded.frame:,} holds numbers that are not finite: {odd[0]}")
        try:
            tree = from_named(tree_map(Tensor.cpu, lane), agent)
        except ValueError as error:
            raise foreign(loaded, str(error)) from None
        for step, window in zip(run.agent.steps, tree.windows, strict=True):
            if window.counts.min() < 0 or window.counts[FAILURE] >= len(step.metrics):
                raise foreign(loaded, f"the window of {step.name} cannot have counted {window.counts.tolist()}")
        tree_map(lambda old, new: old.copy_(new), lane, tree)
        stream = {n.removeprefix(STREAM): leaf.numpy() for n, leaf in loaded.tensors.items() if n.startswith(STREAM)}
        if run.settings.single_env:
            one.stream.resume_after(stream)
            if one.replay.head is not None:
                inexact.append(one.seed)
        elif not one.stream.restore(stream):
            if not one.stream.ended:
                one.replay.start(one.stream.obs)
            inexact.append(one.seed)
        of_seed = kept(loaded)
        one.counters = of_seed.seed
    common = earliest(saved)
    run.counters, run.elapsed = common.run, common.elapsed
    run.window_step, run.saved = run.step, run.frame
    return inexact
