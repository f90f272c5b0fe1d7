"""Products of which only some columns are looked at, made for those alone. Imports the compiler: import it late.

The actor's loss needs the critics' slope in the actions, and differentiation gives the one in observations too, from
the same product: of 261 columns at dog-run's sizes 38 are wanted. Of an update of `sac` in float32 that was
0.6 ms in 15 (EPYC, Zen 4, one thread).
"""

from typing import Any

import torch
from torch.fx import Graph, Node

VERSION = "steadyq columns 2"
"""What the compiler's cache tells this pass apart by: change it with the pass."""

aten: Any = torch.ops.aten
PRODUCTS = {aten.mm.default, aten.bmm.default}
SHAPES = {aten.reshape.default, aten.view.default}
OTHERS = {aten.mul.Tensor, aten.sum.dim_IntList, torch.ops.prims.convert_element_type.default}


def make_wanted(graph: Graph) -> None:
    """Have columns cut out of what a product becomes, number by number or in sums over rows, cut out of its factor."""
    cut: Any
    for cut in graph.find_nodes(op="call_function", target=aten.slice.Tensor):
        of, axis, *wanted = cut.args
        shape = of.meta["val"].shape
        if axis % len(shape) == len(shape) - 1 and len(wanted) == 2 and from_product(of):
            start, end, _ = slice(*wanted).indices(shape[-1])
            with graph.inserting_before(cut):
                cut.replace_all_uses_with(only(graph, of, start, end))
    graph.eliminate_dead_code()


def from_product(node: Any) -> bool:
    """Whether its columns are those of a product, each by itself, and nobody else looks at what is in between."""
    if node.op != "call_function" or node.kwargs or len(node.users) > 1:
        return False
    if node.target in PRODUCTS:
        return True
    first = node.args[0] if node.target in SHAPES | OTHERS else None
    if not isinstance(first, Node) or not from_product(first):
        return False
    before, after = first.meta["val"], node.meta["val"]
    if node.target == aten.sum.dim_IntList:
        axes = node.args[1]  # none are all of them
        return bool(axes) and all(axis % before.dim() != before.dim() - 1 for axis in axes)
    return before.shape[-1] == after.shape[-1]


def only(graph: Graph, node: Any, start: int, end: int) -> Node:
    """These columns of a node that `from_product` accepts."""
    first, *more = node.args
    if node.target in PRODUCTS:
        args = [first, columns(graph, more[0], start, end)]
    elif node.target == aten.mul.Tensor:
        args = [only(graph, first, start, end), columns(graph, more[0], start, end)]
    elif node.target in SHAPES:
        args = [only(graph, first, start, end), [*more[0][:-1], end - start]]
    else:
        args = [only(graph, first, start, end), *more]
    return call(graph, node.target, *args)


def columns(graph: Graph, node: Any, start: int, end: int) -> Any:
    """These columns of any node; of one that is the same in all columns, itself."""
    value = node.meta["val"] if isinstance(node, Node) else None
    if value is None or value.dim() == 0 or value.shape[-1] == 1:
        return node
    return call(graph, aten.slice.Tensor, node, value.dim() - 1, start, end)


def call(graph: Graph, target: Any, *args: Any) -> Node:
    """A new node, with the shape that the compiler asks for."""
    node = graph.call_function(target, args)
    values = [arg.meta["val"] if isinstance(arg, Node) else arg for arg in args]
    with values[0].fake_mode:
        node.meta["val"] = target(*values)
    return node
