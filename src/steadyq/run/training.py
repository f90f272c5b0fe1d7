"""The run in progress: everything that moves while it lasts."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steadyq.algorithm.agent import Agent
from steadyq.algorithm.tree import tree_map
from steadyq.algorithm.types import Transition
from steadyq.engine.learner import Learners
from steadyq.envs.episodes import EpisodeStream
from steadyq.envs.guard import Guarded
from steadyq.errors import RunError
from steadyq.examine.diagnosis import Examiner
from steadyq.examine.play import Episode
from steadyq.run.views import LiveView, PlainView
from steadyq.settings import Settings
from steadyq.store.checkpoint import History
from steadyq.store.folder import PRIOR, REPLAY, seed_folder
from steadyq.store.lock import Held
from steadyq.store.metrics_csv import Logger, Row
from steadyq.store.names import EVALUATED_AT_THE_END
from steadyq.store.record import Record
from steadyq.store.replay import Replay
from steadyq.store.state import resume_command

RESTARTS, HOUR = 10, 3600.0
"""Environments that may be replaced within so many seconds."""

UNWRITTEN = 16
"""Snapshots that wait in memory for a disk that takes them; of more, the newest."""


Callback = Callable[[list[Row]], object]
"""A user's function: takes the rows that were just written, of all seeds. What it raises ends the run, saved."""


class Callbacks(NamedTuple):
    """What a user's program has called."""

    on_log: Callback | None = None
    on_evaluation: Callback | None = None


class Best(NamedTuple):
    """The best evaluation of a seed."""

    mean_return: float
    frame: int


class Unwritten(NamedTuple):
    """A snapshot that could not be written."""

    seed: int
    frame: int
    tensors: Mapping[str, Tensor]
    why: str


@dataclass
class SeedCounters:
    """What a checkpoint keeps of one seed apart from tensors and transitions: a field here is all it takes."""

    finished: list[Episode] = field(default_factory=list)  # training episodes since the last log record
    bad_steps: int = 0  # since the last log record
    restarts: int = 0  # of its environment, since the last log record
    best: Best | None = None
    given_up_at: int | None = None  # the frame at which its updates had failed too often


@dataclass
class Counters:
    """What a checkpoint keeps of the run: a field here is all it takes."""

    step: int = 0  # agent steps done
    evaluated: int = -1  # frame of the last evaluation
    diagnosed: int = -1  # frame of the last diagnosis
    resets: int = 0  # of the networks so far
    resets_evaluated: int = 0  # after how many of them there was an evaluation


@dataclass
class Seed:
    """What one seed has of its own, besides its lane of the learner."""

    seed: int
    stream: EpisodeStream
    replay: Replay
    history: History  # what is on disk of it
    prior: Replay | None = None  # transitions from before the run that are kept apart
    prior_rows: int = 0  # of each batch
    counters: SeedCounters = field(default_factory=SeedCounters)

    @property
    def replays(self) -> Mapping[str, Replay]:
        """What a checkpoint keeps transitions of, by name."""
        return {REPLAY: self.replay} if self.prior is None else {REPLAY: self.replay, PRIOR: self.prior}

    def sample(self, rng: np.random.Generator, shape: tuple[int, int]) -> Transition:
        """A batch for each of several updates [U, B, ..], the prior transitions last."""
        if self.prior is None:
            return self.replay.draw(rng, shape)
        updates, size = shape
        new = self.replay.draw(rng, (updates, size - self.prior_rows))
        return tree_map(lambda *both: torch.cat(both, 1), new, self.prior.draw(rng, (updates, self.prior_rows)))


