"""Seconds until something happens: `import steadyq`, `--help`, lists, the first environment step, the first update."""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.rows import Row, milliseconds, row, spread, table

PROGRAM = """
import sys, time
started = time.perf_counter()
import steadyq
from steadyq.engine.learner import Learners
from steadyq.envs.episodes import EpisodeStream

def first(owner, name, word):
    function, seen = getattr(owner, name), []
    def wrapped(*args, **kwargs):
        result = function(*args, **kwargs)
        if not seen:
            seen.append(1)
            print(word, time.perf_counter() - started, file=sys.stderr)
        return result
    setattr(owner, name, wrapped)

first(EpisodeStream, "step", "step")
first(Learners, "update", "update")
steadyq.train("crossq_wn", env="walker-run", frames=%d, learning_starts=%d, eval_every=0, out=sys.argv[1])
"""


def measure(rounds: int = 3) -> list[Row]:
    """Each in fresh processes, cold starts with an empty compile cache."""
    taken: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        taken.setdefault(name, []).append(seconds)

    def run(*arguments: str, **environment: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
        return done.stderr

    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            note("python", 1e-3 * milliseconds(lambda: run("-c", "pass")))
            note("import steadyq", 1e-3 * milliseconds(lambda: run("-c", "import steadyq")))
            for answer in ("--help", "list envs", "list recipes"):
                command = ("-m", "steadyq", *answer.split())
                note(f"steadyq {answer}", 1e-3 * milliseconds(partial(run, *command)))
            for warm_up in (300, 5_000):
                program = PROGRAM % (2 * (warm_up + 2), warm_up)
                cache = str(Path(folder, f"cache-{number}-{warm_up}"))
                for state in ("cold", "warm"):
                    out = str(Path(folder, f"{state}-{number}-{warm_up}"))
                    for line in run("-c", program, out, TORCHINDUCTOR_CACHE_DIR=cache).splitlines():
                        what, _, seconds = line.partition(" ")
                        if what in ("step", "update"):
                            note(f"first {what}, {state} cache, {warm_up} steps of warm-up", float(seconds))
    return [row("start", what, "time", "s", values) for what, values in taken.items()]


def report(rows: list[Row]) -> str:
    """Markdown."""
    lines = [[r.case, spread(r, 2)] for r in rows if r.part == "start"]
    return table(["until", "seconds, median (10th to 90th percentile)"], lines)
