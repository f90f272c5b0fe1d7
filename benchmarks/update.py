"""Milliseconds per critic update, with the delayed actor's share: the shipped step with everything it does.

    python benchmarks/update.py --threads 2

Every pair of recipe and precision is compiled first; then they take turns, so that a noisy machine is noisy for all,
and the median over the rounds is printed. Sizes are dog-run's (O 223, A 38), batch 256.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from steadyq.algorithm.agent import make_agent
from steadyq.algorithm.learner import Learner
from steadyq.algorithm.options import make_recipe
from steadyq.algorithm.random import Purpose, generator
from steadyq.algorithm.types import Transition
from steadyq.run import machine

CASES = {"crossq --width 512": ("crossq", {"width": 512}), "crossq_wn": ("crossq_wn", {}), "sac": ("sac", {})}


def cycle(
    name: str, options: dict, precision: str, *, obs_dim: int, action_dim: int, batch: int
) -> tuple[Callable, int]:
    """A function that makes one actor update's worth of critic updates, and how many that is."""
    recipe = make_recipe(name, options)
    agent = make_agent(recipe, obs_dim=obs_dim, action_dim=action_dim, precision=precision)
    states = [agent.init(generator(0, Purpose.INIT))]
    learner = Learner(agent, states, device=torch.device("cpu"), compiled=True, products=machine.products())
    n = recipe.protocol.actor_every
    draws = generator(0, Purpose.SAMPLE)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(draws.standard_normal(shape, dtype="float32"))

    data = Transition(
        obs=normal(n, batch, obs_dim),
        action=normal(n, batch, action_dim).tanh(),
        reward=normal(n, batch),
        discount=torch.full((n, batch), 0.99),
        next_obs=normal(n, batch, obs_dim),
    )
    noise, due = normal(n, batch, action_dim), [False] * (n - 1) + [True]

    def run() -> None:
        learner.update([data], [noise], [noise[:1]], due)

    return run, n


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--rounds", type=int, default=60)
    values = parser.parse_args()
    torch.set_num_threads(values.threads)
    machine.keep_freed_memory()
    sizes = {"obs_dim": 223, "action_dim": 38, "batch": 256}
    cases = {
        (name, precision): cycle(recipe, options, precision, **sizes)
        for name, (recipe, options) in CASES.items()
        for precision in ("float32", "bfloat16")
    }
    for run, _ in cases.values():
        for _ in range(5):
            run()
    times: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for _ in range(values.rounds):
        for case, (run, n) in cases.items():
            started = time.perf_counter()
            run()
            times[case].append(1e3 * (time.perf_counter() - started) / n)
    print(f"{machine.cpu()}, {values.threads} threads, torch {torch.__version__}, commit {machine.commit()}\n")
    print("| recipe | precision | ms per update, median | 10th to 90th percentile |\n|---|---|---|---|")
    for (name, precision), measured in times.items():
        tenths = statistics.quantiles(measured, n=10)
        print(f"| {name} | {precision} | {statistics.median(measured):.1f} | {tenths[0]:.1f} to {tenths[-1]:.1f} |")


if __name__ == "__main__":
    main()
