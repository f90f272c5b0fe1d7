"""Settings of every test: shapes are checked, one thread, float32.

Nothing is seeded and nothing made deterministic here on purpose: steadyq names every draw and promises equal bits as it
ships, and global seeds would hide a draw or a reduction that breaks the promise.
"""

import os
import signal

# Before NumPy is loaded, whose threads, too, would only wait for each other: tests run side by side.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import jaxtyping
import pytest
import torch

from shapes import WHOLE_RUNS, check_shapes

# Compiling and the check do not mix: tests about compilation run in a process of their own.
check_shapes()

torch.set_default_dtype(torch.float32)
# A shell's `&` has Ctrl-C ignored, and what tests start would inherit that and never end when it is asked to.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # the last bits depend on their number


@pytest.fixture(scope="module", autouse=True)
def shapes(request: pytest.FixtureRequest) -> None:
    """Checked, but for the tests that would take too long."""
    jaxtyping.config.update("jaxtyping_disable", request.module.__name__ in WHOLE_RUNS)
