"""A compiled step's float32 matrix products, done by oneDNN where MKL is slow. Imports the compiler: import it late.

PyTorch sends float32 products to MKL, which keeps its AVX-512 kernels to Intel's processors. On AMD's, oneDNN reaches
about twice MKL's rate at our sizes (EPYC, Zen 5, one thread, 512 x 512 x 512: 235 against 106 GFLOP/s), and a whole
update of `crossq_wn` took 0.62 of the time. It is put in place of MKL's in the compiled graph, after differentiation
and `vmap`, so the mathematics above it knows nothing of it.

PyTorch's own way to oneDNN in float32 is an operator for inference: one product at a time, a transposed factor copied,
and stacked products copied together. The function behind PyTorch's bfloat16 products takes float32 ones too, stacked
and transposed as they lie: 1.1 times as fast for two of 256 x 256 x 256 on one thread, 1.25 times with a transposed
factor, 1.5 times on two threads (EPYC, Zen 4). It is called by its name in the library of the PyTorch that was tried;
others keep that operator.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.fx import Graph, Node

VERSION = "steadyq product 3"
"""What the compiler's cache tells this pass apart by: change it with the pass."""

SMALL = 8
"""Products with a side below this (the readouts) stay: packing them would cost more than it saves."""

MATMUL = "_ZN2at6native13mkldnn_matmulERKNS_6TensorES3_S3_ff"
"""`at::native::mkldnn_matmul(const Tensor& x, const Tensor& w, const Tensor& out, float beta, float alpha)`."""

TRIED = "2.13."
"""The PyTorch in which it takes float32. In another it may not, and called like this it would end the process."""


def _find() -> Callable[..., None] | None:
    """That function, or None if this PyTorch does not show it or has not been tried."""
    if not torch.__version__.startswith(TRIED):
        return None
    try:
        found = getattr(ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so")), MATMUL)
    except (OSError, AttributeError):
        return None
    found.argtypes, found.restype = [ctypes.c_void_p] * 3 + [ctypes.c_float] * 2, None
    return found


_matmul = _find()

_library = torch.library.Library("steadyq", "FRAGMENT")
_library.define("product(Tensor x, Tensor w) -> Tensor")
_library.define("affine(Tensor b, Tensor x, Tensor w) -> Tensor")


def _affine(b: Tensor | None, x: Tensor, w: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, w.t(), b, "none", [], "")


def _product(x: Tensor, w: Tensor) -> Tensor:
    if _matmul is not None:
        out = x.new_empty(*x.shape[:-1], w.shape[-1])
        # A Tensor in C++ is one pointer, the one that `_cdata` tells.
        _matmul(*(ctypes.byref(ctypes.c_void_p(one._cdata)) for one in (x, w, out)), 0.0, 1.0)
        return out
    if x.dim() == 3:
        return torch.stack([_affine(None, one, other) for one, other in zip(x.unbind(), w.unbind(), strict=True)])
    return _affine(None, x, w)


_library.impl("product", _product, "CPU")
_library.impl("product", lambda x, w: x.new_empty(*x.shape[:-1], w.shape[-1]), "Meta")
_library.impl("affine", _affine, "CPU")
_library.impl("affine", lambda b, x, w: x.new_empty(*x.shape[:-1], w.shape[-1]), "Meta")


def multiply_by_onednn(graph: Graph) -> None:
    """Replace `x[.., M, K] @ w[.., K, N]` and `b[N] + x[M, K] @ w[K, N]` in float32 on a CPU by oneDNN's product."""
    for product in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
        for node in graph.find_nodes(op="call_function", target=product):
            if worthwhile(*node.args):
                node.target = torch.ops.steadyq.product.default
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.addmm.default):
        b, x, w = node.args
        if worthwhile(x, w) and not node.kwargs and b.meta["val"].dim() == 1:
            node.target = torch.ops.steadyq.affine.default


def worthwhile(x: Node, w: Node) -> bool:
    """Whether a product is in float32, on a CPU and not small."""
    a, b = x.meta["val"], w.meta["val"]
    return a.dtype == torch.float32 and a.device.type == "cpu" and min(*a.shape[-2:], b.shape[-1]) >= SMALL
