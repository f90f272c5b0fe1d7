"""Milliseconds per critic update, the delayed actor's share included: ours, our peers', and the machine's limit.

Every case is compiled first. Then all take turns, ours, peers and bare matrix products, until the time is up: a machine
that is noisy for one is noisy for all.
"""

import itertools
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.rows import Row, milliseconds, row, spread, table
from benchmarks.steps import SIZES, Product, Steps
from steadyq.run import machine

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "crossq_wn": ("crossq_wn", {}),
    "crossq --width 512": ("crossq", {"width": 512}),
    "crossq": ("crossq", {}),
    "sac": ("sac", {}),
}
PRECISIONS = ("float32", "bfloat16")
PEERS = (("crossq", 512), ("crossq", 2048), ("sac", 256))
SLOW = 2.0  # seconds: what takes longer is measured in every fourth round only
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
    for (name, (recipe, options)), (size, (obs, action)), precision, threads, seeds in itertools.product(
        recipes.items(), SIZES.items(), PRECISIONS, sorted({1, cores}), (1, 4)
    ):
        if seeds > 1 and threads == 1 < cores:
            continue  # on a CPU seeds take turns: nothing new
        torch.set_num_threads(threads)
        step = Steps(recipe, options, precision=precision, obs_dim=obs, action_dim=action, seeds=seeds)
        step.run()
        case = f"recipe={name} size={size} precision={precision} threads={threads} seeds={seeds}"
        works[case] = (threads, lambda step=step: milliseconds(step.run) / step.updates / step.seeds)
        if seeds == 1:
            steps[case] = step
    limits = {(p, t): Limit(p) for case, step in steps.items() for p in step.products() for t in (works[case][0],)}
    processes = {threads: Peer(peers, threads) for threads in sorted({1, cores})} if peers else {}
    for threads, peer in processes.items():
        for library, (algorithm, width), (size, (obs, action)) in itertools.product(
            ("sb3", "sbx"), PEERS, SIZES.items()
        ):
            updates = 3 if (library, algorithm) == ("sbx", "crossq") else 10  # it takes a third of a second for one
            question = {
                "library": library,
                "algorithm": algorithm,
                "width": width,
                "obs_dim": obs,
                "action_dim": action,
            }
            case = f"library={library} algorithm={algorithm} width={width} size={size} threads={threads}"
            works[case] = (threads, lambda peer=peer, q=question, u=updates: peer.measure(**q, updates=u))
            works[case][1]()  # compiles
    times: dict[str, list[float]] = {case: [] for case in works}
    floors: dict[tuple[Product, int], list[float]] = {key: [] for key in limits}
    copies: dict[int, list[float]] = {threads: [] for threads in {1, cores}}
    seconds: dict[str, float] = {}
    started, rounds = time.monotonic(), 0
    while rounds < 5 or time.monotonic() - started < 60 * minutes:
        for case, (threads, work) in works.items():
            if rounds % 4 and seconds.get(case, 0) > SLOW:
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
    middle = {key: row("floor", "", "", "", taken).median for key, taken in floors.items()}
    for case, step in steps.items():
        threads = works[case][0]
        products = step.products()
        floor = sum(count * middle[product, threads] for product, count in products.items())
        flops = sum(count * product.flops for product, count in products.items())
        moved = 1e3 * step.least_bytes() / (2 * _FROM.nbytes / row("", "", "", "", copies[threads]).median * 1e3)
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
            case = f"recipe={name} size={size} precision={precision} threads={threads} seeds=1"
            if case in times:
                share = floors[case, "floor"] / times[case].median
                four = times.get(case.replace("seeds=1", "seeds=4"))
                cells += [spread(times[case]), f"{share:.0%}", f"{four.median:.1f}" if four else ""]
        lines.append(cells)
    header = ["recipe", "sizes", "threads", "float32", "of floor", "4 seeds", "bfloat16", "of floor", "4 seeds"]
    text += table(header, [cells for cells in lines if len(cells) == len(header)])
    text += (
        "\n*Of floor*: the time that the update's matrix products take alone, each in the fastest way PyTorch has, "
        "measured in the same rounds, as a share of the update's. *4 seeds*: per seed and update, four trained in one "
        "process.\n\n"
    )
    peers = [r for r in times.values() if r.case.startswith("library=")]
    if not peers:
        return text
    lines = [[*(part.partition("=")[2] for part in r.case.split()), spread(r)] for r in peers]
    text += table(["library", "algorithm", "width", "sizes", "threads", "ms per update"], lines) + "\n"
    lines = []
    for name, precision, algorithm, width, aim in ADVANTAGE:
        ours = times.get(f"recipe={name} size=dog-run precision={precision} threads={cores} seeds=1")
        theirs = [
            times[f"library={library} algorithm={algorithm} width={width} size=dog-run threads={cores}"]
            for library in ("sb3", "sbx")
        ]
        best = min(theirs, key=lambda r: r.median)
        if ours:
            ratio = best.median / ours.median
            lines.append([f"`{name}`", precision, best.case.split()[0].partition("=")[2], f"{ratio:.1f}", aim or ""])
    header = ["ours", "precision", f"fastest peer, dog-run, {cores} threads", "times faster", "aim"]
    return text + table(header, lines)
