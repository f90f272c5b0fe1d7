"""CrossQ with weight normalisation: sample-efficient continuous control that stays steady at many updates per step."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steadyq.run.train import Result, resume, train

__all__ = ["Result", "resume", "train"]


def __getattr__(name: str) -> Any:
    """Import PyTorch when something is used, not when the package is."""
    if name in __all__:
        from steadyq.run import train

        return getattr(train, name)
    raise AttributeError(f"module 'steadyq' has no attribute {name!r}")
