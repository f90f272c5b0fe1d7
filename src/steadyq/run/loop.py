"""The loop of one run: act, step, store, sample, learn; then log, evaluate and save what is due.

What is due is an explicit `if` on the step counter, and every random draw is a function of (seed, purpose, step): so a
run that was stopped and resumed, extended, evaluated more often or trained beside other seeds takes the same steps.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from steadyq.algorithm.agent import Agent, Recipe, normal
from steadyq.algorithm.learner import Learner
from steadyq.algorithm.random import Purpose, episode_seed, generator
from steadyq.algorithm.tree import from_named, named_leaves, tree_map
from steadyq.algorithm.types import State
from steadyq.algorithm.weight_norm import frobenius_norms
from steadyq.errors import RunError
from steadyq.run import checkpoint
from steadyq.run.diagnose import Examiner, examine
from steadyq.run.env import Env
from steadyq.run.episodes import EpisodeStream
from steadyq.run.evaluate import Act, Episode, Interrupted, play, summarise
from steadyq.run.folder import seed_folder, snapshot_path, snapshot_tensors
from steadyq.run.logs import Logger
from steadyq.run.replay import Replay
from steadyq.run.settings import Settings
from steadyq.run.stop import Stop
from steadyq.run.watch import LiveView, PlainView


@dataclass
class Seed:
    """What one seed has of its own, besides its lane of the learner."""

    seed: int
    stream: EpisodeStream
    replay: Replay
    finished: list[Episode] = field(default_factory=list)  # training episodes since the last log record


@dataclass
class Run:
    """Everything that moves while a run goes on."""

    settings: Settings
    folder: Path
    agent: Agent
    learner: Learner
    seeds: list[Seed]
    evaluation_env: Env
    logger: Logger
    view: LiveView | PlainView
    recipe: Recipe
    examiner: Examiner | None = None  # where diagnoses are due
    step: int = 0  # agent steps done
    evaluated: int = -1  # frame of the last evaluation
    diagnosed: int = -1  # frame of the last diagnosis
    resets: int = 0  # of the networks so far
    resets_evaluated: int = 0  # after how many of them there was an evaluation
    elapsed: float = 0.0  # seconds of earlier stretches
    started: float = field(default_factory=time.monotonic)
    window_started: float = field(default_factory=time.monotonic)
    window_step: int = 0  # the speed of a log record is that of this stretch only

    @property
    def frame(self) -> int:
        """Environment frames done, per seed."""
        return self.step * self.settings.resolved("action_repeat")

    def crosses(self, every: int) -> bool:
        """Whether the latest step reached a multiple of so many frames."""
        repeat = self.settings.resolved("action_repeat")
        return self.step > 0 and self.frame // every > (self.frame - repeat) // every

    @property
    def resets_due(self) -> int:
        """Resets that should have been made by now."""
        schedule = self.recipe.resets
        return schedule.due(self.frame if schedule.unit == "frames" else self.settings.updates(self.step))


def loop(run: Run, stop: Stop) -> bool:
    """Go on until the run's end or until asked to stop; True at the end. Saved either way."""
    settings, resumed_at = run.settings, run.step
    while True:
        if run.crosses(settings.log_every) and run.step > resumed_at:
            log(run)
        if settings.eval_every and (run.step == 0 or run.crosses(settings.eval_every)) and run.evaluated != run.frame:
            evaluate(run, stop)
        if run.examiner and (run.step == 0 or run.crosses(settings.diagnose_every)) and run.diagnosed != run.frame:
            diagnose(run, run.examiner, stop)
        if run.resets < run.resets_due and not stop.asked:  # an evaluation that was cut off comes first, on resuming
            reset(run)
        if settings.eval_every and run.resets_evaluated < run.resets:
            evaluate(run, stop, after_reset=True)
        ended = run.step >= settings.agent_steps
        if ended or stop.asked or (run.crosses(settings.save_every) and run.step > resumed_at):
            save(run)
        if ended or stop.asked:
            return ended
        act_and_store(run)
        learn(run)
        run.step += 1
        run.view.progress(run.frame)


def act_and_store(run: Run) -> None:
    """One agent step in each seed's environment, into its replay."""
    gamma, rewards, ends = run.settings.resolved("gamma"), list[float](), list[float]()
    for one, action in zip(run.seeds, choose(run), strict=True):
        step = one.stream.step(action)
        refuse_unless_finite(run, one, "a reward", np.float64(step.reward))
        refuse_unless_finite(run, one, "an observation", step.obs)
        last = step.terminated or step.truncated
        one.replay.add(action, step.reward, 0.0 if step.terminated else gamma, step.obs, last=last)
        if last:
            one.finished.append(Episode(one.stream.episode_return, one.stream.length))
            one.replay.start(one.stream.next_episode())
            refuse_unless_finite(run, one, "an observation", one.stream.obs)
        rewards.append(step.reward)
        ends.append(float(last))
    if run.learner.normalises:
        obs = torch.from_numpy(np.stack([one.stream.obs for one in run.seeds]))
        run.learner.observe(obs, torch.tensor(rewards), torch.tensor(ends), gamma)


