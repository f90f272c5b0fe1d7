"""Every recipe learns a real task: cartpole-swingup, three times the return of random actions within 20,000 frames.

Real runs through the command line, compiled where a compiler works, in a process of their own: compilation does not mix
with the shape checks of these tests. The heavy recipes are narrower and make fewer updates than by default, two or more
per agent step; those that start again do so once on the way. What counts is the mean of the last two evaluations
(after 15,000 and 20,000 frames, 5 episodes each), so that one lucky evaluation is not enough.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from steadyq.algorithm.options import make_recipe
from steadyq.algorithm.recipes import RECIPES
from steadyq.run import envs, logs

pytestmark = pytest.mark.slow

TASK, WARM_UP, LEARNING, EVERY = "cartpole-swingup", 2_000, 20_000, 5_000  # in frames
SMALL = {
    "sac": "--utd 2",
    "sac_resets": "--utd 2 --reset-updates 20000 --width 128 --actor-width 128",
    "sac_primacy": "--utd 2 --reset-frames 10000 --width 128 --actor-width 128",
    "redq": "--utd 2 --width 64 --actor-width 64",
    "droq": "--utd 2 --width 128 --actor-width 128",
    "ofn": "--utd 2",
    "nap": "--utd 2",
    "bro": "--utd 2 --width 128 --actor-width 128",
    "bro_fast": "--width 128 --actor-width 128",
    "simba": "--width 128 --actor-width 64",
    "simba_v2": "--width 128 --actor-width 64",
    "xqc": "--width 128 --actor-width 64",
    "crossq": "--utd 2 --width 256 --actor-width 128",
    "crossq_wn": "--width 256 --actor-width 128",
    "crossq_wn_td3": "--width 256 --actor-width 128",
}


@pytest.fixture(scope="module")
def random_return() -> float:
    """Of uniform actions, over 30 episodes."""
    env, rng, returns = envs.make(TASK), np.random.default_rng(0), []
    for seed in range(30):
        env.reset(seed)
        rewards, ended = [], False
        while not ended:
            step = env.step(rng.uniform(-1, 1, env.spec.action_dim).astype(np.float32))
            rewards.append(step.reward)
            ended = step.terminated or step.truncated
        returns.append(sum(rewards))
    return float(np.mean(returns))


@pytest.mark.parametrize("name", RECIPES)
def test_cartpole_swingup(name: str, tmp_path: Path, random_return: float) -> None:
    warm_up = WARM_UP // make_recipe(name).protocol.action_repeat
    command = [sys.executable, "-m", "steadyq.cli", "train", name, "--env", TASK, "--out", str(tmp_path / "run")]
    command += ["--frames", str(WARM_UP + LEARNING), "--learning-starts", str(warm_up), "--threads", "1"]
    command += ["--eval-every", str(EVERY), "--save-every", str(WARM_UP + LEARNING), *SMALL[name].split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = logs.read(tmp_path / "run" / "metrics.csv")
    returns = [row.value for row in rows if row.metric == "eval/mean_reward"]
    print(f"{name}: random {random_return:.1f}, evaluations {' '.join(f'{value:.0f}' for value in returns)}")
    assert np.mean(returns[-2:]) >= 3 * random_return
    if "reset" in SMALL[name]:
        assert any(row.metric == "eval_after_reset/mean_reward" for row in rows)
