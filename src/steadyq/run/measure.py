"""What is measured during a run: log records, evaluations, diagnoses. None of it changes training."""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import numpy as np

from steadyq.algorithm.random import Purpose, episode_seed
from steadyq.algorithm.tree import tree_map
from steadyq.algorithm.weights import frobenius_norms
from steadyq.engine import machine
from steadyq.envs.env import BadStepError, EnvError
from steadyq.errors import InputError
from steadyq.examine.diagnosis import Examiner, examine
from steadyq.examine.play import Act, Episode, Interrupted, endless, mean_action, play, summarise
from steadyq.run.save import write_snapshot
from steadyq.run.stop import Stop
from steadyq.run.training import Best, Seed, Training
from steadyq.store.metrics_csv import Row
from steadyq.store.names import (
    AFTER_RESET,
    AT_THE_END,
    EPISODES,
    EVALUATION,
    EVALUATION_SECONDS,
    REGULAR,
    in_a_curve,
)
from steadyq.store.replay import Replay
from steadyq.store.snapshot import snapshot_tensors
from steadyq.store.state import resume_command

PATIENCE, FIRST = 10, 1_000
"""An episode of an evaluation that is so many times as long as the longest so far is reported; the first one, if it is
so many times as long as so many agent steps."""


def log(run: Training) -> None:
    """One record per active seed: the means of the window since the last one. What went wrong is there if it did."""
    now = run.clock()
    window, run.window_started = now - run.window_started, now
    updates = run.settings.updates(run.step)
    learning = run.step - run.settings.resolved("learning_starts")
    means, tallies, rows = run.learner.means(), run.learner.tallies, list[Row]()
    for i, one in run.active:
        norms = {
            name: frobenius_norms(net.params) for name, net in run.agent.networks(run.learner.seed(i).state).items()
        }
        metrics = means[i] | {f"train/{name}_weight_norm": float(norm.mean()) for name, norm in norms.items()}
        metrics |= {
            "train/n_updates": float(updates),
            "time/fps": (run.step - run.window_step) * run.settings.resolved("action_repeat") / window,
            "time/updates_per_second": (updates - run.settings.updates(run.window_step)) / window,
            "time/time_elapsed": run.elapsed + now - run.started,
        }
        if learning > 0:
            metrics["train/utd"] = updates / learning
        metrics |= of_episodes(one)
        one.counters.finished.clear()
        troubles = {
            "rollout/bad_steps": one.counters.bad_steps,
            "rollout/env_restarts": one.counters.restarts,
            "train/failed_updates": tallies[i].failed,
        }
        metrics |= {name: float(count) for name, count in troubles.items() if count}
        one.counters.bad_steps = one.counters.restarts = 0
        rows += write(run, one.seed, metrics)
    if any(means) and not run.memory_said:
        run.view.message(f"memory: about {memory_at_the_end(run) / 1e9:.2f} GB at the end")
        run.memory_said = True
    run.learner.open_window()
    run.window_step = run.step
    run.tell(run.callbacks.on_log, rows)


def so_far(run: Training) -> dict[int, dict[str, float]]:
    """What a log record at this step would have of updates and episodes, by seed; asks the device."""
    means = run.learner.means()
    return {one.seed: means[i] | of_episodes(one) for i, one in run.active}


def of_episodes(one: Seed) -> dict[str, float]:
    """The means of the episodes since the last log record; nothing if there were none."""
    finished = one.counters.finished
    if not finished:
        return {}
    return {
        EPISODES: float(np.mean([episode.ret for episode in finished])),
        "rollout/ep_len_mean": float(np.mean([episode.length for episode in finished])),
    }


def memory_at_the_end(run: Training) -> float:
    """Bytes: what the process has once updates are made, and the transitions to come."""
    record, capacity = run.record, run.seeds[0].replay.capacity
    size = Replay.bytes_needed(capacity, record.obs_dim, record.action_dim)
    return machine.resident() + sum(size * (1 - one.replay.size / capacity) for _, one in run.active)


def write(run: Training, seed: int, metrics: Mapping[str, float]) -> list[Row]:
    """Into the record and onto the screen; rows that cannot be written wait, which is reported once."""
    rows = run.logger.write(seed=seed, frame=run.frame, metrics=metrics)
    curves = {in_a_curve(name): value for name, value in metrics.items()}
    run.view.update(seed=seed, frame=run.frame, metrics=curves)
    if run.logger.trouble and not run.log_trouble:
        run.view.message(run.logger.trouble)
    run.log_trouble = run.logger.trouble
    return rows


