"""CrossQ with weight normalisation: sample-efficient continuous control that stays steady at many updates per step."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Before PyTorch loads OpenMP: let a thread that waits for the others sleep soon. GNU's spins on, and two runs of two
# threads on two cores then took 340 ms per update each at a count of 50,000 (GNU's own is higher), against 27 ms.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from steadyq.algorithm.actor_critic import make_agent
    from steadyq.deploy.load import load_policy
    from steadyq.errors import InputError
    from steadyq.examine.evaluate import evaluate
    from steadyq.examine.snapshots import diagnose
    from steadyq.own_loop import Learner
    from steadyq.run.check_env import check_env
    from steadyq.run.go import Result
    from steadyq.run.resume import resume
    from steadyq.run.train import train
    from steadyq.store.metrics_csv import Row
    from steadyq.store.replay import Replay

    __version__: str

__all__ = [
    "InputError",
    "Learner",
    "Replay",
    "Result",
    "Row",
    "__version__",
    "check_env",
    "diagnose",
    "evaluate",
    "load_policy",
    "make_agent",
    "resume",
    "train",
]

WHERE = {
    "InputError": "steadyq.errors",
    "Learner": "steadyq.own_loop",
    "Replay": "steadyq.store.replay",
    "Result": "steadyq.run.go",
    "Row": "steadyq.store.metrics_csv",
    "check_env": "steadyq.run.check_env",
    "diagnose": "steadyq.examine.snapshots",
    "evaluate": "steadyq.examine.evaluate",
    "load_policy": "steadyq.deploy.load",
    "make_agent": "steadyq.algorithm.actor_critic",
    "resume": "steadyq.run.resume",
    "train": "steadyq.run.train",
}


def __getattr__(name: str) -> Any:
    """Import PyTorch when something is used, not when the package is."""
    if name in WHERE:
        return getattr(import_module(WHERE[name]), name)
    if name == "__version__":
        from importlib.metadata import version  # 40 ms, as long as the rest of `steadyq --help`

        return version("steadyq")
    raise AttributeError(f"module 'steadyq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
