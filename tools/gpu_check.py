"""What a GPU makes of steadyq: one table, in a few minutes, on a machine where PyTorch sees CUDA.

    python -m tools.gpu_check --out gpu.csv [--minutes 6]

- *cpu*: one update of every recipe, eager in float32, against the same update on the CPU.
- *eager*: the compiled update against the eager one, both on the GPU.
- *speed*: updates per second of one agent step's updates (dog-run's sizes, batch 256, UTD 10), all seeds together;
  SBX's CrossQ next to it where SBX and a JAX that sees the GPU are installed.
- *resume*: a run that is killed and resumed against an undisturbed one.

Differences are those of what an update computes: Adam's first moments (a tenth of the gradient after one update),
running statistics and metrics, as the norm of the difference over the norm of a network's part. Above TOLERANCE the row
is a failure. Parameters say less: Adam's first step has the size lr in every direction, however small a gradient is.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.steps import Steps
from steadyq.algorithm.agent import Precision
from steadyq.algorithm.recipes import RECIPES
from steadyq.algorithm.tree import named_leaves
from steadyq.engine import machine
from tools.same_state import differences

TOLERANCE = 1e-3
"""Of float32 products summed in another order, through a few layers; TF32 is off."""

SEEDS = (1, 4, 16)
CASES: tuple[tuple[str, dict, Precision], ...] = (
    ("crossq_wn", {}, "float32"),
    ("crossq_wn", {}, "bfloat16"),
    ("crossq", {"width": 512}, "float32"),
    ("sac", {}, "float32"),
)
RUN = [
    *("train", "crossq_wn", "--env", "Pendulum-v1", "--device", "cuda", "--seeds", "0", "1", "--width", "64"),
    *("--frames", "1200", "--learning-starts", "300", "--eval-every", "400", "--eval-episodes", "1"),
    *("--save-every", "200", "--log-every", "200"),
]


class Row(NamedTuple):
    """One line of the table."""

    check: str
    case: str
    what: str
    value: float
    unit: str
    ok: bool = True


def measured(steps: Steps) -> dict[str, torch.Tensor]:
    """After an update: what it computed, on the CPU."""
    named = named_leaves(steps.learner.all)
    return {
        key: leaf.double().cpu() for key, leaf in named if any(part in key for part in (".opt.m", ".stats", "sums"))
    }


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest over the networks' parts of the norm of the difference over the norm."""
    parts: dict[str, list[str]] = {}
    for key in one:
        parts.setdefault(".".join(key.split(".")[:3]), []).append(key)

    def norm(keys: list[str], of: Callable[[str], torch.Tensor]) -> float:
        return float(torch.cat([of(key).flatten() for key in keys]).norm())

    return max(
        norm(k, lambda key: one[key] - other[key]) / max(norm(k, one.__getitem__), 1e-12) for k in parts.values()
    )


def updated(recipe: str, *, device: str, compiled: bool) -> dict[str, torch.Tensor]:
    """What the updates of one agent step with every step of the agent compute."""
    steps = Steps(recipe, device=device, compiled=compiled, updates=1, batch=64)
    steps.learner.update([steps.draws], [[True]] * len(steps.agent.steps))
    return measured(steps)


def against_cpu() -> Iterator[Row]:
    """Every recipe, eager."""
    for recipe in RECIPES:
        found = difference(
            updated(recipe, device="cpu", compiled=False), updated(recipe, device="cuda", compiled=False)
        )
        yield Row("cpu", recipe, "relative difference", found, "", found < TOLERANCE)


def against_eager() -> Iterator[Row]:
    """A few recipes, compiled."""
    for recipe in ("crossq_wn", "sac", "bro"):
        started = time.monotonic()
        compiled = updated(recipe, device="cuda", compiled=True)
        yield Row("eager", recipe, "seconds to compile", time.monotonic() - started, "s")
        found = difference(updated(recipe, device="cuda", compiled=False), compiled)
        yield Row("eager", recipe, "relative difference", found, "", found < TOLERANCE)


def rate(run: Callable[[], object], updates: int) -> float:
    """Updates per second, from the median of calls after three."""
    for _ in range(6):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(20):
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return updates / float(np.median(times))