def evaluate(run: Training, stop: Stop, which: str = REGULAR) -> None:
    """Deterministic episodes of each active seed's policy, and a snapshot of its weights; nothing if asked to stop.

    Under the names that begin with `which`. Right after a reset, the episodes of the present evaluation are played
    again, without a snapshot: this is the dip that a regular evaluation just before the reset does not show. What is
    measured at the end is not part of what a run resumes from: no counter takes note of it, and its rows come after
    the last checkpoint, so that a run that is extended is the longer run.
    """
    settings, started = run.settings, run.clock()
    run.view.pause("evaluating")
    if settings.single_env:
        run.seeds[0].stream.leave()
    first = run.frame // settings.eval_every * settings.eval_episodes
    results = []
    for i, one in run.active:
        state = tree_map(lambda leaf: leaf.detach().cpu(), run.learner.seed(i).state)
        seeds = [episode_seed(one.seed, Purpose.EVALUATE, first + k) for k in range(settings.eval_episodes)]
        act = mean_action(run.agent, state)
        episodes = [whole_episode(run, act, seed, stop) for seed in seeds]
        if any(episode is None for episode in episodes):
            return
        metrics = summarise([episode for episode in episodes if episode])
        results.append(({which + name.removeprefix(REGULAR): value for name, value in metrics.items()}, state))
    seconds = (run.clock() - started) / max(len(results), 1)
    if not run.find_folder():
        return
    rows = list[Row]()
    for (_, one), (metrics, state) in zip(run.active, results, strict=True):
        if which != AFTER_RESET:
            write_snapshot(run, one.seed, run.frame, snapshot_tensors(state), quiet=which == AT_THE_END)
            metrics[EVALUATION_SECONDS] = seconds
        if which == AT_THE_END and run.unwritten:  # `check_over` reports it; a resumed run evaluates its end anew
            return
        rows += write(run, one.seed, metrics)
        best = one.counters.best
        if which == REGULAR and run.step and (best is None or metrics[EVALUATION] > best.mean_return):
            one.counters.best = Best(metrics[EVALUATION], run.frame)
            run.save_now = True
    if which == REGULAR:
        run.counters.evaluated = run.frame
    elif which == AFTER_RESET:
        run.counters.resets_evaluated = run.counters.resets
    run.tell(run.callbacks.on_evaluation, rows)


def interrupted(run: Training, stop: Stop) -> bool:
    """Whether asked to stop, for whoever is busy for long; the view meanwhile shows that time passes."""
    run.view.tick()
    return stop.asked


def whole_episode(run: Training, act: Act, seed: int, stop: Stop) -> Episode | None:
    """One episode of an evaluation; None if asked to stop, or the run is over.

    One that fails is played again in a fresh environment. If it fails there too, it always would, and each resumed run
    would come to it again: with `--on-bad-step end-episode` it is taken as failed, and otherwise the run is over.
    """
    tolerant, played = run.settings.on_bad_step == "end-episode", 0
    patience = PATIENCE * (run.longest or FIRST)

    def impatient() -> None:
        run.view.message(
            f"an episode of the evaluation at frame {run.frame:,} has taken {patience:,} agent steps so far, and the "
            f"longest before it {run.longest:,}; if it never ends, stop the run and give --max-episode-steps"
        )

    while not (stop.asked or run.over):
        try:
            if run.evaluation_failed:
                run.evaluation_env.restart()
                run.evaluation_failed = False
        except EnvError as error:
            run.may_restart(error)
            continue
        try:
            episode = play(
                run.evaluation_env,
                act,
                seed=seed,
                bad_step_ends=tolerant,
                interrupted=partial(interrupted, run, stop),
                patience=patience,
                impatient=impatient,
            )
            if endless(episode, run.evaluation_env):
                frames = episode.length * run.evaluation_env.spec.action_repeat
                words = f"an episode of {run.settings.env} has not ended after {frames:,} frames"
                if not run.step:
                    raise InputError(f"{words}; give --max-episode-steps")
                run.view.message(f"{words}: it is cut off there, and so will be others of the evaluations")
            run.longest = max(run.longest, episode.length)
            return episode
        except Interrupted:
            return None
        except BadStepError as error:  # of a first observation, or not to be tolerated
            run.tolerate(error)
            return Episode(0.0, 0, bad=True)
        except EnvError as error:
            run.evaluation_failed, played = True, played + 1
            if run.settings.single_env or (played == 1 and not tolerant):
                run.may_restart(error)
            elif played == 1:  # not counted: of many episodes each may fail, and training goes on
                run.show_frames(error)
                run.view.message(f"{error}; a fresh environment takes its place")
            elif tolerant:
                run.view.message(f"{error}, again in a fresh one; an episode of the evaluation at {run.frame:,} failed")
                return Episode(0.0, 0, failed=True)
            else:
                command = resume_command(run.folder, vars(run.settings), on_bad_step="end-episode")
                run.over = (
                    f"{error}, again in a fresh one: an episode of the evaluation at frame {run.frame:,} cannot be "
                    f"played; `{command}` would take it as failed"
                )
    return None


def diagnose(run: Training, examiner: Examiner, stop: Stop) -> None:
    """What each active seed's networks are like (see `docs/diagnostics.md`); nothing if asked to stop."""
    results, asked = [], partial(interrupted, run, stop)
    run.view.pause("diagnosing")
    for i, one in run.active:
        state = tree_map(lambda leaf: leaf.detach().cpu(), run.learner.seed(i).state)
        try:
            found = examine(
                examiner,
                state,
                seed=one.seed,
                frame=run.frame,
                replay=one.replay,
                earlier=run.record.prefilled(one.seed),
                interrupted=asked,
            )
        except Interrupted:
            return
        except (BadStepError, EnvError) as error:
            run.view.message(f"no diagnosis of seed {one.seed} at frame {run.frame:,}: {error}")
            with suppress(EnvError):  # the next diagnosis reports it, and tries again
                examiner.env.restart()
            continue
        results.append((one, found))
    for one, metrics in results:
        write(run, one.seed, metrics)
    run.counters.diagnosed = run.frame
