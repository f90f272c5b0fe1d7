"""Milliseconds per critic update, the delayed actor's share included: ours, our peers', and the machine's limit.

Every case is compiled first. Then all take turns, ours, peers and bare matrix products, until the time is up: a machine
that is noisy for one is noisy for all.
"""

import itertools
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from benchmarks.rows import Row, milliseconds, row, spread, table
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
UTDS = (1, 10)  # XLA unrolls a loop of one update; one of ten it runs with slow matrix products
SLOW = 2.0  # seconds: what takes longer is measured in every eighth round only
ADVANTAGE = (  # of ours over the fastest peer: recipe, precision, the peer's algorithm and width, what we aim for
    ("crossq --width 512", "float32", "crossq", 512, 2.2),
    ("crossq --width 512", "bfloat16", "crossq", 512, 5.0),
    ("crossq_wn", "float32", "crossq", 512, 1.8),
    ("crossq_wn", "bfloat16", "crossq", 512, 4.0),
    ("crossq", "float32", "crossq", 2048, 1.3),
    ("crossq", "bfloat16", "crossq", 2048, 4.0),
    ("sac", "float32", "sac", 256, None),
    ("sac", "bfloat16", "sac", 256, None),
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
        self.ways = [lambda: torch.mm(a, b, out=out), lambda: torch.mm(a, turned.t(), out=out)]
        if torch.backends.mkldnn.is_available() and dtype == torch.float32:
            linear = torch.ops.mkldnn._linear_pointwise.default
            self.ways += [lambda w=w: linear(a, w, None, "none", [], "") for w in (turned, b.t())]
        self.repeats = max(1, int(2e8 / product.flops))

    def run(self) -> float:
        """Milliseconds per product."""

        def repeated(way: Any) -> None:
            for _ in range(self.repeats):
                way()

        return min(milliseconds(lambda way=way: repeated(way)) for way in self.ways) / self.repeats


def thrice(utd: int, once: Callable[[], float]) -> float:
    """At UTD 1 the mean of three measurements, of which one has the actor's update."""
    return once() if utd > 1 else fmean(once() for _ in range(3))


def bandwidth() -> float:
    """Milliseconds to read and write 64 MB each, far beyond the caches' size for what an update touches."""
    return milliseconds(lambda: _FROM.clone())


_FROM = torch.ones(16_000_000)


def measure(minutes: float, peers: Path | None, *, recipes: dict | None = None) -> tuple[list[Row], dict[str, str]]:
    """All rows, and the peers' versions.

    Args:
        minutes: how long to go on taking turns, once everything is compiled; five rounds at least.
        peers: the Python of their environment, or None to leave them out.
        recipes: other cases than all of `RECIPES`.
    """
    recipes = recipes or RECIPES
    cores = machine.usable_cores()
    works: dict[str, Any] = {}  # case -> () -> milliseconds per update
    steps = {}
    for (name, (recipe, options)), (size, (obs, action)), precision, threads, (seeds, utd) in itertools.product(
        recipes.items(), SIZES.items(), PRECISIONS, sorted({1, cores}), ((1, 10), (4, 10), (1, 1))
    ):
        if (seeds, utd) != (1, 10) and threads == 1 < cores:
            continue  # on a CPU seeds take turns: nothing new
        torch.set_num_threads(threads)
        step = Steps(recipe, options, precision=precision, obs_dim=obs, action_dim=action, seeds=seeds, updates=utd)
        step.run()
        case = f"recipe={name} size={size} precision={precision} threads={threads} seeds={seeds} utd={utd}"
        works[case] = (
            threads,
            lambda step=step, utd=utd: thrice(utd, lambda: milliseconds(step.run) / utd / step.seeds),
        )
        if (seeds, utd) == (1, 10):
            steps[case] = step
    limits = {(p, t): Limit(p) for case, step in steps.items() for p in step.products() for t in (works[case][0],)}
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
            works[case] = (threads, lambda p=peer, q=question, u=utd: thrice(u, lambda: p.measure(**q, updates=u)))
            works[case][1]()  # compiles
    times: dict[str, list[float]] = {case: [] for case in works}
    floors: dict[tuple[Product, int], list[float]] = {key: [] for key in limits}
    copies: dict[int, list[float]] = {threads: [] for threads in {1, cores}}
    seconds: dict[str, float] = {}
    started, rounds = time.monotonic(), 0
    while rounds < 5 or time.monotonic() - started < 60 * minutes:
        for case, (threads, work) in works.items():
            if rounds % 8 and seconds.get(case, 0) > SLOW:
                continue
            torch.set_num_threads(threads)
            before = time.monotonic()
            times[case].append(work())
            seconds[case] = time.monotonic() - before
        for (product, threads), limit in limits.items():
            torch.set_num_threads(threads)
            floors[product, threads].append(limit.run())
        for threads, taken in copies.items():
            torch.set_num_threads(threads)
            taken.append(bandwidth())
        rounds += 1
    rows = [row("update", case, "time", "ms per critic update", taken) for case, taken in times.items()]
    middle = {key: median(taken) for key, taken in floors.items()}
    for case, step in steps.items():
        threads = works[case][0]
        products = step.products()
        floor = sum(count * middle[product, threads] for product, count in products.items())
        flops = sum(count * product.flops for product, count in products.items())
        moved = 1e3 * step.least_bytes() / (2 * _FROM.nbytes / median(copies[threads]) * 1e3)
        rows += [
            row("floor", case, "products", "GFLOP per critic update", [flops / 1e9]),
            row("floor", case, "floor", "ms per critic update", [floor]),
            row("floor", case, "memory", "ms per critic update", [moved]),
        ]
    versions = next(iter(processes.values())).versions if processes else {}
    for peer in processes.values():
        peer.close()
    return rows, versions


def report(rows: list[Row]) -> str:
    """Markdown: our times with their floors, the peers', and the ratios."""
    cores = machine.usable_cores()
    times = {r.case: r for r in rows if r.part == "update"}
    floors = {(r.case, r.metric): r.median for r in rows if r.part == "floor"}
    text = "Milliseconds per critic update, median (10th to 90th percentile); UTD 10, batch 256.\n\n"
    lines = []
    for name, size, threads in itertools.product(RECIPES, SIZES, sorted({1, cores})):
        cells: list[object] = [f"`{name}`", size, threads]
        for precision in PRECISIONS:
            case = f"recipe={name} size={size} precision={precision} threads={threads} seeds=1 utd=10"
            if case in times:
                share = floors[case, "floor"] / times[case].median
                four = times.get(case.replace("seeds=1", "seeds=4"))
                least = f"{floors[case, 'memory']:.1f}"
                cells += [spread(times[case]), f"{share:.0%}", least, f"{four.median:.1f}" if four else ""]
        lines.append(cells)
    columns = ["of floor", "bytes", "4 seeds"]
    header = ["recipe", "sizes", "threads", "float32", *columns, "bfloat16", *columns]
    text += table(header, [cells for cells in lines if len(cells) == len(header)])
    text += (
        "\n*Of floor*: the time that the update's matrix products take alone, each in the fastest way PyTorch has, "
        "measured in the same rounds, as a share of the update's. *Bytes*: milliseconds to move the least it must read "
        "and write, at the measured bandwidth. *4 seeds*: per seed and update, four trained in one process.\n\n"
    )
    peers = [r.case for r in times.values() if r.case.startswith("library=") and r.case.endswith("utd=1")]
    if not peers:
        return text
    lines = []
    for case in peers:
        cells = [part.partition("=")[2] for part in case.split()[:-1]]
        lines.append([*cells, *(spread(times[case.replace("utd=1", f"utd={utd}")]) for utd in UTDS)])
    text += table(["library", "algorithm", "width", "sizes", "threads", "UTD 1", "UTD 10"], lines) + "\n"
    lines = []
    for name, precision, algorithm, width, aim in ADVANTAGE:
        if name not in {r.case.split(" size=")[0].partition("=")[2] for r in times.values()}:
            continue
        line: list[object] = [f"`{name}`", precision]
        for utd in reversed(UTDS):
            ours = times[f"recipe={name} size=dog-run precision={precision} threads={cores} seeds=1 utd={utd}"]
            stem = f"algorithm={algorithm} width={width} size=dog-run threads={cores} utd={utd}"
            theirs = {library: times[f"library={library} {stem}"].median for library in ("sb3", "sbx")}
            best = min(theirs, key=lambda library: theirs[library])
            line.append(f"{theirs[best] / ours.median:.1f} ({best})")
        lines.append([*line, aim or ""])
    header = ["ours", "precision", "times faster than the fastest peer, UTD 10", "UTD 1", "aim, UTD 10"]
    return text + f"Dog-run sizes, {cores} threads:\n\n" + table(header, lines)
