"""Policies that leave the lab: loaded from a run, exported as ONNX or for NumPy alone, and run on a robot.

May import: `algorithm`, `engine`, `store`. To import `Policy` from here takes NumPy and nothing else.
"""

from steadyq.deploy.policy import Policy, Spec

__all__ = ["Policy", "Spec"]
