"""The loop of one run: act, step, store, sample, learn; then log, evaluate and save what is due.

What is due is an explicit `if` on the step counter, and every random draw is a function of (seed, purpose, step): so a
run that was stopped and resumed, extended, evaluated more often or trained next to other seeds takes the same steps.
"""

from functools import partial

import numpy as np
import torch

from steadyq.algorithm.random import Purpose, generator
from steadyq.engine.learner import acting_noise, draw, warm_up_action
from steadyq.envs.env import BadStepError, EnvError
from steadyq.examine.play import Episode
from steadyq.run.measure import diagnose, evaluate, log, so_far
from steadyq.run.save import save
from steadyq.run.stop import Stop
from steadyq.run.training import Seed, Training
from steadyq.store.names import AFTER_RESET, AT_THE_END

POLL = 0.1  # seconds between two looks at whether to stop, while the updates are compiled


def loop(run: Training, stop: Stop) -> bool:
    """Go on until the run's end or until asked to stop; True if nothing is left to do. Saved either way.

    Raises:
        RunError: afterwards, if the run came to a bad end, a seed was given up or the last save failed.
        Exception: afterwards, whatever a callback of the user's has raised.
    """
    settings, resumed_at, look = run.settings, run.step, partial(so_far, run)
    while True:
        moved = run.step > resumed_at
        if moved and run.crosses(settings.log_every):
            log(run)
        if run.evaluation_due:
            evaluate(run, stop)
        if run.examiner and run.diagnosis_due and not run.raised:
            diagnose(run, run.examiner, stop)
        if run.reset_due and not (stop.asked or run.over):  # an evaluation that was cut off comes first, on resuming
            reset(run)
        if run.reset_evaluation_due:
            evaluate(run, stop, AFTER_RESET)
        ended = run.step >= settings.agent_steps or not run.active
        if run.learner.compiling and not ended and settings.updates(run.step) < settings.updates(run.step + 1):
            run.view.message("waiting until the updates are compiled, once; this takes a minute or two")
            run.view.pause("compiling the updates")
            while run.learner.compiling and not (stop.asked or run.over):
                run.learner.wait(POLL)
                run.view.tick()
        leaving = ended or stop.asked or run.over != ""
        if (leaving and not run.end_evaluated) or (moved and run.save_due):
            save(run)
        if run.end_evaluation_due:
            evaluate(run, stop, AT_THE_END)
        if leaving:
            run.check_over()
            to_do = run.evaluation_due or run.diagnosis_due or run.reset_evaluation_due or run.end_evaluation_due
            return ended and not to_do
        if settings.single_env and run.seeds[0].stream.ended:
            begin_episode(run, run.seeds[0])
            if run.over:
                continue
        act_and_store(run)
        learn(run)
        run.counters.step += 1
        run.view.progress(run.frame, look)


def act_and_store(run: Training) -> None:
    """One agent step in each active seed's environment, into its replay."""
    gamma = run.settings.resolved("gamma")
    rewards, ends = np.zeros(len(run.seeds), np.float32), np.zeros(len(run.seeds), np.float32)
    actions = choose(run)
    for i, one in run.active:
        rewards[i], ends[i] = take_step(run, one, actions[i], gamma)
    if run.agent.observes:
        obs = torch.from_numpy(np.stack([one.stream.obs for one in run.seeds]))
        run.learner.observe(obs, torch.from_numpy(rewards), torch.from_numpy(ends), gamma)


def take_step(run: Training, one: Seed, action: np.ndarray, gamma: float) -> tuple[float, bool]:
    """One agent step of one seed: its reward, and whether the episode ended with it.

    A step that the environment did not come through is not stored, and ends its episode as if it had been cut off.
    """
    try:
        step = one.stream.step(action)
    except BadStepError as error:
        run.tolerate(error)
        one.counters.bad_steps += 1
        after_episode(run, one)
        return 0.0, True
    except EnvError as error:
        if run.may_restart(error):
            one.counters.restarts += 1
            begin_episode(run, one, fresh=True)
        return 0.0, True
    last = step.terminated or step.truncated
    one.replay.add(action, step.reward, 0.0 if step.terminated else gamma, step.obs, last=last)
    if last:
        one.counters.finished.append(Episode(one.stream.episode_return, one.stream.length))
        after_episode(run, one)
    return step.reward, last


def after_episode(run: Training, one: Seed) -> None:
    """Go on with the next episode; of a single environment, not before the loop has seen whether to evaluate in it."""
    if not run.settings.single_env:
        begin_episode(run, one)


def begin_episode(run: Training, one: Seed, *, fresh: bool = False) -> None:
    """The next episode of a seed that starts at all, unless the run is over before there is one."""
    while True:
        try:
            one.replay.start(one.stream.next_episode(fresh=fresh))
            return
        except BadStepError as error:  # of a first observation
            run.tolerate(error)
            one.counters.bad_steps += 1
            if not run.may_restart(error):
                return
        except EnvError as error:
            if not run.may_restart(error):
                return
        one.counters.restarts += 1
        fresh = True


def choose(run: Training) -> np.ndarray:
    """An action per seed [S, A]: uniform during the warm-up, unless there is a trained policy, then from the policy."""
    size = run.record.action_dim
    if run.step < run.settings.resolved("learning_starts") and run.settings.init_from is None:
        return np.stack([warm_up_action(one.seed, run.step, size) for one in run.seeds])
    noise = torch.stack([acting_noise(one.seed, run.step, size) for one in run.seeds])
    obs = torch.from_numpy(np.stack([one.stream.obs for one in run.seeds]))
    return run.learner.act(obs, noise).numpy()


def learn(run: Training) -> None:
    """The updates due after this agent step, for all seeds."""
    first, end = run.settings.updates(run.step), run.settings.updates(run.step + 1)
    if first == end:
        return
    if any(one.replay.size == 0 for one in run.seeds):
        nothing = f"{run.settings.env} has not come through one step by frame {run.frame:,}: nothing to learn from"
        run.over = run.over or nothing
        return
    due, size = [step.due(first, end) for step in run.agent.steps], run.settings.resolved("batch_size")
    draws = [draw(run.agent, one.sample, seed=one.seed, step=run.step, due=due, size=size) for one in run.seeds]
    run.learner.update(draws, due)
    tallies = run.learner.tallies
    for i, one in run.active:
        if tallies[i].given_up:
            one.counters.given_up_at = run.frame
            run.view.message(f"seed {one.seed} is given up: {tallies[i].failure} is not finite")
            run.save_now = True


def reset(run: Training) -> None:
    """Fresh networks for every seed; what was learned of observations and returns stays, and so does the replay."""
    resets = run.counters.resets = run.resets_due
    run.learner.reset([run.agent.init(generator(one.seed, Purpose.INIT, resets)) for one in run.seeds])
    run.view.message(f"reset {resets} of the networks at frame {run.frame:,}")
