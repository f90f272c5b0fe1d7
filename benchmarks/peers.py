"""A worker of `benchmarks/update.py`: CrossQ and SAC as others ship them, through their own `train()`.

Runs in an environment of its own (`sbx-rl sb3-contrib`); knows nothing of steadyq. It reads cases as JSON, one a line,
and answers each with the milliseconds per critic update of one call of `train()`. The first answer for a case includes
compilation.

    {"library": "sbx", "algorithm": "crossq", "width": 512, "obs_dim": 223, "action_dim": 38, "updates": 10}
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np

STORED = 10_000  # transitions to sample from
BATCH = 256


def trainer(library: str, algorithm: str, width: int, obs_dim: int, action_dim: int) -> Callable[[int], None]:
    """`updates -> None`: one call of the library's `train()` on a replay buffer with random transitions."""
    import gymnasium
    from stable_baselines3.common.logger import configure

    class Nothing(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (obs_dim,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (action_dim,), np.float32)

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
            return np.zeros(obs_dim, np.float32), {}

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
            return np.zeros(obs_dim, np.float32), 0.0, False, False, {}

    if library == "sbx":
        import sbx

        kind = {"crossq": sbx.CrossQ, "sac": sbx.SAC}[algorithm]
    else:
        import sb3_contrib
        import stable_baselines3

        kind = {"crossq": sb3_contrib.CrossQ, "sac": stable_baselines3.SAC}[algorithm]
    layers = {"net_arch": {"pi": [256, 256], "qf": [width, width]}}
    model = kind("MlpPolicy", Nothing(), policy_kwargs=layers, batch_size=BATCH, buffer_size=STORED, device="cpu")
    model.set_logger(configure(None, []))
    rng = np.random.default_rng(0)
    for _ in range(STORED):
        obs, after = rng.standard_normal((2, 1, obs_dim), dtype=np.float32)
        action = rng.uniform(-1, 1, (1, action_dim)).astype(np.float32)
        model.replay_buffer.add(obs, after, action, rng.standard_normal(1), np.zeros(1, bool), [{}])
    return lambda updates: model.train(gradient_steps=updates, batch_size=BATCH)


def main() -> None:
    """Answer cases until the input ends. The number of threads is fixed at the start: JAX cannot change it."""
    make = functools.cache(trainer)
    print(json.dumps(versions()), flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        train = make(*(case[key] for key in ("library", "algorithm", "width", "obs_dim", "action_dim")))
        started = time.perf_counter()
        train(case["updates"])
        print(1e3 * (time.perf_counter() - started) / case["updates"], flush=True)


def versions() -> dict[str, str]:
    """What is measured."""
    from importlib.metadata import version

    return {name: version(name) for name in ("sbx-rl", "jax", "sb3-contrib", "stable-baselines3", "torch")}


if __name__ == "__main__":
    threads = int(sys.argv[1])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # what JAX counts its threads by
    os.environ["OMP_NUM_THREADS"] = str(threads)
    main()