def refuse_unless_finite(run: Run, one: Seed, what: str, value: np.ndarray | np.float64) -> None:
    """RunError if the environment gave a number that no agent can learn from."""
    if not np.isfinite(value).all():
        raise RunError(
            f"seed {one.seed}: the environment gave {what} that is not finite after frame {run.frame}; "
            f"nothing of it was saved, and the last checkpoint is whole"
        )


def choose(run: Run) -> np.ndarray:
    """An action per seed [S, A]: uniform during the warm-up, then from the policy."""
    size = run.evaluation_env.spec.action_dim
    if run.step < run.settings.resolved("learning_starts"):
        draws = [generator(one.seed, Purpose.WARM_UP, run.step).uniform(-1, 1, size) for one in run.seeds]
        return np.stack(draws).astype(np.float32)
    noise = torch.stack([normal(generator(one.seed, Purpose.ACT, run.step), size) for one in run.seeds])
    obs = torch.from_numpy(np.stack([one.stream.obs for one in run.seeds]))
    return run.learner.act(obs, noise).numpy()


def learn(run: Run) -> None:
    """The updates due after this agent step, for all seeds."""
    first, end = run.settings.updates(run.step), run.settings.updates(run.step + 1)
    if first == end:
        return
    if run.learner.compiling:
        run.view.message("waiting until the updates are compiled, once; this takes up to a minute")
    due = run.recipe.protocol.actor_due(first, end)
    size = run.settings.resolved("batch_size")
    batches, critic_noise, actor_noise = [], [], []
    for one in run.seeds:
        draw = partial(generator, one.seed, step=run.step)
        batches.append(one.replay.sample(draw(Purpose.SAMPLE).integers(one.replay.size, size=(len(due), size))))
        critic_noise.append(run.agent.critic_noise(draw, len(due), size))
        actor_noise.append(run.agent.actor_noise(draw, sum(due), size))
    run.learner.update(batches, critic_noise, actor_noise, due)
    bad = run.learner.first_bad()
    if bad is not None:
        index, metric = bad
        raise RunError(
            f"seed {run.seeds[index].seed}: {metric} is not finite after frame {run.frame}; "
            f"that update was not applied, and the last checkpoint is whole"
        )


def reset(run: Run) -> None:
    """Fresh networks for every seed; what was learned of observations and returns stays, and so does the replay."""
    run.resets = run.resets_due
    run.learner.reset([run.agent.init(generator(one.seed, Purpose.INIT, run.resets)) for one in run.seeds])
    run.view.message(f"reset {run.resets} of the networks at frame {run.frame:,}")


def log(run: Run) -> None:
    """One record per seed: the means of the window since the last one."""
    now = time.monotonic()
    window, run.window_started = now - run.window_started, now
    updates = run.settings.updates(run.step)
    learning = run.step - run.settings.resolved("learning_starts")
    for i, (one, means) in enumerate(zip(run.seeds, run.learner.means(), strict=True)):
        state = run.learner.seed(i).state
        metrics = means | {
            "train/n_updates": float(updates),
            "train/critic_weight_norm": float(frobenius_norms(state.critic.params).mean()),
            "train/actor_weight_norm": float(frobenius_norms(state.actor.params)),
            "time/fps": (run.step - run.window_step) * run.settings.resolved("action_repeat") / window,
            "time/updates_per_second": (updates - run.settings.updates(run.window_step)) / window,
            "time/time_elapsed": run.elapsed + now - run.started,
        }
        if learning > 0:
            metrics["train/utd"] = updates / learning
        if one.finished:
            metrics["rollout/ep_rew_mean"] = float(np.mean([episode.ret for episode in one.finished]))
            metrics["rollout/ep_len_mean"] = float(np.mean([episode.length for episode in one.finished]))
            one.finished.clear()
        run.logger.write(seed=one.seed, frame=run.frame, metrics=metrics)
        run.view.update(seed=one.seed, frame=run.frame, metrics=metrics)
    run.learner.open_window()
    run.window_step = run.step