def speed(ends: float) -> Iterator[Row]:
    """Updates per second, as they are run."""
    for recipe, options, precision in CASES:
        case = " ".join([recipe, *(f"{key}={value}" for key, value in options.items()), precision])
        for seeds in SEEDS if recipe == "crossq_wn" else (1,):
            if time.monotonic() > ends:
                return
            torch.cuda.reset_peak_memory_stats()
            steps = Steps(recipe, options, precision=precision, device="cuda", seeds=seeds)
            compiled = rate(steps.run, steps.updates * seeds)
            yield Row("speed", f"{case}, seeds {seeds}", "updates/s, compiled", compiled, "1/s")
            peak = torch.cuda.max_memory_allocated() / 1e6
            yield Row("speed", f"{case}, seeds {seeds}", "peak memory", peak, "MB")
    eager = Steps("crossq_wn", device="cuda", compiled=False)
    yield Row("speed", "crossq_wn float32, seeds 1", "updates/s, eager", rate(eager.run, eager.updates), "1/s")
    steps = Steps("crossq_wn", device="cuda", updates=1)
    obs, noise = torch.zeros(1, 223), torch.zeros(1, 38)
    yield Row("speed", "crossq_wn", "act, there and back", 1e6 / rate(lambda: steps.learner.act(obs, noise), 1), "us")


def sbx() -> Iterator[Row]:
    """SBX's CrossQ on the same sizes, where it is installed: the median of calls after ten, which include compiling."""
    try:
        import jax
        import sbx  # noqa: F401
    except ImportError:
        return
    if jax.default_backend() != "gpu":
        return
    from benchmarks.peers import trainer

    train, times = trainer("sbx", "crossq", 512, 223, 38), []
    for _ in range(30):
        started = time.perf_counter()
        train(10)
        times.append(time.perf_counter() - started)
    yield Row("speed", "SBX CrossQ width=512 float32", "updates/s", 10 / float(np.median(times[10:])), "1/s")


def resumed() -> Iterator[Row]:
    """A run killed after a checkpoint and resumed, against an undisturbed one."""
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        command = [sys.executable, "-m", "steadyq"]
        started = time.monotonic()
        done = subprocess.run([*command, *RUN, "--out", str(whole)], capture_output=True, text=True, check=False)
        yield Row(
            "resume", "Pendulum-v1, 2 seeds", "undisturbed run", time.monotonic() - started, "s", done.returncode == 0
        )
        if done.returncode:
            print(done.stderr[-3000:], file=sys.stderr)
            return
        process = subprocess.Popen([*command, *RUN, "--out", str(killed)], stdout=subprocess.DEVNULL)
        saved = killed / "seed-1" / "checkpoints"
        while process.poll() is None and len(list(saved.glob("*.safetensors"))) < 2:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        again = subprocess.run([*command, "resume", str(killed)], capture_output=True, text=True, check=False)
        if again.returncode:
            print(again.stderr[-3000:], file=sys.stderr)
        found = differences(whole, killed) if again.returncode == 0 else ["it did not resume"]
        print("\n".join(found))
        yield Row("resume", "Pendulum-v1, 2 seeds", "differences from the undisturbed run", len(found), "", not found)
        shutil.rmtree(killed)


def unless_it_breaks(part: Iterator[Row]) -> Iterator[Row]:
    """The rows of a part; whatever it raises is one more row, and the other parts go on."""
    try:
        yield from part
    except Exception as error:
        traceback.print_exc()
        yield Row("broken", type(error).__name__, " ".join(str(error).split())[:120], float("nan"), "", False)


def main() -> int:
    """Check, print the table, write it; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    parser.add_argument("--minutes", type=float, default=6.0, help="after which no further speed is measured [6]")
    values = parser.parse_args()
    if not torch.cuda.is_available():
        print("PyTorch sees no GPU here: run this on a machine with CUDA and a CUDA build of PyTorch")
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    ends = time.monotonic() + 60 * values.minutes
    name = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, steadyq {machine.commit()}"
    print(name)
    rows: list[Row] = []
    with values.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*Row._fields, "where"])
        for part in (against_cpu(), against_eager(), resumed(), speed(ends), sbx()):
            for row in unless_it_breaks(part):
                rows.append(row)
                writer.writerow([*row[:3], f"{row.value:.4g}", *row[4:], name])
                file.flush()
                print(
                    f"{row.check:8} {row.case:34} {row.what:38} {row.value:12.4g} {row.unit:4} "
                    f"{'' if row.ok else 'FAILED'}",
                    flush=True,
                )
    print(json.dumps({"rows": len(rows), "failed": sum(not row.ok for row in rows)}))
    return int(any(not row.ok for row in rows))


if __name__ == "__main__":
    sys.exit(main())
