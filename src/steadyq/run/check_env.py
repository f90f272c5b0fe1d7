"""Check an environment before training on it: what `train` would refuse, in the same words, and what else to fix."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

from rich.table import Table
from rich.text import Text

from steadyq import output
from steadyq.envs import guard
from steadyq.envs.check import SECONDS, Finding, findings
from steadyq.envs.env import NoAnswerError, Spec
from steadyq.envs.source import Source
from steadyq.errors import InputError, RunError
from steadyq.run.choices import settings_of
from steadyq.run.go import check_memory
from steadyq.run.train import record_of
from steadyq.settings import CHECK_TIMEOUT, SETTINGS, Settings, take
from steadyq.store.replay import Replay

RECIPE = "crossq_wn"
"""Whose defaults a run is taken to have."""

STYLES = {"ok": "green", "note": "yellow", "refused": "red"}


def check_env(
    env: Source,
    *,
    action_repeat: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    single_env: bool = False,
    env_timeout: float = CHECK_TIMEOUT,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Finding]:
    """Play an environment and print what there is to say about it; the same as `steadyq check-env`.

    It is reset and stepped with random actions, for four episodes or twenty seconds.

    Args:
        env: as for `steadyq.train`, as are the next four.
        action_repeat: frames per agent step.
        env_kwargs: arguments of the environment's constructor.
        max_episode_steps: frames after which an episode is cut off.
        single_env: make one and not two.
        env_timeout: seconds after which an environment that does not answer is refused; 0 for never.
        clock: tells seconds.

    Returns:
        The checks in order, each `ok`, a `note`, or `refused`: `train` cannot use it.
    """
    choices = {
        "action_repeat": action_repeat,
        "env_kwargs": env_kwargs,
        "max_episode_steps": max_episode_steps,
        "single_env": single_env,
        "env_timeout": env_timeout,
    }
    found = list(_findings(env, choices, clock))
    show(found)
    return found


def _findings(env: Source, choices: Mapping[str, Any], clock: Callable[[], float]) -> Iterator[Finding]:
    frames: int = SETTINGS["frames"].default
    try:
        repeat = take("action_repeat", choices["action_repeat"]) or 1  # of which a run's frames are a multiple
        choices = {**choices, "frames": frames - frames % repeat}
        settings, source = settings_of(RECIPE, env=env, choices=choices), None if isinstance(env, str) else env
        with closing(guard.of_run(settings, source)) as made:
            yield of_spaces(made.spec)
            yield of_memory(settings, made.spec)
            output.say(f"{settings.env} is played with random actions, for {SECONDS:.0f} s at most")
            with closing(made if settings.single_env else guard.of_run(settings, source)) as spare:
                yield from findings(made, spare, clock=clock)
    except NoAnswerError as error:
        yield Finding("answers", "refused", str(error), "fix it, or give it longer with --env-timeout")
    except (InputError, RunError) as error:
        yield Finding("environment", "refused", str(error))


def of_spaces(spec: Spec) -> Finding:
    """What a run would see and do."""
    bounds = {f"[{low:.4g}, {high:.4g}]": None for low, high in zip(spec.action_low, spec.action_high, strict=True)}
    numbers, actions = output.plural(spec.obs_dim, "number"), output.plural(spec.action_dim, "action")
    held = output.plural(spec.action_repeat, "frame")
    return Finding("spaces", "ok", f"{numbers} observed, {actions} in {', '.join(bounds)}; {held} per agent step")


def of_memory(settings: Settings, spec: Spec) -> Finding:
    """Whether a run of the default length fits."""
    try:
        check_memory(record_of(settings, spec))
    except InputError as error:
        return Finding("memory", "refused", str(error))
    size = Replay.bytes_needed(settings.capacity(), spec.obs_dim, spec.action_dim)
    return Finding("memory", "ok", f"{size / 1e9:.2f} GB for the replay of a run of {settings.frames:,} frames")


def show(found: list[Finding]) -> None:
    """Print a table of the checks, what to do below each that is not ok, and one closing sentence."""
    console = output.console()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for one in found:
        style = STYLES[one.state]
        table.add_row(one.subject, Text(one.state, style), output.safe(one.found))
        if one.advice:
            table.add_row("", "", Text(f"-> {output.safe(one.advice)}", style))
    console.print(table)
    if any(one.state == "refused" for one in found):
        console.print("\n`steadyq train` cannot use this environment.")
    else:
        console.print("\n`steadyq train` takes this environment.")
