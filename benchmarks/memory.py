"""Bytes of a replay of a million dog-run transitions: ours, and with both observations of each transition stored."""

import subprocess
import sys

from benchmarks.rows import Row, row, table

OURS = """
import numpy as np
import psutil
from steadyq.store.replay import Replay
n, o, a = 1_000_000, 223, 38
before = psutil.Process().memory_info().rss
replay = Replay(capacity=n, obs_dim=o, action_dim=a)
obs, action = np.ones(o, np.float32), np.ones(a, np.float32)
for step in range(n):
    if step % 500 == 0:
        replay.start(obs)
    replay.add(action, 0.0, 0.99, obs, last=step % 500 == 499)
print(psutil.Process().memory_info().rss - before)
"""
BOTH = """
import numpy as np
import psutil
n, o, a = 1_000_000, 223, 38
before = psutil.Process().memory_info().rss
arrays = [np.ones((n, width), np.float32) for width in (o, o, a, 1, 1)]
print(psutil.Process().memory_info().rss - before)
"""


def measure() -> list[Row]:
    """What the resident memory of a process grows by."""
    rows = []
    for case, program in (("steadyq", OURS), ("both observations stored", BOTH)):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        rows.append(row("memory", case, "a million dog-run transitions", "GB", [int(done.stdout) / 1e9]))
    return rows


def report(rows: list[Row]) -> str:
    """Markdown."""
    lines = [[r.case, f"{r.median:.2f}", f"{1_000 * r.median:.0f}"] for r in rows if r.part == "memory"]
    return table(["replay", "GB per million dog-run transitions", "bytes per transition"], lines)
