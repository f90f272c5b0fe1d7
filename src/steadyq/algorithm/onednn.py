"""A compiled step's float32 matrix products, done by oneDNN where MKL is slow. Imports the compiler: import it late.

PyTorch sends float32 products to MKL, which keeps its AVX-512 kernels to Intel's processors. On AMD's, oneDNN reaches
about twice MKL's rate at our sizes (EPYC, Zen 5, one thread, 512 x 512 x 512: 235 against 106 GFLOP/s), and a whole
update of `crossq_wn` took 0.62 of the time. PyTorch has oneDNN's product as an operator for inference; it is put in
place of MKL's in the compiled graph, after differentiation and `vmap`, so the mathematics above it knows nothing of it.
"""

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx import Graph

SMALL = 8
"""Products with a side below this (the readouts) stay: packing them would cost more than it saves."""

_library = torch.library.Library("steadyq", "DEF")
_library.define("product(Tensor x, Tensor w) -> Tensor")


def _product(x: Tensor, w: Tensor) -> Tensor:
    if x.dim() == 3:
        return torch.stack([_product(one, other) for one, other in zip(x.unbind(), w.unbind(), strict=True)])
    return torch.ops.mkldnn._linear_pointwise.default(x, w.t(), None, "none", [], "")


_library.impl("product", _product, "CPU")
_library.impl("product", lambda x, w: x.new_empty(*x.shape[:-1], w.shape[-1]), "Meta")


class OneDnnProducts(CustomGraphPass):
    """Replaces `x[.., M, K] @ w[.., K, N]` in float32 on a CPU by oneDNN's product."""

    def __call__(self, graph: Graph) -> None:
        for node in graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default):
            self.replace(node)
        for node in graph.find_nodes(op="call_function", target=torch.ops.aten.bmm.default):
            self.replace(node)

    @staticmethod
    def replace(node: torch.fx.Node) -> None:
        """Replace one product, unless it is small or of another type."""
        x, w = (argument.meta["val"] for argument in node.args[:2])  # type: ignore[union-attr]
        if x.dtype == torch.float32 and x.device.type == "cpu" and min(*x.shape[-2:], w.shape[-1]) >= SMALL:
            node.target = torch.ops.steadyq.product.default

    def uuid(self) -> str:
        """What the compiler's cache tells this pass apart by: change it with the pass."""
        return "steadyq product 1"
