"""An agent for a loop of your own, around a robot that is no environment: `steadyq.Learner`.

One seed, NumPy in and out. It draws as `steadyq train` does, by the same functions: a loop that takes the same steps
learns the same weights, bit for bit.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from steadyq.algorithm.actor_critic import make_agent
from steadyq.algorithm.agent import Agent
from steadyq.algorithm.random import Purpose, generator
from steadyq.algorithm.ranges import AT_LEAST_0, COUNT, POSITIVE, UP_TO_1, Range, checked, from_
from steadyq.algorithm.tree import from_named, named_leaves, tree_map
from steadyq.deploy import export
from steadyq.deploy.load import policy_of
from steadyq.deploy.policy import Part, Policy, Spec
from steadyq.deploy.program import trace
from steadyq.engine import compiler, machine
from steadyq.engine.learner import Learners, acting_noise, draw, put, warm_up_action
from steadyq.errors import InputError, RunError
from steadyq.settings import UTD, fraction, updates_by
from steadyq.store import checkpoint, disk
from steadyq.store.checkpoint import History
from steadyq.store.disk import FileError
from steadyq.store.folder import REPLAY, seed_folder
from steadyq.store.record import read_record
from steadyq.store.replay import Replay
from steadyq.store.start import networks, with_fresh_optimisers
from steadyq.store.typed import from_json

ALLOWED: dict[str, tuple[type, Range]] = {
    "seed": (int, from_(0, most=2**63 - 1)),
    "utd": (Fraction, UTD),
    "batch_size": (int, COUNT),
    "learning_starts": (int, AT_LEAST_0),
    "gamma": (float, UP_TO_1),
}


@dataclass
class Progress:
    """How far a learner is, in whole numbers: what it saves besides tensors and transitions."""

    seed: int
    utd: str  # on which, and on the next, it depends how many updates there were
    learning_starts: int
    gamma: float
    steps: int = 0  # actions chosen
    learned: int = 0  # of these, those whose updates are made
    observed: int = 0  # transitions that the running moments have seen
    resets: int = 0
    trained: bool = False  # before the first step: no action is random


class Saved(NamedTuple):
    """What `save` or `restore` knows of a folder."""

    history: History
    replay: Replay  # whose transitions are there


class Learner:
    """An agent that learns in a loop of your own.

    >>> import numpy as np
    >>> import steadyq
    >>> agent = steadyq.make_agent("crossq_wn", obs_dim=3, action_dim=1, width=16, actor_width=16)
    >>> learner = steadyq.Learner(agent, seed=0, learning_starts=4, batch_size=4, compile="off")
    >>> replay = steadyq.Replay(capacity=1_000, obs_dim=3, action_dim=1)
    >>> obs = np.zeros(3)
    >>> replay.start(obs)
    >>> for _ in range(6):
    ...     action = learner.act(obs)  # in [-1, 1]
    ...     obs, reward = obs + 0.1 * action, -1.0  # your robot
    ...     replay.add(action, reward, learner.gamma, obs, last=False)
    ...     learner.update(replay)
    >>> learner.updates  # two for each step after the fourth
    4

    Args:
        agent: of `steadyq.make_agent`.
        seed: decides the first weights and everything that is drawn.
        utd: critic updates per step; may be a fraction such as 0.5 or "1/3". None here and below: the recipe's.
        batch_size: transitions per update.
        learning_starts: steps of random actions before the first update.
        gamma: discount per step.
        device: where the networks live; auto takes a GPU if there is one.
        compile: compile the updates, which takes up to a minute once; auto: where a C++ compiler works.

    Attributes:
        gamma: the discount, to be stored with each transition that has a future.

    Raises:
        InputError: a value that cannot work.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        seed: int = 0,
        utd: float | str | Fraction | None = None,
        batch_size: int | None = None,
        learning_starts: int | None = None,
        gamma: float | None = None,
        device: machine.Device = "auto",
        compile: compiler.Compile = "auto",
    ) -> None:
        def chosen(name: str, value: Any, default: Any) -> Any:
            value = default if value is None else value
            if value is None:
                raise InputError(f"this recipe takes its {name} from the length of an episode; give one, such as 0.99")
            return checked(name, value, *ALLOWED[name])

        protocol = agent.recipe.protocol
        self.agent = agent
        self.utd: Fraction = chosen("utd", None if utd is None else fraction(utd), fraction(protocol.utd))
        self.batch_size: int = chosen("batch_size", batch_size, protocol.batch_size)
        self.learning_starts: int = chosen("learning_starts", learning_starts, protocol.learning_starts)
        self.gamma: float = chosen("gamma", gamma, protocol.gamma)
        self._progress = Progress(chosen("seed", seed, 0), str(self.utd), self.learning_starts, self.gamma)
        self._saved: dict[Path, Saved] = {}  # what there is on disk, by folder
        self._replay: Replay | None = None  # of the last update
        place = machine.choose_device(device)
        self._learners = Learners(
            agent,
            [agent.init(generator(self._progress.seed, Purpose.INIT))],
            device=torch.device(place),
            compiled=compiler.choose(compile, device=place),
            products=machine.products(),
            widen=not machine.bfloat16_is_fast(),
        )
        sizes = {"obs_dim": agent.obs_dim, "action_dim": agent.action_dim}
        self._learners.compile_ahead(batch_size=self.batch_size, **sizes)  # during the random actions

    @property
    def steps(self) -> int:
        """Actions chosen by `act`."""
        return self._progress.steps

    @property
    def updates(self) -> int:
        """Critic updates so far."""
        return self._updates_by(self._progress.learned)

    def act(self, obs: np.ndarray) -> np.ndarray:
        """The action of the next step, float32 [A] in [-1, 1]: random at first (unless `init_from`), then exploring.

        Args:
            obs: what the robot senses, [O].

        Raises:
            InputError: a wrong shape, or numbers that are not finite.
        """
        row, step, now = self._row(obs), self.steps, (self._progress.seed, self.steps, self.agent.action_dim)
        self._reset_if_due(self._progress.learned)
        self._progress.steps += 1
        if step < self.learning_starts and not self._progress.trained:
            return warm_up_action(*now)
        return self._learners.act(row.unsqueeze(0), acting_noise(*now).unsqueeze(0))[0].numpy()

    def mean_action(self, obs: np.ndarray) -> np.ndarray:
        """The policy's mean action, float32 [A] in [-1, 1]: for evaluation, counted as no step. Errors as of `act`."""
        row = self._row(obs).to(self._learners.device)
        with torch.no_grad():
            return self.agent.mode(self._learners.seed(0).state, row).cpu().numpy()

    def update(self, replay: Replay) -> None:
        """Make the updates that are due for the actions since the last call: at each step, or between episodes.

        Call it after `replay.add`, and where an episode has ended after the `replay.start` of the next one.

        Args:
            replay: with what came of these actions.

        Raises:
            InputError: a replay of other sizes, or an empty one.
            RunError: a loss or another metric was not finite in three updates in a row; none of them was applied.
        """
        self._check(replay)
        if self._replay is not None and replay is not self._replay:
            self._progress.observed = 0  # of this one
        self._replay = replay
        if self.agent.observes:
            self._observe(replay)
        for step in range(self._progress.learned, self.steps):
            self._reset_if_due(step)
            first, end = self._updates_by(step), self._updates_by(step + 1)
            if first < end:
                self._learn(replay, step, [one.due(first, end) for one in self.agent.steps])
            self._progress.learned = step + 1

    def metrics(self) -> dict[str, float]:
        """Means over the updates since the last call, by their names in docs/run-folder.md; empty without updates."""
        (means,) = self._learners.means()
        self._learners.open_window()
        return means

    def init_from(self, run: Path | str, *, seed: int | None = None) -> None:
        """Start from the networks, statistics and normalisers of a run of `steadyq train`, with fresh optimisers.

        Call it before the first `act`. Actions in [-1, 1] stand for the bounds in `steadyq.load_policy(run).spec`.

        Args:
            run: its folder.
            seed: which of its agents; the first if None.

        Raises:
            InputError: no such run or seed; or its observations, actions, gamma or networks are others.
        """
        record = read_record(Path(run))
        seed = record.settings.seeds[0] if seed is None else seed
        if seed not in record.settings.seeds:
            raise InputError(f"seed is {seed}; {run} has {' '.join(map(str, record.settings.seeds))}")
        theirs = (record.obs_dim, record.action_dim, record.settings.gamma)
        ours = (self.agent.obs_dim, self.agent.action_dim, self.gamma)
        if theirs != ours:
            raise InputError(f"{run} has (obs_dim, action_dim, gamma) {theirs}; this learner has {ours}")
        saved, state = checkpoint.load(seed_folder(Path(run), seed)), self._learners.seed(0).state
        try:
            new = networks(self.agent, saved)
        except ValueError as error:
            raise InputError(f"{run} does not have the networks of this agent ({error}); give its options") from None
        put(state, with_fresh_optimisers(new, state))
        self._progress.trained = True

    def save(self, folder: Path | str, replay: Replay) -> None:
        """Write all that `restore` needs into a folder of its own; of transitions, those that are not there yet.

        Raises:
            InputError: there is something in the folder that this learner neither saved nor restored.
            OSError: the disk is full, or anything else; what was saved before is as it was.
        """
        place = Path(folder).resolve()
        before = self._saved.get(place, Saved(History(place), replay))
        if not before.history.frames and (frames := checkpoint.frames(place)):
            raise InputError(
                f"{folder} holds what another learner saved at step {frames[-1]:,}; `restore` it first, or give "
                f"another folder"
            )
        history = before.history if replay is before.replay else before.history._replace(segments={})
        tensors = {name: leaf.detach().cpu() for name, leaf in named_leaves(self._learners.seed(0))}
        history = checkpoint.save(
            history, frame=self.steps, tensors=tensors, meta=asdict(self._progress), replays={REPLAY: replay}
        )
        checkpoint.prune(history, keep=1)
        self._saved[place] = Saved(history, replay)

    def restore(self, folder: Path | str, replay: Replay) -> bool:
        """Resume bit-exactly from what was saved in a folder, if anything was.

        Args:
            folder: the one that was given to `save`.
            replay: an empty one, which is filled.

        Returns:
            whether anything was there.

        Raises:
            InputError: it is damaged, or from another agent, seed, utd, learning_starts or gamma; nothing was changed.
        """
        self._check(replay)
        folder = Path(folder).resolve()
        if not checkpoint.frames(folder):
            return False
        found, lane = checkpoint.load(folder), self._learners.seed(0)
        checkpoint.verify(folder, found, sizes={REPLAY: (replay.obs_dim, replay.action_dim)})
        try:
            progress = from_json(Progress, found.meta, "meta")
            new = from_named(lane, found.tensors)
        except ValueError as error:
            raise FileError(f"{folder} was not saved by such a learner: {error}") from None
        for name in ("seed", "utd", "learning_starts", "gamma"):
            theirs, ours = getattr(progress, name), getattr(self._progress, name)
            if theirs != ours:
                raise InputError(
                    f"{folder} was saved with {name} {theirs}; this learner has {ours}, make it with that one"
                )
        self._saved[folder] = Saved(checkpoint.fill(folder, found, {REPLAY: replay}), replay)
        put(lane, new)
        self._progress, self._replay = progress, replay
        return True

    def export(
        self,
        file: Path | str,
        replay: Replay,
        *,
        action_low: ArrayLike = -1.0,
        action_high: ArrayLike = 1.0,
        observations: Mapping[str, int] | None = None,
        step_seconds: float | None = None,
    ) -> Policy:
        """Write the policy's mean action as a file for a robot, which takes neither PyTorch nor this learner.

        It is read back and compared with the policy before it is put in place. Hidden products are in float32.

        Args:
            file: .npz for NumPy alone, .onnx for ONNX Runtime; `steadyq.deploy.Policy.load` reads both.
            replay: on up to 1,000 of its observations the two are compared.
            action_low: what -1 stands for in the robot's own units, one number or [A].
            action_high: what 1 stands for.
            observations: names and sizes of an observation's parts, in their order: then the policy takes a dict too.
            step_seconds: from one action to the next, for whoever reads the file.

        Returns:
            the policy, as it was read from the file.

        Raises:
            InputError: a file that cannot be written, bounds or sizes that do not fit, an empty replay, or a form that
                differs from the policy; nothing was written.
        """
        path = Path(file)
        export.check(path, *export.FORMS)
        self._check(replay)
        if not replay.size:
            raise InputError("the replay is empty; give one with observations, on which the file can be checked")
        low, high = self._bound("action_low", action_low), self._bound("action_high", action_high)
        if not (low < high).all():
            raise InputError(
                f"actions would go from {low.tolist()} to {high.tolist()}; give lower bounds below upper ones"
            )
        given = {"observation": self.agent.obs_dim} if observations is None else observations
        parts = [Part(name, checked(f"the size of {name!r}", size, int, COUNT)) for name, size in given.items()]
        if (total := sum(part.size for part in parts)) != self.agent.obs_dim:
            raise InputError(f"the parts of an observation have {total} numbers in all; give {self.agent.obs_dim}")
        if step_seconds is not None:
            step_seconds = checked("step_seconds", step_seconds, float, POSITIVE)
        spec = Spec(
            observations=parts,
            action_low=low.tolist(),
            action_high=high.tolist(),
            step_seconds=step_seconds,
            trained={"seed": self._progress.seed, "frame": self.steps},
        )
        agent = make_agent(self.agent.recipe, obs_dim=self.agent.obs_dim, action_dim=self.agent.action_dim)
        state = tree_map(lambda leaf: leaf.detach().cpu(), self._learners.seed(0).state)
        obs = export.observations(replay, seed=self._progress.seed)
        data, found = export.checked(trace(agent, state, spec), policy_of(agent, state, spec), obs, source=path)
        disk.give(path, data)
        return found

    def _bound(self, name: str, value: ArrayLike) -> np.ndarray:
        """One end of the actions' range, float64 [A]."""
        try:
            bound = np.broadcast_to(np.asarray(value, np.float64), (self.agent.action_dim,))
        except (TypeError, ValueError):
            bound = np.full(1, np.nan)
        if not np.isfinite(bound).all():
            raise InputError(f"{name} is {value!r}; give a finite number, or {self.agent.action_dim} of them")
        return bound

    def _learn(self, replay: Replay, step: int, due: list[list[bool]]) -> None:
        """The updates of one step."""
        if not replay.size:
            raise InputError("the replay is empty; add what came of each action before `update`")
        seed = self._progress.seed
        drawn = draw(self.agent, replay.draw, seed=seed, step=step, due=due, size=self.batch_size)
        self._learners.update([drawn], due)
        (tally,) = self._learners.tallies
        if tally.given_up:
            raise RunError(
                f"{tally.failure} was not finite in {tally.failed_in_a_row} updates in a row, at step {step:,}; none "
                f"of them was applied: look for huge rewards and observations"
            )

    def _observe(self, replay: Replay) -> None:
        """Show the running moments the transitions since the last update, each with the observation after it."""
        new = self.steps - self._progress.learned
        first = max(self._progress.observed, replay.added - min(new, replay.size))
        self._progress.observed = replay.added
        if first == replay.added:
            return
        part = replay.segment(first, replay.added)
        newest = part["next_obs"][-1] if replay.head is None else replay.head
        after = torch.from_numpy(np.stack([*part["obs"][1:], newest]))
        rewards, ends = torch.from_numpy(part["reward"]), torch.from_numpy(part["ends"].astype(np.float32))
        for obs, reward, last in zip(after.split(1), rewards.split(1), ends.split(1), strict=True):
            self._learners.observe(obs, reward, last, self.gamma)

    def _reset_if_due(self, step: int) -> None:
        """Fresh networks before a step, where the recipe's schedule wants them; environment frames count as steps."""
        schedule = self.agent.recipe.resets
        due = schedule.due(step if schedule.unit == "frames" else self._updates_by(step))
        if due > self._progress.resets:
            self._progress.resets = due
            self._learners.reset([self.agent.init(generator(self._progress.seed, Purpose.INIT, due))])

    def _updates_by(self, step: int) -> int:
        return updates_by(step, utd=self.utd, learning_starts=self.learning_starts)

    def _row(self, obs: np.ndarray) -> Float[Tensor, "O"]:
        row = np.array(obs, np.float32)
        if row.shape != (self.agent.obs_dim,):
            raise InputError(f"the observation has the shape {row.shape}; give one of ({self.agent.obs_dim},)")
        if not np.isfinite(row).all():
            raise InputError(f"the observation is not finite at index {int(np.isfinite(row).argmin())}; give numbers")
        return torch.from_numpy(row)

    def _check(self, replay: Replay) -> None:
        """InputError if a replay is for another agent."""
        got, wanted = (replay.obs_dim, replay.action_dim), (self.agent.obs_dim, self.agent.action_dim)
        if got != wanted:
            raise InputError(f"the replay has observations and actions of sizes {got}; this agent's are {wanted}")
