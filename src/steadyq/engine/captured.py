"""A function recorded once as a CUDA graph and played again: one launch instead of one per kernel.

PyTorch's own graphs (`mode="reduce-overhead"`) give up silently where inputs are changed in place, which is what our
steps do. So the capture is ours: inputs lie in slots that never move, and what the function changes lies where it is.
"""

from collections.abc import Callable
from typing import Any

import torch

from steadyq.algorithm.tree import Tree, leaves, tree_map


class Captured:
    """A function of tensors at fixed places on a GPU, captured at its first call.

    Args:
        function: takes no argument: it reads and writes tensors whose memory does not move.
        changed: what it writes. The first call runs it for warming up, compiling included, and puts this back.
    """

    def __init__(self, function: Callable[[], Any], changed: Tree) -> None:
        before = tree_map(torch.clone, changed)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function()
        torch.cuda.current_stream().wait_stream(side)
        for place, value in zip(leaves(changed), leaves(before), strict=True):
            place.copy_(value)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = function()

    def __call__(self) -> Any:
        """Do it once more; what the function returned lies where it did the last time."""
        self._graph.replay()
        return self._result
