"""A run into its checkpoints, and back out of them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from steadyq.algorithm.tree import from_named, named_leaves, tree_map
from steadyq.engine.learner import Tally
from steadyq.errors import RunError
from steadyq.examine.play import Episode
from steadyq.run.training import Seed, Training
from steadyq.store import checkpoint
from steadyq.store.disk import FileError
from steadyq.store.folder import seed_folder
from steadyq.store.metrics_csv import Mark
from steadyq.store.record import Record, record_json

STREAM = "stream."

NUMBER, COUNT = (int, float), (int,)
KINDS: dict[str, tuple[type, ...]] = {
    "step": COUNT,
    "evaluated": COUNT,
    "diagnosed": COUNT,
    "resets": COUNT,
    "resets_evaluated": COUNT,
    "tally": (dict,),
    "finished": (list,),
    "bad_steps": COUNT,
    "restarts": COUNT,
    "best": (list, type(None)),
    "given_up_at": (int, type(None)),
    "metrics_offset": COUNT,
    "metrics_sha256": (str,),
    "elapsed": NUMBER,
}
"""What `meta` writes, and of which types."""

OLDER: dict[str, Any] = {
    "diagnosed": -1,
    "resets": 0,
    "resets_evaluated": 0,
    "tally": {},
    "bad_steps": 0,
    "restarts": 0,
    "best": None,
    "given_up_at": None,
    "metrics_sha256": "",
}
"""What checkpoints of older versions lack, as it was then; they counted updates, but none that failed."""


def save(run: Training) -> None:
    """A checkpoint of every seed at this step. What the disk refuses is said once; the earlier checkpoints then stay.

    Raises:
        RunError: a number of the state is not finite, a mistake in the program; nothing was saved.
    """
    run.save_started, run.save_now = run.clock(), False
    written = []
    try:
        mark = run.logger.offset()
        for i, one in enumerate(run.seeds):
            checkpoint.save(
                seed_folder(run.folder, one.seed),
                frame=run.frame,
                tensors=tensors(run, i, one),
                meta=meta(run, i, one, mark),
                replay=one.replay,
            )
            written.append(one)
    except OSError as error:
        whole = f"the checkpoint of frame {run.saved:,} is whole" if run.saved >= 0 else "there is no checkpoint yet"
        run.save_trouble = f"could not save at frame {run.frame:,}: {error.strerror or error}; {whole}"
        run.view.message(run.save_trouble)
        if run.frame != run.saved:  # else both versions of this frame are whole
            for one in written:
                checkpoint.remove(seed_folder(run.folder, one.seed), run.frame, replay=one.replay)
        return
    run.saved, run.save_trouble = run.frame, ""
    for one in run.seeds:  # not before all are written, or seeds could be left without a common frame
        best = one.best[1] if one.best else None
        checkpoint.prune(seed_folder(run.folder, one.seed), replay=one.replay, keep=run.settings.keep, best=best)


def tensors(run: Training, i: int, one: Seed) -> dict[str, Any]:
    """Everything of a seed that has numbers in it, by name, apart from its replay."""
    named = {name: leaf.detach().cpu() for name, leaf in named_leaves(run.learner.seed(i))}
    for name, leaf in named.items():
        if not torch.isfinite(leaf).all():
            raise RunError(f"seed {one.seed}: {name} is not finite at frame {run.frame}; it was not saved")
    return {**named, **{STREAM + name: value for name, value in one.stream.snapshot().items()}}


def meta(run: Training, i: int, one: Seed, mark: Mark) -> dict[str, Any]:
    """The rest of it, as JSON."""
    return {
        "record": record_json(run.record),  # should run.json be lost
        "step": run.step,
        "evaluated": run.evaluated,
        "diagnosed": run.diagnosed,
        "resets": run.resets,
        "resets_evaluated": run.resets_evaluated,
        "tally": asdict(run.learner.tallies[i]),
        "finished": [list(episode) for episode in one.finished],
        "bad_steps": one.bad_steps,
        "restarts": one.restarts,
        "best": one.best,
        "given_up_at": one.given_up_at,
        "metrics_offset": mark.size,
        "metrics_sha256": mark.sha256,
        "elapsed": run.elapsed + run.clock() - run.started,
    }


def check(saved: checkpoint.Checkpoint, record: Record) -> None:
    """Make sure that a checkpoint, which may come from anyone, is what `save` writes for such a run, but for tensors.

    Raises:
        FileError: it is not.
    """

    def must(holds: bool, what: str) -> None:
        if not holds:
            raise FileError(f"the checkpoint of frame {saved.frame:,} is not one of this run: {what}")

    meta = {**OLDER, **saved.meta}
    for key, kinds in KINDS.items():
        must(key in meta and type(meta[key]) in kinds, f"`{key}` is {str(meta.get(key, 'missing'))[:80]}")
    must(saved.frame == meta["step"] * record.settings.resolved("action_repeat"), "`step` does not go with the frame")
    must(meta["step"] <= record.settings.agent_steps, "`step` lies behind the run's end")
    must(meta["metrics_offset"] >= 0, "`metrics_offset` is negative")
    tally = {**asdict(Tally()), **meta["tally"]}
    must(
        tally.keys() == asdict(Tally()).keys()
        and all(type(value) is type(asdict(Tally())[key]) for key, value in tally.items()),
        f"`tally` is {str(meta['tally'])[:80]}",
    )
    for what, row in [*(("finished", row) for row in meta["finished"]), ("best", meta["best"] or [0.0, 0])]:
        must(
            isinstance(row, list)
            and len(row) in (2, 3)
            and type(row[0]) in (int, float)
            and type(row[1]) is int
            and type(row[-1]) in (int, bool),
            f"`{what}` holds {str(row)[:80]}",
        )
    wanted: dict[str, tuple[torch.dtype, tuple[int | None, ...]]] = {
        "episode": (torch.int64, ()),
        "actions": (torch.float32, (None, record.action_dim)),
        "obs": (torch.float32, (record.obs_dim,)),
        "episode_return": (torch.float64, ()),
    }
    for name, (dtype, shape) in wanted.items():
        got = saved.tensors.get(STREAM + name)
        must(got is not None, f"there is no {STREAM}{name}")
        assert got is not None
        must(
            got.dtype == dtype
            and got.ndim == len(shape)
            and all(want in (None, size) for want, size in zip(shape, got.shape, strict=True)),
            f"{STREAM}{name} is {got.dtype} {tuple(got.shape)}",
        )
        must(bool(torch.isfinite(got).all()), f"{STREAM}{name} is not finite")
    must(int(saved.tensors[STREAM + "episode"]) >= 0, f"{STREAM}episode is negative")


def mark_of(saved: checkpoint.Checkpoint) -> Mark:
    """How far the record of measurements was; versions that kept no digest of it are taken at their word."""
    return Mark(saved.meta["metrics_offset"], saved.meta.get("metrics_sha256", ""))


def earliest(saved: Sequence[checkpoint.Checkpoint]) -> checkpoint.Checkpoint:
    """The checkpoint of one frame that was written first: a later one may know of an evaluation that is to come."""
    return min(saved, key=lambda one: mark_of(one).size)


def to_come(saved: Sequence[checkpoint.Checkpoint]) -> tuple[str, ...]:
    """Of what is measured at a checkpoint's own frame, the prefixes of that which the run has still to measure."""
    meta, frame = {**OLDER, **earliest(saved).meta}, saved[0].frame
    evaluated, diagnosed = meta["evaluated"] == frame, meta["diagnosed"] == frame
    after_reset = evaluated and meta["resets_evaluated"] == meta["resets"]
    return (
        *(() if evaluated else ("eval/", "time/evaluation_seconds")),
        *(() if diagnosed else ("diag/", "time/diagnosis_seconds")),
        *(() if after_reset else ("eval_after_reset/",)),
    )