def evaluate(run: Run, stop: Stop, *, after_reset: bool = False) -> None:
    """Deterministic episodes of each seed's policy, and a snapshot of its weights; nothing if asked to stop.

    Right after a reset, the episodes of the present evaluation are played again, under names of their own and without
    a snapshot: this is the dip that a regular evaluation just before the reset does not show.
    """
    settings, started = run.settings, time.monotonic()
    first = run.frame // settings.eval_every * settings.eval_episodes
    results = []
    for i, one in enumerate(run.seeds):
        state = tree_map(lambda leaf: leaf.detach().cpu(), run.learner.seed(i).state)
        seeds = [episode_seed(one.seed, Purpose.EVALUATE, first + k) for k in range(settings.eval_episodes)]
        act = mean_action(run.agent, state)
        try:
            episodes = [play(run.evaluation_env, act, seed=s, interrupted=lambda: stop.asked) for s in seeds]
        except Interrupted:
            return
        results.append((summarise(episodes), state))
    if after_reset:
        for one, (metrics, _) in zip(run.seeds, results, strict=True):
            renamed = {name.replace("eval/", "eval_after_reset/"): value for name, value in metrics.items()}
            run.logger.write(seed=one.seed, frame=run.frame, metrics=renamed)
        run.resets_evaluated = run.resets
        return
    seconds = (time.monotonic() - started) / len(results)
    for one, (metrics, state) in zip(run.seeds, results, strict=True):
        meta = {"frame": run.frame, "seed": one.seed, "recipe": settings.recipe, "env": settings.env}
        checkpoint.write_snapshot(snapshot_path(run.folder, one.seed, run.frame), snapshot_tensors(state), meta)
        metrics = metrics | {"time/evaluation_seconds": seconds}
        run.logger.write(seed=one.seed, frame=run.frame, metrics=metrics)
        run.view.update(seed=one.seed, frame=run.frame, metrics=metrics)
    run.evaluated = run.frame


def diagnose(run: Run, examiner: Examiner, stop: Stop) -> None:
    """What each seed's networks are like (see `docs/diagnostics.md`); nothing if asked to stop."""
    results = []
    for i, one in enumerate(run.seeds):
        state = tree_map(lambda leaf: leaf.detach().cpu(), run.learner.seed(i).state)
        try:
            found = examine(
                examiner, state, seed=one.seed, frame=run.frame, replay=one.replay, interrupted=lambda: stop.asked
            )
        except Interrupted:
            return
        results.append(found)
    for one, metrics in zip(run.seeds, results, strict=True):
        run.logger.write(seed=one.seed, frame=run.frame, metrics=metrics)
        run.view.update(seed=one.seed, frame=run.frame, metrics=metrics)
    run.diagnosed = run.frame


def mean_action(agent: Agent, state: State) -> Act:
    """The policy that is evaluated and exported: the mean action, on the CPU."""

    def act(obs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return agent.mode(state, torch.from_numpy(obs)).numpy()

    return act


def save(run: Run) -> None:
    """A checkpoint of every seed at this step; refuses to save numbers that are not finite."""
    offset = run.logger.offset()
    for i, one in enumerate(run.seeds):
        tensors = {name: leaf.detach().cpu() for name, leaf in named_leaves(run.learner.seed(i))}
        for name, leaf in tensors.items():
            if not torch.isfinite(leaf).all():
                raise RunError(f"seed {one.seed}: {name} is not finite at frame {run.frame}; it was not saved")
        stream = {f"stream.{name}": value for name, value in one.stream.snapshot().items()}
        meta = {
            "step": run.step,
            "evaluated": run.evaluated,
            "diagnosed": run.diagnosed,
            "resets": run.resets,
            "resets_evaluated": run.resets_evaluated,
            "critic_updates": run.learner.critic_updates,
            "actor_updates": run.learner.actor_updates,
            "finished": [list(episode) for episode in one.finished],
            "metrics_offset": offset,
            "elapsed": run.elapsed + time.monotonic() - run.started,
        }
        checkpoint.save(
            seed_folder(run.folder, one.seed),
            frame=run.frame,
            tensors={**tensors, **stream},
            meta=meta,
            replay=one.replay,
        )


def restore(run: Run, saved: list[checkpoint.Checkpoint]) -> list[int]:
    """Put a checkpoint of every seed back; the seeds whose environment could not be restored to the bit are returned.

    The replays were filled when the checkpoints were loaded.
    """
    inexact = []
    for i, (one, loaded) in enumerate(zip(run.seeds, saved, strict=True)):
        lane = run.learner.seed(i)
        agent = {name: leaf for name, leaf in loaded.tensors.items() if not name.startswith("stream.")}
        tree_map(lambda old, new: old.copy_(new), lane, from_named(tree_map(Tensor.cpu, lane), agent))
        prefix = len("stream.")
        stream = {n[prefix:]: leaf.numpy() for n, leaf in loaded.tensors.items() if n.startswith("stream.")}
        if not one.stream.restore(stream):
            one.replay.start(one.stream.obs)
            inexact.append(one.seed)
        one.finished = [Episode(*episode) for episode in loaded.meta["finished"]]
    meta = saved[0].meta
    run.step = run.window_step = meta["step"]
    run.evaluated, run.elapsed = meta["evaluated"], meta["elapsed"]
    run.diagnosed = meta.get("diagnosed", -1)  # older runs had neither this nor resets
    run.resets, run.resets_evaluated = meta.get("resets", 0), meta.get("resets_evaluated", 0)
    run.learner.critic_updates, run.learner.actor_updates = meta["critic_updates"], meta["actor_updates"]
    return inexact
