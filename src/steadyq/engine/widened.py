"""A compiled step's bfloat16 matrix products on a CPU without instructions for them.

There PyTorch multiplies bfloat16 matrices number by number: an update of `crossq_wn` took 1,140 ms where the float32
one took 48 (EPYC, Zen 3, one thread). The product of two bfloat16 numbers is exact in float32, and hardware too sums in
float32 and rounds once at the end; so rounded operands are multiplied as float32 matrices and the result is rounded.
It is done in the compiled graph, whose compiler would take "to bfloat16 and back" in the mathematics for nothing.
Imports the compiler: import it late.
"""

import torch
from torch.fx import Graph

VERSION = "steadyq widened 1"
"""What the compiler's cache tells this pass apart by: change it with the pass."""

_library = torch.library.Library("steadyq", "FRAGMENT")
_library.define("widened(Tensor x, Tensor w) -> Tensor")
_library.impl("widened", lambda x, w: (x.float() @ w.float()).to(x.dtype), "CPU")
_library.impl("widened", lambda x, w: x.new_empty(*x.shape[:-1], w.shape[-1]), "Meta")


def widen(graph: Graph) -> None:
    """Replace `x[.., M, K] @ w[.., K, N]` in bfloat16 on a CPU by the rounded product of float32 matrices."""
    for product in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
        for node in graph.find_nodes(op="call_function", target=product):
            value = node.meta["val"]
            if value.dtype == torch.bfloat16 and value.device.type == "cpu":
                node.target = torch.ops.steadyq.widened.default
