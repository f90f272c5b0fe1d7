"""Agent steps per second of whole training, and where the time goes."""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import steadyq
from benchmarks.rows import Row, row, table
from steadyq.engine.learner import Learners
from steadyq.envs.episodes import EpisodeStream
from steadyq.run import loop
from steadyq.store.replay import Replay

PARTS: dict[str, list[tuple[Any, str]]] = {
    "env": [(EpisodeStream, "step"), (EpisodeStream, "next_episode")],
    "policy": [(loop, "choose")],
    "sampling": [(Replay, "sample"), (loop, "draw")],
    "replay": [(Replay, "add")],
    "update": [(Learners, "update")],
    "evaluation": [(loop, "evaluate")],
    "logging": [(loop, "log")],
    "saving": [(loop, "save")],
}
NOW_AND_THEN = {"evaluation": 25_000, "logging": 5_000, "saving": 10_000}
"""Frames between two of them by default; their cost per call is spread over as many."""

OVERHEAD = ("policy", "sampling", "replay", "logging", "saving", "rest")
"""What is neither the environment's nor the updates' nor the evaluation's."""

CASES = [(env, utd, 600 if utd == 10 else 2_000) for env in ("cheetah-run", "dog-run") for utd in (1, 2, 10)]
"""Environment, UTD, agent steps."""

SKIPPED = 20  # updates: the first ones compile


class Clock:
    """Charges time to the innermost part that is running, from the `SKIPPED`th update on."""

    def __init__(self) -> None:
        self.stack, self.updates = ["rest"], 0
        self.restart()

    def restart(self) -> None:
        """Forget what was charged."""
        self.spent = dict.fromkeys([*PARTS, "rest"], 0.0)
        self.calls = dict.fromkeys(PARTS, 0)
        self.since = time.perf_counter()

    def charge(self) -> None:
        """Charge what has passed to the part that is running."""
        now = time.perf_counter()
        self.spent[self.stack[-1]] += now - self.since
        self.since = now

    def around(self, part: str, function: Callable) -> Callable:
        """The function, charged to a part."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.charge()
            self.stack.append(part)
            self.calls[part] += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.charge()
                self.stack.pop()
                self.updates += part == "update"
                if part == "update" and self.updates == SKIPPED:
                    self.restart()

        return timed


@contextlib.contextmanager
def timed(clock: Clock) -> Iterator[None]:
    """Within, the parts of the training loop report to the clock."""
    places = [(part, owner, name) for part, functions in PARTS.items() for owner, name in functions]
    originals = [getattr(owner, name) for _, owner, name in places]
    try:
        for (part, owner, name), function in zip(places, originals, strict=True):
            setattr(owner, name, clock.around(part, function))
        yield
    finally:
        for (_, owner, name), function in zip(places, originals, strict=True):
            setattr(owner, name, function)


def measure() -> list[Row]:
    """Train `crossq_wn` in each case, with one evaluation, some log records and a checkpoint."""
    rows = []
    for env, utd, steps in CASES:
        warm_up, clock = 300, Clock()
        frames = 2 * (warm_up + SKIPPED + steps)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), timed(clock):
            steadyq.train(
                "crossq_wn",
                env=env,
                utd=utd,
                learning_starts=warm_up,
                frames=frames,
                eval_every=frames,
                log_every=frames // 4,
                out=Path(folder, "run"),
            )
            clock.charge()
        for part, seconds in clock.spent.items():
            if part in NOW_AND_THEN:
                seconds *= steps / max(1, clock.calls[part]) / (NOW_AND_THEN[part] / 2)
            rows.append(row("loop", f"env={env} utd={utd}", part, "ms per agent step", [1e3 * seconds / steps]))
    return rows


def report(rows: list[Row]) -> str:
    """Markdown: a line per case."""
    parts = [*PARTS, "rest"]
    lines = []
    for env, utd, _ in CASES:
        spent = {r.metric: r.median for r in rows if r.part == "loop" and r.case == f"env={env} utd={utd}"}
        total, overhead = sum(spent.values()), sum(spent[part] for part in OVERHEAD)
        cells = [f"{spent[part]:.2f}" for part in parts]
        lines.append([env, utd, f"{1e3 / total:.0f}", *cells, f"{overhead / total:.1%}"])
    text = "Whole training of `crossq_wn`, milliseconds per agent step by where they go:\n\n"
    text += table(["env", "UTD", "agent steps/s", *parts, "overhead"], lines)
    return text + (
        "\n*Overhead* is all but environment, updates and evaluation. Evaluations (5 episodes), log records and "
        "checkpoints are counted as often as the defaults make them.\n"
    )