def restore(run: Training, saved: Sequence[checkpoint.Checkpoint]) -> list[int]:
    """Put a checkpoint of every seed back; the seeds whose environment could not be restored to the bit are returned.

    The replays were filled before, and `check` has passed.

    Raises:
        FileError: the tensors are not those of this run's agents.
    """
    inexact = []
    for i, (one, loaded) in enumerate(zip(run.seeds, saved, strict=True)):
        lane, meta = run.learner.seed(i), {**OLDER, **loaded.meta}
        agent = {name: leaf for name, leaf in loaded.tensors.items() if not name.startswith(STREAM)}
        if odd := [name for name, leaf in agent.items() if not torch.isfinite(leaf).all()]:
            raise FileError(f"the checkpoint of frame {loaded.frame:,} holds numbers that are not finite: {odd[0]}")
        try:
            tree = from_named(tree_map(Tensor.cpu, lane), agent)
        except ValueError as error:
            raise FileError(f"the checkpoint of frame {loaded.frame:,} is not one of this run: {error}") from None
        tree_map(lambda old, new: old.copy_(new), lane, tree)
        stream = {n.removeprefix(STREAM): leaf.numpy() for n, leaf in loaded.tensors.items() if n.startswith(STREAM)}
        if not one.stream.restore(stream):
            if not one.stream.ended:
                one.replay.start(one.stream.obs)
            inexact.append(one.seed)
        older = {key: meta[key] for key in ("critic_updates", "actor_updates") if key in meta}
        run.learner.tallies[i] = Tally(**(older | meta["tally"]))
        one.finished = [Episode(*episode) for episode in meta["finished"]]
        one.bad_steps, one.restarts = meta["bad_steps"], meta["restarts"]
        one.best = None if meta["best"] is None else (meta["best"][0], meta["best"][1])
        one.given_up_at = meta["given_up_at"]
    common = {**OLDER, **earliest(saved).meta}
    run.step = run.window_step = common["step"]
    run.evaluated, run.diagnosed = common["evaluated"], common["diagnosed"]
    run.resets, run.resets_evaluated = common["resets"], common["resets_evaluated"]
    run.elapsed, run.saved = common["elapsed"], run.frame
    return inexact
