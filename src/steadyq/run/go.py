"""One stretch of a run: pieces put together, the loop run until it is done or asked to stop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch

from steadyq.algorithm.actor_critic import make_agent
from steadyq.algorithm.options import make_recipe
from steadyq.algorithm.random import Purpose, generator
from steadyq.engine import machine
from steadyq.engine.learner import Learners
from steadyq.envs import guard
from steadyq.envs.episodes import EpisodeStream
from steadyq.envs.guard import Guarded
from steadyq.envs.source import Source
from steadyq.errors import InputError
from steadyq.examine.diagnosis import examiner
from steadyq.output import plural
from steadyq.run.loop import begin_episode, loop
from steadyq.run.save import restore, save
from steadyq.run.stop import Stop
from steadyq.run.track import tracking
from steadyq.run.training import Callbacks, Seed, Training
from steadyq.run.views import Board, View, choose_view
from steadyq.settings import Settings
from steadyq.store import checkpoint, disk, folder, lock, metrics_csv
from steadyq.store.folder import PRIOR, REPLAY, seed_folder, snapshot_path
from steadyq.store.lock import Held
from steadyq.store.names import DIAGNOSIS_SECONDS, EVALUATION_SECONDS
from steadyq.store.record import Record, read_record, write_record
from steadyq.store.replay import Replay
from steadyq.store.snapshot import check_replays, replays_of
from steadyq.store.start import NOTHING, Start, with_fresh_optimisers
from steadyq.store.state import keeping_failures


class Result(NamedTuple):
    """What came of a run."""

    folder: Path
    finished: bool  # False: stopped on request, and resumable
    frame: int  # reached, per seed

    def returns(self, seed: int) -> Mapping[int, float]:
        """Mean evaluation return of a seed, by environment frame; InputError if the run has no such seed."""
        if seed not in (seeds := read_record(self.folder).settings.seeds):
            raise InputError(f"seed is {seed}; this run has {' '.join(map(str, seeds))}")
        return folder.returns(self.folder, seed)


def check_memory(record: Record) -> None:
    """InputError if the transitions that this run will keep, one step's batches or the networks do not fit."""
    settings, sizes = record.settings, (record.obs_dim, record.action_dim)
    recipe, seeds = make_recipe(settings.recipe, settings.options), len(settings.seeds)
    machine.check_networks(recipe, obs_dim=record.obs_dim, action_dim=record.action_dim, seeds=seeds)
    check_replays(record)
    drawn = ceil(settings.resolved("utd")) * settings.resolved("batch_size")
    batches = 2 * seeds * Replay.bytes_needed(drawn, *sizes)  # each transition with both of its observations
    if batches > (available := machine.memory().available):
        raise InputError(
            f"the batches of one agent step need {batches / 1e9:.3g} GB of memory and {available / 1e9:.2f} GB are "
            f"available; give a smaller --batch-size or --utd"
        )


def go(
    held: Held,
    record: Record,
    env: Guarded,
    stop: Stop,
    *,
    start: Start = NOTHING,
    saved: Sequence[checkpoint.Checkpoint] = (),
    mark: metrics_csv.Mark | None = None,
    notes: Sequence[str] = (),
    source: Source | None = None,
    callbacks: Callbacks,
) -> Result:
    """Run the loop from a verified checkpoint of every seed, or from the beginning if there is none.

    Args:
        held: the run folder, kept to this process. If there is no checkpoint, what else is in it is removed, once all
            that the run needs could be made.
        record: its run.json, written here.
        env: for evaluations; the caller closes it.
        stop: asks to stop.
        start: what the seeds start from, if there is no checkpoint.
        saved: a checkpoint per seed, all of one frame.
        mark: where the record of measurements continues.
        notes: sentences for the person watching.
        source: the environment, if it was given as an object of Python.
        callbacks: the user's functions.
    """
    with ExitStack() as made:
        frame = saved[0].frame if saved else 0
        view = begin_view(record, frame, stop.clock)  # first: the rest may take its time
        made.callback(view.close)
        if env.spec.episode_frames is None:
            notes = [no_limit(env.spec.name), *notes]
        if not record.settings.updates(record.settings.agent_steps):
            notes = [no_updates(record.settings), *notes]
        for line in (opening(record, frame), environments(record.settings, frame), *notes):
            view.message(line)
        run = assemble(
            made, held, record, env, source, start=start, saved=saved, mark=mark, view=view, clock=stop.clock
        )
        run.callbacks = callbacks
        begin(run, saved)
        stop.loop_begins = True
        with keeping_failures(held), tracking(run):
            finished = loop(run, stop)
        return Result(run.folder, finished, run.frame)