@dataclass
class Training:
    """Everything that moves during a run."""

    record: Record
    held: Held
    agent: Agent
    learner: Learners
    seeds: list[Seed]
    evaluation_env: Guarded
    logger: Logger
    view: LiveView | PlainView
    clock: Callable[[], float]  # seconds since any moment; what a run does by time, it does by this one
    examiner: Examiner | None = None  # where diagnoses are due
    callbacks: Callbacks = Callbacks()
    counters: Counters = field(default_factory=Counters)
    elapsed: float = 0.0  # seconds of earlier stretches
    started: float = field(init=False)
    window_started: float = field(init=False)
    window_step: int = 0  # the speed of a log record is that of this stretch only
    saved: int = -1  # frame of the last checkpoint
    save_started: float = field(init=False)  # when the last save was tried
    save_trouble: str = ""  # why that failed
    unwritten: deque[Unwritten] = field(default_factory=lambda: deque(maxlen=UNWRITTEN))  # snapshots to be tried again
    lost: bool = False  # there is no folder to save to any more
    log_trouble: str | None = None  # what was reported last of rows that could not be written
    save_now: bool = False  # a checkpoint is due whatever the frame
    memory_said: bool = False
    over: str = ""  # why the run cannot continue
    raised: Exception | None = None  # by a user's callback, which is why the run is over
    evaluation_failed: bool = False  # the environment of evaluations has, and must be replaced
    longest: int = 0  # agent steps of the longest episode of an evaluation so far
    frames_shown: set[tuple[str, ...]] = field(default_factory=set)  # of failures of environments
    restarts: deque[float] = field(default_factory=deque)  # when environments were replaced

    def __post_init__(self) -> None:
        self.started = self.window_started = self.save_started = self.clock()

    @property
    def folder(self) -> Path:
        """Where the run is on disk."""
        return self.held.path

    def find_folder(self) -> bool:
        """Whether the run folder is there to be written to. The run follows one that was moved, and ends without."""
        before = self.folder
        if self.lost or self.held.find() is None:
            self.lost = True
            self.over = (
                self.over or f"{before} was deleted, or moved out of sight, while the run went on; the run has ended"
            )
        elif self.folder != before:
            self.view.message(f"{before} was moved; the run continues in {self.folder}")
            for one in self.seeds:
                one.history = one.history._replace(seed_dir=seed_folder(self.folder, one.seed))
        return not self.lost

    @property
    def settings(self) -> Settings:
        """What the run is asked to do."""
        return self.record.settings

    @property
    def active(self) -> list[tuple[int, Seed]]:
        """The seeds that still learn, with their places."""
        return [(i, one) for i, one in enumerate(self.seeds) if one.counters.given_up_at is None]

    @property
    def step(self) -> int:
        """Agent steps done."""
        return self.counters.step

    @property
    def frame(self) -> int:
        """Environment frames done, per seed."""
        return self.step * self.settings.resolved("action_repeat")

    def crosses(self, every: int) -> bool:
        """Whether the latest step reached a multiple of so many frames."""
        repeat = self.settings.resolved("action_repeat")
        return self.step > 0 and self.frame // every > (self.frame - repeat) // every

    @property
    def save_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        frames, seconds = self.settings.save_frames, self.settings.save_seconds
        by_frame = frames is not None and self.crosses(frames)
        by_clock = seconds is not None and self.clock() - self.save_started >= seconds
        return by_frame or by_clock or self.save_now

    @property
    def evaluation_due(self) -> bool:
        """Whether the policies are to be evaluated at this frame, and were not yet.

        A single environment is evaluated in at the first end of an episode from then on, or at the run's end.
        """
        every, last = self.settings.eval_every, self.counters.evaluated
        if not self.settings.single_env:
            return self._is_due(every, last)
        free = self.seeds[0].stream.ended or self.step >= self.settings.agent_steps
        return free and every > 0 and self.frame // every > last // every

    @property
    def end_evaluation_due(self) -> bool:
        """Whether the policies are to be evaluated because the run ends here, and were not yet."""
        wanted = self.settings.eval_every > 0 and not self.settings.single_env  # which may be in an episode
        if not wanted or self.step < self.settings.agent_steps or self.evaluation_due:
            return False
        return self.counters.evaluated != self.frame and bool(self.active) and not self.end_evaluated

    @property
    def end_evaluated(self) -> bool:
        """Whether the run was evaluated at this frame because it ends here: then all is done, and saved."""
        seeds = [one.seed for _, one in self.active]
        return bool(seeds) and all(self.logger.has(EVALUATED_AT_THE_END, seed=s, frame=self.frame) for s in seeds)

    @property
    def diagnosis_due(self) -> bool:
        """Whether the networks are to be diagnosed at this frame, and were not yet."""
        return self._is_due(self.settings.diagnose_every, self.counters.diagnosed)

    def _is_due(self, every: int, last: int) -> bool:
        return every > 0 and (self.step == 0 or self.crosses(every)) and last != self.frame

    @property
    def reset_due(self) -> bool:
        """Whether the networks are to be reset before the next step; what a run ends with is what was trained."""
        return self.counters.resets < self.resets_due and self.step < self.settings.agent_steps

    @property
    def resets_due(self) -> int:
        """Resets that the schedule wants by now."""
        schedule = self.agent.recipe.resets
        return schedule.due(self.frame if schedule.unit == "frames" else self.settings.updates(self.step))

    @property
    def reset_evaluation_due(self) -> bool:
        """Whether the networks that were just reset are to be evaluated."""
        wanted = self.settings.eval_every > 0 and not self.settings.single_env  # which is in an episode
        return wanted and self.counters.resets_evaluated < self.counters.resets

    def may_restart(self, error: Exception) -> bool:
        """Take note that an environment failed: whether it may be replaced once more, or the run is `over`."""
        self.show_frames(error)
        if self.settings.single_env:
            self.over = f"{error}; it is the single environment, which is not made again: fix it, then resume the run"
            return False
        now = self.clock()
        while self.restarts and now - self.restarts[0] > HOUR:
            self.restarts.popleft()
        if len(self.restarts) >= RESTARTS:
            self.over = f"{error}, for more than the {RESTARTS}th time within an hour"
            return False
        self.restarts.append(now)
        self.view.message(f"{error}; a fresh environment takes its place")
        return True

    def show_frames(self, error: Exception) -> None:
        """The user's own code that led to a failure of the environment, unless it was shown before."""
        frames = getattr(error, "frames", ())
        if frames not in self.frames_shown:
            self.frames_shown.add(frames)
            for line in frames:
                self.view.message(line)

    def tell(self, callback: Callback | None, rows: list[Row]) -> None:
        """Call a user's function, if there is one; what it raises is raised again once the run is saved."""
        try:
            if callback is not None:
                callback(rows)
        except Exception as error:
            self.raised = error
            self.over = f"raised by a callback at frame {self.frame:,}; the run in {self.folder} has stopped there"

    def tolerate(self, error: Exception) -> None:
        """RunError over numbers that nobody can learn from, unless their episode may just end.

        Nothing is saved then: a resumed run comes to the same step again, and may do with it what is asked.
        """
        if self.settings.on_bad_step != "end-episode":
            command = resume_command(self.folder, vars(self.settings), on_bad_step="end-episode")
            raise RunError(
                f"{error}, after frame {self.frame:,}; the last checkpoint is whole, "
                f"and `{command}` would end such episodes instead"
            )

    def check_over(self) -> None:
        """RunError if anything has gone wrong that the run did not get over; or what a callback has raised."""
        lost = [
            f"seed {one.seed} was given up at frame {one.counters.given_up_at:,}: {tally.failure} was not finite in "
            f"{tally.failed_in_a_row} updates in a row; none of them was applied"
            for one, tally in zip(self.seeds, self.learner.tallies, strict=True)
            if one.counters.given_up_at is not None
        ]
        snapshots = [f"no snapshot at frame {one.frame:,}: {one.why}" for one in self.unwritten]
        troubles = [*filter(None, [self.over, self.save_trouble]), *snapshots, *lost]
        if self.raised:
            self.raised.add_note("; ".join(troubles))
            raise self.raised
        if troubles:
            raise RunError("; ".join(troubles))
