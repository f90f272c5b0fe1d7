"""The arithmetic that the benchmarks hold an update against, counted by hand."""

from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import loop
from benchmarks.rows import row, spread, steady_from
from benchmarks.steps import Steps
from benchmarks.update import Case, report
from runs import run_at

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


COMPILING = (349.0, 311.0, 332.0)  # SBX's CrossQ at UTD 10, one thread: three calls that agree, and compile


class FakePeer:
    """A peer that is slow so many times, on a clock that it moves itself."""

    def __init__(self, slow: tuple[float, ...], then: float) -> None:
        self.now, self.slow, self.then = 0.0, list(slow), then

    def once(self) -> float:
        """Milliseconds per update of a call of ten."""
        taken = self.slow.pop(0) if self.slow else self.then
        self.now += taken * 10 / 1e3
        return taken

    def clock(self) -> float:
        """Seconds."""
        return self.now


def test_calls_that_compile_do_not_count_though_they_agree() -> None:
    peer = FakePeer(COMPILING, 16.0)
    case = Case(peer.once, 1, clock=peer.clock)
    for _ in range(15):
        case.call()
    time, compilation, calls = case.rows("library=fake")
    assert (time.median, time.low, time.high, time.values) == (16.0, 16.0, 16.0, 12)
    assert compilation.median == pytest.approx((sum(COMPILING) - 3 * 16) / 100)
    assert calls.median == 3


def test_when_a_case_is_steady() -> None:
    assert steady_from([5.0, 5.1, 5.2, 5.0]) == 0
    assert steady_from([90.0, 5.0, 5.9, 5.1, 5.0, 5.0]) == 1
    assert steady_from([90.0, 5.0, 6.1, 5.1, 5.0, 5.0]) == 3  # 6.1 is more than 1.2 times 5
    assert steady_from([1.0, 2.0, 4.0, 8.0, 16.0]) is None
    assert steady_from([5.0, 5.0]) is None
    assert Case(iter([1.0, 2.0, 4.0]).__next__, 1).rows("nothing") == []


def test_a_median_tells_how_few_values_it_is_of_and_that_they_are_of_two_kinds() -> None:
    assert spread(row("p", "c", "m", "ms", [5.0] * 10)) == "5.0 (5.0 to 5.0)"
    assert spread(row("p", "c", "m", "ms", [5.0] * 9)) == "5.0 (5.0 to 5.0; 9 values)"
    assert spread(row("p", "c", "m", "ms", [5.0] * 8 + [11.0] * 4)) == "5.0 (5.0 to 11.0; bimodal)"


def test_the_report_names_the_peer_that_is_ahead_and_what_is_left_out() -> None:
    ours, peer = (
        "recipe=sac size=dog-run precision=float32 threads=1 seeds=1 utd=10",
        "algorithm=sac width=256 size=dog-run",
    )
    rows = [row("floor", ours, metric, "ms", [3.0]) for metric in ("floor", "memory")]
    for case, value in (
        (ours, 6.0),
        (ours.replace("float32", "bfloat16"), 4.0),
        (f"library=sbx {peer} threads=1 utd=1", 5.0),
        (f"library=sbx {peer} threads=1 utd=10", 5.4),
        (f"library=sb3 {peer} threads=1 utd=10", 18.0),
    ):
        rows += [row("update", case, "time", "ms", [value] * 10)]
        rows += [row("update", case, metric, "s", [2.0]) for metric in ("compilation", "calls before steady")]
    rows += [row("floor", ours.replace("float32", "bfloat16"), metric, "ms", [2.0]) for metric in ("floor", "memory")]
    rows += [row("update", "library=sb3 slow", "left out: seconds of its last call", "s", [9.0])]
    text = report(rows)
    assert "0.90 (sbx)" in text  # ours is behind, and the table says so
    assert "1.35 (sbx)" in text
    assert (
        "Left out, being too slow to be called as often as the others or never steady: library=sb3 slow (9,000 ms"
        in text
    )
    never_steady = report([found for found in rows if "bfloat16" not in found.case or found.part == "floor"])
    assert "| `sac` | dog-run | 1 | 6.0 (6.0 to 6.0) | 2 s, 2 calls | 50% | 3.0 |  | left out |" in never_steady


def test_a_row_keeps_median_and_tenths() -> None:
    found = row("part", "case", "metric", "ms", [float(i) for i in range(11)])
    assert found[4:] == (5.0, 1.0, 9.0, 11)
    assert row("part", "case", "metric", "ms", [3.0])[4:] == (3.0, 3.0, 3.0, 1)


def test_every_part_of_a_training_loop_is_charged(tmp_path: Path) -> None:
    clock = loop.Clock()
    with loop.timed(clock):
        run_at(tmp_path / "run", frames=260, learning_starts=20, utd=1)
    assert clock.updates > loop.SKIPPED
    assert min(clock.calls.values()) > 0
