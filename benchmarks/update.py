"""Milliseconds per critic update, the delayed actor's share included: ours, our peers', and the machine's limit.

All cases take turns, ours, peers and bare matrix products, until the time is up: a machine that is noisy for one is
noisy for all. Each is called equally often. The calls before it is steady are its compilation, a column of its own.
"""

import itertools
import json
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from benchmarks.rows import Row, milliseconds, row, spread, steady_from, table
from benchmarks.steps import SIZES, Product, Steps
from steadyq.engine import machine

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "crossq_wn": ("crossq_wn", {}),
    "crossq --width 512": ("crossq", {"width": 512}),
    "crossq": ("crossq", {}),
    "sac": ("sac", {}),
}
PRECISIONS = ("float32", "bfloat16")
PEERS = (("crossq", 512), ("crossq", 2048), ("sac", 256))
UTDS = (1, 10)
FIRST, SLOW = 6, 8.0  # calls before the rounds; a case whose last of them takes more seconds than this is left out
ROUNDS = 10  # at least
ADVANTAGE = (  # of ours over the fastest peer: recipe, precision, the peer's algorithm and width, what we aim for
    ("crossq --width 512", "float32", "crossq", 512, 1.2),
    ("crossq --width 512", "bfloat16", "crossq", 512, 2.1),
    ("crossq_wn", "float32", "crossq", 512, None),
    ("crossq_wn", "bfloat16", "crossq", 512, None),
    ("crossq", "float32", "crossq", 2048, 1.4),
    ("crossq", "bfloat16", "crossq", 2048, 2.4),
    ("sac", "float32", "sac", 256, 1.0),
    ("sac", "bfloat16", "sac", 256, 1.6),
)


