"""A run into its checkpoints, and back out of them."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from steadyq.algorithm.learner import Tally
from steadyq.algorithm.tree import from_named, named_leaves, tree_map
from steadyq.errors import RunError
from steadyq.run import checkpoint
from steadyq.run.current import Run, Seed
from steadyq.run.evaluate import Episode
from steadyq.run.folder import record_json, seed_folder
from steadyq.run.logs import Mark

STREAM = "stream."


def save(run: Run) -> None:
    """A checkpoint of every seed at this step. What the disk refuses is said once; the earlier checkpoints then stay.

    Raises:
        RunError: a number of the state is not finite, a mistake in the program; nothing was saved.
    """
    run.save_started, run.save_now = time.monotonic(), False
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


def tensors(run: Run, i: int, one: Seed) -> dict[str, Any]:
    """Everything of a seed that has numbers in it, by name, apart from its replay."""
    named = {name: leaf.detach().cpu() for name, leaf in named_leaves(run.learner.seed(i))}
    for name, leaf in named.items():
        if not torch.isfinite(leaf).all():
            raise RunError(f"seed {one.seed}: {name} is not finite at frame {run.frame}; it was not saved")
    return {**named, **{STREAM + name: value for name, value in one.stream.snapshot().items()}}


def meta(run: Run, i: int, one: Seed, mark: Mark) -> dict[str, Any]:
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
        "elapsed": run.elapsed + time.monotonic() - run.started,
    }


def mark_of(saved: checkpoint.Checkpoint) -> Mark:
    """How far the record of measurements was; versions that kept no digest of it are taken at their word."""
    return Mark(saved.meta["metrics_offset"], saved.meta.get("metrics_sha256", ""))


def earliest(saved: Sequence[checkpoint.Checkpoint]) -> checkpoint.Checkpoint:
    """The checkpoint of one frame that was written first: a later one may know of an evaluation that is to come."""
    return min(saved, key=lambda one: mark_of(one).size)


def restore(run: Run, saved: Sequence[checkpoint.Checkpoint]) -> list[int]:
    """Put a checkpoint of every seed back; the seeds whose environment could not be restored to the bit are returned.

    The replays were filled before.
    """
    inexact = []
    for i, (one, loaded) in enumerate(zip(run.seeds, saved, strict=True)):
        lane = run.learner.seed(i)
        agent = {name: leaf for name, leaf in loaded.tensors.items() if not name.startswith(STREAM)}
        tree_map(lambda old, new: old.copy_(new), lane, from_named(tree_map(Tensor.cpu, lane), agent))
        stream = {n.removeprefix(STREAM): leaf.numpy() for n, leaf in loaded.tensors.items() if n.startswith(STREAM)}
        if not one.stream.restore(stream):
            one.replay.start(one.stream.obs)
            inexact.append(one.seed)
        run.learner.tallies[i] = tally_of(loaded.meta)
        one.finished = [Episode(*episode) for episode in loaded.meta["finished"]]
        one.bad_steps, one.restarts = loaded.meta.get("bad_steps", 0), loaded.meta.get("restarts", 0)
        best = loaded.meta.get("best")
        one.best = None if best is None else (best[0], best[1])
        one.given_up_at = loaded.meta.get("given_up_at")
    common = earliest(saved).meta
    run.step = run.window_step = common["step"]
    run.evaluated, run.elapsed = common["evaluated"], common["elapsed"]
    run.diagnosed = common.get("diagnosed", -1)  # older runs had neither this nor resets
    run.resets, run.resets_evaluated = common.get("resets", 0), common.get("resets_evaluated", 0)
    run.saved = run.frame
    return inexact


def tally_of(meta: dict[str, Any]) -> Tally:
    """What was counted; older versions counted no failures."""
    if "tally" in meta:
        return Tally(**meta["tally"])
    return Tally(critic_updates=meta["critic_updates"], actor_updates=meta["actor_updates"])
