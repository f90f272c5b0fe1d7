"""CrossQ with weight normalisation: sample-efficient continuous control that stays steady at many updates per step."""

import os
from typing import TYPE_CHECKING, Any

# Before PyTorch loads OpenMP: let a thread that waits for the others sleep soon. GNU's spins on, and two runs of two
# threads on two cores then took 340 ms per update each at a count of 50,000 (GNU's own is higher), against 27 ms.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from steadyq.deploy.load import load_policy
    from steadyq.run.go import Result
    from steadyq.run.resume import resume
    from steadyq.run.train import train

__all__ = ["Result", "load_policy", "resume", "train"]


def __getattr__(name: str) -> Any:
    """Import PyTorch when something is used, not when the package is."""
    if name == "load_policy":
        from steadyq.deploy.load import load_policy

        return load_policy
    if name in __all__:
        from steadyq.run import go, resume, train

        return {"Result": go.Result, "resume": resume.resume, "train": train.train}[name]
    raise AttributeError(f"module 'steadyq' has no attribute {name!r}")
