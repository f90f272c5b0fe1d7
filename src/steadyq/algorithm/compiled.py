"""A step compiled whole: one graph, no question asked at its calls.

`torch.compile` would do, but before each call it looks at every argument and everything the function reaches, which
took 0.5 ms of an update of 17 (`crossq_wn`, walker sizes, one thread), and it takes seconds to follow Python that has
nothing in it but tensors. A step is a pure function of tensors of fixed shapes: so it is traced as it runs, once, and
handed to the same compiler.
"""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from steadyq.algorithm.tree import leaves, tree_map

Products = Literal["mkl", "onednn"]
"""Which library multiplies float32 matrices on a CPU."""


def compile_whole(step: Callable[..., Tensor], *, products: Products) -> Callable[..., Tensor]:
    """A function of trees of tensors, compiled at its first call.

    Later calls must bring the same structure, shapes, types and device, which the compiled code checks. Whatever the
    function does in place to its arguments is done to them.
    """
    code: Callable[..., Tensor] | None = None

    def run(*arguments: Any) -> Tensor:
        nonlocal code
        flat = leaves(arguments)
        if code is None:
            code = _compile(step, arguments, flat, products)
        return code(*flat)

    return run


def _compile(step: Callable[..., Tensor], arguments: Any, flat: list[Tensor], products: Products) -> Callable:
    import torch._inductor as inductor  # takes seconds, and not every run compiles
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    def of_leaves(*flat: Tensor) -> Tensor:
        values = iter(flat)
        return step(*tree_map(lambda _: next(values), arguments))

    options: dict[str, Any] = {}
    if products == "onednn":
        from steadyq.algorithm.onednn import OneDnnProducts

        options["post_grad_custom_post_pass"] = OneDnnProducts()
    # Tensors without memory, of fixed shapes: the compiler's cache on disk serves only graphs traced with a `ShapeEnv`.
    fake = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
    examples: list[Any] = [fake.from_tensor(leaf) for leaf in flat]
    with fake:
        graph = make_fx(of_leaves)(*examples)
    return inductor.compile(graph, examples, options=options)
