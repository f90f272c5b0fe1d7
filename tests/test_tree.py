"""Trees of tensors: names, round trips and refusals."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from steadyq.algorithm.tree import from_named, leaves, named_leaves, nodes, stack, tree_map


class Pair(NamedTuple):
    left: object
    right: object


def tree() -> Pair:
    return Pair(left=(torch.arange(3.0), Pair(torch.ones(2, 2), ())), right=torch.tensor(7))


def test_names_are_fields_and_positions() -> None:
    assert [name for name, _ in named_leaves(tree())] == ["left.0", "left.1.left", "right"]
    assert [name for name, _ in named_leaves(torch.ones(1), "whole")] == ["whole"]
    assert not list(named_leaves(((), Pair((), ()))))


def test_leaves_are_the_tensors_themselves_depth_first() -> None:
    given = tree()
    assert list(map(id, leaves(given))) == list(map(id, (given.left[0], given.left[1].left, given.right)))


def test_map_keeps_types_and_matches_leaves() -> None:
    doubled = tree_map(lambda a, b: a + 2 * b, tree(), tree())
    assert type(doubled) is Pair
    assert type(doubled.left) is tuple
    assert type(doubled.left[1]) is Pair
    assert doubled.left[0].tolist() == [0.0, 3.0, 6.0]
    assert doubled.right.item() == 21


def test_map_stops_at_whole_nodes_and_leaves_other_tensors_alone() -> None:
    given = (torch.ones(1), Pair(torch.ones(1), ()))
    got = tree_map(lambda node: node._replace(left="seen"), given, stop=lambda node: isinstance(node, Pair))
    assert got[0] is given[0]
    assert got[1] == Pair("seen", ())


def test_map_refuses_another_structure() -> None:
    with pytest.raises(ValueError, match="2 children against 1"):
        tree_map(torch.add, (torch.ones(1), torch.ones(1)), (torch.ones(1),))
    with pytest.raises(ValueError, match="2 children against a leaf"):
        tree_map(torch.add, (torch.ones(1), torch.ones(1)), torch.ones(2))


def test_nodes_are_found_by_type() -> None:
    given = tree()
    assert nodes(given, (Pair,)) == [given]
    assert nodes(given.left, (Pair,)) == [given.left[1]]
    assert nodes(torch.ones(1), (Pair,)) == []


def test_stack_adds_a_leading_axis() -> None:
    first, second = tree(), tree_map(lambda leaf: leaf + 1, tree())
    together = stack([first, second])
    assert together.left[0].tolist() == [[0, 1, 2], [1, 2, 3]]
    assert together.right.tolist() == [7, 8]


def test_round_trip_whatever_the_order() -> None:
    given = tree()
    backwards = dict(reversed([*named_leaves(given)]))
    again = from_named(tree_map(torch.zeros_like, given), backwards)
    assert type(again.left[1]) is Pair
    assert all(a is b for a, b in zip(leaves(again), leaves(given), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda named: named.pop("right"), "other tensors than this agent has: right"),
        (lambda named: named.update(extra=torch.ones(1)), "other tensors than this agent has: extra"),
        (
            lambda named: named.update(right=torch.ones(2, dtype=torch.int64)),
            r"right: got \(2,\) torch.int64, wanted \(\)",
        ),
        (
            lambda named: named.update(right=torch.tensor(7.0)),
            r"right: got \(\) torch.float32, wanted \(\) torch.int64",
        ),
    ],
)
def test_from_named_refuses_what_does_not_fit(change: object, message: str) -> None:
    named: dict[str, Tensor] = dict(named_leaves(tree()))
    change(named)
    with pytest.raises(ValueError, match=message):
        from_named(tree(), named)
