"""What PyTorch's compiler gets wrong on a CPU, put right. Imports the compiler: import it late.

Where it fuses the outer loops of several kernels it hands rows from one to the next in a buffer for one row, although
its vectorised loops take several rows at a time (pytorch/pytorch#185702; PyTorch 2.13 is affected). The gradients of
BRO's actor were off by up to 1% in small networks. As in the mend that later versions have, such loops are not fused.
"""

import functools
from collections.abc import Callable
from typing import Any

from torch._inductor.codegen import cpp
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx import Graph


class InTurn(CustomGraphPass):
    """Passes one after another, by version; code that the compiler's cache has of others is not taken for ours."""

    def __init__(self, passes: dict[str, Callable[[Graph], None]]) -> None:
        self.passes = passes

    def __call__(self, graph: Graph) -> None:
        for change in self.passes.values():
            change(graph)

    def uuid(self) -> str:
        """What the compiler's cache tells these passes apart by."""
        return ", ".join(["steadyq mended 1", *self.passes])


@functools.cache
def mend() -> None:
    """Keep the compiler of this process from fusing outer loops that take several rows at a time."""
    node: Any = getattr(cpp, "OuterLoopFusedSchedulerNode", None)
    may_fuse = getattr(node, "check_outer_fusion_loop_level_attr", None)
    if may_fuse is None:  # a version whose compiler is another one
        return

    def row_by_row(self: Any, kernels: Any, depth: int) -> bool:
        tiled = any(loop.steps != 1 for kernel in kernels for loop in kernel.loop_nest.loops[:depth])
        return bool(not tiled and may_fuse(self, kernels, depth))

    node.check_outer_fusion_loop_level_attr = row_by_row
