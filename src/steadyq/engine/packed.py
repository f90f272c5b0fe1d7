"""One copy instead of many: a tree of tensors brought to a device in a single buffer.

On a GPU each copy from the host costs microseconds however small it is, and an agent step draws dozens of tensors.
"""

from collections.abc import Sequence

import torch

from steadyq.algorithm.tree import Tree, leaves, tree_map


class Packed:
    """Room on a device for trees of float32 tensors of one structure. It is filled by one copy, which nobody waits for.

    Args:
        like: a tree of tensors with the shapes, whose values are not looked at.
        device: where the room is.

    Attributes:
        slots: the same tree on the device; its memory never moves.

    Raises:
        ValueError: a tensor that is not float32: a mistake in the program.
    """

    def __init__(self, like: Tree, device: torch.device) -> None:
        sizes = [leaf.numel() for leaf in leaves(like)]
        if odd := [leaf.dtype for leaf in leaves(like) if leaf.dtype != torch.float32]:
            raise ValueError(f"got a tensor of {odd[0]}; only float32 is packed")
        self._host = torch.empty(sum(sizes), pin_memory=device.type == "cuda")
        self._there = torch.empty(sum(sizes), device=device)
        self._sent = torch.cuda.Event() if device.type == "cuda" else None
        self._parts = [part.view(leaf.shape) for part, leaf in zip(self._host.split(sizes), leaves(like), strict=True)]
        slots = iter(self._there.split(sizes))
        self.slots: Tree = tree_map(lambda leaf: next(slots).view(leaf.shape), like)

    def fill(self, trees: Sequence[Tree], *, axis: int) -> Tree:
        """The slots, with what these trees on the host hold, stacked along an axis."""
        if self._sent is not None:
            self._sent.synchronize()  # the host's buffer may still be on its way
        for part, *own in zip(self._parts, *map(leaves, trees), strict=True):
            torch.stack(own, axis, out=part)
        self._there.copy_(self._host, non_blocking=True)
        if self._sent is not None:
            self._sent.record()
        return self.slots


def stacked(trees: Sequence[Tree], *, axis: int) -> Tree:
    """A tree without memory with the shapes of these trees stacked along an axis."""
    return tree_map(lambda *leaf: torch.stack([one.to("meta") for one in leaf], axis), *trees)
