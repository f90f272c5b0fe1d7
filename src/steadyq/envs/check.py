"""What there is to say about an environment before anything is trained on it: found out by playing it."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from steadyq.envs.env import BadStepError, EnvError, NoAnswerError, Spec
from steadyq.envs.guard import Guarded, repeats
from steadyq.envs.gymnasium import GymnasiumEnv
from steadyq.output import plural

EPISODES = 4  # played at most
SECONDS = 20.0  # after which no further step is played
SLOW = 0.02  # seconds of a frame: a million of them take six hours

NUMBERS = "fiub"  # kinds of NumPy's types

OWN_DRAWS = "call super().reset(seed=seed) and draw from self.np_random alone"


class Finding(NamedTuple):
    """One check: what it was about, how it went, what was found, and what to do if it is not `ok`."""

    subject: str
    state: Literal["ok", "note", "refused"]  # refused: `train` would not begin
    found: str
    advice: str = ""


@dataclass
class Played:
    """What was seen while random actions were played."""

    resets: list[float] = field(default_factory=list)  # seconds of each
    steps: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    ends: list[tuple[int, bool]] = field(default_factory=list)  # of each episode: its agent steps, whether terminated
    error: BadStepError | EnvError | None = None  # what ended it


def findings(env: Guarded, spare: Guarded, *, clock: Callable[[], float]) -> Iterator[Finding]:
    """Check an environment.

    Args:
        env: the environment.
        spare: another one of the same kind, or the same again where there is to be only one.
        clock: tells seconds.

    Raises:
        NoAnswerError: it has not answered in time.
    """
    watch = watched(env)
    played = play(env, clock=clock)
    if not played.steps:
        if isinstance(played.error, EnvError):
            yield Finding("first step", "refused", str(played.error), "fix the environment")
        else:
            yield of_numbers(played)
        return
    if watch is not None:
        yield from watch.findings()
    yield of_rewards(played)
    yield of_numbers(played)
    yield of_episodes(played, env.spec)
    yield of_speed(played, env.spec)
    if played.error is None:
        yield of_seeds(env)
        yield of_repetition(env, spare)


def play(env: Guarded, *, clock: Callable[[], float]) -> Played:
    """Play random actions, as the warm-up of a run does, for a few episodes or some seconds."""
    rng, played = np.random.default_rng(0), Played()
    begun = clock()
    try:
        for episode in range(EPISODES):
            before = clock()
            env.reset(episode)
            played.resets.append(clock() - before)
            ended, length = False, 0
            while not ended and (not played.steps or clock() - begun < SECONDS):
                action = rng.uniform(-1, 1, env.spec.action_dim).astype(np.float32)
                before = clock()
                step = env.step(action)
                played.steps.append(clock() - before)
                played.rewards.append(step.reward)
                ended, length = step.terminated or step.truncated, length + 1
            if not ended:
                break
            played.ends.append((length, step.terminated))
    except NoAnswerError:
        raise
    except (BadStepError, EnvError) as error:
        played.error = error
    return played


def of_rewards(played: Played) -> Finding:
    """Whether rewards can teach anything."""
    low, high = min(played.rewards), max(played.rewards)
    found = f"from {low:.3g} to {high:.3g} in {plural(len(played.rewards), 'step')} of random actions"
    if low == high:
        advice = "expect slow learning where success is so rare; better reward what leads to it, too"
        return Finding("rewards", "note", f"always {low:.3g} in {plural(len(played.rewards), 'step')}", advice)
    return Finding("rewards", "ok", found)


def of_numbers(played: Played) -> Finding:
    """Whether all that it gave can be learned from."""
    if played.error is None:
        return Finding("numbers", "ok", "all observations and rewards were finite; nothing failed")
    place = f"after {plural(len(played.steps), 'step')}: {played.error}"
    if isinstance(played.error, BadStepError):
        advice = "fix it; a run stops there, or with --on-bad-step end-episode ends that episode"
    else:
        advice = "fix it; a run replaces the environment with a fresh one, ten times an hour at most"
    return Finding("numbers", "note", place, advice)


def of_episodes(played: Played, spec: Spec) -> Finding:
    """Whether episodes end, and time limits are told from ends."""
    limit, frames = spec.episode_frames, [length * spec.action_repeat for length, _ in played.ends]
    known = "no time limit is announced" if limit is None else f"time limit {limit:,} frames"
    words = f"{known}; {plural(len(frames), 'episode')} of {_from_to(frames)} frames"
    if not played.ends:
        words = f"{known}; none ended within {plural(len(played.steps), 'step')}"
        if limit is None:
            advice = "register it with max_episode_steps, or give --max-episode-steps: no episode might ever end"
            return Finding("episodes", "note", words, advice)
        if played.error is None:
            return Finding("episodes", "note", words, "expect few episodes, or make its steps quicker")
    terminated = [length for length, (_, final) in zip(frames, played.ends, strict=True) if final]
    at_limit = limit is not None and max(terminated, default=0) >= limit
    if at_limit or (len(frames) > 1 == len({*frames}) and terminated == frames):
        advice = (
            "if this is a time limit, return truncated=True and terminated=False there; a terminated state is worth 0"
        )
        where = "terminated at the limit" if at_limit else "all of them terminated"
        return Finding("episodes", "note", f"{words}, {where}", advice)
    if limit is None and terminated == frames:
        advice = "give --max-episode-steps, or register it with max_episode_steps: a good policy might meet no such end"
        return Finding("episodes", "note", f"{words}, all of them terminated", advice)
    return Finding("episodes", "ok", words)


def of_speed(played: Played, spec: Spec) -> Finding:
    """How long it takes, which updates of the networks add to."""
    frame = statistics.fmean(played.steps) / spec.action_repeat
    found = f"{_ms(frame)} a frame (a step at most {_ms(max(played.steps))}), {_ms(max(played.resets))} a reset"
    if frame:
        found += f": {1 / frame:,.0f} frames/s before any updates"
    if spec.frame_seconds and frame:
        found += f", {spec.frame_seconds / frame:,.3g} times real time"
    if frame > SLOW:
        advice = f"1,000,000 frames take {frame * 1e6 / 3600:,.0f} hours; give fewer --frames, and more --utd for each"
        return Finding("speed", "note", found, advice)
    return Finding("speed", "ok", found)


def of_seeds(env: Guarded) -> Finding:
    """Whether a seed decides how an episode starts."""
    first, other, again = env.reset(0).tobytes(), env.reset(1).tobytes(), env.reset(0).tobytes()
    if first != again:
        return Finding("seeds", "note", "one seed starts different episodes", f"in its reset, {OWN_DRAWS}")
    if first == other:
        advice = f"if episodes are to differ, {OWN_DRAWS} in its reset"
        return Finding("seeds", "note", "every seed starts the same episode", advice)
    return Finding("seeds", "ok", "a seed names the start of an episode")


def of_repetition(env: Guarded, spare: Guarded) -> Finding:
    """Whether a run that is resumed could play on where it was."""
    if repeats(env, spare):
        return Finding("repetition", "ok", "same seed and actions, same numbers: runs resume bit-exactly")
    advice = f"{OWN_DRAWS}, and keep nothing beyond a reset; of a robot this cannot be expected"
    return Finding("repetition", "note", "same seed and actions, other numbers: runs resume with a new episode", advice)


class Watch(gymnasium.Wrapper):
    """Sees what an environment itself returns, before it is flattened, converted and copied."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.converted: dict[str, str] = {}  # by key: what was announced and what came
        self.outside: dict[str, str] = {}  # by key: the last number beyond its bounds
        self.odd: dict[str, str] = {}  # what else is of another type than Gymnasium's
        self.aliased = False
        self._last: list[tuple[np.ndarray, np.ndarray]] = []  # what was returned last, and as what

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        answer: Any = self.env.reset(**arguments)
        if isinstance(answer, tuple) and len(answer) == 2:  # else `GymnasiumEnv` tells what is wrong
            self._look(answer[0])
        return answer

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        answer: Any = self.env.step(action)
        if not isinstance(answer, tuple) or len(answer) != 5:
            return answer
        obs, reward, terminated, truncated, _ = answer
        self._look(obs)
        for name, value, wanted in (
            ("reward", reward, (float, int, np.floating, np.integer)),
            ("terminated", terminated, (bool, np.bool_)),
            ("truncated", truncated, (bool, np.bool_)),
        ):
            if not isinstance(value, wanted):
                self.odd[name] = f"{name} is {type(value).__name__}, not {wanted[0].__name__}"
        return answer

    def findings(self) -> Iterator[Finding]:
        """What was seen."""
        if odd := [*self.converted.values(), *self.odd.values()]:
            yield Finding("types", "note", f"{'; '.join(odd)}: converted", "return what the spaces announce")
        else:
            yield Finding("types", "ok", "observations, rewards and ends are of the types that are announced")
        if self.outside:
            advice = "give the space the bounds that hold; training does not use them"
            yield Finding("bounds", "note", "; ".join(self.outside.values()), advice)
        else:
            yield Finding("bounds", "ok", "observations stayed within their space")
        if self.aliased:
            advice = "return a copy; steadyq makes one of its own, other libraries may not"
            yield Finding("aliasing", "note", "an observation changed after it was returned", advice)
        else:
            yield Finding("aliasing", "ok", "observations stay as they were returned")

    def _look(self, obs: Any) -> None:
        self.aliased |= any(not np.array_equal(now, then, equal_nan=True) for now, then in self._last)
        self._last = []
        for key, space, value in parts(self.env.observation_space, obs):
            got = np.asarray(value)
            if isinstance(value, np.ndarray) and value.dtype.kind in NUMBERS:
                self._last.append((value, value.copy()))
            if (got.dtype, got.shape) != (space.dtype, space.shape):
                self.converted[key] = f"{key} is {got.dtype} {got.shape}, announced as {space.dtype} {space.shape}"
            if got.shape != space.shape or got.dtype.kind not in NUMBERS:
                continue
            beyond = (got < space.low) | (got > space.high)
            if beyond.any():
                low, high, number = space.low[beyond][0], space.high[beyond][0], got[beyond][0]
                self.outside[key] = f"{key} was {number:.4g}, beyond [{low:.4g}, {high:.4g}]"


def watched(env: Guarded) -> Watch | None:
    """Put a watch between a Gymnasium environment and what flattens its observations; none for others."""
    bare = env._alive()
    if not isinstance(bare, GymnasiumEnv):
        return None
    watch = bare._env = Watch(bare._env)
    return watch


def parts(space: spaces.Space, obs: Any, key: str = "") -> Iterator[tuple[str, spaces.Box, Any]]:
    """The (key, box, value) of every part of an observation that is there."""
    if isinstance(space, spaces.Dict):
        for name, inner in space.spaces.items():
            if isinstance(obs, Mapping) and name in obs:
                yield from parts(inner, obs[name], f"{key}/{name}" if key else str(name))
    elif isinstance(space, spaces.Box):
        yield key or "observation", space, obs


def _from_to(numbers: list[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
