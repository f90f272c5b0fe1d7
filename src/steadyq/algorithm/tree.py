"""Trees of tensors: nested tuples and NamedTuples, mapped over, listed, named and put together again.

Own code, 60 lines, because `torch.utils._pytree` is private and registers no names, and because plain recursion traces
through PyTorch's compilers.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Tree = Any


def is_leaf(tree: Tree) -> bool:
    """Whether this is a tensor (or anything else that is not a tuple)."""
    return not isinstance(tree, tuple)


def tree_map(f: Callable, tree: Tree, *others: Tree, stop: Callable[[Tree], bool] = is_leaf) -> Tree:
    """Apply `f` to matching leaves of trees of one structure.

    `stop` says what counts as one, e.g. a whole layer; tensors outside of these then stay as they are.
    """
    if stop(tree):
        return f(tree, *others)
    if is_leaf(tree):  # `stop` looks for nodes, and this is a tensor outside of them
        return tree
    for other in others:
        if is_leaf(other) or len(other) != len(tree):
            got = "a leaf" if is_leaf(other) else len(other)
            raise ValueError(f"trees differ in structure: {len(tree)} children against {got}")
    found = [tree_map(f, *children, stop=stop) for children in zip(tree, *others, strict=True)]
    return type(tree)(*found) if hasattr(tree, "_fields") else tuple(found)


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of a tree, depth first."""
    return [tree] if is_leaf(tree) else [leaf for child in tree for leaf in leaves(child)]


def named_leaves(tree: Tree, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tree with their paths, e.g. `critic.params.0.w`: names of fields, positions in tuples."""
    if is_leaf(tree):
        yield name, tree
        return
    keys = getattr(tree, "_fields", range(len(tree)))
    for key, child in zip(keys, tree, strict=True):
        yield from named_leaves(child, f"{name}.{key}" if name else str(key))


def nodes(tree: Tree, types: tuple[type, ...]) -> list:
    """The subtrees of the given types, e.g. every hidden layer's parameters."""
    if isinstance(tree, types):
        return [tree]
    return [] if is_leaf(tree) else [node for child in tree for node in nodes(child, types)]


def stack(trees: list[Tree]) -> Tree:
    """One tree with a new leading axis from several of the same structure."""
    return tree_map(lambda *leaf: torch.stack(leaf), *trees)


def at(tree: Tree, index: int) -> Tree:
    """The part of every leaf at one place of its first axis, e.g. one update of several."""
    return tree_map(lambda leaf: leaf[index], tree)


def select(condition: Tensor, new: Tree, old: Tree) -> Tree:
    """The new tree where the condition holds, else the old one; what is the same in both is passed through."""
    return tree_map(lambda n, o: o if n is o else torch.where(condition, n, o), new, old)


def from_named(like: Tree, named: Mapping[str, Tensor]) -> Tree:
    """The tree with the structure of `like` and the tensors of `named`.

    Raises:
        ValueError: names, shapes or types do not match; nothing is returned half filled.
    """
    wanted = dict(named_leaves(like))
    if wanted.keys() != named.keys():
        odd = sorted(wanted.keys() ^ named.keys())
        raise ValueError(f"got other tensors than this agent has: {', '.join(odd[:5])}")
    for name, leaf in wanted.items():
        got = named[name]
        if got.shape != leaf.shape or got.dtype != leaf.dtype:
            raise ValueError(f"{name}: got {tuple(got.shape)} {got.dtype}, wanted {tuple(leaf.shape)} {leaf.dtype}")
    values = iter([named[name] for name in wanted])
    return tree_map(lambda _: next(values), like)
