"""A step compiled whole: one graph, no question asked at its calls.

`torch.compile` would do, but before each call it looks at every argument and everything the function reaches, which
took 0.5 ms of an update of 17 (`crossq_wn`, walker sizes, one thread), and it takes seconds to follow Python that has
nothing in it but tensors. A step is a pure function of tensors of fixed shapes: so it is traced as it runs, once, and
handed to the same compiler.
"""

import threading
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import GraphModule

from steadyq.algorithm.tree import leaves, tree_map

Products = Literal["mkl", "onednn"]
"""Which library multiplies float32 matrices on a CPU."""
TRACING = threading.Lock()
"""Whoever traces or compiles holds it: PyTorch's tracer and compiler take one at a time in a process."""


class Compiled:
    """A function of trees of tensors, compiled at its first call, or ahead of it by `prepare`.

    All calls must bring the same structure, shapes, types and device, which the compiled code checks. Whatever the
    function does in place to its arguments is done to them.

    Args:
        step: the function.
        products: which library multiplies float32 matrices on a CPU.
        widen: multiply bfloat16 matrices as float32 ones and round the result, for a CPU that cannot do better.
    """

    def __init__(self, step: Callable[..., Tensor], *, products: Products, widen: bool = False) -> None:
        self.step, self.products, self.widen = step, products, widen
        self._code: Callable[..., Tensor] | None = None

    def prepare(self, *arguments: Any) -> None:
        """Compile for arguments like these, whose values are not looked at. Any thread may ask for it."""
        with TRACING, torch.no_grad():
            if self._code is None:
                self._code = _compile(self.step, arguments, self.products, widen=self.widen)

    def __call__(self, *arguments: Any) -> Tensor:
        """What the step returns."""
        if self._code is None:
            self.prepare(*arguments)
        assert self._code is not None
        return self._code(*leaves(arguments))


def trace(step: Callable[..., Tensor], arguments: Any) -> tuple[GraphModule, list[Any]]:
    """The step as a graph of PyTorch's operations on the leaves of its arguments, and examples of those."""
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    def of_leaves(*flat: Tensor) -> Tensor:
        values = iter(flat)
        return step(*tree_map(lambda _: next(values), arguments))

    # Tensors without memory, of fixed shapes: the compiler's cache on disk serves only graphs traced with a `ShapeEnv`.
    fake = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
    examples = [fake.from_tensor(leaf) for leaf in leaves(arguments)]
    with fake:
        return make_fx(of_leaves)(*examples), examples


def _compile(step: Callable[..., Tensor], arguments: tuple, products: Products, *, widen: bool) -> Callable:
    import torch._inductor as inductor  # takes seconds, and not every run compiles

    from steadyq.engine import columns, once
    from steadyq.engine.mended import InTurn, mend

    mend()
    passes: dict[str, Callable] = {columns.VERSION: columns.make_wanted, once.VERSION: once.compute_once}
    if products == "onednn":
        from steadyq.engine import onednn

        passes[onednn.VERSION] = onednn.multiply_by_onednn
    if widen:
        from steadyq.engine import widened

        passes[widened.VERSION] = widened.widen
    return inductor.compile(*trace(step, arguments), options={"post_grad_custom_post_pass": InTurn(passes)})
