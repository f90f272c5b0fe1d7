"""Two runs of one thread side by side, two of two threads, and one of two threads alone: updates per second of all."""

import subprocess
import sys
import time

from benchmarks.rows import Row, row, spread, table

PROGRAM = """
import sys, time
from benchmarks.steps import Steps
import torch
from steadyq.engine import machine
threads, seconds = int(sys.argv[1]), float(sys.argv[2])
torch.set_num_threads(threads)
machine.keep_freed_memory()
steps = Steps("crossq_wn")
steps.run()
print("ready", flush=True)
sys.stdin.readline()
started, count = time.perf_counter(), 0
while time.perf_counter() - started < seconds:
    steps.run()
    count += steps.updates
print(count / (time.perf_counter() - started))
"""

CASES = {"one run of 2 threads": (2,), "two runs of 1 thread": (1, 1), "two runs of 2 threads": (2, 2)}


def measure(rounds: int = 3, seconds: float = 6.0) -> list[Row]:
    """`crossq_wn` at dog-run sizes, in float32; the cases take turns."""
    taken: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(rounds):
        for case, threads in CASES.items():
            runs = [
                subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, str(count), str(seconds)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for count in threads
            ]
            for run in runs:
                assert run.stdout
                run.stdout.readline()
            time.sleep(0.5)
            for run in runs:
                assert run.stdin
                run.stdin.write("go\n")
                run.stdin.flush()
            taken[case].append(sum(float(run.communicate()[0]) for run in runs))
    return [row("together", case, "speed", "critic updates per second", values) for case, values in taken.items()]


def report(rows: list[Row]) -> str:
    """Markdown."""
    lines = [[r.case, spread(r, 0)] for r in rows if r.part == "together"]
    return table(["`crossq_wn`, dog-run sizes, float32", "critic updates per second of all together"], lines)