class Peer:
    """A process in the peers' environment that measures on demand."""

    def __init__(self, python: Path, threads: int) -> None:
        script = Path(__file__).with_name("peers.py")
        self.process = subprocess.Popen(
            [str(python), str(script), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.versions: dict[str, str] = json.loads(self._line())

    def measure(self, **case: Any) -> float:
        """Milliseconds per update of one call of the library's `train()`."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the peers' process died; run it by hand: see benchmarks/peers.py")
        return line

    def close(self) -> None:
        """Let it go."""
        self.process.terminate()
        self.process.wait()


class Limit:
    """One matrix product alone, in every way that PyTorch has: the fastest counts."""

    def __init__(self, product: Product) -> None:
        m, k, n, dtype = product
        a, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
        turned = b.t().contiguous()
        out = torch.empty(m, n, dtype=dtype)
        self.ways: list[Callable[[], object]] = [
            partial(torch.mm, a, b, out=out),
            partial(torch.mm, a, turned.t(), out=out),
        ]
        if torch.backends.mkldnn.is_available() and dtype == torch.float32:
            linear = torch.ops.mkldnn._linear_pointwise.default
            self.ways += [partial(linear, a, weight, None, "none", [], "") for weight in (turned, b.t())]
        self.repeats = max(1, int(2e8 / product.flops))

    def run(self) -> float:
        """Milliseconds per product."""

        def repeated(way: Callable[[], object]) -> None:
            for _ in range(self.repeats):
                way()

        return min(milliseconds(partial(repeated, way)) for way in self.ways) / self.repeats


def per_update(step: Steps, utd: int) -> float:
    """Milliseconds per update and seed of one agent step."""
    return milliseconds(step.run) / utd / step.seeds


def thrice(utd: int, once: Callable[[], float]) -> float:
    """At UTD 1 the mean of three measurements, of which one has the actor's update."""
    return once() if utd > 1 else fmean(once() for _ in range(3))


class Case:
    """Calls of one thing that is measured, the first of which may compile.

    Args:
        once: milliseconds per update of one call.
        threads: of PyTorch, while it is called.
        clock: seconds.
    """

    def __init__(self, once: Callable[[], float], threads: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.once, self.threads, self.clock = once, threads, clock
        self.times: list[float] = []  # what each call said
        self.seconds: list[float] = []  # what each call took

    def call(self) -> None:
        """Measure once."""
        started = self.clock()
        self.times.append(self.once())
        self.seconds.append(self.clock() - started)

    def rows(self, case: str) -> list[Row]:
        """The time of the calls that count, and what was spent before; nothing if it has not become steady."""
        first = steady_from(self.times)
        if first is None:
            return []
        extra = sum(self.seconds[:first]) - first * median(self.seconds[first:])
        return [
            row("update", case, "time", "ms per critic update", self.times[first:]),
            row("update", case, "compilation", "s", [max(extra, 0.0)]),
            row("update", case, "calls before steady", "calls", [float(first)]),
        ]


def bandwidth() -> float:
    """Milliseconds to read and write 64 MB each, far beyond the caches' size for what an update touches."""
    return milliseconds(lambda: _FROM.clone())


_FROM = torch.ones(16_000_000)


def measure(minutes: float, peers: Path | None, *, recipes: dict | None = None) -> tuple[list[Row], dict[str, str]]:
    """All rows, and the peers' versions.

    Args:
        minutes: how long to take turns, after everybody's first calls; ten rounds at least.
        peers: the Python of their environment, or None to leave them out.
        recipes: other cases than all of `RECIPES`.
    """
    recipes = recipes or RECIPES
    cores = machine.usable_cores()
    cases: dict[str, Case] = {}
    steps = {}
    for (name, (recipe, options)), (size, (obs, action)), precision, threads, (seeds, utd) in itertools.product(
        recipes.items(), SIZES.items(), PRECISIONS, sorted({1, cores}), ((1, 10), (4, 10), (1, 1))
    ):
        if seeds > 1 and threads == 1 < cores:
            continue  # on a CPU seeds take turns: nothing new
        torch.set_num_threads(threads)
        step = Steps(recipe, options, precision=precision, obs_dim=obs, action_dim=action, seeds=seeds, updates=utd)
        case = f"recipe={name} size={size} precision={precision} threads={threads} seeds={seeds} utd={utd}"
        cases[case] = Case(partial(thrice, utd, partial(per_update, step, utd)), threads)
        if (seeds, utd) == (1, 10):
            steps[case] = step
    limits = {(p, t): Limit(p) for case, step in steps.items() for p in step.products() for t in (cases[case].threads,)}
    processes = {threads: Peer(peers, threads) for threads in sorted({1, cores})} if peers else {}
    for threads, peer in processes.items():
        for library, (algorithm, width), (size, (obs, action)), utd in itertools.product(
            ("sb3", "sbx"), PEERS, SIZES.items(), UTDS
        ):
            question = {
                "library": library,
                "algorithm": algorithm,
                "width": width,
                "obs_dim": obs,
                "action_dim": action,
            }
            case = f"library={library} algorithm={algorithm} width={width} size={size} threads={threads} utd={utd}"
            cases[case] = Case(partial(thrice, utd, partial(peer.measure, **question, updates=utd)), threads)
    floors: dict[tuple[Product, int], list[float]] = {key: [] for key in limits}
    copies: dict[int, list[float]] = {threads: [] for threads in {1, cores}}
    for called in cases.values():
        torch.set_num_threads(called.threads)
        for _ in range(FIRST):
            called.call()
    measured = {name: case for name, case in cases.items() if case.seconds[-1] <= SLOW}
    started, rounds = time.monotonic(), 0
    while rounds < ROUNDS or time.monotonic() - started < 60 * minutes:
        for called in measured.values():
            torch.set_num_threads(called.threads)
            called.call()
        for (product, threads), limit in limits.items():
            torch.set_num_threads(threads)
            floors[product, threads].append(limit.run())
        for threads, taken in copies.items():
            torch.set_num_threads(threads)
            taken.append(bandwidth())
        rounds += 1
    rows: list[Row] = []
    for name, called in cases.items():
        found = called.rows(name) if name in measured else []
        rows += found or [row("update", name, "left out: seconds of its last call", "s", called.seconds[-1:])]
    middle = {key: median(taken) for key, taken in floors.items()}
    for name, step in steps.items():
        threads = cases[name].threads
        products = step.products()
        floor = sum(count * middle[product, threads] for product, count in products.items())
        flops = sum(count * product.flops for product, count in products.items())
        moved = 1e3 * step.least_bytes() / (2 * _FROM.nbytes / median(copies[threads]) * 1e3)
        rows += [
            row("floor", name, "products", "GFLOP per critic update", [flops / 1e9]),
            row("floor", name, "floor", "ms per critic update", [floor]),
            row("floor", name, "memory", "ms per critic update", [moved]),
        ]
    versions = next(iter(processes.values())).versions if processes else {}
    for peer in processes.values():
        peer.close()
    return rows, versions


def report(rows: list[Row]) -> str:
    """Markdown: our times with their floors, the peers', and the ratios."""
    cores = machine.usable_cores()
    times = {r.case: r for r in rows if r.part == "update" and r.metric == "time"}
    spent = {(r.case, r.metric): r.median for r in rows if r.part == "update"}

    def compilation(case: str) -> str:
        return f"{spent[case, 'compilation']:.0f} s, {spent[case, 'calls before steady']:.0f} calls"

    floors = {(r.case, r.metric): r.median for r in rows if r.part == "floor"}
    text = "Milliseconds per critic update, median (10th to 90th percentile); UTD 10, batch 256.\n\n"
    lines = []
    for name, size, threads in itertools.product(RECIPES, SIZES, sorted({1, cores})):
        cells: list[object] = [f"`{name}`", size, threads]
        cases = [f"recipe={name} size={size} precision={one} threads={threads} seeds=1 utd=10" for one in PRECISIONS]
        for case in cases:
            if case in times:
                share = floors[case, "floor"] / times[case].median
                four = times.get(case.replace("seeds=1", "seeds=4"))
                least = f"{floors[case, 'memory']:.1f}"
                more = [compilation(case), f"{share:.0%}", least, f"{four.median:.1f}" if four else ""]
                cells += [spread(times[case]), *more]
            else:
                cells += ["left out", "", "", "", ""]
        if times.keys() & set(cases):
            lines.append(cells)
    columns = ["compilation", "of floor", "bytes", "4 seeds"]
    header = ["recipe", "sizes", "threads", "float32", *columns, "bfloat16", *columns]
    text += table(header, lines)
    text += (
        "\n*Of floor*: the time that the update's matrix products take alone, each in the fastest way PyTorch has, "
        "measured in the same rounds, as a share of the update's. *Bytes*: milliseconds to move the least it must read "
        "and write, at the measured bandwidth. *4 seeds*: per seed and update, four trained in one process. "
        "*Compilation*: what the calls took that came before three in a row agreed within 20% with each other and with "
        "the median of all that followed, beyond as many steady calls; and how many those were.\n\n"
    )
    if left := [r for r in rows if r.metric.startswith("left out")]:
        named = ", ".join(f"{r.case} ({1e3 * r.median:,.0f} ms a call)" for r in left)
        text += f"Left out, being too slow to be called as often as the others or never steady: {named}.\n\n"
    peers = [r.case for r in times.values() if r.case.startswith("library=") and r.case.endswith("utd=1")]
    if not peers:
        return text
    lines = []
    for case in peers:
        cells = [part.partition("=")[2] for part in case.split()[:-1]]
        for utd in UTDS:
            there = case.replace("utd=1", f"utd={utd}")
            cells += [spread(times[there]), compilation(there)] if there in times else ["left out", ""]
        lines.append(cells)
    header = ["library", "algorithm", "width", "sizes", "threads", "UTD 1", "compilation", "UTD 10", "compilation"]
    text += table(header, lines) + "\n"
    lines = []
    for (name, precision, algorithm, width, aim), size in itertools.product(ADVANTAGE, SIZES):
        line: list[object] = [f"`{name}`", precision, size]
        for threads, utd in itertools.product(sorted({1, cores}), UTDS):
            ours = f"recipe={name} size={size} precision={precision} threads={threads} seeds=1 utd={utd}"
            peer = f"algorithm={algorithm} width={width} size={size} threads={threads} utd={utd}"
            line.append(advantage(times, ours, peer))
        lines.append([*line, aim or ""])
    columns = [f"UTD {utd}, {threads} threads" for threads, utd in itertools.product(sorted({1, cores}), UTDS)]
    text += "Times the speed of the fastest peer in its steady state:\n\n"
    return text + table(["ours", "precision", "sizes", *columns, "aim"], lines)


def advantage(times: dict[str, Row], ours: str, stem: str) -> str:
    """The fastest peer's median over ours, and which peer that is; empty where either was not measured."""
    theirs = {library: times[case] for library in ("sb3", "sbx") if (case := f"library={library} {stem}") in times}
    if ours not in times or not theirs:
        return ""
    best = min(theirs, key=lambda library: theirs[library].median)
    return f"{theirs[best].median / times[ours].median:.2f} ({best})"
