"""What is measured during a run: log records, evaluations, diagnoses. None of it changes training."""

from contextlib import suppress

import numpy as np

from steadyq.algorithm.random import Purpose, episode_seed
from steadyq.algorithm.tree import tree_map
from steadyq.algorithm.weights import frobenius_norms
from steadyq.engine import machine
from steadyq.envs.env import BadStepError, EnvError
from steadyq.examine.diagnosis import Examiner, examine
from steadyq.examine.play import Act, Episode, Interrupted, mean_action, play, summarise
from steadyq.run.save import write_snapshot
from steadyq.run.stop import Stop
from steadyq.run.training import Best, Training
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
    means, tallies = run.learner.means(), run.learner.tallies
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
        if one.counters.finished:
            metrics["rollout/ep_rew_mean"] = float(np.mean([episode.ret for episode in one.counters.finished]))
            metrics["rollout/ep_len_mean"] = float(np.mean([episode.length for episode in one.counters.finished]))
            one.counters.finished.clear()
        troubles = {
            "rollout/bad_steps": one.counters.bad_steps,
            "rollout/env_restarts": one.counters.restarts,
            "train/failed_updates": tallies[i].failed,
        }
        metrics |= {name: float(count) for name, count in troubles.items() if count}
        one.counters.bad_steps = one.counters.restarts = 0
        write(run, one.seed, metrics)
    if any(means) and not run.memory_said:
        run.view.message(f"memory: about {memory_at_the_end(run) / 1e9:.2f} GB at the end")
        run.memory_said = True
    run.learner.open_window()
    run.window_step = run.step


def memory_at_the_end(run: Training) -> float:
    """Bytes: what the process has once updates are made, and the transitions to come."""
    record, capacity = run.record, run.seeds[0].replay.capacity
    size = Replay.bytes_needed(capacity, record.obs_dim, record.action_dim)
    return machine.resident() + sum(size * (1 - one.replay.size / capacity) for _, one in run.active)


def write(run: Training, seed: int, metrics: dict[str, float]) -> None:
    """Into the record and onto the screen; rows that cannot be written wait, which is reported once."""
    run.logger.write(seed=seed, frame=run.frame, metrics=metrics)
    run.view.update(seed=seed, frame=run.frame, metrics=metrics)
    if run.logger.trouble and not run.log_trouble:
        run.view.message(run.logger.trouble)
    run.log_trouble = run.logger.trouble


def evaluate(run: Training, stop: Stop, *, after_reset: bool = False) -> None:
    """Deterministic episodes of each active seed's policy, and a snapshot of its weights; nothing if asked to stop.

    Right after a reset, the episodes of the present evaluation are played again, under names of their own and without
    a snapshot: this is the dip that a regular evaluation just before the reset does not show.
    """
    settings, started = run.settings, run.clock()
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
        results.append((summarise([episode for episode in episodes if episode]), state))
    if after_reset:
        for (_, one), (metrics, _) in zip(run.active, results, strict=True):
            renamed = {name.replace("eval/", "eval_after_reset/"): value for name, value in metrics.items()}
            run.logger.write(seed=one.seed, frame=run.frame, metrics=renamed)
        run.counters.resets_evaluated = run.counters.resets
        return
    seconds = (run.clock() - started) / max(len(results), 1)
    if not run.find_folder():
        return
    for (_, one), (metrics, state) in zip(run.active, results, strict=True):
        write_snapshot(run, one.seed, run.frame, snapshot_tensors(state))
        write(run, one.seed, metrics | {"time/evaluation_seconds": seconds})
        best = one.counters.best
        if run.step and (best is None or metrics["eval/mean_reward"] > best.mean_return):
            one.counters.best = Best(metrics["eval/mean_reward"], run.frame)
            run.save_now = True
    run.counters.evaluated = run.frame


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
                interrupted=lambda: stop.asked,
                patience=patience,
                impatient=impatient,
            )
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
    results = []
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
                interrupted=lambda: stop.asked,
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
