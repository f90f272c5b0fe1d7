"""The arithmetic that the benchmarks hold an update against, counted by hand."""

from itertools import pairwise

import pytest

from benchmarks.rows import row
from benchmarks.steps import Steps

O, A, B, W, V, E = 7, 3, 16, 12, 10, 2  # sizes: observation, action, batch, critic, actor, critics  # noqa: E741


def forward(rows: int, *widths: int) -> int:
    """Multiplications and additions of a chain of products."""
    return sum(2 * rows * a * b for a, b in pairwise(widths))


def test_products_of_an_update_of_sac() -> None:
    critic = E * forward(B, O + A, W, W, 1)
    actor = forward(B, O, V, V, 2 * A)  # two heads
    critic_step = actor + critic + critic  # a', the target, the values
    critic_step += critic + E * forward(B, W, W, 1)  # backward: by the weights, and by all inputs but the rows
    actor_step = actor + critic + critic + actor + forward(B, V, V, 2 * A)
    steps = Steps("sac", {"width": W, "actor_width": V}, obs_dim=O, action_dim=A, batch=B)
    counted = sum(count * product.flops for product, count in steps.products().items())
    assert counted == pytest.approx(critic_step + actor_step)


def test_a_row_keeps_median_and_tenths() -> None:
    found = row("part", "case", "metric", "ms", [float(i) for i in range(11)])
    assert found[4:] == (5.0, 1.0, 9.0, 11)
    assert row("part", "case", "metric", "ms", [3.0])[4:] == (3.0, 3.0, 3.0, 1)