def assemble(
    made: ExitStack,
    held: Held,
    record: Record,
    env: Guarded,
    source: Source | None,
    *,
    start: Start,
    saved: Sequence[checkpoint.Checkpoint],
    mark: metrics_csv.Mark | None,
    view: View,
    clock: Callable[[], float],
) -> Training:
    """All that a run needs, the transitions of its checkpoints among it; closed with `made`.

    Nothing in the folder is changed before the networks and the environments could be made.
    """
    run_folder, settings, how = held.path, record.settings, record.stretches[-1]
    torch.set_num_threads(how["threads"])
    machine.keep_freed_memory()
    recipe = make_recipe(settings.recipe, settings.options)
    agent = make_agent(recipe, obs_dim=record.obs_dim, action_dim=record.action_dim, precision=how["precision"])
    try:
        states = [agent.init(generator(seed, Purpose.INIT)) for seed in settings.seeds]
    except (MemoryError, RuntimeError) as error:
        raise InputError(f"networks of these sizes cannot be made here ({error}); give smaller ones") from None
    if start.states:
        states = [with_fresh_optimisers(*pair) for pair in zip(start.states, states, strict=True)]
    examining = None
    if settings.diagnose_every:
        endless = guard.of_run(settings, source, endless=True)
        made.callback(endless.close)
        examining = examiner(settings, recipe, endless)
    seeds = []
    for i, seed in enumerate(settings.seeds):
        stream = EpisodeStream(env if settings.single_env else guard.of_run(settings, source), seed=seed)
        made.callback(stream.close)
        replays = start.replays[i] if start.replays else replays_of(record, seed)
        history = checkpoint.History(seed_folder(run_folder, seed))
        seeds.append(Seed(seed, stream, replays[REPLAY], history, replays.get(PRIOR), settings.prior_rows))
    if not saved:
        forget(run_folder)
    write_record(run_folder, record)
    learner = Learners(
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
    if saved:
        for one, found in zip(seeds, saved, strict=True):
            one.history = checkpoint.fill(one.history.seed_dir, found, one.replays)
    logger = metrics_csv.Logger(
        run_folder,
        exp_name=settings.resolved("name"),
        env_name=settings.env,
        seeds=settings.seeds,
        resume_at=mark,
    )
    made.callback(logger.close)
    for row in metrics_csv.read(run_folder / metrics_csv.FILE):
        view.board.recall(row)
    return Training(
        record=record,
        held=held,
        agent=agent,
        learner=learner,
        seeds=seeds,
        evaluation_env=env,
        logger=logger,
        view=view,
        clock=clock,
        examiner=examining,
    )


def begin_view(record: Record, frame: int, clock: Callable[[], float]) -> View:
    """The view of a run that begins or is resumed at a frame."""
    settings = record.settings
    repeat = settings.resolved("action_repeat")
    board = Board(
        exp_name=settings.resolved("name"),
        env_name=settings.env,
        seeds=settings.seeds,
        frames=settings.frames,
        start=frame,
        warm_up=repeat * settings.resolved("learning_starts"),
        updates_per_frame=float(settings.resolved("utd") / repeat),
        pauses={EVALUATION_SECONDS: settings.eval_every, DIAGNOSIS_SECONDS: settings.diagnose_every},
        clock=clock,
    )
    return choose_view(board)


def begin(run: Training, saved: Sequence[checkpoint.Checkpoint]) -> None:
    """Put the checkpoints back, if there are any, and see that every seed is in an episode."""
    single = run.settings.single_env
    if not (single or run.record.stretches[-1]["reproducible"]):
        run.view.message(
            f"{run.settings.env} does not repeat itself: this run will resume with another episode, not bit-exactly"
        )
    if inexact := restore(run, saved) if saved else []:
        why = "is the single environment, whose episode is not repeated" if single else "did not repeat its episode"
        seeds = ", ".join(map(str, inexact))
        run.view.message(f"{run.settings.env} {why}: seeds {seeds} resume at the episode boundary, not bit-exactly")
    if saved and run.counters.evaluated != run.frame and run.step < run.settings.agent_steps:
        for one in run.seeds:  # of the end that this frame no longer is
            disk.remove(snapshot_path(run.folder, one.seed, run.frame))
    for one in run.seeds:
        # Not begun yet; or the environment failed when it was to be brought back to where it was.
        if one.stream.ended and not single:
            begin_episode(run, one, fresh=bool(saved))
    if run.record.sources and not saved:
        for words in began_from(run.record):
            run.view.message(words)
        save(run)  # from here on the run needs nothing but its folder


def forget(run_folder: Path) -> None:
    """Remove a run, or what is left of one that died before its first checkpoint: it starts again from its seed."""
    for name in disk.names(run_folder):
        if name not in (lock.LOCK, lock.OWNER, "run.json"):
            disk.remove_tree(run_folder / name)


def began_from(record: Record) -> Iterator[str]:
    """What the seeds start from, a sentence for each."""
    for option, sources in record.sources.items():
        for seed, source in zip(record.settings.seeds, sources, strict=True):
            what = f"{source.transitions:,} transitions" if source.transitions else "the networks"
            whose = "" if source.seed is None else f", seed {source.seed} at frame {source.frame:,}"
            yield f"seed {seed} starts from {what} of {getattr(record.settings, option)}{whose}"


def environments(settings: Settings, frame: int) -> str:
    """How many environments are made, and what for."""
    if settings.single_env:
        return "environments: a single one, made once; evaluations wait for the end of an episode"
    parts = [f"{len(settings.seeds)} to train in", "1 for evaluations"]
    if settings.diagnose_every:
        parts.append("1 for diagnoses")
    if not frame:
        parts.append("1 for a moment, to see in a few steps whether it repeats itself")
    return f"environments: {', '.join(parts)} (--single-env makes one)"


def no_limit(name: str) -> str:
    """What to do about an environment that names no time limit, which nothing can tell from one that never ends."""
    return (
        f"{name} names no time limit: an episode that does not end by itself is cut off by an evaluation after a "
        f"million frames only; give --max-episode-steps, or register it with max_episode_steps"
    )


def no_updates(settings: Settings) -> str:
    """What to do about a run that ends before it begins to learn."""
    starts = settings.resolved("learning_starts") * settings.resolved("action_repeat")
    return (
        f"nothing will be learned: updates begin after frame {starts:,}, and the run has {settings.frames:,} frames; "
        f"give more --frames, or fewer --learning-starts"
    )


def opening(record: Record, frame: int) -> str:
    """The first line: what runs, and what `auto` chose."""
    settings, how = record.settings, record.stretches[-1]
    numbers = f"seed{'s' * (len(settings.seeds) > 1)} {' '.join(map(str, settings.seeds))}"
    span = f"frames {frame:,} to {settings.frames:,}"
    if frame == settings.frames:
        span = f"all {frame:,} frames are done (`steadyq resume` with --frames makes the run longer)"
    device = how["device"]
    if device == "cuda":
        device = "cuda (nobody has tried steadyq on a GPU yet; --device cpu is what is tested)"
    return (
        f"{settings.name} on {settings.env}, {numbers}: {span}, UTD {settings.utd}, {how['precision']}, "
        f"{'compiled' if how['compiled'] else 'not compiled'}, {device}, {plural(how['threads'], 'thread')}"
    )
