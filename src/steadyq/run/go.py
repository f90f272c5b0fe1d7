"""One stretch of a run: pieces put together, the loop run until it is done or asked to stop."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from steadyq.algorithm.learner import Learner
from steadyq.algorithm.options import make_recipe
from steadyq.algorithm.random import Purpose, generator
from steadyq.errors import InputError
from steadyq.run import checkpoint, disk, envs, folder, lock, logs, machine, watch
from steadyq.run.current import Run, Seed
from steadyq.run.diagnose import examiner
from steadyq.run.env import Spec
from steadyq.run.episodes import EpisodeStream
from steadyq.run.folder import Record, agent_of, seed_folder
from steadyq.run.guard import Guarded
from steadyq.run.loop import begin_episode, loop
from steadyq.run.replay import Replay
from steadyq.run.save import restore
from steadyq.run.settings import Settings
from steadyq.run.stop import Stop


class Result(NamedTuple):
    """What came of a run."""

    folder: Path
    finished: bool  # False: stopped on request, and resumable
    frame: int  # reached, per seed

    def returns(self, seed: int) -> Mapping[int, float]:
        """Mean evaluation return of a seed, by environment frame."""
        return folder.returns(self.folder, seed)


def make_env(settings: Settings) -> Guarded:
    """The run's environment, watched over."""
    return Guarded(
        partial(envs.make, settings.env, action_repeat=settings.resolved("action_repeat")),
        timeout=settings.env_timeout or None,
    )


def check_memory(settings: Settings, spec: Spec) -> None:
    """InputError if the transitions that this run will keep do not fit."""
    kept = min(settings.resolved("buffer_size"), settings.agent_steps)
    Replay.check_memory(kept, spec.obs_dim, spec.action_dim, seeds=len(settings.seeds))


def go(
    run_folder: Path,
    record: Record,
    env: Guarded,
    stop: Stop,
    *,
    saved: Sequence[checkpoint.Checkpoint] = (),
    mark: logs.Mark | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """Run the loop from a verified checkpoint of every seed, or from the beginning if there is none.

    Args:
        run_folder: the run folder, held by this process.
        record: its run.json.
        env: for evaluations.
        stop: asks to stop.
        saved: a checkpoint per seed, all of one frame.
        mark: where the record of measurements goes on.
        notes: sentences for the person watching.
    """
    settings, how = record.settings, record.stretches[-1]
    torch.set_num_threads(how["threads"])
    machine.keep_freed_memory()
    frame = saved[0].frame if saved else 0
    if not saved:
        forget(run_folder)
    streams = [EpisodeStream(make_env(settings), seed=seed) for seed in settings.seeds]
    replays = [
        Replay(
            capacity=min(settings.resolved("buffer_size"), settings.agent_steps),
            obs_dim=record.obs_dim,
            action_dim=record.action_dim,
        )
        for _ in settings.seeds
    ]
    agent = agent_of(record, precision=how["precision"])
    try:
        states = [agent.init(generator(seed, Purpose.INIT)) for seed in settings.seeds]
    except (MemoryError, RuntimeError) as error:
        raise InputError(f"networks of these sizes cannot be made here ({error}); give smaller ones") from None
    learner = Learner(
        agent,
        states,
        device=torch.device(how["device"]),
        compiled=how["compiled"],
        products=how["products"],
        widen=not machine.bfloat16_is_fast(),
    )
    learner.compile_ahead(
        batch_size=settings.resolved("batch_size"), obs_dim=record.obs_dim, action_dim=record.action_dim
    )
    for seed, replay in zip(settings.seeds, replays, strict=True):
        if saved:
            checkpoint.fill(seed_folder(run_folder, seed), frame, replay)
    logger = logs.Logger(
        run_folder,
        exp_name=settings.resolved("name"),
        env_name=settings.env,
        seeds=settings.seeds,
        resume_at=mark,
    )
    view = watch.view(
        exp_name=settings.resolved("name"),
        env_name=settings.env,
        seeds=settings.seeds,
        frames=settings.frames,
        start=frame,
        earlier=logs.read(run_folder / logs.FILE) if saved else (),
    )
    run = Run(
        record=record,
        folder=run_folder,
        agent=agent,
        learner=learner,
        seeds=[Seed(*parts) for parts in zip(settings.seeds, streams, replays, strict=True)],
        evaluation_env=env,
        logger=logger,
        view=view,
        recipe=make_recipe(settings.recipe, settings.options),
        examiner=examiner(settings) if settings.diagnose_every else None,
    )
    for line in (opening(record, frame), *notes):
        view.message(line)
    if not how.get("reproducible", True):
        view.message(f"{settings.env} does not repeat itself: a resumed run goes on with another episode, not exactly")
    try:
        begin(run, saved)
        stop.loop_begins = True
        finished = loop(run, stop)
    finally:
        view.close()
        logger.close()
    close(run)
    return Result(run_folder, finished, run.frame)


def begin(run: Run, saved: Sequence[checkpoint.Checkpoint]) -> None:
    """Put the checkpoints back, if there are any, and see that every seed is in an episode."""
    if not saved:
        for one in run.seeds:
            one.replay.start(one.stream.obs)
        return
    if inexact := restore(run, saved):
        run.view.message(
            f"{run.settings.env} did not repeat its episode: "
            f"seeds {inexact} resume at the episode boundary, not exactly"
        )
    for one in run.seeds:
        if one.stream.ended:  # the environment failed when it was to be brought back to where it was
            begin_episode(run, one, fresh=True)


def forget(run_folder: Path) -> None:
    """Remove a run, or what is left of one that died before its first checkpoint: it starts again from its seed."""
    for path in run_folder.iterdir():
        if path.name not in (lock.LOCK, lock.OWNER, "run.json"):
            disk.remove_tree(path)


def opening(record: Record, frame: int) -> str:
    """The first line: what runs, and what `auto` chose."""
    settings, how = record.settings, record.stretches[-1]
    return (
        f"{settings.name} on {settings.env}, seeds {' '.join(map(str, settings.seeds))}: "
        f"frames {frame:,} to {settings.frames:,}, UTD {settings.utd}, {how['precision']}, "
        f"{'compiled' if how['compiled'] else 'not compiled'}, {how['device']}, {how['threads']} threads"
    )


def close(run: Run) -> None:
    """Let the environments go."""
    run.evaluation_env.close()
    if run.examiner:
        run.examiner.env.close()
    for one in run.seeds:
        one.stream.close()
